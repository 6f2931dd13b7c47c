"""Stages: what each trains, with what, and that a run resumed at any boundary ends in the same bits."""

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import train
from foldsmith.config import load_config
from foldsmith.errors import UserError
from foldsmith.models.build import build_model
from foldsmith.models.sparsity import apply_masks, smallest_masks
from foldsmith.models.weights import read_header
from foldsmith.training import loop, scoring
from foldsmith.training import run as run_module
from foldsmith.training.leaves import check_leaves
from foldsmith.training.stages import stages_of
from tests.test_training import Killed, fold0, tensors

HEAD_THEN_ALL = (
    "train.stages=[{num_epochs: 0.5, trainable: head, optimizer: {name: sgd, params: {lr: 5e-4}}},"
    " {num_epochs: 1, sparsity: 0.5}, {num_epochs: 1.5}]"
)


def metrics(run: Path) -> list[dict[str, str]]:
    with open(run / "fold0" / "metrics.csv", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def of(*words: str):
    return stages_of(load_config("clipart_tiny", words, check_leaves))


def test_an_experiment_without_stages_is_one():
    (stage,) = of("train.num_epochs=2.5")
    assert (stage.epochs, [stage.share_of_epoch(epoch) for epoch in range(3)]) == (3, [1.0, 1.0, 0.5])


def test_a_stage_takes_what_it_leaves_out_from_the_experiment():
    first, second, third = of(
        "train.mixup={alpha: 0.4}",
        "train.warmup={steps: 3}",
        "train.swa={start: 1}",
        "train.stages=[{num_epochs: 0.5, trainable: head, mixup: null}, {loss: {name: focal}}, {sparsity: 0.25}]",
    )
    assert [stage.config.train.num_epochs for stage in (first, second, third)] == [0.5, 8, 8]
    assert [stage.config.train.trainable for stage in (first, second, third)] == ["head", "all", "all"]
    assert [stage.config.train.mixup is None for stage in (first, second, third)] == [True, False, False]
    assert [stage.config.loss.name for stage in (first, second, third)] == ["bce", "focal", "bce"]
    assert [stage.config.train.warmup is None for stage in (first, second, third)] == [False, True, True]
    assert [stage.config.train.swa is None for stage in (first, second, third)] == [True, True, False]
    assert [stage.sparsity for stage in (first, second, third)] == [None, None, 0.25]


def test_the_resolved_config_says_the_same(tmp_path):
    """A null that turns a section off must survive being written and read, and so must a key that is not named."""
    from foldsmith.config import dump_yaml

    config = load_config("clipart_tiny", ["train.mixup={alpha: 0.4}", "train.stages=[{mixup: null}, {num_epochs: 2}]"])
    (tmp_path / "again.yml").write_text(dump_yaml(config.model_dump(mode="json")))
    again = load_config(tmp_path / "again.yml")
    assert [stage.config.train.mixup for stage in stages_of(again)] == [None, config.train.mixup]
    assert again.model_dump() == config.model_dump()


@pytest.mark.parametrize(
    ("words", "key", "message"),
    [
        ("train.stages=[{trainable: [nothing]}]", "train.stages[0].trainable", "'nothing' names no module"),
        ("train.stages=[{num_epochs: 1}, {trainable: last 99 groups}]", "train.stages[1].trainable", "99"),
        ("optimizer.group_lrs={blocks.77: 0.1}", "optimizer.group_lrs.blocks.77", "'blocks.77' names no module"),
        ("loss.class_weights=balanced", "loss.class_weights", "a class without images: 4 of 56 classes"),
    ],
)
def test_what_a_stage_can_not_do_shows_before_anything_is_written(small, tmp_path, words, key, message):
    labels = tmp_path / "labels.csv"  # with a class that no image has
    labels.write_text(Path("data/clipart/labels.csv").read_text() + "99999,nowhere\n")
    with pytest.raises(UserError) as caught:
        fold0(small, tmp_path / "runs", words, f"data.labels_csv={labels}")
    assert caught.value.key == key and message in str(caught.value)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("words", "key"),
    [
        ("train.stages=[{loss: {name: cross_entropy}}]", "train.stages[0].loss.name"),
        ("train.stages=[{sampler: {name: oversample, params: {threshold: 3}}}]", "train.stages[0].sampler.name"),
        ("train.sampler={name: weightd}", "train.sampler.name"),
        ("train.stages=[{optimizer: {name: sgd}}]", "train.stages[0].optimizer.params.lr"),
        ("train.stages=[{num_epochs: 0}]", "train.stages[0].num_epochs"),
        ("train.stages=[{sparsity: 1.0}]", "train.stages[0].sparsity"),
        ("metric=accuracy", "metric"),
        ("loss={name: focal, class_weights: balanced}", "loss.class_weights"),
    ],
)
def test_what_does_not_fit_is_found_in_the_config(words, key):
    with pytest.raises(UserError) as caught:
        of(words)
    assert caught.value.key == key, str(caught.value)


