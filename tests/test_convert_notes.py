"""What convert-config says of keys that are not kept, and what it refuses."""

from pathlib import Path
from typing import Any

import pytest

from foldsmith import cli
from foldsmith.config import dump_yaml
from foldsmith.convert import convert_config
from foldsmith.errors import UserError
from tests.test_convert import COSINE, CYCLIC, MULTI, OLD, convert, note_of, old_values, refusal


def test_a_thousand_epochs_end_by_the_rate(tmp_path: Path) -> None:
    config, _ = convert(tmp_path, train__num_epochs=1000)
    assert config.train.num_epochs == 1000
    assert config.train.early_stopping is not None
    assert (config.train.early_stopping.min_lr, config.train.early_stopping.patience) == (3e-7, None)
    for scheduler in (MULTI, CYCLIC):
        config, notes = convert(tmp_path, train__num_epochs=1000, scheduler=scheduler)
        assert config.train.early_stopping is None
        assert "set train.num_epochs, or train.early_stopping.patience" in note_of(notes, "train.num_epochs = 1000")


def test_plain_gradient_descent_has_no_momentum_there(tmp_path: Path) -> None:
    config, _ = convert(tmp_path, optimizer={"name": "sgd", "params": {"lr": 0.1, "weight_decay": 1e-4}})
    expected = {"lr": 0.1, "weight_decay": 1e-4, "momentum": 0.0, "nesterov": False}
    assert (config.optimizer.name, config.optimizer.params) == ("sgd", expected)


@pytest.mark.parametrize(("accum", "steps"), [(4, [3750, 1250, 2048]), (2, [7500, 2500, 4097]), (8, [1875, 625, 1024])])
def test_batches_become_steps_where_gradients_accumulate(tmp_path: Path, accum: int, steps: list[int]) -> None:
    config, notes = convert(tmp_path, train__accum_batches_num=accum, scheduler=CYCLIC)
    assert config.train.accum_batches == accum
    assert config.train.warmup is not None
    made = [config.train.max_steps_per_epoch, config.train.warmup.steps, config.scheduler.params["step_size_up"]]
    assert made == steps
    expected = f"counted in batches; {steps[1]} optimizer steps of {accum} batches each"
    assert note_of(notes, "train.warmup.steps = 5000") == expected


def test_warmup_of_all_of_the_head_and_none(tmp_path: Path) -> None:
    config, notes = convert(tmp_path, train__enable_warmup=False)
    assert config.train.warmup is None
    assert note_of(notes, "train.warmup.steps = 5000") == "not used, train.enable_warmup is off"
    config, _ = convert(tmp_path, train__enable_warmup=False, train__head_only_warmup=True)
    assert config.train.warmup is not None and config.train.warmup.head_only
    config, notes = convert(tmp_path, train__head_only_warmup=True)
    assert config.train.warmup is not None and config.train.warmup.head_only
    assert note_of(notes, "train.head_only_warmup").startswith("replaces train.enable_warmup")
    message = "old.yml:{}: train.warmup: the warmup is on, but its steps or its max_lr are missing"
    assert refusal(train__warmup={"steps": 5}).partition(": train.")[2] == message.partition(": train.")[2]


@pytest.mark.parametrize(
    ("table", "submission", "root"),
    [
        ("train_conf_0.1.csv", "sample_submission.csv", "."),
        ("train_conf_0.6.csv", "sample_submission.csv", "."),
        ("../input/train_conf_0.675.csv", "../input/sample_submission.csv", "../input"),
        ("train_conf_0.1.csv", "../input/sample_submission.csv", "../input"),
    ],
)
def test_pseudo_labels_are_validated_on_the_original_ones(
    tmp_path: Path, table: str, submission: str, root: str
) -> None:
    config, notes = convert(tmp_path, train__csv=table, test__csv=submission)
    assert (config.data.train_csv, config.data.sample_submission, config.data.root) == (table, submission, root)
    assert config.data.valid_csv == str(Path(root) / "train.csv")
    assert note_of(notes, f"train.csv = {table!r}") == "pseudo labels; validation goes by data.valid_csv"
    config, _ = convert(tmp_path, train__csv="train.csv", test__csv="sample_submission.csv")
    assert (config.data.train_csv, config.data.valid_csv, config.data.root) == ("train.csv", None, ".")


def test_native_crops_or_rectangles(tmp_path: Path) -> None:
    for rect_crop in ({"enable": False, "min_ratio": 0.3, "max_ratio": 1.0}, {}):
        config, notes = convert(tmp_path, data__rect_crop=rect_crop)
        assert (config.data.geometry, config.augmentations.rect_crop) == ("crop", None)
        assert ("takes the middle" in note_of(notes, "data.geometry")) is True
        assert sum("not used, data.rect_crop.enable is off" in note for note in notes) == (2 if rect_crop else 0)


