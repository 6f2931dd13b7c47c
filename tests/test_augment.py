"""Augmentation depends on its key alone; batches depend on seed and epoch alone."""

import itertools
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import chisquare

from foldsmith.config.schema import Augmentations
from foldsmith.data.augment import Augment
from foldsmith.data.dataset import AugmentedImages, EpochOrder, train_loader
from foldsmith.data.images import Geometry, read_image
from foldsmith.errors import UserError

SQUARE = Geometry("squash", "reflect", 64, 48)
TRAIN = sorted(Path("data/clipart/train").glob("*.jpg"))[:20]
EVERYTHING = {
    "crop_jitter": 6,
    "hflip": True,
    "rotate90": True,
    "affine": "hard",
    "blur": 0.5,
    "noise": 0.5,
    "distortion": 0.5,
    "color": 0.5,
    "erase": 0.5,
    "extra": [{"name": "CoarseDropout", "params": {"p": 0.5}}],
}


def moved(image, moves):
    """The per-image form of training/device_transforms.py."""
    image = image[:, ::-1] if moves.hflip else image
    image = image[::-1] if moves.vflip else image
    image = np.rot90(image, moves.turns).copy()
    if moves.bottom:
        image[moves.top : moves.bottom, moves.left : moves.right] = image.mean(axis=(0, 1)).round()
    return image


def augment(geometry=SQUARE, **options):
    """(image, key) -> the image as the network sees it, by way of the per-image form."""
    one = Augment(Augmentations.model_validate(options), geometry)
    return lambda image, key: moved(*one(image, key))


@pytest.fixture(scope="module")
def image():
    return read_image(TRAIN[0])


def positions(height, width):
    """An image whose pixels say where they are: (row, column, 0)."""
    rows, columns = np.mgrid[:height, :width]
    return np.dstack([rows, columns, 0 * rows]).astype(np.uint8)


def test_the_key_decides_alone(image):
    options = EVERYTHING | {"rotate90": False}
    one, other = augment(**options), augment(**options)
    keys = [(0, epoch, 77, repeat) for epoch in range(20) for repeat in range(2)]
    first = {key: one(image, key).tobytes() for key in keys}
    random.seed(1)
    torch.manual_seed(1)
    for key in reversed(keys):
        assert other(image, key).tobytes() == first[key]
    assert [one(image, key).tobytes() for key in keys] == list(first.values())
    assert len(set(first.values())) > 38


@pytest.mark.parametrize("preset", ["blur", "noise", "distortion", "color"])
def test_one_of_several_is_chosen_by_the_key(image, preset):
    one, other = augment(**{preset: 1.0}), augment(**{preset: 1.0})
    pictures = [one(image, (3, key)).tobytes() for key in range(30)]
    assert [other(image, (3, key)).tobytes() for key in reversed(range(30))] == pictures[::-1]
    assert len(set(pictures)) > 3


def test_different_keys_give_different_images(image):
    affine = {"name": "Affine", "params": {"rotate": [-45, 45], "translate_percent": [-0.1, 0.1], "p": 1.0}}
    one = augment(extra=[affine])
    for keys in ([(0, 0, key, 0) for key in range(200)], [tuple(row) for row in np.eye(4, dtype=int).tolist()]):
        assert len({one(image, key).tobytes() for key in keys}) >= 0.95 * len(keys)


def test_transforms_of_one_compose_are_independent():
    flips = [{"name": name, "params": {"p": 0.5}} for name in ("HorizontalFlip", "VerticalFlip", "InvertImg")]
    one = augment(Geometry("squash", "black", 4, 4), extra=flips)
    corner = np.zeros((4, 4, 3), np.uint8)
    corner[0, 0] = 200
    counts = dict.fromkeys(itertools.product([False, True], repeat=3), 0)
    for key in range(2000):
        picture = one(corner, (0, key))[:, :, 0].astype(int)
        inverted = bool(np.median(picture) == 255)
        (row,), (column,) = np.where(picture == (55 if inverted else 200))
        counts[bool(column), bool(row), inverted] += 1
    assert sum(counts.values()) == 2000
    assert chisquare(list(counts.values())).pvalue > 0.001


