"""Artefacts that were changed after the fact: refused by hash, both sides named."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml

import ensemble_inference
import ensemble_search
import predict_oof
import train
from foldsmith.data.oof_files import sealed
from foldsmith.ensemble.file import read_ensemble
from foldsmith.errors import UserError
from tests.conftest import DATA, by_hand, edit_sidecar


@pytest.fixture
def runs(chain, tmp_path) -> Path:
    shutil.copytree(chain.runs, tmp_path / "runs")
    return tmp_path / "runs"


def refused(main, *words: object) -> UserError:
    with pytest.raises(UserError) as caught:
        main([str(word) for word in words])
    return caught.value


def search(runs: Path, *words: str) -> UserError:
    files = [runs / "a" / "a_f0.npy", runs / "b" / "b_f0.npy"]
    return refused(ensemble_search.main, runs.parent / "new", *files, *words)


def both_named(error: UserError) -> bool:
    """Two hashes that differ."""
    found = re.search(r"([0-9a-f]{12}) there, ([0-9a-f]{12}) (?:here|now|in)", str(error))
    return found is not None and found[1] != found[2]


def move_to_the_other_fold(folds: Path) -> None:
    lines = folds.read_text().splitlines()
    lines[1] = lines[1][:-1] + str(1 - int(lines[1][-1]))
    folds.write_text("\n".join(lines) + "\n")


def with_another(runs: Path, key: str, table: Path) -> None:
    """Run a's config reads another table."""
    config = runs / "a" / "a.yml"
    values = yaml.safe_load(config.read_text())
    values["data"][key] = str(table)
    config.write_text(yaml.safe_dump(values))


@pytest.mark.parametrize("member", ["a", "b"])
def test_1_folds_csv_of_a_member(runs, member):
    """Of the first member it is what the files are read by; of another it only lies there."""
    move_to_the_other_fold(runs / member / "folds.csv")
    error = search(runs)
    assert both_named(error)
    if member == "a":
        assert f"a_f0.npy: has another split into folds than {runs / 'a'}" in str(error)
    else:
        assert "b/folds.csv: was changed after the predictions" in str(error)
        assert re.search(r"the first id that differs: '\w+' is in fold (0 there, 1|1 there, 0) here", str(error))


def test_2_ids_of_the_label_table(runs, chain, tmp_path):
    """Two rows of the table change places: each prediction would be another image's."""
    lines = (chain.folder / "train.csv").read_text().splitlines()
    lines[1], lines[2] = lines[2], lines[1]
    (tmp_path / "train.csv").write_text("\n".join(lines) + "\n")
    with_another(runs, "train_csv", tmp_path / "train.csv")
    error = search(runs)
    assert both_named(error) and "a_f0.npy: has another split into folds than" in str(error)


def test_3_class_order(runs, tmp_path):
    """Two classes of labels.csv change places: a column of the predictions would be another class's."""
    lines = (DATA / "labels.csv").read_text().splitlines()
    lines[1], lines[2] = lines[2], lines[1]
    (tmp_path / "labels.csv").write_text("\n".join(lines) + "\n")
    with_another(runs, "labels_csv", tmp_path / "labels.csv")
    error = search(runs)
    assert both_named(error) and "a_f0.npy: has another class list than" in str(error)


def one_value(run: Path) -> None:
    array = np.load(run / "a_f0.npy")
    array[7, 3] = 1 - array[7, 3]
    np.save(run / "a_f0.npy", array)


def two_rows_swapped(run: Path) -> None:
    array = np.load(run / "a_f0.npy")
    array[[0, 1]] = array[[1, 0]]
    np.save(run / "a_f0.npy", array)


def the_other_fold(run: Path) -> None:
    shutil.copy(run / "a_f1.npy", run / "a_f0.npy")


def another_member(run: Path) -> None:
    shutil.copy(run.parent / "b" / "b_f0.npy", run / "a_f0.npy")


