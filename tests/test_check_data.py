"""A new competition's files: what is found, what is warned of, and that train.py runs on what is written."""

import csv
import os
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

import ensemble_inference
import ensemble_search
import predict_oof
import train
from foldsmith import cli
from foldsmith.config import load_config
from foldsmith.data.images import read_image
from foldsmith.data.layout import find_files
from foldsmith.data.near_duplicates import groups_of_pairs, look, look_at, near_pairs
from foldsmith.data.survey import suggest_size, survey, write_groups
from foldsmith.errors import UserError
from foldsmith.tools.check_data import fit_task
from foldsmith.training.leaves import check_leaves
from tests.conftest import DATA, ROOT


@pytest.fixture
def other(tmp_path: Path) -> Path:
    """150 real images as another competition lays them out: other names, labels as words between semicolons."""
    root = tmp_path / "birds"
    (root / "train_images").mkdir(parents=True)
    (root / "test_images").mkdir()
    with open(DATA / "train.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file))[1:151]
    names = [line.split(",")[1] for line in (DATA / "labels.csv").read_text().splitlines()[1:]]
    lines = ["picture,taken,tags"]
    for number, (name, labels) in enumerate(rows):
        shutil.copy(DATA / "train" / f"{name}.jpg", root / "train_images" / f"{name}.jpg")
        lines.append(
            f"{name}.jpg,2020-01-{number % 28 + 1:02},{';'.join(names[int(label)] for label in labels.split())}"
        )
    (root / "train_labels.csv").write_text("\n".join(lines) + "\n")
    test = sorted(path.name for path in (DATA / "test").iterdir())[:20]
    for name in test:
        shutil.copy(DATA / "test" / name, root / "test_images")
    (root / "sample_submission.csv").write_text("picture,tags\n" + "".join(f"{name},x\n" for name in test))
    return root


def test_other_names_are_found(other):
    assert find_files(other).section == {
        "root": str(other),
        "id_column": "picture",
        "task": "multilabel",
        "label_column": "tags",
        "label_separator": ";",
        "train_csv": str(other / "train_labels.csv"),
        "train_dir": str(other / "train_images"),
        "test_dir": str(other / "test_images"),
    }


def test_a_class_list_of_another_name(other):
    shutil.copy(DATA / "labels.csv", other / "classes.csv")
    assert find_files(other).section["labels_csv"] == str(other / "classes.csv")
    assert len(survey(other).table.classes.names) == 55
    (other / "classes.csv").write_text("id,name\n0,food\n")
    assert "labels_csv" not in find_files(other).section


def test_what_is_written_trains(other, tmp_path, capsys):
    path = tmp_path / "birds.yml"
    cli.main(["check-data", "--root", str(other), "--output", str(path), "--from", "clipart_tiny", "--num-folds", "2"])
    text = capsys.readouterr().out
    assert "150 images" in text and "task multilabel" in text and "suggested input_size 96" in text
    config = load_config(path)
    assert config.model.input_size == [96, 96] and config.data.num_folds == 2 and config.data.geometry == "fit"
    train.main(["--config", str(path), "--smoke", "--set", "train.workers=0", "model.input_size=48"])
    with pytest.raises(UserError, match="exists; it is not overwritten"):
        cli.main(["check-data", "--root", str(other), "--output", str(path)])


def test_planted_duplicates_are_found_and_kept_in_one_fold(other, tmp_path, capsys):
    """20 copies in training and 10 in the test set, scaled, brighter and encoded again."""
    table = (other / "train_labels.csv").read_text().splitlines()
    originals = [line.split(",")[0] for line in table[1:31]]
    for number, name in enumerate(originals):
        image = cv2.imread(str(other / "train_images" / name))
        copy = cv2.convertScaleAbs(cv2.resize(image, None, fx=1.3, fy=1.3), alpha=1.0, beta=4)
        where = "train_images" if number < 20 else "test_images"
        cv2.imwrite(str(other / where / f"copy{number}.jpg"), copy, [cv2.IMWRITE_JPEG_QUALITY, 70])
        if number < 20:
            table.append(table[number + 1].replace(name, f"copy{number}.jpg"))
    (other / "train_labels.csv").write_text("\n".join(table) + "\n")
    with open(other / "sample_submission.csv", "a") as file:
        file.write("".join(f"copy{number}.jpg,x\n" for number in range(20, 30)))

    found = survey(other, 5)
    group_of = dict(zip(found.table.ids, found.groups.tolist(), strict=True))
    kept = [number for number in range(20) if group_of[originals[number]] == group_of[f"copy{number}.jpg"]]
    across = {(found.table.ids[row], position) for row, position in found.pairs_with_test}
    assert len(kept) >= 18
    assert sum((originals[number], number) in across for number in range(20, 30)) >= 9  # 20 test images stand before
    assert len(set(group_of.values())) > 140, "other images stay apart"

    groups = tmp_path / "groups.csv"
    cli.main(["check-data", "--root", str(other), "--groups", str(groups), "--output", str(tmp_path / "g.yml")])
    text = capsys.readouterr().out
    assert "groups of near-duplicate training images" in text and "between training and test images" in text
    cli.main(["folds", "--config", str(tmp_path / "g.yml"), "--output", str(tmp_path / "folds.csv")])
    with open(tmp_path / "folds.csv", encoding="utf-8", newline="") as file:
        fold_of = {row["id"]: row["fold"] for row in csv.DictReader(file)}
    assert all(fold_of[originals[number]] == fold_of[f"copy{number}.jpg"] for number in kept)


def test_groups_overwrite_nothing_of_the_competition(other, tmp_path, monkeypatch):
    shutil.copy(DATA / "labels.csv", other / "classes.csv")
    own = {path: path.read_bytes() for path in sorted(other.glob("*.csv"))}
    os.link(other / "classes.csv", tmp_path / "linked.csv")
    monkeypatch.chdir(other)
    for path in (*own, Path("train_labels.csv"), tmp_path / "linked.csv"):
        with pytest.raises(UserError, match="--groups: is one of the tables that are read"):
            cli.main(["check-data", "--root", str(other), "--groups", str(path), "--force"])
    with pytest.raises(UserError, match=r"--groups: expected the name of a \.csv file"):
        cli.main(["check-data", "--root", str(other), "--groups", "train_images/000538be4ee0.jpg", "--force"])
    assert {path: path.read_bytes() for path in sorted(other.glob("*.csv"))} == own
    (tmp_path / "mine.csv").write_text("mine")
    words = ["check-data", "--root", str(other), "--groups", str(tmp_path / "mine.csv")]
    with pytest.raises(UserError, match="--groups: exists; it is not overwritten"):
        cli.main(words)
    assert (tmp_path / "mine.csv").read_text() == "mine"
    cli.main([*words, "--force"])
    assert (tmp_path / "mine.csv").read_text().startswith("picture,taken,tags,look\n")
    for _ in range(2):  # what it wrote beside the tables it may write again
        cli.main(["check-data", "--root", str(other), "--groups", "groups.csv", "--force"])
    assert find_files(other).section["train_csv"] == str(other / "train_labels.csv")


def test_different_images_are_no_duplicates():
    """Two images of one hash that look different are told apart; plain ones are in no pair."""
    paths = sorted((DATA / "train").iterdir())[:400]
    looks = look_at(paths, "")
    assert looks.errors == {} and looks.sizes.min() >= 16
    pairs = near_pairs(looks)
    for a, b in pairs:
        assert np.bitwise_count(looks.hashes[a] ^ looks.hashes[b]) <= 7
        assert np.corrcoef(looks.thumbs[a], looks.thumbs[b])[0, 1] >= 0.9699
    brute = {
        (a, b)
        for a in range(len(paths))
        for b in range(a + 1, len(paths))
        if np.bitwise_count(looks.hashes[a] ^ looks.hashes[b]) <= 7 and looks.thumbs[a] @ looks.thumbs[b] >= 0.97
    }
    assert set(pairs) == brute and len(pairs) > 0


def test_the_hash_survives_encoding_and_size():
    image = read_image(sorted((DATA / "train").iterdir())[3])
    done, data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 60])
    assert done
    again = cv2.resize(cv2.imdecode(data, cv2.IMREAD_COLOR), None, fx=2, fy=2)
    assert np.bitwise_count(look(image)[0] ^ look(again)[0]) <= 7
    assert np.bitwise_count(look(image)[0] ^ look(image[:, ::-1])[0]) > 7
    assert groups_of_pairs(6, [(4, 5), (1, 4), (2, 3)]).tolist() == [0, 1, 2, 2, 1, 1]


