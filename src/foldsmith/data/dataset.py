"""Training batches: which images, in which order, augmented how. Stateless: all follows from (seed, epoch)."""

import os
import signal
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset

from foldsmith.data.augment import Augment
from foldsmith.data.bad_images import RowReader
from foldsmith.data.sampling import EpochDraws
from foldsmith.errors import UserError
from foldsmith.failpoints import fail

Draw = tuple[int, int, int]  # (row of the dataset, epoch, how often the row was drawn before in this epoch)


class AugmentedImages(Dataset):
    """Draw -> (uint8 tensor (height, width, 3), row). Rows count within `paths`.

    An unreadable image, or one that the transforms spoil, comes back as a UserError value: raised in a worker process
    it would lose its fields.
    """

    def __init__(
        self, paths: Sequence[Path], ids: Sequence[str], augment: Augment, seed: int, skip_bad: bool = False
    ) -> None:
        self.reader = RowReader(paths, skip_bad)
        # An image's stream follows its id, so that it stays the same when other rows come or go.
        self.keys = [zlib.crc32(name.encode("utf-8")) for name in ids]
        self.augment = augment
        self.seed = seed

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, draw: Draw) -> tuple[torch.Tensor, int] | UserError:
        row, epoch, repeat = draw
        fail("worker.image")
        try:
            image, row = self.reader(row)
            return torch.from_numpy(self.augment(image, (self.seed, epoch, self.keys[row], repeat))), row
        except UserError as error:
            return error


class EpochOrder:
    """Batches of draws for the epoch that `epoch` is set to: an order that depends on (seed, epoch) only.

    Every row once, or as the sampler draws. `batches` may be set lower for an epoch: it is cut there.
    An incomplete last batch is dropped (batch norm fails on one image), unless it is the only one.
    """

    def __init__(
        self,
        rows: int,
        batch_size: int,
        seed: int,
        max_batches: int | None = None,
        sampler: EpochDraws | None = None,
    ) -> None:
        self.rows, self.batch_size, self.seed, self.sampler = rows, batch_size, seed, sampler
        batches = max(1, (sampler.length if sampler else rows) // batch_size)
        self.batches = min(batches, max_batches) if max_batches else batches
        self.epoch = 0

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
            yield draws


def train_loader(
    images: AugmentedImages, order: EpochOrder, *, workers: int, pin: bool, timeout: float = 0.0
) -> DataLoader:
    """A loader of (uint8 (batch, height, width, 3), int64 rows), or a UserError. Set `order.epoch` before each pass.

    Args:
        timeout: seconds after which a worker that gives nothing is an error; 0: never.
    """
    return DataLoader(
        images,
        batch_sampler=order,
        num_workers=workers,
        collate_fn=_collate,
        pin_memory=pin,
        persistent_workers=workers > 0,
        timeout=timeout if workers else 0,
        worker_init_fn=_init_worker if workers else None,
        # It draws a seed a pass from torch's global generator otherwise, more often with workers: dropout would change.
        generator=torch.Generator(),
    )


def auto_workers(device: str) -> int:
    """Data loading processes for this machine: one feeds the model on a CPU; on CUDA it takes all cores but one."""
    cores = len(os.sched_getaffinity(0))
    return 1 if device == "cpu" else max(1, min(8, cores - 1))


def _collate(samples: list[Any]) -> tuple[torch.Tensor, NDArray[np.int64]] | UserError:
    for sample in samples:
        if isinstance(sample, UserError):
            return sample
    images, rows = zip(*samples, strict=True)
    return torch.stack(images), np.array(rows)


def _init_worker(worker: int) -> None:
    cv2.setNumThreads(0)  # processes are the parallelism here
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of Ctrl-C: the parent ends its workers
