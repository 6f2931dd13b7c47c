"""torchrun: several processes train what one does. The engines are real: gloo and torchrun."""

import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import ensemble_inference
import predict_oof
import train
from foldsmith import cli
from foldsmith.config import load_config
from foldsmith.data.dataset import EpochOrder
from foldsmith.data.images import read_image
from foldsmith.data.tables import read_table
from foldsmith.errors import UserError
from foldsmith.losses import build_loss, divisor
from foldsmith.models.build import build_model, with_image_stats
from foldsmith.training import distributed, parallel
from foldsmith.training import run as run_module
from foldsmith.training.folder import RunFolder, open_run, started_over
from foldsmith.training.run import open_experiment
from foldsmith.training.setup import build_loader
from tests.conftest import ROOT
from tests.test_launch import artefacts, experiment
from tests.test_training import Killed, kill_at
from tests.torchrun.conftest import SETS, differ, two_processes, used_labels, words

# 95 images: folds of 47 and 48, so that the validated parts of two processes differ in size. 7 images are not halves.
EVERYTHING = [
    "train.batch_size=7",
    "train.accum_batches=2",
    "train.mixup.alpha=0.4",
    "train.cutmix.alpha=1.0",
    "train.ema.decay=0.9",
    "train.warmup={steps: 2, head_only: true}",
    "train.swa.start=1",
    "train.clip_grad_norm=0.5",
    "train.sampler.name=weighted",
    "loss.class_weights=log",
    "train.stages=[{num_epochs: 1}, {num_epochs: 1, trainable: last 2 groups}]",
]


@pytest.mark.parametrize("processes", [2, 3])
@pytest.mark.parametrize("batch", [6, 7])
def test_the_processes_share_what_one_draws(processes, batch):
    """Rows, epochs and repeats of every batch: a process's part follows that of the one before."""
    whole = list(EpochOrder(40, batch, seed=3))
    parts = []
    for rank in range(processes):

        def part(count, rank=rank):
            return slice(count * rank // processes, count * (rank + 1) // processes)

        parts.append(list(EpochOrder(40, batch, seed=3, part=part)))
    assert [sum(of_all, []) for of_all in zip(*parts, strict=True)] == whole
    sizes = {len(draws) for of_rank in parts for draws in of_rank}
    assert max(sizes) - min(sizes) <= 1


def test_parts_cover_everything_once(monkeypatch):
    monkeypatch.setattr(distributed, "size", lambda: 3)
    assert [distributed.part_of(8, rank) for rank in range(3)] == [slice(0, 2), slice(2, 5), slice(5, 8)]
    assert [distributed.part_of(1, rank) for rank in range(3)] == [slice(0, 0), slice(0, 0), slice(0, 1)]


def test_a_part_of_a_batch_counts_by_what_its_loss_divides_by():
    """Parts of 1 and 3 images, weighted by their divisors, make the loss of all 4."""
    logits = torch.tensor([[1.0, -2.0], [0.5, 0.0], [-1.0, 2.0], [3.0, 1.0]])
    targets = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0], [1.0, 0.0]])
    for name, params, weights in (
        ("bce", {}, None),
        ("f2", {}, None),
        ("focal", {"reduction": "sum"}, None),
        ("cross_entropy", {}, torch.tensor([1.0, 5.0])),
    ):
        loss = build_loss(name, params, weights)
        whole, parts = loss(logits, targets), [(logits[:1], targets[:1]), (logits[1:], targets[1:])]
        divisors = [divisor(loss, y) for _, y in parts]
        shares = [part / sum(divisors) if part else 1.0 for part in divisors]
        summed = sum(share * loss(x, y) for share, (x, y) in zip(shares, parts, strict=True))
        torch.testing.assert_close(summed, whole)
    assert divisors == [1.0, 11.0]


