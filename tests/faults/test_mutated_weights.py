"""1,000 mutated .pth and 1,000 mutated .safetensors: refused or read, in time and memory; their sha256 tells all."""

import io
import json
import pickle
import zipfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

from foldsmith.ensemble.file import read_ensemble
from foldsmith.errors import UserError
from foldsmith.files import sha256_file
from foldsmith.inference.find import find_weights, hashes_of, proved_weights
from foldsmith.models.build import build_model
from foldsmith.models.weights import load_pretrained, read_header, save_weights
from tests.faults.bounds import bounded
from tests.faults.hostile import MEGABYTES, SECONDS, as_checkpoint, legacy, rezipped, watched, zipped
from tests.test_weights import copy_of, header

pytestmark = pytest.mark.timeout(120, func_only=True)  # what hangs is a failure

MUTATED = 1000


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


def survive(data: bytes, path: Path, loads: dict, count: int, mutate, model: torch.nn.Module) -> Counter:
    """Read `count` mutations; how many each of `loads` accepted. Nothing but UserErrors of code 4, in time and memory.

    The file itself is accepted by all. A refusal leaves the model as it was, down to the bit; what is accepted is
    finite. An ensemble that names the file's sha256 accepts none of the mutations.
    """
    before, accepted = copy_of(model), Counter(dict.fromkeys(loads, 0))
    path.write_bytes(data)
    sha256 = sha256_file(path)
    assert proved_weights({path.name: sha256}, {path.name: [path]}) == {path.name: path}
    for load in loads.values():
        load(path)
    assert same(model, before)
    for _ in range(count):
        while (changed := mutate(data)) == data:  # zeros put over zeros
            pass
        path.write_bytes(changed)
        with pytest.raises(UserError, match="weights are not those of the ensemble") as caught:
            proved_weights({path.name: sha256}, {path.name: [path]})
        assert caught.value.code == 4 and str(path) in str(caught.value)
        for name, load in loads.items():
            with bounded(SECONDS, MEGABYTES), watched() as events:
                try:
                    load(path)
                    accepted[name] += 1
                except UserError as error:
                    assert error.code == 4 and str(path) in str(error), error
                    assert same(model, before), error
            assert events == []
            assert all(bool(value.isfinite().all()) for value in model.state_dict().values())
            model.load_state_dict(before)
    return accepted


def assert_few(accepted: Counter, count: int) -> None:
    """Noise that only met numbers is read, or texts that nobody asks for: about a sixth. The rest is refused."""
    assert all(0 < each < 0.3 * count for each in accepted.values()), accepted


