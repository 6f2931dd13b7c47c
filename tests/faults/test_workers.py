"""A data loading process that is killed or hangs: the epoch starts over once, then a clear error in time."""

import pytest
import torch

WEIGHTS = "mini/mini_f0.safetensors"
TIMEOUT = "train.worker_timeout=3"  # in all runs that are compared: the weights' header holds it


def words(mini, output, *sets):
    return ["--config", mini, "--output", output, "--fold", "0", "--set", "train.workers=2", *sets]


@pytest.fixture(scope="module")
def whole(warm, mini, tmp_path_factory) -> bytes:
    """The weights of a run that nothing happens to."""
    folder = tmp_path_factory.mktemp("whole")
    assert warm.run("train.py", *words(mini, folder, TIMEOUT)).code == 0
    return (folder / WEIGHTS).read_bytes()


LOST = {"killed": "DataLoader worker (pid", "hung": "DataLoader timed out after 3"}


@pytest.mark.parametrize("how", ["killed", pytest.param("hung", marks=pytest.mark.slow)])
def test_a_worker_that_is_lost_once_costs_an_epoch_and_changes_nothing(warm, mini, whole, tmp_path, how):
    """The retry recovers, and its weights are those of a run that lost none, in every bit."""
    marker = tmp_path / "marker"
    child = warm.start("train.py", *words(mini, tmp_path / "runs", TIMEOUT), hook=("lose_once", how, str(marker)))
    ended = child.wait(30)
    assert ended.code == 0 and marker.exists(), ended.err
    assert ended.out.count(f"a data loading process was lost ({LOST[how]}") == 1
    assert ended.out.count("the epoch starts over") == 1
    assert "Traceback" not in ended.err and "Exception ignored" not in ended.err
    assert child.family() == []
    assert (tmp_path / "runs" / WEIGHTS).read_bytes() == whole


def test_a_worker_that_is_killed_again_is_a_clear_error(warm, mini, tmp_path):
    child = warm.start("train.py", *words(mini, tmp_path), fail="worker.image:1:kill")
    ended = child.wait(30)
    assert ended.code == 3, ended.err
    assert ended.out.count("the epoch starts over") == 1
    assert ended.err.startswith(
        "error: train.workers: a data loading process was lost twice in one epoch: DataLoader w"
    )
    assert "Traceback" not in ended.err and child.family() == []


@pytest.mark.slow
@pytest.mark.parametrize("times", ["1", "*"])
def test_a_worker_that_hangs_is_an_error_within_the_timeout_and_5_seconds(warm, mini, tmp_path, times):
    """The retry hangs as well: two timeouts of 2 seconds."""
    sets = ["train.worker_timeout=2"]
    child = warm.start("train.py", *words(mini, tmp_path, *sets), fail=f"worker.image:{times}:sleep")
    child.says("the epoch starts over")
    first = child.seconds
    assert 2 <= first < 2 + 5 + STARTUP
    ended = child.wait(30)
    assert ended.code == 3 and ended.seconds - first < 2 + 5
    assert "DataLoader timed out after 2" in ended.err and "Traceback" not in ended.err
    assert child.family() == [], "the hanging processes are gone"


STARTUP = 3.0  # seconds until the first epoch begins, on a busy machine


def test_what_a_worker_raises_is_no_lost_worker(warm, mini, tmp_path):
    ended = warm.run("train.py", *words(mini, tmp_path), fail="worker.image:3:raise")
    assert ended.code == 1 and "RuntimeError: a failpoint" in ended.err, "a defect keeps its traceback"
    assert "the epoch starts over" not in ended.out


def test_which_errors_tell_of_a_lost_worker():
    from foldsmith.training.recovery import is_lost_worker, is_memory

    assert is_lost_worker(RuntimeError("DataLoader worker (pid(s) 7) exited unexpectedly"))
    assert is_lost_worker(RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. "))
    assert is_lost_worker(RuntimeError("DataLoader timed out after 2.0 seconds"))
    assert is_lost_worker(ConnectionResetError(104, "Connection reset by peer")) and is_lost_worker(EOFError())
    assert not is_lost_worker(RuntimeError("Caught RuntimeError in DataLoader worker process 0."))
    assert is_memory(torch.OutOfMemoryError("CUDA out of memory")) and is_memory(MemoryError())
    assert not is_memory(RuntimeError("size mismatch"))
