"""Turns pydantic's errors into sentences: what was found, what is valid, which name was probably meant."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError

from foldsmith.config.schema import Config
from foldsmith.config.yaml_text import KeyPath
from foldsmith.errors import did_you_mean, shown

Schema = TypeVar("Schema", bound=BaseModel)

SECTION = "a section of `key: value`"
_EXPECTED = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "string_type": "text",
    "string_pattern_mismatch": "`last N groups`",  # the one text with a pattern
    "bool_type": "true or false",
    "list_type": "a list",
    "dict_type": SECTION,
    "model_type": SECTION,
}


@dataclass(frozen=True)
class Problem:
    """One thing wrong with a config: where (keys and list indices from the top), and a sentence."""

    path: KeyPath
    text: str | Callable[[], str]  # or what makes it: only the sentences that are shown are made
    together: bool = False  # of a section whose keys are right, but do not go together

    @property
    def message(self) -> str:
        return self.text if isinstance(self.text, str) else self.text()


LeafCheck = Callable[[dict[str, Any]], list[Problem]]


def config_problems(values: dict[str, Any], leaf_check: LeafCheck | None) -> tuple[Config | None, list[Problem]]:
    """All problems of an experiment: the schema's, and those of a second pass (training/leaves.py).

    The second pass sees None in place of each value that the schema has refused, and what it says about such a value
    is not heard: what is wrong is said once.
    """
    config, problems = schema_problems(values, Config)
    if leaf_check is None:
        return config, problems
    refused = {problem.path for problem in problems if not problem.together}
    found = leaf_check(_accepted(values, (), refused))
    said = [any(each.path[:length] in refused for length in range(len(each.path) + 1)) for each in found]
    return config, problems + [each for each, twice in zip(found, said, strict=True) if not twice]


def _accepted(value: Any, path: KeyPath, refused: set[KeyPath]) -> Any:
    if path in refused:
        return None
    if isinstance(value, dict):
        return {key: _accepted(each, (*path, key), refused) for key, each in value.items()}
    if isinstance(value, list):
        return [_accepted(each, (*path, index), refused) for index, each in enumerate(value)]
    return value


def schema_problems(values: dict[str, Any], schema: type[Schema]) -> tuple[Schema | None, list[Problem]]:
    """Validate plain values. Returns the object (None when there are problems) and all problems."""
    try:
        return schema.model_validate(values), []
    except ValidationError as error:
        groups: dict[KeyPath, list[Any]] = {}
        for item in error.errors():
            groups.setdefault(_real_path(item["loc"], item["type"], values), []).append(item)
    # [1] for `all | [text]` fails as a whole and in its item: the item says more.
    inner = {path[:length] for path in groups for length in range(len(path))}
    return None, [
        Problem(path, partial(_sentence, path, items, schema), together=_is_section(items, values, path))
        for path, items in groups.items()
        if path not in inner
    ]


def _is_section(items: list[Any], values: Any, path: KeyPath) -> bool:
    """Whether the problem is that of a section's validator, which runs where all keys of the section are right."""
    if items[0]["type"] != "value_error":
        return False
    for part in path:
        values = values[part]
    return isinstance(values, dict)


def _real_path(loc: KeyPath, kind: str, values: Any) -> KeyPath:
    """pydantic's location without the branch names that it appends for unions."""
    path: list[str | int] = []
    for position, part in enumerate(loc):
        if (isinstance(values, dict) and part in values) or (isinstance(values, list) and isinstance(part, int)):
            values = values[part]  # type: ignore[index]
            path.append(part)
        elif kind == "missing" and position == len(loc) - 1:
            path.append(part)
    return tuple(path)


def _sentence(path: KeyPath, items: list[Any], schema: type[BaseModel]) -> str:
    first = items[0]
    got = f", got {shown(first['input'])}"
    if refused := [item for item in items if item["type"] == "value_error"]:  # of the right type
        return str(refused[0]["ctx"]["error"])
    if len(items) > 1:  # a union: every branch failed
        choices = [_expected(item) for item in items]
        words = [item["ctx"]["expected"] for item in items if item["type"] == "literal_error"]
        near = did_you_mean(first["input"], _choices(words[0])) if words and isinstance(first["input"], str) else ""
        return f"expected {' or '.join(dict.fromkeys(choices))}{got}" + (f"; {near}" if "did you" in near else "")
    match first["type"]:
        case "extra_forbidden":
            return f"unknown key; {_where_it_belongs(str(path[-1]), path[:-1], schema)}"
        case "missing":
            return "required key is missing"
        case "literal_error":
            choices = _choices(first["ctx"]["expected"])
            near = did_you_mean(first["input"], choices) if isinstance(first["input"], str) else ""
            return f"expected {_expected(first)}{got}" + (f"; {near}" if "did you" in near else "")
    return f"expected {_expected(first)}{got}"


def _where_it_belongs(key: str, path: KeyPath, schema: type[BaseModel]) -> str:
    """The sections at the top that have the key, else what is near and valid here."""
    tops = {name: _section_in_or_none(each.annotation) for name, each in schema.model_fields.items()}
    homes = [f"{name}.{key}" for name, section in tops.items() if section is not None and key in section.model_fields]
    near = did_you_mean(key, _known_keys(path, schema), show=30)
    return f"did you mean {' or '.join(homes)}?" if homes and key != "name" and "did you" not in near else near


def _expected(item: dict[str, Any]) -> str:
    if item["type"] in _EXPECTED:
        return _EXPECTED[item["type"]]
    if item["type"] == "literal_error":
        return "one of " + ", ".join(_choices(item["ctx"]["expected"]))
    message = (item["msg"][0].lower() + item["msg"][1:]).partition(" after validation")[0]
    return (
        message.removeprefix("input should be ")
        .removeprefix("list should have ")
        .removeprefix("string should have ")
        .removeprefix("dictionary should have ")
    )


def _choices(expected: str) -> list[str]:
    """pydantic's "'a', 'b' or 'c'" as a list."""
    return [word.strip("'") for word in expected.replace(" or ", ", ").split(", ")]


def _known_keys(path: KeyPath, schema: type[BaseModel]) -> list[str]:
    """The keys that the section at `path` may have."""
    section = schema
    for part in path:
        if isinstance(part, int):
            continue
        section = _section_in(section.model_fields[part].annotation)
    return [*section.model_fields, *(["base"] if section is Config else [])]


def _section_in(annotation: Any) -> type[BaseModel]:
    """The section class inside an annotation such as `Erase | None` or `list[Component]`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next(found for found in map(_section_in_or_none, get_args(annotation)) if found is not None)


def _section_in_or_none(annotation: Any) -> type[BaseModel] | None:
    try:
        return _section_in(annotation)
    except StopIteration:
        return None
