"""The second pass over a config: names and arguments of what lives in torch, timm and albumentations.

It works on plain values, so that its problems stand in one list with the schema's; a value that the schema has refused
is None here (config/validate.py), and nothing is said about what hangs on it. Arguments are bound to
the signatures that they will be passed to. Transforms and optimizers are built, since only then do they check values.
"""

import functools
import inspect
import math
import warnings
from collections.abc import Callable, Iterable
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

import timm
import timm.optim
import torch

from foldsmith.config import Problem
from foldsmith.config.schema import Data
from foldsmith.config.section import Component
from foldsmith.config.training import Loss, Optimizer
from foldsmith.data.augment import transform_class, transform_names, try_transform
from foldsmith.data.sampling import SAMPLERS
from foldsmith.errors import UserError, did_you_mean, shown
from foldsmith.inference.views import expand_views
from foldsmith.losses import LOSSES, takes_class_weights, task_of
from foldsmith.metrics import METRICS, find_metric
from foldsmith.models.archs import is_arch, unknown_arch
from foldsmith.training.schedules import SCHEDULES

Path = tuple[str | int, ...]


def check_leaves(values: dict[str, Any]) -> list[Problem]:
    """All problems with architecture, loss, optimizer, scheduler, sampler, stages, metric, transforms and views."""
    problems = []
    arch = _get(values, "model", "arch")
    if isinstance(arch, str) and not is_arch(arch):
        problems.append(Problem(("model", "arch"), unknown_arch(arch)))
    task = _task_of(values)
    problems += _check_metric(values, task)
    problems += _check_training(values, (), task)
    problems += _check_sampler(_get(values, "train"), ("train",), task)
    stages = _get(values, "train", "stages")
    for index, stage in enumerate(stages if isinstance(stages, list) else []):
        problems += _check_training(stage, ("train", "stages", index), task)
        problems += _check_sampler(stage, ("train", "stages", index), task)
    problems += _check_transforms(_get(values, "augmentations", "extra"), _get(values, "model", "input_size"))
    views = _get(values, "test", "tta")
    for index, view in enumerate(views if isinstance(views, list) else []):
        problems += _check_view(view, ("test", "tta", index))
    return problems


def _get(values: Any, *keys: str) -> Any:
    """values[key][key]..., or None where the config is not of that shape (the schema pass says so)."""
    for key in keys:
        values = values.get(key) if isinstance(values, dict) else None
    return values


def _task_of(values: dict[str, Any]) -> str | None:
    """data.task; None where it is wrong, may be the key that is misspelt, or may be in a base whose key is."""
    data = values.get("data")
    if not isinstance(data, dict) or ("task" not in data and data.keys() - Data.model_fields.keys()):
        return None
    task = data.get("task", "multilabel")
    return task if task in METRICS else None


def _params_of(values: Any, schema: type[Component]) -> dict[str, Any] | None:
    """The params of a section; None where they are wrong, or where a key is, which may be `name` or `params`."""
    if not isinstance(values, dict) or values.keys() - schema.model_fields.keys():
        return None
    params = values.get("params", {})
    return params if isinstance(params, dict) else None


def _check_view(view: Any, path: Path) -> list[Problem]:
    try:
        expand_views([view] if isinstance(view, str) else [])
    except UserError as error:
        return [Problem(path, f"{error.message}; {error.hint}")]
    return []


def _check_metric(values: Any, task: str | None) -> list[Problem]:
    metric = _get(values, "metric")
    if not isinstance(metric, str) or task is None:
        return []
    try:
        find_metric(metric, task)
    except UserError as error:
        return [Problem(("metric",), f"{error.message}; {error.hint}")]
    return []


