"""Augmentation streams: the same with any number of workers, never repeated, and transforms that fire independently."""

import itertools

import numpy as np
import pytest
from scipy import stats

from foldsmith.config.schema import Augmentations
from foldsmith.data.augment import Augment
from foldsmith.data.dataset import AugmentedImages, Batch, EpochOrder, train_loader
from foldsmith.data.images import Geometry
from foldsmith.data.sampling import EpochDraws
from tests.conftest import DATA

GEOMETRY = Geometry("squash", "reflect", 32, 32)
# Continuous parameters: a crop, an affine map, a change of brightness.
CONTINUOUS = Augmentations.model_validate(
    {
        "crop_jitter": 8,
        "affine": {"shift": 0.1, "scale": [0.8, 1.2], "rotate": 30},
        "extra": [{"name": "RandomBrightnessContrast", "params": {"p": 1.0}}],
    }
)
ROWS, BATCH, EPOCHS = 24, 8, 3
LOADERS = [(workers, persistent) for workers in (0, 1, 2) for persistent in (True, False)]


def parts(seed: int) -> tuple[AugmentedImages, EpochOrder]:
    paths = sorted((DATA / "train").iterdir())[:ROWS]
    images = AugmentedImages(paths, [path.stem for path in paths], Augment(CONTINUOUS, GEOMETRY), seed)
    return images, EpochOrder(ROWS, BATCH, seed)


def stream(workers: int, persistent: bool) -> list[bytes]:
    """Every batch of three epochs as bytes, its rows included; by one loader, or by a new one each epoch."""
    images, order = parts(seed=0)
    loader, found = train_loader(images, order, workers=workers, pin=False), []
    for order.epoch in range(EPOCHS):
        if not persistent:
            loader = train_loader(images, order, workers=workers, pin=False)
        found += [b"".join(np.asarray(part).tobytes() for part in batch) for batch in loader]
    return found


def by_hand(seed: int) -> list[bytes]:
    """The same without a loader: a batch after the other."""
    images, order = parts(seed)
    found = []
    for order.epoch in range(EPOCHS):
        for draws in order:
            batch = images[draws]
            assert isinstance(batch, Batch)
            found.append(b"".join(np.asarray(part).tobytes() for part in batch))
    return found


@pytest.fixture(scope="module")
def expected() -> list[bytes]:
    return by_hand(seed=0)


@pytest.mark.parametrize(("workers", "persistent"), LOADERS)
def test_the_number_of_workers_does_not_matter(expected, workers, persistent):
    assert len(set(expected)) == EPOCHS * ROWS // BATCH
    assert stream(workers, persistent) == expected


def test_another_seed_is_another_stream(expected):
    assert not set(by_hand(seed=1)) & set(expected)


def draws(augment: Augment, image: np.ndarray, keys: list[tuple[int, ...]]) -> list[bytes]:
    found = []
    for key in keys:
        result = augment(image, key)
        pixels = result[0] if isinstance(result, tuple) else result
        found.append(pixels.tobytes())
    return found


def test_draws_are_distinct_within_and_across_epochs():
    """The same picture under every key: (seed, epoch, image, how often it was drawn before)."""
    image = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    augment = Augment(CONTINUOUS, GEOMETRY)
    keys = [(0, epoch, name, repeat) for epoch in range(8) for name in range(20) for repeat in range(2)]
    found = draws(augment, image, keys)
    assert len(set(found)) >= 0.95 * len(keys)
    of_epochs = [set(found[start : start + 40]) for start in range(0, len(found), 40)]
    assert all(len(one & other) <= 2 for one, other in itertools.combinations(of_epochs, 2))


def test_what_training_draws_of_an_image_is_distinct_across_epochs_and_repeats():
    """Through the data set and the order that training uses: one image, 40 epochs, drawn twice in each."""
    path = sorted((DATA / "train").iterdir())[0]
    images = AugmentedImages([path] * 2, ["same"] * 2, Augment(CONTINUOUS, GEOMETRY), seed=0)
    order, found = EpochOrder(1, 2, seed=0, sampler=EpochDraws(2, lambda generator: np.zeros(2, np.int64))), []
    for order.epoch in range(40):
        for draws_of_batch in order:
            batch = images[draws_of_batch]
            assert isinstance(batch, Batch)
            found += [batch.images[number].numpy().tobytes() for number in range(2)]
    assert len(found) == 80 and len(set(found)) >= 0.95 * 80


def test_which_transforms_fire_is_independent():
    """Three of p 0.5, 2,000 draws: chi-square over the eight joint outcomes, and over neighbours in epoch and image."""
    # Each leaves a mark of its own on a gray picture: +1, +2 and +4 in the first, second and third channel.
    shifts = [
        {
            "name": "RGBShift",
            "params": {"p": 0.5, **{f"{one}_shift_limit": [s, s] if one == own else [0, 0] for one in "rgb"}},
        }
        for own, s in (("r", 16), ("g", 32), ("b", 64))
    ]
    options = Augmentations.model_validate({"extra": shifts})
    augment = Augment(options, GEOMETRY)
    gray = np.full((32, 32, 3), 100, np.uint8)
    keys = [(0, epoch, name, 0) for epoch in range(20) for name in range(100)]
    outcomes = np.array([np.frombuffer(draw, np.uint8)[:3] > 100 for draw in draws(augment, gray, keys)]).astype(int)
    joint = outcomes @ [1, 2, 4]
    counts = np.bincount(joint, minlength=8)
    assert counts.sum() == 2000
    assert stats.chisquare(counts).pvalue > 1e-3, counts
    for number in range(3):
        for lag in (1, 100):  # the next image, the next epoch
            pairs = np.bincount(outcomes[:-lag, number] * 2 + outcomes[lag:, number], minlength=4)
            assert stats.chisquare(pairs).pvalue > 1e-4, (number, lag, pairs)
