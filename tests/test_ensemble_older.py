"""The older layout: probabilities minus a threshold, folds.npy, train.csv, ensembles as lists."""

from pathlib import Path

import numpy as np
import pytest
import yaml

import ensemble_search
from foldsmith.ensemble.file import blend, read_ensemble
from foldsmith.ensemble.older import is_older_name, read_list_format
from foldsmith.errors import UserError
from foldsmith.metrics import best_fbeta, fbeta
from tests.synthetic import random_members


def write_older(folder: Path, members, targets, thresholds=(0.2, 0.25, 0.3)):
    """Files of the older layout; returns the values of each member, and the words for the command."""
    folder.mkdir(parents=True, exist_ok=True)
    fold_of = np.random.default_rng(0).integers(0, len(thresholds), len(targets)).astype(np.uint8)
    np.save(folder / "folds.npy", fold_of)
    rows = [f"{row:x},{' '.join(map(str, np.flatnonzero(labels)))}" for row, labels in enumerate(targets)]
    (folder / "train.csv").write_text("id,attribute_ids\n" + "\n".join(rows) + "\n")
    shifted = [member - np.array(thresholds, dtype=np.float32)[fold_of][:, None] for member in members]
    for number, values in enumerate(shifted):
        for fold in range(len(thresholds)):
            np.save(folder / f"level1_train_m{number}_f{fold}_e{7 + fold}_0.61.npy", values[fold_of == fold])
    files = [str(next(folder.glob(f"level1_train_m{number}_f0_*.npy"))) for number in range(len(members))]
    return shifted, [*files, "--folds", str(folder / "folds.npy"), "--train-csv", str(folder / "train.csv")]


def refusal(tmp_path: Path, words: list[str]) -> str:
    with pytest.raises(UserError) as caught:
        ensemble_search.main([str(tmp_path / "best"), *words])
    assert not (tmp_path / "best.yml").exists()
    return str(caught.value)


def test_names():
    assert is_older_name(Path("level1_train_2b_se_resnext101_f0_e20_0.6093.npy"))
    assert is_older_name(Path("level1_train_a_f4_e3.npy"))
    assert not is_older_name(Path("runs/a/a_f0.npy"))


def test_the_search_is_exact(tmp_path):
    members, targets = random_members(0)
    shifted, words = write_older(tmp_path, members, targets)
    ensemble_search.main([str(tmp_path / "best"), *words, "--seconds", "3"])
    ensemble = read_ensemble(tmp_path / "best.yml")
    chosen = [shifted[int(member.name[1:])] for member in ensemble.members]
    total = blend(chosen, [member.weight for member in ensemble.members])
    assert ensemble.score == fbeta(total, targets, ensemble.threshold)
    assert ensemble.best_single_score == max(best_fbeta(values, targets, floor=-1.0).score for values in shifted)
    assert -0.3 < ensemble.threshold < 0.3
    assert ensemble.members[0].weights == [] and ensemble.members[0].images_per_second is None


def test_a_list_is_read_and_searched_from(tmp_path, capsys):
    members, targets = random_members(1)
    shifted, words = write_older(tmp_path, members, targets)
    names = [[path.name for path in sorted(tmp_path.glob(f"level1_train_m{number}_*"))] for number in (2, 0)]
    old = [{"predicts": names[0], "weight": 0.9}, {"predicts": names[1], "weight": 0.3}]
    (tmp_path / "old.yml").write_text(yaml.dump(old))
    assert [weight for _, weight in read_list_format(tmp_path / "old.yml")] == [0.9, 0.3]
    ensemble_search.main([str(tmp_path / "best"), str(tmp_path / "old.yml"), *words[3:], "--method", "uniform"])
    score = best_fbeta(blend([shifted[2], shifted[0]], [0.75, 0.25]), targets, floor=-1.0).score
    assert f"the weights given score {score:.5f}" in capsys.readouterr().out
    assert read_ensemble(tmp_path / "best.yml").score >= score
    with pytest.raises(UserError, match="is of the older list format"):
        read_ensemble(tmp_path / "old.yml")


@pytest.mark.parametrize(
    "entry",
    [
        {"predicts": [], "weight": 1},
        {"predicts": ["a"], "weight": "x"},
        {"predicts": ["a"], "weight": -1},
        {"weight": 1},
        {"predicts": ["a"], "weight": True},
        "text",
    ],
)
def test_lists_that_are_none(tmp_path, entry):
    (tmp_path / "old.yml").write_text(yaml.dump([entry]))
    with pytest.raises(UserError, match="entry 0 is not of the older list format"):
        read_list_format(tmp_path / "old.yml")