def _check_training(values: Any, path: Path, task: str | None) -> list[Problem]:
    """Loss, scheduler and optimizer of the experiment, or of the stage that lies at `path`."""
    problems = _check_component(values, path, "loss", LOSSES, Loss, hidden=("class_weights",))
    problems += _check_component(values, path, "scheduler", SCHEDULES) + _check_optimizer(values, path)
    loss = _get(values, "loss", "name")
    if not isinstance(loss, str) or loss not in LOSSES:
        return problems
    if task is not None and task_of(LOSSES[loss]) != task:
        fits = ", ".join(name for name, each in LOSSES.items() if task_of(each) == task)
        problems.append(Problem((*path, "loss", "name"), f"{loss} does not fit data.task {task}; what fits: {fits}"))
    if _get(values, "loss", "class_weights") is not None and not takes_class_weights(LOSSES[loss]):
        weighted = ", ".join(name for name, each in LOSSES.items() if takes_class_weights(each))
        problems.append(Problem((*path, "loss", "class_weights"), f"{loss} takes none; what does: {weighted}"))
    return problems


def _check_sampler(values: Any, path: Path, task: str | None) -> list[Problem]:
    problems = _check_component(values, path, "sampler", SAMPLERS)
    name = _get(values, "sampler", "name")
    if isinstance(name, str) and name in SAMPLERS and task is not None and task not in SAMPLERS[name].tasks:
        fits = ", ".join(each for each, sampler in SAMPLERS.items() if task in sampler.tasks)
        problems.append(Problem((*path, "sampler", "name"), f"{name} does not fit data.task {task}; what fits: {fits}"))
    return problems


def _check_component(
    values: Any,
    path: Path,
    section: str,
    table: dict[str, Any],
    schema: type[Component] = Component,
    hidden: tuple[str, ...] = (),
) -> list[Problem]:
    name, params = _get(values, section, "name"), _params_of(_get(values, section), schema)
    where = (*path, section)
    if not isinstance(name, str):
        return []
    if name not in table:
        return [_unknown((*where, "name"), name, table)]
    if params is None:
        return []
    wrong = _check_arguments((*where, "params"), name, table[name], params, hidden)
    return wrong or _check_values((*where, "params"), name, table[name], params, warning="error")


def _check_optimizer(values: Any, path: Path) -> list[Problem]:
    name, params = _get(values, "optimizer", "name"), _params_of(_get(values, "optimizer"), Optimizer)
    if not isinstance(name, str):
        return []
    if name not in _optimizers():
        return [_unknown((*path, "optimizer", "name"), name, _optimizers())]
    try:
        optimizer = timm.optim.get_optimizer_class(name, bind_defaults=False)
    except (AssertionError, ImportError) as error:  # fused and 8-bit ones need CUDA or another package
        return [Problem((*path, "optimizer", "name"), f"{name!r} cannot be used here: {error}")]
    if params is None:
        return []
    where: Path = (*path, "optimizer", "params")
    problems = _check_arguments(where, name, optimizer, params, hidden=("params", "lr_scale"))
    lr = params.get("lr")
    if lr is None:
        problems.append(Problem((*where, "lr"), "required key is missing (it belongs to optimizer.name)"))
    elif _is_number(lr) and lr <= 0:
        problems.append(Problem((*where, "lr"), f"expected a number greater than 0, got {lr!r}"))
    weights = [{"params": [torch.nn.Parameter(torch.zeros(1))]}]
    build = functools.partial(timm.optim.create_optimizer_v2, weights, opt=name)
    return problems or _check_values(where, name, build, params, warning="ignore")


@functools.cache
def _optimizers() -> list[str]:
    """timm's, apart from those that need second derivatives."""
    known = [str(optimizer) for optimizer in timm.optim.list_optimizers()]
    return [each for each in known if not timm.optim.get_optimizer_info(each).second_order]


def _check_transforms(extra: Any, input_size: Any) -> list[Problem]:
    size = input_size if isinstance(input_size, list) else [input_size, input_size]
    height, width = size if len(size) == 2 and all(type(pixels) is int and pixels > 0 for pixels in size) else (64, 64)
    problems = []
    for index, item in enumerate(extra if isinstance(extra, list) else []):
        name, params = _get(item, "name"), _params_of(item, Component)
        if not isinstance(name, str):
            continue
        where: Path = ("augmentations", "extra", index)
        transform = transform_class(name)
        if transform is None:
            problems.append(_unknown((*where, "name"), name, transform_names()))
            continue
        if params is None:
            continue
        wrong = _check_arguments((*where, "params"), name, transform, params)
        # What albumentations does not like it ignores or changes, with a warning.
        trial = functools.partial(try_transform, transform, height, width)
        problems += wrong or _check_values((*where, "params"), name, trial, params, warning="error")
    return problems


