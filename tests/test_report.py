"""The report's numbers, by hand from the files of the chain; the table and the comparison that share them."""

import json
import re
from dataclasses import replace

import cv2
import numpy as np
import pytest

import ensemble_search
from foldsmith import cli
from foldsmith.config import load_config
from foldsmith.data.oof_files import read_sidecar
from foldsmith.data.tables import read_table
from foldsmith.ensemble.file import blend, read_ensemble
from foldsmith.ensemble.members import OofData
from foldsmith.errors import UserError
from foldsmith.metrics import above, best_fbeta, decide, fbeta, image_fbeta
from foldsmith.report.collect import collect, judge_runs
from foldsmith.report.gallery import MOST_BYTES, data_uri, gallery
from foldsmith.report.judge import Decision
from foldsmith.report.leaderboard import WAITING, as_text
from foldsmith.report.page import build_page
from foldsmith.report.runs import find_runs
from tests.conftest import Chain, by_hand, edit_sidecar
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
    assert [each["place"] for each in content["leaderboard"]] == [1, 2, 3]
    assert best["weights"] == {member.name: member.weight for member in ensemble.members} and best["differs"] == {}
    assert best["seconds"] == pytest.approx(line(content, "a")["seconds"] + line(content, "b")["seconds"])
    speeds = [member.images_per_second for member in ensemble.members]
    assert best["predict_speed"] == pytest.approx(1 / (1 / speeds[0] + 1 / speeds[1]))
    assert (best["train_speed"], best["epochs"], best["validation_score"]) == (None, None, None)
    a = line(content, "a")
    assert a["differs"] == {"loss.name": "bce", "train.seed": 0} and a["epochs"] == 5 and a["folds"] == "2/2"
    timings = [row for fold in (0, 1) for row in csv_rows(chain.runs / "a" / f"fold{fold}" / "timings.csv")]
    assert a["train_speed"] == np.median([float(row["train_images_per_second"]) for row in timings])
    epochs = [
        [float(row["f2"]) for row in csv_rows(chain.runs / "a" / f"fold{fold}" / "metrics.csv")] for fold in (0, 1)
    ]
    assert a["validation_score"] == pytest.approx((max(epochs[0]) + max(epochs[1])) / 2)
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
    names, threshold = table.classes.names, best_fbeta(p, targets).threshold
    losses = -np.log(np.where(targets, p, 1 - p)).sum(axis=1)
    found = content["galleries"]["a"]
    for card, row in zip(found["mistakes"], np.argsort(-losses, kind="stable")[:24], strict=True):
        predicted = sorted(np.flatnonzero(p[row] > np.float32(threshold)), key=lambda at: -p[row, at])
        assert card == {
            "id": table.ids[row],
            "loss": pytest.approx(losses[row], abs=0.01),
            "true": [[names[c], round(float(p[row, c]), 3), c in predicted] for c in np.flatnonzero(targets[row])],
            "predicted": [[names[c], round(float(p[row, c]), 3), targets[row, c]] for c in predicted[:8]],
            "more": max(0, len(predicted) - 8),
            "picture": card["picture"],
        }
    assert content["pictures"][found["mistakes"][0]["picture"]].startswith("data:image/webp;base64,")
    assert {each["kind"] for each in found["missing"]} == {"missing"} and 0 < len(found["missing"]) <= 24


def test_a_true_label_beyond_the_eighth_predicted_one_is_a_hit():
    p = np.array([[0.9, 0.8, 0.7, 0.6, 0.55, 0.5, 0.45, 0.4, 0.35, 0.3, 0.1]], dtype=np.float32)
    targets = np.zeros((1, 11), dtype=bool)
    targets[0, [0, 9, 10]] = True
    data = OofData([], targets, np.zeros(1, dtype=np.int64), [], list("abcdefghijk"), "", "multilabel", "f2")
    (card,), *_ = gallery(p, data, ["x"], Decision(0.2))
    assert card["true"] == [["a", 0.9, True], ["j", 0.3, True], ["k", 0.1, False]]
    wrong = {"b": 0.8, "c": 0.7, "d": 0.6, "e": 0.55, "f": 0.5, "g": 0.45, "h": 0.4}
    assert card["predicted"] == [["a", 0.9, True], *([name, value, False] for name, value in wrong.items())]
    assert card["more"] == 2


