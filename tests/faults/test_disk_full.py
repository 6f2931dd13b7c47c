"""A disk that is full at each write: the old file intact, no temporary left, exit 3, and how much room is needed.

Every write of the program goes through the one atomic writer (test_source.py) but for the logs. At the failpoint
`write.opened`, where a write begins, the kernel lets no file of the process grow beyond 0 or 16 bytes, half or nearly
all of what the file takes (RLIMIT_FSIZE), so that each library meets the error in its own code, as on a full disk: some
hear of a part that was written otherwise than of nothing. disk.py lists all writes.
"""

import errno
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from foldsmith.config import load_config
from foldsmith.data.oof_files import read_sidecar, write_oof
from foldsmith.data.sheets import read_csv
from foldsmith.errors import UserError
from foldsmith.files import atomic_path, write_json, write_text
from foldsmith.training.loggers import WeightsAndBiases
from tests.conftest import ROOT
from tests.faults.disk import ROOM, SITES, call_sites, full_at, full_at_every_write


def test_every_write_of_the_program_is_filled_by_a_test():
    assert set().union(*SITES.values()) == call_sites()


def test_training(warm, mini, tmp_path):
    """Config and folds; metrics and checkpoint of three epochs; the weights of those that are better; the curves."""
    words = ["--config", mini, "--output", tmp_path / "runs", "--fold", "0", "--set", "data.cache=off"]
    writes = full_at_every_write(warm, "train.py", words, tmp_path / "runs")
    metrics = read_csv(tmp_path / "runs" / "mini" / "fold0" / "metrics.csv")
    first, second, third = map(float, metrics.column("f2"))
    better = 2 + (third > second)  # the first of each of the two stages, and the last where it is better
    assert first > 0 and len(writes) == 2 + 3 * 2 + better + 1
    assert set(writes) == SITES["training"]


def test_a_second_epoch_leaves_the_checkpoint_of_the_first(warm, mini, tmp_path):
    words = ["--config", mini, "--output", tmp_path, "--fold", "0"]
    ended = warm.run("train.py", *words, fail="checkpoint.begin:2:full", hook=("print_through_pipes",))
    assert ended.code == 3 and "mini/fold0/last.ckpt: could not be written" in ended.err
    assert re.search(r"needs about 1\.\d MB", ended.err), "as much as the tensors take"
    ended = warm.run("train.py", *words)
    assert ended.code == 0 and "goes on after epoch 1" in ended.out


@pytest.mark.parametrize(
    ("name", "words", "fail"),
    [
        ("cache", ["--fold", "0", "--set", "data.cache=disk"], ""),
        ("smoke", ["--smoke"], ""),
        ("memory", ["--fold", "0"], "train.forward:1:oom"),
        ("profile", ["--fold", "0", "--profile", "--set", "train.batch_size=2", "data.num_folds=6"], ""),
    ],
)
@pytest.mark.parametrize("share", ["0.5", pytest.param("1", marks=pytest.mark.slow)])
def test_what_training_writes_beside(warm, mini, tmp_path, name, words, fail, share):
    """The writes before it have room."""
    sites = []
    for count in range(1, 12):
        shutil.rmtree(tmp_path / "runs", ignore_errors=True)
        call = ["--config", mini, "--output", tmp_path / "runs", *words]
        ended, site = full_at(
            warm, count, "train.py", call, share=share, fail=fail, env={"XDG_CACHE_HOME": str(tmp_path / "cache")}
        )
        assert ended.code == 3 and "Traceback" not in ended.err, ended.err
        assert not list(tmp_path.rglob("*.tmp"))
        if site in SITES[name]:
            break
        sites.append(site)
    assert site in SITES[name], sites
    room = r"it needs more than [0-9.]+ (?:MB|bytes), [0-9.]+ MB are free\n" if name == "profile" else ROOM
    assert re.search(room, ended.err), ended.err


