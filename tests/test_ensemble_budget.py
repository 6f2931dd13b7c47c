"""Hours: what is measured or named, what fits, what more hours would bring."""

from pathlib import Path

import numpy as np
import pytest

import ensemble_search
from foldsmith.ensemble.budget import (
    Choice,
    folds_within,
    frontier,
    hours_of_a_fold,
    prior_score,
    running_order,
    seconds_of,
    speeds,
    within,
)
from foldsmith.ensemble.file import read_ensemble
from foldsmith.ensemble.fit import pose, prove
from foldsmith.ensemble.members import load_members
from foldsmith.ensemble.objective import Point
from foldsmith.errors import UserError
from foldsmith.metrics import best_fbeta, fbeta, find_metric
from tests.conftest import edit_sidecar
from tests.synthetic import random_members, write_runs


def choice(members: tuple[int, ...], hours: float, score: float) -> Choice:
    weights = np.zeros(4)
    weights[list(members)] = np.arange(1, len(members) + 1) / sum(range(1, len(members) + 1))
    return Choice(members, hours, Point(weights, 0.2, score))


def test_the_frontier_by_hand():
    found = [choice((0,), 1, 0.5), choice((1,), 2, 0.4), choice((0, 1), 3, 0.6), choice((2,), 3, 0.55)]
    assert [point.members for point in frontier(found)] == [(0,), (0, 1)]
    assert within(found, 2.9).members == (0,) and within(found, 3).members == (0, 1)
    with pytest.raises(UserError, match="one fold of the fastest model takes 1.00 hours"):
        within(found, 0.9)


def test_more_folds_while_time_is_left_the_heaviest_model_first():
    hours = [1.0, 0.5, 0.25, 9]
    chosen = choice((0, 1), 1.5, 0.6)  # member 1 is heavier
    assert folds_within(chosen, hours, 3, 1.9) == {0: 1, 1: 1}
    assert folds_within(chosen, hours, 3, 2.0) == {0: 1, 1: 2}
    assert folds_within(chosen, hours, 3, 3.5) == {0: 2, 1: 3}
    assert folds_within(chosen, hours, 3, 99) == {0: 3, 1: 3}


def test_speeds_are_the_sidecars_or_named(tmp_path):
    data = load_members([Path(file) for file in write_runs(tmp_path, *random_members(0))])
    assert speeds(data.members, {}) == [10, 20, 30]
    assert speeds(data.members, {"m1": 7.5}) == [10, 7.5, 30]
    np.testing.assert_allclose(hours_of_a_fold(data.members, [10, 20, 40], 36000), [1, 0.5, 0.25])
    with pytest.raises(UserError, match="no member is called 'm7'"):
        speeds(data.members, {"m7": 1})
    with pytest.raises(UserError, match=r"the speed of 'm1' is not known\n  hint: --speed m1=IMAGES"):
        hours_of_a_fold(data.members, [10, None, 40], 36000)


def test_a_command_within_its_hours(tmp_path, capsys):
    members, targets = random_members(1, count=4)
    files = write_runs(tmp_path, members, targets)
    words = [str(tmp_path / "best"), *files, "--seconds", "3", "--num-images", "36000"]
    # one fold takes 1, 1/2, 1/3, 1/4 hours
    ensemble_search.main([*words, "--max-hours", "0.9"])
    ensemble = read_ensemble(tmp_path / "best.yml")
    spent = sum(len(member.weights) * 36000 / member.images_per_second / 3600 for member in ensemble.members)
    assert spent == pytest.approx(ensemble.hours, abs=1e-3) and ensemble.hours <= 0.9
    assert {member.name for member in ensemble.members} <= {"m1", "m2", "m3"}
    text = capsys.readouterr().out
    assert "hours (one fold each)   score" in text and f"predicted: {ensemble.hours:.2f} hours" in text
    ensemble_search.main([*words, "--max-hours", "99"])
    rich = read_ensemble(tmp_path / "best.yml")
    assert rich.score >= ensemble.score and all(len(member.weights) == 3 for member in rich.members)
    ensemble_search.main([*words, "--max-hours", "0.9", "--speed", "m3=1", "m2=2"])
    assert {member.name for member in read_ensemble(tmp_path / "best.yml").members} == {"m1"}


