"""The likeliest mistakes of a newcomer, one by one, and the whole message that each gets, kept as files.

A change of wording shows as a difference. FOLDSMITH_GOLDEN=write pytest tests/test_mistakes.py writes the files anew.
"""

import importlib
import os
import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from foldsmith import cli
from foldsmith.errors import UserError
from tests.conftest import DATA, ROOT, Chain, shrink

GOLDEN = Path(__file__).parent / "golden"
Mistake = Callable[[Path, Chain], list[str]]  # prepares a folder; returns the command line
MISTAKES: dict[str, Mistake] = {}


def mistake(function: Mistake) -> Mistake:
    MISTAKES[function.__name__] = function
    return function


def config(folder: Path, text: str) -> str:
    """An experiment over clipart_tiny."""
    (folder / "mine.yml").write_text(f"base: {ROOT}/configs/clipart_tiny.yml\n{text}")
    return str(folder / "mine.yml")


def train(folder: Path, text: str, *sets: str) -> list[str]:
    words = ["train.py", "--config", config(folder, text), "--output", str(folder / "runs")]
    return [*words, "--set", *shrink(folder), *sets]


def edited(folder: Path, old: str, new: str) -> list[str]:
    """Train on a table in which the first `old` is `new`."""
    words = train(folder, "")
    table = folder / "train.csv"
    table.write_text(table.read_text().replace(old, new, 1))
    return words


@mistake
def no_config_named(folder: Path, chain: Chain) -> list[str]:
    return ["train.py"]


@mistake
def config_not_found(folder: Path, chain: Chain) -> list[str]:
    return ["train.py", "--config", "clipart_tinny.yml"]


@mistake
def misspelt_key(folder: Path, chain: Chain) -> list[str]:
    return train(folder, "train:\n  batchsize: 8\n")


@mistake
def key_in_the_wrong_section(folder: Path, chain: Chain) -> list[str]:
    return train(folder, "batch_size: 8\nlr: 1e-3\n")


@mistake
def several_mistakes_at_once(folder: Path, chain: Chain) -> list[str]:
    return train(folder, "train:\n  batch_size: ten\nloss:\n  name: focl\nmetric: F2\n")


@mistake
def tab_in_the_config(folder: Path, chain: Chain) -> list[str]:
    return train(folder, "train:\n\tbatch_size: 8\n")


@mistake
def number_in_quotes(folder: Path, chain: Chain) -> list[str]:
    return train(folder, "train:\n  seed: '1'\n")


@mistake
def set_without_equals(folder: Path, chain: Chain) -> list[str]:
    return ["train.py", "--config", "clipart_tiny.yml", "--set", "train.num_epochs", "3"]


@mistake
def unknown_network(folder: Path, chain: Chain) -> list[str]:
    return train(folder, "model:\n  arch: efficientnet-b0\n")


@mistake
def optimizer_without_a_rate(folder: Path, chain: Chain) -> list[str]:
    return train(folder, "optimizer:\n  name: sgd\n")


@mistake
def transform_with_a_wrong_argument(folder: Path, chain: Chain) -> list[str]:
    return train(folder, "augmentations:\n  extra:\n  - {name: GaussNoise, params: {var_limit: 10}}\n")


@mistake
def weights_of_the_demo_not_made(folder: Path, chain: Chain) -> list[str]:
    return train(folder, "", "model.pretrained=weights/nosuch.safetensors")


@mistake
def data_folder_missing(folder: Path, chain: Chain) -> list[str]:
    return ["train.py", "--config", config(folder, "data:\n  root: ../input/mine\n"), "--output", str(folder / "runs")]


@mistake
def image_folder_missing(folder: Path, chain: Chain) -> list[str]:
    return train(folder, "", "data.train_dir=pictures")


@mistake
def images_missing(folder: Path, chain: Chain) -> list[str]:
    return edited(folder, "000538be4ee0,0", "000538be4ee0,0\nnosuch1,3\nnosuch2,4")


@mistake
def image_twice_in_the_table(folder: Path, chain: Chain) -> list[str]:
    return edited(folder, "000538be4ee0,0", "000538be4ee0,0\n000538be4ee0,3")


@mistake
def label_not_in_the_class_list(folder: Path, chain: Chain) -> list[str]:
    return edited(folder, "000538be4ee0,0", "000538be4ee0,99")


@mistake
def wrong_separator(folder: Path, chain: Chain) -> list[str]:
    return train(folder, "data:\n  label_separator: ','\n")


@mistake
def column_of_another_name(folder: Path, chain: Chain) -> list[str]:
    return train(folder, "data:\n  label_column: labels\n")


@mistake
def broken_image(folder: Path, chain: Chain) -> list[str]:
    words = train(folder, "", f"data.train_dir={folder / 'images'}")
    (folder / "images").mkdir()
    for line in (folder / "train.csv").read_text().splitlines()[1:]:
        name = line.split(",")[0]
        (folder / "images" / f"{name}.jpg").symlink_to(DATA / "train" / f"{name}.jpg")
    (folder / "images" / "000538be4ee0.jpg").unlink()
    (folder / "images" / "000538be4ee0.jpg").write_text("")
    return words


