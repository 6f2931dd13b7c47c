"""SIGTERM and Ctrl-C in training, out-of-fold prediction and inference: quickly, quietly, with nothing lost."""

import signal
import time

import pytest

from tests.faults.test_disk_full import trained  # noqa: F401  a fixture
from tests.faults.test_killed import Run

SIGNALS = {signal.SIGTERM: (143, "terminated; what was finished is kept\n")}
SIGNALS |= {signal.SIGINT: (130, "interrupted; what was finished is kept\n")}


def ends_well(child, number: signal.Signals, *, group: bool) -> None:
    """Code, words, ten seconds, no process of its session that outlives it, nothing half-written."""
    code, words = SIGNALS[number]
    child.signal(number, group=group)
    ended = child.wait(12)
    assert (ended.code, ended.err) == (code, words)
    assert ended.seconds < 10
    while child.family():
        assert time.monotonic() - child.started < 10, "a process outlives the command"
        time.sleep(0.05)


SLOW = pytest.mark.slow
TRAINING = [(2, signal.SIGTERM, True), (2, signal.SIGINT, True)]
TRAINING += [pytest.param(workers, number, False, marks=SLOW) for workers in (0, 2) for number in SIGNALS]


@pytest.mark.parametrize(("workers", "number", "group"), TRAINING)
def test_training(warm, mini, tmp_path, number, workers, group):
    """Told to stop in the second epoch, it goes on after the first and ends in the bits of an uninterrupted run."""
    words = ["--config", mini, "--output", tmp_path, "--fold", "0", "--set", f"train.workers={workers}"]
    gate = tmp_path / "gate"
    child = warm.start("train.py", *words, hook=("hold_a_batch", "8", str(gate)), whole_end=group)
    child.says("at the gate")
    gate.touch()
    ends_well(child, number, group=group)
    assert not list(tmp_path.rglob("*.tmp")) and not list(tmp_path.glob(".*.lock"))
    ended = warm.run("train.py", *words)
    assert ended.code == 0 and "goes on after epoch 1" in ended.out


@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=SLOW)])
def test_out_of_fold_prediction(warm, mini, trained, tmp_path, number):  # noqa: F811
    run = Run(warm, mini, tmp_path)
    assert run.train().code == 0
    words = ["--config", mini, "--output", tmp_path]
    child = warm.start("predict_oof.py", *words, hook=("hold_a_batch", "2", "never"))
    child.says("at the gate")
    ends_well(child, number, group=True)
    assert not list(tmp_path.rglob("*.npy")) and not list(tmp_path.rglob("*.tmp"))
    assert run.predict().code == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=SLOW)])
def test_inference(warm, trained, few, tmp_path, number):  # noqa: F811
    """In the second fold: a valid submission stands, the first fold is not predicted again."""
    words = [trained.parent / "best.yml", "--models", trained, "--data", few, "--output", tmp_path / "s.csv"]
    child = warm.start("ensemble_inference.py", *words, hook=("hold_a_batch", "12", "never"))
    child.says("at the gate")
    ends_well(child, number, group=True)
    assert len(list((tmp_path / "s.csv.parts").glob("*.npy"))) == 1 and not list(tmp_path.rglob("*.tmp"))
    assert len((tmp_path / "s.csv").read_text().splitlines()) == 71
    assert warm.run("ensemble_inference.py", *words).code == 0
    assert [path.name for path in tmp_path.iterdir()] == ["s.csv"]


def test_a_second_signal_ends_it_at_once(warm, mini, tmp_path):
    words = ["--config", mini, "--output", tmp_path, "--fold", "0"]
    child = warm.start("train.py", *words, hook=("hold_the_end",))
    child.says("at the gate")
    child.signal(signal.SIGTERM)
    child.says("cleaning up")
    child.signal(signal.SIGTERM)
    ended = child.wait(5)
    assert ended.code == 143 and ended.seconds < 3


@SLOW
def test_an_end_that_hangs_is_cut_short(warm, mini, tmp_path):
    words = ["--config", mini, "--output", tmp_path, "--fold", "0"]
    child = warm.start("train.py", *words, hook=("hold_the_end",))
    child.says("at the gate")
    child.signal(signal.SIGTERM)
    ended = child.wait(12)
    assert ended.code == 143 and ended.seconds < 10