@pytest.mark.parametrize(
    "words",
    [
        ["--thresholds", "per-class"],
        ["--thresholds", "per-group", "--max-labels", "2"],
        ["--min-labels", "1", "--max-labels", "3"],
        ["--metric", "f1_macro"],
        ["--metric", "map"],
    ],
)
def test_a_blend_is_shown_as_inference_decides_it(tmp_path, words):
    members, targets = random_members(9, rows=600)
    scale = np.where(np.arange(20) < 10, 1.0, 0.15).astype(np.float32)  # the second group's values are all low
    oof = write_runs(tmp_path, [member * scale for member in members], targets)
    ensemble_search.main([str(tmp_path / "best"), *oof, *words])
    ensemble = read_ensemble(tmp_path / "best.yml")
    content = collect([tmp_path])
    probabilities = blend(
        [members[int(each.name[1:])] * scale for each in ensemble.members], [each.weight for each in ensemble.members]
    )
    predicted = decide(probabilities, ensemble.threshold, ensemble.min_labels, ensemble.max_labels)
    shown = content["classes"]["best"]
    assert shown["score"] == ensemble.score == line(content, "best")["score"] and content["notes"] == []
    assert shown["threshold"] == line(content, "best")["threshold"] == ensemble.threshold
    assert (shown["min_labels"], shown["max_labels"]) == (ensemble.min_labels, ensemble.max_labels)
    how = ["by class"] if isinstance(ensemble.threshold, list) else [f"{ensemble.threshold:.4f}"]
    how += [f"at least {ensemble.min_labels}"] if ensemble.min_labels else []
    how += [f"at most {ensemble.max_labels}"] if ensemble.max_labels else []
    (row,) = [row for row in as_text(judge_runs([tmp_path])[0]).splitlines() if " best " in row]
    assert f"  {', '.join(how)}  " in row
    assert shown["columns"]["predicted"] == predicted.sum(axis=0).tolist()
    used = np.broadcast_to(ensemble.threshold, 20)
    assert shown["columns"]["threshold"] == [round(float(each), 4) for each in used]
    for cards in content["galleries"]["best"].values():
        for card in cards:
            row = int(card["id"], 16)
            assert len(card["predicted"]) + card["more"] == predicted[row].sum()
            assert [hit for *_, hit in card["true"]] == predicted[row][targets[row]].tolist()
    titles = [sweep["name"] for sweep in content["groups"][0]["sweeps"] if sweep["name"].startswith("best")]
    plain = isinstance(ensemble.threshold, float) and "map" not in words
    assert titles == (["best"] if plain else [] if "map" in words else ["best (one threshold for all, no limits)"])


def test_a_blend_whose_score_changed_since_the_search_says_so(tmp_path):
    members, targets = random_members(3, rows=90)
    ensemble_search.main([str(tmp_path / "best"), *write_runs(tmp_path, members, targets)])
    text = by_hand((tmp_path / "best.yml").read_text())
    (tmp_path / "best.yml").write_text(re.sub(r"(?m)^threshold: .*", "threshold: 0.9", text))
    (note,) = collect([tmp_path])["notes"]
    assert note.startswith("the blend best scores 0.") and note.endswith("something was changed since the search")


def test_pictures_are_shared_out_among_models_blends_first(tmp_path, monkeypatch):
    members, targets = random_members(4, count=2, rows=200)
    ensemble_search.main([str(tmp_path / "best"), *write_runs(tmp_path, members, targets)])
    images = tmp_path / "data" / "train"
    images.mkdir()
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    for row in range(200):
        cv2.imwrite(str(images / f"{row:04x}.png"), noise)
    one = len(data_uri(images / "0000.png"))
    monkeypatch.setattr("foldsmith.report.gallery.MOST_BYTES", 20 * one + 1)
    content = collect([tmp_path])
    assert len(content["pictures"]) == 20
    shown = {name: [c["picture"] is not None for c in of["mistakes"]] for name, of in content["galleries"].items()}
    heads = {name: each.index(False) for name, each in shown.items()}
    assert min(heads.values()) >= 2 and heads["best"] == max(heads.values())
    monkeypatch.setattr("foldsmith.report.gallery.MOST_BYTES", one + 1)
    content = collect([tmp_path])
    assert len(content["pictures"]) == 1 and content["galleries"]["best"]["mistakes"][0]["picture"] == 0


