"""Images for the page: the worst mistakes and the likeliest issues of labels, as small pictures inside the file."""

import base64
from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from foldsmith.config import Config
from foldsmith.data.images import ImageError, find_images, read_image
from foldsmith.ensemble.members import OofData
from foldsmith.errors import UserError
from foldsmith.metrics import Probabilities, Targets
from foldsmith.report.judge import Decision
from foldsmith.report.noise import KINDS, Issue, label_issues

SHOWN = 24  # images a list
SIDE = 176  # pixels of the longer side
LABELS = 8  # predicted names of an image that are written out; the page says how many more there are
MOST_BYTES = 8_000_000  # of all pictures of a page, as text

Card = dict[str, Any]  # one image of a gallery, in JSON's types


def embed(lists: Sequence[Sequence[tuple[Card, Path]]]) -> list[str]:
    """Pictures as data URIs, each image once; `picture` of every card becomes its place among them, or None.

    The room is shared out in turns: the first card of each list, then the second of each, until `MOST_BYTES` are
    spent. An image that can't be read has no picture.

    Args:
        lists: cards with the paths of their images, the most important list and the most important card first.
    """
    uris: list[str] = []
    places: dict[Path, int | None] = {}
    room = MOST_BYTES
    for card, path in (pair for turn in zip_longest(*lists) for pair in turn if pair is not None):
        if path not in places:
            uri = data_uri(path) if room else ""
            room = max(0, room - len(uri))  # once one does not fit, none after it is tried
            places[path] = len(uris) if uri and room else None
            uris += [uri] if uri and room else []
        card["picture"] = places[path]
    return uris


def data_uri(path: Path) -> str:
    """An image as a small WebP inside a data URI; empty where it can't be read."""
    try:
        image = read_image(path)
    except ImageError:
        return ""
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


def gallery(probabilities: Probabilities, data: OofData, ids: Sequence[str], decision: Decision) -> list[list[Card]]:
    """The worst mistakes, and the likeliest missing and wrong labels, of one model: three lists of cards.

    A card has its image's `id`; `true`, the name of every label, its probability and whether it is predicted;
    `predicted`, the same of the first `LABELS` predicted ones, the most probable first, and whether each is a label;
    `more`, how many further ones are predicted.
    """
    losses = image_losses(probabilities, data)
    worst = np.argsort(-losses, kind="stable")[:SHOWN]
    issues = label_issues(probabilities, data.targets, data.task, most=SHOWN)

    def card(row: int) -> Card:
        values, labels = probabilities[row], data.targets[row]
        predicted = decision.labels(values[None])[0]
        found = np.flatnonzero(predicted)
        found = found[np.argsort(-values[found], kind="stable")]

        def words(columns: Sequence[int], marked: Targets) -> list[list[Any]]:
            return [[data.names[at], round(float(values[at]), 3), bool(marked[at])] for at in columns]

        return {
            "id": ids[row],
            "true": words(np.flatnonzero(labels).tolist(), predicted),
            "predicted": words(found[:LABELS].tolist(), labels),
            "more": max(0, len(found) - LABELS),
            "picture": None,
        }

    return [
        [card(row) | {"loss": round(float(losses[row]), 2)} for row in worst.tolist()],
        *([card(issue.row) | _issue(issue, data) for issue in issues if issue.kind == kind] for kind in KINDS),
    ]


def with_paths(lists: Sequence[Sequence[Card]], config: Config) -> list[list[tuple[Card, Path]]]:
    """Cards with the paths of their images; those whose image is not here are left out."""
    ids = list(dict.fromkeys(card["id"] for cards in lists for card in cards))
    try:
        found = find_images(config.data_path("train_dir"), ids, config.data.image_extension, missing_ok=True)
    except UserError:
        return []
    path_of = dict(zip(ids, found, strict=True))
    return [[(card, path_of[card["id"]]) for card in cards] for cards in lists]


def _issue(issue: Issue, data: OofData) -> dict[str, Any]:
    return {
        "kind": issue.kind,
        "label": data.names[issue.column],
        "probability": round(issue.probability, 3),
        "usual": round(issue.usual, 3),
        "suggested": None if issue.suggested is None else data.names[issue.suggested],
    }
