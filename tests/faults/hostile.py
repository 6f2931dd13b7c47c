"""What tests of hostile weights share: an audit hook that sees what is done, and ways to write and read files."""

import contextlib
import encodings.cp437  # noqa: F401  which zipfile imports when it first reads a name; imports are seen as "exec"
import io
import pickle
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import torch

from foldsmith.errors import UserError
from foldsmith.training.checkpoints import load_checkpoint

CPU = torch.device("cpu")
SECONDS, MEGABYTES = 5.0, 500  # of reading one file
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


@contextlib.contextmanager
def watched() -> Iterator[list[str]]:
    """What happens in the block, in a list that grows."""
    global watching
    seen.clear()
    watching = True
    try:
        yield seen
    finally:
        watching = False


def zipped(content: object) -> bytes:
    file = io.BytesIO()
    torch.save(content, file)
    return file.getvalue()


def legacy(content: object) -> bytes:
    file = io.BytesIO()
    torch.save(content, file, _use_new_zipfile_serialization=False)
    return file.getvalue()


LEGACY_HEAD = b"".join(pickle.dumps(each, 2) for each in (torch.serialization.MAGIC_NUMBER, 1001, {}))


def legacy_of(content: bytes) -> bytes:
    """A legacy file whose content is the pickle `content`, and which has no storages."""
    return LEGACY_HEAD + content + pickle.dumps([], 2)


def rezipped(data: bytes, how: int, changed: dict[str, bytes]) -> bytes:
    """A .pth with some records changed (by the end of their names), those compressed as `how` says."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as source, zipfile.ZipFile(out, "w") as target:
        for name in source.namelist():
            end = next((end for end in changed if name.endswith(end)), None)
            content = source.read(name) if end is None else changed[end]
            target.writestr(name, content, how if end is not None else zipfile.ZIP_STORED)
    return out.getvalue()


def lying_storage(data: bytes, old: int, new: int) -> bytes:
    """A .pth whose pickle says `new` where it said the number `old` (of two bytes), of a storage or a shape."""
    pickled = zipfile.ZipFile(io.BytesIO(data)).read("archive/data.pkl")
    wanted, given = b"M" + old.to_bytes(2, "little"), b"J" + new.to_bytes(4, "little")
    assert wanted in pickled
    return rezipped(data, zipfile.ZIP_STORED, {"data.pkl": pickled.replace(wanted, given)})


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