def test_equal_ids_of_two_competitions_have_their_own_pictures(tmp_path):
    for seed, (name, value) in enumerate((("one", 0), ("two", 255))):
        members, targets = random_members(seed, count=1, rows=60)
        write_runs(tmp_path / name, members, targets)
        (tmp_path / name / "m0").rename(tmp_path / name / name)
        for file in (tmp_path / name / name).iterdir():
            file.rename(file.with_name(file.name.replace("m0", name)))
        for file in (tmp_path / name / name).glob("*.json"):
            edit_sidecar(file, name=name)
        (tmp_path / name / "data" / "train").mkdir()
        for row in range(60):
            picture = np.full((8, 8, 3), value, dtype=np.uint8)
            cv2.imwrite(str(tmp_path / name / "data" / "train" / f"{row:04x}.png"), picture)
    content = collect([tmp_path / "one", tmp_path / "two"])
    shown = {name: {c["id"]: c["picture"] for c in content["galleries"][name]["mistakes"]} for name in ("one", "two")}
    same = set(shown["one"]) & set(shown["two"])
    assert same and all(content["pictures"][shown["one"][i]] != content["pictures"][shown["two"][i]] for i in same)
    assert [group["members"] for group in content["groups"]] == [["one"], ["two"]]
    assert content["notes"] == ["scores compare among experiments of the same images, labels and folds: one; two"]


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
    assert content["groups"][0]["sweeps"] == []
    assert content["galleries"]["m0"]["wrong"] and content["galleries"]["m0"]["missing"] == []
    assert all(each["suggested"] for each in content["galleries"]["m0"]["wrong"])

    members, targets = random_members(2, count=2, rows=90)
    write_runs(tmp_path / "rank", members, targets, metric="log_loss")
    (tmp_path / "rank" / "m1" / "m1_f2.npy").unlink()
    content = collect([tmp_path / "rank"])
    assert [each["name"] for each in content["leaderboard"]] == ["m0", "m1"]
    last = line(content, "m1")
    assert (last["score"], last["place"], last["folds"]) == (None, None, "0/3 begun, 2/3 predicted")
    assert content["notes"][0].startswith("m1 is not judged: folds of 'm1' are missing")
    assert content["classes"]["m0"]["threshold"] == best_fbeta(members[0], targets).threshold


def test_a_blend_of_other_weights_is_named_and_not_looked_into(chain, tmp_path):
    text = by_hand(chain.ensemble.read_text())
    sha256 = read_ensemble(chain.ensemble).members[0].sha256[0]
    (tmp_path / "best.yml").write_text(text.replace(sha256, "0" * 64))
    content = collect([chain.runs, tmp_path / "best.yml"])
    assert "best" not in content["classes"] and line(content, "best")["kind"] == "blend"
    assert "was trained or predicted again since the search" in content["notes"][0]
    assert judge_runs([chain.runs, tmp_path / "best.yml"])[1] == content["notes"]
    for change, message in (
        (lambda text: re.sub(r"classes_sha256: \w+", "classes_sha256: x", text), "it is of another class list"),
        (
            lambda text: re.sub(r"(?m)^threshold: .*", "threshold: [0.1, 0.2]", text),
            "it has 2 thresholds for 55 classes",
        ),
    ):
        (tmp_path / "best.yml").write_text(change(text))
        (note,) = collect([chain.runs, tmp_path / "best.yml"])["notes"]
        assert note == f"the blend best is not looked into, its scores are its file's: {message}"


def test_a_blend_whose_members_are_not_all_there_has_no_time(chain):
    lines, notes = judge_runs([chain.runs / "a", chain.ensemble])
    best = next(each for each in lines if each.kind == "blend")
    assert best.seconds is None and best.score == read_ensemble(chain.ensemble).score
    reason = "its members b are not among the experiments named"
    assert notes == [f"the blend best is not looked into, its scores are its file's: {reason}"]


def test_ensembles_of_one_name_are_told_apart(chain, tmp_path):
    (tmp_path / "best.yml").write_text(chain.ensemble.read_text())
    found = find_runs([chain.runs, chain.ensemble, tmp_path / "best.yml", chain.ensemble])
    assert list(found.ensembles) == [str(chain.ensemble.resolve()), str((tmp_path / "best.yml").resolve())]


