"""Every experiment in configs/ loads, and trains for two optimizer steps a stage at a shrunken size.

Two steps of a network with a hundred layers take seconds, mostly to write its weights; 48 of them take minutes. So
`make test` trains every recipe's network with one narrow block a stage, and `make test-all` each whole network once.
"""

import csv
import re
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from timm.models.vgg import cfgs as vgg_layers
from torch import nn

from foldsmith.config import Config, load_config
from foldsmith.models.archs import resolve_arch
from foldsmith.models.build import set_trainable
from foldsmith.models.weights import load_model, read_header
from foldsmith.training.leaves import check_leaves
from foldsmith.training.run import train_experiment
from foldsmith.training.setup import build_network
from foldsmith.training.stages import stages_of
from tests.conftest import DATA, ROOT

RECIPES = sorted(path for path in (ROOT / "configs").rglob("*") if path.suffix in (".yml", ".yaml"))
CPU = torch.device("cpu")

# Smaller inputs than these shrink to nothing in the network; 32 pixels do for the others.
SMALLEST = {"inception_v4": 80, "inception_resnet_v2": 80, "legacy_xception": 72, "pnasnet5large": 64}
UNCUT = {"pnasnet5large", "inception_v4", "legacy_xception"}  # networks that cannot be built with fewer blocks


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders with train.csv: 40 images of data/clipart with their labels, and with one of three classes each."""
    with open(DATA / "train.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file))[1:41]
    folders = {task: tmp_path_factory.mktemp(task) for task in ("multilabel", "multiclass")}
    for task, folder in folders.items():
        with open(folder / "train.csv", "w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["id", "labels"])
            for number, (name, labels) in enumerate(rows):
                writer.writerow([name, labels if task == "multilabel" else f"class{number % 3}"])
    return folders


def shrunken(path: Path, folder: Path) -> Config:
    """The experiment on the 40 images of `folder`: 2 steps an epoch, one epoch a stage, a small input."""
    config = load_config(path, (), check_leaves)
    values = config.model_dump(mode="json")
    data: dict[str, Any] = {"root": str(folder), "train_dir": str(DATA / "train"), "num_folds": 2}
    if config.data.valid_csv is not None:
        data |= {"train_csv": str(folder / "train.csv"), "valid_csv": str(folder / "train.csv")}
    data |= {key: values["data"][key] for key in ("task", "geometry", "pad")}
    side = SMALLEST.get(resolve_arch(config.model.arch)[0], 32)
    values["data"] = data
    values["model"] |= {"pretrained": False, "input_size": side}
    # Four images: batch norm fails on one, and mixing two leaves little to see.
    small = {"batch_size": 4, "workers": 0, "max_steps_per_epoch": 2, "num_epochs": min(1, config.train.num_epochs)}
    values["train"] |= small | {"accum_batches": min(2, config.train.accum_batches)}
    if config.train.warmup is not None and config.train.warmup.head_only:
        values["train"]["warmup"]["steps"] = 1
    if config.train.swa is not None:
        values["train"]["swa"]["start"] = 1
    for stage in values["train"]["stages"]:
        stage["num_epochs"] = min(1, stage.get("num_epochs", 1))
    values["augmentations"]["crop_jitter"] = min(4, config.augmentations.crop_jitter)
    return Config.model_validate(values).named(config.name)


def cut(create: Callable[..., nn.Module]) -> Callable[..., nn.Module]:
    """timm.create_model with one narrow block a stage."""

    def create_cut(name: str, **options: Any) -> nn.Module:
        arch = name.partition(".")[0]
        if "resne" in arch and not arch.startswith("inception"):
            options |= {"layers": (1, 1, 1, 1), "channels": (16, 32, 64, 128)}
        elif arch.startswith("densenet"):
            options |= {"block_config": (2, 2, 2, 2)}
        network = create(name, **options)
        if arch == "inception_resnet_v2":
            for blocks in ("repeat", "repeat_1", "repeat_2"):
                setattr(network, blocks, getattr(network, blocks)[:1])
        return network

    return create_cut


@pytest.fixture
def one_block_a_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timm, "create_model", cut(timm.create_model))
    monkeypatch.setitem(vgg_layers, "vgg16", [8 if isinstance(width, int) else width for width in vgg_layers["vgg16"]])


def train(path: Path, folder: Path) -> None:
    """Two steps a stage, through files; what a stage may train is what has changed."""
    config = shrunken(path, folder)
    # Not pytest's tmp_path, which is kept: whole networks would fill the disk.
    with tempfile.TemporaryDirectory() as output:
        run = train_experiment(config, output=Path(output), device=CPU, only_fold=0)
        header, trained = read_header(run.weights(0)), load_model(run.weights(0), CPU)
        with open(run.fold(0) / "metrics.csv", encoding="utf-8") as file:
            epochs = Counter(row["stage"] for row in csv.DictReader(file))
    stages = stages_of(config)
    assert header["name"] == path.stem
    assert header["stages"] == [{"stage": number + 1, "epochs": 1} for number in range(len(stages))]
    assert dict(epochs) == {str(number + 1): 1 for number in range(len(stages))}

    torch.manual_seed(config.train.seed)
    before = build_network(config, len(header["classes"]), CPU)
    trains: set[str] = set()
    for stage in stages:
        set_trainable(before, stage.config.train.trainable)
        trains |= {name for name, parameter in before.named_parameters() if parameter.requires_grad}
    pairs = zip(before.named_parameters(), trained.parameters(), strict=True)
    changed = {name for (name, old), new in pairs if not torch.equal(old, new)}
    assert changed and changed <= trains
    warmup = config.train.warmup
    if warmup is None or not warmup.head_only:  # some biases have no gradient, such as that before a batch norm
        assert len(changed) > 0.6 * len(trains)


def path_id(path: Path) -> str:
    return path.stem


@pytest.mark.parametrize("path", RECIPES, ids=path_id)
def test_every_recipe_trains(path: Path, tables: dict[str, Path], one_block_a_stage: None) -> None:
    config = load_config(path, (), check_leaves)
    if resolve_arch(config.model.arch)[0] in UNCUT:
        pytest.skip("in test_every_whole_network_trains")
    train(path, tables[config.data.task])


def whole_networks() -> list[Path]:
    """The first recipe of every network, and all recipes whose network can't be cut."""
    archs = {path: resolve_arch(load_config(path).model.arch)[0] for path in reversed(RECIPES)}
    first = {arch: path for path, arch in archs.items()}
    return [path for path in RECIPES if first[archs[path]] == path or archs[path] in UNCUT]


