"""Images decoded and scaled once, in one file that all folds, epochs, experiments of one geometry and processes share.

A cache holds each image as `Geometry.scale` leaves it: padding, margins and crops come after, so experiments that
differ in those share it. Experiments that cut native pixels (data.geometry: crop, augmentations.rect_crop) share one of
unscaled images. What is read from it is, byte for byte, what decoding and scaling give.

The file: int64 magic and number of images n; n + 1 offsets and n x 2 sizes (height, width), int64; then uint8 pixels.
"""

import contextlib
import fcntl
import mmap
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO

import cv2
import numpy as np

from foldsmith.config import Config
from foldsmith.data.images import Geometry, Image, ImageError, geometry_of, read_image
from foldsmith.errors import EXIT_ENVIRONMENT, UserError
from foldsmith.files import atomic_path, sha256_lines
from foldsmith.inference.decoded import free_memory

MAGIC = 0x32_6567616D496466  # changes with the layout, and with anything that changes what decoding gives
CHUNK = 128  # images that are decoded before they are written
SAMPLE = 32  # images whose scaled sizes tell how large a cache will be


class CachedImages:
    """Reads images: from caches, and from their own files where no cache has them."""

    def __init__(self) -> None:
        self._places: dict[Path, tuple[Image, int, int, int]] = {}  # pixels of the cache, offset, height, width

    def __call__(self, path: Path) -> Image:
        """The image, scaled or not, uint8 (height, width, 3); may be read-only. Raises ImageError."""
        place = self._places.get(path)
        if place is None:
            return read_image(path)
        pixels, offset, height, width = place
        return pixels[offset : offset + height * width * 3].reshape(height, width, 3)

    def add(self, file: IO[bytes], paths: Sequence[Path]) -> bool:
        """Read `paths` from a cache's file from now on; False when it is none of so many images, or damaged.

        The file may be closed: the mapping has a descriptor of its own, which keeps the file's lock.
        """
        size, count = os.fstat(file.fileno()).st_size, len(paths)
        if size < _header_size(count):  # or empty, which can't be mapped
            return False
        data = np.frombuffer(mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ), dtype=np.uint8)
        header = data[: _header_size(count)].view(np.int64)
        offsets, sizes = header[2 : count + 3], header[count + 3 :].reshape(count, 2)
        if header[0] != MAGIC or header[1] != count or offsets[-1] != size:
            return False
        places = zip(offsets[:-1].tolist(), sizes.tolist(), strict=True)
        self._places |= {
            path: (data, start, *size) for path, (start, size) in zip(paths, places, strict=True) if size[0]
        }
        return True


def cached_images(config: Config, groups: Iterable[Sequence[Path]], *, build: bool = True) -> CachedImages:
    """What reads the images of an experiment: from caches that it finds or, as data.cache says, builds.

    Args:
        groups: lists of image files that have a cache each, so that experiments may share one and not the other.
        build: False: only look for what exists on disk.

    Raises:
        UserError: there is no room, and the config wants a cache all the same.
    """
    images, mode = CachedImages(), config.data.cache
    geometry = geometry_of(config)
    native = config.augmentations.rect_crop is not None or geometry.mode == "crop"
    for paths in groups:
        if mode == "off" or not paths or (mode == "ram" and not build):
            continue
        maker = CacheMaker(list(dict.fromkeys(paths)), None if native else geometry)
        try:
            maker.in_memory(images) if mode == "ram" else maker.on_disk(images, build, anyway=mode == "disk")
        except UserError as error:
            if mode != "auto" or error.code != EXIT_ENVIRONMENT:
                raise
            print(f"decoded images are not cached: {error.message}")
    return images


def check_mode(configs: Iterable[Config], processes: int) -> None:
    """Refuse data.cache: ram where several processes of this machine would each hold all images."""
    if processes > 1 and any(config.data.cache == "ram" for config in configs):
        raise UserError(
            f"each of {processes} processes of this machine would hold a copy of all images",
            key="data.cache",
            hint="auto or disk: one file, of which all processes use the same memory",
        )


