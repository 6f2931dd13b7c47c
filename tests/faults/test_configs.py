"""500 malformed configs: exit code 2, no traceback, the file named, and the right key and line."""

import re
from dataclasses import dataclass
from pathlib import Path

import hypothesis
import pytest
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

import train
from foldsmith.config.yaml_text import KeyPath, dotted, parse_yaml
from foldsmith.errors import UserError
from foldsmith.launch import command
from tests.conftest import ROOT

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
    ("train:\n\tseed: 1\n", 3, ""),
]


@dataclass(frozen=True)
class Broken:
    """A config's text with one thing wrong, and what the message must name."""

    text: str
    line: int
    key: str


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


def names(message: str, path: Path, broken: Broken) -> bool:
    """Whether a line of the message begins with the file, the line and the key; file and exit code always must."""
    assert str(path) in message, message
    assert "Traceback" not in message
    # Where a section is what the key holds, the wrong key is the one inside.
    keys = [f"{broken.key}: ", f"{broken.key}.no_such_key: "] if broken.key else [""]
    starts = tuple(f"{path}:{broken.line}: {key}" for key in keys)
    return any(line.strip().removeprefix("error: ").startswith(starts) for line in message.splitlines())


@pytest.mark.parametrize(("text", "line", "key"), WRITTEN, ids=range(len(WRITTEN)))
def test_a_written_one(text, line, key, tmp_path, monkeypatch):
    path = tmp_path / "a.yml"
    message = refusal(BASE + text, monkeypatch, path)
    assert names(message, path, Broken(text, line, key)), message


def test_there_are_fifty():
    assert len({text for text, _, _ in WRITTEN}) == 50


CONFIGS = sorted(path for path in (ROOT / "configs").rglob("*.yml"))
NAMES = {"name", "arch", "metric", "task", "geometry", "pad", "pooling", "affine", "amp"}
MUTATED = 450
FAST_MUTATED = 60


def places(path: Path) -> tuple[list[str], list[KeyPath]]:
    """The lines of a shipped config, and the keys that stand alone in theirs: `key: value`."""
    text = path.read_text(encoding="utf-8")
    text = re.sub(r"(?m)^base: (.*)$", lambda found: f"base: {path.parent / found[1]}", text)
    marks = parse_yaml(text, "x").marks
    lines = text.splitlines()
    alone = []
    for key, (_, line) in marks.items():
        if not key or not isinstance(key[-1], str) or line is None or "group_lrs" in key or key == ("base",):
            continue
        if len(re.findall(rf"(?<![\w.]){re.escape(key[-1])}:", lines[line - 1])) == 1:
            alone.append(key)
    return lines, alone


@st.composite
def broken_configs(draw: st.DrawFn) -> Broken:
    lines, keys = places(draw(st.sampled_from(CONFIGS)))
    document = parse_yaml("\n".join(lines), "x")
    key = draw(st.sampled_from(keys))
    line = document.marks[key][1]
    assert line is not None
    value = document.values
    for part in key:
        value = value[part]
    ways = ["typo", "alias", "tag", "token", "section"]
    is_plain = not isinstance(value, dict | list)
    on_its_own = re.fullmatch(rf"\s*(- )?{re.escape(key[-1])}: .*", lines[line - 1]) is not None
    if on_its_own and is_plain and "- " not in lines[line - 1].lstrip()[:2]:
        ways.append("twice")
    if key[-1] in NAMES and is_plain:
        ways.append("name")
    if isinstance(value, int | float) and not isinstance(value, bool) and "params" not in key:
        ways.append("negative")
    return _break(draw(st.sampled_from(ways)), lines, line, key, value)


def _break(way: str, lines: list[str], line: int, key: KeyPath, value: object) -> Broken:
    before, mark, after = re.split(rf"((?<![\w.]){re.escape(str(key[-1]))}:)", lines[line - 1], maxsplit=1)
    named = dotted(key)
    if way == "typo":
        mark, named = f"{key[-1]}qz:", dotted((*key[:-1], f"{key[-1]}qz"))
    elif way == "twice":
        return Broken("\n".join([*lines[:line], lines[line - 1], *lines[line:]]) + "\n", line + 1, named)
    else:
        new, has_key = {
            "alias": ("*other", False),
            "tag": ("!!python/name:os.system x", False),
            "token": ("@here", False),
            "section": ("{no_such_key: {deeper: 1}}", True),
            "name": (f"{value}qz", True),
            "negative": ("-7.5", True),
        }[way]
        named = named if has_key else ""
        return Broken(_with_value(lines, line, before + mark, after, new, key), line, named)
    return Broken("\n".join([*lines[: line - 1], before + mark + after, *lines[line:]]) + "\n", line, named)


def _with_value(lines: list[str], line: int, start: str, after: str, new: str, key: KeyPath) -> str:
    """The text with another value of a key; what was indented below it goes."""
    in_braces = re.search(r"[{,]\s*$", start[: -len(str(key[-1])) - 1]) is not None
    rest = re.sub(r"^\s*(\{[^{}]*\}|\[[^\[\]]*\]|[^,{}\[\]]*)", "", after) if in_braces else ""
    indent = len(lines[line - 1]) - len(lines[line - 1].lstrip(" -"))
    below = lines[line:]
    while below and not in_braces and (len(below[0]) - len(below[0].lstrip(" ")) > indent or is_item(below[0], indent)):
        below = below[1:]
    return "\n".join([*lines[: line - 1], f"{start} {new}{rest}", *below]) + "\n"


def is_item(line: str, indent: int) -> bool:
    return line.startswith(" " * indent + "- ")


def right_keys(count: int, monkeypatch: pytest.MonkeyPatch, folder: Path) -> tuple[int, list[str]]:
    """Break `count` configs; returns how many messages named the right key and line, and the others."""
    right, wrong, seen = 0, [], set()

    @seed(20261125)
    @settings(
        max_examples=count,
        deadline=None,
        database=None,
        phases=[hypothesis.Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(broken_configs())
    def break_one(broken: Broken) -> None:
        nonlocal right
        if broken.text in seen:
            return
        seen.add(broken.text)
        path = folder / "a.yml"
        message = refusal(broken.text, monkeypatch, path)
        if names(message, path, broken):
            right += 1
        else:
            wrong.append(f"{broken.line}: {broken.key}\n{message}")

    break_one()
    return right, wrong


def test_some_mutated_ones(tmp_path, monkeypatch):
    right, wrong = right_keys(FAST_MUTATED, monkeypatch, tmp_path)
    assert right >= 0.95 * (right + len(wrong)), "\n\n".join(wrong)
    assert right + len(wrong) >= FAST_MUTATED * 0.8


@pytest.mark.slow
def test_450_mutated_ones(tmp_path, monkeypatch):
    """Hypothesis repeats itself, so a few more are drawn than are needed."""
    right, wrong = right_keys(MUTATED + 150, monkeypatch, tmp_path)
    assert right + len(wrong) >= MUTATED
    assert right >= 0.95 * (right + len(wrong)), "\n\n".join(wrong)
