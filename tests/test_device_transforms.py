"""What happens to batches on the device is, to the bit, what happens to each image alone."""

from functools import partial

import numpy as np
import pytest
import torch

from foldsmith.config.schema import Augmentations
from foldsmith.data.augment import Augment, Moves
from foldsmith.data.images import Geometry
from foldsmith.inference.predict import to_input
from foldsmith.training.device_transforms import move_images
from foldsmith.training.mixing import cutmix, mixup
from tests.test_augment import moved

CPU = torch.device("cpu")


def batch(count, height, width):
    return np.random.default_rng(0).integers(0, 256, (count, height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize(("height", "width"), [(17, 17), (16, 21)])
def test_moves_of_a_batch_are_those_of_each_image(height, width):
    options = {"hflip": True, "vflip": True, "rotate90": height == width, "erase": 0.5, "global_prob": 0.9}
    one = Augment(Augmentations.model_validate(options), Geometry("squash", "reflect", height, width))
    images = batch(200, height, width)
    moves = [one(image, (3, number))[1] for number, image in enumerate(images)]
    assert len({move[:3] for move in moves}) == (16 if height == width else 4)
    assert 50 < sum(move.bottom > 0 for move in moves) < 130
    expected = np.stack([moved(image, move) for image, move in zip(images, moves, strict=True)])
    result = move_images(torch.from_numpy(images.copy()), torch.tensor(moves, dtype=torch.int32), CPU)
    np.testing.assert_array_equal(result.numpy(), expected)


def test_images_without_moves_stay():
    images = batch(3, 8, 8)
    result = move_images(torch.from_numpy(images.copy()), torch.tensor([Moves()] * 3, dtype=torch.int32), CPU)
    np.testing.assert_array_equal(result.numpy(), images)


def test_a_box_of_halves_is_filled_with_the_even_number():
    image = np.zeros((1, 2, 2, 3), dtype=np.uint8)
    image[0, 0] = [1, 3, 255]  # means over 4 pixels, two of them this: 0.5, 1.5, 127.5
    moves = torch.tensor([Moves(top=1, bottom=2, left=0, right=1)], dtype=torch.int32)
    result = move_images(torch.from_numpy(image), moves, CPU)
    assert result[0, 1].tolist() == [[0, 2, 128], [0, 0, 0]]


def test_normalisation_and_mixing_of_a_batch_are_those_of_each_image():
    images, mean, std = torch.from_numpy(batch(4, 12, 10)), [0.4, 0.5, 0.6], [0.2, 0.25, 0.3]
    x, y = to_input(images, mean, std, CPU), torch.eye(4)
    alone = [to_input(image[None], mean, std, CPU)[0] for image in images]
    assert torch.equal(x, torch.stack(alone))
    partner = torch.tensor([2, 3, 1, 0])
    as_input = partial(to_input, mean=mean, std=std, device=CPU)
    mixed, labels = mixup(images, y, lambda rows: rows[partner], 0.25, as_input)
    for number, image in enumerate(alone):
        assert torch.equal(mixed[number], image.mul(0.25).add(alone[partner[number]], alpha=0.75))
        assert torch.equal(labels[number], y[number] * 0.25 + y[partner[number]] * 0.75)
    boxed, labels = cutmix(images, y, lambda rows: rows[partner], 0.5, np.random.default_rng(1), as_input)
    covered = (boxed != x).any(dim=1).any(dim=0)
    for number, image in enumerate(alone):
        assert torch.equal(boxed[number], torch.where(covered, alone[partner[number]], image))
        kept = 1 - int(covered.sum()) / 120
        torch.testing.assert_close(labels[number], y[number] * kept + y[partner[number]] * (1 - kept))
