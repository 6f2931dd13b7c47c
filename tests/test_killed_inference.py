"""Inference that is killed: a valid file at every moment, and the same bytes when it goes on."""

import itertools
import os
import signal
from pathlib import Path

import numpy as np
import pytest
import torch

from foldsmith.data.sheets import read_csv
from foldsmith.ensemble.file import read_ensemble
from foldsmith.errors import UserError
from foldsmith.inference import ensemble, lanes
from foldsmith.inference import predict as predict_module
from foldsmith.inference.ensemble import Options
from foldsmith.inference.find import find_weights
from foldsmith.inference.parts import Parts
from foldsmith.inference.submission import Submission
from tests.conftest import Chain, competition, infer
from tests.test_training import Killed

CPU = torch.device("cpu")


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

    predict_batch, save, write = predict_module._Batches.predict, Parts.save, Submission.write
    try:
        if point == "batch":
            predict_module._Batches.predict = lambda *args: reached() or predict_batch(*args)
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
    real = lanes.predict
    monkeypatch.setattr(lanes, "predict", lambda *args, **rest: run.append(None) or real(*args, **rest))
    infer(chain, output, "--data", str(few))
    assert output.read_bytes() == whole and len(run) == 4 - finished, "finished folds are not predicted again"
    assert [path.name for path in tmp_path.iterdir()] == ["s.csv"]


def test_a_stale_folder_of_parts_does_not_stand_for_a_submission(chain, few, tmp_path):
    (tmp_path / "s.csv.parts").mkdir()
    (tmp_path / "s.csv").write_text("id,attribute_ids\nof other data,1\n")
    with pytest.raises(UserError, match="the deadline came"):
        infer(chain, tmp_path / "s.csv", "--data", str(few), "--deadline", "1s", "--started-at", "0")
    assert is_valid(tmp_path / "s.csv", few)
    (tmp_path / "t.csv.parts").write_text("mine")
    with pytest.raises(UserError, match="is in the way"):
        infer(chain, tmp_path / "t.csv", "--data", str(few))


def test_broken_images_are_remembered(chain, few, tmp_path):
    """By a run that goes on, and by kept predictions. A missing image is a broken one."""
    ids = read_csv(few / "sample_submission.csv").column("id")
    data = competition(tmp_path / "data", ids)
    (data / "test" / f"{ids[3]}.jpg").write_bytes(b"")
    (data / "test" / f"{ids[5]}.jpg").unlink()
    whole = infer(chain, tmp_path / "whole.csv", "--data", str(data)).read_bytes()
    killed_run(chain, data, tmp_path / "s.csv", "wrote", 2)
    kept = tmp_path / "kept"
    infer(chain, tmp_path / "s.csv", "--data", str(data), "--keep-predictions", str(kept))
    assert (tmp_path / "s.csv").read_bytes() == whole
    infer(chain, tmp_path / "again.csv", "--from-predictions", str(kept))
    assert (tmp_path / "again.csv").read_bytes() == whole
    rows = read_csv(tmp_path / "s.csv").rows
    prior = set(read_ensemble(chain.ensemble).prior)
    assert set(rows[3][1].split()) == set(rows[5][1].split()) == prior


def interrupted(chain: Chain, output: Path, data: Path) -> list[str]:
    """A run whose folds are all stored, and which is over before it ends; returns the names of its parts."""
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
        patch.setattr(Parts, "remove", lambda self: (_ for _ in ()).throw(Killed()))
        infer(chain, output, "--data", str(data))
    return sorted(path.name for path in output.with_name(output.name + ".parts").glob("*.npy"))


def test_parts_of_other_images_do_not_count(chain, few, tmp_path):
    """Not even where names, sizes and times are the same."""
    ids = read_csv(few / "sample_submission.csv").column("id")[:6]
    data = competition(tmp_path / "data", ids)
    one, two = (data / "test" / f"{name}.jpg" for name in ids[:2])
    size = max(one.stat().st_size, two.stat().st_size)
    for path in (one, two):
        path.write_bytes(path.read_bytes().ljust(size, b"\0"))
        os.utime(path, (0, 0))
    output = tmp_path / "s.csv"
    before = interrupted(chain, output, data)
    contents = one.read_bytes(), two.read_bytes()
    for path, content in zip((two, one), contents, strict=True):
        path.write_bytes(content)
        os.utime(path, (0, 0))
    fresh = infer(chain, tmp_path / "fresh.csv", "--data", str(data)).read_bytes()
    after = interrupted(chain, output, data)
    assert len(before) == 4 and len(after) == 8 and output.read_bytes() == fresh
    for name in after:  # damaged, but of the right shape
        part = tmp_path / "s.csv.parts" / name
        np.save(part, np.full_like(np.load(part), np.nan))
    assert infer(chain, output, "--data", str(data)).read_bytes() == fresh


def test_the_order_of_the_classes_is_a_part_of_what_parts_are_made_from(chain, few, tmp_path):
    blend = read_ensemble(chain.ensemble)
    options = Options([chain.runs], tmp_path / "s.csv", [CPU], data_root=few)
    work = ensemble._Work(blend, find_weights(blend, [chain.runs]), options)
    made = work._made_from(0, 0)
    work.ensemble = blend.model_copy(update={"classes_sha256": "another order"})
    assert work._made_from(0, 0) == made | {"classes": "another order"}
    assert {"weights", "views", "merge", "images", "code", "batch_size", "device", "amp"} < made.keys()


def test_parts_of_other_weights_do_not_count(chain, few, whole, tmp_path, monkeypatch):
    output = tmp_path / "s.csv"
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(Parts, "remove", lambda self: (_ for _ in ()).throw(Killed()))
        infer(chain, output, "--data", str(few))
    monkeypatch.setattr(ensemble, "code_sha256", lambda: "another program")
    real, run = lanes.predict, []
    monkeypatch.setattr(lanes, "predict", lambda *args, **rest: run.append(None) or real(*args, **rest))
    infer(chain, output, "--data", str(few))
    assert len(run) == 4 and output.read_bytes() == whole
