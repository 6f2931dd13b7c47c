"""What a packed script is given in place of its arguments: its config where the data, folds and weights are now."""

import atexit
import contextlib
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from foldsmith.config import Config, dump_yaml, parse_yaml
from foldsmith.data.folds import load_folds
from foldsmith.data.tables import read_table
from foldsmith.errors import EXIT_UNTRUSTED, UserError
from foldsmith.files import sha256_lines
from foldsmith.inference.find import (
    INPUT_ROOTS,
    PASSPHRASE,
    data_below_inputs,
    locate_data,
    look_for,
    missing_weights,
    prove,
    untrusted,
)
from foldsmith.inference.machine import all_missing, changed_versions
from foldsmith.inference.packages import packages_problem
from foldsmith.training.folder import RunFolder

NOT_NEEDED = ("scikit-learn", "iterative-stratification", "scipy")
UNPACKED = "packed"  # in the working folder: headers of weights name it, so it is the same in every run


def arguments(
    files: Mapping[str, bytes], options: Mapping[str, Any], unpack: Callable[[Mapping[str, bytes], str], None]
) -> list[str]:
    """The arguments with which the packed script runs here.

    Args:
        files: the packed ones, by path.
        options: what was decided when the kernel was packed (kernel/contents.py).
        unpack: kernel/loader.py's.

    Raises:
        UserError: with all that is missing.
    """
    for line in changed_versions(options["built_with"]):
        print(f"another version than where this was packed: {line}")
    if "passphrase" in options and not os.environ.get(PASSPHRASE):
        os.environ[PASSPHRASE] = options["passphrase"]
    words = [*options["arguments"]]
    if options["config"] is None:
        return words
    path = options["config"]
    config = Config.model_validate(parse_yaml(files[path].decode("utf-8"), path).values).named(Path(path).stem)
    if config.model.pretrained is not True:
        os.environ["HF_HUB_OFFLINE"] = "1"  # libraries would wait for time-outs
    config, weights = _find_inputs(config, options)
    tables = {name: f"{UNPACKED}/{packed}" for name, packed in options["tables"].items()}
    config = _with_data(config, tables)
    if weights and not options["needs_weights"]:
        model = config.model.model_copy(update={"pretrained": str(weights[0])})
        config = config.model_copy(update={"model": model})
    unpacked = {packed: files[packed] for packed in options["tables"].values()}
    unpacked[Path(path).name] = dump_yaml(config.model_dump(mode="json")).encode()
    try:
        unpack(unpacked, UNPACKED)
    except ValueError as error:  # the loader's PackError, whose class stands in the packed file
        raise UserError(f"can't be unpacked: {error}", file=UNPACKED, code=EXIT_UNTRUSTED) from None
    atexit.register(_remove, sorted(unpacked), os.getpid())
    _write_folds(config, files["folds.txt"], options)
    words = ["--config", f"{UNPACKED}/{Path(path).name}", *words]
    if options["needs_weights"]:
        words += ["--weights", *map(str, weights)]
    return words + _device(words)


def _find_inputs(config: Config, options: Mapping[str, Any]) -> tuple[Config, list[Path]]:
    """The config with its data where it is, and the weights that it needs; all that is missing in one error."""
    found = look_for(options["weights"], INPUT_ROOTS)
    # folds are packed, so that nothing which makes them is needed
    needed = [name for name in options["built_with"] if name not in NOT_NEEDED]
    lacking = packages_problem(needed)
    problems = [lacking] if lacking else []
    try:
        config = locate_data(config, data_below_inputs(config, options["competitions"]))
    except UserError as error:
        problems.append(f"{error.message} ({error.hint})")
    missing = missing_weights(found)
    if missing:
        problems.append(f"{missing} (looked below {', '.join(map(str, INPUT_ROOTS))})")
    weights, wrong = prove({name: sha256 for name, (_, sha256) in options["weights"].items()}, found)
    if problems:
        raise all_missing([*problems, *wrong])
    if wrong:
        raise untrusted(wrong)
    return config, list(weights.values())


def _with_data(config: Config, paths: Mapping[str, str]) -> Config:
    return config.model_copy(update={"data": config.data.model_copy(update=paths)})


def _write_folds(config: Config, text: bytes, options: Mapping[str, Any]) -> None:
    """The run's folds.csv, from the fold of every row and the label table that is here."""
    table = read_table(config)
    if sha256_lines(table.ids) != options["ids_sha256"]:
        raise UserError("the label table has other ids, or another order, than where this was packed", key="data.root")
    fold_of = np.array(text.decode("ascii").split(), dtype=np.int64)
    load_folds(config, table, RunFolder(Path(options["output"]), config.name).folds, made=fold_of)


def _device(words: list[str]) -> list[str]:
    """`--device cpu` where a GPU reports itself available and can't compute."""
    from foldsmith.inference.machine import working_devices
    from foldsmith.inference.predict import pick_device

    if "--device" in words or pick_device(None).type == "cpu":
        return []
    return ["--device", "cpu"] if working_devices([pick_device(None)])[0].type == "cpu" else []


def _remove(paths: list[str], process: int) -> None:
    """What was unpacked; a forked worker that ends leaves it there."""
    if os.getpid() != process:
        return
    for path in paths:
        Path(UNPACKED, path).unlink(missing_ok=True)
    # with the folders between: tables/train_csv/train.csv lies three deep
    folders = {Path(UNPACKED)} | {Path(UNPACKED, parent) for path in paths for parent in Path(path).parents}
    for folder in sorted(folders, reverse=True):  # the inner ones first
        with contextlib.suppress(OSError):  # not empty, or not there
            folder.rmdir()