def same(model: torch.nn.Module, before: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def fast_or_all(count: int) -> list:
    return [count // 10, pytest.param(count, marks=pytest.mark.slow)]


@pytest.fixture
def tiny() -> torch.nn.Module:
    torch.manual_seed(0)
    return build_model("test_efficientnet", num_classes=3, input_size=(64, 96))


def checkpoint(model: torch.nn.Module) -> dict:
    """What both ways of reading a .pth accept: weights to begin with, and last.ckpt."""
    rest = dict.fromkeys(("identity", "progress", "model", "optimizer", "schedule", "scaler", "masks"), 0)
    return {"state_dict": model.state_dict()} | rest


def loads_of(model: torch.nn.Module, other) -> dict:
    return {"pretrained": lambda path: load_pretrained(path, model), "other": other}


@pytest.mark.parametrize("write", [zipped, legacy])
@pytest.mark.parametrize("count", fast_or_all(MUTATED // 2))
def test_mutated_pth(tmp_path, tiny, count, write):
    """A mutation that only changes numbers may be read; one of the ensemble's is found by its sha256 all the same."""
    random = np.random.default_rng(0)
    loads = loads_of(tiny, as_checkpoint)
    accepted = survive(
        write(checkpoint(tiny)), tmp_path / "a.pth", loads, count, lambda data: mutated(data, random), tiny
    )
    assert_few(accepted, count)


@pytest.mark.parametrize("count", fast_or_all(MUTATED))
def test_mutated_safetensors(tmp_path, tiny, count):
    save_weights(tmp_path / "a.safetensors", tiny.state_dict(), header())
    data, random = (tmp_path / "a.safetensors").read_bytes(), np.random.default_rng(2)
    loads = loads_of(tiny, read_header)
    accepted = survive(data, tmp_path / "b.safetensors", loads, count, lambda data: mutated(data, random), tiny)
    assert_few(accepted, count)


def lying_zip(data: bytes, random: np.random.Generator) -> bytes:
    """A pickle that begins with a bytearray, a record that is compressed, or one that is not as long as is said."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        records = {name: archive.read(name) for name in archive.namelist() if "/data/" in name}
        pickled = archive.read("archive/data.pkl")
    name = str(random.choice(list(records)))
    longer = records[name] + bytes(int(random.integers(1, 10_000)))
    match random.integers(0, 4):
        case 0:
            return rezipped(data, zipfile.ZIP_STORED, {"data.pkl": with_bytearray(pickled, random)})
        case 1:
            return rezipped(data, zipfile.ZIP_DEFLATED, {name: records[name]})
        case 2:
            return rezipped(data, zipfile.ZIP_STORED, {name: longer})
        case _:
            return rezipped(data, zipfile.ZIP_STORED, {name: records[name][: int(random.integers(len(records[name])))]})


def with_bytearray(pickled: bytes, random: np.random.Generator) -> bytes:
    size = int(random.integers(600_000_000, 2**31)).to_bytes(4, "little")
    return b"\x80\x02(c__builtin__\nbytearray\n(J" + size + b"tR" + pickled.removeprefix(b"\x80\x02")[:-1] + b"t."


def lying_legacy(data: bytes, random: np.random.Generator) -> bytes:
    """A content that begins with a bytearray, or another length before the numbers of the last storage."""
    start = sum(len(pickle.dumps(each, 2)) for each in (torch.serialization.MAGIC_NUMBER, 1001))
    if random.random() < 0.5:
        return data[:start] + with_bytearray(data[start:], random)
    sizes = {
        tensor.numel(): tensor.nbytes
        for tensor in torch.load(io.BytesIO(data), weights_only=True)["state_dict"].values()
    }
    (at,) = (len(data) - size - 8 for count, size in sizes.items() if counts(data, len(data) - size - 8) == count)
    return data[:at] + int(random.integers(2**40)).to_bytes(8, "little") + data[at + 8 :]


def counts(data: bytes, at: int) -> int:
    return int.from_bytes(data[at : at + 8], "little")


def lying_safetensors(data: bytes, random: np.random.Generator) -> bytes:
    """A header that gives a tensor another shape, kind or place, or that is not as long as is said."""
    length = counts(data, 0)
    head, numbers = json.loads(data[8 : 8 + length]), data[8 + length :]
    entry = head[str(random.choice([name for name in head if name != "__metadata__"]))]
    match random.integers(0, 4):
        case 0:
            entry["shape"] = [*entry["shape"], int(random.integers(2, 2**40))]
        case 1:
            entry["dtype"] = {"F32": "I32", "I64": "F64"}[entry["dtype"]]
        case 2:
            entry["data_offsets"][int(random.integers(2))] += int(random.integers(1, 2**40))
        case _:
            return int(length + random.integers(1, 2**40)).to_bytes(8, "little") + data[8:]
    text = json.dumps(head).encode()
    return len(text).to_bytes(8, "little") + text + numbers


LIARS = {
    "a.pth": (zipped, lying_zip),
    "b.pth": (legacy, lying_legacy),
    "c.safetensors": (
        lambda content: safetensors.torch.save(
            {key: value.contiguous() for key, value in content["state_dict"].items()}
        ),
        lying_safetensors,
    ),
}


@pytest.mark.parametrize("name", LIARS)
@pytest.mark.parametrize("count", fast_or_all(200))
def test_all_that_lie_are_refused(tmp_path, tiny, count, name):
    """Mutations that know the format: every single one is found."""
    (write, lie), random = LIARS[name], np.random.default_rng(3)
    loads = {"pretrained": lambda path: load_pretrained(path, tiny)}
    if name.endswith(".pth"):
        loads["last.ckpt"] = as_checkpoint
    accepted = survive(write(checkpoint(tiny)), tmp_path / name, loads, count, lambda data: lie(data, random), tiny)
    assert accepted == dict.fromkeys(loads, 0)


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