def test_an_output_that_can_t_be_written_is_refused_first(chain, tmp_path):
    for words in (
        ["report", str(chain.runs)],
        ["label-issues", str(chain.runs / "a")],
        ["preview", "--config", "clipart_tiny"],
    ):
        with pytest.raises(UserError, match="--output: can't be written: it is a folder"):
            cli.main([*words, "--output", str(tmp_path)])


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
    headings = re.split(r" {2,}", text[0].strip())
    assert headings[:7] == ["experiment", "metric", "score", "held out", "95 %", "validation", "threshold"]
    assert headings[7:] == ["epochs", "time", "train/s", "predict/s", "differs in"] and len(text) == 4
    cli.main(["leaderboard", str(chain.runs), str(chain.ensemble), "--json"])
    lines = json.loads(capsys.readouterr().out)
    assert lines == collect([chain.runs, chain.ensemble])["leaderboard"]
    for place, (each, row) in enumerate(zip(lines, text[1:], strict=True), start=1):
        validation = "-" if each["kind"] == "blend" else f"{each['validation_score']:.4f}"
        interval = f"{each['low']:.4f} .. {each['high']:.4f}"
        cells = [str(place), each["name"], "f2", f"{each['score']:.4f}", f"{each['nested']:.4f}", interval, validation]
        assert re.split(r" {2,}", row.strip())[:7] == cells
    cli.main(["report", str(chain.runs), "--output", str(tmp_path / "report.html")])
    assert capsys.readouterr().out.startswith(f"{tmp_path}/report.html: 2 models, 0.")
    page = (tmp_path / "report.html").read_bytes()
    cli.main(["report", str(chain.runs), "--output", str(tmp_path / "report.html")])
    assert (tmp_path / "report.html").read_bytes() == page


def test_a_nan_in_a_run_s_numbers_is_a_gap_in_the_report(tmp_path):
    members, targets = random_members(0, count=2, rows=90)
    write_runs(tmp_path, members, targets)
    for name in ("metrics", "timings"):
        file = tmp_path / "m0" / "fold0" / f"{name}.csv"
        file.parent.mkdir(exist_ok=True)
        heads = {"metrics": "epoch,stage,train_loss,f2", "timings": "epoch,stage,train_seconds,train_images_per_second"}
        file.write_text(heads[name] + "\n1,1,0.5,0.25\n2,1,nan,nan\n3,1,inf,-inf\n")
    cli.main(["report", str(tmp_path), "--output", str(tmp_path / "r.html")])
    content = collect([tmp_path])
    (fold,) = content["curves"][0]["folds"]
    assert fold["train_loss"] == [0.5, None, None] and fold["score"] == [0.25, None, None]
    (line,) = [each for each in content["leaderboard"] if each["name"] == "m0"]
    assert (line["validation_score"], line["seconds"], line["train_speed"]) == (0.25, 0.5, 0.25)


def test_a_terminal_s_leaderboard_keeps_to_its_width(chain, capsys, monkeypatch):
    lines = judge_runs([chain.runs, chain.ensemble])[0]
    name = "imet_seresnext101_288"
    lines = [replace(line, name=name if line.name == "a" else line.name) for line in lines]
    lines[0] = replace(lines[0], min_labels=1, max_labels=3)
    lines.append(replace(lines[-1], name="c", score=None, place=None, folds="1/2 begun, 0/2 predicted"))
    for width in (60, 80, 100, 140):
        rows = as_text(lines, width).splitlines()
        assert max(map(len, rows)) <= width and WAITING.strip() in " ".join(rows)
        assert not any(row.startswith(" not") for row in rows)
        flat = words(" ".join(rows).replace("\n", " "))
        (a,) = [line for line in lines if line.name == name]
        for text in (
            f"{a.low:.4f} .. {a.high:.4f}",
            f"{a.validation_score:.4f}",
            "at least 1, at most 3",
            "loss.name=bce",
        ):
            assert text in flat, (width, text)
    assert "predict/s" in as_text(lines, 160).splitlines()[0] and "differs in" not in as_text(lines, 160)
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "80")
    cli.main(["leaderboard", str(chain.runs), str(chain.ensemble)])
    text = capsys.readouterr().out.splitlines()
    assert max(map(len, text)) <= 80 and "    loss.name=bce  train.seed=0" in text


