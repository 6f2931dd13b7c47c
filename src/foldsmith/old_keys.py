"""Reads an old experiment file key by key, so that `foldsmith convert-config` forgets none."""

from pathlib import Path
from typing import Any, TypeVar

from foldsmith.config import Document, dotted
from foldsmith.errors import UserError

Kind = TypeVar("Kind")

_WORDS: dict[type, str] = {
    float: "a number",
    int: "a whole number",
    bool: "true or false",
    str: "text",
    list: "a list",
}


class OldKeys:
    """The keys of an old file, dotted, that nobody has taken yet, and what there is to say about them."""

    def __init__(self, document: Document, path: Path) -> None:
        self.document, self.path = document, path
        keys = _flat(document.values, ())
        self.left = {where: value for where, value in keys.items() if value is not None}
        self.notes = [f"{dotted(where)}: empty, not converted" for where, value in keys.items() if value is None]

    def take(self, key: str, kind: type[Kind], default: Kind | None = None) -> Kind | None:
        """The value of a key, which counts as converted then; None or the default where the file does not have it."""
        where = tuple(key.split("."))
        if where not in self.left:
            return default
        value = self.left.pop(where)
        if kind is float and type(value) is int:
            value = float(value)
        if type(value) is not kind:
            raise self.error(key, f"expected {_WORDS[kind]}, got {value!r}")
        return value

    def need(self, key: str, kind: type[Kind]) -> Kind:
        value = self.take(key, kind)
        if value is None:
            raise UserError("required key is missing", file=self.path, key=key)
        return value

    def take_section(self, section: str) -> dict[str, Any]:
        """All keys below a section that are left, as they are."""
        return {where[-1]: self.left.pop(where) for where in self._below(section)}

    def drop(self, section: str, why: str) -> None:
        """Leave out a key, or all keys of a section, and say why."""
        self.notes += [f"{dotted(where)} = {self.left.pop(where)!r}: {why}" for where in self._below(section)]

    def has(self, section: str) -> bool:
        return bool(self._below(section))

    def error(self, key: str, message: str) -> UserError:
        file, line = self.document.mark(tuple(key.split(".")))
        return UserError(message, file=file, line=line, key=key)

    def _below(self, section: str) -> list[tuple[str, ...]]:
        parts = tuple(section.split("."))
        return [where for where in self.left if where[: len(parts)] == parts]


def _flat(values: dict[str, Any], above: tuple[str, ...]) -> dict[tuple[str, ...], Any]:
    """{"a": {"b": 1}} -> {("a", "b"): 1}; empty sections vanish."""
    flat: dict[tuple[str, ...], Any] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            flat |= _flat(value, (*above, key))
        else:
            flat[*above, key] = value
    return flat
