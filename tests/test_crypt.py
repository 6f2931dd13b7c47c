"""Encrypted weights: every change is noticed, nothing is written before the end is proved, memory stays small."""

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

import ensemble_inference
from foldsmith import cli
from foldsmith.crypt import _FIELDS, MAGIC, TAG, Header, decrypt_file, encrypt_file
from foldsmith.errors import UserError
from tests.conftest import Chain

HEADER = len(MAGIC) + _FIELDS.size
CHUNK = 100


def cheap_key(header: Header, passphrase: str) -> AESGCM:
    """Instead of scrypt, which takes 40 ms on purpose."""
    parameters = f"{header.log_n} {header.r} {header.p} {passphrase}".encode()
    return AESGCM(hashlib.sha256(header.salt + parameters).digest())


@pytest.fixture
def sealed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, bytes]:
    """An encrypted file of 3 chunks and what is in it."""
    monkeypatch.setattr(Header, "key", cheap_key)
    plain = np.random.default_rng(0).bytes(250)
    (tmp_path / "w").write_bytes(plain)
    encrypt_file(tmp_path / "w", tmp_path / "w.enc", "a passphrase", chunk=CHUNK)
    return tmp_path / "w.enc", plain


def refuse(path: Path, data: bytes, passphrase: str = "a passphrase") -> str:
    """The message; nothing may be left behind."""
    path.write_bytes(data)
    before = sorted(path.parent.iterdir())
    with pytest.raises(UserError) as caught:
        decrypt_file(path, path.parent / "out", passphrase)
    assert caught.value.code == 4 and sorted(path.parent.iterdir()) == before
    return caught.value.message


