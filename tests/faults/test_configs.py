"""500 malformed configs: exit code 2, no traceback, the file named, and the right key and line."""

import re
from collections import Counter
from pathlib import Path
from random import Random

import hypothesis
import pytest
import yaml
from hypothesis import HealthCheck, given, seed, settings

import train
from foldsmith.errors import UserError
from foldsmith.launch import command
from tests.conftest import ROOT
from tests.faults.mutations import WAYS, Broken, broken_from, places

BASE = f"base: {ROOT}/configs/clipart_tiny.yml\n"
# What stands below `base:`, the line and the key that the message must begin with; an empty key: none is named.
WRITTEN = [
    ("dta:\n  root: x\n", 2, "dta"),
    ("data:\n  rot: x\n", 3, "data.rot"),
    ("data: x\n", 2, "data"),
    ("data:\n- root\n", 2, "data"),
    ("data:\n  num_folds: 1\n", 3, "data.num_folds"),
    ("data:\n  num_folds: five\n", 3, "data.num_folds"),
    ("data:\n  num_folds: 2.5\n", 3, "data.num_folds"),
    ("data:\n  task: multi\n", 3, "data.task"),
    ("data:\n  geometry: stretch\n", 3, "data.geometry"),
    ("data:\n  folds_seed: 4294967296\n", 3, "data.folds_seed"),
    ("data:\n  on_bad_image: ignore\n", 3, "data.on_bad_image"),
    ("data:\n  label_separator: ''\n", 3, "data.label_separator"),
    ("model:\n  arch: resnet_18\n", 3, "model.arch"),
    ("model:\n  arch: 5\n", 3, "model.arch"),
    ("model:\n  input_size: [96, 96, 3]\n", 3, "model.input_size"),
    ("model:\n  input_size: -1\n", 3, "model.input_size"),
    ("model:\n  dropout: 1.0\n", 3, "model.dropout"),
    ("model:\n  pooling: mean\n", 3, "model.pooling"),
    ("model:\n  mean: [0.5, 0.5]\n  std: [1, 1, 1]\n", 3, "model.mean"),
    ("model:\n  head_layers: 512\n", 3, "model.head_layers"),
    ("train:\n  batch_size: 0\n", 3, "train.batch_size"),
    ("train:\n  num_epochs: -3\n", 3, "train.num_epochs"),
    ("train:\n  num_epochs: null\n", 3, "train.num_epochs"),
    ("train:\n  seed: -1\n", 3, "train.seed"),
    ("train:\n  trainable: last groups\n", 3, "train.trainable"),
    ("train:\n  amp: fp8\n", 3, "train.amp"),
    ("train:\n  workers: many\n", 3, "train.workers"),
    ("train:\n  worker_timeout: 0\n", 3, "train.worker_timeout"),
    ("train:\n  mixup: 0.4\n", 3, "train.mixup"),
    ("train:\n  mixup:\n    alpha: 0\n", 4, "train.mixup.alpha"),
    ("train:\n  stages:\n  - num_epochs: 1\n  - epochs: 2\n", 5, "train.stages[1].epochs"),
    ("train:\n  swa:\n    period: 2\n", 3, "train.swa.start"),
    ("loss:\n  name: focl\n", 3, "loss.name"),
    ("loss:\n  name: focal\n  params: {gama: 2}\n", 4, "loss.params.gama"),
    ("loss:\n  name: [bce]\n", 3, "loss.name"),
    ("optimizer:\n  name: adamww\n", 3, "optimizer.name"),
    ("optimizer:\n  params: {lr: fast}\n", 3, "optimizer.params.lr"),
    ("optimizer:\n  head_lr: 0\n", 3, "optimizer.head_lr"),
    ("scheduler:\n  name: cosin\n", 3, "scheduler.name"),
    ("scheduler:\n  name: cosine\n  params: {t_max: 3}\n", 4, "scheduler.params.t_max"),
    ("augmentations:\n  hflip: often\n", 3, "augmentations.hflip"),
    ("augmentations:\n  affine: strong\n", 3, "augmentations.affine"),
    ("augmentations:\n  blur: 2\n", 3, "augmentations.blur"),
    ("augmentations:\n  extra:\n  - name: Cutout\n", 4, "augmentations.extra[0].name"),
    ("augmentations:\n  extra:\n  - name: Blur\n    params: {limit: 3}\n", 5, "augmentations.extra[0].params.limit"),
    ("test:\n  tta: []\n", 3, "test.tta"),
    ("test:\n  tta: [identity, hflp]\n", 3, "test.tta[1]"),
    ("metric: f3x\n", 2, "metric"),
    ("train:\n  seed: 1\n  seed: 2\n", 4, "train.seed"),
    ("train:\n\tseed: 1\n", 3, "seed"),
]


