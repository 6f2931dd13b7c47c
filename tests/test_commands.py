"""What is shown to users is what the programs take: help, examples, README, docs, exit codes."""

import json
import re
import subprocess
import sys

import pytest

import ensemble_search
import foldsmith
from foldsmith import cli
from foldsmith.ensemble.file import read_ensemble
from tests.conftest import ROOT
from tests.pages import PAGES, SCRIPTS, commands_in, page_name, parse, parser_of, steps_of, tools

CONFIGS = sorted((ROOT / "configs").rglob("*.yml"))


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_every_command_that_is_shown_is_one(page):
    for words in commands_in(page.read_text()):
        parse(words)


PAGE = """
Call `train.py
--config a.yml` or `foldsmith report`; `run.py` is a file, `cli.py the commands` a sentence.

```yaml
# configs/mine.yml
base: a.yml
```

```sh
$ ./train.py --config \\
    a.yml && ./b.py 2  # c
export OMP_NUM_THREADS="${CPUS:-1}"
exec ./train.py --config a.yml --fold "$TASK"
foldsmith report > x
```

    TMPDIR=/x .venv/bin/python -X importtime train.py ...
    torchrun --nproc-per-node 4 train.py --config a.yml
    git status
"""


def test_commands_are_found_wherever_they_are_shown():
    assert steps_of(PAGE) == [
        ["train.py", "--config", "a.yml"],
        ["foldsmith", "report"],
        "# configs/mine.yml\nbase: a.yml",
        ["train.py", "--config", "a.yml"],
        ["b.py", "2"],
        ["train.py", "--config", "a.yml", "--fold", "1"],
        ["foldsmith", "report"],
        ["train.py", "..."],
        ["torchrun", "--nproc-per-node", "4", "train.py", "--config", "a.yml"],
    ]
    assert ["train.py", "--config", "clipart_tiny.yml", "--smoke"] in commands_in((ROOT / "README.md").read_text())


@pytest.mark.parametrize(
    "command",
    [
        "./deploy_kernels.py ensemble_inference.py best.yml",  # no such program
        "./deploy_kernel.py ensemble_inferense.py best.yml",  # nor such a script to pack
        "./deploy_kernel.py train.py --confg a.yml",
        "./train.py --config a.yml --folds 1",
        "./train.py ... --folds 1",
        "foldsmith reports",
        "torchrun --nproc-per-nodes 4 train.py --config a.yml",
        "torchrun --nproc-per-node 4 train.py --confg a.yml",
        "make demos",
        "pip install -e '.[rays]'",
        "python best.py --deadlines 45m",
    ],
)
def test_a_wrong_command_is_noticed(command):
    (words,) = commands_in(f"    {command}")
    with pytest.raises(AssertionError):
        parse(words)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: str(path.relative_to(ROOT / "configs")))
def test_the_command_in_a_config_s_head_is_one(path):
    (line,) = [line for line in path.read_text().splitlines() if line.startswith("#   ")]
    *weights, words = commands_in(f"    {line[4:]}")
    assert weights in ([], [["make", "weights"]])
    parse(words)
    assert (ROOT / "configs" / words[words.index("--config") + 1]) == path


@pytest.mark.parametrize("name", [*SCRIPTS, *cli.TOOLS])
def test_help_has_an_example_that_parses(name):
    parser = parser_of(name) if name in SCRIPTS else tools()[name]
    text = parser.format_help()
    if name in SCRIPTS:
        assert f"\n./{name}.py " in text
        examples = [line for line in parser.description.splitlines() if line.startswith("./")]
    else:
        examples = [cli.TOOLS[name].EXAMPLE]
        assert f"example: {examples[0]}" in text.splitlines()
    for example in examples:
        (words,) = commands_in("    " + re.split(r" {2,}", example)[0])
        parse(words)


@pytest.mark.parametrize("name", [*SCRIPTS, *cli.TOOLS])
def test_every_argument_says_what_it_is(name):
    parser = parser_of(name) if name in SCRIPTS else tools()[name]
    assert [action.dest for action in parser._actions if not action.help] == []
    page = (ROOT / "docs" / "commands" / f"{name}.md").read_text()
    assert not re.search(r"\|\s*\|$", page, re.MULTILINE)


@pytest.mark.parametrize("name", [*SCRIPTS, *cli.TOOLS])
def test_every_command_has_a_page_with_all_its_options(name):
    text = (ROOT / "docs" / "commands" / f"{name}.md").read_text()
    parser = parser_of(name) if name in SCRIPTS else tools()[name]
    options = {word for action in parser._actions for word in action.option_strings if word.startswith("--")}
    options -= {"--help", "--version"}
    table = set(re.findall(r"^\| `(--[\w-]+)", text, re.MULTILINE))
    assert table == options
    assert f"({name}.md)" in (ROOT / "docs" / "commands" / "index.md").read_text()


def test_version_and_exit_codes_of_real_processes(tmp_path):
    def call(*words: str) -> subprocess.CompletedProcess:
        return subprocess.run([sys.executable, *words], cwd=ROOT, capture_output=True, text=True, timeout=60)

    assert call("-m", "foldsmith", "--version").stdout == f"foldsmith {foldsmith.__version__}\n"
    assert call("-m", "foldsmith", "nosuch").returncode == 2
    done = call("-m", "foldsmith", "report", str(tmp_path))
    assert (done.returncode, done.stdout) == (2, "") and done.stderr.startswith(f"error: {tmp_path}: holds no")


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_script_says_its_version(script, capsys):
    with pytest.raises(SystemExit) as end:
        parser_of(script).parse_args(["--version"])
    assert end.value.code == 0 and capsys.readouterr().out == f"foldsmith {foldsmith.__version__}\n"


def test_json_of_the_search_is_all_there_is_on_stdout(chain, tmp_path, capsys):
    target = tmp_path / "again"
    ensemble_search.main([str(target), str(chain.oof("a")), str(chain.oof("b")), "--json"])
    captured = capsys.readouterr()
    found = json.loads(captured.out)
    assert found.pop("file") == f"{target}.yml" and "held out" in captured.err
    assert found == read_ensemble(tmp_path / "again.yml").model_dump(mode="json")
    assert (tmp_path / "again.yml").read_bytes() == chain.ensemble.read_bytes()
