"""Writing files so that a reader never sees half of one, and naming their contents by hash."""

import contextlib
import hashlib
import io
import json
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from foldsmith.errors import EXIT_ENVIRONMENT, EXIT_UNTRUSTED, WRITE_ERRNOS, UserError
from foldsmith.failpoints import fail

# What torch and safetensors say of a full disk instead of handing on the number of the error.
FULL_DISK = re.compile(r"No space left|File too large|unexpected pos|PytorchStreamWriter|iostream error")


@contextlib.contextmanager
def atomic_path(path: Path, size: int | None) -> Iterator[Path]:
    """Yield a temporary path in the same folder; when the block ends well, fsync it and rename it to `path`.

    When the block raises, the temporary file is removed and an old file at `path` stays as it was.

    Args:
        size: bytes that the file will take, about: an error on a full disk names them. None where nobody can know
            before it is written; the error names what was written then.
    """
    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
        os.close(handle)
        temporary = Path(name)
        fail("write.opened")
        yield temporary
        fail("write.filled")
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        # mkstemp makes files that only their owner can read; give what a plain open() would have given.
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        fail("write.synced")
        os.replace(temporary, path)
        fail("write.renamed")
    except Exception as error:
        if _is_write_failure(error):
            raise _not_written(path, temporary, size, error) from None
        raise
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def append_text(path: Path, text: str) -> None:
    """Add UTF-8 text to a log."""
    append_bytes(path, text.encode("utf-8"))


def append_bytes(path: Path, data: bytes) -> None:
    """Add to a log, the one kind of file that is not written whole."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        fail("append.begin")
        with open(path, "ab") as file:
            file.write(data)
    except OSError as error:
        if _is_write_failure(error):
            raise _not_written(path, None, len(data), error) from None
        raise


def _not_written(path: Path, temporary: Path | None, size: int | None, error: Exception) -> UserError:
    reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
    hint = "free some space, or name another folder; what stood there before is as it was"
    room = _room(path, temporary, size)
    return UserError(f"could not be written: {reason}; {room}", file=path, hint=hint, code=EXIT_ENVIRONMENT)


def unnamed_failure(error: OSError) -> UserError:
    """The error of a write that went past this module: of a lock's file, a temporary folder, standard output."""
    path = Path(os.fsdecode(error.filename)) if isinstance(error.filename, str | bytes) else None
    free = _megabytes(shutil.disk_usage(_folder_of(path or Path("a file"))).free)
    what = f"could not be written: {error.strerror}; {free} are free, at least some KB are needed"
    return UserError(what if path else f"a file {what}", file=path, hint="free some space", code=EXIT_ENVIRONMENT)


def _folder_of(path: Path) -> Path:
    """The folder that a file lies in or, where that is not there yet, the nearest one above that is."""
    return next(each for each in path.absolute().parents if each.exists())


def _room(path: Path, temporary: Path | None, size: int | None) -> str:
    """How much room a file that could not be written needs, and how much there is."""
    sizes = [each.stat().st_size for each in (path, temporary) if each is not None and each.is_file()]
    needs = f"about {_megabytes(size)}" if size is not None else f"more than {_megabytes(max(sizes, default=0))}"
    return f"it needs {needs}, {_megabytes(shutil.disk_usage(_folder_of(path)).free)} are free"


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.1f} MB" if size >= 50_000 else f"{size} bytes"


def _is_write_failure(error: Exception) -> bool:
    """A full or read-only disk. torch and safetensors report a full one in words of their own."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno in WRITE_ERRNOS
    return not isinstance(error, UserError) and FULL_DISK.search(str(error)) is not None


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file atomically."""
    with atomic_path(path, len(data)) as temporary:
        temporary.write_bytes(data)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text atomically, line ends as they are in `text`."""
    write_bytes(path, text.encode("utf-8"))


def write_array(path: Path, array: Any) -> None:
    """Write an array of NumPy as .npy atomically.

    NumPy gets a function to write with and no file: into a file it writes past Python, with a buffer of its own whose
    last flush may fail on a full disk, and nobody hears of it.
    """
    from numpy.lib import format as npy

    with atomic_path(path, array.nbytes) as temporary, open(temporary, "wb") as file:
        npy.write_array(SimpleNamespace(write=file.write), array, allow_pickle=False)


def write_figure(path: Path, figure: Any, dpi: int) -> None:
    """Write a figure of matplotlib, which this module does not import, as PNG."""
    png = io.BytesIO()
    figure.savefig(png, format="png", dpi=dpi)
    write_bytes(path, png.getvalue())


def write_json(path: Path, value: Any) -> None:
    """Write `json_text` atomically."""
    write_text(path, json_text(value))


def json_text(value: Any) -> str:
    """JSON with sorted keys, so that equal values are equal bytes."""
    return json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def read_json(path: Path, hint: str | None = None) -> Any:
    """A JSON file's value.

    Raises:
        UserError: it is not there, or is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"cannot be read: {error.strerror}", file=path, hint=hint) from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"is not JSON: {error}", file=path, hint=hint, code=EXIT_UNTRUSTED) from None


def sha256_file(path: Path) -> str:
    """Hex sha256 of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_lines(lines: Iterable[str]) -> str:
    """Hex sha256 of strings; each is preceded by its length, so that no two lists of strings share a hash by gluing."""
    digest = hashlib.sha256()
    for line in lines:
        data = line.encode("utf-8")
        digest.update(len(data).to_bytes(8, "little") + data)
    return digest.hexdigest()


def sha256_json(value: Any) -> str:
    """Hex sha256 of a JSON value, independent of the order of its keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, ensure_ascii=False).encode("utf-8")).hexdigest()


def code_sha256() -> str:
    """Hash of this package's source files, so that an artefact says which code made it."""
    if getattr(sys.modules["foldsmith"], "__file__", None) is None:  # a packed kernel holds the sources
        return sha256_json(sys.modules["__main__"].SOURCES)
    root = Path(__file__).parent
    return sha256_lines(f"{path.relative_to(root)}:{sha256_file(path)}" for path in sorted(root.rglob("*.py")))
