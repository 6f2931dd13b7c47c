"""The packed inference kernel: what is in it, and that it does alone what ensemble_inference.py does."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

import deploy_kernel
from foldsmith.data.sheets import read_csv
from foldsmith.ensemble.file import read_ensemble
from foldsmith.errors import UserError
from foldsmith.kernel import pack
from foldsmith.kernel.check import compare, run_packed
from foldsmith.kernel.contents import ensemble_contents
from foldsmith.kernel.pack import _literal, render
from tests.conftest import DATA, Chain


def inputs_of(chain: Chain) -> dict[str, Path]:
    """input/ as on Kaggle: the competition and a dataset of the runs."""
    return {"clipart": DATA, "some/dataset": chain.runs}


def start(chain: Chain, folder: Path, *names: str, words: tuple[str, ...] = (), before: str = "") -> subprocess.Popen:
    """Start the packed kernel in folder/working, beside folder/input, without the project on its path.

    Args:
        names: experiments whose weights are there.
        words: its arguments.
        before: code that runs after its sources can be imported, and before it starts.
    """
    working, inputs = folder / "working", folder / "input"
    working.mkdir(parents=True, exist_ok=True)
    if not inputs.exists():
        inputs.mkdir()
        (inputs / "clipart").symlink_to(DATA)
        for name in names:
            shutil.copytree(chain.runs / name, inputs / "some" / "dataset" / name)
    packages = os.pathsep.join(path for path in sys.path if path.endswith("site-packages"))
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": packages, "HOME": str(folder), "OMP_NUM_THREADS": "1"}
    code = f"""
import runpy, sys
kernel = runpy.run_path({str(chain.kernel)!r})
sys.modules["__main__"].SOURCES = kernel["SOURCES"]
{before}
from foldsmith.errors import run
from foldsmith.inference.kernel import main
run(lambda argv: main({words!r}, kernel["FILES"], kernel["OPTIONS"]))
"""
    command = [sys.executable, "-S", "-c", code] if before else [sys.executable, "-S", str(chain.kernel), *words]
    return subprocess.Popen(
        command, cwd=working, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def finish(process: subprocess.Popen) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=120)
    return process.returncode, out, err


def test_the_kernel_alone_gives_the_same_bytes(chain, capfd):
    proof = run_packed(chain.kernel, inputs_of(chain), ["--strict-exit"])
    compare(proof, chain.submission.read_bytes(), chain.kernel)
    said = capfd.readouterr().out
    assert "4 weights files are the ensemble's" in said
    assert "h for 716 images, at the speed of out-of-fold prediction; left: 8.6" in said


def test_a_kernel_without_its_weights_names_all_of_them_at_once(chain, tmp_path):
    started = time.monotonic()
    code, _, err = finish(start(chain, tmp_path, "a"))
    assert code == 2 and time.monotonic() - started < 10
    assert "2 of 4 weights files are not there: b_f0.safetensors, b_f1.safetensors" in err
    assert "../input" in err and "Traceback" not in err
    (tmp_path / "input" / "clipart").unlink()
    (tmp_path / "input" / "clipart").mkdir()
    weights = tmp_path / "input" / "some" / "dataset" / "a" / "a_f0.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    code, _, err = finish(start(chain, tmp_path))
    assert code == 2 and "3 things are missing or wrong" in err
    assert "b_f0.safetensors, b_f1.safetensors" in err and "../input/clipart/sample_submission.csv" in err
    size = weights.stat().st_size
    assert f"a_f0.safetensors has {size} bytes, not {size + 1}: cut off" in err
    assert list((tmp_path / "working").iterdir()) == []


def test_weights_of_the_right_size_and_another_content_are_refused(chain, tmp_path):
    process = start(chain, tmp_path / "unused", "a", "b", words=("--deadline", "0s"))
    assert finish(process)[0] == 2  # 0s is no time
    weights = tmp_path / "unused" / "input" / "some" / "dataset" / "b" / "b_f1.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    code, _, err = finish(start(chain, tmp_path / "unused"))
    assert code == 4 and "b_f1.safetensors is not the ensemble's" in err


def test_a_failure_in_the_middle_leaves_what_was_written_and_exit_code_0(chain, tmp_path):
    before = """
