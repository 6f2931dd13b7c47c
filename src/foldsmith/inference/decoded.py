"""Images decoded once for everything that looks at them: all members, folds and views of an ensemble.

Each image is read once and cut for every geometry that is asked for. The uint8 results stay in memory or, where they
would take too much of it, in a nameless temporary file that vanishes with the process.
"""

import os
import shutil
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from foldsmith.data.images import Geometry, Image, ImageError, read_image
from foldsmith.errors import EXIT_ENVIRONMENT, UserError

AHEAD = 2  # batches that are decoded while the model runs


@dataclass(frozen=True)
class Canvas:
    """What is kept of an image: the middle (height + margin, width + margin) of its geometry's canvas."""

    geometry: Geometry
    margin: int

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.geometry.height + self.margin, self.geometry.width + self.margin, 3

    def cut(self, image: Image) -> Image:
        return self.middle(self.geometry.canvas(image, self.margin))

    def middle(self, canvas: Image) -> Image:
        height, width, _ = self.shape
        top, left = (canvas.shape[0] - height) // 2, (canvas.shape[1] - width) // 2
        return canvas[top : top + height, left : left + width]


class DecodedImages:
    """Batches of decoded images, for one pass over them or, within a `with` block, for many.

    Args:
        paths: the image files.
        keep: what several passes will ask for; none: there is one pass, of any canvas.
        bad_hint: of the error about an unreadable image; None: it is given as a black one, and noted in `bad`.
        memory_limit: bytes that the kept images may take in memory; None: half of what is free.
        read: what reads an image; may raise ImageError; None: read_image.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        keep: Sequence[Canvas] = (),
        *,
        bad_hint: str | None = "",
        memory_limit: int | None = None,
        read: Callable[[Path], Image] | None = None,
    ) -> None:
        self.paths, self.bad_hint, self.read = list(paths), bad_hint, read or read_image
        self.bad: dict[int, str] = {}  # reasons by row
        self.waited = 0.0  # seconds for images that were decoded for the first time
        self._canvases = _largest(keep)
        self._decoded = np.zeros(len(paths), dtype=np.bool_)
        self._store = self._room(memory_limit) if self._canvases else None

    def __enter__(self) -> "DecodedImages":
        return self

    def __exit__(self, *exception: object) -> None:
        """Forget the images."""
        self._store = None

    def __len__(self) -> int:
        return len(self.paths)

    def batches(self, canvas: Canvas, batch_size: int) -> Iterator[NDArray[np.uint8]]:
        """Batches (n, height + margin, width + margin, 3) in the order of the paths, decoded ahead by threads."""
        threads = max(1, len(os.sched_getaffinity(0)))
        pool = ThreadPoolExecutor(threads, thread_name_prefix="decode")
        ahead: deque[list[Future[Image]]] = deque()
        try:
            for start in range(0, len(self.paths), batch_size):
                rows = range(start, min(start + batch_size, len(self.paths)))
                ahead.append([pool.submit(self._load, row, canvas) for row in rows])
                if len(ahead) > AHEAD:
                    yield self._stacked(ahead.popleft())
            while ahead:
                yield self._stacked(ahead.popleft())
        finally:
            pool.shutdown(cancel_futures=True)  # who stops early does not wait for what was ahead

    def decoding(self) -> tuple[float, float]:
        """Seconds that were waited for images to be decoded, and that will be, for those that are kept then."""
        done = int(self._decoded.sum())
        if self._store is None or done == 0:
            return 0.0, 0.0
        return self.waited, self.waited * (len(self.paths) - done) / done

    def _stacked(self, futures: Sequence[Future[Image]]) -> NDArray[np.uint8]:
        started = time.monotonic()
        batch = np.stack([future.result() for future in futures])
        if not self._decoded.all():
            self.waited += time.monotonic() - started
        return batch

    def _load(self, row: int, canvas: Canvas) -> Image:
        """One image of one canvas; decodes all canvases of an image when it is seen for the first time."""
        if self._store is None:
            return self._read(row, [canvas])[0]
        if not self._decoded[row]:
            for kept, cut in zip(self._canvases, self._read(row, self._canvases), strict=True):
                self._store[kept][row] = cut
            self._decoded[row] = True
        kept = next(each for each in self._canvases if each.geometry == canvas.geometry)
        return canvas.middle(self._store[kept][row])

    def _read(self, row: int, canvases: Sequence[Canvas]) -> list[Image]:
        try:
            image = self.read(self.paths[row])
            return [canvas.cut(image) for canvas in canvases]
        except (ImageError, OSError, ValueError, MemoryError, cv2.error) as error:  # of names, of sizes
            if self.bad_hint is not None:
                raise UserError(f"is not a readable image: {error}", file=self.paths[row], hint=self.bad_hint) from None
            self.bad[row] = (str(error).strip().splitlines() or [type(error).__name__])[-1]
            return [np.zeros(canvas.shape, dtype=np.uint8) for canvas in canvases]

    def _room(self, memory_limit: int | None) -> dict[Canvas, NDArray[np.uint8]] | None:
        """Where decoded images are kept: memory, else a temporary file, else nowhere: then each pass decodes."""
        shapes = {canvas: (len(self.paths), *canvas.shape) for canvas in self._canvases}
        size = sum(int(np.prod(shape)) for shape in shapes.values())
        if size <= (free_memory() // 2 if memory_limit is None else memory_limit):
            return {canvas: np.empty(shape, dtype=np.uint8) for canvas, shape in shapes.items()}
        if size <= _free_disk() // 2:
            return {canvas: _in_a_nameless_file(shape) for canvas, shape in shapes.items()}
        return None


def _largest(canvases: Sequence[Canvas]) -> list[Canvas]:
    """Of each geometry the one with the largest margin: the others are its middle."""
    margins: dict[Geometry, int] = {}
    for canvas in canvases:
        margins[canvas.geometry] = max(canvas.margin, margins.get(canvas.geometry, 0))
    return [Canvas(geometry, margin) for geometry, margin in margins.items()]


def _in_a_nameless_file(shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """An array on disk, in a file without a name: it vanishes with the process, however that ends."""
    with tempfile.TemporaryFile(prefix="foldsmith-images-") as file:
        return np.memmap(file, dtype=np.uint8, mode="w+", shape=shape)


def _free_disk() -> int:
    """Bytes free where temporary files go; 0 where they have no place outside of what may be a kernel's output."""
    try:
        return shutil.disk_usage(private_folder()).free
    except (UserError, OSError):
        return 0


def private_folder() -> Path:
    """The folder of temporary files, proved not to lie in the working folder, which a kernel gives away.

    Raises:
        UserError: it does (tempfile falls back to the working folder), or there is none.
    """
    hint = "set TMPDIR to a folder outside of the working folder"
    try:
        folder = Path(tempfile.gettempdir()).resolve()
    except FileNotFoundError:
        raise UserError("there is no folder for temporary files", hint=hint, code=EXIT_ENVIRONMENT) from None
    working = Path.cwd()
    if folder.is_relative_to(working) and working != Path("/"):
        raise UserError(
            "temporary files would lie in the working folder, whose files a kernel gives away",
            file=folder,
            hint=hint,
            code=EXIT_ENVIRONMENT,
        )
    return folder


def free_memory() -> int:
    """Bytes that this process may still take: of the machine's memory or, if that is less, of its control group's."""
    with open("/proc/meminfo", encoding="ascii") as file:
        free = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in file}["MemAvailable"]
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text(encoding="ascii").strip()
        used = int(Path("/sys/fs/cgroup/memory.current").read_text(encoding="ascii"))
    except (OSError, ValueError):
        return free
    return free if limit == "max" else min(free, max(0, int(limit) - used))
