"""Training runs: resumption to the bit, what is kept, what is refused, and what each key of the config does."""

import math
from pathlib import Path

import pytest
import torch

import train
from foldsmith.errors import UserError
from foldsmith.files import sha256_file
from foldsmith.models.weights import read_header
from foldsmith.training import run as run_module
from foldsmith.training import scoring
from foldsmith.training.folder import differing_keys
from foldsmith.training.run import train_epoch


def fold0(small: list[str], output: Path, *sets: str, words: tuple[str, ...] = ()) -> Path:
    """Train fold 0 of the shrunk clipart_tiny; returns the run's folder."""
    train.main(["--config", "clipart_tiny", "--fold", "0", "--output", str(output), *words, "--set", *small, *sets])
    return output / "clipart_tiny"


def tensors(run: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(run / "clipart_tiny_f0.safetensors")


class Killed(BaseException):
    """Ends a run like a kill: nothing catches it."""


def kill_at(monkeypatch: pytest.MonkeyPatch, function: str, call: int, *, after: bool) -> None:
    """Let a function die at its n-th call, before or after it did its work."""
    module = run_module if hasattr(run_module, function) else scoring
    real, calls = getattr(module, function), []

    def dying(*args, **kwargs):
        calls.append(None)
        result = real(*args, **kwargs) if after or len(calls) < call else None
        if len(calls) == call:
            raise Killed
        return result

    monkeypatch.setattr(module, function, dying)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tests.conftest import shrink

    folder = tmp_path_factory.mktemp("uninterrupted")
    return fold0(shrink(folder), folder / "runs", "train.num_epochs=3", "model.dropout=0.2", "train.ema.decay=0.9")


@pytest.mark.parametrize(
    ("function", "call", "after"),
    [("train_epoch", 1, True), ("save_weights", 2, True), ("save_checkpoint", 2, False), ("save_checkpoint", 2, True)],
)
def test_a_killed_run_ends_in_the_same_bits(small, tmp_path, monkeypatch, uninterrupted, function, call, after):
    sets = ("train.num_epochs=3", "model.dropout=0.2", "train.ema.decay=0.9")
    with monkeypatch.context() as patch, pytest.raises(Killed):
        kill_at(patch, function, call, after=after)
        fold0(small, tmp_path / "runs", *sets)
    assert not (tmp_path / "runs" / "clipart_tiny" / "clipart_tiny_f0.safetensors").exists()
    run = fold0(small, tmp_path / "runs", *sets)
    for name in ("fold0/metrics.csv",):
        assert (run / name).read_bytes() == (uninterrupted / name).read_bytes()
    assert tensors(run).keys() == tensors(uninterrupted).keys()
    for name, tensor in tensors(uninterrupted).items():
        assert torch.equal(tensors(run)[name], tensor), name


def test_the_number_of_workers_changes_nothing(small, tmp_path, uninterrupted):
    run = fold0(
        small, tmp_path / "runs", "train.num_epochs=3", "model.dropout=0.2", "train.ema.decay=0.9", "train.workers=2"
    )
    for name, tensor in tensors(uninterrupted).items():
        assert torch.equal(tensors(run)[name], tensor), name


def test_a_folder_of_another_config_is_refused(small, tmp_path):
    run = fold0(small, tmp_path)
    before = sha256_file(run / "clipart_tiny_f0.safetensors")
    with pytest.raises(UserError) as caught:
        fold0(small, tmp_path, "train.seed=5", "optimizer.params.lr=0.01")
    assert "optimizer.params.lr: 0.004 -> 0.01\n  train.seed: 0 -> 5" in str(caught.value)
    assert "--fresh" in str(caught.value) and caught.value.code == 2
    assert sha256_file(run / "clipart_tiny_f0.safetensors") == before

    train.main(["--config", "clipart_tiny", "--fold", "1", "--output", str(tmp_path), "--set", *small])
    fold0(small, tmp_path, words=("--fresh",))
    assert (run / "clipart_tiny_f1.safetensors").exists(), "--fresh with --fold leaves other folds"
    assert sha256_file(run / "clipart_tiny_f0.safetensors") == before, "the same run gives the same file"
    train.main(["--config", "clipart_tiny", "--fold", "0", "--fresh", "--output", str(tmp_path / "x"), "--set", *small])


def test_fresh_starts_over_with_another_config(small, tmp_path):
    fold0(small, tmp_path)
    sets = [*small, "train.seed=5", "train.num_epochs=1"]
    train.main(["--config", "clipart_tiny", "--fresh", "--output", str(tmp_path), "--set", *sets])
    assert read_header(tmp_path / "clipart_tiny" / "clipart_tiny_f0.safetensors")["config"]["train"]["seed"] == 5


def test_labels_that_changed_are_refused(small, tmp_path):
    fold0(small, tmp_path / "runs")
    table = Path(next(word for word in small if word.startswith("data.train_csv")).partition("=")[2])
    lines = table.read_text().splitlines()
    lines[1] = lines[1].split(",")[0] + ",54"
    table.write_text("\n".join(lines) + "\n")
    with pytest.raises(UserError, match="the label table changed"):
        fold0(small, tmp_path / "runs")


def test_test_keys_may_change_and_others_may_not():
    old = {"train": {"seed": 0, "workers": 1}, "test": {"tta": ["identity"]}, "data": {"root": "a", "num_folds": 3}}
    new = {"train": {"seed": 0, "workers": 2}, "test": {"tta": ["hflip"]}, "data": {"root": "b", "num_folds": 3}}
    assert differing_keys(old, new) == []
    assert differing_keys(old, {**new, "data": {"root": "b", "num_folds": 5}}) == ["data.num_folds: 3 -> 5"]


def test_only_what_is_trainable_changes(small, tmp_path):
    from safetensors.torch import load_file

    base = fold0(small, tmp_path / "base", "train.num_epochs=1")
    head = fold0(
        small,
        tmp_path / "head",
        "train.num_epochs=1",
        "train.trainable=head",
        f"model.pretrained={base / 'clipart_tiny_f0.safetensors'}",
    )
    before, after = (load_file(run / "clipart_tiny_f0.safetensors") for run in (base, head))
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"classifier.weight", "classifier.bias"}


