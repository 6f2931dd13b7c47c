"""The whole chain on real images: what each step writes, and that the next step reads exactly that."""

import csv
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import ensemble_inference
import ensemble_search
import predict_oof
import train
from foldsmith.config import load_config
from foldsmith.data.images import find_images
from foldsmith.data.oof_files import read_sidecar
from foldsmith.data.tables import read_csv, read_table
from foldsmith.ensemble.file import blend, read_ensemble
from foldsmith.files import sha256_file, sha256_lines
from foldsmith.inference.decoded import DecodedImages
from foldsmith.inference.predict import pipeline_of, predict, to_input
from foldsmith.metrics import above, best_fbeta, fbeta
from foldsmith.models.header import config_of
from foldsmith.models.weights import load_model, read_header
from tests.conftest import DATA, Chain

CPU = torch.device("cpu")


def csv_rows(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text(encoding="utf-8").splitlines()))


def member_probabilities(chain: Chain, name: str) -> np.ndarray:
    """OOF of both folds in the order of the label table, put together by hand."""
    folds = [int(row["fold"]) for row in csv_rows(chain.runs / name / "folds.csv")]
    probabilities = np.zeros((len(folds), 55), dtype=np.float32)
    for fold in (0, 1):
        probabilities[np.array(folds) == fold] = np.load(chain.oof(name, fold))
    return probabilities


def test_a_run_leaves_the_documented_files(chain):
    names = {str(path.relative_to(chain.runs / "a")) for path in (chain.runs / "a").rglob("*") if path.is_file()}
    per_fold = ["last.ckpt", "metrics.csv", "timings.csv", "train.log", "curves.png"]
    expected = {"a.yml", "folds.csv"}
    expected |= {f"a_f{fold}.{end}" for fold in (0, 1) for end in ("safetensors", "npy", "json")}
    expected |= {f"fold{fold}/{name}" for fold in (0, 1) for name in per_fold}
    assert names == expected


def test_the_header_tells_all_about_the_weights(chain):
    header = read_header(chain.weights("a", 1))
    config = load_config(chain.runs / "a" / "a.yml")
    assert (header["name"], header["fold"], header["metric"]) == ("a", 1, "f2")
    assert header["config"] == config.model_dump(mode="json")
    assert header["config"]["model"]["mean"] == [0.485, 0.456, 0.406]
    assert header["classes"] == [str(number) for number in range(55)]
    rows = csv_rows(chain.runs / "a" / "fold1" / "metrics.csv")
    assert [row["epoch"] for row in rows] == ["1", "2", "3", "4", "5"]
    best = max(rows, key=lambda row: float(row["f2"]))
    assert (header["score"], header["threshold"]) == (float(best["f2"]), float(best["threshold"]))
    assert header["folds_sha256"] == read_sidecar(chain.oof("a", 0)).folds_sha256


def test_oof_is_what_the_fold_s_model_says_of_images_it_did_not_see(chain):
    path = chain.weights("b", 1)
    config = config_of(read_header(path), path)
    table = read_table(config)
    rows = [row for row, record in enumerate(csv_rows(chain.runs / "b" / "folds.csv")) if record["fold"] == "1"]
    paths = find_images(config.data_path("train_dir"), [table.ids[row] for row in rows])
    sidecar = read_sidecar(chain.oof("b", 1))
    assert sidecar.ids_sha256 == sha256_lines(table.ids[row] for row in rows)
    assert sidecar.weights_sha256 == sha256_file(path)
    assert sidecar.views == ["identity", "hflip"]

    # by hand: every image alone, plain torch, the mean of two views
    model = load_model(path, CPU).eval()
    pipeline = pipeline_of(config, CPU)
    saved = np.load(chain.oof("b", 1))
    assert saved.dtype == np.float32 and saved.shape == (len(rows), 55)
    from foldsmith.data.images import read_image

    for position in (0, 7, len(rows) - 1):
        image = torch.from_numpy(pipeline.geometry.center(read_image(paths[position])))[None]
        mean, std = torch.tensor(pipeline.mean), torch.tensor(pipeline.std)
        x = ((image.float() / 255 - mean) / std).permute(0, 3, 1, 2)
        with torch.inference_mode():
            expected = (model(x).sigmoid() + model(x.flip(3)).sigmoid()) / 2
        np.testing.assert_allclose(saved[position], expected[0].numpy(), atol=2e-5)
    best = best_fbeta(saved, table.targets(np.array(rows)))
    assert (sidecar.score, sidecar.threshold) == best


def test_normalisation_is_the_usual_one():
    images = torch.arange(2 * 4 * 5 * 3, dtype=torch.uint8).view(2, 4, 5, 3)
    x = to_input(images, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225], CPU)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    torch.testing.assert_close(x, ((images.float() / 255 - mean) / std).permute(0, 3, 1, 2), atol=1e-6, rtol=0)
    assert x.is_contiguous(memory_format=torch.channels_last)


def test_batch_size_changes_predictions_by_rounding_only(chain):
    path = chain.weights("a")
    config = config_of(read_header(path), path)
    model, paths = load_model(path, CPU), sorted((DATA / "test").glob("*.jpg"))[:10]
    images = DecodedImages(paths)
    big = predict(model, images, pipeline_of(config, CPU), ["identity"], "")
    config = config.model_copy(update={"test": config.test.model_copy(update={"batch_size": 3})})
    np.testing.assert_allclose(predict(model, images, pipeline_of(config, CPU), ["identity"], ""), big, atol=1e-6)


