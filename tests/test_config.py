"""The strict loader: every promise of docs/design.md, section 4, with the exact messages that users read."""

import re
from pathlib import Path

import pytest

from foldsmith.config import Config, dump_yaml, load_config, parse_yaml
from foldsmith.errors import UserError
from foldsmith.tools.schema import foldsmith_schema
from foldsmith.training.leaves import check_leaves
from tests.conftest import ROOT

CONFIGS = sorted(path for path in (ROOT / "configs").rglob("*") if path.suffix in (".yml", ".yaml"))

VALID = """\
data:
  root: data
model:
  arch: test_efficientnet
  input_size: 96
train:
  num_epochs: 3
loss:
  name: focal
  params: {gamma: 3}
optimizer:
  name: adamw
  params: {lr: 1e-4, weight_decay: 0.1}
test:
  tta: [identity, hflip]
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test stands in an empty folder with `valid.yml`."""
    monkeypatch.chdir(tmp_path)
    Path("valid.yml").write_text(VALID)


def load(text: str, *overrides: str) -> Config:
    Path("a.yml").write_text(text)
    return load_config("a.yml", overrides)


def refusal(text: str | bytes, *overrides: str) -> str:
    """What the user reads when `text` is loaded as a.yml."""
    Path("a.yml").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UserError) as caught:
        load_config("a.yml", overrides)
    assert caught.value.code == 2
    return str(caught.value)


def over(text: str) -> str:
    """`text` over the valid config: its own lines count from 2."""
    return "base: valid.yml\n" + text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("modle:\n  arch: x\n", "a.yml:2: modle: unknown key; did you mean 'model'?"),
        ("model:\n  dropuot: 0.1\n", "a.yml:3: model.dropuot: unknown key; did you mean 'dropout'?"),
        ("<<: {b: 2}\n", "a.yml:2: <<: unknown key; valid: data, model, train"),
        ("test:\n  zzz: 1\n", "a.yml:3: test.zzz: unknown key; valid: batch_size, tta"),
        ("loss:\n  parms: {}\n", "a.yml:3: loss.parms: unknown key; did you mean 'params'?"),
        ("model:\n  base: b.yml\n", "a.yml:3: model.base: unknown key; valid: arch, pretrained, input_size"),
        (
            "augmentations:\n  extra:\n  - name: Blur\n  - name: Blur\n    parms: {}\n",
            "a.yml:6: augmentations.extra[1].parms: unknown key; did you mean 'params'?",
        ),
        ("train:\n  seed: '1'\n", "a.yml:3: train.seed: expected a whole number, got '1'"),
        ("train:\n  seed: true\n", "a.yml:3: train.seed: expected a whole number, got True"),
        ("train:\n  batch_size: 1e1\n", "a.yml:3: train.batch_size: expected a whole number, got 10.0"),
        ("model:\n  dropout: .nan\n", "a.yml:3: model.dropout: expected a number, got '.nan'"),
        ("model:\n  dropout: 1e999\n", "a.yml:3: model.dropout: expected a finite number, got inf"),
        ("model:\n  dropout: true\n", "a.yml:3: model.dropout: expected a number, got True"),
        ("model:\n  dropout: 1\n", "a.yml:3: model.dropout: expected less than 1, got 1"),
        ("model:\n  input_size: [96]\n", "a.yml:3: model.input_size: expected at least 2 items"),
        ("model:\n  input_size: [96, 0]\n", "a.yml:3: model.input_size[1]: expected greater than 0, got 0"),
        ("model:\n  mean: [0.5, 0.5, 0.5]\n", "a.yml:2: model: mean and std go together: name both or neither"),
        ("model:\n  std: [0, 1, 1]\n", "a.yml:3: model.std[0]: expected greater than 0, got 0"),
        ("model:\n  pretrained: 5\n", "a.yml:3: model.pretrained: expected true or false or text, got 5"),
        ("model: 5\n", "a.yml:2: model: expected a section of `key: value`, got 5"),
        ("model:\n", "a.yml:2: model: expected a section of `key: value`, got None"),
        ("data:\n  root: 5\n", "a.yml:3: data.root: expected text, got 5"),
        (
            "data:\n  folds_seed: 5000000000\n",
            "a.yml:3: data.folds_seed: expected less than 4294967296, got 5000000000",
        ),
        ("augmentations:\n  hflip: no\n", "a.yml:3: augmentations.hflip: expected true or false, got 'no'"),
        ("augmentations:\n  blur: 1.5\n", "a.yml:3: augmentations.blur: expected less than or equal to 1, got 1.5"),
        (
            "data:\n  pad: reflekt\n",
            "a.yml:3: data.pad: expected one of reflect, edge, white, black, got 'reflekt'; did you mean 'reflect'?",
        ),
        (
            "train:\n  workers: atuo\n",
            "a.yml:3: train.workers: expected a whole number or one of auto, got 'atuo'; did you mean 'auto'?",
        ),
        ("train:\n  trainable: [head, 1]\n", "a.yml:3: train.trainable[1]: expected text, got 1"),
        (
            "augmentations:\n  erase:\n    area: [0.1, 0.2]\n",
            "a.yml:3: augmentations.erase.prob: required key is missing",
        ),
        (
            "augmentations:\n  erase: {prob: 1, area: [0.4, 0.2]}\n",
            "a.yml:3: augmentations.erase.area: the first number is the smaller one, got [0.4, 0.2]",
        ),
    ],
)
def test_a_wrong_key_or_value_is_named_with_what_is_valid(text: str, message: str) -> None:
    assert refusal(over(text)).startswith(message)


