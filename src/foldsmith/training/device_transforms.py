"""Flips, turns and erasing of whole batches, where the model is. What each image gets was drawn in data/augment.py.

They work on uint8 before normalisation, and give the bytes that the same moves give to each image alone.
"""

import torch
from torch import Tensor


def move_images(images: Tensor, moves: Tensor, device: torch.device) -> Tensor:
    """Flip, turn and erase, in this order.

    Args:
        images: uint8 (N, H, W, 3), on the CPU; may be changed.
        moves: int32 (N, 7), on the CPU: a row of data.augment.Moves for each image.

    Returns:
        uint8 (N, H, W, 3) on the device.
    """
    images = images.to(device, non_blocking=True)
    hflip, vflip, turns = moves[:, 0], moves[:, 1], moves[:, 2]
    for chosen, moved in (
        (hflip == 1, lambda x: x.flip(2)),
        (vflip == 1, lambda x: x.flip(1)),
        *((turns == turn, lambda x, turn=turn: x.rot90(turn, (1, 2))) for turn in (1, 2, 3)),
    ):
        rows = chosen.nonzero()[:, 0]  # on the CPU: a GPU would have to be waited for
        if len(rows):
            rows = rows.to(device, non_blocking=True)
            images.index_copy_(0, rows, moved(images.index_select(0, rows)))
    rows = (moves[:, 4] > 0).nonzero()[:, 0]
    if len(rows):
        boxes = moves[rows, 3:].to(device, non_blocking=True)
        rows = rows.to(device, non_blocking=True)
        images.index_copy_(0, rows, erase(images.index_select(0, rows), boxes))
    return images


def erase(images: Tensor, boxes: Tensor) -> Tensor:
    """Fill a box of every image with the image's mean colour, rounded, of halves to the even.

    Args:
        images: uint8 (N, H, W, 3).
        boxes: int (N, 4): top, bottom, left, right, ends exclusive.
    """
    height, width = images.shape[1:3]
    sums = images.sum(dim=1, dtype=torch.int32).sum(dim=1, dtype=torch.int64)  # exact, unlike a float's mean
    colours = sums.double().div(height * width).round().to(torch.uint8)
    top, bottom, left, right = boxes[:, :, None].unbind(1)
    down = torch.arange(height, device=images.device)
    along = torch.arange(width, device=images.device)
    inside = ((down >= top) & (down < bottom))[:, :, None] & ((along >= left) & (along < right))[:, None, :]
    return torch.where(inside[..., None], colours[:, None, None, :], images)
