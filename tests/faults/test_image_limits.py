"""What an image's header must tell before a byte is decoded: size, memory, transparency; and what is no file at all."""

import os
import socket
import struct
import threading
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image as Pillow

from foldsmith.data.check import check_image, check_images
from foldsmith.data.headers import is_cut_off, read_header
from foldsmith.data.image_limits import ROOM, ImageError
from foldsmith.data.images import read_image
from foldsmith.data.memory import Room
from tests.faults.bounds import bounded
from tests.faults.test_bad_images import chunk, png, saved, turned

NOISE = np.random.default_rng(0).integers(0, 256, (400, 400, 4), dtype=np.uint8)


def refusal(path: Path, data: bytes) -> str:
    """Why a file is refused, by check-data and by training alike."""
    path.write_bytes(data)
    with bounded(5, 50), pytest.raises(ImageError) as caught:
        read_image(path)
    assert check_image(path).problem == str(caught.value)
    return str(caught.value)


def tiff(width: int, height: int, bits: int, channels: int, *more: tuple[int, int], big: bool = False) -> bytes:
    """A TIFF whose directory stands behind 1.2 MB, of which the first bytes are the pixels of the only strip."""
    start = 16 if big else 8
    pixels = NOISE.tobytes() * 2
    values = {256: width, 257: height, 258: bits, 259: 1, 262: 1, 273: start, 277: channels, 278: height}
    values |= {279: width * height * channels * bits // 8} | dict(more)
    offset = "Q" if big else "I"
    entries = [struct.pack("<HH" + 2 * offset, tag, 4, 1, value) for tag, value in sorted(values.items())]
    directory = struct.pack("<Q" if big else "<H", len(entries)) + b"".join(entries) + bytes(8)
    head = struct.pack("<2sHHHQ", b"II", 43, 8, 0, start + len(pixels)) if big else b""
    return (head or struct.pack("<2sHI", b"II", 42, start + len(pixels))) + pixels + directory


@pytest.mark.parametrize("big", [False, True])
def test_a_directory_at_the_end_of_a_tiff_is_read(tmp_path, big):
    path = tmp_path / "a.tif"
    floats = refusal(path, tiff(9_990, 9_990, 32, 3, (339, 3), big=big))
    assert floats == ("9990 x 9990 pixels of 32 bits: more than 25000000 (OPENCV_IO_MAX_IMAGE_PIXELS sets the limit)")
    assert refusal(path, tiff(9_990, 9_990, 16, 4, big=big)).startswith("9990 x 9990 pixels of 16 bits: more than 5000")
    gray = refusal(path, tiff(20, 20, 8, 2, (338, 2), big=big))
    assert gray == "a TIFF (gray) with transparency, which OpenCV does not read: save it as PNG"
    path.write_bytes(tiff(400, 400, 8, 1, big=big))
    assert read_image(path)[:, :, 0].tobytes() == NOISE.tobytes()[:160_000]


def test_a_large_tiff_of_libtiff_is_looked_at(tmp_path):
    assert cv2.imwrite(str(tmp_path / "a.tif"), NOISE.astype(np.float32))
    data = (tmp_path / "a.tif").read_bytes()
    assert len(data) > 2_000_000 and struct.unpack("<I", data[4:8])[0] > 1_000_000
    assert refusal(tmp_path / "a.tif", data).startswith("a TIFF (floats) with transparency")


def test_a_tiff_whose_directory_is_not_there_is_refused(tmp_path):
    whole = tiff(20, 20, 8, 1)
    for data in (whole[:-40], whole[:1000], whole[:4] + b"\xff\xff\xff\xff" + whole[8:]):
        assert refusal(tmp_path / "a.tif", data) == "a TIFF whose directory can't be read: cut off or damaged"


def jpeg(frame: int, factors: bytes, in_scan: int) -> bytes:
    """The segments of a JPEG of 10,000 x 10,000 pixels, a byte of sampling factors for each channel, without a scan."""
    channels = b"".join(bytes([number, factor, 0]) for number, factor in enumerate(factors))
    head = struct.pack(">BHHB", 8, 10_000, 10_000, len(factors)) + channels
    scan = bytes([in_scan]) + bytes(2 * in_scan + 3)
    parts = [(frame, head), (0xDA, scan)]
    segments = b"".join(bytes([0xFF, kind]) + struct.pack(">H", len(data) + 2) + data for kind, data in parts)
    return b"\xff\xd8" + segments + b"\xff\xd9"


def test_the_memory_of_a_jpeg(tmp_path):
    """In bytes of a pixel: twice three of the image, or three and two of every coefficient that is kept."""
    full, half = b"\x11\x11\x11", b"\x22\x11\x11"
    heads = {
        "baseline": (jpeg(0xC0, full, 3), 6),
        "progressive": (jpeg(0xC2, full, 3), 9),
        "progressive, colours of half the size": (jpeg(0xC2, half, 3), 6),
        "progressive CMYK": (jpeg(0xC2, b"\x11" * 4, 1), 11),
        "channel by channel": (jpeg(0xC0, full, 1), 9),
    }
    for name, (data, expected) in heads.items():
        assert read_header(data).per_pixel == expected, name
    assert refusal(tmp_path / "a.jpg", heads["progressive CMYK"][0]) == (
        "10000 x 10000 pixels of this kind of JPEG (11 bytes each) take 1100 MB of memory: more than 900 MB "
        "(OPENCV_IO_MAX_IMAGE_PIXELS sets the limit)"
    )
    assert "take 900 MB of memory: more than 900 MB" in refusal(tmp_path / "a.jpg", heads["progressive"][0])


def encoded(extension: str, image: np.ndarray) -> bytes:
    return cv2.imencode(extension, image)[1].tobytes()


@pytest.mark.parametrize("extension", [".avif", ".jp2", ".ppm"])
def test_the_size_of_other_formats_is_read(tmp_path, extension):
    path = tmp_path / f"a{extension}"
    image = NOISE[:60, :80, :3]
    data = encoded(extension, image)
    header = read_header(data)
    assert (header.width, header.height) == (80, 60)
    path.write_bytes(data)
    assert read_image(path).shape == (60, 80, 3) and check_image(path).problem is None
    old, new = {
        ".avif": (b"ispe" + struct.pack(">III", 0, 80, 60), b"ispe" + struct.pack(">III", 0, 9_990, 9_990)),
        ".jp2": (struct.pack(">II", 80, 60), struct.pack(">II", 9_990, 9_990)),
        ".ppm": (b"80 60\n255", b"9990 9990 65535"),
    }[extension]
    assert old in data
    assert refusal(path, data.replace(old, new)).startswith("9990 x 9990 pixels of")


def test_formats_whose_header_is_not_read_are_refused(tmp_path):
    data = encoded(".hdr", NOISE[:20, :20, :3].astype(np.float32))
    assert refusal(tmp_path / "a.hdr", data).startswith("not an image: b'#?R")


def test_no_header_breaks_its_reader():
    """Cut and changed at random: a size above zero and memory for it, or nothing; never an error."""
    random = np.random.default_rng(0)
    files = [encoded(end, NOISE[:60, :80, :3]) for end in (".avif", ".jp2", ".ppm", ".jpg", ".png", ".tif", ".bmp")]
    files += [tiff(20, 20, 8, 1, big=True)[:16] + tiff(20, 20, 8, 1, big=True)[-200:]]
    files[-1] = (
        files[-1][:8] + struct.pack("<Q", 16 + files[-1][16:].index(struct.pack("<QH", 9, 256))) + files[-1][16:]
    )
    assert None not in map(read_header, files)
    for number in range(4_000):
        data = bytearray(files[number % len(files)])
        for position in random.integers(0, min(len(data), 200), random.integers(1, 5)):
            data[position] = random.integers(256)
        data = data[: random.integers(1, len(data) + 1)] if number % 3 else data
        header = read_header(bytes(data))
        is_cut_off(bytes(data))
        assert header is None or (min(header.width, header.height) > 0 and header.memory > 0)


SIDE = 3_000
COLORS = np.broadcast_to(np.arange(SIDE, dtype=np.uint16)[:, None, None] // 12, (SIDE, SIDE, 4)).astype(np.uint8)
KINDS = {
    "progressive, turned": lambda: saved(
        Pillow.fromarray(COLORS[:, :, :3]), "JPEG", progressive=True, subsampling=0, exif=turned(6)
    ),
    "progressive CMYK": lambda: saved(Pillow.fromarray(COLORS, "CMYK"), "JPEG", progressive=True, exif=turned(6)),
    "PNG": lambda: encoded(".png", COLORS[:, :, :3]),
    "PNG of 16 bits with alpha": lambda: encoded(".png", COLORS.astype(np.uint16) * 257),
    "PNG of gray with alpha, turned": lambda: saved(
        Pillow.fromarray(np.ascontiguousarray(COLORS[:, :, :2]), "LA"), "PNG", exif=turned(6)
    ),
    "WebP with alpha": lambda: saved(Pillow.fromarray(COLORS, "RGBA"), "WEBP", quality=50, method=0),
    "GIF": lambda: saved(Pillow.fromarray(COLORS[:, :, 0]), "GIF"),
    "TIFF of floats": lambda: encoded(".tif", COLORS[:, :, :3].astype(np.float32)),
    "TIFF of 16 bits with alpha": lambda: encoded(".tif", COLORS.astype(np.uint16)),
    "TIFF in one strip": lambda: saved(
        Pillow.fromarray(COLORS[:, :, :3]), "TIFF", compression="tiff_lzw", tiffinfo={278: SIDE}
    ),
    "JPEG 2000": lambda: encoded(".jp2", COLORS[:, :, :3]),
    "AVIF with alpha": lambda: cv2.imencode(".avif", COLORS, [cv2.IMWRITE_AVIF_SPEED, 10])[1].tobytes(),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", KINDS)
def test_what_a_header_tells_is_enough(tmp_path, name):
    """Reading takes no more memory than was counted for it, and 12 MB that do not grow with the image."""
    data = KINDS[name]()
    (tmp_path / "a").write_bytes(data)
    with bounded(60, (read_header(data).memory + len(data)) / 1e6 + 12):
        assert read_image(tmp_path / "a").shape == (SIDE, SIDE, 3)


def test_images_wait_for_memory(tmp_path, monkeypatch):
    """Three threads, each with an image that takes 160 MB, where there are 170 MB."""
    image = Pillow.new("RGB", (4_200, 4_200), (7, 100, 200))
    data = saved(image, "JPEG", progressive=True, subsampling=0, exif=turned(6))
    paths = [tmp_path / f"{number}.jpg" for number in range(3)]
    for path in paths:
        path.write_bytes(data)
    monkeypatch.setattr(ROOM, "limit", 170_000_000)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(3))
    with bounded(20, 240):
        reports = list(check_images(paths))
    assert [(report.problem, report.notes) for report in reports] == [(None, ("rotated",))] * 3
    assert ROOM.used == 0


def test_room_is_given_back_and_is_empty_in_a_child():
    room, given = Room(10), []

    def hold() -> None:
        with room.take(1) as taken:
            given.append(taken.size)

    with room.take(6) as first:
        with room.take(4) as second:
            assert room.used == 10 and not second.grow(5) and second.grow(3) and second.grow(4)
        assert first.grow(99) and room.used == 99  # nobody else holds any
        waits = threading.Thread(target=hold, daemon=True)
        waits.start()
        child = os.fork()
        if child == 0:
            os._exit(room.used)
        assert os.waitpid(child, 0)[1] == 0 and waits.is_alive()
    waits.join(5)
    assert not waits.is_alive() and given == [1] and room.used == 0


def test_words_in_a_png_s_text_are_no_chunks(tmp_path):
    """A colour that is transparent, and a text before it that speaks of chunks."""
    pixels = zlib.compress(b"\0" + bytes([9, 8, 7, 1, 2, 3]))
    rgb = png(2, 1, pixels, 8, 2, chunk(b"tEXt", b"comment\0IDAT"), chunk(b"tRNS", struct.pack(">HHH", 9, 8, 7)))
    (tmp_path / "rgb.png").write_bytes(rgb)
    assert read_image(tmp_path / "rgb.png").tolist() == [[[255] * 3, [1, 2, 3]]]
    pixels = zlib.compress(b"\0\1\2\0\3\4")
    gray = png(2, 2, pixels, 8, 0, chunk(b"tEXt", b"c\0tRNS\0\2"), chunk(b"tRNS", b"\0\3"))
    (tmp_path / "gray.png").write_bytes(gray)
    assert read_image(tmp_path / "gray.png")[:, :, 0].tolist() == [[1, 2], [255, 4]]
    plain = png(2, 2, pixels, 8, 0, chunk(b"tEXt", b"c\0tRNS\0\2"))
    (tmp_path / "plain.png").write_bytes(plain)
    assert read_image(tmp_path / "plain.png")[:, :, 0].tolist() == [[1, 2], [3, 4]]


@pytest.mark.timeout(20)
def test_what_is_no_file_is_refused_at_once(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # the path of a socket is short
    os.mkfifo("pipe.png")
    Path("folder.png").mkdir()
    Path("zero.png").symlink_to("/dev/zero")
    expected = {"pipe.png": "a pipe", "folder.png": "a folder", "zero.png": "a device", "socket.png": "a socket"}
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("socket.png")
        for name, kind in expected.items():
            with pytest.raises(ImageError, match=f"^not a file but {kind}$"):
                read_image(Path(name))
            assert check_image(Path(name)).problem == f"not a file but {kind}"


def test_a_file_larger_than_the_memory_is_not_read(tmp_path):
    with open(tmp_path / "a.png", "wb") as file:
        file.truncate(2_000_000_000)
    reason = "a file of 2000000000 bytes: more than 900000000"
    with bounded(5, 50), pytest.raises(ImageError, match=reason):
        read_image(tmp_path / "a.png")
    assert check_image(tmp_path / "a.png").problem.startswith(reason)


def test_the_oldest_bmp(tmp_path):
    """Of OS/2: its header is of 12 bytes, and sizes are of two."""
    rows = np.arange(10 * 32, dtype=np.uint8).reshape(10, 32)
    rows[:, 30:] = 0  # a row is filled up to four bytes
    head = struct.pack("<2sIHHI", b"BM", 26 + rows.size, 0, 0, 26) + struct.pack("<IHHHH", 12, 10, 10, 1, 24)
    (tmp_path / "a.bmp").write_bytes(head + rows.tobytes())
    header = read_header(head + rows.tobytes())
    assert (header.width, header.height, header.notes) == (10, 10, [])
    np.testing.assert_array_equal(read_image(tmp_path / "a.bmp"), rows[::-1, :30].reshape(10, 10, 3)[:, :, ::-1])
    assert check_image(tmp_path / "a.bmp").problem is None
