"""What the search finds, what it says of it, and what it writes."""

import time
from pathlib import Path

import numpy as np
import pytest

import ensemble_search
from foldsmith import cli
from foldsmith.ensemble import entries, fit, honest, optimizers
from foldsmith.ensemble.file import blend, read_ensemble
from foldsmith.ensemble.fit import pose
from foldsmith.ensemble.honest import Worth, correlations, leave_one_out
from foldsmith.ensemble.hunt import OutOfTimeError
from foldsmith.ensemble.members import load_members
from foldsmith.ensemble.objective import Point, blended, normalized
from foldsmith.ensemble.optimizers import METHODS, run
from foldsmith.ensemble.thresholds import Rule, groups_of
from foldsmith.errors import UserError
from foldsmith.metrics import best_fbeta, decide, fbeta, find_metric, image_fbeta
from foldsmith.report.leaderboard import SINGLE
from tests.synthetic import multiclass_members, random_members, write_runs

FAST = ["--seconds", "3"]


def problem_of(folder: Path, members, targets, metric="f2", task="multilabel"):
    files = write_runs(folder, members, targets, metric=metric, task=task)
    return pose(load_members([Path(file) for file in files]), find_metric(metric, task))


def searched(folder: Path, members, targets, *words: str, **run_of):
    """The ensemble file of a whole command."""
    ensemble_search.main([str(folder / "best"), *write_runs(folder, members, targets, **run_of), *FAST, *words])
    return read_ensemble(folder / "best.yml")


def test_a_member_of_noise_gets_no_weight_and_a_useful_one_some(tmp_path):
    """The best blend of complementary members leaves out the one that knows nothing."""
    rng = np.random.default_rng(0)
    targets = rng.random((400, 12)) < 0.15
    knows_first = np.where(np.arange(12) < 6, targets * 0.8 + 0.1, 0.15)
    knows_last = np.where(np.arange(12) >= 6, targets * 0.8 + 0.1, 0.15)
    noise = rng.random((400, 12))
    members = [np.asarray(member, dtype=np.float32) for member in (knows_first, knows_last, noise)]
    problem = problem_of(tmp_path, members, targets)
    for method in ("auto", "line", "powell"):
        found = run(method, problem.objective(), problem.start, 5)[method]
        assert found.score == pytest.approx(targets.any(axis=1).mean()), method
        assert found.weights[2] < 0.25 < min(found.weights[0], found.weights[1]), method


@pytest.mark.parametrize("seed", range(3))
def test_auto_is_at_least_as_good_as_every_method(tmp_path, seed):
    members, targets = random_members(seed)
    problem = problem_of(tmp_path, members, targets)
    found = run("auto", problem.objective(), problem.start, 20)
    assert set(found) == {*METHODS, "auto"}
    for method, point in found.items():
        alone = run(method, problem.objective(), problem.start, 20)[method]
        assert alone.score == point.score <= found["auto"].score, method
        assert fbeta(blended(members, point.weights), targets, point.threshold) == point.score
        assert point.weights.sum() == pytest.approx(1, abs=1e-5) and (point.weights >= 0).all()
    assert seed == 2 or found["line"].score > problem.start.score


def test_never_worse_than_uniform_or_the_best_single(tmp_path, monkeypatch):
    members, targets = random_members(1)
    singles = [best_fbeta(member, targets).score for member in members]
    uniform = best_fbeta(blended(members, np.ones(3)), targets).score
    ensemble = searched(tmp_path, members, targets)
    assert ensemble.score >= max(uniform, *singles)
    assert (ensemble.uniform_score, ensemble.best_single_score) == (uniform, max(singles))

    # also when every method fails, and when one member is better than any blend
    def fail(hunt):
        raise OutOfTimeError

    monkeypatch.setattr(optimizers, "METHODS", dict.fromkeys(METHODS, fail))
    perfect = [(targets * 0.9).astype(np.float32), *members]
    ensemble = searched(tmp_path / "second", perfect, targets)
    assert ensemble.score == targets.any(axis=1).mean() and ensemble.members[0].name == "m0"
    assert [member.weight for member in ensemble.members] == [1]


def test_the_ways_of_large_data_on_small(tmp_path, monkeypatch):
    """Some of the images first, thresholds near that of equal weights, a second floor: as good, and still exact."""
    members, targets = random_members(13, count=4, rows=900)
    small = searched(tmp_path, members, targets)
    monkeypatch.setattr(optimizers, "ROUGH", 400)
    monkeypatch.setattr(fit, "SMALL", 0)
    monkeypatch.setattr(honest, "SMALL", 0)
    monkeypatch.setattr(entries, "ALL_UP_TO", 0)
    large = searched(tmp_path / "large", members, targets)
    assert large.score > small.score - 0.003 and large.nested_score > small.nested_score - 0.005
    chosen = [members[int(member.name[1:])] for member in large.members]
    assert fbeta(blend(chosen, [m.weight for m in large.members]), targets, large.threshold) == large.score
    assert large.uniform_score == small.uniform_score and large.best_single_score == small.best_single_score


