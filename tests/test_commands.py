"""What is shown to users is what the programs take: help, examples, README, docs, completion, exit codes."""

import argparse
import importlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import ensemble_search
import foldsmith
from foldsmith import cli
from foldsmith.ensemble.file import read_ensemble
from foldsmith.report.runs import read_run
from tests.conftest import DATA, ROOT

SCRIPTS = ["train", "predict_oof", "ensemble_search", "ensemble_inference", "deploy_kernel"]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])
CONFIGS = sorted((ROOT / "configs").rglob("*.yml"))


def parser_of(program: str) -> argparse.ArgumentParser:
    """The parser of `train.py` or `foldsmith`."""
    name = program.removesuffix(".py")
    name = "ensemble_search" if name == "ensemble_search_scipy_optimize" else name
    return cli.parser() if name == "foldsmith" else importlib.import_module(name).parser()


def tools() -> dict[str, argparse.ArgumentParser]:
    actions = cli.parser()._actions
    return dict(next(each for each in actions if isinstance(each, argparse._SubParsersAction)).choices)


def commands_in(text: str) -> list[list[str]]:
    """The words of every command in a page's code: program first, comments and redirections left out."""
    fenced = re.findall(r"^```(?:sh|bash)?\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    indented = [line[4:] for line in text.splitlines() if line.startswith("    ")]
    inline = [code for code in re.findall(r"`([^`\n]+)`", text) if " " in code and not re.search("TOOL|<", code)]
    inline = [code for code in inline if not re.fullmatch("foldsmith [a-z-]+", code)]  # mentioned, not shown
    found = []
    for line in [*"\n".join(fenced).splitlines(), *indented, *inline]:
        for part in line.removeprefix("$ ").split("&&"):
            if not re.match(r"\s*(\./\w+\.py|(python -m )?foldsmith) ", part):
                continue
            words = shlex.split(part, comments=True)
            words = words[words.index("-m") + 1 :] if words[:2] == ["python", "-m"] else words
            words = words[: words.index(">")] if ">" in words else words
            found.append([words[0].removeprefix("./"), *words[1:]])
    return found


def parse(words: list[str]) -> None:
    if "--predict_oof" in words:
        words = ["predict_oof.py", *(word for word in words[1:] if word != "--predict_oof")]
    try:
        if words[0] == "deploy_kernel.py":  # what it does not know belongs to the script that is packed
            args, rest = parser_of(words[0]).parse_known_args(words[1:])
            words = [args.script, *rest]
            if not (ROOT / args.script).is_file():  # `...` stands for what does not matter there
                return
        parser_of(words[0]).parse_args(words[1:])
    except SystemExit as end:
        assert end.code == 0, shlex.join(words)


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_command_that_is_shown_is_one(page):
    mentioned = set(re.findall(r"`foldsmith ([a-z-]+)`", page.read_text()))
    assert mentioned <= set(cli.TOOLS)
    for words in commands_in(page.read_text()):
        parse(words)


def test_commands_are_found_where_they_are_shown():
    readme = commands_in((ROOT / "README.md").read_text())
    assert ["train.py", "--config", "clipart_tiny.yml", "--smoke"] in readme and len(readme) > 12
    assert commands_in(
        "```sh\nfoldsmith report > x\n```\n    ./a.py 1 && ./b.py 2  # c\n`foldsmith new x`, `foldsmith new`"
    ) == [
        ["foldsmith", "report"],
        ["a.py", "1"],
        ["b.py", "2"],
        ["foldsmith", "new", "x"],
    ]


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: str(path.relative_to(ROOT / "configs")))
def test_the_command_in_a_config_s_head_is_one(path):
    (line,) = [line for line in path.read_text().splitlines() if line.startswith("#   ")]
    (words,) = [words for words in commands_in(f"    {line[4:]}")]
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
def test_every_command_has_a_page_with_all_its_options(name):
    text = (ROOT / "docs" / "commands" / f"{name}.md").read_text()
    parser = parser_of(name) if name in SCRIPTS else tools()[name]
    options = {word for action in parser._actions for word in action.option_strings if word.startswith("--")}
    options -= {"--help", "--version"}
    table = set(re.findall(r"^\| `(--[\w-]+)", text, re.MULTILINE))
    assert table == options
    assert f"({name}.md)" in (ROOT / "docs" / "commands" / "index.md").read_text()


def test_every_recipe_has_a_place_in_the_docs():
    text = "".join(path.read_text() for path in (ROOT / "docs" / "recipes").glob("*.md"))
    assert [str(path) for path in CONFIGS if f"`{path.relative_to(ROOT / 'configs')}`" not in text] == []


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


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_knows_all_tools_and_is_valid(shell, capsys, tmp_path):
    cli.main(["completion", shell])
    script = capsys.readouterr().out
    assert all(name in script for name in cli.TOOLS) and "label-issues" in script
    if shutil.which(shell):
        path = tmp_path / "script"
        path.write_text(script)
        assert subprocess.run([shell, "-n", str(path)], capture_output=True).returncode == 0
    if shell == "bash":
        words = f"source {path}; COMP_WORDS=(foldsmith lea); COMP_CWORD=1; _shtab_foldsmith; echo ${{COMPREPLY[@]}}"
        done = subprocess.run(["bash", "-c", words], capture_output=True, text=True)
        assert done.stdout.strip() == "leaderboard", done.stderr


