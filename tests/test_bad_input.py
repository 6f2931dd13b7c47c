"""What a user gets wrong: one clear error, the documented exit code, and nothing lost that was already written."""

import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import ensemble_inference
import predict_oof
import train
from foldsmith.errors import UserError
from tests.conftest import DATA, ROOT


def call(*words: object) -> subprocess.CompletedProcess:
    """A command as its users type it."""
    command = [sys.executable, *map(str, words)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)


def train_error(small: list[str], tmp_path: Path, *sets: str) -> UserError:
    """Train with overrides that are wrong; whatever the run's folder held must be as it was."""
    kept = tmp_path / "runs" / "clipart_tiny" / "clipart_tiny_f0.safetensors"
    kept.parent.mkdir(parents=True)
    kept.write_bytes(b"precious")
    with pytest.raises(UserError) as caught:
        train.main(["--config", "clipart_tiny", "--output", str(tmp_path / "runs"), "--set", *small, *sets])
    assert [path.name for path in kept.parent.iterdir()] == [kept.name] and kept.read_bytes() == b"precious"
    return caught.value


def table_with(small: list[str], tmp_path: Path, edit) -> None:
    """Edit the lines of the shrunk train.csv."""
    path = tmp_path / "train.csv"
    lines = path.read_text().splitlines()
    path.write_text("\n".join(edit(lines)) + "\n")


def test_exit_codes_and_messages_of_a_real_process(tmp_path):
    config = tmp_path / "typo.yml"
    config.write_text(f"base: {ROOT}/configs/clipart_tiny.yml\nmodel:\n  archh: resnet18\n")
    done = call("train.py", "--config", config, "--output", tmp_path / "runs")
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert done.stderr == f"error: {config}:3: model.archh: unknown key; did you mean 'arch'?\n"

    (tmp_path / "evil.pth").write_bytes(pickle.dumps(Evil(tmp_path / "marker")))
    done = call("predict_oof.py", "--weights", tmp_path / "evil.pth")
    assert done.returncode == 4 and "Traceback" not in done.stderr and "evil.pth" in done.stderr
    assert not (tmp_path / "marker").exists()