@mistake
def config_changed_after_training(folder: Path, chain: Chain) -> list[str]:
    shutil.copytree(chain.runs / "a", folder / "runs" / "a")
    words = ["train.py", "--config", str(chain.folder / "a.yml"), "--output", str(folder / "runs"), "--set"]
    return [*words, *chain.sets, "model.dropout=0.2", "loss.name=focal"]


@mistake
def prediction_before_training(folder: Path, chain: Chain) -> list[str]:
    return ["predict_oof.py", "--config", "clipart_tiny.yml", "--output", str(folder / "runs")]


@mistake
def weights_in_the_place_of_predictions(folder: Path, chain: Chain) -> list[str]:
    return ["ensemble_search.py", str(folder / "best"), str(chain.weights("a"))]


@mistake
def ensemble_without_a_name(folder: Path, chain: Chain) -> list[str]:
    return ["ensemble_search.py", str(chain.oof("a")), str(chain.oof("b"))]


@mistake
def fold_not_predicted(folder: Path, chain: Chain) -> list[str]:
    shutil.copytree(chain.runs / "a", folder / "a")
    (folder / "a" / "a_f1.npy").unlink()
    return ["ensemble_search.py", str(folder / "best"), str(folder / "a" / "a_f0.npy")]


@mistake
def weights_not_there(folder: Path, chain: Chain) -> list[str]:
    words = ["ensemble_inference.py", str(chain.ensemble), "--output", str(folder / "s.csv")]
    (folder / "empty").mkdir()
    return [*words, "--models", str(folder / "empty")]


@mistake
def ensemble_file_not_found(folder: Path, chain: Chain) -> list[str]:
    return ["ensemble_inference.py", str(folder / "best.yml"), "--output", str(folder / "s.csv")]


@mistake
def another_script_packed(folder: Path, chain: Chain) -> list[str]:
    return ["deploy_kernel.py", "inference.py", str(chain.ensemble), "--output", str(folder)]


@mistake
def report_before_training(folder: Path, chain: Chain) -> list[str]:
    return ["foldsmith", "report", str(folder / "runs"), "--output", str(folder / "r.html")]


@mistake
def experiment_that_exists(folder: Path, chain: Chain) -> list[str]:
    return ["foldsmith", "new", "clipart_tiny"]


@mistake
def no_label_table(folder: Path, chain: Chain) -> list[str]:
    (folder / "train").mkdir()
    shutil.copy(DATA / "train" / "000538be4ee0.jpg", folder / "train")
    return ["foldsmith", "check-data", "--root", str(folder)]


@mistake
def no_column_names_the_images(folder: Path, chain: Chain) -> list[str]:
    (folder / "train.csv").write_text("id,labels\n1,cat\n2,dog\n")
    return no_label_table(folder, chain)


@mistake
def groups_over_the_label_table(folder: Path, chain: Chain) -> list[str]:
    (folder / "train.csv").write_text("id,labels\n000538be4ee0,cat\n")
    return [*no_label_table(folder, chain), "--groups", str(folder / "train.csv"), "--force"]


@mistake
def loss_of_another_task(folder: Path, chain: Chain) -> list[str]:
    return train(folder, "", "data.task=multiclass")


def message_of(words: list[str], capsys: pytest.CaptureFixture) -> str:
    """What the user reads on stderr, and the exit code."""
    main = cli.main if words[0] == "foldsmith" else importlib.import_module(words[0].removesuffix(".py")).main
    try:
        main(words[1:])
    except UserError as error:
        return f"error: {error}\nexit code {error.code}\n"
    except SystemExit as end:  # argparse
        return f"{capsys.readouterr().err}exit code {end.code}\n"
    raise AssertionError("the mistake went through")


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_gets_its_message(name, tmp_path, chain, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")  # where argparse breaks lines
    monkeypatch.setattr("sys.argv", ["train.py"])
    text = message_of(MISTAKES[name](tmp_path, chain), capsys)
    for folder, word in ((tmp_path, "FOLDER"), (chain.folder, "CHAIN"), (ROOT, "PROJECT")):
        text = text.replace(str(folder), word)
    text = re.sub(r"\b[0-9a-f]{12,64}\b(?=\)| here| there)", "HASH", text)
    # Members are run in the order of their speed, which differs from run to run.
    weights = r"\w+_f\d\.safetensors(?:, \w+_f\d\.safetensors)+"
    text = re.sub(weights, lambda match: ", ".join(sorted(match[0].split(", "))), text)
    path = GOLDEN / f"{name}.txt"
    if os.environ.get("FOLDSMITH_GOLDEN") == "write":
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8")
    assert "Traceback" not in text and re.search(r"exit code [234]\n$", text)


def test_no_message_is_left_of_a_mistake_that_is_gone():
    assert {path.stem for path in GOLDEN.glob("*.txt")} == set(MISTAKES) and len(MISTAKES) >= 20


def test_the_advice_about_a_broken_image_can_be_pasted(tmp_path, chain, capsys):
    text = message_of(MISTAKES["broken_image"](tmp_path, chain), capsys)
    command = re.search("`foldsmith (.+)` lists", text)
    assert command is not None
    with pytest.raises(UserError, match="1 of .* images are bad"):
        cli.main(shlex.split(command[1]))
    assert f"{tmp_path}/images/000538be4ee0.jpg: empty file\n" in capsys.readouterr().out
