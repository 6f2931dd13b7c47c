"""A loss or a score that is not a number: the run stops, says where, and what was good stays."""

import re

import numpy as np
import pytest

from foldsmith.training import scoring
from tests.test_training import fold0


def test_three_bad_steps_stop_the_run_and_the_last_good_weights_stay(warm, mini, tmp_path):
    """The first epoch (3 steps) is good; all steps of the second are bad."""
    words = ["--config", mini, "--output", tmp_path, "--fold", "0"]
    rules = ",".join(f"train.loss:{count}:nan" for count in (4, 5, 6))
    ended = warm.run("train.py", *words, fail=rules)
    assert ended.code == 2
    found = re.fullmatch(
        r"error: the loss was not finite again and again \(now nan\) at step 2, learning rates 0.004, images (.*)\n"
        r"  hint: a smaller optimizer.params.lr, a warmup, or train.amp: off; the last good weights are kept\n",
        ended.err,
    )
    assert found, ended.err
    ids = found[1].split(", ")
    table = (mini.parent / "train.csv").read_text()
    assert len(set(ids)) == 24 and all(f"\n{name}," in table for name in ids), "the images of all three steps"
    fold = tmp_path / "mini" / "fold0"
    kept = (fold / "best.safetensors").read_bytes()
    assert len((fold / "metrics.csv").read_text().splitlines()) == 2
    whole = warm.run("train.py", *words)
    assert whole.code == 0 and "goes on after epoch 1" in whole.out
    assert kept


def test_two_bad_steps_are_left_out(warm, mini, tmp_path):
    """Steps whose loss is not finite change no weight; two in a row do not stop the run."""
    words = ["--config", mini, "--output", tmp_path, "--fold", "0"]
    ended = warm.run("train.py", *words, fail="train.loss:1:nan,train.loss:2:nan,train.loss:5:nan")
    assert ended.code == 0, ended.err


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
