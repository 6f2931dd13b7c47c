"""What torchrun's processes survive together: silence, full memory, a loss amid batch norm, EMA and SWA."""

import json
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import train
from foldsmith.config import load_config
from foldsmith.errors import UserError
from foldsmith.training import distributed, recovery
from foldsmith.training.folder import RunFolder
from foldsmith.training.lock import InUseError
from tests.conftest import ROOT
from tests.torchrun.conftest import differ, processes, two_processes, used_labels, words

CPU = torch.device("cpu")
BEGIN = """\
import os, sys, time
sys.path.insert(0, {root!r})
import torch
import train
from foldsmith.training import distributed, run, scoring
first, main = os.environ["TORCHELASTIC_RESTART_COUNT"] == "0", os.environ["RANK"] == "0"
"""
# Process 0 scores for longer than a step may last; then process 1 falls silent in the second epoch.
SILENT = """\
distributed.STEP, distributed.ALONE = distributed.timedelta(seconds=6), distributed.timedelta(seconds=120)
real_scores, real_epoch, calls = scoring._scores, run.train_epoch, []
def scores(*args):
    time.sleep(9)
    return real_scores(*args)
def train_epoch(*args):
    calls.append(None)
    if len(calls) == 2 and not main:
        time.sleep(3600)
    return real_epoch(*args)
scoring._scores, run.train_epoch = scores, train_epoch
"""
# Both processes run out of memory in the same step.
FULL = """\
if first:
    os.environ["FOLDSMITH_FAIL"] = "train.forward:3:oom"
"""
# Every process keeps what it has before and after the statistics are averaged, and at the end; process 1 dies once.
KEEPING = """\
folder, dies = {folder!r}, {dies!r}
real_average, real_finish, real_epoch = run.parallel.average_statistics, run.finish_averaging, run.train_epoch
count = []
def state(*networks):
    return [{{name: tensor.clone() for name, tensor in network.state_dict().items()}} for network in networks]
def average(*networks):
    before = state(*networks)
    real_average(*networks)
    torch.save([before, state(*networks)], f"{{folder}}/{{len(count)}}_{{os.environ['RANK']}}.pt")
    count.append(None)
def finish(job, training, *args):
    real_finish(job, training, *args)
    torch.save(state(training.model, training.ema.module, training.swa), f"{{folder}}/end_{{os.environ['RANK']}}.pt")
def train_epoch(training, *args):
    if dies and first and not main and training.progress.epoch == 2:
        os.kill(os.getpid(), 9)
    return real_epoch(training, *args)
run.parallel.average_statistics, run.finish_averaging, run.train_epoch = average, finish, train_epoch
"""
# Batch norm in every block; weights of classes, a sampler, and stages of which the first trains the head alone.
NORMED = [
    "model.arch=test_efficientnet",
    "model.dropout=0.2",
    "train.batch_size=8",
    "train.ema.decay=0.9",
    "train.swa.start=1",
    "train.sampler.name=weighted",
    "loss.class_weights=log",
    "train.stages=[{num_epochs: 1, trainable: head}, {num_epochs: 2}]",
]


