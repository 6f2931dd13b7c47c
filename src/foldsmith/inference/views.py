"""Test-time augmentation views: functions from a batch (N, C, H, W) to a batch that the model sees instead."""

from collections.abc import Callable

from torch import Tensor


def identity(x: Tensor) -> Tensor:
    return x


def hflip(x: Tensor) -> Tensor:
    return x.flip(3)


def vflip(x: Tensor) -> Tensor:
    return x.flip(2)


def rot180(x: Tensor) -> Tensor:
    return x.flip((2, 3))


VIEWS: dict[str, Callable[[Tensor], Tensor]] = {
    "identity": identity,
    "hflip": hflip,
    "vflip": vflip,
    "rot180": rot180,
}
