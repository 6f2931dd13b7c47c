#!/usr/bin/env python3
"""The arithmetic of docs/scale.md: 100 times iMet 2019 on 8 nodes of 8 GPUs, each number derived or measured here.

.venv/bin/python benchmarks/scale_arithmetic.py        about 3 minutes, 4 GB

Lines marked `measured` come from this machine, `given` from iMet 2019 or the assumptions at the top of the file, all
others are computed from them.
"""

import subprocess
import sys
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np
import timm
import torch
from torch.utils.flop_counter import FlopCounterMode

from foldsmith.metrics import find_metric

IMAGES, CLASSES, LABELS = 109_237, 1_103, 3.2  # of iMet 2019; labels an image
TIMES, FOLDS, EPOCHS, MEMBERS = 100, 5, 20, 7
NODES, GPUS = 8, 8
ARCH, SIDE = "seresnext101_32x4d", 288
NATIVE = (300, 400)  # the shorter side of iMet's images has 300 pixels
PEAK, SHARE = 312e12, 0.35  # FLOP/s of an A100 in half precision by its data sheet; the share that is assumed reached
BATCHES = (32, 128)  # images a GPU
ENTRIES = 4_097_113  # at iMet's size, of 7 members, above the proved floor (docs/ensemble.md)

TABLE = """
import sys, time
from pathlib import Path
from foldsmith.config import Config
from foldsmith.data.tables import read_table
def resident():  # kB; the largest size would be the parent's
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmRSS"))
before = resident()
config = Config.model_validate({"data": {"root": sys.argv[1]}, "model": {"arch": "x", "input_size": 8},
    "train": {"num_epochs": 1}, "optimizer": {"name": "adamw"}})
started = time.monotonic()
table = read_table(config)
paths = [Path(sys.argv[1]) / "train" / f"{name}.png" for name in table.ids]
print(time.monotonic() - started, (resident() - before) * 1024)
"""


def say(what: str, value: float, unit: str, how: str) -> None:
    for factor, prefix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= factor and unit in ("B", "B/s", "bit/s", "FLOP", "images", "images/s"):
            value, unit = value / factor, prefix + unit
            break
    print(f"{what:58}  {value:10.4g} {unit:10}  {how}", flush=True)


def network() -> tuple[int, float]:
    """Parameters, and floating-point operations of one image's forward pass."""
    with torch.device("meta"):
        model = timm.create_model(ARCH, num_classes=CLASSES).eval()
        with FlopCounterMode(display=False) as counter:
            model(torch.empty(1, 3, SIDE, SIDE))
    return sum(parameter.numel() for parameter in model.parameters()), counter.get_total_flops()


def decoding(*form: int | str) -> tuple[float, float]:
    """Bytes of a file, and seconds to decode it on one core: data/clipart, scaled to iMet's size.

    Args:
        form: the extension, and cv2's flags.
    """
    files, seconds = [], 0.0
    cv2.setNumThreads(1)
    for path in sorted(Path("data/clipart/train").iterdir())[:200]:
        image = cv2.resize(cv2.imread(str(path)), NATIVE[::-1], interpolation=cv2.INTER_CUBIC)
        files.append(cv2.imencode(form[0], image, form[1:])[1])
    for file in files:
        started = time.perf_counter()
        cv2.imdecode(file, cv2.IMREAD_COLOR)
        seconds += time.perf_counter() - started
    return sum(map(len, files)) / len(files), seconds / len(files)


def table(rows: int) -> tuple[float, float]:
    """Seconds and bytes of memory of a label table and its images' paths."""
    generator = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "labels.csv").write_text(
            "attribute_id,attribute_name\n" + "".join(f"{index},tag::{index}\n" for index in range(CLASSES))
        )
        (Path(folder) / "sample_submission.csv").write_text("id,attribute_ids\n0,0\n")
        labels = generator.integers(0, CLASSES, (rows, 3))
        with open(Path(folder) / "train.csv", "w") as file:
            file.write("id,attribute_ids\n")
            file.writelines(f"{row:016x},{a} {b} {c}\n" for row, (a, b, c) in enumerate(labels.tolist()))
        done = subprocess.run([sys.executable, "-c", TABLE, folder], capture_output=True, text=True, check=True)
    seconds, size = map(float, done.stdout.split())
    return seconds, size


def scoring(rows: int) -> float:
    """Seconds of the exact threshold of F2 on predictions like iMet's: few entries stand out."""
    generator = np.random.default_rng(0)
    targets = generator.random((rows, CLASSES), dtype=np.float32) < LABELS / CLASSES
    probabilities = generator.random((rows, CLASSES), dtype=np.float32) ** 40
    probabilities[targets] = generator.random(int(targets.sum()), dtype=np.float32)
    started = time.monotonic()
    find_metric("f2", "multilabel").best(probabilities, targets)
    return time.monotonic() - started


