"""A disk that is full at each write: the old file intact, no temporary left, exit 3, and how much room is needed.

Every write of the program goes through the one atomic writer (test_source.py) but for the logs. At the failpoint
`write.opened:n:full` the kernel lets no file of the process grow beyond 16 bytes (RLIMIT_FSIZE) before the n-th write
begins, so that each library meets the error in its own code, as on a full disk.
"""

import re
import shutil
from pathlib import Path

import pytest

from foldsmith.data.sheets import read_csv
from foldsmith.errors import UserError
from foldsmith.files import atomic_path, write_json, write_text
from foldsmith.models.weights import read_header

PIPES = ("print_through_pipes",)
ROOM = re.compile(
    r"^error: (\S+): could not be written: .*; it needs (about|more than) [0-9.]+ (MB|bytes), [0-9.]+ MB are free\n"
    r"  hint: free some space, or name another folder; what stood there before is as it was$",
    re.MULTILINE,
)


def files(folder: Path) -> dict[str, bytes]:
    """All files but logs, which grow."""
    names = [path for path in folder.rglob("*") if path.is_file() and path.name not in ("train.log", "timings.csv")]
    return {str(path.relative_to(folder)): path.read_bytes() for path in names}


def fails_at_every_write(warm, script: str, words: list[object], folder: Path, prepare, *, first: int = 1) -> int:
    """Let a command fail at its 1st, 2nd ... write until there is none more; returns how many there were.

    Args:
        folder: what it writes into.
        prepare: makes the folder as it is before the command.
    """
    for count in range(first, 100):
        shutil.rmtree(folder, ignore_errors=True)
        prepare()
        before = files(folder)
        ended = warm.run(script, *words, fail=f"write.opened:{count}:full", hook=PIPES, timeout=20)
        if ended.code == 0:
            return count - 1
        assert ended.code == 3, ended.err
        refused = ROOM.search(ended.err)
        assert refused, ended.err
        path, after = Path(refused[1]), files(folder)
        assert not [name for name in after if name.endswith(".tmp")]
        name = str(path.relative_to(folder))
        if name in before:
            assert after[name] == before[name], "the old file is as it was"
        elif name in after:  # the same command wrote it once before
            assert name.endswith(("best.safetensors", "last.ckpt", "metrics.csv")), name
            assert not name.endswith(".safetensors") or read_header(path)
    raise AssertionError("it never ends")


def test_training(warm, mini, tmp_path):
    """Config and folds; metrics and checkpoint of three epochs; the weights of those that are better; the curves."""
    words = ["--config", mini, "--output", tmp_path / "runs", "--fold", "0"]
    writes = fails_at_every_write(warm, "train.py", words, tmp_path / "runs", lambda: None)
    metrics = read_csv(tmp_path / "runs" / "mini" / "fold0" / "metrics.csv")
    first, second, third = map(float, metrics.column("f2"))
    better = 2 + (third > second)  # the first of each of the two stages, and the last where it is better
    assert first > 0 and writes == 2 + 3 * 2 + better + 1


def test_a_second_epoch_leaves_the_checkpoint_of_the_first(warm, mini, tmp_path):
    words = ["--config", mini, "--output", tmp_path, "--fold", "0"]
    ended = warm.run("train.py", *words, fail="checkpoint.begin:2:full", hook=PIPES)
    assert ended.code == 3 and "mini/fold0/last.ckpt: could not be written" in ended.err
    assert re.search(r"needs about 1\.\d MB", ended.err), "as much as the tensors take"
    ended = warm.run("train.py", *words)
    assert ended.code == 0 and "goes on after epoch 1" in ended.out


@pytest.fixture(scope="module")
def trained(warm, mini, tmp_path_factory) -> Path:
    runs = tmp_path_factory.mktemp("trained") / "runs"
    for script in ("train.py", "predict_oof.py"):
        assert warm.run(script, "--config", mini, "--output", runs).code == 0
    assert warm.run("ensemble_search.py", runs.parent / "best", runs / "mini" / "mini_f0.npy").code == 0
    return runs


