"""Stochastic weight averaging: the mean of the epochs, batch norm statistics of its own, resumed to the bit."""

import pytest
import torch

from foldsmith.models.weights import read_header
from foldsmith.training import run as run_module
from foldsmith.training import scoring
from tests.test_stages import metrics
from tests.test_training import Killed, fold0, tensors


def test_averaged_weights_are_the_mean_of_the_epochs(small, tmp_path, monkeypatch):
    seen, averaged = [], []
    real_epoch, real_average = run_module.finish_epoch, run_module.finish_averaging

    def spy(job, training, *rest):
        seen.append({name: tensor.clone() for name, tensor in training.model.named_parameters()})
        real_epoch(job, training, *rest)

    def spy_average(job, training, *rest):
        real_average(job, training, *rest)
        averaged.append(dict(training.swa.module.named_parameters()))
        averaged.append(dict(training.swa.module.named_buffers()))

    monkeypatch.setattr(run_module, "finish_epoch", spy)
    monkeypatch.setattr(run_module, "finish_averaging", spy_average)
    run = fold0(small, tmp_path, "train.num_epochs=4", "train.swa={start: 2, period: 2}")
    for name, tensor in averaged[0].items():
        torch.testing.assert_close(tensor, (seen[1][name] + seen[3][name]) / 2)
    assert not torch.equal(averaged[1]["bn1.running_mean"], torch.zeros_like(averaged[1]["bn1.running_mean"]))
    log = (run / "fold0" / "train.log").read_text()
    assert "weights of 2 epochs averaged: f2 " in log
    kept = float(log.split("averaged: f2 ")[1][:6])
    best = max(float(row["f2"]) for row in metrics(run))
    assert ("kept" in log) == (kept > best)
    assert read_header(run / "clipart_tiny_f0.safetensors")["score"] == pytest.approx(max(kept, best), abs=5e-5)


def test_a_kill_while_batch_norm_is_updated(small, tmp_path, monkeypatch):
    """Dropout in front of a batch norm draws the same after a resume."""
    sets = ("model.head_layers=[8, 8]", "model.dropout=0.5", "train.swa={start: 1}")
    whole = fold0(small, tmp_path / "whole", *sets)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(scoring, "update_bn", lambda *args: (_ for _ in ()).throw(Killed()))
        fold0(small, tmp_path / "killed", *sets)
    killed = fold0(small, tmp_path / "killed", *sets)
    averaged = [
        (run / "fold0" / "train.log").read_text().split("epochs averaged: ")[1].splitlines()[0]
        for run in (whole, killed)
    ]
    assert averaged[0] == averaged[1]
    for name, tensor in tensors(whole).items():
        assert torch.equal(tensors(killed)[name], tensor), name


def test_layers_that_do_not_train_keep_their_statistics_in_the_average(small, tmp_path, monkeypatch):
    found = []
    real = run_module.finish_averaging

    def spy(job, training, *rest):
        real(job, training, *rest)
        found.append((training.model.state_dict(), training.swa.module.state_dict()))

    monkeypatch.setattr(run_module, "finish_averaging", spy)
    fold0(small, tmp_path, "train.trainable=last 2 groups", "train.swa={start: 1}")
    model, average = found[0]
    statistics = [name for name in model if name.endswith("running_mean")]
    same = [torch.equal(model[name], average[name]) for name in statistics]
    assert same[0] and not same[-1], dict(zip(statistics, same, strict=True))
