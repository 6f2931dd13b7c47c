"""Images to probabilities: the one path that validation, out-of-fold prediction, inference and the kernel share."""

import os
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from tqdm import tqdm

from foldsmith.config import Config
from foldsmith.data.images import Geometry, Image, ImageError, geometry_of, read_image
from foldsmith.errors import UserError
from foldsmith.inference.views import VIEWS
from foldsmith.metrics import Probabilities

AMP_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Pipeline:
    """All that turns image files into a model's input: how they are cut, scaled to numbers, batched and computed."""

    geometry: Geometry
    mean: list[float]  # of RGB in 0..1
    std: list[float]
    batch_size: int
    device: torch.device
    amp: str | None  # "bf16", "fp16" or None for float32
    task: str  # of data.task: whether logits become probabilities by a sigmoid or a softmax


def pipeline_of(config: Config, device: torch.device) -> Pipeline:
    """The pipeline of a resolved config (model.mean and model.std filled in)."""
    assert config.model.mean is not None and config.model.std is not None
    return Pipeline(
        geometry=geometry_of(config),
        mean=config.model.mean,
        std=config.model.std,
        batch_size=config.test.batch_size,
        device=device,
        amp=amp_of(config, device),
        task=config.data.task,
    )


def amp_of(config: Config, device: torch.device) -> str | None:
    """The mixed precision to use: train.amp when it is named, else fp16 on CUDA and none on CPU."""
    amp = config.train.amp or ("fp16" if device.type == "cuda" else "off")
    return None if amp == "off" else amp


def autocast(device: torch.device, amp: str | None) -> AbstractContextManager:
    """torch's autocast for `amp`; does nothing when it is None."""
    return torch.autocast(device.type, dtype=AMP_DTYPES.get(amp or ""), enabled=amp is not None)


def pick_device(name: str | None) -> torch.device:
    """The device of `--device`; by default CUDA when there is one."""
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError(
            "torch sees no CUDA device", key="--device", hint="--device cpu, or a driver that fits this torch"
        )
    return torch.device(name)


def to_input(images: Tensor, mean: Sequence[float], std: Sequence[float], device: torch.device) -> Tensor:
    """uint8 (N, H, W, 3) to normalised float32 (N, 3, H, W) on the device, in channels_last memory format."""
    x = images.to(device, non_blocking=True).permute(0, 3, 1, 2).float()  # a permuted view is channels_last already
    # One multiplication and one addition, on numbers rounded once: (x / 255 - mean) / std
    scale = torch.tensor([1 / (255 * s) for s in std], device=device).view(1, 3, 1, 1)
    shift = torch.tensor([-m / s for m, s in zip(mean, std, strict=True)], device=device).view(1, 3, 1, 1)
    return x.mul_(scale).add_(shift)


def to_probabilities(logits: Tensor, task: str) -> Tensor:
    """Logits (N, classes) to float32 probabilities: sigmoids, or a softmax where one label excludes the others."""
    return logits.float().softmax(dim=1) if task == "multiclass" else logits.float().sigmoid()


def predict(
    model: nn.Module, paths: Sequence[Path], pipeline: Pipeline, views: Sequence[str], description: str
) -> Probabilities:
    """Probabilities of every image, averaged over views.

    Args:
        model: on the pipeline's device; put into eval mode.
        views: names in VIEWS.
        description: label of the progress bar.

    Returns:
        float32 (images, classes), rows in the order of `paths`.

    Raises:
        UserError: when an image can't be read, or the model gives NaN.
    """
    model.eval()
    parts: list[NDArray[np.float32]] = []
    device = pipeline.device
    with torch.inference_mode(), tqdm(total=len(paths), desc=description, unit="img", disable=None, leave=False) as bar:
        for images in _batches(paths, pipeline.geometry, pipeline.batch_size):
            batch = torch.from_numpy(images)
            x = to_input(batch.pin_memory() if device.type == "cuda" else batch, pipeline.mean, pipeline.std, device)
            total: Tensor | None = None
            for view in views:
                with autocast(device, pipeline.amp):
                    logits = model(VIEWS[view](x))
                of_view = to_probabilities(logits, pipeline.task)
                total = of_view if total is None else total + of_view
            assert total is not None
            parts.append((total / len(views)).cpu().numpy())
            bar.update(len(images))
    probabilities = np.concatenate(parts)
    if not np.isfinite(probabilities).all():
        raise UserError(
            f"{description}: the model's output is not finite", hint="a smaller learning rate, or train.amp: off"
        )
    return probabilities


def _batches(paths: Sequence[Path], geometry: Geometry, batch_size: int) -> Iterator[NDArray[np.uint8]]:
    """Batches (n, H, W, 3), decoded by threads (OpenCV releases the GIL) two batches ahead of the model."""

    def load(path: Path) -> Image:
        try:
            return geometry.center(read_image(path))
        except ImageError as error:
            raise UserError(f"is not a readable image: {error}", file=path) from None

    threads = max(1, len(os.sched_getaffinity(0)))
    with ThreadPoolExecutor(threads, thread_name_prefix="decode") as pool:
        ahead: deque[list[Future[Image]]] = deque()
        for start in range(0, len(paths), batch_size):
            ahead.append([pool.submit(load, path) for path in paths[start : start + batch_size]])
            if len(ahead) > 2:
                yield np.stack([future.result() for future in ahead.popleft()])
        while ahead:
            yield np.stack([future.result() for future in ahead.popleft()])