def test_logs(warm, mini, tmp_path):
    """Logs grow, so one may end in half a line; the lines that do not fit end the run with 3, too."""
    met, words = set(), ["--config", mini, "--output", tmp_path / "runs", "--fold", "0"]
    for count in range(1, 9):
        shutil.rmtree(tmp_path / "runs", ignore_errors=True)
        ended, site = full_at(warm, count, "train.py", words, place="append.begin")
        assert ended.code == 3 and ROOM.search(ended.err), (site, ended.err)
        met.add(site)
        if met == SITES["logs"]:
            return
    raise AssertionError(met)


@pytest.mark.slow
def test_tensorboard(warm, mini, tmp_path):
    """Its events are a log, too: where it begins, and at the end of each of the first two epochs."""
    pytest.importorskip("tensorboard", reason="pip install tensorboard")
    words = ["--config", mini, "--output", tmp_path / "runs", "--fold", "0", "--set", "train.loggers=[tensorboard]"]
    met = 0
    for count in range(1, 20):
        shutil.rmtree(tmp_path / "runs", ignore_errors=True)
        ended, site = full_at(warm, count, "train.py", words, place="append.begin")
        refused = ROOM.search(ended.err)
        assert ended.code == 3 and refused and "Traceback" not in ended.err, (site, ended.err)
        if site in SITES["tensorboard"]:
            assert Path(refused[1]).parent == tmp_path / "runs" / "mini" / "fold0" / "tensorboard"
            met += 1
        if met == 3:
            return
    raise AssertionError(met)


@pytest.mark.parametrize("when", ["init", "log", "finish"])
def test_weights_and_biases(tmp_path, monkeypatch, when):
    """Whose own process writes: what it raises here names its folder; what it does not raise, nobody can say."""
    wandb = pytest.importorskip("wandb", reason="pip install wandb")

    class Run:
        def log(self, values, step):
            given("log")

        def finish(self):
            given("finish")

    def given(name):
        if name == when:
            raise OSError(errno.ENOSPC, "No space left on device")
        return Run()

    monkeypatch.setattr(wandb, "init", lambda **options: given("init"))
    said = rf"^{tmp_path}/wandb: could not be written: No space left on device; [0-9.]+ MB are free, at least some KB"
    with pytest.raises(UserError, match=said) as caught:
        logger = WeightsAndBiases(load_config("clipart_tiny", []), 0, tmp_path, 0)
        logger.log(1, {"f2": 0.5})
        logger.close()
    assert caught.value.code == 3


@pytest.fixture(scope="module")
def trained(warm, mini, tmp_path_factory) -> Path:
    runs = tmp_path_factory.mktemp("trained") / "runs"
    for script in ("train.py", "predict_oof.py"):
        assert warm.run(script, "--config", mini, "--output", runs).code == 0
    assert warm.run("ensemble_search.py", runs.parent / "best", runs / "mini" / "mini_f0.npy").code == 0
    return runs


def test_out_of_fold_predictions(warm, mini, trained, tmp_path):
    """What another threshold or view wrote before: both of its files stand until both of the new ones are on disk."""
    shutil.copytree(trained, tmp_path / "runs")
    (tmp_path / "runs" / "mini" / "mini.yml").unlink()
    for npy in (tmp_path / "runs" / "mini").glob("*.npy"):
        write_oof(npy, np.full_like(np.load(npy), 0.5), replace(read_sidecar(npy), views=["hflip"]))
    words = ["--config", mini, "--output", tmp_path / "runs"]
    writes = full_at_every_write(warm, "predict_oof.py", words, tmp_path / "runs")
    assert len(writes) == 1 + 2 * 2 and set(writes) == SITES["oof"]


def test_the_blend(warm, trained, tmp_path):
    out, oof = tmp_path / "out", trained / "mini" / "mini_f0.npy"
    out.mkdir()
    for name in ("best.yml", "best.png"):
        shutil.copy(trained.parent / name, out)
    writes = full_at_every_write(warm, "ensemble_search.py", [out / "best", oof], out)
    assert len(writes) == 2 and set(writes) == SITES["search"]