def one_bit(run: Path) -> None:
    data = bytearray((run / "a_f0.npy").read_bytes())
    data[-5] ^= 1  # the lowest bit of a float's third byte
    (run / "a_f0.npy").write_bytes(data)


@pytest.mark.parametrize("change", [one_value, two_rows_swapped, the_other_fold, another_member, one_bit])
@pytest.mark.parametrize("read_by", ["entries", "whole matrices"])
def test_4_values_of_an_array(runs, chain, change, read_by):
    """Whether the metric reads entries or whole matrices; nothing is written, and predict_oof.py mends it."""
    whole = (runs / "a" / "a_f0.npy").read_bytes()
    change(runs / "a")
    words = [] if read_by == "entries" else ["--metric", "map"]
    error = search(runs, *words)
    assert both_named(error) and "a_f0.npy: is not the array that its sidecar tells of: sha256" in str(error)
    assert "in a_f0.json" in str(error) and error.code == 4
    assert not (runs.parent / "new.yml").exists()
    predict_oof.main(["--config", str(chain.folder / "a.yml"), "--output", str(runs), "--set", *chain.sets])
    assert (runs / "a" / "a_f0.npy").read_bytes() == whole


def cut(path: Path) -> None:
    np.save(path, np.load(path)[:-1])


def doubled(path: Path) -> None:
    np.save(path, np.load(path).astype(np.float64))


def turned(path: Path) -> None:
    np.save(path, np.asfortranarray(np.load(path)))


@pytest.mark.parametrize(
    ("change", "found"),
    [(cut, "float32 (199, 55)"), (doubled, "float64 (200, 55)"), (turned, "float32 (200, 55), column by column")],
)
def test_5_an_array_of_another_shape_or_kind(runs, change, found):
    change(runs / "a" / "a_f0.npy")
    error = search(runs)
    assert f"holds {found}, its sidecar says float32 (200, 55)" in str(error) and error.code == 4


def test_6_files_that_changed_names(runs):
    """Whole OOF files, sidecar and all, under another member's name or another fold's."""
    for suffix in (".npy", ".json"):
        shutil.copy((runs / "b" / "b_f0.npy").with_suffix(suffix), (runs / "a" / "a_f0.npy").with_suffix(suffix))
    error = search(runs)
    assert "tells of another file: fold 0 of 'b' there, fold 0 of 'a' by the file's name" in str(error)
    for suffix in (".npy", ".json"):
        shutil.copy((runs / "a" / "a_f1.npy").with_suffix(suffix), (runs / "a" / "a_f0.npy").with_suffix(suffix))
    assert "tells of another file: fold 1 of 'a' there, fold 0 of 'a' by the file's name" in str(search(runs))


@pytest.mark.parametrize("how", ["left out", "empty"])
@pytest.mark.parametrize("key", ["array_sha256", "content_sha256"])
def test_6_a_sidecar_without_its_hashes(runs, key, how):
    """Who takes the hash of a sidecar out does not get past it; one that is sealed anew must tell the array's."""
    path = runs / "a" / "a_f0.json"
    values = json.loads(path.read_text())
    values = {name: value for name, value in values.items() if name != key} | ({key: ""} if how == "empty" else {})
    path.write_text(json.dumps(values if key == "content_sha256" else sealed(values)))
    error = str(search(runs))
    what = "a_f0.json: was changed after predict_oof.py: " if key == "content_sha256" else "a_f0.npy: is not the array"
    assert what in error and ("no hash in its own line" in error or "there,  in a_f0.json" in error)


def test_weights_that_were_trained_again(runs):
    """Predictions that are older than their weights."""
    edit_sidecar(runs / "a" / "a_f0.json", weights_sha256="3" * 64)
    (runs / "a" / "a_f0.safetensors").touch()
    error = search(runs)
    assert both_named(error) and "a_f0.npy: is older than its weights" in str(error)


