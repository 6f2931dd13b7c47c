"""`train.py --smoke`: prove that a config trains and predicts before it runs for days."""

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from foldsmith.config import Config
from foldsmith.config.training import Stage
from foldsmith.data.sheets import csv_line, read_csv
from foldsmith.data.tables import valid_csv_path
from foldsmith.files import write_text
from foldsmith.training.oof import predict_oof
from foldsmith.training.run import train_experiment

IMAGES = 200


def smoke(config: Config, device: torch.device) -> None:
    """Train fold 0 for an epoch (of each stage) on 200 random rows, then predict its fold; keep nothing."""
    with tempfile.TemporaryDirectory(prefix="foldsmith-smoke-") as folder:
        table = Path(folder) / "train.csv"
        _sample_rows(valid_csv_path(config), table)
        own = {"train_csv": str(table), "valid_csv": None, "folds": None, "cache": "off"}
        data = config.data.model_copy(update=own)
        short: dict[str, Any] = {"num_epochs": 1, "stages": [_short(stage) for stage in config.train.stages]}
        if config.train.warmup is not None:  # an epoch has few steps here
            short["warmup"] = config.train.warmup.model_copy(update={"steps": 1})
        train = config.train.model_copy(update=short)
        # Of 200 images some classes have none, and so no weight.
        loss = config.loss.model_copy(update={"class_weights": None})
        small = config.model_copy(update={"data": data, "train": train, "loss": loss})
        train_experiment(small, output=Path(folder), device=device, only_fold=0)
        predict_oof(small, [], output=Path(folder), device=device)
    print(f"smoke test passed: {config.name} trains and predicts (scores of {IMAGES} images mean nothing)")


def _short(stage: Stage) -> Stage:
    short = {"num_epochs": min(1, stage.num_epochs)}
    return stage.model_copy(
        update=short | ({"loss": stage.loss.model_copy(update={"class_weights": None})} if stage.loss else {})
    )


def _sample_rows(source: Path, target: Path) -> None:
    """Copy a random 200 rows of a table; every class that the table knows stays known through labels.csv only."""
    sheet = read_csv(source)
    chosen = np.random.default_rng(0).permutation(len(sheet.rows))[:IMAGES]
    write_text(target, "".join(map(csv_line, [sheet.columns, *(sheet.rows[row] for row in sorted(chosen))])))