def test_what_torchrun_does_not_go_with(monkeypatch, config, tmp_path):
    for name, value in {"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "127.0.0.1", "LOCAL_RANK": "1"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match="torchrun's processes train one fold together"):
        train.main([*words(config, tmp_path), "--parallel-folds", "2"])
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    with pytest.raises(UserError, match="data.cache: each of 2 processes of this machine would hold a copy"):
        train.main([*words(config, tmp_path), "data.cache=ram"])
    alone = "torchrun's processes only train together: each of them would do all of this"
    for what, main, args in (
        ("--smoke", train.main, ["--config", str(config), "--smoke"]),
        ("predict_oof.py", predict_oof.main, ["--config", str(config)]),
        ("ensemble_inference.py", ensemble_inference.main, ["best.yml"]),
        ("foldsmith lr-find", cli.main, ["lr-find", "--config", str(config)]),
    ):
        with pytest.raises(UserError, match=alone) as caught:
            main(args)
        assert caught.value.key == what
    assert not list(tmp_path.iterdir())
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with (
        pytest.raises(UserError, match="process 1 of this machine has no GPU of its own: there are 1") as caught,
        distributed.process_group(torch.device("cuda")),
    ):
        pass
    assert caught.value.code == 3


def test_batch_norm_is_synchronised_on_request_and_on_gpus(monkeypatch):
    from timm import create_model

    model = create_model("test_efficientnet")
    assert parallel.synchronised_batch_norm(model, torch.device("cpu")) is model, "one process has the whole batch"
    monkeypatch.setattr(distributed, "size", lambda: 2)
    names = list(model.state_dict())
    with pytest.raises(UserError, match=r"train.sync_batch_norm: torch synchronises batch norm on GPUs only"):
        parallel.synchronised_batch_norm(model, torch.device("cpu"))
    changed = parallel.synchronised_batch_norm(model, torch.device("cuda"))
    kinds = {type(layer).__name__ for layer in changed.modules() if "BatchNorm" in type(layer).__name__}
    assert kinds == {"SyncBatchNormAct"} and list(changed.state_dict()) == names


@pytest.mark.slow
def test_every_parameter_of_the_configs_networks_gets_a_gradient():
    """DistributedDataParallel waits for each; without numbers, on torch's meta device."""
    models = {}  # by what makes a network: arch, pooling, widths of the head
    for path in sorted((ROOT / "configs").rglob("*.yml")):
        model = load_config(str(path)).model
        models[model.arch, model.pooling, tuple(model.head_layers)] = tuple(model.input_size)
    assert len(models) > 15
    models["test_efficientnet", "catavgmax", (8,)] = models["test_vit", "avg", (8,)] = (160, 160)
    for (arch, pooling, head_layers), (height, width) in models.items():
        options = {"num_classes": 5, "input_size": (height, width), "pooling": pooling, "head_layers": head_layers}
        with torch.device("meta"):
            model = build_model(arch, **options).train()
            model(torch.empty(2, 3, height, width)).sum().backward()
        assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == [], arch


def test_a_batch_smaller_than_the_processes_is_refused(monkeypatch):
    monkeypatch.setattr(distributed, "size", lambda: 3)
    config = load_config("clipart_tiny", ["train.batch_size=2"])
    table = read_table(config).take(np.arange(20))
    with pytest.raises(UserError, match="train.batch_size: 3 processes can't share a batch of 2 images"):
        build_loader(config, table, [Path("x.jpg")] * 20, torch.device("cpu"), read_image, 0)
    config = load_config("clipart_tiny", ["train.batch_size=2", "train.batch_size_is=per_process"])
    _, order = build_loader(with_image_stats(config), table, [Path("x.jpg")] * 20, torch.device("cpu"), read_image, 0)
    assert (order.batch_size, order.batches) == (6, 3)
    assert [len(draws) for draws in order] == [2, 2, 2]


def test_a_batch_that_is_too_small_costs_nothing(chain, tmp_path, monkeypatch):
    """--fresh deletes when it is sure that training can begin."""
    runs = shutil.copytree(chain.runs, tmp_path / "runs")
    monkeypatch.setattr(distributed, "size", lambda: 3)
    monkeypatch.setattr(distributed, "on_main", lambda function: function())
    args = ["--fresh", "--config", str(chain.folder / "a.yml"), "--output", str(runs), "--set", *chain.sets]
    with pytest.raises(UserError, match="train.batch_size: 3 processes can't share a batch of 2 images"):
        train.main([*args, "train.batch_size=2"])
    assert artefacts(runs) == artefacts(chain.runs)


def test_a_folder_that_is_not_shared_is_refused(monkeypatch):
    monkeypatch.setattr(distributed, "on_main", lambda function: "epoch 3")
    with pytest.raises(UserError) as caught:
        distributed.check_same("epoch 2", "runs/a", hint="share it")
    assert str(caught.value) == "runs/a: process 0 finds epoch 2 there, process 0 epoch 3\n  hint: share it"
    assert caught.value.code == 3
    distributed.check_same("epoch 3", "runs/a", hint="share it")


def test_a_checkpoint_of_another_epoch_is_refused(monkeypatch, config, tmp_path):
    """What a machine sees that still has an older last.ckpt in its cache of the shared folder."""
    kill_at(monkeypatch, "train_epoch", 2, after=False)
    with pytest.raises(Killed):
        train.main(words(config, tmp_path))
    real = distributed.on_main

    def on_main(function):
        found = real(function)
        return found.replace("epoch 1, step 2", "epoch 2, step 4") if isinstance(found, str) else found

    monkeypatch.setattr(distributed, "on_main", on_main)
    with pytest.raises(UserError) as caught:
        train.main(words(config, tmp_path))
    place = tmp_path / "a" / "fold0" / "last.ckpt"
    said = "process 0 finds stage 1, epoch 1, step 2 there, process 0 stage 1, epoch 2, step 4"
    assert str(caught.value).startswith(f"{place}: {said}\n  hint: --output on a folder that all machines share;")


def test_a_machine_with_other_labels_is_refused(monkeypatch, config, tmp_path):
    real = distributed.on_main

    def on_main(function):
        found = real(function)
        return re.sub("labels ............", "labels 0123456789ab", found) if isinstance(found, str) else found

    monkeypatch.setattr(distributed, "on_main", on_main)
    with pytest.raises(
        UserError, match=r"process 0 finds config (\w{12}), labels \w{12}, .* config \1, labels 0123456789ab"
    ):
        train.main(words(config, tmp_path))


def test_batches_of_another_number_of_images_do_not_go_on(monkeypatch, config, tmp_path):
    kill_at(monkeypatch, "train_epoch", 2, after=False)
    with pytest.raises(Killed):
        train.main(words(config, tmp_path))
    monkeypatch.setattr(parallel, "batch_of_all", lambda train: 32)
    with pytest.raises(
        UserError, match=r"last.ckpt: train.batch_size_is: batches had 16 images; those of 1 .* have 32"
    ):
        train.main(words(config, tmp_path))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("one", "two"),
    [([], ["train.batch_size=8", "train.batch_size_is=per_process"]), (EVERYTHING, EVERYTHING)],
    ids=["batches of 8 each are batches of 16", "a shared batch and every extra"],
)
def test_two_processes_train_what_one_does(config, tmp_path, one, two):
    one, two = ([*sets, used_labels(config)] for sets in (one, two))
    train.main(words(config, tmp_path / "one", *one))
    code, output = two_processes(ROOT / "train.py", *words(config, tmp_path / "two", *two))
    assert code == 0, output
    assert differ(tmp_path / "one", tmp_path / "two") < 1e-5
    assert output.count("best epoch") == 1, "one process speaks"
    batch = 7 if "train.batch_size=7" in one else 16
    assert f"a fold 0: 2 processes (gloo), which share each batch of {batch} images" in output
    oof, scores = [], []
    for name, sets in (("one", one), ("two", two)):
        run = tmp_path / name / "a"
        predict_oof.main(["--config", str(config), "--output", str(run.parent), "--set", *SETS, *sets])
        oof.append(np.load(run / "a_f0.npy"))
        rows = (run / "fold0" / "metrics.csv").read_text().splitlines()[1:]
        scores.append([[float(value) for value in row.split(",")] for row in rows])
    assert len(oof[0]) in (47, 48) and np.abs(oof[0] - oof[1]).max() < 1e-4
    np.testing.assert_allclose(scores[0], scores[1], atol=1e-5)