def test_a_missing_key_names_the_section_where_it_belongs() -> None:
    assert refusal(VALID.replace("  arch: test_efficientnet\n", "")) == "a.yml:3: model.arch: required key is missing"
    assert refusal(VALID[VALID.index("model:") :]) == "a.yml: data: required key is missing"


def test_all_problems_come_at_once() -> None:
    text = over("model:\n  input_size: x\n  dropuot: 1\ndata:\n  task: many\nzzz: 1\n")
    assert refusal(text, "train.seed=-1").splitlines() == [
        "a.yml: 5 problems",
        "  a.yml:6: data.task: expected one of multilabel, multiclass, got 'many'",
        "  a.yml:3: model.input_size: expected a list, got 'x'",
        "  a.yml:4: model.dropuot: unknown key; did you mean 'dropout'?",
        "  --set train.seed: train.seed: expected greater than or equal to 0, got -1",
        "  a.yml:7: zzz: unknown key; valid: " + ", ".join([*Config.model_fields, "base"]),
    ]


def test_a_config_is_read_as_it_stands() -> None:
    config = load("\ufeff" + VALID)
    assert (config.name, config.data.root, config.model.input_size, config.train.num_epochs) == (
        "a",
        "data",
        [96, 96],
        3,
    )
    assert config.optimizer.params == {"lr": 0.0001, "weight_decay": 0.1}
    assert (config.data_path("train_csv"), config.data_path("test_dir")) == (Path("data/train.csv"), Path("data/test"))
    assert load(VALID + "augmentations:\n  erase: 0.3\n").augmentations.erase.prob == 0.3


def test_base_is_relative_to_the_file_and_may_have_a_base() -> None:
    Path("sub/deep").mkdir(parents=True)
    Path("sub/mid.yml").write_text("base: ../valid.yml\ntrain: {seed: 7, num_epochs: 5}\ntest: {tta: [vflip]}\n")
    Path("sub/deep/top.yml").write_text("base: ../mid.yml\ntrain:\n  num_epochs: 9\n")
    config = load_config("sub/deep/top.yml")
    assert (config.name, config.train.num_epochs, config.train.seed, config.test.tta) == ("top", 9, 7, ["vflip"])
    assert (config.model.arch, config.loss.params) == ("test_efficientnet", {"gamma": 3})
    Path("sub/mid.yml").write_text("base: ../valid.yml\ntrain:\n  sead: 7\n")
    with pytest.raises(UserError, match=r"^sub/deep/../mid.yml:3: train.sead: unknown key; did you mean 'seed'\?$"):
        load_config("sub/deep/top.yml")


def test_a_cycle_of_bases_is_refused() -> None:
    Path("b.yml").write_text("base: c.yml\n")
    Path("c.yml").write_text("base: b.yml\n")
    assert refusal("base: b.yml\n") == "b.yml: base: configs are each other's base: b.yml -> c.yml -> b.yml"
    assert refusal("base: a.yml\n") == "a.yml: base: configs are each other's base: a.yml -> a.yml"


@pytest.mark.parametrize("base", ["none.yml", ".", "5", "[valid.yml]", "x" * 5000])
def test_a_base_that_is_no_file_is_refused(base: str) -> None:
    long = f"'{'x' * 199}... (5002 characters)"
    expected = long if len(base) == 5000 else repr(parse_yaml(f"base: {base}", "x").values["base"])
    message = f"a.yml:2: base: {expected} is not a file\n  hint: a path relative to this file"
    assert refusal(f"# head\nbase: {base}\n") == message


def test_another_component_does_not_inherit_params() -> None:
    assert load(over("loss: {name: bce}\n")).loss.params == {}
    assert load(over("loss: {name: focal}\n")).loss.params == {"gamma": 3}
    assert load(over("loss: {params: {alpha: 1}}\n")).loss.params == {"gamma": 3, "alpha": 1}
    assert load(over("optimizer: {name: sgd, params: {lr: 1}}\n")).optimizer.params == {"lr": 1}
    Path("valid.yml").write_text(VALID.replace("  name: adamw\n", ""))
    assert load(over("optimizer: {name: adamw}\n")).optimizer.params == {"lr": 0.0001, "weight_decay": 0.1}


def test_what_a_replaced_value_lacks_is_missing_where_it_was_replaced() -> None:
    Path("valid.yml").write_text(VALID + "augmentations:\n  extra:\n  - name: Blur\n")
    where = "a.yml:4: augmentations.extra[0].name: required key is missing"
    assert refusal(over("augmentations:\n  extra:\n  - params: {}\n")) == where


