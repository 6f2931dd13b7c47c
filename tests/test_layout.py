"""What check-data takes for the label table, its columns and folders, in the layouts in which competitions come."""

from pathlib import Path

import pytest

from foldsmith.data.images import find_images
from foldsmith.data.layout import Layout, find_files
from foldsmith.data.survey import survey
from foldsmith.errors import UserError
from tests.conftest import DATA

IMAGES = sorted((DATA / "train").iterdir())[:12]
TRAIN = [f"p{number}" for number in range(12)]
TEST = [f"q{number}" for number in range(4)]


def lay(root: Path, names: list[str], **tables: str) -> Layout:
    """A folder of real images of these names, and tables; a `:` in a table stands for a row a training image."""
    for number, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).symlink_to(IMAGES[number % len(IMAGES)])
    for name, text in tables.items():
        (root / f"{name}.csv").write_text(text)
    return find_files(root)


def table(header: str, *values: list[str], ids: list[str] = TRAIN) -> str:
    """A csv whose columns hold the values in turn."""
    rows = [",".join([name, *(each[row % len(each)] for each in values)]) for row, name in enumerate(ids)]
    return "\n".join([header, *rows]) + "\n"


def both(extension: str = ".jpg") -> list[str]:
    return [f"train/{name}{extension}" for name in TRAIN] + [f"test/{name}{extension}" for name in TEST]


def test_the_table_of_the_test_set_is_not_the_label_table(tmp_path):
    found = lay(
        tmp_path,
        both(),
        train=table("id,label", ["a", "b"]),
        test=table("id,width", ["50"], ids=TEST),
        meta=table("id,width", ["50"]),
    )
    assert found.section == {
        "root": str(tmp_path),
        "id_column": "id",
        "task": "multiclass",
        "label_column": "label",
        "image_extension": ".jpg",
    }
    assert found.warnings == []


def test_of_tables_of_one_folder_the_one_with_labels_is_taken(tmp_path):
    names = [f"images/{name}.jpg" for name in TRAIN + TEST]
    found = lay(tmp_path, names, a_meta=table("id,width", ["50"]), z=table("id,breed", ["x", "y"]))
    assert (found.section["train_csv"], found.section["label_column"]) == (str(tmp_path / "z.csv"), "breed")
    (tmp_path / "test.csv").write_text(table("id,label", ["x"], ids=TEST))
    assert find_files(tmp_path).section["train_csv"] == str(tmp_path / "z.csv")


def test_more_rows_decide_last(tmp_path):
    few = table("id,width", ["5"], ids=TRAIN[:6])
    found = lay(tmp_path, both(), few=few, many=table("id,width", ["5", "6"]))
    assert found.section["train_csv"] == str(tmp_path / "many.csv")


def test_a_submission_format_is_a_sample(tmp_path):
    found = lay(
        tmp_path,
        both(),
        submission_format=table("id,a,b,c", ["0.5"], ["0.5"], ["0.5"], ids=TEST),
        train_labels=table("id,a,b,c", ["1", "0"], ["1", "1", "0"], ["0"]),
    )
    assert found.section["sample_submission"] == str(tmp_path / "submission_format.csv")
    assert found.section["train_csv"] == str(tmp_path / "train_labels.csv")
    assert found.section["task"] == "multilabel" and "test_dir" not in found.section
    (tmp_path / "sample_submission.csv").write_text(table("id,a,b,c", ["0"], ["0"], ["1"], ids=TEST))
    found = find_files(tmp_path)
    assert "sample_submission" not in found.section
    assert "also possible: submission_format.csv" in found.warnings[0]


def test_a_sample_alone_is_no_label_table(tmp_path):
    with pytest.raises(UserError, match=r"holds no label table \(\.csv, \.tsv\)"):
        lay(tmp_path, both(), sample_submission=table("id,label", ["a"], ids=TEST))


def test_a_table_in_a_folder_below_is_named(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "labels.csv").write_text(table("id,label", ["a"]))
    with pytest.raises(UserError, match="holds no label table") as caught:
        lay(tmp_path, both())
    assert caught.value.hint is not None
    assert caught.value.hint.startswith(f"there is {tmp_path}/data/labels.csv: name its folder as --root")


def test_one_folder_for_training_and_test_images_is_warned_of(tmp_path):
    found = lay(
        tmp_path,
        [f"images/{name}.jpg" for name in TRAIN + TEST],
        train=table("id,label", ["a", "b"]),
        sample_submission=table("id,label", ["a"], ids=TEST),
    )
    assert found.section["train_dir"] == found.section["test_dir"] == str(tmp_path / "images")
    assert found.warnings[0].startswith(f"{tmp_path}/images holds training and test images")


@pytest.mark.parametrize("labels", [["black cat", "big dog", "blue bird"], ['"cat, black"', '"dog, big"', "bird"]])
def test_one_label_of_several_words_is_taken_whole(labels, tmp_path):
    lay(tmp_path, both(), train=table("id,kind", labels))
    found = survey(tmp_path, 2)
    assert found.section["task"] == "multiclass" and "label_separator" not in found.section
    assert found.table.classes.names == sorted(label.strip('"') for label in labels)
    whole = labels[0].strip('"')
    assert found.warnings[0].startswith(f"labels such as {whole!r} are taken whole")


def test_numbers_side_by_side_are_several_labels(tmp_path):
    """All images have the same two, so that no number is in another text."""
    found = lay(tmp_path, both(), train=table("id,attribute_ids", ["0 1"]))
    assert found.section["task"] == "multilabel" and found.section["label_separator"] == " "


