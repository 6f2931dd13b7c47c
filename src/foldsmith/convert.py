"""`foldsmith convert-config`: experiment files of the 7-model iMet 2019 solution, rewritten as ours.

Old files have the sections data, model, train, test, optimizer, scheduler, cosine, loss and augmentations. Every key is
converted or named in a note; the notes are printed and stand in the head of the new file.
"""

import textwrap
from pathlib import Path, PurePosixPath
from typing import Any

from foldsmith.config import Document, dotted, dump_yaml, read_yaml
from foldsmith.config.validate import config_problems
from foldsmith.errors import UserError, did_you_mean
from foldsmith.files import write_text
from foldsmith.old_keys import OldKeys

DEFAULT_EPOCHS = 40  # of the two finite numbers that such files name, the one after which every milestone has passed
ENDLESS = 1000  # epochs that stand for "until the rate has fallen to its end"

LOSSES = {
    "binary_cross_entropy": "bce",
    "focal_loss": "focal",
    "f2_loss": "f2",
    "forgiving_loss": "forgiving",
    "mixed_bce_f2": "bce_f2",
    "mixed_bce_focal": "bce_focal",
}
SECTIONS = {"model", "data", "train", "test", "optimizer", "scheduler", "cosine", "loss", "augmentations"}
VIEWS: dict[int | None, list[str]] = {1: ["identity"], 2: ["identity", "hflip"]}  # by test.num_ttas
NEVER_READ = ("augmentations.dropout", "augmentations.aug_global_prob", "train.swa", "cosine.period_mult")


def convert_config(source: Path, output: Path, *, cosine: bool = True, force: bool = False) -> list[str]:
    """Write the old experiment file `source` as a new one; returns the notes.

    Args:
        cosine: the cosine section, where there is one, replaces the scheduler section, as the old program's switch did.
        force: replace `output` where it exists.
    """
    if output.exists() and (not force or output.samefile(source)):
        raise UserError("exists already", file=output, key="--output", hint="name another file, or add --force")
    values, notes = converted(read_yaml(source), source, cosine=cosine)
    _check(values, source)
    head = [f"Converted from {source.name} by `foldsmith convert-config`."]
    head += [f"- {note}" for note in notes]
    lines = [line for text in head for line in textwrap.wrap(text, 116, subsequent_indent="  ", break_on_hyphens=False)]
    write_text(output, "".join(f"# {line}\n" for line in lines) + dump_yaml(values))
    return notes


def converted(document: Document, path: Path, *, cosine: bool = True) -> tuple[dict[str, Any], list[str]]:
    """The sections of the new file, and a note on every key that means something else now or nothing."""
    old = OldKeys(document, path)
    for section in SECTIONS & document.values.keys():
        if not isinstance(document.values[section] or {}, dict):
            raise old.error(section, f"expected a section of `key: value`, got {document.values[section]!r}")
    if "root" in (document.values.get("data") or {}):
        raise UserError("is a foldsmith config already: it has data.root", file=path)
    for key in NEVER_READ:
        old.drop(key, "the old program never read it")
    accum = old.take("train.accum_batches_num", int, 1)
    if not accum or accum < 1:
        raise old.error("train.accum_batches_num", f"expected a whole number above 0, got {accum}")
    optimizer, scheduler = _rates(old, accum, cosine)
    train = _train(old, accum, scheduler)
    rect_crop = _rect_crop(old)
    values = {
        "data": _data(old, squash=rect_crop is not None),
        "model": _model(old),
        "train": train,
        "loss": _loss(old),
        "optimizer": optimizer,
        "scheduler": scheduler,
        "augmentations": _augmentations(old, rect_crop),
        "test": _test(old),
    }
    for where, value in old.left.items():
        old.notes.append(f"{dotted(where)} = {value!r}: an unknown key, not converted")
    return values, old.notes


def _data(old: OldKeys, squash: bool) -> dict[str, Any]:
    table = old.take("train.csv", str, "train.csv") or "train.csv"
    submission = old.take("test.csv", str, "sample_submission.csv") or "sample_submission.csv"
    root = PurePosixPath(submission).parent
    data: dict[str, Any] = {"root": str(root), "train_csv": table}
    if PurePosixPath(table).name != "train.csv":
        data["valid_csv"] = str(root / "train.csv")
        old.notes.append(f"train.csv = {table!r}: pseudo labels; validation goes by data.valid_csv")
    data["sample_submission"] = submission
    if folds := old.take("train.folds_file", str):
        data["folds"] = folds
    data["geometry"] = "squash" if squash else "crop"
    old.notes.append(
        f"data.geometry: the old program cut test images at random, this one "
        f"{'squashes the whole image' if squash else 'takes the middle'}; images are in {root / 'train'} and "
        f"{root / 'test'}"
    )
    return data


