#!/usr/bin/env python3
"""The arithmetic of docs/scale.md: 100 times iMet 2019 on 8 nodes of 8 GPUs, as Markdown to paste there.

.venv/bin/python benchmarks/scale_arithmetic.py        about 2 minutes, 4 GB

`measure` takes what this machine can tell, `section` derives everything else from that and from the assumptions at the
top of this file. The tests derive docs/scale.md anew from the measurements that stand in it.
"""

import contextlib
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

IMAGES, CLASSES, LABELS = 109_237, 1_103, 3.2  # of iMet 2019; labels an image
TIMES, FOLDS, EPOCHS, MEMBERS = 100, 5, 20, 7
NODES, GPUS = 8, 8
ARCH, SIDE, JITTER = "seresnext101_32x4d", 288, 32
NATIVE = (300, 400)  # the shorter side of iMet's images has 300 pixels
PEAK, SHARE = 312e12, 0.35  # FLOP/s of an A100 in half precision by its data sheet; the share that is assumed reached
BATCHES = (32, 128)  # images a GPU
NETWORK = 100e9  # bit/s out of a node, assumed
STAT = 0.2e-3  # seconds that a file server takes to tell a file's size, assumed
ROWS = 1_000_000  # of the label table that is measured
SEARCHED = (11_000, 33_000)  # images of the two searches that are measured

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
table = read_table(config)
paths = [Path(sys.argv[1]) / "train" / f"{name}.png" for name in table.ids]
print((resident() - before) * 1024)
"""
INDEX = """
import sys
from pathlib import Path
import numpy as np
from foldsmith.data import cache
def resident():  # kB; without the file, which processes share
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("RssAnon"))
count, start = int(sys.argv[2]), cache._header_size(int(sys.argv[2]))
paths = [Path(sys.argv[1]) / "train" / f"{row:016x}.png" for row in range(count)]
with open(f"{sys.argv[1]}/cache", "w+b") as file:  # of images of one pixel
    np.array([cache.MAGIC, count]).tofile(file)
    np.arange(start, start + 3 * count + 1, 3).tofile(file)
    np.ones(2 * count, dtype=np.int64).tofile(file)
    file.truncate(start + 3 * count)
    file.flush()
    before = resident()
    images = cache.CachedImages()
    assert images.add(file, paths)
print((resident() - before) * 1024)
"""


def network() -> tuple[float, float]:
    """Parameters, and floating-point operations of one image's forward pass."""
    import timm
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    with torch.device("meta"):
        model = timm.create_model(ARCH, num_classes=CLASSES).eval()
        with FlopCounterMode(display=False) as counter:
            model(torch.empty(1, 3, SIDE, SIDE))
    return float(sum(parameter.numel() for parameter in model.parameters())), float(counter.get_total_flops())


def decoding(*form: int | str) -> tuple[float, float]:
    """Bytes of a file, and seconds to decode it on one core: data/clipart, scaled to iMet's size.

    Args:
        form: the extension, and cv2's flags.
    """
    import cv2

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


def table() -> float:
    """Bytes of memory of a label table and its images' paths."""
    import numpy as np

    generator = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "labels.csv").write_text(
            "attribute_id,attribute_name\n" + "".join(f"{index},tag::{index}\n" for index in range(CLASSES))
        )
        (Path(folder) / "sample_submission.csv").write_text("id,attribute_ids\n0,0\n")
        labels = generator.integers(0, CLASSES, (ROWS, 3))
        with open(Path(folder) / "train.csv", "w") as file:
            file.write("id,attribute_ids\n")
            file.writelines(f"{row:016x},{a} {b} {c}\n" for row, (a, b, c) in enumerate(labels.tolist()))
        return float(subprocess.run([sys.executable, "-c", TABLE, folder], stdout=subprocess.PIPE, check=True).stdout)


def index() -> float:
    """Bytes of memory in which a process finds the images of a cache, beside their paths."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-c", INDEX, folder, str(ROWS)]
        return float(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)


def scoring() -> None:
    """Print seconds of F2's exact threshold, of all metrics of a validation, and bytes of memory they take at most.

    Predictions are like iMet's, of a fold of it: few entries stand out. In a process of its own.
    """
    import numpy as np

    from foldsmith.metrics import METRICS, find_metric

    rows, generator = IMAGES // FOLDS, np.random.default_rng(0)
    targets = generator.random((rows, CLASSES), dtype=np.float32) < LABELS / CLASSES
    probabilities = generator.random((rows, CLASSES), dtype=np.float32) ** 40
    probabilities[targets] = generator.random(int(targets.sum()), dtype=np.float32)
    Path("/proc/self/clear_refs").write_text("5")  # count the largest size from here
    before = resident("VmRSS")
    started = time.monotonic()
    find_metric("f2", "multilabel").best(probabilities, targets)
    threshold = time.monotonic() - started
    for name, metric in METRICS["multilabel"].items():
        if name != "f2":
            metric.best(probabilities, targets)
    print(json.dumps([threshold, time.monotonic() - started, resident("VmHWM") - before]))


def resident(which: str) -> float:
    """Bytes of this process by /proc: VmRSS now, VmHWM at most."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024.0 for line in lines if line.startswith(which))


