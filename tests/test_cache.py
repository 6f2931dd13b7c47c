"""The cache of decoded images: the same bytes as without, shared, built once, evicted when nobody uses it."""

import errno
import fcntl
import os
import shutil
import threading
from collections import namedtuple
from pathlib import Path

import cv2
import numpy as np
import pytest
from safetensors.torch import load_file

import predict_oof
from foldsmith import cli
from foldsmith.config.schema import Augmentations
from foldsmith.data import cache as cache_module
from foldsmith.data.augment import Augment
from foldsmith.data.cache import CacheMaker, cache_folder, cached_images, make_room
from foldsmith.data.images import Geometry, ImageError, geometry_of, read_image
from foldsmith.errors import UserError
from tests.conftest import config
from tests.test_training import fold0

SIZES = [(40, 90), (90, 40), (64, 64), (20, 30), (300, 7), (48, 48), (49, 47), (200, 100)]
MODES = ["squash", "fit", "short_side", "crop"]


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """An empty cache folder."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    return tmp_path / "home" / "foldsmith"


@pytest.fixture
def paths(tmp_path) -> list[Path]:
    """Images of noise, of all shapes."""
    generator = np.random.default_rng(0)
    found = [tmp_path / f"{height}x{width}.png" for height, width in SIZES]
    for path, size in zip(found, SIZES, strict=True):
        cv2.imwrite(str(path), generator.integers(0, 256, (*size, 3), dtype=np.uint8))
    return found


def experiment(size=48, augmentations=None, **data):
    made = config(**data)
    model = made.model.model_copy(update={"input_size": [size, size]})
    options = Augmentations.model_validate(augmentations or {})
    return made.model_copy(update={"model": model, "augmentations": options})


def forbid_decoding(monkeypatch):
    def read(path):
        raise AssertionError(f"{path} is decoded")

    monkeypatch.setattr(cache_module, "read_image", read)


def caches(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("*.images"))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", ["disk", "ram"])
def test_what_is_cut_from_a_cache_is_what_is_cut_from_the_file(folder, paths, monkeypatch, mode, kind):
    read = cached_images(experiment(geometry=mode, cache=kind), [paths])
    whole = {path: read_image(path) for path in paths}
    forbid_decoding(monkeypatch)
    for pad in ("reflect", "white"):
        geometry = Geometry(mode, pad, 48, 48)
        one = Augment(Augmentations.model_validate({"crop_jitter": 9, "affine": "hard", "noise": 0.5}), geometry)
        for path in paths:
            np.testing.assert_array_equal(geometry.center(read(path)), geometry.center(whole[path]))
            for margin in (0, 1, 7):
                np.testing.assert_array_equal(geometry.canvas(read(path), margin), geometry.canvas(whole[path], margin))
            for key in range(3):
                cached, moves = one(read(path), (key,))
                decoded, others = one(whole[path], (key,))
                assert (cached.tobytes(), moves) == (decoded.tobytes(), others)
    assert len(caches(folder)) == (1 if kind == "disk" else 0)


def test_rectangles_of_native_pixels_come_from_unscaled_images(folder, paths):
    read = cached_images(experiment(augmentations={"rect_crop": {}}, geometry="fit"), [paths])
    for path, size in zip(paths, SIZES, strict=True):
        assert read(path).shape == (*size, 3)
        np.testing.assert_array_equal(read(path), read_image(path))


def test_training_sees_the_same_with_a_cache_and_without(small, tmp_path, folder):
    runs = {mode: fold0(small, tmp_path / mode, f"data.cache={mode}") for mode in ("off", "disk", "ram")}
    weights = {mode: load_file(run / "clipart_tiny_f0.safetensors") for mode, run in runs.items()}
    for mode in ("disk", "ram"):
        assert (runs[mode] / "fold0/metrics.csv").read_bytes() == (runs["off"] / "fold0/metrics.csv").read_bytes()
        assert all((weights[mode][name] == tensor).all() for name, tensor in weights["off"].items())
    assert len(caches(folder)) == 1


def test_other_folds_experiments_and_oof_decode_nothing(small, tmp_path, folder, monkeypatch, capsys):
    run = fold0(small, tmp_path / "one", "data.cache=off")
    first = ["--config", "clipart_tiny", "--output", str(tmp_path / "one"), "--set", *small]
    predict_oof.main([*first, "data.cache=off"])
    expected = (run / "clipart_tiny_f0.npy").read_bytes()
    (run / "clipart_tiny_f0.npy").unlink()
    fold0(small, tmp_path / "two")
    forbid_decoding(monkeypatch)
    fold0(small, tmp_path / "three", "train.seed=4", "data.pad=white", "augmentations.crop_jitter=9")
    capsys.readouterr()
    predict_oof.main(first)
    assert "decoding" not in capsys.readouterr().out
    assert (run / "clipart_tiny_f0.npy").read_bytes() == expected


def test_check_data_fills_the_cache_of_a_training(small, tmp_path, folder, monkeypatch, capsys):
    words = ["check-data", "--config", "clipart_tiny", "--cache", "--set", *small]
    cli.main(words)
    assert "decoding 160 images, fit 48 x 48, once: 1 MB" in capsys.readouterr().out
    forbid_decoding(monkeypatch)
    cli.main(words)
    fold0(small, tmp_path)
    assert len(caches(folder)) == 1


def test_the_size_is_said_beforehand_and_a_changed_file_makes_another_cache(folder, paths, capsys):
    cached_images(experiment(), [paths, []])
    (name,) = caches(folder)
    size = (folder / name).stat().st_size
    assert size == 8 * (3 + 3 * 8) + 8 * 48 * 48 * 3
    assert f"decoding 8 images, squash 48 x 48, once: {size / 1e6:.0f} MB in {folder / name}" in capsys.readouterr().out
    cached_images(experiment(), [paths])
    assert capsys.readouterr().out == ""
    os.utime(paths[0], (1, 1))
    cached_images(experiment(), [paths])
    cached_images(experiment(50), [paths])
    assert len(caches(folder)) == 3


def test_two_that_build_at_once_decode_once(folder, paths, monkeypatch):
    decoded, results, both = [], [], threading.Barrier(2)
    real = cache_module.CacheMaker._write

    def write(self, file):
        decoded.append(None)
        real(self, file)

    def build():
        both.wait()
        results.append(cached_images(experiment(), [paths])(paths[3]).tobytes())

    monkeypatch.setattr(cache_module.CacheMaker, "_write", write)
    threads = [threading.Thread(target=build) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(decoded) == 1
    assert len(set(results)) == 1 and len(results) == 2


@pytest.mark.parametrize("damage", [lambda data: data[:-1], lambda data: b"", lambda data: b"x" * len(data)])
def test_a_damaged_cache_is_built_again(folder, paths, damage):
    cached_images(experiment(), [paths])
    (name,) = caches(folder)
    good = (folder / name).read_bytes()
    (folder / name).write_bytes(damage(good))
    (folder / f".{name}.left.tmp").write_bytes(b"of a builder that was killed")
    cached_images(experiment(), [paths])
    assert (folder / name).read_bytes() == good
    assert not list(folder.glob("*.tmp"))


def test_where_nothing_can_be_written_there_is_no_cache_and_one_notice(tmp_path, paths, monkeypatch, capsys):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    read = cached_images(experiment(), [paths])
    notice = f"decoded images are not cached: {tmp_path / 'file' / 'foldsmith'} cannot be written: Not a directory\n"
    assert capsys.readouterr().out == notice
    np.testing.assert_array_equal(read(paths[0]), read_image(paths[0]))
    with pytest.raises(UserError) as caught:
        cached_images(experiment(cache="disk"), [paths])
    assert (caught.value.key, caught.value.code) == ("data.cache", 3)


def test_a_disk_that_fills_up_while_a_cache_is_built_ends_in_no_cache(folder, paths, monkeypatch, capsys):
    def full(self, file):
        file.write(b"x" * 100)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(cache_module.CacheMaker, "_write", full)
    read = cached_images(experiment(), [paths])
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith("decoded images are not cached: could not be written: No space left on device; it needs")
    np.testing.assert_array_equal(read(paths[0]), read_image(paths[0]))
    assert [path.suffix for path in folder.iterdir()] == [".lock"]


def test_more_than_the_memory_is_cached_on_request_only(folder, paths, monkeypatch, capsys):
    monkeypatch.setattr(cache_module, "free_memory", lambda: 1000)
    cached_images(experiment(), [paths])
    assert "more than the memory that is free" in capsys.readouterr().out
    assert caches(folder) == []
    with pytest.raises(UserError, match="more than half of the memory"):
        cached_images(experiment(cache="ram"), [paths])
    cached_images(experiment(cache="disk"), [paths])
    assert len(caches(folder)) == 1


def test_an_unreadable_image_is_what_it_is_without_a_cache(folder, paths, tmp_path):
    (tmp_path / "broken.png").write_text("hello")
    read = cached_images(experiment(), [[paths[0], tmp_path / "broken.png", *paths[1:]]])
    with pytest.raises(ImageError, match="not an image: b'hello'"):
        read(tmp_path / "broken.png")
    geometry = Geometry("squash", "reflect", 48, 48)
    for path in paths:
        np.testing.assert_array_equal(read(path), geometry.center(read_image(path)))


def fill(folder: Path, monkeypatch, free: int) -> None:
    """Caches a, b, c of 100 bytes, used in this order, on a disk with `free` bytes left."""
    folder.mkdir(parents=True)
    for second, name in enumerate("abc"):
        (folder / f"{name}.images").write_bytes(bytes(100))
        os.utime(folder / f"{name}.images", (second, second))
    usage = namedtuple("usage", "free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(free))


@pytest.mark.parametrize(
    ("size", "left"),
    [(200, ["a", "b", "c"]), (201, ["b", "c"]), (300, ["b", "c"]), (301, ["c"]), (500, [])],
)
def test_the_least_recently_used_go_until_half_of_the_space_is_left(folder, monkeypatch, size, left):
    fill(folder, monkeypatch, free=700)  # with the caches 1000: the limit is 500
    make_room(folder, size)
    assert [name.removesuffix(".images") for name in caches(folder)] == left


def test_a_cache_in_use_stays_and_nothing_goes_in_vain(folder, monkeypatch):
    fill(folder, monkeypatch, free=700)
    with open(folder / "a.images", "rb") as used:
        fcntl.flock(used, fcntl.LOCK_SH)
        make_room(folder, 250)
        assert caches(folder) == ["a.images", "c.images"]
        with pytest.raises(UserError, match="more than half of the free space") as caught:
            make_room(folder, 500)
        assert caught.value.code == 3
    assert caches(folder) == ["a.images", "c.images"]


def test_a_reader_keeps_its_cache(folder, paths):
    read = cached_images(experiment(), [paths])
    (name,) = caches(folder)
    with open(folder / name, "rb") as file:
        with pytest.raises(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        before = read(paths[0]).tobytes()
        del read
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    assert before == Geometry("squash", "reflect", 48, 48).center(read_image(paths[0])).tobytes()


def test_the_folder_is_the_user_s(monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert cache_folder() == Path("/somewhere/foldsmith")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/home/ann")
    assert cache_folder() == Path("/home/ann/.cache/foldsmith")


def test_a_file_in_the_place_of_another_of_its_size_and_time_is_read_anew(folder, paths):
    first = CacheMaker(paths, None)
    content, times = paths[0].read_bytes(), paths[0].stat()
    other = paths[0].with_suffix(".new")
    other.write_bytes(content)
    other.replace(paths[0])
    os.utime(paths[0], ns=(times.st_atime_ns, times.st_mtime_ns))
    second = CacheMaker(paths, None)
    assert first.name != second.name


@pytest.mark.parametrize("named", ["", "here/cache"])
def test_without_a_home_folder_nothing_is_cached(paths, monkeypatch, capsys, named):
    """A relative $XDG_CACHE_HOME does not count."""
    monkeypatch.setenv("XDG_CACHE_HOME", named)
    monkeypatch.setattr(Path, "home", lambda: (_ for _ in ()).throw(RuntimeError))
    read = cached_images(experiment(), [paths])
    assert capsys.readouterr().out == "decoded images are not cached: there is no home folder for the cache\n"
    np.testing.assert_array_equal(read(paths[0]), read_image(paths[0]))


def test_caches_that_vanish_while_room_is_made(folder, monkeypatch):
    folder.mkdir(parents=True)
    (folder / "a.images").symlink_to("nowhere")
    (folder / "b.images").write_bytes(b"x")
    cache_module.make_room(folder, 10)
    assert (folder / "b.images").exists()


def test_names_that_lead_nowhere_are_read_as_themselves(folder, paths, tmp_path):
    (tmp_path / "loop.png").symlink_to("loop.png")
    strange = [tmp_path / "loop.png", tmp_path / ("n" * 300), tmp_path / "nul\0.png"]
    read = cached_images(experiment(), [[*paths, *strange]])
    np.testing.assert_array_equal(read(paths[0]), experiment_geometry().scale(read_image(paths[0])))


def experiment_geometry() -> Geometry:
    return geometry_of(experiment())
