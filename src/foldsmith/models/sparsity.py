"""Sparse weights, for dense-sparse-dense training (Han et al. 2017, arXiv:1607.04381)."""

import torch
from torch import Tensor, nn


def smallest_masks(model: nn.Module, sparsity: float) -> dict[str, Tensor]:
    """Masks by parameter name, bool, False at the smallest share of each conv and linear weight.

    Args:
        sparsity: in (0, 1). Of n weights, floor(sparsity * n) are masked; of equal ones the first.
    """
    masks = {}
    for name, module in model.named_modules():
        if not isinstance(module, nn.modules.conv._ConvNd | nn.Linear):
            continue
        weight = module.weight.detach()
        smallest = weight.abs().flatten().argsort(stable=True)[: int(sparsity * weight.numel())]
        mask = torch.ones(weight.numel(), dtype=torch.bool, device=weight.device)
        mask[smallest] = False
        masks[f"{name}.weight" if name else "weight"] = mask.view(weight.shape)
    return masks


@torch.no_grad()
def apply_masks(model: nn.Module, masks: dict[str, Tensor]) -> None:
    """Set what is masked to zero, in place."""
    for name, mask in masks.items():
        model.get_parameter(name).mul_(mask)
