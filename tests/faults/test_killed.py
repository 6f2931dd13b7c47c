"""kill -9 at named places and at random moments: the next run ends in the same bits."""

import os
import random
import re
import signal
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from foldsmith.data.oof_files import read_oof, read_sidecar, sidecar_path, write_oof
from foldsmith.errors import UserError
from foldsmith.failpoints import fail, forget
from tests.faults.warm import Child, Ended, Warm

# The place, and which time it comes to it. 3 epochs in 2 stages of 3 batches; each epoch writes metrics.csv,
# last.ckpt and, where it is better, the best weights.
PLACES = [
    "write.opened:1",
    "write.filled:2",
    "write.synced:3",
    "write.renamed:4",
    "write.filled:6",
    "write.synced:8",
    "epoch.begin:1",
    "epoch.batch:2",
    "train.forward:5",
    "epoch.begin:3",
    "epoch.trained:2",
    "epoch.scored:1",
    "epoch.judged:2",
    "predict.batch:4",
    "checkpoint.begin:1",
    "checkpoint.written:1",
    "checkpoint.begin:3",
    "checkpoint.written:3",
    "fold.trained:1",
    "fold.finished:1",
]
OOF_PLACES = ["predict.batch:1", "oof.predicted:1", "write.synced:1", "oof.array_written:1"]
FAST = {*PLACES[1::5], *PLACES[-2:]}
MOMENTS = 20
FAST_MOMENTS = 3


class Run:
    """The experiment in an output folder of its own; counts the epochs that any of its runs began."""

    def __init__(self, warm: Warm, mini: Path, output: Path) -> None:
        self.warm, self.mini, self.output = warm, mini, output
        self.train_seconds = 0.0
        self.epochs = output.with_name(output.name + ".epochs")

    def start(self, **options: object) -> Child:
        words = ["--config", self.mini, "--output", self.output, "--fold", "0"]
        return self.warm.start("train.py", *words, hook=("count_epochs", str(self.epochs)), **options)

    def train(self, **options: object) -> Ended:
        return self.start(**options).wait()

    def predict(self, **options: object) -> Ended:
        return self.warm.run("predict_oof.py", "--config", self.mini, "--output", self.output, **options)

    @property
    def begun(self) -> int:
        return self.epochs.stat().st_size if self.epochs.exists() else 0

    def files(self) -> dict[str, bytes]:
        """What must be the same to the bit. A sidecar's speed may differ."""
        folder = self.output / "mini"
        names = ["mini_f0.safetensors", "mini_f0.npy", "fold0/metrics.csv", "folds.csv", "mini.yml"]
        return {name: (folder / name).read_bytes() for name in names}

    def all_names(self) -> set[str]:
        return {str(path.relative_to(self.output)) for path in self.output.rglob("*")}


@pytest.fixture(scope="module")
def uninterrupted(warm, mini, tmp_path_factory):
    run, once_more = (Run(warm, mini, tmp_path_factory.mktemp("whole") / name) for name in ("runs", "more"))
    for ended in (run.train(), run.predict(), again := once_more.train()):
        assert (ended.code, ended.err) == (0, "")
    assert run.begun == 3
    run.train_seconds = again.seconds  # the first paid for what is loaded lazily
    return run


def goes_on(run: Run, uninterrupted: Run) -> None:
    """The next run: the same bits, at most one epoch twice, nothing left behind."""
    before = run.begun
    ended = run.train()
    assert ended.code == 0, ended.err
    assert run.begun <= 3 + (1 if before else 0)
    assert run.predict().code == 0
    assert run.files() == uninterrupted.files()
    more = run.all_names() - uninterrupted.all_names()
    assert {name for name in more if not re.fullmatch(r"mini/\.(mini\.yml|folds\.csv)\..*\.tmp", name)} == set()
    missing = uninterrupted.all_names() - run.all_names()
    assert missing <= {"mini/fold0/curves.png"}, "a picture is drawn after the weights are there"


def slow_but(fast, all_of_them):
    return [each if each in fast else pytest.param(each, marks=pytest.mark.slow) for each in all_of_them]