def script(folder: Path, body: str) -> Path:
    """train.py with something else before it."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "script.py"
    path.write_text(BEGIN.format(root=str(ROOT)) + body + "train.main()\n")
    return path


@pytest.mark.slow
def test_process_0_may_work_alone_for_long_but_a_silent_one_is_given_up(config, tmp_path):
    code, output = two_processes(script(tmp_path, SILENT), *words(config, tmp_path))
    assert code != 0
    assert "epoch 1/2" in output, "9 seconds of scoring are more than a step's 6"
    assert "process 0 lost another one, which may have said why: Timed out waiting" in output
    assert "torchrun --max-restarts 3 calls it again by itself" in output


@pytest.mark.slow
def test_memory_that_runs_out_in_both_processes_halves_once(config, tmp_path):
    code, output = two_processes(script(tmp_path, FULL), *words(config, tmp_path), restarts=1)
    assert code == 0, output
    assert json.loads((tmp_path / "a" / "fold0" / "memory.json").read_text()) == {"pieces": 2}
    assert "can't allocate memory: a failpoint: from here on 4 images at a time" in output
    train.main(words(config, tmp_path / "one"))
    assert differ(tmp_path / "one", tmp_path) < 1e-5


@pytest.mark.slow
def test_memory_that_runs_out_in_one_of_three_processes(config, tmp_path):
    """It alone knows why; the other two lose it. All of them halve, and train what one process does."""
    body = FULL.replace("if first:", 'if first and os.environ["RANK"] == "1":')
    code, output = processes(3, script(tmp_path, body), *words(config, tmp_path), restarts=1)
    assert code == 0, output
    assert json.loads((tmp_path / "a" / "fold0" / "memory.json").read_text()) == {"pieces": 2}
    assert "process 1, can't allocate memory: a failpoint: from here on 3 images at a time" in output, "of 5 or 6"
    assert output.count("can't allocate memory: a failpoint: from") == 1
    assert len(set(re.findall("process ([02]) lost another one", output))) == 2
    train.main(words(config, tmp_path / "one"))
    assert differ(tmp_path / "one", tmp_path) < 1e-5


def test_processes_that_run_out_of_memory_agree(config, tmp_path, monkeypatch):
    """Each halves what it trained with: a second one that looks later does not halve again."""
    job = SimpleNamespace(config=load_config(str(config), ["train.batch_size=9"]), run=RunFolder(tmp_path, "a"), fold=0)
    monkeypatch.setattr(distributed, "size", lambda: 2)
    said = [recovery._halve(job, 2, "full") for _ in range(2)]
    assert recovery.pieces_of(job) == 4
    assert said[0] == said[1] and said[0].startswith("from here on 2 images at a time"), "5 of 9 are a process's"
    recovery._halve(job, 4, "full")
    with pytest.raises(UserError, match="memory ran out on a single image: full"):
        recovery._halve(job, 8, "full")


@pytest.mark.parametrize("smallest", [3, 4])
def test_all_processes_go_through_the_network_equally_often(small, tmp_path, monkeypatch, smallest):
    """Else synchronised batch norm would wait for pieces that another process, with fewer images, does not have."""
    from foldsmith.training import loop
    from tests.test_training import fold0

    seen = []
    real = loop.fail
    monkeypatch.setattr(recovery, "pieces_of", lambda job: 4)
    monkeypatch.setattr(distributed, "smallest", lambda count: min(count, smallest))
    monkeypatch.setattr(loop, "fail", lambda name: (seen.append(name), real(name))[1])
    few = ("train.num_epochs=1", "train.max_steps_per_epoch=1", "train.batch_size=4", "model.arch=test_vit")
    fold0(small, tmp_path, *few)
    assert seen.count("train.forward") == smallest


@pytest.mark.slow
def test_batch_norm_averages_and_stages_are_the_same_in_every_process(config, tmp_path):
    """Each sees its part of a batch: statistics differ within an epoch, and are their mean from its end on.

    A run of which a process is lost ends in the bytes of one that is not.
    """
    for name, dies in (("whole", False), ("lost", True)):
        body = KEEPING.format(folder=str(tmp_path / name), dies=dies)
        restarts = 1 if dies else 0
        args = words(config, tmp_path / name, *NORMED, used_labels(config))
        code, output = two_processes(script(tmp_path / name, body), *args, restarts=restarts)
        assert code == 0, output
    kept = [[torch.load(tmp_path / "whole" / f"{call}_{rank}.pt") for rank in range(2)] for call in range(4)]
    for call, ((before_0, after_0), (before_1, after_1)) in enumerate(kept):  # 3 epochs and the averaged weights
        networks = list(zip(before_0, before_1, after_0, after_1, strict=True))
        assert len(networks) == (1 if call == 3 else 2), "the network and the moving average"
        for one, two, mean, other in networks:
            assert all(torch.equal(mean[name], other[name]) for name in mean), f"call {call}"
            statistics = [name for name in mean if name.endswith(("running_mean", "running_var"))]
            assert len(statistics) > 20
            differing = [name for name in statistics if not torch.equal(one[name], two[name])]
            assert bool(differing) == (call > 0), "the first stage trains the head: no batch norm moves"
            assert all(torch.equal(mean[name], (one[name] + two[name]) / 2) for name in differing)
            assert all(torch.equal(one[name], two[name]) for name in mean if name not in statistics)
    ends = [torch.load(tmp_path / name / f"end_{rank}.pt") for name in ("whole", "lost") for rank in range(2)]
    for other in ends[1:]:
        for network, again in zip(ends[0], other, strict=True):
            assert all(torch.equal(network[name], again[name]) for name in network)
    log = (tmp_path / "lost" / "a" / "fold0" / "train.log").read_text()
    assert log.count("goes on after epoch 2") == 1 and log.count("epoch 1/3") == 1
    weights = [(tmp_path / name / "a" / "a_f0.safetensors").read_bytes() for name in ("whole", "lost")]
    assert weights[0] == weights[1]


def test_the_lock_of_a_lost_machine_is_waited_for(tmp_path, monkeypatch):
    """It is there for a moment after a restart; without a loss nobody waits."""
    run = RunFolder(tmp_path, "a")
    code = (
        "import pathlib, sys; from foldsmith.training.folder import RunFolder\n"
        "from foldsmith.training.lock import locked_run\n"
        "with locked_run(RunFolder(pathlib.Path(sys.argv[1]), 'a'), None): print('held', flush=True); sys.stdin.read()"
    )
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], **pipes) as holder:
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(InUseError), recovery.held(run, None, after_loss=False):
            pass
        monkeypatch.setattr(recovery, "LOST_LOCK", 0.0)
        with pytest.raises(InUseError), recovery.held(run, None, after_loss=True):
            pass
        monkeypatch.setattr(recovery, "LOST_LOCK", 180.0)
        waited = []

        def sleep(seconds):
            waited.append(seconds)
            holder.kill()
            holder.wait()

        monkeypatch.setattr(recovery.time, "sleep", sleep)
        with recovery.held(run, None, after_loss=True):
            pass
        assert waited == [1.0]


@pytest.mark.parametrize(
    "said",
    [
        "NCCL communicator was aborted on rank 0.",
        "NCCL error: remote process exited\nncclRemoteError: A call failed possibly due to a network error",
        "socketProgress: Connection closed by remote peer node2<41234>",
        "[../gloo/pair.cc:550] Connection closed by peer [10.0.0.2]:41234",
    ],
)
def test_a_loss_that_nccl_or_gloo_tells_of_is_an_error_for_users(said, monkeypatch):
    monkeypatch.setattr(distributed, "under_torchrun", lambda: True)
    monkeypatch.setattr(distributed, "_join", lambda backend, device: None)
    with (
        pytest.raises(UserError, match="process 0 lost another one, which may have said why: ") as caught,
        distributed.process_group(CPU),
    ):
        raise torch.distributed.DistBackendError(said)
    assert caught.value.code == 3
    with (
        pytest.raises(torch.distributed.DistBackendError, match="ncclInvalidUsage"),
        distributed.process_group(CPU),
    ):
        raise torch.distributed.DistBackendError("ncclInvalidUsage: This usually reflects invalid usage of NCCL")
