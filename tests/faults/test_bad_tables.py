"""34 awkward tables: read exactly, ids byte for byte, or refused with the row."""

import csv
import hashlib
import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from foldsmith.data.tables import read_table
from foldsmith.errors import UserError
from tests.conftest import ROOT, config

LABELS = "attribute_id,attribute_name\n0,zero\n1,one\n2,two\n"
IDS = [
    "0001",
    "1",
    "1e5",
    "NA",
    "null",
    "None",
    "nan",
    "TRUE",
    "-0",
    "1.0",
    "0x1F",
    "2020-01-01",
    " a ",
    "é",
    "e\u0301",
]

# name: (train.csv, what stands in the table: ids and labels)
READ = {
    "ids that look like numbers": ("id,attribute_ids\n0001,0\n1,1\n1e5,2\n", [("0001", "0"), ("1", "1"), ("1e5", "2")]),
    "ids that look like nothing": (
        "id,attribute_ids\nNA,0\nnull,1\nNone,2\n",
        [("NA", "0"), ("null", "1"), ("None", "2")],
    ),
    "every such id": ("id,attribute_ids\n" + "".join(f"{name},0\n" for name in IDS), [(name, "0") for name in IDS]),
    "a byte order mark": ("\ufeffid,attribute_ids\na,0\n", [("a", "0")]),
    "CRLF": ("id,attribute_ids\r\na,0 1\r\nb,2\r\n", [("a", "0 1"), ("b", "2")]),
    "no line end at the end": ("id,attribute_ids\na,0\nb,1", [("a", "0"), ("b", "1")]),
    "empty lines": ("id,attribute_ids\n\na,0\n\n\nb,1\n\n", [("a", "0"), ("b", "1")]),
    "quotes": ('"id","attribute_ids"\n"a,b","0"\n"say ""x""","1"\n', [("a,b", "0"), ('say "x"', "1")]),
    "a line end in quotes": ('id,attribute_ids\n"a\nb",0\n', [("a\nb", "0")]),
    "semicolons": ("id;attribute_ids\n01;0\n02;1 2\n", [("01", "0"), ("02", "1 2")]),
    "tabs": ("id\tattribute_ids\n01\t0\n02\t1 2\n", [("01", "0"), ("02", "1 2")]),
    "bars": ("id|attribute_ids\n01|0\n02|1 2\n", [("01", "0"), ("02", "1 2")]),
    "bars in the name of a column": ("id,attribute_ids,c|d|e\na,0,\n", [("a", "0")]),
    "another label separator": ("id,attribute_ids\na,0|1\nb,2|0\n", [("a", "0 1"), ("b", "0 2")]),
    "empty labels": ("id,attribute_ids\na,\nb,1\n", [("a", ""), ("b", "1")]),
    "labels twice": ("id,attribute_ids\na,1 1 0\n", [("a", "0 1")]),
    "labels by name": ("id,attribute_ids\na,two zero\n", [("a", "zero two")]),
}
# name: (train.csv, data keys, how the message begins)
REFUSED = {
    "duplicate ids": ("id,attribute_ids\na,0\nb,1\na,2\n", {}, "train.csv:4: duplicate id 'a', first on line 2"),
    "an empty id": ("id,attribute_ids\na,0\n,1\n", {}, "train.csv:3: empty id"),
    "a label out of range": (
        "id,attribute_ids\na,0\nb,3\n",
        {},
        "train.csv:3: label '3' of 'b' is not in the class list",
    ),
    "a label that is no number": ("id,attribute_ids\na,0\nb,1.0\n", {}, "train.csv:3: label '1.0' of 'b' is not in"),
    "a negative label": (
        "id,attribute_ids\na,-1\nb,0\n",
        {},
        "train.csv:2: label '-1' of 'a' is not in the class list",
    ),
    "a missing column": ("id,x,y\na,0,7\n", {}, "train.csv:1: data.label_column: which of the columns"),
    "a named column that is missing": (
        "id,tags\na,0\n",
        {"label_column": "tag"},
        "train.csv:1: data.label_column: no c",
    ),
    "a row that is too long": ("id,attribute_ids\na,0\nb,1,2\n", {}, "train.csv:3: 3 fields, but the header has 2"),
    "an open quote": ('id,attribute_ids\na,0\nb,"1\n', {}, "train.csv:3: is not valid csv: "),
    "Latin-1": ("id,attribute_ids\na,0\nb\xe9,1\n".encode("latin-1"), {}, "train.csv:3: is not UTF-8 text (byte 22)"),
    "Latin-1, far behind": (
        b"id,attribute_ids\n" + b"".join(b"%05d,0\r\n" % number for number in range(9000)) + b"\xe9,1\r\n",
        {},
        "train.csv:9002: is not UTF-8 text (byte 81017)",
    ),
    "UTF-32": ("id,attribute_ids\na,0\n".encode("utf-32"), {}, "train.csv:1: is UTF-32 text, not UTF-8"),
    "UTF-16 without a mark": (
        "id,attribute_ids\na,0\nb,1\n".encode("utf-16-le"),
        {},
        "train.csv:1: holds a NUL byte\n  hint: if it is UTF-16, save it as UTF-8; no file's name holds one",
    ),
    "an id that no file can have": ("id,attribute_ids\na,0\nb\0c,1\n", {}, "train.csv:3: holds a NUL byte\n  hint: "),
    "a delimiter that is none": (
        "id:attribute_ids\na:0\n",
        {},
        "train.csv:1: data.id_column: which of the columns ['id:attribute_ids'] is it?\n  hint: there is one column "
        "only: comma, semicolon, tab or | may stand between columns; else name it: data.id_column: ...",
    ),
    "UTF-16": ("id,attribute_ids\na,0\n".encode("utf-16"), {}, "train.csv:1: is UTF-16 text, not UTF-8"),
    "no label for multiclass": ("id,attribute_ids\na,0\nb,\n", {"task": "multiclass"}, "train.csv:3: 'b' has no label"),
}


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("labels.csv").write_text(LABELS)


