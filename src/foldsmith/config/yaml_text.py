"""YAML text to plain values with line numbers, and back.

The text is untrusted: its size, nesting, aliases and tags are limited before anything is built from it.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from foldsmith.config.slips import KeyPath, Slip, has_bracket, slip_before, slip_of_key, slip_of_value
from foldsmith.errors import UserError, cut

MAX_BYTES = 256 * 1024
MAX_DEPTH = 32
# Keys, values, lists and sections together. The longest files are ensembles with a threshold for each class: MAX_BYTES
# hold about as many. An experiment has some hundreds.
MAX_NODES = 20_000

_HALF = re.compile("[\ud800-\udfff]")  # surrogates, which no text file can hold


@dataclass
class Document:
    """Plain values, and where each key stands: marks[("loss", "name")] = ("a.yml", 12)."""

    values: dict[str, Any]
    marks: dict[KeyPath, tuple[str, int | None]] = field(default_factory=dict)
    # Texts that look like a key whose colon is missing, by file and line of the key or item that they are the value of.
    slips: dict[tuple[str, int | None], Slip] = field(default_factory=dict)

    def mark(self, path: KeyPath) -> tuple[str, int | None]:
        """File and line of a key; of the nearest section around it when the key itself is not there."""
        while path not in self.marks and path:
            path = path[:-1]
        return self.marks[path]


class _Loader(yaml.SafeLoader):
    """YAML 1.2's core scalars: `1e-4` is a number; `no`, `010`, `9:00` and dates are text.

    Each event is checked when it is taken from the parser, which does not recurse, before anything is built from it.
    """

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}

    def __init__(self, text: str, file: str, reached: "_Reached") -> None:
        super().__init__(text)
        self.file, self.reached = file, reached
        self.documents = self.nodes = 0

    def get_event(self) -> yaml.Event:
        event = super().get_event()
        self._check_node(event)
        self.reached.pass_event(event)
        self.nodes += isinstance(event, yaml.NodeEvent)
        self.documents += isinstance(event, yaml.DocumentStartEvent)
        if len(self.reached.open) > MAX_DEPTH:
            raise self._error(event, f"is nested deeper than {MAX_DEPTH} levels")
        if self.nodes > MAX_NODES:
            raise self._error(event, f"holds more than {MAX_NODES} keys and values")
        if self.documents > 1:
            raise self._error(event, "holds more than one YAML document (---)")
        return event

    def _check_node(self, event: yaml.Event) -> None:
        if isinstance(event, yaml.AliasEvent):
            what, hint = "YAML aliases (*name) are not supported", "use `base:`"
        elif tag := getattr(event, "tag", None):
            what = f"YAML tags ({cut(tag.replace('tag:yaml.org,2002:', '!!'))}) are not supported"
            hint = "text that looks like a number is written in quotes"
        elif isinstance(event, yaml.ScalarEvent) and _HALF.search(event.value):
            what, hint = "holds half a character", None
        else:
            return
        raise self._error(event, what, hint, key=dotted(self.reached.path))

    def _error(self, event: yaml.Event, what: str, hint: str | None = None, key: str | None = None) -> UserError:
        line = event.start_mark.line + 1 if event.start_mark else None
        return UserError(what, hint=hint, file=self.file, line=line, key=key)


_SCALARS: list[tuple[str, str, str, Callable[[str], Any]]] = [
    ("null", r"~|null|Null|NULL|", "~nN", lambda text: None),
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF", lambda text: text.lower() == "true"),
    ("int", r"[-+]?(0|[1-9][0-9]{0,17})", "-+0123456789", int),
    ("float", r"[-+]?((0|[1-9][0-9]*)(\.[0-9]*)?|\.[0-9]+)([eE][-+]?[0-9]+)?", "-+.0123456789", float),
]
_BUILD: dict[str, Callable[[str], Any]] = {"tag:yaml.org,2002:str": str}
for _tag, _pattern, _first, _build in _SCALARS:
    _BUILD[f"tag:yaml.org,2002:{_tag}"] = _build
    _Loader.add_implicit_resolver(
        f"tag:yaml.org,2002:{_tag}", re.compile(f"^(?:{_pattern})$"), [*_first, ""] if _tag == "null" else [*_first]
    )


class _Dumper(yaml.SafeDumper):
    """Quotes whatever this loader or an ordinary YAML 1.1 reader would not read back as the same text."""

    yaml_implicit_resolvers = {
        first: [
            *yaml.SafeDumper.yaml_implicit_resolvers.get(first, []),
            *_Loader.yaml_implicit_resolvers.get(first, []),
        ]
        for first in {*yaml.SafeDumper.yaml_implicit_resolvers, *_Loader.yaml_implicit_resolvers}
    }

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    """In double quotes: Unicode's own line ends, which PyYAML does not escape in single ones, and `word {`."""
    style = '"' if re.search("[\x85\u2028\u2029]", text) or has_bracket(text) else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _represent_text)


def dump_yaml(values: dict[str, Any]) -> str:
    """Plain values as YAML text that `parse_yaml` reads back equal, keys in their own order."""
    return yaml.dump(values, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)


def dump_inline(value: Any) -> str:
    """One value on one line: lists and sections as [a, b] and {key: value}."""
    text = yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=10**6, default_flow_style=True)
    return text.removesuffix("...\n").rstrip("\n")


