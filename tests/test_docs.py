"""The docs as a site, and what they say of the program's messages."""

import functools
import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from foldsmith.config import load_config
from tests.conftest import ROOT
from tests.pages import PAGES, commands_in, parse

CONFIGS = sorted((ROOT / "configs").rglob("*.yml"))

ALONE = """
import socket

def refuse(*_):
    raise OSError("the network is away")

socket.socket.connect = socket.getaddrinfo = refuse
from mkdocs.__main__ import cli
cli()
"""


def build(site: Path) -> None:
    """What `make docs` does, without a network."""
    pytest.importorskip("material", reason="pip install -e '.[docs]'")
    words = [sys.executable, "-c", ALONE, "build", "--quiet", "--strict", "--site-dir", str(site)]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.slow
def test_the_docs_build_into_a_site_without_a_dead_link_or_the_network(tmp_path):
    build(site := tmp_path / "site")
    pages = {path: path.read_text(encoding="utf-8") for path in site.rglob("*.html")}
    assert len(pages) >= len(PAGES) + len(CONFIGS)
    assert not (site / "hooks").exists()
    ids = {path: set(re.findall(r'id="?([^"\s>]+)', text)) for path, text in pages.items()}
    for path, text in pages.items():
        assert not re.search(r'<(script|link|img)[^>]+(src|href)="?https?://', text), path
        for target in re.findall(r'href="([^"]*)"', text):
            if re.match(r"https?:|data:|mailto:", target) or path.name == "404.html":
                continue
            file, _, anchor = target.partition("#")
            there = (path.parent / file).resolve() if file not in ("", ".") else path
            there = there / "index.html" if there.is_dir() else there
            assert there.is_file(), f"{path}: {target}"
            assert not anchor or anchor.startswith("__") or anchor in ids[there], f"{path}: {target}"


@functools.cache
def hook() -> ModuleType:
    spec = importlib.util.spec_from_file_location("recipes", ROOT / "docs" / "hooks" / "recipes.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_recipe_belongs_to_a_family():
    recipes = hook()
    listed = [path for family in recipes.FAMILIES for path in recipes.recipes_of(family)]
    assert sorted(listed) == CONFIGS


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_a_recipe_s_page_says_what_the_config_says(path):
    page, text = hook().recipe_page(path), path.read_text()
    assert page.endswith(f"```yaml\n{text.rstrip()}\n```\n")
    said = " ".join(re.sub("^# ?", "", line) for line in text.splitlines()[1:] if line.startswith("#"))
    for word in ("Data", "Published", "Weights", "Expected"):
        assert (f"- **{word}:** " in page) == (f" {word}: " in said)
    for note in re.findall(r"^- \*\*(.+)$", page, re.MULTILINE):
        assert note.replace(":**", ":", 1) in said
    commands = commands_in(page)
    assert [words[-1] for words in commands if "--config" in words][:1] == [str(path.relative_to(ROOT / "configs"))]
    for words in commands:
        parse(words)
    config = load_config(path)
    assert f"| `model.arch` | `{config.model.arch}` | " in page
    assert f"| `optimizer.name` | `{config.optimizer.name}` | " in page


def test_a_recipe_s_page_says_where_a_key_comes_from():
    page = hook().recipe_page(ROOT / "configs" / "clipart_forgiving.yml")
    assert "- **Expected:** OOF F2 0.635, a minute for 3 folds on 2 CPU cores.\n" in page
    assert "| `loss.name` | `forgiving` | this file | which one |" in page
    assert "| `train.num_epochs` | `2` | [clipart_lite0](clipart_lite0.md) | passes over the training images" in page


def explained() -> list[tuple[str, str]]:
    """The messages that docs/troubleshooting.md has a row for; some with a part of the hint."""
    page = (ROOT / "docs" / "troubleshooting.md").read_text()
    return re.findall(r"^\| `([^`]+)`(?: with `([^`]+)`)?", page, re.MULTILINE)


@pytest.mark.parametrize("path", sorted((ROOT / "tests" / "golden").glob("*.txt")), ids=lambda path: path.stem)
def test_every_message_of_a_newcomer_s_mistake_is_explained(path):
    text = path.read_text()

    def is_in(message: str) -> bool:
        return re.search(".*".join(map(re.escape, message.split("..."))), text) is not None

    assert any(all(map(is_in, filter(None, row))) for row in explained())


def test_the_messages_that_the_docs_explain_are_those_of_the_program():
    """Every part of a message between its gaps (...) stands in the sources, in the place of one of their texts."""
    sources = "".join(path.read_text() for path in (ROOT / "src").rglob("*.py"))
    text = re.sub(r'"\s*\n\s*f?"', "", sources)  # texts that go on in the next line
    text += "".join(path.read_text() for path in (ROOT / "tests" / "golden").iterdir())  # put together of several
    messages = [message for row in explained() for message in row if message]
    assert len(messages) > 30
    for message in messages:
        for part in re.split(r"'?\.\.\.'?|\[\.\.\.\]", message):
            assert part.strip(" ;:?'[]") in text or len(part.strip(" ;:?'[]")) < 4, (message, part)