@pytest.mark.parametrize("name", READ)
def test_read_exactly(name):
    text, expected = READ[name]
    Path("train.csv").write_bytes(text.encode())
    table = read_table(config())
    tokens = table.classes.tokens
    labels = [" ".join(tokens[index] for index in row.nonzero()[0]) for row in table.targets()]
    assert list(zip(table.ids, labels, strict=True)) == expected
    assert [each.encode() for each in table.ids] == [each.encode() for each, _ in expected]


@pytest.mark.parametrize("name", REFUSED)
def test_refused_with_the_row(name):
    text, keys, message = REFUSED[name]
    Path("train.csv").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UserError) as caught:
        read_table(config(**keys))
    assert str(caught.value).startswith(message) and caught.value.code == 2


def test_there_are_34():
    assert len(READ) + len(REFUSED) == 34


CHAIN = """\
base: {root}/configs/clipart_tiny.yml
data: {{root: {folder}, labels_csv: null, num_folds: 2}}
model: {{input_size: 32}}
train: {{batch_size: 8, num_epochs: 1, workers: 0}}
augmentations: {{crop_jitter: 0}}
test: {{tta: [identity]}}
"""


def test_ids_go_through_the_whole_chain_byte_for_byte(warm, tmp_path):
    """Table, split, training, OOF file, blend, submission: every id comes out as it went in."""
    names = [*IDS, 'say "x"', "a,b", "a\nb", "=cmd()", "@a", "a;b", "'q'", "007.50", "\u200b", "a" * 200]
    folder = tmp_path / "data"
    quoted = ['"' + name.replace('"', '""') + '"' if set(name) & set('",\n') else name for name in names]
    for part in ("train", "test"):
        (folder / part).mkdir(parents=True)
        for number, name in enumerate(names):
            image = np.full((8, 8, 3), 9 * number, np.uint8)
            (folder / part / f"{name}.png").write_bytes(cv2.imencode(".png", image)[1].tobytes())
    rows = [f"{name},{('dark', 'bright')[number % 2]}\n" for number, name in enumerate(quoted)]
    (folder / "train.csv").write_bytes("".join(["id,label\n", *rows]).encode())
    asked = "".join(["id,label\n", *(f"{name},\n" for name in quoted)])
    (folder / "sample_submission.csv").write_bytes(asked.encode())
    (tmp_path / "ids.yml").write_text(CHAIN.format(root=ROOT, folder=folder))

    run = tmp_path / "runs" / "ids"
    words = ["--config", tmp_path / "ids.yml", "--output", tmp_path / "runs"]
    for script in ("train.py", "predict_oof.py"):
        ended = warm.run(script, *words)
        assert ended.code == 0, ended.err
    with open(run / "folds.csv", encoding="utf-8", newline="") as file:
        split = list(csv.reader(file))[1:]
    assert [name for name, _ in split] == names
    expected = "".join(["id,fold\n", *(f"{name},{fold}\n" for name, (_, fold) in zip(quoted, split, strict=True))])
    assert (run / "folds.csv").read_bytes() == expected.encode()
    for fold in (0, 1):
        sidecar = json.loads((run / f"ids_f{fold}.json").read_text())
        ids = [name.encode() for name, of in split if int(of) == fold]
        digest = hashlib.sha256(b"".join(len(name).to_bytes(8, "little") + name for name in ids))
        assert sidecar["rows"] == len(ids) > 0 and sidecar["ids_sha256"] == digest.hexdigest()

    best, out = tmp_path / "best", tmp_path / "s.csv"
    assert warm.run("ensemble_search.py", best, run / "ids_f0.npy").code == 0
    words = [best.with_suffix(".yml"), "--models", run, "--data", folder, "--output", out]
    ended = warm.run("ensemble_inference.py", *words)
    assert ended.code == 0, ended.err
    with open(out, encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file))[1:]
    assert all(set(labels.split()) <= {"dark", "bright"} for _, labels in rows)
    lines = [f"{name},{labels}\n" for name, (_, labels) in zip(quoted, rows, strict=True)]
    assert out.read_bytes() == "".join(["id,label\n", *lines]).encode()
