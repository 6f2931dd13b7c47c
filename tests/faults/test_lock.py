"""Two runs on one folder: exactly one wins, the other says who it is."""

import errno
import fcntl
import json
import os
import re
import socket

import pytest

from foldsmith.errors import UserError
from foldsmith.training import lock
from foldsmith.training.folder import RunFolder
from foldsmith.training.lock import locked_run

RACES = 20
FAST_RACES = 3


@pytest.mark.parametrize(
    "race", [race if race < FAST_RACES else pytest.param(race, marks=pytest.mark.slow) for race in range(RACES)]
)
def test_of_two_runs_exactly_one_wins(warm, mini, tmp_path, race):
    """Both are held at their first epoch until the other has had its chance: whoever is there first is there alone."""
    words = ["--config", mini, "--output", tmp_path / "runs"]
    words += ["--fold", "0"] if race % 2 else ["--set", "train.stages=[]"]
    gate = tmp_path / "gate"
    runs = [warm.start("train.py", *words, hook=("wait_at_epoch", str(gate))) for _ in range(2)]
    refused = []
    while not refused:  # the winner stands at the gate, so the one that ends is the loser
        refused = [run for run in runs if run.has_ended()]
    gate.touch()
    (loser,) = refused
    (winner,) = (run for run in runs if run is not loser)
    lost, won = loser.wait(), winner.wait()
    assert won.code == 0, won.err
    assert lost.code == 2
    found = re.search(
        r"runs/mini(?:/fold0)?: is in use: process (\d+) on (\S+), since ([-\d]+ [:\d]+ UTC), trains", lost.err
    )
    assert found, lost.err
    assert (int(found[1]), found[2]) == (winner.pid, socket.gethostname())
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["mini"], "the lock leaves nothing"


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_file_system_that_can_not_lock(tmp_path, monkeypatch, number):
    def lockf(*args):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "lockf", lockf)
    with pytest.raises(UserError) as caught, locked_run(RunFolder(tmp_path, "mini"), None):
        pass
    assert str(caught.value).startswith(
        f"{tmp_path}/.mini.lock: the file system cannot lock: {os.strerror(number)}\n  hint: --output on a disk of this"
    )
    assert caught.value.code == 3


def test_the_lock_of_a_killed_run_is_gone_at_once(warm, mini, tmp_path):
    """Its data loading processes live a little longer; they do not hold it."""
    words = ["--config", mini, "--output", tmp_path, "--fold", "0", "--set", "train.workers=2"]
    assert warm.run("train.py", *words, fail="epoch.batch:2:kill").code == -9
    ended = warm.run("train.py", *words)
    assert ended.code == 0, ended.err


def test_folds_may_be_trained_at_the_same_time_but_not_beside_a_whole_run(warm, mini, tmp_path):
    run = RunFolder(tmp_path, "mini")
    words = ["--config", mini, "--output", tmp_path]
    with locked_run(run, 1):
        assert warm.run("train.py", *words, "--fold", "0").code == 0
        ended = warm.run("train.py", *words)
        assert ended.code == 2 and f"{run.path}: is in use: process {os.getpid()} on" in ended.err
        ended = warm.run("train.py", *words, "--fold", "1", "--fresh")
        assert ended.code == 2 and f"{run.fold(1)}: is in use: process {os.getpid()} on" in ended.err
    assert warm.run("train.py", *words, "--fold", "1").code == 0


def test_fresh_of_another_run_deletes_nothing(warm, mini, tmp_path):
    words = ["--config", mini, "--output", tmp_path]
    assert warm.run("train.py", *words, "--fold", "0").code == 0
    with locked_run(RunFolder(tmp_path, "mini"), None):
        assert warm.run("train.py", *words, "--fresh").code == 2
    assert (tmp_path / "mini" / "mini_f0.safetensors").is_file()


def test_a_holder_that_is_about_to_write_its_name_is_waited_for(tmp_path, monkeypatch):
    """Between the lock and the words, the file tells of nobody, or of one who held it before."""
    path = tmp_path / ".mini.lock"
    old = json.dumps({"pid": 1, "host": "elsewhere", "since": "long ago"}).encode() + b"\n"
    own = {"pid": os.getpid(), "host": "here", "since": "now"}
    for before in (b"", old, b'{"pid": '):
        path.write_bytes(before)
        reads = []
        with open(path, "rb+", buffering=0) as file:
            monkeypatch.setattr(lock, "_pid_of_holder", lambda file, shared: os.getpid())

            def write_later(seconds, reads=reads):
                reads.append(seconds)
                if len(reads) == 2:
                    path.write_text(json.dumps(own) + "\n")

            monkeypatch.setattr(lock.time, "sleep", write_later)
            assert lock._holder_words(file, False) == f"process {os.getpid()} on here, since now,"
        assert len(reads) == 2


def test_a_lock_file_that_nobody_holds_is_no_lock(tmp_path):
    (tmp_path / ".mini.lock").write_text("{}")
    with locked_run(RunFolder(tmp_path, "mini"), None):
        assert str(os.getpid()) in (tmp_path / ".mini.lock").read_text()
    assert list(tmp_path.iterdir()) == []


def test_an_error_inside_gives_the_lock_back(tmp_path):
    with pytest.raises(UserError), locked_run(RunFolder(tmp_path, "mini"), 0):
        raise UserError("x")
    assert list(tmp_path.iterdir()) == []