def main() -> None:
    images, gpus = IMAGES * TIMES, NODES * GPUS
    trained = images * (FOLDS - 1) / FOLDS
    file, decode = decoding(".jpg", cv2.IMWRITE_JPEG_QUALITY, 90)
    png, png_decode = decoding(".png")
    say("images", images, "images", f"given: {IMAGES} x {TIMES}")
    say("an image's JPEG file", file, "B", "measured: data/clipart at 300 x 400, quality 90")
    say("all files", images * file, "B", "images x file")
    say("as PNG", png, "B", "measured: the same images")
    say("all files as PNG", images * png, "B", "images x file")
    say("cache of native pixels", images * NATIVE[0] * NATIVE[1] * 3, "B", "images x 300 x 400 x 3")
    say(f"cache at {SIDE} px with a jitter of 32", images * (SIDE + 32) ** 2 * 3, "B", "images x 320 x 320 x 3")

    parameters, flops = network()
    say(f"parameters of {ARCH}", parameters / 1e6, "million", "measured")
    say("forward pass of an image", flops, "FLOP", f"measured at {SIDE} px")
    per_gpu = PEAK * SHARE / (3 * flops)
    say("a GPU trains", per_gpu, "images/s", "312 TFLOP/s x 0.35 / (3 x forward)")
    say("all GPUs", per_gpu * gpus, "images/s", f"x {gpus}")
    epoch = trained / (per_gpu * gpus)
    say("an epoch of a fold", epoch, "s", "4/5 of the images")
    hours = epoch * EPOCHS * FOLDS / 3600
    say(f"{FOLDS} folds of {EPOCHS} epochs", hours, "h", "training alone")
    say("decoding of an image on one core", decode * 1e3, "ms", "measured")
    say("cores a node that decode, without a cache", per_gpu * GPUS * decode, "cores", "a node's images/s x decoding")
    say("decoding of a PNG", png_decode * 1e3, "ms", "measured")
    say("cores a node that decode PNG", per_gpu * GPUS * png_decode, "cores", "a node's images/s x decoding")
    say("PNG files read by a node", per_gpu * GPUS * png, "B/s", "a node's images/s x file")
    say("files read by a node, without a cache", per_gpu * GPUS * file, "B/s", "a node's images/s x file")

    gradient = parameters * 4
    sent = 2 * (gpus - 1) / gpus * gradient
    say("gradients sent by a GPU in a step", sent, "B", "ring all-reduce: 2 (N-1)/N x 4 bytes a parameter")
    for batch in BATCHES:
        step = batch / per_gpu
        say(f"  in a step of {batch} images a GPU, {step * 1e3:.0f} ms", sent * 8 / step, "bit/s", "out of each node")
    say("mixup: images exchanged by a GPU in a step", BATCHES[0] * 3 * SIDE * SIDE * 4, "B", "32 x 3 x 288 x 288 x 4")

    valid = images // FOLDS
    seconds = scoring(IMAGES // FOLDS)
    say("validation: probabilities gathered in process 0", valid * CLASSES * 4, "B", "images of a fold x classes x 4")
    say("exact threshold, at iMet's size", seconds, "s", f"measured: {IMAGES // FOLDS} rows")
    say("exact threshold, 100 times", seconds * TIMES, "s", "x 100, while the GPUs wait")
    say("OOF predictions of an experiment", images * CLASSES * 4, "B", "images x classes x 4")
    say("last.ckpt with Adam and EMA", parameters * 4 * 4, "B", "weights, two moments, EMA: 4 x 4 bytes a parameter")

    seconds, size = table(1_000_000)
    say("label table and paths of a million rows", size, "B", f"measured; read in {seconds:.0f} s")
    say("label table and paths, a process", size * images / 1e6, "B", "x 10.9")
    say("label table and paths, a node", size * images / 1e6 * GPUS, "B", f"x {GPUS} processes")

    entry = MEMBERS * 4 + 4 + 4 + 1
    say("an entry of the blend search", entry, "B", "7 float32 values, row, class, whether it is a label")
    say("entries above the proved floor, at iMet's size", ENTRIES / 1e6, "million", "given: docs/ensemble.md")
    say("entries, 100 times", ENTRIES * TIMES * entry, "B", "x 100; while it is built, once more")
    say("labels as a table of bools", images * CLASSES, "B", "images x classes")
    say("OOF files read by a pass", images * CLASSES * 4 * MEMBERS, "B", "7 members, streamed")


if __name__ == "__main__":
    main()
