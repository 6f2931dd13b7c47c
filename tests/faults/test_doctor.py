"""`foldsmith doctor`: what a bug report needs, and a self-test that can fail."""

import json

import pytest
import torch

from foldsmith import doctor


def test_it_prints_what_a_bug_report_needs(warm):
    ended = warm.run("foldsmith", "doctor", "--json", "--device", "cpu")
    assert ended.code == 0, ended.err
    facts = json.loads(ended.out)
    groups = ["foldsmith", "system", "packages", "device", "threads", "environment", "space", "cache", "self-test"]
    assert list(facts) == groups
    assert (
        facts["packages"]["torch"] == torch.__version__.partition("+")[0]
        or facts["packages"]["torch"] == torch.__version__
    )
    assert {"torch", "timm", "albumentations", "opencv-python-headless", "numpy"} <= facts["packages"].keys()
    assert facts["threads"]["torch"] == 1 and facts["self-test"]["ok"] is True
    assert facts["self-test"]["seconds"] < 30
    assert any(name.startswith("free in ") for name in facts["space"]) and "memory free" in facts["space"]
    assert "doctor fold 0: epoch 1/1" in ended.err, "what the self-test says does not get between"


def test_a_self_test_that_fails_is_exit_3(warm):
    ended = warm.run("foldsmith", "doctor", fail="write.opened:50:enospc")
    assert ended.code == 3, ended.out
    assert "  ok: False\n" in ended.out and "could not be written: No space left on device" in ended.out
    assert ended.err.rstrip().endswith("error: the self-test failed\n  hint: its error stands above")


def test_text_has_a_line_each():
    facts = {"threads": {"cores": 2, "torch": 1}, "cache": {}}
    assert doctor.describe(facts) == "threads\n  cores: 2\n  torch: 1\ncache\n  nothing"


@pytest.mark.parametrize(("shape", "ok"), [((24, 2), True), ((23, 2), False)])
def test_the_self_test_looks_at_the_predictions(monkeypatch, tmp_path, shape, ok):
    import numpy as np

    from foldsmith.training import oof, run

    np.save(tmp_path / "a.npy", np.zeros(shape, np.float32))
    monkeypatch.setattr(run, "train_experiment", lambda *args, **rest: None)
    monkeypatch.setattr(oof, "predict_oof", lambda *args, **rest: [tmp_path / "a.npy"])
    assert doctor.self_test(torch.device("cpu"))["ok"] is ok
