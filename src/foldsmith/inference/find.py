"""Finding what a kernel's inputs hold: weights files by name and hash, the competition's folder by its name."""

import atexit
import contextlib
import fcntl
import itertools
import os
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from foldsmith.config import Config
from foldsmith.ensemble.file import Ensemble
from foldsmith.errors import EXIT_UNTRUSTED, UserError
from foldsmith.files import sha256_file
from foldsmith.inference.decoded import private_folder
from foldsmith.inference.supervise import decrypted_prefix

PASSPHRASE = "FOLDSMITH_PASSPHRASE"
SUFFIX = ".enc"  # of files that `foldsmith encrypt` wrote
CANT_ENCRYPT = "can't be encrypted:"
LOCKED_WITHIN = 60.0  # seconds: a younger folder may be one that is about to be locked
INPUT_ROOTS = (Path("../input"), Path("/kaggle/input"))


def find_weights(ensemble: Ensemble, roots: Sequence[Path]) -> dict[str, Path]:
    """The file of every weights name in the ensemble, searched for below the roots; all that is wrong in one error.

    Where there is no `<name>.safetensors`, it is `<name>.safetensors.enc`, decrypted into a private temporary folder
    that vanishes with the process, or `<name>.pth`. Copies are fine; two different files of one name are refused, even
    where the ensemble's sha256 tells which is meant: somebody trained again.
    """
    wanted = hashes_of(ensemble)
    candidates = look_for(wanted, roots)
    missing = missing_weights(candidates)
    if missing:
        hint = f"looked below {', '.join(str(root) for root in roots)}; --models DIR names another place"
        raise UserError(missing, hint=hint)
    return proved_weights(wanted, candidates)


def look_for(names: Iterable[str], roots: Sequence[Path]) -> dict[str, list[Path]]:
    """The files below the roots that each weights name may mean: those of the name itself, else what stands for it.

    Nothing is read yet.
    """
    found: dict[str, list[Path]] = {}
    for path in _files_below(roots):
        found.setdefault(path.name, []).append(path)
    stand_for = {name: (name, name + SUFFIX, name.removesuffix(".safetensors") + ".pth") for name in names}
    return {name: next((found[word] for word in words if word in found), []) for name, words in stand_for.items()}


def missing_weights(candidates: Mapping[str, Sequence[Path]]) -> str | None:
    """A sentence that names all weights that are not there."""
    missing = [name for name, paths in candidates.items() if not paths]
    if not missing:
        return None
    return f"{len(missing)} of {len(candidates)} weights files are not there: {', '.join(missing)}"


def proved_weights(wanted: Mapping[str, str | None], candidates: Mapping[str, Sequence[Path]]) -> dict[str, Path]:
    """The file of every name, decrypted where it must be, once its sha256 is proved; all that is wrong in one error."""
    chosen, wrong = prove(wanted, candidates)
    if wrong:
        raise untrusted(wrong)
    return chosen


def prove(
    wanted: Mapping[str, str | None], candidates: Mapping[str, Sequence[Path]]
) -> tuple[dict[str, Path], list[str]]:
    """The proved file of every name that has candidates, and a sentence for each name that has no such file."""
    chosen: dict[str, Path] = {}
    wrong = []
    for name, places in candidates.items():
        try:
            paths = [_decrypted(path, name) if path.name == name + SUFFIX else path for path in places]
        except UserError as error:
            if error.code != EXIT_UNTRUSTED:
                raise
            wrong.append(str(error))
            continue
        found = {path: sha256_file(path) for path in paths}
        listed = ", ".join(
            f"{place} (sha256 {sha256[:12]}...)" for place, sha256 in zip(places, found.values(), strict=True)
        )
        if len(set(found.values())) > 1:
            wrong.append(f"different files are called {name}: {listed}")
        elif found and wanted[name] not in (None, *found.values()):
            wrong.append(f"{name} is not the ensemble's (sha256 {str(wanted[name])[:12]}...): {listed}")
        elif found:
            chosen[name] = paths[0]
    return chosen, wrong


def untrusted(wrong: Sequence[str]) -> UserError:
    """The error of weights that are there and are not the expected ones."""
    return UserError(
        "weights are not those of the ensemble:\n  " + "\n  ".join(wrong),
        hint="remove what is not meant, or name the folder of what is with --models",
        code=EXIT_UNTRUSTED,
    )


