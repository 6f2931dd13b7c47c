"""Label tables: ids are text, byte for byte, and every wrong row is named with its line."""

from pathlib import Path

import numpy as np
import pytest

from foldsmith.config import load_config
from foldsmith.data.sheets import read_csv
from foldsmith.data.tables import Table, read_sample, read_table
from foldsmith.errors import UserError
from tests.conftest import DATA, ROOT, config

AWKWARD_IDS = ["0001", "1", "1e5", "NA", "null", "None", " a b ", "a,b", 'say "x"', "é", "e\u0301", "-0", "1.0", "TRUE"]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def table(train: str | bytes, labels: str | None = None, **data: object) -> Table:
    Path("train.csv").write_bytes(train if isinstance(train, bytes) else train.encode("utf-8"))
    if labels is not None:
        Path("labels.csv").write_bytes(labels.encode("utf-8"))
    return read_table(config(**data))


def words(read: Table) -> list[list[str]]:
    """The labels of every image as the class list's tokens."""
    return [[read.classes.tokens[index] for index in np.flatnonzero(row)] for row in read.targets()]


def refusal(*args: object, **data: object) -> str:
    with pytest.raises(UserError) as caught:
        table(*args, **data)
    assert caught.value.code == 2
    return str(caught.value)


def test_ids_labels_and_classes() -> None:
    read = table(
        "id,attribute_ids\na,2 0\nb,\nc,1 1 1\n", "attribute_id,attribute_name\n0,zero\n1,one\n2,two\n3,three\n"
    )
    assert (read.ids, len(read)) == (["a", "b", "c"], 3)
    assert (read.classes.tokens, read.classes.names) == (["0", "1", "2", "3"], ["zero", "one", "two", "three"])
    assert (read.starts.tolist(), read.indices.tolist()) == ([0, 2, 2, 3], [0, 2, 1])
    expected = np.array([[1, 0, 1, 0], [0, 0, 0, 0], [0, 1, 0, 0]], dtype=bool)
    np.testing.assert_array_equal(read.targets(), expected)
    np.testing.assert_array_equal(read.targets(np.array([2, 0])), expected[[2, 0]])
    taken = read.take(np.array([2, 0]))
    assert taken.ids == ["c", "a"]
    np.testing.assert_array_equal(taken.targets(), expected[[2, 0]])
    assert len(read.take(np.array([], dtype=int))) == 0


def test_a_column_a_class() -> None:
    """Classes are the columns, in their order, those that no image has included; every separator keeps names whole."""
    read = table("id,red fox,a;b,owl\n007,1,0,0\nb,0.0,1.0,0\nc,0,0,0\nd,1,1,0\n")
    assert read.ids == ["007", "b", "c", "d"] and read.classes.tokens == ["red fox", "a;b", "owl"]
    assert words(read) == [["red fox"], ["a;b"], [], ["red fox", "a;b"]]
    assert table("id,x,y\na,1,0\nb,0,1\n", task="multiclass").indices.tolist() == [0, 1]
    named = table("id,x,site,y\na,1,7,0\nb,0,8,1\n", label_column=["y", "x"], group_column="site")
    assert named.classes.tokens == ["y", "x"] and named.groups == ["7", "8"] and words(named) == [["x"], ["y"]]
    listed = table("id,2,0\na,1,0\nb,1,1\n", "id,name\n0,zero\n1,one\n2,two\n")
    assert listed.classes.names == ["zero", "one", "two"] and words(listed) == [["2"], ["0", "2"]]
    assert "in a class's name" in refusal('id,a b;c,d|e,"f,g\th"\nx,1,0,1\n')
    number = refusal("id,x,y\na,0,1\nb,1,2\n", label_column=["x", "y"])
    assert number == "train.csv:3: data.label_column: '2' in column 'y' is neither 0 nor 1"
    missing = refusal("id,x,y\na,0,1\n", label_column=["x", "z"])
    assert missing.startswith("train.csv:1: data.label_column: no column 'z' in the header ['id', 'x', 'y']")
    several = refusal("id,x,y\na,1,1\n", task="multiclass")
    assert "train.csv:2: 'a' has the labels ['x', 'y'], and data.task: multiclass wants exactly one" in several


