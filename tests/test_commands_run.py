"""Every command that README and docs show runs, page by page, in a small copy of the project."""

import functools
import importlib
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

import ensemble_inference
import ensemble_search
import predict_oof
import train
from foldsmith import cli
from foldsmith.crypt import encrypt_file
from foldsmith.data.sheets import read_csv
from foldsmith.report.runs import read_run
from tests.conftest import DATA, ROOT
from tests.pages import NOT_OURS, PACKED, PAGES, commands_in, is_whole, page_name, steps_of
from tests.test_convert import OLD

pytestmark = pytest.mark.slow

SURE = "data:\n  num_folds: 2\ntrain:\n  num_epochs: 8\n  batch_size: 4\n"  # of some labels: pseudo labels need that
PASSPHRASE = "two lamps and a ladder"
ELSEWHERE = {  # commands that do not run here, by what is in them, and why
    "make": "targets are made by CI itself",
    "pip": "installs",
    "torchrun": "several processes: tests/test_distributed.py",
    "ray": "a cluster: tests/test_ray.py",
    "NAME": "stands for a config",
    "imet": "data that is not here: tests/test_recipes.py trains every recipe",
    "planet": "the same",
    "insects": "the same",
    "level1_train": "files of the older program: tests/test_ensemble_older.py",
    "benchmarks/": "measures for minutes",
    "--push": "needs an account on Kaggle: tests/test_kernel_metadata.py",
    "--help": "read by tests/test_commands.py",
}


def runs_here(words: list[str]) -> bool:
    if words[0] in PACKED or NOT_OURS & set(words) or not is_whole(words) or words == ["foldsmith", words[-1]]:
        return words in (["foldsmith", "doctor"], ["foldsmith", "report"], ["foldsmith", "leaderboard"])
    is_new = words[:2] == ["foldsmith", "new"]  # needs no data
    return is_new or not any(re.match(rf"(\S*/)?{re.escape(part)}", word) for word in words for part in ELSEWHERE)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with a part of data/clipart, configs of one epoch, and what pages take for granted: runs of a and b,
    their blend, predictions and submissions of it, and the user's own competition in ../input/mine."""
    folder = tmp_path_factory.mktemp("pages") / "project"
    competition(folder / "data" / "clipart", "id,attribute_ids")
    competition(folder.parent / "input" / "mine", "picture,tags")
    shutil.copytree(ROOT / "configs", folder / "configs")
    for name in ("docs", "weights"):
        (folder / name).mkdir()
    for script in ROOT.glob("*.py"):  # --check calls one
        (folder / script.name).symlink_to(script)
    for name in ("tiny", "lite0"):
        path = folder / "configs" / f"clipart_{name}.yml"
        text = re.sub(r"num_epochs: \d+", "num_epochs: 1\n  workers: 0", path.read_text())
        path.write_text(re.sub(r"input_size: \d+", "input_size: 64", text).replace("crop_jitter: 16", "crop_jitter: 8"))
    for seed, name in enumerate("ab"):
        (folder / "configs" / f"{name}.yml").write_text(f"base: clipart_tiny.yml\n{SURE}  seed: {seed}\n")
    (folder / "old.yml").write_text(OLD)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        run(["foldsmith", "demo-weights", "weights/tf_efficientnet_lite0.safetensors"])
        train.main(["--config", "a", "b", "clipart_tiny"])
        predict_oof.main(["--config", "a", "b"])
        ensemble_search.main(["best", "runs/a/a_f0.npy", "runs/b/b_f0.npy"])
        ensemble_inference.main(["best.yml", "--keep-predictions", "kept", "--output", "a.csv"])
        for name in ("b.csv", "c.csv"):
            shutil.copy("a.csv", name)
        sample = read_csv(Path("a.csv"))
        for name in ("p.csv", "q.csv"):
            Path(name).write_text("id,cat,dog\n" + "".join(f"{row[0]},0.25,0.5\n" for row in sample.rows))
        Path("download").mkdir()
        weights = Path("runs/a/a_f0.safetensors")
        encrypt_file(weights, Path("download") / f"{weights.name}.enc", PASSPHRASE)
    return folder


def competition(folder: Path, header: str) -> None:
    folder.mkdir(parents=True)
    for name, rows in (("train.csv", 200), ("sample_submission.csv", 24), ("labels.csv", 100)):
        lines = (DATA / name).read_text().splitlines(keepends=True)[1 : rows + 1]
        (folder / name).write_text(
            ("attribute_id,attribute_name" if name == "labels.csv" else header) + "\n" + "".join(lines)
        )
    (folder / "train").symlink_to(DATA / "train")
    (folder / "test").mkdir()
    for row in read_csv(folder / "sample_submission.csv").rows:
        (folder / "test" / f"{row[0]}.jpg").symlink_to(DATA / "test" / f"{row[0]}.jpg")


@pytest.fixture
def project(prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(prepared.parent, tmp_path / "copy", symlinks=True)
    monkeypatch.chdir(tmp_path / "copy" / "project")
    monkeypatch.setenv("FOLDSMITH_PASSPHRASE", PASSPHRASE)
    monkeypatch.setenv("HOME", str(tmp_path))
    return Path.cwd()


def run(step: str | list[str]) -> None:
    if isinstance(step, str):
        Path(step.splitlines()[0].removeprefix("# ")).write_text(step + "\n")
        return
    main: Callable[[list[str]], None] = cli.main
    if step[0] != "foldsmith":
        main = importlib.import_module(step[0].removesuffix(".py")).main
    main(step[1:])


@functools.cache
def steps_that_run(page: Path) -> list[str | list[str]]:
    steps = [step for step in steps_of(page.read_text()) if isinstance(step, str) or runs_here(step)]
    return steps if any(not isinstance(step, str) for step in steps) else []


@pytest.mark.parametrize("page", [page for page in PAGES if steps_that_run(page)], ids=page_name)
def test_the_commands_of_a_page_run_one_after_the_other(page, project):
    if ["train.py", "--config", "clipart_tiny.yml"] in steps_that_run(page):
        shutil.rmtree(project / "runs" / "clipart_tiny")
    for step in steps_that_run(page):
        run(step)
    if page.name in ("README.md", "tutorial.md"):
        assert len(steps_that_run(page)) > 12 and (project / "report.html").stat().st_size > 50_000
        assert len((project / "submission.csv").read_text().splitlines()) == 25
        assert (project / "kernels" / "best" / "best.py").is_file()
        name = "tiny_forgiving" if page.name == "README.md" else "mine_forgiving"
        assert read_run(project / "runs" / name).config.loss.name == "forgiving"


def test_what_does_not_run_is_a_short_list():
    """A page that grows commands which no test runs is noticed, and so is a reason that is no longer needed."""
    commands = [words for page in PAGES for words in commands_in(page.read_text())]
    left = {part for part in ELSEWHERE if any(word.startswith(part) for words in commands for word in words)}
    assert left == set(ELSEWHERE)
    clipart = [words for words in commands if any("clipart" in word for word in words)]
    assert len(clipart) > 20 and all(map(runs_here, clipart))
