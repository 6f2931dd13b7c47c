"""Out-of-fold prediction: every fold's model predicts the images that it did not see."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from foldsmith.config import Config, dump_yaml
from foldsmith.data.cache import cached_images
from foldsmith.data.folds import Folds, load_folds
from foldsmith.data.images import Image, bad_image_hint, find_images
from foldsmith.data.oof_files import Sidecar, read_oof, read_sidecar, sidecar_path, write_oof
from foldsmith.data.tables import Table, read_table
from foldsmith.errors import EXIT_UNTRUSTED, EXIT_USAGE, UserError, shown
from foldsmith.failpoints import fail
from foldsmith.files import sha256_file, sha256_lines, write_text
from foldsmith.inference.decoded import DecodedImages
from foldsmith.inference.predict import pipeline_of, predict
from foldsmith.inference.views import expand_views
from foldsmith.losses import LOSSES
from foldsmith.metrics import find_metric
from foldsmith.models.build import with_image_stats
from foldsmith.models.header import config_of, wrong_config
from foldsmith.models.weights import load_model, read_header
from foldsmith.training.folder import RunFolder, differing_keys
from foldsmith.training.schedules import SCHEDULES


@dataclass(frozen=True)
class OofWork:
    """One experiment's weights files, checked to be of one split and one class list, and what they predict."""

    config: Config  # resolved
    table: Table
    folds: Folds
    paths: list[Path]  # image of every row of the table
    run: RunFolder
    headers: dict[Path, dict[str, Any]]  # of the weights files, in the order of their folds
    read: Callable[[Path], Image]  # what reads an image, from the training's cache where there is one


def open_oof(config: Config | None, weights: Sequence[Path], output: Path) -> OofWork:
    """Check weights files against each other, the config, the label table and the split.

    Args:
        config: the experiment; None: the one in the weights' headers. Its data and test sections are used.
        weights: files of one experiment; empty: all folds of the run in `output`.
    """
    if not weights:
        assert config is not None
        weights = _weights_of_run(RunFolder(output, config.name), config.data.num_folds)
    headers = {path: read_header(path) for path in weights}
    config = with_image_stats(config) if config is not None else _experiment_of(headers[weights[0]], weights[0])
    for path, header in headers.items():
        _check_same_experiment(config, path, header)

    table = read_table(config)
    skip = config.data.on_bad_image == "skip"
    paths = find_images(config.data_path("train_dir"), table.ids, config.data.image_extension, missing_ok=skip)
    run = RunFolder(output, config.name)
    folds = load_folds(config, table, run.folds)
    for path, header in headers.items():
        _check_same_data(path, header, table, folds, run)
    ordered = sorted(headers.items(), key=lambda item: int(item[1]["fold"]))
    return OofWork(config, table, folds, paths, run, dict(ordered), cached_images(config, [paths], build=False))


def predict_oof(config: Config | None, weights: Sequence[Path], *, output: Path, device: torch.device) -> list[Path]:
    """Write the OOF file and sidecar of each weights file into `<output>/<name>/`; those that are up to date stay.

    Args:
        config, weights, output: of `open_oof`.

    Returns:
        The .npy paths.
    """
    work = open_oof(config, weights, output)
    if not work.run.config.is_file():  # weights that lie elsewhere: the search reads the config beside the OOF files
        write_text(work.run.config, dump_yaml(work.config.model_dump(mode="json")))
    return [_predict_fold(work, path, device) for path in work.headers]