def test_columns_of_0_and_1_beside_a_usual_name_are_no_classes() -> None:
    assert table("id,target,checked\na,1,0\nb,0,1\n").classes.tokens == ["0", "1"]
    assert words(table("id,has_cactus\na,1\nb,0\n")) == [["1"], ["0"]]


def test_ids_survive_byte_for_byte() -> None:
    quoted = ['"' + name.replace('"', '""') + '"' for name in AWKWARD_IDS]
    assert table("id,label\n" + "".join(f"{name},x\n" for name in quoted)).ids == AWKWARD_IDS
    plain = [name for name in AWKWARD_IDS if not set(name) & set(',"')]
    assert table("id,label\n" + "".join(f"{name},x\n" for name in plain)).ids == plain


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("bom", ["", "\ufeff"])
def test_any_delimiter_line_end_and_bom(delimiter: str, end: str, bom: str) -> None:
    lines = [delimiter.join(row) for row in (["id", "labels"], ["01", "x y"], ["02", "y"])]
    for text in (bom + end.join(lines), bom + end.join(lines) + end, bom + end.join([*lines, "", ""])):
        read = table(text)
        assert (read.ids, words(read)) == (["01", "02"], [["x", "y"], ["y"]])


def test_lines_count_from_one_through_line_ends_inside_quotes() -> None:
    Path("a.csv").write_text('id,label\n"a\nb",x\n\nc,y\n')
    sheet = read_csv(Path("a.csv"))
    assert (sheet.rows, list(sheet.lines)) == ([["a\nb", "x"], ["c", "y"]], [3, 5])


@pytest.mark.parametrize(
    ("train", "message"),
    [
        ("", "train.csv: is empty"),
        ("id,label\n", "train.csv: has no rows"),
        ("id,label\na,x\nb,y\na,z\n", "train.csv:4: duplicate id 'a', first on line 2"),
        ("id,label\na,x\n,y\n", "train.csv:3: empty id"),
        ("id,label\na,x\nb,y,z\n", "train.csv:3: 3 fields, but the header has 2"),
        ("id,label\na,x\nb\n", "train.csv:3: 1 fields, but the header has 2"),
        ("id,label,label\na,x,y\n", "train.csv:1: two columns have the same name: ['id', 'label', 'label']"),
        ("key,label\na,x\n", "train.csv:1: data.id_column: which of the columns ['key', 'label'] is it?"),
        ("id,a,b\nx,y,z\n", "train.csv:1: data.label_column: which of the columns ['id', 'a', 'b'] is it?"),
        ('id,label\na,x\nb,"y" z\n', "train.csv:3: is not valid csv: "),
        ('id,label\na,x\nb,"y\nc,z\n', "train.csv:3: is not valid csv: unexpected end of data"),
        (b"id,label\na,\xff\n", "train.csv:2: is not UTF-8 text (byte 11)"),
        ("id,label\na,\nb,\n", "train.csv: no image has a label"),
    ],
)
def test_a_broken_table_is_refused_with_its_line(train: str | bytes, message: str) -> None:
    assert refusal(train).startswith(message)


def test_a_missing_file_is_refused() -> None:
    with pytest.raises(UserError, match="^train.csv: file not found\n"):
        read_table(config())
    assert refusal("id,label\na,x\n", labels_csv="none.csv") == "none.csv: data.labels_csv: file not found"


def test_columns_are_found_or_named() -> None:
    assert table("ID,Tags\na,x\n").ids == ["a"]
    assert words(table("image_name,what\na,x y\n")) == [["x", "y"]]
    text = "key,id,tags,other\nk,a,x,y\n"
    read = table(text, id_column="key", label_column="other")
    assert (read.ids, words(read)) == (["k"], [["y"]])
    assert (table(text).ids, words(table(text))) == (["a"], [["x"]])
    message = "train.csv:1: data.id_column: no column 'kye' in the header ['key', 'id', 'tags', 'other']"
    assert refusal(text, id_column="kye") == message + "\n  hint: did you mean 'key'?"
    assert refusal(text, label_column="TAGS").endswith("\n  hint: did you mean 'tags'?")
    assert refusal(text, label_column="xyz").endswith("\n  hint: valid: key, id, tags, other")


