"""torchrun on two hosts, which are network namespaces: the same result, one lost process, one lost host."""

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT
from tests.torchrun.conftest import differ, torchrun, words

# Process 1 falls silent when it begins the second epoch.
HANGING = """\
import os, pathlib, sys, time
sys.path.insert(0, {root!r})
import train
from foldsmith.training import distributed, run
distributed.STEP = distributed.timedelta(seconds=6)
real, calls = run.train_epoch, []
def train_epoch(*args):
    calls.append(None)
    if len(calls) == 2 and os.environ["RANK"] == "1":
        pathlib.Path({pulled!r}).touch()
        time.sleep(3600)
    return real(*args)
run.train_epoch = train_epoch
train.main()
"""


def ip(*args: str) -> None:
    subprocess.run(["ip", *args], check=True, capture_output=True, text=True)


@pytest.fixture
def two_hosts():
    """Two network namespaces, each with an address of its own, connected by a cable."""
    if shutil.which("ip") is None:
        pytest.skip("needs iproute2 (apt-get install iproute2)")
    names = [f"foldsmith{os.getpid()}{side}" for side in "ab"]
    try:
        for name in names:
            ip("netns", "add", name)
        ip("link", "add", "cable", "netns", names[0], "type", "veth", "peer", "name", "cable", "netns", names[1])
        for number, name in enumerate(names, start=1):
            ip("-n", name, "addr", "add", f"10.11.12.{number}/24", "dev", "cable")
            ip("-n", name, "link", "set", "cable", "up")
            ip("-n", name, "link", "set", "lo", "up")
    except subprocess.CalledProcessError as error:
        for name in names:
            subprocess.run(["ip", "netns", "del", name], capture_output=True)
        pytest.skip(f"network namespaces can't be made here (root is needed): {error.stderr.strip()}")
    yield names
    for name in names:
        ip("netns", "del", name)


def start_on_hosts(names: list[str], script: Path, *args: str, hosts: str = "2", restarts: int = 0) -> list:
    """torchrun on each host, with a process on each; the first one holds the meeting."""
    jobs = []
    for number, name in enumerate(names, start=1):
        meet = ["--nnodes", hosts, "--nproc-per-node", "1", "--max-restarts", str(restarts), "--rdzv-id", "test"]
        meet += ["--rdzv-backend", "c10d", "--rdzv-endpoint", "10.11.12.1:29511", "--local-addr", f"10.11.12.{number}"]
        meet += ["--rdzv-conf", f"is_host={2 - number},last_call_timeout=8"]
        before = ("ip", "netns", "exec", name)
        jobs.append(torchrun(*meet, str(script), *args, before=before, GLOO_SOCKET_IFNAME="cable"))
    return jobs


def on_hosts(*args: Any, **options: Any) -> tuple[list[int], list[str]]:
    """Exit codes and outputs of `start_on_hosts`."""
    jobs = start_on_hosts(*args, **options)
    outputs = [job.communicate()[0] for job in jobs]
    return [job.returncode for job in jobs], outputs


@pytest.mark.slow
def test_two_hosts_train_what_one_does(config, single, two_hosts, tmp_path):
    codes, outputs = on_hosts(two_hosts, ROOT / "train.py", *words(config, tmp_path))
    assert codes == [0, 0], outputs
    assert differ(single, tmp_path) < 1e-5
    assert [output.count("best epoch") for output in outputs] == [1, 0]


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_a_process_lost_on_one_of_two_hosts_is_restarted(config, dying, single, two_hosts, tmp_path, monkeypatch, rank):
    """One restart on each is enough: nobody is sent to the addresses of the first start."""
    monkeypatch.setenv("DIES", str(rank))
    codes, outputs = on_hosts(two_hosts, dying, *words(config, tmp_path), restarts=1)
    assert codes == [0, 0], outputs
    log = (tmp_path / "a" / "fold0" / "train.log").read_text()
    assert log.count("goes on after epoch 1") == 1 and log.count("epoch 1/2") == 1
    assert differ(single, tmp_path) < 1e-5


@pytest.mark.slow
def test_a_host_that_vanishes_is_noticed_and_the_other_goes_on(config, single, two_hosts, tmp_path):
    """Its cable is pulled, so that no connection is closed; a step may last for 6 seconds here."""
    script, pulled = tmp_path / "hanging.py", tmp_path / "pulled"
    script.write_text(HANGING.format(root=str(ROOT), pulled=str(pulled)))
    jobs = start_on_hosts(two_hosts, script, *words(config, tmp_path), hosts="1:2", restarts=1)
    try:
        while not pulled.exists() and jobs[0].poll() is None:
            time.sleep(0.05)
        ip("-n", two_hosts[1], "link", "set", "cable", "down")
        output, _ = jobs[0].communicate()
    finally:
        lost = subprocess.run(["ip", "netns", "pids", two_hosts[1]], capture_output=True, text=True, check=True)
        for pid in lost.stdout.split():
            os.kill(int(pid), signal.SIGKILL)
        jobs[1].communicate()
    assert jobs[0].returncode == 0, output
    assert "process 0 lost another one, which may have said why: Timed out waiting" in output
    assert "goes on after epoch 1" in (tmp_path / "a" / "fold0" / "train.log").read_text()
    assert differ(single, tmp_path) < 1e-5
