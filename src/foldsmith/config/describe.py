"""What the schema says, for editors (JSON Schema) and for people (docs/config.md)."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from foldsmith.config.schema import Config

Node = dict[str, Any]  # a part of the JSON Schema

HEAD = """\
# Keys of an experiment file

Every key, what it may be, its default, and what it means. Written by `foldsmith schema --markdown`, from the same
source that checks experiment files and that editors complete them from (`configs/schema.json`, which the first line of
each config names). A key that is not here is refused. `base:` names a file, relative to this one, whose keys hold where
this one says nothing.
"""


def json_schema(names: Mapping[str, Sequence[str]]) -> Node:
    """The JSON Schema of an experiment file, with `base`, which the loader takes out before validation.

    Args:
        names: what `name` may be in the sections loss, scheduler and sampler.
    """
    schema = Config.model_json_schema()
    schema["properties"]["base"] = {"type": "string", "description": "a config that this one overrides; relative path"}
    definitions = schema["$defs"]
    definitions["Loss"]["properties"]["name"]["enum"] = list(names["loss"])
    for section in ("scheduler", "sampler"):
        own = json.loads(json.dumps(definitions["Component"]))
        own["properties"]["name"]["enum"] = list(names[section])
        definitions[section.capitalize()] = own | {"title": section.capitalize()}
        for owner in (schema, definitions["Train"], definitions["Stage"]):
            if section in owner["properties"]:
                _refer(owner["properties"][section], "Component", section.capitalize())
    for part in (schema, *definitions.values()):
        part.pop("required", None)  # a base may hold what is missing here
    return schema


def _refer(node: Node, old: str, new: str) -> None:
    for part in (node, *node.get("anyOf", [])):
        if part.get("$ref") == f"#/$defs/{old}":
            part["$ref"] = f"#/$defs/{new}"


def markdown(schema: Node) -> str:
    """docs/config.md: a table a section, in the order in which the file is usually written."""
    parts = [HEAD]
    for path, node in _sections(schema, schema, ""):
        title = f"## `{path}`" if path else "## The file"
        about = node.get("description", "").split("\n\n")[0].replace("\n", " ") if path else ""
        rows = [
            f"| `{key}` | {_kind(each, schema)} | {_default(each)} | {_cell(_meaning(each))} |"
            for key, each in _properties(node)
        ]
        table = ["| key | what it may be | default | meaning |", "|---|---|---|---|", *rows]
        parts.append("\n".join([title, *([f"\n{about}"] if about else []), "", *table]) + "\n")
    return "\n".join(parts)


def missing_descriptions(schema: Node) -> list[str]:
    """Keys that nobody has described."""
    return [
        f"{path}.{key}".lstrip(".")
        for path, node in _sections(schema, schema, "")
        for key, each in _properties(node)
        if not _meaning(each)
    ]


def describe_key(schema: Node, path: Sequence[str]) -> str:
    """The meaning of one key, such as ("train", "seed"); empty where there is none."""
    node = schema
    for part in path[:-1]:
        node = next(iter(_inner(node.get("properties", {}).get(part, {}), schema)), {})
    return _meaning(node.get("properties", {}).get(path[-1], {}))


def _sections(node: Node, schema: Node, path: str) -> Iterator[tuple[str, Node]]:
    """Every section with its dotted path, those inside after their own."""
    yield path, node
    for key, each in _properties(node):
        for inner in _inner(each, schema):
            many = "[]" if each.get("type") == "array" else ""
            yield from _sections(inner, schema, f"{path}.{key}{many}".lstrip("."))


def _properties(node: Node) -> list[tuple[str, Node]]:
    return list(node.get("properties", {}).items())


def _inner(node: Node, schema: Node) -> Iterator[Node]:
    """The sections that a key may hold."""
    for part in (node, *node.get("anyOf", []), node.get("items", {})):
        if "$ref" in part:
            yield schema["$defs"][part["$ref"].rpartition("/")[2]]


def _meaning(node: Node) -> str:
    return str(node.get("description", "")).replace("\n", " ")


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")


def _default(node: Node) -> str:
    if "default" not in node or node["default"] is None:
        return ""
    value = node["default"]
    return "" if isinstance(value, dict) else f"`{json.dumps(value)}`"


LIMITS = {
    "minimum": "at least {}",
    "exclusiveMinimum": "above {}",
    "maximum": "at most {}",
    "exclusiveMaximum": "below {}",
    "pattern": "like `last 2 groups`",  # the one text with a pattern
}
KINDS = {"string": "text", "integer": "whole number", "number": "number", "boolean": "true or false", "null": "null"}


def _kind(node: Node, schema: Node) -> str:
    """What a value may be, in words."""
    if "anyOf" in node:
        kinds = [_kind(part, schema) for part in node["anyOf"] if part.get("type") != "null"]
        return " or ".join(dict.fromkeys(kinds))
    if "$ref" in node:
        return "section"
    if "enum" in node or "const" in node:
        return ", ".join(f"`{value}`" for value in node.get("enum", [node.get("const")]))
    if node.get("type") == "array":
        return f"list of {_kind(node.get('items', {}), schema)}" + _length(node)
    limits = [form.format(node[key]) for key, form in LIMITS.items() if key in node]
    kind = KINDS.get(node.get("type", ""), "`key: value` pairs")
    return ", ".join([kind, *limits])


def _length(node: Node) -> str:
    least, most = node.get("minItems"), node.get("maxItems")
    return f" ({least} of them)" if least is not None and least == most else ""
