"""Images for the page: the worst mistakes and the likeliest issues of labels, as small pictures inside the file."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from foldsmith.config import Config
from foldsmith.data.images import ImageError, find_images, read_image
from foldsmith.data.tables import Table
from foldsmith.ensemble.members import OofData
from foldsmith.errors import UserError
from foldsmith.metrics import Probabilities, decide
from foldsmith.report.noise import Issue, label_issues

SHOWN = 24  # images a list
SIDE = 176  # pixels of the longer side
LABELS = 8  # predicted names of an image
MOST_BYTES = 8_000_000  # of all pictures of a page, as text


@dataclass
class Pictures:
    """Each image once, as a data URI by id, until `MOST_BYTES` are spent."""

    uris: dict[str, str] = field(default_factory=dict)
    bytes: int = 0

    def add(self, name: str, path: Path) -> None:
        """Embed an image; one that can't be read, or that no longer fits, is left out."""
        if name in self.uris or self.bytes >= MOST_BYTES:
            return
        try:
            uri = data_uri(path)
        except ImageError:
            return
        self.uris[name] = uri
        self.bytes += len(uri)


def data_uri(path: Path) -> str:
    """An image as a small WebP inside a data URI."""
    image = read_image(path)
    scale = min(1.0, SIDE / max(image.shape[:2]))
    size = (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))
    small = image if scale == 1.0 else cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    done, data = cv2.imencode(".webp", cv2.cvtColor(small, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_WEBP_QUALITY, 75])
    assert done
    return "data:image/webp;base64," + base64.b64encode(data.tobytes()).decode("ascii")


def image_losses(probabilities: Probabilities, data: OofData) -> np.ndarray:
    """Cross-entropy of every image, summed over classes, float64 (images,)."""
    losses = np.empty(len(probabilities))
    for start in range(0, len(losses), 4096):
        part, labels = probabilities[start : start + 4096], data.targets[start : start + 4096]
        said = np.where(labels, part, 1 - part) if data.task == "multilabel" else np.where(labels, part, np.float32(1))
        losses[start : start + 4096] = -np.log(np.maximum(said, np.float32(1e-7))).sum(axis=1, dtype=np.float64)
    return losses


def gallery(
    probabilities: Probabilities, data: OofData, table: Table, config: Config, threshold: float | None, into: Pictures
) -> dict[str, Any]:
    """The worst mistakes, and the likeliest missing and wrong labels, of one model.

    Args:
        threshold: at which labels are predicted; None: the top class.
    """
    losses = image_losses(probabilities, data)
    worst = np.argsort(-losses, kind="stable")[:SHOWN]
    issues = label_issues(probabilities, data.targets, data.task, most=SHOWN)
    rows = [int(row) for row in worst] + [issue.row for issue in issues]
    _embed(rows, table, config, into)

    def card(row: int) -> dict[str, Any]:
        values = probabilities[row]
        predicted = np.flatnonzero(decide(values[None], threshold)[0])
        predicted = predicted[np.argsort(-values[predicted], kind="stable")][:LABELS]
        return {
            "id": table.ids[row],
            "true": [data.names[column] for column in np.flatnonzero(data.targets[row])],
            "predicted": [[data.names[column], round(float(values[column]), 3)] for column in predicted],
        }

    return {
        "mistakes": [card(int(row)) | {"loss": round(float(losses[row]), 2)} for row in worst],
        "issues": [card(issue.row) | _issue(issue, data) for issue in issues],
    }


def _issue(issue: Issue, data: OofData) -> dict[str, Any]:
    return {
        "kind": issue.kind,
        "label": data.names[issue.column],
        "probability": round(issue.probability, 3),
        "usual": round(issue.usual, 3),
        "suggested": None if issue.suggested is None else data.names[issue.suggested],
    }


def _embed(rows: Sequence[int], table: Table, config: Config, into: Pictures) -> None:
    """Add the images of some rows; where the data is not here, cards go without pictures."""
    rows = list(dict.fromkeys(rows))
    names = [table.ids[row] for row in rows]
    try:
        paths = find_images(config.data_path("train_dir"), names, config.data.image_extension, missing_ok=True)
    except UserError:
        return
    for name, path in zip(names, paths, strict=True):
        into.add(name, path)