def _check_arguments(
    path: Path, name: str, target: Callable[..., Any], params: dict[str, Any], hidden: tuple[str, ...] = ()
) -> list[Problem]:
    """Names of arguments against a signature, and values against the types that it gives."""
    parameters = {key: value for key, value in inspect.signature(target).parameters.items() if key not in hidden}
    open_ended = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    variadic = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    known = [key for key, parameter in parameters.items() if parameter.kind not in variadic]
    problems = []
    for key, value in params.items():
        if key not in known and not open_ended:
            problems.append(Problem((*path, key), functools.partial(_no_such_argument, name, key, known)))
        elif key in known and (expected := _expected(parameters[key], value)):
            problems.append(Problem((*path, key), f"expected {expected}, got {shown(value)}"))
    for key, parameter in parameters.items():
        if parameter.default is parameter.empty and key in known and key not in params:
            problems.append(Problem((*path, key), f"{name} needs it"))
    return problems


def _no_such_argument(name: str, key: str, known: list[str]) -> str:
    return f"{name} takes no {shown(key)}; {did_you_mean(key, known)}" if known else f"{name} takes no arguments"


def _check_values(
    path: Path, name: str, build: Callable[..., Any], params: dict[str, Any], warning: Literal["error", "ignore"]
) -> list[Problem]:
    """Build it: only then are values looked at."""
    reason = _refusal(build, params, warning)
    if not reason:
        return []
    # The one argument without which it can be built is the wrong one; else the only one that cannot be left out.
    without = {key: {each: value for each, value in params.items() if each != key} for key in params}
    blamed = [key for key in params if not _refusal(build, without[key], warning)]
    needed = [key for key in params if "missing" in _refusal(build, without[key], warning)]
    if not blamed and len(needed) == 1 and _refusal(build, {needed[0]: params[needed[0]]}, warning):
        blamed = needed
    where = (*path, blamed[0]) if len(blamed) == 1 else path
    return [Problem(where, f"{name} refuses {'it' if len(blamed) == 1 else 'them'}: {reason}")]


def _refusal(build: Callable[..., Any], params: dict[str, Any], warning: Literal["error", "ignore"]) -> str:
    """Why it cannot be built; empty where it can."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter(warning)
            build(**params)
    except Exception as error:  # whatever is raised on wrong values is the user's to read
        lines = [line.strip() for line in str(error).splitlines() if line.strip() and "errors.pydantic" not in line]
        return "; ".join(lines) or type(error).__name__
    return ""


def _expected(parameter: inspect.Parameter, value: Any) -> str:
    """What a parameter takes, in words, where `value` is not of that type; else empty."""
    annotation, default = parameter.annotation, parameter.default
    if annotation is parameter.empty:  # `weight_decay=0` takes any number, `x=None` anything
        kinds = {int: [float], type(None): []}.get(type(default), [type(default)])
    else:
        members = get_args(annotation) if get_origin(annotation) in (Union, UnionType) else [annotation]
        kinds = [get_origin(member) or member for member in members]
    kinds = [kind for kind in kinds if kind in _TYPES]
    if not kinds or any(_TYPES[kind][1](value) for kind in kinds):
        return ""
    return " or ".join(_TYPES[kind][0] for kind in kinds)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


# How a parameter's types are written in YAML. Tensors and functions are not; what takes only those is not checked.
_TYPES: dict[Any, tuple[str, Callable[[Any], bool]]] = {
    float: ("a number", _is_number),
    int: ("a whole number", lambda value: isinstance(value, int) and not isinstance(value, bool)),
    bool: ("true or false", lambda value: isinstance(value, bool)),
    str: ("text", lambda value: isinstance(value, str)),
    tuple: ("a list of numbers", lambda value: isinstance(value, list) and all(map(_is_number, value))),
    list: ("a list", lambda value: isinstance(value, list)),
    type(None): ("null", lambda value: value is None),
}


def _unknown(path: Path, name: str, known: Iterable[str]) -> Problem:
    return Problem(path, lambda: f"unknown name {shown(name)}; {did_you_mean(name, known)}")
