"""What all sections of an experiment file are made of: the strict base class, and types of numbers and of paths.

Upper bounds are far above what anybody uses, and far below what would end in the middle of a run, out of memory or in
an overflow: a number with some zeros too many is refused with its line.
"""

import os
from pathlib import PurePath
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from foldsmith.errors import shown

Probability = Annotated[float, Field(ge=0, le=1)]
PositiveInt = Annotated[int, Field(gt=0)]
PositiveFloat = Annotated[float, Field(gt=0)]
BatchSize = Annotated[int, Field(gt=0, le=65_536)]

MAX_NAME = 255  # bytes of a file's or a folder's name (Linux: NAME_MAX)
MAX_PATH = 3072  # bytes of a path, of the 4,095 that Linux takes: what lies below the folder that it names fits, too
PICKLES = (".pth", ".pt", ".bin", ".ckpt", ".tar")  # what torch.save wrote goes by these


def _path(value: str) -> str:
    if "\0" in value:
        raise ValueError(f"expected a path, got {shown(value)}, which holds NUL")
    longest = max(len(os.fsencode(part)) for part in value.split("/"))
    if longest > MAX_NAME or len(os.fsencode(value)) > MAX_PATH:
        limits = f"at most {MAX_PATH} bytes, its names of at most {MAX_NAME}"
        raise ValueError(f"expected a path of {limits}, got {len(os.fsencode(value))} bytes: {shown(value, 60)}")
    return value


def _weights_file(value: str) -> str:
    suffixes = (".safetensors", *PICKLES)
    if PurePath(value).suffix not in suffixes:
        raise ValueError(f"expected true, false, or a weights file ({', '.join(suffixes)}), got {shown(value)}")
    return value


PathText = Annotated[str, AfterValidator(_path)]
WeightsFile = Annotated[PathText, AfterValidator(_weights_file)]


def pair(value: Any) -> Any:
    """288 -> [288, 288], so that the rest of the program knows one form."""
    return [value, value] if isinstance(value, int) and not isinstance(value, bool) else value


def _area_pair(value: list[float]) -> list[float]:
    if value[0] > value[1]:
        raise ValueError(f"the first number is the smaller one, got {value}")
    return value


def at_most_one(value: list[float]) -> list[float]:
    if value[1] > 1:
        raise ValueError(f"shares are at most 1, got {value}")
    return value


PositiveShare = Annotated[float, Field(gt=0, le=1)]
Range = Annotated[
    list[Annotated[float, Field(ge=1e-4, le=1e4)]], Field(min_length=2, max_length=2), AfterValidator(_area_pair)
]


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class Component(Section):
    """A thing chosen by name; `params` are bound to its signature before any data is read."""

    name: str = Field(description="which one")
    params: dict[str, Any] = Field(
        default={}, max_length=100, description="keyword arguments of what `name` chooses; at most 100"
    )
