"""Models by timm name, their image statistics, and which of their parameters train."""

from collections.abc import Sequence
from typing import Any

import timm
import torch
from timm.models import group_parameters
from timm.models.vgg import VGG
from torch import nn

from foldsmith.config import Config
from foldsmith.errors import EXIT_ENVIRONMENT, UserError, did_you_mean
from foldsmith.models.archs import resolve_arch

_WITHOUT_DOWNLOAD = "name a file (pretrained: weights/a.safetensors), or train from scratch (pretrained: false)"


def build_model(
    arch: str,
    *,
    num_classes: int,
    input_size: tuple[int, int],
    dropout: float = 0.0,
    pooling: str | None = None,
    head_layers: Sequence[int] = (),
    download: bool = False,
) -> nn.Module:
    """A timm model with a new classifier, in channels_last memory format.

    Args:
        arch: timm's name, perhaps with a tag ("resnet50.a1_in1k"), or one of models/archs.py.
        input_size: (height, width) in pixels; used by models that are built for one size.
        dropout: before the classifier, and after each of head_layers.
        pooling: timm's global_pool; None for the model's own.
        head_layers: widths of fully connected layers before the classifier.
        download: start from timm's pretrained weights, which timm downloads or finds in its cache.
    """
    name, options = resolve_arch(arch)
    if options and download:  # timm's weights are of the network without what the options add
        options = options | {"pretrained_strict": False}
    if pooling:
        options = options | {"global_pool": pooling}
    pretrained_cfg = timm.get_pretrained_cfg(name)
    if pretrained_cfg is not None and pretrained_cfg.fixed_input_size:
        options = options | {"img_size": input_size}
    if download and not (pretrained_cfg and pretrained_cfg.has_weights):
        raise UserError(f"timm has no weights of {arch!r}", key="model.pretrained", hint=_WITHOUT_DOWNLOAD)
    try:
        model = timm.create_model(name, pretrained=download, num_classes=num_classes, drop_rate=dropout, **options)
    except AssertionError as error:
        raise UserError(f"timm refuses these options of {arch!r}: {error}", key="model") from None
    except OSError as error:
        if not download:
            raise
        raise UserError(
            f"timm's weights of {arch!r} could not be downloaded: {error}",
            key="model.pretrained",
            hint=_WITHOUT_DOWNLOAD,
            code=EXIT_ENVIRONMENT,
        ) from None
    if head_layers:
        _deepen_classifier(model, arch, head_layers, dropout)
    return model.to(memory_format=torch.channels_last)


class DeepClassifier(nn.Module):
    """Fully connected layers, each with batch norm, ReLU and dropout, and a last linear one: (N, features) -> (N, C).

    It takes the place and the name of a network's classifier. (Not an nn.Sequential itself: timm's grouping of
    parameters looks into those.)
    """

    def __init__(self, features: int, widths: Sequence[int], num_classes: int, dropout: float) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for width in widths:
            linear = nn.Linear(features, width, bias=False)  # batch norm has one
            layers += [linear, nn.BatchNorm1d(width), nn.ReLU(inplace=True), nn.Dropout(dropout)]
            features = width
        self.layers = nn.Sequential(*layers, nn.Linear(features, num_classes))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x)


def _deepen_classifier(model: Any, arch: str, widths: Sequence[int], dropout: float) -> None:
    (name, *others) = classifier_prefixes(model)
    classifier = model.get_submodule(name)
    if others or not isinstance(classifier, nn.Linear):
        raise UserError(f"the classifier of {arch!r} is not one linear layer", key="model.head_layers")
    features = classifier.in_features
    if isinstance(model, VGG):  # its own two hidden layers, which timm has as convolutions, go
        hidden: Any = model.pre_logits
        features = features // hidden.fc2.out_channels * model.num_features
        model.set_submodule("pre_logits", nn.Identity())
    model.set_submodule(name, DeepClassifier(features, widths, classifier.out_features, dropout))


def with_image_stats(config: Config) -> Config:
    """The config with model.mean and model.std filled in from timm's data config where they are not named."""
    if config.model.mean is not None:
        return config
    known = timm.get_pretrained_cfg(resolve_arch(config.model.arch)[0])
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


def layer_groups(model: nn.Module) -> list[list[str]]:
    """Parameter names in timm's coarse groups, from the stem over the stages to the classifier.

    What stands between the last stage and the classifier, such as a norm, is in the classifier's group.
    """
    if not hasattr(model, "group_matcher"):
        raise UserError("timm knows no layer groups of this model; name its modules instead", key="train.trainable")
    groups = group_parameters(model, model.group_matcher(coarse=True))  # type: ignore[operator]
    return [groups[number] for number in sorted(groups)]


def set_trainable(model: nn.Module, trainable: str | list[str]) -> None:
    """Let exactly these parameters train: "all", "head", "last N groups" (of `layer_groups`) or module name prefixes.

    Raises:
        UserError: when a prefix names nothing, or there are not that many groups; the model is as it was then.
    """
    if trainable == "all":
        names = {name for name, _ in model.named_parameters()}
    elif isinstance(trainable, str) and trainable != "head":
        groups = layer_groups(model)
        count = int(trainable.split()[1])
        if count > len(groups):
            raise UserError(
                f"{trainable!r}, but the model has {len(groups)} groups",
                key="train.trainable",
                hint="the groups begin with " + ", ".join(group[0] for group in groups),
            )
        names = {name for group in groups[-count:] for name in group}
    else:
        prefixes = classifier_prefixes(model) if trainable == "head" else tuple(trainable)
        for prefix in prefixes:
            check_prefix(model, prefix, key="train.trainable")
        names = {name for name, _ in model.named_parameters() if in_modules(name, prefixes)}
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in names)


def train_mode(model: nn.Module) -> None:
    """model.train(), but frozen layers stay as they are: their batch norm keeps its statistics."""
    model.train()
    for module in model.modules():
        if is_frozen(module):
            module.training = False  # not eval(): below it may be layers that train


def slow_batch_norm(model: nn.Module, batches: int) -> None:
    """Let the running statistics of batch norm move in `batches` updates as far as in one: momentum 1 - (1 - m)^(1/k).

    Where gradients of several batches are averaged into one step, statistics would follow several times as fast
    otherwise, and each batch would push those of the others out.
    """
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.momentum is not None:
            module.momentum = 1 - (1 - module.momentum) ** (1 / batches)


def is_frozen(module: nn.Module) -> bool:
    """True for a layer with parameters of its own of which none trains."""
    own = list(module.parameters(recurse=False))
    return bool(own) and not any(parameter.requires_grad for parameter in own)
