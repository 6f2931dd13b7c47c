"""Ways to break a shipped config, each with the line and the key that the message must name."""

import itertools
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from hypothesis import strategies as st

from foldsmith.config.yaml_text import KeyPath, dotted, parse_yaml


@dataclass(frozen=True)
class Broken:
    """A config's text with one thing wrong, and what the message must name.

    `line` 0: the whole file, since what is wrong is not there; `key` empty: none, since what is wrong belongs to none.
    """

    kind: str
    text: str
    line: int
    key: str


@dataclass(frozen=True)
class Place:
    """A key of a shipped config that stands alone in its line: `key: value`."""

    lines: list[str]
    line: int  # from 1
    key: KeyPath
    value: Any
    siblings: frozenset[str]  # the keys of its section, its own among them
    has_base: bool

    @property
    def name(self) -> str:
        return str(self.key[-1])

    @property
    def here(self) -> str:
        return self.lines[self.line - 1]

    @property
    def is_block(self) -> bool:
        """Nothing stands before it in its line."""
        return re.match(rf"\s*{re.escape(self.name)}:", self.here) is not None

    @property
    def indent(self) -> int:
        return len(self.here) - len(self.here.lstrip(" -"))

    @property
    def is_plain(self) -> bool:
        return not isinstance(self.value, dict | list)

    def split(self) -> tuple[str, str]:
        """The line up to and with `key:`, and what follows."""
        before, mark, after = re.split(rf"((?<![\w.]){re.escape(self.name)}:)", self.here, maxsplit=1)
        return before + mark, after

    def inside(self) -> int:
        """How many lines below belong to its value."""
        count = 0
        for line in self.lines[self.line :]:
            deep = len(line) - len(line.lstrip(" "))
            if not self.is_block and not re.match(r"\s*- ", self.here):
                break
            if deep <= self.indent and not line.startswith(" " * self.indent + "- "):
                break
            count += 1
        return count

    def with_line(self, new: str | None, drop: int = 0) -> str:
        """The file with another line in this one's place (None: no line), less `drop` lines below."""
        put = [] if new is None else [new]
        return "\n".join([*self.lines[: self.line - 1], *put, *self.lines[self.line + drop :]]) + "\n"

    def with_value(self, new: str) -> str:
        """The file with another value of the key; what was indented below it goes."""
        start, after = self.split()
        in_braces = re.search(r"[{,]\s*$", start[: -len(self.name) - 1]) is not None
        rest = re.sub(r"^\s*(\{[^{}]*\}|\[[^\[\]]*\]|[^,{}\[\]]*)", "", after) if in_braces else ""
        return self.with_line(f"{start} {new}{rest}", self.inside())


def places(path: Path) -> list[Place]:
    """Of a shipped config; its `base:` becomes an absolute path, so that the copy can stand anywhere."""
    text = re.sub(r"(?m)^base: (.*)$", lambda found: f"base: {path.parent / found[1]}", path.read_text("utf-8"))
    document, lines = parse_yaml(text, "x"), text.splitlines()
    found = []
    for key, (_, line) in document.marks.items():
        if not key or not isinstance(key[-1], str) or line is None:
            continue
        if len(re.findall(rf"(?<![\w.]){re.escape(key[-1])}:", lines[line - 1])) != 1:
            continue
        section: Any = document.values
        for part in key[:-1]:
            section = section[part]
        has_base = "base" in document.values
        found.append(Place(lines, line, key, section[key[-1]], frozenset(section), has_base))
    return found


Way = Callable[[Place, Random], Broken | None]
WAYS: dict[str, Way] = {}


def way(function: Way) -> Way:
    WAYS[function.__name__] = function
    return function


