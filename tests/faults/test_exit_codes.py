"""The exit codes that README and docs list, each of a real process; those of signals are in test_signals.py."""

import re
import shutil

import pytest

from foldsmith import errors
from tests.conftest import ROOT
from tests.faults.test_signals import SIGNALS

CODES = {0, errors.EXIT_USAGE, errors.EXIT_ENVIRONMENT, errors.EXIT_UNTRUSTED, errors.EXIT_DEADLINE}
CODES |= {code for code, _ in SIGNALS.values()}


@pytest.mark.parametrize("page", ["README.md", "docs/commands/index.md", "docs/design.md"])
def test_a_page_lists_all_codes_and_no_others(page):
    text = (ROOT / page).read_text()
    (listed,) = re.findall(r"\b0 done;.*?after a\s+signal", text, re.DOTALL)
    assert {int(code) for code in re.findall(r"(?:^|; |and |;\n)(\d+)\b", listed)} == CODES


def test_processes_end_with_them(warm, chain, few, tmp_path):
    broken = tmp_path / "models"
    shutil.copytree(chain.runs, broken)
    for path in broken.rglob("*.safetensors"):
        data = bytearray(path.read_bytes())
        data[-1] ^= 1
        path.write_bytes(data)
    (tmp_path / "file").touch()
    infer = ["ensemble_inference.py", chain.ensemble, "--data", few, "--output", tmp_path / "s.csv"]
    commands = {
        0: ["foldsmith", "leaderboard", chain.runs],
        2: ["train.py", "--config", "nosuch.yml"],
        3: ["foldsmith", "schema", "--output", tmp_path / "file" / "schema.json"],
        4: [*infer, "--models", broken],
        5: [*infer, "--models", chain.runs, "--deadline", "1s", "--started-at", "1"],
    }
    ended = {code: warm.run(*words) for code, words in commands.items()}
    assert {code: each.code for code, each in ended.items()} == {code: code for code in commands}
    assert all(each.err.startswith("error: ") for code, each in ended.items() if code not in (0, 5)), ended
    assert len((tmp_path / "s.csv").read_text().splitlines()) == 71, "valid, though the deadline had come"
