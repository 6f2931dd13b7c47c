"""What people look at while a fold trains: the bar, the log file, TensorBoard and Weights & Biases, each for real."""

import contextlib
import csv
import importlib.util
import os
import re
import struct
import sys
from pathlib import Path

import pytest

import train
from foldsmith.config import load_config
from foldsmith.errors import UserError
from foldsmith.training.loggers import open_loggers
from tests.test_chain import csv_rows


def run(small: list[str], tmp_path: Path, *sets: str) -> Path:
    words = ["--config", "clipart_tiny", "--fold", "0", "--output", str(tmp_path / "runs"), "--set", *small, *sets]
    train.main(words)
    return tmp_path / "runs" / "clipart_tiny" / "fold0"


@contextlib.contextmanager
def terminal():
    """stderr as a terminal 120 columns wide; yields a list that ends up with what was written to it."""
    import fcntl
    import termios
    import threading

    master, slave = os.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))
    written: list[str] = []

    def read() -> None:
        with contextlib.suppress(OSError):  # the other end is closed
            while data := os.read(master, 65536):
                written.append(data.decode())

    reader = threading.Thread(target=read)
    reader.start()
    before = sys.stderr
    try:
        with open(slave, "w", encoding="utf-8", buffering=1) as sys.stderr:
            yield written
    finally:
        sys.stderr = before
        reader.join()
        os.close(master)


def test_one_bar_a_fold_with_loss_score_speed_and_time_left(small, tmp_path, monkeypatch):
    monkeypatch.setenv("TQDM_MININTERVAL", "0")
    words = ["--config", "clipart_tiny", "--output", str(tmp_path / "runs"), "--set", *small]
    with terminal() as written:
        train.main(words)
    for fold in (0, 1):
        shown = re.findall(rf"\r([^\r\n]*fold {fold} [^\r\n]*)", "".join(written))
        assert all(text.startswith(f"clipart_tiny fold {fold} ") for text in shown) and len(shown) > 5
        done = [float(re.search(r"epoch (\d\.\d)/2 ", text)[1]) for text in shown]
        assert done == sorted(done) and done[-1] == 2.0, "one bar, which only moves on"
        rows = csv_rows(tmp_path / "runs" / "clipart_tiny" / f"fold{fold}" / "metrics.csv")
        assert rows[0]["f2"] != rows[1]["f2"] and rows[0]["train_loss"] != rows[1]["train_loss"]
        for row in rows:
            ended = rf"loss={float(row['train_loss']):.4f}, images/s=\d+, f2={float(row['f2']):.4f}\]"
            line = [text for text in shown if f"epoch {row['epoch']}.0/2" in text][-1]
            assert re.search(ended, line), "the bar of an epoch that has ended shows its own mean loss and score"
        last = [text for text in shown if text.strip()][-1]
        assert "epoch 2.0/2" in last
        assert re.search(r" \d+%\|.*\| epoch \d\.\d/2 \[\d\d:\d\d<\d\d:\d\d, ", last)
        assert (tmp_path / "runs" / "clipart_tiny" / f"fold{fold}" / "train.log").stat().st_size > 0
    assert "validation" not in "".join(written), "validation has no bar of its own"


def test_quiet_without_a_terminal_and_a_log_file_always(small, tmp_path, capsys):
    folder = run(small, tmp_path)
    captured = capsys.readouterr()
    assert captured.err == ""
    log = (folder / "train.log").read_text().splitlines()
    assert [line.partition(" epoch ")[2][:3] for line in log if " epoch " in line][:2] == ["1/2", "2/2"]
    assert all(line[20:] in captured.out for line in log)


def test_tensorboard_reads_what_metrics_csv_says(small, tmp_path):
    pytest.importorskip("tensorboard", reason="pip install tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder = run(small, tmp_path, "train.loggers=[tensorboard]")
    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    rows = csv_rows(folder / "metrics.csv")
    for name in ("train_loss", "valid_loss", "f2", "threshold"):
        found = [(event.step, event.value) for event in events.Scalars(name)]
        assert found == [(int(row["epoch"]), pytest.approx(float(row[name]), rel=1e-6)) for row in rows]
    assert len(events.Scalars("train_images_per_second")) == 2


def test_a_resumed_run_replaces_what_an_interrupted_epoch_wrote(tmp_path, small):
    pytest.importorskip("tensorboard", reason="pip install tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    config = load_config("clipart_tiny", [*small, "train.loggers=[tensorboard]"])
    for done, values in ((0, {1: 0.5, 2: 0.6}), (1, {2: 0.7, 3: 0.8})):
        (logger,) = open_loggers(config, 0, tmp_path, done)
        for epoch, value in values.items():
            logger.log(epoch, {"f2": value})
        logger.close()
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(each.step, round(each.value, 3)) for each in events.Scalars("f2")] == [(1, 0.5), (2, 0.7), (3, 0.8)]


def wandb_records(content: bytes) -> list[bytes]:
    """The records of a .wandb file: a log of 32 KB blocks; each part has a checksum, its length, and its kind."""
    assert content[:4] == b":W&B"
    at, records, begun = 7, [], b""
    while at + 7 <= len(content):
        if 32768 - at % 32768 < 7:  # no part begins in the last bytes of a block
            at += 32768 - at % 32768
            continue
        length, kind = struct.unpack("<HB", content[at + 4 : at + 7])
        part = content[at + 7 : at + 7 + length]
        at += 7 + length
        begun = part if kind in (1, 2) else begun + part  # whole, first; middle, last
        if kind in (1, 4):
            records.append(begun)
    return records


@pytest.mark.slow
def test_weights_and_biases_offline(small, tmp_path, monkeypatch):
    pytest.importorskip("wandb", reason="pip install wandb")
    from wandb.proto import wandb_internal_pb2

    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    folder = run(small, tmp_path, "train.loggers=[wandb]")
    (file,) = folder.glob("wandb/offline-run-*/*.wandb")
    seen = []
    for data in wandb_records(file.read_bytes()):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(data)
        if record.WhichOneof("record_type") == "history":
            seen.append(
                {item.nested_key[0] if item.nested_key else item.key: item.value_json for item in record.history.item}
            )
        if record.WhichOneof("record_type") == "run":
            assert (record.run.display_name, record.run.run_group) == ("clipart_tiny_f0", "clipart_tiny")
    rows = csv_rows(folder / "metrics.csv")
    assert [float(each["f2"]) for each in seen] == [float(row["f2"]) for row in rows]
    assert [int(each["_step"]) for each in seen] == [1, 2]


@pytest.mark.parametrize("package", ["tensorboard", "wandb"])
def test_a_logger_that_is_not_installed_says_so_before_training(small, tmp_path, monkeypatch, package):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *more: None if name == package else find(name, *more))
    with pytest.raises(UserError) as caught:
        run(small, tmp_path, f"train.loggers=[{package}]")
    assert str(caught.value) == (
        f"train.loggers: {package} is not installed\n  hint: pip install {package}, or take it out of train.loggers"
    )
    assert not (tmp_path / "runs").exists()


def test_loggers_may_change_when_a_run_goes_on(small, tmp_path):
    folder = run(small, tmp_path)
    pytest.importorskip("tensorboard", reason="pip install tensorboard")
    run(small, tmp_path, "train.loggers=[tensorboard]")
    with open(folder / "metrics.csv", encoding="utf-8", newline="") as file:
        assert len(list(csv.DictReader(file))) == 2
