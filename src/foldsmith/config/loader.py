"""Reads an experiment file: YAML, `base:`, `--set`, and every problem in one error."""

import os
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from foldsmith.config.schema import Config
from foldsmith.config.validate import SECTION, LeafCheck, Problem, config_problems
from foldsmith.config.yaml_text import Document, KeyPath, dotted, parse_yaml, read_yaml
from foldsmith.errors import UserError, shown

MAX_PROBLEMS = 20  # that one error lists
MAX_CHARACTERS = 5000  # of their list
MAX_BASES = 32  # from a file to the last of its bases


def load_config(path: str | Path, overrides: Sequence[str] = (), leaf_check: LeafCheck | None = None) -> Config:
    """Read, merge and check one experiment.

    Args:
        path: looked for in the working directory, then in configs/; ".yml" may be left out.
        overrides: `--set` words such as "loss.name=focal".
        leaf_check: the second pass (training/leaves.py); its problems join the schema's in one list.

    Raises:
        UserError: naming file, line, dotted key, value and what is valid, for every problem at once.
    """
    found = find_config(path)
    document = read_with_bases(found)
    above = Document({}, {(): ("--set", None)})
    for word in overrides:
        _merge(above, _override(word))
    _merge(document, above)
    config, problems = config_problems(document.values, leaf_check)
    if config is None or problems:
        raise problems_error(found, document, problems)
    words = ["--config", str(found), *(["--set", *overrides] if overrides else [])]
    return config.named(found.stem, shlex.join(words))


def find_config(path: str | Path) -> Path:
    """The file that `--config` means."""
    names = [Path(path)] if Path(path).suffix in (".yml", ".yaml") else [Path(path), Path(f"{path}.yml")]
    places = [place for name in names for place in (name, Path("configs") / name)]
    for place in places:
        if os.path.isfile(place):  # Path.is_file raises on names that are too long
            return place
    hint = "looked at " + ", ".join(str(place) for place in places)
    if not os.path.isdir("configs"):
        hint += f"; commands run in the project's folder, which has train.py and configs/: {Path.cwd()} has none"
    raise UserError(f"config {str(path)!r} not found", hint=hint, key="--config")


def read_with_bases(path: Path, chain: Sequence[Path] = ()) -> Document:
    """A file over its `base:`, which is a path relative to the file, and may have a base itself."""
    here = path.resolve()
    if here in chain:
        names = " -> ".join(p.name for p in [*chain[chain.index(here) :], here])
        raise UserError(f"configs are each other's base: {names}", file=path, key="base")
    if len(chain) > MAX_BASES:
        raise UserError(f"is the base of more than {MAX_BASES} configs, one after the other", file=path, key="base")
    document = read_yaml(path)
    base = document.values.pop("base", None)
    if base is None:
        return document
    file, line = document.marks[("base",)]
    if not isinstance(base, str) or not os.path.isfile(path.parent / base):
        raise UserError(
            f"{shown(base)} is not a file", hint="a path relative to this file", file=file, line=line, key="base"
        )
    below = read_with_bases(path.parent / base, [*chain, here])
    below.marks[()] = (str(path), None)
    below.slips |= document.slips
    _merge(below, document)
    return below


def _merge(below: Document, above: Document, path: KeyPath = ()) -> None:
    """Put one document over another, key by key; `path` is the section that the recursion has reached."""
    target: Any = below.values
    values: Any = above.values
    for part in path:
        target, values = target[part], values[part]
    # Another component's params mean nothing to this one.
    if "name" in values and target.get("name", values["name"]) != values["name"]:
        _forget(below, (*path, "params"), target.pop("params", None))
    for key, value in values.items():
        where = (*path, key)
        if isinstance(value, dict) and isinstance(target.get(key), dict):
            _merge(below, above, where)
        else:
            _forget(below, where, target.get(key))
            target[key] = value
            below.marks |= {each: above.marks[each] for each in _paths(value, where) if each in above.marks}
        below.marks[where] = above.mark(where)


def _forget(document: Document, path: KeyPath, value: Any) -> None:
    """Drop the marks of a value that is replaced, so that what its successor lacks is not looked for there."""
    for each in _paths(value, path):
        document.marks.pop(each, None)


def _paths(value: Any, path: KeyPath) -> Iterator[KeyPath]:
    """The path of a value, and of all that it holds."""
    yield path
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for part, each in inside:
        yield from _paths(each, (*path, part))


def _override(word: str) -> Document:
    """One --set word as a document; the value is YAML."""
    key, equals, text = word.partition("=")
    parts = key.strip().split(".")
    if not equals or not all(parts):
        raise UserError(f"{word!r} is not key=value", hint="for example --set train.num_epochs=3", key="--set")
    if parts == ["base"]:
        raise UserError("base is a part of the file, not a key to override", key="--set")
    try:
        parsed = parse_yaml(f"value: {text}", f"--set {key}").values
    except UserError as error:
        error.key = key + (error.key or "").removeprefix("value")
        raise
    if len(parsed) != 1:
        raise UserError(f"{word!r} is more than one key=value", key="--set")
    values: dict[str, Any] = {parts[-1]: parsed["value"]}
    for part in reversed(parts[:-1]):
        values = {part: values}
    return Document(values, {tuple(parts[:length]): (f"--set {key}", None) for length in range(len(parts) + 1)})


def problems_error(path: Path, document: Document, problems: list[Problem]) -> UserError:
    """One error that lists the problems, each with its file, line and key; of very many the first."""
    if len(problems) == 1:
        return _problem_error(document, problems[0])
    lines: list[str] = []
    for problem in problems[:MAX_PROBLEMS]:
        line = "  " + str(_problem_error(document, problem)).replace("\n  hint: ", "; ")
        if lines and sum(map(len, lines)) + len(line) > MAX_CHARACTERS:
            break
        lines.append(line)
    if len(problems) > len(lines):
        lines.append(f"  ... and {len(problems) - len(lines)} more")
    return UserError(f"{len(problems)} problems\n" + "\n".join(lines), file=path)


def _problem_error(document: Document, problem: Problem) -> UserError:
    """A problem with its place; where a value is wrong because a colon is missing, that is said."""
    file, line = document.mark(problem.path)
    slip, message = document.slips.get((file, line)), problem.message
    if slip and (slip.path[:-1] != problem.path or SECTION in message):
        return UserError(slip.what, hint=slip.hint, file=file, line=slip.line, key=dotted(slip.path))
    return UserError(message, file=file, line=line, key=dotted(problem.path))