def test_a_label_outside_the_class_list_is_named_with_its_line() -> None:
    labels = "attribute_id,attribute_name\n10,ten\n11,eleven\n"
    assert refusal("id,attribute_ids\na,10\nb,10 12\n", labels) == (
        "train.csv:3: label '12' of 'b' is not in the class list (2 classes)\n"
        "  hint: see labels.csv; labels are split at ' ' (data.label_separator); valid: 10, 11"
    )
    assert "train.csv:2: label '010' of 'a'" in refusal("id,attribute_ids\na,010\n", labels)
    assert "train.csv:3: label 'ten' of 'b'" in refusal("id,attribute_ids\na,10\nb,ten\n", labels)


def test_labels_may_be_names() -> None:
    read = table("image_name,tags\na,haze primary\nb,primary\n")
    assert (read.classes.tokens, read.classes.names) == (["haze", "primary"], ["haze", "primary"])
    assert words(read) == [["haze", "primary"], ["primary"]]
    labels = "id,name\n7,primary\n3,haze\n"
    read = table("image_name,tags\na,haze primary\nb,primary\n", labels)
    # the submission writes tokens, and so what the table wrote
    assert (read.classes.tokens, words(read)) == (["primary", "haze"], [["primary", "haze"], ["primary"]])
    assert table("image_name,tags\na,7 3\n", labels).indices.tolist() == [0, 1]


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (["b;a", "a", ""], [["a", "b"], ["a"], []]),
        (["b|a", "a"], [["a", "b"], ["a"]]),
        (["b,a", "a"], [["a", "b"], ["a"]]),
        (["b, a", "a"], [["a", "b"], ["a"]]),
        (["clear sky, water", "clear sky", "dry land"], [["clear sky", "water"], ["clear sky"], ["dry land"]]),
        (["new york; land, dry", "new york"], [["land, dry", "new york"], ["new york"]]),
        (["  b   a ", "a"], [["a", "b"], ["a"]]),
        (["b a"] * 20 + ["x,y a"], [["a", "b"]] * 20 + [["a", "x,y"]]),
    ],
)
def test_the_label_separator_is_found(texts: list[str], expected: list[list[str]]) -> None:
    assert words(table("id,label\n" + "".join(f'{row},"{text}"\n' for row, text in enumerate(texts)))) == expected


def test_the_label_separator_can_be_named() -> None:
    read = table("id,label\na,x y::z\n", label_separator="::")
    assert read.classes.tokens == ["x y", "z"]


def test_classes_without_a_list_are_in_natural_order() -> None:
    tokens = table("id,label\na,10 9 a10 a9 2 b 02 5\u00b2 \u00b2\n").classes.tokens
    assert tokens == ["02", "2", "5\u00b2", "9", "10", "a9", "a10", "b", "\u00b2"]


def test_the_hash_changes_with_anything_that_matters() -> None:
    texts = [
        "a,x\nb,y\n",
        "a,x\nb,x y\n",
        "a,x y\nb,y\n",
        "a,y\nb,x\n",
        "b,y\na,x\n",
        "a,x\nc,y\n",
        "a,x\nb,z\n",
        "a,\nb,x y\n",
    ]
    hashes = [table("id,label\n" + text).sha256 for text in texts]
    assert len(set(hashes)) == len(texts)
    assert table("id;label\r\na;x\r\nb;y\r\n").sha256 == hashes[0]


def test_one_label_an_image_is_never_split() -> None:
    read = table("id,label\na,blue tit\nb, robin \nc,blue tit\n", task="multiclass")
    assert (read.classes.tokens, read.indices.tolist(), read.starts.tolist()) == (
        ["blue tit", "robin"],
        [0, 1, 0],
        [0, 1, 2, 3],
    )
    labels = "id,name\n0,robin\n1,blue tit\n2,wren\n"
    assert words(table("id,label\na,blue tit\n", labels, task="multiclass")) == [["blue tit"]]
    assert table("id,label\na,1\nb,0\n", labels, task="multiclass", label_separator=" ").indices.tolist() == [1, 0]


def test_an_image_without_its_one_label_or_with_two_is_refused() -> None:
    labels = "id,name\n0,robin\n1,wren\n"
    assert refusal("id,label\na,0\nb,  \n", labels, task="multiclass") == (
        "train.csv:3: 'b' has no label ('  '), and data.task: multiclass wants exactly one\n"
        "  hint: give it a label, remove the row, or take data.task: multilabel"
    )
    assert refusal("id,label\na,0\nb,0 1\n", labels, task="multiclass") == (
        "train.csv:3: label '0 1' of 'b' is not in the class list (2 classes)\n"
        "  hint: see labels.csv; data.task: multiclass splits no label; valid: 0, 1"
    )


