"""Decoded images: read once for all who look at them, kept where there is room and nobody else sees them."""

import shutil
import tempfile

import numpy as np
import pytest

from foldsmith.data.images import Geometry, read_image
from foldsmith.inference import decoded
from foldsmith.inference.decoded import Canvas, DecodedImages
from tests.conftest import DATA, infer


def test_a_canvas_is_the_middle_and_its_surroundings():
    from foldsmith.data.images import Geometry, read_image

    image = read_image(sorted((DATA / "test").glob("*.jpg"))[0])
    for mode in ("squash", "fit", "short_side", "crop"):
        geometry = Geometry(mode, "reflect", 48, 40)
        plain, large = Canvas(geometry, 0).cut(image), Canvas(geometry, 8).cut(image)
        assert np.array_equal(plain, geometry.center(image)) and large.shape == (56, 48, 3)
        assert np.array_equal(large[4:-4, 4:-4], plain)


def test_images_are_never_kept_in_the_working_folder(tmp_path, monkeypatch):
    """tempfile falls back to it: it may be a kernel's output."""
    canvas = Canvas(Geometry("squash", "reflect", 32, 32), 0)
    paths = sorted((DATA / "test").glob("*.jpg"))[:3]
    (tmp_path / "working" / "tmp").mkdir(parents=True)
    (tmp_path / "outside").mkdir()
    monkeypatch.chdir(tmp_path / "working")
    expected = next(DecodedImages(paths).batches(canvas, 8))
    for folder, passes in (("working", 2), ("working/tmp", 2), ("outside", 1), ("gone", 2)):
        read = []
        monkeypatch.setattr(decoded, "read_image", lambda path, read=read: read.append(path) or read_image(path))
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / folder))
        with DecodedImages(paths, keep=[canvas], memory_limit=0) as images:
            for _ in range(2):
                np.testing.assert_array_equal(next(images.batches(canvas, 8)), expected)
        assert len(read) == 3 * passes, folder
        assert not any((tmp_path / "working" / "tmp").iterdir()) and not any((tmp_path / "outside").iterdir())


@pytest.mark.parametrize("mode", ["squash", "fit", "short_side", "crop"])
def test_views_without_crops_share_the_images_of_those_with(mode):
    geometry = Geometry(mode, "edge", 48, 40)
    small, large = Canvas(geometry, 0), Canvas(geometry, 6)
    paths = sorted((DATA / "test").glob("*.jpg"))[:5]
    with DecodedImages(paths, keep=[small, large, small]) as images:
        assert [canvas.margin for canvas in images._store] == [6]
        for canvas in (small, large):
            np.testing.assert_array_equal(
                next(images.batches(canvas, 8)), np.stack([canvas.cut(read_image(path)) for path in paths])
            )


def test_each_image_is_decoded_once(chain, few, whole, tmp_path, monkeypatch):
    read = []
    real = decoded.read_image
    monkeypatch.setattr(decoded, "read_image", lambda path: read.append(path.name) or real(path))
    output = infer(chain, tmp_path / "s.csv", "--data", str(few))
    assert len(read) == len(set(read)) == 70 and output.read_bytes() == whole


@pytest.mark.parametrize("room", ["file", "nowhere"])
def test_images_that_do_not_fit_into_memory(chain, few, whole, tmp_path, monkeypatch, room):
    """They go to a private temporary file or, where there is no room either, each pass decodes them."""
    monkeypatch.setattr(decoded, "free_memory", lambda: 0)
    monkeypatch.setattr(decoded.tempfile, "tempdir", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    if room == "nowhere":
        monkeypatch.setattr(decoded.shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(0, 0, 0))
    output = infer(chain, tmp_path / "s.csv", "--data", str(few))
    assert output.read_bytes() == whole
    assert list((tmp_path / "tmp").iterdir()) == [], "nothing is left behind"
