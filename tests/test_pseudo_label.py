"""Pseudo labels: what is added, what the table for data.train_csv says, and that validation does not go by it."""

from pathlib import Path

import numpy as np
import pytest

from foldsmith import cli
from foldsmith.config import Config, load_config
from foldsmith.data.folds import Folds, load_folds
from foldsmith.data.oof_files import Sidecar, write_oof
from foldsmith.data.pseudo import TrainTable, read_train_table, train_images
from foldsmith.data.sheets import read_csv
from foldsmith.data.tables import Table, read_table
from foldsmith.errors import UserError
from foldsmith.files import sha256_lines

CONFIG = """\
data: {root: ., num_folds: 2}
model: {arch: resnet18, input_size: 32}
train: {num_epochs: 1}
optimizer: {name: adamw, params: {lr: 0.001}}
"""
TRAIN = 'what,id,tags\n7,a,x\n8,"b,b",\n9,c,y x\n10,d,z\n'
OOF = np.array([[0.99, 0.8, 0.1], [0.3, 0.71, 0.9], [0.9, 0.9, 0.7], [0.1, 0.1, 0.1]], dtype=np.float32)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Four images of three classes (x, y, z), three test images, and a run `a` with OOF files."""
    monkeypatch.chdir(tmp_path)
    Path("train.csv").write_text(TRAIN)
    Path("sample_submission.csv").write_text("id,tags\nt1,\nt2,\nt3,\n")
    Path("a.yml").write_text(CONFIG)
    write_run("a", OOF)
    for images, names in (("train", ["a", "b,b", "c", "d", "e"]), ("test", ["t1", "t2", "t3", "e"])):
        Path(images).mkdir()
        for name in names:
            Path(images, f"{name}.jpg").touch()


def write_run(name: str, probabilities: np.ndarray) -> None:
    run = Path("runs", name)
    run.mkdir(parents=True)
    (run / f"{name}.yml").write_text(CONFIG)
    config = load_config(run / f"{name}.yml")
    table = read_table(config)
    folds = load_folds(config, table, run / "folds.csv", np.array([0, 1, 0, 1]))
    for fold in (0, 1):
        rows = folds.valid_rows(fold)
        sidecar = Sidecar(
            name=name,
            fold=fold,
            rows=2,
            classes=3,
            ids_sha256=sha256_lines(table.ids[row] for row in rows),
            classes_sha256=table.classes.sha256,
            folds_sha256=folds.sha256,
            config_sha256="",
            weights_sha256="",
            metric="f2",
            score=0.5,
            threshold=0.5,
            views=["identity"],
            speed={},
        )
        write_oof(run / f"{name}_f{fold}.npy", probabilities[rows], sidecar)


def run(*words: str) -> None:
    cli.main(["pseudo-label", *words])


def refusal(*words: str) -> str:
    before = {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()}
    with pytest.raises(UserError) as caught:
        run(*words)
    assert {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()} == before
    return str(caught.value)


def tables(**data: object) -> tuple[Config, Table, TrainTable]:
    values = load_config("a.yml").model_dump()
    config = Config.model_validate(values | {"data": values["data"] | data})
    table = read_table(config)
    return config, table, read_train_table(config, table)


def words_of(table: Table) -> dict[str, set[str]]:
    return {
        name: {table.classes.tokens[index] for index in np.flatnonzero(row)}
        for name, row in zip(table.ids, table.targets(), strict=True)
    }


def test_oof_labels_are_added_where_an_image_lacks_them(capsys):
    run("--oof", "runs/a/a_f1.npy", "--threshold", "0.7")
    # c lacks z, but 0.7 does not exceed the threshold
    assert Path("pseudo.csv").read_text() == ('what,id,tags,pseudo\n7,a,x y,1\n8,"b,b",y z,1\n9,c,y x,0\n10,d,z,0\n')
    assert capsys.readouterr().out == (
        "written: pseudo.csv\n3 labels added to 2 of 4 training images\nto train on it: data.train_csv: pseudo.csv\n"
    )
    assert Path("train.csv").read_text() == TRAIN
    config, table, train = tables(train_csv="pseudo.csv")
    original = {"a": {"x"}, "b,b": set(), "c": {"x", "y"}, "d": {"z"}}
    assert words_of(table) == original
    assert words_of(train.table) == original | {"a": {"x", "y"}, "b,b": {"y", "z"}}
    assert train.home.tolist() == [0, 1, 2, 3]
    run("--oof", "runs/a/a_f1.npy", "--threshold", "0.75")  # a table of pseudo labels may be replaced
    assert read_csv(Path("pseudo.csv")).column("tags") == ["x y", "z", "y x", "z"]


def test_the_mean_of_several_models_decides():
    write_run("b", np.zeros_like(OOF))
    run("--oof", "runs/a/a_f0.npy", "runs/b/b_f0.npy", "--threshold", "0.42")
    assert read_csv(Path("pseudo.csv")).column("tags") == ["x", "z", "y x", "z"]


TEST = np.array([[0.1, 0.8, 0.9], [0.2, 0.6, 0.1], [0.75, 0.1, 0.0]], dtype=np.float32)


@pytest.mark.parametrize("form", ["npy", "csv"])
def test_test_images_become_rows(form: str, capsys):
    np.save("p.npy", TEST)
    Path("p.csv").write_text("z,id,x,y\n0.9,t1,0.1,0.8\n0.1,t2,0.2,0.6\n0.0,t3,0.75,0.1\n")
    run("--config", "a.yml", "--test", f"p.{form}", "--threshold", "0.7", "--output", "new/p.csv")
    assert Path("new/p.csv").read_text() == (
        'what,id,tags,pseudo\n7,a,x,0\n8,"b,b",,0\n9,c,y x,0\n10,d,z,0\n,t1,y z,1\n,t3,x,1\n'
    )
    assert "\n3 labels added to 2 of 3 test images\n" in capsys.readouterr().out
    config, table, train = tables(train_csv="new/p.csv")
    assert (train.table.ids, train.home.tolist()) == (["a", "b,b", "c", "d", "t1", "t3"], [0, 1, 2, 3, -1, -1])
    folds = Folds(np.array([0, 1, 0, 1]), "")
    assert [train.rows(folds, fold).tolist() for fold in (0, 1)] == [[1, 3, 4, 5], [0, 2, 4, 5]]
    paths = [Path("train", f"{name}.jpg") for name in table.ids]
    assert train_images(config, train, table, paths) == [*paths, Path("test/t1.jpg"), Path("test/t3.jpg")]


def test_both_ways_in_one_table(capsys):
    np.save("p.npy", TEST)
    run("--oof", "runs/a/a_f0.npy", "--test", "p.npy", "--threshold", "0.8")
    assert read_csv(Path("pseudo.csv")).rows == [
        ["7", "a", "x", "0"],
        ["8", "b,b", "z", "1"],
        ["9", "c", "y x", "0"],
        ["10", "d", "z", "0"],
        ["", "t1", "z", "1"],
    ]
    out = capsys.readouterr().out
    assert "1 labels added to 1 of 4 training images\n1 labels added to 1 of 3 test images\n" in out


def test_a_submission_of_labels_is_taken_as_it_is(capsys):
    Path("s.csv").write_text("id,tags\nt1,z x\nt2,\nt3,y\n")
    run("--config", "a.yml", "--test", "s.csv")
    assert read_csv(Path("pseudo.csv")).rows[4:] == [["", "t1", "x z", "1"], ["", "t3", "y", "1"]]
    assert "3 labels added to 2 of 3 test images" in capsys.readouterr().out
    message = "--threshold: s.csv holds labels, not probabilities\n  hint: leave it out"
    assert refusal("--config", "a.yml", "--test", "s.csv", "--threshold", "0.5") == message
    Path("s.csv").write_text("id,tags\nt1,z q\n")
    assert refusal("--config", "a.yml", "--test", "s.csv").startswith("s.csv:2: label 'q' of 't1' is not in the class")
    Path("s.csv").write_text("id,tags\nt1,\n")
    assert refusal("--config", "a.yml", "--test", "s.csv") == "s.csv: --test: gives no image a label"


def test_one_label_an_image():
    Path("train.csv").write_text("id,tags\na,x y\nb,x y\nc,z\nd,w\n")
    Path("m.yml").write_text(CONFIG.replace("num_folds: 2", "num_folds: 2, task: multiclass"))
    np.save("p.npy", np.array([[0.1, 0.45, 0.45], [0.3, 0.3, 0.4], [0.0, 0.9, 0.1]], dtype=np.float32))
    run("--config", "m.yml", "--test", "p.npy", "--threshold", "0.42")
    # classes: w, "x y", z; of equal ones the first
    assert read_csv(Path("pseudo.csv")).rows[4:] == [["t1", "x y", "1"], ["t3", "x y", "1"]]
    config = load_config("m.yml").model_copy(
        update={"data": load_config("m.yml").data.model_copy(update={"train_csv": "pseudo.csv"})}
    )
    table = read_table(config)
    train = read_train_table(config, table)
    assert train.table.indices.tolist() == [1, 1, 2, 0, 1, 1]
    Path("runs/a/a.yml").write_text(Path("m.yml").read_text())
    assert refusal("--oof", "runs/a/a_f0.npy", "--threshold", "0.5") == (
        "--oof: every image of a multiclass task has its one label already\n  hint: --test labels test images"
    )


def test_a_threshold_that_adds_nothing_says_what_would():
    np.save("p.npy", TEST)
    assert refusal("--oof", "runs/a/a_f0.npy", "--threshold", "0.9") == (
        "--threshold: 0.9 adds nothing: the largest probability of a label that an image lacks is 0.9\n"
        "  hint: a threshold below 0.9 adds labels"
    )
    assert refusal("--config", "a.yml", "--test", "p.npy", "--threshold", "0.95") == (
        "--threshold: 0.95 adds nothing: the largest probability of a test image's label is 0.9\n"
        "  hint: a threshold below 0.9 adds labels"
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("", "nothing to label by\n  hint: name --oof, --test, or both"),
        ("--oof runs/a/a_f0.npy", "--threshold: is missing"),
        ("--oof runs/a/a_f0.npy --threshold 1", "--threshold: 1.0 is not a probability below 1"),
        ("--oof runs/a/a_f0.npy --threshold nan", "--threshold: nan is not a probability below 1"),
        ("--oof runs/a/a_f0.npy --config a.yml", "--config: with --oof it is the config beside the OOF files"),
        ("--oof lone/a_f0.npy --threshold 0.7", "lone/a.yml: --oof: not found; it lies beside the OOF files"),
        ("--test p.npy --threshold 0.7", "--config: --test needs the experiment"),
        ("--test none.npy --threshold 0.7 --config a", "none.npy: is not a readable .npy file"),
        ("--test short.npy --threshold 0.7 --config a", "short.npy: holds float32 (2, 3), sample_submission.csv with"),
        ("--test nan.npy --threshold 0.7 --config a", "nan.npy: holds values that are not probabilities"),
        ("--test two.csv --threshold 0.7 --config a", "two.csv:1: beside 'id' it has 2 columns that are not those of"),
        ("--test word.csv --threshold 0.7 --config a", "word.csv:3: --test: could not convert string to float: 'n/a'"),
        ("--test seen.csv --config a", "seen.csv:3: --test: 'a' is the id of a training image too"),
        ("--oof runs/a/a_f0.npy --threshold 0.7 --output train.csv", "train.csv: --output: exists and is no table of"),
        ("--oof runs/a/a_f0.npy --threshold 0.7 --output a.yml", "a.yml: --output: exists and is no table of"),
        ("--oof runs/a/a_f0.npy --threshold 0.7 --output train", "train: --output: exists and is no table of"),
    ],
)
def test_bad_input_is_refused_and_changes_nothing(words: str, message: str):
    Path("lone").mkdir()
    Path("lone/a_f0.npy").write_bytes(Path("runs/a/a_f0.npy").read_bytes())
    np.save("p.npy", TEST)
    np.save("short.npy", TEST[:2])
    np.save("nan.npy", np.where(TEST > 0.85, np.nan, TEST).astype(np.float32))
    Path("two.csv").write_text("id,x,y\nt1,0,0\n")
    Path("word.csv").write_text("id,x,y,z\nt1,0,0,0\nt2,0,n/a,0\n")
    Path("seen.csv").write_text("id,tags\nt1,x\na,x\n")
    assert refusal(*words.split()).startswith(message)


def test_without_pseudo_labels_the_table_is_trained_on_itself():
    config, table, train = tables()
    assert train.table is table
    paths = [Path(name) for name in table.ids]
    assert train_images(config, train, table, paths) == paths
    folds = Folds(np.array([1, 0, 2, 1]), "")
    for fold in range(3):
        np.testing.assert_array_equal(train.rows(folds, fold), np.flatnonzero(folds.fold_of != fold))
    assert tables(train_csv="./train.csv", valid_csv="train.csv")[2].table.sha256 == table.sha256


def test_rows_that_train_csv_lacks_are_not_trained_on():
    Path("clean.csv").write_text("id,tags\nd,z\ne,y\na,x\n")
    config, table, train = tables(train_csv="clean.csv", valid_csv="train.csv")
    assert table.ids == ["a", "b,b", "c", "d"] and train.home.tolist() == [3, -1, 0]
    folds = Folds(np.array([0, 1, 0, 1]), "")
    assert [train.rows(folds, fold).tolist() for fold in (0, 1)] == [[0, 1], [1, 2]]
    paths = [Path("train", f"{name}.jpg") for name in table.ids]
    # e lies in both folders: the training images come first
    assert train_images(config, train, table, paths) == [paths[3], Path("train/e.jpg"), paths[0]]
    Path("clean.csv").write_text("id,tags\nd,z\n")
    with pytest.raises(UserError, match="^data.train_csv: fold 1 has no image to train on$"):
        tables(train_csv="clean.csv", valid_csv="train.csv")[2].rows(folds, 1)


def test_an_extra_row_shares_the_fold_of_its_group():
    Path("train.csv").write_text("id,tags,who\na,x,p\nb,y,q\n")
    Path("more.csv").write_text("id,tags,who,pseudo\na,x,p,0\nb,y,q,0\nt1,x,q,1\nt2,y,,1\n")
    _, table, train = tables(train_csv="more.csv", group_column="who")
    assert (table.groups, train.home.tolist()) == (["p", "q"], [0, 1, 1, -1])
    assert train.rows(Folds(np.array([0, 1]), ""), 1).tolist() == [0, 3]


@pytest.mark.parametrize(
    ("train", "message"),
    [
        ("id,tags,pseudo\na,x,0\nt9,q,1\n", "more.csv:3: label 'q' of 't9' is not in the class list (3 classes)\n"),
        ("id,tags,pseudo\na,x,0\na,x,1\n", "more.csv:3: duplicate id 'a', first on line 2"),
        ("id,tags,pseudo\n", "more.csv: has no rows"),
        ("id,tags,pseudo\na,x,0\nt9,x,1\n", "test: 1 of 1 images are missing; the first: t9"),
    ],
)
def test_a_wrong_train_csv_is_refused(train: str, message: str):
    Path("more.csv").write_text(train)
    with pytest.raises(UserError) as caught:
        config, table, read = tables(train_csv="more.csv")
        train_images(config, read, table, [Path(name) for name in table.ids])
    assert str(caught.value).startswith(message)


def test_validation_never_goes_by_pseudo_labels():
    Path("pseudo.csv").write_text("id,tags,pseudo\na,x y,1\n")
    for data in ({"valid_csv": "pseudo.csv"}, {"train_csv": "pseudo.csv", "valid_csv": "pseudo.csv"}):
        with pytest.raises(UserError) as caught:
            tables(**data)
        assert str(caught.value) == (
            "pseudo.csv:1: data.valid_csv: has a column 'pseudo': validation would go by pseudo labels\n"
            "  hint: name the table of the original labels: data.valid_csv: ..."
        )
    Path("other.csv").write_text("id,tags\na,x\nc,y\nd,z\n")
    _, table, train = tables(train_csv="pseudo.csv", valid_csv="other.csv")
    assert words_of(table) == {"a": {"x"}, "c": {"y"}, "d": {"z"}}
    assert words_of(train.table) == {"a": {"x", "y"}}


def test_the_hash_changes_with_the_pseudo_labels():
    hashes = set()
    for text in ("a,x,0\nb,y,0\n", "a,x y,1\nb,y,0\n", "a,x,0\n", "a,x,0\nb,y,0\nt1,y,1\n"):
        Path("more.csv").write_text("id,tags,pseudo\n" + text)
        hashes.add(tables(train_csv="more.csv")[2].table.sha256)
    assert len(hashes) == 4