def test_what_nobody_read_is_named(tmp_path: Path) -> None:
    keys = {
        "augmentations__dropout": 0.3,
        "augmentations__aug_global_prob": 0.5,
        "train__swa": {"enable": True, "period": 3},
        "cosine": COSINE | {"period_mult": 1.1},
    }
    config, notes = convert(tmp_path, **keys)
    unread = [note.split(" = ")[0] for note in notes if note.endswith(": the old program never read it")]
    assert unread == [
        "augmentations.dropout",
        "augmentations.aug_global_prob",
        "train.swa.enable",
        "train.swa.period",
        "cosine.period_mult",
    ]
    assert (config.train.swa, config.augmentations.global_prob, config.model.dropout) == (None, 0.5, 0.3)


def test_no_key_of_such_files_is_unknown(tmp_path: Path) -> None:
    """All keys at once that the files of the solution have, in two files: a schedule has its own parameters."""
    keys = {
        "augmentations__aug_global_prob": 0.5,
        "augmentations__dropout": 0.3,
        "cosine": COSINE | {"period_mult": 1.1},
        "loss__params": {"weight": 3},
        "optimizer__params__weight_decay": 1e-4,
        "train__accum_batches_num": 2,
        "train__head_only_warmup": True,
        "train__lr_decay_coeff": 0.2,
        "train__lr_decay_milestones": [2, 5, 8],
        "train__num_epochs": 1000,
        "train__swa": {"enable": True, "period": 3},
    }
    cyclic = {
        "name": "cyclic_lr",
        "params": CYCLIC["params"] | {"cycle_momentum": False, "gamma": 0.5, "mode": "triangular"},
    }
    for scheduler in (cyclic, MULTI):
        for switch in (True, False):
            _, notes = convert(tmp_path, switch=switch, scheduler=scheduler, **keys)
            assert not [note for note in notes if "unknown" in note]


def test_unknown_keys_are_named(tmp_path: Path) -> None:
    _, notes = convert(tmp_path, train__speed="fast", zzz={"a": {"b": [1, 2]}}, loss__more="x")
    unknown = [note for note in notes if note.endswith("an unknown key, not converted")]
    assert [note.split(":")[0] for note in unknown] == ["train.speed = 'fast'", "loss.more = 'x'", "zzz.a.b = [1, 2]"]
    (tmp_path / "old.yml").write_text(OLD.replace("    beta_a: 0.3", "    beta_a: 0.3\n  color:"))
    notes = convert_config(tmp_path / "old.yml", tmp_path / "empty.yml")
    assert note_of(notes, "train.color") == "empty, not converted"


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (
            {"loss": {"name": "hinge"}},
            "old.yml:40: loss.name: unknown name 'hinge'; valid: binary_cross_entropy, focal_",
        ),
        ({"test__num_ttas": 4}, "test.num_ttas: expected 1 (the image) or 2 (and its mirror image), got 4"),
        ({"scheduler": {"name": "cyclic"}}, "scheduler.name: unknown name 'cyclic'; did you mean 'cyclic_lr'?"),
        ({"model__arch": None}, "old.yml: model.arch: required key is missing"),
        ({"optimizer": {"name": "adam"}}, "old.yml: optimizer.params.lr: required key is missing"),
        ({"train__batch_size": "16"}, "train.batch_size: expected a whole number, got '16'"),
        ({"train__mixup": {"enable": True}}, "train.mixup: beta_a is missing"),
        ({"data__root": "x"}, "old.yml: is a foldsmith config already: it has data.root"),
        ({"augmentations__erase": {"prob": 0.5, "min_area": 0.1}}, "augmentations.erase.max_area: required key"),
    ],
)
def test_what_cannot_be_converted_is_refused(keys: dict[str, Any], message: str) -> None:
    assert message in refusal(**keys)


def test_what_would_not_load_is_not_written(tmp_path: Path) -> None:
    (tmp_path / "old.yml").write_text(dump_yaml(old_values(model__arch="seresnxt50", model__dropout=2)))
    with pytest.raises(UserError) as caught:
        convert_config(tmp_path / "old.yml", tmp_path / "new.yml")
    lines = str(caught.value).splitlines()
    assert lines[0] == f"{tmp_path / 'old.yml'}: what it becomes is not valid:"
    assert lines[1] == "  model.dropout: expected less than 1, got 2.0"
    assert lines[2].startswith("  model.arch: timm has no model 'seresnxt50'; the nearest: ")
    assert not (tmp_path / "new.yml").exists()


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old, new = tmp_path / "old.yml", tmp_path / "new.yml"
    old.write_text(OLD)
    cli.main(["convert-config", str(old), "--output", str(new)])
    printed = capsys.readouterr().out.splitlines()
    assert printed[-1] == f"{new}: written"
    assert printed[:-1] == convert_config(old, tmp_path / "again.yml")
    assert "model.num_classes = 1103: not needed, the label table says how many" in printed
    first = new.read_bytes()
    with pytest.raises(UserError, match="new.yml: --output: exists already\n  hint: .*--force"):
        cli.main(["convert-config", str(old), "--output", str(new)])
    old.write_text(OLD.replace("352", "320"))
    assert new.read_bytes() == first
    cli.main(["convert-config", str(old), "--output", str(new), "--force"])
    assert b"input_size: 320" in new.read_bytes()
    with pytest.raises(UserError, match="exists already"):  # the old file itself is never replaced
        cli.main(["convert-config", str(old), "--output", str(old), "--force"])
