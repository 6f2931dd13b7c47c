"""Training batches: which images, in which order, augmented how. Stateless: all follows from (seed, epoch)."""

import os
import signal
import sys
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from foldsmith.data.augment import Augment
from foldsmith.data.bad_images import RowReader
from foldsmith.data.images import Image, read_image
from foldsmith.data.sampling import EpochDraws
from foldsmith.errors import UserError
from foldsmith.failpoints import fail

Draw = tuple[int, int, int]  # (row of the dataset, epoch, how often the row was drawn before in this epoch)


class Batch(NamedTuple):
    """What the input pipeline hands over."""

    images: torch.Tensor  # uint8 (N, height, width, 3)
    moves: torch.Tensor  # int32 (N, 7): a row of Moves an image
    rows: torch.Tensor  # int64 (N,), of the table that is trained on


class AugmentedImages(Dataset):
    """Draws -> Batch. Rows count within `paths`.

    An unreadable image, or one that the transforms spoil, comes back as a UserError value: raised in a worker process
    it would lose its fields.

    Args:
        read: what reads an image; may raise ImageError.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        ids: Sequence[str],
        augment: Augment,
        seed: int,
        read: Callable[[Path], Image] = read_image,
        bad_hint: str | None = "",
    ) -> None:
        self.reader = RowReader(paths, bad_hint, read)
        # An image's stream follows its id, so that it stays the same when other rows come or go.
        self.keys = [zlib.crc32(name.encode("utf-8")) for name in ids]
        self.augment, self.seed = augment, seed

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, draws: Sequence[Draw]) -> Batch | UserError:
        geometry = self.augment.geometry
        images = torch.empty((len(draws), geometry.height, geometry.width, 3), dtype=torch.uint8)
        pixels, moves, rows = images.numpy(), [], []
        for position, (row, epoch, repeat) in enumerate(draws):
            fail("worker.image")
            try:
                image, shown = self.reader(row)
                pixels[position], moved = self.augment(image, (self.seed, epoch, self.keys[row], repeat))
            except UserError as error:
                return error
            moves.append(moved)
            rows.append(shown)
        return Batch(images, torch.tensor(moves, dtype=torch.int32), torch.tensor(rows))


class EpochOrder:
    """Batches of draws for the epoch that `epoch` is set to: an order that depends on (seed, epoch) only.

    Every row once, or as the sampler draws. `batches` may be set lower for an epoch: it is cut there.
    An incomplete last batch is dropped (batch norm fails on one image), unless it is the only one. Of a batch of `n`
    draws those of `part(n)` are taken, where several processes share it.
    """

    def __init__(
        self,
        rows: int,
        batch_size: int,
        seed: int,
        max_batches: int | None = None,
        sampler: EpochDraws | None = None,
        part: Callable[[int], slice] | None = None,
    ) -> None:
        self.rows, self.batch_size, self.seed, self.sampler = rows, batch_size, seed, sampler
        batches = max(1, (sampler.length if sampler else rows) // batch_size)
        self.batches = min(batches, max_batches) if max_batches else batches
        self.epoch = 0
        self.part = part

    def __len__(self) -> int:
        return self.batches

    def __iter__(self) -> Iterator[list[Draw]]:
        generator = np.random.default_rng([self.seed, self.epoch])
        order = generator.permutation(self.sampler.draw(generator) if self.sampler else self.rows)
        drawn: Counter[int] = Counter()
        for batch in range(self.batches):
            draws = []
            for row in order[batch * self.batch_size : (batch + 1) * self.batch_size].tolist():
                draws.append((row, self.epoch, drawn[row]))
                drawn[row] += 1
            yield draws[self.part(len(draws))] if self.part else draws


def train_loader(
    images: AugmentedImages, order: EpochOrder, *, workers: int, pin: bool, timeout: float = 0.0
) -> DataLoader:
    """A loader of batches; of a UserError where one fails. Set `order.epoch` before each pass.

    Args:
        timeout: seconds after which a worker that gives nothing is an error; 0: never.
    """
    return DataLoader(
        images,
        sampler=order,
        batch_size=None,  # the order's items are whole batches
        num_workers=workers,
        pin_memory=pin,
        persistent_workers=workers > 0,
        timeout=timeout if workers else 0,
        worker_init_fn=_init_worker if workers else None,
        # It draws a seed a pass from torch's global generator otherwise, more often with workers: dropout would change.
        generator=torch.Generator(),
    )


def auto_workers(device: str, cores: int | None = None) -> int:
    """Data loading processes for so many cores; None: for this machine, or this one of torchrun's processes on it.

    On CUDA all cores but one feed the model. On CPU a process would take a core from the model, which costs more than
    it hides (docs/performance.md): batches are made between the steps, unless there are cores to spare.
    """
    if cores is None:
        cores = len(os.sched_getaffinity(0)) // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return min(2, cores // 8) if device == "cpu" else max(1, min(8, cores - 1))


def _init_worker(worker: int) -> None:
    cv2.setNumThreads(0)  # processes are the parallelism here
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of Ctrl-C: the parent ends its workers
    sys.excepthook = _say_unless_hung_up


def _say_unless_hung_up(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """multiprocessing's thread that hands over memory ends so when the parent was told to stop in the middle."""
    if not isinstance(error, ConnectionError | EOFError):
        sys.__excepthook__(kind, error, trace)
