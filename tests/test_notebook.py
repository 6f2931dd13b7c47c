"""The notebook for Kaggle and Colab runs from a clone to a submission, in a real kernel that has no foldsmith yet."""

import json
import os
import subprocess
import sys
import venv
from pathlib import Path

import pytest

from tests.conftest import ROOT

NOTEBOOK = ROOT / "notebooks" / "quickstart.ipynb"
UNSET = 'REPOSITORY = ""'


def read_notebook():
    return pytest.importorskip("nbformat").read(NOTEBOOK, as_version=4)


def clone_cell(notebook):
    (cell,) = [cell for cell in notebook.cells if '"clone"' in cell.source]
    return cell


def test_the_notebook_is_shipped_without_outputs():
    notebook = read_notebook()
    pytest.importorskip("nbformat").validate(notebook)
    assert all(not cell.outputs and cell.execution_count is None for cell in notebook.cells if cell.cell_type == "code")


def test_without_an_address_it_says_so(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="REPOSITORY is empty: put the address of foldsmith's repository"):
        exec(clone_cell(read_notebook()).source, {"REPOSITORY": ""})
    assert list(tmp_path.iterdir()) == []


def test_a_copy_without_git_will_do_and_what_was_interrupted_is_begun_anew(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    copy = tmp_path / "input" / "foldsmith"
    copy.mkdir(parents=True)
    (copy / "ensemble_inference.py").write_text("")
    (tmp_path / "foldsmith.part").mkdir()
    (tmp_path / "foldsmith.part" / "half").write_text("")
    source = clone_cell(read_notebook()).source
    for _ in range(2):
        exec(source, {"REPOSITORY": "input/foldsmith"})
        assert Path.cwd() == tmp_path / "foldsmith"
    assert [path.name for path in Path.cwd().iterdir()] == ["ensemble_inference.py"]


@pytest.mark.slow
def test_it_runs_from_the_clone_to_the_submission(tmp_path, monkeypatch):
    nbclient = pytest.importorskip("nbclient")
    python = machine_without_foldsmith(tmp_path, monkeypatch)
    notebook = read_notebook()
    (address,) = [cell for cell in notebook.cells if cell.source.startswith(UNSET)]
    address.source = f'REPOSITORY = "file://{clone_of_what_is_here(tmp_path)}"'
    at = notebook.cells.index(clone_cell(notebook))
    notebook.cells.insert(at, notebook.cells[at])  # run twice
    notebook.cells.append(notebook.cells[at])
    (tmp_path / "here").mkdir()
    client = nbclient.NotebookClient(
        notebook, timeout=300, kernel_name="fresh", resources={"metadata": {"path": str(tmp_path / "here")}}
    )
    client.execute()
    project = tmp_path / "here" / "foldsmith"
    assert len((project / "submission.csv").read_text().splitlines()) == 717
    assert (project / "kernels" / "best" / "best.py").is_file() and (project / "report.html").is_file()
    printed = "".join(output.get("text", "") for cell in notebook.cells for output in cell.get("outputs", []))
    assert "written: best.yml" in printed and "$ train.py --config second.yml" in printed
    words = [str(python), "-c", "import foldsmith; print(foldsmith.__file__)"]
    installed = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert Path(installed.stdout.strip()) == project / "src" / "foldsmith" / "__init__.py"


def machine_without_foldsmith(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A Python with all libraries of this one but foldsmith, as a Jupyter kernel `fresh`; pip finds no network."""
    venv.create(folder / "python", with_pip=False)
    (site,) = (folder / "python" / "lib").glob("python*/site-packages")
    # Folders alone: no .pth in them is read, and that is how foldsmith is installed here.
    (site / "libraries.pth").write_text("".join(f"{each}\n" for each in sys.path if each.endswith("site-packages")))
    python = folder / "python" / "bin" / "python"
    kernel = folder / "jupyter" / "kernels" / "fresh" / "kernel.json"
    kernel.parent.mkdir(parents=True)
    words = [str(python), "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    kernel.write_text(json.dumps({"argv": words, "display_name": "fresh", "language": "python"}))
    monkeypatch.setenv("JUPYTER_PATH", str(folder / "jupyter"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_NO_BUILD_ISOLATION", "0")  # sic: it means that the setuptools which is here builds
    monkeypatch.delenv("PYTHONPATH", raising=False)
    absent = subprocess.run([str(python), "-c", "import foldsmith"], cwd=folder, capture_output=True, text=True)
    assert "No module named 'foldsmith'" in absent.stderr
    return python


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
