"""The docs as a site, and what they say of the program's messages."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.pages import PAGES

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
    assert len(pages) >= len(PAGES)
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


def test_every_recipe_has_a_place_in_the_docs():
    text = "".join(path.read_text() for path in (ROOT / "docs" / "recipes").glob("*.md"))
    assert [
        str(path)
        for path in sorted((ROOT / "configs").rglob("*.yml"))
        if f"`{path.relative_to(ROOT / 'configs')}`" not in text
    ] == []


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
