"""Submissions from what was predicted before: kept predictions, votes, means."""

import numpy as np
import pytest

import ensemble_inference
from foldsmith.data.sheets import read_csv
from foldsmith.errors import UserError
from tests.conftest import infer


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
    with pytest.raises(UserError, match=r"holds float32 \(69, 55\) instead of finite float32 \(70, 55\)"):
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
    for words in (["--vote", "a", "--mean", "b"], [], ["best.yml", "--threshold", "0.2"]):
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
