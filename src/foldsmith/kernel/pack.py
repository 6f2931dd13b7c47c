"""One Python file that holds the inference code and an ensemble, for machines without this project and a network.

The sources stand in it as readable text. An import hook serves them from memory, so nothing is unpacked.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

import foldsmith
from foldsmith.ensemble.file import read_ensemble
from foldsmith.errors import UserError
from foldsmith.files import write_json, write_text

ENTRIES = {"ensemble_inference.py": "foldsmith.inference.kernel"}

_TEMPLATE = '''#!/usr/bin/env python3
"""{title}: {count} models in one file, packed by foldsmith {version}. Writes submission.csv into the working folder.

Needs torch, timm, opencv, numpy, pyyaml, pydantic, safetensors and tqdm; no network.
Weights are found anywhere below ../input and /kaggle/input, the data by its folder's name there.
"""

import importlib.abc
import importlib.machinery
import sys

ENSEMBLE = {ensemble}

SOURCES = {{
{sources}
}}


class Sources(importlib.abc.MetaPathFinder, importlib.abc.InspectLoader):
    """Imports the modules of SOURCES."""

    def find_spec(self, name, path=None, target=None):
        if name in SOURCES:
            origin = f"<packed {{name}}>"
            return importlib.machinery.ModuleSpec(name, self, is_package=self.is_package(name), origin=origin)
        return None

    def is_package(self, name):
        return any(other.startswith(name + ".") for other in SOURCES)

    def get_source(self, name):
        return SOURCES[name]


sys.meta_path.insert(0, Sources())

if __name__ == "__main__":
    from foldsmith.errors import run
    from {entry} import main

    run(lambda argv: main(ENSEMBLE, {name!r}))
'''


def deploy(entry: str, ensemble_file: Path, output: Path) -> Path:
    """Write `<output>/<name>/<name>.py` and kernel-metadata.json; returns the script's path.

    Args:
        entry: the script to pack; a key of ENTRIES.
        ensemble_file: its stem is the kernel's name.
    """
    module = ENTRIES.get(Path(entry).name)
    if module is None:
        raise UserError(f"{entry!r} can't be packed", hint=f"valid: {', '.join(ENTRIES)}")
    ensemble = read_ensemble(ensemble_file)
    name = ensemble_file.stem
    folder = output / name
    script = folder / f"{name}.py"
    text = _TEMPLATE.format(
        title=name,
        name=ensemble_file.name,
        count=sum(len(member.weights) for member in ensemble.members),
        version=foldsmith.__version__,
        ensemble=_literal(ensemble_file.read_text(encoding="utf-8")),
        sources="\n".join(f"{module!r}: {_literal(text)}," for module, text in sorted(packed_sources(module).items())),
        entry=module,
    )
    write_text(script, text)
    write_json(folder / "kernel-metadata.json", kernel_metadata(name, script.name))
    return script


def packed_sources(entry: str) -> dict[str, str]:
    """Source text by module name: the entry, all of this package that it imports, and the packages around them."""
    root = Path(foldsmith.__file__).parent
    sources: dict[str, str] = {}
    todo = [entry]
    while todo:
        name = todo.pop()
        path = _source_path(root, name)
        if name in sources or path is None:
            continue
        sources[name] = path.read_text(encoding="utf-8")
        todo += _imports(sources[name])
        todo += [name.rpartition(".")[0]] if "." in name else []
    return sources


def _imports(source: str) -> Iterator[str]:
    """Modules of this package that a source imports anywhere, functions included."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "foldsmith":
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.split(".")[0] == "foldsmith")


def _source_path(root: Path, module: str) -> Path | None:
    """The file of a module, or None when the name is something inside a module."""
    place = root.joinpath(*module.split(".")[1:])
    for path in (place / "__init__.py", place.with_suffix(".py")):
        if path.is_file():
            return path
    return None


def _literal(text: str) -> str:
    """A Python literal that reads like the text itself: a raw triple-quoted string wherever that is exact."""
    raw = f"r'''{text}'''"
    try:
        return raw if ast.literal_eval(raw) == text else repr(text)
    except SyntaxError:
        return repr(text)


def kernel_metadata(name: str, code_file: str) -> dict[str, object]:
    """What `kaggle kernels push` reads; the user's name and the sources are to be filled in."""
    slug = "".join(letter if letter.isalnum() else "-" for letter in name.lower()).strip("-")
    return {
        "id": f"INSERT_KAGGLE_USERNAME/{slug}",
        "title": slug,
        "code_file": code_file,
        "language": "python",
        "kernel_type": "script",
        "is_private": True,
        "enable_gpu": True,
        "enable_internet": False,
        "dataset_sources": [],
        "competition_sources": [],
        "kernel_sources": [],
    }
