"""Samplers draw what they say, the same for every (seed, epoch), and class weights are those of their formulas."""

from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.utils.class_weight import compute_class_weight

from foldsmith.config import load_config
from foldsmith.config.section import Component
from foldsmith.data.dataset import EpochOrder
from foldsmith.data.images import read_image
from foldsmith.data.pseudo import TrainTable
from foldsmith.data.sampling import SAMPLERS, build_sampler, class_weights
from foldsmith.data.tables import Classes, Table
from foldsmith.errors import UserError
from foldsmith.training import distributed
from foldsmith.training.setup import build_loader


def table(labels: list[list[int]], classes: int = 4) -> Table:
    tokens = [f"c{index}" for index in range(classes)]
    starts = np.cumsum([0, *map(len, labels)])
    ids = [str(row) for row in range(len(labels))]
    return Table(ids, starts, np.array(sum(labels, []), dtype=np.int32), Classes(tokens, tokens))


ONE_LABEL = table([[0]] * 10 + [[1]] * 4 + [[2]] * 1)  # class 3 has no image


def draws(name: str, data: Table, seed: int = 0, **params: int) -> np.ndarray:
    sampler = SAMPLERS[name](**params).begin(data)
    rows = sampler.draw(np.random.default_rng(seed))
    assert len(rows) == sampler.length
    return rows


def of_classes(rows: np.ndarray, data: Table = ONE_LABEL) -> list[int]:
    return data.targets(rows).sum(axis=0).tolist()


def test_weighted_draws_an_image_by_its_rarest_label():
    data = table([[0], [0, 1], [0, 2, 1], [], [0, 1]])
    assert data.counts().tolist() == [4, 3, 1, 0]
    assert data.rarest().tolist() == [0, 1, 2, 4, 1]
    # 1/4, 1/3, 1, 1/4 (none: as the most frequent class), 1/3
    expected = np.array([3, 4, 12, 3, 4]) / 26
    rows = np.concatenate([draws("weighted", data, seed) for seed in range(4000)])
    assert len(rows) == 20000
    np.testing.assert_allclose(np.bincount(rows) / len(rows), expected, atol=0.015)


def test_weighted_evens_out_classes_of_one_label():
    rows = np.concatenate([draws("weighted", ONE_LABEL, seed) for seed in range(1000)])
    np.testing.assert_allclose(np.array(of_classes(rows)) / len(rows), [1 / 3, 1 / 3, 1 / 3, 0], atol=0.015)


def test_weighted_of_images_without_any_label_draws_all_alike():
    assert set(np.concatenate([draws("weighted", table([[], [], []]), seed) for seed in range(20)])) == {0, 1, 2}


@pytest.mark.parametrize(
    ("name", "threshold", "expected"),
    [
        ("oversample", 6, [10, 6, 6, 0]),
        ("oversample", 1, [10, 4, 1, 0]),
        ("undersample", 3, [3, 3, 1, 0]),
        ("undersample", 99, [10, 4, 1, 0]),
        ("balanced", 5, [5, 5, 5, 0]),
        ("balanced", 4, [4, 4, 4, 0]),
    ],
)
def test_thresholds_bound_every_class_that_occurs(name, threshold, expected):
    rows = draws(name, ONE_LABEL, threshold=threshold)
    assert of_classes(rows) == expected
    counts = np.bincount(rows, minlength=15)
    for index, rows_of in enumerate([slice(0, 10), slice(10, 14), slice(14, 15)]):
        if expected[index] >= [10, 4, 1][index]:
            assert counts[rows_of].min() >= 1  # filled up, and nothing left out
        else:
            assert counts[rows_of].max() == 1  # cut, and nothing twice


def test_what_is_cut_and_what_is_filled_up_changes_with_the_generator():
    assert len({tuple(sorted(draws("undersample", ONE_LABEL, seed, threshold=3))) for seed in range(30)}) > 10
    seen = np.concatenate([draws("undersample", ONE_LABEL, seed, threshold=3) for seed in range(60)])
    assert set(seen) == set(range(15))
    assert len({tuple(sorted(draws("oversample", ONE_LABEL, seed, threshold=6))) for seed in range(30)}) > 5
    np.testing.assert_array_equal(
        draws("balanced", ONE_LABEL, 3, threshold=5), draws("balanced", ONE_LABEL, 3, threshold=5)
    )


def test_thresholds_and_tasks():
    for name in ("oversample", "undersample", "balanced"):
        assert SAMPLERS[name].tasks == ("multiclass",)
        with pytest.raises(ValueError, match="^threshold is the number of images of a class, at least 1; got 0$"):
            SAMPLERS[name](threshold=0)
    assert SAMPLERS["weighted"].tasks == ("multilabel", "multiclass")