def search(images: int) -> tuple[float, float]:
    """Seconds and bytes of memory of ensemble_search.py on seven members of so many images."""
    from ensemble_search import ROOT, make_data

    with tempfile.TemporaryDirectory() as folder:
        with contextlib.redirect_stdout(sys.stderr):
            make_data(Path(folder), images, CLASSES, MEMBERS, seed=2019)
        files = sorted(str(path) for path in Path(folder).glob("level1*.npy"))
        words = [str(ROOT / "ensemble_search.py"), str(Path(folder) / "best"), *files]
        words += ["--folds", str(Path(folder) / "folds.npy"), "--train-csv", str(Path(folder) / "train.csv")]
        code = "import resource, subprocess, sys, time; started = time.monotonic(); subprocess.run(sys.argv[1:], "
        code += "check=True, stdout=2); print(time.monotonic() - started, "
        code += "resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024)"
        command = [sys.executable, "-c", code, sys.executable, *words]
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True)
    seconds, size = map(float, done.stdout.split())
    return seconds, size


def measure() -> dict[str, float]:
    """What is measured here, in the units of `MEASURED`."""
    parameters, flops = network()
    jpeg, jpeg_decode = decoding(".jpg", 1, 90)  # IMWRITE_JPEG_QUALITY
    png, png_decode = decoding(".png")
    done = subprocess.run([sys.executable, __file__, "scoring"], stdout=subprocess.PIPE, check=True)
    threshold, scores, score_memory = json.loads(done.stdout)
    small, large = map(search, SEARCHED)
    per_image = [(more - less) / (SEARCHED[1] - SEARCHED[0]) for less, more in zip(small, large, strict=True)]
    found = [parameters / 1e6, flops / 1e9, jpeg / 1e3, jpeg_decode * 1e3, png / 1e3, png_decode * 1e3, table() / 1e6]
    found += [threshold, scores, score_memory / 1e9, per_image[0] * 1e3, per_image[1] / 1e3, index() / 1e6]
    return {name: float(f"{value:.4g}") for name, value in zip(MEASURED, found, strict=True)}


# name: (unit, how)
MEASURED = {
    f"parameters of {ARCH}": ("million", "counted"),
    "forward pass of an image": ("GFLOP", f"counted at {SIDE} px"),
    "a JPEG file": ("kB", "data/clipart scaled to 300 x 400, quality 90"),
    "decoding it": ("ms", "one core"),
    "a PNG file": ("kB", "the same images"),
    "decoding a PNG": ("ms", "one core"),
    "labels and paths of a million images": ("MB", "resident memory of a process"),
    "F2's exact threshold": ("s", f"{IMAGES // FOLDS:,} images, a fold of iMet"),
    "all metrics of a validation": ("s", "the same images, F2 among them"),
    "memory of scoring": ("GB", "the same, beside probabilities and labels"),
    "search, an image": ("ms", f"ensemble_search.py, {SEARCHED[1]:,} images less {SEARCHED[0]:,}"),
    "memory of the search, an image": ("kB", "the same difference"),
    "index of a cache of a million images": ("MB", "memory of a process, beside the paths"),
}


def amount(value: float, unit: str) -> str:
    """Two or three digits, with the prefix that is usual."""
    for factor, prefix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= factor and unit in ("B", "B/s", "bit/s"):
            value, unit = value / factor, prefix + unit
            break
    if unit == "s" and value >= 3600:
        value, unit = value / 3600, "h"
    elif unit == "s" and value >= 120:
        value, unit = value / 60, "min"
    number = f"{value:,.0f}" if value >= 100 else f"{value:.2g}"
    return f"{number} {unit}"


