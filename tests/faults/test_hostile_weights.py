"""Hostile weights files: nothing is executed (an audit hook watches), exit 4, no hang, bounded memory."""

import contextlib
import io
import json
import os
import pickle
import resource
import shutil
import struct
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

import ensemble_inference
from foldsmith.crypt import encrypt_file
from foldsmith.errors import UserError
from foldsmith.models.build import build_model
from foldsmith.models.weights import load_model, load_pretrained, read_header, save_weights
from foldsmith.training.checkpoints import load_checkpoint
from tests.test_weights import copy_of, header, small

CPU = torch.device("cpu")
SECONDS, MEGABYTES = 5.0, 500
MUTATED = 1000
FAST_MUTATED = 100
# What a payload could do; importing, reading and mapping files are what loading does.
WATCHED = (
    "os.system",
    "subprocess.Popen",
    "os.exec",
    "os.posix_spawn",
    "os.fork",
    "os.mkdir",
    "os.remove",
    "os.rename",
)
WATCHED += ("os.chmod", "shutil.", "socket.", "exec", "compile", "ctypes.dlopen", "os.putenv", "builtins.input")

seen: list[str] = []
watching = False


def _audit(event: str, args: tuple) -> None:
    if watching and event.startswith(WATCHED):
        seen.append(f"{event} {args!r:.80}")


sys.addaudithook(_audit)


@pytest.fixture
def watched() -> Iterator[list[str]]:
    """What happened while hostile files were read."""
    global watching
    seen.clear()
    watching = True
    yield seen
    watching = False


class Runs:
    """A pickle that calls something when it is loaded."""

    def __init__(self, function: Callable, *args: object) -> None:
        self.function, self.args = function, args

    def __reduce__(self):
        return self.function, self.args


class Nested:
    def __init__(self, inner: object) -> None:
        self.inner = inner

    def __getstate__(self):
        return {"inner": self.inner}


def payload(marker: Path) -> Runs:
    return Runs(os.mkdir, str(marker))


def zipped(content: object) -> bytes:
    file = io.BytesIO()
    torch.save(content, file)
    return file.getvalue()


def legacy(content: object) -> bytes:
    file = io.BytesIO()
    torch.save(content, file, _use_new_zipfile_serialization=False)
    return file.getvalue()


