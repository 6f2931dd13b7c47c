"""A picture of what the network will see: images as training draws them, and as validation and inference cut them."""

from collections.abc import Sequence
from pathlib import Path
from textwrap import wrap

import numpy as np
import torch

from foldsmith.config import Config
from foldsmith.data.augment import Augment
from foldsmith.data.dataset import AugmentedImages
from foldsmith.data.images import Image, ImageError, find_images, geometry_of, read_image
from foldsmith.data.pseudo import read_train_table, train_images
from foldsmith.data.tables import Table, read_table
from foldsmith.errors import UserError
from foldsmith.files import write_figure
from foldsmith.training.device_transforms import move_images

INCHES = 1.5  # of a picture on the page
NAMES = 4  # labels that are written out
LETTERS = 22  # in a line of them


def preview(config: Config, path: Path, images: int, draws: int) -> list[str]:
    """Write a PNG grid: a row an image; first what inference sees, then what the first epochs of training see.

    Returns:
        The ids of the images, which are spread over the table.
    """
    table = read_table(config)
    paths = find_images(config.data_path("train_dir"), table.ids, config.data.image_extension)
    train = read_train_table(config, table)
    chosen = np.unique(np.linspace(0, len(train.table) - 1, images).astype(np.int64))
    where = train_images(config, train, table, paths)
    rows = [draw_row(config, where[row], train.table.ids[row], draws) for row in chosen.tolist()]
    part = train.table.take(chosen)
    _write(path, rows, [label_words(part, row) for row in range(len(part))], config)
    return part.ids


def draw_row(config: Config, path: Path, name: str, draws: int) -> list[Image]:
    """The image as inference sees it, and as the epochs 1, 2, ... of training do, each uint8 (height, width, 3)."""
    try:
        image = read_image(path)
    except ImageError as error:
        raise UserError(f"is not a readable image: {error}", file=path) from None
    geometry = geometry_of(config)
    drawn = AugmentedImages([path], [name], Augment(config.augmentations, geometry), config.train.seed)
    batch = drawn[[(0, epoch, 0) for epoch in range(draws)]]
    if isinstance(batch, UserError):
        raise batch
    moved = move_images(batch.images, batch.moves, torch.device("cpu")).numpy()
    return [geometry.center(image), *moved]


def label_words(table: Table, row: int) -> str:
    """The names of an image's labels, the first few of them."""
    names = [table.classes.names[index] for index in table.indices[table.starts[row] : table.starts[row + 1]]]
    more = f"\n+ {len(names) - NAMES} more" if len(names) > NAMES else ""
    return "\n".join(names[:NAMES]) + more if names else "no label"


def _write(path: Path, rows: Sequence[Sequence[Image]], words: Sequence[str], config: Config) -> None:
    from matplotlib.figure import Figure  # takes most of a second to import

    columns = len(rows[0])
    height, width = rows[0][0].shape[:2]
    size = (INCHES * (columns + 1), INCHES * height / width * len(rows) + 0.7)
    figure = Figure(figsize=size, layout="constrained")
    grid = figure.subplots(len(rows), columns + 1, squeeze=False)
    titles = ["labels", f"inference\n{config.data.geometry}", *(f"epoch {epoch}" for epoch in range(1, columns))]
    for axes, title in zip(grid[0], titles, strict=True):
        axes.set_title(title, fontsize=9, loc="right" if title == "labels" else "center")
    for line, images, text in zip(grid, rows, words, strict=True):
        short = "\n".join(part for name in text.splitlines() for part in wrap(name, LETTERS))
        line[0].text(0.98, 0.5, short.replace("$", r"\$"), ha="right", va="center", fontsize=8)
        line[0].axis("off")
        for axes, image in zip(line[1:], images, strict=True):
            axes.imshow(image)
            axes.set(xticks=[], yticks=[])
        for side in line[1].spines.values():
            side.set(color="tab:blue", linewidth=2)
    name = f"{config.name}: {height} x {width} pixels".replace("$", r"\$")
    figure.suptitle(name, fontsize=10)
    write_figure(path, figure, 110)
