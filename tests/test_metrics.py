"""Metrics by name against scikit-learn and values by hand; the exact best threshold against brute force."""

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.metrics import accuracy_score, average_precision_score, fbeta_score, roc_auc_score
from sklearn.metrics import log_loss as sklearn_log_loss

from foldsmith.errors import UserError
from foldsmith.fbeta import falling
from foldsmith.metrics import (
    METRICS,
    above,
    best_constant_labels,
    best_fbeta,
    best_of_entries,
    fbeta,
    find_metric,
    image_fbeta,
    log_loss,
    middle,
)


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


@given(hnp.arrays(np.float32, 20, elements=st.floats(-2, 2, width=32)))
def test_codes_fall_as_values_rise(values):
    codes = falling(values)
    assert ((codes[:, None] < codes) == (values[:, None] > values)).all()
    assert ((codes[:, None] == codes) == (values[:, None] == values)).all()


@pytest.mark.parametrize("digits", [None, 1])
def test_thresholds_of_values_that_are_no_probabilities(digits):
    """The older layout keeps probabilities minus a threshold: the best one may be negative."""
    probabilities, targets = random_case(1, digits=digits)
    shifted = probabilities - np.float32(0.75)
    rows = np.repeat(np.arange(len(targets)), targets.shape[1])
    best, _ = best_of_entries(shifted.ravel(), rows, targets.ravel(), targets.sum(axis=1), -1.0)
    assert best.threshold is not None and best.threshold < 0
    assert best.score == pytest.approx(brute_force(probabilities, targets, 2.0), abs=1e-12)
    assert fbeta(shifted, targets, best.threshold) == best.score


@pytest.mark.parametrize("seed", range(4))
def test_the_bound_holds_below_the_floor(seed):
    probabilities, targets = random_case(seed)
    kept = probabilities > np.float32(0.4)
    rows = np.nonzero(kept)[0]
    _, bound = best_of_entries(probabilities[kept], rows, targets[kept], targets.sum(axis=1), 0.4)
    below = max(fbeta(probabilities, targets, float(value)) for value in probabilities[probabilities < 0.4])
    assert below <= bound < 1


@pytest.mark.parametrize("digits", [None, 1])
@pytest.mark.parametrize("seed", range(3))
def test_multilabel_metrics_are_scikit_learns(seed, digits):
    probabilities, targets = random_case(seed, digits=digits)
    targets[:, 0] = False  # a class without positives
    usual = targets[:, 1:]
    for name, expected in (
        ("map", average_precision_score(usual, probabilities[:, 1:], average="macro")),
        ("roc_auc", roc_auc_score(usual, probabilities[:, 1:], average="macro")),
    ):
        metric = find_metric(name, "multilabel")
        assert metric.best(probabilities, targets) == (pytest.approx(expected, abs=1e-12), None)
        assert metric.larger_is_better and not metric.thresholded
    for name, beta in (("f1_macro", 1), ("f2_macro", 2), ("f1.5_macro", 1.5)):
        metric = find_metric(name, "multilabel")
        best = metric.best(probabilities, targets)
        expected = fbeta_score(
            targets, above(probabilities, best.threshold), beta=beta, average="macro", zero_division=0
        )
        assert metric.score(probabilities, targets, best.threshold) == best.score == pytest.approx(expected, abs=1e-12)
        values = np.unique(np.append(probabilities, np.float32(0)))
        assert best.score == max(metric.score(probabilities, targets, float(value)) for value in values)
    best = find_metric("f0.3", "multilabel").best(probabilities, targets)
    assert best == best_fbeta(probabilities, targets, 0.3)


@pytest.mark.parametrize("seed", range(3))
def test_multiclass_metrics_are_scikit_learns(seed):
    rng = np.random.default_rng(seed)
    true = rng.integers(0, 6, 60)
    targets = true[:, None] == np.arange(7)  # the last class never occurs
    probabilities = rng.dirichlet(np.ones(7), size=60).astype(np.float32)
    probabilities = (0.6 * probabilities + 0.4 * targets * rng.random((60, 1))).astype(np.float32)
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    predicted = probabilities.argmax(axis=1)

    def score(name):
        metric = find_metric(name, "multiclass")
        assert metric.best(probabilities, targets) == (metric.score(probabilities, targets), None)
        return metric.score(probabilities, targets)

    by_class = fbeta_score(true, predicted, beta=1, labels=range(7), average=None, zero_division=0)
    assert score("accuracy") == accuracy_score(true, predicted)
    assert score("f1_macro") == pytest.approx(by_class.mean(), abs=1e-12)
    assert score("f1_above") == np.mean(by_class > 0.7)
    assert score("f1_above_0.5") == np.mean(by_class > 0.5) > 0
    assert score("log_loss") == pytest.approx(sklearn_log_loss(true, probabilities, labels=range(7)), rel=1e-5)
    assert score("map") == pytest.approx(average_precision_score(targets[:, :6], probabilities[:, :6]), abs=1e-12)
    assert not find_metric("log_loss", "multiclass").larger_is_better


