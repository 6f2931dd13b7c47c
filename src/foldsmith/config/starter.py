"""A new experiment file, every key with what it means beside it."""

import os
import re
import shlex
import textwrap
from pathlib import Path
from typing import Any

from foldsmith.config.describe import describe_key
from foldsmith.config.loader import find_config, read_with_bases
from foldsmith.config.yaml_text import dump_inline, dump_yaml
from foldsmith.errors import UserError
from foldsmith.files import write_text

WIDTH = 100  # of comments
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def new_config_path(name: str, force: bool) -> Path:
    """Where a new experiment goes: configs/NAME.yml, or the path itself where one is given.

    Raises:
        UserError: the name is none for a file, or the file exists and there is no `force`.
    """
    path = Path(name if name.endswith((".yml", ".yaml")) else f"{name}.yml")
    path = path if path.parent != Path() else Path("configs") / path
    if not NAME.fullmatch(path.stem):
        raise UserError(f"{path.stem!r} is no name", hint="letters, digits, . _ -; all files of the run have it")
    if path.exists() and not force:
        raise UserError("exists; it is not overwritten", file=path, hint="take another name, or add --force")
    return path


def train_command(path: Path) -> str:
    """What trains the experiment of a file, from the project's folder."""
    words = path.name if path.parent == Path("configs") else str(path)
    return f"./train.py --config {shlex.quote(words)}"


def write_starter(path: Path, source: str, schema: dict[str, Any], values: dict[str, Any] | None = None) -> None:
    """Write an experiment file that stands alone, begun from another one.

    Args:
        source: the experiment to begin from, found as `--config` is; its bases are folded in.
        schema: the JSON Schema, for the comments.
        values: what is written; by default what the source says.
    """
    found = find_config(source)
    write_text(path, starter_text(path, found.name, values or read_with_bases(found).values, schema))


def starter_text(path: Path, source: str, values: dict[str, Any], schema: dict[str, Any]) -> str:
    """The file's text: head comment, then each section with a comment above each key."""
    command = train_command(path)
    schema_file = Path("configs") / "schema.json"
    lines = []
    if schema_file.is_file():
        lines += [f"# yaml-language-server: $schema={Path(os.path.relpath(schema_file, path.parent)).as_posix()}"]
    lines += [
        f"# {path.stem}: say in a sentence what it tries. Begun from {source}.",
        "#",
        f"#   {command} --smoke      # does it work at all?",
        f"#   {command}",
        "#",
        "# Expected: write the OOF score and the time here once it is trained.",
        "# All keys: docs/config.md.",
    ]
    for section, keys in values.items():
        lines += ["", *_comment(describe_key(schema, (section,)), "")]
        if not isinstance(keys, dict):
            lines += dump_yaml({section: keys}).splitlines()
            continue
        lines.append(f"{section}:" if keys else f"{section}: {{}}")
        for key, value in keys.items():
            lines += _comment(describe_key(schema, (section, key)), "  ")
            if isinstance(value, list) and any(isinstance(each, dict) for each in value):  # such as train.stages
                lines += textwrap.indent(dump_yaml({key: value}), "  ").splitlines()
            else:
                lines.append(f"  {key}: {dump_inline(value)}")
    return "\n".join(lines) + "\n"


def _comment(text: str, indent: str) -> list[str]:
    return textwrap.wrap(text, WIDTH, initial_indent=f"{indent}# ", subsequent_indent=f"{indent}# ") if text else []
