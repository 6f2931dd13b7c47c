"""What a kernel proves before it predicts, and which exit code it ends with."""

import hashlib
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from foldsmith.crypt import encrypt_file
from foldsmith.ensemble.file import Ensemble, Member
from foldsmith.errors import UserError
from foldsmith.inference import find, machine
from foldsmith.inference.find import read_passphrase
from foldsmith.inference.machine import (
    Wanted,
    changed_versions,
    inputs_or_error,
    predicted_seconds,
    working_devices,
)
from foldsmith.inference.packages import missing_packages, refuse_missing_basics
from tests.conftest import DATA, competition, config

CPU = torch.device("cpu")


def wanted(**changes: object) -> Wanted:
    """A kernel of two weights files, `a` of 3 bytes and `b` of any size, and of no known competition."""
    known = {
        "sha256": {"a": hashlib.sha256(b"aaa").hexdigest(), "b": None},
        "sizes": {"a": 3},
        "config": None,
        "classes": 55,
        "folds": 2,
    }
    return Wanted(**{**known, **changes})


@pytest.fixture
def inputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """input/ and working/; the working folder is the current one."""
    (tmp_path / "input").mkdir()
    (tmp_path / "working").mkdir()
    monkeypatch.chdir(tmp_path / "working")
    return tmp_path / "input"


def refuse(inputs: Path, known: Wanted, output: Path = Path("submission.csv")) -> str:
    with pytest.raises(UserError) as caught:
        inputs_or_error(known, [Path("../input")], None, output)
    assert caught.value.code == 2 and caught.value.hint is None
    return caught.value.message


def test_all_that_is_missing_is_listed_at_once(inputs, monkeypatch):
    (inputs / "a").write_bytes(b"aa")
    (inputs / "b.enc").write_bytes(b"?")
    monkeypatch.delenv("FOLDSMITH_PASSPHRASE", raising=False)
    monkeypatch.setattr(machine.shutil, "disk_usage", lambda place: shutil._ntuple_diskusage(10, 5, 1 << 20))
    known = wanted(
        sha256={"a": None, "b": None, "c": None, "d": None}, config=config(root="/no/where/imet"), sizes={"a": 3}
    )
    lines = refuse(inputs, known).splitlines()
    assert lines[0] == "5 things are missing or wrong:"
    assert lines[1] == "  2 of 4 weights files are not there: c, d (looked below ../input)"
    assert lines[2] == "  ../input/a has 2 bytes, not 3: cut off, or another file"
    assert "../input/b.enc: is encrypted, and there is no passphrase" in lines[3]
    assert "the competition's data is not there" in lines[4] and "../input/imet" in lines[4]
    assert "has 1 MB free, 100 MB are needed" in lines[5] and len(lines) == 6


def test_what_is_there_is_proved_before_what_is_missing_is_named(inputs, tmp_path, monkeypatch):
    (tmp_path / "plain").write_bytes(b"weights")
    encrypt_file(tmp_path / "plain", inputs / "c.enc", "another")
    (inputs / "d.enc").write_bytes(b"?")
    (inputs / "a").write_bytes(b"aab")
    monkeypatch.setenv("FOLDSMITH_PASSPHRASE", "p")
    hashes = {"a": hashlib.sha256(b"aaa").hexdigest(), "c": None, "d": None}
    known = wanted(sha256=hashes | {"b": None}, packages=("torch", "no-such-package"))
    lines = refuse(inputs, known).splitlines()
    assert lines[0] == "5 things are missing or wrong:"
    assert lines[1] == "  1 of 4 weights files are not there: b (looked below ../input)"
    assert lines[2] == "  these Python packages are not installed: no-such-package"
    assert lines[3].startswith(f"  a is not the ensemble's (sha256 {hashes['a'][:12]}...): ../input/a (sha256 ")
    assert lines[4] == "  ../input/c.enc: can't be decrypted (another passphrase, or a damaged file; chunk 0)"
    assert lines[5] == "  ../input/d.enc: is not a file that foldsmith encrypt wrote" and len(lines) == 6
    with pytest.raises(UserError, match="weights are not those of the ensemble") as caught:
        inputs_or_error(wanted(sha256=hashes), [Path("../input")], None, Path("submission.csv"))
    assert caught.value.code == 4 and len(caught.value.message.splitlines()) == 4


def test_packages_are_looked_up_by_what_is_imported():
    assert missing_packages(["python", "opencv-python-headless", "PyYAML", "scikit-learn", "nothing-here"]) == [
        "nothing-here"
    ]
    refuse_missing_basics(["numpy", "PyYAML", "no-such-package"])  # to be named with all else that is missing
    with pytest.raises(UserError, match="these Python packages are not installed: no-such-package") as caught:
        refuse_missing_basics(["numpy", "no-such-package"], basics=("no-such-package",))
    assert caught.value.code == 2


def test_all_that_is_there_is_found(inputs):
    (inputs / "a").write_bytes(b"aaa")
    (inputs / "deep").mkdir()
    (inputs / "deep" / "b").write_bytes(b"any")
    found = inputs_or_error(wanted(), [Path("../input")], None, Path("submission.csv"))
    assert found.weights == {"a": Path("../input/a"), "b": Path("../input/deep/b")} and found.images is None


