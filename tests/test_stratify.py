"""Iterative stratification: the folds of the package that splits were made with before, and of any size in seconds."""

import time
import warnings

import numpy as np
import pytest

from foldsmith.data.stratify import stratified_folds
from foldsmith.data.tables import Classes, Table


@pytest.mark.parametrize(("images", "classes", "labels"), [(60, 7, 2.0), (200, 40, 0.7), (9, 3, 1.0), (50, 1, 0.5)])
@pytest.mark.parametrize("num_folds", [2, 5])
def test_folds_are_those_of_the_package_iterative_stratification(images, classes, labels, num_folds):
    from iterstrat.ml_stratifiers import MultilabelStratifiedKFold

    dense = np.random.default_rng(images).random((images, classes)) < labels / max(2, classes)
    names = [str(index) for index in range(classes)]
    starts = np.concatenate([[0], np.cumsum(dense.sum(axis=1))])
    indices = np.nonzero(dense)[1].astype(np.int32)
    table = Table([str(row) for row in range(images)], starts, indices, Classes(names, names))
    both = dense if classes > 1 else np.hstack([dense, ~dense])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for seed in range(5):
            splits = MultilabelStratifiedKFold(num_folds, shuffle=True, random_state=seed).split(dense, both)
            expected = np.zeros(images, dtype=int)
            for fold, (_, rows) in enumerate(splits):
                expected[rows] = fold
            np.testing.assert_array_equal(stratified_folds(table, num_folds, seed), expected)


def test_20000_images_of_1103_classes_take_moments():
    generator = np.random.default_rng(0)
    share = 1 / np.arange(1, 1104)
    labels = np.sort(generator.choice(1103, (20000, 3), p=share / share.sum()), axis=1)
    labels = [sorted(set(of_image)) for of_image in labels.tolist()]
    names = [str(index) for index in range(1103)]
    starts = np.concatenate([[0], np.cumsum([len(of_image) for of_image in labels])])
    indices = np.concatenate(labels).astype(np.int32)
    table = Table([str(row) for row in range(20000)], starts, indices, Classes(names, names))
    started = time.process_time()
    fold_of = stratified_folds(table, 5, 0)
    assert time.process_time() - started < 5  # 0.2; as a dense matrix with a sum over all rows for each class, 8
    assert np.bincount(fold_of).tolist() == pytest.approx([4000] * 5, abs=20)