@pytest.mark.parametrize("size", [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK])
def test_what_comes_out_is_what_went_in(tmp_path: Path, size: int):
    plain = np.random.default_rng(size).bytes(size)
    (tmp_path / "w").write_bytes(plain)
    encrypt_file(tmp_path / "w", tmp_path / "w.enc", "pässword", chunk=CHUNK)
    assert (tmp_path / "w.enc").stat().st_size == HEADER + size + TAG * max(1, -(-size // CHUNK))
    decrypt_file(tmp_path / "w.enc", tmp_path / "out", "pässword")
    assert (tmp_path / "out").read_bytes() == plain


def test_every_bit_of_the_header_counts(sealed):
    path, _ = sealed
    data = path.read_bytes()
    for bit in range(8 * HEADER):
        changed = bytearray(data)
        changed[bit // 8] ^= 1 << bit % 8
        assert refuse(path, bytes(changed))


def test_any_other_bit_counts(sealed):
    path, _ = sealed
    data = path.read_bytes()
    for bit in np.random.default_rng(1).choice(8 * (len(data) - HEADER), 200, replace=False):
        changed = bytearray(data)
        changed[HEADER + bit // 8] ^= 1 << int(bit) % 8
        assert "can't be decrypted" in refuse(path, bytes(changed))


def test_chunks_can_not_be_cut_swapped_or_repeated(sealed):
    path, _ = sealed
    data = path.read_bytes()
    head, size = data[:HEADER], CHUNK + TAG
    first, second, third = data[HEADER:][:size], data[HEADER + size :][:size], data[HEADER + 2 * size :]
    for chunks in ([first, second], [first], [], [second, first, third], [first, first, second, third], [third]):
        assert refuse(path, head + b"".join(chunks))
    assert refuse(path, data + b"x") and refuse(path, data[:-1]) and refuse(path, data[: HEADER - 1])
    assert "another passphrase" in refuse(path, data, "another")


def test_two_copies_share_no_chunk(tmp_path: Path):
    (tmp_path / "w").write_bytes(b"0" * 200)
    for name in ("a", "b"):
        encrypt_file(tmp_path / "w", tmp_path / name, "p", chunk=CHUNK)
    a, b = ((tmp_path / name).read_bytes()[HEADER:] for name in ("a", "b"))
    size = CHUNK + TAG
    assert len({a[:size], a[size:], b[:size], b[size:]}) == 4


@pytest.mark.slow
def test_large_files_take_little_memory(tmp_path: Path):
    """1 GB of zeros (a hole in the file system), both ways, in a process of its own."""
    with open(tmp_path / "w", "wb") as file:
        file.truncate(1 << 30)
    code = """
import re, sys
from pathlib import Path
from foldsmith.crypt import decrypt_file, encrypt_file
def peak():  # KiB of this program; getrusage's maximum would include that of the process which started it
    return int(re.search("VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])
folder, before = Path(sys.argv[1]), peak()
encrypt_file(folder / "w", folder / "w.enc", "p")
decrypt_file(folder / "w.enc", folder / "out", "p")
print(peak() - before)
"""
    done = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True, check=True)
    assert 32_000 < int(done.stdout) < 100_000  # KiB; scrypt alone takes 32 MiB
    assert (tmp_path / "out").stat().st_size == 1 << 30


def encrypted_runs(chain: Chain, folder: Path) -> Path:
    """The chain's weights, encrypted by the command."""
    runs = folder / "runs"
    shutil.copytree(chain.runs, runs)
    files = sorted(runs.rglob("*_f?.safetensors"))
    cli.main(["encrypt", *map(str, files)])
    for file in files:
        file.unlink()
    return runs


def test_an_ensemble_of_encrypted_weights(chain, few, whole, tmp_path, monkeypatch):
    monkeypatch.setenv("FOLDSMITH_PASSPHRASE", "a passphrase")
    runs = encrypted_runs(chain, tmp_path)
    environment = dict(os.environ, TMPDIR=str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    output = tmp_path / "out" / "s.csv"
    command = [sys.executable, "ensemble_inference.py", chain.ensemble, "--models", runs, "--data", few]
    command = [str(word) for word in [*command, "--output", output]]
    subprocess.run(command, env=environment, check=True, capture_output=True)
    assert output.read_bytes() == whole
    assert list((tmp_path / "tmp").iterdir()) == [] and [path.name for path in output.parent.iterdir()] == ["s.csv"]
    assert b"a passphrase" not in b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())

    monkeypatch.delenv("FOLDSMITH_PASSPHRASE")
    with pytest.raises(UserError, match="is encrypted, and there is no passphrase") as caught:
        ensemble_inference.main(command[2:])
    assert caught.value.code == 2
    monkeypatch.setenv("FOLDSMITH_PASSPHRASE", "another")
    with pytest.raises(UserError, match="another passphrase") as caught:
        ensemble_inference.main(command[2:])
    assert caught.value.code == 4
    assert output.read_bytes() == whole, "the submission that stood there is as it was"


def test_the_command_goes_both_ways(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("FOLDSMITH_PASSPHRASE", "p")
    (tmp_path / "w").write_bytes(b"weights")
    cli.main(["encrypt", str(tmp_path / "w")])
    (tmp_path / "w").unlink()
    cli.main(["encrypt", "--decrypt", str(tmp_path / "w.enc")])
    assert (tmp_path / "w").read_bytes() == b"weights"
    with pytest.raises(UserError, match=r"is no file that ends in \.enc"):
        cli.main(["encrypt", "--decrypt", str(tmp_path / "w")])


def test_the_command_replaces_nothing_unasked(tmp_path, monkeypatch):
    monkeypatch.setenv("FOLDSMITH_PASSPHRASE", "p")
    plain, sealed = tmp_path / "w", tmp_path / "w.enc"
    plain.write_bytes(b"weights")
    cli.main(["encrypt", str(plain)])
    plain.write_bytes(b"trained again")
    before = sealed.read_bytes()
    for words in (["encrypt", str(plain)], ["encrypt", "--decrypt", str(sealed)]):
        with pytest.raises(UserError, match="nothing is written: .* would be replaced"):
            cli.main(words)
    assert plain.read_bytes() == b"trained again" and sealed.read_bytes() == before
    cli.main(["encrypt", "--decrypt", "--force", str(sealed)])
    assert plain.read_bytes() == b"weights"
    with pytest.raises(UserError, match="is encrypted already"):
        cli.main(["encrypt", str(sealed)])
    assert sorted(tmp_path.iterdir()) == [plain, sealed]


@pytest.mark.parametrize(
    ("passphrase", "message"),
    [("", "w: can't be encrypted: there is no passphrase"), ("p\udcff", "FOLDSMITH_PASSPHRASE: is not UTF-8")],
)
def test_a_passphrase_that_can_not_be_one_is_refused(tmp_path, monkeypatch, passphrase, message):
    monkeypatch.setenv("FOLDSMITH_PASSPHRASE", passphrase)
    (tmp_path / "w").write_bytes(b"weights")
    with pytest.raises(UserError) as caught:
        cli.main(["encrypt", str(tmp_path / "w")])
    assert message in str(caught.value) and [path.name for path in tmp_path.iterdir()] == ["w"]