def test_the_leaderboard_shows_whole_numbers_as_a_config_has_them(chain):
    line = judge_runs([chain.runs])[0][0]
    differs = {"train.num_epochs": 2.0, "train.cutmix": None, "scale": [0.5, 1.0], "train.compile": True}
    row = as_text([replace(line, differs=differs)]).splitlines()[1]
    assert row.endswith("train.num_epochs=2  train.cutmix=null  scale=[0.5,1]  train.compile=true")


def test_what_is_not_predicted_yet_has_no_place_among_out_of_fold_scores(tmp_path, capsys):
    """Validation scores flatter: c's 0.99 does not stand above a's and b's. Of c's two stages the last one counts."""
    members, targets = random_members(0, count=4, rows=90)
    write_runs(tmp_path, members, targets)
    curves = {2: ["1,1,0.999", "2,2,0.97", "3,2,0.99"], 3: ["1,1,0.4"]}
    for number, rows in curves.items():
        for file in (tmp_path / f"m{number}").glob("*.npy"):
            file.unlink()
        (tmp_path / f"m{number}" / "fold0").mkdir()
        (tmp_path / f"m{number}" / "fold0" / "metrics.csv").write_text("epoch,stage,f2\n" + "\n".join(rows) + "\n")
    cli.main(["leaderboard", str(tmp_path), "--json"])
    lines = json.loads(capsys.readouterr().out)
    first, second = sorted(lines[:2], key=lambda each: -each["score"])
    assert [each["place"] for each in lines] == [1, 2, None, None] and lines[:2] == [first, second]
    found = [(each["name"], each["score"], each["validation_score"]) for each in lines[2:]]
    assert found == [("m2", None, 0.99), ("m3", None, 0.4)]
    cli.main(["leaderboard", str(tmp_path)])
    text = capsys.readouterr().out.splitlines()
    assert text[3:5] == ["", WAITING.strip()]
    cells = re.split(r" {2,}", text[5].strip())
    assert cells[:7] == ["-", "m2", "f2", "-", "-", "-", "0.9900"] and cells[-1] == "1/3 begun, 0/3 predicted"


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
    assert (
        f"held out, b minus a {difference.mean():+.5f}, 95 % of 1000 paired resamples {low:+.5f} .. {high:+.5f}"
        in words(text)
    )
    share = (np.array(drawn) > 1e-9).mean()
    assert f"b is better in {share:.1%} of the resamples; not clear which is better: the interval holds 0" in text
    assert low <= 0 <= high and "f2, the larger the better" in text
    gains = [float(row.split()[-1]) for row in text.splitlines() if re.search(r" -> .* [+-]\d\.\d{3}$", row)]
    assert gains == sorted(gains, reverse=True) and 0 < len(gains) <= 6


def words(text: str) -> str:
    """Text with single spaces."""
    return re.sub(" +", " ", text)


@pytest.mark.parametrize(("task", "metric"), [("multilabel", "log_loss"), ("multiclass", "accuracy")])
def test_compare_by_metrics_without_a_threshold(tmp_path, capsys, task, metric):
    """m1 knows more than m0: its log loss is smaller, its accuracy larger. The bootstrap once more by hand."""
    make = multiclass_members if task == "multiclass" else random_members
    members, targets = make(7, count=2, rows=600)
    write_runs(tmp_path, members, targets, metric=metric, task=task)
    if metric == "log_loss":
        rows = [-np.log(np.where(targets, p, 1 - p)).mean(axis=1) for p in members]
    else:
        rows = [(p.argmax(axis=1) == targets.argmax(axis=1)).astype(float) for p in members]
    difference, rng = rows[1] - rows[0], np.random.default_rng(0)
    drawn = [difference[rng.integers(0, 600, 600, dtype=np.int32)].mean() for _ in range(1000)]
    low, high = np.quantile(drawn, [0.025, 0.975])
    assert high < 0 if metric == "log_loss" else low > 0
    for (a, b), sign in ((("m0", "m1"), 1), (("m1", "m0"), -1)):
        cli.main(["compare", str(tmp_path / a), str(tmp_path / b), "--classes", "0"])
        text = words(capsys.readouterr().out)
        bounds = sorted((sign * low, sign * high))
        assert f"{metric}, the {'smaller' if metric == 'log_loss' else 'larger'} the better" in text
        pattern = rf"out of fold, {b} minus {a} (\S+), 95 % of 1000 paired resamples (\S+) \.\. (\S+)"
        found = [float(each) for each in re.search(pattern, text).groups()]
        assert found == pytest.approx([sign * difference.mean(), *bounds], abs=1.1e-5)
        share = (sign * (-1 if metric == "log_loss" else 1) * np.array(drawn) > 1e-9).mean()
        assert f"{b} is better in {share:.1%} of the resamples; m1 is clearly better" in text
        assert "threshold" not in text and " images " not in text


