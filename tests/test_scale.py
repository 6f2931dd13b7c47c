"""docs/scale.md and benchmarks/scale_arithmetic.py say the same."""

import importlib.util
import re
from types import ModuleType

import pytest

from tests.conftest import ROOT

DOCS = (ROOT / "docs" / "scale.md").read_text()


@pytest.fixture(scope="module")
def arithmetic() -> ModuleType:
    spec = importlib.util.spec_from_file_location("scale_arithmetic", ROOT / "benchmarks" / "scale_arithmetic.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


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