def test_early_stopping_ends_a_run_that_does_not_improve(small, tmp_path, capsys):
    # so small a rate that the score stays what it was, and no batch norm, whose statistics would move it
    sets = (
        "model.arch=test_vit",
        "train.num_epochs=9",
        "train.early_stopping.patience=2",
        "optimizer.params.lr=1e-12",
        "scheduler.name=constant",
    )
    run = fold0(small, tmp_path, *sets)
    rows = (run / "fold0" / "metrics.csv").read_text().splitlines()[1:]
    scores = [float(row.split(",")[5]) for row in rows]
    best = max(range(len(scores)), key=lambda epoch: scores[epoch])
    assert (len(rows), best) == (3, 0)
    assert read_header(run / "clipart_tiny_f0.safetensors")["epoch"] == best + 1


def test_accumulated_batches_are_one_step_of_their_mean(small, tmp_path):
    """Two batches of 8 give the update of one batch of 16, on a network without batch norm, by plain SGD."""
    sets = ["model.arch=test_vit", "train.num_epochs=1", "train.max_steps_per_epoch=1", "augmentations.crop_jitter=0"]
    sets += ["optimizer.name=momentum", "optimizer.params={lr: 0.1, momentum: 0.0}", "scheduler.name=constant"]
    one = tensors(fold0(small, tmp_path / "one", *sets, "train.batch_size=16"))
    two = tensors(fold0(small, tmp_path / "two", *sets, "train.batch_size=8", "train.accum_batches=2"))
    half = tensors(fold0(small, tmp_path / "half", *sets, "train.batch_size=8"))
    for name in one:
        torch.testing.assert_close(two[name], one[name], atol=1e-6, rtol=1e-5)
    assert any(not torch.allclose(half[name], one[name], atol=1e-6, rtol=1e-5) for name in one)


@pytest.mark.parametrize("rate", ["one_cycle", "cosine", "reduce_lr_on_plateau"])
def test_every_schedule_trains(small, tmp_path, rate):
    run = fold0(small, tmp_path, f"scheduler.name={rate}", "train.warmup.steps=3", "train.num_epochs=1")
    row = (run / "fold0" / "metrics.csv").read_text().splitlines()[1].split(",")
    last = {"one_cycle": 0.004 / 25 / 1e4, "cosine": 0.004 * (1 + math.cos(math.pi * 4 / 5)) / 2}
    assert float(row[2]) == pytest.approx(last.get(rate, 0.004), rel=1e-6)


def test_three_bad_losses_in_a_row_stop_the_run(small, tmp_path):
    with pytest.raises(UserError) as caught:
        fold0(small, tmp_path, "optimizer.name=sgd", "optimizer.params={lr: 1e30}", "scheduler.name=constant")
    message = str(caught.value)
    assert (
        "the loss was not finite again and again (now " in message
        and "learning rates 1e+30" in message
        and "images " in message
    )
    assert not (tmp_path / "clipart_tiny" / "clipart_tiny_f0.safetensors").exists()


def test_smoke_goes_through_oof_and_keeps_nothing(capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    import tempfile

    monkeypatch.setattr(tempfile, "tempdir", None)
    train.main(["--config", "clipart_tiny", "--smoke", "--set", "model.input_size=32", "train.num_epochs=50"])
    output = capsys.readouterr().out
    assert "epoch 1/1" in output and "smoke test passed" in output
    assert list(tmp_path.iterdir()) == []


def test_an_epoch_is_train_epoch():
    """The loop that run.py calls is the one of loop.py, so that the kill tests above patch the real thing."""
    from foldsmith.training import loop

    assert train_epoch is loop.train_epoch
