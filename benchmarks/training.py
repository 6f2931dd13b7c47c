#!/usr/bin/env python3
"""How fast training is: the real loop against the model alone, the input alone, start-up, memory and folds.

.venv/bin/python benchmarks/training.py                  about 5 minutes on 2 CPU cores
.venv/bin/python benchmarks/training.py --only 1 --json  one item

1  a, b: epochs of the real loop (train_epoch) on fold 0 of data/clipart, test_efficientnet, 96 px, batches of 16;
   a with the presets of the published 7-model recipes, b with crop and flip; c: the same forward pass, backward pass
   and step on one batch that is in memory. In other forms, too: without the cache, made ahead by a
   thread or by a worker process, with as many torch threads as cores and with one less.
2  600 PNG images of 300 x 400 pixels (the size of iMet's): the first epoch, which fills the cache, and the next ones
3  batches without a model, per core, against a loop of cv2.imread
4  from the command to the first step, and --help
5  memory for label tables of 1e4, 1e5 and 1e6 rows x 1,103 classes; time for folds of 109,237 x 1,103
"""

import argparse
import contextlib
import io
import json
import os
import queue
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from start_and_memory import item_4, item_5

from foldsmith.config import load_config
from foldsmith.config.schema import Augmentations
from foldsmith.data.augment import build_transforms
from foldsmith.data.cache import cached_images
from foldsmith.data.folds import Folds, make_folds
from foldsmith.data.images import read_image
from foldsmith.data.tables import read_table
from foldsmith.inference.predict import pipeline_of, to_input
from foldsmith.malloc import keep_freed_memory
from foldsmith.models.build import train_mode, with_image_stats
from foldsmith.training.checkpoints import Progress
from foldsmith.training.loop import train_epoch
from foldsmith.training.run import read_images
from foldsmith.training.setup import build_loader, build_network, build_plan, start_stage
from foldsmith.training.stages import stages_of
from foldsmith.training.watch import Watch

CPU = torch.device("cpu")
CORES = len(os.sched_getaffinity(0))
CROP_FLIP = ["augmentations.crop_jitter=16", "augmentations.hflip=true"]
PRESETS = [
    *("augmentations.hflip=true", "augmentations.affine=medium", "augmentations.blur=0.3"),
    *("augmentations.distortion=0.2", "augmentations.noise=0.3", "augmentations.erase=0.5"),
]


@dataclass
class Loop:
    """The real training loop of fold 0 of a config, as train.py builds it."""

    training: Any
    plan: Any
    loader: Any
    order: Any
    table: Any
    threads: int
    cache_seconds: float  # that filling the cache took
    watch: Watch

    def epoch(self, number: int) -> float:
        """Images a second of an epoch."""
        torch.set_num_threads(self.threads)
        self.order.epoch = number
        epoch = train_epoch(self.training, self.plan, self.loader, self.table, self.watch)
        return epoch.images / epoch.seconds

    def resident(self, steps: int = 60) -> float:
        """(c): images a second of forward pass, backward pass and step on one batch that is in memory."""
        torch.set_num_threads(self.threads)
        batch = next(iter(self.loader))
        x = to_input(batch.images, self.plan.pipeline.mean, self.plan.pipeline.std, CPU)
        y = torch.from_numpy(self.table.targets(batch.rows.numpy())).float()
        train_mode(self.training.model)

        def step() -> None:
            self.plan.criterion(self.training.model(x), y).backward()
            self.training.optimizer.step()
            self.training.optimizer.zero_grad(set_to_none=True)

        for _ in range(10):
            step()
        started = time.perf_counter()
        for _ in range(steps):
            step()
        return steps * len(x) / (time.perf_counter() - started)

    def input_alone(self, batches: int) -> float:
        """Images a second of this thread's time that the input pipeline makes; moves on the device not counted."""
        images, started = 0, time.thread_time()
        for _, batch in zip(range(batches), self.loader, strict=False):
            images += len(batch.images)
        return images / (time.thread_time() - started)


