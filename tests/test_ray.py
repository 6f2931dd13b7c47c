"""A real Ray cluster of two nodes on this machine: nodes are lost, and the files are those of the local launcher."""

import contextlib
import errno
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import ensemble_inference
import predict_oof
import train
from foldsmith.config import load_config
from foldsmith.errors import UserError
from foldsmith.training import setup
from tests.conftest import ROOT, Chain, infer
from tests.test_launch import artefacts, experiment

# The cluster's processes and the drivers inherit it: nothing is reported, and no dashboard is started.
QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_DEDUP_LOGS": "0"}


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A head with one core; tests add and remove others."""
    pytest.importorskip("ray", reason="needs Ray: pip install -c constraints.txt -e '.[ray]'")
    os.environ.update(QUIET)
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    yield cluster
    cluster.shutdown()


def driver(script: str, *words: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, script, *words], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def wait_for_a_fold_on(node: str, runs: Path, process: subprocess.Popen) -> Path:
    """The folder of a fold that the node is training, past its first epoch and before its last."""
    while process.poll() is None:
        for log in runs.glob("*/fold*/train.log"):
            run, number = log.parents[1], log.parent.name.removeprefix("fold")
            begun, done = (log.parent / "last.ckpt").exists(), (run / f"{run.name}_f{number}.safetensors").exists()
            if begun and not done and node in log.read_text():
                return log.parent
        time.sleep(0.02)
    pytest.fail(f"the driver ended before the node had begun a fold:\n{process.communicate()[0]}")


@pytest.mark.slow
def test_folds_survive_the_loss_of_their_node(cluster, tmp_path):
    """2 experiments x 3 folds on two nodes, of which one is removed while it trains."""
    configs = [str(experiment(tmp_path, name, seed, epochs=12)) for name, seed in (("a", 0), ("b", 1))]
    second = cluster.add_node(num_cpus=1)
    words = ["--config", *configs, "--output", str(tmp_path / "ray")]
    on_ray = ["--launcher", "ray", "--address", cluster.address]
    job = driver("train.py", *words, *on_ray)
    lost = wait_for_a_fold_on(second.node_id, tmp_path / "ray", job)
    cluster.remove_node(second, allow_graceful=False)
    output, _ = job.communicate()
    assert job.returncode == 0, output
    assert output.count("finished  epoch 12/12") == 6
    log = (lost / "train.log").read_text()
    assert "goes on after epoch" in log and len(re.findall(r" on node (\w+) ", log)) == 2
    job = driver("predict_oof.py", *words, *on_ray)
    output, _ = job.communicate()
    assert job.returncode == 0, output

    train.main(["--config", *configs, "--output", str(tmp_path / "local")])
    predict_oof.main(["--config", *configs, "--output", str(tmp_path / "local")])
    local, ray = artefacts(tmp_path / "local"), artefacts(tmp_path / "ray")
    assert len(local) == 18 and local.keys() == ray.keys(), "weights, OOF and scores of 6 folds"
    assert [name for name in local if local[name] != ray[name]] == []


@pytest.mark.slow
def test_a_submission_of_shards_is_the_local_one(cluster, chain: Chain, few: Path, whole: bytes, tmp_path):
    second = cluster.add_node(num_cpus=2)
    try:
        words = [
            str(chain.ensemble),
            "--models",
            str(chain.runs),
            "--data",
            str(few),
            "--output",
            str(tmp_path / "s.csv"),
        ]
        words += ["--keep-predictions", str(tmp_path / "ray"), "--launcher", "ray", "--address", cluster.address]
        job = driver("ensemble_inference.py", *words)
        output, _ = job.communicate()
        assert job.returncode == 0, output
        infer(chain, tmp_path / "local.csv", "--data", str(few), "--keep-predictions", str(tmp_path / "local"))
        assert (tmp_path / "s.csv").read_bytes() == whole
        for name in ("a", "b"):
            kept = [np.load(tmp_path / place / f"{name}.npy") for place in ("ray", "local")]
            np.testing.assert_array_equal(*kept)
    finally:
        cluster.remove_node(second)


@pytest.mark.slow
def test_a_fold_that_fails_on_a_node_is_the_driver_s_error(cluster, tmp_path):
    """A loss that is not finite: the task's message and its code; the experiment that can be trained is finished."""
    configs = [experiment(tmp_path / name, name, epochs=1) for name in "ab"]
    with open(configs[0], "a") as file:
        file.write("optimizer: {name: sgd, params: {lr: 1e30}}\nscheduler: {name: constant}\n")
    words = ["--config", *map(str, configs), "--fold", "0", "--output", str(tmp_path / "runs")]
    job = driver("train.py", *words, "--launcher", "ray", "--address", cluster.address)
    output, _ = job.communicate()
    assert job.returncode == 2, output
    assert "error: 1 of 2 jobs failed\n  a fold 0: the loss was not finite again and again" in output
    assert "hint: a smaller optimizer.params.lr" in output and "b fold 0  finished" in output
    assert [path.name for path in tmp_path.glob("runs/*/*.safetensors")] == ["b_f0.safetensors"]