def test_set_goes_through_the_same_checks() -> None:
    assert refusal(VALID, "trian.seed=1") == "--set trian.seed: trian: unknown key; did you mean 'train'?"
    assert refusal(VALID, "train.seed=x") == "--set train.seed: train.seed: expected a whole number, got 'x'"
    assert refusal(VALID, "train.seed=") == "--set train.seed: train.seed: expected a whole number, got None"
    assert refusal(VALID, "loss={nam: x}") == "--set loss: loss.nam: unknown key; did you mean 'name'?"
    assert (
        refusal(VALID, "loss.nam=x", "loss.params={}") == "--set loss.nam: loss.nam: unknown key; did you mean 'name'?"
    )
    assert refusal(VALID, "data.root=a: b").startswith("--set data.root:1: data.root: two colons are in one line\n")
    assert refusal(VALID, "loss={name: *x}").startswith("--set loss:1: loss.name: YAML aliases ")


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("train.seed", "--set: 'train.seed' is not key=value\n  hint: for example --set train.num_epochs=3"),
        ("train..seed=1", "--set: 'train..seed=1' is not key=value\n  hint: for example --set train.num_epochs=3"),
        ("=1", "--set: '=1' is not key=value\n  hint: for example --set train.num_epochs=3"),
        ("base=valid.yml", "--set: base is a part of the file, not a key to override"),
        ("train.seed=1\nb: 2", "--set: 'train.seed=1\\nb: 2' is more than one key=value"),
    ],
)
def test_a_wrong_set_word_is_refused(word: str, message: str) -> None:
    assert refusal(VALID, word) == message


def test_set_overrides_any_key_and_the_last_one_wins() -> None:
    config = load(VALID, "train.seed=1", "train.seed=2", "test.tta=[vflip]", "model.pretrained=w.pth", "data.folds=010")
    assert (config.train.seed, config.test.tta, config.data.folds) == (2, ["vflip"], "010")
    assert (config.model.pretrained, config.train.num_epochs) == ("w.pth", 3)
    assert load(VALID, "optimizer.params.lr=1e-2").optimizer.params == {"lr": 0.01, "weight_decay": 0.1}


def test_set_of_a_name_drops_the_files_params_but_not_those_set_beside_it() -> None:
    words = ["optimizer.params.lr=1", "optimizer.name=sgd"]
    for order in (words, words[::-1]):
        config = load(VALID, *order)
        assert (config.optimizer.name, config.optimizer.params) == ("sgd", {"lr": 1})


def test_a_config_is_looked_for_here_and_then_in_configs() -> None:
    Path("configs").mkdir()
    Path("configs/b.yml").write_text(VALID.replace("96", "80"))
    Path("configs/valid.yml").write_text(VALID.replace("96", "80"))
    sizes = {
        name: load_config(name).model.input_size[0] for name in ("valid", "valid.yml", "b", "b.yml", "configs/b.yml")
    }
    assert sizes == {"valid": 96, "valid.yml": 96, "b": 80, "b.yml": 80, "configs/b.yml": 80}
    assert load_config("b").name == "b"
    with pytest.raises(UserError) as caught:
        load_config("zzz")
    assert str(caught.value) == (
        "--config: config 'zzz' not found\n  hint: looked at zzz, configs/zzz, zzz.yml, configs/zzz.yml"
    )
    with pytest.raises(UserError, match="not found"):
        load_config("x" * 5000)


def test_there_are_configs() -> None:
    assert len(CONFIGS) >= 3


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_shipped_config_loads_and_survives_the_leaf_pass(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    config = load_config(path, (), check_leaves)
    assert config.name == path.stem
    resolved = parse_yaml(dump_yaml(config.model_dump(mode="json")), "resolved").values
    assert Config.model_validate(resolved).named(path.stem, config.words) == config


def test_the_json_schema_has_every_key_and_no_other() -> None:
    schema = foldsmith_schema()
    assert set(schema["properties"]) == {*Config.model_fields, "base"}
    assert schema["additionalProperties"] is False and "required" not in schema
    assert all(part["additionalProperties"] is False for part in schema["$defs"].values())
    size = schema["$defs"]["Model"]["properties"]["input_size"]["anyOf"]
    assert size == [{"type": "integer"}, {"items": {"type": "integer"}, "type": "array"}]
    erase = schema["$defs"]["Augmentations"]["properties"]["erase"]["anyOf"]
    assert [part.get("type") or part["$ref"] for part in erase] == ["number", "#/$defs/Erase", "null"]


def test_every_key_is_read_somewhere() -> None:
    schema = Config.model_json_schema()
    sections = [schema, *schema["$defs"].values()]
    # A key with one choice ("const") decides nothing until it gets a second one.
    keys = {key for section in sections for key, value in section["properties"].items() if "const" not in value}
    sources = [path for path in (ROOT / "src").rglob("*.py") if path.name != "schema.py"]
    code = "\n".join(path.read_text(encoding="utf-8") for path in sources)
    assert {key for key in keys if not re.search(rf"[.\"]{key}\b", code)} == set()