@pytest.mark.parametrize("share", ["0.5", *(pytest.param(share, marks=pytest.mark.slow) for share in "01")])
def test_the_submission(warm, trained, few, tmp_path, share):
    """The prior, unreadable images, a part a fold (a resumption would need it: the run goes on), the submission."""
    out, data = tmp_path / "out", tmp_path / "few"
    shutil.copytree(few, data)
    next((data / "test").glob("*.jpg")).write_bytes(b"")
    words = [trained.parent / "best.yml", "--models", trained, "--data", data, "--output", out / "s.csv"]
    met = []
    for count in range(1, 6):
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir()
        (out / "s.csv").write_text("old")
        ended, site = full_at(warm, count, "ensemble_inference.py", words, share=share)
        if not site:
            break
        met.append(site)
        is_part = site.startswith("inference/parts.py")
        goes_on = is_part and ended.code == 0  # what follows takes less room than was left for the part
        assert goes_on or (ended.code == 3 and ROOM.search(ended.err)), ended.err
        assert not list(out.rglob("*.tmp"))
        assert ("can't be kept for a resumption" in ended.out) == is_part, ended.out
        assert ((out / "s.csv").read_text() == "old") == (count == 1), "the prior stands once it is written"
    assert set(met) == SITES["inference"], met


@pytest.mark.parametrize("share", ["0.5", *(pytest.param(share, marks=pytest.mark.slow) for share in "01")])
def test_predictions_that_are_kept(warm, trained, few, tmp_path, share):
    out, kept = tmp_path / "out", tmp_path / "out" / "kept"
    words = [trained.parent / "best.yml", "--models", trained, "--data", few, "--output", out / "s.csv"]
    met = []
    for count in range(1, 9):
        shutil.rmtree(out, ignore_errors=True)
        ended, site = full_at(warm, count, "ensemble_inference.py", [*words, "--keep-predictions", kept], share=share)
        if not site:
            break
        if site in SITES["kept predictions"]:
            met.append(site)
            assert ended.code == 3 and ROOM.search(ended.err) and not list(out.rglob("*.tmp")), ended.err
    assert len(met) == 2 and set(met) == SITES["kept predictions"]


@pytest.mark.slow
def test_a_disk_that_was_full_before_the_program_began(tmp_path):
    """Libraries look for a folder of temporary files while they are imported, which a warm process has done."""
    command = [sys.executable, "predict_oof.py", "--weights", "there_is_none.safetensors"]
    limited = [sys.executable, "-c", "import os, resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0)); "]
    limited[-1] += "os.execv(sys.argv[1], sys.argv[1:])"
    done = subprocess.run([*limited, *command], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 3, done.stderr
    said = r"error: no temporary file can be written: No usable temporary directory found in \['/.*'\]\n"
    hint = "  hint: free some space in one of them, or let TMPDIR name a folder that can be written\n"
    assert re.fullmatch(said + hint, done.stderr), done.stderr


def test_a_disk_that_was_full_before_the_lock_was_taken(warm, mini, tmp_path):
    """The lock's file is no artefact and has no size worth naming: what is free is said."""
    words = ["--config", mini, "--output", tmp_path / "runs", "--fold", "0"]
    ended = warm.run("train.py", *words, hook=("full_disk.from_the_start",))
    assert ended.code == 3
    said = r"error: a file could not be written: File too large; [0-9.]+ MB are free, at least some KB are needed\n"
    assert re.fullmatch(said + "  hint: free some space\n", ended.err), ended.err


@pytest.mark.parametrize("write", [write_text, write_json])
def test_the_message_names_the_size_where_it_is_known(tmp_path, write, monkeypatch):
    monkeypatch.setenv("FOLDSMITH_FAIL", "write.opened:*:enospc")
    with pytest.raises(UserError, match="No space left on device; it needs about 0.1 MB, "):
        write(tmp_path / "a", "x" * 100_000)
    with pytest.raises(UserError, match="it needs more than 0 bytes, "), atomic_path(tmp_path / "b", None):
        pass
    (tmp_path / "c").write_bytes(bytes(3_000_000))
    with pytest.raises(UserError, match="it needs more than 3.0 MB, "), atomic_path(tmp_path / "c", None):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["c"]
