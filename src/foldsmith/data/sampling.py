"""Which images an epoch draws where not each is drawn once, and weights of classes. All count the labels of a Table.

A sampler is made from scalars; `begin(table)` says what it draws from a table's rows: as many every epoch.
"""

from collections.abc import Callable
from typing import ClassVar, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from foldsmith.config.section import Component
from foldsmith.data.tables import Table
from foldsmith.errors import UserError

Rows = NDArray[np.int64]


class EpochDraws(NamedTuple):
    """The rows of an epoch: how many, and the function that draws them, in any order, from an epoch's own generator."""

    length: int
    draw: Callable[[np.random.Generator], Rows]


class Weighted:
    """As many draws as rows, with replacement. An image's weight is 1 / (images of its rarest label).

    An image without labels weighs as much as one of the most frequent class.
    """

    tasks: ClassVar = ("multilabel", "multiclass")

    def begin(self, table: Table) -> EpochDraws:
        counts = table.counts()
        images = np.append(counts, max(1, counts.max(initial=0)))[table.rarest()]
        share = 1 / images / np.sum(1 / images)
        return EpochDraws(len(table), lambda generator: generator.choice(len(table), len(table), p=share))


class Balanced:
    """Every class that occurs is drawn `threshold` times: a larger one is cut to it at random, anew every epoch; of a
    smaller one each image is drawn once, and then images at random, with replacement."""

    tasks: ClassVar = ("multiclass",)
    cuts = True  # classes above the threshold
    fills = True  # classes below it

    def __init__(self, threshold: int) -> None:
        if threshold < 1:
            raise ValueError(f"threshold is the number of images of a class, at least 1; got {threshold}")
        self.threshold = threshold

    def begin(self, table: Table) -> EpochDraws:
        counts = table.counts()
        rows = [np.flatnonzero(table.indices == index) for index in np.flatnonzero(counts)]  # one label a row
        sizes = [self._size(len(of_class)) for of_class in rows]

        def draw(generator: np.random.Generator) -> Rows:
            parts = []
            for of_class, size in zip(rows, sizes, strict=True):
                if size < len(of_class):
                    parts.append(generator.choice(of_class, size, replace=False))
                else:
                    parts += [of_class, generator.choice(of_class, size - len(of_class))]
            return np.concatenate(parts)

        return EpochDraws(sum(sizes), draw)

    def _size(self, count: int) -> int:
        if count > self.threshold:
            return self.threshold if self.cuts else count
        return self.threshold if self.fills else count


class Oversample(Balanced):
    """Every image once; of a class with fewer than `threshold` images then some at random, up to it."""

    cuts = False


class Undersample(Balanced):
    """Every image once; a class with more than `threshold` images is cut to it at random, anew every epoch."""

    fills = False


def build_sampler(sampler: Component | None, table: Table) -> EpochDraws | None:
    """What train.sampler draws from a fold's training rows; None: each once.

    Args:
        sampler: checked by the leaf pass.
    """
    return None if sampler is None else SAMPLERS[sampler.name](**sampler.params).begin(table)


def class_weights(table: Table, formula: Literal["balanced", "log"]) -> NDArray[np.float32]:
    """A weight for each class from its number of images, float32 (classes,).

    balanced: images / (classes * count), as scikit-learn's compute_class_weight where an image has one label.
    log: log(1 + (largest count / count)^2).

    Raises:
        UserError: when a class has no image: its weight would be infinite.
    """
    counts = table.counts()
    missing = [table.classes.names[index] for index in np.flatnonzero(counts == 0)]
    if missing:
        what = (
            repr(missing[0]) if len(missing) == 1 else f"{len(missing)} of {len(counts)} classes, {missing[0]!r} first,"
        )
        raise UserError(
            f"{formula} has no weight for a class without images: {what} {'has' if len(missing) == 1 else 'have'} none",
            key="loss.class_weights",
            hint="remove such classes from labels.csv, or take loss.class_weights: null",
        )
    if formula == "balanced":
        return (len(table) / (len(counts) * counts)).astype(np.float32)
    return np.log(1 + (counts.max() / counts) ** 2).astype(np.float32)


SAMPLERS: dict[str, type[Weighted] | type[Balanced]] = {
    "weighted": Weighted,
    "oversample": Oversample,
    "undersample": Undersample,
    "balanced": Balanced,
}