def runs_without_predictions(chain: Chain, folder: Path) -> Path:
    return Path(shutil.copytree(chain.runs, folder, ignore=shutil.ignore_patterns("*_f?.npy", "*_f?.json")))


def wait_for_a_task_of(rule: str, process: subprocess.Popen) -> None:
    """Until a task runs on the node whose processes have this FOLDSMITH_FAIL."""
    while process.poll() is None:
        for folder in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if (folder / "cmdline").read_bytes().startswith(b"ray::_predict") and (
                    f"FOLDSMITH_FAIL={rule}\0".encode() in (folder / "environ").read_bytes()
                ):
                    return
        time.sleep(0.02)
    pytest.fail(f"the driver ended before the node had a task:\n{process.communicate()[0]}")


@pytest.mark.slow
def test_predictions_survive_the_loss_of_their_node(cluster, chain: Chain, few: Path, whole: bytes, tmp_path):
    """Tasks of the lost node, which hang at their first batch, are run again on the other one."""
    runs = runs_without_predictions(chain, tmp_path / "runs")
    submission = tmp_path / "s.csv"
    on_ray = ["--launcher", "ray", "--address", cluster.address]
    for script, words in (
        ("predict_oof.py", ["--config", str(chain.folder / "a.yml"), "--output", str(runs), "--set", *chain.sets]),
        ("ensemble_inference.py", [str(chain.ensemble), "--models", str(runs), "--data", str(few)]),
    ):
        rule = f"predict.batch:1:sleep,{script}:1:sleep"
        second = cluster.add_node(num_cpus=1, env_vars={"FOLDSMITH_FAIL": rule})
        words += ["--output", str(submission)] if script.startswith("ensemble") else []
        job = driver(script, *on_ray, *words)
        wait_for_a_task_of(rule, job)
        cluster.remove_node(second, allow_graceful=False)
        output, _ = job.communicate()
        assert job.returncode == 0, output
    assert [path.name for path in sorted(runs.glob("a/*.npy"))] == ["a_f0.npy", "a_f1.npy"]
    for fold in range(2):
        assert (runs / "a" / f"a_f{fold}.npy").read_bytes() == chain.oof("a", fold).read_bytes()
    assert submission.read_bytes() == whole


@pytest.mark.slow
def test_a_task_that_is_lost_every_time(cluster, chain: Chain, few: Path, tmp_path, monkeypatch):
    """An error that says so, with the code of the environment; not a traceback."""
    from foldsmith.launch import cluster as of_ray
    from foldsmith.launch import ray as launcher

    monkeypatch.setattr(of_ray, "RETRIES", 0)
    monkeypatch.setattr(launcher, "RETRIES", 0)
    runs = runs_without_predictions(chain, tmp_path / "runs")
    second = cluster.add_node(num_cpus=2, env_vars={"FOLDSMITH_FAIL": "predict.batch:*:kill"})
    on_ray = ["--launcher", "ray", "--address", cluster.address, "--cpus-per-job", "2"]  # the head has but one
    gave_up = "Ray gave the task up, which it runs again up to 0 times: The worker died unexpectedly"
    try:
        with pytest.raises(UserError) as caught:
            words = ["--output", str(runs), "--set", *chain.sets]
            predict_oof.main(["--config", str(chain.folder / "a.yml"), *on_ray, *words])
        assert caught.value.message.startswith(f"2 of 2 jobs failed\n  a_f0.safetensors out-of-fold: {gave_up}")
        assert caught.value.code == 3
        with pytest.raises(UserError) as caught:
            words = ["--models", str(runs), "--data", str(few), "--output", str(tmp_path / "s.csv")]
            ensemble_inference.main([str(chain.ensemble), *on_ray, *words])
        assert caught.value.message.startswith(gave_up) and "hint: a node without memory" in caught.value.message
        assert caught.value.code == 3
    finally:
        cluster.remove_node(second)


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "a.npy"), "a.npy: could not be written: No space left"),
        (MemoryError(), "out of memory\n  hint: a smaller batch_size"),
        (torch.OutOfMemoryError("CUDA out of memory."), "CUDA out of memory.\n  hint: a smaller batch_size"),
    ],
    ids=["disk", "memory", "GPU"],
)
def test_a_full_disk_or_memory_of_a_task_is_a_message(error, text, monkeypatch, tmp_path):
    """Of each of the three kinds of tasks, with the code of the environment."""
    pytest.importorskip("ray", reason="needs Ray: pip install -c constraints.txt -e '.[ray]'")
    from foldsmith.launch import ray as launcher

    def enter(place):
        raise error

    monkeypatch.setattr(launcher.Place, "enter", enter)
    monkeypatch.setattr(launcher._Row, "begin", lambda row: None)
    place, row = launcher.Place(tmp_path, 1.0, 0.0), launcher._Row(None, 0)
    for task, rest in (
        (launcher._train, (row, load_config("clipart_tiny"), tmp_path, 0)),
        (launcher._predict_oof, (row, load_config("clipart_tiny"), tmp_path / "a_f0.safetensors", tmp_path)),
        (launcher._predict_shard, (tmp_path / "a_f0.safetensors", [tmp_path / "x.jpg"], 1, ["identity"], "mean")),
    ):
        failure = task._function(place, *rest)
        assert failure.text.startswith(text) and failure.code == 3