class Ahead:
    """A loader whose batches a background thread makes, two ahead."""

    def __init__(self, loader: Any) -> None:
        self.loader = loader

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[Any]:
        made: queue.Queue[Any] = queue.Queue(2)
        thread = threading.Thread(target=lambda: [made.put(batch) for batch in self.loader])
        thread.start()
        for _ in range(len(self.loader)):
            yield made.get()
        thread.join()


def make_loop(words: list[str], *, cache: str = "disk", workers: int = 0, threads: int = CORES) -> Loop:
    """Tables, images, split, network and loader of fold 0."""
    torch.set_num_threads(threads)
    cv2.setNumThreads(0)  # as setup.use_cores does
    plain = ["augmentations.crop_jitter=0", "augmentations.hflip=false"]
    config = with_image_stats(load_config("clipart_tiny", [*plain, f"data.cache={cache}", *words]))
    with contextlib.redirect_stdout(io.StringIO()):
        table = read_table(config)
        images, train, _ = read_images(config, table)
        started = time.perf_counter()
        read = cached_images(config, images.groups)
        seconds = time.perf_counter() - started
    rows = train.rows(Folds(make_folds(config, table), ""), 0)
    torch.manual_seed(0)
    stage = stages_of(config)[0]
    training = start_stage(build_network(config, len(table.classes.tokens), CPU), stage, Progress(), CPU)
    trained = table.take(rows)
    loader, order = build_loader(stage.config, trained, [images.train[row] for row in rows], CPU, read, workers)
    plan = build_plan(stage, table, pipeline_of(config, CPU), order.batches, [order.batches] * 99)
    watch = Watch(config, 0, Path(tempfile.gettempdir()))
    return Loop(training, plan, loader, order, trained, threads, seconds, watch)


def item_1(figures: dict[str, float], repeats: int) -> None:
    """The real loop against the model alone. Forms take turns, so that none has the machine at a better time."""
    alone = make_loop(CROP_FLIP)
    forms = {}
    for name, presets in (("a", PRESETS), ("b", CROP_FLIP)):
        words = [*presets, "train.max_steps_per_epoch=60"]
        forms[name] = make_loop(words)
        forms[f"{name} without the cache"] = make_loop(words, cache="off")
        forms[f"{name}, background thread"] = make_loop(words)
        forms[f"{name}, background thread"].loader = Ahead(forms[f"{name}, background thread"].loader)
        forms[f"{name}, 1 worker, {CORES} threads"] = make_loop(words, workers=1)
        forms[f"{name}, 1 worker, {max(1, CORES - 1)} threads"] = make_loop(words, workers=1, threads=max(1, CORES - 1))
    for form in forms.values():
        form.epoch(0)
    speeds: dict[str, list[float]] = {"c": [], **{name: [] for name in forms}}
    for repeat in range(repeats):
        for name, form in forms.items():
            speeds["c"].append(alone.resident())
            speeds[name].append(form.epoch(1 + repeat))
    medians = {name: statistics.median(values) for name, values in speeds.items()}
    print(f"\n1  the loop on data/clipart, from the second epoch on, {CORES} cores; targets: a 70 %, b 85 % of c")
    for name, speed in medians.items():
        figures[f"{name} / c"] = speed / medians["c"]
        print(f"   {name:<32} {speed:7.0f} images/s   {speed / medians['c']:5.0%} of c")


def imet_sized(folder: Path, count: int) -> list[str]:
    """A competition of PNG images of 300 x 400 pixels, smooth colours with some noise, as words for --set."""
    (folder / "train").mkdir(parents=True)
    generator = np.random.default_rng(0)
    lines = ["id,attribute_ids"]
    for number in range(count):
        colours = generator.integers(0, 256, (6, 8, 3), dtype=np.uint8)
        image = cv2.resize(colours, (400, 300), interpolation=cv2.INTER_CUBIC).astype(np.int16)
        image += generator.integers(-6, 7, image.shape, dtype=np.int16)
        cv2.imwrite(str(folder / "train" / f"{number:05d}.png"), image.clip(0, 255).astype(np.uint8))
        lines.append(f"{number:05d},{number % 50}")
    (folder / "train.csv").write_text("\n".join(lines) + "\n")
    return [f"data.root={folder}"]


