"""Test-time augmentation views: what a model sees of an image, made on the device from one batch.

A view is named by a word, or by several joined by "+", applied from left to right: "crop:top_left+hflip". Words that
stand for several views (d4, five, crops:N) are expanded by `expand_views`.

Crops are cut from a canvas that is `margin` pixels larger than the input in both directions; all other views start
from its middle.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from foldsmith.errors import UserError, did_you_mean, shown

RANDOM_CROPS_SEED = 0


def margin_of(views: Sequence[str], height: int, width: int) -> int:
    """Pixels by which the canvas is higher and wider than the input: 0 without crops, else about an eighth, even."""
    return max(2, round(max(height, width) / 16) * 2) if any("crop:" in view for view in views) else 0


def make_view(name: str, canvas: Tensor, height: int, width: int) -> Tensor:
    """The batch that a model sees instead of the plain one.

    Args:
        name: one of `expand_views`.
        canvas: (N, C, height + margin, width + margin).

    Returns:
        (N, C, height, width); (N, C, width, height) from views that turn; another size from scale:S.
    """
    words = name.split("+")
    if words[0].startswith("crop:"):
        x = _crop(words.pop(0).removeprefix("crop:"), canvas, height, width)
    else:
        x = _crop("center", canvas, height, width)
    for word in words:
        x = _scaled(x, float(word.removeprefix("scale:"))) if word.startswith("scale:") else DIHEDRAL[word](x)
    return x


def expand_views(names: Sequence[str]) -> list[str]:
    """Single views for the words of `test.tta`, each once, in order.

    Raises:
        UserError: naming the first word that is no view.
    """
    expanded: list[str] = []
    for name in names:
        first, plus, rest = name.partition("+")
        if first == "d4":
            heads = list(DIHEDRAL)
        elif first == "five":
            heads = [f"crop:{place}" for place in PLACES]
        elif first.startswith("crops:") and first[6:].isdecimal() and 0 < int(first[6:]) <= 100:
            heads = [f"crop:random{number}" for number in range(int(first[6:]))]
        else:
            heads = [first]
        expanded += [head + plus + rest for head in heads]
    for view in expanded:
        _check(view)
    return list(dict.fromkeys(expanded))


def _check(view: str) -> None:
    for position, word in enumerate(view.split("+")):
        if word in DIHEDRAL or (word.startswith("scale:") and _is_scale(word[6:])):
            continue
        place = word.removeprefix("crop:")
        if word != place and position == 0 and (place in PLACES or _random_number(place) is not None):
            continue
        if word.startswith(("crop", "five")) and position:
            raise UserError(f"in {view!r} the crop comes first", key="test.tta", hint=f"{word}+...")
        known = [*DIHEDRAL, "d4", "five", "crops:8", "scale:1.25", *(f"crop:{place}" for place in PLACES)]
        raise UserError(f"unknown view {shown(word)}", key="test.tta", hint=did_you_mean(word, known))


def _is_scale(text: str) -> bool:
    try:
        return 0.25 <= float(text) <= 4
    except ValueError:
        return False


def _random_number(place: str) -> int | None:
    number = place.removeprefix("random")
    return int(number) if number != place and number.isdecimal() else None


def _crop(place: str, canvas: Tensor, height: int, width: int) -> Tensor:
    free_rows, free_columns = canvas.shape[2] - height, canvas.shape[3] - width
    number = _random_number(place)
    if number is None:
        down, right = PLACES[place]
        top, left = int(free_rows * down), int(free_columns * right)
    else:
        generator = np.random.default_rng([RANDOM_CROPS_SEED, number])
        top, left = int(generator.integers(0, free_rows + 1)), int(generator.integers(0, free_columns + 1))
    return canvas[:, :, top : top + height, left : left + width]


def _scaled(x: Tensor, scale: float) -> Tensor:
    """Resized by about `scale`, to sides that 32 divides: most networks halve them five times."""
    height, width = (max(32, round(side * scale / 32) * 32) for side in x.shape[2:])
    if (height, width) == tuple(x.shape[2:]):
        return x
    scaled = F.interpolate(x, size=(height, width), mode="bilinear", antialias=True, align_corners=False)
    return scaled.contiguous(memory_format=torch.channels_last)


# Where a crop lies: shares of the free rows and columns above and left of it.
PLACES = {
    "center": (0.5, 0.5),
    "top_left": (0.0, 0.0),
    "top_right": (0.0, 1.0),
    "bottom_left": (1.0, 0.0),
    "bottom_right": (1.0, 1.0),
}

# The eight symmetries of a square, x being (N, C, H, W). Turns are counter-clockwise.
DIHEDRAL: dict[str, Callable[[Tensor], Tensor]] = {
    "identity": lambda x: x,
    "hflip": lambda x: x.flip(3),
    "vflip": lambda x: x.flip(2),
    "rot180": lambda x: x.flip((2, 3)),
    "transpose": lambda x: x.transpose(2, 3),
    "rot90": lambda x: x.transpose(2, 3).flip(2),
    "rot270": lambda x: x.transpose(2, 3).flip(3),
    "antitranspose": lambda x: x.transpose(2, 3).flip((2, 3)),
}
