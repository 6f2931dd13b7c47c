"""What all sections of an experiment file are made of: the strict base class, and types of numbers."""

from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

Probability = Annotated[float, Field(ge=0, le=1)]
PositiveInt = Annotated[int, Field(gt=0)]
PositiveFloat = Annotated[float, Field(gt=0)]


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
Range = Annotated[list[PositiveFloat], Field(min_length=2, max_length=2), AfterValidator(_area_pair)]


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class Component(Section):
    """A thing chosen by name; `params` are bound to its signature before any data is read."""

    name: str = Field(description="which one")
    params: dict[str, Any] = Field(default={}, description="keyword arguments of what `name` chooses")
