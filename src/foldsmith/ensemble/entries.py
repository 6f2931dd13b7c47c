"""The entries of the OOF matrix that can matter to a thresholded F-score, about 1 to 3 % of it.

With weights that are not negative and sum to one, a blend exceeds a threshold only where at least one member does. So
for thresholds from a floor up, only entries at which some member exceeds the floor can be predicted. The files are
memory-mapped and read once, fold by fold; entries up to the floor are never kept.

That no threshold below the floor scores better is not assumed: `Objective.best` bounds the score there. The floor is
chosen on a sample so that this bound is expected to hold, and where it does not, lowered, and the files read again.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from foldsmith.data.oof_files import check_range
from foldsmith.ensemble.file import blend
from foldsmith.ensemble.members import OofData
from foldsmith.ensemble.threads import in_threads
from foldsmith.fbeta import fbeta_of_counts
from foldsmith.metrics import Probabilities, best_fbeta

CHUNK = 256  # rows that are looked at together: all members' parts of them stay in the processor's cache
MAPPED = 16 * CHUNK
SAMPLE = 2048  # rows by which the floor is chosen
PREDICTED = (4, 6, 8, 10, 11, 12, 13, 14, 15, 16, 20, 24, 32, 48)  # labels an image at the floors that are tried
ALL_UP_TO = 2_000_000  # a matrix of so many entries is kept whole


@dataclass(frozen=True)
class Entries:
    """(image, class) pairs in rising order at which some member exceeds `floor`, and what the members say there."""

    values: NDArray[np.float32]  # (members, entries)
    images: NDArray[np.int32]
    columns: NDArray[np.int32]
    is_label: NDArray[np.bool_]
    labels: NDArray[np.int32]  # (2, labels) image and class of every label, kept or not
    shape: tuple[int, int]  # images, classes
    floor: float

    def above(self, floor: float) -> "Entries":
        """Fewer of them: those at which some member exceeds a higher floor."""
        kept = np.flatnonzero(self.values.max(axis=0) > np.float32(below(floor)))
        return self._take(kept, self.images[kept], self.labels, self.shape[0], floor)

    def of_images(self, chosen: NDArray[np.bool_]) -> "Entries":
        """Those of some images, numbered anew. `chosen` is bool (images,)."""
        kept = np.flatnonzero(chosen[self.images])
        number = np.cumsum(chosen, dtype=np.int32) - 1
        images, columns = self.labels[:, np.flatnonzero(chosen[self.labels[0]])]
        labels = np.stack([number[images], columns])
        return self._take(kept, number[self.images[kept]], labels, int(number[-1]) + 1, self.floor)

    def of_members(self, chosen: Sequence[int]) -> "Entries":
        """Those of some members, in the order given."""
        return replace(self, values=self.values[list(chosen)]).above(self.floor)

    def _take(
        self, kept: NDArray[np.int64], images: NDArray[np.int32], labels: NDArray[np.int32], count: int, floor: float
    ) -> "Entries":
        values = np.stack([member[kept] for member in self.values])
        return Entries(values, images, self.columns[kept], self.is_label[kept], labels, (count, self.shape[1]), floor)


def below(floor: float) -> float:
    """A little less than a floor: a float32 sum of shares may exceed the largest member by rounding."""
    return floor - 1e-5 * abs(floor)


def read_entries(data: OofData, floor: float) -> Entries:
    """Read all files once.

    Raises:
        UserError: values are NaN, out of range, or not those that the sidecar tells of; names the file.
    """
    folds = in_threads(lambda fold: _read_fold(data, fold, floor), range(len(data.members[0].rows)))
    parts, classes = [part for fold in folds for part in fold], data.targets.shape[1]
    position = np.concatenate([part for _, part in parts])
    order = np.argsort(position, kind="stable")
    position = position[order]
    values = np.empty((len(data.members), len(position)), dtype=np.float32)
    for number in range(len(values)):
        values[number] = np.concatenate([part[number] for part, _ in parts])[order]
    images, columns = (position // classes).astype(np.int32), (position % classes).astype(np.int32)
    labels = np.stack(np.nonzero(data.targets)).astype(np.int32)
    is_label = data.targets.reshape(-1)[position]
    return Entries(values, images, columns, is_label, labels, data.targets.shape, floor)


def _read_fold(data: OofData, fold: int, floor: float) -> list[tuple[NDArray[np.float32], NDArray[np.int64]]]:
    """The members' values and the flat positions of one fold's entries, in parts."""
    parts, digests = [], [hashlib.sha256() for _ in data.members]
    rows, classes, lowest = data.members[0].rows[fold], data.targets.shape[1], data.members[0].lowest
    for first in range(0, len(rows), MAPPED):
        # Mapped anew now and then, for what was read counts as this process's memory while it is mapped.
        maps = [member.map(fold)[first : first + MAPPED] for member in data.members]
        for start in range(0, len(maps[0]), CHUNK):
            chunk = [values[start : start + CHUNK] for values in maps]
            for digest, values in zip(digests, chunk, strict=True):
                digest.update(values.data)
            least, most = _extremes(chunk)
            if not (least.min() >= lowest and most.max() <= 1):  # NaN fails too
                for member, values in zip(data.members, chunk, strict=True):
                    check_range(values, member.files[fold], lowest)
            flat = np.flatnonzero(most.reshape(-1) > np.float32(below(floor)))
            position = rows[first + start + flat // classes] * classes + flat % classes
            parts.append((np.stack([part.reshape(-1)[flat] for part in chunk]), position))
    for member, digest in zip(data.members, digests, strict=True):
        member.check_array(fold, digest.hexdigest())
    return parts


def _extremes(chunk: list[Probabilities]) -> tuple[Probabilities, Probabilities]:
    """The smallest and the largest of the members' values at each entry."""
    if len(chunk) == 1:
        return chunk[0], chunk[0]
    least, most = np.minimum(chunk[0], chunk[1]), np.maximum(chunk[0], chunk[1])
    for part in chunk[2:]:
        np.minimum(least, part, out=least)
        np.maximum(most, part, out=most)
    return least, most


def choose_floor(data: OofData, beta: float, by_class: bool) -> float:
    """The highest floor below which, on a sample of the images, equal weights cannot do better than above it."""
    lowest = data.members[0].lowest
    if data.targets.size <= ALL_UP_TO:
        return lowest
    share = SAMPLE // len(data.members[0].rows)
    rows = np.concatenate([rows[:share] for rows in data.members[0].rows])
    parts = [np.concatenate([member.map(fold)[:share] for fold in range(len(member.rows))]) for member in data.members]
    probabilities, targets = blend(parts, [1.0] * len(parts)), data.targets[rows]
    if by_class:
        probabilities, targets = probabilities.T, targets.T
    true = np.count_nonzero(targets, axis=1)
    kept = min(PREDICTED[-1] * len(rows), probabilities.size)
    highest = np.sort(np.partition(probabilities.reshape(-1), -kept)[-kept:])[::-1]
    best = best_fbeta(probabilities, targets, beta, floor=max(lowest, float(highest[-1])))
    for predicted in PREDICTED:
        floor = float(highest[min(predicted * len(rows), kept) - 1])
        wrong = np.count_nonzero((probabilities > np.float32(floor)) & ~targets, axis=1)
        if fbeta_of_counts(true, true, true + wrong, beta).mean() < 0.99 * best.score:
            return max(lowest, floor)
    return lowest