@pytest.mark.parametrize("method", METHODS)
def test_a_method_ends_when_its_time_is_over(tmp_path, method):
    members, targets = random_members(1, count=5, rows=3000)
    problem = problem_of(tmp_path, members, targets)
    started = time.monotonic()
    point = run(method, problem.objective(), problem.start, 0.05)[method]
    assert time.monotonic() - started < 3 and point.score >= problem.start.score


@pytest.mark.parametrize("method", METHODS)
def test_the_file_is_true_for_every_method(tmp_path, method, capsys):
    members, targets = random_members(2)
    ensemble = searched(tmp_path, members, targets, "--method", method)
    chosen = [members[int(member.name[1:])] for member in ensemble.members]
    weights = [member.weight for member in ensemble.members]
    assert weights == sorted(weights, reverse=True)
    assert fbeta(blend(chosen, weights), targets, ensemble.threshold) == ensemble.score
    for count, threshold in enumerate(ensemble.prefix_thresholds, start=1):
        assert best_fbeta(blend(chosen[:count], weights[:count]), targets).threshold == threshold
    for member, probabilities in zip(ensemble.members, chosen, strict=True):
        assert member.single_score == best_fbeta(probabilities, targets).score
        assert member.images_per_second == 10 * (int(member.name[1:]) + 1)
        assert len(member.weights) == len(member.sha256) == len(member.oof) == 3
    assert "best: " in capsys.readouterr().out
    assert (tmp_path / "best.png").read_bytes().startswith(b"\x89PNG")


def test_what_a_member_is_worth_by_hand(tmp_path):
    members, targets = random_members(4)
    problem = problem_of(tmp_path, members, targets)
    weights = normalized(np.array([0.2, 0.3, 0.5]))
    best = best_fbeta(blended(members, weights), targets)
    losses = leave_one_out(problem, Point(weights, best.threshold, best.score))
    without_last = best_fbeta(blended(members[:2], np.array([0.4, 0.6])), targets)
    assert losses[2] == pytest.approx(best.score - without_last.score, abs=1e-9)
    expected = np.corrcoef(np.stack([member.ravel() for member in members]))
    np.testing.assert_allclose(correlations(problem), expected, atol=1e-4)


def test_held_out_scores_are_of_what_was_fitted_without_the_fold(tmp_path):
    """With equal weights only the threshold is fitted, so the nested score can be computed by hand."""
    members, targets = random_members(5)
    ensemble = searched(tmp_path, members, targets, "--method", "uniform")
    probabilities, fold_of = blended(members, np.ones(3)), np.arange(len(targets)) % 3
    rows = np.zeros(len(targets))
    for fold in range(3):
        inside = fold_of == fold
        threshold = best_fbeta(probabilities[~inside], targets[~inside]).threshold
        rows[inside] = image_fbeta(probabilities[inside] > np.float32(threshold), targets[inside])
    low, high = ensemble.uniform_interval
    assert low < rows.mean() < high and high - low == pytest.approx(4 * rows.std() / np.sqrt(len(rows)), rel=0.1)


def test_a_member_that_alone_is_better_held_out_is_named(tmp_path, capsys):
    """One good member and three that know little, of 60 images: weights fitted to so few do harm."""
    rng = np.random.default_rng(0)
    targets = rng.random((60, 8)) < 0.2
    good = 1 / (1 + np.exp(3 - 4 * targets - 1.5 * rng.standard_normal(targets.shape)))
    weak = [1 / (1 + np.exp(2 - 0.6 * targets - 1.5 * rng.standard_normal(targets.shape))) for _ in range(3)]
    members = [each.astype(np.float32) for each in (weak[0], good, *weak[1:])]
    ensemble = searched(tmp_path, members, targets)
    rows, fold_of = np.zeros(60), np.arange(60) % 3
    for fold in range(3):
        inside = fold_of == fold
        threshold = best_fbeta(members[1][~inside], targets[~inside]).threshold
        rows[inside] = image_fbeta(members[1][inside] > np.float32(threshold), targets[inside])
    assert ensemble.nested_single_score == pytest.approx(rows.mean(), abs=1e-9)
    assert ensemble.nested_score < rows.mean() and len(ensemble.members) > 1 and ensemble.single_is_better()
    said = (
        "Member m1 alone is better held out: on images that neither was fitted to, the best single scores "
        f"{rows.mean():.5f}, the blend {ensemble.nested_score:.5f}."
    )
    text = capsys.readouterr().out
    assert said in text.splitlines() and "Equal weights are as good a choice" not in text
    cli.main(["leaderboard", str(tmp_path), str(tmp_path / "best.yml")])
    marked = [row.split()[1] for row in capsys.readouterr().out.splitlines() if row.endswith(SINGLE)]
    assert marked == ["best"]
    # Of log_loss the smaller is better; a file of before, or of one member, says nothing.
    loss = ensemble.model_copy(update={"metric": "log_loss"})
    assert not loss.single_is_better()
    assert loss.model_copy(update={"nested_single_score": 0.1}).single_is_better()
    for update in ({"nested_single_score": None}, {"members": ensemble.members[:1]}):
        assert not ensemble.model_copy(update=update).single_is_better()


