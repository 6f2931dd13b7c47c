#!/usr/bin/env python3
"""Does ForgivingLoss help where labels are missing? F2 of one fold, trained with half of its labels, against BCE.

make weights && .venv/bin/python benchmarks/missing_labels.py        about 6 minutes on 2 CPU cores

Of every (image, label) pair of data/clipart half are removed at random; validation sees all labels. Both losses train
configs/clipart_lite0.yml on the same labels with the same seed, for each of three seeds.
"""

import argparse
import contextlib
import csv
import os
import statistics
import tempfile
from pathlib import Path

import numpy as np
import torch

from foldsmith.config import load_config
from foldsmith.data.sheets import read_csv
from foldsmith.models.weights import read_header
from foldsmith.training.leaves import check_leaves
from foldsmith.training.run import train_experiment

LOSSES = {"bce": "{name: bce}", "forgiving": "{name: forgiving, params: {weight: 1.0}}"}


def remove_labels(source: Path, target: Path, share: float, seed: int) -> None:
    """Copy a label table, leaving each label out with probability `share`."""
    sheet = read_csv(source)
    generator = np.random.default_rng(seed)
    rows = []
    for name, labels in sheet.rows:
        rows.append([name, " ".join(label for label in labels.split() if generator.random() >= share)])
    with open(target, "w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([sheet.columns, *rows])


def score(loss: str, seed: int, share: float, folder: Path) -> float:
    """F2 of fold 0 on the original labels."""
    table = folder / f"labels_{seed}.csv"
    remove_labels(Path("data/clipart/train.csv"), table, share, seed)
    words = [f"loss={LOSSES[loss]}", f"train.seed={seed}", f"data.train_csv={table}"]
    words += ["data.valid_csv=data/clipart/train.csv"]
    config = load_config("clipart_lite0", words, check_leaves)
    with open(os.devnull, "w") as quiet, contextlib.redirect_stdout(quiet):
        run = train_experiment(config, output=folder / f"{loss}_{seed}", device=torch.device("cpu"), only_fold=0)
    return float(read_header(run.weights(0))["score"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3, help="default: 3")
    parser.add_argument("--share", type=float, default=0.5, help="of the labels that are removed (default: 0.5)")
    args = parser.parse_args()
    print(f"share of labels removed: {args.share:g}\nseed  " + "  ".join(f"{loss:>9}" for loss in LOSSES))
    scores: dict[str, list[float]] = {loss: [] for loss in LOSSES}
    with tempfile.TemporaryDirectory(prefix="foldsmith-benchmark-") as folder:
        for seed in range(args.seeds):
            for loss, found in scores.items():
                found.append(score(loss, seed, args.share, Path(folder)))
            print(f"{seed:>4}  " + "  ".join(f"{found[-1]:9.4f}" for found in scores.values()), flush=True)
    print("mean  " + "  ".join(f"{statistics.mean(found):9.4f}" for found in scores.values()))


if __name__ == "__main__":
    main()
