"""The notebook for Kaggle and Colab runs from a clone to a submission, in a real kernel."""

import os
import subprocess

import pytest

from tests.conftest import ROOT

NOTEBOOK = ROOT / "notebooks" / "quickstart.ipynb"


def test_the_notebook_is_shipped_without_outputs():
    nbformat = pytest.importorskip("nbformat")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    assert all(not cell.outputs and cell.execution_count is None for cell in notebook.cells if cell.cell_type == "code")


@pytest.mark.slow
def test_it_runs_from_the_clone_to_the_submission(tmp_path, monkeypatch):
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    monkeypatch.setenv("FOLDSMITH_REPOSITORY", f"file://{clone_of_what_is_here(tmp_path)}")
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "src"))
    (tmp_path / "here").mkdir()
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    client = nbclient.NotebookClient(
        notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(tmp_path / "here")}}
    )
    client.execute()
    project = tmp_path / "here" / "foldsmith"
    assert len((project / "submission.csv").read_text().splitlines()) == 717
    assert (project / "kernels" / "best" / "best.py").is_file() and (project / "report.html").is_file()
    printed = "".join(output.get("text", "") for cell in notebook.cells for output in cell.get("outputs", []))
    assert "written: best.yml" in printed and "$ train.py --config second.yml" in printed


def clone_of_what_is_here(folder):
    """A repository of the files of this one as they are now, committed or not."""
    files = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    ).stdout
    target = folder / "repository"
    target.mkdir()
    for name in filter(None, files.decode().split("\0")):
        if (ROOT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            (target / name).write_bytes((ROOT / name).read_bytes())
            (target / name).chmod((ROOT / name).stat().st_mode)
    who = ["-c", "user.name=test", "-c", "user.email=test@example.org"]
    for words in (["init", "-q"], ["add", "-A"], [*who, "commit", "-qm", "all"]):
        subprocess.run(["git", *words], cwd=target, env=os.environ | {"GIT_CONFIG_GLOBAL": "/dev/null"}, check=True)
    return target
