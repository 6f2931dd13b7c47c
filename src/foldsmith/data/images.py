"""Image files to the bytes that a network sees: finding, reading, and the geometry from any size to input_size.

Training, out-of-fold prediction, inference and the packed kernel all come through here.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from foldsmith.config import Config
from foldsmith.data.headers import Header, is_cut_off
from foldsmith.data.image_limits import ROOM, ImageError, checked_header, file_size, read_file
from foldsmith.errors import UserError

Image = NDArray[np.uint8]  # (height, width, 3), RGB

AS_IT_IS = cv2.IMREAD_COLOR | cv2.IMREAD_ANYCOLOR | cv2.IMREAD_ANYDEPTH  # IMREAD_UNCHANGED with EXIF rotation
EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")
BORDERS = {
    "reflect": (cv2.BORDER_REFLECT_101, (0, 0, 0)),
    "edge": (cv2.BORDER_REPLICATE, (0, 0, 0)),
    "white": (cv2.BORDER_CONSTANT, (255, 255, 255)),
    "black": (cv2.BORDER_CONSTANT, (0, 0, 0)),
}


def bad_image_hint(config: Config) -> str | None:
    """What the error about an unreadable image advises; None: there is none (data.on_bad_image: skip)."""
    if config.data.on_bad_image == "skip":
        return None
    return f"`foldsmith check-data {config.words}` lists all such images; data.on_bad_image: skip trains without them"


def find_images(
    folder: Path,
    ids: Sequence[str],
    extension: str | None = None,
    elsewhere: Path | None = None,
    *,
    missing_ok: bool = False,
) -> list[Path]:
    """The image file of every id: `<id><extension>`, or the id itself where it already names a file.

    Args:
        extension: such as ".jpg"; by default each id's file is found among the usual ones.
        elsewhere: a second folder, for those that the first does not have.
        missing_ok: give paths that do not exist for missing files, but for all of them.

    Raises:
        UserError: with the count of missing files and the first five; or when two files fit one id.
    """
    if not folder.is_dir():
        raise UserError("image folder not found", file=folder, hint="check data.root, data.train_dir and data.test_dir")
    with os.scandir(folder) as entries:
        files = {entry.name for entry in entries}

    def exists(name: str) -> bool:
        return name in files or ("/" in name and (folder / name).is_file())

    endings = ("." + extension.lstrip(".").lower(),) if extension else EXTENSIONS
    extensions = (*endings, *(end.upper() for end in endings))
    paths: list[Path] = []
    missing: list[str] = []
    for name in ids:
        if name.lower().endswith(endings) and exists(name):
            found = [name]
        else:
            found = [name + end for end in extensions if exists(name + end)]
        if len(found) > 1:
            raise UserError(f"{' and '.join(found)} both fit the id {name!r}", file=folder, key="data.image_extension")
        if not found:
            missing.append(name)
        paths.append(folder / (found[0] if found else name))
    if missing and elsewhere is not None:
        there = dict(zip(missing, find_images(elsewhere, missing, extension), strict=True))
        return [there.get(name, path) for name, path in zip(ids, paths, strict=True)]
    if missing and not (missing_ok and len(missing) < len(ids)):
        first = ", ".join(missing[:5])
        tried = extension or ", ".join(EXTENSIONS)
        raise UserError(
            f"{len(missing)} of {len(ids)} images are missing; the first: {first}", file=folder, hint=f"tried {tried}"
        )
    return paths


def read_image(path: Path) -> Image:
    """Decode any common image file to uint8 RGB (height, width, 3).

    Gray is repeated, palettes are resolved, CMYK is converted, 16-bit is reduced to 8, transparency is laid over white,
    EXIF rotation is applied. At most MAX_PIXELS of 8 bits, half as many of 16, a quarter of 32, and MAX_BYTES of
    memory; threads that read at the same time take no more than that together: some wait.

    Raises:
        ImageError: with the reason. Also for a TIFF with transparency that OpenCV does not tell of.
    """
    needed = file_size(path)
    while True:
        with ROOM.take(needed) as taken:
            data = read_file(path)
            header = checked_header(data)
            needed = len(data) + header.memory
            if taken.grow(needed):
                return _decode(data, header)
            del data  # others hold what is missing: wait without it


def _decode(content: bytes, header: Header) -> Image:
    data = np.frombuffer(content, np.uint8)
    try:
        # Of other formats OpenCV tells it when they are decoded.
        if header.format not in ("JPEG", "PNM") and (header.format != "PNG" or "alpha" in header.notes):
            if header.format == "PNG" and header.notes[:1] == ["gray"]:
                return _gray_over_white(data, header)
            image = cv2.imdecode(data, AS_IT_IS)
            if image is not None and image.ndim == 3 and image.shape[2] == 4 and image.dtype.kind == "u":
                return _over_white(image, header.format == "TIFF")
            image = None  # its memory, before the next is decoded
        image = cv2.imdecode(data, cv2.IMREAD_COLOR_RGB)
    except cv2.error as error:
        raise ImageError(f"OpenCV refuses it: {error.err}") from None
    return _decode_float(data) if image is None else image


def _over_white(image: NDArray, tiff: bool) -> Image:
    """BGRA of uint8 or uint16 over white, to RGB uint8."""
    top = 65535.0 if image.dtype == np.uint16 else 255.0
    rows = max(1, (1 << 18) // image.shape[1])  # at a time, since floats take four times the memory
    parts = [image[start : start + rows] for start in range(0, len(image), rows)]
    # 8-bit TIFF comes with colours that are multiplied by alpha already, unless the file does not say what alpha is.
    multiplied = tiff and top == 255 and all(bool((part[:, :, :3] <= part[:, :, 3:]).all()) for part in parts)
    result = np.empty((*image.shape[:2], 3), dtype=np.uint8)
    for number, part in enumerate(parts):
        color = part[:, :, 2::-1].astype(np.float32) / top
        alpha = part[:, :, 3:].astype(np.float32) / top
        if not multiplied:
            color *= alpha
        result[number * rows : (number + 1) * rows] = np.rint((color + (1 - alpha)) * 255)
    return result


def _gray_over_white(data: NDArray[np.uint8], header: Header) -> Image:
    """A gray PNG with alpha, or with one gray value that is transparent, which OpenCV does not tell."""
    image = cv2.imdecode(data, AS_IT_IS)
    if image is None:
        return _decode_float(data)
    if image.ndim == 3:
        return _over_white(image, tiff=False)
    top = 65535 if image.dtype == np.uint16 else 255
    image[image == int.from_bytes(header.transparent[:2], "big") * top // (2**header.depth - 1)] = top
    return cv2.cvtColor(cv2.convertScaleAbs(image, alpha=255 / top), cv2.COLOR_GRAY2RGB)


def _decode_float(data: NDArray[np.uint8]) -> Image:
    """What IMREAD_COLOR can't convert, such as TIFF of floats, scaled so that its own range becomes 0..255."""
    image = cv2.imdecode(data, cv2.IMREAD_UNCHANGED)
    if image is None:
        raise ImageError("cut off" if is_cut_off(data.tobytes()) else "damaged")
    if image.ndim == 3 and image.shape[2] == 4:
        raise ImageError(f"numbers of {image.dtype} with transparency are not read: save it as PNG")
    values = image.astype(np.float32, copy=False)
    np.nan_to_num(values, copy=False)
    values -= values.min()
    values /= max(float(values.max()), 1e-12)
    values *= 255
    scaled = np.rint(values, out=values).astype(np.uint8)
    return cv2.cvtColor(scaled, cv2.COLOR_GRAY2RGB if scaled.ndim == 2 else cv2.COLOR_BGR2RGB)