def _predict_fold(work: OofWork, weights: Path, device: torch.device) -> Path:
    """Write the OOF file and sidecar of one weights file, unless they are there and up to date."""
    config, table, header = work.config, work.table, work.headers[weights]
    fold = header["fold"]
    rows = work.folds.valid_rows(fold)
    npy = work.run.oof(fold)
    known: dict[str, Any] = {
        "name": config.name,
        "fold": fold,
        "rows": len(rows),
        "classes": len(table.classes.tokens),
        "ids_sha256": sha256_lines(table.ids[row] for row in rows),
        "classes_sha256": table.classes.sha256,
        "folds_sha256": work.folds.sha256,
        "config_sha256": header["config_sha256"],
        "weights_sha256": sha256_file(weights),
        "metric": config.metric,
        "views": expand_views(config.test.tta),
        "merge": config.test.merge,
    }
    if _is_current(npy, known):
        tqdm.write(f"{config.name} fold {fold}: up to date: {npy}")
        return npy
    started = time.monotonic()
    description = f"{config.name} fold {fold} out-of-fold"
    model = load_model(weights, device)
    images = DecodedImages([work.paths[row] for row in rows], bad_hint=bad_image_hint(config), read=work.read)
    probabilities = predict(
        model, images, pipeline_of(config, device), known["views"], description, merge=config.test.merge
    )
    speed = {"device": device.type, "images_per_second": round(len(rows) / (time.monotonic() - started), 1)}
    fail("oof.predicted")
    for row, reason in sorted(images.bad.items()):
        tqdm.write(f"{config.name} fold {fold}: taken as black: {images.paths[row]}: {reason}")
    best = find_metric(config.metric, config.data.task).best(probabilities, table.targets(rows))
    write_oof(npy, probabilities, Sidecar(**known, score=best.score, threshold=best.threshold, speed=speed))
    at = "" if best.threshold is None else f" (threshold {best.threshold:.3f})"
    tqdm.write(f"{config.name} fold {fold}: {config.metric} {best.score:.4f}{at}: {npy}")
    return npy


def _check_same_data(path: Path, header: dict[str, Any], table: Table, folds: Folds, run: RunFolder) -> None:
    if header["folds_sha256"] != folds.sha256:
        raise UserError(
            f"was trained on another split than {run.folds} "
            f"({header['folds_sha256'][:12]} there, {folds.sha256[:12]} here)",
            file=path,
            hint="data.folds can name the split that it was trained on",
        )
    if header["classes"] != table.classes.tokens:
        # The table's hash covers its classes: a header of the same table and of others contradicts itself.
        code = EXIT_UNTRUSTED if header["data_sha256"] == table.sha256 else EXIT_USAGE
        raise UserError("has another class list than the label table", file=path, code=code)


def _experiment_of(header: dict[str, Any], path: Path) -> Config:
    """The config of a header as an experiment; only names are looked at: trying their arguments might be costly."""
    config = config_of(header, path)
    for section, names in (("loss", LOSSES), ("scheduler", SCHEDULES)):
        name = getattr(config, section).name
        if name not in names:
            raise wrong_config(path, f"{section}.name", f"unknown name {shown(name)}")
    return config


def _weights_of_run(run: RunFolder, num_folds: int) -> list[Path]:
    found = [run.weights(fold) for fold in range(num_folds) if run.weights(fold).is_file()]
    if not found:
        raise UserError(
            "holds no weights yet", file=run.path, hint="./train.py --config ... writes them; or --output DIR"
        )
    missing = [str(fold) for fold in range(num_folds) if not run.weights(fold).is_file()]
    if missing:
        tqdm.write(f"{run.name}: no weights yet of fold {', '.join(missing)}")
    return found


def _check_same_experiment(config: Config, path: Path, header: dict[str, Any]) -> None:
    changed = differing_keys(header["config"], config.model_dump(mode="json"))
    if header["name"] != config.name or changed:
        what = "\n  ".join(changed or [f"name: {header['name']!r} -> {config.name!r}"])
        raise UserError(f"belongs to another config; what differs (there -> now):\n  {what}", file=path)


def _is_current(npy: Path, known: dict[str, Any]) -> bool:
    if not npy.is_file() or not sidecar_path(npy).is_file():
        return False
    try:
        sidecar = read_sidecar(npy)
        if any(getattr(sidecar, key) != value for key, value in known.items()):
            return False
        read_oof(npy, sidecar)
    except UserError:  # a damaged one is written again
        return False
    return True
