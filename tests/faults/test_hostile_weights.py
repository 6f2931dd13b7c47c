"""Hostile weights files: nothing is executed (an audit hook watches), exit 4, no hang, bounded memory."""

import contextlib
import io
import json
import os
import pickle
import shutil
import struct
import zipfile
from collections import Counter, OrderedDict
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import torch

import ensemble_inference
from foldsmith.crypt import encrypt_file
from foldsmith.errors import UserError
from foldsmith.models.pickles import load_pickle
from foldsmith.models.weights import load_model, load_pretrained, read_header
from tests.conftest import by_hand
from tests.faults.bounds import bounded
from tests.faults.hostile import (
    CPU,
    MEGABYTES,
    SECONDS,
    as_checkpoint,
    legacy,
    legacy_of,
    lying_storage,
    rezipped,
    watched,
    zipped,
)
from tests.test_weights import copy_of, small

pytestmark = pytest.mark.timeout(60, func_only=True)  # what hangs is a failure


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
        "swapped.pth": rezipped(
            zipped(state), zipfile.ZIP_STORED, {"data.pkl": pickle.dumps(payload(marker), protocol=2)}
        ),
        "renamed.safetensors": zipped({"a": payload(marker)}),
        "sealed.pth": zipped({"a": payload(marker)}),  # of which the .enc is made
    }


def refuse(load: Callable[[Path], object], path: Path) -> str:
    """Code 4, nothing run, in time and memory, and the file named."""
    with bounded(SECONDS, MEGABYTES), watched() as events, pytest.raises(UserError) as caught:
        load(path)
    assert events == []
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


@pytest.mark.parametrize("name", list(pickles(Path("x"))))
def test_a_pickle_runs_nothing(tmp_path, name):
    marker, path = tmp_path / "marker", tmp_path / name
    path.write_bytes(pickles(marker)[name])
    model = small()
    before = copy_of(model)
    for load in readers(model):
        refuse(load, path)
    assert not marker.exists()
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


def test_there_are_twelve_and_the_traps_are_real(tmp_path):
    assert len(pickles(tmp_path)) == 12
    for name, data in pickles(tmp_path / "marker").items():
        shutil.rmtree(tmp_path / "marker", ignore_errors=True)
        with watched() as events, contextlib.suppress(Exception):
            torch.load(io.BytesIO(data), weights_only=False)
        assert (tmp_path / "marker").exists() and events != [], f"{name}: the hook sees it"


def test_a_pickle_that_was_encrypted_is_refused_by_its_hash_or_its_content(chain, few, tmp_path, monkeypatch):
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
    forged.write_text(by_hand(chain.ensemble.read_text()).replace(old, sha256_file(target)))
    assert old not in forged.read_text()
    target.unlink()
    for ensemble, words in ((chain.ensemble, "weights are not those of the ensemble"), (forged, "not a safetensors")):
        with watched() as events, pytest.raises(UserError, match=words) as caught:
            ensemble_inference.main(
                [str(ensemble), "--models", str(runs), "--data", str(few), "--output", str(tmp_path / "s.csv")]
            )
        assert caught.value.code == 4 and [event for event in events if str(marker) in event] == []
    assert not marker.exists() and not (tmp_path / "s.csv").exists()


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
    path, model = tmp_path / "a.safetensors", small()
    path.write_bytes(LIES[name])
    for load in readers(model):
        refuse(load, path)


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
    before, state = copy_of(model), copy_of(model)
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


BYTEARRAY = b"c__builtin__\nbytearray\n(J" + (1_500_000_000).to_bytes(4, "little") + b"tR"
ORDERED = b"\x80\x02ccollections\nOrderedDict\nq\x00"
NUMBERS = [b"M" + number.to_bytes(2, "little") + b"N" for number in range(30_000)]  # each with a None
ITEMS, MANY = (b"(" + b"".join(number + end for number in NUMBERS) for end in (b"", b"\x86"))  # alone, and as pairs
STATE = {"a": torch.arange(300.0), "b": torch.arange(700.0)}


