"""Weights on disk. Ours are safetensors with one header entry (header.py); nothing that is read here can run code.

A .pth may stand for such a file where torch.save wrote {"foldsmith": the header's text, "state_dict": tensors}.
"""

import json
import pickle
import struct
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from foldsmith.config import Config
from foldsmith.config.section import PICKLES
from foldsmith.errors import UserError
from foldsmith.files import atomic_path
from foldsmith.models.archs import resolve_arch
from foldsmith.models.build import build_model, classifier_prefixes, in_modules
from foldsmith.models.header import MAX_HEADER, config_of, parse_header, untrusted
from foldsmith.models.pickles import load_pickle

MAX_TENSORS = 50_000  # of a file; of timm's networks of a fixed input size the largest has 1,853
# A network may take so many bytes, and so many for each of its file: twice those for weights of half precision, the
# rest for tables of relative positions, which no file holds. At twice the usual input size timm's largest are 2.6 times
# as large as the weights.
ROOM, ROOM_A_BYTE = 64_000_000, 8
FLOATS = {torch.float16, torch.bfloat16, torch.float32, torch.float64}  # they may stand for each other
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
        _check_size(temporary)  # what could not be read again is not written


def read_header(path: Path) -> dict[str, Any]:
    """The header of one of our weights files.

    Raises:
        UserError: code 4 when the file is not such a file.
    """
    if not path.is_file():
        raise UserError("weights file not found", file=path)
    return parse_header(_metadata(path).get("foldsmith"), path)


def _metadata(path: Path) -> dict[str, Any]:
    if path.suffix in PICKLES:
        content = _unpickle(path)
        return content if isinstance(content, dict) else {}
    try:
        _check_size(path)
        with safe_open(path, framework="pt") as file:
            return file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise untrusted(path, f"is not a safetensors file: {error}") from None


def _check_size(path: Path) -> None:
    """Refuse a safetensors file whose description would take much time and memory to parse.

    Its first 8 bytes give the length of the JSON that follows, in which each tensor has a brace.
    """
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > MAX_HEADER:
            raise untrusted(path, f"is not a safetensors file: its header is longer than {MAX_HEADER:,} bytes")
        if file.read(length).count(b"{") > MAX_TENSORS:
            raise untrusted(path, f"is not a safetensors file: it has more than {MAX_TENSORS:,} tensors")


def load_model(path: Path, device: torch.device) -> nn.Module:
    """The model of one of our weights files; every name, shape and kind of number must agree, all be finite."""
    header = read_header(path)
    build = _builder(config_of(header, path), len(header["classes"]))
    tensors = _read_tensors(path)[1]
    usable = _fitting(_outline(build, path), tensors, path, optional=())
    model = build()
    model.load_state_dict(usable)
    return model.to(device)


def _builder(config: Config, num_classes: int) -> Callable[[], nn.Module]:
    height, width = config.model.input_size
    return partial(
        build_model,
        config.model.arch,
        num_classes=num_classes,
        input_size=(height, width),
        dropout=config.model.dropout,
        pooling=config.model.pooling,
        head_layers=config.model.head_layers,
    )


def _outline(build: Callable[[], nn.Module], path: Path) -> dict[str, torch.Tensor]:
    """Names and shapes of the network that a header asks for, built without memory, if the file is large enough for it.

    The network itself is built anew: buffers that no file holds have no values here.
    """
    try:
        with torch.device("meta"):
            model = build()
    except Exception as error:  # whatever timm raises at options that do not go together
        raise untrusted(path, f"has a header whose network can't be built: {error}") from None
    needed = sum(tensor.nbytes for tensor in (*model.parameters(), *model.buffers()))
    size = path.stat().st_size
    if needed > ROOM + ROOM_A_BYTE * size:
        raise untrusted(path, f"has a header whose network takes {needed:,} bytes, the file is of {size:,}")
    return model.state_dict()


def reload_model(model: nn.Module, path: Path) -> None:
    """Put the weights of another of our files, of the same network, into a model that `load_model` gave."""
    model.load_state_dict(_fitting(model.state_dict(), _read_tensors(path)[1], path, optional=()))


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
    usable = _fitting(model.state_dict(), tensors, path, optional=(*classifier_prefixes(model), *dropped))
    model.load_state_dict(usable, strict=False)


def _read_tensors(path: Path) -> tuple[str | None, dict[str, torch.Tensor]]:
    """A state dict, and the name of its architecture where a .pth holds [name, state dict]."""
    if path.suffix in PICKLES:
        return _state_dict(_unpickle(path), path)
    try:
        _check_size(path)
        return None, safetensors.torch.load_file(path)
    except (SafetensorError, OSError) as error:
        raise untrusted(path, f"is not a safetensors file: {error}") from None


def _unpickle(path: Path) -> Any:
    """What torch.save wrote, read without running what it may hold: code 4 where it is more than tensors and texts."""
    try:
        return load_pickle(path, torch.device("cpu"))
    except pickle.UnpicklingError as error:
        lines = str(error).splitlines()  # most are advice to load it all the same
        reason = next((line for line in lines if "nsupported" in line), lines[0]).partition(". ")[0].strip()
        raise untrusted(path, f"refused, because it holds more than tensors: {reason}") from None
    except DAMAGED as error:
        raise untrusted(
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
        raise untrusted(path, "does not hold a state dict of tensors")
    return arch, {str(name).removeprefix("module."): tensor for name, tensor in content.items()}


def _fitting(
    own: dict[str, torch.Tensor], tensors: dict[str, torch.Tensor], path: Path, optional: tuple[str, ...]
) -> dict[str, torch.Tensor]:
    """Those of `tensors` that take the place of a model's own; what does not fit is refused.

    Tensors of the modules in `optional` may be absent or of another shape.
    """
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
        raise untrusted(path, f"does not fit the model: {shown}")
    return usable
