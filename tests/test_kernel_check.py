"""--check runs files as Kaggle would: these scripts try what a kernel can't do there."""

from pathlib import Path

import pytest

from foldsmith.errors import UserError
from foldsmith.kernel.check import Proof, compare, run_packed


@pytest.fixture
def inputs(tmp_path: Path) -> dict[str, Path]:
    (tmp_path / "data" / "test").mkdir(parents=True)
    (tmp_path / "data" / "test" / "a.jpg").write_bytes(b"image")
    return {"data": tmp_path / "data"}


def run(tmp_path: Path, inputs: dict[str, Path], code: str, *words: str) -> Proof:
    script = tmp_path / "kernel.py"
    script.write_text(code)
    return run_packed(script, inputs, words)


def test_a_script_sees_its_inputs_and_writes_beside_them(tmp_path, inputs):
    code = """
import sys
from pathlib import Path
assert __name__ == "__main__" and sys.argv[1:] == ["--flag", "x"]
assert list(Path().iterdir()) == []
Path("submission.csv").write_bytes(Path("../input/data/test/a.jpg").read_bytes())
block = bytearray(200_000_000)
block[::4096] = b"1" * len(block[::4096])
"""
    proof = run(tmp_path, inputs, code, "--flag", "x")
    assert proof.submission == b"image" and proof.files == ["submission.csv"]
    assert proof.size == len(code) and 0 < proof.seconds < 60
    assert 200_000_000 < proof.peak < 400_000_000, "its own memory, not that of the process that started it"
    compare(proof, b"image", tmp_path)
    with pytest.raises(UserError, match="differs"):
        compare(proof, b"imagE", tmp_path)


@pytest.mark.parametrize(
    "code",
    [
        "open('../input/data/new', 'w')",
        "open('../input/data/test/a.jpg', 'ab')",
        "open('../input/new', 'w')",
        "import os; os.remove('../input/data/test/a.jpg')",
        "import os; os.rename('../input/data/test', 'here')",
        "import os; os.mkdir('../input/data/new')",
        "import pathlib; pathlib.Path('../input/data/test/a.jpg').resolve().chmod(0)",
        "import urllib.request; urllib.request.urlopen('http://127.0.0.1:9/')",
        "import socket; socket.create_connection(('127.0.0.1', 9))",
        "import socket; socket.gethostbyname('127.0.0.1')",
        "import socket; socket.gethostbyname_ex('127.0.0.1')",
        "import socket; socket.gethostbyaddr('127.0.0.1')",
        "import socket; socket.getnameinfo(('127.0.0.1', 9), 0)",
        "import socket; socket.socket(type=socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', 9))",
        "import foldsmith",
    ],
)
def test_what_a_kernel_can_not_do_fails(tmp_path, inputs, code, capfd):
    with pytest.raises(UserError, match="failed with exit code 1"):
        run(tmp_path, inputs, code)
    said = capfd.readouterr().err
    assert any(words in said for words in ("read-only", "a kernel has no network", "No module named 'foldsmith'"))
    assert (tmp_path / "data" / "test" / "a.jpg").read_bytes() == b"image"


def test_a_change_that_another_program_made_is_seen(tmp_path, inputs):
    with pytest.raises(UserError, match="changed its inputs"):
        run(tmp_path, inputs, "import subprocess; subprocess.run(['touch', '../input/data/new'], check=True)")


@pytest.mark.parametrize(
    "code",
    [
        "import shutil; shutil.rmtree('../input/data/test')",
        "import os; d = os.open('../input/data/test', 0); os.open('a.jpg', os.O_WRONLY | os.O_TRUNC, dir_fd=d)",
        "import os; d = os.open('../input/data/test', 0); os.remove('a.jpg', dir_fd=d)",
        "import subprocess; subprocess.run(['sh', '-c', 'echo x > ../input/data/test/a.jpg'], check=True)",
        "import subprocess; subprocess.run(['sh', '-c', 'echo x > ../input/data/link.jpg'], check=True)",
    ],
)
def test_the_users_own_files_outlive_any_kernel(tmp_path, inputs, code):
    (tmp_path / "elsewhere.jpg").write_bytes(b"another")
    (tmp_path / "data" / "link.jpg").symlink_to(tmp_path / "elsewhere.jpg")
    with pytest.raises(UserError, match=r"changed its inputs|failed with exit code 1"):
        run(tmp_path, inputs, code)
    assert (tmp_path / "data" / "test" / "a.jpg").read_bytes() == b"image"
    assert (tmp_path / "elsewhere.jpg").read_bytes() == b"another"


def test_inputs_that_can_not_be_copied_are_named(tmp_path, inputs):
    (tmp_path / "data" / "broken").symlink_to("nowhere")
    with pytest.raises(UserError, match="can't be copied for the run: .*broken") as caught:
        run(tmp_path, inputs, "")
    assert caught.value.code == 3


def test_the_environment_is_clean(tmp_path, inputs, monkeypatch):
    monkeypatch.setenv("PYTHONSTARTUP", "x")
    monkeypatch.setenv("MY_SECRET", "x")
    code = "import os; from pathlib import Path; Path('submission.csv').write_text(' '.join(sorted(os.environ)))"
    names = set(run(tmp_path, inputs, code).submission.decode().split())
    allowed = {"PATH", "HOME", "TMPDIR", "LANG", "PYTHONPATH", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "LC_CTYPE"}
    assert names - {"LD_LIBRARY_PATH", "CUDA_VISIBLE_DEVICES"} <= allowed


def test_temporary_files_and_other_outputs_are_named(tmp_path, inputs):
    with pytest.raises(UserError, match="left decrypted weights or other temporary files: foldsmith-weights-"):
        run(tmp_path, inputs, "import tempfile; tempfile.mkdtemp(prefix='foldsmith-weights-')")
    proof = run(tmp_path, inputs, "open('submission.csv', 'w'); open('weights.pth', 'w')")
    with pytest.raises(UserError, match=r"writes more than submission\.csv: weights\.pth"):
        compare(proof, b"", tmp_path)


def test_a_cut_run_is_not_compared(tmp_path, inputs):
    with pytest.raises(UserError, match="the deadline came before all was done"):
        run(tmp_path, inputs, "raise SystemExit(5)")
