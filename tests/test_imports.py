"""Who imports whom (docs/design.md, section 3), and that --help does not wait for torch."""

import ast
import os
import subprocess
import sys
import time

import pytest

from foldsmith.kernel.sources import packed_sources
from tests.conftest import ROOT

SOURCE = ROOT / "src" / "foldsmith"
HEAVY = {"torch", "timm", "albumentations", "scipy", "sklearn", "matplotlib"}
# group: (the modules in it, what none of them may load)
GROUPS = {
    "base": (
        ["config", "config.loader", "errors", "files", "metrics", "data.tables", "data.oof_files", "ensemble.file"],
        HEAVY | {"cv2"},
    ),
    "inference": (
        [
            "data.images",
            "models.build",
            "models.weights",
            "inference.predict",
            "inference.ensemble",
            "inference.command",
            "inference.kernel",
            "inference.machine",
            "inference.supervise",
        ],
        {"albumentations", "scipy", "sklearn", "matplotlib", "iterstrat", "foldsmith.training", "foldsmith.losses"},
    ),
    "search": (
        ["ensemble.objective", "ensemble.search", "ensemble.members", "ensemble.pictures"],
        {"torch", "foldsmith.training", "timm"},
    ),
}


def loaded_by(*modules: str) -> set[str]:
    """Names of all modules that a fresh interpreter has loaded after importing some of ours."""
    code = f"import {', '.join('foldsmith.' + module for module in modules)}; import sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


@pytest.mark.parametrize("group", GROUPS)
def test_no_group_loads_what_it_must_not(group):
    modules, forbidden = GROUPS[group]
    loaded = loaded_by(*modules)
    assert "foldsmith." + modules[0] in loaded
    # torch itself imports scipy or sklearn nowhere, but timm may: what counts is that they are not there
    assert {name for name in forbidden if name in loaded} == set()


def test_the_kernel_s_functions_import_nothing_forbidden_either():
    """Imports inside functions count too: the closure that is packed holds no training, search or packing module."""
    packed = packed_sources("foldsmith.inference.kernel")
    assert {f"foldsmith/{name}.py" for name in ("inference/kernel", "inference/predict", "models/weights")} <= set(
        packed
    )
    forbidden = ("training/", "kernel/", "tools/", "ensemble/search", "losses", "demo", "cli")
    forbidden += ("data/augment", "data/dataset", "data/folds", "data/sampling", "data/pseudo")
    assert {path for path in packed if path.removeprefix("foldsmith/").startswith(forbidden)} == set()
    for path, source in packed.items():
        for node in ast.walk(ast.parse(source)):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not {word.split(".")[0] for word in names} & {"albumentations", "scipy", "sklearn", "matplotlib"}, (
                path
            )


@pytest.mark.parametrize("script", sorted(path.name for path in ROOT.glob("*.py")))
def test_help_answers_at_once(script):
    done, best = None, float("inf")
    for _ in range(3):  # the best of three: the machine may be busy
        started = time.monotonic()
        done = subprocess.run([sys.executable, script, "--help"], cwd=ROOT, capture_output=True, text=True, check=True)
        best = min(best, time.monotonic() - started)
        if best < 1:
            break
    assert best < 1
    assert done is not None and f"usage: {script}" in done.stdout and "\n./" in done.stdout
    assert os.access(ROOT / script, os.X_OK)


def test_files_and_functions_stay_short():
    for path in SOURCE.rglob("*.py"):
        text = path.read_text()
        assert text.count("\n") <= 300, path
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef):
                assert node.end_lineno is not None and node.end_lineno - node.lineno < 60, f"{path}: {node.name}"