class CacheMaker:
    """Finds or builds the cache of some images.

    Args:
        geometry: that scales them; None: they stay as they are.
    """

    def __init__(self, paths: Sequence[Path], geometry: Geometry | None) -> None:
        self.paths, self.geometry = paths, geometry
        scaled = "native" if geometry is None else f"{geometry.mode} {geometry.height} x {geometry.width}"
        self.words = f"{len(paths)} images, {scaled}"
        folders = {folder: folder.resolve() for folder in {path.parent for path in paths}}
        files = (f"{folders[path.parent] / path.name} {_stamp(path)}" for path in paths)
        self.name = f"{sha256_lines([str(MAGIC), cv2.__version__, scaled, *files])[:32]}.images"

    @property
    def path(self) -> Path:
        """The file on disk."""
        return cache_folder() / self.name

    def on_disk(self, images: CachedImages, build: bool, anyway: bool) -> None:
        """Add the cache on disk, built by this process or by another one that is waited for.

        Args:
            anyway: even if it is larger than the memory that is free, and so perhaps slower to read than to decode.
        """
        if self._add_existing(images) or not build:
            return
        with _building(self.path):
            if self._add_existing(images):  # another process built it meanwhile
                return
            size = self.estimate()
            if not anyway and size > free_memory():
                raise _no_room(f"{self.words}: {size / 1e9:.1f} GB are more than the memory that is free")
            make_room(self.path.parent, size)
            print(f"decoding {self.words}, once: {size / 1e6:.0f} MB in {self.path}", flush=True)
            with atomic_path(self.path, size) as temporary, open(temporary, "wb") as file:
                self._write(file)
        self._add_existing(images)

    def in_memory(self, images: CachedImages) -> None:
        """Add a cache that is gone when the process ends."""
        size = self.estimate()
        if size > free_memory() / 2:
            raise _no_room(f"{self.words}: {size / 1e9:.1f} GB are more than half of the memory that is free")
        print(f"decoding {self.words}, once: {size / 1e6:.0f} MB of memory", flush=True)
        try:
            with os.fdopen(os.memfd_create("foldsmith-images"), "w+b") as file:
                self._write(file)
                images.add(file, self.paths)
        except OSError as error:
            raise _no_room(f"{self.words}: {error.strerror}") from None

    def estimate(self) -> int:
        """Bytes that the cache will take, from the scaled sizes of a few images."""
        few = self.paths[:: -(-len(self.paths) // SAMPLE)]
        mean = sum(self._scaled(path).size for path in few) / len(few)
        return _header_size(len(self.paths)) + round(mean * len(self.paths))

    def _add_existing(self, images: CachedImages) -> bool:
        try:
            with open(self.path, "rb") as file:
                fcntl.flock(file, fcntl.LOCK_SH)  # nobody evicts it while this process, or a worker of it, reads it
                found = images.add(file, self.paths)
        except OSError:
            return False
        if found:
            with contextlib.suppress(OSError):  # of another user
                os.utime(self.path)  # for the least recently used to be known
        return found

    def _scaled(self, path: Path) -> Image:
        """The image as the cache has it; an unreadable one has no pixels: whoever wants it reads its file."""
        try:
            image = read_image(path)
            return image if self.geometry is None else self.geometry.scale(image)
        except (ImageError, OSError, ValueError):  # of names
            return np.empty((0, 0, 3), dtype=np.uint8)

    def _write(self, file: IO[bytes]) -> None:
        count = len(self.paths)
        header = np.zeros(_header_size(count) // 8, dtype=np.int64)
        header[:2] = MAGIC, count
        offsets, sizes = header[2 : count + 3], header[count + 3 :].reshape(count, 2)
        offsets[0] = _header_size(count)
        file.seek(offsets[0])
        with ThreadPoolExecutor(len(os.sched_getaffinity(0)), thread_name_prefix="decode") as pool:
            for start in range(0, count, CHUNK):
                for row, image in enumerate(pool.map(self._scaled, self.paths[start : start + CHUNK]), start):
                    file.write(np.ascontiguousarray(image).data)
                    offsets[row + 1], sizes[row] = offsets[row] + image.size, image.shape[:2]
        file.seek(0)
        file.write(header.data)
        file.flush()


def _stamp(path: Path) -> str:
    """What changes when a file does, or another takes its place. It may be missing: data.on_bad_image: skip."""
    try:
        stat = path.stat()
    except (OSError, ValueError) as error:  # of links that lead nowhere, of names
        return type(error).__name__
    return f"{stat.st_size} {stat.st_mtime_ns} {stat.st_ctime_ns} {stat.st_ino}"


def cache_folder() -> Path:
    """Where caches lie: $XDG_CACHE_HOME/foldsmith, by default ~/.cache/foldsmith."""
    named = Path(os.environ.get("XDG_CACHE_HOME", ""))
    try:  # a relative one does not count, by the XDG specification
        return (named if named.is_absolute() else Path.home() / ".cache") / "foldsmith"
    except RuntimeError:
        raise _no_room("there is no home folder for the cache") from None


def make_room(folder: Path, size: int) -> None:
    """Remove the least recently used caches until one more of `size` bytes leaves half of the disk's free space free.

    What the caches take counts as free space here. One that a process has open stays.

    Raises:
        UserError: when that is not enough; nothing is removed then.
    """
    stats = {}
    for path in folder.glob("*.images"):
        with contextlib.suppress(OSError):  # another process has just removed it
            stats[path] = path.stat()
    caches = sorted(stats, key=lambda path: stats[path].st_mtime)
    sizes = {path: stats[path].st_size for path in caches}
    limit = (shutil.disk_usage(folder).free + sum(sizes.values())) // 2
    excess = sum(sizes.values()) + size - limit
    evicted: list[Path] = []
    with contextlib.ExitStack() as opened:
        for path in caches:
            if excess <= 0:
                break
            with contextlib.suppress(OSError):  # in use, another user's, or just removed
                file = opened.enter_context(open(path, "rb"))
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                evicted.append(path)
                excess -= sizes[path]
        if excess > 0:
            what = f"{size / 1e9:.1f} GB, with the caches that are in use, are more than half of the free space"
            raise _no_room(f"{what} of {folder}")
        for path in evicted:
            path.unlink(missing_ok=True)
            path.with_suffix(".lock").unlink(missing_ok=True)
            print(f"removed the cache {path}, not used for the longest time")


@contextlib.contextmanager
def _building(path: Path) -> Iterator[None]:
    """Hold the lock of a cache that is built; the kernel releases it when the process ends, however it ends."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = open(path.with_suffix(".lock"), "wb")  # noqa: SIM115
    except OSError as error:
        raise _no_room(f"{path.parent} cannot be written: {error.strerror}") from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"waiting for another process that decodes the images into {path}", flush=True)
            fcntl.flock(lock, fcntl.LOCK_EX)
        except OSError as error:  # some network file systems
            raise _no_room(f"{path.parent} knows no locks: {error.strerror}") from None
        for left in path.parent.glob(f".{path.name}.*.tmp"):  # of a builder that was killed
            left.unlink()
        yield


def _no_room(message: str) -> UserError:
    hint = "data.cache: off decodes in every epoch; $XDG_CACHE_HOME names another disk"
    return UserError(message, key="data.cache", hint=hint, code=EXIT_ENVIRONMENT)


def _header_size(count: int) -> int:
    return 8 * (2 + count + 1 + 2 * count)
