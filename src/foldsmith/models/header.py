"""What a weights file says of itself: the metadata key `foldsmith`, sorted JSON, held to its types key by key.

It holds name, fold, config (resolved), classes (tokens), stages, epoch, metric, score, threshold, pieces, and sha256 of
data, images, folds, config and code. Files of earlier versions lack some of them.
"""

from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from pydantic_core import from_json, to_json

from foldsmith.config import Config, dotted
from foldsmith.config.section import MAX_NAME
from foldsmith.config.validate import schema_problems
from foldsmith.errors import EXIT_UNTRUSTED, UserError, shown
from foldsmith.inference.views import expand_views
from foldsmith.metrics import find_metric
from foldsmith.models.archs import is_arch

# Bytes. 100,000 classes of 60 letters fit; the parsers of both headers take up to 30 times as much memory as text.
MAX_HEADER = 10_000_000
MAX_BRACKETS = 200_000  # of lists and sections, of which Python collects millions slowly; names may hold some, too
MAX_CONFIG = 1_000_000  # of that; a resolved config has about 3,000, and each wrong key of one takes 1 kB to be named


def _file_name(value: str) -> str:
    """It names what is written."""
    if value in ("", "..") or "\0" in value or value != Path(value).name:
        raise ValueError(f"expected a file name, got {shown(value)}")
    longest = MAX_NAME - len("_f0.safetensors")
    if len(value.encode()) > longest:
        raise ValueError(f"expected a file name of at most {longest} bytes, got {shown(value, 60)}")
    return value


def _tokens(value: Any) -> Any:
    """One sentence, however many of the classes are wrong."""
    if not isinstance(value, list) or not value or not all(isinstance(token, str) for token in value):
        raise ValueError(f"expected a list of texts, got {shown(value)}")
    if len(set(value)) < len(value):
        raise ValueError("expected each class once")
    return value


class _Header(BaseModel):
    """The keys that the program reads, and their types; others may stand beside them."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False)

    name: Annotated[str, AfterValidator(_file_name)]
    fold: int = Field(ge=0)
    config: dict[str, Any]
    config_sha256: str
    classes: Annotated[Any, AfterValidator(_tokens)]
    data_sha256: str
    folds_sha256: str
    images_sha256: str = ""
    code_sha256: str = ""
    epoch: int = Field(0, ge=0)
    stages: list[Any] = []
    metric: str = ""
    score: float = 0.0
    threshold: float | None = None
    pieces: int = Field(1, ge=1)


def parse_header(text: Any, path: Path) -> dict[str, Any]:
    """The header that the text of the key `foldsmith` holds.

    Raises:
        UserError: code 4 naming the first key that is missing or wrong.
    """
    try:
        if len(text) > MAX_HEADER:
            raise untrusted(path, f"has a foldsmith header of more than {MAX_HEADER:,} bytes")
        if text.count("[") + text.count("{") > MAX_BRACKETS:
            raise untrusted(path, f"has a foldsmith header of more than {MAX_BRACKETS:,} lists and sections")
        header = from_json(text)  # refuses halves of surrogates, which json takes, and which can't be written anywhere
    except (ValueError, TypeError, AttributeError):  # no text, perhaps: a .pth may hold anything
        raise untrusted(path, "has no foldsmith header; it is not a file that train.py wrote") from None
    required = {key for key, field in _Header.model_fields.items() if field.is_required()}
    if not isinstance(header, dict) or not header.keys() >= required:
        raise untrusted(path, "has a foldsmith header without " + ", ".join(sorted(required)))
    if len(to_json(header["config"])) > MAX_CONFIG:
        raise untrusted(path, f"has a header whose config is longer than {MAX_CONFIG:,} bytes")
    _, problems = schema_problems(header, _Header)
    for problem in problems:
        raise untrusted(path, f"has a header whose {dotted(problem.path)} is not valid: {problem.message}")
    return header


def config_of(header: dict[str, Any], path: Path) -> Config:
    """The resolved config that a header holds, named as its experiment.

    Raises:
        UserError: code 4 naming the first key of it that is wrong.
    """
    config, problems = schema_problems(header["config"], Config)
    if config is None:
        raise wrong_config(path, dotted(problems[0].path), problems[0].message)
    if not is_arch(config.model.arch):  # it might even be a place to download from, such as hf-hub:...
        raise untrusted(path, f"has a header whose model.arch timm does not know: {shown(config.model.arch)}")
    if config.model.mean is None or header["fold"] >= config.data.num_folds:
        raise untrusted(path, "has a header without model.mean, or with a fold that its config does not have")
    try:
        find_metric(config.metric, config.data.task)
        expand_views(config.test.tta)
    except UserError as error:
        raise wrong_config(path, error.key or "", error.message) from None
    return config.named(header["name"])


def wrong_config(path: Path, key: str, message: str) -> UserError:
    return untrusted(path, f"has a header whose config is not valid: {key}: {message}")


def untrusted(path: Path, message: str) -> UserError:
    return UserError(message, file=path, code=EXIT_UNTRUSTED)