def test_a_blend_that_is_not_clearly_better_says_so(tmp_path, capsys):
    members, targets = random_members(6, rows=90)
    twins = [members[0], members[0]]
    ensemble = searched(tmp_path, twins, targets)
    assert "The blend is not clearly better than equal weights" in capsys.readouterr().out
    assert ensemble.beats_uniform < 0.95
    members, targets = random_members(7, rows=600)
    rng = np.random.default_rng(0)
    noise = [rng.random(targets.shape).astype(np.float32) for _ in range(2)]
    ensemble = searched(tmp_path / "noise", [members[2], *noise], targets)
    assert ensemble.beats_uniform == 1 and "not clearly better" not in capsys.readouterr().out
    assert Worth({}, {}, {"uniform": 0.951, "single": 0}).sentence() == ""


@pytest.mark.parametrize(
    ("metric", "task"),
    [
        ("f1", "multilabel"),
        ("f2_macro", "multilabel"),
        ("map", "multilabel"),
        ("log_loss", "multilabel"),
        ("accuracy", "multiclass"),
        ("f1_above", "multiclass"),
        ("f1_macro", "multiclass"),
    ],
)
def test_other_metrics(tmp_path, metric, task):
    make = multiclass_members if task == "multiclass" else random_members
    members, targets = make(8, rows=150)
    ensemble = searched(tmp_path, members, targets, metric=metric, task=task)
    found = find_metric(metric, task)
    chosen = [members[int(member.name[1:])] for member in ensemble.members]
    probabilities = blend(chosen, [member.weight for member in ensemble.members])
    assert (ensemble.task, ensemble.metric) == (task, metric)
    assert ensemble.score == found.score(probabilities, targets, ensemble.threshold)
    others = [ensemble.uniform_score, ensemble.best_single_score]
    assert ensemble.score >= max(others) if found.larger_is_better else ensemble.score <= min(others)
    assert (ensemble.threshold is None) == (task == "multiclass")
    low, high = ensemble.score_interval
    assert low <= ensemble.nested_score <= high


def test_intervals_of_log_loss_by_hand(tmp_path):
    """Log loss is a mean over images: 1,000 resamples of the images' losses, folds one after the other."""
    (member,), targets = random_members(12, count=1, rows=300)
    ensemble = searched(tmp_path, [member], targets, "--metric", "log_loss")
    order = np.concatenate([np.flatnonzero(np.arange(300) % 3 == fold) for fold in range(3)])
    losses = -np.log(np.where(targets, member, 1 - member)).mean(axis=1, dtype=np.float64)[order]
    rng = np.random.default_rng(0)
    means = [losses[rng.integers(0, 300, 300, dtype=np.int32)].mean() for _ in range(1000)]
    assert ensemble.score_interval == pytest.approx(np.quantile(means, [0.025, 0.975]).tolist(), abs=1e-6)
    assert ensemble.nested_score == pytest.approx(losses.mean(), abs=1e-6)


def test_thresholds_of_classes_and_groups_are_better_where_classes_differ(tmp_path):
    members, targets = random_members(9, rows=600)
    scale = np.where(np.arange(20) < 10, 1.0, 0.15).astype(np.float32)  # the second group's values are all low
    members = [member * scale for member in members]
    scores = {}
    for kind in ("joint", "per-group", "per-class"):
        ensemble = searched(tmp_path, members, targets, "--thresholds", kind)
        chosen = [members[int(member.name[1:])] for member in ensemble.members]
        probabilities = blend(chosen, [member.weight for member in ensemble.members])
        predicted = decide(probabilities, ensemble.threshold)
        scores[kind] = ensemble.score
        assert image_fbeta(predicted, targets).mean() == ensemble.score
        assert ensemble.nested_score <= ensemble.score + 0.01
        if kind == "per-group":
            assert len(set(ensemble.threshold[:10])) == len(set(ensemble.threshold[10:])) == 1
            assert ensemble.threshold[0] > 2 * ensemble.threshold[10]
    assert scores["joint"] + 0.01 < scores["per-group"] <= scores["per-class"]