def _model(old: OldKeys) -> dict[str, Any]:
    old.drop("model.num_classes", "not needed, the label table says how many")
    return {
        "arch": old.need("model.arch", str),
        "pretrained": True,
        "input_size": old.need("model.input_size", int),
        "dropout": old.take("model.dropout", float, 0.0),
    }


def _train(old: OldKeys, accum: int, scheduler: dict[str, Any]) -> dict[str, Any]:
    train: dict[str, Any] = {"batch_size": old.need("train.batch_size", int)}
    epochs = old.take("train.num_epochs", int)
    if epochs is None:
        epochs = DEFAULT_EPOCHS
        old.notes.append(f"train.num_epochs: the file has none; {epochs} was chosen")
    train["num_epochs"] = epochs
    if epochs >= ENDLESS:
        if "min_lr" in scheduler["params"] and scheduler["name"] == "reduce_lr_on_plateau":
            train["early_stopping"] = {"min_lr": scheduler["params"]["min_lr"]}
        else:
            old.notes.append(
                f"train.num_epochs = {epochs}: nothing ends it earlier, since {scheduler['name']} has no last rate; "
                "set train.num_epochs, or train.early_stopping.patience"
            )
    if accum > 1:
        train["accum_batches"] = accum
    if steps := _steps(old, "train.max_steps_per_epoch", accum):
        train["max_steps_per_epoch"] = steps
    if warmup := _warmup(old, accum):
        train["warmup"] = warmup
    mixup = old.take("train.mixup.enable", bool, False)
    alpha = old.take("train.mixup.beta_a", float)
    if mixup and alpha is not None:
        train["mixup"] = {"alpha": alpha}
    elif mixup:
        raise old.error("train.mixup", "beta_a is missing")
    elif alpha is not None:
        old.notes.append(f"train.mixup.beta_a = {alpha}: not used, train.mixup.enable is off")
    return train


def _warmup(old: OldKeys, accum: int) -> dict[str, Any] | None:
    whole = old.take("train.enable_warmup", bool, False)
    head_only = old.take("train.head_only_warmup", bool, False)
    if not whole and not head_only:
        old.drop("train.warmup", "not used, train.enable_warmup is off")
        return None
    steps = _steps(old, "train.warmup.steps", accum)
    max_lr = old.take("train.warmup.max_lr", float)
    if steps is None or max_lr is None:
        raise old.error("train.warmup", "the warmup is on, but its steps or its max_lr are missing")
    if whole and head_only:
        old.notes.append("train.head_only_warmup: replaces train.enable_warmup here, there is one warmup")
    old.notes.append("train.warmup: its steps came before the first epoch, here they are the first of it")
    return {"steps": steps, "max_lr": max_lr} | ({"head_only": True} if head_only else {})


