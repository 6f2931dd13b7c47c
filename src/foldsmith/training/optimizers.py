"""The optimizer: any of timm's, with a rate of its own for the head and no weight decay on biases and norms."""

import inspect
from typing import Any

import timm.optim
import torch
from torch import nn

from foldsmith.models.build import classifier_prefixes, in_modules


def build_optimizer(
    model: nn.Module, name: str, params: dict[str, Any], head_lr: float | None = None
) -> torch.optim.Optimizer:
    """An optimizer over the parameters that train. Each group keeps its own rate in `initial_lr`.

    Args:
        name: timm's name of the optimizer.
        params: its arguments; `lr` is required.
        head_lr: rate of the classifier; None: params["lr"].
    """
    head = classifier_prefixes(model)
    groups: dict[tuple[bool, bool], dict[str, Any]] = {}
    for parameter_name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        in_head, decays = in_modules(parameter_name, head), parameter.ndim > 1
        lr = head_lr if in_head and head_lr is not None else params["lr"]
        group = groups.setdefault((in_head, decays), {"params": [], "lr": lr, "initial_lr": lr})
        group["params"].append(parameter)
        if not decays:
            group["weight_decay"] = 0.0
    if "fused" in inspect.signature(timm.optim.get_optimizer_class(name, bind_defaults=False)).parameters:
        params = {"fused": True} | params  # one pass over the weights instead of about ten
    return timm.optim.create_optimizer_v2(list(groups.values()), opt=name, **params)
