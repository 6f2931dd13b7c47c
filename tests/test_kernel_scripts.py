"""Kernels that train and validate: what is packed with a script, and that it runs alone."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch

import deploy_kernel
import train
from foldsmith.config import load_config
from foldsmith.data.oof_files import read_sidecar
from foldsmith.errors import UserError
from foldsmith.files import sha256_lines
from foldsmith.kernel import pack as pack_module
from foldsmith.kernel.check import run_packed
from foldsmith.kernel.contents import _without, script_contents
from foldsmith.kernel.loader import unpack
from foldsmith.kernel.pack import render
from foldsmith.models.weights import read_header
from foldsmith.training.kernel import _remove, arguments
from tests.conftest import DATA, ROOT, Chain
from tests.test_kernel import packed


def pack(chain: Chain, output: Path, script: str, *words: str) -> Path:
    """Pack a script for experiment `a` of the chain, with the chain's folder of runs taken for runs/."""
    os.chdir(chain.folder)
    config = ["--config", str(chain.folder / "a.yml"), "--set", *chain.sets]
    deploy_kernel.main(["--output", str(output), str(ROOT / script), *config, *words])
    name = f"a_{Path(script).stem}"
    return output / name / f"{name}.py"


def test_a_training_kernel_holds_training_code_config_folds_and_tables(chain, tmp_path):
    script = pack(chain, tmp_path, "train.py", "--fold", "1")
    assert script.stat().st_size < pack_module.LARGEST
    found = packed(script)
    assert {"train", "predict_oof", "foldsmith.training.run", "foldsmith.data.augment", "foldsmith.losses"} <= set(
        found["sources"]
    )
    forbidden = ("foldsmith.kernel", "foldsmith.ensemble.search", "foldsmith.tools", "foldsmith.demo")
    assert not [name for name in found["sources"] if name.startswith(forbidden)]
    files, options = found["files"], found["options"]
    (tmp_path / "a.yml").write_text(files["configs/a.yml"])
    assert load_config(tmp_path / "a.yml").model_dump() == load_config(chain.folder / "a.yml", chain.sets).model_dump()
    with open(chain.runs / "a" / "folds.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert files["folds.txt"].split() == [row["fold"] for row in rows], "of the run, in its order"
    assert options["ids_sha256"] == sha256_lines(row["id"] for row in rows)
    assert files["tables/train_csv/train.csv"] == (chain.folder / "train.csv").read_text()
    assert options["arguments"] == ["--fold", "1"]
    metadata = json.loads(script.with_name("kernel-metadata.json").read_text())
    assert (metadata["title"], metadata["code_file"]) == ("a training", "a_train.py")
    assert "runs/a/" in script.with_name("README.md").read_text()
    assert pack(chain, tmp_path / "again", "train.py", "--fold", "1").read_bytes() == script.read_bytes()


def test_without_a_run_the_folds_are_made_when_it_is_packed(chain, tmp_path, monkeypatch):
    config = tmp_path / "other.yml"
    config.write_text(f"base: {chain.folder}/a.yml\n")
    deploy_kernel.main(["train.py", "--config", str(config), "--output", str(tmp_path), "--set", *chain.sets])
    files = packed(tmp_path / "other_train" / "other_train.py")["files"]
    with open(chain.runs / "a" / "folds.csv", encoding="utf-8", newline="") as file:
        assert files["folds.txt"].split() == [row["fold"] for row in csv.DictReader(file)], "the same seed"


def test_a_validation_kernel_names_the_weights_it_needs(chain, tmp_path):
    for script, words in (("predict_oof.py", []), ("train.py", ["--predict_oof"])):
        pack(chain, tmp_path, script, *words, "--weights", str(chain.weights("a", 1)))
        options = packed(tmp_path / "a_predict_oof" / "a_predict_oof.py")["options"]
        assert list(options["weights"]) == ["a_f1.safetensors"] and options["needs_weights"] is True
        assert options["arguments"] == []
    manifest = json.loads((tmp_path / "a_predict_oof" / "manifest.json").read_text())
    assert manifest["weights"]["a_f1.safetensors"]["bytes"] == chain.weights("a", 1).stat().st_size
    readme = (tmp_path / "a_predict_oof" / "README.md").read_text()
    assert readme.startswith("Upload a dataset of a_f1.safetensors (")


def test_weights_alone_are_enough_for_a_validation_kernel(chain, tmp_path):
    words = ["predict_oof.py", "--weights", str(chain.weights("a", 0)), "--output", str(tmp_path)]
    deploy_kernel.main(words)
    found = packed(tmp_path / "a_predict_oof" / "a_predict_oof.py")
    assert list(found["options"]["weights"]) == ["a_f0.safetensors"]
    assert found["files"]["configs/a.yml"] == (chain.runs / "a" / "a.yml").read_text()


def test_weights_that_a_kernel_could_not_tell_apart_are_refused(chain, tmp_path):
    (tmp_path / "other").mkdir()
    other = tmp_path / "other" / "a_f0.safetensors"
    other.write_bytes(chain.weights("a", 1).read_bytes())
    with pytest.raises(UserError, match=r"two weights files are called a_f0\.safetensors: .* and .*other"):
        pack(chain, tmp_path, "predict_oof.py", "--weights", str(chain.weights("a", 0)), str(other))
    with pytest.raises(UserError, match="nowhere: --weights: is no file"):
        deploy_kernel.main([str(ROOT / "predict_oof.py"), "--weights", "nowhere", "--output", str(tmp_path)])


def test_pretrained_weights_are_a_file_to_upload(chain, tmp_path):
    (tmp_path / "start.safetensors").write_bytes(b"weights")
    words = ["train.py", "--config", "clipart_tiny.yml", "--output", str(tmp_path)]
    for name in ("start", "elsewhere"):
        deploy_kernel.main([*words, "--set", f"model.pretrained={tmp_path}/{name}.safetensors"])
        weights = packed(tmp_path / "clipart_tiny_train" / "clipart_tiny_train.py")["options"]["weights"]
        assert list(weights) == [f"{name}.safetensors"] and (weights[f"{name}.safetensors"][0] == 7) == (
            name == "start"
        )


def test_the_folds_of_a_hundred_thousand_images_fit_into_a_kernel():
    contents = script_contents(Path("train.py"), ["--config", "clipart_tiny.yml"])
    contents.files["folds.txt"] = " ".join(str(row * 7 % 40) for row in range(109_237))
    assert len(render(contents, compress=False)) < pack_module.LARGEST
    contents.files["folds.txt"] = " ".join(str(row * row % 41 % 5) for row in range(400_000))
    with pytest.raises(UserError, match="the largest parts: folds.txt 800 KB"):
        render(contents, compress=False)
    assert len(render(contents, compress=True)) < pack_module.LARGEST


def test_any_script_with_a_main_can_be_packed(tmp_path):
    (tmp_path / "mine.py").write_text(
        "import other\nfrom foldsmith.metrics import above\n"
        "def main(argv):\n    open('out.txt', 'w').write(' '.join([other.WORD, *argv]) + above.__name__)\n"
    )
    (tmp_path / "other.py").write_text("WORD = 'hello'\n")
    deploy_kernel.main([str(tmp_path / "mine.py"), "--output", str(tmp_path / "out"), "--flag", "x"])
    script = tmp_path / "out" / "mine" / "mine.py"
    run_packed(script, {}, ["y"], keep=tmp_path / "kept")
    assert (tmp_path / "kept" / "out.txt").read_text() == "hello --flag x yabove"
    (tmp_path / "nothing.py").write_text("print('hello')\n")
    with pytest.raises(UserError, match=r"has no main\(argv\)"):
        deploy_kernel.main([str(tmp_path / "nothing.py"), "--output", str(tmp_path / "out")])


def test_packages_beside_a_script_are_packed(tmp_path):
    (tmp_path / "pkg" / "deep").mkdir(parents=True)
    (tmp_path / "pkg" / "__init__.py").write_text("from .one import WORD\n")
    (tmp_path / "pkg" / "one.py").write_text(
        "from .deep import two\nfrom . import three\nWORD = two.WORD + three.WORD\n"
    )
    (tmp_path / "pkg" / "three.py").write_text("WORD = ' three'\n")
    (tmp_path / "pkg" / "unused.py").write_text("")
    (tmp_path / "pkg" / "deep" / "__init__.py").write_text("")
    (tmp_path / "pkg" / "deep" / "two.py").write_text("from ..three import WORD as THREE\nWORD = 'two' + THREE\n")
    code = "from pkg import WORD\ndef main(argv):\n    open('out.txt', 'w').write(WORD)\n"
    (tmp_path / "packs.py").write_text(code)
    deploy_kernel.main([str(tmp_path / "packs.py"), "--output", str(tmp_path / "out")])
    script = tmp_path / "out" / "packs" / "packs.py"
    names = [name for name in packed(script)["sources"] if name.startswith("pkg")]
    assert sorted(names) == ["pkg", "pkg.deep", "pkg.deep.two", "pkg.one", "pkg.three"]
    run_packed(script, {}, keep=tmp_path / "kept")
    assert (tmp_path / "kept" / "out.txt").read_text() == "two three three"
    (tmp_path / "plain").mkdir()
    (tmp_path / "plain" / "four.py").write_text("")
    (tmp_path / "packs.py").write_text("import plain.four\n" + code)
    with pytest.raises(UserError, match=r"`import plain\.four` can't be packed: .*plain has no __init__\.py"):
        deploy_kernel.main([str(tmp_path / "packs.py"), "--output", str(tmp_path / "out")])


def test_a_mistake_in_the_script_s_arguments_is_found_when_it_is_packed(tmp_path, capsys):
    with pytest.raises(SystemExit) as caught:
        deploy_kernel.main(["train.py", "--config", "clipart_tiny.yml", "--fodl", "1", "--output", str(tmp_path)])
    assert caught.value.code == 2 and "unrecognized arguments: --fodl" in capsys.readouterr().err


def test_flags_are_taken_out_with_their_values():
    words = ["--fold", "1", "--config", "a.yml", "--se", "a=1", "b=2", "--device", "cpu", "--weights=x"]
    assert _without(words, "--config", "--set", "--weights") == ["--fold", "1", "--device", "cpu"]


def unpack_nothing(files: dict[str, bytes], folder: str) -> None:
    raise AssertionError("nothing may be unpacked")


def test_all_that_a_training_kernel_misses_is_listed_at_once(chain, tmp_path, monkeypatch):
    found = packed(pack(chain, tmp_path, "predict_oof.py", "--weights", str(chain.weights("a"))))
    files = {
        path: text.encode().replace(str(DATA).encode(), b"elsewhere/clipart") for path, text in found["files"].items()
    }
    (tmp_path / "working").mkdir()
    monkeypatch.chdir(tmp_path / "working")
    with pytest.raises(UserError) as caught:
        arguments(files, found["options"], unpack_nothing)
    assert (
        caught.value.message.startswith("2 things are missing or wrong:") and "../input/clipart" in caught.value.message
    )
    assert "1 of 1 weights files are not there: a_f0.safetensors" in caught.value.message


def test_another_label_table_is_refused(chain, tmp_path, monkeypatch):
    found = packed(pack(chain, tmp_path, "train.py"))
    files = {path: text.encode() for path, text in found["files"].items()}
    lines = files["tables/train_csv/train.csv"].splitlines(keepends=True)
    files["tables/train_csv/train.csv"] = b"".join([lines[0], lines[2], lines[1], *lines[3:]])
    monkeypatch.chdir(tmp_path)

    with pytest.raises(UserError, match="has other ids, or another order"):
        arguments(files, found["options"], unpack)


@pytest.mark.parametrize(("before", "after"), [(None, "embedded"), ("", "embedded"), ("mine", "mine")])
def test_an_embedded_key_reaches_a_script(monkeypatch, before, after):
    monkeypatch.setenv("FOLDSMITH_PASSPHRASE", "x")
    if before is None:
        monkeypatch.delenv("FOLDSMITH_PASSPHRASE")
    else:
        monkeypatch.setenv("FOLDSMITH_PASSPHRASE", before)
    options = {"built_with": {}, "arguments": ["a"], "config": None, "passphrase": "embedded"}
    assert arguments({}, options, unpack_nothing) == ["a"]
    assert os.environ["FOLDSMITH_PASSPHRASE"] == after


def test_no_folder_of_what_was_unpacked_stays(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    files = {"a.yml": b"", "tables/train_csv/train.csv": b"", "tables/labels_csv/labels.csv": b""}
    unpack(files, "packed")
    _remove(sorted(files), os.getpid() + 1)
    assert len([path for path in Path("packed").rglob("*") if path.is_file()]) == 3, "another process's"
    _remove(sorted(files), os.getpid())
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_unpacked_through_a_link(chain, tmp_path, monkeypatch):
    found = packed(pack(chain, tmp_path / "out", "train.py"))
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "packed").symlink_to("elsewhere")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="can't be unpacked: 'packed' is a link") as caught:
        arguments({path: text.encode() for path, text in found["files"].items()}, found["options"], unpack)
    assert caught.value.code == 4 and list((tmp_path / "elsewhere").iterdir()) == []


