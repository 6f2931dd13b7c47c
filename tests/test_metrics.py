"""F-beta by images and its exact best threshold, against scikit-learn and brute force."""

import numpy as np
import pytest
from sklearn.metrics import fbeta_score
from sklearn.metrics import log_loss as sklearn_log_loss

from foldsmith.metrics import above, best_constant_labels, best_fbeta, fbeta, image_fbeta, log_loss, middle


def random_case(seed: int, rows: int = 40, classes: int = 7, digits: int | None = None):
    """Random probabilities and labels; `digits` rounds the probabilities, so that many are equal."""
    rng = np.random.default_rng(seed)
    targets = rng.random((rows, classes)) < 0.25
    probabilities = np.clip(0.35 * targets + 0.65 * rng.random((rows, classes)), 0, 1).astype(np.float32)
    if digits is not None:
        probabilities = probabilities.round(digits)
    return probabilities, targets


def brute_force(probabilities, targets, beta):
    """The best score over every threshold that makes a difference."""
    values = np.unique(np.append(probabilities, 0).astype(np.float32))
    return max(fbeta(probabilities, targets, float(value), beta) for value in values)


@pytest.mark.parametrize("beta", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("seed", range(5))
def test_fbeta_is_scikit_learns(seed, beta):
    probabilities, targets = random_case(seed)
    assert (~targets.any(axis=1)).any(), "the case has images without labels"
    for threshold in (0.0, 0.3, 0.7, 0.999):
        predicted = probabilities > np.float32(threshold)
        expected = fbeta_score(targets, predicted, beta=beta, average="samples", zero_division=0)
        assert fbeta(probabilities, targets, threshold, beta) == pytest.approx(expected, abs=1e-12)


def test_one_image_by_hand():
    targets = np.array([[True, True, False, False]])
    probabilities = np.array([[0.9, 0.2, 0.8, 0.1]], dtype=np.float32)
    assert fbeta(probabilities, targets, 0.5) == 5 * 1 / (4 * 2 + 2)
    best = best_fbeta(probabilities, targets)
    assert best.score == 5 * 2 / (4 * 2 + 3)
    assert best.threshold == pytest.approx(0.15)


def test_images_without_labels_score_zero_whatever_is_predicted():
    targets = np.zeros((2, 3), dtype=bool)
    assert image_fbeta(np.array([[False] * 3, [True] * 3]), targets).tolist() == [0, 0]


@pytest.mark.parametrize("beta", [1.0, 2.0])
@pytest.mark.parametrize("digits", [None, 2, 1, 0])
@pytest.mark.parametrize("seed", range(6))
def test_the_best_threshold_is_as_good_as_brute_force(seed, digits, beta):
    probabilities, targets = random_case(seed, digits=digits)
    best = best_fbeta(probabilities, targets, beta)
    assert best.score == brute_force(probabilities, targets, beta)
    assert fbeta(probabilities, targets, best.threshold, beta) == best.score


def test_the_threshold_is_the_middle_of_its_interval():
    probabilities = np.array([[0.75, 0.25], [0.75, 0.25]], dtype=np.float32)
    targets = np.array([[True, False], [True, False]])
    assert best_fbeta(probabilities, targets) == (1.0, 0.5)


def test_among_equal_scores_the_highest_threshold_wins():
    # 0.9 and 0.5 hit one label each of different images; 0.7 between them hits nothing and costs as much as it gave
    targets = np.array([[True, False, False], [False, False, False]])
    probabilities = np.array([[0.9, 0.1, 0.1], [0.3, 0.2, 0.1]], dtype=np.float32)
    best = best_fbeta(probabilities, targets)
    assert best.score == 0.5
    assert 0.3 <= best.threshold < 0.9 and best.threshold == pytest.approx(0.6)


@pytest.mark.parametrize("scale", [0.03, 0.01, 1e-3, 1e-5])
def test_a_best_threshold_below_the_starting_floor_is_found(scale):
    probabilities, targets = random_case(3)
    best = best_fbeta(probabilities * np.float32(scale), targets)
    assert best.score == brute_force(probabilities * np.float32(scale), targets, 2.0)
    assert best.threshold < 0.02 * max(1, scale / 0.02)


def test_where_nothing_can_be_hit_nothing_is_predicted():
    probabilities = np.full((3, 4), 0.5, dtype=np.float32)
    best = best_fbeta(probabilities, np.zeros((3, 4), dtype=bool))
    assert best.score == 0
    assert not above(probabilities, best.threshold).any()
    zeros = np.zeros((3, 4), dtype=np.float32)
    assert best_fbeta(zeros, np.ones((3, 4), dtype=bool)).score == 0
    assert best_fbeta(zeros[:0], np.ones((0, 4), dtype=bool)).score == 0


def test_middle_never_touches_the_upper_value():
    for value in (0.3, 1e-30, 1.0):
        upper = np.float32(value)
        lower = np.nextafter(upper, np.float32(0))
        assert lower <= np.float32(middle(lower, upper)) < upper
    assert middle(np.float32(0.25), np.float32(0.75)) == 0.5


def test_log_loss_is_scikit_learns():
    probabilities, targets = random_case(0)
    expected = sklearn_log_loss(targets.ravel(), probabilities.ravel().astype(np.float64))
    assert log_loss(probabilities, targets) == pytest.approx(expected, rel=1e-5)


def test_best_constant_labels_are_the_best_prefix_of_the_most_frequent():
    rng = np.random.default_rng(0)
    targets = rng.random((500, 12)) < np.linspace(0.6, 0.01, 12)
    order = np.argsort(-targets.sum(axis=0), kind="stable")
    scores = []
    for count in range(1, 13):
        predicted = np.zeros_like(targets)
        predicted[:, order[:count]] = True
        scores.append(image_fbeta(predicted, targets).mean())
    assert best_constant_labels(targets) == order[: int(np.argmax(scores)) + 1].tolist()
    assert 1 < len(best_constant_labels(targets)) < 12
