"""Weights on disk. Ours are safetensors with one header entry; nothing that is read here can run code.

Header: the metadata key `foldsmith`, sorted JSON with name, fold, config (resolved), classes (tokens), epoch, score,
threshold, and the sha256 of data, folds, config and code. A .pth may stand for such a file where torch.save wrote
{"foldsmith": the same text, "state_dict": tensors}.
"""

import json
import pickle
import struct
import zipfile
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from foldsmith.config import Config, dotted
from foldsmith.config.section import PICKLES
from foldsmith.config.validate import schema_problems
from foldsmith.errors import EXIT_UNTRUSTED, UserError
from foldsmith.files import atomic_path
from foldsmith.models.archs import is_arch, resolve_arch
from foldsmith.models.build import build_model, classifier_prefixes, in_modules
from foldsmith.models.pickles import load_pickle

FLOATS = {torch.float16, torch.bfloat16, torch.float32, torch.float64}  # they may stand for each other
HEADER_KEYS = {"name", "fold", "config", "config_sha256", "classes", "data_sha256", "folds_sha256"}
# What torch.load raises at files that are no weights, cut or changed.
DAMAGED = (
    pickle.UnpicklingError,
    RuntimeError,
    EOFError,
    ValueError,
    LookupError,
    OSError,
    AttributeError,
    TypeError,
    AssertionError,
    ArithmeticError,
    MemoryError,
    struct.error,
    zipfile.BadZipFile,
)


def save_weights(path: Path, state: dict[str, torch.Tensor], header: dict[str, Any]) -> None:
    """Write a state dict and its header atomically; equal input gives equal bytes."""
    # safetensors refuses channels_last tensors
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    with atomic_path(path, sum(tensor.nbytes for tensor in tensors.values())) as temporary:
        metadata = {"foldsmith": json.dumps(header, sort_keys=True, ensure_ascii=False)}
        safetensors.torch.save_file(tensors, temporary, metadata=metadata)


def read_header(path: Path) -> dict[str, Any]:
    """The header of one of our weights files.

    Raises:
        UserError: code 4 when the file is not such a file.
    """
    if not path.is_file():
        raise UserError("weights file not found", file=path)
    try:
        header = json.loads(_metadata(path)["foldsmith"])
    except (KeyError, ValueError, TypeError, RecursionError):
        raise _untrusted(path, "has no foldsmith header; it is not a file that train.py wrote") from None
    if not isinstance(header, dict) or not header.keys() >= HEADER_KEYS:
        raise _untrusted(path, "has a foldsmith header without " + ", ".join(sorted(HEADER_KEYS)))
    name, fold, classes = header["name"], header["fold"], header["classes"]
    if (
        not isinstance(name, str) or name in ("", "..") or "\0" in name or name != Path(name).name
    ):  # it names what is written
        raise _untrusted(path, f"has a header whose name is not a file name: {name!r}")
    if not isinstance(header["config"], dict):
        raise _untrusted(path, "has a header whose config is not valid: it is not a section")
    if type(fold) is not int or not isinstance(classes, list) or not all(isinstance(token, str) for token in classes):
        raise _untrusted(path, "has a header whose fold is not a number, or whose classes are not a list of texts")
    return header


def _metadata(path: Path) -> dict[str, Any]:
    if path.suffix in PICKLES:
        content = _unpickle(path)
        return content if isinstance(content, dict) else {}
    try:
        with safe_open(path, framework="pt") as file:
            return file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise _untrusted(path, f"is not a safetensors file: {error}") from None


def config_of(header: dict[str, Any], path: Path) -> Config:
    """The resolved config that a header holds, named as its experiment."""
    config, problems = schema_problems(header["config"], Config)
    if config is None:
        raise _untrusted(
            path, f"has a header whose config is not valid: {dotted(problems[0].path)}: {problems[0].message}"
        )
    if not is_arch(config.model.arch):  # it might even be a place to download from, such as hf-hub:...
        raise _untrusted(path, f"has a header whose model.arch timm does not know: {config.model.arch!r}")
    if config.model.mean is None or not 0 <= header["fold"] < config.data.num_folds:
        raise _untrusted(path, "has a header without model.mean, or with a fold that its config does not have")
    return config.named(header["name"])


def load_model(path: Path, device: torch.device) -> nn.Module:
    """The model of one of our weights files; every name, shape and kind of number must agree, all be finite."""
    header = read_header(path)
    config = config_of(header, path)
    height, width = config.model.input_size
    model = build_model(
        config.model.arch,
        num_classes=len(header["classes"]),
        input_size=(height, width),
        dropout=config.model.dropout,
        pooling=config.model.pooling,
        head_layers=config.model.head_layers,
    )
    _copy_into(model, _read_tensors(path)[1], path, optional=())
    return model.to(device)


