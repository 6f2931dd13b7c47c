"""Labels that are likely missing or wrong, from OOF predictions: confident learning.

A model that did not see an image doubts its labels where its probability is far from what it usually says of such
labels. "Usually" is measured for each class alone, because rare and hard classes get low probabilities throughout:
the mean probability of the images that have the label (the class's self-confidence), and of those that have not.

- A label is likely *missing* where an image without it has a probability above the self-confidence; the higher the
  probability, the likelier.
- A label is likely *wrong* where an image that has it has a probability below the mean of the images without it; the
  lower the probability, the likelier.
- With one label an image, a label is likely wrong where another class exceeds its own self-confidence; that class is
  suggested, and the order goes by how much more probable it is than the label.

Thresholds by class and "noise is where a confident model disagrees" are of Northcutt, Jiang and Chuang, Confident
Learning, JAIR 70 (2021), arXiv:1911.00068; a class at a time for multi-label is of Thyagarajan et al. (2022),
arXiv:2211.13895. Unlike there, no share of issues is estimated: the list is a ranking to look through from the top.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from foldsmith.data.sheets import csv_line
from foldsmith.ensemble.members import OofData
from foldsmith.files import write_text
from foldsmith.metrics import Probabilities, Targets

ROWS = 4096  # that are looked at together
KINDS = ("missing", "wrong")


@dataclass(frozen=True)
class Issue:
    """One label of one image. `row` and `column` count in the label table and the class list."""

    kind: str  # of KINDS
    row: int
    column: int
    probability: float
    usual: float  # the class's self-confidence: the mean probability of the images that have the label
    doubt: float  # the larger the likelier, within a kind
    suggested: int | None = None  # the class to take instead, where an image has one label


def label_issues(probabilities: Probabilities, targets: Targets, task: str, most: int = 1000) -> list[Issue]:
    """The likeliest issues, at most `most` of each kind, missing ones first, each kind in falling order of doubt."""
    with_label, without = _usual(probabilities, targets)
    if task == "multiclass":
        return _ranked(_wrong_classes(probabilities, targets, with_label), most)
    missing = _ranked(_multilabel("missing", probabilities, targets, with_label, without), most)
    return missing + _ranked(_multilabel("wrong", probabilities, targets, with_label, without), most)


def _usual(probabilities: Probabilities, targets: Targets) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean probability of every class over the images that have the label, and over those that have not.

    Infinity where no image has it: then nothing can exceed it; 0 where every image has it.
    """
    classes = targets.shape[1]
    sums, inside = np.zeros(classes), np.zeros(classes)
    for start in range(0, len(targets), ROWS):
        part, labels = probabilities[start : start + ROWS], targets[start : start + ROWS]
        sums += part.sum(axis=0, dtype=np.float64)
        inside += np.where(labels, part, np.float32(0)).sum(axis=0, dtype=np.float64)
    counts = np.count_nonzero(targets, axis=0)
    with_label = np.where(counts > 0, inside / np.maximum(counts, 1), np.inf)
    return with_label, (sums - inside) / np.maximum(len(targets) - counts, 1)


def _multilabel(
    kind: str,
    probabilities: Probabilities,
    targets: Targets,
    with_label: NDArray[np.float64],
    without: NDArray[np.float64],
) -> Iterator[Issue]:
    for start in range(0, len(targets), ROWS):
        part, labels = probabilities[start : start + ROWS], targets[start : start + ROWS]
        found = ~labels & (part > with_label) if kind == "missing" else labels & (part < without)
        for row, column in zip(*np.nonzero(found), strict=True):
            value, usual = float(part[row, column]), float(with_label[column])
            doubt = value if kind == "missing" else 1 - value
            yield Issue(kind, start + int(row), int(column), value, usual, doubt)


def _wrong_classes(probabilities: Probabilities, targets: Targets, with_label: NDArray[np.float64]) -> Iterator[Issue]:
    given = targets.argmax(axis=1)
    for row, (values, column) in enumerate(zip(probabilities, given, strict=True)):
        confident = np.where(values >= with_label, values, np.float32(-1))
        best = int(confident.argmax())
        if confident[best] > values[column] and best != column:
            value = float(values[column])
            doubt = float(confident[best]) - value
            yield Issue("wrong", row, int(column), value, float(with_label[column]), doubt, best)


def _ranked(issues: Iterator[Issue], most: int) -> list[Issue]:
    return sorted(issues, key=lambda issue: -issue.doubt)[:most]


def write_issues(path: Path, issues: list[Issue], ids: list[str], data: OofData) -> None:
    """A csv with a row an issue: id, kind, label, name, probability, usual, doubt, suggested (one label an image)."""
    lines = [csv_line(["id", "kind", "label", "name", "probability", "usual", "doubt", "suggested"])]
    for issue in issues:
        numbers = [f"{number:.4f}" for number in (issue.probability, issue.usual, issue.doubt)]
        suggested = "" if issue.suggested is None else data.classes[issue.suggested]
        label, name = data.classes[issue.column], data.names[issue.column]
        lines.append(csv_line([ids[issue.row], issue.kind, label, name, *numbers, suggested]))
    write_text(path, "".join(lines))