def test_out_of_fold_predictions(warm, mini, trained, tmp_path):
    def prepare() -> None:
        shutil.copytree(trained, tmp_path / "runs")
        (tmp_path / "runs" / "mini" / "mini_f0.json").unlink()
        (tmp_path / "runs" / "mini" / "mini_f1.json").unlink()

    words = ["--config", mini, "--output", tmp_path / "runs"]
    assert fails_at_every_write(warm, "predict_oof.py", words, tmp_path / "runs", prepare) == 4


def test_the_blend_the_submission_and_the_kernel(warm, trained, few, tmp_path):
    out = tmp_path / "out"
    oof, best = trained / "mini" / "mini_f0.npy", trained.parent / "best.yml"
    assert fails_at_every_write(warm, "ensemble_search.py", [out / "best", oof], out, out.mkdir) == 2
    words = [best, "--models", trained, "--data", few, "--output", out / "s.csv"]
    # The prior, a part a fold (a resumption would need it, so the run goes on without), the submission.
    for count, code in ((1, 3), (2, 3), (4, 3)):
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir()
        (out / "s.csv").write_text("old")
        ended = warm.run("ensemble_inference.py", *words, fail=f"write.opened:{count}:full", hook=PIPES)
        assert ended.code == code and ROOM.search(ended.err), ended.err
        assert not list(out.rglob("*.tmp"))
        assert ("a finished fold can't be kept for a resumption" in ended.out) == (count == 2)
        assert ((out / "s.csv").read_text() == "old") == (count == 1), "the prior stands once it is written"
    words = ["ensemble_inference.py", best, "--output", out / "kernels"]
    assert fails_at_every_write(warm, "deploy_kernel.py", words, out, out.mkdir) >= 1


def test_the_tools(warm, mini, trained, tmp_path):
    out, weights = tmp_path / "out", trained / "mini" / "mini_f0.safetensors"

    words = ["folds", "--config", mini, "--output", out / "folds.csv", "--report", out / "report.csv"]
    assert fails_at_every_write(warm, "foldsmith", words, out, out.mkdir) == 2
    words = ["lr-find", "--config", mini, "--output", out / "lr.png", "--steps", "20"]
    assert fails_at_every_write(warm, "foldsmith", words, out, out.mkdir) == 1
    secret = {"FOLDSMITH_PASSPHRASE": "x"}
    shutil.rmtree(out)
    out.mkdir()
    shutil.copy(weights, out / "a.safetensors")
    ended = warm.run("foldsmith", "encrypt", out / "a.safetensors", fail="write.opened:1:full", hook=PIPES, env=secret)
    assert ended.code == 3 and ROOM.search(ended.err) and list(files(out)) == ["a.safetensors"]


def test_a_log_that_can_not_grow_ends_the_run_with_3(warm, mini, tmp_path):
    words = ["--config", mini, "--output", tmp_path, "--fold", "0"]
    ended = warm.run("train.py", *words, fail="write.renamed:2:full", hook=PIPES)
    assert ended.code == 3 and "train.log: could not be written: File too large" in ended.err, ended.err


@pytest.mark.parametrize("write", [write_text, write_json])
def test_the_message_names_the_size_where_it_is_known(tmp_path, write, monkeypatch):
    monkeypatch.setenv("FOLDSMITH_FAIL", "write.opened:*:enospc")
    with pytest.raises(UserError, match="No space left on device; it needs about 0.1 MB, "):
        write(tmp_path / "a", "x" * 100_000)
    with pytest.raises(UserError, match="it needs more than 0 bytes, "), atomic_path(tmp_path / "b"):
        pass
    (tmp_path / "c").write_bytes(bytes(3_000_000))
    with pytest.raises(UserError, match="it needs more than 3.0 MB, "), atomic_path(tmp_path / "c"):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["c"]
