"""Half a file is never seen, equal contents have equal hashes, and a process ends with the promised code and words."""

import errno
import hashlib
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from foldsmith import errors
from foldsmith.errors import UserError, did_you_mean
from foldsmith.files import (
    atomic_path,
    code_sha256,
    sha256_file,
    sha256_json,
    sha256_lines,
    write_array,
    write_json,
    write_text,
)


def test_a_file_appears_whole_in_a_folder_that_is_made(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.txt"
    with atomic_path(path, None) as temporary:
        temporary.write_bytes(b"all")
        assert temporary.parent == path.parent
        assert not path.exists()
    assert path.read_bytes() == b"all"
    assert os.listdir(path.parent) == ["a.txt"]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path: Path, error: type[BaseException]) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"old")
    with pytest.raises(error), atomic_path(path, None) as temporary:
        temporary.write_bytes(b"half")
        raise error
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_a_failed_rename_leaves_no_temporary(tmp_path: Path) -> None:
    (tmp_path / "a.txt").mkdir()
    refused = pytest.raises(UserError, match="could not be written: Is a directory")
    with refused as caught, atomic_path(tmp_path / "a.txt", None) as temporary:
        temporary.write_bytes(b"x")
    assert caught.value.code == 3
    assert os.listdir(tmp_path) == ["a.txt"]


def test_a_written_file_has_the_rights_of_an_ordinary_one(tmp_path: Path) -> None:
    (tmp_path / "plain").write_bytes(b"")
    write_text(tmp_path / "ours", "")
    assert (tmp_path / "ours").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_text_and_json_are_written_as_they_are(tmp_path: Path) -> None:
    write_text(tmp_path / "a", "é\r\nb\n")
    assert (tmp_path / "a").read_bytes() == b"\xc3\xa9\r\nb\n"
    write_json(tmp_path / "b", {"b": 1, "a": "é"})
    write_json(tmp_path / "c", {"a": "é", "b": 1})
    assert (tmp_path / "b").read_text() == '{\n "a": "é",\n "b": 1\n}\n'
    assert sha256_file(tmp_path / "b") == sha256_file(tmp_path / "c")


@pytest.mark.parametrize("room", [0, 127, 128, 200, 20_127, 40_127])
def test_an_array_that_does_not_fit_is_never_taken_for_written(tmp_path: Path, room: int) -> None:
    """NumPy's own way to the disk would not hear of what its last flush loses."""
    array, path = np.arange(10_000, dtype=np.float32).reshape(100, 100), tmp_path / "a.npy"
    np.save(tmp_path / "saved.npy", array)
    write_array(path, array)
    assert path.read_bytes() == (tmp_path / "saved.npy").read_bytes() and path.stat().st_size == 40_128
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, before[1]))
    try:
        with pytest.raises(UserError, match="File too large; it needs about 40000 bytes, ") as caught:
            write_array(path, array + 1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert caught.value.code == 3 and np.array_equal(np.load(path), array)
    assert sorted(os.listdir(tmp_path)) == ["a.npy", "saved.npy"]


def test_no_two_lists_of_lines_share_a_hash() -> None:
    texts = ["|", "", "|a|b", "ab", "a|b", "b|a", "a||b", "a\nb", "a\x00b", "é", "e\u0301"]
    lists = [[], *(text.split("|") for text in texts)]
    assert len({sha256_lines(lines) for lines in lists}) == len(lists)
    expected = hashlib.sha256(b"\1\0\0\0\0\0\0\0a" + b"\2\0\0\0\0\0\0\0\xc3\xa9").hexdigest()
    assert sha256_lines(iter(["a", "é"])) == expected


def test_the_hash_of_json_ignores_the_order_of_keys() -> None:
    assert sha256_json({"a": 1, "b": [1, 2]}) == sha256_json({"b": [1, 2], "a": 1})
    assert sha256_json({"a": [1, 2]}) != sha256_json({"a": [2, 1]})
    assert sha256_json({"a": 1}) != sha256_json({"a": "1"})


def test_the_hash_of_the_code_is_stable() -> None:
    assert code_sha256() == code_sha256()
    assert len(code_sha256()) == 64


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (UserError("m"), "m"),
        (UserError("m", hint="h"), "m\n  hint: h"),
        (UserError("m", file=Path("a.yml")), "a.yml: m"),
        (UserError("m", file="a.yml", line=3), "a.yml:3: m"),
        (UserError("m", file="a.yml", line=3, key="x.y", hint="h"), "a.yml:3: x.y: m\n  hint: h"),
        (UserError("m", key="x.y"), "x.y: m"),
    ],
)
def test_an_error_reads_place_key_message_hint(error: UserError, text: str) -> None:
    assert (str(error), error.code) == (text, 2)