def refusal(text: str, monkeypatch: pytest.MonkeyPatch, path: Path) -> str:
    """What train.py says; anything but a UserError of code 2 (that is: a traceback) fails the test."""
    monkeypatch.setattr(command, "train_command", accepted)
    path.write_text(text)
    with pytest.raises(UserError) as caught:
        train.main(["--config", str(path), "--output", str(path.parent / "runs")])
    assert caught.value.code == 2
    return str(caught.value)


def accepted(*args: object, **rest: object) -> None:
    raise AssertionError("the malformed config was accepted")


def problems_of(message: str) -> list[str]:
    """What the message lists; one problem is the message itself."""
    first, *lines = message.splitlines()
    return [line.strip() for line in lines] if re.search(r": \d+ problems$", first) else [message]


def names(message: str, path: Path, broken: Broken) -> bool:
    """Whether it begins with the file, the line and the key; the file must be there, and be all that is wrong.

    Where a key was misspelt, or a section replaced, one that must be there is missing, too: that alone is excused.
    """
    assert str(path) in message, message
    assert "Traceback" not in message
    problems = problems_of(message)
    if len(problems) > 1 and broken.kind in ("misspelt", "section"):
        problems = [each for each in problems if not re.search("required key is missing|needs it$", each)]
    assert len(problems) == 1, message
    place = f"{path}:{broken.line}: " if broken.line else f"{path}: "
    return problems[0].startswith(f"{place}{broken.key}: " if broken.key else place)


@pytest.mark.parametrize(("text", "line", "key"), WRITTEN, ids=range(len(WRITTEN)))
def test_a_written_one(text, line, key, tmp_path, monkeypatch):
    path = tmp_path / "a.yml"
    message = refusal(BASE + text, monkeypatch, path)
    assert names(message, path, Broken("written", text, line, key)), message


def test_there_are_fifty():
    assert len({text for text, _, _ in WRITTEN}) == 50


CONFIGS = sorted(path for path in (ROOT / "configs").rglob("*.yml"))
MUTATED = 450


