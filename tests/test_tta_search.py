"""The search for views: by hand on made-up probabilities, and on a real run."""

import numpy as np

import predict_oof
from foldsmith.metrics import find_metric
from foldsmith.training.tta_search import add_views, advise, describe_views
from tests.conftest import Chain


def test_views_are_added_while_they_help():
    targets = np.array([[True, False], [False, True], [True, False], [False, True]])
    right = np.where(targets, 0.9, 0.1).astype(np.float32)
    views = {
        "identity": np.array([[0.6, 0.5], [0.4, 0.5], [0.2, 0.5], [0.5, 0.4]], dtype=np.float32),
        "hflip": right,
        "vflip": 1 - right,
    }
    metric = find_metric("accuracy", "multiclass")
    steps = add_views(views, targets, metric)
    assert [(step.view, step.score) for step in steps] == [("identity", 0.5), ("hflip", 1.0), ("vflip", 0.5)]
    assert advise(steps, metric) == ["identity", "hflip"]
    assert describe_views(steps, metric).splitlines()[2].split() == ["hflip", "1.0000", "+0.5000", "2", "x"]

    loss = find_metric("log_loss", "multiclass")  # the smaller the better
    assert add_views(views, targets, loss)[1].view == "hflip"


def test_it_prints_a_table_and_writes_nothing(chain: Chain, capsys, tmp_path):
    before = sorted(path.name for path in (chain.runs / "a").iterdir())
    predict_oof.main(["--weights", str(chain.weights("a")), "--output", str(chain.runs), "--tta", "search"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["added", "view", "f2", "gain", "time"] and lines[1].startswith("identity")
    assert len(lines) == 1 + 8 + 1 and lines[-1].startswith("test.tta: [identity")
    assert sorted(path.name for path in (chain.runs / "a").iterdir()) == before
