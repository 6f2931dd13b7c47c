"""Images to probabilities: the one path that validation, out-of-fold prediction, inference and the kernel share."""

import functools
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from tqdm import tqdm

from foldsmith.config import Config
from foldsmith.data.images import Geometry, geometry_of
from foldsmith.errors import OUT_OF_MEMORY, UserError
from foldsmith.failpoints import fail
from foldsmith.inference.decoded import Canvas, DecodedImages
from foldsmith.inference.views import make_view, margin_of
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
    """The mixed precision to use: train.amp when it is named, else fp16 on CUDA and none on CPU.

    fp16 is for CUDA alone; a GPU that only emulates bf16 gets fp16 instead.
    """
    if device.type != "cuda":
        return "bf16" if config.train.amp == "bf16" else None
    amp = config.train.amp or "fp16"
    if amp == "bf16" and not torch.cuda.is_bf16_supported(including_emulation=False):
        return "fp16"
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


def pick_devices(name: str | None) -> list[torch.device]:
    """Every CUDA device of the machine, else the CPU; `name` as in `pick_device`."""
    device = pick_device(name)
    count = torch.cuda.device_count() if device.type == "cuda" else 1
    return [torch.device("cuda", index) for index in range(count)] if count > 1 else [device]


def to_input(images: Tensor, mean: Sequence[float], std: Sequence[float], device: torch.device) -> Tensor:
    """uint8 (N, H, W, 3) to normalised float32 (N, 3, H, W) on the device, in channels_last memory format."""
    x = images.to(device, non_blocking=True).permute(0, 3, 1, 2).float()  # a permuted view is channels_last already
    scale, shift = _scale_and_shift(tuple(mean), tuple(std), device)
    return x.mul_(scale).add_(shift)


@functools.lru_cache(maxsize=32)  # else each batch would wait for two copies to the device
def _scale_and_shift(mean: tuple[float, ...], std: tuple[float, ...], device: torch.device) -> tuple[Tensor, Tensor]:
    """One multiplication and one addition, of numbers rounded once, for (x / 255 - mean) / std."""
    with torch.inference_mode(False):  # training uses them, too
        scale = torch.tensor([1 / (255 * s) for s in std], device=device).view(1, 3, 1, 1)
        shift = torch.tensor([-m / s for m, s in zip(mean, std, strict=True)], device=device).view(1, 3, 1, 1)
    return scale, shift


def to_probabilities(logits: Tensor, task: str) -> Tensor:
    """Logits (N, classes) to float32 probabilities: sigmoids, or a softmax where one label excludes the others."""
    return logits.float().softmax(dim=1) if task == "multiclass" else logits.float().sigmoid()


def predict(
    model: nn.Module,
    images: DecodedImages,
    pipeline: Pipeline,
    views: Sequence[str],
    description: str,
    *,
    merge: str = "mean",
    canvas: Canvas | None = None,
    before_batch: Callable[[int], int] | None = None,
    fits: "Fits | None" = None,
    bar: bool = True,
) -> Probabilities:
    """Probabilities of every image, merged over views.

    Args:
        model: on the pipeline's device; put into eval mode.
        views: names of single views (views.expand_views).
        description: label of the progress bar.
        merge: name in MERGES.
        canvas: what to cut the views from; None: what these views need.
        before_batch: called with the number of images that are done, before each batch: how many of the views it gets;
            may raise to end the run.
        fits: what is known of how many images go through at once; it is kept for the next call.
        bar: show one where the output is a terminal.

    Returns:
        float32 (images, classes), rows in the order of the images' paths.

    Raises:
        UserError: when an image can't be read.
        NotFinite: the model gives NaN.
    """
    model.eval()
    parts: list[NDArray[np.float32]] = []
    running: list[Tensor] = []  # results of the batch before, which a GPU may still be computing
    geometry = pipeline.geometry
    canvas = canvas or Canvas(geometry, margin_of(views, geometry.height, geometry.width))
    done, batches = 0, _Batches(model, pipeline, merge, fits or Fits(pipeline.batch_size))
    with (
        torch.inference_mode(),
        tqdm(total=len(images), desc=description, unit="img", disable=None if bar else True, leave=False) as shown,
    ):
        for batch in images.batches(canvas, pipeline.batch_size):
            fail("predict.batch")
            count = len(views) if before_batch is None else before_batch(done)
            following = batches.predict(batch, views[:count])
            parts += [result.cpu().numpy() for result in running]
            running = following
            done += len(batch)
            shown.update(len(batch))
        parts += [result.cpu().numpy() for result in running]
    probabilities = np.concatenate(parts)
    bad = np.flatnonzero(~np.isfinite(probabilities).all(axis=1))
    if len(bad):
        raise NotFinite(f"{description}: the model's output is not finite", [images.paths[row].name for row in bad])
    return probabilities


