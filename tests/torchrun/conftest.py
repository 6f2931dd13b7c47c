"""torchrun with real processes: how it is started, an experiment, and what one process makes of it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file

import train
from tests.conftest import DATA, ROOT
from tests.test_launch import experiment

# No batch norm, and an optimizer that does not make much of little: Adam turns rounding into steps of full size.
SETS = [
    "optimizer={name: momentum, params: {lr: 0.05, momentum: 0.9}}",
    "scheduler.name=constant",
    "data.num_folds=2",
    "train.num_epochs=2",
    "train.batch_size=16",
]
# Process 1 of 2, or that of DIES, is killed when it begins the second epoch, once.
# Then process 0 is late, so that the other one finds what torchrun's store still has of the first start.
DYING = """\
import os, pathlib, signal, sys, time
sys.path.insert(0, {root!r})
import train
begun = pathlib.Path(sys.argv[sys.argv.index("--output") + 1]) / "a" / "fold0" / "last.ckpt"
if os.environ["RANK"] == "0" and begun.exists():
    time.sleep(3)
from foldsmith.training import run
real, calls = run.train_epoch, []
def train_epoch(*args):
    calls.append(None)
    dies = os.environ["RANK"] == os.environ.get("DIES", "1") and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0"
    if len(calls) == 2 and dies:
        os.kill(os.getpid(), signal.SIGKILL)
    return real(*args)
run.train_epoch = train_epoch
train.main()
"""


def words(config: Path, output: Path, *sets: str) -> list[str]:
    return ["--config", str(config), "--fold", "0", "--output", str(output), "--set", *SETS, *sets]


def used_labels(config: Path) -> str:
    """A labels.csv of the classes that have images, since others have no weight, as a word of --set."""
    rows = [line.split(",") for line in (config.parent / "train.csv").read_text().splitlines()]
    used = {token for row in rows[1:] for token in row[1].split()}
    head, *labels = (DATA / "labels.csv").read_text().splitlines(keepends=True)
    path = config.parent / "labels.csv"
    path.write_text(head + "".join(line for line in labels if line.split(",")[0] in used))
    return f"data.labels_csv={path}"


def torchrun(*args: str, before: tuple[str, ...] = (), **environment: str) -> subprocess.Popen:
    command = [*before, sys.executable, "-m", "torch.distributed.run", *args]
    return subprocess.Popen(
        command, cwd=ROOT, env=os.environ | environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def two_processes(script: Path, *args: str, restarts: int = 0) -> tuple[int, str]:
    """Exit code and output of torchrun with two processes on this machine."""
    return processes(2, script, *args, restarts=restarts)


def processes(count: int, script: Path, *args: str, restarts: int = 0) -> tuple[int, str]:
    """Exit code and output of torchrun with so many processes on this machine."""
    job = torchrun("--standalone", "--nproc-per-node", str(count), "--max-restarts", str(restarts), str(script), *args)
    output, _ = job.communicate()
    return job.returncode, output


def differ(one: Path, two: Path) -> float:
    """The largest difference between two runs' weights of fold 0."""
    name = "a/a_f0.safetensors"
    first, second = load_file(one / name), load_file(two / name)
    assert first.keys() == second.keys()
    return max((first[key].double() - second[key].double()).abs().max().item() for key in first)


@pytest.fixture(scope="session")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return experiment(tmp_path_factory.mktemp("config"), "a", rows=95)


@pytest.fixture(scope="session")
def single(config: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of one process with batches of 16."""
    os.chdir(ROOT)
    runs = tmp_path_factory.mktemp("single")
    train.main(words(config, runs))
    return runs


@pytest.fixture(scope="session")
def dying(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("dying") / "dying.py"
    path.write_text(DYING.format(root=str(ROOT)))
    return path
