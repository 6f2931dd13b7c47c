"""Members that know something of made-up labels, and the files that a run of such a model would leave."""

from pathlib import Path

import numpy as np

from foldsmith.config import load_config
from foldsmith.data.folds import folds_sha256
from foldsmith.data.oof_files import Sidecar, write_oof
from foldsmith.data.tables import read_table
from foldsmith.files import sha256_lines
from tests.conftest import ROOT


def random_members(seed: int, count: int = 3, rows: int = 200, classes: int = 20):
    """Members that see the labels through noise of their own, the later ones better; probabilities mostly small."""
    rng = np.random.default_rng(seed)
    targets = rng.random((rows, classes)) < 0.08
    members = []
    for number in range(count):
        logits = -6 + (5.5 + 0.5 * number) * targets + 1.5 * rng.standard_normal((rows, classes))
        members.append((1 / (1 + np.exp(-logits))).astype(np.float32))
    return members, targets


def multiclass_members(seed: int, count: int = 3, rows: int = 240, classes: int = 6):
    """The same with one label an image and softmax outputs."""
    rng = np.random.default_rng(seed)
    targets = rng.integers(0, classes, rows)[:, None] == np.arange(classes)
    members = []
    for number in range(count):
        logits = (1.5 + 0.3 * number) * targets + rng.standard_normal((rows, classes))
        exps = np.exp(logits)
        members.append((exps / exps.sum(axis=1, keepdims=True)).astype(np.float32))
    return members, targets


def write_runs(folder: Path, members, targets, *, folds: int = 3, metric: str = "f2", task: str = "multilabel"):
    """OOF files, sidecars, configs, folds.csv of a run a member, called m0, m1, ...; returns one OOF file a member."""
    images, classes = targets.shape
    ids, fold_of = [f"{row:04x}" for row in range(images)], np.arange(images) % folds
    (folder / "data").mkdir(parents=True, exist_ok=True)
    names = [f"{'culture' if index < classes // 2 else 'tag'}::{index}" for index in range(classes)]
    rows = [f"{name},{' '.join(map(str, np.flatnonzero(row)))}" for name, row in zip(ids, targets, strict=True)]
    (folder / "data" / "train.csv").write_text("id,attribute_ids\n" + "\n".join(rows) + "\n")
    labels = "".join(f"{index},{name}\n" for index, name in enumerate(names))
    (folder / "data" / "labels.csv").write_text("attribute_id,attribute_name\n" + labels)
    found = []
    for number, probabilities in enumerate(members):
        name = f"m{number}"
        run = folder / name
        run.mkdir(exist_ok=True)
        (run / f"{name}.yml").write_text(
            f"base: {ROOT / 'configs' / 'clipart_tiny.yml'}\nmetric: {metric}\n"
            f"data:\n  root: {folder / 'data'}\n  task: {task}\n  num_folds: {folds}\n"
        )
        table = read_table(load_config(run / f"{name}.yml"))
        lines = [f"{image},{fold}" for image, fold in zip(ids, fold_of, strict=True)]
        (run / "folds.csv").write_text("id,fold\n" + "\n".join(lines) + "\n")
        for fold in range(folds):
            of_fold = np.flatnonzero(fold_of == fold)
            sidecar = Sidecar(
                name=name,
                fold=fold,
                rows=len(of_fold),
                classes=classes,
                ids_sha256=sha256_lines(ids[row] for row in of_fold),
                classes_sha256=table.classes.sha256,
                folds_sha256=folds_sha256(ids, fold_of),
                config_sha256=name,
                weights_sha256=f"{number}{fold}",
                metric=metric,
                score=0.5,
                threshold=None,
                views=["identity"],
                speed={"device": "cpu", "images_per_second": 10.0 * (number + 1)},
            )
            write_oof(run / f"{name}_f{fold}.npy", probabilities[of_fold], sidecar)
        found.append(str(run / f"{name}_f0.npy"))
    return found
