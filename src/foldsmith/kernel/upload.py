"""From a packed kernel to Kaggle: the folder of weights that is uploaded as a dataset, and `kaggle kernels push`."""

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

from foldsmith.config import Deploy
from foldsmith.config.deploy import LONGEST, SHORTEST_DATASET
from foldsmith.errors import EXIT_ENVIRONMENT, UserError
from foldsmith.files import atomic_path, write_json
from foldsmith.inference.find import CANT_ENCRYPT, SUFFIX, read_passphrase
from foldsmith.kernel.contents import Contents
from foldsmith.kernel.metadata import NOBODY

DATASET = "dataset-metadata.json"


def stage_weights(contents: Contents, deploy: Deploy, dataset: str, folder: Path, encrypt: bool) -> list[Path]:
    """Copy the needed weights, and nothing else, into a folder that `kaggle datasets create -p` takes.

    Args:
        dataset: its id on Kaggle.
        encrypt: write `<name>.enc` instead, for a public dataset.

    Raises:
        UserError: weights are not here, or the folder holds other files.
    """
    if contents.not_here:
        raise UserError(
            f"weights that are not here can't be gathered: {', '.join(contents.not_here)}", key="--stage-weights"
        )
    slug = dataset.partition("/")[2]
    if not SHORTEST_DATASET <= len(slug) <= LONGEST:
        raise UserError(
            f"a dataset's slug has {SHORTEST_DATASET} to {LONGEST} characters, got {len(slug)}: {slug!r}",
            hint="name it with --weights-dataset user/slug",
        )
    targets = {}
    for path in [*contents.weights.values(), *contents.sealed.values()]:
        is_open = path.suffix != SUFFIX
        targets[folder / (path.name + SUFFIX if encrypt and is_open else path.name)] = path
    strange = sorted(set(folder.iterdir()) - {*targets, folder / DATASET}) if folder.exists() else []
    if strange:
        names = ", ".join(path.name for path in strange[:5])
        raise UserError(f"holds what the kernel does not need: {names}", file=folder, hint="name an empty folder")
    for target, path in targets.items():
        _copy(path, target, encrypt and path.suffix != SUFFIX)
    metadata = {"id": dataset, "title": slug.replace("-", " "), "licenses": [{"name": deploy.dataset_license}]}
    write_json(folder / DATASET, metadata)
    return sorted(targets)


def _copy(path: Path, target: Path, encrypt: bool) -> None:
    if encrypt:
        from foldsmith.crypt import encrypt_file

        encrypt_file(path, target, read_passphrase(path, CANT_ENCRYPT))
        return
    with atomic_path(target, path.stat().st_size) as temporary:
        shutil.copyfile(path, temporary)


def refuse_nobody(metadata: dict[str, Any]) -> None:
    """Fail where a kernel that is to be pushed has no owner."""
    if metadata["id"].startswith(NOBODY):
        raise UserError("whose kernel is it?", key="deploy.user", hint="--user NAME, or user: in the deploy section")


def push(folder: Path, metadata: dict[str, Any]) -> str:
    """Call the kaggle command; returns what it said.

    Raises:
        UserError: it is not installed, not signed in, or it says that the kernel was not taken.
    """
    by_hand = f"or paste {folder / metadata['code_file']} into a new script on Kaggle"
    program = shutil.which("kaggle")
    if program is None:
        raise UserError(
            "the kaggle command is not installed",
            key="--push",
            hint=f"pip install kaggle, sign in (kaggle.json from your Kaggle account's settings), then "
            f"`kaggle kernels push -p {folder}`; {by_hand}",
            code=EXIT_ENVIRONMENT,
        )
    environment = {key: value for key, value in os.environ.items() if key != "FOLDSMITH_PASSPHRASE"}
    command = [program, "kernels", "push", "-p", str(folder)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", env=environment)
    except OSError as error:
        hint = f"install it again: pip install --force-reinstall kaggle; {by_hand}"
        raise UserError(
            f"{program} can't be run: {error.strerror}", key="--push", hint=hint, code=EXIT_ENVIRONMENT
        ) from None
    said = (done.stdout + done.stderr).strip()
    if done.returncode == 0 and "successfully pushed" in said:  # after an error it ends with 0, too
        return said
    signed_out = any(word in said.lower() for word in ("401", "403", "unauthorized", "credentials", "kaggle.json"))
    sign_in = "sign in: put kaggle.json from your Kaggle account's settings into ~/.kaggle; "
    raise UserError(
        f"`kaggle kernels push` failed (exit code {done.returncode}):\n  " + "\n  ".join(said.splitlines()[-8:]),
        key="--push",
        hint=(sign_in if signed_out else "") + f"the kernel stands in {folder}; push again, {by_hand}",
        code=EXIT_ENVIRONMENT,
    )