def test_the_ensemble_file_is_true(chain):
    ensemble = read_ensemble(chain.ensemble)
    table = read_table(load_config(chain.runs / "a" / "a.yml"))
    targets = table.targets()
    oof = {name: member_probabilities(chain, name) for name in ("a", "b")}
    singles = {name: best_fbeta(probabilities, targets).score for name, probabilities in oof.items()}
    assert ensemble.best_single_score == max(singles.values())
    assert ensemble.uniform_score == best_fbeta(blend([oof["a"], oof["b"]], [0.5, 0.5]), targets).score

    members = [oof[member.name] for member in ensemble.members]
    weights = [member.weight for member in ensemble.members]
    assert weights == sorted(weights, reverse=True) and sum(weights) == pytest.approx(1, abs=1e-5)
    assert fbeta(blend(members, weights), targets, ensemble.threshold) == ensemble.score
    assert ensemble.score >= max(ensemble.uniform_score, ensemble.best_single_score)
    for count, threshold in enumerate(ensemble.prefix_thresholds, start=1):
        assert best_fbeta(blend(members[:count], weights[:count]), targets).threshold == threshold
    assert 0 < ensemble.nested_score <= ensemble.score
    for member in ensemble.members:
        assert member.oof == [f"{member.name}_f0.npy", f"{member.name}_f1.npy"]
        assert member.sha256 == [sha256_file(chain.runs / member.name / name) for name in member.weights]


def test_the_submission_is_the_blend_of_all_weights(chain):
    ensemble = read_ensemble(chain.ensemble)
    sample = read_csv(DATA / "sample_submission.csv")
    paths = [DATA / "test" / f"{name}.jpg" for name in sample.column("id")]
    members = []
    for member in ensemble.members:
        folds = []
        for name in member.weights:
            path = chain.runs / member.name / name
            pipeline = pipeline_of(config_of(read_header(path), path), CPU)
            folds.append(predict(load_model(path, CPU), DecodedImages(paths), pipeline, member.views, ""))
        members.append((folds[0] + folds[1]) / np.float32(2))
    predicted = above(blend(members, [member.weight for member in ensemble.members]), ensemble.threshold)
    lines = ["id,attribute_ids"]
    for name, row in zip(sample.column("id"), predicted, strict=True):
        lines.append(f"{name},{' '.join(str(index) for index in np.flatnonzero(row))}")
    assert chain.submission.read_text() == "\n".join(lines) + "\n"


def test_finished_steps_return_at_once(chain, capsys):
    config = ["--config", str(chain.folder / "a.yml"), "--output", str(chain.runs), "--set", *chain.sets]
    before = {path: path.stat().st_mtime_ns for path in chain.runs.rglob("*.safetensors")}
    before |= {path: path.stat().st_mtime_ns for path in chain.runs.rglob("*.npy")}
    train.main(config)
    predict_oof.main(config)
    output = capsys.readouterr().out
    assert output.count("finished already") == 2 and output.count("up to date") == 2
    assert before == {path: path.stat().st_mtime_ns for path in before}


def test_other_views_are_predicted_again_without_training(chain, tmp_path):
    shutil.copytree(chain.runs / "a", tmp_path / "a")
    sets = [*chain.sets, "test.tta=[identity]"]
    predict_oof.main(["--config", str(chain.folder / "a.yml"), "--output", str(tmp_path), "--set", *sets])
    assert read_sidecar(tmp_path / "a" / "a_f0.npy").views == ["identity"]
    assert sha256_file(tmp_path / "a" / "a_f0.safetensors") == sha256_file(chain.weights("a"))
    assert not np.array_equal(np.load(tmp_path / "a" / "a_f0.npy"), np.load(chain.oof("a")))


def test_weights_alone_are_enough_for_oof(chain, tmp_path):
    train.main(["--predict_oof", "--weights", str(chain.weights("a", 1)), "--output", str(tmp_path)])
    assert (tmp_path / "a" / "a_f1.npy").read_bytes() == chain.oof("a", 1).read_bytes()
    assert not (tmp_path / "a" / "a_f0.npy").exists()


def test_the_search_accepts_any_fold_and_its_old_name(chain, tmp_path):
    import ensemble_search_scipy_optimize

    words = [str(tmp_path / "again.yml"), str(chain.oof("a", 1)), str(chain.oof("b", 0))]
    ensemble_search_scipy_optimize.main(words)
    assert (tmp_path / "again.yml").read_bytes() == chain.ensemble.read_bytes()
    assert ensemble_search_scipy_optimize.main is ensemble_search.main


def test_data_elsewhere_and_two_copies_of_the_weights(chain, tmp_path):
    (tmp_path / "models" / "copy").mkdir(parents=True)
    for path in chain.runs.rglob("*.safetensors"):
        shutil.copy(path, tmp_path / "models")
        shutil.copy(path, tmp_path / "models" / "copy")
    (tmp_path / "moved").symlink_to(DATA)
    words = [str(chain.ensemble), "--models", str(tmp_path / "models"), "--data", str(tmp_path / "moved")]
    ensemble_inference.main([*words, "--output", str(tmp_path / "out.csv")])
    assert (tmp_path / "out.csv").read_bytes() == chain.submission.read_bytes()