def mutate(path: Path, count: int, monkeypatch: pytest.MonkeyPatch, folder: Path) -> dict[Broken, str]:
    """`count` different mutations of one shipped config, each with what the program says."""
    said: dict[Broken, str] = {}
    texts: set[str] = set()

    @seed(20261125 + CONFIGS.index(path))
    @settings(
        max_examples=count * 6,  # Hypothesis repeats itself
        deadline=None,
        database=None,
        phases=[hypothesis.Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(broken_from(path, CONFIGS.index(path) * count))
    def break_one(broken: Broken) -> None:
        if len(said) < count and broken.text not in texts:
            texts.add(broken.text)
            said[broken] = refusal(broken.text, monkeypatch, folder / "a.yml")

    break_one()
    assert len(said) == count, f"{path} can be broken in {len(said)} ways only"
    return said


def test_a_mutation_of_every_shipped_config(tmp_path, monkeypatch):
    check(2, tmp_path, monkeypatch)


@pytest.mark.slow
def test_450_mutations_of_all_shipped_configs(tmp_path, monkeypatch):
    each = -(-MUTATED // len(CONFIGS))
    assert each * len(CONFIGS) >= MUTATED
    kinds = check(each, tmp_path, monkeypatch)
    assert set(kinds) == set(WAYS) and min(kinds.values()) >= 5, kinds


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["no_colon", "no_space", "equals", "unclosed"])
def test_a_missing_mark_at_every_key_of_all_shipped_configs(kind, tmp_path, monkeypatch):
    broken = [WAYS[kind](place, Random(number)) for path in CONFIGS for number, place in enumerate(places(path))]
    found = [each for each in broken if each]
    file = tmp_path / "a.yml"
    right = sum(names(refusal(each.text, monkeypatch, file), file, each) for each in found)
    assert len(found) >= 400 and right >= 0.95 * len(found), f"{right} of {len(found)}"


def check(each: int, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Mutate all configs; file and exit code must be right in all, key and line in 95 %. Returns how many of a kind."""
    said = [(path, *item) for path in CONFIGS for item in mutate(path, each, monkeypatch, folder).items()]
    assert {path for path, _, _ in said} == set(CONFIGS) and len(CONFIGS) >= 40
    keyless = [broken for _, broken, _ in said if not broken.key]
    assert len(keyless) <= 0.1 * len(said), "which leaves a key to be named in the other nine tenths"
    file = folder / "a.yml"
    wrong = [f"{path.name} {each}\n{message}" for path, each, message in said if not names(message, file, each)]
    assert len(wrong) <= 0.05 * len(said), f"{len(wrong)} of {len(said)}\n" + "\n\n".join(wrong)
    return Counter(broken.kind for _, broken, _ in said)


@pytest.mark.parametrize(("text", "line", "key"), [WRITTEN[5], WRITTEN[47], WRITTEN[49]], ids=["type", "metric", "tab"])
def test_as_a_process(text, line, key, tmp_path, warm):
    path = tmp_path / "a.yml"
    path.write_text(BASE + text)
    ended = warm.run("train.py", "--config", path, "--output", tmp_path / "runs")
    assert ended.code == 2 and ended.err.startswith(f"error: {path}:{line}: {key}: "), ended.err
    assert "Traceback" not in ended.out + ended.err and not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ('train:\n  trainable: "\\UFFFFFFFF"\n', 3, "train.trainable: names a character that does not exist"),
        ('data:\n  root: "\\ud800"\n', 3, "data.root: holds half a character"),
    ],
)
def test_escapes_that_are_no_characters(text, line, message, tmp_path, monkeypatch):
    path = tmp_path / "a.yml"
    assert refusal(BASE + text, monkeypatch, path) == f"{path}:{line}: {message}"


@pytest.mark.parametrize("value", ["[1]", "[[lr, 1]]", "x", "3", "null", "true"])
@pytest.mark.parametrize(
    ("text", "line", "key"),
    [
        ("loss:\n  params: {}\n", 3, "loss.params"),
        ("loss: {{name: focal, params: {}}}\n", 2, "loss.params"),
        ("optimizer:\n  params: {}\n", 3, "optimizer.params"),
        ("scheduler:\n  params: {}\n", 3, "scheduler.params"),
        ("scheduler: {{name: multi_step, params: {}}}\n", 2, "scheduler.params"),
        ("augmentations:\n  extra: [{{name: Blur, params: {}}}]\n", 3, "augmentations.extra[0].params"),
        ("train:\n  sampler: {{name: weighted, params: {}}}\n", 3, "train.sampler.params"),
        ("train:\n  stages: [{{loss: {{name: bce, params: {}}}}}]\n", 3, "train.stages[0].loss.params"),
        ("train:\n  stages: [{{optimizer: {{name: sgd, params: {}}}}}]\n", 3, "train.stages[0].optimizer.params"),
    ],
)
def test_arguments_that_are_no_section_are_named_once(text, line, key, value, tmp_path, monkeypatch):
    path = tmp_path / "a.yml"
    message = refusal(BASE + text.format(value), monkeypatch, path)
    got = yaml.safe_load(value)
    assert message == f"{path}:{line}: {key}: expected a section of `key: value`, got {got!r}"


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("task: [multiclass]", "data.task"),
        ("task: {multiclass: 1}", "data.task"),
        ("task: null", "data.task"),
        ("tsk: multiclass", "data.tsk"),
    ],
)
def test_what_hangs_on_a_wrong_task_is_not_blamed(text, key, tmp_path, monkeypatch):
    path = tmp_path / "a.yml"
    others = (
        "loss:\n  name: cross_entropy\nmetric: accuracy\ntrain:\n  sampler: {name: undersample, params: {most: 9}}\n"
    )
    said = problems_of(refusal(f"{BASE}data:\n  {text}\n{others}", monkeypatch, path))
    assert said[0].startswith(f"{path}:3: {key}: "), said
    assert not any("does not fit" in each or "metric" in each for each in said), said


def test_the_other_problems_of_a_config_with_a_wrong_value_are_told_as_well(tmp_path, monkeypatch):
    path = tmp_path / "a.yml"
    text = "model:\n  mean: [0, 0, 0]\n  arch: resnet_18\nloss:\n  name: focal\n  params: [1]\nmetric: f3x\n"
    said = problems_of(refusal(BASE + text, monkeypatch, path))
    starts = ["2: model: mean and std", "7: loss.params: expected", "4: model.arch: timm has no", "8: metric: unknown"]
    for each, start in zip(said, starts, strict=True):
        assert each.startswith(f"{path}:{start}"), each


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("train:\n  batch_size 24\n", "3: train.batch_size: a colon is missing\n  hint: write `batch_size: 24`"),
        (
            "train:\n  seed: 1\n   batch_size:24\n",
            "4: train.batch_size: a space after the colon is missing\n  hint: write `batch_size: 24`",
        ),
        (
            "model:\n  arch: resnet18\n    pretrained = false\n",
            "4: model.pretrained: a colon is missing: `=` does not take its place\n  hint: write `pretrained: false`",
        ),
        ("test:\n  tta\n  - hflip\nmetric: f2\n", "3: test.tta: a colon is missing\n  hint: write `tta:`"),
        (
            "augmentations:\n  extra:\n  - name Blur\n",
            "4: augmentations.extra[0].name: a colon is missing\n  hint: write `name: Blur`",
        ),
        ("optimizer:\n  params:\n    lr 1\n", "4: optimizer.params.lr: a colon is missing\n  hint: write `lr: 1`"),
        # What is wrong there is not a colon.
        ("test:\n  tta:\n    hflip vflip\n", "3: test.tta: expected a list, got 'hflip vflip'"),
        (
            "data:\n  task:\n    multi label\n",
            "3: data.task: expected one of multilabel, multiclass, got 'multi label'; "
            "did you mean 'multilabel' or 'multiclass'?",
        ),
    ],
)
def test_a_colon_is_missing_where_yaml_reads_a_text(text, message, tmp_path, monkeypatch):
    path = tmp_path / "a.yml"
    assert refusal(BASE + text, monkeypatch, path) == f"{path}:{message}"


def test_a_missing_colon_stands_in_the_list_of_problems(tmp_path, monkeypatch):
    path = tmp_path / "a.yml"
    said = problems_of(refusal(BASE + "data:\n  num_folds: 1\ntrain:\n  batch_size 24\n", monkeypatch, path))
    assert said[1] == f"{path}:5: train.batch_size: a colon is missing; write `batch_size: 24`" and len(said) == 2


def test_what_hangs_on_a_task_that_a_misspelt_base_would_bring_is_not_blamed(tmp_path, monkeypatch):
    text = (
        "bases: x.yml\ntrain: {num_epochs: 1, sampler: {name: undersample, params: {threshold: 9}}}\nmetric: accuracy\n"
    )
    said = problems_of(refusal(text, monkeypatch, tmp_path / "a.yml"))
    assert [each.split(": ", 1)[1] for each in said] == [
        "data: required key is missing",
        "model: required key is missing",
        "optimizer: required key is missing",
        "bases: unknown key; did you mean 'base'?",
    ]
