"""Losses against arithmetic."""

import math

import pytest
import torch

from foldsmith.losses import LOSSES, build_loss

LOGITS = [[0.0, 2.0], [-1.0, 0.5]]
LABELS = [[1.0, 0.0], [1.0, 1.0]]
SOFT = [[0.3, 0.0], [1.0, 0.9]]


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


def bce(x, y):
    return -y * math.log(sigmoid(x)) - (1 - y) * math.log(1 - sigmoid(x))


def focal(x, y, gamma, alpha):
    p = sigmoid(x)
    right = p * y + (1 - p) * (1 - y)
    weight = 1 if alpha is None else alpha * y + (1 - alpha) * (1 - y)
    return weight * (1 - right) ** gamma * bce(x, y)


def mean(entry, targets):
    """Mean of entry(logit, target) over the table."""
    pairs = [(x, y) for xs, ys in zip(LOGITS, targets, strict=True) for x, y in zip(xs, ys, strict=True)]
    return sum(entry(x, y) for x, y in pairs) / len(pairs)


def loss(name, targets, **params):
    return build_loss(name, params)(torch.tensor(LOGITS), torch.tensor(targets)).item()


def test_bce_by_hand():
    expected = (math.log(2) + math.log(1 + math.exp(2)) + math.log(1 + math.exp(1)) + math.log(1 + math.exp(-0.5))) / 4
    assert mean(bce, LABELS) == pytest.approx(expected, rel=1e-12)
    assert loss("bce", LABELS) == pytest.approx(expected, rel=1e-6)


def test_focal_by_hand():
    one = torch.tensor([[math.log(3)]])  # p = 3/4
    value = build_loss("focal", {"gamma": 2.0, "alpha": 0.25})
    assert value(one, torch.ones(1, 1)).item() == pytest.approx(0.25 * (1 / 4) ** 2 * math.log(4 / 3), rel=1e-6)
    assert value(one, torch.zeros(1, 1)).item() == pytest.approx(0.75 * (3 / 4) ** 2 * math.log(4), rel=1e-6)


@pytest.mark.parametrize("targets", [LABELS, SOFT], ids=["hard", "soft"])
def test_entries_are_averaged(targets):
    assert loss("bce", targets) == pytest.approx(mean(bce, targets), rel=1e-6)
    for gamma, alpha in [(2.0, None), (0.5, None), (3.0, 0.25), (2.0, 1.0)]:
        expected = mean(lambda x, y, gamma=gamma, alpha=alpha: focal(x, y, gamma, alpha), targets)
        assert loss("focal", targets, gamma=gamma, alpha=alpha) == pytest.approx(expected, rel=1e-6)
    for weight in (0.25, 1.0, 4.0):
        expected = mean(lambda x, y, weight=weight: bce(x, y) + weight * bce(x * y, y), targets)
        assert loss("forgiving", targets, weight=weight) == pytest.approx(expected, rel=1e-6)


def test_defaults_are_the_papers():
    assert loss("focal", LABELS) == loss("focal", LABELS, gamma=2.0, alpha=None)
    assert loss("forgiving", LABELS) == loss("forgiving", LABELS, weight=1.0)


def test_zero_parameters_leave_bce():
    assert loss("forgiving", SOFT, weight=0.0) == loss("bce", SOFT)
    assert loss("focal", SOFT, gamma=0.0) == pytest.approx(loss("bce", SOFT), rel=1e-6)
    assert loss("focal", SOFT, gamma=0.0, alpha=0.5) == pytest.approx(loss("bce", SOFT) / 2, rel=1e-6)


def gradient(name, **params):
    logits = torch.tensor(LOGITS, requires_grad=True)
    build_loss(name, params)(logits, torch.tensor(LABELS)).backward()
    return logits.grad


def test_forgiving_pulls_at_positive_labels_only():
    second = (gradient("forgiving", weight=3.0) - gradient("bce")).tolist()
    assert second[0][1] == 0.0
    for x, value in [(0.0, second[0][0]), (-1.0, second[1][0]), (0.5, second[1][1])]:
        assert value == pytest.approx(3 * (sigmoid(x) - 1) / 4, rel=1e-5)


@pytest.mark.parametrize("name", sorted(set(LOSSES) - {"f2", "asymmetric"}))  # those have flat ends
def test_extreme_logits_stay_finite(name):
    logits = torch.tensor([[300.0, -300.0]], requires_grad=True)
    value = build_loss(name, {})(logits, torch.tensor([[0.0, 1.0]]))
    value.backward()
    assert value.item() >= 300
    assert torch.isfinite(logits.grad).all()
    assert logits.grad[0, 0] > 0 > logits.grad[0, 1]


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0])
def test_focal_of_a_perfect_answer_is_zero(gamma):
    logits = torch.tensor([[300.0, -300.0]], requires_grad=True)
    value = build_loss("focal", {"gamma": gamma})(logits, torch.tensor([[1.0, 0.0]]))
    value.backward()
    assert value.item() == 0
    assert logits.grad.tolist() == [[0.0, 0.0]]