import foldsmith.inference.parts as parts
save, count = parts.Parts.save, iter(range(9))
def failing(self, *args):
    if next(count) == 3:
        raise ZeroDivisionError("in the middle")
    save(self, *args)
parts.Parts.save = failing
"""
    code, out, err = finish(start(chain, tmp_path, "a", "b", before=before))
    assert code == 0, err
    assert "ZeroDivisionError: in the middle" in err and "INFERENCE FAILED with exit code 1; see above" in err
    written = [line for line in out.splitlines() if line.startswith("written")]
    assert len(written) == 1 and "1 of 2 members" in written[0]
    submission = read_csv(tmp_path / "working" / "submission.csv")
    assert submission.column("id") == read_csv(DATA / "sample_submission.csv").column("id")


@pytest.mark.slow
def test_a_killed_kernel_goes_on_and_ends_in_the_same_bytes(chain, tmp_path):
    before = """
import os, signal
import foldsmith.inference.parts as parts
save, count = parts.Parts.save, iter(range(9))
parts.Parts.save = lambda self, *args: (save(self, *args), next(count) == 2 and os.kill(os.getpid(), signal.SIGKILL))
"""
    code, _, err = finish(start(chain, tmp_path, "a", "b", before=before))
    assert code == 0 and "INFERENCE WAS KILLED by signal 9" in err
    working = tmp_path / "working"
    assert len(list((working / "submission.csv.parts").glob("*.npy"))) == 3
    assert (working / "submission.csv").read_bytes() != chain.submission.read_bytes()
    code, out, err = finish(start(chain, tmp_path))
    assert code == 0 and [path.name for path in working.iterdir()] == ["submission.csv"]
    assert (working / "submission.csv").read_bytes() == chain.submission.read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize(("words", "code"), [((), 0), (("--strict-exit",), 5)])
def test_after_a_deadline_the_prior_stands(chain, tmp_path, words, code):
    done = finish(start(chain, tmp_path, "a", "b", words=("--deadline", "0.5s", *words)))
    assert done[0] == code and "the deadline came" in done[2]
    prior = " ".join(sorted(read_ensemble(chain.ensemble).prior, key=int))
    lines = (tmp_path / "working" / "submission.csv").read_text().splitlines()[1:]
    assert len(lines) == 716 and {line.partition(",")[2] for line in lines} == {prior}


def deploy(chain: Chain, output: Path, *words: str) -> Path:
    deploy_kernel.main(["ensemble_inference.py", str(chain.ensemble), "--output", str(output), *words])
    return output / "best" / "best.py"


def test_the_kernel_is_readable_small_and_reproducible(chain, tmp_path):
    text = chain.kernel.read_text()
    assert "\ndef blend(" in text and "\nclass Sources(" in text, "sources stand in it as text"
    assert f"\n{chain.ensemble.read_text()}'''," in text.replace("r'''", "\n"), "so does the ensemble"
    assert "'torch': '" in text and "'python': '3." in text
    assert chain.kernel.stat().st_size < 350_000, "Kaggle takes a megabyte"
    assert deploy(chain, tmp_path).read_text() == text
    for name in ("kernel-metadata.json", "manifest.json"):
        assert (tmp_path / "best" / name).read_bytes() == chain.kernel.with_name(name).read_bytes()
    names = {path.name for path in (tmp_path / "best").iterdir()}
    assert names == {"best.py", "kernel-metadata.json", "manifest.json", "README.md"}


def packed(script: Path) -> dict:
    """FILES, MANIFEST ... of a packed file, without running it."""
    code = f"""