def test_compare_refuses_what_can_t_be_compared(chain, tmp_path):
    members, targets = random_members(0, count=1, rows=60)
    write_runs(tmp_path, members, targets)
    with pytest.raises(UserError, match="has another class list than"):
        cli.main(["compare", str(chain.runs / "a"), str(tmp_path / "m0")])
    with pytest.raises(UserError, match="are the same experiment"):
        cli.main(["compare", str(chain.runs / "a"), str(chain.runs / "a")])
    with pytest.raises(UserError, match="--classes: expected a whole number from 0 up, got -1"):
        cli.main(["compare", str(chain.runs / "a"), str(chain.runs / "b"), "--classes", "-1"])
    with pytest.raises(UserError, match="is not a run's folder"):
        cli.main(["compare", str(chain.runs), str(chain.runs / "a")])


def test_the_page_stays_small_with_1103_classes(wide):
    content, page = wide, build_page(wide)
    pictures = sum(map(len, content["pictures"]))
    assert MOST_BYTES - 100_000 < pictures < MOST_BYTES, "the gallery is full"
    assert len(content["classes"]) == 5 and len(content["classes"]["best"]["columns"]["name"]) == 1103
    for lists in content["galleries"].values():
        assert [len(cards) for cards in lists.values()] == [24, 24, 24]
        assert all(cards[0]["picture"] is not None for cards in lists.values())
    size = len(page.encode())
    assert size < 15_000_000
    # What is no picture grows with the number of models: 20 more of the largest ones still fit.
    assert size + 20 * (size - pictures) / 5 < 15_000_000


def test_the_fold_table_by_hand(tmp_path):
    """10 images, 3 folds by turns: of 4, 3, 3 images. Class 0 is on images 0 and 3, class 1 on all, class 2 on none."""
    targets = np.zeros((10, 4), dtype=bool)
    targets[[0, 3], 0] = targets[:, 1] = targets[[0, 1, 2, 5], 3] = True
    member = np.full((10, 4), 0.5, dtype=np.float32)
    write_runs(tmp_path, [member], targets)
    (group,) = collect([tmp_path])["groups"]
    names = ["culture::0", "culture::1", "tag::2", "tag::3"]
    assert group["split"] == {
        "folds": [
            {"fold": 0, "images": 4, "share": 0.4, "groups": None, "absent": 0, "absent_names": []},
            {"fold": 1, "images": 3, "share": 0.3, "groups": None, "absent": 1, "absent_names": names[:1]},
            {"fold": 2, "images": 3, "share": 0.3, "groups": None, "absent": 1, "absent_names": names[:1]},
        ],
        "rare": names[:1],
        "empty": [names[2]],
        # Of the classes with at least 3 images: class 1 as expected; class 3 twice in fold 2, where 1.2 are expected.
        "median_deviation": pytest.approx((0 + (2 / 1.2 - 1)) / 2),
        "worst_deviation": pytest.approx(2 / 1.2 - 1),
        "worst_class": names[3],
    }


def test_weights_and_correlation_of_members_by_hand(tmp_path):
    members, targets = random_members(8, count=3, rows=120)
    ensemble_search.main([str(tmp_path / "best"), *write_runs(tmp_path, members, targets)])
    text = (tmp_path / "best.yml").read_text()
    ensemble = read_ensemble(tmp_path / "best.yml")
    (group,) = collect([tmp_path])["groups"]
    assert group["members"] == ["m0", "m1", "m2"]
    hand = np.corrcoef([member.ravel().astype(np.float64) for member in members])
    np.testing.assert_allclose(group["correlation"], hand, atol=6e-5)
    weights = {each.name: each.weight for each in ensemble.members}
    assert group["blends"] == {"best": [weights.get(name, 0) for name in group["members"]]}
    assert all(f"weight: {weight}" in text for weight in weights.values())
    assert sum(group["blends"]["best"]) == pytest.approx(1, abs=1e-5)
