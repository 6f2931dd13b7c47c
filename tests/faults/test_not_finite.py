"""A loss or a score that is not a number: the run stops, says where, and what was good stays."""

import csv
import re
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load

from foldsmith.training import scoring
from tests.faults.warm import Ended
from tests.test_training import fold0


def train(warm, mini, output: Path, **options) -> Ended:
    return warm.run("train.py", "--config", mini, "--output", output, "--fold", "0", **options)


def files_of_the_fold(output: Path) -> dict[str, bytes]:
    fold = output / "mini" / "fold0"
    return {name: (fold / name).read_bytes() for name in ("best.safetensors", "metrics.csv")}


def final_weights(output: Path) -> bytes:
    return (output / "mini" / "mini_f0.safetensors").read_bytes()


@pytest.fixture(scope="module")
def good(warm, mini, tmp_path_factory) -> bytes:
    """The weights of a run without a bad step."""
    output = tmp_path_factory.mktemp("good")
    assert train(warm, mini, output).code == 0
    return final_weights(output)


@pytest.fixture(scope="module")
def after_one_epoch(warm, mini, tmp_path_factory) -> dict[str, bytes]:
    """What a run keeps that ends, without a bad step, where the second epoch begins."""
    output = tmp_path_factory.mktemp("one")
    assert train(warm, mini, output, fail="epoch.begin:2:raise").code == 1
    return files_of_the_fold(output)


@pytest.mark.parametrize(("place", "word", "loss"), [("images", "nan", "nan"), ("loss", "inf", "inf")])
def test_three_bad_steps_stop_the_run_and_the_last_good_weights_stay(
    warm, mini, tmp_path, after_one_epoch, good, place, word, loss
):
    """The first epoch (3 steps) is good; all steps of the second are bad."""
    ended = train(warm, mini, tmp_path, fail=",".join(f"train.{place}:{count}:{word}" for count in (4, 5, 6)))
    assert ended.code == 2
    found = re.fullmatch(
        rf"error: the loss was not finite again and again \(now {loss}\) at step 2, learning rates 0.004, images (.*)\n"
        r"  hint: a smaller optimizer.params.lr, a warmup, or train.amp: off; the last good weights are kept\n",
        ended.err,
    )
    assert found, ended.err
    ids = found[1].split(", ")
    table = (mini.parent / "train.csv").read_text()
    assert len(set(ids)) == 24 and all(f"\n{name}," in table for name in ids), "the images of all three steps"
    assert files_of_the_fold(tmp_path) == after_one_epoch
    whole = train(warm, mini, tmp_path)
    assert whole.code == 0 and "goes on after epoch 1" in whole.out
    assert final_weights(tmp_path) == good


def test_bad_steps_leave_no_trace(warm, mini, tmp_path, good):
    """Two in a row do not stop the run. NaN in the images goes through every layer, NaN in the loss through none:
    that the weights and batch norm's statistics are the same bits shows that nothing of it stays."""
    steps = (1, 2, 5)
    runs = {}
    for place, word in (("images", "nan"), ("loss", "nan"), ("loss", "inf")):
        output = tmp_path / f"{place}_{word}"
        ended = train(warm, mini, output, fail=",".join(f"train.{place}:{step}:{word}" for step in steps))
        assert ended.code == 0, ended.err
        runs[place, word] = final_weights(output)
        rows = list(csv.DictReader((output / "mini" / "fold0" / "metrics.csv").read_text().splitlines()))
        assert len(rows) == 3 and all(np.isfinite(float(row["train_loss"])) for row in rows)
    assert len(set(runs.values())) == 1
    tensors = load(runs["images", "nan"])
    assert sum(name.endswith("running_var") for name in tensors) > 10
    assert all(np.isfinite(tensor).all() for tensor in tensors.values())
    assert good not in runs.values()


@pytest.mark.parametrize("score", [np.nan, np.inf])
def test_a_score_that_is_no_number_never_becomes_the_best(small, tmp_path, monkeypatch, score):
    real, calls = scoring.scores, []

    def spoiled(*args):
        calls.append(None)
        return real(*args) | ({"f2": float(score)} if len(calls) == 2 else {"f2": 0.1 * len(calls)})

    monkeypatch.setattr(scoring, "scores", spoiled)
    run = fold0(small, tmp_path, "train.num_epochs=2")
    from foldsmith.models.weights import read_header

    header = read_header(run / "clipart_tiny_f0.safetensors")
    assert (header["epoch"], header["score"]) == (1, 0.1)
