"""Real shells complete the scripts and `foldsmith`: tools, options, choices, files and folders."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from foldsmith import cli
from tests.conftest import ROOT

START = {"bash": ["--norc", "--noprofile", "-i"], "zsh": ["-f", "-i"], "fish": ["--no-config"]}
READY = {
    "bash": "bind 'set enable-bracketed-paste off'; PS1='READY>'",
    "zsh": "autoload -Uz compinit; compinit -D -u; unset zle_bracketed_paste; PS1='READY>'",
}
CASES = {  # what is typed before the tab key: what then stands there
    "foldsmith leade": "foldsmith leaderboard",
    "foldsmith label-issues --mo": "foldsmith label-issues --most",
    "foldsmith doctor --device cu": "foldsmith doctor --device cuda",
    "./train.py --conf": "./train.py --config",
    "./train.py --config configs/only": "./train.py --config configs/only_one.yml",
    "./train.py --config configs/only_one.yml --smo": "./train.py --config configs/only_one.yml --smoke",
    "./predict_oof.py --weights runs/a/a_f0.s": "./predict_oof.py --weights runs/a/a_f0.safetensors",
    "./ensemble_search.py best runs/a/a_f0.n": "./ensemble_search.py best runs/a/a_f0.npy",
    "./ensemble_inference.py be": "./ensemble_inference.py best.yml",
    "./ensemble_inference.py best.yml --models ru": "./ensemble_inference.py best.yml --models runs/",
    "./deploy_kernel.py ensemble_i": "./deploy_kernel.py ensemble_inference.py",
    "./deploy_kernel.py ensemble_inference.py be": "./deploy_kernel.py ensemble_inference.py best.yml",
    "./deploy_kernel.py ensemble_inference.py best.yml --stage-w": "./deploy_kernel.py ensemble_inference.py best.yml "
    "--stage-weights",
}


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    for name in ("configs/only_one.yml", "runs/a/a_f0.safetensors", "runs/a/a_f0.npy", "runs.txt", "best.yml"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    for script in ROOT.glob("*.py"):
        shutil.copy(script, tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def script_of(shell: str, folder: Path, capsys: pytest.CaptureFixture) -> Path:
    capsys.readouterr()
    cli.main(["completion", shell])
    path = folder / f"completion.{shell}"
    path.write_text(capsys.readouterr().out)
    return path


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_a_tab_completes(shell, folder, capsys):
    program = shutil.which(shell) or pytest.skip(f"{shell} is not installed: apt-get install {shell}")
    pexpect = pytest.importorskip("pexpect", reason="pip install pexpect")
    script = script_of(shell, folder, capsys)
    environment = os.environ | {"TERM": "dumb", "HOME": str(folder), "INPUTRC": "/dev/null"}
    terminal = pexpect.spawn(program, START[shell], env=environment, encoding="utf-8", timeout=20, echo=False)
    terminal.setwinsize(50, 400)
    terminal.sendline(f"{READY[shell]}; . {script}; echo LOAD''ED")
    terminal.expect("LOADED.*READY>")
    for typed, expected in CASES.items():
        # The line as it is after the tab becomes the argument of echo, which says it.
        terminal.send(f"{typed}\t")
        terminal.sendline(" .\x01echo :")
        terminal.expect(r"(?:^|[\n>]):([^\r\n]*) \.\r?\n")
        assert terminal.match[1].rstrip(" /") == expected.rstrip("/")  # zsh takes a slash back before a space
        terminal.expect("READY>")
    terminal.close(force=True)


def test_fish_completes(folder, capsys):
    fish = shutil.which("fish") or pytest.skip("fish is not installed: apt-get install fish")
    script = script_of("fish", folder, capsys)
    asked = "; ".join(f"complete -C '{typed}'; echo END" for typed in CASES)
    words = [fish, *START["fish"], "-c", f"source {script}; {asked}"]
    done = subprocess.run(words, capture_output=True, text=True, env=os.environ | {"HOME": str(folder)}, check=True)
    for answer, (typed, expected) in zip(done.stdout.split("END\n"), CASES.items(), strict=False):
        found = [re.split(r"\t", line)[0] for line in answer.splitlines()]
        assert found == [expected.split()[-1]], typed


def test_without_the_scripts_it_completes_foldsmith(tmp_path):
    """As where the package alone is installed."""
    words = "import foldsmith, foldsmith.cli; foldsmith.__file__ = '/nosuch/a/b/c.py'; foldsmith.cli.main()"
    done = subprocess.run(
        [sys.executable, "-c", words, "completion", "bash"], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert "complete -o bashdefault -F _shtab_foldsmith foldsmith" in done.stdout and "train" not in done.stdout
    assert done.stderr == "without train.py and its like: call it in the project's folder\n"