def read_yaml(path: Path) -> Document:
    """One YAML mapping with the line of every key. Refuses what a config never needs: aliases, tags, deep nesting."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot be read: {error.strerror}", file=path) from None
    if len(data) > MAX_BYTES:
        raise UserError(f"{len(data)} bytes are too many for a config (at most {MAX_BYTES})", file=path)
    try:
        text = data.decode("utf-8-sig")
        return parse_yaml(text, str(path))
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UserError(f"is not UTF-8 text (byte {error.start})", file=path, line=line) from None


def parse_yaml(text: str, name: str) -> Document:
    """`read_yaml` for text in memory; `name` stands for the file in errors."""
    reached = _Reached()
    try:
        node = _Loader(text, name, reached).get_single_node()
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise UserError(f"is not valid YAML: {error.reason}", file=name, line=line) from None
    except (OverflowError, ValueError):  # "\UFFFFFFFF"
        what, line = "names a character that does not exist", reached.line
        raise UserError(what, file=name, line=line or None, key=dotted(reached.path)) from None
    except yaml.MarkedYAMLError as error:
        raise _syntax_error(error, reached, text.splitlines(), name) from None
    if not isinstance(node, yaml.MappingNode):
        slip = slip_of_value(node, (), 0) if node else None
        raise _slip_error(slip, name) if slip else UserError("must hold `key: value` sections", file=name, line=1)
    document = Document({}, {(): (name, None)})
    document.values = _build_node(node, (), document, name)
    return document


class _Reached:
    """How far a parser has come: the collections that are open, and in each the key or index whose value comes next."""

    def __init__(self) -> None:
        self.open: list[yaml.CollectionStartEvent] = []
        self.parts: list[str | int | None] = []  # one for each; None in a mapping: a key comes next
        self.line = 0  # of the key that came last, from 1

    @property
    def path(self) -> KeyPath:
        return tuple(part for part in self.parts if part is not None)

    def pass_event(self, event: yaml.Event) -> None:
        if isinstance(event, yaml.CollectionEndEvent):
            self.open.pop()
            self.parts.pop()
            self._pass_value()
        elif isinstance(event, yaml.CollectionStartEvent):
            self.open.append(event)
            self.parts.append(0 if isinstance(event, yaml.SequenceStartEvent) else None)
        elif isinstance(event, yaml.ScalarEvent) and self.parts and self.parts[-1] is None:
            self.parts[-1] = event.value
            self.line = event.start_mark.line + 1 if event.start_mark else 0
        elif isinstance(event, yaml.ScalarEvent):
            self._pass_value()

    def _pass_value(self) -> None:
        if self.parts:
            part = self.parts[-1]
            self.parts[-1] = part + 1 if isinstance(part, int) else None


def _syntax_error(error: yaml.MarkedYAMLError, reached: _Reached, lines: list[str], name: str) -> UserError:
    """What the parser cannot read, with the key that it has reached, or that the line of the error begins with."""
    mark, path = error.problem_mark, reached.path
    # A bracket or a quote that is never closed, or a missing colon, is noticed lines later: it stands where it opens.
    if error.context_mark and any(words in str(error.context) for words in ("flow", "quoted", "simple key")):
        mark = error.context_mark
        path = path[:-1] if path and isinstance(path[-1], int) else path
    line = mark.line + 1 if mark else 0
    is_flow = bool(reached.open) and reached.open[-1].flow_style
    found = re.match(r"\s*(?:- )*([\w.]+):(?:\s|$)", lines[line - 1]) if 0 < line <= len(lines) else None
    misread = any(words in str(error.problem) for words in ("\\t", "cannot start any token"))
    if not misread and not is_flow and (slip := slip_before(lines, line)):
        return _slip_error(slip, name)
    hint = None
    if found and not is_flow and (line > reached.line or not path):  # which section it is in is what is not clear
        path, hint = (found[1],), "is it indented as its neighbours are?" if line > reached.line else None
    if "\\t" in str(error.problem):
        is_indent = mark is not None and not lines[line - 1][: mark.column].strip()
        hint = "indent with spaces, not with tabs" if is_indent else "a space stands before a value, not a tab"
    what = f"is not valid YAML: {cut(error.problem or str(error))}"
    return UserError(what, file=name, line=line or None, key=dotted(path), hint=hint)


def _slip_error(slip: Slip, name: str) -> UserError:
    return UserError(slip.what, hint=slip.hint, file=name, line=slip.line, key=dotted(slip.path))


def _build_node(node: yaml.Node, path: KeyPath, document: Document, name: str) -> Any:
    if isinstance(node, yaml.MappingNode):
        return _build_mapping(node, path, document, name)
    if isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            line = item.start_mark.line + 1
            document.marks[*path, index] = (name, line)
            if not node.flow_style and (slip := slip_of_value(item, (*path, index), line - 1)):
                document.slips[name, line] = slip
        return [_build_node(item, (*path, index), document, name) for index, item in enumerate(node.value)]
    return _BUILD[node.tag](node.value)


def _build_mapping(node: yaml.MappingNode, path: KeyPath, document: Document, name: str) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for key_node, value_node in node.value:
        line = key_node.start_mark.line + 1
        if not isinstance(key_node, yaml.ScalarNode) or key_node.tag != "tag:yaml.org,2002:str":
            raise UserError("keys are plain text (quote this one)", file=name, line=line, key=dotted(path))
        key = key_node.value
        where = (*path, key)
        if key in values:
            first = document.marks[where][1]
            raise UserError(f"duplicate key, first set on line {first}", file=name, line=line, key=dotted(where))
        document.marks[where] = (name, line)
        if key_node.style is None and (slip := slip_of_key(key_node, value_node, node.flow_style, path)):
            raise _slip_error(slip, name)
        if not node.flow_style and (slip := slip_of_value(value_node, where, line)):
            document.slips[name, line] = slip
        values[key] = _build_node(value_node, where, document, name)
    return values


def dotted(path: KeyPath) -> str:
    """("extra", 0, "name") -> "extra[0].name"; cut where it is long, for it is only shown."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).lstrip(".")
    return text if len(text) <= 200 else f"{text[:200]}..."
