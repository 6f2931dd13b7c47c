"""What a fold leaves to read: scores and timings as csv, learning curves as a picture."""

import csv
import io
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

from foldsmith.files import append_text, write_figure, write_text


def write_metrics(path: Path, rows: list[dict[str, Any]]) -> None:
    """metrics.csv, a row an epoch; whole, so that a resumed run writes what an uninterrupted one does."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())


def stages_seen(rows: list[dict[str, Any]]) -> list[dict[str, int]]:
    """The stages that the rows of metrics.csv are of, from 1, with the epochs that each lasted."""
    epochs = Counter(row["stage"] for row in rows)
    return [{"stage": stage, "epochs": count} for stage, count in sorted(epochs.items())]


def append_timing(path: Path, timing: dict[str, Any]) -> None:
    """A line of timings.csv."""
    head = "" if path.is_file() else ",".join(timing) + "\n"
    append_text(path, head + ",".join("" if value is None else str(value) for value in timing.values()) + "\n")


def draw_curves(metrics: list[dict[str, Any]], metric: str, path: Path, title: str) -> None:
    """Loss (training, validation) and the metric that decides against epochs, as PNG.

    `metrics` are the rows of metrics.csv; lines mark where a stage begins.
    """
    from matplotlib.figure import Figure  # takes most of a second to import

    figure = Figure(figsize=(9, 3.5), layout="constrained")
    losses, scores = figure.subplots(1, 2)
    epochs = [row["epoch"] for row in metrics]
    losses.plot(epochs, [row["train_loss"] for row in metrics], marker="o", label="training loss")
    losses.plot(epochs, [row["valid_loss"] for row in metrics], marker="o", label="validation log loss")
    losses.set(xlabel="epoch", ylabel="loss", title=title)
    losses.legend()
    scores.plot(epochs, [row[metric] for row in metrics], marker="o", color="tab:green")
    scores.set(xlabel="epoch", ylabel=metric, title=f"{metric} of validation")
    begins = [after["epoch"] - 0.5 for row, after in pairwise(metrics) if after["stage"] != row["stage"]]
    for axes in (losses, scores):
        for epoch in begins:
            axes.axvline(epoch, color="gray", linestyle=":")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(alpha=0.3)
    write_figure(path, figure, 110)
