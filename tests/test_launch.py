"""The queue of processes over a machine's devices, the table of what they do, and a job array."""

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import ensemble_inference
import predict_oof
import train
from foldsmith.errors import UserError
from foldsmith.launch import command, local
from foldsmith.launch.local import Command, Slot, run_queue, slots_of
from foldsmith.launch.progress import Job, Progress
from tests.conftest import ROOT, Chain

EXPERIMENT = """\
base: {base}
data:
  train_csv: {table}
  num_folds: 3
model:
  arch: test_convnext
  input_size: 32
train:
  num_epochs: {epochs}
  seed: {seed}
  workers: 0
augmentations:
  crop_jitter: 4
"""


def experiment(folder: Path, name: str, seed: int = 0, epochs: int = 2, rows: int = 96) -> Path:
    """An experiment of three folds on a few clip-art images; its config's path."""
    folder.mkdir(exist_ok=True)
    table = folder / "train.csv"
    table.write_text("".join((ROOT / "data/clipart/train.csv").read_text().splitlines(keepends=True)[: rows + 1]))
    path = folder / f"{name}.yml"
    base = ROOT / "configs" / "clipart_tiny.yml"
    path.write_text(EXPERIMENT.format(base=base, table=table, epochs=epochs, seed=seed))
    return path


def artefacts(runs: Path) -> dict[str, bytes]:
    """Weights, OOF probabilities and scores of runs, by file name."""
    found = [path for pattern in ("*/*.safetensors", "*/*.npy", "*/fold*/metrics.csv") for path in runs.glob(pattern)]
    return {str(path.relative_to(runs)): path.read_bytes() for path in found}


def python(code: str, output: Path) -> Command:
    return Command([sys.executable, "-S", "-c", code], output)


