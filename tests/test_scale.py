"""docs/scale.md and benchmarks/scale_arithmetic.py say the same."""

import importlib.util
import os
import re
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from foldsmith.config import load_config
from foldsmith.data.cache import cached_images
from foldsmith.data.tables import read_table
from foldsmith.files import sha256_lines
from foldsmith.training.job import Images
from foldsmith.training.run import read_images
from tests.conftest import ROOT

DOCS = (ROOT / "docs" / "scale.md").read_text()


def benchmark(name: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A script of benchmarks/ as a module."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "benchmarks" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, name, module)  # where dataclasses looks for it
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def arithmetic() -> Iterator[ModuleType]:
    with pytest.MonkeyPatch.context() as patch:
        yield benchmark("scale_arithmetic", patch)


@pytest.fixture(scope="module")
def measured(arithmetic) -> dict[str, float]:
    """The measurements that stand in the docs."""
    table = DOCS[DOCS.index("| measured |") : DOCS.index("| data |")]
    found = dict(re.findall(r"^\| ([^|]+) \| ([\d.e+]+) \S+ \|", table, re.MULTILINE))
    return {name: float(found[name]) for name in arithmetic.MEASURED}


def test_the_docs_derive_from_their_measurements(arithmetic, measured):
    section = arithmetic.section(measured)
    assert DOCS.endswith(section + "\n"), section


@pytest.mark.slow
def test_what_can_be_counted_is_counted(arithmetic, measured):
    parameters, flops = arithmetic.network()
    assert measured["parameters of seresnext101_32x4d"] == float(f"{parameters / 1e6:.4g}")
    assert measured["forward pass of an image"] == float(f"{flops / 1e9:.4g}")


def test_the_sums_by_hand(arithmetic, measured):
    """32 images of 288 x 288 x 3 bytes of each of 8 GPUs, of which 7/8 leave the node, in 32/1381 of a second."""
    sums = arithmetic.Sums({**measured, "parameters of seresnext101_32x4d": 50.0, "forward pass of an image": 26.0})
    assert sums.rate == pytest.approx(312e12 * 0.35 / 78e9)
    assert sums.mixup[0] == 55_738_368
    assert sums.gradients == pytest.approx(50e6 * 4 * 2 * 63 / 64)
    assert sums.gathered == 2_184_740 * 1103 * 4
    assert sums.steps[1] == pytest.approx(128 / 1400)
    assert arithmetic.amount(8280.0, "s") == "2.3 h" and arithmetic.amount(3.1e11, "bit/s") == "310 Gbit/s"


def test_a_start_asks_twice_for_the_size_of_a_file(small, monkeypatch):
    """Once for the run's identity, once for the cache's name."""
    asked, real = Counter(), Path.stat

    def stat(path, **more):
        asked[path] += 1
        return real(path, **more)

    config = load_config("clipart_tiny", small)
    monkeypatch.setattr(Path, "stat", stat)
    images, _, _ = read_images(config, read_table(config))
    cached_images(config, images.groups, build=False)
    assert len(images.table) > 100 and {asked[path] for path in images.table} == {2}


def test_what_has_no_size(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"12345")
    (tmp_path / "folder.jpg").mkdir()
    (tmp_path / "loop.jpg").symlink_to(tmp_path / "loop.jpg")
    names = ["a.jpg", "none.jpg", "folder.jpg", "loop.jpg", "a.jpg/b.jpg", "nul\0.jpg"]
    paths = [tmp_path / name for name in names]
    sizes = [5, -1, -1, -1, -1, -1]
    lines = [f"{path.name} {size}" for path, size in zip(paths, sizes, strict=True)]
    assert Images(paths, paths).sha256 == sha256_lines(lines)


@pytest.mark.slow
def test_the_cost_of_the_engines_is_printed(monkeypatch, capsys):
    """With two folds of a few steps; that their weights are the same bytes by all three engines is checked there."""
    pytest.importorskip("ray", reason="needs Ray: pip install -c constraints.txt -e '.[ray]'")
    scale_out = benchmark("scale_out", monkeypatch)
    few = "train:\n  num_epochs: 1\n  max_steps_per_epoch: 3\n"
    monkeypatch.setattr(scale_out, "EXPERIMENT", scale_out.EXPERIMENT.replace("train:\n  num_epochs: 2\n", few))
    monkeypatch.setattr(scale_out, "EXPERIMENTS", "a")
    monkeypatch.setattr(scale_out, "FOLDS", 2)
    at_once = min(2, len(os.sched_getaffinity(0)))
    monkeypatch.setattr(sys, "argv", ["scale_out.py", "--processes", str(at_once)])
    scale_out.main()
    lines = capsys.readouterr().out.splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:6]]
    assert [row[0] for row in rows] == [engine.name for engine in scale_out.engines(at_once)]
    assert [int(row[3]) for row in rows] == [1, at_once, at_once, at_once]
    work = float(rows[0][2])
    assert work > 0
    for _, seconds, _, processes, lost in rows:
        assert float(lost.strip("%")) / 100 == pytest.approx(1 - work / (float(seconds) * int(processes)), abs=0.02)
    assert lines[-1] == "The weights of the folds in one process each are the same bytes by all three."
