"""1,000 mutated .pth and 1,000 mutated .safetensors: refused or read, in time and memory; their sha256 tells all."""

from pathlib import Path

import numpy as np
import pytest
import torch

from foldsmith.ensemble.file import read_ensemble
from foldsmith.errors import UserError
from foldsmith.files import sha256_file
from foldsmith.inference.find import find_weights, hashes_of, proved_weights
from foldsmith.models.build import build_model
from foldsmith.models.weights import load_pretrained, read_header, save_weights
from tests.faults.bounds import bounded
from tests.faults.hostile import MEGABYTES, SECONDS, as_checkpoint, legacy, watched, zipped
from tests.test_weights import header

pytestmark = pytest.mark.timeout(120, func_only=True)  # what hangs is a failure

MUTATED = 1000
FAST_MUTATED = 100


def mutated(data: bytes, random: np.random.Generator) -> bytes:
    """Flipped bits, cut, repeated, zeroed or exchanged parts; most of them near the beginning."""
    changed = bytearray(data)
    for _ in range(random.integers(1, 4)):
        end = len(changed) if random.random() < 0.5 else min(len(changed), 4096)
        at, length = int(random.integers(0, end)), int(random.integers(1, 64))
        match random.integers(0, 5):
            case 0:
                changed[at] ^= 1 << int(random.integers(0, 8))
            case 1:
                changed = changed[: max(at, 1)]
            case 2:
                changed[at:at] = changed[at : at + length]
            case 3:
                changed[at : at + length] = bytes(len(changed[at : at + length]))
            case _:
                changed[at : at + length] = random.bytes(len(changed[at : at + length]))
    return bytes(changed)


def survive(data: bytes, path: Path, loads: list, count: int, seed: int) -> int:
    """Read `count` mutations; returns how many were accepted. Nothing but UserErrors of code 4, in time and memory.

    An ensemble that names the file's sha256 accepts none of them.
    """
    random, accepted = np.random.default_rng(seed), 0
    path.write_bytes(data)
    sha256 = sha256_file(path)
    assert proved_weights({path.name: sha256}, {path.name: [path]}) == {path.name: path}
    for _ in range(count):
        while (changed := mutated(data, random)) == data:  # zeros put over zeros
            pass
        path.write_bytes(changed)
        with pytest.raises(UserError, match="weights are not those of the ensemble") as caught:
            proved_weights({path.name: sha256}, {path.name: [path]})
        assert caught.value.code == 4 and str(path) in str(caught.value)
        for load in loads:
            with bounded(SECONDS, MEGABYTES), watched() as events:
                try:
                    load(path)
                    accepted += 1
                except UserError as error:
                    assert error.code == 4 and str(path) in str(error), error
            assert events == []
    return accepted


def fast_or_all(count: int) -> list:
    return [FAST_MUTATED, pytest.param(count, marks=pytest.mark.slow)]


@pytest.fixture(scope="module")
def tiny() -> torch.nn.Module:
    return build_model("test_efficientnet", num_classes=3, input_size=(64, 96))


@pytest.mark.parametrize("count", fast_or_all(MUTATED))
def test_mutated_pth(tmp_path, tiny, count):
    """A mutation that only changes numbers may be read; one of the ensemble's is found by its sha256 all the same."""
    accepted = 0
    for number, data in enumerate((zipped(tiny.state_dict()), legacy(tiny.state_dict()))):
        loads = [lambda path: load_pretrained(path, tiny), as_checkpoint]
        accepted += survive(data, tmp_path / "a.pth", loads, count // 2, number)
    assert accepted < count


@pytest.mark.parametrize("count", fast_or_all(MUTATED))
def test_mutated_safetensors(tmp_path, tiny, count):
    save_weights(tmp_path / "a.safetensors", tiny.state_dict(), header())
    data = (tmp_path / "a.safetensors").read_bytes()
    survive(data, tmp_path / "b.safetensors", [read_header, lambda path: load_pretrained(path, tiny)], count, 2)


def test_inference_looks_at_the_hashes_first(chain, tmp_path):
    """What `survive` asks is what a run asks of all its files: one changed bit in each of them is found."""
    ensemble = read_ensemble(chain.ensemble)
    wanted = hashes_of(ensemble)
    assert len(wanted) == 4 and all(wanted.values())
    for name in wanted:
        data = (chain.runs / name[0] / name).read_bytes()
        (tmp_path / name).write_bytes(data)
    assert find_weights(ensemble, [tmp_path]).keys() == wanted.keys()
    for name in wanted:
        data = bytearray((tmp_path / name).read_bytes())
        data[-1] ^= 1
        (tmp_path / name).write_bytes(data)
    with pytest.raises(UserError, match="weights are not those of the ensemble") as caught:
        find_weights(ensemble, [tmp_path])
    assert caught.value.code == 4 and all(str(tmp_path / name) in str(caught.value) for name in wanted)