def test_an_epoch_follows_from_seed_and_epoch_and_counts_repeats():
    sampler = build_sampler(Component(name="balanced", params={"threshold": 6}), ONE_LABEL)
    order = EpochOrder(len(ONE_LABEL), 5, seed=7, sampler=sampler)
    assert len(order) == 3  # 18 draws
    order.epoch = 2
    epoch = list(order)
    assert epoch == list(order)
    assert [len(batch) for batch in epoch] == [5, 5, 5]
    flat = sum(epoch, [])
    assert {draw[1] for draw in flat} == {2} and len(set(flat)) == len(flat)
    for row in range(15):
        repeats = [repeat for drawn, _, repeat in flat if drawn == row]
        assert repeats == list(range(len(repeats)))
    assert max(repeat for row, _, repeat in flat if row == 14) >= 2  # the only image of its class
    order.epoch = 3
    assert list(order) != epoch
    assert list(EpochOrder(15, 5, seed=8, sampler=sampler)) != list(EpochOrder(15, 5, seed=7, sampler=sampler))


def test_an_epoch_can_be_cut():
    sampler = build_sampler(Component(name="weighted"), ONE_LABEL)
    for each in (sampler, None):
        order = EpochOrder(15, 4, seed=0, sampler=each)
        whole = list(order)
        order.batches = 2
        assert list(order) == whole[:2] and len(order) == 2
        assert list(EpochOrder(15, 4, seed=0, max_batches=1, sampler=each)) == whole[:1]
    assert build_sampler(None, ONE_LABEL) is None


def test_the_order_without_a_sampler_is_the_permutation_of_its_seed():
    order = EpochOrder(11, 3, seed=5)
    order.epoch = 4
    expected = np.random.default_rng([5, 4]).permutation(11)[:9].reshape(3, 3)
    assert list(order) == [[(row, 4, 0) for row in batch] for batch in expected.tolist()]


def test_class_weights_are_those_of_their_formulas():
    data = table([[0]] * 10 + [[1]] * 4 + [[2]] * 1, classes=3)
    labels = np.repeat([0, 1, 2], [10, 4, 1])
    expected = compute_class_weight("balanced", classes=np.arange(3), y=labels)
    weights = class_weights(data, "balanced")
    np.testing.assert_allclose(weights, expected, rtol=1e-6)
    np.testing.assert_allclose(weights, [0.5, 1.25, 5], rtol=1e-6)
    np.testing.assert_allclose(class_weights(data, "log"), np.log([2, 1 + 2.5**2, 101]), rtol=1e-6)
    assert weights.dtype == class_weights(data, "log").dtype == np.float32
    # multilabel: 2 images, 2 classes, 2 and 1 of them
    np.testing.assert_allclose(class_weights(table([[0], [0, 1]], classes=2), "balanced"), [0.5, 1])


@pytest.mark.parametrize("formula", ["balanced", "log"])
def test_a_class_without_images_has_no_weight(formula):
    with pytest.raises(UserError) as caught:
        class_weights(ONE_LABEL, formula)
    assert str(caught.value) == (
        f"loss.class_weights: {formula} has no weight for a class without images: 'c3' has none\n"
        "  hint: remove such classes from labels.csv, or take loss.class_weights: null"
    )
    with pytest.raises(UserError, match="images: 3 of 5 classes, 'c1' first, have none\n"):
        class_weights(table([[0, 4]], classes=5), formula)


def test_a_sampler_that_draws_less_than_the_processes_is_refused(monkeypatch):
    """Of each class one image, once."""
    labels = table([[0]] * 7 + [[1]])
    train = TrainTable(labels, np.arange(8))
    sampler = Component(name="undersample", params={"threshold": 1})
    assert train.fewest_draws(sampler, None, 2) == 2
    assert train.fewest_draws(None, None, 2) == 8
    fold_of = np.array([0, 0, 0, 1, 1, 1, 1, 0])
    assert train.fewest_draws(None, fold_of, 2) == 4
    assert train.fewest_draws(sampler, fold_of, 2) == 1  # of fold 0, whose own the only image of class 1 is
    monkeypatch.setattr(distributed, "size", lambda: 3)
    config = load_config("clipart_tiny", ["train.sampler={name: undersample, params: {threshold: 1}}"])
    with pytest.raises(UserError, match="train.batch_size: 3 processes can't share a batch of 2 images"):
        build_loader(config, labels, [Path("x.jpg")] * 8, torch.device("cpu"), read_image, 0)