def zeros() -> bytes:
    return bytes(600_000_000)


def greedy() -> dict[str, tuple[str, Callable[[], bytes]]]:
    """Small files that ask for much: why each is refused, and what makes it."""
    data, stored, deflated = zipped(STATE), zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED
    storage = b"X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpu"
    largest = b"J\xff\xff\xff\x7f"
    rebuilt = b"ctorch._utils\n_rebuild_tensor_v2\n("
    barred, steps = "Unsupported global: GLOBAL ", "its pickles have more than 400000 steps"
    return {
        "a bytearray": (f"{barred}__builtin__.bytearray", lambda: b"\x80\x02" + BYTEARRAY + b"."),
        "two, in a file that torch reads": (
            f"{barred}__builtin__.bytearray",
            lambda: legacy_of(b"\x80\x02](" + BYTEARRAY + BYTEARRAY + b"e."),
        ),
        "one in a zip": (
            f"{barred}__builtin__.bytearray",
            lambda: rezipped(data, stored, {"data.pkl": b"\x80\x02" + BYTEARRAY + b"."}),
        ),
        "a storage without a file": (
            f"{barred}torch.storage.UntypedStorage",
            lambda: legacy_of(b"\x80\x02ctorch.storage\nUntypedStorage\n(" + largest + b"tR."),
        ),
        "a tensor without a storage": (
            f"{barred}torch.Tensor",
            lambda: legacy_of(b"\x80\x02ctorch\nTensor\n(" + largest + b"tR."),
        ),
        "a compressed storage": (
            "the record archive/data/0 is compressed",
            lambda: rezipped(data, deflated, {"data/0": zeros()}),
        ),
        "a compressed pickle": (
            "the record archive/data.pkl is compressed",
            lambda: rezipped(data, deflated, {"data.pkl": zeros()}),
        ),
        "a storage that is larger than its record": (
            "the storage '0' is not of 8000000000 bytes",
            lambda: lying_storage(data, 300, 2_000_000_000),
        ),
        "a storage that is larger than the file": (
            "its storages take more room than the file has",
            lambda: legacy_of(b"\x80\x02(" + storage + largest + b"NtQ."),
        ),
        "a tensor that is larger than its storage": (
            "a tensor of shape (2147483647,) reaches beyond its storage",
            lambda: legacy_of(
                b"\x80\x02" + rebuilt + b"(" + storage + b"K\x01NtQK\x00" + largest + b"\x85K\x01\x85\x89NtR."
            ),
        ),
        "many dicts": (steps, lambda: legacy_of(b"\x80\x02" + b"}" * 500_000 + b".")),
        "many objects": (steps, lambda: legacy_of(ORDERED + b"(" + b"h\x00)R" * 200_000 + b"t.")),
        "a list that is copied": (
            steps,
            lambda: legacy_of(ORDERED + b"]q\x01" + MANY + b"e" + b"h\x00h\x01\x85R" * 30_000 + b"."),
        ),
        "state that is copied": (
            steps,
            lambda: legacy_of(ORDERED + b"}q\x01" + ITEMS + b"u" + b"h\x00)Rh\x01b" * 30_000 + b"."),
        ),
        "a key that is too deep to hash": (
            "keys that are neither texts nor numbers",
            lambda: legacy_of(b"\x80\x02})" + b"\x85" * 300_000 + b"Ns."),
        ),
        "two names that torch takes for one": (
            "two of its records share a name",
            lambda: rezipped(data, stored, {}).replace(b"archive/data/1", b"archive/DATA/0"),
        ),
        "a text of 2 GB, it says": ("expected 2147483648 bytes", lambda: legacy_of(b"\x80\x02X\x00\x00\x00\x80a.")),
    }


@pytest.mark.parametrize("name", greedy())
def test_a_small_file_takes_little_memory(tmp_path, name):
    path, model = tmp_path / "w.pth", small()
    before, (reason, make) = copy_of(model), greedy()[name]
    path.write_bytes(make())
    for load in (readers(model)[0], read_header, as_checkpoint):
        assert reason in refuse(load, path)
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