@way
def misspelt(place: Place, rng: Random) -> Broken | None:
    if "group_lrs" in place.key:  # any name is a module's there
        return None
    name, at = place.name, rng.randrange(len(place.name))
    swapped = name[:at] + name[at + 1 : at + 2] + name[at] + name[at + 2 :]
    new = rng.choice([f"{name}s", f"{name}qz", name[:at] + name[at + 1 :], swapped, name.upper()])
    if new in (name, "", "n", "y") or new in {"lr", "scale"}:
        return None
    start, after = place.split()
    text = place.with_line(start[: -len(name) - 1] + f"{new}:" + after)
    return Broken("misspelt", text, place.line, dotted((*place.key[:-1], new)))


@way
def twice(place: Place, rng: Random) -> Broken | None:
    if not place.is_block or place.inside():
        return None
    return Broken("twice", place.with_line(f"{place.here}\n{place.here}"), place.line + 1, dotted(place.key))


@way
def wrong_type(place: Place, rng: Random) -> Broken | None:
    """Numbers where text is wanted, text where numbers are, one value where several are, and so on."""
    if place.value is None:
        return None
    if isinstance(place.value, bool):
        new = ["often", "[true]", "17"]
    elif isinstance(place.value, int | float):
        new = ["many", "[many]", '"3"']
    elif isinstance(place.value, str):
        new = ["17", "-0.5", "true", "[[1]]"]
    else:
        new = ["17", "nonsense", "true"]
    return Broken("wrong_type", place.with_value(rng.choice(new)), place.line, dotted(place.key))


COMPONENTS = ("loss", "optimizer", "scheduler", "sampler")


@way
def params_type(place: Place, rng: Random) -> Broken | None:
    """Arguments that are no mapping, in what is chosen by name."""
    new = rng.choice(["[1]", "[[lr, 1]]", "x", "3", "null", "true"])
    if place.name == "params":
        return Broken("params_type", place.with_value(new), place.line, dotted(place.key))
    if place.name not in COMPONENTS or not isinstance(place.value, dict) or "name" not in place.value:
        return None
    text = place.with_value(f"{{name: {place.value['name']}, params: {new}}}")
    return Broken("params_type", text, place.line, dotted((*place.key, "params")))


@way
def section(place: Place, rng: Random) -> Broken | None:
    key = (*place.key, "no_such_key") if isinstance(place.value, dict) else place.key
    return Broken("section", place.with_value("{no_such_key: {deeper: 1}}"), place.line, dotted(key))


@way
def out_of_range(place: Place, rng: Random) -> Broken | None:
    if not isinstance(place.value, int | float) or isinstance(place.value, bool):
        return None
    new = rng.choice(["-7.5", "-1", "-1e9", "1e999"])
    return Broken("out_of_range", place.with_value(new), place.line, dotted(place.key))


@way
def unknown_name(place: Place, rng: Random) -> Broken | None:
    """Of what is chosen by name: architecture, loss, optimizer, preset, metric ..."""
    chosen = {"name", "arch", "metric", "task", "geometry", "pad", "pooling", "affine", "amp", "trainable", "base"}
    if place.name not in chosen or not isinstance(place.value, str):
        return None
    new = rng.choice([f"{place.value}qz", f"my_{place.value}", "none_of_them"])
    return Broken("unknown_name", place.with_value(new), place.line, dotted(place.key))


REQUIRED = {"root", "arch", "input_size", "num_epochs", "lr", "alpha", "steps", "min_ratio", "max_ratio"}


@way
def deleted(place: Place, rng: Random) -> Broken | None:
    """A key that must be there and that no base has: the message names it and the line of its section."""
    if len(place.key) == 1:
        if place.has_base or place.name not in ("data", "model", "train", "optimizer"):
            return None
        return Broken("deleted", place.with_line(None, place.inside()), 0, place.name)
    component = place.name == "name" and place.key[-2] in ("optimizer", "scheduler", "sampler", "loss")
    inherited = place.has_base and "stages" not in place.key
    optional = "stages" in place.key and place.name == "num_epochs"
    if not (component or place.name in REQUIRED) or inherited or optional or not place.is_block:
        return None
    if len(place.siblings) < 2:
        return None
    above = parse_yaml("\n".join(place.lines), "x").marks[place.key[:-1]][1] or 0
    return Broken("deleted", place.with_line(None, place.inside()), above, dotted(place.key))