@pytest.mark.parametrize("place", slow_but(FAST, PLACES))
def test_a_run_killed_at_a_place_ends_in_the_same_bits(warm, mini, uninterrupted, tmp_path, place):
    run = Run(warm, mini, tmp_path / "runs")
    assert run.train(fail=f"{place}:kill").code == -9, "the run came there"
    goes_on(run, uninterrupted)


@pytest.mark.parametrize("moment", slow_but(range(FAST_MOMENTS), range(MOMENTS)))
def test_a_run_killed_at_a_random_moment_ends_in_the_same_bits(warm, mini, uninterrupted, tmp_path, moment):
    """Moments of the time that a whole run took, every second one counted from its first epoch.

    A run that ended before its moment is started anew and killed sooner.
    """
    seconds = uninterrupted.train_seconds * random.Random(moment).random()
    for attempt in range(8):
        run = Run(warm, mini, tmp_path / f"runs{attempt}")
        child = run.start()
        while moment % 2 and not run.begun and not child.has_ended():
            time.sleep(0.001)
        time.sleep(seconds)
        child.signal(signal.SIGKILL)
        if (code := child.wait().code) == -9:
            break
        seconds *= 0.7
    assert code == -9 and (run.begun or moment % 2 == 0)
    goes_on(run, uninterrupted)


@pytest.mark.parametrize("place", slow_but(OOF_PLACES[-1:], OOF_PLACES))
def test_a_killed_prediction_is_made_again(warm, mini, uninterrupted, tmp_path, place):
    """What was predicted with other views stands, or is known not to be what its sidecar tells of."""
    run = Run(warm, mini, tmp_path / "runs")
    assert run.train().code == 0
    npy, whole = (each.output / "mini" / "mini_f0.npy" for each in (run, uninterrupted))
    new = np.load(whole)
    write_oof(npy, new / 2, replace(read_sidecar(whole), views=["hflip"]))
    sidecar = sidecar_path(npy).read_bytes()
    assert run.predict(fail=f"{place}:kill").code == -9
    assert sidecar_path(npy).read_bytes() == sidecar
    if place.startswith("oof.array_written"):
        assert np.array_equal(np.load(npy), new)
        with pytest.raises(UserError, match="is not the array that its sidecar tells of"):
            read_oof(npy, read_sidecar(npy))
    else:
        assert np.array_equal(read_oof(npy, read_sidecar(npy)), new / 2)
    assert run.predict().code == 0
    assert run.files() == uninterrupted.files()


def test_half_written_files_of_a_killed_run_are_removed_and_said(warm, mini, tmp_path):
    """A fold's at once; those beside the folds, which another program may be writing, after ten minutes."""
    run = Run(warm, mini, tmp_path / "runs")
    assert run.train(fail="write.filled:5:kill").code == -9
    assert [path.parent.name for path in run.output.rglob("*.tmp")] == ["fold0"]
    old, new = run.output / "mini" / ".old.npy.1.tmp", run.output / "mini" / ".new.npy.2.tmp"
    of_safetensors = run.output / "mini" / "fold0" / ".tmpaB3xY9"
    for path in (old, new, of_safetensors):
        path.touch()
    os.utime(old, (0, 0))
    assert "mini: 3 half-written files of a killed run removed" in run.train().out
    assert list(run.output.rglob("*.tmp")) == [new] and not of_safetensors.exists()


def test_a_failpoint_counts_and_costs_one_look_up(monkeypatch):
    forget()
    monkeypatch.setenv("FOLDSMITH_FAIL", "a:2:raise,b:nan,c:*:oom")
    assert fail("a") is None and fail("b") == "nan" and fail("b") is None and fail("d") is None
    with pytest.raises(RuntimeError, match="a failpoint"):
        fail("a")
    for _ in range(2):
        with pytest.raises(RuntimeError, match="can't allocate memory"):
            fail("c")
    monkeypatch.delenv("FOLDSMITH_FAIL")
    assert fail("a") is None
