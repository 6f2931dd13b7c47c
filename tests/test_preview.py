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
from foldsmith.report.preview import ESCAPED, draw_row, escaped, fonts_for, label_words, mixing_note
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


def grid(picture: np.ndarray, rows: int, columns: int) -> list[list[np.ndarray]]:
    """The middle of each cell: 60 x 60 pixels of images, 100 x 150 of labels."""
    height, width = picture.shape[0] - int(0.7 * 110), picture.shape[1]
    top, found = picture.shape[0] - height, []
    for row in range(rows):
        y = top + int((row + 0.5) * height / rows)
        xs = [int((column + 0.5) * width / columns) for column in range(columns)]
        label = picture[y - 50 : y + 50, xs[0] - 75 : xs[0] + 75]
        found.append([label, *(picture[y - 30 : y + 30, x - 30 : x + 30] for x in xs[1:])])
    return found


def test_mixing_is_said_to_be_not_shown(small, tmp_path, capsys):
    both = ["train.mixup={alpha: 0.4}", "train.cutmix={alpha: 1.0}"]
    assert mixing_note(load_config("clipart_tiny", small)) == []
    assert mixing_note(load_config("clipart_tiny", [*small, both[1]])) == ["cutmix is not shown"]
    stages = "train.stages=[{num_epochs: 1}, {num_epochs: 1, mixup: {alpha: 0.4}}]"
    assert mixing_note(load_config("clipart_tiny", [*small, stages])) == ["mixup is not shown"]
    pictures = []
    for sets in ([], both):
        words = ["preview", "--config", "clipart_tiny", "--output", str(tmp_path / "p.png"), "--images", "1"]
        cli.main([*words, "--draws", "1", "--set", *small, *sets])
        pictures.append(cv2.imread(str(tmp_path / "p.png")))
    assert capsys.readouterr().out.splitlines()[-1] == "note: mixup and cutmix are not shown"
    assert pictures[1].shape[0] - pictures[0].shape[0] in (16, 17), "a line more"
    band = pictures[1][20:36]
    assert (band < 100).any(), "and it is written, under the title"


def test_a_font_that_has_the_letters_is_found_and_boxes_are_not_drawn():
    from matplotlib.font_manager import FontProperties, findfont, get_font

    usual = set(get_font(findfont(FontProperties())).get_charmap())
    other = get_font(findfont("DejaVu Math TeX Gyre")).get_charmap()
    letter = next(chr(code) for code in sorted(other) if code > 0x1D400 and code not in usual)
    fonts, missing = fonts_for(f"bird {letter}")
    assert len(fonts) == 2 and missing == set()
    assert ord(letter) in get_font(findfont(fonts[1])).get_charmap()
    assert fonts_for("bird") == (fonts[:1], set())
    assert fonts_for("bird \U0010fffd") == (fonts[:1], {"\U0010fffd"}), "the font of boxes is no font"
    assert escaped("a \u9ce5", {"\u9ce5"}) == r"a \u9ce5"


def test_labels_without_a_font_are_written_as_tokens_in_one_note(small, tmp_path, capsys, recwarn):
    """Whatever fonts this machine has: the letter is one that no script has."""
    labels = tmp_path / "labels.csv"
    rows = (DATA / "labels.csv").read_text(encoding="utf-8").splitlines()
    labels.write_text("\n".join([rows[0], *(f"{row}\U0010fffd" for row in rows[1:])]) + "\n", encoding="utf-8")
    config = [*small, f"data.labels_csv={labels}"]
    table = read_table(load_config("clipart_tiny", config))
    tokens = [table.classes.tokens[index] for index in table.indices[: table.starts[1]]]
    assert label_words(table, 0, {"\U0010fffd"}).splitlines() == tokens[:4]
    output = ["--output", str(tmp_path / "p.png"), "--images", "2", "--draws", "1"]
    cli.main(["preview", "--config", "clipart_tiny", *output, "--set", *config])
    captured = capsys.readouterr()
    assert captured.out.splitlines()[1:] == [f"note: {ESCAPED}"] and captured.err == ""
    assert [str(each.message) for each in recwarn if "Glyph" in str(each.message)] == []


def test_the_picture_has_a_row_an_image(small, tmp_path, capsys):
    path = tmp_path / "p.png"
    words = ["preview", "--config", "clipart_tiny", "--output", str(path), "--set", *small, *LIVELY]
    cli.main([*words, "--images", "3", "--draws", "2"])
    picture = cv2.imread(str(path))
    assert picture.shape[:2] == (int((1.5 * 3 + 0.7) * 110), int(1.5 * 4 * 110))
    cells = grid(picture, 3, 4)
    assert all((row[0] < 100).any(axis=2).sum() > 20 for row in cells), "labels are written in every row"
    drawn = [cell.astype(int) for row in cells for cell in row[1:]]
    for number, cell in enumerate(drawn):
        assert all(np.abs(cell - other).mean() > 3 for other in drawn[:number]), "every picture is another"
    first = (tmp_path / "train.csv").read_text().splitlines()[1].split(",")[0]
    assert capsys.readouterr().out.startswith(f"{path}: {first}, ")
    again = path.read_bytes()
    cli.main([*words, "--images", "3", "--draws", "2"])
    assert path.read_bytes() == again
    with pytest.raises(UserError, match="--draws: expected 1 to 50, got 0"):
        cli.main([*words, "--draws", "0"])