def test_the_data_s_structure_is_looked_at_and_not_its_content(inputs, tmp_path):
    (inputs / "a").touch()
    images = sorted(path.stem for path in (DATA / "test").glob("*.jpg"))[:6]
    root = competition(inputs / "imet", images)
    known = wanted(sha256={"a": None}, sizes={}, config=config(root="elsewhere/imet"))
    found = inputs_or_error(known, [Path("../input")], None, Path("submission.csv"))
    assert found.images == 6
    (root / "test" / f"{images[0]}.jpg").unlink()  # one may be broken or missing: it gets the most frequent labels
    assert inputs_or_error(known, [Path("../input")], None, Path("submission.csv")).images == 6
    shutil.rmtree(root / "test")
    (root / "test").mkdir()
    assert "6 of 6 images are missing" in refuse(inputs, known)
    (root / "sample_submission.csv").unlink()
    assert "sample_submission.csv" in refuse(inputs, known)


def test_the_data_is_found_by_the_name_of_its_folder_or_of_the_competition(inputs):
    known = config(root="data/imet")
    assert find.data_below_inputs(known, ["imet-2019-fgvc6"]) is None
    (inputs / "competitions" / "imet-2019-fgvc6").mkdir(parents=True)
    assert find.data_below_inputs(known, ["imet-2019-fgvc6"]) == Path("../input/competitions/imet-2019-fgvc6")
    (inputs / "some" / "imet").mkdir(parents=True)
    assert find.data_below_inputs(known, ["imet-2019-fgvc6"]) == Path("../input/some/imet")


def test_decrypted_weights_never_go_where_the_output_is(inputs, monkeypatch):
    (inputs / "a.enc").touch()
    monkeypatch.setenv("FOLDSMITH_PASSPHRASE", "p")
    monkeypatch.setattr(machine.tempfile, "gettempdir", lambda: str(Path.cwd() / "tmp"))
    Path("tmp").mkdir()
    assert "would lie in the working folder, whose files a kernel gives away; hint: set TMPDIR" in refuse(
        inputs, wanted(sha256={"a": None}, sizes={})
    )


def test_the_disk_must_hold_decrypted_weights_and_the_parts(inputs, monkeypatch):
    (inputs / "a.enc").touch()
    os.truncate(inputs / "a.enc", 300 << 20)
    monkeypatch.setenv("FOLDSMITH_PASSPHRASE", "p")
    monkeypatch.setattr(machine.shutil, "disk_usage", lambda place: shutil._ntuple_diskusage(0, 0, 350 << 20))
    assert "has 350 MB free, 400 MB are needed" in refuse(inputs, wanted(sha256={"a": None}, sizes={}))


def test_a_kaggle_secret_that_can_not_be_read_is_an_error_that_says_so(tmp_path, monkeypatch):
    monkeypatch.setenv("FOLDSMITH_PASSPHRASE", "")  # as good as none

    class UserSecretsClient:
        def get_secret(self, name: str) -> str:
            if name == "FOLDSMITH_PASSPHRASE" and not broken:
                return "from the secret"
            raise ConnectionError("Connection error trying to communicate with service.")

    module = type(sys)("kaggle_secrets")
    module.UserSecretsClient = UserSecretsClient
    monkeypatch.setitem(sys.modules, "kaggle_secrets", module)
    broken = False
    assert read_passphrase(tmp_path) == "from the secret"
    broken = True
    with pytest.raises(UserError, match="the Kaggle secret FOLDSMITH_PASSPHRASE can't be read .Connection error"):
        read_passphrase(tmp_path)


def test_a_device_that_fails_at_the_first_operation_is_left_out():
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    said: list[str] = []
    devices = working_devices([torch.device("cuda", 0), torch.device("cuda", 1)], said.append)
    assert devices == [CPU]
    assert said[0].startswith("WARNING: cuda:0 reports itself available and fails at the first operation: ")
    assert said[2] == "WARNING: no CUDA device works: the CPU is used, which takes many times longer"


def test_the_devices_that_work_are_used(monkeypatch):
    def compute(device: torch.device) -> str:
        if device.index == 0:
            raise RuntimeError("CUDA error: no kernel image is available for execution on the device\nmore")
        return "Tesla T4"

    monkeypatch.setattr(machine, "_compute_on", compute)
    said: list[str] = []
    two = [torch.device("cuda", 0), torch.device("cuda", 1)]
    assert working_devices(two, said.append) == two[1:]
    assert said[0].endswith("no kernel image is available for execution on the device")
    assert said[1] == "cuda:1: Tesla T4 works"
    assert working_devices([CPU], said.append) == [CPU] and len(said) == 2


def test_the_operation_is_a_real_one(monkeypatch):
    """On the CPU it gives what it should; a device that computes something else is found out."""
    monkeypatch.setattr(torch.cuda, "get_device_name", str)
    assert machine._compute_on(CPU) == "cpu"
    conv2d = torch.nn.functional.conv2d
    wrong = iter([0, 0, 1])  # the first is the expected value
    monkeypatch.setattr(torch.nn.functional, "conv2d", lambda *args: conv2d(*args) + next(wrong))
    with pytest.raises(RuntimeError, match="a convolution in torch.float16 gives"):
        machine._compute_on(CPU)


