"""Finds the line of a slip that a YAML parser notices lines later, or not at all: a colon or a quote that is missing.

`batch_size 24` is valid text: the parser goes on until the next colon has no place, or takes the text for a value.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

import yaml

KeyPath = tuple[str | int, ...]

_KEY = re.compile(r"""("[^"]*"\s*|'[^']*'\s*|[^\s"'#{}\[\],&*!|>%@`?:][^#{}\[\]]*?):(?=\s|$)""")
_SLIP = re.compile(r"([^\W\d][\w.-]*)(:(?=\S)|\s*=\s*|\s+(?=[^\s#])|\s*(?=#|$))(.*)")
_BRACKET = re.compile(r"[^\W\d][\w.-]*\s*[:=]?\s*[\[{]")
_SPLIT = re.compile(r"[\s:=]")  # more than a word
_BLOCK_TEXT = re.compile(r"[|>][-+0-9]*\s*(#|$)")
_WHAT = {
    "": "a colon is missing",
    ":": "a space after the colon is missing",
    "=": "a colon is missing: `=` does not take its place",
}
_TWO_COLONS = "a text that holds a colon stands in quotes; the keys of a section stand on lines of their own"
# What ends a quote, and what is of interest in brackets: a comment, more brackets, the beginning of a quote.
_QUOTE_END = {'"': re.compile(r'(?:[^"\\]|\\.)*"'), "'": re.compile(r"(?:[^']|'')*'(?!')")}
_IN_BRACKETS = re.compile(r"""(?<!\S)\#|[\[\]{}]|(?<![^\s\[{,:])["']""")
_MAX_DASHES = 32  # of lists in lists that begin in one line


@dataclass(frozen=True)
class Slip:
    """Where a colon or a quote is missing, and what is to be said of it."""

    line: int  # from 1
    path: KeyPath
    what: str
    hint: str | None = None


def has_bracket(key: str) -> bool:
    """Whether `slip_of_key` would take a key that is meant so for a slip."""
    return _BRACKET.match(key) is not None


def slip_in(text: str, line: int, section: KeyPath) -> Slip | None:
    """The slip in a line (without indent and dashes) of a section: `key value`, `key:value`, `key = value`, `key`."""
    if _KEY.match(text) or not (found := _SLIP.match(text)):
        return None
    value = re.sub(r"(^|\s)#.*", "", found[3]).rstrip()
    return Slip(line, (*section, found[1]), _WHAT[found[2].strip()], _write(f"{found[1]}: {value}".rstrip()))


def _write(text: str) -> str:
    return f"write `{text}`" if len(text) <= 80 else f"write `{text[:80]}...`"


def slip_of_value(node: yaml.Node, path: KeyPath, key_line: int) -> Slip | None:
    """Where a plain text below its key is lines of `key value`: of the section `path`, or of the one around it."""
    if not isinstance(node, yaml.ScalarNode) or node.style is not None or node.end_mark.line + 1 <= key_line:
        return None
    mark = node.start_mark
    begins = mark.line + 1
    texts = (mark.buffer or "")[mark.pointer : node.end_mark.pointer].splitlines()
    found = (
        slip_in(text.strip(), number, path if begins > key_line else path[:-1])
        for number, text in enumerate(texts, begins)
        if number > key_line
    )
    return next((slip for slip in found if slip), None)


def slip_of_key(key: yaml.ScalarNode, value: yaml.Node, in_braces: bool, section: KeyPath) -> Slip | None:
    """`params {lr: 1}`, which a parser reads as a key `params {lr`; in braces `{name focal}`, a key without a value."""
    line, has_value = key.start_mark.line + 1, value.end_mark.pointer > value.start_mark.pointer
    if bracket := _BRACKET.match(key.value):
        slip = slip_in(key.value, line, section)
        return replace(slip, hint=_write(f"{slip.path[-1]}: {bracket[0][-1]}...")) if slip else None
    return slip_in(key.value, line, section) if in_braces and not has_value and _SPLIT.search(key.value) else None


