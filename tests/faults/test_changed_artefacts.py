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
from foldsmith.errors import UserError


@pytest.fixture
def runs(chain, tmp_path) -> Path:
    shutil.copytree(chain.runs, tmp_path / "runs")
    return tmp_path / "runs"


def refused(main, *words: object) -> UserError:
    with pytest.raises(UserError) as caught:
        main([str(word) for word in words])
    return caught.value


def search(runs: Path) -> UserError:
    return refused(ensemble_search.main, runs.parent / "new", runs / "a" / "a_f0.npy", runs / "b" / "b_f0.npy")


def both_named(error: UserError) -> bool:
    """Two hashes, or two values, that differ."""
    found = re.search(r"([0-9a-f]{12}) there, ([0-9a-f]{12}) (?:here|now)", str(error))
    return found is not None and found[1] != found[2]


def edit_json(path: Path, **changed: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changed))


def move_to_the_other_fold(folds: Path) -> None:
    lines = folds.read_text().splitlines()
    lines[1] = lines[1][:-1] + str(1 - int(lines[1][-1]))
    folds.write_text("\n".join(lines) + "\n")


def test_1_folds_of_one_member(runs):
    move_to_the_other_fold(runs / "b" / "folds.csv")
    edit_json(runs / "b" / "b_f0.json", folds_sha256="0" * 64)
    error = search(runs)
    assert both_named(error) and "b_f0.npy: has another split into folds than" in str(error)
    assert "the first id that differs: " in str(error)


def test_2_ids_of_a_member(runs):
    edit_json(runs / "b" / "b_f1.json", ids_sha256="1" * 64)
    error = search(runs)
    assert both_named(error) and "b_f1.npy: has another list of image ids than" in str(error)


def test_3_class_order_of_a_member(runs):
    edit_json(runs / "b" / "b_f0.json", classes_sha256="2" * 64)
    error = search(runs)
    assert both_named(error) and "b_f0.npy: has another class list than" in str(error)


def test_4_an_array_of_another_shape(runs):
    np.save(runs / "a" / "a_f0.npy", np.load(runs / "a" / "a_f0.npy")[:-1])
    error = search(runs)
    assert re.search(r"holds float32 \(199, 55\), its sidecar says float32 \(200, 55\)", str(error)) and error.code == 4


def test_5_an_array_of_another_kind_or_with_nan(runs):
    path, array = runs / "a" / "a_f0.npy", np.load(runs / "a" / "a_f0.npy")
    np.save(path, array.astype(np.float64))
    error = search(runs)
    assert "holds float64 (200, 55), its sidecar says float32 (200, 55)" in str(error) and error.code == 4
    array[3, 3] = np.nan
    np.save(path, array)
    error = search(runs)
    assert "a_f0.npy: holds values that are not probabilities (NaN" in str(error) and error.code == 4


def test_6_weights_that_were_trained_again(runs, chain, tmp_path):
    """predict_oof.py wrote the sidecar of other weights: predictions that are older than them."""
    edit_json(runs / "a" / "a_f0.json", weights_sha256="3" * 64)
    (runs / "a" / "a_f0.safetensors").touch()
    error = search(runs)
    assert "a_f0.npy: is older than its weights" in str(error) and "a_f0.safetensors" in str(error)


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
    (tmp_path / "best.yml").write_text(yaml.safe_dump(values))
    error = refused(ensemble_inference.main, tmp_path / "best.yml", "--models", runs, "--output", tmp_path / "s.csv")
    assert error.code == 4 and "has another class list than all of its weights" in str(error)
    assert both_named(error)
