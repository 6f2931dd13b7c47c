"""Mixup, cutmix, gradient clipping, and the moving average of weights."""

import numpy as np
import pytest
import torch

from foldsmith.training.mixing import Mixing, cutmix, mixup
from tests.test_training import fold0, tensors


def batch():
    images = torch.arange(3 * 8 * 6 * 2).to(torch.uint8).view(3, 8, 6, 2)
    return images, torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])


def as_input(images):
    return images.permute(0, 3, 1, 2).float()


def test_mixup_by_hand():
    images, y = batch()
    x = as_input(images)
    mixed, labels = mixup(images, y, lambda rows: rows[[1, 2, 0]], 0.75, as_input)
    torch.testing.assert_close(mixed[0], 0.75 * x[0] + 0.25 * x[1])
    assert labels.tolist() == [[0.75, 0.25], [0.25, 1.0], [1.0, 0.75]]
    assert mixed.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(images, batch()[0])


@pytest.mark.parametrize("seed", range(20))
def test_cutmix_labels_follow_the_area(seed):
    images, y = batch()
    x = as_input(images)
    partners = [1, 2, 0]
    mixed, labels = cutmix(images, y, lambda rows: rows[partners], 0.6, np.random.default_rng(seed), as_input)
    from_partner = (mixed != x)[0, 0]
    rows, columns = torch.nonzero(from_partner, as_tuple=True)
    assert len(rows) == (rows.max() - rows.min() + 1) * (columns.max() - columns.min() + 1), "one box"
    assert torch.equal(mixed[0][:, from_partner], x[1][:, from_partner])
    share = 1 - from_partner.float().mean().item()
    torch.testing.assert_close(labels[0], share * y[0] + (1 - share) * y[1])
    assert torch.equal(images, batch()[0])


def test_how_often_which():
    images, y = batch()
    x = as_input(images)
    kinds, taken = [], []

    def noting(images):
        taken.append(images)
        return as_input(images)

    for seed in range(400):
        taken.clear()
        mixed, labels = Mixing(1.0, 1.0, prob=0.5)(images, y, np.random.default_rng(seed), noting)
        untouched = (mixed == x).flatten(1).float().mean(dim=1)
        kinds.append("none" if len(taken) == 1 else "cutmix" if ((untouched > 0) & (untouched < 1)).any() else "mixup")
    assert 160 < kinds.count("none") < 240
    assert 60 < kinds.count("cutmix") < 140 and 60 < kinds.count("mixup") < 140


def test_mixing_is_resumable_and_used(small, tmp_path):
    sets = ("train.num_epochs=1", "train.mixup.alpha=0.4", "train.cutmix.alpha=1.0")
    first, again = (tensors(fold0(small, tmp_path / name, *sets)) for name in ("first", "again"))
    plain = tensors(fold0(small, tmp_path / "plain", "train.num_epochs=1"))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert any(not torch.equal(first[name], plain[name]) for name in first)


def test_clipped_gradients_make_steps_of_the_clipped_size(small, tmp_path):
    """One SGD step of rate 1 with gradients clipped to 2-norm 0.01 moves the parameters by 0.01."""
    sets = ["train.num_epochs=1", "train.max_steps_per_epoch=1", "optimizer.name=momentum", "scheduler.name=constant"]
    start = tensors(fold0(small, tmp_path / "start", *sets, "optimizer.params={lr: 1e-30, momentum: 0.0}"))
    clipped = fold0(
        small, tmp_path / "end", *sets, "optimizer.params={lr: 1.0, momentum: 0.0}", "train.clip_grad_norm=0.01"
    )
    end = tensors(clipped)
    moved = [end[name] - start[name] for name in end if "running" not in name and "tracked" not in name]
    assert torch.cat([difference.flatten() for difference in moved]).norm().item() == pytest.approx(0.01, rel=1e-3)


def test_ema_weights_are_the_recursive_mean(small, tmp_path):
    """With decay d, three SGD steps leave (1 - d) times the later weights over d times the average before."""
    sets = ["train.num_epochs=1", "optimizer.name=momentum", "scheduler.name=constant", "train.ema.decay=0.75"]
    sets += ["optimizer.params={lr: 0.01, momentum: 0.0}", "train.ema.warmup=false"]

    def after(steps: int, *more: str):
        words = [*sets, f"train.max_steps_per_epoch={steps}", *more]
        return tensors(fold0(small, tmp_path / f"{steps}{len(more)}", *words))["classifier.weight"]

    plain = [after(steps, "train.ema=null") for steps in (1, 2, 3)]
    # timm copies the weights at its first update, and averages from the second on
    expected = 0.75 * (0.75 * plain[0] + 0.25 * plain[1]) + 0.25 * plain[2]
    torch.testing.assert_close(after(3), expected, atol=1e-7, rtol=1e-5)
    assert not torch.equal(after(3), plain[2])