@pytest.mark.slow
def test_a_lost_process_is_restarted_and_the_run_finishes(config, dying, single, tmp_path):
    code, output = two_processes(dying, "--fresh", *words(config, tmp_path), restarts=1)
    assert code == 0, output
    log = (tmp_path / "a" / "fold0" / "train.log").read_text()
    assert "goes on after epoch 1" in log and log.count("epoch 1/2") == 1, "--fresh counts for the first start alone"
    assert differ(single, tmp_path) < 1e-5


@pytest.mark.slow
def test_two_processes_are_resumed_by_one(config, dying, single, tmp_path):
    code, output = two_processes(dying, *words(config, tmp_path))
    assert code != 0 and "SIGKILL" in output
    assert (tmp_path / "a" / "fold0" / "last.ckpt").is_file() and not list(tmp_path.glob("a/*.safetensors"))
    train.main(words(config, tmp_path))
    assert "goes on after epoch 1" in (tmp_path / "a" / "fold0" / "train.log").read_text()
    assert differ(single, tmp_path) < 1e-5


@pytest.mark.parametrize("variable", ["TORCHELASTIC_RESTART_COUNT", "SLURM_RESTART_COUNT"])
def test_fresh_counts_for_the_first_start_alone(variable, config, tmp_path, monkeypatch):
    """And the lock of what was lost is waited for."""
    asked, real = [], run_module.held

    def held(*args, after_loss):
        asked.append(after_loss)
        return real(*args, after_loss=after_loss)

    monkeypatch.setattr(run_module, "held", held)
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv(variable, "0")
    with monkeypatch.context() as patch, pytest.raises(Killed):
        kill_at(patch, "train_epoch", 2, after=False)
        train.main(["--fresh", *words(config, tmp_path)])
    monkeypatch.setenv(variable, "1")
    train.main(["--fresh", *words(config, tmp_path)])
    assert (tmp_path / "a" / "fold0" / "train.log").read_text().count("goes on after epoch 1") == 1
    assert asked == [False, True]


