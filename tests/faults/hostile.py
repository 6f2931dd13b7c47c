"""What tests of hostile weights share: an audit hook that sees what is done, and ways to write and read files."""

import contextlib
import io
import sys
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