def test_7_folds_csv_against_weights(runs):
    move_to_the_other_fold(runs / "a" / "folds.csv")
    error = refused(predict_oof.main, "--weights", runs / "a" / "a_f0.safetensors", "--output", runs)
    assert both_named(error) and "was trained on another split than" in str(error)


def test_8_the_label_table_against_a_finished_run(runs, chain, tmp_path):
    table = tmp_path / "train.csv"
    lines = (chain.folder / "train.csv").read_text().splitlines()
    lines[1] = lines[1].split(",")[0] + ",54"
    table.write_text("\n".join(lines) + "\n")
    words = ["--config", chain.folder / "a.yml", "--output", runs, "--set", *chain.sets, f"data.train_csv={table}"]
    error = refused(train.main, *words)
    assert both_named(error) and "belongs to other data: the label table changed" in str(error)


@pytest.mark.parametrize("what", ["one bit", "another file's bytes", "another hash in the ensemble"])
def test_9_weights_against_the_ensemble(runs, chain, tmp_path, what):
    ensemble, path = tmp_path / "best.yml", runs / "a" / "a_f1.safetensors"
    values = yaml.safe_load(chain.ensemble.read_text())
    data = bytearray(path.read_bytes())
    match what:
        case "one bit":
            data[len(data) // 2] ^= 1
        case "another file's bytes":
            data = bytearray((runs / "a" / "a_f0.safetensors").read_bytes())
        case _:
            member = next(each for each in values["members"] if each["name"] == "a")
            member["sha256"][1] = "4" * 64
    path.write_bytes(data)
    del values["content_sha256"]
    ensemble.write_text(yaml.safe_dump(values))
    output = tmp_path / "s.csv"
    error = refused(ensemble_inference.main, ensemble, "--models", runs, "--output", output)
    found = re.search(
        r"a_f1\.safetensors is not the ensemble's \(sha256 (\w{12})\.*\): (\S+) \(sha256 (\w{12})", str(error)
    )
    assert error.code == 4 and found, error
    assert found[1] != found[3] and found[2] == str(path), "both sides are named"
    assert not output.exists()


def test_10_the_class_list_against_the_ensemble(runs, chain, tmp_path):
    values = yaml.safe_load(chain.ensemble.read_text())
    values["classes_sha256"] = "5" * 64
    del values["content_sha256"]
    (tmp_path / "best.yml").write_text(yaml.safe_dump(values))
    error = refused(ensemble_inference.main, tmp_path / "best.yml", "--models", runs, "--output", tmp_path / "s.csv")
    assert error.code == 4 and "has another class list than all of its weights" in str(error)
    assert both_named(error)


@pytest.mark.parametrize(("key", "value"), [("views", ["vflip"]), ("metric", "f1"), ("threshold", 0.5)])
def test_a_sidecar_itself(runs, key, value):
    path = runs / "b" / "b_f0.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))
    error = search(runs)
    assert both_named(error) and error.code == 4 and "b_f0.json: was changed after predict_oof.py" in str(error)


@pytest.mark.parametrize(
    ("old", "new"),
    [(r"^threshold: .*", "threshold: 0.9"), (r"weight: .*", "weight: 0.123"), ("- identity", "- hflip")],
)
def test_an_ensemble_file_itself(chain, tmp_path, old, new):
    """Unless its user takes the hash out; comments and the deploy section are free."""
    text, changed = chain.ensemble.read_text(), tmp_path / "best.yml"
    changed.write_text("# mine\n" + text + "deploy: {user: me}\n")
    assert read_ensemble(changed).deploy.user == "me"
    edited, count = re.subn(old, new, text, count=1, flags=re.M)
    assert count == 1
    changed.write_text(edited)
    error = refused(ensemble_inference.main, changed, "--models", chain.runs, "--output", tmp_path / "s.csv")
    assert both_named(error) and error.code == 4 and "best.yml: was changed after the search" in str(error)
    assert not (tmp_path / "s.csv").exists()
    changed.write_text(by_hand(edited))
    read_ensemble(changed)
