"""Learning curves as a picture."""

from pathlib import Path

from foldsmith.files import atomic_path


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