@pytest.fixture(scope="module")
def staged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tests.conftest import shrink

    folder = tmp_path_factory.mktemp("staged")
    return fold0(shrink(folder), folder / "runs", HEAD_THEN_ALL, "model.dropout=0.2")


def test_stages_follow_each_other(staged):
    rows = metrics(staged)
    assert [(row["epoch"], row["stage"]) for row in rows] == [("1", "1"), ("2", "2"), ("3", "3"), ("4", "3")]
    assert float(rows[0]["lr"]) < 5e-4  # one_cycle's end, of the stage's own rate
    header = read_header(staged / "clipart_tiny_f0.safetensors")
    assert header["epoch"] in (3, 4), "the best epoch of the last stage"
    expected = [{"stage": 1, "epochs": 1}, {"stage": 2, "epochs": 1}, {"stage": 3, "epochs": header["epoch"] - 2}]
    assert header["stages"] == expected
    log = (staged / "fold0" / "train.log").read_text()
    assert "stage 2 of 3: 1 epochs, trainable: all, 50% of the weights zero" in log


@pytest.mark.parametrize("call", [1, 2, 3, 4])
@pytest.mark.parametrize("after", [False, True])
def test_a_run_killed_at_any_epochs_end_ends_in_the_same_bits(small, tmp_path, monkeypatch, staged, call, after):
    real, calls = scoring.save_checkpoint, []

    def dying(*args):
        calls.append(None)
        if after:
            real(*args)
        if len(calls) == call:
            raise Killed
        if not after:
            real(*args)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(scoring, "save_checkpoint", dying)
        fold0(small, tmp_path, HEAD_THEN_ALL, "model.dropout=0.2")
    run = fold0(small, tmp_path, HEAD_THEN_ALL, "model.dropout=0.2")
    assert (run / "fold0" / "metrics.csv").read_bytes() == (staged / "fold0" / "metrics.csv").read_bytes()
    for name, tensor in tensors(staged).items():
        assert torch.equal(tensors(run)[name], tensor), name


def test_half_of_each_weight_stays_zero_while_the_stage_lasts(small, tmp_path, monkeypatch):
    steps = []
    real = run_module.finish_epoch

    def spy(job, training, *rest):
        weights = [module.weight for module in training.model.modules() if isinstance(module, torch.nn.Conv2d)]
        weights += [module.weight for module in training.model.modules() if isinstance(module, torch.nn.Linear)]
        steps.append([int((weight == 0).sum()) == weight.numel() // 2 for weight in weights])
        real(job, training, *rest)

    monkeypatch.setattr(run_module, "finish_epoch", spy)
    fold0(small, tmp_path, "train.stages=[{num_epochs: 1}, {num_epochs: 1, sparsity: 0.5}, {num_epochs: 1}]")
    dense, sparse, dense_again = steps
    assert all(sparse) and not any(dense) and not any(dense_again)


def test_masks_by_hand():
    model = torch.nn.Sequential(torch.nn.Linear(3, 1), torch.nn.BatchNorm1d(1), torch.nn.Conv1d(1, 1, 3))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[0.5, -0.1, 0.2]]))
        model[2].weight.copy_(torch.tensor([[[-3.0, 2.0, 2.0]]]))
    masks = smallest_masks(model, 0.67)
    assert {name: mask.flatten().tolist() for name, mask in masks.items()} == {
        "0.weight": [True, False, False],
        "2.weight": [True, False, False],
    }
    apply_masks(model, masks)
    assert model[2].weight.tolist() == [[[-3.0, 0.0, 0.0]]]


def test_a_head_only_warmup_leaves_the_body_alone(small, tmp_path, monkeypatch):
    states = []
    real = loop._thaw

    def spy(training, plan):
        states.append({name: tensor.clone() for name, tensor in training.model.state_dict().items()})
        real(training, plan)

    monkeypatch.setattr(loop, "_thaw", spy)
    plain = ("train.num_epochs=1", "scheduler.name=constant", "optimizer={name: momentum, params: {lr: 0.1}}")
    fold0(small, tmp_path, *plain, "train.max_steps_per_epoch=3", "train.warmup={steps: 2, head_only: true}")
    begin, warm = states
    end = tensors(tmp_path / "clipart_tiny")
    body = [name for name in begin if not name.startswith("classifier")]
    assert all(torch.equal(warm[name], begin[name]) for name in body), "batch norm's statistics too"
    assert not torch.equal(warm["classifier.weight"], begin["classifier.weight"])
    changed = [name for name in body if not torch.equal(end[name], warm[name])]
    assert len(changed) > len(body) / 2


