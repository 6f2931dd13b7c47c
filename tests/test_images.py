"""Finding, decoding and resizing image files."""

import struct
import subprocess
import sys
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image as Pillow

from foldsmith.data.headers import read_header
from foldsmith.data.images import Geometry, ImageError, find_images, read_image
from foldsmith.errors import UserError

RGB = np.array([[[255, 0, 0], [0, 128, 7]], [[1, 2, 3], [250, 240, 230]]], np.uint8)
GRAY = np.array([[0, 100], [37, 255]], np.uint8)
ALPHA = np.array([[0, 128], [255, 64]], np.uint8)
BITS = np.array([[True, False], [False, True]])


def over_white(color, alpha):
    """A pixel of `color` and `alpha` (0..255) on white paper, in integers, rounded to the nearest."""
    color, alpha = color.astype(int), alpha.astype(int)[:, :, None]
    return ((color * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8)


def repeat(gray):
    return np.dstack([gray] * 3)


def palette_image():
    image = Pillow.new("P", (2, 2))
    image.putdata([0, 1, 2, 3])
    image.putpalette(RGB.reshape(-1).tolist())
    return image


def decode(tmp_path, name, image, **options):
    image = image if isinstance(image, Pillow.Image) else Pillow.fromarray(image)
    image.save(tmp_path / name, **options)
    return read_image(tmp_path / name)


def same(image, expected):
    assert image.dtype == np.uint8
    assert image.flags["C_CONTIGUOUS"]
    np.testing.assert_array_equal(image, expected)


@pytest.mark.parametrize("name", ["a.png", "a.bmp", "a.tif", "a.webp"])
def test_lossless_rgb_comes_back_as_it_is(tmp_path, name):
    same(decode(tmp_path, name, RGB, **({"lossless": True} if name.endswith("webp") else {})), RGB)


@pytest.mark.parametrize("name", ["a.png", "a.bmp", "a.tif"])
def test_gray_is_repeated(tmp_path, name):
    same(decode(tmp_path, name, GRAY), repeat(GRAY))
    same(decode(tmp_path, name, BITS), repeat(np.where(BITS, 255, 0)))


def test_transparency_is_laid_over_white(tmp_path):
    same(decode(tmp_path, "la.png", np.dstack([GRAY, ALPHA])), over_white(repeat(GRAY), ALPHA))
    rgba = np.dstack([RGB, ALPHA])
    assert over_white(RGB, ALPHA).tolist() == [[[255, 255, 255], [127, 191, 131]], [[1, 2, 3], [254, 251, 249]]]
    same(decode(tmp_path, "rgba.png", rgba), over_white(RGB, ALPHA))
    same(decode(tmp_path, "rgba.webp", rgba, lossless=True, exact=True), over_white(RGB, ALPHA))
    cv2.imwrite(str(tmp_path / "16.png"), cv2.cvtColor(rgba.astype(np.uint16) * 257, cv2.COLOR_RGBA2BGRA))
    same(read_image(tmp_path / "16.png"), over_white(RGB, ALPHA))


def test_tiff_transparency_is_laid_over_white(tmp_path):
    rgba = np.dstack([RGB, ALPHA])
    tagged = decode(tmp_path, "a.tif", rgba)  # OpenCV multiplies by alpha, and rounds, as it reads
    assert np.abs(tagged.astype(int) - over_white(RGB, ALPHA)).max() <= 1
    cv2.imwrite(str(tmp_path / "b.tif"), cv2.cvtColor(rgba, cv2.COLOR_RGBA2BGRA))
    same(read_image(tmp_path / "b.tif"), over_white(RGB, ALPHA))


def test_one_gray_value_may_be_transparent(tmp_path):
    expected = repeat(GRAY)
    expected[1, 0] = 255
    same(decode(tmp_path, "g.png", Pillow.fromarray(GRAY), transparency=37), expected)
    bits = decode(tmp_path, "b.png", Pillow.fromarray(BITS), transparency=0)
    same(bits, np.full((2, 2, 3), 255, np.uint8))
    cv2.imwrite(str(tmp_path / "a.bmp"), cv2.cvtColor(np.dstack([RGB, ALPHA]), cv2.COLOR_RGBA2BGRA))
    same(read_image(tmp_path / "a.bmp"), over_white(RGB, ALPHA))


def test_palettes_are_resolved_with_their_transparency(tmp_path):
    for name in ("p.png", "p.bmp", "p.tif", "p.gif"):
        same(decode(tmp_path, name, palette_image()), RGB)
    same(decode(tmp_path, "t.png", palette_image(), transparency=ALPHA.tobytes()), over_white(RGB, ALPHA))
    expected = RGB.copy()
    expected[1, 0] = 255
    same(decode(tmp_path, "index.png", palette_image(), transparency=2), expected)
    same(decode(tmp_path, "color.png", RGB, transparency=(1, 2, 3)), expected)


def test_a_gif_s_transparent_colour_is_laid_over_white(tmp_path):
    expected = RGB.copy()
    expected[1, 0] = 255
    same(decode(tmp_path, "t.gif", palette_image(), transparency=2), expected)
    same(decode(tmp_path, "none.gif", palette_image()), RGB)
    notes = {name: read_header((tmp_path / name).read_bytes()).notes for name in ("t.gif", "none.gif")}
    assert notes == {"t.gif": ["palette", "alpha"], "none.gif": ["palette"]}


def test_palette_transparency_behind_a_long_colour_profile(tmp_path):
    profile = np.random.default_rng(0).bytes(20_000)
    image = decode(tmp_path, "t.png", palette_image(), transparency=ALPHA.tobytes(), icc_profile=profile)
    same(image, over_white(RGB, ALPHA))


def test_sixteen_bits_become_eight(tmp_path):
    cv2.imwrite(str(tmp_path / "gray.png"), GRAY.astype(np.uint16) * 257)
    same(read_image(tmp_path / "gray.png"), repeat(GRAY))
    cv2.imwrite(str(tmp_path / "rgb.png"), RGB[:, :, ::-1].astype(np.uint16) * 257)
    same(read_image(tmp_path / "rgb.png"), RGB)


def test_cmyk_is_converted(tmp_path):
    image = decode(tmp_path, "a.jpg", Pillow.new("CMYK", (16, 8), (100, 50, 20, 30)), quality=100)
    exact = [(255 - ink) * (255 - 30) / 255 for ink in (100, 50, 20)]
    assert image.shape == (8, 16, 3)
    assert np.abs(image - exact).max() <= 2


def test_floats_are_scaled_to_their_range(tmp_path):
    values = np.array([[-1, 0], [3, 1]], np.float32)
    same(decode(tmp_path, "gray.tif", values), repeat([[0, 64], [255, 128]]))
    cv2.imwrite(str(tmp_path / "rgb.tif"), np.dstack([values, values * 0, values * 0 - 1]))  # in the order BGR
    same(read_image(tmp_path / "rgb.tif"), np.dstack([[[0, 0], [0, 0]], [[64, 64], [64, 64]], [[0, 64], [255, 128]]]))


def test_a_tiff_of_whose_transparency_opencv_does_not_tell_is_refused(tmp_path):
    """Rather than read as if it had none."""
    rgba = np.dstack([RGB, ALPHA])[:, :, [2, 1, 0, 3]]
    cv2.imwrite(str(tmp_path / "floats.tif"), (rgba / 255).astype(np.float32))
    Pillow.fromarray(np.dstack([GRAY, ALPHA]), "LA").save(tmp_path / "gray.tif")
    for name in ("floats", "gray"):
        reason = rf"^a TIFF \({name}\) with transparency, which OpenCV does not read: save it as PNG$"
        with pytest.raises(ImageError, match=reason):
            read_image(tmp_path / f"{name}.tif")


UPRIGHT = {  # EXIF orientation -> what a reader does with the stored pixels
    1: lambda image: image,
    2: lambda image: image[:, ::-1],
    3: lambda image: image[::-1, ::-1],
    4: lambda image: image[::-1],
    5: lambda image: image.swapaxes(0, 1),
    6: lambda image: np.rot90(image, -1),
    7: lambda image: image[::-1, ::-1].swapaxes(0, 1),
    8: lambda image: np.rot90(image, 1),
}


@pytest.mark.parametrize("orientation", UPRIGHT)
def test_exif_rotation_is_applied(tmp_path, orientation):
    exif = Pillow.Exif()
    exif[0x0112] = orientation
    image = np.repeat(np.repeat(np.arange(0, 240, 40, dtype=np.uint8).reshape(2, 3), 16, 0), 16, 1)
    jpeg = decode(tmp_path, "a.jpg", repeat(image), exif=exif, quality=100)
    expected = UPRIGHT[orientation](repeat(image))
    assert jpeg.shape == expected.shape
    assert np.abs(jpeg.astype(int) - expected).max() <= 2
    rgba = np.dstack([RGB, ALPHA])[:, [0, 1, 1]]
    for name, options in {"a.png": {}, "a.webp": {"lossless": True, "exact": True}}.items():
        same(decode(tmp_path, name, rgba[:, :, :3], exif=exif, **options), UPRIGHT[orientation](rgba[:, :, :3]))
        expected = UPRIGHT[orientation](over_white(rgba[:, :, :3], rgba[:, :, 3]))
        same(decode(tmp_path, name, rgba, exif=exif, **options), expected)
    expected = UPRIGHT[orientation](over_white(repeat(GRAY), ALPHA))
    same(decode(tmp_path, "la.png", np.dstack([GRAY, ALPHA]), exif=exif), expected)
    expected = UPRIGHT[orientation](repeat(np.where(GRAY == 37, 255, GRAY)))
    same(decode(tmp_path, "gray.png", Pillow.fromarray(GRAY), transparency=37, exif=exif), expected)


def png(size):
    """The first bytes of a black PNG of size x size pixels."""
    chunks = {b"IHDR": struct.pack(">IIBBBBB", size, size, 8, 0, 0, 0, 0), b"IDAT": zlib.compress(bytes(10_000))}
    packed = (struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in chunks.items())
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty file"),
        (b"\n <!DOCTYPE html><html><body>404", "an HTML page, not an image"),
        (b"hello", "not an image: b'hello'"),
        (Path("data/clipart/train/000538be4ee0.jpg").read_bytes()[:20], "not an image: b'.xff.xd8"),
        (Path("data/clipart/train/000538be4ee0.jpg").read_bytes()[:1000], "cut off"),
        (png(100)[:20], "not an image: b'.x89PNG"),
        (png(100), "cut off"),  # it has no end
    ],
    ids=["empty", "html", "text", "short_jpeg", "cut_jpeg", "short_png", "cut_png"],
)
def test_what_is_no_image_says_why(tmp_path, content, message):
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(ImageError, match=message):
        read_image(tmp_path / "a.png")


