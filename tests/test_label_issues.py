"""Labels that were taken away or added are found again, far more often than by chance."""

import csv

import numpy as np
import pytest

from foldsmith import cli
from foldsmith.errors import UserError
from foldsmith.report.collect import collect
from foldsmith.report.gallery import SHOWN
from foldsmith.report.noise import KINDS, label_issues
from tests.conftest import Chain
from tests.synthetic import multiclass_members, random_members, write_runs
from tests.test_chain import csv_rows


def test_planted_noise_is_found(tmp_path, capsys):
    """30 labels removed, 30 added in a copy of the table; the models have seen neither."""
    members, true = random_members(0, count=2, rows=1000, classes=20)
    rng = np.random.default_rng(1)
    rows, columns = np.nonzero(true)
    removed = rng.choice(len(rows), 30, replace=False)
    removed = {(int(rows[i]), int(columns[i])) for i in removed}
    rows, columns = np.nonzero(~true)
    added = {(int(rows[i]), int(columns[i])) for i in rng.choice(len(rows), 30, replace=False)}
    noisy = true.copy()
    for row, column in removed | added:
        noisy[row, column] = not noisy[row, column]
    write_runs(tmp_path, members, noisy)

    output = tmp_path / "issues.csv"
    cli.main(["label-issues", str(tmp_path / "m0"), str(tmp_path / "m1"), "--output", str(output)])
    found = csv_rows(output)
    for kind, planted in (("missing", removed), ("wrong", added)):
        first = [(int(row["id"], 16), int(row["label"])) for row in found if row["kind"] == kind][:30]
        hits = sum(pair in planted for pair in first)
        # By chance one of 600 is a removed label, and one of 53 an added one.
        assert hits / len(first) >= 0.7 and hits >= 12, kind
        doubts = [float(row["doubt"]) for row in found if row["kind"] == kind]
        assert doubts == sorted(doubts, reverse=True)
    assert found[0]["name"] == f"{'culture' if int(found[0]['label']) < 10 else 'tag'}::{found[0]['label']}"
    assert capsys.readouterr().out.splitlines()[-1].startswith(f"{output}: {len(found)} rows")


def test_the_rule_by_hand():
    """Class 0: labelled images say 0.9 and 0.7 (mean 0.8), the others 0.85, 0.1, 0.05, 0.0 (mean 0.25)."""
    p = np.array([[0.9], [0.7], [0.85], [0.1], [0.05], [0.0]], dtype=np.float32)
    y = np.array([[1], [1], [0], [0], [0], [0]], dtype=bool)
    (issue,) = label_issues(p, y, "multilabel")
    assert (issue.kind, issue.row, issue.column) == ("missing", 2, 0)
    assert (issue.usual, issue.doubt) == (pytest.approx(0.8), pytest.approx(0.85))
    p[1] = 0.2
    wrong = [each for each in label_issues(p, y, "multilabel") if each.kind == "wrong"]
    assert [(each.row, each.probability) for each in wrong] == [(1, pytest.approx(0.2))]


def test_one_label_an_image_suggests_the_other_class():
    members, targets = multiclass_members(0, count=1, rows=300)
    given = targets.argmax(axis=1)
    sure = np.flatnonzero((members[0].argmax(axis=1) == given) & (members[0].max(axis=1) > 0.8))[:10]
    swapped = targets.copy()
    for row in sure:
        swapped[row] = np.roll(targets[row], 1)
    issues = label_issues(members[0], swapped, "multiclass", most=20)
    assert {issue.row for issue in issues} >= set(sure.tolist())
    assert all(issue.suggested == given[issue.row] for issue in issues if issue.row in sure)


def test_a_class_without_images_and_one_with_all(chain: Chain):
    p = np.full((4, 2), 0.5, dtype=np.float32)
    y = np.array([[0, 1]] * 4, dtype=bool)
    assert label_issues(p, y, "multilabel") == []


def test_real_predictions_give_names_of_the_class_list(chain, tmp_path):
    output = tmp_path / "issues.csv"
    cli.main(["label-issues", str(chain.runs / "a"), "--output", str(output), "--most", "50"])
    with open(output, encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    table = {row["id"]: row["attribute_ids"].split() for row in csv_rows(chain.folder / "train.csv")}
    for row in rows:
        assert (row["label"] in table[row["id"]]) == (row["kind"] == "wrong")
    assert sum(row["kind"] == "missing" for row in rows) == 50
    with pytest.raises(UserError, match="--most: expected a whole number above 0, got 0"):
        cli.main(["label-issues", str(chain.runs / "a"), "--most", "0"])


def test_the_csv_and_the_report_name_the_same_issues_in_the_same_order(chain, tmp_path):
    galleries = collect([chain.runs])["galleries"]
    orders = []
    for name in ("a", "b"):
        output = tmp_path / f"{name}.csv"
        cli.main(["label-issues", str(chain.runs / name), "--output", str(output)])
        rows = csv_rows(output)
        for kind in KINDS:
            listed = [(row["id"], row["name"], float(row["probability"])) for row in rows if row["kind"] == kind]
            cards = [(card["id"], card["label"], card["probability"]) for card in galleries[name][kind]]
            assert len(cards) == min(SHOWN, len(listed)) > 0
            assert [card[:2] for card in cards] == [issue[:2] for issue in listed[: len(cards)]], (name, kind)
            np.testing.assert_allclose([card[2] for card in cards], [row[2] for row in listed[: len(cards)]], atol=6e-4)
            orders.append([card[:2] for card in cards])
    assert all(order not in orders[:number] for number, order in enumerate(orders)), "each model has lists of its own"