def test_time_is_predicted_from_the_speeds_of_the_members():
    def member(name: str, folds: int, speed: float | None) -> Member:
        weights = [f"{name}{fold}" for fold in range(folds)]
        return Member(name=name, weight=1, views=["identity"], oof=[], weights=weights, images_per_second=speed)

    def ensemble(*members: Member) -> Ensemble:
        return Ensemble.model_construct(members=list(members))

    assert predicted_seconds(ensemble(member("a", 5, 100.0), member("b", 1, 50.0)), 1000) == 5 * 10 + 20
    assert predicted_seconds(ensemble(member("a", 5, 100.0), member("b", 1, None)), 1000) is None


def test_other_versions_are_named():
    lines = changed_versions({"torch": "0.0", "numpy": __import__("numpy").__version__, "no-such-package": "1"})
    assert lines == [f"torch {torch.__version__.partition('+')[0]} (packed with 0.0)"]


SUPERVISED = """
import os, signal, sys, time
from foldsmith.errors import UserError, run
from foldsmith.inference.supervise import supervise
def work(stands):
    if "stands" in sys.argv:
        stands()
    action = sys.argv[1]
    if action == "raise":
        raise ZeroDivisionError("in the middle")
    if action == "deadline":
        raise UserError("the deadline came: partial", code=5)
    if action == "missing":
        raise UserError("weights are missing")
    if action.isdigit():
        os.kill(os.getpid(), int(action))
    if action == "wait":
        print("waiting", flush=True)
        time.sleep(60)
run(lambda argv: supervise(work, "strict" in sys.argv))
"""


def test_decrypted_weights_do_not_outlive_a_killed_kernel(tmp_path):
    (tmp_path / "foldsmith-weights-1-other").mkdir()  # another process's
    (tmp_path / "w").write_bytes(b"weights")
    encrypt_file(tmp_path / "w", tmp_path / "w.enc", "p")
    code = """
import os, sys
from pathlib import Path
from foldsmith.errors import run
from foldsmith.inference.find import proved_weights
from foldsmith.inference.supervise import supervise
def work(stands):
    print(proved_weights({"w": None}, {"w": [Path(sys.argv[1])]})["w"].read_text(), flush=True)
    os.kill(os.getpid(), 9)
run(lambda argv: supervise(work, False))
"""
    environment = dict(os.environ, TMPDIR=str(tmp_path), FOLDSMITH_PASSPHRASE="p")
    command = [sys.executable, "-c", code, str(tmp_path / "w.enc")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 137 and done.stdout == "weights\n"
    assert [path.name for path in tmp_path.glob("foldsmith-*")] == ["foldsmith-weights-1-other"]


def supervised(*words: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-c", SUPERVISED, *words], capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["nothing"], 0, ""),
        (["raise"], 1, "ZeroDivisionError: in the middle"),
        (["raise", "stands"], 0, "ZeroDivisionError: in the middle"),
        (["raise", "stands", "strict"], 1, "ZeroDivisionError: in the middle"),
        (["deadline", "stands"], 0, "the deadline came. The submission that was written before is valid"),
        (["deadline", "stands", "strict"], 5, "error: the deadline came: partial"),
        (["missing"], 2, "error: weights are missing"),
        ([str(int(signal.SIGKILL))], 137, "inference was killed by signal 9; no submission stands"),
        ([str(int(signal.SIGKILL)), "stands"], 0, "INFERENCE WAS KILLED by signal 9 (out of memory?)"),
        ([str(int(signal.SIGKILL)), "stands", "strict"], 137, ""),
        ([str(int(signal.SIGSEGV)), "stands"], 0, "INFERENCE WAS KILLED by signal 11."),
    ],
)
def test_a_kernel_fails_only_where_no_submission_stands(words, code, said):
    done = supervised(*words)
    assert done.returncode == code and said in done.stderr
    assert ("this is exit code 0" in done.stderr) == (code == 0 and words != ["nothing"])
    assert ("Traceback" in done.stderr) == (words[0] == "raise")


@pytest.mark.parametrize(
    ("number", "words", "code"),
    [(signal.SIGTERM, ["stands"], 0), (signal.SIGTERM, [], 143), (signal.SIGINT, ["stands"], 130)],
)
def test_signals_reach_inference(number, words, code):
    command = [sys.executable, "-c", SUPERVISED, "wait", *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "waiting\n"
        started = time.monotonic()
        process.send_signal(number)
        assert process.wait(30) == code and time.monotonic() - started < 20
        assert process.stderr is not None and "what was finished is kept" in process.stderr.read()


def test_inference_does_not_outlive_its_parent():
    with subprocess.Popen([sys.executable, "-c", SUPERVISED, "wait"], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "waiting\n"
        process.kill()
        assert process.stdout.read() == "", "its end is closed once the child is gone"
