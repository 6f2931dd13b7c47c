"""How the machine is used, and what a run says about it."""

import csv
import json
import os

import pytest
import torch
from torch import nn

from foldsmith.data.dataset import auto_workers
from foldsmith.errors import UserError
from foldsmith.models.build import slow_batch_norm
from foldsmith.training import setup
from foldsmith.training.checkpoints import load_checkpoint
from foldsmith.training.setup import use_cores
from tests.conftest import config
from tests.test_training import fold0

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.fixture
def threads():
    """torch's number of threads, put back afterwards."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def cores(monkeypatch, count):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(count)))


@pytest.mark.parametrize(("count", "cpu", "cuda"), [(1, 0, 1), (2, 0, 1), (4, 0, 3), (8, 1, 7), (16, 2, 8), (64, 2, 8)])
def test_workers_follow_from_the_machine(monkeypatch, count, cpu, cuda):
    cores(monkeypatch, count)
    assert (auto_workers("cpu"), auto_workers("cuda")) == (cpu, cuda)


def test_threads_and_workers_share_the_cores_and_stay_what_they_were(monkeypatch, threads):
    cores(monkeypatch, 8)
    train = config().train
    monkeypatch.setattr(setup, "THREADS", 8)
    assert (use_cores(train, CPU, {}), torch.get_num_threads()) == (1, 7)
    torch.set_num_threads(1)  # as an earlier fold may have been frozen to
    assert (use_cores(train, CPU, {}), torch.get_num_threads()) == (1, 7)
    monkeypatch.setattr(setup, "THREADS", 2)  # as OMP_NUM_THREADS may ask for
    assert (use_cores(train, CPU, {}), torch.get_num_threads()) == (1, 2)
    assert (use_cores(train, CPU, {"workers": 2, "threads": 3}), torch.get_num_threads()) == (2, 3)
    named = train.model_copy(update={"workers": 4})
    assert (use_cores(named, CPU, {"workers": 2, "threads": 3}), torch.get_num_threads()) == (4, 3)
    monkeypatch.setattr(setup, "THREADS", 8)
    assert (use_cores(train, CUDA, {}), torch.get_num_threads()) == (7, 1)


def test_the_cores_of_a_task_count_whatever_the_machine_has(monkeypatch, threads):
    """--cpus-per-job of Ray; OMP_NUM_THREADS, of which Ray may set one, does not."""
    cores(monkeypatch, 64)
    train = config().train
    for began in (2, 64):
        monkeypatch.setattr(setup, "THREADS", began)
        assert (use_cores(train, CPU, {}, 1), torch.get_num_threads()) == (0, 1)
        assert (use_cores(train, CPU, {}, 4), torch.get_num_threads()) == (0, 4)
        assert (use_cores(train, CPU, {}, 16), torch.get_num_threads()) == (2, 14)
        assert (use_cores(train, CUDA, {}, 4), torch.get_num_threads()) == (3, 1)
    assert (use_cores(train, CPU, {"workers": 0, "threads": 3}, 16), torch.get_num_threads()) == (0, 3)


def test_a_run_reports_its_speed_and_can_be_profiled(small, tmp_path, threads):
    run = (
        fold0(small, tmp_path, "train.workers=auto", "train.batch_size=4", "train.num_epochs=1", words=("--profile",))
        / "fold0"
    )
    with open(run / "timings.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["1"]
    for row in rows:
        seconds = 80 / float(row["train_images_per_second"])  # 80 of the 160 images are trained on
        assert seconds == pytest.approx(float(row["train_seconds"]), rel=0.03)
        assert 0 < float(row["waiting_share"]) < 1
        assert row["cuda_peak_gb"] == ""
    log = (run / "train.log").read_text()
    workers = auto_workers("cpu")
    assert f"{workers} data loading processes, {torch.get_num_threads()} torch threads on cpu" in log
    assert " images/s, " in log and "% waiting for data, " in log
    identity = load_checkpoint(run / "last.ckpt", CPU)["identity"]
    assert (identity["workers"], identity["threads"]) == (workers, torch.get_num_threads())

    events = json.loads((run / "profile.json").read_text())["traceEvents"]
    steps = {event["name"] for event in events if event["name"].startswith("ProfilerStep#")}
    assert steps == {f"ProfilerStep#{number}" for number in range(5, 15)}
    assert f"profile of 10 batches: {run / 'profile.json'}" in log
    assert log.count("Self CPU %") == 1 and "aten::" in log


def test_an_epoch_too_short_for_a_profile_says_so(small, tmp_path):
    run = fold0(small, tmp_path, "train.num_epochs=1", words=("--profile",)) / "fold0"
    assert "no profile: the epoch has fewer than 15 batches" in (run / "train.log").read_text()
    assert not (run / "profile.json").exists()


def test_batch_norm_moves_in_k_batches_as_far_as_in_one():
    torch.manual_seed(0)
    x = torch.randn(8, 3)
    one, four = nn.BatchNorm1d(3), nn.Sequential(nn.BatchNorm1d(3), nn.BatchNorm1d(3, momentum=None))
    slow_batch_norm(four, 4)
    one(x)
    for _ in range(4):
        four[0](x)
    torch.testing.assert_close(four[0].running_mean, one.running_mean)
    torch.testing.assert_close(four[0].running_var, one.running_var)
    torch.testing.assert_close(one.running_mean, 0.1 * x.mean(dim=0))
    assert four[1].momentum is None
    slow_batch_norm(one, 1)
    assert one.momentum == pytest.approx(0.1)


def test_networks_are_compiled_when_the_config_says_so(small, tmp_path, monkeypatch):
    compiled = []

    class Compiled(Exception):
        pass

    def compile(self):
        compiled.append(self)
        raise Compiled

    monkeypatch.setattr(nn.Module, "compile", compile)
    with pytest.raises(Compiled):
        fold0(small, tmp_path, "train.compile=true")
    assert len(compiled) == 1


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # the compiler's own
def test_a_compiled_network_trains_to_the_same_scores(small, tmp_path):
    sets = ("model.arch=test_vit", "train.num_epochs=1", "train.max_steps_per_epoch=2")
    plain, compiled = (
        fold0(small, tmp_path / word, *sets, f"train.compile={word}") / "fold0/metrics.csv"
        for word in ("false", "true")
    )
    for left, right in zip(csv.DictReader(plain.open()), csv.DictReader(compiled.open()), strict=True):
        assert float(left["valid_loss"]) == pytest.approx(float(right["valid_loss"]), rel=1e-3)


def test_a_bad_cache_word_is_refused(small, tmp_path):
    with pytest.raises(UserError, match="data.cache"):
        fold0(small, tmp_path, "data.cache=memory")
