"""augmentations.affine as a section, and augmentations.rect_crop: what the pixels are."""

import numpy as np
import pytest

from foldsmith.data.images import Geometry
from tests.test_augment import augment, positions


def affine_section(**values):
    return augment(Geometry("squash", values.pop("pad", "reflect"), 40, 40), affine=values)


def test_what_lies_beyond_a_smaller_image_is_its_reflection():
    """At half the size, centred: the pixel at r shows what is at 2r - 19.5, reflected at 0 and at 39."""
    shrunk = affine_section(scale=[0.5, 0.5])(positions(40, 40), (0,)).astype(float)
    beyond = 2 * np.arange(40) - 19.5
    assert (beyond.min(), beyond.max()) == (-19.5, 58.5)
    reflected = np.where(beyond < 0, -beyond, np.where(beyond > 39, 78 - beyond, beyond))
    np.testing.assert_allclose(shrunk[:, 0, 0], reflected, atol=1)
    np.testing.assert_allclose(shrunk[0, :, 1], reflected, atol=1)


def test_turned_and_smaller_images_have_no_black_border_unless_asked_for():
    gray = np.full((40, 40, 3), 77, np.uint8)
    for pad, expected in [("reflect", {77}), ("edge", {77}), ("white", {77, 255}), ("black", {0, 77})]:
        one = affine_section(rotate=180, scale=[0.4, 1.0], shift=0.2, pad=pad)
        pictures = np.stack([one(gray, (0, key)) for key in range(50)])
        assert expected <= set(np.unique(pictures).tolist()), pad
        if len(expected) == 1:
            assert set(np.unique(pictures).tolist()) == expected, pad


def test_an_affine_section_stays_within_its_numbers():
    dot = np.zeros((40, 40, 3), np.uint8)
    dot[18:22, 18:22] = 255
    centers, sizes = [], []
    one = affine_section(shift=0.25, scale=[0.5, 2.0], pad="black")
    for key in range(300):
        rows, columns = np.where(one(dot, (0, key))[:, :, 0] > 127)
        centers.append((rows.mean(), columns.mean()))
        sizes.append(np.sqrt(len(rows)))
    moved = np.abs(np.array(centers) - 19.5)
    assert 9 <= moved.max() <= 10
    assert 1 <= min(sizes) <= 3
    assert 7 <= max(sizes) <= 9
    assert np.median(moved) > 3
    rare = affine_section(shift=0.25, prob=0.25, pad="black")
    assert 40 < sum((rare(dot, (0, key)) != dot).any() for key in range(300)) < 110


def test_the_presets_are_sections():
    sections = {
        "soft": {"shift": 0.075, "scale": [0.85, 1.15], "rotate": 10, "prob": 0.75},
        "medium": {"shift": 0.0625, "scale": [0.8, 1.2], "rotate": 45, "prob": 0.2},
        "hard": {"shift": 0.0625, "scale": [0.5, 1.5], "rotate": 45, "prob": 0.75},
    }
    picture = positions(64, 48)
    for name, section in sections.items():
        preset, written = augment(affine=name), augment(affine=section)
        assert all((preset(picture, (key,)) == written(picture, (key,))).all() for key in range(20))


def cuts(height, width, size, **options):
    """Rectangles (top, left, height, width) that rect_crop cut from an image that says where its pixels are."""
    one = augment(Geometry("crop", "black", *size), rect_crop=options)
    found = []
    for key in range(200):
        rows, columns = np.moveaxis(one(positions(height, width), (0, key))[:, :, :2].astype(float), 2, 0)
        # Averaging over areas keeps the mean; the steps between pixels say by how much it was squeezed.
        steps = np.polyfit(np.arange(size[0]), rows[:, 0], 1)[0], np.polyfit(np.arange(size[1]), columns[0], 1)[0]
        down, right = steps[0] * size[0], steps[1] * size[1]
        found.append((rows.mean() - (down - 1) / 2, columns.mean() - (right - 1) / 2, down, right))
    return np.array(found)


@pytest.mark.parametrize(("height", "width", "longer"), [(250, 90, 2), (90, 250, 3)])
def test_rect_crop_is_longer_along_the_image(height, width, longer):
    found = cuts(height, width, (40, 40), min_ratio=0.25, max_ratio=0.8)
    shorter = 5 - longer
    np.testing.assert_allclose(found[:, shorter], 40, atol=1)
    assert 50 - 2 <= found[:, longer].min() < 56  # 40 / 0.8
    assert 145 < found[:, longer].max() <= 160 + 3  # 40 / 0.25
    # the ratio is uniform, so 40 / length is: mean (0.25 + 0.8) / 2, deviation (0.8 - 0.25) / sqrt(12)
    ratios = 40 / found[:, longer]
    assert abs(ratios.mean() - 0.525) < 0.04
    assert abs(ratios.std() - 0.159) < 0.02
    for side, length in ((0, height), (1, width)):
        ends = found[:, side] + found[:, side + 2]
        assert -1.5 <= found[:, side].min() < 5
        assert length - 12 < ends.max() <= length + 1.5


def test_rect_crop_of_a_square_image_lies_either_way():
    found = cuts(200, 200, (40, 40), min_ratio=0.4, max_ratio=0.5)
    tall = found[:, 2] > found[:, 3]
    assert 70 < tall.sum() < 130
    np.testing.assert_allclose(np.minimum(found[:, 2], found[:, 3]), 40, atol=1)


def test_rect_crop_may_shrink_both_sides_and_knows_its_limits():
    found = cuts(240, 200, (40, 30), min_ratio=0.25, max_ratio=0.5, scale_both_dims=True)
    assert 78 <= found[:, 2].min() < 85 and 145 < found[:, 2].max() <= 163
    assert 58 <= found[:, 3].min() < 65 and 108 < found[:, 3].max() <= 122
    assert abs(np.corrcoef(found[:, 2], found[:, 3])[0, 1]) < 0.25
    limited = cuts(100, 50, (40, 40), min_ratio=0.1, max_ratio=0.2)
    np.testing.assert_allclose(limited[:, 2], 100, atol=1)
    np.testing.assert_allclose(limited[:, 3], 40, atol=1)


def test_rect_crop_takes_native_pixels_exactly():
    """At ratio 1 nothing is squeezed; an image that is smaller than the input is stretched."""
    one = augment(Geometry("squash", "black", 24, 16), rect_crop={"min_ratio": 1.0})
    picture = positions(60, 50)
    corners = set()
    for key in range(60):
        crop = one(picture, (0, key))
        top, left = crop[0, 0, :2].tolist()
        corners.add((top, left))
        np.testing.assert_array_equal(crop, picture[top : top + 24, left : left + 16])
    assert len(corners) > 50
    small = one(np.full((5, 7, 3), 9, np.uint8), (0,))
    np.testing.assert_array_equal(small, np.full((24, 16, 3), 9))
    squeezed = augment(Geometry("crop", "black", 10, 10), rect_crop={"min_ratio": 0.5, "max_ratio": 0.5})
    tall = np.repeat(np.arange(0, 200, 10, dtype=np.uint8), 10).reshape(20, 10, 1).repeat(3, axis=2)
    np.testing.assert_array_equal(squeezed(tall, (0,))[:, 0, 0], np.arange(5, 200, 20))  # means of pairs of rows
