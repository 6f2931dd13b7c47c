"""The split: made once from its seed, stratified, kept in folds.csv, and refused when it does not fit the table."""

import io
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from foldsmith.config import Config
from foldsmith.data.fold_quality import fold_quality
from foldsmith.data.folds import Folds, folds_sha256, load_folds, make_folds
from foldsmith.data.sheets import read_csv
from foldsmith.data.tables import Classes, Table, read_table
from foldsmith.errors import UserError
from tests.conftest import DATA
from tests.test_tables import AWKWARD_IDS


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def config(**data: object) -> Config:
    return Config.model_validate(
        {
            "data": {"root": str(DATA), "num_folds": 3, **data},
            "model": {"arch": "x", "input_size": 8},
            "train": {"num_epochs": 1},
            "optimizer": {"name": "adamw"},
        }
    )


def table(ids: list[str], classes: int = 2) -> Table:
    """A table in which image i has the one label i % classes."""
    tokens = [str(index) for index in range(classes)]
    indices = (np.arange(len(ids)) % classes).astype(np.int32)
    return Table(ids, np.arange(len(ids) + 1), indices, Classes(tokens, tokens))


@pytest.fixture(scope="module")
def clipart() -> Table:
    return read_table(config())


def refusal(data: Table, **options: object) -> str:
    with pytest.raises(UserError) as caught:
        load_folds(config(**options), data, Path("folds.csv"))
    assert caught.value.code == 2
    assert not Path("folds.csv").exists()
    return str(caught.value)


def test_the_seed_alone_decides(clipart: Table) -> None:
    first = make_folds(config(), clipart)
    np.testing.assert_array_equal(make_folds(config(), clipart), first)
    assert (make_folds(config(folds_seed=1), clipart) != first).mean() > 0.5
    other = config().model_copy(update={"train": config().train.model_copy(update={"seed": 9})})
    np.testing.assert_array_equal(make_folds(other, clipart), first)


@pytest.mark.parametrize("num_folds", [3, 5])
def test_every_class_is_spread_evenly(clipart: Table, num_folds: int) -> None:
    fold_of = make_folds(config(num_folds=num_folds), clipart)
    targets = clipart.targets()
    counts = np.array([targets[fold_of == fold].sum(axis=0) for fold in range(num_folds)])
    assert np.abs(counts - targets.sum(axis=0) / num_folds).max() < 2
    sizes = np.bincount(fold_of)
    assert len(sizes) == num_folds
    assert np.abs(sizes - len(clipart) / num_folds).max() < 0.02 * len(clipart)


def test_rows_of_a_fold() -> None:
    assert Folds(np.array([1, 0, 2, 1]), "").valid_rows(1).tolist() == [0, 3]


def test_folds_csv_is_written_once_and_read_back() -> None:
    ids = [*AWKWARD_IDS, "a\nb", "a\rb", "a;b\tc", "\ufeffx"]
    data = table(ids)
    path = Path("run/folds.csv")
    made = load_folds(config(), data, path)
    written = path.read_bytes()
    assert written.startswith(b"id,fold\n0001,")
    sheet = read_csv(path)
    assert (sheet.column("id"), sheet.column("fold")) == (ids, [str(fold) for fold in made.fold_of])
    again = load_folds(config(folds_seed=5), data, path)
    np.testing.assert_array_equal(again.fold_of, made.fold_of)
    assert (again.sha256, path.read_bytes()) == (made.sha256, written)


def test_the_hash_changes_with_any_fold_and_any_id() -> None:
    fold_of = np.array([0, 1, 2, 0])
    ids = ["a", "b", "c", "d"]
    known = folds_sha256(ids, fold_of)
    assert known == folds_sha256(list(ids), fold_of.astype(np.int32)) and len(known) == 64
    for row in range(4):
        changed = fold_of.copy()
        changed[row] = (changed[row] + 1) % 3
        assert folds_sha256(ids, changed) != known
    assert folds_sha256(["a", "b", "d", "c"], fold_of) != known


def test_an_existing_csv_is_used_in_the_tables_order() -> None:
    Path("old.csv").write_text("fold,extra,id\n2,x,c\n0,x,a\n1,x,b\n")
    made = load_folds(config(folds="old.csv"), table(["a", "b", "c"]), Path("folds.csv"))
    assert made.fold_of.tolist() == [0, 1, 2]
    assert Path("folds.csv").read_text() == "id,fold\na,0\nb,1\nc,2\n"


