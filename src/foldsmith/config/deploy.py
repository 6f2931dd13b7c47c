"""The `deploy:` section: what a packed kernel is called on Kaggle, what it may use, and what it is given.

It stands in an experiment file, in an ensemble file, or in a file of its own (deploy.yml). It says nothing about
weights or predictions, so it is a part of no hash.
"""

import re
import unicodedata
from typing import Annotated

from pydantic import AfterValidator, Field, model_validator

from foldsmith.config.section import Section

SHORTEST, LONGEST = 5, 50  # characters of a kernel's title; of a dataset's 6 to 50
SHORTEST_DATASET = 6

_SLUG = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
_USER = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")


def slugify(title: str) -> str:
    """What Kaggle makes of a title: lower case letters and digits, and one hyphen for all that is between them."""
    plain = unicodedata.normalize("NFKD", title).encode("ascii", "ignore").decode().lower()
    return re.sub(r"[^a-z0-9]+", "-", plain).strip("-")


def _user(value: str) -> str:
    if not _USER.fullmatch(value):
        raise ValueError(f"expected a Kaggle user name (letters, digits, - and _), got {value!r}")
    return value


def _slug(value: str) -> str:
    if not _SLUG.fullmatch(value):
        raise ValueError(f"expected a slug such as imet-2019-fgvc6 (lower case, digits, hyphens), got {value!r}")
    return value


def _owned_slug(value: str) -> str:
    user, slash, slug = value.partition("/")
    if not slash or not _USER.fullmatch(user) or not _SLUG.fullmatch(slug):
        near = slugify(slug or value)
        raise ValueError(
            f"expected user/slug (lower case, digits, hyphens) such as {user or 'me'}/{near}, got {value!r}"
        )
    return value


def _kernel_id(value: str) -> str:
    slug = _owned_slug(value).partition("/")[2]
    if not SHORTEST <= len(slug) <= LONGEST:
        raise ValueError(f"a kernel's slug has {SHORTEST} to {LONGEST} characters, got {len(slug)}: {slug!r}")
    return value


def _dataset_id(value: str) -> str:
    slug = _owned_slug(value).partition("/")[2]
    if not SHORTEST_DATASET <= len(slug) <= LONGEST:
        raise ValueError(f"a dataset's slug has {SHORTEST_DATASET} to {LONGEST} characters, got {len(slug)}: {slug!r}")
    return value


def _machine_shape(value: str) -> str:
    if not re.fullmatch("[A-Za-z0-9]+", value):
        raise ValueError(f"expected a machine shape such as NvidiaTeslaT4 (letters and digits), got {value!r}")
    return value


def _title(value: str) -> str:
    if not SHORTEST <= len(value) <= LONGEST or len(slugify(value)) < SHORTEST:
        raise ValueError(f"a kernel's title has {SHORTEST} to {LONGEST} characters, got {len(value)}: {value!r}")
    return value


OwnedSlug = Annotated[str, AfterValidator(_owned_slug)]


class Deploy(Section):
    """Every key may be left out; the flags of deploy_kernel.py override them."""

    user: Annotated[str, AfterValidator(_user)] | None = Field(None, description="your name on Kaggle")
    title: Annotated[str, AfterValidator(_title)] | None = Field(None, description="default: made from the file's name")
    id: Annotated[str, AfterValidator(_kernel_id)] | None = Field(
        None, description="user/slug; default: the user and the slug of the title"
    )
    is_private: bool = Field(True, description="whether only its owner sees the kernel")
    enable_gpu: bool = Field(True, description="whether the kernel asks for a GPU")
    enable_internet: bool = Field(False, description="competitions refuse kernels that have it")
    machine_shape: Annotated[str, AfterValidator(_machine_shape)] | None = Field(
        None, description="such as NvidiaTeslaT4 (two of them)"
    )
    competition_sources: list[Annotated[str, AfterValidator(_slug)]] = Field([], description="slugs alone")
    dataset_sources: list[OwnedSlug] = Field([], description="user/slug each")
    kernel_sources: list[OwnedSlug] = Field([], description="user/slug each")
    weights_dataset: Annotated[str, AfterValidator(_dataset_id)] | None = Field(
        None, description="user/slug of the dataset that --stage-weights gathers; one of the kernel's sources"
    )
    dataset_license: str = Field("other", min_length=1, description="of that dataset, as Kaggle names it")
    deadline: str | None = Field(None, description="of inference, such as 8h40m; none: no deadline")
    strict_exit: bool = Field(False, description="exit code 5 after a deadline, although a valid submission stands")

    @model_validator(mode="after")
    def _title_and_id_agree(self) -> "Deploy":
        if self.id is None:
            return self
        user, _, slug = self.id.partition("/")
        if self.title is not None and slugify(self.title) != slug:
            raise ValueError(f"title {self.title!r} has the slug {slugify(self.title)!r}, but id says {slug!r}")
        if self.user is not None and self.user != user:
            raise ValueError(f"user is {self.user!r}, but id begins with {user!r}")
        return self