def test_a_task_has_a_thread_for_each_of_its_cores(small, monkeypatch, tmp_path):
    """However many OMP_NUM_THREADS lets a process begin with."""
    pytest.importorskip("ray", reason="needs Ray: pip install -c constraints.txt -e '.[ray]'")
    from foldsmith.launch import ray as launcher

    monkeypatch.setattr(setup, "THREADS", 2)
    monkeypatch.setattr(launcher._Row, "begin", lambda row: None)
    monkeypatch.setattr(launcher.ray, "get_runtime_context", lambda: SimpleNamespace(get_node_id=lambda: "n"))
    before = torch.get_num_threads()
    try:
        for cpus, threads in ((1.0, 1), (3.5, 3)):
            few = ["train.num_epochs=1", "train.max_steps_per_epoch=1", "train.workers=auto"]
            place, output = launcher.Place(ROOT, cpus, 0.0), tmp_path / str(threads)
            config = load_config("clipart_tiny", [*small, *few])
            assert launcher._train._function(place, launcher._Row(None, 0), config, output, 0) is None
            log = (output / "clipart_tiny" / "fold0" / "train.log").read_text()
            assert f"0 data loading processes, {threads} torch threads on cpu" in log
    finally:
        torch.set_num_threads(before)


TOLD_TO_END = """
import os, signal, sys, time
from foldsmith.errors import run
from foldsmith.launch.cluster import cluster
signal.signal(signal.SIGINT, signal.default_int_handler)
def main(argv):
    with cluster(sys.argv[1], None, None):
        os.kill(os.getpid(), int(sys.argv[2]))
        time.sleep(60)
run(main)
"""


@pytest.mark.slow
@pytest.mark.parametrize(("number", "words"), [(signal.SIGTERM, "terminated"), (signal.SIGINT, "interrupted")])
def test_a_driver_that_is_told_to_end(cluster, number, words):
    done = subprocess.run(
        [sys.executable, "-c", TOLD_TO_END, cluster.address, str(int(number))],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stdout, done.stderr) == (128 + number, "", f"{words}; what was finished is kept\n")


def test_an_unexpected_error_of_a_task_keeps_its_traceback():
    pytest.importorskip("ray", reason="needs Ray: pip install -c constraints.txt -e '.[ray]'")
    from foldsmith.launch import ray as launcher

    def work():
        raise OSError(errno.EIO, "i/o")

    with pytest.raises(OSError, match="i/o"):
        launcher._caught(work)


@pytest.mark.parametrize("installed", [True, False])
def test_without_a_cluster_nothing_is_deleted(installed, chain: Chain, tmp_path, monkeypatch):
    if installed:
        pytest.importorskip("ray", reason="needs Ray: pip install -c constraints.txt -e '.[ray]'")
    else:
        monkeypatch.setitem(sys.modules, "ray", None)
        for name in ("foldsmith.launch.ray", "foldsmith.launch.cluster"):
            monkeypatch.delitem(sys.modules, name, raising=False)
    runs = shutil.copytree(chain.runs, tmp_path / "runs")
    words = ["--config", str(chain.folder / "a.yml"), "--output", str(runs), "--fresh", "--launcher", "ray"]
    with pytest.raises(UserError, match="no Ray cluster can be reached" if installed else "ray is not installed here"):
        train.main([*words, "--address", "127.0.0.1:9", "--set", *chain.sets])
    assert artefacts(runs) == artefacts(chain.runs)


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n"], ids=["silent", "a web server"])
def test_something_else_at_the_address(answer, monkeypatch):
    pytest.importorskip("ray", reason="needs Ray: pip install -c constraints.txt -e '.[ray]'")
    from foldsmith.launch import cluster as of_ray

    monkeypatch.setattr(of_ray, "KNOCK", 0.1 if not answer else 10.0)
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        real = socket.create_connection

        def connect(*args, **more):
            line = real(*args, **more)
            if answer:
                with server.accept()[0] as other:
                    other.sendall(answer)
            return line

        monkeypatch.setattr(of_ray.socket, "create_connection", connect)
        said = f"no Ray cluster can be reached: what listens at {address} does not answer as Ray does"
        with pytest.raises(UserError, match=said), of_ray.cluster(address, None, None):
            pass