@pytest.mark.parametrize("only_fold", [None, 1])
def test_a_restart_starts_over_what_its_job_has_not(only_fold, tmp_path, monkeypatch):
    """Results of another job, or of none, are never taken for its own."""
    config, run = load_config("clipart_tiny"), RunFolder(tmp_path, "a")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")

    def start(job: str) -> bool:
        monkeypatch.setenv("SLURM_JOB_ID", job)
        fresh = not started_over(run, only_fold, distributed.starters(again=True))
        open_run(run, config, fresh=fresh, only_fold=only_fold, starters=distributed.starters())
        return fresh

    open_run(run, config)
    old = run.weights(1)
    old.touch()
    assert start("7") and not old.exists()
    old.touch()
    assert not start("7") and old.exists()
    assert start("8") and not old.exists()
    monkeypatch.setenv("SLURM_RESTART_COUNT", "0")
    assert start("8"), "a first start always starts over"


def test_a_torchrun_is_known_by_its_process(monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    assert distributed.starters() == []
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "0")
    (first,) = distributed.starters()
    assert f" {os.getppid()} " in first and distributed.starters(again=True) == []
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    assert distributed.starters(again=True) == [first]
    monkeypatch.setattr(os, "getppid", os.getpid)
    assert distributed.starters() != [first]


@pytest.mark.slow
def test_fresh_starts_every_experiment_over_in_spite_of_a_restart(config, dying, tmp_path):
    """A process is lost in the first of two; the second one's old results are not kept."""
    other = experiment(tmp_path / "b", "b", rows=95)
    args = words(config, tmp_path / "runs")
    args.insert(2, str(other))
    train.main(args)
    files = [tmp_path / "runs" / name / "fold0" / "train.log" for name in "ab"]
    for file in files:
        file.write_text("of old\n")
    code, output = two_processes(dying, "--fresh", *args, restarts=1)
    assert code == 0, output
    logs = [file.read_text() for file in files]
    assert "goes on after epoch 1" in logs[0]
    for log in logs:
        assert log.count("epoch 1/2") == 1 and log.count("epoch 2/2") == 1
        assert "of old" not in log and "finished already" not in log


def test_several_machines_do_not_start_over(small, tmp_path, monkeypatch):
    """One of them might take a restart for a start, and delete what was finished."""
    for name, value in (("WORLD_SIZE", "2"), ("LOCAL_WORLD_SIZE", "1"), ("RANK", "0"), ("MASTER_ADDR", "here")):
        monkeypatch.setenv(name, value)
    config = load_config("clipart_tiny", small)
    with (
        pytest.raises(UserError, match="--fresh: torchrun on several machines can't tell a restart from a start"),
        open_experiment(config, output=tmp_path, device=torch.device("cpu"), fresh=True),
    ):
        pass