@pytest.mark.slow
@pytest.mark.parametrize("path", whole_networks(), ids=path_id)
def test_every_whole_network_trains(path: Path, tables: dict[str, Path]) -> None:
    train(path, tables[load_config(path).data.task])


def test_a_recipe_s_name_is_its_own_and_its_head_says_the_command() -> None:
    """Runs are named by the file's stem; a copied head would name another file."""
    assert Counter(path.stem for path in RECIPES).most_common(1)[0][1] == 1
    for path in RECIPES:
        head = path.read_text(encoding="utf-8").split("\n\n")[0].partition("\ndata:")[0].partition("\nbase:")[0]
        command = f"./train.py --config {path.relative_to(ROOT / 'configs')}"
        assert re.search(rf"^#   (make weights && )?{re.escape(command)}$", head, re.MULTILINE), path
        if not path.stem.startswith("clipart"):
            assert all(f"\n# {word}: " in head for word in ("Data", "Published", "Weights")), path


def test_the_published_systems_are_all_there() -> None:
    """Networks, losses, schedules and what else the four solutions used: each in at least one file."""
    configs = [load_config(path) for path in RECIPES]
    archs = {
        *("seresnext50_32x4d", "seresnext101_32x4d", "cbam_resnet50", "pnasnet5large", "xception", "inceptionresnetv2"),
        *("resnet50", "resnet101", "densenet121", "densenet161", "densenet169", "densenet201", "inception_v4"),
        *("inception_resnet_v2", "resnet200", "wide_resnet50_2", "resnext101_32x4d.gluon_in1k", "vgg16"),
    }
    assert archs <= {config.model.arch for config in configs}
    losses = {"bce", "focal", "forgiving", "f2", "bce_focal", "bce_f2", "mlsm", "cross_entropy"}
    assert losses <= {config.loss.name for config in configs}
    assert {"balanced", "log", None} == {config.loss.class_weights for config in configs}
    schedules = {"reduce_lr_on_plateau", "multi_step", "cyclic", "cosine_restarts", "one_cycle", "cosine"}
    assert schedules <= {config.scheduler.name for config in configs}
    modes = {config.scheduler.params.get("mode") for config in configs if config.scheduler.name == "cyclic"}
    assert modes == {"triangular", "triangular2", "exp_range"}
    assert {288, 320, 352, 363, 384, 256, 299, 224, 451, 452} <= {config.model.input_size[0] for config in configs}
    assert {"avg", "max", "avgmax", "catavgmax"} <= {config.model.pooling for config in configs}
    assert {1, 4, 8} <= {config.train.accum_batches for config in configs}
    samplers = [config.train.sampler for config in configs]
    samplers += [stage.sampler for config in configs for stage in config.train.stages]
    assert {sampler.name for sampler in samplers if sampler} == {"weighted", "balanced", "oversample", "undersample"}
    assert any(config.train.swa for config in configs)
    assert any(config.data.valid_csv for config in configs)
    assert any(config.train.warmup and config.train.warmup.head_only for config in configs)
    assert any(stage.sparsity for config in configs for stage in config.train.stages)
    assert any(stage.num_epochs == 0.5 for config in configs for stage in config.train.stages)