@pytest.mark.parametrize("dtype", [np.int64, np.int8, np.uint8])
def test_an_existing_npy_is_used(dtype: type) -> None:
    np.save("old.npy", np.array([2, 0, 1, 1], dtype=dtype))
    made = load_folds(config(folds="old.npy"), table(["a", "b", "c", "d"]), Path("folds.csv"))
    assert (made.fold_of.tolist(), made.fold_of.dtype) == ([2, 0, 1, 1], np.int64)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "id,fold\na,0\nb,1\n",
            "old.csv: its 2 ids are not the 3 of the label table; for example c\n  hint: the table",
        ),
        ("id,fold\na,0\nb,1\nc,2\nd,0\n", "old.csv: its 4 ids are not the 3 of the label table; for example d\n"),
        ("id,fold\na,0\nb,1\nC,2\n", "old.csv: its 3 ids are not the 3 of the label table; for example C, c\n"),
        (
            "id,fold\na,0\nb,1\nc,2\na,1\n",
            "old.csv: its 4 ids are not the 3 of the label table; for example a duplicate\n",
        ),
        ("id,fold\na,0\nb,3\nc,2\n", "old.csv:3: fold '3' is not in 0..2 (data.num_folds)"),
        ("id,fold\na,0\nb,-1\nc,2\n", "old.csv:3: fold '-1' is not in 0..2 (data.num_folds)"),
        ("id,fold\na,0\nb,1.0\nc,2\n", "old.csv:3: fold '1.0' is not in 0..2 (data.num_folds)"),
        ("id,fold\na,0\nb,\nc,2\n", "old.csv:3: fold '' is not in 0..2 (data.num_folds)"),
        ("id,fold\na,0\nb,2\nc,2\n", "old.csv: no image is in fold 1 of 0..2 (data.num_folds)"),
        ("id,part\na,0\n", "old.csv:1: has the columns ['id', 'part'], not id and fold"),
    ],
)
def test_a_csv_that_does_not_fit_is_refused(text: str, message: str) -> None:
    Path("old.csv").write_text(text)
    assert refusal(table(["a", "b", "c"]), folds="old.csv").startswith(message)


def test_a_missing_split_is_refused() -> None:
    assert refusal(table(["a", "b", "c"]), folds="none.csv").startswith("none.csv: file not found")
    assert refusal(table(["a", "b", "c"]), folds="none.npy").startswith("none.npy: data.folds: cannot be read: ")


def npy(array: object) -> bytes:
    file = io.BytesIO()
    np.save(file, np.asarray(array))
    return file.getvalue()


def npz() -> bytes:
    file = io.BytesIO()
    np.savez(file, folds=np.array([0, 1, 2]))
    return file.getvalue()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (npy([0, 1]), "holds int64 (2,), not 3 folds in 0..2"),
        (npy([[0, 1, 2]]), "holds int64 (1, 3), not 3 folds in 0..2"),
        (npy([0, 1, 3]), "holds int64 (3,), not 3 folds in 0..2"),
        (npy([0, -1, 2]), "holds int64 (3,), not 3 folds in 0..2"),
        (npy([0.0, 1.0, 2.0]), "holds float64 (3,), not 3 folds in 0..2"),
        (npy([0, 1, 2])[:-1], "cannot be read: "),
        (npy(np.array([0, 1, None])), "cannot be read: Object arrays cannot be loaded when allow_pickle=False"),
        (pickle.dumps([0, 1, 2]), "cannot be read: "),
        (npz(), "cannot be read: "),
        (b"", "cannot be read: "),
    ],
    ids=["short", "2d", "high", "negative", "float", "cut", "object", "pickle", "npz", "empty"],
)
def test_an_npy_that_does_not_fit_is_refused(content: bytes, message: str) -> None:
    Path("old.npy").write_bytes(content)
    assert refusal(table(["a", "b", "c"]), folds="old.npy").startswith(f"old.npy: data.folds: {message}")


def test_an_npy_that_leaves_a_fold_empty_is_refused() -> None:
    np.save("old.npy", np.array([0, 2, 2]))
    message = "old.npy: no image is in fold 1 of 0..2 (data.num_folds)"
    assert refusal(table(["a", "b", "c"]), folds="old.npy") == message


def test_a_changed_table_is_refused() -> None:
    load_folds(config(), table(list("abcdef")), Path("run.csv"))
    with pytest.raises(
        UserError, match="^run.csv: its 6 ids are not the 5 of the label table; for example a\n  hint: .*--fresh"
    ):
        load_folds(config(), table(list("bcdef")), Path("run.csv"))


