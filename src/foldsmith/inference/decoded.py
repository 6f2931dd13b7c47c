"""Images decoded once for everything that looks at them: all members, folds and views of an ensemble.

Each image is read once and cut for every geometry that is asked for. The uint8 results stay in memory or, where they
would take too much of it, in a file of a private temporary folder that vanishes with the process.
"""

import os
import shutil
import tempfile
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from foldsmith.data.images import UNREADABLE_HINT, Geometry, Image, ImageError, read_image
from foldsmith.errors import UserError

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
        canvas = self.geometry.canvas(image, self.margin)
        height, width, _ = self.shape
        top, left = (canvas.shape[0] - height) // 2, (canvas.shape[1] - width) // 2
        return canvas[top : top + height, left : left + width]


class DecodedImages:
    """Batches of decoded images, for one pass over them or, within a `with` block, for many.

    Args:
        paths: the image files.
        keep: what several passes will ask for; none: there is one pass, of any canvas.
        skip_bad: give unreadable images as black ones and note them in `bad`; else they are errors.
        memory_limit: bytes that the kept images may take in memory; None: half of what is free.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        keep: Sequence[Canvas] = (),
        *,
        skip_bad: bool = False,
        memory_limit: int | None = None,
    ) -> None:
        self.paths, self.skip_bad = list(paths), skip_bad
        self.bad: dict[int, str] = {}  # reasons by row
        self._canvases = list(dict.fromkeys(keep))
        self._decoded = np.zeros(len(paths), dtype=np.bool_)
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._store = self._room(memory_limit) if self._canvases else None

    def __enter__(self) -> "DecodedImages":
        return self

    def __exit__(self, *exception: object) -> None:
        """Forget the images, and remove the temporary file."""
        self._store = None
        if self._folder is not None:
            self._folder.cleanup()

    def __len__(self) -> int:
        return len(self.paths)

    def batches(self, canvas: Canvas, batch_size: int) -> Iterator[NDArray[np.uint8]]:
        """Batches (n, height + margin, width + margin, 3) in the order of the paths, decoded ahead by threads."""
        threads = max(1, len(os.sched_getaffinity(0)))
        with ThreadPoolExecutor(threads, thread_name_prefix="decode") as pool:
            ahead: deque[list[Future[Image]]] = deque()
            for start in range(0, len(self.paths), batch_size):
                rows = range(start, min(start + batch_size, len(self.paths)))
                ahead.append([pool.submit(self._load, row, canvas) for row in rows])
                if len(ahead) > AHEAD:
                    yield np.stack([future.result() for future in ahead.popleft()])
            while ahead:
                yield np.stack([future.result() for future in ahead.popleft()])

    def _load(self, row: int, canvas: Canvas) -> Image:
        """One image of one canvas; decodes all canvases of an image when it is seen for the first time."""
        if self._store is None:
            return self._read(row, [canvas])[0]
        if not self._decoded[row]:
            for kept, cut in zip(self._canvases, self._read(row, self._canvases), strict=True):
                self._store[kept][row] = cut
            self._decoded[row] = True
        return self._store[canvas][row]

    def _read(self, row: int, canvases: Sequence[Canvas]) -> list[Image]:
        try:
            image = read_image(self.paths[row])
        except (ImageError, OSError) as error:
            if not self.skip_bad:
                raise UserError(
                    f"is not a readable image: {error}", file=self.paths[row], hint=UNREADABLE_HINT
                ) from None
            self.bad[row] = str(error)
            return [np.zeros(canvas.shape, dtype=np.uint8) for canvas in canvases]
        return [canvas.cut(image) for canvas in canvases]

    def _room(self, memory_limit: int | None) -> dict[Canvas, NDArray[np.uint8]] | None:
        """Where decoded images are kept: memory, else a temporary file, else nowhere: then each pass decodes."""
        shapes = {canvas: (len(self.paths), *canvas.shape) for canvas in self._canvases}
        size = sum(int(np.prod(shape)) for shape in shapes.values())
        if size <= (free_memory() // 2 if memory_limit is None else memory_limit):
            return {canvas: np.empty(shape, dtype=np.uint8) for canvas, shape in shapes.items()}
        if size <= _free_disk() // 2:
            self._folder = tempfile.TemporaryDirectory(prefix="foldsmith-images-")
            files = [Path(self._folder.name) / str(number) for number in range(len(shapes))]
            return {
                canvas: np.memmap(file, dtype=np.uint8, mode="w+", shape=shape)
                for file, (canvas, shape) in zip(files, shapes.items(), strict=True)
            }
        return None


def _free_disk() -> int:
    """Bytes free in the folder for temporary files; 0 where that would be the working folder: a kernel's output."""
    folder = tempfile.gettempdir()  # falls back to the working folder
    return 0 if Path(folder).samefile(os.curdir) else shutil.disk_usage(folder).free


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
