"""What a fold leaves to read: scores and timings as csv, learning curves as a picture."""

import csv
import io
from pathlib import Path

from foldsmith.files import atomic_path, write_text


def write_metrics(path: Path, rows: list[dict[str, float]]) -> None:
    """metrics.csv, a row an epoch; whole, so that a resumed run writes what an uninterrupted one does."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())


def append_timing(path: Path, epoch: int, seconds: tuple[float, float], speed: float) -> None:
    """A line of timings.csv. `seconds` are of training and of validation, `speed` is training images a second."""
    new = not path.is_file()
    with open(path, "a", encoding="utf-8") as file:
        if new:
            file.write("epoch,train_seconds,valid_seconds,train_images_per_second\n")
        file.write(f"{epoch},{seconds[0]:.2f},{seconds[1]:.2f},{speed:.1f}\n")


def draw_curves(metrics: list[dict[str, float]], path: Path, title: str) -> None:
    """Loss (training, validation) and score against epochs, as PNG. `metrics` are the rows of metrics.csv."""
    from matplotlib.figure import Figure  # takes most of a second to import

    figure = Figure(figsize=(9, 3.5), layout="constrained")
    losses, scores = figure.subplots(1, 2)
    epochs = [row["epoch"] for row in metrics]
    losses.plot(epochs, [row["train_loss"] for row in metrics], marker="o", label="training loss")
    losses.plot(epochs, [row["valid_loss"] for row in metrics], marker="o", label="validation BCE")
    losses.set(xlabel="epoch", title=title)
    losses.legend()
    scores.plot(epochs, [row["f2"] for row in metrics], marker="o", color="tab:green")
    scores.set(xlabel="epoch", title="F2 at its best threshold")
    for axes in (losses, scores):
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(alpha=0.3)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110)
