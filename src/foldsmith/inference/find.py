"""Finding what a kernel's inputs hold: weights files by name and hash, the competition's folder by its name."""

import atexit
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from foldsmith.config import Config
from foldsmith.ensemble.file import Ensemble
from foldsmith.errors import EXIT_UNTRUSTED, UserError
from foldsmith.files import sha256_file

PASSPHRASE = "FOLDSMITH_PASSPHRASE"
SUFFIX = ".enc"  # of files that `foldsmith encrypt` wrote
INPUT_ROOTS = (Path("../input"), Path("/kaggle/input"))


def find_weights(ensemble: Ensemble, roots: Sequence[Path]) -> dict[str, Path]:
    """The file of every weights name in the ensemble, searched for below the roots; all that is wrong in one error.

    A file counts when its sha256 is the ensemble's; copies are fine. Where there is only `<name>.enc`, it is decrypted
    into a private temporary folder that vanishes with the process.
    """
    wanted = _hashes(ensemble)
    candidates: dict[str, list[Path]] = {name: [] for name in wanted}
    sealed: dict[str, list[Path]] = {}
    for path in _files_below(roots):
        if path.name in candidates:
            candidates[path.name].append(path)
        elif path.name.removesuffix(SUFFIX) in candidates:
            sealed.setdefault(path.name.removesuffix(SUFFIX), []).append(path)
    for name, paths in sealed.items():
        if not candidates[name]:
            candidates[name] = [_decrypted(path, name) for path in paths]
    missing = [name for name, paths in candidates.items() if not paths]
    if missing:
        raise UserError(
            f"{len(missing)} of {len(wanted)} weights files are not there: {', '.join(missing)}",
            hint=f"looked below {', '.join(str(root) for root in roots)}; --models DIR names another place",
        )
    found: dict[str, Path] = {}
    wrong = []
    for name, paths in candidates.items():
        same = [path for path in paths if sha256_file(path) == wanted[name]]
        if same:
            found[name] = same[0]
        else:
            wrong.append(f"{name} (expected sha256 {wanted[name][:12]}...): " + ", ".join(str(path) for path in paths))
    if wrong:
        raise UserError("weights are not those of the ensemble:\n  " + "\n  ".join(wrong), code=EXIT_UNTRUSTED)
    return found


def _hashes(ensemble: Ensemble) -> dict[str, str]:
    """The sha256 of every weights name; one name for two files is an error."""
    wanted: dict[str, str] = {}
    for member in ensemble.members:
        for name, sha256 in zip(member.weights, member.sha256, strict=True):
            if wanted.setdefault(name, sha256) != sha256:
                hashes = f"{wanted[name][:12]} and {sha256[:12]}"
                raise UserError(f"two different files are called {name}: sha256 {hashes}", key="members.weights")
    return wanted


def _decrypted(path: Path, name: str) -> Path:
    """A decrypted copy in a folder that only this user can read."""
    from foldsmith.crypt import decrypt_file  # most machines need no cryptography

    folder = Path(tempfile.mkdtemp(prefix="foldsmith-weights-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    decrypt_file(path, folder / name, read_passphrase(path))
    return folder / name


def read_passphrase(path: Path) -> str:
    """The passphrase of encrypted weights: from the environment, or from a Kaggle secret of the same name."""
    if PASSPHRASE in os.environ:
        return os.environ[PASSPHRASE]
    try:
        from kaggle_secrets import UserSecretsClient  # type: ignore[import-not-found]

        return str(UserSecretsClient().get_secret(PASSPHRASE))
    except ImportError:
        hint = f"set the environment variable {PASSPHRASE} (in a Kaggle kernel: a secret of that name)"
        raise UserError("is encrypted, and there is no passphrase", file=path, hint=hint) from None


def _files_below(roots: Sequence[Path]) -> Iterator[Path]:
    seen = set()
    for root in roots:
        for folder, folders, files in os.walk(root, followlinks=True):
            real = os.path.realpath(folder)
            if real in seen:
                folders.clear()
                continue
            seen.add(real)
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            yield from (Path(folder, name) for name in sorted(files))


def locate_data(config: Config, root: Path | None) -> Config:
    """The config with its data where it is now.

    Args:
        root: `--data`; None: data.root as it is or, where that does not exist, the folder of its name below ../input
            or /kaggle/input.
    """
    if root is None and Path(config.data.root).is_dir():
        return config
    places = [Path(config.data.root)]
    if root is None:
        name = Path(config.data.root).name
        places += [place for base in INPUT_ROOTS for place in (base / name, *_folders_named(base, name))]
        root = next((place for place in places if place.is_dir()), None)
    if root is None or not root.is_dir():
        looked = ", ".join(str(place) for place in places) if root is None else str(root)
        raise UserError(
            "the competition's data is not there", hint=f"looked at {looked}; --data ROOT names another place"
        )
    named = {}
    for key in ("sample_submission", "test_dir", "labels_csv"):
        value = getattr(config.data, key)
        if value is not None:
            inside = Path(value).is_relative_to(config.data.root)
            named[key] = str(root / (Path(value).relative_to(config.data.root) if inside else Path(value).name))
    data = config.data.model_copy(update={"root": str(root), **named})
    return config.model_copy(update={"data": data})


def _folders_named(base: Path, name: str) -> Iterator[Path]:
    """Kaggle mounts some sources a few folders deeper, such as /kaggle/input/competitions/<slug>."""
    for pattern in (f"*/{name}", f"*/*/{name}"):
        yield from sorted(base.glob(pattern))
