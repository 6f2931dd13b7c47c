"""Over 40 image files of every kind: check-data lists each with its reason; training stops or skips; in 1 GB."""

import contextlib
import io
import re
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Pillow

from foldsmith.data.headers import is_cut_off, read_header
from foldsmith.data.images import ImageError, read_image
from tests.faults.bounds import bounded

PIXELS = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)
RGB = Pillow.fromarray(PIXELS)
GIGABYTE = 1_000_000_000


def saved(image: Pillow.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def turned(orientation: int) -> Pillow.Exif:
    exif = Pillow.Exif()
    exif[0x0112] = orientation
    return exif


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, data: bytes, bits: int = 1, color: int = 0, *more: bytes) -> bytes:
    """A PNG, gray and of 1 bit a pixel where nothing else is said; `data` are its packed rows, `more` other chunks."""
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, color, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + b"".join(more) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def bomb() -> bytes:
    """20,000 x 20,000 pixels in less than 50 KB: one bit each, all zero."""
    return png(20_000, 20_000, zlib.compress(bytes(20_000 * 2501), 9))


JPEG, PNG, GRAY = saved(RGB, "JPEG"), saved(RGB, "PNG"), RGB.convert("L")
ALPHA = RGB.copy()
ALPHA.putalpha(GRAY)
GRAY_PNG = saved(GRAY, "PNG")
FLAT = png(30_000, 30_000, zlib.compress(b""))
WIDE_BMP = b"BM" + bytes(16) + struct.pack("<iiHH", 30_000, 30_000, 1, 24) + bytes(28)
WIDE_GIF = b"GIF89a" + struct.pack("<HH", 60_000, 60_000) + bytes(10)
WIDE_TIFF = b"II*\0" + struct.pack("<IHHHII", 8, 2, 256, 4, 1, 30_000) + struct.pack("<HHII", 257, 4, 1, 30_000)
WIDE_WEBP = b"RIFF" + struct.pack("<I", 22) + b"WEBPVP8X" + struct.pack("<I", 10) + bytes(4) + b"\xff\xff\0" * 2
WIDE_JPEG = b"\xff\xd8\xff\xc0\0\x11\x08" + struct.pack(">HHB", 60_000, 60_000, 3) + bytes(9) + b"\xff\xd9"

