#!/usr/bin/env python3
"""What decoding JPEG at half its size would save, and what it would change in the scores.

.venv/bin/python benchmarks/reduced_decode.py        about 2 minutes on 2 CPU cores

Scores: test_efficientnet at 48 px is trained on fold 0 of data/clipart, whose images are 96 px, and validated on images
that are decoded whole and scaled, and on images that libjpeg decodes at half their size. Time: photographs of
1600 x 1200 pixels to 288 px, in one thread.
"""

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np
import torch

from foldsmith.config import load_config
from foldsmith.data.folds import load_folds
from foldsmith.data.images import Geometry, Image, find_images, read_image
from foldsmith.data.tables import read_table
from foldsmith.inference.decoded import DecodedImages
from foldsmith.inference.predict import pipeline_of, predict
from foldsmith.malloc import keep_freed_memory
from foldsmith.metrics import find_metric
from foldsmith.models.weights import config_of, load_model, read_header
from foldsmith.training.run import train_experiment

CPU = torch.device("cpu")


def half(path: Path) -> Image:
    """The image at half its size, as libjpeg's inverse transform gives it."""
    return cv2.cvtColor(cv2.imread(str(path), cv2.IMREAD_REDUCED_COLOR_2), cv2.COLOR_BGR2RGB)


def photographs(folder: Path, count: int) -> list[Path]:
    """JPEG files of 1600 x 1200 pixels: smooth colours with noise."""
    generator = np.random.default_rng(0)
    paths = [folder / f"{number}.jpg" for number in range(count)]
    for path in paths:
        colours = generator.integers(0, 256, (12, 16, 3), dtype=np.uint8)
        image = cv2.resize(colours, (1600, 1200), interpolation=cv2.INTER_CUBIC).astype(np.int16)
        image += generator.integers(-6, 7, image.shape, dtype=np.int16)
        cv2.imwrite(str(path), image.clip(0, 255).astype(np.uint8))
    return paths


def times(folder: Path) -> None:
    """Milliseconds an image, whole and reduced, and how far the results lie apart."""
    geometry = Geometry("squash", "reflect", 288, 288)
    paths = photographs(folder, 10)
    spent = {}
    for name, read in (("whole", read_image), ("half", half)):
        seconds = []
        for path in paths * 3:
            started = time.thread_time()
            geometry.center(read(path))
            seconds.append(time.thread_time() - started)
        spent[name] = 1000 * statistics.median(seconds)
    apart = [np.abs(geometry.center(read_image(path)).astype(int) - geometry.center(half(path))) for path in paths]
    print(f"1600 x 1200 JPEG to 288 px: whole {spent['whole']:.1f} ms, half {spent['half']:.1f} ms an image")
    print(f"pixels differ by {np.mean(apart):.2f} of 255 on average, {np.max(apart)} at most")


def scores(folder: Path) -> None:
    """The score of one network on both kinds of pixels."""
    words = ["model.input_size=48", "train.num_epochs=6", "augmentations.crop_jitter=6"]
    config = load_config("clipart_tiny", words)
    run = train_experiment(config, output=folder, device=CPU, only_fold=0)
    config = config_of(read_header(run.weights(0)), run.weights(0))
    table = read_table(config)
    rows = load_folds(config, table, run.folds).valid_rows(0)
    paths = find_images(config.data_path("train_dir"), table.ids)
    found, metric = {}, find_metric(config.metric, config.data.task)
    for name, read in (("whole", read_image), ("half", half)):
        images = DecodedImages([paths[row] for row in rows], read=read)
        found[name] = predict(load_model(run.weights(0), CPU), images, pipeline_of(config, CPU), ["identity"], name)
    whole, reduced = (metric.best(values, table.targets(rows)).score for values in found.values())
    change = np.abs(found["whole"] - found["half"])
    print(f"{config.metric} of {len(rows)} images: whole {whole:.4f}, half {reduced:.4f} ({reduced - whole:+.4f})")
    print(f"probabilities differ by {change.mean():.4f} on average, {change.max():.3f} at most")


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    keep_freed_memory()
    with tempfile.TemporaryDirectory(prefix="foldsmith-benchmark-") as folder:
        os.environ["XDG_CACHE_HOME"] = folder
        times(Path(folder))
        scores(Path(folder))


if __name__ == "__main__":
    main()