def test_trouble_is_named(other):
    (other / "train_images" / "broken.jpg").write_text("<html>")
    cv2.imwrite(str(other / "train_images" / "long.png"), np.full((20, 200, 3), 7, dtype=np.uint8))
    shutil.move(other / "train_images" / "long.png", other / "train_images" / "long.jpg")
    with open(other / "train_labels.csv", "a") as file:
        file.write("broken.jpg,2020,rare\nlong.jpg,2020,\n")
    text = "\n".join(survey(other).warnings)
    assert "1 training images can't be read: broken.jpg (an HTML page, not an image)" in text
    assert "more than 3 times as long as wide" in text and "long.jpg (20 x 200)" in text
    assert "rare (1)" in text and "1 images have no label" in text


def test_one_label_an_image_in_a_labels_csv(tmp_path):
    """The label table itself is called labels.csv, and there is no sample_submission.csv."""
    (tmp_path / "train").mkdir()
    lines = ["id,breed"]
    for number, path in enumerate(sorted((DATA / "train").iterdir())[:40]):
        os.symlink(path, tmp_path / "train" / path.name)
        lines.append(f"{path.stem},{'cat' if number % 2 else 'dog'}")
    (tmp_path / "labels.csv").write_text("\n".join(lines) + "\n")
    found = survey(tmp_path, 2)
    assert found.section["task"] == "multiclass" and found.section["label_column"] == "breed"
    assert found.section["image_extension"] == ".jpg" and found.table.classes.names == ["cat", "dog"]
    assert "no test images" in found.facts