def test_a_bomb_is_refused_by_its_header(tmp_path):
    (tmp_path / "a.png").write_bytes(png(20_000))
    with pytest.raises(ImageError, match="20000 x 20000 pixels: more than 100000000"):
        read_image(tmp_path / "a.png")
    # Of formats whose header we do not read, OpenCV refuses them. It takes its limit when it is imported.
    code = "import foldsmith.data.dataset, os; print(os.environ['OPENCV_IO_MAX_IMAGE_PIXELS'])"
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert child.stdout == "100000000\n"


def test_a_missing_file_says_so(tmp_path):
    with pytest.raises(ImageError, match="No such file"):
        read_image(tmp_path / "none.png")


@pytest.fixture
def folder(tmp_path):
    for name in ("1.jpg", "2.png", "3.JPG", "two.png", "two.jpg", "a/1.png", "a/2.webp", "x.tiff.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    return tmp_path


def test_images_are_found_by_id(folder):
    ids = ["2", "1", "1.jpg", "3.JPG", "a/1", "a/2.webp", "x.tiff", "two.png"]
    names = ["2.png", "1.jpg", "1.jpg", "3.JPG", "a/1.png", "a/2.webp", "x.tiff.jpg", "two.png"]
    assert find_images(folder, ids) == [folder / name for name in names]


def test_a_named_extension_decides(folder):
    assert find_images(folder, ["two", "1"], ".jpg") == [folder / "two.jpg", folder / "1.jpg"]
    assert find_images(folder, ["3", "3.JPG"], ".JPG") == [folder / "3.JPG"] * 2
    with pytest.raises(UserError, match="1 of 2 images are missing; the first: 2\n.*tried .jpg"):
        find_images(folder, ["1", "2"], ".jpg")


def test_missing_images_are_counted(folder):
    with pytest.raises(UserError, match=r"7 of 8 images are missing; the first: m0, m1, m2, m3, b/m4\n") as caught:
        find_images(folder, ["m0", "m1", "1", "m2", "m3", "b/m4", "m5", "m6.jpg"])
    assert (caught.value.code, caught.value.file) == (2, folder)
    with pytest.raises(UserError, match="image folder not found"):
        find_images(folder / "none", ["1"])


def test_two_files_for_one_id_are_an_error(folder):
    with pytest.raises(UserError, match="two.jpg and two.png both fit the id 'two'") as caught:
        find_images(folder, ["1", "two"])
    assert caught.value.key == "data.image_extension"


@pytest.mark.parametrize("shape", [(1, 1), (1, 500), (500, 1), (7, 5), (33, 64), (64, 33), (40, 24), (301, 199)])
@pytest.mark.parametrize("mode", ["squash", "fit", "short_side", "crop"])
def test_every_shape_becomes_the_input_size(mode, shape):
    image = np.full((*shape, 3), 9, np.uint8)
    geometry = Geometry(mode, "reflect", 40, 24)
    same(geometry.center(image), np.full((40, 24, 3), 9, np.uint8))
    canvas = geometry.canvas(image, margin=6).shape[:2]
    scale = max(40 / shape[0], 24 / shape[1])
    inner = {"crop": shape, "short_side": (round(shape[0] * scale), round(shape[1] * scale))}.get(mode, (0, 0))
    assert canvas == (max(46, inner[0]), max(30, inner[1]))


def columns(values, rows=4):
    """An image whose columns have these gray values."""
    return repeat(np.tile(np.uint8(values), (rows, 1)))


def test_modes_show_what_they_promise():
    image = columns([0, 10, 80, 122, 250, 252, 60, 70])  # 4 x 8
    same(Geometry("squash", "black", 4, 4).center(image), columns([5, 101, 251, 65]))
    same(Geometry("squash", "black", 4, 2).center(image), columns([53, 158]))
    same(Geometry("short_side", "black", 2, 2).center(image), columns([101, 251], 2))
    same(Geometry("crop", "black", 2, 2).center(image), columns([122, 250], 2))
    same(
        Geometry("fit", "white", 3, 4).center(image),
        np.concatenate([columns([5, 101, 251, 65], 2), columns([255] * 4, 1)]),
    )
    for mode in ("squash", "fit", "short_side", "crop"):
        same(Geometry(mode, "black", 4, 8).center(image), image)


@pytest.mark.parametrize(
    ("pad", "row"),
    [
        ("white", [255, 255, 10, 20, 30, 255, 255]),
        ("black", [0, 0, 10, 20, 30, 0, 0]),
        ("edge", [10, 10, 10, 20, 30, 30, 30]),
        ("reflect", [30, 20, 10, 20, 30, 20, 10]),
    ],
)
def test_padding_is_exact(pad, row):
    same(Geometry("crop", pad, 3, 7).center(columns([10, 20, 30], 3)), columns(row, 3))
    same(Geometry("squash", pad, 3, 3).canvas(columns([10, 20, 30], 3), margin=4)[2:5], columns(row, 3))
