"""One picture of a blend: how alike the members are, what they weigh, and how the score depends on the threshold."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from foldsmith.files import write_figure


def draw(
    path: Path,
    names: Sequence[str],
    correlation: NDArray[np.float64],
    weights: NDArray[np.float64],
    metric: str,
    curves: dict[str, tuple[NDArray[np.float64], NDArray[np.float64]]],
    threshold: float | None,
) -> None:
    """Write a PNG.

    A "$" in a name is a dollar, not a formula.

    Args:
        correlation: (members, members).
        weights: (members,).
        curves: thresholds and scores by name; none for metrics without a threshold.
    """
    names = [name.replace("$", r"\$") for name in names]
    width = 15 if curves else 10
    figure = Figure(figsize=(width, 2.2 + max(2.5, 0.32 * len(names))), layout="constrained")
    FigureCanvasAgg(figure)
    left, middle, *right = figure.subplots(1, 3 if curves else 2)
    _draw_correlation(figure, left, names, correlation)

    middle.sharey(left)  # a bar stands beside its member's row, which is named there
    middle.barh(range(len(names)), weights)
    middle.tick_params(axis="y", labelleft=False, left=False)
    middle.set(title="weights", xlabel="share of the blend", xlim=(0, 1.3 * weights.max()))
    for row, weight in enumerate(weights):
        middle.text(weight + 0.01 * weights.max(), row, f"{weight:.3f}", va="center", fontsize=8)

    for axes in right:
        for number, (name, (x, y)) in enumerate(reversed(curves.items())):  # the blend last, on top of its like
            last = number == len(curves) - 1
            axes.plot(x, y, label=name, linestyle="-" if last else "--", color="tab:blue" if last else "tab:orange")
        if threshold is not None:
            axes.axvline(threshold, color="grey", linewidth=0.8, linestyle="--")
            axes.annotate(
                f"{threshold:.4f}", (threshold, axes.get_ylim()[0]), xytext=(3, 4), textcoords="offset points"
            )
        axes.set(title=f"{metric} against the threshold", xlabel="threshold", ylabel=metric)
        axes.locator_params(axis="x", nbins=6)
        axes.legend(loc="best", fontsize=8)
    write_figure(path, figure, 80)


def _draw_correlation(figure: Figure, axes: Axes, names: Sequence[str], correlation: NDArray[np.float64]) -> None:
    off = correlation[~np.eye(len(names), dtype=np.bool_)]
    least = float(off.min()) if off.size else 0.0
    image = axes.imshow(correlation, vmin=least, vmax=1, cmap="viridis", aspect="auto")
    numbers = [str(number) for number in range(1, len(names) + 1)]
    step = 1 + len(names) // 25
    axes.set(title="correlation (columns are numbered like rows)", yticks=range(len(names)))
    axes.set_xticks(range(0, len(names), step), numbers[::step], fontsize=8 if len(names) <= 12 else 6)
    axes.set_yticklabels([f"{name}  {number}" for name, number in zip(names, numbers, strict=True)])
    if len(names) <= 12:
        for row, column in np.ndindex(*correlation.shape):
            value = correlation[row, column]
            color = "black" if value > (least + 1) / 2 else "white"
            axes.text(column, row, f"{value:.2f}", ha="center", va="center", fontsize=8, color=color)
    figure.colorbar(image, ax=axes, shrink=0.8)