def test_metrics_by_hand():
    targets = np.array([[1, 0], [0, 1], [1, 0], [1, 0]], dtype=bool)
    probabilities = np.array([[0.9, 0.1], [0.6, 0.4], [0.5, 0.5], [0.2, 0.8]], dtype=np.float32)
    # argmax, the first of equals: 0, 0, 0, 1; F1 of class 0 is 2 * 2 / (3 + 3), of class 1 it is 0
    assert find_metric("accuracy", "multiclass").score(probabilities, targets) == 0.5
    assert find_metric("f1_macro", "multiclass").score(probabilities, targets) == pytest.approx(1 / 3)
    assert find_metric("f1_above", "multiclass").score(probabilities, targets) == 0
    assert find_metric("f1_above_0.5", "multiclass").score(probabilities, targets) == 0.5
    # class 0 in order: hit, miss, hit, hit: (1 + 2/3 + 3/4) / 3; class 1: miss, miss, hit, miss: 1/3
    assert find_metric("map", "multilabel").score(probabilities, targets) == pytest.approx((29 / 36 + 1 / 3) / 2)
    # class 0: of three pairs one is right; class 1 likewise
    assert find_metric("roc_auc", "multilabel").score(probabilities, targets) == pytest.approx(1 / 3)
    ties = np.full((4, 2), 0.5, dtype=np.float32)
    assert find_metric("roc_auc", "multilabel").score(ties, targets) == 0.5
    assert find_metric("map", "multilabel").score(ties, targets) == pytest.approx((3 / 4 + 1 / 4) / 2)
    nothing = np.zeros((4, 2), dtype=bool)
    assert find_metric("map", "multilabel").score(ties, nothing) == 0
    assert find_metric("roc_auc", "multilabel").score(ties, nothing) == 0.5
    certain = np.array([[1.0, 0.0]] * 4, dtype=np.float32)  # a wrong certainty costs -log 1e-7, not infinity
    assert find_metric("log_loss", "multiclass").score(certain, targets) == pytest.approx(-np.log(1e-7) / 4)


@pytest.mark.parametrize(("task", "means"), [("multilabel", {"log_loss"}), ("multiclass", {"log_loss", "accuracy"})])
def test_what_every_image_contributes(task, means):
    rng = np.random.default_rng(3)
    p = rng.dirichlet(np.ones(5), 40).astype(np.float32)
    targets = rng.integers(0, 5, 40)[:, None] == np.arange(5)
    for name, metric in METRICS[task].items():
        rows = metric.of_images(p, targets)
        assert (rows is not None) == (name in means), name
        if rows is not None:
            assert rows.shape == (40,) and rows.mean() == pytest.approx(metric.score(p, targets), abs=1e-7)
            assert metric.of_images(p[7:8], targets[7:8])[0] == pytest.approx(rows[7], abs=1e-7)


def test_names_that_are_no_metric_or_do_not_fit():
    for name, task, what in (
        ("f2_makro", "multilabel", "unknown metric 'f2_makro'\n  hint: did you mean 'f2_macro'"),
        ("accuracy", "multilabel", "'accuracy' does not fit task multilabel\n  hint: task multilabel has f2, f1"),
        ("f2", "multiclass", "'f2' does not fit task multiclass"),
        ("f3", "multiclass", "'f3' does not fit task multiclass"),
        ("f1_above_0.3", "multilabel", "'f1_above_0.3' does not fit task multilabel"),
        ("f0", "multilabel", "'f0' does not fit"),
        ("f-1", "multilabel", "unknown metric 'f-1'"),
    ):
        with pytest.raises(UserError, match=re.escape(what)) as caught:
            find_metric(name, task)
        assert caught.value.key == "metric"
    for task, names in METRICS.items():
        for name, metric in names.items():
            assert metric.name == name and task in metric.tasks and find_metric(name, task) is metric
