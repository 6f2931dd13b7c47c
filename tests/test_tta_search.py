"""The search for views: by hand on made-up probabilities, and on a real run."""

import numpy as np

import predict_oof
from foldsmith.metrics import find_metric
from foldsmith.training.tta_search import Merge, Step, add_views, advise, describe_views
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
    seconds, mean = {"identity": 2.0, "hflip": 3.0, "vflip": 1.0}, Merge("mean", "multiclass")
    steps = add_views(views, targets, metric, seconds, mean)
    assert steps == [Step("identity", 0.5, 1.0), Step("hflip", 1.0, 2.5), Step("vflip", 0.5, 3.0)]
    assert advise(steps, metric) == ["identity", "hflip"]
    assert describe_views(steps, metric).splitlines()[2].split() == ["hflip", "1.0000", "+0.5000", "2.50", "x"]

    loss = find_metric("log_loss", "multiclass")  # the smaller the better
    assert add_views(views, targets, loss, seconds, mean)[1].view == "hflip"


def test_a_view_pays_for_its_time_or_is_not_advised():
    metric = find_metric("f2", "multilabel")
    fast = [Step("identity", 0.5, 1.0), Step("hflip", 0.5006, 2.0), Step("vflip", 0.5006, 3.0)]
    assert advise(fast, metric) == ["identity", "hflip"]
    slow = [Step("identity", 0.5, 1.0), Step("scale:1.5", 0.5006, 3.25)]
    assert advise(slow, metric) == ["identity"]
    together = [Step("identity", 0.5, 1.0), Step("a", 0.5002, 2.0), Step("b", 0.5011, 3.0)]
    assert advise(together, metric) == ["identity", "a", "b"]


def test_views_are_merged_as_they_will_be():
    p = [np.array([[0.2, 0.9]], dtype=np.float32), np.array([[0.6, 0.5]], dtype=np.float32)]
    np.testing.assert_allclose(Merge("mean", "multilabel")(p), [[0.4, 0.7]], rtol=1e-6)
    np.testing.assert_allclose(Merge("max", "multilabel")(p), [[0.6, 0.9]], rtol=1e-6)
    np.testing.assert_allclose(Merge("geometric", "multilabel")(p), np.sqrt([[0.12, 0.45]]), rtol=1e-5)
    odds = np.sqrt([[0.25 * 1.5, 9 * 1.0]])
    np.testing.assert_allclose(Merge("logits", "multilabel")(p), odds / (1 + odds), rtol=1e-5)


def test_it_prints_a_table_and_writes_nothing(chain: Chain, capsys, tmp_path):
    before = sorted(path.name for path in (chain.runs / "a").iterdir())
    predict_oof.main(["--weights", str(chain.weights("a")), "--output", str(chain.runs), "--tta", "search"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["added", "view", "f2", "gain", "time"] and lines[1].startswith("identity")
    assert len(lines) == 1 + 8 + 1 and lines[-1].startswith("test.tta: [identity")
    assert sorted(path.name for path in (chain.runs / "a").iterdir()) == before
