#!/usr/bin/env python3
"""How fast an ensemble predicts: against one process per weights file, and against the models alone.

make weights && .venv/bin/python benchmarks/inference.py        about 4 minutes on 2 CPU cores

2 architectures x 3 folds x 2 views on the 716 test images of data/clipart at 96 px. The weights are random: speed does
not depend on them.

a  ensemble_inference.py: each image decoded once, weights swapped within one network, views made from one tensor
b  as published solutions did it: a process for each weights file, which decodes every image once for every view, in
   torch's default memory format
c  the floor: the same forward passes on tensors that are in memory already
"""

import argparse
import contextlib
import io
import json
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import cv2
import numpy as np
import torch

from foldsmith.config import load_config
from foldsmith.data.sheets import read_csv
from foldsmith.ensemble.file import Ensemble, Member, read_ensemble, write_ensemble
from foldsmith.files import sha256_file, sha256_json, sha256_lines
from foldsmith.inference import decoded
from foldsmith.inference import ensemble as ensemble_module
from foldsmith.inference.ensemble import Options, run_ensemble
from foldsmith.inference.predict import to_input
from foldsmith.malloc import keep_freed_memory
from foldsmith.models.build import with_image_stats
from foldsmith.models.weights import load_model, save_weights
from foldsmith.training.setup import build_network

ARCHS = {"tiny": "test_efficientnet", "lite0": "tf_efficientnet_lite0"}
FOLDS = 3
VIEWS = ["identity", "hflip"]
CPU = torch.device("cpu")

# What (b) runs for each weights file.
PUBLISHED = """
import sys, numpy as np, torch
from pathlib import Path
from foldsmith.data.images import geometry_of, read_image
from foldsmith.inference.predict import to_input
from foldsmith.malloc import keep_freed_memory
from foldsmith.models.weights import config_of, load_model, read_header
weights, folder, output = map(Path, sys.argv[1:])
config = config_of(read_header(weights), weights)
model, total = load_model(weights, torch.device("cpu")).eval().to(memory_format=torch.contiguous_format), 0
paths = sorted(folder.iterdir())
with torch.inference_mode():
    for flip in (False, True):
        parts = []
        for start in range(0, len(paths), 32):
            batch = np.stack([geometry_of(config).center(read_image(path)) for path in paths[start : start + 32]])
            x = to_input(torch.from_numpy(batch), config.model.mean, config.model.std, torch.device("cpu"))
            x = x.contiguous()
            parts.append(model(x.flip(3) if flip else x).sigmoid().numpy())
        total = total + np.concatenate(parts)
np.save(output, total / 2)
"""


def make_ensemble(folder: Path) -> Path:
    """Random weights of every architecture and fold, and the ensemble file that names them."""
    members = []
    classes = read_csv(Path("data/clipart/labels.csv")).column("attribute_id")
    for name, arch in ARCHS.items():
        words = [f"model.arch={arch}", "model.pretrained=false", "model.input_size=96", "data.num_folds=3"]
        config = with_image_stats(load_config("clipart_tiny", words)).named(name)
        files = []
        for fold in range(FOLDS):
            torch.manual_seed(fold)
            values = config.model_dump(mode="json")
            header = {"name": name, "fold": fold, "config": values, "config_sha256": sha256_json(values)}
            header |= {"classes": classes, "data_sha256": "", "folds_sha256": ""}
            files.append(folder / f"{name}_f{fold}.safetensors")
            save_weights(files[-1], build_network(config, len(classes), CPU).state_dict(), header)
        names = [file.name for file in files]
        hashes = [sha256_file(file) for file in files]
        members.append(Member(name=name, weight=0.5, views=VIEWS, oof=[], weights=names, sha256=hashes))
    scores = dict.fromkeys(["score", "nested_score", "uniform_score", "best_single_score"], 0.0)
    blend = Ensemble(
        task="multilabel",
        metric="f2",
        **scores,
        threshold=0.5,
        classes_sha256=sha256_lines(classes),
        prior=[classes[0]],
        members=members,
        prefix_thresholds=[0.5, 0.5],
    )
    write_ensemble(folder / "best.yml", blend)
    return folder / "best.yml"


def imet_sized(folder: Path, count: int) -> Path:
    """A competition of `count` PNG images of 300 x 400 pixels: smooth colours with some noise, as photographs have."""
    (folder / "test").mkdir(parents=True)
    generator = np.random.default_rng(0)
    names = [f"{number:05d}" for number in range(count)]
    for name in names:
        colours = generator.integers(0, 256, (6, 8, 3), dtype=np.uint8)
        image = cv2.resize(colours, (400, 300), interpolation=cv2.INTER_CUBIC).astype(np.int16)
        image += generator.integers(-6, 7, image.shape, dtype=np.int16)
        cv2.imwrite(str(folder / "test" / f"{name}.png"), image.clip(0, 255).astype(np.uint8))
    (folder / "sample_submission.csv").write_text("id,attribute_ids\n" + "".join(f"{name},0\n" for name in names))
    (folder / "labels.csv").write_bytes(Path("data/clipart/labels.csv").read_bytes())
    return folder


