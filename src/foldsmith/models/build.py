"""Models by timm name, their image statistics, and which of their parameters train."""

from typing import Any

import timm
import torch
from torch import nn

from foldsmith.config import Config
from foldsmith.errors import EXIT_ENVIRONMENT, UserError, did_you_mean


def build_model(
    arch: str,
    *,
    num_classes: int,
    input_size: tuple[int, int],
    dropout: float = 0.0,
    pooling: str | None = None,
    download: bool = False,
) -> nn.Module:
    """A timm model with a new classifier, in channels_last memory format.

    Args:
        arch: timm's name, perhaps with a tag ("resnet50.a1_in1k").
        input_size: (height, width) in pixels; used by models that are built for one size.
        dropout: before the classifier.
        pooling: timm's global_pool; None for the model's own.
        download: start from timm's pretrained weights, which timm downloads or finds in its cache.
    """
    options: dict[str, Any] = {"global_pool": pooling} if pooling else {}
    pretrained_cfg = timm.get_pretrained_cfg(arch)
    if pretrained_cfg is not None and pretrained_cfg.fixed_input_size:
        options["img_size"] = input_size
    try:
        model = timm.create_model(arch, pretrained=download, num_classes=num_classes, drop_rate=dropout, **options)
    except AssertionError as error:
        raise UserError(f"timm refuses these options of {arch!r}: {error}", key="model") from None
    except OSError as error:
        if not download:
            raise
        raise UserError(
            f"timm's weights of {arch!r} could not be downloaded: {error}",
            key="model.pretrained",
            hint="name a file (pretrained: weights/a.safetensors), or train from scratch (pretrained: false)",
            code=EXIT_ENVIRONMENT,
        ) from None
    return model.to(memory_format=torch.channels_last)


def with_image_stats(config: Config) -> Config:
    """The config with model.mean and model.std filled in from timm's data config where they are not named."""
    if config.model.mean is not None:
        return config
    known = timm.get_pretrained_cfg(config.model.arch)
    mean, std = (known.mean, known.std) if known else (timm.data.IMAGENET_DEFAULT_MEAN, timm.data.IMAGENET_DEFAULT_STD)
    model = config.model.model_copy(update={"mean": list(mean), "std": list(std)})
    return config.model_copy(update={"model": model})


def classifier_prefixes(model: nn.Module) -> tuple[str, ...]:
    """Module names of the classifier, such as ("fc",)."""
    names = model.pretrained_cfg["classifier"]  # type: ignore[index]
    return (names,) if isinstance(names, str) else tuple(names)


def in_modules(name: str, prefixes: tuple[str, ...]) -> bool:
    """True when a parameter's name lies in one of the modules: "blocks.3" holds "blocks.3.0.bn1.weight"."""
    return any(name == prefix or name.startswith(prefix + ".") for prefix in prefixes)


def check_prefix(model: nn.Module, prefix: str, key: str) -> None:
    """Raise a UserError, naming the config's `key`, when no parameter lies in a module of that name."""
    if any(in_modules(name, (prefix,)) for name, _ in model.named_parameters()):
        return
    modules = [name for name, module in model.named_modules() if name and any(True for _ in module.parameters())]
    raise UserError(f"{prefix!r} names no module with parameters", key=key, hint=did_you_mean(prefix, modules))


def set_trainable(model: nn.Module, trainable: str | list[str]) -> None:
    """Freeze all parameters but those of `trainable`: "all", "head", or module name prefixes."""
    if trainable == "all":
        return
    prefixes = classifier_prefixes(model) if trainable == "head" else tuple(trainable)
    for prefix in prefixes:
        check_prefix(model, prefix, key="train.trainable")
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(in_modules(name, prefixes))


def train_mode(model: nn.Module) -> None:
    """model.train(), but frozen layers stay as they are: their batch norm keeps its statistics."""
    model.train()
    for module in model.modules():
        own = list(module.parameters(recurse=False))
        if own and not any(parameter.requires_grad for parameter in own):
            module.training = False  # not eval(): below it may be layers that train
