"""Submissions from what was predicted before: kept predictions, votes, means."""

import json

import numpy as np
import pytest

import ensemble_inference
from foldsmith.data.sheets import read_csv
from foldsmith.ensemble.file import read_ensemble
from foldsmith.errors import UserError
from foldsmith.inference.combine import submit_predictions, vote
from tests.conftest import infer
from tests.test_killed_inference import is_valid


def test_kept_predictions_give_the_same_submission_and_another(chain, few, whole, tmp_path, capsys):
    kept, output = tmp_path / "kept", tmp_path / "s.csv"
    infer(chain, output, "--data", str(few), "--keep-predictions", str(kept))
    assert output.read_bytes() == whole
    infer(chain, tmp_path / "again.csv", "--from-predictions", str(kept))
    assert (tmp_path / "again.csv").read_bytes() == whole
    infer(chain, tmp_path / "more.csv", "--from-predictions", str(kept), "--threshold", "0.01")
    assert (tmp_path / "more.csv").stat().st_size > len(whole)

    files = [str(kept / f"{name}.npy") for name in ("a", "b")]
    mean = tmp_path / "mean.csv"
    ensemble_inference.main(["--mean", *files, "--threshold", "0.1", "--output", str(mean)])
    a, b = (np.load(file) for file in files)
    expected = (a * np.float32(0.5) + b * np.float32(0.5)) > np.float32(0.1)
    first = {str(index) for index in np.flatnonzero(expected[0])}
    assert set(read_csv(mean).column("attribute_ids")[0].split()) == first
    ensemble_inference.main(["--geometric", *files, "--threshold", "0.1", "--output", str(mean)])
    expected = np.sqrt(a.astype(np.float64) * b) > 0.1
    assert set(read_csv(mean).column("attribute_ids")[0].split()) == {str(i) for i in np.flatnonzero(expected[0])}
    with pytest.raises(UserError, match="the threshold is missing"):
        ensemble_inference.main(["--mean", *files])
    np.save(kept / "a.npy", a[:-1])
    with pytest.raises(UserError, match=r"holds float32 \(69, 55\) instead of float32 \(70, 55\)"):
        infer(chain, tmp_path / "again.csv", "--from-predictions", str(kept))


def test_a_vote_keeps_what_most_submissions_have(tmp_path):
    texts = ["id,tags\nx,1 2\ny,3\n", "id,tags\nx,2\ny,\n", "id,tags\nx,2 5 1\ny,3 4\n"]
    for number, text in enumerate(texts):
        (tmp_path / f"{number}.csv").write_text(text)
    files = [str(tmp_path / f"{number}.csv") for number in range(3)]
    ensemble_inference.main(["--vote", *files, "--output", str(tmp_path / "v.csv")])
    assert (tmp_path / "v.csv").read_text() == "id,tags\nx,1 2\ny,3\n"
    (tmp_path / "2.csv").write_text("id,tags\ny,3\nx,2\n")
    with pytest.raises(UserError, match="has other ids than"):
        ensemble_inference.main(["--vote", *files, "--output", str(tmp_path / "v.csv")])
    assert (tmp_path / "v.csv").read_text() == "id,tags\nx,1 2\ny,3\n"


def test_means_of_probability_files(tmp_path):
    for name, rows in (("a", "x,0.5,0.25\n"), ("b", "x,0.125,1.0\n")):
        (tmp_path / f"{name}.csv").write_text("id,cat,dog\n" + rows)
    files = [str(tmp_path / "a.csv"), str(tmp_path / "b.csv")]
    ensemble_inference.main(["--mean", *files, "--output", str(tmp_path / "m.csv")])
    assert (tmp_path / "m.csv").read_text() == "id,cat,dog\nx,0.3125,0.625\n"
    ensemble_inference.main(["--geometric", *files, "--output", str(tmp_path / "m.csv")])
    values = [float(text) for text in (tmp_path / "m.csv").read_text().splitlines()[1].split(",")[1:]]
    assert values == pytest.approx([0.25, 0.5], rel=1e-6)


def test_arguments_that_exclude_each_other(capsys):
    for words in (
        ["--vote", "a", "--mean", "b"],
        [],
        ["best.yml", "--threshold", "0.2"],
        ["--vote", "a", "--deadline", "5m"],
    ):
        with pytest.raises(SystemExit) as caught:
            ensemble_inference.main(words)
        assert caught.value.code == 2