class Sums:
    """Everything that follows from the measurements, in bytes, seconds, bits a second."""

    def __init__(self, measured: dict[str, float]) -> None:
        values = list(measured.values())
        self.parameters, flops = values[0] * 1e6, values[1] * 1e9
        self.jpeg, self.jpeg_decode, self.png, self.png_decode = (value * 1e3 for value in values[2:6])
        self.jpeg_decode, self.png_decode = self.jpeg_decode / 1e6, self.png_decode / 1e6
        self.images, self.gpus = IMAGES * TIMES, NODES * GPUS
        self.valid = self.images // FOLDS
        self.labels = (values[6] + values[12]) * self.images  # MB of a million are bytes of one
        self.rate = PEAK * SHARE / (3 * flops)
        self.epoch = self.images * (FOLDS - 1) / FOLDS / (self.rate * self.gpus)
        self.validation = self.valid / (3 * self.rate * self.gpus)
        self.epochs = FOLDS * EPOCHS
        self.gradients = 2 * (self.gpus - 1) / self.gpus * self.parameters * 4
        self.steps = [batch / self.rate for batch in BATCHES]
        # Images of which the partner is on another node, as bytes; the same share of every step's time.
        self.mixup = [batch * GPUS * SIDE * SIDE * 3 * (NODES - 1) / NODES for batch in BATCHES]
        self.threshold, self.scores, self.score_memory = values[7] * TIMES, values[8] * TIMES, values[9] * 1e9 * TIMES
        self.gathered = self.valid * CLASSES * 4.0
        self.search, self.search_memory = values[10] / 1e3 * self.images, values[11] * 1e3 * self.images
        self.oof = self.images * CLASSES * 4.0
        self.start = 2 * self.images * STAT


def tables(s: Sums) -> dict[str, list[tuple[str, str, str]]]:
    """Rows of each table: what, how much, from what."""
    node = s.rate * GPUS
    crop = SIDE + JITTER
    out = [s.gradients * 8 / step for step in s.steps]
    mixed = [size * 8 / step for size, step in zip(s.mixup, s.steps, strict=True)]
    data = [
        ("images", f"{s.images / 1e6:.1f} million", f"{IMAGES:,} x {TIMES}"),
        ("files", f"{amount(s.images * s.jpeg, 'B')} as JPEG, {amount(s.images * s.png, 'B')} as PNG", "images x file"),
        ("decoded, native pixels", amount(s.images * NATIVE[0] * NATIVE[1] * 3.0, "B"), "images x 300 x 400 x 3"),
        (f"decoded, {SIDE} px and a jitter of {JITTER}", amount(s.images * crop * crop * 3.0, "B"),
         f"images x {crop} x {crop} x 3"),
        ("cache of a node", "all of it", "every epoch deals the images out anew: a node sees all of them in time"),
        ("building it", f"{amount(s.images * s.jpeg_decode, 's')} of a core for JPEG, "
         f"{amount(s.images * s.png_decode, 's')} for PNG", "images x decoding, on each node"),
        ("decoding without a cache", f"{node * s.jpeg_decode:.1f} cores a node for JPEG, "
         f"{node * s.png_decode:.0f} for PNG", f"{node:,.0f} images/s x decoding"),
        ("reading without a cache", f"{amount(node * s.jpeg, 'B/s')} a node for JPEG, "
         f"{amount(node * s.png, 'B/s')} for PNG", f"{node:,.0f} images/s x file"),
        ("labels, paths and the cache's index", f"{amount(s.labels, 'B')} a process, "
         f"{amount(s.labels * GPUS, 'B')} a node",
         f"each of {GPUS} processes has them"),
        ("sizes of all files, at every start", amount(s.start, "s"), "images x 2 x 0.2 ms, which are assumed: once "
         "for the run's identity, once in every process for the cache's name"),
    ]  # fmt: skip
    training = [
        ("a GPU", f"{s.rate:,.0f} images/s", "312 TFLOP/s x 0.35 / (3 x forward pass)"),
        (f"{s.gpus} GPUs", f"{s.rate * s.gpus:,.0f} images/s", f"x {s.gpus}"),
        ("an epoch of a fold", amount(s.epoch, "s"), "4/5 of the images"),
        ("its validation, the networks", amount(s.validation, "s"), "1/5 of the images, forward only"),
        (f"{FOLDS} folds of {EPOCHS} epochs", amount((s.epoch + s.validation) * s.epochs, "s"),
         f"x {s.epochs}, without scoring"),
        ("gradients that a node sends in a step", amount(s.gradients, "B"),
         f"one ring: 2 x {s.gpus - 1}/{s.gpus} x 4 bytes a parameter"),
        ("mixup's partners that a node sends in a step", " or ".join(amount(size, "B") for size in s.mixup),
         f"{' or '.join(map(str, BATCHES))} x {GPUS} x {SIDE} x {SIDE} x 3 bytes x {NODES - 1}/{NODES}"),
    ]  # fmt: skip
    for batch, step, gradient, images in zip(BATCHES, s.steps, out, mixed, strict=True):
        training.append(
            (f"out of a node, {batch} images a GPU", f"{amount(gradient + images, 'bit/s')}, "
             f"{amount(images, 'bit/s')} of it mixup", f"in steps of {step * 1e3:.0f} ms")
        )  # fmt: skip
    training.append(("last.ckpt with Adam and EMA", amount(s.parameters * 16, "B"), "4 x 4 bytes a parameter"))
    after = [
        ("probabilities that process 0 gathers", amount(s.gathered, "B"),
         f"{s.valid / 1e6:.1f} million x {CLASSES:,} x 4"),
        ("memory of process 0 while it scores", amount(s.gathered * 1.25 + s.score_memory + s.labels, "B"),
         f"these, their labels (a quarter), {amount(s.score_memory, 'B')} of scoring, its table"),
        ("F2's exact threshold", amount(s.threshold, "s"), f"x {TIMES}"),
        ("all metrics of a validation", amount(s.scores, "s"), f"x {TIMES}; sorting adds up to a quarter"),
        (f"all {s.epochs} validations", f"{amount(s.threshold * s.epochs, 's')} for the thresholds, "
         f"{amount(s.scores * s.epochs, 's')} for all metrics", f"x {s.epochs}, while the GPUs wait"),
        ("OOF files of an experiment", amount(s.oof, "B"), f"images x {CLASSES:,} x 4"),
        (f"blend search of {MEMBERS} members", amount(s.search, "s"), "images x search"),
        ("its memory", amount(s.search_memory, "B"), "images x memory"),
        ("what it reads in a pass", amount(s.oof * MEMBERS, "B"), f"{MEMBERS} OOF files, streamed in parts"),
    ]  # fmt: skip
    return {"data": data, "training": training, "afterwards": after}