def test_did_you_mean_names_the_nearest_or_lists_all() -> None:
    assert did_you_mean("focl", ["bce", "focal"]) == "did you mean 'focal'?"
    assert did_you_mean("hflp", ["identity", "hflip", "vflip"]) == "did you mean 'hflip' or 'vflip'?"
    assert did_you_mean("zzz", ["bce", "focal"]) == "valid: bce, focal"
    assert did_you_mean("zzz", [str(number) for number in range(20)], show=2) == "valid: 0, 1, ... (20 in all)"


def full_disk() -> OSError:
    return OSError(errno.ENOSPC, "No space left on device", "a.npy")


FREE = "7.0 MB are free, at least some KB are needed\n  hint: free some space\n"


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (UserError("m", hint="h"), 2, "error: m\n  hint: h\n"),
        (UserError("m", code=errors.EXIT_UNTRUSTED), 4, "error: m\n"),
        (UserError("m", code=errors.EXIT_ENVIRONMENT), 3, "error: m\n"),
        (UserError("m", code=errors.EXIT_DEADLINE), 5, "error: m\n"),
        (full_disk(), 3, f"error: a.npy: could not be written: No space left on device; {FREE}"),
        (OSError(errno.EDQUOT, "Quota exceeded"), 3, f"error: a file could not be written: Quota exceeded; {FREE}"),
        (
            FileNotFoundError(errno.ENOENT, "No usable temporary directory found in ['/tmp']"),
            3,
            "error: no temporary file can be written: No usable temporary directory found in ['/tmp']\n"
            "  hint: free some space in one of them, or let TMPDIR name a folder that can be written\n",
        ),
        (MemoryError(), 3, "error: out of memory\n  hint: a smaller batch_size or input_size needs less memory\n"),
        (KeyboardInterrupt(), 130, ""),  # the signal's handler has said it
        (SystemExit(2), 2, ""),
    ],
    ids=["usage", "untrusted", "environment", "deadline", "disk", "quota", "temporary", "memory", "interrupt", "exit"],
)
def test_the_exit_code_and_the_words(
    error: BaseException,
    code: int,
    text: str,
    capsys: pytest.CaptureFixture,
    restore_sigterm: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda folder: SimpleNamespace(free=7_000_000))
    with pytest.raises(SystemExit) as ended:
        errors.guarded(raising(error))
    assert (ended.value.code, capsys.readouterr()) == (code, ("", text))


@pytest.mark.parametrize(
    "error", [ValueError("x"), OSError(errno.EIO, "i/o"), RuntimeError("y"), FileNotFoundError("z")]
)
def test_what_is_unexpected_keeps_its_traceback(error: Exception, restore_sigterm: None) -> None:
    with pytest.raises(type(error)) as caught:
        errors.guarded(raising(error))
    assert caught.value is error


def raising(error: BaseException) -> Callable[[object], None]:
    def main(argv: object) -> None:
        assert argv is None
        raise error

    return main


@pytest.fixture
def restore_sigterm() -> Iterator[None]:
    """errors.guarded installs a handler for the whole process."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize(
    ("line", "code", "last"),
    [
        ("pass", 0, ""),
        ("raise UserError('m', file='a.yml', line=2)", 2, "error: a.yml:2: m"),
        (
            "os.kill(os.getpid(), signal.SIGTERM)",
            143,
            "terminated; what was finished is kept",
        ),
        (
            "os.kill(os.getpid(), signal.SIGINT)",
            130,
            "interrupted; what was finished is kept",
        ),
        ("1 / 0", 1, "ZeroDivisionError: division by zero"),
    ],
)
def test_the_exit_code_of_a_process(line: str, code: int, last: str) -> None:
    source = (
        "import os, signal\nfrom foldsmith.errors import UserError, run\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # ignored in what a shell starts in the background
        f"def main(argv):\n    {line}\nrun(main)\n"
    )
    done = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, timeout=60)
    assert done.returncode == code
    assert (done.stderr.splitlines() or [""])[-1] == last
    assert ("Traceback" in done.stderr) == (code == 1)