def item_2(figures: dict[str, float], repeats: int, large: list[str]) -> None:
    """Large files, where decoding is most of the input's work."""
    print("\n2  the loop with 600 PNG of 300 x 400, presets of a")
    for size in (96, 160):
        words = [*large, *PRESETS, f"model.input_size={size}"]
        speeds = {}
        for cache in ("disk", "off"):
            loop = make_loop(words, cache=cache)
            first = 400 / (400 / loop.epoch(0) + loop.cache_seconds)  # 400 of the 600 are trained on, all are cached
            speeds[cache] = first, statistics.median(loop.epoch(1 + repeat) for repeat in range(repeats))
        alone = loop.resident(30)
        for cache, (first, later) in speeds.items():
            name = f"{size} px, cache {cache}"
            figures |= {f"{name}, first / c": first / alone, f"{name}, later / c": later / alone}
            shares = f"{first / alone:.0%} and {later / alone:.0%}"
            print(f"   {name:<20} first epoch {first:5.0f} images/s, later {later:5.0f}   {shares} of c ({alone:.0f})")


def item_3(figures: dict[str, float], large: list[str]) -> None:
    """The input pipeline alone, in one thread."""
    print("\n3  input alone, images a second and core")
    sets = {"clipart": [], "PNG 300 x 400": large}
    for name, words in sets.items():
        batches = 60 if not words else 20
        loops = {
            f"{kind}, cache {cache}": make_loop([*words, *presets], cache=cache, threads=1)
            for kind, presets in (("crop and flip", CROP_FLIP), ("presets of a", PRESETS))
            for cache in ("disk", "off")
        }
        paths = loops["crop and flip, cache off"].loader.dataset.reader.paths[: 16 * batches]
        started = time.thread_time()
        for path in paths:
            cv2.imread(str(path))
        plain = len(paths) / (time.thread_time() - started)
        print(f"   {name:<14} {'cv2.imread':<26} {plain:8.0f}")
        for kind, loop in loops.items():
            loop.input_alone(3)
            speed = loop.input_alone(batches)
            figures[f"{name}, {kind} / imread"] = speed / plain
            print(f"   {name:<14} {kind:<26} {speed:8.0f}   {speed / plain:5.2f} x imread")
    image = read_image(paths[0])[:96, :96].copy()
    options = Augmentations.model_validate({"affine": "medium", "blur": 1, "distortion": 1, "noise": 1})
    costs = []
    for preset in build_transforms(options, "reflect"):
        for transform in getattr(preset, "transforms", [preset]):
            started = time.thread_time()
            for _ in range(200):
                transform(force_apply=True, image=image)
            costs.append(f"{type(transform).__name__} {(time.thread_time() - started) * 5000:.0f}")
    print(f"   microseconds of a transform at 96 px: {', '.join(costs)}")


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    """A folder for everything, caches of images too."""
    with tempfile.TemporaryDirectory(prefix="foldsmith-benchmark-") as name:
        os.environ["XDG_CACHE_HOME"] = name
        yield Path(name)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", type=int, choices=range(1, 6), metavar="N", help="one item")
    parser.add_argument("--repeats", type=int, default=3, help="of each form, whose medians are shown (default: 3)")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON at the end")
    args = parser.parse_args()
    keep_freed_memory()  # as the commands do; for all forms alike
    figures: dict[str, float] = {}
    with scratch() as folder:
        large = imet_sized(folder / "large", 600) if args.only in (None, 2, 3) else []
        items = {
            1: lambda: item_1(figures, args.repeats),
            2: lambda: item_2(figures, args.repeats, large),
            3: lambda: item_3(figures, large),
            4: lambda: item_4(figures, folder),
            5: lambda: item_5(figures, folder),
        }
        for number in items if args.only is None else [args.only]:
            items[number]()
    if args.json:
        print(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