def breaks(s: Sums) -> list[str]:
    """What would break first: the sums above against what a node has, the worst first."""
    ratio = s.scores / (s.epoch + s.validation)
    small, large = ((s.gradients + size) * 8 / step for size, step in zip(s.mixup, s.steps, strict=True))
    cache = s.images * (SIDE + JITTER) ** 2 * 3.0
    return [
        f"*Scoring.* Process 0 scores a validation for {amount(s.scores, 's')}, while {s.gpus} GPUs wait that need "
        f"{amount(s.epoch + s.validation, 's')} for an epoch: {ratio:.0f} times as long, and "
        f"{amount(s.scores * s.epochs, 's')} in all. A fold on one GPU of each node (Ray) has the same sum of scoring, "
        f"but {FOLDS} folds at a time; `train.early_stopping` and fewer, longer epochs have less of it.",
        f"*Memory of process 0.* {amount(s.gathered * 1.25 + s.score_memory + s.labels, 'B')} while it scores, beside "
        f"{amount(s.labels * (GPUS - 1), 'B')} for the tables of the other processes of its node.",
        f"*Start.* {amount(s.start, 's')} for the sizes of all files at every start, each restart among them, if the "
        "file server takes 0.2 ms for one. On a disk of the node it is seconds.",
        f"*The network* with {BATCHES[0]} images a GPU: {amount(small, 'bit/s')} out of a node, where "
        f"{amount(NETWORK, 'bit/s')} are usual. With {BATCHES[1]} images it is {amount(large, 'bit/s')}.",
        f"*The cache.* {amount(cache, 'B')} a node fit on an NVMe disk, not into memory: `data.cache: disk` insists on "
        f"one, for which twice as much, {amount(2 * cache, 'B')}, has to be free; without it PNG files need "
        f"{s.rate * GPUS * s.png_decode:.0f} cores a node.",
        f"*The search* takes {amount(s.search, 's')} and {amount(s.search_memory, 'B')} on one machine.",
    ]


def section(measured: dict[str, float]) -> str:
    """The tables and the list of docs/scale.md as Markdown."""
    parts = ["| measured | | |\n|---|---|---|"]
    parts[0] += "".join(f"\n| {name} | {measured[name]:g} {unit} | {how} |" for name, (unit, how) in MEASURED.items())
    sums = Sums(measured)
    for name, rows in tables(sums).items():
        parts.append(f"| {name} | | from |\n|---|---|---|" + "".join(f"\n| {' | '.join(row)} |" for row in rows))
    parts.append("What would break first, in this order:")
    parts.append("\n".join(f"{number}. {text}" for number, text in enumerate(breaks(sums), start=1)))
    return "\n\n".join(parts)


if __name__ == "__main__":
    if sys.argv[1:] == ["scoring"]:
        scoring()
    else:
        print(section(measure()))
