"""What a kernel proves before it predicts: inputs, disk, passphrase, devices, time. All that is missing is one error.

inputs_or_error    presence and structure, before torch is imported: a few seconds
working_devices    a real operation on every CUDA device
predicted_seconds  against the deadline: a warning, since the run under a clock leaves out what does not fit
"""

import contextlib
import os
import platform
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from foldsmith.config import Config
from foldsmith.data.tables import read_sample
from foldsmith.ensemble.file import Ensemble
from foldsmith.errors import UserError
from foldsmith.inference.decoded import private_folder
from foldsmith.inference.find import SUFFIX, locate_data, look_for, missing_weights, prove, read_passphrase, untrusted
from foldsmith.inference.packages import missing_packages, packages_problem

if TYPE_CHECKING:  # torch takes seconds, and what is missing is to be said before
    import torch

SPARE = 100 << 20  # bytes of disk for all that is not counted


@dataclass(frozen=True)
class Wanted:
    """What a kernel was told of the files that it needs."""

    sha256: Mapping[str, str | None]  # of every weights name
    sizes: Mapping[str, int]  # bytes; of those that were there when it was packed
    config: Config | None  # of a member: all have the same data
    classes: int | None
    folds: int  # weights files to run
    packages: Sequence[str] = ()  # as they are installed


@dataclass(frozen=True)
class Inputs:
    """What was found."""

    weights: dict[str, Path]  # proved, and decrypted where they must be
    images: int | None  # test images; None: only the weights know which data they are for


def inputs_or_error(wanted: Wanted, roots: Sequence[Path], data_root: Path | None, output: Path) -> Inputs:
    """Look for all that the run needs, and prove the weights that are there.

    Raises:
        UserError: with everything that is missing or does not fit; code 4 where nothing but untrusted weights is wrong.
    """
    found = look_for(wanted.sha256, roots)
    sealed = [path for paths in found.values() for path in paths if path.name.endswith(SUFFIX)]
    missing = missing_weights(found)
    problems = [f"{missing} (looked below {', '.join(str(root) for root in roots)})"] if missing else []
    cut = {
        name: f"{path} has {path.stat().st_size} bytes, not {wanted.sizes[name]}: cut off, or another file"
        for name, paths in found.items()
        for path in paths
        if path.name == name and path.stat().st_size != wanted.sizes.get(name, path.stat().st_size)
    }
    problems += cut.values()
    lacking = packages_problem([*wanted.packages, *(["cryptography"] if sealed else [])])
    problems += [lacking] if lacking else []
    closed = _passphrase_problems(sealed[0]) if sealed else []
    problems += closed
    images = None
    if wanted.config is not None:
        try:
            images = _count_images(locate_data(wanted.config, data_root))
        except UserError as error:
            problems.append(str(error).replace("\n ", ";"))
    full = _disk_problems(wanted, images, sealed, output)
    problems += full
    can_open = not closed and not full and not missing_packages(["cryptography"] if sealed else [])
    provable = {
        name: [path for path in paths if can_open or path not in sealed]
        for name, paths in found.items()
        if name not in cut
    }
    weights, wrong = prove(wanted.sha256, provable)
    if problems:
        raise all_missing([*problems, *wrong])
    if wrong:
        raise untrusted(wrong)
    return Inputs(weights, images)


def all_missing(problems: Sequence[str]) -> UserError:
    """One error for everything."""
    lines = "".join(f"\n  {problem}" for problem in problems)
    return UserError(f"{len(problems)} {'thing is' if len(problems) == 1 else 'things are'} missing or wrong:{lines}")


def _passphrase_problems(sealed: Path) -> list[str]:
    try:
        read_passphrase(sealed)
    except UserError as error:
        return [str(error).replace("\n ", ";")]
    try:
        private_folder()
    except UserError as error:
        return [f"decrypted weights have no place: {error}".replace("\n ", ";")]
    return []


def _count_images(config: Config) -> int:
    """Test images, once the sample submission and their folder are proved to have the structure that is expected."""
    from foldsmith.data.images import find_images

    sample, id_column = read_sample(config)
    find_images(
        config.data_path("test_dir"), sample.column(id_column), config.data.image_extension, missing_ok=True
    )  # raises when none is there
    return len(sample.rows)


def _disk_problems(wanted: Wanted, images: int | None, sealed: Sequence[Path], output: Path) -> list[str]:
    """What is to be written, against what is free."""
    folder = output.resolve().parent
    if not os.access(folder, os.W_OK):
        return [f"{folder} can't be written"]
    parts = 4 * (images or 0) * (wanted.classes or 0) * wanted.folds  # float32
    needs = {folder: SPARE + parts, Path(tempfile.gettempdir()): sum(path.stat().st_size for path in sealed)}
    if len({os.stat(place).st_dev for place in needs}) == 1:
        needs = {folder: sum(needs.values())}
    return [
        f"{place} has {free >> 20} MB free, {need >> 20} MB are needed"
        for place, need in needs.items()
        if (free := shutil.disk_usage(place).free) < need
    ]


def working_devices(devices: Sequence["torch.device"], say: Callable[[str], None] = print) -> list["torch.device"]:
    """The devices that pass a real operation; the CPU where none does.

    A GPU that is too old for this torch reports itself available and fails at the first operator.
    """
    import torch

    working = []
    for device in devices:
        if device.type == "cpu":
            working.append(device)
            continue
        try:
            name = _compute_on(device)
        except (RuntimeError, AssertionError) as error:  # torch built without CUDA asserts
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            say(f"WARNING: {device} reports itself available and fails at the first operation: {reason}")
        else:
            say(f"{device}: {name} works")
            working.append(device)
    if not working:
        say("WARNING: no CUDA device works: the CPU is used, which takes many times longer")
    return working or [torch.device("cpu")]


def _compute_on(device: "torch.device") -> str:
    """Convolve and multiply there, in both precisions; returns the device's name."""
    import torch

    images = torch.arange(2 * 3 * 8 * 8, dtype=torch.float32).view(2, 3, 8, 8) / 384
    weight = torch.ones(4, 3, 3, 3)
    expected = torch.nn.functional.conv2d(images, weight).sum().item()
    for dtype in (torch.float32, torch.float16):
        there = torch.nn.functional.conv2d(images.to(device, dtype), weight.to(device, dtype))
        total = (there.flatten(1).float() @ torch.ones(there[0].numel(), 1, device=device)).sum().item()
        if not abs(total - expected) <= 0.01 * expected:
            raise RuntimeError(f"a convolution in {dtype} gives {total}, not {expected}")
    return torch.cuda.get_device_name(device)


def predicted_seconds(ensemble: Ensemble, images: int) -> float | None:
    """Of all members, at the speeds of their out-of-fold prediction; None where one is not known."""
    total = 0.0
    for member in ensemble.members:
        if not member.images_per_second:
            return None
        total += len(member.weights) * images / member.images_per_second
    return total


def changed_versions(built_with: Mapping[str, str]) -> list[str]:
    """Packages that are here in another version than where the kernel was packed. Those that are missing fail later."""
    here = {"python": platform.python_version()}
    for name in built_with.keys() - here.keys():
        with contextlib.suppress(metadata.PackageNotFoundError):
            here[name] = metadata.version(name)
    return [
        f"{name} {here[name]} (packed with {version})"
        for name, version in built_with.items()
        if here.get(name, version) != version
    ]
