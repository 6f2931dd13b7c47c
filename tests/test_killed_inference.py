"""Inference that is killed: a valid file at every moment, and the same bytes when it goes on."""

import itertools
import os
import signal
from pathlib import Path

import pytest

from foldsmith.data.sheets import read_csv
from foldsmith.inference import ensemble
from foldsmith.inference import predict as predict_module
from foldsmith.inference.parts import Parts
from foldsmith.inference.submission import Submission
from tests.conftest import Chain, infer


def is_valid(path: Path, few: Path) -> bool:
    return read_csv(path).column("id") == read_csv(few / "sample_submission.csv").column("id")


def killed_run(chain: Chain, few: Path, output: Path, point: str, count: int) -> None:
    """A run in a child process that gets SIGKILL at the count-th time (from 0) that it comes to a point.

    Points: batch (before one), save (a fold's predictions were saved), write (before a submission), wrote (after it).
    """
    child = os.fork()
    if child:
        _, status = os.waitpid(child, 0)
        assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL, f"point {point} {count} never came"
        return
    calls = itertools.count()

    def reached() -> None:
        if next(calls) == count:
            os.kill(os.getpid(), signal.SIGKILL)

    predict_batch, save, write = predict_module._predict_batch, Parts.save, Submission.write
    try:
        if point == "batch":
            predict_module._predict_batch = lambda *args: reached() or predict_batch(*args)
        elif point == "save":
            Parts.save = lambda *args: (save(*args), reached())
        elif point == "write":
            Submission.write = lambda *args: reached() or write(*args)
        elif point == "wrote":
            Submission.write = lambda *args: (write(*args), reached())[0]
        infer(chain, output, "--data", str(few))
    finally:
        os._exit(1)


# 4 folds of 3 batches; the prior and 2 members are written.
POINTS = [*(("batch", n) for n in range(10)), *(("save", n) for n in range(4))]
POINTS += [*(("write", n) for n in range(3)), *(("wrote", n) for n in range(3))]


@pytest.mark.parametrize(("point", "count"), POINTS)
def test_a_killed_run_leaves_a_valid_file_and_goes_on_to_the_same_bytes(
    chain, few, whole, tmp_path, monkeypatch, point, count
):
    output = tmp_path / "s.csv"
    killed_run(chain, few, output, point, count)
    if (point, count) != ("write", 0):
        assert is_valid(output, few)
    finished = len(list((tmp_path / "s.csv.parts").glob("*.npy")))

    run = []
    real = ensemble.predict
    monkeypatch.setattr(ensemble, "predict", lambda *args, **rest: run.append(None) or real(*args, **rest))
    infer(chain, output, "--data", str(few))
    assert output.read_bytes() == whole and len(run) == 4 - finished, "finished folds are not predicted again"
    assert [path.name for path in tmp_path.iterdir()] == ["s.csv"]
