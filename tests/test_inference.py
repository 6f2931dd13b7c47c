"""The ensemble run: valid at every moment, resumed to the byte, each image decoded once, hostile inputs refused."""

import csv
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch

import ensemble_inference
from foldsmith.data.sheets import read_csv
from foldsmith.ensemble.file import read_ensemble
from foldsmith.errors import UserError
from foldsmith.inference import decoded, ensemble
from foldsmith.inference.budget import Budget
from foldsmith.inference.decoded import Canvas, DecodedImages
from foldsmith.inference.ensemble import Options, run_ensemble
from foldsmith.inference.parts import Parts
from foldsmith.inference.predict import pipeline_of, predict
from foldsmith.models.weights import config_of, load_model, read_header
from tests.conftest import DATA, competition, infer
from tests.test_killed_inference import is_valid

CPU = torch.device("cpu")


class Killed(BaseException):
    """Ends a run like a kill: nothing catches it."""


def test_parts_of_other_weights_do_not_count(chain, few, whole, tmp_path, monkeypatch):
    output = tmp_path / "s.csv"
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(Parts, "remove", lambda self: (_ for _ in ()).throw(Killed()))
        infer(chain, output, "--data", str(few))
    monkeypatch.setattr(ensemble, "code_sha256", lambda: "another program")
    real, run = ensemble.predict, []
    monkeypatch.setattr(ensemble, "predict", lambda *args, **rest: run.append(None) or real(*args, **rest))
    infer(chain, output, "--data", str(few))
    assert len(run) == 4 and output.read_bytes() == whole


def test_the_first_thing_written_is_the_prior(chain, few, tmp_path):
    output = tmp_path / "s.csv"
    with pytest.raises(UserError) as caught:
        infer(chain, output, "--data", str(few), "--deadline", "1s", "--started-at", "0")
    assert caught.value.code == 5 and "the deadline came: the submission stands on 0 of 2 members" in str(caught.value)
    prior = " ".join(sorted(read_ensemble(chain.ensemble).prior, key=int))
    assert set(read_csv(output).column("attribute_ids")) == {prior} and is_valid(output, few)


def test_a_deadline_in_the_middle_uses_the_threshold_of_what_is_there(chain, few, tmp_path):
    """After the first member the clock stands behind the deadline: its predictions alone, above its own threshold."""
    blend = read_ensemble(chain.ensemble)
    members = [member.model_copy(update={"views": ["identity"]}) for member in blend.members]
    blend, first = blend.model_copy(update={"members": members}), members[0]
    now = [0.0]

    def predict_slowly(*args, before_batch, **rest):
        def ticking(done):
            now[0] += 1.0
            return before_batch(done)

        return predict(*args, before_batch=ticking, **rest)

    output, kept = tmp_path / "s.csv", tmp_path / "kept"
    budget = Budget(len(first.weights) * 3 + 1.5, clock=lambda: now[0])  # 70 images are 3 batches of 32
    options = Options([chain.runs], output, [CPU], data_root=few, budget=budget)
    with pytest.MonkeyPatch.context() as patch, pytest.raises(UserError, match="stands on 1 of 2 members"):
        patch.setattr(ensemble, "predict", predict_slowly)
        run_ensemble(blend, options)
    run_ensemble(blend, Options([chain.runs], tmp_path / "all.csv", [CPU], data_root=few, keep_predictions=kept))
    probabilities = np.load(kept / f"{first.name}.npy")
    expected = probabilities > np.float32(blend.prefix_thresholds[0])
    found = [set(text.split()) for text in read_csv(output).column("attribute_ids")]
    assert found == [{str(index) for index in np.flatnonzero(row)} for row in expected]


def test_broken_images_get_the_prior_and_are_named(chain, few, whole, tmp_path, capsys):
    ids = read_csv(few / "sample_submission.csv").column("id")
    data = competition(tmp_path / "data", ids)
    (data / "test" / f"{ids[3]}.jpg").write_bytes(b"<html>not found</html>")
    output = infer(chain, tmp_path / "s.csv", "--data", str(data))
    printed = capsys.readouterr().out
    assert f"1 of 70 images can't be read and get the most frequent labels: {ids[3]}.jpg (" in printed
    rows, good = read_csv(output).rows, list(csv.reader(whole.decode().splitlines()))[1:]
    assert set(rows[3][1].split()) == set(read_ensemble(chain.ensemble).prior)
    assert rows[:3] + rows[4:] == good[:3] + good[4:]


