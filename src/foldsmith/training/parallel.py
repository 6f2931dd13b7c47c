"""The network that several processes train together: DistributedDataParallel, and what it leaves to its user."""

import warnings
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from foldsmith.config.schema import Train
from foldsmith.errors import UserError
from foldsmith.training import distributed


def batch_of_all(train: Train) -> int:
    """Images of a batch of all processes."""
    return train.batch_size * (distributed.size() if train.batch_size_is == "per_process" else 1)


def same_weights(model: nn.Module) -> None:
    """Give every process the weights and buffers that process 0 has."""
    if distributed.size() > 1:
        for tensor in model.state_dict().values():
            sent = tensor.contiguous()
            dist.broadcast(sent, src=0)
            tensor.copy_(sent)


def average_statistics(model: nn.Module, *copies: nn.Module) -> None:
    """Replace the statistics of batch norms that train by their means over the processes.

    Args:
        copies: networks of the same layers, such as the moving average of the weights.
    """
    if distributed.size() == 1:
        return
    for name, layer in model.named_modules():
        if layer.training and getattr(layer, "running_mean", None) is not None:
            for network in dict.fromkeys((model, *copies)):
                for statistic in ("running_mean", "running_var"):
                    tensor = getattr(network.get_submodule(name), statistic)
                    dist.all_reduce(tensor)
                    tensor /= distributed.size()


def data_parallel(model: nn.Module, before: nn.Module | None) -> nn.Module | None:
    """The network within DistributedDataParallel; None for a process of its own.

    Args:
        before: what this gave earlier; it stays as long as the same parameters train.
    """
    if distributed.size() == 1:
        return None
    trained = _trained(model)
    if before is not None:
        if before.trained == trained:
            return before
        before.reducer._remove_autograd_hooks()  # type: ignore[union-attr, operator]  # they would average once more
    device = next(model.parameters()).device
    devices = [device] if device.type == "cuda" else None
    with warnings.catch_warnings():  # newer releases of torch have another name for broadcast_buffers
        warnings.simplefilter("ignore", FutureWarning)
        wrapped = DistributedDataParallel(model, device_ids=devices, broadcast_buffers=False)
    wrapped.trained = trained  # type: ignore[assignment]
    return wrapped


def _trained(model: nn.Module) -> Sequence[str]:
    return [name for name, parameter in model.named_parameters() if parameter.requires_grad]


def no_sync(wrapped: nn.Module | None, last: bool) -> AbstractContextManager[Any]:
    """Keep gradients to this process until the last batch of a step, where they are averaged once."""
    return nullcontext() if wrapped is None or last else wrapped.no_sync()  # type: ignore[operator]


def synchronised_batch_norm(model: nn.Module, device: torch.device) -> nn.Module:
    """The network with batch norms that see the batch of all processes (train.sync_batch_norm).

    Raises:
        UserError: on the CPU, where torch has no such layer.
    """
    from timm.layers import convert_sync_batchnorm

    if distributed.size() == 1:
        return model
    if device.type != "cuda":
        raise UserError(
            "torch synchronises batch norm on GPUs only",
            key="train.sync_batch_norm",
            hint="false, or a network without batch norm such as convnext",
        )
    return convert_sync_batchnorm(model)