def floor(folder: Path, shape: tuple[int, int]) -> float:
    """(c): seconds of all forward passes over so many images in batches of 32."""
    images, size = shape
    x = to_input(torch.zeros(images, size, size, 3, dtype=torch.uint8), [0.5] * 3, [0.25] * 3, CPU)
    seconds = 0.0
    for name in ARCHS:
        model = load_model(folder / f"{name}_f0.safetensors", CPU).eval()
        with torch.inference_mode():
            model(x[:32])
            started = time.perf_counter()
            for _ in range(FOLDS):
                for start in range(0, images, 32):
                    batch = x[start : start + 32]
                    model(batch).sigmoid()
                    model(batch.flip(3)).sigmoid()
            seconds += time.perf_counter() - started
    return seconds


def ours(blend: Path, data: Path, output: Path) -> tuple[float, float]:
    """(a) within this process: seconds of predicting, writing included, and seconds of all else (checks, hashes)."""
    times = []
    real = ensemble_module.MembersRun.run

    def timed(self):
        started = time.perf_counter()
        result = real(self)
        times.append(time.perf_counter() - started)
        return result

    ensemble_module.MembersRun.run = timed
    try:
        started = time.perf_counter()
        options = Options(model_roots=[blend.parent], output=output, devices=[CPU], data_root=data)
        with contextlib.redirect_stdout(io.StringIO()):
            run_ensemble(read_ensemble(blend), options)
        return times[0], time.perf_counter() - started - times[0]
    finally:
        ensemble_module.MembersRun.run = real


def published(folder: Path, images: Path) -> float:
    """(b): seconds of all processes, one after the other."""
    started = time.perf_counter()
    for name in ARCHS:
        for fold in range(FOLDS):
            weights = folder / f"{name}_f{fold}.safetensors"
            command = [sys.executable, "-c", PUBLISHED, weights, images, folder / "p.npy"]
            subprocess.run([str(word) for word in command], check=True)
    return time.perf_counter() - started


def decoding(blend: Path, data: Path, output: Path, keep: bool) -> tuple[float, float]:
    """Seconds of predicting with or without kept images, and of decoding in it (all threads together)."""
    spent = [0.0]
    lock = threading.Lock()
    read, room = decoded.read_image, decoded.DecodedImages._room

    def timed(path):
        started = time.thread_time()
        image = read(path)
        with lock:
            spent[0] += time.thread_time() - started
        return image

    decoded.read_image = timed
    if not keep:
        decoded.DecodedImages._room = lambda self, limit: None
    try:
        return ours(blend, data, output)[0], spent[0]
    finally:
        decoded.read_image, decoded.DecodedImages._room = read, room


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3, help="of (a) and (c), whose medians are shown (default: 3)")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON at the end")
    args = parser.parse_args()
    keep_freed_memory()  # as the command does; for (c), which runs in this process, too
    data = Path("data/clipart")
    images = len(read_csv(data / "sample_submission.csv").rows)
    passes = images * len(ARCHS) * FOLDS * len(VIEWS)
    with tempfile.TemporaryDirectory(prefix="foldsmith-benchmark-") as name:
        folder = Path(name)
        blend = make_ensemble(folder)
        output = folder / "s.csv"
        ours(blend, data, output)  # warms the disk cache and torch up
        runs = [(ours(blend, data, output), floor(folder, (images, 96))) for _ in range(args.repeats)]
        predicting, other = (statistics.median(run[0][part] for run in runs) for part in (0, 1))
        alone = statistics.median(run[1] for run in runs)
        command = [sys.executable, "ensemble_inference.py", blend, "--models", folder, "--output", output]
        started = time.perf_counter()
        subprocess.run([str(word) for word in command], check=True, stdout=subprocess.DEVNULL)
        whole = time.perf_counter() - started
        apart = published(folder, data / "test")
        print(f"{images} images, {len(ARCHS) * FOLDS} weights files, {len(VIEWS)} views: {passes} forward passes")
        print(f"a  the whole command         {whole:7.1f} s, start-up and checks {whole - predicting:.1f} s of it")
        print(f"b  a process a weights file  {apart:7.1f} s   {apart / whole:.2f} times as long as a")
        print(f"a  steady                    {predicting:7.1f} s   {passes / predicting:.0f} images/s")
        share = f"{alone / predicting:.0%}"
        print(f"c  the models alone          {alone:7.1f} s   {passes / alone:.0f} images/s; a has {share} of it")
        large = imet_sized(folder / "large", 400)
        figures = {"b/a": apart / whole, "a/c": alone / predicting}
        for keep in (True, False):
            total, spent = decoding(blend, large, output, keep)
            kind = "kept" if keep else "not kept"
            cpu = f"{spent:.1f} CPU-seconds ({spent / total:.0%})"
            print(f"400 PNG of 300 x 400, {kind:<8}  {total:5.1f} s, decoding {cpu}")
            figures[f"decoding {kind}"] = spent / total
        if args.json:
            print(json.dumps(figures))


if __name__ == "__main__":
    main()