def test_each_image_is_decoded_once(chain, few, whole, tmp_path, monkeypatch):
    read = []
    real = decoded.read_image
    monkeypatch.setattr(decoded, "read_image", lambda path: read.append(path.name) or real(path))
    output = infer(chain, tmp_path / "s.csv", "--data", str(few))
    assert len(read) == len(set(read)) == 70 and output.read_bytes() == whole


@pytest.mark.parametrize("room", ["file", "nowhere"])
def test_images_that_do_not_fit_into_memory(chain, few, whole, tmp_path, monkeypatch, room):
    """They go to a private temporary file or, where there is no room either, each pass decodes them."""
    monkeypatch.setattr(decoded, "free_memory", lambda: 0)
    monkeypatch.setattr(decoded.tempfile, "tempdir", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    if room == "nowhere":
        monkeypatch.setattr(decoded.shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(0, 0, 0))
    output = infer(chain, tmp_path / "s.csv", "--data", str(few))
    assert output.read_bytes() == whole
    assert list((tmp_path / "tmp").iterdir()) == [], "nothing is left behind"


def test_two_devices_share_the_members(chain, few, whole, tmp_path):
    output = tmp_path / "s.csv"
    run_ensemble(read_ensemble(chain.ensemble), Options([chain.runs], output, [CPU, CPU], data_root=few))
    assert output.read_bytes() == whole


class HungryModel(torch.nn.Module):
    """A network that runs out of memory on more than 3 images."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.model, self.seen = model, []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.seen.append(len(x))
        if len(x) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return self.model(x)


def test_batches_are_halved_when_memory_runs_out(chain, capsys):
    path = chain.weights("a")
    pipeline = pipeline_of(config_of(read_header(path), path), CPU)
    images = DecodedImages(sorted((DATA / "test").glob("*.jpg"))[:40])
    model = load_model(path, CPU)
    expected = predict(model, images, pipeline, ["identity", "hflip"], "")
    hungry = HungryModel(model)
    found = predict(hungry, images, pipeline, ["identity", "hflip"], "")
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert hungry.seen == [32, 16, 8, 4, *[2] * 32, *[2] * 8], "what fits is remembered"
    assert capsys.readouterr().out.splitlines() == [
        f"out of memory: {count} images at once are too many, {count // 2} from now on" for count in (32, 16, 8, 4)
    ]


def test_a_canvas_is_the_middle_and_its_surroundings():
    from foldsmith.data.images import Geometry, read_image

    image = read_image(sorted((DATA / "test").glob("*.jpg"))[0])
    for mode in ("squash", "fit", "short_side", "crop"):
        geometry = Geometry(mode, "reflect", 48, 40)
        plain, large = Canvas(geometry, 0).cut(image), Canvas(geometry, 8).cut(image)
        assert np.array_equal(plain, geometry.center(image)) and large.shape == (56, 48, 3)
        assert np.array_equal(large[4:-4, 4:-4], plain)


def test_classes_in_another_order_are_put_in_place(chain, few, whole, tmp_path):
    from safetensors.torch import load_file

    from foldsmith.files import sha256_file
    from foldsmith.models.weights import save_weights

    runs = tmp_path / "runs"
    shutil.copytree(chain.runs, runs)
    path = runs / "a" / "a_f0.safetensors"
    header, state = read_header(path), load_file(path)
    order = np.random.default_rng(0).permutation(len(header["classes"]))
    header["classes"] = [header["classes"][index] for index in order]
    state["classifier.weight"], state["classifier.bias"] = (
        state["classifier.weight"][order],
        state["classifier.bias"][order],
    )
    old = sha256_file(path)
    save_weights(path, state, header)
    text = chain.ensemble.read_text().replace(old, sha256_file(path))
    (tmp_path / "best.yml").write_text(text)
    words = ["--models", str(runs), "--data", str(few), "--output", str(tmp_path / "s.csv")]
    ensemble_inference.main([str(tmp_path / "best.yml"), *words])
    assert (tmp_path / "s.csv").read_bytes() == whole

    header["classes"][0] = "another"
    new = sha256_file(path)
    save_weights(path, state, header)
    (tmp_path / "best.yml").write_text(text.replace(new, sha256_file(path)))
    with pytest.raises(UserError, match="has other classes than the ensemble") as caught:
        ensemble_inference.main([str(tmp_path / "best.yml"), *words])
    assert caught.value.code == 4


@pytest.mark.parametrize("merge", ["max", "geometric"])
def test_views_are_merged_as_the_oof_predictions_were(chain, few, tmp_path, merge):
    """From test.merge through the sidecar and the ensemble file to inference."""
    import ensemble_search
    import predict_oof

    runs = tmp_path / "runs"
    shutil.copytree(chain.runs, runs)
    for name in ("a", "b"):
        words = ["--config", str(chain.folder / f"{name}.yml"), "--output", str(runs)]
        predict_oof.main([*words, "--set", *chain.sets, f"test.merge={merge}"])
    ensemble_search.main([str(tmp_path / "best"), str(runs / "a" / "a_f0.npy"), str(runs / "b" / "b_f0.npy")])
    blend = read_ensemble(tmp_path / "best.yml")
    assert [member.merge for member in blend.members] == [merge] * len(blend.members)
    kept = tmp_path / "kept"
    run_ensemble(blend, Options([runs], tmp_path / "s.csv", [CPU], data_root=few, keep_predictions=kept))
    member = blend.members[0]
    path = runs / member.name / member.weights[0]
    pipeline = pipeline_of(config_of(read_header(path), path), CPU)
    images = DecodedImages(
        [few / "test" / f"{name}.jpg" for name in read_csv(few / "sample_submission.csv").column("id")]
    )
    folds = []
    for name in member.weights:
        model = load_model(runs / member.name / name, CPU)
        plain, flipped = (predict(model, images, pipeline, [view], "") for view in ("identity", "hflip"))
        folds.append(np.maximum(plain, flipped) if merge == "max" else np.sqrt(plain * flipped))
    np.testing.assert_allclose(np.load(kept / f"{member.name}.npy"), np.mean(folds, axis=0), rtol=1e-5)


def test_a_bare_environment_and_strange_names(chain, few, tmp_path):
    """No HOME, LC_ALL=C, folders with spaces and accents, ids that look like numbers; the inputs stay as they are."""
    import subprocess
    import sys

    ids = ["0001", "1e5", "NA", "null", "é ü", "1.0", "-3"]
    inputs = tmp_path / "mes données" / "compétition"
    (inputs / "test").mkdir(parents=True)
    sources = sorted((few / "test").iterdir())
    for name, source in zip(ids, sources, strict=False):
        shutil.copy(source, inputs / "test" / f"{name}.jpg")
    shutil.copy(DATA / "labels.csv", inputs)
    text = "id,attribute_ids\n" + "".join(f"{name},0\n" for name in ids)
    (inputs / "sample_submission.csv").write_text(text, encoding="utf-8")
    models = tmp_path / "mes données" / "modèles 1"
    shutil.copytree(chain.runs, models)
    for path in [*inputs.rglob("*"), inputs, *models.rglob("*"), models]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    before = {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in (tmp_path / "mes données").rglob("*")}

    output = tmp_path / "aus gabe" / "s.csv"
    command = [sys.executable, Path("ensemble_inference.py").resolve(), chain.ensemble, "--models", models]
    command += ["--data", inputs, "--output", output]
    environment = {"PATH": "/usr/bin:/bin", "LC_ALL": "C", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [str(word) for word in command], env=environment, capture_output=True, cwd=tmp_path, check=False
    )
    assert done.returncode == 0, done.stderr.decode()
    written = output.read_text(encoding="utf-8").splitlines()
    assert [line.split(",")[0] for line in written] == ["id", *ids]
    after = {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in (tmp_path / "mes données").rglob("*")}
    assert after == before


def test_images_are_never_kept_in_the_working_folder(tmp_path, monkeypatch):
    """tempfile falls back to it: it may be a kernel's output."""
    from foldsmith.data.images import Geometry

    canvas = Canvas(Geometry("squash", "reflect", 32, 32), 0)
    paths = sorted((DATA / "test").glob("*.jpg"))[:3]
    monkeypatch.chdir(tmp_path)
    for folder, kept in ((tmp_path, False), (tmp_path / "other", True)):
        folder.mkdir(exist_ok=True)
        monkeypatch.setattr(tempfile, "tempdir", str(folder))
        with DecodedImages(paths, keep=[canvas], memory_limit=0) as images:
            assert next(images.batches(canvas, 8)).shape == (3, 32, 32, 3)
            assert any(folder.glob("foldsmith-images-*")) is kept
        assert not any(folder.glob("foldsmith-images-*"))


def test_the_time_of_writing_is_reserved():
    budget = Budget(100, clock=lambda: 40.0, started=0.0)
    assert budget.left == 60
    budget.reserve = 7.0
    assert budget.left == 53