@way
def indented(place: Place, rng: Random) -> Broken | None:
    """One space more or less than its neighbours; the key is named as it is written, for its section is unclear."""
    by = rng.choice([-1, 1])
    if not place.is_block or place.indent == 0 or place.line == 1:
        return None
    above = place.lines[place.line - 2]
    if above.rstrip().endswith(":") and len(above) - len(above.lstrip(" ")) < place.indent:  # the first of its section
        return None
    line = place.here[1:] if by < 0 else " " + place.here
    return Broken("indented", place.with_line(line), place.line, place.name)


@way
def tab(place: Place, rng: Random) -> Broken | None:
    if not place.is_block or place.indent == 0:
        return None
    return Broken("tab", place.with_line("\t" + place.here.lstrip()), place.line, place.name)


@way
def alias(place: Place, rng: Random) -> Broken | None:
    return Broken("alias", place.with_value("*other"), place.line, dotted(place.key))


@way
def tag(place: Place, rng: Random) -> Broken | None:
    new = rng.choice(["!!python/name:os.system x", "!!int '3'", "!own {a: 1}"])
    return Broken("tag", place.with_value(new), place.line, dotted(place.key))


@way
def token(place: Place, rng: Random) -> Broken | None:
    new = rng.choice(["@here", "`there`", "%d"])
    return Broken("token", place.with_value(new), place.line, dotted(place.key))


def _without_colon(kind: str, place: Place, instead: str) -> Broken | None:
    """`key: value`, `- key: value` and `key:` with something else in the place of the colon and the space."""
    found = re.match(rf"(\s*(?:- )*{re.escape(place.name)}):( ?)(.*)", place.here)
    if not found or (instead.strip() == ":" and not found[2]):
        return None
    text = place.with_line(f"{found[1]}{instead}{found[3]}".rstrip())
    return Broken(kind, text, place.line, dotted(place.key))


@way
def no_colon(place: Place, rng: Random) -> Broken | None:
    return _without_colon("no_colon", place, " ")


@way
def no_space(place: Place, rng: Random) -> Broken | None:
    return _without_colon("no_space", place, rng.choice([":", ":\t"]))


@way
def equals(place: Place, rng: Random) -> Broken | None:
    return _without_colon("equals", place, rng.choice([" = ", "="]))


@way
def unclosed(place: Place, rng: Random) -> Broken | None:
    """A list, a section in braces or a text that never ends: the line is the one where it begins."""
    if not place.is_block:
        return None
    new = rng.choice(["[1, 2", "[[1], 2", "{a: 1", "{a: [1]", '"x', "'x"])
    return Broken("unclosed", place.with_value(new), place.line, dotted(place.key))


@way
def stray(place: Place, rng: Random) -> Broken | None:
    """Between two sections, where no key is: only file and line can be named."""
    is_first = all(line.startswith("#") for line in place.lines[: place.line - 1])
    if len(place.key) != 1 or is_first:
        return None
    new = rng.choice(["@here", "}", "---"])
    return Broken("stray", place.with_line(f"{new}\n{place.here}"), place.line, "")


def broken_from(path: Path, first: int) -> st.SearchStrategy[Broken]:
    """Broken versions of one file: the ways that fit it take turns, from number `first` on, each at any key it fits.

    A missing key, which few files can have since most have a base, comes before the others.
    """
    found = places(path)
    kinds = sorted(kind for kind in WAYS if any(WAYS[kind](place, Random(0)) for place in found))
    at = first % len(kinds)
    kinds = sorted(kinds[at:] + kinds[:at], key=lambda kind: kind != "deleted")
    turns = itertools.cycle(kinds)

    def break_it(rng: Random) -> Broken:
        kind = next(turns)
        return rng.choice([each for place in found if (each := WAYS[kind](place, rng)) is not None])

    return st.randoms(use_true_random=True).map(break_it)