def reload_model(model: nn.Module, path: Path) -> None:
    """Put the weights of another of our files, of the same network, into a model that `load_model` gave."""
    _copy_into(model, _read_tensors(path)[1], path, optional=())


def load_pretrained(path: Path, model: nn.Module) -> None:
    """Start a model from a .safetensors or .pth state dict. The classifier is skipped where its shape differs.

    A .pth may also hold [name of the architecture, state dict], which must be the model's architecture then.
    """
    if not path.is_file():
        raise UserError(
            "pretrained weights not found", file=path, key="model.pretrained", hint="for the demo's: make weights"
        )
    arch, tensors = _read_tensors(path)
    own = model.pretrained_cfg["architecture"]  # type: ignore[index]
    if arch is not None and resolve_arch(arch)[0].partition(".")[0] != own:
        raise UserError(
            f"holds weights of {arch!r}, but model.arch is {own!r} (timm's name)",
            file=path,
            key="model.pretrained",
            hint="name weights of the same architecture, or change model.arch",
        )
    # VGG's own hidden layers are not in the model when model.head_layers takes their place.
    dropped = ("pre_logits",) if isinstance(getattr(model, "pre_logits", None), nn.Identity) else ()
    _copy_into(model, tensors, path, optional=(*classifier_prefixes(model), *dropped))


def _read_tensors(path: Path) -> tuple[str | None, dict[str, torch.Tensor]]:
    """A state dict, and the name of its architecture where a .pth holds [name, state dict]."""
    if path.suffix in PICKLES:
        return _state_dict(_unpickle(path), path)
    try:
        return None, safetensors.torch.load_file(path)
    except (SafetensorError, OSError) as error:
        raise _untrusted(path, f"is not a safetensors file: {error}") from None


def _unpickle(path: Path) -> Any:
    """What torch.save wrote, read without running what it may hold: code 4 where it is more than tensors and texts."""
    try:
        return load_pickle(path, torch.device("cpu"))
    except pickle.UnpicklingError as error:
        lines = str(error).splitlines()  # most are advice to load it all the same
        reason = next((line for line in lines if "nsupported" in line), lines[0]).partition(". ")[0].strip()
        raise _untrusted(path, f"refused, because it holds more than tensors: {reason}") from None
    except DAMAGED as error:
        raise _untrusted(
            path, f"is not a weights file: {str(error).splitlines()[0] if str(error) else error!r}"
        ) from None


def _state_dict(content: Any, path: Path) -> tuple[str | None, dict[str, torch.Tensor]]:
    """The tensors of what `_unpickle` gave; also below `state_dict` or `model`."""
    arch = None
    if isinstance(content, list | tuple) and len(content) == 2 and isinstance(content[0], str):
        arch, content = content
    for key in ("state_dict", "model"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict) or not all(isinstance(value, torch.Tensor) for value in content.values()):
        raise _untrusted(path, "does not hold a state dict of tensors")
    return arch, {str(name).removeprefix("module."): tensor for name, tensor in content.items()}


def _copy_into(model: nn.Module, tensors: dict[str, torch.Tensor], path: Path, optional: tuple[str, ...]) -> None:
    """Check everything, then copy. Tensors of the modules in `optional` may be absent or of another shape."""
    own = model.state_dict()
    usable = {}
    problems = []
    for name, tensor in tensors.items():
        if name in own and tensor.shape == own[name].shape and tensor.layout == torch.strided and not tensor.is_meta:
            if tensor.dtype != own[name].dtype and not {tensor.dtype, own[name].dtype} <= FLOATS:
                problems.append(f"{name} is {tensor.dtype}, the model's {own[name].dtype}")
            elif tensor.dtype.is_floating_point and not bool(torch.isfinite(tensor.float()).all()):
                problems.append(f"{name} holds values that are not finite")
            else:
                usable[name] = tensor
        elif not in_modules(name, optional):
            expected = f"the model's is {tuple(own[name].shape)}" if name in own else "the model has none of that name"
            problems.append(f"{name} {tuple(tensor.shape)}: {expected}")
    problems += [f"{name} is missing" for name in own if name not in tensors and not in_modules(name, optional)]
    if problems:
        shown = "; ".join(problems[:3]) + (f"; and {len(problems) - 3} more" if len(problems) > 3 else "")
        raise _untrusted(path, f"does not fit the model: {shown}")
    model.load_state_dict(usable, strict=False)


def _untrusted(path: Path, message: str) -> UserError:
    return UserError(message, file=path, code=EXIT_UNTRUSTED)
