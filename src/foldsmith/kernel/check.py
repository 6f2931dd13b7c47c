"""`deploy_kernel.py --check`: run a packed file as Kaggle would, and compare what it writes with the unpacked run."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from foldsmith.errors import EXIT_DEADLINE, EXIT_ENVIRONMENT, UserError
from foldsmith.inference.find import PASSPHRASE

# What may decide about speed, devices and bits; all else of the environment stays outside.
_KEPT = ("PATH", "LD_LIBRARY_PATH", "CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS", "MKL_NUM_THREADS", PASSPHRASE)
_SANDBOX = Path(__file__).with_name("sandbox.py")
WORKING, INPUT, REPORT = "working", "input", "report.json"


@dataclass(frozen=True)
class Proof:
    """What a run of a packed file took, and wrote."""

    seconds: float
    peak: int  # bytes, of its largest process
    size: int  # bytes, of the file
    submission: bytes | None
    files: list[str]  # all that it wrote, by path in the working folder

    def __str__(self) -> str:
        return (
            f"{self.seconds:.1f} s, {self.peak / 2**20:.0f} MB of memory at most, a file of {self.size / 1000:.0f} KB"
        )


def run_packed(
    script: Path,
    inputs: Mapping[str, Path],
    words: Sequence[str] = (),
    *,
    network: bool = False,
    passphrase: bool = True,
    keep: Path | None = None,
) -> Proof:
    """Run a packed file in an empty folder beside an input/ tree, without this project and without a network.

    Args:
        inputs: what lies below input/, by path there; the run sees copies.
        words: its arguments.
        network: leave the network on.
        passphrase: let it see the passphrase of the environment.
        keep: a new folder for a copy of what it wrote.

    Raises:
        UserError: it failed, changed its inputs, or left decrypted weights behind.
    """
    with tempfile.TemporaryDirectory(prefix="foldsmith-kernel-") as name:
        folder = Path(name)
        _lay_out(folder, inputs)
        real = [source.resolve() for source in inputs.values()]
        watched = [*real, folder / INPUT]
        before = _snapshot(watched)
        environment = _environment(folder)
        if not passphrase:
            environment.pop(PASSPHRASE, None)
        command = [*_sandboxed(folder, real, network), str(script.resolve()), *words]
        sys.stdout.flush()
        started = time.monotonic()
        done = subprocess.run(command, cwd=folder / WORKING, env=environment)
        seconds = time.monotonic() - started
        if done.returncode == EXIT_DEADLINE:
            hint = "--deadline TIME gives it more"
            raise UserError(
                "the deadline came before all was done: there is nothing to compare", file=script, hint=hint
            )
        if done.returncode != 0:
            raise UserError(f"failed with exit code {done.returncode} where a kernel would run it", file=script)
        if _snapshot(watched) != before:
            raise UserError("changed its inputs, which are read-only on Kaggle", file=script)
        left = sorted(path.name for path in (folder / "tmp").glob("foldsmith-*"))
        if left:
            raise UserError(f"left decrypted weights or other temporary files: {', '.join(left[:5])}", file=script)
        peak = json.loads((folder / REPORT).read_text(encoding="utf-8"))["peak"]
        written = {str(path.relative_to(folder / WORKING)): path for path in (folder / WORKING).rglob("*")}
        files = sorted(name for name, path in written.items() if path.is_file())
        submission = written["submission.csv"].read_bytes() if "submission.csv" in files else None
        if keep is not None:
            shutil.copytree(folder / WORKING, keep)
        return Proof(seconds, peak, script.stat().st_size, submission, files)


def _lay_out(folder: Path, inputs: Mapping[str, Path]) -> None:
    """The folders of a kernel. Its inputs are copies, without links: whatever it does, the user's own files stay."""
    for place in (WORKING, INPUT, "tmp", "home"):
        (folder / place).mkdir()
    for path, source in inputs.items():
        target = folder / INPUT / path
        target.parent.mkdir(parents=True, exist_ok=True)
        # cp takes neither time nor room where the file system can share blocks
        command = ["cp", "-RLT", "--reflink=auto", "--preserve=timestamps", str(source.resolve()), str(target)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode != 0:
            said = (done.stderr.strip().splitlines() or ["cp failed"])[0]
            hint = "TMPDIR names a folder on a disk that has room for a copy of the inputs"
            raise UserError(f"can't be copied for the run: {said}", file=source, hint=hint, code=EXIT_ENVIRONMENT)


def _sandboxed(folder: Path, real: Sequence[Path], network: bool) -> list[str]:
    """The command that a script's path and arguments follow."""
    # -S leaves out the site module, and with it the link to this project that an editable install makes; the other
    # packages come back through PYTHONPATH. -P leaves out the sandbox's own folder.
    read_only = json.dumps([str(folder / INPUT), *map(str, real)])
    online = "network" if network else "offline"
    return [sys.executable, "-S", "-P", str(_SANDBOX), str(folder / REPORT), read_only, online]


def run_unpacked(script: Path, words: Sequence[str]) -> bytes:
    """The submission that ensemble_inference.py writes with these arguments.

    Args:
        script: ensemble_inference.py.
    """
    with tempfile.TemporaryDirectory(prefix="foldsmith-check-") as folder:
        output = Path(folder) / "submission.csv"
        done = subprocess.run([sys.executable, str(script), *words, "--output", str(output)])
        if done.returncode != 0:
            raise UserError(f"failed with exit code {done.returncode}", file=script)
        return output.read_bytes()


def compare(proof: Proof, expected: bytes, script: Path) -> None:
    """Refuse a kernel whose submission is not the expected one, or that writes something else beside it."""
    if proof.submission != expected:
        raise UserError("its submission.csv differs from ensemble_inference.py's", file=script)
    others = [name for name in proof.files if name != "submission.csv"]
    if others:
        raise UserError(f"writes more than submission.csv: {', '.join(others[:5])}", file=script)


def _environment(folder: Path) -> dict[str, str]:
    packages = [path for path in sys.path if path.endswith(("site-packages", "dist-packages"))]
    private = {
        "HOME": str(folder / "home"),
        "TMPDIR": str(folder / "tmp"),
        "LANG": "C.UTF-8",
        "PYTHONPATH": os.pathsep.join(packages),
    }
    return {key: os.environ[key] for key in _KEPT if key in os.environ} | private


def _snapshot(places: Iterable[Path]) -> list[tuple[str, int, int]]:
    """Name, size and time of change of all files."""
    files = []
    for place in places:
        for path in [place, *place.rglob("*")]:
            status = path.lstat()
            files.append((str(path), status.st_size, status.st_mtime_ns))
    return sorted(files)
