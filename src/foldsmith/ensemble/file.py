"""The ensemble file: which models, with which weights and views, above which threshold; and how they are summed.

The search writes it, inference and the packed kernel read it. `blend` is the one sum that both use, so that the score
that the search found is the score that inference gives.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field, model_validator

from foldsmith.config import Deploy, Document, dump_yaml, parse_yaml, read_yaml
from foldsmith.config.loader import problems_error
from foldsmith.config.schema import Section
from foldsmith.config.validate import schema_problems
from foldsmith.errors import EXIT_UNTRUSTED, UserError
from foldsmith.files import sha256_json, write_text
from foldsmith.metrics import Probabilities, find_metric

FORMAT: Literal["foldsmith-ensemble-1"] = "foldsmith-ensemble-1"
SMALLEST_GAIN = 1e-5  # of a score; scores are printed with five digits

Merge = Literal["mean", "logits", "max", "geometric"]


class Member(Section):
    """One model: all its folds, averaged."""

    name: str = Field(description="names the file of its kept predictions")
    weight: float = Field(gt=0, le=1e6)
    views: Annotated[list[str], Field(min_length=1)] = Field(description="the views of its OOF predictions")
    merge: Merge = Field("mean", description="how the views' probabilities become one")
    oof: list[str] = Field(description="names of its OOF files, a fold each")
    weights: list[str] = Field(description="names of its weights files, a fold each; none of the older layout's")
    sha256: list[str] = Field([], description="of the weights files, in the same order; none: names alone count")
    single_score: float | None = Field(None, description="its own, at its best threshold")
    leave_one_out_loss: float | None = Field(None, description="what the blend's score loses without it")
    correlation: float | None = Field(None, description="of its OOF values with the other members', their mean")
    images_per_second: float | None = Field(None, description="of one fold with all views")

    @model_validator(mode="after")
    def _same_length(self) -> "Member":
        if self.sha256 and len(self.sha256) != len(self.weights):
            raise ValueError(f"{len(self.weights)} weights need as many sha256, got {len(self.sha256)}")
        strange = [name for name in (self.name, *self.weights) if not is_file_name(name)]
        if strange:
            raise ValueError(f"{strange[0]!r} is not a file name without folders")
        return self


def is_file_name(name: str) -> bool:
    """Whether a name leads to no other folder."""
    return name not in ("", ".", "..") and not set(name) & set("/\\\0")


Threshold = Annotated[float, Field(ge=-1, le=1)]


class Ensemble(Section):
    """A blend. Scores are OOF scores; of log_loss the smaller, of all other metrics the larger is better."""

    format: Literal["foldsmith-ensemble-1"] = FORMAT
    task: Literal["multilabel", "multiclass"]
    metric: str
    score: float
    nested_score: float = Field(description="weights and threshold fitted without the fold that is scored")
    nested_single_score: float | None = Field(None, description="of the best member alone, chosen without the fold")
    uniform_score: float
    best_single_score: float
    score_interval: list[float] | None = Field(None, description="95 % of resamples of the images, held-out scores")
    uniform_interval: list[float] | None = None
    best_single_interval: list[float] | None = None
    beats_uniform: float | None = Field(None, description="share of resamples in which the blend is better")
    beats_best_single: float | None = None
    hours: float | None = Field(None, description="predicted for inference, where a budget was given")
    threshold: Threshold | list[Threshold] | None = Field(description="one, or one a class; null: the top class")
    min_labels: int = Field(0, ge=0, description="of an image")
    max_labels: int | None = Field(None, ge=1, description="of an image")
    classes_sha256: str
    prior: Annotated[list[str], Field(min_length=1)] = Field(
        description="the labels to predict where nothing is known of an image"
    )
    members: Annotated[list[Member], Field(min_length=1)] = Field(description="in the order in which they are summed")
    prefix_thresholds: list[Threshold] = Field(description="the best threshold of the first 1, 2, ... members")
    content_sha256: str | None = Field(
        None, description="of all else but `deploy`, as the search wrote it; leave it out of a file that you edit"
    )
    deploy: Deploy | None = Field(None, exclude=True, description="of its kernel (docs/deploy.md)")

    def single_is_better(self) -> bool:
        """Whether held out, on images that neither was fitted to, the best member alone beats this blend of several."""
        if self.nested_single_score is None or len(self.members) == 1:
            return False
        gain = self.nested_single_score - self.nested_score
        return (gain if find_metric(self.metric, self.task).larger_is_better else -gain) > SMALLEST_GAIN

    @model_validator(mode="after")
    def _consistent(self) -> "Ensemble":
        names = [member.name for member in self.members]
        if len(set(names)) < len(names):
            raise ValueError(f"members have names of their own, got {', '.join(names)}")
        if self.max_labels is not None and self.max_labels < self.min_labels:
            raise ValueError(f"min_labels is at most max_labels, got {self.min_labels} and {self.max_labels}")
        if self.threshold is not None and len(self.prefix_thresholds) != len(names):
            raise ValueError(f"{len(names)} members need as many prefix_thresholds, got {len(self.prefix_thresholds)}")
        return self


def find_ensemble(path: Path) -> Path:
    """The file that a user means: `best` is best.yml where there is no best."""
    return path if path.exists() or path.suffix else path.with_suffix(".yml")


def read_ensemble(path: Path) -> Ensemble:
    """Read an ensemble file; every problem is named with its line."""
    if path.is_file() and path.read_bytes()[:4096].lstrip().startswith(b"- "):
        hint = f"./ensemble_search.py NAME {path} --folds folds.npy --train-csv train.csv searches from it"
        raise UserError("is of the older list format, which names no weights", file=path, hint=hint)
    return _checked(path, read_yaml(path))


def parse_ensemble(text: str, name: str) -> Ensemble:
    """`read_ensemble` for the text that a packed kernel holds."""
    return _checked(Path(name), parse_yaml(text, name))


def _checked(path: Path, document: Document) -> Ensemble:
    ensemble, problems = schema_problems(document.values, Ensemble)
    if ensemble is None:
        raise problems_error(path, document, problems)
    found = _content_sha256(document.values)
    if ensemble.content_sha256 not in (None, found):
        told = f"content_sha256 {found[:12]} there, {str(ensemble.content_sha256)[:12]} in its own line"
        hint = "search again; or, for numbers of your own, take the line content_sha256 out"
        raise UserError(f"was changed after the search: {told}", file=path, hint=hint, code=EXIT_UNTRUSTED)
    return ensemble


def _content_sha256(values: Mapping[str, Any]) -> str:
    return sha256_json({key: value for key, value in values.items() if key not in ("content_sha256", "deploy")})


def write_ensemble(path: Path, ensemble: Ensemble) -> None:
    """Write an ensemble file atomically. The deploy section of the one that it replaces stays: a user wrote it."""
    values = ensemble.model_dump(mode="json")
    values["content_sha256"] = _content_sha256(parse_yaml(dump_yaml(values), path.name).values)
    deploy = ensemble.deploy or _deploy_of(path)
    if deploy is not None:
        values["deploy"] = deploy.model_dump(mode="json", exclude_unset=True)
    write_text(path, dump_yaml(values))


def _deploy_of(path: Path) -> Deploy | None:
    try:
        return read_ensemble(path).deploy
    except UserError:  # there is none, or one of an older form
        return None


def blend(members: Sequence[Probabilities], weights: Sequence[float]) -> Probabilities:
    """Weighted sum in float32, member after member in the order given; the weights are divided by their sum first.

    Args:
        members: each float32 (images, classes).
        weights: positive.
    """
    shares = np.asarray(weights, dtype=np.float64) / np.sum(weights, dtype=np.float64)
    total = members[0] * np.float32(shares[0])
    for member, share in zip(members[1:], shares[1:], strict=True):
        total += member * np.float32(share)
    return total