def with_pickle(data: bytes, pickled: bytes) -> bytes:
    """A .pth with another data.pkl."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as source, zipfile.ZipFile(out, "w") as target:
        for name in source.namelist():
            target.writestr(name, pickled if name.endswith("data.pkl") else source.read(name))
    return out.getvalue()


def pickles(marker: Path) -> dict[str, bytes]:
    state = {"a": torch.ones(2)}
    text = f"import os; os.mkdir({str(marker)!r})"
    return {
        "zip.pth": zipped({"a": payload(marker)}),
        "legacy.pth": legacy({"a": payload(marker)}),
        "raw.pth": pickle.dumps(payload(marker), protocol=2),
        "raw5.pth": pickle.dumps({"state_dict": payload(marker)}, protocol=5),
        "nested.pth": zipped({"state_dict": {"model": [Nested({"x": payload(marker)})]}}),
        "exec.pth": zipped({"a": Runs(exec, text)}),
        "eval.pth": pickle.dumps(Runs(eval, f"__import__('os').mkdir({str(marker)!r})"), protocol=2),
        "system.pth": pickle.dumps(Runs(os.system, f"mkdir {marker}"), protocol=2),
        "by_hand.pth": f"cposix\nmkdir\n(S'{marker}'\ntR.".encode(),
        "swapped.pth": with_pickle(zipped(state), pickle.dumps(payload(marker), protocol=2)),
        "renamed.safetensors": zipped({"a": payload(marker)}),
        "sealed.pth": zipped({"a": payload(marker)}),  # of which the .enc is made
    }


def refuse(load: Callable[[Path], object], path: Path) -> str:
    """Code 4, in time, and the file named."""
    started = time.monotonic()
    with pytest.raises(UserError) as caught:
        load(path)
    assert time.monotonic() - started < SECONDS
    assert caught.value.code == 4 and str(path) in str(caught.value), caught.value
    return str(caught.value)


def readers(model: torch.nn.Module) -> list[Callable[[Path], object]]:
    """Everything in the program that reads a file of tensors."""
    return [
        lambda path: load_pretrained(path, model),
        read_header,
        lambda path: load_model(path, CPU),
        as_checkpoint,
    ]


def as_checkpoint(path: Path) -> None:
    """As last.ckpt, which is what checkpoints are called."""
    renamed = path.parent / "last.ckpt"
    renamed.write_bytes(path.read_bytes())
    try:
        load_checkpoint(renamed, CPU)
    except UserError as error:
        assert error.file == renamed
        error.file = path
        raise


@pytest.mark.parametrize("name", list(pickles(Path("x"))))
def test_a_pickle_runs_nothing(tmp_path, watched, name):
    marker, path = tmp_path / "marker", tmp_path / name
    path.write_bytes(pickles(marker)[name])
    model, before = small(), None
    before = copy_of(model)
    watched.clear()
    for load in readers(model):
        refuse(load, path)
    assert watched == [] and not marker.exists()
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


def test_there_are_twelve_and_the_traps_are_real(tmp_path, watched):
    assert len(pickles(tmp_path)) == 12
    for name, data in pickles(tmp_path / "marker").items():
        shutil.rmtree(tmp_path / "marker", ignore_errors=True)
        with contextlib.suppress(Exception):
            torch.load(io.BytesIO(data), weights_only=False)
        assert (tmp_path / "marker").exists(), name
    assert watched != [], "the hook sees them"


def test_a_pickle_that_was_encrypted_is_refused_by_its_hash_or_its_content(chain, few, tmp_path, watched, monkeypatch):
    """In the place of one of the ensemble's files; and with its hash in the ensemble, as an attacker might do both."""
    runs, marker = tmp_path / "runs", tmp_path / "marker"
    shutil.copytree(chain.runs, runs)
    monkeypatch.setenv("FOLDSMITH_PASSPHRASE", "x")
    target = runs / "a" / "a_f0.safetensors"
    target.write_bytes(pickles(marker)["sealed.pth"])
    encrypt_file(target, target.with_name(target.name + ".enc"), "x")
    from foldsmith.files import sha256_file

    forged = tmp_path / "forged.yml"
    old = sha256_file(chain.weights("a"))
    forged.write_text(chain.ensemble.read_text().replace(old, sha256_file(target)))
    assert old not in forged.read_text()
    target.unlink()
    watched.clear()
    for ensemble, words in ((chain.ensemble, "weights are not those of the ensemble"), (forged, "not a safetensors")):
        with pytest.raises(UserError, match=words) as caught:
            ensemble_inference.main(
                [str(ensemble), "--models", str(runs), "--data", str(few), "--output", str(tmp_path / "s.csv")]
            )
        assert caught.value.code == 4
    made = [event for event in watched if str(marker) in event]
    assert made == [] and not marker.exists() and not (tmp_path / "s.csv").exists()


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
    """Read `count` mutations; returns how many were accepted. Nothing but UserErrors of code 4, in time and memory."""
    random, accepted = np.random.default_rng(seed), 0
    for _ in range(count):
        path.write_bytes(mutated(data, random))
        for load in loads:
            started = time.process_time()
            try:
                load(path)
                accepted += 1
            except UserError as error:
                assert error.code == 4 and str(path) in str(error), error
            assert time.process_time() - started < SECONDS
    return accepted


def peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def fast_or_all(count: int) -> list:
    return [FAST_MUTATED, pytest.param(count, marks=pytest.mark.slow)]


@pytest.fixture
def tiny(monkeypatch) -> torch.nn.Module:
    model = build_model("test_efficientnet", num_classes=3, input_size=(64, 96))
    return model