def hashes_of(ensemble: Ensemble) -> dict[str, str | None]:
    """The sha256 of every weights name, None where the ensemble has none; one name for two files is an error."""
    wanted: dict[str, str | None] = {}
    for member in ensemble.members:
        for name, sha256 in itertools.zip_longest(member.weights, member.sha256):
            known = wanted.setdefault(name, sha256)
            if known != sha256:
                both = " and ".join(str(each)[:12] for each in (known, sha256))
                raise UserError(f"two different files are called {name}: sha256 {both}", key="members.weights")
    return wanted


def _decrypted(path: Path, name: str) -> Path:
    """A decrypted copy in a folder that only this user can read."""
    from foldsmith.crypt import decrypt_file  # most machines need no cryptography

    passphrase = read_passphrase(path)
    temporary = private_folder()
    remove_left_weights(temporary)
    folder = Path(tempfile.mkdtemp(prefix=decrypted_prefix(os.getpid()), dir=temporary))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    with contextlib.suppress(OSError):  # a file system without locks: nobody can take it for left there, either
        fcntl.flock(os.open(folder, os.O_RDONLY), fcntl.LOCK_EX)  # until this process and its children are gone
    decrypt_file(path, folder / name, passphrase)
    return folder / name


def remove_left_weights(folder: Path) -> None:
    """Remove decrypted weights whose process was killed: nobody holds the lock of their folder any more."""
    for left in folder.glob(decrypted_prefix("*") + "*"):
        with contextlib.suppress(OSError):  # another user's, or removed just now
            handle = os.open(left, os.O_RDONLY)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if time.time() - left.stat().st_mtime > LOCKED_WITHIN:
                    shutil.rmtree(left)
            finally:
                os.close(handle)


def passphrase_here() -> str | None:
    """The passphrase of the environment; None where there is none, or an empty one, which would protect nothing.

    Raises:
        UserError: it is not UTF-8.
    """
    passphrase = os.environ.get(PASSPHRASE)
    try:
        (passphrase or "").encode("utf-8")
    except UnicodeEncodeError:
        raise UserError("is not UTF-8", key=PASSPHRASE, hint="write it in a terminal whose encoding is UTF-8") from None
    return passphrase or None


def read_passphrase(path: Path, why: str = "is encrypted, and") -> str:
    """The passphrase of encrypted weights: from the environment, or from a Kaggle secret of the same name.

    Args:
        path: of the file that it is for.
        why: the message's words between the file and `there is no passphrase`.
    """
    passphrase = passphrase_here()
    if passphrase is not None:
        return passphrase
    reason = "there is no passphrase"
    try:
        from kaggle_secrets import UserSecretsClient  # type: ignore[import-not-found]

        secret = str(UserSecretsClient().get_secret(PASSPHRASE) or "")
        if secret:
            return secret
        reason = f"the Kaggle secret {PASSPHRASE} is empty"
    except ImportError:
        pass
    except Exception as error:  # classes of Kaggle's own: no such secret, or no network to fetch it over
        reason = f"the Kaggle secret {PASSPHRASE} can't be read ({error})"
    hint = f"set the environment variable {PASSPHRASE} (in a Kaggle kernel: a secret of that name)"
    raise UserError(f"{why} {reason}", file=path, hint=hint)


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
            yield from (path for name in sorted(files) if (path := Path(folder, name)).is_file())


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
        places += _input_folders(Path(config.data.root).name)
        root = next((place for place in places if place.is_dir()), None)
    if root is None or not root.is_dir():
        looked = ", ".join(str(place) for place in places) if root is None else str(root)
        raise UserError(
            "the competition's data is not there", hint=f"looked at {looked}; --data ROOT names another place"
        )
    named = {}
    for key in ("sample_submission", "test_dir", "labels_csv", "train_csv", "valid_csv", "train_dir"):
        value = getattr(config.data, key)
        if value is not None:
            inside = Path(value).is_relative_to(config.data.root)
            named[key] = str(root / (Path(value).relative_to(config.data.root) if inside else Path(value).name))
    data = config.data.model_copy(update={"root": str(root), **named})
    return config.model_copy(update={"data": data})


def data_below_inputs(config: Config, competitions: Sequence[str]) -> Path | None:
    """The folder below ../input or /kaggle/input that has the name of data.root, or of one of the competitions."""
    names = [Path(config.data.root).name, *competitions]
    return next((place for name in names for place in _input_folders(name) if place.is_dir()), None)


def _input_folders(name: str) -> Iterator[Path]:
    """Kaggle mounts some sources a few folders deeper, such as /kaggle/input/competitions/<slug>."""
    for base in INPUT_ROOTS:
        yield base / name
        for pattern in (f"*/{name}", f"*/*/{name}"):
            yield from sorted(base.glob(pattern))
