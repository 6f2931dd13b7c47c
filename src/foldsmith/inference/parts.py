"""Finished predictions of a run that may be killed: `<output>.parts/` holds a file a fold, found again by its hash."""

import contextlib
import glob
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from foldsmith.data.oof_files import ONE_HEADER
from foldsmith.errors import UserError
from foldsmith.files import sha256_json, write_array, write_json
from foldsmith.metrics import Probabilities


class Parts:
    """The folder of a run's finished predictions. A file counts only where all that it was made from is the same."""

    def __init__(self, output: Path, shape: tuple[int, int]) -> None:
        self.output = output
        self.folder = output.with_name(output.name + ".parts")
        self.shape = shape  # (images, classes)
        if self.folder.exists() and not self.folder.is_dir():
            raise UserError("is in the way: unfinished predictions are kept there", file=self.folder, key="--output")

    def has(self, made_from: Mapping[str, Any]) -> bool:
        """Whether something was saved for these hashes."""
        return self._path(made_from).is_file()

    def load_bad(self, images_sha256: str) -> dict[int, str]:
        """Rows of images that could not be read when parts were saved, with the reasons."""
        try:
            found = json.loads(self._bad(images_sha256).read_text(encoding="utf-8"))
            return {int(row): str(reason) for row, reason in found.items()}
        except (OSError, ValueError, AttributeError):
            return {}

    def save_bad(self, images_sha256: str, bad: Mapping[int, str]) -> None:
        if bad:
            write_json(self._bad(images_sha256), {str(row): reason for row, reason in bad.items()})

    def _bad(self, images_sha256: str) -> Path:
        return self.folder / f"bad-{images_sha256[:32]}.json"

    def load(self, made_from: Mapping[str, Any]) -> Probabilities | None:
        """What was saved for the same hashes; None when there is nothing, or it is damaged."""
        try:
            with ONE_HEADER, open(self._path(made_from), "rb") as file:
                array = np.lib.format.read_array(file, allow_pickle=False)
        except (OSError, ValueError):
            return None
        fits = array.shape == self.shape and array.dtype == np.float32
        return array if fits and bool(np.isfinite(array).all()) else None

    def save(self, made_from: Mapping[str, Any], probabilities: Probabilities) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        write_array(self._path(made_from), probabilities)

    def remove(self) -> None:
        """All of it: the run is finished. What a killed one was just writing goes too."""
        for pattern in ("*.npy", "bad-*.json", ".*.tmp"):
            for path in self.folder.glob(pattern):
                path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # it is not there, or holds what is not ours
            self.folder.rmdir()
        for path in self.output.parent.glob(f".{glob.escape(self.output.name)}.*.tmp"):
            path.unlink(missing_ok=True)

    def _path(self, made_from: Mapping[str, Any]) -> Path:
        return self.folder / f"{sha256_json(made_from)[:32]}.npy"
