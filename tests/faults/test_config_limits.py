"""Values of configs that no file system, no machine or no message can take: refused before anything begins."""

import re

import pytest

import train
from foldsmith.errors import UserError
from tests.conftest import ROOT
from tests.faults.test_configs import BASE, problems_of, refusal

LONG, DEEP_PATH, NUL = "x" * 5000, "a/" * 2000, '"a\\0b"'
PATHS = ["root", "train_csv", "labels_csv", "sample_submission", "train_dir", "test_dir", "valid_csv", "folds"]


@pytest.mark.parametrize("value", [LONG, DEEP_PATH, NUL, "é" * 128], ids=["long name", "long path", "NUL", "256 bytes"])
@pytest.mark.parametrize("key", [*(f"data.{each}" for each in PATHS), "data.image_extension", "model.pretrained"])
def test_a_path_that_no_file_can_have(key, value, tmp_path, monkeypatch):
    path = tmp_path / "a.yml"
    section, name = key.split(".")
    message = refusal(f"{BASE}{section}:\n  {name}: {value}\n", monkeypatch, path)
    assert message.startswith(f"{path}:3: {key}: expected "), message
    assert ("which holds NUL" if value is NUL else "at most 3072 bytes, its names of at most 255, got ") in message
    assert len(message) < len(str(path)) + 400


@pytest.mark.parametrize(
    ("text", "key", "valid"),
    [
        ("model:\n  pretrained: /\n", "model.pretrained", r"a weights file \(.safetensors, .pth, .*, got '/'"),
        ("model:\n  pretrained: weights\n", "model.pretrained", "a weights file"),
        ("model:\n  head_layers: [100000000000000000]\n", "model.head_layers[0]", "less than or equal to 16384"),
        (f"model:\n  head_layers: {[8] * 9}\n", "model.head_layers", "at most 8 items"),
        ("model:\n  input_size: 4097\n", "model.input_size", "less than or equal to 4096"),
        ("augmentations:\n  crop_jitter: 100000000\n", "augmentations.crop_jitter", "less than or equal to 4096"),
        (
            "augmentations:\n  rect_crop: {min_ratio: 1e-320}\n",
            "augmentations.rect_crop.min_ratio",
            "or equal to 0.001",
        ),
        ("augmentations:\n  erase: {prob: 1, ratio: [1e-320, 1]}\n", "augmentations.erase.ratio[0]", "equal to 0.0001"),
        ("augmentations:\n  affine: {scale: [1, 1e300]}\n", "augmentations.affine.scale[1]", "equal to 10000"),
        ("train:\n  trainable: last 99999999999999999999999 groups\n", "train.trainable", "`last N groups`"),
        ("train:\n  batch_size: 100000000000\n", "train.batch_size", "less than or equal to 65536"),
        ("train:\n  num_epochs: 1e308\n", "train.num_epochs", "less than or equal to 100000"),
        ("train:\n  stages: [{num_epochs: 1e308}]\n", "train.stages[0].num_epochs", "less than or equal to 100000"),
        ("train:\n  workers: 1000000000\n", "train.workers", "less than or equal to 512"),
        ("train:\n  worker_timeout: 1e300\n", "train.worker_timeout", "less than or equal to 86400"),
        ("train:\n  mixup: {alpha: 1e308}\n", "train.mixup.alpha", "less than or equal to 1000"),
        ("test:\n  batch_size: 100000000000\n", "test.batch_size", "less than or equal to 65536"),
        ("data:\n  num_folds: 100000000000\n", "data.num_folds", "less than or equal to 1000"),
    ],
)
def test_a_number_that_would_end_in_the_middle_of_a_run(text, key, valid, tmp_path, monkeypatch):
    path = tmp_path / "a.yml"
    message = refusal(BASE + text, monkeypatch, path)
    assert re.match(rf"{re.escape(f'{path}:3: {key}: expected ')}.*{valid}", message), message
    assert len(problems_of(message)) == 1


@pytest.mark.parametrize("key", ["data.root", "data.train_csv", "data.labels_csv"])
def test_the_longest_path_is_only_a_file_that_is_not_there(key, tmp_path):
    longest = "/".join(["x" * 255] * 12)
    assert len(longest) == 3071
    words = [
        "--config",
        f"{ROOT}/configs/clipart_tiny.yml",
        "--output",
        f"{tmp_path}/runs",
        "--set",
        f"{key}={longest}",
    ]
    with pytest.raises(UserError, match=re.escape(longest)) as caught:
        train.main(words)
    assert caught.value.code == 2 and not (tmp_path / "runs").exists()


def test_of_very_many_problems_the_first_twenty_are_listed(tmp_path, monkeypatch):
    path = tmp_path / "a.yml"
    message = refusal(BASE + "".join(f"k{n}: 1\n" for n in range(500)), monkeypatch, path)
    assert message.startswith(f"{path}: 500 problems\n  {path}:2: k0: unknown key; ")
    assert len(message.splitlines()) == 22 and message.endswith("\n  ... and 480 more")
    assert f"{path}:21: k19: " in message and "k20" not in message
