"""The report on a split: counted by hand, and as `foldsmith folds` prints and writes it."""

from pathlib import Path

import numpy as np
import pytest

from foldsmith import cli
from foldsmith.data.fold_quality import describe, fold_quality, write_report
from foldsmith.data.sheets import read_csv
from foldsmith.errors import UserError
from tests.conftest import DATA
from tests.test_folds import one_label


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_the_report_by_hand() -> None:
    # class c0: 4 + 2 images, c1: 1 + 1, c2: 1 + 0, c3: none; fold 0 has 6 images, fold 1 has 3
    data = one_label([6, 2, 1, 0], groups=["a"] * 4 + ["b"] * 2 + ["a", "b", "a"])
    fold_of = np.array([0, 0, 0, 0, 1, 1, 0, 1, 0])
    quality = fold_quality(data, fold_of, 2)
    assert quality.counts.tolist() == [[4, 1, 1, 0], [2, 1, 0, 0]]
    np.testing.assert_allclose(quality.deviations, [0, 0.5, 1, np.nan])
    assert (quality.absent(0).tolist(), quality.absent(1).tolist(), quality.rare.tolist()) == ([], [2], [2])
    assert describe(quality) == (
        "fold 0: images 6 (66.7%), groups 1, classes absent 0\n"
        "fold 1: images 3 (33.3%), groups 1, classes absent 1 (c2)\n"
        "even spread is missed by 25.0% (median of 2 classes, each in its worst fold), "
        "at most by 50.0% ('c1', 2 images)\n"
        "classes with fewer images than folds: 1 (c2)\n"
        "classes without an image: 1 (c3)"
    )
    write_report(Path("report.csv"), quality)
    assert Path("report.csv").read_text() == (
        "class,name,images,fold0,fold1,largest_deviation\n"
        "c0,c0,6,4,2,0.0000\nc1,c1,2,1,1,0.5000\nc2,c2,1,1,0,1.0000\nc3,c3,0,0,0,\n"
    )
    lacks = describe(fold_quality(one_label([9] + [1] * 8), np.array([0, 1, 2] * 3 + [0] * 8), 3)).splitlines()[1]
    assert lacks == "fold 1: images 3 (17.6%), classes absent 8 (c1, c2, c3, c4, c5, ...)"


def test_the_command_reports(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("a.yml").write_text(
        f"data: {{root: {DATA}, num_folds: 3}}\nmodel: {{arch: x, input_size: 8}}\ntrain: {{num_epochs: 1}}\n"
        "optimizer: {name: adamw}\n"
    )
    cli.main(["folds", "--config", "a.yml", "--report", "new/report.csv"])
    out = capsys.readouterr().out.splitlines()
    assert out[0].startswith("folds.csv: 3 folds, sha256 ")
    assert out[1] == "fold 0: images 956 (33.3%), classes absent 0" and out[4].endswith(
        "at most by 7.7% ('spain', 26 images)"
    )
    report = read_csv(Path("new/report.csv"))
    assert (len(report.rows), report.rows[0][:3]) == (55, ["0", "action", "199"])
    written = Path("folds.csv").read_bytes()
    with pytest.raises(UserError, match="^folds.csv: --report: is --output too"):
        cli.main(["folds", "--config", "a.yml", "--report", "folds.csv"])
    assert Path("folds.csv").read_bytes() == written
