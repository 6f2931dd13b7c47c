"""The ensemble run: valid at every moment, resumed to the byte, each image decoded once, hostile inputs refused."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import ensemble_inference
from foldsmith.data.images import read_image
from foldsmith.data.sheets import read_csv
from foldsmith.ensemble.file import read_ensemble
from foldsmith.errors import UserError
from foldsmith.inference import decoded, lanes
from foldsmith.inference import predict as predict_module
from foldsmith.inference.budget import Budget
from foldsmith.inference.decoded import DecodedImages
from foldsmith.inference.ensemble import Options, run_ensemble
from foldsmith.inference.predict import Fits, NotFinite, pipeline_of, predict
from foldsmith.models.header import config_of
from foldsmith.models.weights import load_model, read_header
from tests.conftest import DATA, by_hand, competition, infer
from tests.test_killed_inference import is_valid

CPU = torch.device("cpu")


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
        patch.setattr(lanes, "predict", predict_slowly)
        run_ensemble(blend, options)
    run_ensemble(blend, Options([chain.runs], tmp_path / "all.csv", [CPU], data_root=few, keep_predictions=kept))
    probabilities = np.load(kept / f"{first.name}.npy")
    expected = probabilities > np.float32(blend.prefix_thresholds[0])
    found = [set(text.split()) for text in read_csv(output).column("attribute_ids")]
    assert found == [{str(index) for index in np.flatnonzero(row)} for row in expected]


def test_broken_images_get_the_prior_and_are_named(chain, few, whole, tmp_path, capsys, monkeypatch):
    ids = read_csv(few / "sample_submission.csv").column("id")
    data = competition(tmp_path / "data", ids)
    (data / "test" / f"{ids[3]}.jpg").write_bytes(b"<html>not found</html>")
    monkeypatch.setattr(decoded, "read_image", lambda path: fails(path) if path.stem == ids[5] else read_image(path))
    output = infer(chain, tmp_path / "s.csv", "--data", str(data))
    printed = capsys.readouterr().out
    named = f"  '{ids[3]}.jpg': an HTML page, not an image\n  '{ids[5]}.jpg': MemoryError\n"
    assert f"2 of 70 images can't be read and get the most frequent labels:\n{named}" in printed
    rows, good = read_csv(output).rows, list(csv.reader(whole.decode().splitlines()))[1:]
    assert set(rows[3][1].split()) == set(rows[5][1].split()) == set(read_ensemble(chain.ensemble).prior)
    assert rows[:3] + rows[4:5] + rows[6:] == good[:3] + good[4:5] + good[6:]


def fails(path: Path) -> None:
    raise MemoryError


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
    hungry, fits = HungryModel(model), Fits(32)
    for _ in range(2):
        found = predict(hungry, images, pipeline, ["identity", "hflip"], "", fits=fits)
        np.testing.assert_allclose(found, expected, atol=1e-5)
    assert hungry.seen == [32, 16, 8, 4, *[2] * 40, *[2] * 40], "what fits is remembered"
    assert capsys.readouterr().out.splitlines() == [
        f"out of memory: {count} images at once are too many, {count // 2} from now on" for count in (32, 16, 8, 4)
    ]


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
    text = by_hand(chain.ensemble.read_text()).replace(old, sha256_file(path))
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


def test_what_a_deadline_left_is_kept(chain, few, tmp_path):
    kept = tmp_path / "kept"
    words = ["--data", str(few), "--keep-predictions", str(kept), "--deadline", "1s", "--started-at", "0"]
    with pytest.raises(UserError, match="the deadline came") as caught:
        infer(chain, tmp_path / "s.csv", *words)
    assert caught.value.code == 5 and json.loads((kept / "predictions.json").read_text())["members"] == {}
    with pytest.raises(UserError, match="holds no predictions of 'a'|holds no predictions of 'b'"):
        infer(chain, tmp_path / "t.csv", "--from-predictions", str(kept))


def test_a_network_that_overflows_in_half_precision_runs_again_in_float32(chain, few, whole, tmp_path, monkeypatch):
    real, precisions = lanes.predict, []

    def overflowing(network, images, pipeline, *args, **rest):
        precisions.append(pipeline.amp)
        if pipeline.amp is not None:
            raise NotFinite("a: the model's output is not finite", ["x.jpg"])
        return real(network, images, pipeline, *args, **rest)

    monkeypatch.setattr(lanes, "predict", overflowing)
    monkeypatch.setattr(predict_module, "amp_of", lambda config, device: "bf16")
    assert infer(chain, tmp_path / "s.csv", "--data", str(few)).read_bytes() == whole
    assert precisions == ["bf16", None] * 4


def test_labels_and_tasks_that_do_not_fit_the_weights_are_refused(chain, few, tmp_path):
    blend = read_ensemble(chain.ensemble)
    for change, message in (
        ({"prior": ["zzz"]}, "prior: holds labels that are no classes: zzz"),
        ({"task": "multiclass", "threshold": None}, "is of task multilabel, the ensemble of multiclass"),
    ):
        with pytest.raises(UserError, match=message):
            run_ensemble(
                blend.model_copy(update=change), Options([chain.runs], tmp_path / "s.csv", [CPU], data_root=few)
            )
    assert not (tmp_path / "s.csv").exists()


def test_the_time_of_writing_is_reserved():
    budget = Budget(100, clock=lambda: 40.0, started=0.0)
    assert budget.left == 60
    budget.reserve = 7.0
    assert budget.left == 53
