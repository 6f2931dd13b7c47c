"""The blend search: an exact objective, a known optimum, and refusal of files that do not belong together."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import ensemble_search
from foldsmith.ensemble import search as search_module
from foldsmith.ensemble.file import blend, read_ensemble
from foldsmith.ensemble.objective import Objective, blended, normalized
from foldsmith.ensemble.search import find_weights
from foldsmith.errors import UserError
from foldsmith.metrics import best_fbeta
from tests.conftest import Chain


def random_members(seed: int, count: int = 3, rows: int = 200, classes: int = 20):
    """Members that see the labels through noise of their own, the later ones better; probabilities mostly small."""
    rng = np.random.default_rng(seed)
    targets = rng.random((rows, classes)) < 0.08
    members = []
    for number in range(count):
        logits = -6 + (5.5 + 0.5 * number) * targets + 1.5 * rng.standard_normal((rows, classes))
        members.append((1 / (1 + np.exp(-logits))).astype(np.float32))
    return members, targets


@pytest.mark.parametrize("seed", range(4))
def test_the_sparse_objective_is_the_dense_score(seed):
    members, targets = random_members(seed)
    objective = Objective(members, targets)
    assert len(objective.rows) < 0.8 * targets.size, "entries that cannot matter are left out"
    for weights in np.random.default_rng(seed).dirichlet(np.ones(3), size=20):
        assert objective(weights) == best_fbeta(blended(members, weights), targets, floor=0.0)


def test_the_objective_lowers_its_floor_where_it_must():
    members, targets = random_members(0)
    tiny = [member * np.float32(0.01) for member in members]
    objective = Objective(tiny, targets)
    weights = np.array([0.2, 0.3, 0.5])
    assert objective(weights) == best_fbeta(blended(tiny, weights), targets, floor=0.0)
    assert objective.floor < 0.01


def test_blend_by_hand():
    a, b = np.array([[0.2, 1.0]], dtype=np.float32), np.array([[0.6, 0.0]], dtype=np.float32)
    np.testing.assert_allclose(blend([a, b], [3, 1]), [[0.3, 0.75]], rtol=1e-6)
    assert blend([a, b], [3, 1]).dtype == np.float32
    assert normalized(np.array([2.0, -1.0, 2.0])).tolist() == [0.5, 0, 0.5]


def test_a_member_of_noise_gets_no_weight_and_a_useful_one_some():
    """The best blend of complementary members leaves out the one that knows nothing."""
    rng = np.random.default_rng(0)
    targets = rng.random((400, 12)) < 0.15
    knows_first = np.where(np.arange(12) < 6, targets * 0.8 + 0.1, 0.15)
    knows_last = np.where(np.arange(12) >= 6, targets * 0.8 + 0.1, 0.15)
    noise = rng.random((400, 12))
    members = [np.asarray(member, dtype=np.float32) for member in (knows_first, knows_last, noise)]
    weights = find_weights(members, targets, "test")
    assert best_fbeta(blended(members, weights), targets).score == pytest.approx(targets.any(axis=1).mean())
    assert weights[2] < 0.2 < min(weights[0], weights[1])


@pytest.mark.parametrize("seed", range(3))
def test_never_worse_than_uniform_or_the_best_single(seed, monkeypatch):
    members, targets = random_members(seed)
    singles = [best_fbeta(member, targets).score for member in members]
    uniform = best_fbeta(blended(members, np.ones(3)), targets).score
    found = best_fbeta(blended(members, find_weights(members, targets, "test")), targets).score
    assert found >= max(uniform, *singles) and found > uniform - 1e-12

    # also when scipy fails altogether
    class Failed:
        x = np.full(3, np.nan)

    monkeypatch.setattr(search_module, "minimize", lambda *args, **kwargs: Failed())
    broken = best_fbeta(blended(members, find_weights(members, targets, "test")), targets).score
    assert broken >= max(uniform, *singles)


def copied(chain: Chain, tmp_path: Path) -> Path:
    shutil.copytree(chain.runs, tmp_path / "runs")
    return tmp_path / "runs"


def refuse(runs: Path, tmp_path: Path, *files: str) -> UserError:
    """Search, expect a refusal, and no ensemble file."""
    names = files or ("a/a_f0.npy", "b/b_f0.npy")
    with pytest.raises(UserError) as caught:
        ensemble_search.main([str(tmp_path / "new"), *(str(runs / name) for name in names)])
    assert not (tmp_path / "new.yml").exists()
    return caught.value


@pytest.mark.parametrize(
    ("key", "what"),
    [("classes_sha256", "class list"), ("folds_sha256", "split into folds"), ("ids_sha256", "list of image ids")],
)
def test_files_of_other_ids_classes_or_folds_are_refused(chain, tmp_path, key, what):
    runs = copied(chain, tmp_path)
    sidecar = runs / "b" / "b_f1.json"
    sidecar.write_text(json.dumps(json.loads(sidecar.read_text()) | {key: "0123456789abcdef"}))
    error = str(refuse(runs, tmp_path))
    assert f"has another {what} than" in error and "0123456789ab there" in error and "b_f1.npy" in error


def test_a_missing_fold_is_named(chain, tmp_path):
    runs = copied(chain, tmp_path)
    (runs / "b" / "b_f1.npy").unlink()
    assert "folds of 'b' are missing" in str(refuse(runs, tmp_path)) and "b_f1.npy" in str(refuse(runs, tmp_path))
    (runs / "a" / "a_f1.json").unlink()
    assert "sidecar is missing" in str(refuse(runs, tmp_path, "a/a_f0.npy"))


@pytest.mark.parametrize("bad", ["shape", "dtype", "nan", "range", "truncated"])
def test_damaged_predictions_are_refused(chain, tmp_path, bad):
    runs = copied(chain, tmp_path)
    path = runs / "a" / "a_f0.npy"
    values = np.load(path)
    if bad == "truncated":
        path.write_bytes(path.read_bytes()[:-100])
    else:
        values = {"shape": values[1:], "dtype": values.astype(np.float64), "nan": values * np.nan, "range": values + 1}[
            bad
        ]
        np.save(path, values)
    error = refuse(runs, tmp_path)
    assert error.code == 4 and "a_f0.npy" in str(error)


def test_names_that_are_no_oof_files_are_refused(chain, tmp_path):
    assert "OOF file not found" in str(refuse(chain.runs, tmp_path, "a/a_f7.npy"))
    assert "not named like an OOF file" in str(refuse(chain.runs, tmp_path, "a/a.yml"))
    with pytest.raises(UserError, match="would be the ensemble's name"):
        ensemble_search.main([str(chain.oof("a")), str(chain.oof("b"))])
    runs = copied(chain, tmp_path)
    shutil.copytree(runs / "a", tmp_path / "other" / "a")
    error = refuse(tmp_path, tmp_path, "runs/a/a_f0.npy", "other/a/a_f0.npy")
    assert "two models are called 'a'" in str(error)


def test_an_ensemble_file_is_checked_like_a_config(chain, tmp_path):
    text = chain.ensemble.read_text()
    (tmp_path / "best.yml").write_text(text.replace("threshold:", "treshold:", 1))
    with pytest.raises(UserError) as caught:
        read_ensemble(tmp_path / "best.yml")
    assert "treshold: unknown key; did you mean 'threshold'" in str(caught.value)
    (tmp_path / "best.yml").write_text(text.replace("weight:", "weight: -1  #", 1))
    with pytest.raises(UserError, match=r"members\[0\].weight: expected greater than 0, got -1"):
        read_ensemble(tmp_path / "best.yml")