def test_too_few_images_are_refused() -> None:
    assert refusal(table(["a", "b"])) == "data.num_folds: 2 images are too few for 3 folds"


@pytest.mark.parametrize("classes", [1, 2, 7])
def test_few_images_and_one_class_still_fill_every_fold(classes: int) -> None:
    for count in (3, 4, 7, 20):
        sizes = np.bincount(make_folds(config(), table([str(row) for row in range(count)], classes)), minlength=3)
        assert sizes.sum() == count
        assert sizes.min() >= 1, (count, classes, sizes)


def one_label(counts: list[int], groups: list[str] | None = None) -> Table:
    """A table with as many images of each class as given."""
    labels = np.repeat(np.arange(len(counts)), counts).astype(np.int32)
    tokens = [f"c{index}" for index in range(len(counts))]
    ids = [f"i{row}" for row in range(len(labels))]
    return Table(ids, np.arange(len(ids) + 1), labels, Classes(tokens, tokens), groups=groups)


def test_multiclass_folds_spread_every_class_and_rare_ones_too() -> None:
    data = one_label([90, 31, 7, 2, 1])
    for seed in range(3):
        fold_of = make_folds(config(task="multiclass", folds_seed=seed), data)
        counts = np.array([np.bincount(data.indices[fold_of == fold], minlength=5) for fold in range(3)])
        assert counts.sum(axis=1).max() - counts.sum(axis=1).min() <= 1
        np.testing.assert_array_equal(np.sort(counts, axis=0).T[:3], [[30, 30, 30], [10, 10, 11], [2, 2, 3]])
        assert counts[:, 3].max() == 1 and counts[:, 4].sum() == 1
    again = make_folds(config(task="multiclass", folds_seed=2), data)
    np.testing.assert_array_equal(again, fold_of)
    assert (make_folds(config(task="multiclass", folds_seed=3), data) != fold_of).any()


def test_classes_of_one_image_each_are_split_all_the_same() -> None:
    assert np.bincount(make_folds(config(task="multiclass"), one_label([1] * 7))).tolist() == [3, 2, 2]
    assert refusal(one_label([1, 1]), task="multiclass") == "data.num_folds: 2 images are too few for 3 folds"


@pytest.mark.parametrize("task", ["multiclass", "multilabel"])
def test_no_group_is_in_two_folds(task: str, clipart: Table) -> None:
    data = one_label(clipart.counts().tolist()) if task == "multiclass" else clipart
    groups = [f"g{number}" for number in np.random.default_rng(0).integers(0, 300, len(data))]
    data = replace(data, groups=groups)
    options = {"task": task, "group_column": "patient"}
    fold_of = make_folds(config(**options), data)
    assert len(set(zip(groups, fold_of.tolist(), strict=True))) == len(set(groups)) == 300
    sizes = np.bincount(fold_of, minlength=3)
    assert np.abs(sizes / len(data) - 1 / 3).max() < 0.02
    counts = fold_quality(data, fold_of, 3).counts
    common = counts.sum(axis=0) > 60
    assert np.abs(counts[:, common] / counts[:, common].sum(axis=0) - 1 / 3).max() < 0.1
    np.testing.assert_array_equal(make_folds(config(**options), data), fold_of)
    assert (make_folds(config(**options, folds_seed=1), data) != fold_of).mean() > 0.3


def test_too_few_groups_are_refused() -> None:
    data = one_label([4, 4], groups=["a", "b"] * 4)
    assert refusal(data, group_column="patient") == (
        "data.group_column: 'patient' has 2 groups, too few for 3 folds (data.num_folds)\n"
        "  hint: fewer folds, or a finer column"
    )


def test_an_existing_split_that_parts_a_group_is_refused() -> None:
    data = one_label([3, 1], groups=["a", "b", "c", "b"])
    Path("old.csv").write_text("id,fold\ni0,0\ni1,1\ni2,2\ni3,0\n")
    assert refusal(data, group_column="patient", folds="old.csv") == (
        "old.csv: data.folds: group 'b' is in fold 1 (i1) and in fold 0 (i3)\n"
        "  hint: take data.folds out, and the split is made by data.group_column"
    )
    np.save("old.npy", np.array([0, 1, 2, 1]))
    assert make_folds(config(group_column="patient", folds="old.npy"), data).tolist() == [0, 1, 2, 1]
