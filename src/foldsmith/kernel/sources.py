"""Which source files an entry point needs, found by reading the imports."""

import ast
from collections.abc import Iterator
from pathlib import Path

import foldsmith

PACKAGE = Path(foldsmith.__file__).parent


def packed_sources(entry: str, folder: Path | None = None) -> dict[str, str]:
    """Source text by path (foldsmith/errors.py): the entry, all that it imports of ours, the packages around them.

    Args:
        entry: a module's name.
        folder: of scripts, which may import each other; None: nothing but this package is ours.
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
        todo += _imports(sources[path])
        todo += [name.rpartition(".")[0]] if "." in name else []
    return dict(sorted(sources.items()))


def _imports(source: str) -> Iterator[str]:
    """Modules that a source imports anywhere, functions included; some are names inside of modules."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def _find(module: str, folder: Path | None) -> tuple[str, Path] | None:
    """A module's path in the packed file and its file; None where it is not ours, or the name of something else."""
    first, *rest = module.split(".")
    if first == "foldsmith":
        for parts in ([*rest, "__init__.py"], [*rest[:-1], f"{rest[-1]}.py"] if rest else []):
            if parts and PACKAGE.joinpath(*parts).is_file():
                return "/".join(["foldsmith", *parts]), PACKAGE.joinpath(*parts)
    elif folder is not None and not rest and (folder / f"{first}.py").is_file():
        return f"{first}.py", folder / f"{first}.py"
    return None