class NotFinite(UserError):
    """A model gave NaN or infinity for some images."""

    def __init__(self, message: str, names: Sequence[str]) -> None:
        listed = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
        super().__init__(f"{message} for {listed}", hint="train with a smaller learning rate, or train.amp: off")


@dataclass
class Fits:
    """How many images go through a network at once on a device, as far as is known."""

    images: int


class _Batches:
    """Predicts batches, in smaller parts once the memory did not hold a whole one."""

    def __init__(self, model: nn.Module, pipeline: Pipeline, merge: str, fits: Fits) -> None:
        self.model, self.pipeline, self.merge, self.fits = model, pipeline, merge, fits

    def predict(self, batch: NDArray[np.uint8], views: Sequence[str]) -> list[Tensor]:
        """Probabilities of a batch, in parts of its images, on the device."""
        results: list[Tensor] = []
        start = 0
        while start < len(batch):
            part = batch[start : start + self.fits.images]
            try:
                results.append(self._forward(part, views))
                start += len(part)
                continue
            except (RuntimeError, MemoryError) as error:  # torch.OutOfMemoryError is a RuntimeError
                if not is_out_of_memory(error) or len(part) == 1:
                    raise
            # Outside of the handler, which holds what the failed part had allocated.
            if self.pipeline.device.type == "cuda":
                torch.cuda.empty_cache()
            self.fits.images = -(-len(part) // 2)
            tqdm.write(f"out of memory: {len(part)} images at once are too many, {self.fits.images} from now on")
        return results

    def _forward(self, batch: NDArray[np.uint8], views: Sequence[str]) -> Tensor:
        device, geometry = self.pipeline.device, self.pipeline.geometry
        fail("predict.forward")
        images = torch.from_numpy(batch)
        images = images.pin_memory() if device.type == "cuda" else images
        x = to_input(images, self.pipeline.mean, self.pipeline.std, device)
        with autocast(device, self.pipeline.amp):  # around all views: it casts the weights once
            logits = [self.model(make_view(view, x, geometry.height, geometry.width)) for view in views]
        return MERGES[self.merge]([of_view.float() for of_view in logits], self.pipeline.task)


def is_out_of_memory(error: Exception) -> bool:
    """True for what torch and its libraries raise on CUDA and on CPU when memory runs out."""
    known = isinstance(error, torch.OutOfMemoryError | MemoryError)
    return known or any(words in str(error) for words in OUT_OF_MEMORY)


def _mean(logits: list[Tensor], task: str) -> Tensor:
    total = to_probabilities(logits[0], task)
    for of_view in logits[1:]:
        total = total + to_probabilities(of_view, task)
    return total / len(logits)


def _geometric(logits: list[Tensor], task: str) -> Tensor:
    mean = torch.stack([to_probabilities(of_view, task).clamp_min(1e-12).log() for of_view in logits]).mean(0).exp()
    return mean / mean.sum(dim=1, keepdim=True) if task == "multiclass" else mean


# How the logits (N, classes) of several views become probabilities.
MERGES: dict[str, Callable[[list[Tensor], str], Tensor]] = {
    "mean": _mean,
    "logits": lambda logits, task: to_probabilities(torch.stack(logits).mean(0), task),
    "max": lambda logits, task: to_probabilities(torch.stack(logits).amax(0), task),
    "geometric": _geometric,
}