@pytest.mark.parametrize(
    ("preset", "value"),
    [*((name, 1.0) for name in ("blur", "noise", "distortion", "color", "erase"))]
    + [("affine", size) for size in ("soft", "medium", "hard")]
    + [("crop_jitter", 9), ("hflip", True), ("vflip", True), ("rotate90", True)],
)
@pytest.mark.parametrize("pad", ["reflect", "white"])
def test_every_preset_changes_a_real_image(image, preset, value, pad):
    geometry = Geometry("fit", pad, 48, 48)
    one = augment(geometry, **{preset: value})
    pictures = [one(image, (0, key)) for key in range(20)]
    assert {(picture.shape, picture.dtype) for picture in pictures} == {((48, 48, 3), np.dtype(np.uint8))}
    assert any((picture != geometry.center(image)).any() for picture in pictures)


def test_flips_and_turns_move_pixels_only():
    geometry, square = Geometry("squash", "black", 9, 9), positions(9, 9)
    turns = {np.rot90(square, turn).tobytes() for turn in range(4)}
    cases = {"hflip": {square[:, ::-1].tobytes()}, "vflip": {square[::-1].tobytes()}, "rotate90": turns}
    for name, expected in cases.items():
        one = augment(geometry, **{name: True})
        assert {one(square, (0, key)).tobytes() for key in range(60)} == expected | {square.tobytes()}


def test_erase_fills_one_rectangle_with_the_mean():
    striped = np.zeros((64, 48, 3), np.uint8)
    striped[:, ::2] = [250, 100, 31]
    one = augment(erase={"prob": 1.0, "area": [0.1, 0.3], "ratio": [0.5, 2.0]})
    tops, bottoms, sizes = set(), set(), []
    for key in range(300):
        picture = one(striped, (0, key))
        rows, columns = np.where((picture != striped).any(axis=2))
        top, bottom, left, right = rows.min(), rows.max() + 1, columns.min(), columns.max() + 1
        np.testing.assert_array_equal(picture[top:bottom, left:right] - np.uint8([125, 50, 16]), 0)
        assert len(rows) == (bottom - top) * (right - left)
        sizes.append((bottom - top, right - left))
        tops.add(int(top))
        bottoms.add(int(bottom))
    down, right = np.array(sizes).T
    assert ((down + 0.5) * (right + 0.5) >= 0.1 * 64 * 48).all()
    assert ((down - 0.5) * (right - 0.5) <= 0.3 * 64 * 48).all()
    assert ((down + 0.5) / (right - 0.5) >= 0.5).all()
    assert ((down - 0.5) / (right + 0.5) <= 2).all()
    assert min(tops) == 0
    assert max(bottoms) == 64


def test_erase_happens_as_often_as_its_probability(image):
    one = augment(erase=0.3)
    plain = SQUARE.center(image)
    fired = sum(bool((one(image, (0, key)) != plain).any()) for key in range(1000))
    assert 240 < fired < 360


def test_global_prob_zero_leaves_the_crop_alone():
    picture = positions(80, 60)
    one = augment(Geometry("crop", "black", 64, 48), **EVERYTHING | {"global_prob": 0.0, "rotate90": False})
    corners = set()
    for key in range(400):
        crop = one(picture, (0, key))
        top, left = crop[0, 0, :2].tolist()
        corners.add((top, left))
        np.testing.assert_array_equal(crop, picture[top : top + 64, left : left + 48])
    assert {top for top, _ in corners} == set(range(17))
    assert {left for _, left in corners} == set(range(13))


def loader_of(workers, options=EVERYTHING, paths=TRAIN, seed=5):
    geometry = Geometry("squash", "reflect", 32, 32)
    one = Augment(Augmentations.model_validate(options), geometry)
    images = AugmentedImages(paths, [path.stem for path in paths], one, seed)
    order = EpochOrder(len(paths), 6, seed)
    return train_loader(images, order, workers=workers, pin=False), order


def batches_of(loader, order, epoch):
    order.epoch = epoch
    return [
        (batch.images.numpy().tobytes() + batch.moves.numpy().tobytes(), tuple(batch.images.shape), batch.rows.tolist())
        for batch in loader
    ]


