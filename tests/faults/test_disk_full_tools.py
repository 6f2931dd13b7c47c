"""A disk that is full at each write of the kernel's packer and of foldsmith's other commands."""

import os
import shutil
from pathlib import Path

import pytest

from foldsmith import demo
from foldsmith.errors import UserError
from tests.conftest import ROOT
from tests.faults.disk import SITES, full_at_every_write
from tests.test_convert import OLD


@pytest.fixture
def out(tmp_path) -> Path:
    """What a command writes into."""
    (tmp_path / "out").mkdir()
    return tmp_path / "out"


def fills(warm, name: str, words: list[object], out: Path, **options) -> list[str]:
    """`foldsmith <name>` at each of its writes."""
    writes = full_at_every_write(warm, "foldsmith", [name, *words], out, **options)
    assert set(writes) == SITES[name]
    return writes


@pytest.mark.slow
def test_the_kernel_and_its_weights(warm, chain, out):
    words = ["ensemble_inference.py", chain.ensemble, "--output", out / "kernels"]
    words += ["--user", "me", "--stage-weights", out / "staged"]
    writes = full_at_every_write(warm, "deploy_kernel.py", words, out)
    assert set(writes) == SITES["kernel"] and len(writes) == 4 + 4 + 1


def test_folds(warm, mini, out):
    assert len(fills(warm, "folds", ["--config", mini, "--output", out / "f.csv", "--report", out / "r.csv"], out)) == 2


def test_the_range_of_rates(warm, mini, out):
    fills(warm, "lr-find", ["--config", mini, "--output", out / "lr.png", "--steps", "20"], out, last=1)


@pytest.mark.parametrize("name", ["encrypt", "decrypt"])
def test_encryption(warm, chain, out, name):
    secret = {"FOLDSMITH_PASSPHRASE": "x"}
    sealed = out.with_name("a.safetensors.enc")
    plain = shutil.copy(chain.weights("a"), out.with_name("a.safetensors"))
    assert warm.run("foldsmith", "encrypt", plain, env=secret).code == 0
    shutil.copy(plain if name == "encrypt" else sealed, out)
    words = ["encrypt", out / Path(plain).name] if name == "encrypt" else ["encrypt", "--decrypt", out / sealed.name]
    assert set(full_at_every_write(warm, "foldsmith", words, out, env=secret)) == SITES[name]


def test_the_preview(warm, mini, out):
    fills(warm, "preview", ["--config", mini, "--images", "1", "--draws", "1", "--output", out / "p.png"], out)


def test_the_report(warm, chain, out):
    fills(warm, "report", [chain.runs, "--output", out / "r.html"], out)


def test_label_issues(warm, chain, out):
    fills(warm, "label-issues", [chain.runs / "a", "--output", out / "l.csv"], out)


def test_pseudo_labels(warm, chain, out):
    words = ["--oof", chain.oof("a"), "--threshold", "0.5", "--output", out / "p.csv"]
    fills(warm, "pseudo-label", words, out)


def test_a_new_competition(warm, few, out):
    shutil.copytree(few, out, dirs_exist_ok=True)
    shutil.copytree(few / "test", out / "train")
    ids = sorted(path.stem for path in (few / "test").iterdir())
    (out / "train.csv").write_text("id,attribute_ids\n" + "".join(f"{name},0 1\n" for name in ids))
    words = ["--root", out, "--groups", out / "groups.csv", "--output", out / "mine.yml"]
    assert len(fills(warm, "check-data", words, out)) == 2


def test_experiment_files(warm, out):
    fills(warm, "new", [out / "mine.yml", "--from", ROOT / "configs" / "clipart_tiny.yml"], out)
    fills(warm, "schema", ["--output", out / "schema.json"], out)
    old = out.with_name("old.yml")
    old.write_text(OLD)
    fills(warm, "convert-config", [old, "--output", out / "new.yml"], out)


def test_the_weights_of_the_demo(warm, out):
    fills(warm, "demo-weights", [out / "w.safetensors"], out, last=1)


def test_the_self_test_of_the_doctor(warm):
    """The facts are printed all the same, and the error says how much room it needs."""
    for count in (1, 49):  # an image, the table
        ended = warm.run("foldsmith", "doctor", fail=f"write.opened:{count}:full", hook=("print_through_pipes",))
        assert ended.code == 3 and "could not be written: " in ended.out, ended.out
        assert "; it needs about " in ended.out and "\npackages\n" in ended.out


def test_the_proof_of_the_demo(monkeypatch, tmp_path):
    """The kernel's run is that of test_kernel.py; here only its proof is written."""
    monkeypatch.setattr(demo, "run_packed", lambda *args, **rest: "done")
    monkeypatch.setattr(demo, "compare", lambda *args: None)
    monkeypatch.setenv("FOLDSMITH_FAIL", "write.opened:*:enospc")
    (tmp_path / "submission.csv").write_bytes(bytes(70_000))
    (tmp_path / "proof").write_text("old")
    with pytest.raises(UserError, match="it needs about 0.1 MB, ") as caught:
        demo._prove_kernel(tmp_path, tmp_path / "kernel.py", tmp_path / "proof")
    assert caught.value.code == 3 and (tmp_path / "proof").read_text() == "old"
    assert sorted(os.listdir(tmp_path)) == ["proof", "submission.csv"]