@dataclass(frozen=True)
class Geometry:
    """How an image of any size becomes `height` x `width` (data.geometry, data.pad and model.input_size)."""

    mode: str
    pad: str
    height: int
    width: int

    def canvas(self, image: Image, margin: int = 0) -> Image:
        """Scale and pad to at least (height + margin, width + margin); exactly that but for short_side and crop.

        The margin is what a training crop may move by: it shows more of the picture where there is more, else padding.
        """
        return _pad(self.scale(image), self.height + margin, self.width + margin, self.pad)

    def scale(self, image: Image) -> Image:
        """The first step of `canvas`, which leaves its result as it is: scaling, without padding."""
        return _resize(image, *self._scaled_size(*image.shape[:2]))

    def center(self, image: Image) -> Image:
        """What validation and inference see: the middle height x width of the canvas."""
        canvas = self.canvas(image)
        top, left = (canvas.shape[0] - self.height) // 2, (canvas.shape[1] - self.width) // 2
        return np.ascontiguousarray(canvas[top : top + self.height, left : left + self.width])

    def _scaled_size(self, height: int, width: int) -> tuple[int, int]:
        down, right = self.height / height, self.width / width
        match self.mode:
            case "squash":
                return self.height, self.width
            case "fit":
                scale = min(down, right)
            case "short_side":
                scale = max(down, right)
            case "crop":
                scale = 1.0
            case _:
                raise AssertionError(self.mode)
        return max(1, round(height * scale)), max(1, round(width * scale))


def geometry_of(config: Config) -> Geometry:
    """The geometry that a config asks for."""
    height, width = config.model.input_size
    return Geometry(config.data.geometry, config.data.pad, height, width)


def _resize(image: Image, height: int, width: int) -> Image:
    if image.shape[:2] == (height, width):
        return image
    # Averaging over areas avoids aliasing when an image shrinks.
    shrinks = height * width < image.shape[0] * image.shape[1]
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)


def _pad(image: Image, height: int, width: int, pad: str) -> Image:
    down, right = max(0, height - image.shape[0]), max(0, width - image.shape[1])
    if not down and not right:
        return image
    border, value = BORDERS[pad]
    return cv2.copyMakeBorder(image, down // 2, down - down // 2, right // 2, right - right // 2, border, value=value)
