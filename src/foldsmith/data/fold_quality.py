"""How good a split is: sizes of folds, spread of classes, classes that a fold lacks, groups."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from foldsmith.data.sheets import csv_line
from foldsmith.data.tables import Classes, Table
from foldsmith.files import write_text

SHOWN = 5  # names of classes in a line


@dataclass(frozen=True)
class FoldQuality:
    """Counts of a split, from which all of the report follows."""

    classes: Classes
    images: NDArray[np.int64]  # of every fold, (folds,)
    counts: NDArray[np.int64]  # images of a class in a fold, (folds, classes)
    groups: NDArray[np.int64] | None  # groups in every fold, (folds,)

    @property
    def totals(self) -> NDArray[np.int64]:
        """Images of every class."""
        return self.counts.sum(axis=0)

    @property
    def deviations(self) -> NDArray[np.float64]:
        """Of every class: the largest |images in a fold / images expected there - 1|; NaN where it has none.

        A fold of a fifth of all images is expected to hold a fifth of each class.
        """
        expected = np.outer(self.images / self.images.sum(), self.totals)
        with np.errstate(invalid="ignore"):
            return np.abs(self.counts / np.where(expected > 0, expected, np.nan) - 1).max(axis=0)

    @property
    def rare(self) -> NDArray[np.int64]:
        """Classes with fewer images than folds, but any: no split has them in every fold."""
        return np.flatnonzero((self.totals > 0) & (self.totals < len(self.images)))

    def absent(self, fold: int) -> NDArray[np.int64]:
        """Classes that have images, but none in the fold."""
        return np.flatnonzero((self.totals > 0) & (self.counts[fold] == 0))


def fold_quality(table: Table, fold_of: NDArray[np.int64], num_folds: int) -> FoldQuality:
    """Measure a split; fold_of[i] is the fold of row i."""
    counts = np.zeros((num_folds, len(table.classes.tokens)), dtype=np.int64)
    np.add.at(counts, (np.repeat(fold_of, np.diff(table.starts)), table.indices), 1)
    groups = None
    if table.groups is not None:
        pairs = set(zip(fold_of.tolist(), table.groups, strict=True))
        groups = np.bincount([fold for fold, _ in pairs], minlength=num_folds)
    return FoldQuality(table.classes, np.bincount(fold_of, minlength=num_folds), counts, groups)


def describe(quality: FoldQuality) -> str:
    """The report as lines of text."""
    names, totals = quality.classes.names, quality.totals
    lines = []
    for fold, images in enumerate(quality.images):
        groups = "" if quality.groups is None else f", groups {quality.groups[fold]}"
        absent = _listed(names, quality.absent(fold))
        lines.append(
            f"fold {fold}: images {images} ({images / quality.images.sum():.1%}){groups}, classes absent {absent}"
        )
    common = np.flatnonzero(totals >= len(quality.images))
    if len(common):
        deviations = quality.deviations[common]
        worst = common[deviations.argmax()]
        lines.append(
            f"even spread is missed by {np.median(deviations):.1%} (median of {len(common)} classes, each in its worst "
            f"fold), at most by {deviations.max():.1%} ({names[worst]!r}, {totals[worst]} images)"
        )
    lines.append(f"classes with fewer images than folds: {_listed(names, quality.rare)}")
    lines.append(f"classes without an image: {_listed(names, np.flatnonzero(totals == 0))}")
    return "\n".join(lines)


def write_report(path: Path, quality: FoldQuality) -> None:
    """A csv with a row a class: its token, name, images, images in every fold, and largest relative deviation."""
    folds = [f"fold{fold}" for fold in range(len(quality.images))]
    lines = [csv_line(["class", "name", "images", *folds, "largest_deviation"])]
    for index, (token, name) in enumerate(zip(quality.classes.tokens, quality.classes.names, strict=True)):
        deviation = quality.deviations[index]
        counts = [str(count) for count in (quality.totals[index], *quality.counts[:, index])]
        lines.append(csv_line([token, name, *counts, "" if np.isnan(deviation) else f"{deviation:.4f}"]))
    write_text(path, "".join(lines))


def _listed(names: Sequence[str], which: NDArray[np.int64]) -> str:
    """The number of some classes and the first of their names."""
    if not len(which):
        return "0"
    return f"{len(which)} ({', '.join(names[index] for index in which[:SHOWN])}{', ...' if len(which) > SHOWN else ''})"
