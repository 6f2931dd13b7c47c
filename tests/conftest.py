"""Fixtures: the real data set cut to a few hundred rows, the real configs shrunk, and a small chain run once."""

import csv
import json
import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# The networks of these tests are too small for more threads, and threads of several processes get in each other's way.
os.environ["OMP_NUM_THREADS"] = "1"

import cv2
import numpy as np
import pytest

import deploy_kernel
import ensemble_inference
import ensemble_search
import predict_oof
import train
from foldsmith.config import Config
from foldsmith.data.oof_files import sealed

ROOT = Path(__file__).parent.parent
DATA = ROOT / "data" / "clipart"


def shrink(folder: Path, rows: int = 160) -> list[str]:
    """`--set` words that cut clipart_tiny to `rows` images, 2 folds, 2 epochs, 48 px."""
    table = folder / "train.csv"
    if not table.exists():
        with open(DATA / "train.csv", encoding="utf-8", newline="") as source:
            lines = list(csv.reader(source))[: rows + 1]
        with open(table, "w", encoding="utf-8", newline="") as target:
            csv.writer(target).writerows(lines)
    return [
        f"data.root={DATA}",
        f"data.train_csv={table}",
        "data.num_folds=2",
        "model.input_size=48",
        "train.num_epochs=2",
        "train.workers=0",
        "augmentations.crop_jitter=6",
    ]


@pytest.fixture
def small(tmp_path: Path) -> list[str]:
    """The shrunk clipart_tiny as `--set` words, in the test's own folder."""
    return shrink(tmp_path)


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Caches of decoded images: not among the user's."""
    folder = tmp_path_factory.mktemp("cache")
    os.environ["XDG_CACHE_HOME"] = str(folder)
    return folder / "foldsmith"


@pytest.fixture(autouse=True)
def in_project() -> None:
    """Tests run in the project's folder, as its users do."""
    os.chdir(ROOT)


@dataclass(frozen=True)
class Chain:
    """What one run of the whole chain left behind. `a` and `b` are the experiments."""

    folder: Path
    sets: list[str]

    @property
    def runs(self) -> Path:
        return self.folder / "runs"

    @property
    def ensemble(self) -> Path:
        return self.folder / "best.yml"

    @property
    def submission(self) -> Path:
        return self.folder / "submission.csv"

    @property
    def kernel(self) -> Path:
        return self.folder / "kernels" / "best" / "best.py"

    def oof(self, name: str, fold: int = 0) -> Path:
        return self.runs / name / f"{name}_f{fold}.npy"

    def weights(self, name: str, fold: int = 0) -> Path:
        return self.runs / name / f"{name}_f{fold}.safetensors"


@pytest.fixture(scope="session")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Chain:
    """Two experiments of two folds, their OOF files, the blend, the submission and the kernel. Tests only read it."""
    os.chdir(ROOT)
    folder = tmp_path_factory.mktemp("chain")
    sets = [*shrink(folder, rows=400), "train.num_epochs=5", "train.batch_size=8"]
    runs = folder / "runs"
    for name, seed, loss in (("a", 0, "bce"), ("b", 1, "forgiving")):
        config = folder / f"{name}.yml"
        base = ROOT / "configs" / "clipart_tiny.yml"
        config.write_text(f"base: {base}\ntrain: {{seed: {seed}}}\nloss: {{name: {loss}}}\n")
        train.main(["--config", str(config), "--output", str(runs), "--set", *sets])
        predict_oof.main(["--config", str(config), "--output", str(runs), "--set", *sets])
    result = Chain(folder, sets)
    ensemble_search.main([str(folder / "best"), str(result.oof("a")), str(result.oof("b", 1))])
    ensemble_inference.main([str(result.ensemble), "--models", str(runs), "--output", str(result.submission)])
    deploy_kernel.main(["ensemble_inference.py", str(result.ensemble), "--output", str(folder / "kernels")])
    return result


def edit_sidecar(path: Path, **changed: object) -> None:
    """Other fields in an OOF sidecar, as predict_oof.py would have written them."""
    path.write_text(json.dumps(sealed(json.loads(path.read_text()) | changed)))


def by_hand(ensemble: str) -> str:
    """An ensemble file's text as of a user who edits it: without the hash of its content."""
    return re.sub(r"(?m)^content_sha256: .*\n", "", ensemble)


def infer(chain: Chain, output: Path, *words: str) -> Path:
    """Run the chain's ensemble; returns the submission's path."""
    ensemble_inference.main([str(chain.ensemble), "--models", str(chain.runs), "--output", str(output), *words])
    return output


def competition(folder: Path, ids: list[str]) -> Path:
    """data/clipart with some of its test images."""
    (folder / "test").mkdir(parents=True)
    for name in ids:
        shutil.copy(DATA / "test" / f"{name}.jpg", folder / "test")
    shutil.copy(DATA / "labels.csv", folder)
    (folder / "sample_submission.csv").write_text("id,attribute_ids\n" + "".join(f"{name},0\n" for name in ids))
    return folder


@pytest.fixture(scope="session")
def few(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """70 of the test images, for runs of the ensemble."""
    ids = [line.split(",")[0] for line in (DATA / "sample_submission.csv").read_text().splitlines()[1:71]]
    return competition(tmp_path_factory.mktemp("few"), ids)


@pytest.fixture(scope="session")
def whole(chain: Chain, few: Path, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The submission of an uninterrupted run on the few images."""
    return infer(chain, tmp_path_factory.mktemp("whole") / "s.csv", "--data", str(few)).read_bytes()


@pytest.fixture(scope="session")
def wide(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The content of a report of four experiments and their blend: 1,103 classes, and as many pictures as fit.

    200 images are noise, which compresses worst, at twice the usual side, so that few of them fill the room. The
    first class has one image, in fold 0, the second none.
    """
    from foldsmith.report.collect import collect
    from tests.synthetic import random_members, write_runs

    folder, rng = tmp_path_factory.mktemp("wide"), np.random.default_rng(1)
    members, targets = random_members(0, count=4, rows=200, classes=1103)
    targets ^= rng.random(targets.shape) < 0.002  # labels that are missing and wrong
    targets[:, :2] = False
    targets[0, 0] = True
    oof = write_runs(folder, members, targets)
    (folder / "data" / "train").mkdir()
    for row in range(200):
        noise = rng.integers(0, 256, (352, 352, 3), dtype=np.uint8)
        cv2.imwrite(str(folder / "data" / "train" / f"{row:04x}.png"), noise, [cv2.IMWRITE_PNG_COMPRESSION, 0])
    ensemble_search.main([str(folder / "best"), *oof, "--method", "uniform"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("foldsmith.report.gallery.SIDE", 352)
        return collect([folder])


def config(**data: object) -> Config:
    """An experiment whose competition lies in the working directory."""
    return Config.model_validate(
        {
            "data": {"root": ".", **data},
            "model": {"arch": "x", "input_size": 8},
            "train": {"num_epochs": 1},
            "optimizer": {"name": "adamw"},
        }
    )
