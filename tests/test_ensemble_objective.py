"""The sparse objective is the dense score, to the last bit; lines and floors are what they claim to be."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foldsmith.ensemble import entries as entries_module
from foldsmith.ensemble.entries import Entries, below, choose_floor, read_entries
from foldsmith.ensemble.fit import pose, prove
from foldsmith.ensemble.members import load_members
from foldsmith.ensemble.objective import DenseObjective, Objective, Point, blended, normalized
from foldsmith.ensemble.smooth import smooth_loss
from foldsmith.errors import UserError
from foldsmith.metrics import best_fbeta, fbeta, find_metric
from tests.synthetic import multiclass_members, random_members, write_runs


def entries_of(members, targets, floor: float) -> Entries:
    kept = np.maximum.reduce(members) > np.float32(below(floor))
    images, columns = np.nonzero(kept)
    values = np.stack([member[kept] for member in members])
    labels = np.stack(np.nonzero(targets)).astype(np.int32)
    return Entries(
        values, images.astype(np.int32), columns.astype(np.int32), targets[kept], labels, targets.shape, floor
    )


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    digits=st.sampled_from([None, 1, 2]),
    floor=st.sampled_from([0.0, 0.01, 0.3]),
    beta=st.sampled_from([0.5, 1.0, 2.0]),
    by_class=st.booleans(),
)
def test_the_sparse_objective_is_the_dense_score(seed, digits, floor, beta, by_class):
    members, targets = random_members(seed, rows=60, classes=7)
    if digits is not None:
        members = [member.round(digits) for member in members]
    objective = Objective(entries_of(members, targets, floor), beta, by_class)
    for weights in np.random.default_rng(seed).dirichlet(np.ones(3), size=3):
        blend = blended(members, weights)
        dense, truth = (blend.T, targets.T) if by_class else (blend, targets)
        best, proved = objective.best(weights)
        assert objective.score(weights, 0.35) == fbeta(dense, truth, 0.35, beta)
        assert best.score == fbeta(dense, truth, best.threshold, beta) and best.threshold >= floor
        expected = best_fbeta(dense, truth, beta, floor=0.0)
        assert best.score == expected.score or (not proved and best.score < expected.score)
        if floor == 0:
            assert best == expected and proved
        assert objective.near(weights, 0.5, 0.5 - max(floor, 0.001)).score <= best.score


def test_the_floor_is_proved_or_lowered(tmp_path, monkeypatch):
    """Probabilities so small that the best threshold lies far below the floor that was chosen."""
    members, targets = random_members(0)
    data = load_members([*map(type(tmp_path), write_runs(tmp_path, members, targets))])
    monkeypatch.setattr(entries_module, "ALL_UP_TO", 0)
    weights = normalized(np.array([0.2, 0.3, 0.5]))
    expected = best_fbeta(blended(members, weights), targets, floor=0.0)

    floor = choose_floor(data, 2.0, False)
    assert 0 < floor < expected.threshold
    problem = pose(data, find_metric("f2", "multilabel"))
    assert problem.entries.values.shape[1] < 0.8 * targets.size, "entries that cannot matter are left out"
    assert prove(problem, weights) == Point(weights, expected.threshold, expected.score)

    problem.entries = read_entries(data, 0.9)  # far too high
    assert not problem.exact.best(weights)[1]
    point = prove(problem, weights)
    assert (point.score, point.threshold) == expected and problem.entries.floor < expected.threshold


def test_reading_is_exact_whatever_the_chunks(tmp_path, monkeypatch):
    members, targets = random_members(3)
    data = load_members([*map(type(tmp_path), write_runs(tmp_path, members, targets))])
    expected = entries_of(members, targets, 0.05)
    for chunk, mapped in ((256, 4096), (7, 14), (1, 1)):
        monkeypatch.setattr(entries_module, "CHUNK", chunk)
        monkeypatch.setattr(entries_module, "MAPPED", mapped)
        found = read_entries(data, 0.05)
        for name in ("values", "images", "columns", "is_label"):
            np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))
    for name, part in (("above", found.above(0.2)), ("kept", entries_of(members, targets, 0.2))):
        assert part.floor == 0.2, name
        np.testing.assert_array_equal(part.values, entries_of(members, targets, 0.2).values)
    chosen = np.arange(len(targets)) % 3 == 1
    some = found.of_images(chosen)
    np.testing.assert_array_equal(some.values, entries_of([m[chosen] for m in members], targets[chosen], 0.05).values)
    expected = entries_of([m[chosen] for m in members], targets[chosen], 0.05)
    for name in ("images", "columns", "is_label", "labels", "shape"):
        np.testing.assert_array_equal(getattr(some, name), getattr(expected, name))


@pytest.mark.parametrize("bad", [np.nan, 1.5, -0.1])
def test_values_out_of_range_are_refused_with_their_file(tmp_path, bad):
    members, targets = random_members(3)
    members[1][4, 5] = bad
    data = load_members([*map(type(tmp_path), write_runs(tmp_path, members, targets))])
    with pytest.raises(UserError, match="holds values that are not probabilities") as caught:
        read_entries(data, 0.05)
    assert caught.value.file.name == "m1_f1.npy" and caught.value.code == 4


@pytest.mark.parametrize("by_class", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_the_best_point_of_a_line_is_the_best_of_a_fine_grid(seed, by_class):
    members, targets = random_members(seed, rows=80, classes=9)
    objective = Objective(entries_of(members, targets, 0.02), 2.0, by_class)
    start, end = np.array([0.8, 0.2, 0.0]), np.array([0.1, 0.1, 0.8])

    def score(where: float) -> float:
        return objective.score(start + where * (end - start), 0.2 + where * 0.2)

    where = objective.along(start, 0.2, end, 0.4)
    assert 0 <= where <= 1
    # weights are rounded to six digits as in the ensemble file, which may move an entry that lies on the threshold
    assert score(where) >= max(score(float(step)) for step in np.linspace(0, 1, 400)) - 1e-4
    assert score(where) > score(0.0)
    assert objective.along(start, 0.2, start, 0.2) == 0


def test_gradients_of_the_smoothed_objectives():
    members, targets = random_members(1, rows=50, classes=8)
    x = np.array([0.5, 0.3, 0.2, 0.3])
    one_label = multiclass_members(1)
    cases = [
        (Objective(entries_of(members, targets, 0.0)), x),
        (DenseObjective(members, targets, find_metric("map", "multilabel")), x[:3]),
        (DenseObjective(*one_label, find_metric("accuracy", "multiclass")), x[:3]),
    ]
    for objective, at in cases:
        _, slope = smooth_loss(objective, 0.1, at)
        for index in range(len(at)):
            step = np.zeros(len(at))
            step[index] = 1e-2
            numeric = (smooth_loss(objective, 0.1, at + step)[0] - smooth_loss(objective, 0.1, at - step)[0]) / 2e-2
            assert slope[index] == pytest.approx(numeric, rel=0.05, abs=2e-3)


def test_the_dense_objective_negates_losses():
    members, targets = multiclass_members(0)
    weights = np.array([0.2, 0.3, 0.5])
    metric = find_metric("log_loss", "multiclass")
    best, proved = DenseObjective(members, targets, metric).best(weights)
    assert proved and best == (-metric.score(blended(members, weights), targets), None)