def test_json_of_the_search_is_all_there_is_on_stdout(chain, tmp_path, capsys):
    target = tmp_path / "again"
    ensemble_search.main([str(target), str(chain.oof("a")), str(chain.oof("b")), "--json"])
    captured = capsys.readouterr()
    found = json.loads(captured.out)
    assert found.pop("file") == f"{target}.yml" and "held out" in captured.err
    assert found == read_ensemble(tmp_path / "again.yml").model_dump(mode="json")
    assert (tmp_path / "again.yml").read_bytes() == chain.ensemble.read_bytes()


@pytest.fixture
def project(tmp_path, monkeypatch) -> Path:
    """A project's folder with a part of data/clipart and configs of one epoch."""
    data = tmp_path / "data" / "clipart"
    data.mkdir(parents=True)
    for name, rows in (("train.csv", 240), ("sample_submission.csv", 30), ("labels.csv", 100)):
        lines = (DATA / name).read_text().splitlines(keepends=True)[: rows + 1]
        (data / name).write_text("".join(lines))
    for name in ("train", "test"):
        (data / name).symlink_to(DATA / name)
    shutil.copytree(ROOT / "configs", tmp_path / "configs")
    for script in ROOT.glob("*.py"):  # --check calls one
        (tmp_path / script.name).symlink_to(script)
    tiny = tmp_path / "configs" / "clipart_tiny.yml"
    tiny.write_text(re.sub(r"num_epochs: \d+", "num_epochs: 1", tiny.read_text()))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def steps_of(text: str) -> list[str | list[str]]:
    """A page's commands and the config files that it shows, in order."""
    lines = re.sub(r"^```\w*$", "", text, flags=re.MULTILINE).splitlines()
    found: list[str | list[str]] = []
    for index, line in enumerate(lines):
        if re.match(r" *# configs/\w+\.yml$", line):
            indent = len(line) - len(line.lstrip())
            block = []
            for each in lines[index:]:
                if not each.strip():
                    break
                block.append(each[indent:])
            found.append("\n".join(block))
        else:
            found += commands_in(f"    {line.strip()}") if re.match(r"^( {4})?(\./|foldsmith )", line) else []
    return found


def run_steps(steps: list[str | list[str]]) -> None:
    for step in steps:
        if isinstance(step, str):
            Path(step.splitlines()[0].removeprefix("# ")).write_text(step + "\n")
        elif step[0] == "foldsmith":
            cli.main(step[1:])
        else:
            importlib.import_module(step[0].removesuffix(".py")).main(step[1:])


@pytest.mark.slow
def test_the_tutorial_runs(project):
    steps = steps_of((ROOT / "docs" / "tutorial.md").read_text())
    assert len(steps) == 15
    run_steps(steps)
    assert (project / "kernels" / "best" / "best.py").is_file() and (project / "report.html").stat().st_size > 50_000
    assert len((project / "submission.csv").read_text().splitlines()) == 31
    assert read_run(project / "runs" / "mine_forgiving").config.loss.name == "forgiving"


@pytest.mark.slow
def test_the_five_minutes_of_the_readme_run(project):
    text = (ROOT / "README.md").read_text()
    steps = steps_of(text[text.index("## Five minutes") : text.index("## Your own competition")])
    assert len(steps) >= 9
    run_steps(steps)
    assert (project / "submission.csv").is_file() and (project / "kernels" / "best" / "best.py").is_file()


@pytest.mark.slow
def test_the_docs_build_into_a_site_without_a_dead_link_or_the_network(tmp_path):
    pytest.importorskip("material", reason="pip install foldsmith[docs]")
    site = tmp_path / "site"
    words = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--strict", "--site-dir", str(site)]
    # A proxy that nobody answers: whatever wants the network fails.
    away = {"http_proxy": "http://127.0.0.1:9", "https_proxy": "http://127.0.0.1:9", "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(words, cwd=ROOT, env=os.environ | away, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    pages = {path: path.read_text(encoding="utf-8") for path in site.rglob("*.html")}
    assert len(pages) >= len(PAGES)
    ids = {path: set(re.findall(r'id="?([^"\s>]+)', text)) for path, text in pages.items()}
    for path, text in pages.items():
        assert not re.search(r'<(script|link|img)[^>]+(src|href)="?https?://(?!127)', text), path
        for target in re.findall(r'href="([^"]*)"', text):
            if re.match(r"https?:|data:|mailto:", target) or path.name == "404.html":
                continue
            file, _, anchor = target.partition("#")
            there = (path.parent / file).resolve() if file not in ("", ".") else path
            there = there / "index.html" if there.is_dir() else there
            assert there.is_file(), f"{path}: {target}"
            assert not anchor or anchor.startswith("__") or anchor in ids[there], f"{path}: {target}"


def test_the_messages_that_the_docs_explain_are_those_of_the_program():
    """Every part of a message between its gaps (...) stands in the sources, in the place of one of their texts."""
    sources = "".join(path.read_text() for path in (ROOT / "src").rglob("*.py"))
    text = re.sub(r'"\s*\n\s*f?"', "", sources)  # texts that go on in the next line
    text += "".join(path.read_text() for path in (ROOT / "tests" / "golden").iterdir())  # put together of several
    page = (ROOT / "docs" / "troubleshooting.md").read_text()
    rows = re.findall(r"^\| `([^`]+)`(?: with `([^`]+)`)?", page, re.MULTILINE)
    messages = [message for row in rows for message in row if message]
    assert len(messages) > 30
    for message in messages:
        for part in re.split(r"'?\.\.\.'?|\[\.\.\.\]", message):
            assert part.strip(" ;:?'[]") in text or len(part.strip(" ;:?'[]")) < 4, (message, part)