@pytest.mark.parametrize("count", fast_or_all(MUTATED))
def test_mutated_pth(tmp_path, watched, tiny, count):
    """A mutation that only changes numbers may be read; one of the ensemble's is found by its sha256 all the same."""
    before = peak()
    watched.clear()
    accepted = 0
    for number, data in enumerate((zipped(tiny.state_dict()), legacy(tiny.state_dict()))):
        load = [lambda path: load_pretrained(path, tiny), as_checkpoint]
        accepted += survive(data, tmp_path / "a.pth", load, count // 2, number)
    assert [event for event in watched if not event.startswith("compile")] == []
    assert peak() - before < MEGABYTES and accepted < count


@pytest.mark.parametrize("count", fast_or_all(MUTATED))
def test_mutated_safetensors(tmp_path, watched, tiny, count):
    save_weights(tmp_path / "a.safetensors", tiny.state_dict(), header())
    data, before = (tmp_path / "a.safetensors").read_bytes(), peak()
    watched.clear()
    survive(data, tmp_path / "b.safetensors", [read_header, lambda path: load_pretrained(path, tiny)], count, 2)
    assert [event for event in watched if not event.startswith("compile")] == []
    assert peak() - before < MEGABYTES


def test_the_ensemble_s_hash_finds_every_mutation(chain, tmp_path):
    """100 %: before a byte of them is parsed."""
    from foldsmith.ensemble.file import read_ensemble
    from foldsmith.inference import find

    ensemble, random = read_ensemble(chain.ensemble), np.random.default_rng(5)
    names = [name for member in ensemble.members for name in member.weights]
    for member in ("a", "b"):
        for fold in (0, 1):
            shutil.copy(chain.weights(member, fold), tmp_path)
    data = chain.weights("a").read_bytes()
    others = {name: sha for member in ensemble.members for name, sha in zip(member.weights, member.sha256, strict=True)}
    path, changes = tmp_path / "a_f0.safetensors", 0
    with pytest.MonkeyPatch.context() as patch:
        real = find.sha256_file
        patch.setattr(find, "sha256_file", lambda file: real(file) if file == path else others[file.name])
        for _ in range(200):
            changed = mutated(data, random)
            if changed == data:
                continue
            changes += 1
            path.write_bytes(changed)
            with pytest.raises(UserError, match="weights are not those of the ensemble") as caught:
                find.find_weights(ensemble, [tmp_path])
            assert caught.value.code == 4 and str(path) in str(caught.value)
    assert changes > 190 and len(names) == 4


def lying(shape: list[int], offsets: list[int], size: int, dtype: str = "F32") -> bytes:
    """A safetensors file with one tensor whose header says what it likes."""
    head = json.dumps({"a": {"dtype": dtype, "shape": shape, "data_offsets": offsets}}).encode()
    return struct.pack("<Q", len(head)) + head + bytes(size)


LIES = {
    "a shape that is larger than the data": lying([10**6, 10**5], [0, 16], 16),
    "a shape that overflows": lying([2**40, 2**40], [0, 16], 16),
    "offsets behind the end": lying([4], [0, 16], 4),
    "offsets that turn back": lying([4], [16, 0], 16),
    "a negative shape": lying([-4], [0, 16], 16),
    "a header of 2^60 bytes": struct.pack("<Q", 2**60) + b"{}",
    "a header that is no JSON": struct.pack("<Q", 4) + b"abcd",
    "a header of nested lists": struct.pack("<Q", 100_000) + b"[" * 100_000,
    "an unknown kind of number": lying([4], [0, 16], 16, "F99"),
    "bytes that no tensor has": lying([2], [0, 8], 100),
}


@pytest.mark.parametrize("name", LIES)
def test_a_header_that_lies(tmp_path, name):
    path, model, before = tmp_path / "a.safetensors", small(), peak()
    path.write_bytes(LIES[name])
    for load in readers(model):
        refuse(load, path)
    assert peak() - before < MEGABYTES


def odd_states() -> dict[str, Callable[[dict], None]]:
    name = "blocks.0.0.conv.weight"

    def put(make: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[dict], None]:
        return lambda state: state.__setitem__(name, make(state[name]))

    return {
        "a view of 10^11 numbers on one": put(lambda tensor: torch.ones(1).expand(10**6, 10**5)),
        "a tensor that is sparse": put(lambda tensor: torch.ones(tensor.shape).to_sparse()),
        "rows that are compressed": put(lambda tensor: torch.eye(4).to_sparse_csr()),
        "another shape": put(lambda tensor: tensor[:, :, :1]),
        "NaN": put(lambda tensor: torch.full_like(tensor, float("nan"))),
        "infinity": put(lambda tensor: torch.full_like(tensor, float("inf"))),
        "whole numbers": put(lambda tensor: tensor.to(torch.int64)),
        "a tensor too many": lambda state: state.update(more=torch.ones(1)),
        "a tensor too few": lambda state: state.__delitem__(name),
        "no tensors at all": lambda state: state.clear(),
    }


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", odd_states())
def test_a_state_that_is_not_the_model_s(tmp_path, name):
    model = small()
    before, peak_before, state = copy_of(model), peak(), copy_of(model)
    odd_states()[name](state)
    torch.save(state, tmp_path / "a.pth")
    refuse(lambda path: load_pretrained(path, model), tmp_path / "a.pth")
    with_dense = {key: value for key, value in state.items() if value.layout == torch.strided and value.numel() < 10**9}
    if len(with_dense) == len(state) and state:
        safetensors.torch.save_file(
            {key: value.contiguous() for key, value in state.items()}, tmp_path / "a.safetensors"
        )
        refuse(lambda path: load_pretrained(path, model), tmp_path / "a.safetensors")
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items()), "it is as it was"
    assert peak() - peak_before < MEGABYTES
