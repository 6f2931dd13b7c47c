"""Items 4 and 5 of benchmarks/training.py: start-up, and what grows with the number of images."""

import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from foldsmith.config import load_config
from foldsmith.data.folds import make_folds
from foldsmith.data.tables import read_table

CLASSES = 1103  # of iMet 2019

# What (4) runs: the real command, which ends where the first step would begin.
FIRST_STEP = """
import os, sys
import train
from foldsmith.training import loop
loop._step = lambda *rest, **options: os._exit(0)
train.main(sys.argv[1:])
"""

# What (5) runs in a process of its own: the memory that a table and its folds take, in bytes.
MEMORY = """
import sys
from foldsmith.config.schema import Config
from foldsmith.data.folds import make_folds
from foldsmith.data.tables import read_table
def memory(what): return next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if what in line)
before = memory("VmRSS")
config = Config.model_validate({"data": {"root": ".", "train_csv": sys.argv[1]}, "train": {"num_epochs": 1},
    "model": {"arch": "x", "input_size": 8}, "optimizer": {"name": "adamw"}})
table = read_table(config)
kept = memory("VmRSS") - before
make_folds(config, table)
print(kept, memory("VmHWM"))  # ru_maxrss begins with that of the parent
"""


def item_4(figures: dict[str, float], folder: Path) -> None:
    """Start-up, the best of three: from the command to the first step, and to the end of --help."""
    words = ["--config", "clipart_tiny", "--fold", "0", "--fresh", "--output", str(folder / "runs")]
    commands = {
        "first step": [sys.executable, "-c", FIRST_STEP, *words],
        "import torch": [sys.executable, "-c", "import torch"],
        "--help": [sys.executable, "train.py", "--help"],
    }
    print("\n4  start-up, the best of three")
    for name, command in commands.items():
        best = float("inf")
        for _ in range(3):
            started = time.perf_counter()
            subprocess.run(command, check=True, capture_output=True)
            best = min(best, time.perf_counter() - started)
        figures[f"seconds, {name}"] = best
        print(f"   {name:<14} {best:5.2f} s")


def label_table(path: Path, rows: int) -> Path:
    """A csv of random labels: 3 an image, classes as rare as iMet's rarest."""
    generator = np.random.default_rng(0)
    share = 1 / np.arange(1, CLASSES + 1) ** 0.9
    labels = np.sort(generator.choice(CLASSES, (rows, 3), p=share / share.sum()), axis=1).tolist()
    with open(path, "w", encoding="utf-8") as file:
        file.write("id,attribute_ids\n")
        for row, of_image in enumerate(labels):
            file.write(f"{row:016x},{' '.join(str(label) for label in dict.fromkeys(of_image))}\n")
    return path


def item_5(figures: dict[str, float], folder: Path) -> None:
    """Memory of label tables, and the time of folds."""
    print(f"\n5  label tables of {CLASSES} classes; target: a million rows in 2 GB")
    for rows in (10_000, 100_000, 1_000_000):
        path = label_table(folder / f"{rows}.csv", rows)
        done = subprocess.run([sys.executable, "-c", MEMORY, path], check=True, capture_output=True, text=True)
        kept, peak = (int(word) / 1e9 for word in done.stdout.split())
        figures[f"peak GB, {rows} rows"] = peak
        dense = rows * CLASSES / 1e9
        print(f"   {rows:9,} rows: {kept:.2f} GB kept, peak {peak:.2f} GB with folds (dense labels: {dense:.2f} GB)")
    words = [f"data.train_csv={label_table(folder / 'imet.csv', 109_237)}", "data.num_folds=5"]
    config = load_config("clipart_tiny", [*words, f"data.labels_csv={folder / 'classes.csv'}"])
    names = "".join(f"{label},{label}\n" for label in range(CLASSES))
    (folder / "classes.csv").write_text(f"id,name\n{names}")
    table = read_table(config)
    started = time.perf_counter()
    make_folds(config, table)
    figures["seconds, folds"] = time.perf_counter() - started
    print(f"   folds of 109,237 x {CLASSES}: {figures['seconds, folds']:.1f} s; target: 90 s")
