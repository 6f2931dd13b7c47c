"""Old experiment files become ours: every key and value that such files have, and a note on all that is not kept."""

from pathlib import Path
from typing import Any

import pytest

from foldsmith.config import Config, dump_yaml, load_config, parse_yaml
from foldsmith.convert import convert_config, converted
from foldsmith.errors import UserError
from foldsmith.training.leaves import check_leaves

OLD = """\
data:
  rect_crop:
    enable: True
    min_ratio: 0.3
    max_ratio: 1.0
    scale_both_dims: False
model:
  arch: seresnext101_32x4d
  dropout: 0.3
  input_size: 352
  num_classes: 1103
train:
  csv: ../input/train.csv
  folds_file: folds.npy
  batch_size: 16
  max_steps_per_epoch: 15000
  enable_warmup: True
  warmup:
    steps: 5000
    max_lr: 1e-4
  mixup:
    enable: True
    beta_a: 0.3
test:
  csv: ../input/sample_submission.csv
  batch_size: 32
  num_ttas: 2
optimizer:
  name: adam
  params:
    lr: 1e-4
scheduler:
  name: reduce_lr_on_plateau
  params:
    factor: 0.2
    patience: 2
    threshold: 1e-3
    min_lr: 3e-7
loss:
  name: binary_cross_entropy
augmentations:
  hflip: True
  affine: medium
  blur: 0.3
  noise: 0.3
  distortion: 0.2
  global_prob: 0.5
  erase:
    prob: 0.5
    min_area: 0.02
    max_area: 0.4
    min_ratio: 0.3
    max_ratio: 3.33
"""

CYCLIC = {"name": "cyclic_lr", "params": {"base_lr": 1e-6, "max_lr": 3e-4, "step_size_up": 8194}}
MULTI = {"name": "multi_step", "params": {"milestones": [12, 15, 18, 21], "gamma": 0.2}}
COSINE = {"start_lr": 2e-5, "period": 3, "period_inc": 1, "max_period": 5}


def old_values(**keys: Any) -> dict[str, Any]:
    """The old file with other keys: model__arch="xception", cosine={...}; None takes a key out."""
    values = parse_yaml(OLD, "old").values
    for key, value in keys.items():
        *above, last = key.split("__")
        section = values
        for part in above:
            section = section.setdefault(part, {})
        if value is None:
            section.pop(last)
        else:
            section[last] = value
    return values


def convert(tmp_path: Path, *, switch: bool = True, **keys: Any) -> tuple[Config, list[str]]:
    """Through files and load_config with both passes, as a user does it."""
    old, new = tmp_path / "old.yml", tmp_path / "new.yml"
    old.write_text(dump_yaml(old_values(**keys)))
    notes = convert_config(old, new, cosine=switch, force=True)
    config = load_config(new, (), check_leaves)
    head = " ".join(line.removeprefix("# ").strip() for line in new.read_text().splitlines() if line.startswith("#"))
    assert all(note in head for note in notes)
    return config, notes


def refusal(**keys: Any) -> str:
    with pytest.raises(UserError) as caught:
        converted(parse_yaml(dump_yaml(old_values(**keys)), "old.yml"), Path("old.yml"))
    assert caught.value.code == 2
    return str(caught.value)


def note_of(notes: list[str], key: str) -> str:
    (found,) = (note for note in notes if note.startswith(key))
    return found.partition(": ")[2]


def test_a_whole_file(tmp_path: Path) -> None:
    config, notes = convert(tmp_path)
    assert config.model_dump(mode="json", exclude_unset=True) == {
        "data": {
            "root": "../input",
            "train_csv": "../input/train.csv",
            "sample_submission": "../input/sample_submission.csv",
            "folds": "folds.npy",
            "geometry": "squash",
        },
        "model": {"arch": "seresnext101_32x4d", "pretrained": True, "input_size": [352, 352], "dropout": 0.3},
        "train": {
            "batch_size": 16,
            "num_epochs": 40,
            "max_steps_per_epoch": 15000,
            "warmup": {"steps": 5000, "max_lr": 1e-4},
            "mixup": {"alpha": 0.3},
        },
        "loss": {"name": "bce"},
        "optimizer": {"name": "adam", "params": {"lr": 1e-4}},
        "scheduler": {
            "name": "reduce_lr_on_plateau",
            "params": {"factor": 0.2, "patience": 2, "threshold": 1e-3, "min_lr": 3e-7, "reload_best": True},
        },
        "augmentations": {
            "hflip": True,
            "affine": "medium",
            "blur": 0.3,
            "noise": 0.3,
            "distortion": 0.2,
            "global_prob": 0.5,
            "erase": {"prob": 0.5, "area": [0.02, 0.4], "ratio": [0.3, 3.33]},
            "rect_crop": {"min_ratio": 0.3, "max_ratio": 1.0, "scale_both_dims": False},
        },
        "test": {"batch_size": 32, "tta": ["identity", "hflip"]},
    }
    assert [note.split(":")[0] for note in notes] == [
        "train.num_epochs",
        "train.warmup",
        "data.geometry",
        "model.num_classes = 1103",
    ]
    assert note_of(notes, "train.num_epochs") == "the file has none; 40 was chosen"
    text = (tmp_path / "new.yml").read_text()
    assert "{" not in text  # block style
    assert text.startswith("# Converted from old.yml by `foldsmith convert-config`.\n# - ")


