"""SIGTERM and Ctrl-C in training, out-of-fold prediction and inference: quickly, quietly, with nothing lost."""

import re
import signal
import time

import pytest
from safetensors.numpy import load

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
# Data loading processes, signal, whether it goes to all processes, and what it finds: a step, or a wait for an image
# that does not come.
TRAINING = [(2, signal.SIGTERM, True, "step"), (2, signal.SIGINT, True, "step")]
TRAINING += [pytest.param(workers, number, False, "step", marks=SLOW) for workers in (0, 2) for number in SIGNALS]
TRAINING += [pytest.param(2, signal.SIGTERM, False, "images", marks=SLOW)]
TRAINING += [pytest.param(2, signal.SIGINT, True, "images", marks=SLOW)]
PREDICTING = [(signal.SIGINT, "step"), pytest.param(signal.SIGTERM, "step", marks=SLOW)]
PREDICTING += [pytest.param(number, "images", marks=SLOW) for number in SIGNALS]


@pytest.fixture(scope="module")
def weights(warm, mini, tmp_path_factory) -> bytes:
    """Those of a run that nobody stopped."""
    run = Run(warm, mini, tmp_path_factory.mktemp("whole") / "runs")
    assert run.train().code == 0
    return (run.output / "mini" / "mini_f0.safetensors").read_bytes()


@pytest.mark.parametrize(("workers", "number", "group", "place"), TRAINING)
def test_training(warm, mini, weights, tmp_path, number, workers, group, place):
    """Told to stop in the second or third epoch, it goes on after the last whole one and ends in the same bits."""
    words = ["--config", mini, "--output", tmp_path, "--fold", "0", "--set", f"train.workers={workers}"]
    gate = tmp_path / "gate"
    hook = ("hold_a_batch", "8", str(gate)) if place == "step" else ("hold_reading", "33")
    child = warm.start("train.py", *words, hook=hook)
    child.says("at the gate")
    gate.touch()
    ends_well(child, number, group=group)
    assert not list(tmp_path.rglob("*.tmp")) and not list(tmp_path.glob(".*.lock"))
    ended = warm.run("train.py", *words)
    assert ended.code == 0 and re.search("goes on after epoch [12]", ended.out)
    assert weights_of_the_same_config(tmp_path, weights)


def weights_of_the_same_config(output, expected: bytes) -> bool:
    """The tensors are the same bytes; the header tells of another number of workers."""
    found = load((output / "mini" / "mini_f0.safetensors").read_bytes())
    others = load(expected)
    return found.keys() == others.keys() and all(found[key].tobytes() == others[key].tobytes() for key in found)


@pytest.mark.parametrize(("number", "place"), PREDICTING)
def test_out_of_fold_prediction(warm, mini, tmp_path, number, place):
    """In the second fold: the first one's files stand, the second's are not begun."""
    run = Run(warm, mini, tmp_path)
    words = ["--config", mini, "--output", tmp_path]
    assert warm.run("train.py", *words).code == 0
    hook = ("hold_a_batch", "5", "never") if place == "step" else ("hold_reading", "30")
    child = warm.start("predict_oof.py", *words, hook=hook)
    child.says("at the gate")
    ends_well(child, number, group=True)
    assert [path.name for path in tmp_path.rglob("*.npy")] == ["mini_f0.npy"] and not list(tmp_path.rglob("*.tmp"))
    ended = run.predict()
    assert ended.code == 0 and "fold 0: up to date" in ended.out
    assert len(list(tmp_path.rglob("*.npy"))) == 2


@pytest.mark.parametrize(("number", "place"), PREDICTING)
def test_inference(warm, trained, few, whole_submission, tmp_path, number, place):  # noqa: F811
    """In the second fold, or at an image of the first: a valid submission stands; what was predicted is kept."""
    words = [trained.parent / "best.yml", "--models", trained, "--data", few, "--output", tmp_path / "s.csv"]
    hook = ("hold_a_batch", "12", "never") if place == "step" else ("hold_reading", "30")
    child = warm.start("ensemble_inference.py", *words, hook=hook)
    child.says("at the gate")
    ends_well(child, number, group=True)
    parts = list((tmp_path / "s.csv.parts").glob("*.npy"))
    assert len(parts) == (1 if place == "step" else 0) and not list(tmp_path.rglob("*.tmp"))
    assert len((tmp_path / "s.csv").read_text().splitlines()) == 71
    assert warm.run("ensemble_inference.py", *words).code == 0
    assert [path.name for path in tmp_path.iterdir()] == ["s.csv"]
    assert (tmp_path / "s.csv").read_bytes() == whole_submission


@pytest.fixture(scope="module")
def whole_submission(warm, trained, few, tmp_path_factory) -> bytes:  # noqa: F811
    """That of a run that nobody stopped."""
    output = tmp_path_factory.mktemp("whole") / "s.csv"
    words = [trained.parent / "best.yml", "--models", trained, "--data", few, "--output", output]
    assert warm.run("ensemble_inference.py", *words).code == 0
    return output.read_bytes()


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
