"""Which source files an entry point needs, found by reading the imports."""

import ast
from collections.abc import Iterator
from pathlib import Path

import foldsmith
from foldsmith.errors import UserError

PACKAGE = Path(foldsmith.__file__).parent


def packed_sources(entry: str, folder: Path | None = None) -> dict[str, str]:
    """Source text by path (foldsmith/errors.py): the entry, all that it imports of ours, the packages around them.

    Args:
        entry: a module's name.
        folder: of scripts, which may import each other, and packages beside them; None: only this package is ours.
    """
    sources: dict[str, str] = {}
    todo = [entry]
    while todo:
        name = todo.pop()
        found = _find(name, folder)
        if found is None or found[0] in sources:
            continue
        path, file = found
        sources[path] = file.read_text(encoding="utf-8")
        package = name if file.name == "__init__.py" else name.rpartition(".")[0]
        todo += _imports(sources[path], package)
        todo += [name.rpartition(".")[0]] if "." in name else []
    return dict(sorted(sources.items()))


def _imports(source: str, package: str) -> Iterator[str]:
    """Modules that a source imports anywhere, functions included; some are names inside of modules.

    Args:
        package: that relative imports begin from.
    """
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom):
            around = package.split(".")[: len(package.split(".")) + 1 - node.level] if node.level else []
            module = ".".join([*around, *([node.module] if node.module else [])])
            yield module
            yield from (f"{module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def _find(module: str, folder: Path | None) -> tuple[str, Path] | None:
    """A module's path in the packed file and its file; None where it is not ours, or the name of something else.

    Raises:
        UserError: it lies in a folder that is no package.
    """
    parts = module.split(".")
    base = PACKAGE.parent if parts[0] == "foldsmith" else folder
    if base is None or not all(parts):
        return None
    for path in ([*parts, "__init__.py"], [*parts[:-1], f"{parts[-1]}.py"]):
        if base.joinpath(*path).is_file():
            folders = [base.joinpath(*path[:end]) for end in range(1, len(path))]
            plain = next((each for each in folders if not (each / "__init__.py").is_file()), None)
            if plain is not None:
                hint = "an empty one makes it a package"
                raise UserError(f"`import {module}` can't be packed: {plain} has no __init__.py", hint=hint)
            return "/".join(path), base.joinpath(*path)
    return None
