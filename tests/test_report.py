"""The report's numbers, by hand from the files of the chain; the table and the comparison that share them."""

import json
import re

import cv2
import numpy as np
import pytest

from foldsmith import cli
from foldsmith.config import load_config
from foldsmith.data.oof_files import read_sidecar
from foldsmith.data.tables import read_table
from foldsmith.ensemble.file import blend, read_ensemble
from foldsmith.errors import UserError
from foldsmith.metrics import above, best_fbeta, fbeta, image_fbeta
from foldsmith.report.collect import collect
from foldsmith.report.page import build_page
from foldsmith.report.runs import find_runs
from tests.conftest import Chain
from tests.synthetic import multiclass_members, random_members, write_runs
from tests.test_chain import csv_rows, member_probabilities


@pytest.fixture(scope="module")
def content(chain: Chain) -> dict:
    return collect([chain.runs, chain.ensemble])


def truth(chain: Chain) -> tuple[np.ndarray, np.ndarray]:
    """Targets and folds of the chain's table."""
    folds = np.array([int(row["fold"]) for row in csv_rows(chain.runs / "a" / "folds.csv")])
    return read_table(load_config(chain.runs / "a" / "a.yml")).targets(), folds


def line(content: dict, name: str) -> dict:
    return next(each for each in content["leaderboard"] if each["name"] == name)


def test_scores_held_out_scores_and_intervals(chain, content):
    targets, fold_of = truth(chain)
    for name in ("a", "b"):
        p = member_probabilities(chain, name)
        found = line(content, name)
        assert (found["score"], found["threshold"]) == best_fbeta(p, targets)
        rows = np.empty(len(targets))
        for fold in (0, 1):
            inside = fold_of == fold
            threshold = best_fbeta(p[~inside], targets[~inside]).threshold
            rows[inside] = image_fbeta(above(p[inside], threshold), targets[inside])
        assert found["nested"] == rows.mean()
        rng = np.random.default_rng(0)
        means = [rows[rng.integers(0, len(rows), len(rows), dtype=np.int32)].mean() for _ in range(1000)]
        assert [found["low"], found["high"]] == pytest.approx(np.quantile(means, [0.025, 0.975]), abs=1e-12)


def test_the_leaderboard_knows_blends_times_and_what_differs(chain, content):
    ensemble = read_ensemble(chain.ensemble)
    best = line(content, "best")
    assert (best["kind"], best["score"], best["nested"]) == ("blend", ensemble.score, ensemble.nested_score)
    assert [best["low"], best["high"]] == ensemble.score_interval
    scores = [each["score"] for each in content["leaderboard"]]
    assert scores == sorted(scores, reverse=True) and content["notes"] == []
    a = line(content, "a")
    assert a["differs"] == {"loss.name": "bce", "train.seed": 0} and a["epochs"] == 5 and a["folds"] == "2/2"
    timings = [row for fold in (0, 1) for row in csv_rows(chain.runs / "a" / f"fold{fold}" / "timings.csv")]
    assert a["seconds"] == pytest.approx(sum(float(t["train_seconds"]) + float(t["valid_seconds"]) for t in timings))
    assert a["predict_speed"] == np.median(
        [read_sidecar(chain.oof("a", fold)).speed["images_per_second"] for fold in (0, 1)]
    )


def test_every_class_by_hand(chain, content):
    targets, _ = truth(chain)
    p = member_probabilities(chain, "b")
    threshold = best_fbeta(p, targets).threshold
    predicted = above(p, threshold)
    table = content["classes"]["b"]["columns"]
    assert table["name"][7] == "australia" and len(table["name"]) == 55
    for column in (7, 20, 23):
        hits, images = int((predicted & targets)[:, column].sum()), int(targets[:, column].sum())
        count = int(predicted[:, column].sum())
        assert (table["images"][column], table["predicted"][column]) == (images, count)
        assert table["recall"][column] == round(hits / images, 4)
        assert table["precision"][column] == (round(hits / count, 4) if count else None)
        assert table["score"][column] == round(5 * hits / (4 * images + count), 4)
        values = np.unique(p[:, column]) - np.float32(1e-7)
        best = max(fbeta(p[:, [column]].T, targets[:, [column]].T, float(value)) for value in values)
        assert table["best_score"][column] == round(best, 4)
    assert content["classes"]["b"]["threshold"] == threshold