def test_per_group_thresholds_are_as_good_as_a_grid():
    members, targets = random_members(10, rows=300)
    metric, joint = find_metric("f2", "multilabel"), best_fbeta(members[0], targets)
    rule = Rule(groups_of([f"{index % 2}::x" for index in range(20)], "per-group"))
    fitted = rule.fit(members[0], targets, metric, joint.threshold)
    grid = np.quantile(members[0], np.linspace(0.7, 0.999, 40))
    best = max(
        image_fbeta(members[0] > np.where(np.arange(20) % 2, a, b).astype(np.float32), targets).mean()
        for a in grid
        for b in grid
    )
    assert rule.row_scores(members[0], targets, metric, fitted).mean() >= max(best - 2e-3, joint.score)
    rare = targets.copy()
    rare[:, 3] = False
    own = Rule(np.arange(20)).fit(members[0], rare, metric, joint.threshold)
    assert own[3] == np.float32(joint.threshold), "a class with too few labels keeps the joint threshold"


def test_limits_of_labels(tmp_path):
    members, targets = random_members(11, rows=300)
    targets[~targets.any(axis=1), 0] = True
    free = searched(tmp_path, members, targets)
    limited = searched(tmp_path, members, targets, "--min-labels", "1", "--max-labels", "3")
    assert (limited.min_labels, limited.max_labels) == (1, 3) and isinstance(limited.threshold, list)
    chosen = [members[int(member.name[1:])] for member in limited.members]
    probabilities = blend(chosen, [member.weight for member in limited.members])
    predicted = decide(probabilities, limited.threshold, 1, 3)
    assert set(predicted.sum(axis=1)) <= {1, 2, 3}
    assert image_fbeta(predicted, targets).mean() == limited.score
    assert limited.score != free.score
    # the best of all amounts added to the threshold
    grid = [
        image_fbeta(decide(probabilities, float(threshold), 1, 3), targets).mean()
        for threshold in np.quantile(probabilities, np.linspace(0.5, 0.999, 200))
    ]
    assert limited.score >= max(grid) - 1e-9


@pytest.mark.parametrize("words", [[], ["--thresholds", "per-class"], ["--min-labels", "2"], ["--metric", "map"]])
@pytest.mark.parametrize("value", [0.0, 0.5, 1.0])
def test_members_that_say_nothing(tmp_path, value, words):
    """All values equal: there is nothing to find, and nothing fails."""
    _, targets = random_members(0, rows=30, classes=5)
    ensemble = searched(tmp_path, [np.full((30, 5), value, dtype=np.float32)] * 2, targets, "--seconds", "1", *words)
    assert ensemble.score == ensemble.uniform_score or "--min-labels" in words or "per-class" in words
    assert ensemble.members[0].correlation in (0, None)


def test_decide_by_hand():
    p = np.array([[0.9, 0.8, 0.7, 0.1], [0.1, 0.2, 0.1, 0.2]], dtype=np.float32)
    assert decide(p, 0.5).tolist() == [[True, True, True, False], [False] * 4]
    assert decide(p, 0.5, 1, 2).tolist() == [[True, True, False, False], [False, True, False, False]]
    assert decide(p, None).tolist() == [[True, False, False, False], [False, True, False, False]]
    thresholds = [0.85, 0.2, 0.2, 0.05]  # exceeded by 0.05, 0.6, 0.5, 0.05
    assert decide(p, thresholds, 0, 2)[0].tolist() == [False, True, True, False]


def test_groups_by_the_names_of_classes():
    assert groups_of(["culture::a", "tag::b", "culture::c"], "per-group").tolist() == [0, 1, 0]
    assert groups_of(["a", "b"], "per-class").tolist() == [0, 1]
    with pytest.raises(UserError, match="class names have no groups"):
        groups_of(["a", "b"], "per-group")


def test_the_same_search_twice_writes_the_same_bytes(tmp_path):
    members, targets = random_members(12)
    searched(tmp_path, members, targets, "--seconds", "60")
    first = (tmp_path / "best.yml").read_bytes()
    searched(tmp_path, members, targets, "--seconds", "60")
    assert (tmp_path / "best.yml").read_bytes() == first
