"""One HTML file out of the page's data: style, script, data and pictures stand in it, nothing is fetched."""

import json
from importlib.resources import files
from pathlib import Path
from typing import Any

from foldsmith.files import write_text


def write_page(path: Path, content: dict[str, Any]) -> None:
    """Write the report.

    Names of labels and images are data, never markup: the script puts them into the page as text.
    """
    write_text(path, build_page(content))


def build_page(content: dict[str, Any]) -> str:
    """The page as text."""
    folder = files("foldsmith.report")
    page = folder.joinpath("page.html").read_text(encoding="utf-8")
    # Inside <script> only "</script" and "<!--" could end or change anything: no "<" is left.
    data = json.dumps(content, ensure_ascii=False, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
    parts = {
        "/*style*/": folder.joinpath("page.css").read_text(encoding="utf-8"),
        "/*blocks*/": folder.joinpath("blocks.js").read_text(encoding="utf-8"),
        "/*script*/": folder.joinpath("page.js").read_text(encoding="utf-8"),
        "/*data*/": data,
    }
    for mark, text in parts.items():  # the data last: nothing in it is taken for a mark
        page = page.replace(mark, text, 1)
    return page