def nodes(*sizes: tuple[float, float]) -> list[dict[str, Any]]:
    """As ray.nodes() gives them, of (GPUs, cores); the last one is lost."""
    names = [f"node{number}" for number in range(len(sizes))]
    return [
        {"Alive": number + 1 < len(sizes), "NodeManagerHostname": name, "NodeID": name, "Resources": resources}
        for number, (name, resources) in enumerate(
            zip(names, ({"GPU": gpus, "CPU": cpus} if gpus else {"CPU": cpus} for gpus, cpus in sizes), strict=True)
        )
    ]


@pytest.mark.parametrize(
    ("cpus", "gpus", "text"),
    [
        (64, 0, "--cpus-per-job: no node has 0 GPUs and 64 cores for a task; the largest, node1, has 0 GPUs and 8 "),
        (8, 1, "--cpus-per-job: no node has 1 GPU and 8 cores for a task; the largest, node1, has 0 GPUs and 8 "),
        (1, 4, "--gpus-per-job: no node has 4 GPUs and 1 core for a task; the largest, node0, has 2 GPUs and 4 "),
    ],
)
def test_tasks_that_no_node_can_take_are_refused(cpus, gpus, text, monkeypatch, tmp_path):
    pytest.importorskip("ray", reason="needs Ray: pip install -c constraints.txt -e '.[ray]'")
    from foldsmith.launch import cluster as of_ray

    monkeypatch.setattr(of_ray.ray, "nodes", lambda: nodes((2, 4), (0, 8), (64, 64)))
    of_ray.Place(tmp_path, 4, 2).check_fits()
    with pytest.raises(UserError) as caught:
        of_ray.Place(tmp_path, cpus, gpus).check_fits()
    assert str(caught.value).startswith(text) and caught.value.code == 3


def test_the_user_hears_that_the_last_fitting_node_is_gone(monkeypatch, tmp_path, capsys):
    pytest.importorskip("ray", reason="needs Ray: pip install -c constraints.txt -e '.[ray]'")
    from foldsmith.launch import cluster as of_ray

    clock, there = [0.0], [nodes((0, 8), (0, 1))]
    monkeypatch.setattr(of_ray.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(of_ray.ray, "nodes", lambda: there[0])
    watched = of_ray.Nodes(of_ray.Place(tmp_path, 2, 0))
    assert watched.look() == {"node0"}
    there[0] = nodes((0, 1), (0, 8))
    for clock[0] in (30.0, 31.0, 90.0):
        watched.look()
    said = "for 31 s no node has had 0 GPUs and 2 cores for a task: tasks wait for one\n"
    assert capsys.readouterr().out == said
    there[0] = nodes((0, 2), (0, 8))
    watched.look()
    there[0] = nodes((0, 1), (0, 8))
    clock[0] = 121.0
    watched.look()
    assert capsys.readouterr().out == said


@pytest.mark.slow
def test_a_row_runs_when_its_task_does(cluster, monkeypatch, tmp_path):
    """Two tasks and one core: the second waits until the first has ended."""
    import ray

    from foldsmith.launch import cluster as of_ray
    from foldsmith.launch import ray as launcher

    @ray.remote
    def task(row, go):
        row.begin()
        while not go.exists():
            time.sleep(0.02)

    seen = []

    def show(progress):
        states = [job.state for job in progress.jobs]
        if states not in seen:
            seen.append(states)
        for number, state in enumerate(states):
            if state == "running":
                (tmp_path / str(number)).touch()

    monkeypatch.setattr(launcher.Progress, "show", show)
    with of_ray.cluster(cluster.address, 0, 1) as place:
        started = task.options(**place.options())
        starts = [lambda row, go=tmp_path / str(number): started.remote(row, go) for number in range(2)]
        launcher._follow(place, starts, [launcher.Job("a", lambda: "epoch 1/2"), launcher.Job("b")])
    order = [states for states in seen if states != ["waiting", "waiting"]]
    assert ["running", "waiting"] in order or ["waiting", "running"] in order
    assert ["running", "running"] not in order and order[-1] == ["finished", "finished"]
    assert {"running", "finished"} <= {states[0] for states in order} & {states[1] for states in order}


def test_no_cluster_at_the_address(tmp_path):
    pytest.importorskip("ray", reason="needs Ray: pip install -c constraints.txt -e '.[ray]'")
    from foldsmith.launch.cluster import cluster

    with (
        pytest.raises(UserError, match="--address: no Ray cluster can be reached") as caught,
        cluster("127.0.0.1:9", None, None),
    ):
        pass
    assert caught.value.code == 3