def _steps(old: OldKeys, key: str, accum: int) -> int | None:
    """A number of batches as optimizer steps."""
    batches = old.take(key, int)
    if batches is None or accum == 1:
        return batches
    steps = max(1, batches // accum)
    old.notes.append(f"{key} = {batches}: counted in batches; {steps} optimizer steps of {accum} batches each")
    return steps


def _loss(old: OldKeys) -> dict[str, Any]:
    name = old.need("loss.name", str)
    if name not in LOSSES:
        raise old.error("loss.name", f"unknown name {name!r}; {did_you_mean(name, LOSSES)}")
    why = "not used, the old program gave the loss the parameters of the optimizer"
    old.drop("loss.params", why + ("; weight was 1" if name == "forgiving_loss" else ""))
    return {"name": LOSSES[name]} | ({"params": {"weight": 1.0}} if name == "forgiving_loss" else {})


def _rates(old: OldKeys, accum: int, cosine: bool) -> tuple[dict[str, Any], dict[str, Any]]:
    """The sections optimizer and scheduler."""
    name = old.need("optimizer.name", str)
    params = {"lr": None} | old.take_section("optimizer.params")
    if name == "sgd":  # torch's defaults, which the old program used; timm's are 0.9 and true
        params = params | {"momentum": params.get("momentum", 0.0), "nesterov": params.get("nesterov", False)}
    if params.get("weight_decay"):
        old.notes.append("optimizer.params.weight_decay: here it leaves out biases and norms")
    lr: float | None
    if cosine and old.has("cosine"):
        lr, scheduler = _cosine(old)
        old.drop("scheduler", "the cosine section replaces it; --no-cosine keeps it")
    else:
        old.drop("cosine", "not used, --no-cosine")
        lr, scheduler = _scheduler(old, accum)
    old.drop("train.lr_decay_coeff", "not used, only cyclic_lr had it")
    old.drop("train.lr_decay_milestones", "not used, only cyclic_lr had it")
    if lr is not None:
        if params["lr"] not in (None, lr):
            old.notes.append(f"optimizer.params.lr = {params['lr']!r}: not used, the schedule begins with {lr}")
        params["lr"] = lr
    if params["lr"] is None:
        raise UserError("required key is missing", file=old.path, key="optimizer.params.lr")
    return {"name": name, "params": params}, scheduler


def _cosine(old: OldKeys) -> tuple[float, dict[str, Any]]:
    """Restarts; the periods are epochs there and here."""
    lr = old.need("cosine.start_lr", float)
    params = {key: old.take(f"cosine.{key}", float) for key in ("period", "period_inc", "max_period")}
    return lr, {"name": "cosine_restarts", "params": {key: value for key, value in params.items() if value is not None}}


def _scheduler(old: OldKeys, accum: int) -> tuple[float | None, dict[str, Any]]:
    """The rate that the schedule sets itself, if it does, and the section."""
    name = old.need("scheduler.name", str)
    if name == "reduce_lr_on_plateau":
        return None, {"name": name, "params": old.take_section("scheduler.params") | {"reload_best": True}}
    if name == "multi_step":
        return None, {"name": name, "params": old.take_section("scheduler.params")}
    if name != "cyclic_lr":
        known = ("reduce_lr_on_plateau", "multi_step", "cyclic_lr")
        raise old.error("scheduler.name", f"unknown name {name!r}; {did_you_mean(name, known)}")
    lr = old.need("scheduler.params.max_lr", float)
    old.drop("scheduler.params.cycle_momentum", "not converted, momentum does not cycle here")
    params: dict[str, Any] = {"base_lr": old.need("scheduler.params.base_lr", float)}
    if steps := _steps(old, "scheduler.params.step_size_up", accum):
        params["step_size_up"] = steps
    params["mode"] = old.take("scheduler.params.mode", str, "triangular")
    if params["mode"] != "exp_range":
        old.drop("scheduler.params.gamma", f"not used, the mode is {params['mode']}")
    milestones = old.take("train.lr_decay_milestones", list)
    if milestones is not None:
        params |= {"decay": old.need("train.lr_decay_coeff", float), "decay_milestones": milestones}
    return lr, {"name": "cyclic", "params": params | old.take_section("scheduler.params")}


def _rect_crop(old: OldKeys) -> dict[str, Any] | None:
    if not old.take("data.rect_crop.enable", bool, False):
        old.drop("data.rect_crop", "not used, data.rect_crop.enable is off")
        return None
    return old.take_section("data.rect_crop")


def _augmentations(old: OldKeys, rect_crop: dict[str, Any] | None) -> dict[str, Any]:
    names = ("hflip", "vflip", "rotate90", "affine", "blur", "noise", "distortion", "color", "global_prob")
    taken = {name: old.left.pop(("augmentations", name), None) for name in names}
    values: dict[str, Any] = {name: value for name, value in taken.items() if value is not None}
    if rect_crop is not None:
        values["rect_crop"] = rect_crop
    if old.has("augmentations.erase"):
        erase: dict[str, Any] = {"prob": old.need("augmentations.erase.prob", float)}
        for name in ("area", "ratio"):
            if old.has(f"augmentations.erase.min_{name}") or old.has(f"augmentations.erase.max_{name}"):
                erase[name] = [old.need(f"augmentations.erase.{end}_{name}", float) for end in ("min", "max")]
        values["erase"] = erase
    return values


def _test(old: OldKeys) -> dict[str, Any]:
    views = old.take("test.num_ttas", int, 1)
    if views not in VIEWS:
        raise old.error("test.num_ttas", f"expected 1 (the image) or 2 (and its mirror image), got {views}")
    return {"batch_size": old.take("test.batch_size", int, 32), "tta": VIEWS[views]}


def _check(values: dict[str, Any], source: Path) -> None:
    """Refuse what would make a file that load_config refuses."""
    from foldsmith.training.leaves import check_leaves  # torch takes seconds to import

    _, problems = config_problems(values, check_leaves)
    if problems:
        lines = [f"\n  {dotted(problem.path)}: {problem.message}" for problem in problems]
        raise UserError("what it becomes is not valid:" + "".join(lines), file=source)
