"""Iterative stratification: folds of images with any number of labels, every class spread evenly."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from foldsmith.data.tables import Table


def stratified_folds(table: Table, num_folds: int, seed: int) -> NDArray[np.int64]:
    """The fold of every row, shuffled first.

    The same folds as MultilabelStratifiedKFold of the package iterative-stratification gives, which needs the labels
    as a dense matrix and adds that up once a class.
    """
    random = np.random.RandomState(seed)  # not default_rng: splits that were made with that package stay what they are
    order = np.arange(len(table))
    random.shuffle(order)
    labels = [table.indices[table.starts[row] : table.starts[row + 1]].tolist() for row in order]
    num_classes = len(table.classes.tokens)
    if num_classes == 1:  # having no label counts as a class then
        labels, num_classes = [of_image or [1] for of_image in labels], 2
    fold_of = np.empty(len(table), dtype=np.int64)
    fold_of[order] = iterative_stratification(labels, num_classes, num_folds, random)
    return fold_of


def iterative_stratification(
    labels: Sequence[Sequence[int]], num_classes: int, num_folds: int, random: np.random.RandomState
) -> list[int]:
    """Give the images of the rarest class to the folds that lack it most, and so on (Sechidis et al. 2011).

    Args:
        labels: class indices of every image.

    Returns:
        The fold of every image.
    """
    fold_of = [-1] * len(labels)
    images_of: list[list[int]] = [[] for _ in range(num_classes)]
    for image, of_image in enumerate(labels):
        for label in of_image:
            images_of[label].append(image)
    left = np.array([len(images) for images in images_of])  # images of every class that have no fold yet
    share = 1 / num_folds
    lacking = [share * len(labels)] * num_folds  # images that every fold still wants
    lacking_of = [[share * count] * num_folds for count in left.tolist()]  # the same for every class

    def assign(image: int, fold: int) -> None:
        fold_of[image] = fold
        lacking[fold] -= 1
        for label in labels[image]:
            lacking_of[label][fold] -= 1
            left[label] -= 1

    while left.any():
        rarest = np.flatnonzero(left == left[left > 0].min()).tolist()
        label = _one_of(rarest, random)
        for image in images_of[label]:
            if fold_of[image] < 0:
                folds = _largest(lacking_of[label], range(num_folds))
                assign(image, _one_of(_largest(lacking, folds), random))
    for image, fold in enumerate(fold_of):
        if fold < 0:
            assign(image, _one_of(_largest(lacking, range(num_folds)), random))
    return fold_of


def _largest(values: Sequence[float], among: Sequence[int]) -> list[int]:
    largest = max(values[index] for index in among)
    return [index for index in among if values[index] == largest]


def _one_of(indices: Sequence[int], random: np.random.RandomState) -> int:
    return indices[random.choice(len(indices))] if len(indices) > 1 else indices[0]