def test_f2_by_hand():
    p = [[sigmoid(x) for x in row] for row in LOGITS]
    for targets in (LABELS, SOFT):
        scores = []
        for probabilities, labels in zip(p, targets, strict=True):
            hits = sum(a * b for a, b in zip(probabilities, labels, strict=True))
            scores.append(5 * hits / (4 * sum(labels) + sum(probabilities)))
        assert loss("f2", targets) == pytest.approx(1 - sum(scores) / 2, rel=1e-6)
    sure = torch.tensor([[50.0, -50.0, 50.0]])
    assert build_loss("f2", {"beta": 1.0})(sure, torch.tensor([[1.0, 1.0, 0.0]])).item() == pytest.approx(0.5)
    assert build_loss("f2", {})(sure, torch.zeros(1, 3)).item() == 1


def test_mixtures_are_sums():
    assert loss("bce_f2", LABELS, weight=3.0) == pytest.approx(loss("bce", LABELS) + 3 * loss("f2", LABELS), rel=1e-6)
    mixed = loss("bce_focal", LABELS, weight=0.5, gamma=1.0, alpha=0.25)
    expected = loss("bce", LABELS) + 0.5 * loss("focal", LABELS, gamma=1.0, alpha=0.25)
    assert mixed == pytest.approx(expected, rel=1e-6)


def test_mlsm_is_the_mean_of_bce():
    assert loss("mlsm", SOFT) == pytest.approx(mean(bce, SOFT), rel=1e-6)


def test_asymmetric_by_hand():
    def entry(x, y):
        right = sigmoid(x) if y else min(1, 1 - sigmoid(x) + 0.05)
        return -((1 - right) ** (1 if y else 4)) * math.log(max(right, 1e-8))

    assert loss("asymmetric", LABELS) == pytest.approx(mean(entry, LABELS), rel=1e-5)
    assert loss("asymmetric", LABELS, gamma_neg=0.0, gamma_pos=0.0, clip=0.0) == pytest.approx(
        mean(bce, LABELS), rel=1e-5
    )


@pytest.mark.parametrize(
    ("name", "params"),
    [
        ("focal", {"gamma": -1.0}),
        ("focal", {"alpha": 2.0}),
        ("forgiving", {"weight": -1.0}),
        ("f2", {"beta": 0.0}),
        ("bce_f2", {"weight": -1.0}),
        ("asymmetric", {"clip": 1.0}),
    ],
)
def test_values_out_of_range_are_refused(name, params):
    with pytest.raises(ValueError, match=str(next(iter(params.values())))):
        build_loss(name, params)


def test_cross_entropy_by_hand():
    logits = torch.tensor([[2.0, 0.0, -1.0], [0.0, 1.0, 0.0]])
    onehot = torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    sums = [math.log(math.exp(2) + 1 + math.exp(-1)), math.log(2 + math.e)]
    first, second = sums[0] - 2, sums[1] - 0
    assert float(build_loss("cross_entropy", {})(logits, onehot)) == pytest.approx((first + second) / 2, rel=1e-6)

    weights = torch.tensor([1.0, 5.0, 3.0])
    weighted = float(build_loss("cross_entropy", {}, weights)(logits, onehot))
    assert weighted == pytest.approx((1 * first + 3 * second) / 4, rel=1e-6)
    index = torch.nn.CrossEntropyLoss(weight=weights)(logits, torch.tensor([0, 2]))
    assert weighted == pytest.approx(float(index), rel=1e-6), "torch's own for class indices"

    smoothed = float(build_loss("cross_entropy", {"label_smoothing": 0.3})(logits, onehot))
    everywhere = [(3 * sums[0] - 1) / 3, (3 * sums[1] - 1) / 3]  # mean of -log p over classes
    expected = (0.7 * first + 0.3 * everywhere[0] + 0.7 * second + 0.3 * everywhere[1]) / 2
    assert smoothed == pytest.approx(expected, rel=1e-6)

    mixed = torch.tensor([[0.75, 0.25, 0.0], [0.0, 0.0, 1.0]])
    expected = (0.75 * first + 0.25 * sums[0] + second) / 2
    assert float(build_loss("cross_entropy", {})(logits, mixed)) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("name", ["bce", "mlsm"])
def test_class_weights_multiply_their_classes(name):
    logits, targets = torch.tensor([[0.5, -1.0], [2.0, 0.0]]), torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    entries = [bce(x, y) for x, y in zip(logits.flatten().tolist(), targets.flatten().tolist(), strict=True)]
    expected = (3 * entries[0] + entries[1] + 3 * entries[2] + entries[3]) / 4
    assert float(build_loss(name, {}, torch.tensor([3.0, 1.0]))(logits, targets)) == pytest.approx(expected, rel=1e-6)


def test_focal_summed_instead_of_averaged():
    assert loss("focal", SOFT, reduction="sum") == pytest.approx(loss("focal", SOFT) * sum(map(len, SOFT)), rel=1e-6)
    with pytest.raises(ValueError, match="reduction is mean or sum"):
        build_loss("focal", {"reduction": "none"})
