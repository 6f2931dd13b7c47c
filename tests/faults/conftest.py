"""A warm process for commands, and an experiment that trains in a second: 48 images, 32 pixels, two stages."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import ROOT, shrink
from tests.faults.warm import Warm

MINI = """\
base: {root}/configs/clipart_tiny.yml
data:
  num_folds: 2
  train_csv: {folder}/train.csv
model:
  input_size: 32
  dropout: 0.2
train:
  batch_size: 8
  num_epochs: 1
  workers: 0
  stages:
  - num_epochs: 1
    trainable: head
  - num_epochs: 2
scheduler:
  name: constant
augmentations:
  crop_jitter: 4
test:
  batch_size: 8
"""


@pytest.fixture(scope="session")
def warm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Warm]:
    server = Warm(tmp_path_factory.mktemp("warm"))
    yield server
    server.close()


@pytest.fixture(scope="session")
def mini(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The experiment's file."""
    folder = tmp_path_factory.mktemp("mini")
    shrink(folder, rows=48)
    (folder / "mini.yml").write_text(MINI.format(root=ROOT, folder=folder))
    return folder / "mini.yml"