def test_a_column_of_the_sample_for_every_label_of_several_words(tmp_path):
    sample = table("id,black cat,big cat", ["0"], ["1"], ids=TEST)
    found = lay(tmp_path, both(), train=table("id,kind", ["black cat", "big cat"]), sample_submission=sample)
    assert found.section["task"] == "multiclass"


def test_labels_split_at_a_space_are_said_to_be(tmp_path):
    found = lay(tmp_path, both(), train=table("id,tags", ["black cat", "black dog", "cat"]))
    assert (found.section["task"], found.section["label_separator"]) == ("multilabel", " ")
    assert found.warnings == ["labels are split at ' '; if 'black cat' is one label: data.task: multiclass"]
    (tmp_path / "train.csv").write_text(table("id,tags", ["0 12", "12 3", "3"]))
    assert find_files(tmp_path).warnings == [], "numbers are ids of labels"
    (tmp_path / "train.csv").write_text(table("id,tags", ["black cat|dog", "dog", "black cat"]))
    assert find_files(tmp_path).warnings == []


@pytest.mark.parametrize("labels", [["a", "b", "", "a"], ["black cat", "big dog", "", "big dog"]])
def test_empty_cells_among_single_labels_are_warned_of(labels, tmp_path):
    lay(tmp_path, both(), train=table("id,kind", labels))
    found = survey(tmp_path, 2)
    assert found.section["task"] == "multilabel" and len(found.table.classes.names) == 2
    assert found.warnings[0].startswith("3 of 12 images have an empty label in column 'kind', the others one each")


def test_the_label_column_is_the_one_that_the_sample_wants(tmp_path):
    values = (["30", "40", "50"], ["f", "m"], ["0", "1"], ["nv", "mel", "bcc"])
    found = lay(tmp_path, both(), train=table("id,age,sex,fold,finding", *values))
    assert found.section["label_column"] == "sex", "nothing tells; the fewest values, but never the fold"
    assert found.warnings == ["labels are taken from the column 'sex'; also possible: age, finding"]
    (tmp_path / "sample_submission.csv").write_text(table("id,finding", ["nv"], ids=TEST))
    assert find_files(tmp_path).section["label_column"] == "finding" and find_files(tmp_path).warnings == []
    (tmp_path / "sample_submission.csv").unlink()
    (tmp_path / "train.csv").write_text(table("id,age,sex,fold,diagnosis", *values))
    assert find_files(tmp_path).section["label_column"] == "diagnosis"
    assert find_files(tmp_path).warnings[0].endswith("also possible: age, sex")


def test_two_columns_of_0_and_1_beside_a_label_column_are_no_classes(tmp_path):
    values = (["0", "1"], ["1", "0", "0"], ["x", "y", "z"])
    found = lay(tmp_path, both(), train=table("id,male,smoker,diagnosis", *values))
    assert found.section["task"] == "multiclass" and found.section["label_column"] == "diagnosis"


def test_columns_of_the_sample_are_the_classes_and_a_fold_is_none(tmp_path):
    values = (["0", "1"], ["1", "0"], ["0", "0", "1"], ["0", "1"])
    sample = table("id,b,a", ["0"], ["0"], ids=TEST)
    found = lay(tmp_path, both(), train=table("id,a,b,male,fold", *values), sample_submission=sample)
    assert found.section["label_column"] == ["a", "b"] and found.section["task"] == "multiclass"


def test_numbers_with_fractions_are_warned_of(tmp_path):
    found = lay(tmp_path, both(), train=table("id,score", [f"0.{number}" for number in range(10, 22)]))
    assert found.warnings == ["column 'score' holds numbers with fractions, each of them a class: no regression here"]


def images_of(found: Layout, folder: Path, ids: list[str]) -> list[Path]:
    return find_images(folder, ids, found.section.get("image_extension"))


def test_extensions_mixed_in_a_folder(tmp_path):
    names = [f"train/{name}{'.png' if number % 3 == 0 else '.jpg'}" for number, name in enumerate(TRAIN)]
    found = lay(tmp_path, names, train=table("id,label", ["a", "b"]))
    assert "image_extension" not in found.section
    assert len(images_of(found, tmp_path / "train", TRAIN)) == 12
    for name in TRAIN[::3]:
        (tmp_path / "train" / f"{name}.jpg").symlink_to(IMAGES[0])
    found = find_files(tmp_path)
    assert found.section["image_extension"] == ".jpg", "masks beside the images"
    assert {path.suffix for path in images_of(found, tmp_path / "train", TRAIN)} == {".jpg"}


def test_a_tab_separated_table(tmp_path):
    (tmp_path / "train.tsv").write_text(table("id,label", ["a", "b"]).replace(",", "\t"))
    found = lay(tmp_path, both())
    assert found.section["train_csv"] == str(tmp_path / "train.tsv")
    assert survey(tmp_path, 2).table.classes.names == ["a", "b"]


@pytest.mark.parametrize("extension", ["", ".jpg"])
def test_ids_with_a_folder_in_front(extension, tmp_path):
    ids = [f"train/{name}{extension}" for name in TRAIN]
    tests = [f"test/{name}{extension}" for name in TEST]
    found = lay(
        tmp_path,
        both(),
        train=table("path,label", ["a", "b"], ids=ids),
        sample_submission=table("path,label", ["a"], ids=tests),
    )
    assert found.section["train_dir"] == found.section["test_dir"] == str(tmp_path)
    assert images_of(found, tmp_path, ids)[0] == tmp_path / "train" / "p0.jpg"
    looked = survey(tmp_path, 2)
    assert (len(looked.train.sizes), len(looked.test.sizes)) == (12, 4) and looked.train.errors == {}