import json, runpy
kernel = runpy.run_path({str(script)!r})
files = {{path: data.decode() for path, data in kernel["FILES"].items()}}
print(json.dumps([files, kernel["MANIFEST"], kernel["OPTIONS"], sorted(kernel["SOURCES"])]))
"""
    done = subprocess.run([sys.executable, "-S", "-c", code], capture_output=True, text=True, check=True)
    return dict(zip(("files", "manifest", "options", "sources"), json.loads(done.stdout), strict=True))


def test_compressed_it_holds_the_same(chain, tmp_path):
    small = deploy(chain, tmp_path, "--compress")
    assert small.stat().st_size < chain.kernel.stat().st_size / 2
    assert packed(small) == packed(chain.kernel)


def test_what_is_inside_is_what_the_manifest_says(chain):
    found, manifest = packed(chain.kernel), json.loads(chain.kernel.with_name("manifest.json").read_text())
    assert found["files"]["best.yml"] == chain.ensemble.read_text()
    for name in ("a", "b"):
        resolved = (chain.runs / name / f"{name}.yml").read_text()
        assert found["files"][f"configs/{name}.yml"] == resolved
    assert manifest["configs"] == ["best.yml", "configs/a.yml", "configs/b.yml"]
    assert {path: (entry["bytes"], entry["sha256"]) for path, entry in manifest["files"].items()} == {
        path: tuple(entry) for path, entry in found["manifest"].items()
    }
    assert found["sources"] == sorted(
        path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        for path in found["files"]
        if path.endswith(".py")
    )
    ensemble = read_ensemble(chain.ensemble)
    hashes = {name: sha for member in ensemble.members for name, sha in zip(member.weights, member.sha256, strict=True)}
    assert {name: entry["sha256"] for name, entry in manifest["weights"].items()} == hashes
    assert manifest["weights"]["a_f0.safetensors"]["bytes"] == chain.weights("a").stat().st_size
    assert manifest["built_with"]["timm"] and manifest["deadline"] == "8h40m"


def test_no_training_module_is_inside(chain):
    sources = packed(chain.kernel)["sources"]
    forbidden = ("training", "kernel", "losses", "tools", "cli", "demo", "convert", "pseudo_label", "ensemble.search")
    forbidden += ("data.augment", "data.dataset", "data.folds", "data.sampling", "data.pseudo")
    assert not [name for name in sources if name.removeprefix("foldsmith.").startswith(forbidden)]
    packages = ("config", "inference", "models")
    others = {
        name.removeprefix("foldsmith.") for name in sources if not name.removeprefix("foldsmith.").startswith(packages)
    }
    few = {
        "foldsmith",
        "crypt",
        "data",
        "ensemble",
        "ensemble.file",
        "errors",
        "failpoints",
        "fbeta",
        "files",
        "malloc",
    }
    few |= {"metrics", "signals"} | {f"data.{name}" for name in ("headers", "image_limits", "images", "memory")}
    assert others == few | {"data.oof_files", "data.sheets", "data.tables"}
    assert "foldsmith.inference.kernel" in sources and len(sources) <= 50


def test_a_file_that_was_changed_does_not_start(chain, tmp_path):
    script = tmp_path / "best.py"
    script.write_text(chain.kernel.read_text().replace("def blend(", "def blond("))
    done = subprocess.run([sys.executable, "-S", str(script)], capture_output=True, text=True)
    assert done.returncode == 4
    assert (
        "this file was changed after it was packed: 'foldsmith/ensemble/file.py' is not what was packed" in done.stderr
    )


def test_a_file_above_the_limit_is_refused(chain, tmp_path, monkeypatch):
    monkeypatch.setattr(pack, "LARGEST", 100_000)
    with pytest.raises(UserError, match="and a kernel may have 100; the largest parts: foldsmith/") as caught:
        deploy(chain, tmp_path)
    assert caught.value.hint == "--compress makes it smaller"
    assert list(tmp_path.iterdir()) == []


def test_hostile_names_are_not_packed(chain):
    contents = ensemble_contents(chain.ensemble, [chain.runs])
    contents.files["../a.yml"] = "x"
    with pytest.raises(UserError, match="can't be packed: '../a.yml' is not a plain relative path"):
        render(contents, compress=False)


@pytest.mark.parametrize("name", ['q"""+1+"""z', "it's", "a\\b", "a`b", "a\x1bb"])
def test_names_that_would_be_code_are_not_packed(chain, tmp_path, name):
    ensemble = tmp_path / f"{name}.yml"
    ensemble.write_bytes(chain.ensemble.read_bytes())
    with pytest.raises(UserError, match="can't be packed: the name .* holds ") as caught:
        render(ensemble_contents(ensemble, [tmp_path]), compress=False)
    assert caught.value.hint.startswith("rename the file")


@pytest.mark.parametrize(
    "text", ["", "plain\n", "it's '''three'''\n", 'and """too"""\n', "back\\slash\\\n", "end'", "end\\"]
)
def test_literals_are_exact(text):
    assert eval(_literal(text)) == text  # noqa: S307
    assert text.count("\n") == _literal(text).count("\n"), "line by line"


def test_weights_of_another_ensemble_are_found_out_when_it_is_packed(chain, tmp_path):
    shutil.copy(chain.weights("a", 1), tmp_path / "a_f0.safetensors")
    with pytest.raises(UserError, match="a_f0.safetensors is not the ensemble's") as caught:
        deploy(chain, tmp_path / "out", "--models", str(tmp_path))
    assert caught.value.code == 4 and not (tmp_path / "out").exists()


def test_without_weights_it_is_packed_too(chain, tmp_path, capsys):
    script = deploy(chain, tmp_path, "--models", str(tmp_path), "--deadline", "45m", "--strict-exit")
    assert "not here, so neither their sizes nor their configs are known: " in capsys.readouterr().out
    options = packed(script)["options"]
    assert (options["weights"], options["classes"]) == ({}, None)
    assert (options["deadline"], options["strict_exit"]) == ("45m", True)


@pytest.mark.slow
def test_check_compares_with_the_unpacked_run(chain, tmp_path, capsys):
    words = ["--competition", "drawings-2026"]  # where the data lies then, whatever its folder is called here
    deploy(chain, tmp_path, "--check", "--models", str(chain.runs), *words)
    said = capsys.readouterr().out
    assert "checked: submission.csv is the unpacked run's, byte for byte; " in said
    assert " s, " in said and " MB of memory at most, a file of " in said


@pytest.mark.slow
def test_an_embedded_key_opens_encrypted_weights(chain, tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("FOLDSMITH_PASSPHRASE", "correct horse battery")
    words = ["--user", "me", "--stage-weights", str(tmp_path / "staged"), "--encrypt"]
    deploy(chain, tmp_path / "one", *words)
    sealed = ["--models", str(tmp_path / "staged")]
    capfd.readouterr()
    script = deploy(chain, tmp_path / "two", *sealed, "--embed-key")
    assert packed(script)["files"] == packed(chain.kernel)["files"]
    assert "not known" not in capfd.readouterr().out
    assert script.with_name("README.md").read_text().startswith("Upload a dataset of a_f0.safetensors.enc, a_f1")
    inputs = {"clipart": DATA, "weights": tmp_path / "staged"}
    proof = run_packed(script, inputs, ["--strict-exit"], passphrase=False)
    compare(proof, chain.submission.read_bytes(), script)
    with pytest.raises(UserError, match="failed with exit code 2"):
        run_packed(deploy(chain, tmp_path / "three", *sealed), inputs, passphrase=False)
    assert "is encrypted, and there is no passphrase" in capfd.readouterr().err


def test_the_loader_is_the_first_code_of_the_file(chain):
    spec = importlib.util.find_spec("foldsmith.kernel.loader")
    assert spec is not None and spec.origin is not None
    text, loader = chain.kernel.read_text(), Path(spec.origin).read_text().strip()
    assert text.partition('"""\n\n')[2].startswith(loader)