@pytest.mark.slow
def test_a_training_kernel_trains_what_train_py_trains(chain, tmp_path, monkeypatch):
    """In the same steps, on another machine's layout; the run can go on here."""
    sets = ["train.num_epochs=1", "train.workers=2"]
    os.chdir(chain.folder)
    words = ["--config", str(chain.folder / "a.yml"), "--fold", "0", "--set", *chain.sets, *sets]
    deploy_kernel.main([str(ROOT / "train.py"), *words, "--output", str(tmp_path / "out")])
    script = tmp_path / "out" / "a_train" / "a_train.py"
    proof = run_packed(script, {"deep/clipart": DATA}, keep=tmp_path / "kept")
    assert "runs/a/a_f0.safetensors" in proof.files and not [name for name in proof.files if name.startswith("packed")]
    train.main([*words, "--output", str(tmp_path / "here")])
    there, here = tmp_path / "kept" / "runs" / "a", tmp_path / "here" / "a"
    assert (there / "folds.csv").read_bytes() == (here / "folds.csv").read_bytes()
    ours, theirs = (safetensors.torch.load_file(run / "a_f0.safetensors") for run in (here, there))
    assert ours.keys() == theirs.keys() and all((ours[name] == theirs[name]).all() for name in ours)
    header = read_header(there / "a_f0.safetensors")
    assert header["config"]["data"]["root"] == "../input/deep/clipart"
    assert header["config"]["data"]["train_csv"] == "packed/tables/train_csv/train.csv"
    before = (there / "a_f0.safetensors").read_bytes()
    train.main([*words, "--output", str(tmp_path / "kept" / "runs")])
    assert (there / "a_f0.safetensors").read_bytes() == before, "finished already"


@pytest.mark.slow
def test_a_validation_kernel_predicts_what_predict_oof_predicts(chain, tmp_path):
    script = pack(chain, tmp_path / "out", "predict_oof.py", "--weights", str(chain.weights("a", 1)))
    run_packed(script, {"clipart": DATA, "weights": chain.runs / "a"}, keep=tmp_path / "kept")
    npy = tmp_path / "kept" / "runs" / "a" / "a_f1.npy"
    np.testing.assert_array_equal(np.load(npy), np.load(chain.oof("a", 1)))
    assert read_sidecar(npy).folds_sha256 == read_sidecar(chain.oof("a", 1)).folds_sha256


def test_help_says_what_belongs_to_whom():
    done = subprocess.run([sys.executable, "deploy_kernel.py", "--help"], capture_output=True, text=True, check=True)
    assert "What is not listed below belongs to the script" in done.stdout
