#!/usr/bin/env python3
"""What the engines cost: six tiny folds by the local launcher, by Ray and by torchrun, as Markdown for docs/scale.md.

.venv/bin/python benchmarks/scale_out.py [--processes N]        about 3 minutes on 2 CPU cores

2 experiments x 3 folds of test_convnext at 64 px on data/clipart, workers: 0. N processes work at once (default: one on
each core, at most 6), each with an equal share of the cores as its threads. Of each engine:

seconds    of the whole command, from its start to its end
in epochs  seconds within epochs, summed over the processes (timings.csv)
lost       the share of (seconds x processes at once) that is not work. The work of all rows is what the first has in
           epochs; the rest is start-up, the split, waiting, the engine, and cores that are slower when both are busy

The folds of the local launcher, side by side and on Ray, have the same weights, byte for byte; that is checked. Ray is
started and stopped within its command.
"""

import argparse
import csv
import hashlib
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

EXPERIMENT = """\
base: {base}
data:
  num_folds: {folds}
model:
  arch: test_convnext
  input_size: 64
train:
  num_epochs: 2
  workers: 0
  seed: {seed}
"""
EXPERIMENTS = "ab"
FOLDS = 6  # of all experiments
ROOT = Path(__file__).parent.parent


@dataclass(frozen=True)
class Engine:
    """How to start the same work."""

    name: str
    before: list[str]  # words before train.py
    after: list[str]  # words after its own
    at_once: int  # processes that work at the same time
    of_a_fold: int  # processes that are in one epoch


def engines(processes: int) -> list[Engine]:
    share = str(len(os.sched_getaffinity(0)) / processes)
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    return [
        Engine("one after the other", [], [], 1, 1),
        Engine(f"`--parallel-folds {processes}`", [], ["--parallel-folds", str(processes)], processes, 1),
        Engine("`--launcher ray`", [], ["--launcher", "ray", "--cpus-per-job", share], processes, 1),
        Engine(f"torchrun, {processes} processes a fold", torchrun, [], processes, processes),
    ]


def run(output: Path, configs: list[Path], engine: Engine, threads: int) -> tuple[float, float]:
    """Seconds of the command, and seconds of all processes within epochs."""
    words = [*engine.before, "train.py", "--config", *map(str, configs), "--output", str(output), *engine.after]
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    started = time.monotonic()
    done = subprocess.run([sys.executable, *words], cwd=ROOT, env=environment, capture_output=True, text=True)
    seconds = time.monotonic() - started
    if done.returncode:
        sys.exit(f"{engine.name} ended with code {done.returncode}:\n{done.stdout}{done.stderr}")
    epochs = 0.0
    for path in output.glob("*/fold*/timings.csv"):
        with open(path, encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        epochs += sum(float(row["train_seconds"]) + float(row["valid_seconds"]) for row in rows) * engine.of_a_fold
    return seconds, epochs


def digest(output: Path) -> str:
    """Of all weights."""
    found = sorted(output.glob("*/*.safetensors"))
    assert len(found) == FOLDS, found
    return hashlib.sha256(b"".join(path.read_bytes() for path in found)).hexdigest()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cores = len(os.sched_getaffinity(0))
    parser.add_argument("--processes", type=int, default=min(FOLDS, cores), metavar="N", help="default: the cores")
    processes = parser.parse_args().processes
    if not 1 <= processes <= cores:
        parser.error(f"--processes is 1 to {cores}, this machine's cores")
    threads = cores // processes
    with tempfile.TemporaryDirectory(prefix="foldsmith-scale-") as name:
        configs = [Path(name) / f"{experiment}.yml" for experiment in EXPERIMENTS]
        for seed, path in enumerate(configs):
            base, folds = ROOT / "configs" / "clipart_tiny.yml", FOLDS // len(EXPERIMENTS)
            path.write_text(EXPERIMENT.format(base=base, folds=folds, seed=seed))
        print(f"| {cores} cores, {threads} of them a process | seconds | in epochs | processes | lost |")
        print("|---|---|---|---|---|")
        digests: dict[str, str] = {}
        work = 0.0
        for number, engine in enumerate(engines(processes)):
            seconds, epochs = run(Path(name) / str(number), configs, engine, threads)
            work = work or epochs  # of the first, which waits for nobody
            lost = 1 - work / (seconds * engine.at_once)
            print(f"| {engine.name} | {seconds:.1f} | {epochs:.1f} | {engine.at_once} | {lost:.0%} |", flush=True)
            if engine.of_a_fold == 1:  # torchrun's sums have another order
                digests[engine.name] = digest(Path(name) / str(number))
    assert len(set(digests.values())) == 1, digests
    print("\nThe weights of the folds in one process each are the same bytes by all three.")


if __name__ == "__main__":
    main()