def column_a_class(root: Path, more: str = "") -> Path:
    """60 real images with a column a class (their first labels), semicolons, ids with leading zeros; no sample."""
    (root / "images").mkdir(parents=True)
    (root / "test").mkdir()
    with open(DATA / "train.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file))[1:61]
    lines = [f"image_name;action;animal;person{more and ';site'}"]
    for number, (name, labels) in enumerate(rows):
        image = cv2.imread(str(DATA / "train" / f"{name}.jpg"))
        cv2.imwrite(str(root / "images" / f"{number:04}.png"), image)
        ones = ";".join(str(int(label in labels.split())) for label in ("0", "3", "44"))
        lines.append(f"{number:04};{ones}{more and f';{more}{number % 7}'}")
    (root / "labels_of_train.csv").write_text("\n".join(lines) + "\n")
    for path in sorted((DATA / "test").iterdir())[:5]:
        shutil.copy(path, root / "test")
    return root


def test_a_column_a_class_trains(tmp_path, capsys):
    root, path = column_a_class(tmp_path / "plants"), tmp_path / "plants.yml"
    cli.main(["check-data", "--root", str(root), "--output", str(path), "--from", "clipart_tiny", "--num-folds", "2"])
    text = capsys.readouterr().out
    assert (
        "60 images, 3 classes (action, animal, person)" in text
        and "5 test images" in text
        and "labels an image, a column a class" in text
    )
    assert f"warning: {root}/sample_submission.csv is not there: training does without" in text
    data = load_config(path).data
    assert (data.id_column, data.label_column) == ("image_name", None)
    assert data.image_extension is None, "training images are .png, test images .jpg"
    train.main(["--config", str(path), "--smoke", "--set", "train.workers=0", "model.input_size=48"])


def test_a_column_a_class_with_one_label_an_image(tmp_path):
    root = column_a_class(tmp_path)
    lines = [f"{number:04};{'1;0;0' if number % 2 else '0;0;1'}" for number in range(60)]
    (root / "labels_of_train.csv").write_text("\n".join(["image_name;action;animal;person", *lines]) + "\n")
    found = survey(root, 2)
    assert found.section["task"] == "multiclass" and found.table.counts().tolist() == [30, 0, 30]


def test_a_column_a_class_beside_other_columns(tmp_path):
    found = survey(column_a_class(tmp_path, more="s"), 2)
    assert found.section["label_column"] == ["action", "animal", "person"]
    groups = write_groups(tmp_path / "groups.csv", found)
    assert (tmp_path / "groups.csv").read_text().startswith("image_name,action,animal,person,site,look\n0000,")
    assert groups == {"train_csv": str(tmp_path / "groups.csv"), "group_column": "look"}


def one_label_an_image(root: Path) -> Path:
    """40 real images of one label each, with a sample submission."""
    (root / "train").mkdir(parents=True)
    (root / "test").mkdir()
    lines = ["id,breed"]
    for number, path in enumerate(sorted((DATA / "train").iterdir())[:40]):
        os.symlink(path, root / "train" / path.name)
        lines.append(f"{path.stem},{'cat' if number % 2 else 'dog'}")
    (root / "train.csv").write_text("\n".join(lines) + "\n")
    test = sorted((DATA / "test").iterdir())[:5]
    for path in test:
        os.symlink(path, root / "test" / path.name)
    (root / "sample_submission.csv").write_text("id,breed\n" + "".join(f"{path.stem},cat\n" for path in test))
    return root


def test_the_config_of_one_label_an_image_loads(tmp_path):
    """From a multi-label experiment: its loss gives way, as do sampler, metric and the losses of its stages."""
    root, path = one_label_an_image(tmp_path / "pets"), tmp_path / "pets.yml"
    cli.main(["check-data", "--root", str(root), "--output", str(path), "--num-folds", "2"])
    config = load_config(path, (), check_leaves)
    assert (config.data.task, config.loss.name, config.metric) == ("multiclass", "cross_entropy", "accuracy")


def test_a_task_keeps_what_fits_it():
    focal = {"loss": {"name": "focal", "params": {"gamma": 1.0}}, "metric": "f1_macro"}
    assert fit_task(focal, "multilabel") == focal
    stages = {"train": {"sampler": {"name": "weighted"}, "stages": [{"loss": {"name": "bce"}}, {"epochs": 1}]}}
    assert fit_task(focal | stages, "multiclass") == {
        "loss": {"name": "cross_entropy"},
        "metric": "f1_macro",
        "train": stages["train"] | {"stages": [{"loss": {"name": "cross_entropy"}}, {"epochs": 1}]},
    }
    accuracy = {"loss": {"name": "cross_entropy"}, "metric": "accuracy", "train": {"sampler": {"name": "balanced"}}}
    assert fit_task(accuracy, "multilabel") == {"loss": {"name": "bce"}, "metric": "f2", "train": {}}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["words", "columns", "one"])