VALUES = {
    "augmentations__blur": [0.3, 0.2],
    "augmentations__distortion": [0.2, 0.3],
    "augmentations__noise": [0.3, 0.2, 0.4],
    "augmentations__affine": ["soft", "medium", "hard"],
    "augmentations__color": [0.3],
    "augmentations__global_prob": [0.5],
    "model__arch": [
        "seresnext50_32x4d",
        "seresnext101_32x4d",
        "xception",
        "pnasnet5large",
        "inceptionresnetv2",
        "cbam_resnet50",
    ],
    "model__dropout": [0.3, 0, 0.5, 0.0, 0.2],
    "model__input_size": [352, 320, 363, 384, 288, 331],
    "optimizer__params__lr": [1e-4, 3e-4, 1e-3, 0.5, 0.1, 2e-5, 2e-4, 5e-5, 4e-4, 8e-4],
    "optimizer__params__weight_decay": [1e-4, 3e-4],
    "train__batch_size": [16, 4, 6, 8, 2],
    "train__max_steps_per_epoch": [15000, 16000, 7500, 10600, 32000],
    "train__mixup__beta_a": [0.3, 0.5, 2.0, 0.4],
    "train__num_epochs": [10, 40],
    "train__warmup__max_lr": [1e-4, 2e-5, 3e-4, 0.1, 0.007, 1e-5, 0.5, 1e-3, 2e-4, 5e-5, 2.5e-06, 0.03],
    "train__warmup__steps": [5000, 2500, 3000],
    "scheduler__params__factor": [0.2, 0.3],
    "scheduler__params__patience": [2, 4],
    "data__rect_crop__min_ratio": [0.3, 0.5, 0.2],
    "data__rect_crop__scale_both_dims": [True, False],
}
RENAMED = {
    "train.mixup.beta_a": "train.mixup.alpha",
    "data.rect_crop.min_ratio": "augmentations.rect_crop.min_ratio",
    "data.rect_crop.scale_both_dims": "augmentations.rect_crop.scale_both_dims",
}


@pytest.mark.parametrize("key", VALUES)
def test_every_value_of_a_key_that_stays_what_it_is(tmp_path: Path, key: str) -> None:
    for value in VALUES[key]:
        config, _ = convert(tmp_path, **{key: value})
        dotted = key.replace("__", ".")
        found: Any = config.model_dump(mode="json")
        for part in RENAMED.get(dotted, dotted).split("."):
            found = found[part]
        assert found == ([value, value] if key == "model__input_size" else value)


@pytest.mark.parametrize(
    ("name", "ours"),
    [
        ("binary_cross_entropy", "bce"),
        ("focal_loss", "focal"),
        ("f2_loss", "f2"),
        ("mixed_bce_f2", "bce_f2"),
        ("mixed_bce_focal", "bce_focal"),
        ("forgiving_loss", "forgiving"),
    ],
)
def test_losses_by_name(tmp_path: Path, name: str, ours: str) -> None:
    config, notes = convert(tmp_path, loss={"name": name})
    assert (config.loss.name, config.loss.params) == (ours, {"weight": 1.0} if ours == "forgiving" else {})
    assert not any(note.startswith("loss") for note in notes)


@pytest.mark.parametrize("weight", [3, 4, 2])
def test_the_weight_of_a_loss_never_arrived(tmp_path: Path, weight: int) -> None:
    config, notes = convert(tmp_path, loss={"name": "forgiving_loss", "params": {"weight": weight}})
    assert config.loss.params == {"weight": 1.0}
    assert note_of(notes, f"loss.params.weight = {weight}").endswith("parameters of the optimizer; weight was 1")


@pytest.mark.parametrize("gamma", [0.2, 0.5, 0.3, 0.45, 0.4])
@pytest.mark.parametrize(
    "milestones", [[12, 15, 18, 21], [10, 15, 20, 25], [20, 30, 35], [8, 13, 17, 20], [5, 10, 15, 18, 21]]
)
def test_multi_step(tmp_path: Path, milestones: list[int], gamma: float) -> None:
    params = {"milestones": milestones, "gamma": gamma}
    config, _ = convert(tmp_path, scheduler={"name": "multi_step", "params": params})
    assert (config.scheduler.name, config.scheduler.params) == ("multi_step", params)
    assert max(milestones) < config.train.num_epochs


