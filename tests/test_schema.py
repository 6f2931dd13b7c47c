"""What editors complete from and what people read is what the loader checks."""

import json
import os
import re
from pathlib import Path

import jsonschema
import pytest
import yaml

from foldsmith import cli
from foldsmith.config import load_config, parse_yaml, read_yaml
from foldsmith.config.describe import describe_key, missing_descriptions
from foldsmith.errors import UserError
from foldsmith.tools.schema import foldsmith_schema
from foldsmith.training.leaves import check_leaves
from tests.conftest import ROOT

CONFIGS = sorted((ROOT / "configs").rglob("*.yml"))


@pytest.fixture(scope="module")
def checker() -> jsonschema.Draft202012Validator:
    schema = json.loads((ROOT / "configs" / "schema.json").read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


def test_shipped_files_are_what_the_command_writes(capsys):
    for words, path in ((["schema"], "configs/schema.json"), (["schema", "--markdown"], "docs/config.md")):
        cli.main(words)
        assert capsys.readouterr().out == (ROOT / path).read_text(), f"foldsmith {' '.join(words)} --output {path}"


def test_every_key_has_a_description():
    schema = foldsmith_schema()
    assert missing_descriptions(schema) == []
    assert describe_key(schema, ("train", "clip_grad_norm")) == "gradients are scaled down to this 2-norm"
    assert describe_key(schema, ("augmentations", "affine", "shift")) == "largest, as a share of the image's side"
    del schema["$defs"]["Swa"]["properties"]["start"]["description"]
    assert missing_descriptions(schema) == ["train.swa.start"]


def test_the_reference_says_what_a_key_may_be():
    text = (ROOT / "docs" / "config.md").read_text()
    assert "| `num_folds` | whole number, at least 2, at most 1000 | `5` | parts of the split," in text
    assert "| `amp` | `off`, `bf16`, `fp16` |  |" in text
    assert re.search(r"## `train\.stages\[\]`\n\nA part of the training\.", text)
    assert "| `name` | `bce`, `focal`," in text


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_config_names_the_schema_and_follows_it(path, checker):
    first = path.read_text().splitlines()[0]
    named = re.fullmatch(r"# yaml-language-server: \$schema=(\S+)", first)
    assert named and (path.parent / named[1]).resolve() == ROOT / "configs" / "schema.json"
    assert list(checker.iter_errors(read_yaml(path).values)) == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model: {archh: x}", "'archh' was unexpected"),
        ("loss: {name: focl}", "'focl' is not one of"),
        ("scheduler: {name: bce}", "'bce' is not one of"),
        ("train: {sampler: {name: cosine}}", "is not valid under any of the given schemas"),
        ("data: {num_folds: 1}", "1 is less than the minimum of 2"),
    ],
)
def test_an_editor_marks_mistakes(checker, text, message):
    (error,) = checker.iter_errors(yaml.safe_load(text))
    assert message in error.message


@pytest.mark.parametrize(
    "source", ["clipart_lite0", "clipart_forgiving", "imet_two_stage", "planet/planet_resnet101_dsd"]
)
def test_new_writes_a_config_that_means_the_same_with_every_key_explained(source, tmp_path, checker):
    cli.main(["new", str(tmp_path / "mine"), "--from", source])
    text = (tmp_path / "mine.yml").read_text()
    mine = load_config(tmp_path / "mine.yml", leaf_check=check_leaves)
    assert mine.name == "mine" and mine.model_dump() == load_config(source).model_dump()
    lines = text.splitlines()
    assert lines[0] == f"# yaml-language-server: $schema={os.path.relpath(ROOT / 'configs' / 'schema.json', tmp_path)}"
    assert lines[1] == f"# mine: say in a sentence what it tries. Begun from {Path(source).name}.yml."
    for above, line in zip(lines, lines[1:], strict=False):
        if re.match(r"( {2})?\w+:", line):
            assert above.lstrip().startswith("#"), line
    assert max(len(line) for line in lines if not line.startswith("#")) <= 140
    assert list(checker.iter_errors(parse_yaml(text, "mine").values)) == []


def test_new_goes_into_configs_and_overwrites_nothing(tmp_path, monkeypatch, capsys):
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "a.yml").write_text((ROOT / "configs" / "clipart_tiny.yml").read_text())
    monkeypatch.chdir(tmp_path)
    cli.main(["new", "mine", "--from", "a"])
    assert capsys.readouterr().out.startswith(
        "configs/mine.yml: written; edit it, then ./train.py --config mine.yml --smoke\n"
    )
    text = (tmp_path / "configs" / "mine.yml").read_text()
    assert text.startswith("# mine: say in a sentence"), "there is no schema.json here"
    assert "#   ./train.py --config mine.yml --smoke " in text
    (tmp_path / "configs" / "schema.json").write_text("{}")
    cli.main(["new", "mine", "--from", "a", "--force"])
    assert (tmp_path / "configs" / "mine.yml").read_text().startswith("# yaml-language-server: $schema=schema.json\n")
    capsys.readouterr()
    cli.main(["new", "my folder/mine", "--from", "a"])
    assert "then ./train.py --config 'my folder/mine.yml' --smoke" in capsys.readouterr().out
    text = (tmp_path / "my folder" / "mine.yml").read_text()
    assert "#   ./train.py --config 'my folder/mine.yml' --smoke " in text
    assert text.startswith("# yaml-language-server: $schema=../configs/schema.json\n")
    with pytest.raises(UserError, match="exists; it is not overwritten"):
        cli.main(["new", "mine"])
    with pytest.raises(UserError, match="'my exp' is no name"):
        cli.main(["new", "my exp"])
    with pytest.raises(UserError, match="config 'nosuch' not found"):
        cli.main(["new", "other", "--from", "nosuch"])
    assert not (tmp_path / "configs" / "other.yml").exists()


def test_new_outside_the_project_says_where_it_belongs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="config 'clipart_lite0' not found") as caught:
        cli.main(["new", "mine"])
    assert caught.value.hint.endswith(
        f"; commands run in the project's folder, which has train.py and configs/: {tmp_path} has none"
    )
    assert list(tmp_path.iterdir()) == []
