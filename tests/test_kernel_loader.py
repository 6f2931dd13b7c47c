"""What stands at the beginning of a packed file: hostile paths, other contents and bombs are refused."""

import base64
import hashlib
import importlib
import os
import sys
import traceback
import tracemalloc
import zlib
from pathlib import Path

import pytest

from foldsmith.kernel.loader import PackError, Sources, check_paths, read_files, unpack

HOSTILE = [
    "/etc/passwd",
    "../x.yml",
    "a/../../x.yml",
    "a/./x.yml",
    "./x.yml",
    "a//x.yml",
    "a/",
    "",
    ".",
    "..",
    "a\\x.yml",
    "C:x.yml",
    "a\0.yml",
    "a\n.yml",
    "x.yml ",
    "x.yml.",
    "a" * 201,
]


def entry(data: bytes) -> tuple[int, str]:
    return len(data), hashlib.sha256(data).hexdigest()


def deflated(data: bytes) -> str:
    return base64.b64encode(zlib.compress(data)).decode()


@pytest.mark.parametrize("path", HOSTILE, ids=repr)
def test_hostile_paths_are_refused_in_manifests_and_by_the_unpacker(tmp_path, path):
    with pytest.raises(PackError, match="is not a plain relative path"):
        read_files({path: "x"}, {path: entry(b"x")})
    with pytest.raises(PackError, match="is not a plain relative path"):
        read_files(deflated(b"x"), {path: entry(b"x")})
    with pytest.raises(PackError, match="is not a plain relative path"):
        unpack({"good.yml": b"x", path: b"x"}, str(tmp_path / "to"))
    assert list(tmp_path.iterdir()) == [], "nothing is written, not even what is before it"


@pytest.mark.parametrize("paths", [["A.yml", "a.yml"], ["a/É.yml", "a/é.yml"], ["a", "a/b"], ["x/a/b", "x/A"]])
def test_paths_that_are_one_file_somewhere_are_refused(paths):
    with pytest.raises(PackError):
        check_paths(paths)
    check_paths(paths[:1])


def test_what_differs_from_the_manifest_is_refused():
    good = {"a.yml": entry(b"text")}
    assert read_files({"a.yml": "text"}, good) == {"a.yml": b"text"}
    for packed, manifest in (
        ({"a.yml": "texT"}, good),
        ({"a.yml": "text\n"}, good),
        ({"a.yml": ""}, good),
        ({"a.yml": "text", "b.yml": "x"}, good),
        ({}, good),
        ({"a.yml": "text"}, {"a.yml": (5, good["a.yml"][1])}),
    ):
        with pytest.raises(PackError):
            read_files(packed, manifest)


def test_compressed_files_never_become_larger_than_the_manifest_says():
    two = {"a": entry(b"te"), "b": entry(b"xt")}
    assert read_files(deflated(b"text"), two) == {"a": b"te", "b": b"xt"}
    bomb = deflated(b"0" * 50_000_000)
    tracemalloc.start()
    with pytest.raises(PackError, match="is not of the 4 bytes"):
        read_files(bomb, two)
    assert tracemalloc.get_traced_memory()[1] < 1_000_000
    tracemalloc.stop()
    for text in ("not base64!", base64.b64encode(b"not zlib").decode(), deflated(b"text")[:8]):
        with pytest.raises(PackError, match="can't be decompressed|is not of the 4 bytes"):
            read_files(text, two)
    trailing = base64.b64encode(zlib.compress(b"text") + b"more").decode()
    for text in (trailing, deflated(b"tex"), deflated(b"texts")):
        with pytest.raises(PackError, match="is not of the 4 bytes"):
            read_files(text, two)
    with pytest.raises(PackError, match="'a' is not what was packed"):
        read_files(deflated(b"Text"), two)


def test_unpacking_writes_plain_files_and_replaces_them(tmp_path):
    for data in (b"one", b"two"):
        unpack({"a.yml": data, "deep/er/b.csv": b"x"}, str(tmp_path / "to"))
        assert (tmp_path / "to" / "a.yml").read_bytes() == data
    names = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file())
    assert names == ["to/a.yml", "to/deep/er/b.csv"]


@pytest.mark.parametrize("link", ["to", "to/deep", "to/deep/b.csv", "to/deep/b.csv.tmp"])
def test_unpacking_goes_through_no_link(tmp_path: Path, link: str):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "b.csv").write_text("mine")
    (tmp_path / link).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / link).symlink_to(outside / "b.csv" if "." in link else outside)
    if link.endswith(".tmp"):
        unpack({"deep/b.csv": b"x"}, str(tmp_path / "to"))
        assert not (tmp_path / "to/deep/b.csv").is_symlink()
    else:
        with pytest.raises(PackError, match="is a link"):
            unpack({"deep/b.csv": b"x"}, str(tmp_path / "to"))
    assert (outside / "b.csv").read_text() == "mine" and os.listdir(outside) == ["b.csv"]


def test_unpacking_replaces_no_folder(tmp_path: Path):
    (tmp_path / "a.yml" / "kept").mkdir(parents=True)
    with pytest.raises(PackError, match="is a folder"):
        unpack({"a.yml": b"x"}, str(tmp_path))
    assert (tmp_path / "a.yml" / "kept").is_dir()


def test_a_traceback_shows_the_packed_lines(monkeypatch):
    sources = Sources({"packed_pkg": "", "packed_pkg.broken": "def fail():\n    raise KeyError('here')\n"})
    monkeypatch.setattr(sys, "meta_path", [sources, *sys.meta_path])
    module = importlib.import_module("packed_pkg.broken")
    with pytest.raises(KeyError) as caught:
        module.fail()
    said = "".join(traceback.format_exception(caught.value))
    assert "File \"<packed packed_pkg.broken>\", line 2, in fail\n    raise KeyError('here')" in said
    for name in ("packed_pkg", "packed_pkg.broken"):
        monkeypatch.delitem(sys.modules, name)
