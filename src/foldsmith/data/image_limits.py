"""Which image files may be decoded: regular files, of a size and a kind that are read well and in bounded memory."""

import os
import stat
from pathlib import Path

from foldsmith.data.headers import Header, is_cut_off, read_header
from foldsmith.data.memory import Room

LIMIT = "OPENCV_IO_MAX_IMAGE_PIXELS"  # an environment variable that OpenCV reads, too
MAX_PIXELS = int(os.environ.get(LIMIT, 100_000_000))
MAX_BYTES = 9 * MAX_PIXELS  # of memory for one image and its file while it is read
ROOM = Room(MAX_BYTES)
NO_FILES = {
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFDIR: "a folder",
}


class ImageError(Exception):
    """A file that is not a readable image; the message is the reason."""


def file_size(path: Path) -> int:
    """Bytes of a regular file: opening a pipe would wait for ever, and a device may never end.

    Raises:
        ImageError: it is no regular file, or is larger than MAX_BYTES.
    """
    try:
        found = path.stat()
    except OSError as error:
        raise ImageError(error.strerror or str(error)) from None
    if not stat.S_ISREG(found.st_mode):
        raise ImageError(f"not a file but {NO_FILES[stat.S_IFMT(found.st_mode)]}")
    if found.st_size > MAX_BYTES:
        raise ImageError(f"a file of {found.st_size} bytes: more than {MAX_BYTES} ({LIMIT} sets the limit)")
    return found.st_size


def read_file(path: Path) -> bytes:
    """The bytes of an image file.

    Raises:
        ImageError: it is no regular file, is empty, is larger than MAX_BYTES, or cannot be read.
    """
    file_size(path)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ImageError(error.strerror or str(error)) from None
    if not data:
        raise ImageError("empty file")
    return data


def checked_header(data: bytes) -> Header:
    """The header of an image file that can be decoded within the limits.

    Raises:
        ImageError: it is no image or none whose header is read, is too large, or OpenCV would lose its transparency.
    """
    header = read_header(data)
    if header is None:
        start = data[:16]
        if start.lstrip().startswith(b"<"):
            raise ImageError("an HTML page, not an image")
        if start[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
            raise ImageError("a TIFF whose directory can't be read: cut off or damaged")
        raise ImageError(f"not an image: {start!r}")
    _refuse(header, len(data))
    if header.format == "PNG" and is_cut_off(data):
        raise ImageError("cut off")
    return header


def _refuse(head: Header, size: int) -> None:
    """What is too large, and what OpenCV would read without its transparency."""
    limit = MAX_PIXELS * 8 // max(8, head.depth)
    if head.width * head.height > limit:
        deep = f" of {head.depth} bits" if head.depth > 8 else ""
        raise ImageError(f"{head.width} x {head.height} pixels{deep}: more than {limit} ({LIMIT} sets the limit)")
    if head.memory + size > MAX_BYTES:
        kind = f"{head.width} x {head.height} pixels of this kind of {head.format} ({head.per_pixel:g} bytes each)"
        needed = f"{(head.memory + size) / 1e6:.0f} MB of memory"
        raise ImageError(f"{kind} take {needed}: more than {MAX_BYTES / 1e6:.0f} MB ({LIMIT} sets the limit)")
    if head.format == "TIFF" and "alpha" in head.notes and {"gray", "palette", "floats"} & {*head.notes}:
        kind = ", ".join(note for note in head.notes if note in ("gray", "palette", "floats"))
        raise ImageError(f"a TIFF ({kind}) with transparency, which OpenCV does not read: save it as PNG")
