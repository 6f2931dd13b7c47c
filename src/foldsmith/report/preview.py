"""A picture of what the network will see: images as training draws them, and as validation and inference cut them."""

from collections.abc import Sequence, Set
from pathlib import Path
from textwrap import wrap
from unicodedata import east_asian_width

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
from foldsmith.training.stages import stages_of

INCHES = 1.5  # of a picture on the page
NAMES = 4  # labels that are written out
LETTERS = 22  # in a line of them
TITLE_LETTERS = 17  # of the title, over a picture
ESCAPED = "no installed font has some letters of the labels: their tokens or codes are written instead"


def preview(config: Config, path: Path, images: int, draws: int) -> tuple[list[str], list[str]]:
    """Write a PNG grid: a row an image; first what inference sees, then what the first epochs of training see.

    Returns:
        The ids of the images, which are spread over the table; and what the picture does not show, in sentences.
    """
    table = read_table(config)
    paths = find_images(config.data_path("train_dir"), table.ids, config.data.image_extension)
    train = read_train_table(config, table)
    chosen = np.unique(np.linspace(0, len(train.table) - 1, images).astype(np.int64))
    where = train_images(config, train, table, paths)
    rows = [draw_row(config, where[row], train.table.ids[row], draws) for row in chosen.tolist()]
    part = train.table.take(chosen)
    fonts, missing = fonts_for("".join([config.name, *part.classes.names, *part.classes.tokens]))
    words = [label_words(part, row, missing) for row in range(len(part))]
    notes = [ESCAPED] if words != [label_words(part, row) for row in range(len(part))] else []
    notes += mixing_note(config)
    _write(path, rows, words, escaped(config.name, missing), config.data.geometry, notes, fonts)
    return part.ids, notes


def mixing_note(config: Config) -> list[str]:
    """That training mixes images, which this picture of single ones does not show."""
    trains = [stage.config.train for stage in stages_of(config)]
    kinds = [kind for kind in ("mixup", "cutmix") if any(getattr(train, kind) for train in trains)]
    return [f"{' and '.join(kinds)} {'are' if len(kinds) > 1 else 'is'} not shown"] if kinds else []


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


def fonts_for(text: str) -> tuple[list[str], set[str]]:
    """The installed fonts that a text needs, the usual one first; and the letters that none of them has."""
    from matplotlib.font_manager import FontProperties, findfont, fontManager, get_font

    usual = FontProperties()
    missing = {letter for letter in text if not letter.isspace()}
    missing = {letter for letter in missing if ord(letter) not in get_font(findfont(usual)).get_charmap()}
    fonts = [usual.get_name()]
    # Last Resort has every letter, as an empty box; the fonts of mathematics in TeX have theirs at places of their own.
    entries = [
        each for each in fontManager.ttflist if not each.name.startswith(("Last Resort", "cm", "STIXNonUnicode"))
    ]
    for entry in sorted(entries, key=lambda each: (each.style != "normal", abs(int(each.weight) - 400), each.name)):
        if not missing:
            break
        try:
            has = get_font(entry.fname).get_charmap()
        except (OSError, RuntimeError):  # removed since, or no font that can be drawn with
            continue
        if found := {letter for letter in missing if ord(letter) in has}:
            fonts.append(entry.name)
            missing -= found
    return fonts, missing


def escaped(text: str, missing: Set[str]) -> str:
    """The text with codes, such as \\u9ce5, in the place of missing letters."""
    return "".join(ascii(letter)[1:-1] if letter in missing else letter for letter in text)


def label_words(table: Table, row: int, missing: Set[str] = frozenset()) -> str:
    """The names of an image's labels, the first few of them; tokens or codes for those with missing letters."""

    def shown(index: int) -> str:
        name, token = table.classes.names[index], table.classes.tokens[index]
        return name if missing.isdisjoint(name) else escaped(token, missing)

    names = [shown(index) for index in table.indices[table.starts[row] : table.starts[row + 1]].tolist()]
    more = f"\n+ {len(names) - NAMES} more" if len(names) > NAMES else ""
    return "\n".join(names[:NAMES]) + more if names else "no label"


def _write(
    path: Path,
    rows: Sequence[Sequence[Image]],
    words: Sequence[str],
    name: str,
    geometry: str,
    notes: Sequence[str],
    fonts: list[str],
) -> None:
    from matplotlib.figure import Figure  # takes most of a second to import

    columns = len(rows[0])
    height, width = rows[0][0].shape[:2]
    lines = [line for note in notes for line in wrap(note, TITLE_LETTERS * (columns + 1))]
    size = (INCHES * (columns + 1), INCHES * height / width * len(rows) + 0.7 + 0.15 * len(lines))
    figure = Figure(figsize=size, layout="constrained")
    grid = figure.subplots(len(rows), columns + 1, squeeze=False)
    titles = ["labels", f"inference\n{geometry}", *(f"epoch {epoch}" for epoch in range(1, columns))]
    for axes, title in zip(grid[0], titles, strict=True):
        axes.set_title(title, fontsize=9, loc="right" if title == "labels" else "center")
    for line, images, text in zip(grid, rows, words, strict=True):
        short = "\n".join(part for label in text.splitlines() for part in wrap(label, _letters(label)))
        line[0].text(0.98, 0.5, short.replace("$", r"\$"), ha="right", va="center", fontsize=8, fontfamily=fonts)
        line[0].axis("off")
        for axes, image in zip(line[1:], images, strict=True):
            axes.imshow(image)
            axes.set(xticks=[], yticks=[])
        for side in line[1].spines.values():
            side.set(color="tab:blue", linewidth=2)
    title = "\n".join([f"{name}: {height} x {width} pixels", *lines]).replace("$", r"\$")
    figure.suptitle(title, fontsize=10, fontfamily=fonts)
    write_figure(path, figure, 110)


def _letters(text: str) -> int:
    """How many fit a line: those of some scripts are as wide as two."""
    return LETTERS // 2 if any(east_asian_width(letter) in "WF" for letter in text) else LETTERS