@pytest.mark.parametrize("base", [1e-6, 5e-5, 2e-5, 0.03, 0.007, 1e-5, 3e-6, 0.0005, 0.01, 2.5e-06])
@pytest.mark.parametrize(("top", "steps"), [(3e-4, 8194), (2e-4, 13657), (0.1, 4000), (1e-4, 2000), (0.5, 10926)])
def test_cyclic(tmp_path: Path, base: float, top: float, steps: int) -> None:
    """The rate of the optimizer is the schedule's upper end."""
    params = {"base_lr": base, "max_lr": top, "step_size_up": steps, "cycle_momentum": False}
    config, notes = convert(tmp_path, scheduler={"name": "cyclic_lr", "params": params})
    expected = {"base_lr": base, "step_size_up": steps, "mode": "triangular"}
    assert (config.scheduler.name, config.scheduler.params) == ("cyclic", expected)
    assert config.optimizer.params == {"lr": top}
    assert note_of(notes, "scheduler.params.cycle_momentum = False") == "not converted, momentum does not cycle here"
    if top != 1e-4:
        assert note_of(notes, "optimizer.params.lr = 0.0001") == f"not used, the schedule begins with {top}"


def test_modes_and_gamma_of_cyclic(tmp_path: Path) -> None:
    for mode in ("triangular", "triangular2", "exp_range"):
        scheduler = {"name": "cyclic_lr", "params": CYCLIC["params"] | {"mode": mode, "gamma": 0.5}}
        config, notes = convert(tmp_path, scheduler=scheduler)
        gamma = {"gamma": 0.5} if mode == "exp_range" else {}
        assert config.scheduler.params == {"base_lr": 1e-6, "step_size_up": 8194, "mode": mode} | gamma
        assert any(note == f"scheduler.params.gamma = 0.5: not used, the mode is {mode}" for note in notes) != bool(
            gamma
        )


@pytest.mark.parametrize("milestones", [[2, 5, 8], [12, 24, 30], [6, 15, 24], [6, 12, 18]])
def test_decay_of_the_cyclic_rates(tmp_path: Path, milestones: list[int]) -> None:
    keys = {"train__lr_decay_coeff": 0.2, "train__lr_decay_milestones": milestones}
    config, _ = convert(tmp_path, scheduler=CYCLIC, **keys)
    assert config.scheduler.params["decay"] == 0.2
    assert config.scheduler.params["decay_milestones"] == milestones
    config, notes = convert(tmp_path, **keys)
    assert "decay" not in config.scheduler.params
    assert note_of(notes, "train.lr_decay_coeff = 0.2") == "not used, only cyclic_lr had it"
    assert note_of(notes, f"train.lr_decay_milestones = {milestones}") == "not used, only cyclic_lr had it"


@pytest.mark.parametrize("lr", [1e-4, 2e-5, 3e-5, 5e-5, 1e-5, 5e-6])
def test_the_cosine_section_replaces_the_scheduler(tmp_path: Path, lr: float) -> None:
    config, notes = convert(tmp_path, scheduler=MULTI, cosine=COSINE | {"start_lr": lr})
    assert (config.scheduler.name, config.optimizer.params) == ("cosine_restarts", {"lr": lr})
    assert config.scheduler.params == {"period": 3, "period_inc": 1, "max_period": 5}
    assert note_of(notes, "scheduler.name = 'multi_step'") == "the cosine section replaces it; --no-cosine keeps it"
    config, notes = convert(tmp_path, switch=False, scheduler=MULTI, cosine=COSINE | {"start_lr": lr})
    assert (config.scheduler.name, config.optimizer.params) == ("multi_step", {"lr": 1e-4})
    assert note_of(notes, f"cosine.start_lr = {lr!r}") == "not used, --no-cosine"


@pytest.mark.parametrize("period", [3, 4, 5])
def test_periods_without_growth(tmp_path: Path, period: int) -> None:
    cosine = {"start_lr": 1e-4, "period": period, "period_mult": 1.1}
    config, notes = convert(tmp_path, cosine=cosine, optimizer={"name": "adam"})
    assert config.scheduler.params == {"period": period}
    assert note_of(notes, "cosine.period_mult = 1.1") == "the old program never read it"


@pytest.mark.parametrize(
    ("text", "key", "message"),
    [
        ("data: 5\n", "data", "expected a section of `key: value`, got 5"),
        ("data: root of all\n", "data", "expected a section"),
        ("optimizer: [adam]\n", "optimizer", "expected a section"),
        ("train:\n  accum_batches_num: -4\n", "train.accum_batches_num", "expected a whole number above 0, got -4"),
        ("train:\n  accum_batches_num: 0\n", "train.accum_batches_num", "expected a whole number above 0, got 0"),
    ],
)
def test_what_is_no_old_file_is_refused_with_its_line(tmp_path: Path, text: str, key: str, message: str):
    (tmp_path / "old.yml").write_text(text)
    with pytest.raises(UserError) as caught:
        convert_config(tmp_path / "old.yml", tmp_path / "new.yml", cosine=True, force=False)
    assert caught.value.key == key and message in str(caught.value) and caught.value.line in (1, 2)
    assert not (tmp_path / "new.yml").exists()