def test_batches_do_not_depend_on_the_workers():
    loader, order = loader_of(0)
    expected = {epoch: batches_of(loader, order, epoch) for epoch in (0, 1)}
    assert [shape for _, shape, _ in expected[0]] == [(6, 32, 32, 3)] * 3
    pictures = {epoch: {picture for picture, _, _ in expected[epoch]} for epoch in (0, 1)}
    assert not pictures[0] & pictures[1]
    assert [rows for _, _, rows in expected[0]] != [rows for _, _, rows in expected[1]]
    for workers in (1, 2):
        loader, order = loader_of(workers)
        for epoch in (0, 1, 0):  # the same processes serve all three passes
            assert batches_of(loader, order, epoch) == expected[epoch]


@pytest.mark.parametrize("workers", [0, 1])
def test_loading_draws_nothing_from_the_global_generator(workers):
    before = torch.get_rng_state()
    batches_of(*loader_of(workers), epoch=0)
    assert torch.equal(torch.get_rng_state(), before)


def test_an_image_keeps_its_stream_when_rows_go():
    all_rows, fewer = loader_of(0)[0].dataset, loader_of(0, paths=TRAIN[3:])[0].dataset
    batch, other = all_rows[[(5, 1, 0)]], fewer[[(2, 1, 0)]]
    assert torch.equal(batch.images, other.images)
    assert torch.equal(batch.moves, other.moves)
    batches = [all_rows[[draw]] for draw in [(5, 1, 0), (5, 2, 0), (5, 1, 1)]]
    batches.append(loader_of(0, seed=6)[0].dataset[[(5, 1, 0)]])
    assert len({batch.images.numpy().tobytes() for batch in batches}) == 4
    assert len({batch.moves.numpy().tobytes() for batch in batches}) > 1


def test_an_unreadable_image_is_named_through_a_worker(tmp_path):
    (tmp_path / "broken.jpg").write_text("hello")
    loader, _ = loader_of(1, options={}, paths=[*TRAIN[:5], tmp_path / "broken.jpg"])
    (error,) = loader
    assert isinstance(error, UserError)
    assert error.message == "is not a readable image: not an image: b'hello'"
    assert (error.file, error.code) == (tmp_path / "broken.jpg", 2)


@pytest.mark.parametrize(
    ("options", "made"),
    [
        ({"extra": [{"name": "Transpose", "params": {"p": 1.0}}]}, r"uint8 \(48, 64, 3\)"),
        ({"extra": [{"name": "Normalize", "params": {}}]}, r"float32 \(64, 48, 3\)"),
    ],
)
def test_transforms_that_change_size_or_type_are_refused(image, options, made):
    one = augment(**options)
    with pytest.raises(UserError, match=rf"^augmentations: the transforms made {made} of uint8 \(64, 48, 3\)\n"):
        [one(image, (0, key)) for key in range(20)]
    loader, _ = loader_of(1, options={"extra": [{"name": "Normalize", "params": {}}]})
    assert {item.key for item in loader} == {"augmentations"}


def rows_of(order, epoch=0):
    order.epoch = epoch
    draws = list(order)
    assert len(draws) == len(order)
    assert {(drawn, repeat) for batch in draws for _, drawn, repeat in batch} == {(epoch, 0)}
    return [[row for row, _, _ in batch] for batch in draws]


def test_epoch_order_is_a_permutation_of_its_own_for_every_epoch():
    order = EpochOrder(12, 4, seed=0)
    epochs = [rows_of(order, epoch) for epoch in (0, 1, 0)]
    assert sorted(sum(epochs[0], [])) == sorted(sum(epochs[1], [])) == list(range(12))
    assert epochs[0] == epochs[2] != epochs[1]
    assert rows_of(EpochOrder(12, 4, seed=1)) != epochs[0]


def test_an_incomplete_batch_is_dropped_unless_it_is_the_only_one():
    assert [len(batch) for batch in rows_of(EpochOrder(11, 4, seed=0))] == [4, 4]
    assert [len(batch) for batch in rows_of(EpochOrder(3, 4, seed=0))] == [3]
    assert [len(batch) for batch in rows_of(EpochOrder(4, 4, seed=0))] == [4]


def test_max_batches_cuts_the_same_order():
    assert rows_of(EpochOrder(20, 4, 0, max_batches=2)) == rows_of(EpochOrder(20, 4, 0))[:2]
    assert len(rows_of(EpochOrder(20, 4, 0, max_batches=9))) == 5
