"""`foldsmith check-data`: every image decoded, every table read, before a training finds out."""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import cv2

from foldsmith.config import Config
from foldsmith.data.folds import make_folds
from foldsmith.data.headers import is_cut_off
from foldsmith.data.image_limits import ROOM, ImageError, checked_header, read_file
from foldsmith.data.images import find_images, read_image
from foldsmith.data.pseudo import read_train_table, train_images
from foldsmith.data.tables import Table, class_columns, read_sample, read_table
from foldsmith.errors import UserError

Result = TypeVar("Result")


@dataclass(frozen=True)
class ImageReport:
    """What is wrong with an image file (None: nothing), and what reading it changes, such as "gray"."""

    path: Path
    problem: str | None
    notes: tuple[str, ...]


def check_image(path: Path) -> ImageReport:
    """Decode one file. Damage in the middle of a JPEG does not show: only a checksum could tell."""
    try:
        read_image(path)
        with ROOM.take(path.stat().st_size):
            data = read_file(path)
            header = checked_header(data)
            if is_cut_off(data):  # older releases of OpenCV fill up what is missing
                raise ImageError("cut off")
    except OSError as error:
        return ImageReport(path, error.strerror or str(error), ())
    except (ImageError, cv2.error) as error:
        return ImageReport(path, str(error), ())
    notes = list(header.notes)
    if max(header.width, header.height) == 1:
        notes.append("1 x 1 pixels")
    return ImageReport(path, None, tuple(dict.fromkeys(notes)))


def check_images(paths: Sequence[Path]) -> Iterator[ImageReport]:
    """Reports in the order of the paths, on all cores; what is large waits for memory (image_limits.ROOM)."""
    with ThreadPoolExecutor(len(os.sched_getaffinity(0)), thread_name_prefix="check") as pool:
        yield from pool.map(check_image, paths)


def check_tables(config: Config) -> tuple[list[Path], list[str]]:
    """Read every table that the config names.

    Returns:
        The image files that the tables speak of, those that are missing included, and what is wrong, in words.
    """
    problems: list[str] = []
    paths: dict[Path, None] = {}

    def attempt(check: Callable[..., Result], *args: Any) -> Result | None:
        try:
            return check(config, *args)
        except UserError as error:
            problems.append(str(error))
            return None

    table = attempt(read_table)
    if table is not None:
        paths |= dict.fromkeys(attempt(_train_paths, table) or ())
        attempt(make_folds, table)
    if config.data.sample_submission is not None or config.data_path("sample_submission").is_file():
        paths |= dict.fromkeys(attempt(_test_paths, table) or ())
    return list(paths), problems


def _train_paths(config: Config, table: Table) -> list[Path]:
    extension = config.data.image_extension
    paths = find_images(config.data_path("train_dir"), table.ids, extension, missing_ok=True)
    return [*paths, *train_images(config, read_train_table(config, table), table, paths)]


def _test_paths(config: Config, table: Table | None) -> list[Path]:
    sample, column = read_sample(config)
    if table is not None:
        class_columns(config, sample, column, table.classes.tokens)
    if not config.data_path("test_dir").is_dir():
        return []
    extension = config.data.image_extension
    return find_images(config.data_path("test_dir"), sample.column(column), extension, missing_ok=True)
