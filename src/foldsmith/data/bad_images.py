"""Images that cannot be read: an error, or the next image in their place (data.on_bad_image)."""

from collections.abc import Callable, Sequence
from pathlib import Path

from tqdm import tqdm

from foldsmith.data.images import Image, ImageError, read_image
from foldsmith.errors import UserError


class RowReader:
    """Row -> its image and the row that this is the image of: another one where a bad image is skipped.

    Args:
        paths: the image of every row.
        bad_hint: of the error about a bad image; None: the image of the next row that can be read takes its place,
            and that is said once.
        read: what reads a file; may raise ImageError.
    """

    def __init__(
        self, paths: Sequence[Path], bad_hint: str | None = "", read: Callable[[Path], Image] = read_image
    ) -> None:
        self.paths, self.bad_hint, self.read = list(paths), bad_hint, read
        self.told: set[int] = set()  # bad rows

    def __call__(self, row: int) -> tuple[Image, int]:
        for other in [*range(row, len(self.paths)), *range(row)]:
            try:
                return self.read(self.paths[other]), other
            except ImageError as error:
                if self.bad_hint is not None:
                    raise UserError(
                        f"is not a readable image: {error}", file=self.paths[other], hint=self.bad_hint
                    ) from None
                self._tell(other, error)
        raise UserError("not one of the training images can be read", key="data.on_bad_image")

    def _tell(self, row: int, error: ImageError) -> None:
        if row not in self.told:
            self.told.add(row)
            tqdm.write(f"skipped: {self.paths[row]}: is not a readable image: {error}")
