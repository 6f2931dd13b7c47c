#!/usr/bin/env python3
"""What the engines cost: six tiny folds by the local launcher, by Ray and by torchrun.

.venv/bin/python benchmarks/scale_out.py        about 3 minutes on 2 CPU cores

2 experiments x 3 folds of test_convnext at 64 px on data/clipart, workers: 0, one thread a process. Of each engine:

seconds    of the whole command, from its start to its end
training   seconds within epochs, summed over the folds (timings.csv): the work itself, on the cores that it had
lost       the share of (seconds x processes at once) that is not training: start-up, the split, waiting, the engine

The folds of the local launcher, side by side and on Ray, have the same weights, byte for byte; that is checked. Ray is
started and stopped within its command.
"""

import csv
import hashlib
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

EXPERIMENT = """\
base: {base}
data:
  num_folds: 3
model:
  arch: test_convnext
  input_size: 64
train:
  num_epochs: 2
  workers: 0
  seed: {seed}
"""
ROOT = Path(__file__).parent.parent
TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
# name: (words before train.py, words after its own, processes that work at once)
ENGINES = {
    "one after the other": ([], [], 1),
    "--parallel-folds 2": ([], ["--parallel-folds", "2"], 2),
    "--launcher ray": ([], ["--launcher", "ray"], 2),
    "torchrun, 2 processes a fold": (TORCHRUN, [], 2),
}


def run(folder: Path, configs: list[Path], engine: str) -> tuple[float, float]:
    """Seconds of the command, and seconds of all processes within epochs."""
    before, after, processes = ENGINES[engine]
    output = folder / engine.replace(" ", "_")
    command = [sys.executable, *before, "train.py", "--config", *map(str, configs), "--output", str(output), *after]
    started = time.monotonic()
    subprocess.run(command, cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"}, check=True, capture_output=True)
    seconds = time.monotonic() - started
    together = processes if before else 1  # processes that are in one epoch
    epochs = 0.0
    for path in output.glob("*/fold*/timings.csv"):
        with open(path, encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        epochs += sum(float(row["train_seconds"]) + float(row["valid_seconds"]) for row in rows) * together
    return seconds, epochs


def digest(folder: Path, engine: str) -> str:
    """Of all weights."""
    found = sorted((folder / engine.replace(" ", "_")).glob("*/*.safetensors"))
    assert len(found) == 6, found
    return hashlib.sha256(b"".join(path.read_bytes() for path in found)).hexdigest()


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="foldsmith-scale-") as name:
        folder = Path(name)
        configs = [folder / f"{experiment}.yml" for experiment in "ab"]
        for seed, path in enumerate(configs):
            path.write_text(EXPERIMENT.format(base=ROOT / "configs" / "clipart_tiny.yml", seed=seed))
        print(f"{'engine':30}  seconds  training  processes  lost")
        digests = {}
        for engine, (before, _, processes) in ENGINES.items():
            seconds, epochs = run(folder, configs, engine)
            lost = 1 - epochs / (seconds * processes)
            print(f"{engine:30}  {seconds:7.1f}  {epochs:8.1f}  {processes:9}  {lost:4.0%}", flush=True)
            if not before:  # torchrun's sums have another order
                digests[engine] = digest(folder, engine)
        assert len(set(digests.values())) == 1, digests
        print("the weights of the first three are the same bytes")


if __name__ == "__main__":
    main()
