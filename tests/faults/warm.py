"""A process that has imported everything and forks once for each command: a run costs no import.

`python -m tests.faults.warm` reads requests from stdin, a JSON a line, and answers each with one. The children are
processes as users start them: they end as an interpreter does, each in a session of its own.
"""

import contextlib
import importlib
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent.parent


@dataclass(frozen=True)
class Ended:
    """How a command ended: its exit code (negative: minus the signal), and what it printed."""

    code: int
    out: str
    err: str
    seconds: float  # from the start, or from the signal that was sent


class Child:
    """A command that runs."""

    def __init__(self, warm: "Warm", pid: int, folder: Path) -> None:
        self.warm, self.pid, self.folder = warm, pid, folder
        self.started = time.monotonic()

    @property
    def seconds(self) -> float:
        """Since the start, or since the signal that was sent."""
        return time.monotonic() - self.started

    def wait(self, timeout: float = 60.0) -> Ended:
        answer = self.warm.ask({"do": "wait", "pid": self.pid, "timeout": timeout})
        out, err = ((self.folder / name).read_text(errors="replace") for name in ("out", "err"))
        assert answer is not None, f"did not end within {timeout} s\n{out}\n{err}"
        return Ended(answer, out, err, time.monotonic() - self.started)

    def signal(self, number: int, *, group: bool = False) -> None:
        """Send a signal, to all processes of the command where `group`; the clock starts anew."""
        self.started = time.monotonic()
        (os.killpg if group else os.kill)(self.pid, number)

    def has_ended(self) -> bool:
        stat = Path(f"/proc/{self.pid}/stat")
        return not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] == "Z"

    def says(self, text: str, timeout: float = 60.0) -> None:
        """Wait until the command has printed a text."""
        end = time.monotonic() + timeout
        while text not in (self.folder / "out").read_text() + (self.folder / "err").read_text():
            assert time.monotonic() < end, f"never said {text!r}: {(self.folder / 'err').read_text()}"
            time.sleep(0.01)

    def family(self) -> list[int]:
        """The processes of the command's session that still run."""
        found = []
        for stat in Path("/proc").glob("[0-9]*/stat"):
            try:
                fields = stat.read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(fields[3]) == self.pid and fields[0] != "Z":
                found.append(int(stat.parent.name))
        return found


class Warm:
    """The process, and what it is asked."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.count = folder, 0
        environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
        environment.pop("FOLDSMITH_FAIL", None)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.warm"],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def ask(self, request: dict[str, Any]) -> Any:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def start(
        self,
        script: str,
        *words: object,
        fail: str = "",
        hook: tuple[str, ...] = (),
        env: dict[str, str] | None = None,
    ) -> Child:
        """Start a script of the project's folder, or `foldsmith`.

        Args:
            fail: FOLDSMITH_FAIL.
            hook: a function of tests.faults.hooks, or `module.function`, with its arguments, that is called first.
        """
        self.count += 1
        folder = self.folder / str(self.count)
        folder.mkdir()
        for name in ("out", "err"):
            (folder / name).touch()
        request = {"do": "start", "script": script, "argv": [str(word) for word in words], "folder": str(folder)}
        request |= {
            "env": (env or {}) | ({"FOLDSMITH_FAIL": fail} if fail else {}),
            "hook": hook,
        }
        return Child(self, self.ask(request), folder)

    def run(self, script: str, *words: object, timeout: float = 60.0, **options: Any) -> Ended:
        return self.start(script, *words, **options).wait(timeout)

    def close(self) -> None:
        self.process.communicate(timeout=60)


SCRIPTS = {
    "train.py": "train",
    "predict_oof.py": "predict_oof",
    "ensemble_search.py": "ensemble_search",
    "ensemble_inference.py": "ensemble_inference",
    "deploy_kernel.py": "deploy_kernel",
    "foldsmith": "foldsmith.cli",
}
WARM = ["foldsmith.training.run", "foldsmith.training.smoke", "foldsmith.training.oof", "foldsmith.training.leaves"]
WARM += ["foldsmith.training.tta_search", "foldsmith.inference.command", "foldsmith.ensemble.search"]
WARM += ["foldsmith.data.check", "foldsmith.doctor", "foldsmith.crypt", "matplotlib.figure", "sklearn.model_selection"]
WARM += ["iterstrat.ml_stratifiers", "multiprocessing", "tests.faults.hooks", "tests.faults.full_disk"]


def serve() -> None:
    """Answer requests until stdin ends. Only a child returns from here in the middle, as a fresh program."""
    for name in (*SCRIPTS.values(), *WARM):
        importlib.import_module(name)
    started = []
    for line in sys.stdin:
        request = json.loads(line)
        if request["do"] == "wait":
            answer = _wait(request["pid"], request["timeout"])
        else:
            answer = os.fork()
            if answer == 0:
                return _become(request)
            started.append(answer)
        print(json.dumps(answer), flush=True)
    for pid in started:  # what a failed test did not wait for
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(pid, signal.SIGKILL)


def _wait(pid: int, timeout: float) -> int | None:
    end = time.monotonic() + timeout
    while True:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > end:
            os.killpg(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            return None
        time.sleep(0.005)


def _become(request: dict[str, Any]) -> None:
    from foldsmith import errors

    os.setsid()
    for number, name in enumerate(("out", "err"), start=1):
        os.dup2(os.open(Path(request["folder"]) / name, os.O_WRONLY | os.O_APPEND), number)
    sys.stdout, sys.stderr = (open(number, "w", buffering=1, closefd=False) for number in (1, 2))  # noqa: SIM115
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.environ.update(request["env"])
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if request["hook"]:
        name, *words = request["hook"]
        module, _, function = name.rpartition(".")
        getattr(importlib.import_module(f"tests.faults.{module or 'hooks'}"), function)(*words)
    sys.argv = [request["script"], *request["argv"]]
    main = importlib.import_module(SCRIPTS[request["script"]]).main
    errors.run(main)


if __name__ == "__main__":
    serve()