def test_other_views_of_the_same_weights_are_alternatives(tmp_path):
    """m2 is m1 with two views: better, and half as fast. A blend takes one of them."""
    members, targets = random_members(2, count=3)
    members[2] = (members[1] + members[2]) / 2
    files = write_runs(tmp_path, members, targets)
    for fold in range(3):
        views = {"weights_sha256": f"1{fold}", "views": ["identity", "hflip"], "speed": {"images_per_second": 10.0}}
        edit_sidecar(tmp_path / "m2" / f"m2_f{fold}.json", **views)
    words = [str(tmp_path / "best"), *files, "--seconds", "2", "--num-images", "36000", "--max-hours"]
    ensemble_search.main([*words, "99"])
    names = {member.name for member in read_ensemble(tmp_path / "best.yml").members}
    assert "m2" in names and "m1" not in names
    ensemble_search.main([*words, "0.6"])
    assert [member.name for member in read_ensemble(tmp_path / "best.yml").members] == ["m1"]


def test_costs_of_images():
    assert seconds_of([10.0, None, 20.0], [1, 3, 2]) == [0.1, 0.2, 0.1]
    assert seconds_of([None, None], [5, 1]) == [5.0, 1.0]


def test_members_run_in_the_order_of_their_gain_a_second(tmp_path):
    members, targets = random_members(3)
    data = load_members([Path(file) for file in write_runs(tmp_path, members, targets)])
    problem = pose(data, find_metric("f2", "multilabel"))
    weights = np.array([0.2, 0.3, 0.5])
    best = prove(problem, weights)

    def score(*chosen: int) -> float:
        blend = sum(np.float32(weights[index] / weights[list(chosen)].sum()) * members[index] for index in chosen)
        return best_fbeta(blend, targets).score

    def greedy(seconds: list[float]) -> list[int]:
        order, left, reached = [], [0, 1, 2], prior_score(problem)
        while left:
            gains = {index: (score(*order, index) - reached) / seconds[index] for index in left}
            chosen = max(gains, key=gains.get)
            order, left, reached = [*order, chosen], [i for i in left if i != chosen], score(*order, chosen)
        return order

    assert prior_score(problem) == max(
        fbeta(np.repeat([targets.sum(0) >= count], len(targets), axis=0).astype(np.float32), targets, 0.5)
        for count in np.unique(targets.sum(0))
    )
    assert running_order(problem, best, [1.0, 1.0, 1.0])[0] == 2, "the best single where all cost the same"
    assert running_order(problem, best, [0.01, 1.0, 1.0])[0] == 0, "a fast one goes before"
    for seconds in ([1.0, 1.0, 1.0], [0.01, 1.0, 1.0], [1.0, 0.3, 2.0], [3.0, 1.0, 9.0]):
        assert running_order(problem, best, seconds) == greedy(seconds)
    assert running_order(problem, prove(problem, np.array([0.5, 0, 0.5])), [9.0, 0.1, 1.0]) == [2, 0, 1]


def test_the_file_has_the_running_order(tmp_path):
    members, targets = random_members(1)
    files = write_runs(tmp_path, members, targets)
    words = [str(tmp_path / "best"), *files, "--method", "uniform", "--speed"]
    for speed, first in (("m0=100000", "m0"), ("m1=100000", "m1")):
        ensemble_search.main([*words, speed])
        ensemble = read_ensemble(tmp_path / "best.yml")
        names = [member.name for member in ensemble.members]
        assert names[0] == first and sorted(names) == ["m0", "m1", "m2"]
        matrices = [members[int(name[1])] for name in names]
        blended = matrices[0] * np.float32(ensemble.members[0].weight)
        for matrix, member in zip(matrices[1:], ensemble.members[1:], strict=True):
            blended += matrix * np.float32(member.weight)
        assert fbeta(blended, targets, ensemble.threshold) == ensemble.score
        assert ensemble.prefix_thresholds[0] == pytest.approx(best_fbeta(matrices[0], targets).threshold, abs=1e-6)
