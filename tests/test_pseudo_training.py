"""Trained on pseudo labels, validated on the original ones: from a table of pseudo labels to OOF predictions."""

from pathlib import Path

import numpy as np
import pytest

import predict_oof
import train
from foldsmith import cli
from foldsmith.config import load_config
from foldsmith.data.oof_files import read_sidecar
from foldsmith.data.sheets import read_csv
from foldsmith.data.tables import read_table
from foldsmith.errors import UserError
from foldsmith.metrics import best_fbeta
from foldsmith.training import run as run_module
from tests.conftest import DATA


def test_training_sees_pseudo_labels_and_validation_does_not(
    small: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """160 training images, and 40 test images with a label each."""
    original = tmp_path / "train.csv"
    rng = np.random.default_rng(0)
    probabilities = np.zeros((716, 55), dtype=np.float32)
    chosen = rng.permutation(716)[:40]
    probabilities[chosen, rng.integers(0, 55, 40)] = 0.9
    np.save(tmp_path / "test.npy", probabilities)
    pseudo = tmp_path / "pseudo.csv"
    words = ["--test", str(tmp_path / "test.npy"), "--threshold", "0.5", "--output", str(pseudo)]
    cli.main(["pseudo-label", "--config", "clipart_tiny", "--set", *small, *words])

    seen, fit = [], run_module.train_epoch

    def spy(training, plan, loader, table, *rest):
        seen.append((table, list(loader.dataset.reader.paths)))
        return fit(training, plan, loader, table, *rest)

    monkeypatch.setattr(run_module, "train_epoch", spy)
    sets = [*small, f"data.train_csv={pseudo}", f"data.valid_csv={original}", "train.num_epochs=1"]
    command = ["--config", "clipart_tiny", "--output", str(tmp_path / "runs"), "--set", *sets]
    train.main(["--fold", "0", *command])
    predict_oof.main(command)

    run = tmp_path / "runs" / "clipart_tiny"
    folds = read_csv(run / "folds.csv")
    assert folds.column("id") == read_csv(original).column("id")
    mine = [name for name, fold in zip(folds.column("id"), folds.column("fold"), strict=True) if fold == "1"]
    ids = read_csv(DATA / "sample_submission.csv").column("id")
    extra = [ids[row] for row in sorted(chosen)]
    ((table, paths),) = seen
    assert table.ids == mine + extra
    assert paths == [DATA / "train" / f"{name}.jpg" for name in mine] + [
        DATA / "test" / f"{name}.jpg" for name in extra
    ]
    np.testing.assert_array_equal(table.targets()[len(mine) :], probabilities[sorted(chosen)] > 0.5)

    truth = read_table(load_config(run / "clipart_tiny.yml"))
    assert truth.ids == folds.column("id")
    sidecar = read_sidecar(run / "clipart_tiny_f0.npy")
    rows = np.flatnonzero(np.array(folds.column("fold")) == "0")
    assert sidecar.score == best_fbeta(np.load(run / "clipart_tiny_f0.npy"), truth.targets(rows)).score

    # Other pseudo labels are other data.
    text = pseudo.read_text()
    pseudo.write_text(text.replace(f"\n{extra[0]},", f"\n{extra[0]},0 1 "))
    with pytest.raises(UserError, match="belongs to other data: the label table changed"):
        train.main(["--fold", "0", *command])