def test_what_is_no_probability_is_refused(tmp_path):
    for number, value in enumerate(["3", "nan", "0.5"]):
        (tmp_path / f"{number}.csv").write_text(f"id,cat\nx,{value}\n")
    for number in (0, 1):
        with pytest.raises(UserError, match="holds values that are no probabilities"):
            ensemble_inference.main(["--mean", str(tmp_path / f"{number}.csv"), "--output", str(tmp_path / "o.csv")])
    for words, message in [
        (["--threshold", "nan"], "expected a number in 0..1, got nan"),
        (["--threshold", "20"], "expected a number in 0..1, got 20.0"),
    ]:
        with pytest.raises(UserError, match=message):
            ensemble_inference.main(["--mean", str(tmp_path / "2.csv"), *words])
    assert not (tmp_path / "o.csv").exists()


def test_one_label_here_and_there_is_no_single_label_task(tmp_path):
    for number, label in enumerate("ABC"):
        (tmp_path / f"{number}.csv").write_text(f"id,tags\nx,{label}\ny,A B\n")
    files = [str(tmp_path / f"{number}.csv") for number in range(3)]
    ensemble_inference.main(["--vote", *files, "--output", str(tmp_path / "v.csv")])
    assert (tmp_path / "v.csv").read_text() == "id,tags\nx,\ny,A B\n"


def test_predictions_of_others_are_refused(chain, few, tmp_path):
    kept, blend = tmp_path / "kept", read_ensemble(chain.ensemble)
    infer(chain, tmp_path / "s.csv", "--data", str(few), "--keep-predictions", str(kept))
    first, *rest = blend.members
    other = first.model_copy(update={"views": ["identity"]})
    lighter = first.model_copy(update={"weight": first.weight / 2})
    for change, message in (
        ({"classes_sha256": "0" * 64}, "holds predictions of other classes than the ensemble's"),
        ({"members": [other, *rest]}, "by other weights, views or merge than the ensemble's"),
        ({"threshold": [0.1, 0.2, 0.3]}, "threshold: 3 thresholds do not fit 55 classes"),
        ({"members": [lighter, *rest]}, None),
    ):
        changed = blend.model_copy(update=change)
        if message is None:
            submit_predictions(changed, kept, tmp_path / "o.csv", None)
            assert is_valid(tmp_path / "o.csv", few)
            continue
        with pytest.raises(UserError, match=message):
            submit_predictions(changed, kept, tmp_path / "o.csv", None)
        assert not (tmp_path / "o.csv").exists()
    form = json.loads((kept / "predictions.json").read_text())
    for key, value in (("bad", None), ("bad", [70]), ("ids", 3), ("classes", ["1"]), ("members", []), ("task", None)):
        (kept / "predictions.json").write_text(json.dumps(form | {key: value}))
        with pytest.raises(UserError, match="is not what --keep-predictions writes") as caught:
            submit_predictions(blend, kept, tmp_path / "o.csv", None)
        assert caught.value.code == 4
    (kept / "predictions.json").write_text(json.dumps(form))
    np.save(kept / "a.npy", np.load(kept / "a.npy") * 7)
    with pytest.raises(UserError, match=r"in 0\.\.1"):
        submit_predictions(blend, kept, tmp_path / "o.csv", None)


def test_votes_on_labels_of_several_words(chain, tmp_path):
    for number, label in enumerate(["red fox", "red panda", "red fox"]):
        (tmp_path / f"{number}.csv").write_text(f'label,id\n{label},x\n"a, b",y\n')
    files = [tmp_path / f"{number}.csv" for number in range(3)]
    vote(files, tmp_path / "v.csv", single=True)
    assert (tmp_path / "v.csv").read_text() == 'label,id\nred fox,x\n"a, b",y\n'
    for number, tags in enumerate(["a, b", "b,c", "c ,b"]):
        (tmp_path / f"{number}.csv").write_text(f'id,tags\nx,"{tags}"\n')
    vote(files, tmp_path / "v.csv")
    assert set(read_csv(tmp_path / "v.csv").column("tags")[0].split(",")) == {"b", "c"}


def test_ids_may_stand_behind_the_probabilities(tmp_path):
    (tmp_path / "a.csv").write_text("cat,id,dog\n0.5,0001,0.25\n0.5,1e5,0.25\n")
    ensemble_inference.main(["--mean", str(tmp_path / "a.csv"), "--output", str(tmp_path / "m.csv")])
    assert (tmp_path / "m.csv").read_text() == (tmp_path / "a.csv").read_text()
