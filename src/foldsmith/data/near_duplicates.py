"""Images that look the same: perceptual hashes, compared exactly, and a second look at those that agree.

The hash is the usual one of 64 bits (Zauner, Implementation and Benchmarking of Perceptual Image Hash Functions, 2010):
the image in gray at 32 x 32, its discrete cosine transform, and for each of the lowest 8 x 8 frequencies whether it
exceeds their median. Re-encoding, scaling and small changes of brightness flip few bits.
"""

import os
from collections import defaultdict
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from foldsmith.data.images import Image, ImageError, read_image

MOST_BITS = 7  # that may differ: one of eight bands of 8 bits is the same in every such pair
THUMB = 16  # side of the gray copy that is looked at once more
LEAST_CORRELATION = 0.97  # of two such copies


@dataclass(frozen=True)
class Looks:
    """What was seen of some images."""

    hashes: NDArray[np.uint64]  # (images,)
    thumbs: NDArray[np.float32]  # (images, THUMB * THUMB) gray, of mean 0 and length 1; all 0 where the image is plain
    sizes: NDArray[np.int64]  # (images, 2) height and width; 0 where the image can't be read
    errors: dict[int, str]  # reason by position


def look_at(paths: Sequence[Path], description: str) -> Looks:
    """Read every image once, on all cores."""
    hashes, thumbs = np.zeros(len(paths), dtype=np.uint64), np.zeros((len(paths), THUMB * THUMB), dtype=np.float32)
    sizes, errors = np.zeros((len(paths), 2), dtype=np.int64), {}
    with tqdm(total=len(paths), desc=description, unit="img", disable=None, leave=False) as bar:

        def one(index: int) -> None:
            try:
                image = read_image(paths[index])
                hashes[index], thumbs[index] = look(image)
                sizes[index] = image.shape[:2]
            except ImageError as error:
                errors[index] = str(error)
            bar.update()

        with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
            list(pool.map(one, range(len(paths))))
    return Looks(hashes, thumbs, sizes, dict(sorted(errors.items())))


def look(image: Image) -> tuple[np.uint64, NDArray[np.float32]]:
    """The perceptual hash of an image, and its small gray copy."""
    gray = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    small = cv2.resize(gray, (32, 32), interpolation=cv2.INTER_AREA).astype(np.float32)
    low = cv2.dct(small)[:8, :8].reshape(-1)
    low[0] = 0  # the mean brightness says nothing of what is seen
    bits = low > np.median(low)
    thumb = cv2.resize(gray, (THUMB, THUMB), interpolation=cv2.INTER_AREA).reshape(-1).astype(np.float32)
    thumb -= thumb.mean()
    length = float(np.linalg.norm(thumb))
    thumb = thumb / length if length > THUMB else np.zeros_like(thumb)  # less than one gray level is plain
    return np.packbits(bits).view(">u8")[0].astype(np.uint64), thumb


def near_pairs(looks: Looks) -> list[tuple[int, int]]:
    """Pairs of positions that look the same, in rising order; unreadable and plain images are in none."""
    usable = np.flatnonzero((looks.sizes[:, 0] > 0) & looks.thumbs.any(axis=1))
    found: set[tuple[int, int]] = set()
    for band in range(8):
        keys = (looks.hashes >> np.uint64(8 * band)) & np.uint64(0xFF)
        same: dict[int, list[int]] = defaultdict(list)
        for index in usable.tolist():
            same[int(keys[index])].append(index)
        for members in same.values():
            found |= _pairs_within(looks, np.array(members))
    return sorted(found)


def _pairs_within(looks: Looks, members: NDArray[np.int64]) -> set[tuple[int, int]]:
    """Pairs of some images that agree in hash and look."""
    found = set()
    for position, index in enumerate(members[:-1].tolist()):
        later = members[position + 1 :]
        later = later[np.bitwise_count(looks.hashes[later] ^ looks.hashes[index]) <= MOST_BITS]
        if len(later):
            alike = looks.thumbs[later] @ looks.thumbs[index] >= LEAST_CORRELATION
            found |= {(index, int(other)) for other in later[alike]}
    return found


def groups_of_pairs(count: int, pairs: Iterable[tuple[int, int]]) -> NDArray[np.int64]:
    """A group number of every position; positions that pairs connect, also through others, share one."""
    parent = np.arange(count)

    def root(index: int) -> int:
        while parent[index] != index:
            parent[index] = parent[parent[index]]
            index = int(parent[index])
        return index

    for first, second in pairs:
        a, b = sorted((root(first), root(second)))
        parent[b] = a
    return np.array([root(index) for index in range(count)])