def test_groups_are_read_and_hashed() -> None:
    text = "id,what,patient\na,x,7\nb,y,07\nc,x,7\n"
    read = table(text, group_column="patient")  # what is left is the label column
    assert (read.groups, words(read)) == (["7", "07", "7"], [["x"], ["y"], ["x"]])
    assert read.take(np.array([2, 1])).groups == ["7", "07"]
    plain = table(text, label_column="what")
    assert plain.groups is None and plain.sha256 == table("id,what\na,x\nb,y\nc,x\n").sha256
    other = table(text.replace("07", "8"), group_column="patient")
    assert len({plain.sha256, read.sha256, other.sha256}) == 3


def test_a_group_column_that_is_missing_or_has_holes_is_refused() -> None:
    assert refusal("id,label,patient\na,x,7\n", group_column="pateint") == (
        "train.csv:1: data.group_column: no column 'pateint' in the header ['id', 'label', 'patient']\n"
        "  hint: did you mean 'patient'?"
    )
    assert refusal("id,label\na,x\n", group_column="patient").endswith("\n  hint: valid: id, label")
    assert refusal("id,label,patient\na,x,7\nb,x,\n", group_column="patient") == (
        "train.csv:3: data.group_column: the group is empty\n"
        "  hint: an image that belongs to no group needs a group of its own"
    )


def test_counts_and_the_rarest_label() -> None:
    read = read_table(config(root=str(DATA)))
    targets = read.targets()
    counts = targets.sum(axis=0)
    np.testing.assert_array_equal(read.counts(), counts)
    expected = [min(np.flatnonzero(row), key=lambda index: (counts[index], index)) for row in targets]
    np.testing.assert_array_equal(read.rarest(), expected)
    assert table("id,label\na,x y\nb,\nc,x\n").rarest().tolist() == [1, 2, 0]


def test_the_hash_of_the_shipped_table_is_what_runs_on_disk_have() -> None:
    known = "61a1d3d4774f6f2c417401af957d5be5665c8172b220de3eeeeaee702edec809"
    assert read_table(config(root=str(DATA))).sha256 == known


def test_test_ids_keep_the_order_of_the_sample_submission() -> None:
    Path("sample_submission.csv").write_text("id,attribute_ids\n010,0\n9,0\n1e3,0\n")
    sheet, column = read_sample(config())
    ids = sheet.column(column)
    assert (ids, sheet.columns) == (["010", "9", "1e3"], ["id", "attribute_ids"])


def test_the_shipped_data_set() -> None:
    read = read_table(config(root=str(DATA)))
    assert (len(read), len(read.classes.tokens), len(set(read.ids))) == (2868, 55, 2868)
    assert round(len(read.indices) / len(read), 2) == 1.57
    assert read.classes.tokens == [str(number) for number in range(55)]
    assert (read.classes.names[:2], read.ids[0]) == (["action", "africa"], "000538be4ee0")
    assert read.targets().sum() == len(read.indices)
    assert read.targets().any(axis=1).all()
    assert len(read_sample(config(root=str(DATA)))[0].rows) == 716


def test_lists_in_brackets_are_refused(tmp_path: Path):
    (tmp_path / "train.csv").write_text("id,tags\na,x y\nb,\"['x', 'y']\"\n")
    with pytest.raises(UserError) as caught:
        read_table(load_config(ROOT / "configs" / "clipart_tiny.yml", [f"data.root={tmp_path}"]))
    assert str(caught.value).startswith(f"{tmp_path}/train.csv:3: the labels are a list in brackets: \"['x', 'y']\"")


def test_what_was_read_in_words(tmp_path: Path):
    (tmp_path / "train.csv").write_text("id,tags\na,haze primary\nb,clear\n")
    table = read_table(load_config(ROOT / "configs" / "clipart_tiny.yml", [f"data.root={tmp_path}"]))
    assert table.words == "2 images, 3 classes (clear, haze, primary), 1.50 labels an image, split at ' '"
