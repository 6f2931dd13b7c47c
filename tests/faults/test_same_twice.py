"""The same run twice, from the training to the submission: equal byte for byte, whatever Python's hashes are."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

CHAIN = """
import importlib, json, sys
for script, words in json.load(sys.stdin):
    importlib.import_module(script).main(words)
"""


def commands(mini: Path, few: Path, folder: Path) -> list[tuple[str, list[str]]]:
    runs, best = str(folder / "runs"), str(folder / "best")
    experiment = ["--config", str(mini), "--output", runs]
    return [
        ("train", experiment),
        ("predict_oof", experiment),
        ("ensemble_search", [best, f"{runs}/mini/mini_f0.npy"]),
        (
            "ensemble_inference",
            [f"{best}.yml", "--models", runs, "--data", str(few), "--output", str(folder / "s.csv")],
        ),
    ]


def artefacts(folder: Path) -> dict[str, bytes]:
    """All files but the logs, and those whose content is a time."""
    found = {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.suffix in (".csv", ".yml", ".safetensors", ".npy") and path.name != "timings.csv"
    }
    lines = found["best.yml"].splitlines()
    found["best.yml"] = b"\n".join(
        line for line in lines if not any(word in line for word in (b"images_per_second", b"content_sha256"))
    )
    return found


@pytest.mark.slow
def test_two_runs_give_the_same_bytes(warm, mini, few, tmp_path):
    """One in a process that had imported everything, one in a new process with other hashes."""
    folder = tmp_path / "warm"
    for script, words in commands(mini, few, folder):
        ended = warm.run(f"{script}.py", *words)
        assert ended.code == 0, ended.err
    expected = artefacts(folder)
    folder.rename(tmp_path / "first")

    # In the same place: the resolved config holds paths.
    environment = os.environ | {"PYTHONHASHSEED": "4711", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    ended = subprocess.run(
        [sys.executable, "-c", CHAIN],
        input=json.dumps(commands(mini, few, folder)),
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert ended.returncode == 0, ended.stderr
    found = artefacts(folder)
    assert found.keys() == expected.keys() and len(found) == 10
    assert [name for name in found if found[name] != expected[name]] == []
    assert len(found["s.csv"].splitlines()) == 71