# name: (the file, the reason); a file that is None is missing
BAD: dict[str, tuple[bytes | None, str]] = {
    "cut.jpg": (JPEG[: len(JPEG) // 2], "cut off"),
    "cut_at_90.jpg": (JPEG[: len(JPEG) * 9 // 10], "cut off"),
    "cut_at_the_end.jpg": (JPEG[:-2], "cut off"),
    "cut_progressive.jpg": (saved(RGB, "JPEG", progressive=True)[:-400], "cut off"),
    "cut.png": (PNG[: len(PNG) // 2], "cut off"),
    "cut_at_the_end.png": (PNG[:-12], "cut off"),
    "flipped_bit.png": (PNG[:5000] + bytes([PNG[5000] ^ 1]) + PNG[5001:], "damaged"),
    "cut.gif": (saved(RGB, "GIF")[:-100], "cut off"),
    "cut.webp": (saved(RGB, "WEBP")[:-20], "cut off"),
    "cut.bmp": (saved(RGB, "BMP")[:-100], "damaged"),
    "cut.tif": (saved(RGB, "TIFF")[:-1000], "damaged"),
    "gray_alpha.tif": (saved(ALPHA.convert("LA"), "TIFF"), "a TIFF (gray) with transparency, which OpenCV does not"),
    "lie_of_a_chunk.png": (GRAY_PNG[:33] + b"\xe0" + GRAY_PNG[34:], "cut off"),
    "deep.png": (
        png(10_000, 5001, b"", 16, 6),
        "10000 x 5001 pixels of 16 bits: more than 50000000 (OPENCV_IO_MAX_IMA",
    ),
    "empty.jpg": (b"", "empty file"),
    "missing.jpg": (None, "No such file or directory"),
    "page.jpg": (b"<!DOCTYPE html><html><body>404 Not Found</body></html>", "an HTML page, not an image"),
    "text.png": (b"version https://git-lfs.github.com/spec/v1\n", "not an image: b'version https://'"),
    "zeros.jpg": (bytes(5000), "not an image: b'\\x00"),
    "bomb.png": (bomb(), "20000 x 20000 pixels: more than 100000000"),
    "lie.png": (FLAT, "30000 x 30000 pixels: more than 100000000"),
    "lie.bmp": (WIDE_BMP, "30000 x 30000 pixels: more than 100000000"),
    "lie.gif": (WIDE_GIF, "60000 x 60000 pixels: more than 100000000"),
    "lie.tif": (WIDE_TIFF, "30000 x 30000 pixels: more than 100000000"),
    "lie.webp": (WIDE_WEBP, "65536 x 65536 pixels: more than 100000000"),
    "lie.jpg": (WIDE_JPEG, "60000 x 60000 pixels: more than 100000000"),
}
# name: (the file, what check-data notes of it): readable, but not what it was saved as
UNUSUAL: dict[str, tuple[bytes, str]] = {
    "gray.jpg": (saved(GRAY, "JPEG"), "gray"),
    "gray.png": (saved(GRAY, "PNG"), "gray"),
    "alpha.png": (saved(ALPHA, "PNG"), "alpha"),
    "alpha.webp": (saved(ALPHA, "WEBP", lossless=True), "alpha"),
    "gray_alpha.png": (saved(ALPHA.convert("LA"), "PNG"), "alpha"),
    "palette.png": (saved(RGB.quantize(64), "PNG"), "palette"),
    "palette_alpha.png": (saved(RGB.quantize(64), "PNG", transparency=3), "alpha"),
    "alpha.gif": (saved(RGB.quantize(64), "GIF", transparency=3), "alpha"),
    "bit.png": (saved(RGB.convert("1"), "PNG"), "1 bit"),
    "bit.tif": (saved(RGB.convert("1"), "TIFF"), "1 bit"),
    "cmyk.jpg": (saved(RGB.convert("CMYK"), "JPEG"), "CMYK"),
    "sixteen.png": (saved(Pillow.fromarray(PIXELS[:, :, 0].astype(np.uint16) * 257), "PNG"), "16 bits"),
    "sixteen.tif": (saved(Pillow.fromarray(PIXELS[:, :, 0].astype(np.uint16) * 257), "TIFF"), "16 bits"),
    "floats.tif": (saved(Pillow.fromarray(PIXELS[:, :, 0].astype(np.float32)), "TIFF"), "floats"),
    "turned.jpg": (saved(RGB, "JPEG", exif=turned(6)), "rotated"),
    "turned.png": (saved(RGB, "PNG", exif=turned(8)), "rotated"),
    "one.png": (saved(RGB.crop((0, 0, 1, 1)), "PNG"), "1 x 1 pixels"),
    "one.jpg": (saved(RGB.crop((0, 0, 1, 1)), "JPEG"), "1 x 1 pixels"),
}


def test_there_are_forty_and_the_bomb_is_small():
    assert len(BAD) + len(UNUSUAL) == 44
    assert len(bomb()) < 50_000


def write(folder: Path, files: dict[str, tuple[bytes | None, str]]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, (data, _) in files.items():
        if data is not None:
            (folder / name).write_bytes(data)


@pytest.fixture
def competition(mini, tmp_path) -> Callable[[dict], list[object]]:
    """Makes a competition of some files and six good images; returns the words that name it."""

    def make(files: dict) -> list[object]:
        write(tmp_path / "data" / "train", files)
        good = {f"good{number}.png": (PNG, "") for number in range(6)}
        write(tmp_path / "data" / "train", good)
        rows = [f"{name},{number % 3}\n" for number, name in enumerate([*files, *good])]
        (tmp_path / "data" / "train.csv").write_text("id,label\n" + "".join(rows))
        data = tmp_path / "data"
        sets = [f"data.root={data}", f"data.train_csv={data}/train.csv", "train.stages=[]", "train.batch_size=4"]
        return ["--config", mini, "--set", *sets]

    return make


def test_check_data_lists_each_with_its_reason(warm, competition, tmp_path):
    words = competition(BAD | UNUSUAL)
    memory = tmp_path / "memory"
    ended = warm.run("foldsmith", "check-data", *words, "--all", hook=("measure_memory", str(memory)))
    assert ended.code == 2
    lines = ended.out.splitlines()
    for name, (_, reason) in BAD.items():
        assert [line for line in lines if line.startswith(f"{tmp_path}/data/train/{name}: {reason}")], (name, lines)
    for name, (_, note) in UNUSUAL.items():
        (listed,) = (line for line in lines if line.startswith(f"{note}: "))
        assert f"/{name}" in listed, name
        assert not [line for line in lines if re.match(rf"{tmp_path}/data/train/{name}: ", line)]
    assert "good" not in ended.out
    assert f"error: {tmp_path}/data: {len(BAD)} of 50 images are bad, and 0 tables" in ended.err
    assert int(memory.read_text()) < GIGABYTE


def test_what_is_good_is_said_to_be_good(warm, competition, tmp_path):
    ended = warm.run("foldsmith", "check-data", *competition({}))
    assert (ended.code, ended.err) == (0, "")
    assert ended.out == f"{tmp_path}/data: 6 images and their tables are good\n"


def test_check_data_names_what_is_wrong_with_tables(warm, competition, tmp_path):
    words = competition({})
    table = tmp_path / "data" / "train.csv"
    table.write_text(table.read_text() + "good0.png,1\n")
    (tmp_path / "data" / "sample_submission.csv").write_text("id,label\na,0\na,0\n")
    ended = warm.run("foldsmith", "check-data", *words)
    assert ended.code == 2
    assert f"{table}:8: duplicate id 'good0.png', first on line 2\n" in ended.out
    assert "sample_submission.csv:3: duplicate id 'a', first on line 2\n" in ended.out
    assert "0 of 0 images are bad, and 2 tables" in ended.err


@pytest.mark.parametrize("name", ["cut.jpg", "empty.jpg", "page.jpg", "bomb.png"])
def test_training_stops_at_a_bad_image_by_default(warm, competition, tmp_path, name):
    memory = tmp_path / "memory"
    words = [*competition({name: BAD[name]}), "train.workers=1", "--output", tmp_path / "runs"]
    ended = warm.run("train.py", *words, hook=("measure_memory", str(memory)))
    assert ended.code == 2
    said = f"error: {tmp_path}/data/train/{name}: is not a readable image: {BAD[name][1]}"
    assert ended.err.startswith(said) and "data.on_bad_image: skip trains without them" in ended.err
    assert int(memory.read_text()) < GIGABYTE


def test_a_missing_image_is_named_before_training(warm, competition, tmp_path):
    ended = warm.run("train.py", *competition({"missing.jpg": BAD["missing.jpg"]}), "--output", tmp_path / "runs")
    assert ended.code == 2 and "1 of 7 images are missing; the first: missing.jpg" in ended.err


def test_training_without_bad_images_when_told_so(warm, competition, tmp_path):
    """All bad files: each is said once, the run goes through training and out-of-fold prediction."""
    memory = tmp_path / "memory"
    words = [*competition(BAD), "data.on_bad_image=skip", "--output", tmp_path / "runs"]
    ended = warm.run("train.py", *words, "--fold", "0", hook=("measure_memory", str(memory)))
    assert ended.code == 0, ended.err
    skipped = re.findall(r"^skipped: \S+/(\S+): is not a readable image: ", ended.out, re.MULTILINE)
    assert len(skipped) == len(set(skipped)) > 0 and set(skipped) <= BAD.keys()
    assert int(memory.read_text()) < GIGABYTE
    ended = warm.run("predict_oof.py", *words)
    assert ended.code == 0
    black = re.findall(r"taken as black: \S+/(\S+): ", ended.out)
    assert set(black) | set(skipped) == BAD.keys() and not set(black) & set(skipped)
    assert np.isfinite(np.load(tmp_path / "runs" / "mini" / "mini_f0.npy")).all()


@pytest.mark.parametrize("name", UNUSUAL)
def test_what_is_unusual_comes_back_as_three_channels_of_bytes(tmp_path, name):
    (tmp_path / name).write_bytes(UNUSUAL[name][0])
    image = read_image(tmp_path / name)
    assert image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3
    header = read_header(UNUSUAL[name][0])
    assert header is not None and sorted(image.shape[:2]) == sorted((header.height, header.width))


def transparent_and_turned() -> bytes:
    more = chunk(b"eXIf", turned(6).tobytes()[6:]), chunk(b"PLTE", bytes(6)), chunk(b"tRNS", b"\x80")
    return png(10_000, 9_999, zlib.compress(bytes(1251 * 9_999)), 1, 3, *more)


LARGEST = {
    "transparent and turned": transparent_and_turned,
    "16 bits, transparent": lambda: png(7_000, 7_000, zlib.compress(bytes(56_001 * 7_000), 1), 16, 6),
    "floats": lambda: saved(Pillow.new("F", (5_000, 4_999)), "TIFF"),
    "progressive, turned": lambda: saved(
        Pillow.new("RGB", (9_990, 9_990)), "JPEG", progressive=True, subsampling=0, exif=turned(6)
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", LARGEST)
def test_the_largest_image_of_a_kind_takes_less_than_a_gigabyte(tmp_path, name):
    (tmp_path / "a").write_bytes(LARGEST[name]())
    with bounded(60, 1000):
        image = read_image(tmp_path / "a")
    assert image.size > 70_000_000 and len(np.unique(image[:10])) == 1


def test_damage_in_the_middle_of_a_jpeg_is_not_seen(tmp_path):
    """As docs/reliability.md says: nothing but a checksum could tell."""
    middle = len(JPEG) // 2
    (tmp_path / "a.jpg").write_bytes(JPEG[:middle] + bytes(40) + JPEG[middle + 40 :])
    assert read_image(tmp_path / "a.jpg").shape == (60, 80, 3)


def test_bytes_behind_the_end_are_no_damage(tmp_path):
    """A thumbnail's end mark is none, and what cameras append is none of ours."""
    for name in ("a.jpg", "a.png"):
        data = {"a.jpg": JPEG, "a.png": PNG}[name] + b"appended by a camera"
        (tmp_path / name).write_bytes(data)
        assert read_image(tmp_path / name).shape == (60, 80, 3) and not is_cut_off(data)
    exif = turned(1)
    thumbnail = saved(RGB.resize((8, 6)), "JPEG")
    with_thumbnail = b"\xff\xd8\xff\xe1" + struct.pack(">H", len(thumbnail) + 2) + thumbnail + JPEG[2:-2]
    assert is_cut_off(with_thumbnail) and not is_cut_off(with_thumbnail + b"\xff\xd9") and exif


@pytest.mark.parametrize("seed", [1, *(pytest.param(each, marks=pytest.mark.slow) for each in (0, 2, 3))])
def test_any_bytes_are_read_or_refused(tmp_path, seed):
    """Headers cut and changed at random: nothing but an ImageError, within 5 seconds and 1 GB."""
    random = np.random.default_rng(seed)
    for name, (data, _) in UNUSUAL.items():
        for _ in range(6):
            changed = bytearray(data[: random.integers(1, len(data) + 1)])
            for position in random.integers(0, min(len(changed), 64), 3):
                changed[position] = random.integers(256)
            (tmp_path / name).write_bytes(changed)
            is_cut_off(bytes(changed))
            with bounded(5, 1000), contextlib.suppress(ImageError):
                assert read_image(tmp_path / name).dtype == np.uint8