def slip_before(lines: Sequence[str], problem: int) -> Slip | None:
    """What a parser stumbles over in line `problem` (from 1): the first of the slips there or right above."""
    reader = _Reader()
    for number, line in enumerate(lines[:problem], 1):
        reader.read(line, number, is_last=number == problem)
    return reader.slip


class _Reader:
    """Block style, line by line: the keys around each line, and whether it goes on with a text or a collection."""

    def __init__(self) -> None:
        self.slip: Slip | None = None
        self.around: list[tuple[int, str | int]] = []  # column and key or index, from the outermost
        self.needed = 0  # columns of indent that the next line must have for an item of a list to be a slip
        self.open = ""  # brackets and a quote, the innermost last
        self.opened: tuple[int, KeyPath] = (0, ())  # line and key of the outermost of them
        self.block_text: int | None = None  # the column of a key whose text stands below | or >
        self.plain: int | None = None  # the column of a key (or dash) with a plain value, which deeper lines go on with

    def read(self, line: str, number: int, is_last: bool) -> None:
        content, column = line.strip(), len(line) - len(line.lstrip(" "))
        if self.open:
            self._follow(content, number)
            return
        if not content or (self.block_text is not None and column > self.block_text):
            return
        self.block_text = None
        if content.startswith("#"):
            return
        if column < self.needed:
            self.slip = None
        self.needed = 0
        self._read_content(content, column, number, is_last)

    def _read_content(self, content: str, column: int, number: int, is_last: bool) -> None:
        if self.plain is not None and column > self.plain and not re.match(r"[^\W\d][\w.-]*(:\S|\s*=)", content):
            return
        self.plain, start = None, column
        for _ in range(_MAX_DASHES):
            if not (dash := re.match(r"-\s+", content)):
                break
            self._enter_item(column)
            content, column = content[dash.end() :], column + dash.end()
        is_item = column > start
        while self.around and self.around[-1][0] >= column:
            self.around.pop()
        section = tuple(part for _, part in self.around)
        if key := _KEY.match(content):
            self.around.append((column, key[1].strip().strip("\"'")))
            self.slip = self.slip if is_last else None
            value = content[key.end() :].strip()
            self._start_value(value, column, number)
            if is_last and self.plain is not None and re.search(r"^[^#]*:(\s|$)", value):
                path = tuple(part for _, part in self.around)
                self.slip = self.slip or Slip(number, path, "two colons are in one line", _TWO_COLONS)
        elif not (slip := slip_in(content, number, section)):
            self._start_value(content, start, number)
        elif not is_item:
            self.slip = self.slip or slip
        elif _SPLIT.search(content):  # `- identity` is an item as it should be
            self.slip, self.needed, self.plain = self.slip or slip, 0 if is_last else column, start

    def _enter_item(self, column: int) -> None:
        while self.around and self.around[-1][0] > column:
            self.around.pop()
        if self.around and self.around[-1][0] == column and isinstance(index := self.around[-1][1], int):
            self.around[-1] = (column, index + 1)
        else:
            self.around.append((column, 0))

    def _start_value(self, value: str, column: int, number: int) -> None:
        if not value or value.startswith("#"):
            return
        if _BLOCK_TEXT.match(value):
            self.block_text = column
        elif value[0] in "\"'[{":
            self.opened = number, tuple(part for _, part in self.around)
            self.open = value[0]
            self._follow(value[1:], number)
        else:
            self.plain = column

    def _follow(self, text: str, number: int) -> None:
        """Go through the quotes and brackets of a line, to where all are closed."""
        at = 0
        while self.open:
            in_quote = self.open[-1] in _QUOTE_END
            found = (_QUOTE_END[self.open[-1]].match if in_quote else _IN_BRACKETS.search)(text, at)
            if not found or found[0] == "#":
                return
            at = found.end()
            self.open = self.open[:-1] if in_quote or found[0] in "]}" else self.open + found[0]
        line, path = self.opened
        rest = text[at:].strip()
        if in_quote and number > line and rest and not rest.startswith("#"):
            self.slip = self.slip or Slip(line, path, "the quote is not closed where the value ends")
