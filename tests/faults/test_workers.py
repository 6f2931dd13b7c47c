"""A data loading process that is killed or hangs: the epoch starts over once, then a clear error in time."""

import pytest
import torch


def words(mini, output, *sets):
    return ["--config", mini, "--output", output, "--fold", "0", "--set", "train.workers=2", *sets]


def test_a_worker_that_is_killed_once_costs_an_epoch_and_changes_nothing(warm, mini, tmp_path):
    assert warm.run("train.py", *words(mini, tmp_path / "whole")).code == 0
    ended = warm.run("train.py", *words(mini, tmp_path / "runs"), hook=("kill_once", str(tmp_path / "marker")))
    assert ended.code == 0, ended.err
    assert ended.out.count("a data loading process was lost (DataLoader worker (pid") == 1
    assert "Traceback" not in ended.err and "Exception ignored" not in ended.err
    name = "mini/mini_f0.safetensors"
    assert (tmp_path / "runs" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_a_worker_that_is_killed_again_is_a_clear_error(warm, mini, tmp_path):
    child = warm.start("train.py", *words(mini, tmp_path), fail="worker.image:1:kill")
    ended = child.wait(30)
    assert ended.code == 3, ended.err
    assert ended.out.count("the epoch starts over") == 1
    assert ended.err.startswith(
        "error: train.workers: a data loading process was lost twice in one epoch: DataLoader w"
    )
    assert "Traceback" not in ended.err and child.family() == []


@pytest.mark.parametrize("times", [pytest.param("1", marks=pytest.mark.slow), "*"])
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