def test_records_that_lie_on_each_other(tmp_path):
    """Names of one central directory that all lead to the same bytes: a file of n bytes would be read n times."""
    data = zipped(STATE)
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        (large,) = (each for each in archive.infolist() if each.filename.endswith("data/1"))
        out = io.BytesIO(data)
    with zipfile.ZipFile(out, "a") as archive:
        for number in range(2, 12):
            twin = zipfile.ZipInfo(f"archive/data/{number}")
            twin.header_offset, twin.CRC = large.header_offset, large.CRC
            twin.file_size = twin.compress_size = large.file_size
            archive.filelist.append(twin)
        archive._didModify = True  # so that the directory is written again
    path = tmp_path / "w.pth"
    path.write_bytes(out.getvalue())
    assert "its records take more room than the file has" in refuse(read_header, path)


def test_a_second_list_of_records(tmp_path):
    """Python finds the list of a large zip before its end, torch where its end says: one would be judged, not both."""
    data = zipped(STATE)
    assert data[-42:-38] == b"PK\x06\x07" and data[-98:-94] == b"PK\x06\x06", "torch.save writes that of large ones"
    elsewhere = (len(data) - 198).to_bytes(8, "little")
    for changed in (data[:-34] + elsewhere + data[-26:], data[:-2] + b"\x01\x00x", data[:-98] + bytes(56) + data[-42:]):
        (tmp_path / "w.pth").write_bytes(changed)
        assert "it does not end as torch.save ends a file" in refuse(read_header, tmp_path / "w.pth")


def test_many_records(tmp_path):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for number in range(300):
            archive.writestr(f"archive/{number}{'x' * 20_000}", b"")
    (tmp_path / "w.pth").write_bytes(out.getvalue())
    assert "or has too many records" in refuse(read_header, tmp_path / "w.pth")


@pytest.mark.parametrize("write", [zipped, legacy])
def test_what_torch_save_writes_of_tensors_is_read(tmp_path, write):
    """State dicts of modules and optimizers, parameters, and what stands beside them in checkpoints of others."""
    network = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
    optimizer = torch.optim.AdamW(network.parameters())
    network(torch.ones(2, 3)).sum().backward()
    optimizer.step()
    weight = network[0].weight.detach()
    content = {
        "state_dict": network.state_dict(),
        "optimizer": optimizer.state_dict(),
        "parameters": dict(network.named_parameters()),
        "halves": [weight.half(), weight.bfloat16(), weight.double(), weight.bool()],
        "views": (weight.t(), weight[1:, ::2], weight[:0], torch.ones(1).expand(5, 5), torch.tensor(3)),
        "rest": [None, True, 1.5, 2**40, -1, "text", torch.Size([2, 3]), torch.float16, torch.device("cuda", 1)],
        "milestones": Counter({3: 1}),
        "names": {"a", "b"},
    }
    path = tmp_path / "w.pth"
    path.write_bytes(write(content))
    loaded = load_pickle(path, CPU)
    assert loaded.keys() == content.keys()
    assert loaded["state_dict"]._metadata == network.state_dict()._metadata
    for name in ("rest", "milestones", "names"):
        assert loaded[name] == content[name]
    for part in ("state_dict", "parameters"):
        assert all(torch.equal(value, loaded[part][name]) for name, value in content[part].items())
    for part in ("halves", "views"):
        assert all(map(torch.equal, loaded[part], content[part]))
    torch.optim.AdamW(network.parameters()).load_state_dict(loaded["optimizer"])


def test_an_ordered_dict_as_python_2_wrote_it(tmp_path):
    (tmp_path / "w.pth").write_bytes(legacy_of(b"\x80\x02ccollections\nOrderedDict\n](](U\x01aK\x01ee\x85R."))
    assert load_pickle(tmp_path / "w.pth", CPU) == OrderedDict(a=1)