def test_curves_thresholds_members_and_folds(chain, content):
    targets, fold_of = truth(chain)
    rows = csv_rows(chain.runs / "a" / "fold1" / "metrics.csv")
    curve = next(each for each in content["curves"] if each["name"] == "a")["folds"][1]
    assert curve["score"] == [float(row["f2"]) for row in rows] and curve["epoch"] == [1, 2, 3, 4, 5]
    assert curve["train_loss"] == [float(row["train_loss"]) for row in rows]

    (group,) = content["groups"]
    oof = [member_probabilities(chain, name) for name in ("a", "b")]
    assert group["members"] == ["a", "b"]
    assert group["correlation"][0][1] == pytest.approx(np.corrcoef(oof[0].ravel(), oof[1].ravel())[0, 1], abs=1e-4)
    ensemble = read_ensemble(chain.ensemble)
    weights = {member.name: member.weight for member in ensemble.members}
    assert group["blends"]["best"] == [weights.get("a", 0), weights.get("b", 0)]
    sweep = next(each for each in group["sweeps"] if each["name"] == "best")
    together = blend(
        [oof["ab".index(member.name)] for member in ensemble.members], [m.weight for m in ensemble.members]
    )
    for x, y in list(zip(sweep["x"], sweep["y"], strict=True))[5::20]:
        assert y == pytest.approx(fbeta(together, targets, x), abs=2e-3)  # x is rounded to 5 digits
    assert max(sweep["y"]) == round(ensemble.score, 5)
    assert [fold["images"] for fold in group["split"]["folds"]] == np.bincount(fold_of).tolist()


def test_the_gallery_shows_the_worst_images_with_their_names(chain, content):
    targets, _ = truth(chain)
    p = member_probabilities(chain, "a")
    table = read_table(load_config(chain.runs / "a" / "a.yml"))
    losses = -np.log(np.where(targets, p, 1 - p)).sum(axis=1)
    worst = int(losses.argmax())
    card = content["galleries"]["a"]["mistakes"][0]
    assert card["id"] == table.ids[worst] and card["loss"] == pytest.approx(losses[worst], abs=0.01)
    assert card["true"] == [table.classes.names[c] for c in np.flatnonzero(targets[worst])]
    threshold = best_fbeta(p, targets).threshold
    assert {name for name, _ in card["predicted"]} <= {
        table.classes.names[c] for c in np.flatnonzero(p[worst] > np.float32(threshold))
    }
    assert content["pictures"][card["id"]].startswith("data:image/webp;base64,")
    kinds = [each["kind"] for each in content["galleries"]["a"]["issues"]]
    assert kinds == sorted(kinds) and 0 < kinds.count("missing") <= 24


def test_names_never_become_markup(chain, tmp_path):
    evil = "</script><img src=x onerror=alert(1)>"
    members, targets = random_members(0, count=1, rows=60)
    write_runs(tmp_path, members, targets)
    labels = tmp_path / "data" / "labels.csv"
    labels.write_text(labels.read_text().replace("culture::3", evil))
    content = collect([tmp_path / "m0"])
    page = build_page(content)
    assert evil in content["classes"]["m0"]["columns"]["name"] and evil not in page
    assert page.count("</script>") == 2 and not re.search(r"https?://(?!www\.w3\.org/2000/svg)", page)
    text = re.search(r'id="data">(.*?)</script>', page, re.DOTALL)
    assert json.loads(text[1]) == json.loads(json.dumps(content))


def test_other_metrics_multiclass_and_unfinished_runs(chain, tmp_path):
    members, targets = multiclass_members(1, count=2)
    write_runs(tmp_path / "many", members, targets, task="multiclass", metric="accuracy")
    content = collect([tmp_path / "many"])
    for name, p in zip(("m0", "m1"), members, strict=True):
        assert line(content, name)["score"] == pytest.approx((p.argmax(axis=1) == targets.argmax(axis=1)).mean())
        assert line(content, name)["threshold"] is None and content["classes"][name]["beta"] == 1
    assert content["groups"][0]["sweeps"] == [None, None]
    assert all(each["kind"] == "wrong" and each["suggested"] for each in content["galleries"]["m0"]["issues"])

    members, targets = random_members(2, count=2, rows=90)
    write_runs(tmp_path / "rank", members, targets, metric="log_loss")
    (tmp_path / "rank" / "m1" / "m1_f2.npy").unlink()
    content = collect([tmp_path / "rank"])
    assert [each["name"] for each in content["leaderboard"]] == ["m0", "m1"]
    assert line(content, "m1")["score"] is None and line(content, "m1")["folds"] == "0/3 begun, 2/3 predicted"
    assert content["notes"][0].startswith("m1 is not judged: folds of 'm1' are missing")
    assert content["classes"]["m0"]["threshold"] == best_fbeta(members[0], targets).threshold


def test_a_blend_of_other_weights_is_named_and_not_looked_into(chain, tmp_path):
    text = chain.ensemble.read_text()
    sha256 = read_ensemble(chain.ensemble).members[0].sha256[0]
    (tmp_path / "best.yml").write_text(text.replace(sha256, "0" * 64))
    content = collect([chain.runs, tmp_path / "best.yml"])
    assert "best" not in content["classes"] and line(content, "best")["kind"] == "blend"
    assert "was trained or predicted again since the search" in content["notes"][0]