def test_a_falling_rate_goes_back_to_the_best_weights(small, tmp_path, monkeypatch):
    """By a rate of 0 after the best epoch nothing changes any more, so the last weights are the best ones."""
    sets = ["train.num_epochs=3", "optimizer={name: momentum, params: {lr: 0.5, momentum: 0.0}}", "augmentations=null"]
    sets = [word for word in sets if "augment" not in word]
    sets += ["scheduler={name: reduce_lr_on_plateau, params: {factor: 1e-30, patience: 0, threshold: 9.0,"]
    sets[-1] += " reload_best: true}}"
    last = []
    real = run_module.finish_epoch

    def spy(job, training, *rest):
        real(job, training, *rest)
        last[:] = [{name: tensor.clone() for name, tensor in training.model.state_dict().items()}, job]

    monkeypatch.setattr(run_module, "finish_epoch", spy)
    run = fold0(small, tmp_path, *sets)
    state, job = last
    assert "back to the weights of epoch" in (run / "fold0" / "train.log").read_text()
    best = load_file(run / "clipart_tiny_f0.safetensors")
    weights = [name for name in best if "running" not in name and "batches" not in name]
    assert all(torch.equal(state[name], best[name]) for name in weights)


def test_early_stopping_by_the_rate(small, tmp_path):
    run = fold0(
        small,
        tmp_path,
        "train.num_epochs=1000",
        "train.early_stopping={min_lr: 1e-4}",
        "scheduler={name: multi_step, params: {milestones: [1, 2], gamma: 0.1}}",
    )
    assert [row["lr"] for row in metrics(run)] == ["0.004", "0.0004"]  # the next would be 0.00004


def test_a_rate_for_each_group_of_layers():
    from foldsmith.training.optimizers import build_optimizer

    model = build_model("resnet18", num_classes=3, input_size=(32, 32))
    optimizer = build_optimizer(model, "adamw", {"lr": 1e-5}, group_lrs={"layer4": 8e-5, "layer4.1": 9e-5, "fc": 5e-4})
    rates = {id(p): group["initial_lr"] for group in optimizer.param_groups for p in group["params"]}
    by_name = {name: rates[id(parameter)] for name, parameter in model.named_parameters()}
    assert by_name["conv1.weight"] == by_name["layer3.1.bn2.bias"] == 1e-5
    assert by_name["layer4.0.conv1.weight"] == 8e-5 and by_name["layer4.1.bn1.weight"] == 9e-5
    assert by_name["fc.weight"] == by_name["fc.bias"] == 5e-4


def test_a_run_of_one_label_an_image(small, tmp_path):
    """The multiclass task from labels to out-of-fold probabilities that sum to one."""
    import predict_oof
    from foldsmith.data.tables import read_csv

    source = Path(next(word for word in small if word.startswith("data.train_csv")).partition("=")[2])
    sheet = read_csv(source)
    table = tmp_path / "train.csv"
    rows = [[row[0], row[1].split()[0] if int(row[0], 36) % 3 else "0"] for row in sheet.rows if row[1].split()]
    table.write_text("id,attribute_ids\n" + "".join(f"{name},{label}\n" for name, label in rows))
    sets = [*small, f"data.train_csv={table}", "data.task=multiclass", "train.num_epochs=2", "loss.name=cross_entropy"]
    sets += ["loss.params={label_smoothing: 0.1}", "train.mixup={alpha: 0.4}", "metric=accuracy"]
    train.main(["--config", "clipart_tiny", "--output", str(tmp_path), "--set", *sets])
    run = tmp_path / "clipart_tiny"
    assert {"accuracy", "f1_macro", "f1_above"} <= set(metrics(run)[0])
    names = [str(run / f"clipart_tiny_f{fold}.safetensors") for fold in range(2)]
    predict_oof.main(["--weights", *names, "--output", str(tmp_path)])
    oof = np.load(run / "clipart_tiny_f0.npy")
    np.testing.assert_allclose(oof.sum(axis=1), 1, rtol=1e-5)


def test_periods_count_in_whole_epochs_where_a_stage_is_shorter(small, tmp_path):
    """4 steps an epoch, so half an epoch is half a period."""
    cosine = "scheduler={name: cosine_restarts, params: {period: 1}}"
    run = fold0(small, tmp_path, cosine, "train.num_epochs=0.5", "train.max_steps_per_epoch=4")
    assert float(metrics(run)[0]["lr"]) == pytest.approx(0.004 * (1 + np.cos(np.pi / 4)) / 2, rel=1e-6)


@pytest.mark.parametrize(
    ("words", "key", "message"),
    [
        ("train.warmup={steps: 999, head_only: true}", "train.warmup.steps", "nothing else would train"),
        ("train.stages=[{sparsity: 0.00001}]", "train.stages[0].sparsity", "whole number of zeros"),
        ("train.trainable=[]", "train.trainable", "or at least 1 item, got []"),
    ],
)
def test_what_would_do_nothing_is_refused(small, tmp_path, words, key, message):
    with pytest.raises(UserError) as caught:
        fold0(small, tmp_path, words)
    assert caught.value.key == key and message in str(caught.value)
