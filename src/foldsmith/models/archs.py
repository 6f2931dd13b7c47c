"""Names of architectures: timm's, and those that users bring from elsewhere."""

import difflib
from typing import Any

import timm

# Names in pretrainedmodels, Keras or published solutions, and what timm calls the network. The se_ ones are the
# networks of pretrainedmodels themselves, which weights of that origin fit; timm's seresnext50_32x4d is a newer one.
ALIASES = {
    "fbresnet50": "resnet50",
    "fbresnet101": "resnet101",
    "fbresnet152": "resnet152",
    "fbresnet200": "resnet200",
    "inceptionresnetv2": "inception_resnet_v2",
    "inceptionv3": "inception_v3",
    "inceptionv4": "inception_v4",
    "nasnetlarge": "nasnetalarge",
    "pnasnet5": "pnasnet5large",
    "resnext50": "resnext50_32x4d",
    "resnext101": "resnext101_32x4d",
    "se_resnet50": "legacy_seresnet50",
    "se_resnet101": "legacy_seresnet101",
    "se_resnet152": "legacy_seresnet152",
    "se_resnext50_32x4d": "legacy_seresnext50_32x4d",
    "se_resnext101_32x4d": "legacy_seresnext101_32x4d",
    "seresnext50": "seresnext50_32x4d",
    "seresnext101": "seresnext101_32x4d",
    "wrn50_2": "wide_resnet50_2",
    "wrn101_2": "wide_resnet101_2",
    "xception": "legacy_xception",
}

# Networks that timm builds when it is asked for other attention blocks: (timm's name, arguments). timm has weights for
# the network without attention only; with pretrained: true the attention starts from random values.
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "cbam_resnet18": ("resnet18", {"block_args": {"attn_layer": "cbam"}}),
    "cbam_resnet34": ("resnet34", {"block_args": {"attn_layer": "cbam"}}),
    "cbam_resnet50": ("resnet50", {"block_args": {"attn_layer": "cbam"}}),
    "cbam_resnet101": ("resnet101", {"block_args": {"attn_layer": "cbam"}}),
}


def resolve_arch(arch: str) -> tuple[str, dict[str, Any]]:
    """timm's name of an architecture, with the tag that it came with, and arguments for timm.create_model.

    >>> resolve_arch("wrn50_2.tv_in1k")
    ('wide_resnet50_2.tv_in1k', {})
    """
    name, dot, tag = arch.partition(".")
    name, options = VARIANTS.get(name, (ALIASES.get(name, name), {}))
    return name + dot + tag, options


def is_arch(arch: str) -> bool:
    """True when `model.arch` may be this: timm's name or one from the tables above, perhaps with one of timm's tags."""
    name, _ = resolve_arch(arch)
    try:
        timm.get_pretrained_cfg(name)  # raises on a tag that the model does not have: resnet18.tag
    except RuntimeError:
        return False
    return bool(timm.is_model(name))


def unknown_arch(arch: str) -> str:
    """What to say of a name that is_arch refuses: the names nearest to it."""
    known = timm.list_models(pretrained="." in arch)
    near = difflib.get_close_matches(arch.lower(), [*known, *ALIASES, *VARIANTS], n=5, cutoff=0.5)
    return f"timm has no model {arch!r}; the nearest: {', '.join(near) or 'none (see timm.list_models())'}"
