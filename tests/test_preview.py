"""The preview shows what training and inference really see."""

import zlib

import cv2
import numpy as np
import pytest
import torch

from foldsmith import cli
from foldsmith.config import load_config
from foldsmith.data.augment import Augment
from foldsmith.data.dataset import AugmentedImages
from foldsmith.data.images import find_images, geometry_of, read_image
from foldsmith.data.tables import read_table
from foldsmith.errors import UserError
from foldsmith.report.preview import draw_row, label_words
from foldsmith.training.device_transforms import move_images
from tests.conftest import DATA

LIVELY = ["augmentations.affine=hard", "augmentations.color=0.5"]


def test_a_row_is_what_training_draws_and_inference_cuts(small):
    config = load_config("clipart_tiny", [*small, *LIVELY])
    table = read_table(config)
    (path,) = find_images(DATA / "train", table.ids[3:4])
    row = draw_row(config, path, table.ids[3], 4)
    np.testing.assert_array_equal(row[0], geometry_of(config).center(read_image(path)))
    images = AugmentedImages([path], [table.ids[3]], Augment(config.augmentations, geometry_of(config)), 0)
    for epoch in range(4):
        batch = images[[(0, epoch, 0)]]
        moved = move_images(batch.images, batch.moves, torch.device("cpu"))
        np.testing.assert_array_equal(row[1 + epoch], moved[0].numpy())
    assert len({zlib.crc32(image.tobytes()) for image in row}) == 5, "every draw is another"


def test_labels_are_written_out():
    table = read_table(load_config("clipart_tiny"))
    row = int(np.diff(table.starts).argmax())
    names = [table.classes.names[index] for index in table.indices[table.starts[row] : table.starts[row + 1]]]
    text = label_words(table, row)
    assert text.splitlines()[:4] == names[:4] and (len(names) <= 4 or text.endswith(f"+ {len(names) - 4} more"))


def test_the_picture_has_a_row_an_image(small, tmp_path, capsys):
    path = tmp_path / "p.png"
    words = ["preview", "--config", "clipart_tiny", "--output", str(path), "--set", *small, *LIVELY]
    cli.main([*words, "--images", "3", "--draws", "2"])
    picture = cv2.imread(str(path))
    assert picture.shape[:2] == (int((1.5 * 3 + 0.7) * 110), int(1.5 * 4 * 110))
    first = (tmp_path / "train.csv").read_text().splitlines()[1].split(",")[0]
    assert capsys.readouterr().out.startswith(f"{path}: {first}, ")
    again = path.read_bytes()
    cli.main([*words, "--images", "3", "--draws", "2"])
    assert path.read_bytes() == again
    with pytest.raises(UserError, match="--draws: expected 1 to 50, got 0"):
        cli.main([*words, "--draws", "0"])
