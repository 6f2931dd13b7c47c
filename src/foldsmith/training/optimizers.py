"""The optimizer: any of timm's, with a rate of its own for the head and no weight decay on biases and norms."""

import inspect
from typing import Any

import timm.optim
import torch
from torch import nn

from foldsmith.models.build import check_prefix, classifier_prefixes, in_modules


def build_optimizer(
    model: nn.Module,
    name: str,
    params: dict[str, Any],
    head_lr: float | None = None,
    group_lrs: dict[str, float] | None = None,
) -> torch.optim.Optimizer:
    """An optimizer over the parameters that train. Each group keeps its own rate in `initial_lr`.

    Args:
        name: timm's name of the optimizer.
        params: its arguments; `lr` is required.
        head_lr: rate of the classifier; None: params["lr"].
        group_lrs: rates by module name prefix; the longest prefix of a name decides.

    Raises:
        UserError: when a prefix names no module.
    """
    rates = {"": params["lr"]} | (group_lrs or {})
    if head_lr is not None:
        rates |= dict.fromkeys(classifier_prefixes(model), head_lr)
    for prefix in group_lrs or {}:
        check_prefix(model, prefix, key=f"optimizer.group_lrs.{prefix}")
    groups: dict[tuple[float, bool], dict[str, Any]] = {}
    for parameter_name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        prefix = max((prefix for prefix in rates if not prefix or in_modules(parameter_name, (prefix,))), key=len)
        decays = parameter.ndim > 1
        lr = rates[prefix]
        group = groups.setdefault((lr, decays), {"params": [], "lr": lr, "initial_lr": lr})
        group["params"].append(parameter)
        if not decays:
            group["weight_decay"] = 0.0
    optimizer: Any = timm.optim.get_optimizer_class(name, bind_defaults=False)
    # One pass over the weights instead of about ten. SGD's fails when parameters begin to train later than others.
    has_fused = "fused" in inspect.signature(optimizer).parameters and not issubclass(optimizer, torch.optim.SGD)
    if has_fused and not {"foreach", "differentiable"} & params.keys():
        params = {"fused": True} | params
    return timm.optim.create_optimizer_v2(list(groups.values()), opt=name, **params)
