"""`foldsmith doctor`: what a bug report needs, printed first, and a self-test of 10 seconds that can fail."""

import errno
import json
import signal
import time

import numpy as np
import pytest
import torch

from foldsmith import doctor
from foldsmith.training import oof, run

GROUPS = ["foldsmith", "system", "packages", "device", "threads", "environment", "space", "cache", "self-test"]


def test_it_prints_what_a_bug_report_needs(warm, cache):
    cache.mkdir(exist_ok=True)
    (cache / "doctor.images").write_bytes(bytes(3_400_000))
    ended = warm.run("foldsmith", "doctor", "--json", "--device", "cpu")
    (cache / "doctor.images").unlink()
    assert ended.code == 0, ended.err
    facts = json.loads(ended.out)
    assert list(facts) == GROUPS
    assert facts["packages"]["torch"] in (torch.__version__, torch.__version__.partition("+")[0])
    assert {"torch", "timm", "albumentations", "opencv-python-headless", "numpy"} <= facts["packages"].keys()
    assert facts["threads"]["torch"] == 1
    assert facts["self-test"].keys() == {"ok", "device", "seconds"}
    assert facts["self-test"]["ok"] is True and facts["self-test"]["seconds"] <= 10
    assert any(name.startswith("free in ") for name in facts["space"]) and "memory free" in facts["space"]
    size = float(facts["cache"][str(cache)].removeprefix("decoded images, ").split(" MB in ")[0])
    assert size >= 3.4
    assert "doctor fold 0: epoch 1/1" in ended.err, "what the self-test says does not get between"


def test_the_cache_is_named_before_there_is_one(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert doctor.examine()["cache"][str(tmp_path / "foldsmith")] == "decoded images, 0.0 MB in 0 files"


def test_a_disk_on_which_no_temporary_file_can_be_made_loses_no_fact(monkeypatch):
    def none() -> str:
        raise FileNotFoundError(errno.ENOENT, "No usable temporary directory found in ['/tmp']")

    monkeypatch.setattr("tempfile.gettempdir", none)
    space = doctor.examine()["space"]
    assert space["temporary files"] == "No usable temporary directory found in ['/tmp']"
    assert "memory free" in space and any(name.startswith("free in ") for name in space)
    monkeypatch.setattr(doctor, "_train_and_predict", lambda device: none())
    result = doctor.self_test("cpu")
    assert result["error"].startswith("no temporary file can be written: ") and "let TMPDIR name" in result["error"]
    assert "traceback" not in result


def test_a_self_test_that_fails_is_exit_3(warm):
    ended = warm.run("foldsmith", "doctor", fail="write.opened:50:enospc")
    assert ended.code == 3, ended.out
    assert "\npackages\n" in ended.out
    assert "  ok: False\n" in ended.out and "could not be written: No space left on device" in ended.out
    assert ended.err.rstrip().endswith("error: the self-test failed\n  hint: its error stands above")


def test_a_defect_keeps_its_traceback_and_loses_no_fact(warm):
    ended = warm.run("foldsmith", "doctor", "--json", fail="train.forward:1:raise")
    facts = json.loads(ended.out)
    assert ended.code == 3 and list(facts) == GROUPS and facts["self-test"]["ok"] is False
    assert facts["self-test"]["error"] == "RuntimeError: a failpoint"
    assert facts["self-test"]["traceback"].startswith("Traceback (most recent call last):\n")
    assert ended.err.rstrip().endswith("error: the self-test failed\n  hint: its error stands above")


def test_a_device_that_is_not_there_loses_no_fact(warm, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert doctor.self_test("cuda")["error"].startswith("--device: torch sees no CUDA device")
    if not torch.cuda.is_available():
        ended = warm.run("foldsmith", "doctor", "--json", "--device", "cuda")
        assert ended.code == 3 and list(json.loads(ended.out)) == GROUPS


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "seconds", "error"),
    [
        ({"fail": "train.forward:1:sleep"}, 8, "did not end within 8 seconds, and was stopped"),
        ({"hook": ("hear_no_alarm",)}, 9.5, "hung, and did not hear that it was to stop after 8 seconds"),
    ],
)
def test_ten_seconds_are_the_most(warm, options, seconds, error):
    child = warm.start("foldsmith", "doctor", "--json", **options)
    ended = child.wait(30)
    facts = json.loads(ended.out)
    assert ended.code == 3 and list(facts) == GROUPS
    assert facts["self-test"]["error"] == error
    assert seconds <= facts["self-test"]["seconds"] <= 10
    assert child.family() == []


def test_it_stops_itself(monkeypatch):
    """With bounds of a second, and what hangs."""
    monkeypatch.setattr(doctor, "ENOUGH", 0.2)
    monkeypatch.setattr(run, "train_experiment", lambda *args, **rest: time.sleep(60))
    before, started = signal.getsignal(signal.SIGALRM), time.monotonic()
    result = doctor.self_test("cpu")
    assert result["error"] == "did not end within 0.2 seconds, and was stopped"
    assert time.monotonic() - started < 5 and signal.getsignal(signal.SIGALRM) is before
    assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)


def test_a_fact_that_cannot_be_found_out_is_its_error(monkeypatch):
    def broken() -> dict:
        raise RuntimeError("the driver is too old")

    monkeypatch.setitem(doctor._GROUPS, "device", broken)
    facts = doctor.examine()
    assert facts["device"] == {"error": "RuntimeError: the driver is too old"} and list(facts) == GROUPS[:-1]


def test_text_has_a_line_each():
    facts = {"threads": {"cores": 2, "torch": 1}, "cache": {}}
    assert doctor.describe(facts) == "threads\n  cores: 2\n  torch: 1\ncache\n  nothing"


@pytest.mark.parametrize(("shape", "ok"), [((24, 2), True), ((23, 2), False)])
def test_the_self_test_looks_at_the_predictions(monkeypatch, tmp_path, shape, ok):
    np.save(tmp_path / "a.npy", np.zeros(shape, np.float32))
    monkeypatch.setattr(run, "train_experiment", lambda *args, **rest: None)
    monkeypatch.setattr(oof, "predict_oof", lambda *args, **rest: [tmp_path / "a.npy"])
    result = doctor.self_test("cpu")
    assert result["ok"] is ok and result.get("error", "") == ("" if ok else "predictions of shape (23, 2)")
