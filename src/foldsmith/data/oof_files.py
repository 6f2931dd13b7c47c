"""Out-of-fold files: `<name>_f<k>.npy` (float32 probabilities, rows of fold k in folds.csv's order) and its sidecar."""

import hashlib
import os
import threading
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import TypeAdapter

from foldsmith.errors import EXIT_UNTRUSTED, UserError
from foldsmith.failpoints import fail
from foldsmith.files import atomic_path, json_text, read_json, sha256_json, write_array
from foldsmith.metrics import Probabilities

# NumPy parses headers with ast, which fails now and then in two threads of Python 3.11 (python/cpython#106905).
ONE_HEADER = threading.Lock()


@dataclass(frozen=True)
class Sidecar:
    """`<name>_f<k>.json`: what the probabilities beside it are of. Hashes are hex sha256."""

    name: str
    fold: int
    rows: int
    classes: int
    ids_sha256: str  # ids of the rows, in order
    classes_sha256: str
    folds_sha256: str
    config_sha256: str
    weights_sha256: str
    metric: str
    score: float
    threshold: float | None  # None: the metric has none
    views: list[str]
    speed: dict[str, Any]  # device, images_per_second (an image with all its views counts once)
    merge: Literal["mean", "logits", "max", "geometric"] = "mean"  # of the views
    array_sha256: str = ""  # of the values' bytes, row by row
    content_sha256: str = ""  # of all fields but itself

    def check_array(self, npy: Path, found_sha256: str) -> None:
        """Refuse an array that is not the one this sidecar was written for."""
        if self.array_sha256 != found_sha256:
            told = f"sha256 {found_sha256[:12]} there, {self.array_sha256[:12]} in {sidecar_path(npy).name}"
            what = f"is not the array that its sidecar tells of: {told}"
            raise UserError(what, file=npy, hint="predict_oof.py predicts it again", code=EXIT_UNTRUSTED)


def sidecar_path(npy: Path) -> Path:
    return npy.with_suffix(".json")


def write_oof(npy: Path, probabilities: Probabilities, sidecar: Sidecar) -> None:
    """Write probabilities and the sidecar that vouches for them; `array_sha256` is filled in.

    Both are on disk before either takes its place, the array first: a process that ends between leaves it beside a
    sidecar that tells of another one.
    """
    array = np.ascontiguousarray(probabilities, dtype=np.float32)
    told = sealed(asdict(replace(sidecar, array_sha256=hashlib.sha256(array.data).hexdigest())))
    data = json_text(told).encode("utf-8")
    with atomic_path(sidecar_path(npy), len(data)) as beside:
        with open(beside, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        write_array(npy, array)
        fail("oof.array_written")


def sealed(sidecar: dict[str, Any]) -> dict[str, Any]:
    """A sidecar's fields with the hash of what they are."""
    content = {key: value for key, value in sidecar.items() if key != "content_sha256"}
    return content | {"content_sha256": sha256_json(content)}


def read_sidecar(npy: Path) -> Sidecar:
    """The sidecar of an OOF file; an error when it is missing or not one."""
    path = sidecar_path(npy)
    if not path.is_file():
        raise UserError("the OOF file's sidecar is missing", file=path, hint="predict_oof.py writes both")
    try:
        sidecar = TypeAdapter(Sidecar).validate_json(path.read_bytes(), strict=True)
    except ValueError as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"is not a sidecar of predict_oof.py: {reason}", file=path, code=EXIT_UNTRUSTED) from None
    found = sealed(read_json(path))["content_sha256"]
    if sidecar.content_sha256 != found:
        told = sidecar.content_sha256[:12] or "no hash"
        what = f"was changed after predict_oof.py: {found[:12]} there, {told} in its own line"
        raise UserError(what, file=path, hint="predict_oof.py predicts it again", code=EXIT_UNTRUSTED)
    return sidecar


def map_array(npy: Path, shape: tuple[int, int], claimed_by: str) -> Probabilities:
    """A float32 .npy file, memory-mapped, once its shape and dtype are what they should be."""
    try:
        with ONE_HEADER:
            array = np.load(npy, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"is not a readable .npy file: {error}", file=npy, code=EXIT_UNTRUSTED) from None
    if array.shape != shape or array.dtype != np.float32 or not array.flags.c_contiguous:
        found = f"{array.dtype} {array.shape}{'' if array.flags.c_contiguous else ', column by column'}"
        raise UserError(f"holds {found}, {claimed_by} says float32 {shape}", file=npy, code=EXIT_UNTRUSTED)
    return array


def check_range(values: Probabilities, npy: Path, lowest: float = 0.0) -> None:
    """Refuse values that are NaN or outside lowest..1."""
    if not (values.min() >= lowest and values.max() <= 1):  # NaN fails too
        what = f"holds values that are not probabilities (NaN, or outside {lowest:g}..1)"
        raise UserError(what, file=npy, code=EXIT_UNTRUSTED)


def read_oof(npy: Path, sidecar: Sidecar) -> Probabilities:
    """The probabilities, memory-mapped, once shape, dtype, range and hash are what the sidecar says."""
    probabilities = map_array(npy, (sidecar.rows, sidecar.classes), "its sidecar")
    check_range(probabilities, npy)
    sidecar.check_array(npy, hashlib.sha256(probabilities.data).hexdigest())
    return probabilities