def test_paths_that_hold_nothing_say_so(tmp_path):
    for path, message in ((tmp_path, "holds no experiment"), (tmp_path / "x", "is neither a run's folder nor an")):
        with pytest.raises(UserError, match=message):
            cli.main(["report", str(path), "--output", str(tmp_path / "r.html")])
    assert not (tmp_path / "r.html").exists()


def test_the_demo_s_folder_is_found_below_runs(chain, tmp_path):
    demo = tmp_path / "runs" / "demo"
    demo.mkdir(parents=True)
    for name in ("a", "b"):
        (demo / name).symlink_to(chain.runs / name)
    (demo / "best.yml").symlink_to(chain.ensemble)
    found = find_runs([tmp_path / "runs"])
    assert list(found.runs) == ["a", "b"] and list(found.ensembles) == ["best"]


def test_leaderboard_and_report_as_commands(chain, tmp_path, capsys):
    cli.main(["leaderboard", str(chain.runs), str(chain.ensemble)])
    text = capsys.readouterr().out.splitlines()
    assert text[0].split()[:4] == ["experiment", "metric", "score", "95"] and len(text) == 4
    cli.main(["leaderboard", str(chain.runs), "--json"])
    lines = json.loads(capsys.readouterr().out)
    assert {each["name"] for each in lines} == {"a", "b"} and lines[0]["score"] >= lines[1]["score"]
    for each in lines:
        row = next(row for row in text if row.split()[1] == each["name"])
        assert f"{each['score']:.4f}" in row and f"{each['low']:.4f} .. {each['high']:.4f}" in row
    cli.main(["report", str(chain.runs), "--output", str(tmp_path / "report.html")])
    assert capsys.readouterr().out.startswith(f"{tmp_path}/report.html: 2 models, 0.")
    page = (tmp_path / "report.html").read_bytes()
    cli.main(["report", str(chain.runs), "--output", str(tmp_path / "report.html")])
    assert (tmp_path / "report.html").read_bytes() == page


def test_compare_names_keys_interval_and_classes(chain, capsys):
    cli.main(["compare", str(chain.runs / "a"), str(chain.runs / "b"), "--classes", "3"])
    text = capsys.readouterr().out
    assert re.search(r"^loss\.name +bce  ->  forgiving$", text, re.MULTILINE) and "train.seed" in text
    targets, fold_of = truth(chain)
    rows = []
    for name in ("a", "b"):
        p, own = member_probabilities(chain, name), np.empty(len(targets))
        for fold in (0, 1):
            inside = fold_of == fold
            threshold = best_fbeta(p[~inside], targets[~inside]).threshold
            own[inside] = image_fbeta(above(p[inside], threshold), targets[inside])
        rows.append(own)
    difference = rows[1] - rows[0]
    rng = np.random.default_rng(0)
    drawn = [difference[rng.integers(0, len(difference), len(difference), dtype=np.int32)].mean() for _ in range(1000)]
    low, high = np.quantile(drawn, [0.025, 0.975])
    assert f"{difference.mean():+.5f}, 95 % of 1000 paired resamples {low:+.5f} .. {high:+.5f}" in text
    share = (np.array(drawn) > 1e-9).mean()
    assert f"b is better in {share:.1%} of the resamples" in text
    gains = [float(row.split()[-1]) for row in text.splitlines() if re.search(r" -> .* [+-]\d\.\d{3}$", row)]
    assert gains == sorted(gains, reverse=True) and 0 < len(gains) <= 6


def test_compare_refuses_what_can_t_be_compared(chain, tmp_path):
    members, targets = random_members(0, count=1, rows=60)
    write_runs(tmp_path, members, targets)
    with pytest.raises(UserError, match="has another class list than"):
        cli.main(["compare", str(chain.runs / "a"), str(tmp_path / "m0")])
    with pytest.raises(UserError, match="are the same experiment"):
        cli.main(["compare", str(chain.runs / "a"), str(chain.runs / "a")])
    with pytest.raises(UserError, match="is not a run's folder"):
        cli.main(["compare", str(chain.runs), str(chain.runs / "a")])


def test_the_page_stays_small_with_1103_classes(tmp_path):
    members, targets = random_members(0, count=3, rows=300, classes=1103)
    write_runs(tmp_path, members, targets)
    images = tmp_path / "data" / "train"
    images.mkdir()
    noise = np.random.default_rng(0).integers(0, 256, (40, 300, 300, 3), dtype=np.uint8)
    for row in range(300):  # noise is what compresses worst
        cv2.imwrite(str(images / f"{row:04x}.jpg"), noise[row % 40])
    content = collect([tmp_path])
    size = len(build_page(content).encode())
    assert len(content["pictures"]) > 100 and len(content["classes"]["m0"]["columns"]["name"]) == 1103
    assert size < 15_000_000
    # Ten times as many experiments: every further one adds its classes and names, pictures are bounded.
    one = len(json.dumps([content["classes"]["m2"], content["galleries"]["m2"]]))
    assert 8_500_000 + 20 * one < 15_000_000
