"""The forms of submission.csv: label lists, one label, a probability a class; always the sample's columns and ids."""

from pathlib import Path

import numpy as np
import pytest

import ensemble_inference
from foldsmith.data.sheets import Sheet, read_csv
from foldsmith.data.tables import class_columns, read_sample
from foldsmith.ensemble.file import read_ensemble
from foldsmith.errors import UserError
from foldsmith.inference.submission import label_lists, write_probabilities, write_submission
from foldsmith.metrics import above, decide
from tests.conftest import DATA, Chain, config

TOKENS = ["0", "1", "2"]
P = np.array([[0.1, 0.7, 0.2], [0.4, 0.4, 0.2]], dtype=np.float32)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def sample(header: str, ids: tuple[str, ...] = ("b", "a,1")) -> tuple[Sheet, str]:
    rest = "," * header.count(",")
    Path("sample_submission.csv").write_text(header + "\n" + "".join(f'"{name}"{rest}\n' for name in ids))
    return read_sample(config())


def columns(header: str) -> list[str] | None:
    sheet, id_column = sample(header)
    return class_columns(config(), sheet, id_column, TOKENS)


def test_label_lists_and_one_label():
    assert label_lists(P > 0.15, TOKENS, ";") == ["1;2", "0;1;2"]
    assert label_lists(decide(P, None), TOKENS, " ") == ["1", "0"]  # of equal ones the first
    Path("sample_submission.csv").write_text('label,id\nx,b\nx,"a,1"\n')
    write_submission(Path("s.csv"), *read_sample(config()), label_lists(decide(P, None), TOKENS, " "))
    assert Path("s.csv").read_text() == 'label,id\n1,b\n0,"a,1"\n'


def test_the_delimiter_is_the_sample_s():
    Path("sample_submission.csv").write_text("id;label\n007;x\na,1;x\n")
    write_submission(Path("s.csv"), *read_sample(config()), ["1 2", "0;1"])
    assert Path("s.csv").read_text() == 'id;label\n007;1 2\na,1;"0;1"\n'


def test_a_probability_a_class_is_exact_and_in_the_sample_s_order():
    Path("sample_submission.csv").write_text("2,id,0,1\n0,b,0,0\n0,a,0,0\n")
    sheet, id_column = read_sample(config())
    of_class = class_columns(config(), sheet, id_column, TOKENS)
    assert of_class == TOKENS
    values = np.array([[0.1, 1 / 3, 1.0], [1e-8, 0.0, 0.99999994]], dtype=np.float32)
    write_probabilities(Path("s.csv"), sheet, id_column, of_class, values)
    assert Path("s.csv").read_text() == "2,id,0,1\n1.0,b,0.1,0.33333334\n0.99999994,a,1e-08,0.0\n"
    written = read_csv(Path("s.csv"))
    read = np.array([written.column(column) for column in of_class], dtype=np.float32).T
    np.testing.assert_array_equal(read, values)


def test_columns_are_found_by_token_or_by_name():
    Path("labels.csv").write_text("id,name\n0,zero\n1,one\n2,two\n")
    assert columns("id,1,2,0") == ["0", "1", "2"]
    assert columns("image_id,two,zero,one") == ["zero", "one", "two"]
    assert columns("id,label") is None
    sheet, id_column = sample("id,zero")
    assert class_columns(config(), sheet, id_column, ["0"]) == ["zero"]


@pytest.mark.parametrize(
    ("header", "found"),
    [
        ("id,0,1", "it has 2 columns that are not those of the 3 classes; missing: 2 (1)\n"),
        ("id,0,1,2,3,4", "it has 5 columns that are not those of the 3 classes; unknown: 3, 4 (2)\n"),
        ("id,zero,tow,one", "3 columns that are not those of the 3 classes; missing: two (1); unknown: tow (1)\n"),
        ("id", "it has 0 columns that are not those of the 3 classes; missing: 0, 1, 2 (3)\n"),
    ],
)
def test_other_columns_are_refused_by_name(header: str, found: str):
    Path("labels.csv").write_text("id,name\n0,zero\n1,one\n2,two\n")
    with pytest.raises(UserError) as caught:
        columns(header)
    assert str(caught.value).startswith("sample_submission.csv:1: beside 'id' ") and found in str(caught.value)
    assert caught.value.code == 2


def test_an_ensemble_writes_what_the_sample_asks_for(chain: Chain, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """The same blend as probabilities of all 55 classes: above its threshold stand the labels of its label lists."""
    for name in ("test", "labels.csv"):
        (tmp_path / name).symlink_to(DATA / name)
    ids = read_csv(DATA / "sample_submission.csv").column("id")
    names = read_csv(DATA / "labels.csv").column("attribute_name")[::-1]
    lines = [",".join(["id", *names]), *(f"{name}{',0' * 55}" for name in ids)]
    (tmp_path / "sample_submission.csv").write_text("\n".join(lines) + "\n")
    output = tmp_path / "submission.csv"
    words = [str(chain.ensemble), "--models", str(chain.runs), "--data", str(tmp_path), "--output", str(output)]
    ensemble_inference.main(words)
    assert (
        f"written: {output} (2 of 2 members, 716 images, a probability for each of 55 classes)"
        in capsys.readouterr().out
    )
    written, lists = read_csv(output), read_csv(chain.submission)
    assert (written.columns, written.column("id")) == (["id", *names], ids)
    values = np.array([written.column(name) for name in names[::-1]], dtype=np.float32).T
    threshold = read_ensemble(chain.ensemble).threshold
    assert label_lists(above(values, threshold), [str(index) for index in range(55)], " ") == lists.column(
        "attribute_ids"
    )
    (tmp_path / "sample_submission.csv").write_text("\n".join(["id,spain,mouse", "a,0,0"]) + "\n")
    with pytest.raises(UserError, match=r"missing: action, .*, application \(54\); unknown: mouse \(1\)"):
        ensemble_inference.main(words)
