"""What a bug report needs: versions, device, threads, free space, caches, and whether a tiny training works here."""

import importlib.metadata
import multiprocessing
import os
import platform
import shutil
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

import foldsmith
from foldsmith.config import Config
from foldsmith.data.cache import cache_folder
from foldsmith.errors import EXIT_ENVIRONMENT, as_user_error
from foldsmith.files import code_sha256, write_bytes, write_text
from foldsmith.inference.decoded import free_memory
from foldsmith.inference.predict import pick_device

PACKAGES = ["torch", "torchvision", "timm", "albumentations", "albucore", "opencv-python-headless", "opencv-python"]
PACKAGES += ["numpy", "scipy", "scikit-learn", "iterative-stratification", "pydantic", "pyyaml", "safetensors"]
PACKAGES += ["cryptography", "matplotlib", "tqdm"]
VARIABLES = ["OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES", "CUBLAS_WORKSPACE_CONFIG", "OPENCV_IO_MAX_IMAGE_PIXELS"]
VARIABLES += ["HF_HUB_OFFLINE", "TMPDIR", "XDG_CACHE_HOME"]

# Seconds of the self-test: until it is told to stop, and until the process ends if it does not.
ENOUGH, AT_MOST = 8.0, 9.5


def examine() -> dict[str, Any]:
    """Facts by group; each a plain value. A group that cannot be found out holds the error: it is what was asked."""
    facts = {}
    for group, find in _GROUPS.items():
        try:
            facts[group] = find()
        except Exception as error:
            facts[group] = {"error": f"{type(error).__name__}: {error}"}
    return facts


def describe(facts: dict[str, Any]) -> str:
    """The facts as text, a line each."""
    lines = []
    for group, values in facts.items():
        lines.append(group)
        lines += [f"  {name}: {value}" for name, value in values.items()] or ["  nothing"]
    return "\n".join(lines)


class _TimeIsUp(BaseException):
    """Raised in the self-test by the alarm; no `except Exception` of the code under test takes it."""


def self_test(name: str | None, give_up: Callable[[dict[str, Any]], None] = lambda result: None) -> dict[str, Any]:
    """Train and predict a tiny competition of made-up images, with two loading processes; 10 seconds at most.

    Args:
        name: of the device, as of `pick_device`.
        give_up: gets the result, before the process ends with code 3, where the test does not stop when it is told to:
            a driver that hangs hears no signal.
    """
    started = time.monotonic()

    def end(error: str = "", **more: Any) -> dict[str, Any]:
        said = {"error": error} if error else {}
        return {"ok": not error, **said, **more, "seconds": round(time.monotonic() - started, 1)}

    def ring(*args: object) -> None:
        raise _TimeIsUp

    def leave() -> None:
        for process in multiprocessing.active_children():
            process.kill()
        give_up(end(f"hung, and did not hear that it was to stop after {ENOUGH:g} seconds"))
        os._exit(EXIT_ENVIRONMENT)

    backstop = threading.Timer(AT_MOST, leave)
    backstop.daemon = True
    backstop.start()
    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, ENOUGH)
    try:
        device = pick_device(name)
        shape = _train_and_predict(device)
        return end("" if shape == (24, 2) else f"predictions of shape {shape}", device=str(device))
    except _TimeIsUp:
        return end(f"did not end within {ENOUGH:g} seconds, and was stopped")
    except Exception as error:
        if known := as_user_error(error):
            return end(str(known))
        return end(f"{type(error).__name__}: {error}", traceback=traceback.format_exc())
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        backstop.cancel()


def _train_and_predict(device: torch.device) -> tuple[int, ...]:
    """Returns the shape of the predictions."""
    from foldsmith.training.oof import predict_oof
    from foldsmith.training.run import train_experiment

    with tempfile.TemporaryDirectory(prefix="foldsmith-doctor-", ignore_cleanup_errors=True) as folder:
        config = _tiny_competition(Path(folder))
        train_experiment(config, output=Path(folder), device=device, only_fold=0)
        (npy,) = predict_oof(config, [], output=Path(folder), device=device)
        return tuple(np.load(npy, allow_pickle=False).shape)


def _tiny_competition(folder: Path) -> Config:
    """48 JPEGs of 64 x 48 pixels, dark or bright, and an experiment on them."""
    generator = np.random.default_rng(0)
    lines = ["id,label"]
    for number in range(48):
        bright = number % 2
        image = generator.integers(0, 128, (48, 64, 3), dtype=np.uint8) + np.uint8(127 * bright)
        write_bytes(folder / "train" / f"{number}.jpg", cv2.imencode(".jpg", image)[1].tobytes())
        lines.append(f"{number},{('dark', 'bright')[bright]}")
    write_text(folder / "train.csv", "\n".join(lines) + "\n")
    values = {
        "data": {"root": str(folder), "num_folds": 2},
        "model": {"arch": "test_efficientnet", "pretrained": False, "input_size": 32},
        "train": {"num_epochs": 1, "batch_size": 8, "workers": 2, "worker_timeout": 3},
        "optimizer": {"name": "adamw", "params": {"lr": 1e-3}},
        "augmentations": {"hflip": True, "affine": "medium"},
    }
    return Config.model_validate(values).named("doctor")


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.machine())


def _devices() -> dict[str, str]:
    if not torch.cuda.is_available():
        return {"cpu": f"no CUDA device (torch is built for CUDA {torch.version.cuda or 'none'})"}
    found = {}
    for index in range(torch.cuda.device_count()):
        of_device = torch.cuda.get_device_properties(index)
        found[f"cuda:{index}"] = f"{of_device.name}, {_in_bytes(of_device.total_memory)}, CUDA {torch.version.cuda}"
    return found


def _versions() -> dict[str, str]:
    return {"version": foldsmith.__version__, "code": code_sha256()[:12], "python": sys.version.split()[0]}


def _threads() -> dict[str, int]:
    cores = len(os.sched_getaffinity(0))
    return {"cores": cores, "torch": torch.get_num_threads(), "opencv": cv2.getNumThreads()}


def _space() -> dict[str, str]:
    found = {"memory free": _in_bytes(free_memory())}
    try:
        temporary = tempfile.gettempdir()
    except FileNotFoundError as error:
        found["temporary files"] = str(error.strerror)
        temporary = ""
    for folder in (Path.cwd(), temporary, "/dev/shm"):
        if os.path.isdir(folder):
            found[f"free in {folder}"] = _in_bytes(shutil.disk_usage(folder).free)
    return found


def _caches() -> dict[str, str]:
    """Decoded images of this program (data.cache), and the weights that timm and torch downloaded."""
    home = Path(os.environ.get("HF_HOME", Path.home() / ".cache" / "huggingface"))
    images = cache_folder()
    found = {str(images): f"decoded images, {_in_bytes(_size(images))} in {len(list(images.glob('*.images')))} files"}
    for folder in (home / "hub", Path(torch.hub.get_dir())):
        if folder.is_dir():
            found[str(folder)] = f"downloaded weights, {_in_bytes(_size(folder))}"
    return found


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink())


def _in_bytes(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"


_GROUPS: dict[str, Callable[[], dict[str, Any]]] = {
    "foldsmith": _versions,
    "system": lambda: {"os": platform.platform(), "cpu": _cpu()},
    "packages": lambda: {name: version for name in PACKAGES if (version := _version(name))},
    "device": _devices,
    "threads": _threads,
    "environment": lambda: {name: os.environ[name] for name in VARIABLES if name in os.environ},
    "space": _space,
    "cache": _caches,
}
