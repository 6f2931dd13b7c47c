"""The blend search on the files of real runs: refusal of files that do not belong together, and what is written."""

import shutil
from pathlib import Path

import numpy as np
import pytest

import ensemble_search
from foldsmith.ensemble.file import blend, read_ensemble
from foldsmith.ensemble.objective import normalized
from foldsmith.errors import UserError
from tests.conftest import Chain, edit_sidecar


def test_blend_by_hand():
    a, b = np.array([[0.2, 1.0]], dtype=np.float32), np.array([[0.6, 0.0]], dtype=np.float32)
    np.testing.assert_allclose(blend([a, b], [3, 1]), [[0.3, 0.75]], rtol=1e-6)
    assert blend([a, b], [3, 1]).dtype == np.float32
    assert normalized(np.array([2.0, -1.0, 2.0])).tolist() == [0.5, 0, 0.5]


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
    edit_sidecar(runs / "b" / "b_f1.json", **{key: "0123456789abcdef"})
    error = str(refuse(runs, tmp_path))
    assert f"has another {what} than" in error and "0123456789ab there" in error and "b_f1.npy" in error


@pytest.mark.parametrize("change", ["id", "fold"])
def test_the_first_id_that_differs_is_shown(chain, tmp_path, change):
    runs = copied(chain, tmp_path)
    lines = (runs / "b" / "folds.csv").read_text().splitlines()
    name, fold = lines[5].split(",")
    lines[5] = f"strange,{fold}" if change == "id" else f"{name},{1 - int(fold)}"
    (runs / "b" / "folds.csv").write_text("\n".join(lines) + "\n")
    edit_sidecar(runs / "b" / "b_f0.json", ids_sha256="0123456789abcdef")
    expected = f"'strange' there, {name!r} here" if change == "id" else f"{name!r} is in fold {1 - int(fold)} there"
    assert f"the first id that differs: {expected}" in str(refuse(runs, tmp_path))


def test_weights_that_are_newer_than_their_predictions_are_refused(chain, tmp_path):
    runs = copied(chain, tmp_path)
    weights = runs / "a" / "a_f1.safetensors"
    weights.touch()  # the same bytes with a new date are the same weights
    ensemble_search.main([str(tmp_path / "same"), str(runs / "a" / "a_f0.npy"), "--seconds", "1"])
    weights.write_bytes(weights.read_bytes() + b" ")
    error = str(refuse(runs, tmp_path))
    assert "a_f1.npy" in error and "is older than its weights" in error


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (["--metric", "accuracy"], "metric: 'accuracy' does not fit task multilabel"),
        (["--metric", "f2_makro"], "did you mean 'f2_macro'"),
        (["--method", "powel"], "--method: unknown method 'powel'\n  hint: did you mean 'powell'"),
        (["--seconds", "0"], "--seconds: expected a number above 0"),
        (["--max-hours", "3"], "--max-hours and --num-images go together"),
        (["--max-hours", "3", "--num-images", "9", "--speed", "c=7"], "no member is called 'c'"),
        (["--min-labels", "3", "--max-labels", "2"], "3..2 is no range of labels"),
        (["--max-labels", "1000"], "--max-labels: there are"),
        (["--metric", "map", "--min-labels", "1"], "map of task multilabel has no thresholds"),
        (["--thresholds", "per-group"], "class names have no groups"),
        (["--folds", "folds.npy"], "--folds and --train-csv go together"),
    ],
)
def test_options_that_make_no_sense(chain, tmp_path, words, what):
    with pytest.raises(UserError) as caught:
        ensemble_search.main([str(tmp_path / "new"), str(chain.oof("a")), str(chain.oof("b")), *words])
    assert what in str(caught.value) and not list(tmp_path.iterdir())


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
    assert "not named like an OOF file" in str(refuse(chain.runs, tmp_path, "a/a_f0.json"))
    assert "is not of the older list format" in str(refuse(chain.runs, tmp_path, "a/a.yml"))
    assert "stands for all of its members" in str(refuse(chain.runs, tmp_path, "a/a.yml", "b/b_f0.npy"))
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