def test_groups_of_labels_csv(tmp_path):
    _, words = write_older(tmp_path, *random_members(0))
    assert "class names have no groups" in refusal(tmp_path, [*words, "--thresholds", "per-group"])
    rows = [f"{index},{'culture' if index < 5 else 'tag'}::{index}" for index in range(20)]
    (tmp_path / "labels.csv").write_text("attribute_id,attribute_name\n" + "\n".join(rows) + "\n")
    ensemble_search.main([str(tmp_path / "best"), *words, "--thresholds", "per-group", "--method", "uniform"])
    threshold = read_ensemble(tmp_path / "best.yml").threshold
    assert len(set(threshold[:5])) == len(set(threshold[5:])) == 1
    (tmp_path / "best.yml").unlink()
    (tmp_path / "labels.csv").write_text("attribute_id,attribute_name\n" + "\n".join(rows[1:]) + "\n")
    assert "does not list the classes 0..19" in refusal(tmp_path, words)


def test_two_candidates_for_a_fold_are_both_named(tmp_path):
    _, words = write_older(tmp_path, *random_members(0))
    np.save(tmp_path / "level1_train_m1_f2_e30_0.62.npy", np.zeros((1, 20), dtype=np.float32))
    error = refusal(tmp_path, words)
    assert "two candidates for fold 2 of 'm1'" in error and "_e30_0.62.npy" in error and "_e9_0.61.npy" in error


def test_bad_input(tmp_path):
    members, targets = random_members(0)
    _, words = write_older(tmp_path, members, targets)
    first = Path(words[0])
    assert "needs its folds and labels" in refusal(tmp_path, words[:3])
    assert "OOF file not found" in refusal(tmp_path, [words[0].replace("m0", "m9"), *words[3:]])
    assert "is not named like level1_train_" in refusal(tmp_path, [str(tmp_path / "folds.npy"), *words[3:]])

    good = np.load(first)
    for bad, what in (
        (good * np.nan, "holds values that are not probabilities"),
        (good + 2, "holds values that are not probabilities"),
        (good[1:], "its part of the label table says float32"),
        (good.astype(np.float64), "holds float64"),
        (good[0], "not (images, classes)"),
    ):
        np.save(first, bad)
        error = refusal(tmp_path, words)
        assert what in error and first.name in error
    first.unlink()
    assert "fold 0 of 'm0' is missing" in refusal(
        tmp_path, [str(next(tmp_path.glob("level1_train_m0_f1_*"))), *words[1:]]
    )


def test_bad_folds_and_labels(tmp_path):
    members, targets = random_members(0)
    _, words = write_older(tmp_path, members, targets)
    table, folds = tmp_path / "train.csv", tmp_path / "folds.npy"
    lines = table.read_text().splitlines()
    table.write_text("\n".join([*lines[:7], "6,3 99", *lines[8:]]) + "\n")
    assert "train.csv:8: '99' is not a class number below 20" in refusal(tmp_path, words)
    table.write_text("\n".join(lines[:-1]) + "\n")
    assert "has 199 rows, --folds has 200" in refusal(tmp_path, words)
    table.write_text("\n".join(lines) + "\n")
    for bad, what in (
        (np.zeros(200, dtype=int), "no row is in fold 1"),
        (np.zeros((2, 2), dtype=int), "not a fold of each row"),
        (np.zeros(200), "not a fold of each row"),
    ):
        np.save(folds, bad)
        assert what in refusal(tmp_path, words)
    folds.write_text("no")
    assert "cannot be read" in refusal(tmp_path, words)


def test_headers_are_read_in_many_threads(tmp_path):
    """NumPy's header parser is not safe in threads of every Python."""
    from concurrent.futures import ThreadPoolExecutor

    from foldsmith.data.oof_files import map_array

    np.save(tmp_path / "a.npy", np.zeros((2, 3), dtype=np.float32))
    with ThreadPoolExecutor(8) as pool:
        arrays = list(pool.map(lambda _: map_array(tmp_path / "a.npy", (2, 3), "the test"), range(3000)))
    assert len(arrays) == 3000
