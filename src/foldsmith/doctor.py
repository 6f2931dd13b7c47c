"""What a bug report needs: versions, device, threads, free space, caches, and whether a tiny training works here."""

import importlib.metadata
import os
import platform
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

import foldsmith
from foldsmith.config import Config
from foldsmith.errors import UserError
from foldsmith.files import code_sha256, write_bytes, write_text
from foldsmith.inference.decoded import free_memory

PACKAGES = ["torch", "torchvision", "timm", "albumentations", "albucore", "opencv-python-headless", "opencv-python"]
PACKAGES += ["numpy", "scipy", "scikit-learn", "iterative-stratification", "pydantic", "pyyaml", "safetensors"]
PACKAGES += ["cryptography", "matplotlib", "tqdm"]
VARIABLES = ["OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES", "CUBLAS_WORKSPACE_CONFIG", "OPENCV_IO_MAX_IMAGE_PIXELS"]
VARIABLES += ["HF_HUB_OFFLINE", "TMPDIR"]


def examine(device: torch.device) -> dict[str, Any]:
    """Facts by group; each a plain value. Runs the self-test on `device`."""
    return {
        "foldsmith": {"version": foldsmith.__version__, "code": code_sha256()[:12], "python": sys.version.split()[0]},
        "system": {"os": platform.platform(), "cpu": _cpu()},
        "packages": {name: version for name in PACKAGES if (version := _version(name))},
        "device": _devices(),
        "threads": {
            "cores": len(os.sched_getaffinity(0)),
            "torch": torch.get_num_threads(),
            "opencv": cv2.getNumThreads(),
        },
        "environment": {name: os.environ[name] for name in VARIABLES if name in os.environ},
        "space": {
            "memory free": _gigabytes(free_memory()),
            **{
                f"free in {folder}": _gigabytes(shutil.disk_usage(folder).free)
                for folder in (Path.cwd(), tempfile.gettempdir(), "/dev/shm")
                if os.path.isdir(folder)
            },
        },
        "cache": {str(folder): _gigabytes(_size(folder)) for folder in _cache_folders() if folder.is_dir()},
        "self-test": self_test(device),
    }


def describe(facts: dict[str, Any]) -> str:
    """The facts as text, a line each."""
    lines = []
    for group, values in facts.items():
        lines.append(group)
        lines += [f"  {name}: {value}" for name, value in values.items()] or ["  nothing"]
    return "\n".join(lines)


def self_test(device: torch.device) -> dict[str, Any]:
    """Train and predict a tiny competition of made-up images, with two loading processes; a few seconds."""
    from foldsmith.training.oof import predict_oof
    from foldsmith.training.run import train_experiment

    started = time.monotonic()
    try:
        with tempfile.TemporaryDirectory(prefix="foldsmith-doctor-") as folder:
            config = _tiny_competition(Path(folder))
            train_experiment(config, output=Path(folder), device=device, only_fold=0)
            (npy,) = predict_oof(config, [], output=Path(folder), device=device)
            rows, classes = np.load(npy, allow_pickle=False).shape
    except (UserError, RuntimeError, OSError) as error:
        return {"ok": False, "error": str(error), "seconds": round(time.monotonic() - started, 1)}
    return {"ok": (rows, classes) == (24, 2), "device": str(device), "seconds": round(time.monotonic() - started, 1)}


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
        "train": {"num_epochs": 1, "batch_size": 8, "workers": 2},
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
        found[f"cuda:{index}"] = f"{of_device.name}, {_gigabytes(of_device.total_memory)}, CUDA {torch.version.cuda}"
    return found


def _cache_folders() -> list[Path]:
    """Where timm and torch keep the weights that they downloaded."""
    home = Path(os.environ.get("HF_HOME", Path.home() / ".cache" / "huggingface"))
    return [home / "hub", Path(torch.hub.get_dir())]


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink())


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:.1f} GB"