def test_a_slot_for_each_gpu_and_fold_with_cores_of_its_own(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 1, 2, 3, 4, 5})
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    one = slots_of(torch.device("cuda"), 1)
    assert [slot.environment for slot in one] == [{"CUDA_VISIBLE_DEVICES": "0"}, {"CUDA_VISIBLE_DEVICES": "1"}]
    assert [sorted(slot.cores) for slot in one] == [[0, 2, 4], [1, 3, 5]]
    # The first folds go to different GPUs.
    names = [slot.environment["CUDA_VISIBLE_DEVICES"] for slot in slots_of(torch.device("cuda"), 2)]
    assert names == ["0", "1", "0", "1"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,GPU-3a")
    names = [slot.environment["CUDA_VISIBLE_DEVICES"] for slot in slots_of(torch.device("cuda"), 1)]
    assert names == ["5", "GPU-3a"]
    on_cpu = slots_of(torch.device("cpu"), 8)  # more than cores
    assert [slot.environment for slot in on_cpu] == [{}] * 8
    assert [min(slot.cores) for slot in on_cpu] == [0, 1, 2, 3, 4, 5, 0, 1]


def test_each_slot_runs_one_process_at_a_time(tmp_path, monkeypatch, capsys):
    """Six jobs on two devices: a device's lock file is never there twice, and each job sees its device and cores."""
    monkeypatch.setattr(local, "POLL", 0.01)
    code = (
        "import os, time; device = os.environ['CUDA_VISIBLE_DEVICES']; lock = f'{path}/lock{device}'\n"
        "os.close(os.open(lock, os.O_CREAT | os.O_EXCL)); time.sleep(0.05); os.unlink(lock)\n"
        "print(device, *os.sched_getaffinity(0))"
    ).replace("{path}", str(tmp_path))
    cores = sorted(os.sched_getaffinity(0))
    slots = [Slot({"CUDA_VISIBLE_DEVICES": str(index)}, frozenset({cores[index % len(cores)]})) for index in range(2)]
    jobs = [Job(f"job {index}") for index in range(6)]
    run_queue(jobs, [python(code, tmp_path / f"fold{index}" / "output.log") for index in range(6)], slots)
    assert {job.state for job in jobs} == {"finished"}
    seen = sorted((tmp_path / f"fold{index}" / "output.log").read_text().strip() for index in range(6))
    assert set(seen) == {f"{index} {cores[index % len(cores)]}" for index in range(2)}
    assert "job 5  finished" in capsys.readouterr().out
    assert os.sched_getaffinity(0) == set(cores), "this process keeps its own"


def test_a_failed_job_leaves_the_others_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(local, "POLL", 0.01)
    jobs = [Job("a fold 0"), Job("a fold 1"), Job("a fold 2")]
    codes = ["import sys; print('first'); sys.exit('no space')", "print('fine')", "import os; os.kill(os.getpid(), 9)"]
    outputs = [tmp_path / f"{index}.log" for index in range(3)]
    outputs[0].write_text("of an earlier run\n")
    commands = [python(code, output) for code, output in zip(codes, outputs, strict=True)]
    with pytest.raises(UserError) as caught:
        run_queue(jobs, commands, [Slot({}, frozenset(os.sched_getaffinity(0)))])
    assert [job.state for job in jobs] == ["failed", "finished", "failed"]
    assert caught.value.code == 1
    assert (
        caught.value.message
        == (
            f"2 of 3 jobs failed\n  a fold 0: exit code 1; the end of {outputs[0]}:\n    first\n    no space\n"
            f"  a fold 2: killed by SIGKILL; the end of {outputs[2]}:\n"
        ).removesuffix("\n")
        + "\n"
    )
    assert outputs[0].read_text().startswith("of an earlier run\n")


def test_whoever_is_asked_to_end_ends_its_processes_with_time_to_save(tmp_path, monkeypatch):
    saved, begun = tmp_path / "saved", tmp_path / "begun"
    code = (
        "import pathlib, signal, sys, time\n"
        f"def end(*_): pathlib.Path({str(saved)!r}).write_text('state'); sys.exit(143)\n"
        f"signal.signal(signal.SIGTERM, end); pathlib.Path({str(begun)!r}).touch()\n"
        "while True: time.sleep(0.01)"  # a signal just before a long sleep would wait for its end
    )

    def interrupted(self):
        if begun.exists():
            raise KeyboardInterrupt

    monkeypatch.setattr(local, "POLL", 0.01)
    monkeypatch.setattr(Progress, "show", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run_queue([Job("a")], [python(code, tmp_path / "log")], [Slot({}, frozenset(os.sched_getaffinity(0)))])
    assert saved.read_text() == "state"


ORPHAN = """
import os, sys
from foldsmith.launch.local import Command, Slot, run_queue
from foldsmith.launch.progress import Job
from pathlib import Path
code = "import os, time; print(os.getpid(), flush=True); time.sleep(3600)"
command = Command([sys.executable, "-S", "-c", code], Path(sys.argv[1]))
run_queue([Job("a")], [command], [Slot({}, frozenset(os.sched_getaffinity(0)))])
"""


def test_the_processes_of_a_killed_launcher_end_with_it(tmp_path):
    """Else they hold their folds for hours, and the same command is refused."""
    log = tmp_path / "log"
    launcher = subprocess.Popen([sys.executable, "-c", ORPHAN, log], cwd=ROOT, stdout=subprocess.DEVNULL)
    while not log.exists() or not log.read_text().endswith("\n"):
        assert launcher.poll() is None
        time.sleep(0.01)
    stat = Path("/proc", log.read_text().strip(), "stat")
    assert stat.exists()
    launcher.kill()
    launcher.wait()
    while stat.exists() and " Z " not in stat.read_text():  # pytest's timeout ends it where it never does
        time.sleep(0.01)


def test_the_table_writes_what_changed_and_redraws_on_a_terminal(monkeypatch, capsys):
    details = {"a": "", "bb": ""}
    jobs = [Job(name, lambda name=name: details[name]) for name in details]
    progress = Progress(jobs)
    progress.show()
    progress.show()
    assert capsys.readouterr().out == "a   waiting\nbb  waiting\n"
    jobs[1].state, details["bb"] = "running", "epoch 1/2  f2 0.5000"
    progress.show()
    assert capsys.readouterr().out == "bb  running   epoch 1/2  f2 0.5000\n"
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    jobs[0].state = "failed"
    progress.show()
    assert capsys.readouterr().out == "\x1b[2A\x1b[2Ka   failed\n\x1b[2Kbb  running   epoch 1/2  f2 0.5000\n"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--address", "auto"], "--address: goes with --launcher ray"),
        (["--gpus-per-job", "1"], "--gpus-per-job: goes with --launcher ray"),
        (["--launcher", "ray", "--cpus-per-job", "-1"], "--cpus-per-job: expected a number from 0 up, got -1.0"),
        (["--parallel-folds", "0"], "--parallel-folds: expected a number from 1 up, got 0"),
        (
            ["--launcher", "ray", "--device", "cpu"],
            "--device: goes with --launcher local\n  hint: --gpus-per-job 0 keeps",
        ),
        (["--launcher", "ray", "--profile"], "--profile: goes with --launcher local"),
        (["--launcher", "ray", "--parallel-folds", "2"], "--parallel-folds: goes with --launcher local"),
        (["--parallel-folds", "2", "--set", "data.cache=ram"], "data.cache: each of 2 processes of this machine would"),
    ],
)
def test_arguments_that_make_no_sense(words, message):
    with pytest.raises(UserError, match=re.escape(message)):
        train.main(["--config", "clipart_tiny", *words])


def test_two_files_of_one_run(tmp_path):
    (tmp_path / "clipart_tiny.yml").write_text(f"base: {ROOT}/configs/clipart_tiny.yml\n")
    with pytest.raises(UserError, match="--config: two files make the run 'clipart_tiny'"):
        train.main(["--config", "clipart_tiny", str(tmp_path / "clipart_tiny.yml"), "--output", str(tmp_path)])
    with pytest.raises(SystemExit):
        train.main(["--config", "clipart_tiny", "clipart_lite0", "--smoke"])