class Evil:
    """A pickle that makes a folder when it is loaded."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


def test_an_unknown_arch_shows_the_nearest(small, tmp_path):
    error = str(train_error(small, tmp_path, "model.arch=seresnext101_32x4"))
    assert "timm has no model 'seresnext101_32x4'" in error and "seresnext101_32x4d" in error


def test_a_csv_without_the_id_column(small, tmp_path):
    table_with(small, tmp_path, lambda lines: ["picture,attribute_ids", *lines[1:]])
    error = train_error(small, tmp_path, "data.id_column=id")
    assert "no column 'id' in the header ['picture', 'attribute_ids']" in str(error)
    assert error.line == 1 and error.key == "data.id_column"


def test_a_duplicate_id_names_both_lines(small, tmp_path):
    table_with(small, tmp_path, lambda lines: [*lines, lines[5]])
    error = train_error(small, tmp_path)
    assert "duplicate id" in str(error) and "first on line 6" in str(error) and error.line == 162


def test_a_label_outside_the_class_list(small, tmp_path):
    table_with(small, tmp_path, lambda lines: [*lines[:3], lines[3] + " 55", *lines[4:]])
    error = train_error(small, tmp_path)
    assert "label '55'" in str(error) and "55 classes" in str(error) and error.line == 4


def test_missing_images_are_counted_and_the_first_five_named(small, tmp_path):
    names = [f"nothing{number}" for number in range(7)]
    table_with(small, tmp_path, lambda lines: [*lines, *(f"{name},1" for name in names)])
    error = str(train_error(small, tmp_path))
    assert f"7 of 167 images are missing; the first: {', '.join(names[:5])}\n" in error and names[5] not in error


def test_an_unreadable_image_is_named(small, tmp_path):
    images = tmp_path / "images"
    images.mkdir()
    ids = [line.split(",")[0] for line in (tmp_path / "train.csv").read_text().splitlines()[1:]]
    for name in ids:
        (images / f"{name}.jpg").symlink_to(DATA / "train" / f"{name}.jpg")
    (images / f"{ids[3]}.jpg").unlink()
    (images / f"{ids[3]}.jpg").write_text("<html>not found</html>")
    for workers in (0, 1):
        words = [*small, f"data.train_dir={images}", f"train.workers={workers}"]
        with pytest.raises(UserError) as caught:
            train.main(["--config", "clipart_tiny", "--output", str(tmp_path / "runs"), "--set", *words])
        error = str(caught.value).splitlines()[0]
        assert error == f"{images}/{ids[3]}.jpg: is not a readable image: an HTML page, not an image"


def test_pretrained_weights_that_are_missing_or_run_code(small, tmp_path):
    with pytest.raises(UserError, match=r"none.pth: model.pretrained: pretrained weights not found") as caught:
        train.main(["--config", "clipart_tiny", "--smoke", "--set", *small, f"model.pretrained={tmp_path}/none.pth"])
    assert caught.value.code == 2
    (tmp_path / "evil.pth").write_bytes(pickle.dumps(Evil(tmp_path / "marker")))
    with pytest.raises(UserError) as caught:
        train.main(["--config", "clipart_tiny", "--smoke", "--set", *small, f"model.pretrained={tmp_path}/evil.pth"])
    assert caught.value.code == 4 and not (tmp_path / "marker").exists()


def test_a_fold_that_there_is_not(small, tmp_path):
    with pytest.raises(UserError, match=r"--fold: 2 is not in 0..1"):
        train.main(["--config", "clipart_tiny", "--fold", "2", "--output", str(tmp_path), "--set", *small])


def test_weights_are_checked_before_anything_else(tmp_path):
    fake = tmp_path / "x_f0.safetensors"
    fake.write_text("not weights")
    with pytest.raises(UserError) as caught:
        predict_oof.main(["--config", "no_such_config", "--weights", str(fake)])
    assert caught.value.code == 4 and "is not a safetensors file" in str(caught.value)
    with pytest.raises(UserError, match="name an experiment or weights"):
        predict_oof.main([])


def test_weights_of_another_config_or_split_are_refused(chain, tmp_path):
    words = ["--weights", str(chain.weights("a")), "--output", str(tmp_path)]
    with pytest.raises(UserError) as caught:
        predict_oof.main(["--config", str(chain.folder / "b.yml"), *words, "--set", *chain.sets])
    assert "loss.name: 'bce' -> 'forgiving'" in str(caught.value)
    shutil.copytree(chain.runs / "a", tmp_path / "a")
    folds = tmp_path / "a" / "folds.csv"
    lines = folds.read_text().splitlines()
    lines[1] = lines[1][:-1] + ("1" if lines[1].endswith("0") else "0")
    folds.write_text("\n".join(lines) + "\n")
    before = (tmp_path / "a" / "a_f0.npy").read_bytes()
    with pytest.raises(UserError, match="was trained on another split"):
        predict_oof.main(words)
    assert (tmp_path / "a" / "a_f0.npy").read_bytes() == before


def test_an_ensemble_whose_weights_are_not_there_says_where_it_looked(chain, tmp_path):
    output = tmp_path / "submission.csv"
    output.write_text("precious")
    with pytest.raises(UserError) as caught:
        ensemble_inference.main([str(chain.ensemble), "--models", str(tmp_path), "--output", str(output)])
    assert "4 of 4 weights files are not there: " in str(caught.value) and str(tmp_path) in str(caught.value)
    assert caught.value.code == 2 and output.read_text() == "precious"


def test_weights_that_are_not_the_ensemble_s_are_refused(chain, tmp_path):
    shutil.copytree(chain.runs, tmp_path / "runs")
    shutil.copy(chain.weights("a", 0), tmp_path / "runs" / "a" / "a_f1.safetensors")
    with pytest.raises(UserError) as caught:
        ensemble_inference.main([str(chain.ensemble), "--models", str(tmp_path), "--output", str(tmp_path / "s.csv")])
    assert caught.value.code == 4 and "a_f1.safetensors is not the ensemble's (sha256 " in str(caught.value)
    assert not (tmp_path / "s.csv").exists()


def test_data_that_is_not_there_says_where_it_looked(chain, tmp_path):
    words = [str(chain.ensemble), "--models", str(chain.runs), "--output", str(tmp_path / "s.csv")]
    with pytest.raises(UserError, match="the competition's data is not there"):
        ensemble_inference.main([*words, "--data", str(tmp_path / "nowhere")])


def test_without_the_environment_every_script_says_what_to_do():
    for script in sorted(path.name for path in ROOT.glob("*.py")):
        done = call("-S", "-E", script, "--help")
        assert done.returncode == 1
        assert done.stderr == "foldsmith is not installed here: run `make install`, then `. .venv/bin/activate`\n", (
            script
        )


def test_fresh_deletes_nothing_before_the_new_run_is_proved(small, tmp_path):
    words = ["--config", "clipart_tiny", "--output", str(tmp_path / "runs"), "--fold", "0"]
    train.main([*words, "--set", *small, "train.num_epochs=1"])
    kept = {path: path.read_bytes() for path in (tmp_path / "runs").rglob("*") if path.is_file()}
    for wrong in ("model.pretrained=nosuch.safetensors", "train.trainable=[nosuch]", "data.folds=nosuch.csv"):
        with pytest.raises(UserError):
            train.main([*words[:4], "--fresh", "--set", *small, wrong])
    assert {path: path.read_bytes() for path in (tmp_path / "runs").rglob("*") if path.is_file()} == kept
    (tmp_path / "mine" / "clipart_tiny").mkdir(parents=True)
    (tmp_path / "mine" / "clipart_tiny" / "thesis.txt").write_text("x")
    with pytest.raises(UserError, match="is not a run's folder"):
        train.main(["--config", "clipart_tiny", "--output", str(tmp_path / "mine"), "--fresh", "--set", *small])
    assert (tmp_path / "mine" / "clipart_tiny" / "thesis.txt").exists()


def test_a_failed_first_attempt_does_not_lock_the_name(small, tmp_path):
    words = ["--config", "clipart_tiny", "--output", str(tmp_path), "--fold", "0", "--set", *small]
    with pytest.raises(UserError):
        train.main([*words, "model.pretrained=nosuch.safetensors"])
    assert not (tmp_path / "clipart_tiny").exists()
    train.main([*words, "train.num_epochs=1"])


def test_another_named_split_is_refused(small, tmp_path):
    words = ["--config", "clipart_tiny", "--output", str(tmp_path / "runs"), "--fold", "0", "--set", *small]
    train.main([*words, "train.num_epochs=1"])
    lines = (tmp_path / "runs" / "clipart_tiny" / "folds.csv").read_text().splitlines()
    other = tmp_path / "other.csv"
    other.write_text("\n".join([lines[0], *(f"{line[:-1]}{1 - int(line[-1])}" for line in lines[1:])]) + "\n")
    with pytest.raises(UserError, match="is another split than"):
        train.main([*words, "train.num_epochs=1", f"data.folds={other}"])


def test_the_search_overwrites_ensembles_only(chain, tmp_path):
    import ensemble_search

    (tmp_path / "a.yml").write_text("data: {root: x}\n")
    with pytest.raises(UserError, match="is not an ensemble file; it is not overwritten"):
        ensemble_search.main([str(tmp_path / "a"), str(chain.oof("a"))])
    assert (tmp_path / "a.yml").read_text() == "data: {root: x}\n"