def test_a_newcomer_comes_from_the_files_to_a_submission(kind, other, tmp_path, monkeypatch):
    """check-data, train.py, predict_oof.py, ensemble_search.py, ensemble_inference.py; nothing is edited."""
    root = other
    if kind == "columns":
        root = column_a_class(tmp_path / "plants")
        rows = "".join(f"{path.stem};0.5;0.5;0.5\n" for path in sorted((root / "test").iterdir()))
        (root / "sample_submission.csv").write_text(f"image_name;person;animal;action\n{rows}")
    if kind == "one":
        root = one_label_an_image(tmp_path / "pets")
    monkeypatch.chdir(tmp_path)
    shutil.copytree(ROOT / "configs", "configs")
    words = ["--root", str(root), "--output", "configs/mine.yml", "--from", "clipart_tiny", "--num-folds", "2"]
    cli.main(["check-data", *words])
    quick = ["--config", "mine.yml", "--set", "train.num_epochs=1", "train.workers=0", "model.input_size=48"]
    train.main(quick)
    predict_oof.main(quick)
    ensemble_search.main(["best", "runs/mine/mine_f0.npy"])
    ensemble_inference.main(["best.yml"])
    sample, written = (
        path.read_text().splitlines() for path in (root / "sample_submission.csv", Path("submission.csv"))
    )
    mark = ";" if kind == "columns" else ","
    assert written[0] == sample[0]
    assert [line.split(mark)[0] for line in written] == [line.split(mark)[0] for line in sample]
    if kind == "columns":
        assert all(0 < float(value) < 1 for line in written[1:] for value in line.split(mark)[1:])
    if kind == "one":
        assert {line.split(",")[1] for line in written[1:]} <= {"cat", "dog"}


def test_folders_that_hold_no_competition(tmp_path):
    with pytest.raises(UserError, match="--root: is no folder"):
        survey(tmp_path / "nowhere")
    with pytest.raises(UserError, match="holds no label table"):
        survey(tmp_path)
    (tmp_path / "train").mkdir()
    shutil.copy(sorted((DATA / "train").iterdir())[0], tmp_path / "train" / "a.jpg")
    (tmp_path / "t.csv").write_text("id,labels\nb,1\n")
    with pytest.raises(UserError, match="no column of t.csv names the images"):
        survey(tmp_path)


def test_the_suggested_size():
    assert suggest_size(np.array([[500, 500]] * 9)) == (320, "squash")
    assert suggest_size(np.array([[150, 150]] * 9)) == (128, "squash")
    assert suggest_size(np.array([[300, 120]] * 9)) == (288, "fit")
    assert suggest_size(np.array([[30, 30]] * 9)) == (64, "squash")
    assert (ROOT / "configs").is_dir()