def test_without_ray_the_error_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.delitem(sys.modules, "foldsmith.launch.ray", raising=False)
    best = tmp_path / "best.yml"
    words = ["--config", str(experiment(tmp_path, "a")), "--output", str(tmp_path), "--launcher", "ray"]
    with pytest.raises(UserError, match="--launcher: ray is not installed here") as caught:
        train.main(words)
    assert caught.value.hint == "pip install -e '.[ray]'"
    with pytest.raises(SystemExit):
        ensemble_inference.main([str(best), "--launcher", "ray", "--deadline", "1h"])


def test_out_of_fold_predictions_are_spread_over_the_gpus(chain: Chain, monkeypatch):
    """A process for each weights file, with the arguments of this one."""
    queued = []
    slots = [Slot({"CUDA_VISIBLE_DEVICES": str(index)}, frozenset({0})) for index in range(2)]
    monkeypatch.setattr(command, "slots_of", lambda device, per_device: slots)
    monkeypatch.setattr(command, "run_queue", lambda *args: queued.extend(args))
    words = ["--output", str(chain.runs), "--set", *chain.sets]
    predict_oof.main(["--config", str(chain.folder / "a.yml"), str(chain.folder / "b.yml"), *words])
    jobs, commands, used = queued
    assert [job.name for job in jobs] == [f"{name}_f{fold}.safetensors" for name in "ab" for fold in range(2)]
    assert used == slots
    weights, config = chain.weights("b", 1), str(chain.folder / "b.yml")
    assert commands[3].output == chain.runs / "b" / "fold1" / "output.log"
    start = [sys.executable, str(ROOT / "predict_oof.py"), "--weights", str(weights), "--output", str(chain.runs)]
    assert commands[3].words == [*start, "--config", config, "--set", *chain.sets]


@pytest.mark.slow
def test_parallel_folds_make_the_files_of_a_sequential_run(tmp_path, capsys):
    words = ["--config", str(experiment(tmp_path, "a")), "--output"]
    train.main([*words, str(tmp_path / "one")])
    train.main([*words, str(tmp_path / "two"), "--parallel-folds", "2"])
    assert artefacts(tmp_path / "one") == artefacts(tmp_path / "two")
    assert len(artefacts(tmp_path / "two")) == 6  # weights and scores of 3 folds
    assert "a fold 2  finished  epoch 2/2  f2 0." in capsys.readouterr().out
    train.main([*words, str(tmp_path / "two"), "--parallel-folds", "2"])
    assert capsys.readouterr().out.count("finished already") == 3


@pytest.mark.slow
def test_a_job_array_is_fold_and_the_locks(tmp_path):
    """The sbatch file of docs/scale.md, as SLURM runs it: one shell for each task of the array, at the same time."""
    text = (ROOT / "docs" / "scale.md").read_text()
    script = re.search(r"```bash\n(#!/bin/bash\n#SBATCH.*?)```", text, re.DOTALL).group(1)
    assert "#SBATCH --array=0-2" in script and "clipart_tiny.yml" in script
    place = tmp_path / "submitted"
    (place / ".venv" / "bin").mkdir(parents=True)
    (place / ".venv" / "bin" / "activate").write_text(f'PATH="{Path(sys.executable).parent}:$PATH"\n')
    for name in ("train.py", "src", "data"):
        (place / name).symlink_to(ROOT / name)
    experiment(place, "clipart_tiny")
    (place / "job.sh").write_text(script)
    tasks = [
        subprocess.Popen(
            ["bash", str(place / "job.sh")],
            cwd=tmp_path,
            env=os.environ
            | {"SLURM_ARRAY_TASK_ID": str(fold), "SLURM_SUBMIT_DIR": str(place), "SLURM_CPUS_PER_TASK": "1"},
            stderr=subprocess.PIPE,
        )
        for fold in range(3)
    ]
    errors = [task.communicate()[1].decode() for task in tasks]
    assert [task.returncode for task in tasks] == [0, 0, 0], errors
    train.main(["--config", str(place / "clipart_tiny.yml"), "--output", str(tmp_path / "one")])
    assert artefacts(place / "runs") == artefacts(tmp_path / "one")


@pytest.mark.parametrize(
    ("word", "value", "text"),
    [
        ("--gpus-per-job", "1.5", "a task has a part of one GPU or whole ones, got 1.5"),
        ("--gpus-per-job", "-1", "expected a number from 0 up, got -1.0"),
        ("--cpus-per-job", "nan", "expected a number from 0 up, got nan"),
        ("--cpus-per-job", "inf", "expected a number from 0 up, got inf"),
    ],
)
def test_numbers_that_no_task_can_have(word, value, text, tmp_path):
    config = experiment(tmp_path, "a")
    with pytest.raises(UserError) as caught:
        train.main(["--config", str(config), "--output", str(tmp_path), "--launcher", "ray", f"{word}={value}"])
    assert (caught.value.key, caught.value.message) == (word, text)
