"""The beginning of every packed file: proves what is packed, and imports the sources from memory.

`check_paths` refuses names that could lead out of a folder, `read_files` anything whose size or hash differs from the
manifest, `unpack` links. It needs the standard library alone.
"""

import base64
import hashlib
import importlib.abc
import importlib.machinery
import linecache
import os
import re
import sys
import zlib
from collections.abc import Iterable, Mapping, Sequence
from types import CodeType, ModuleType


class PackError(ValueError):
    """What is packed can't be trusted."""


def check_paths(paths: Iterable[str]) -> None:
    """Refuse paths that are not plain relative ones, or that are one file on some machines."""
    known: dict[str, str] = {}
    for path in paths:
        parts = path.split("/")
        plain = all(part not in ("", ".", "..") and part == part.strip() and part[-1] != "." for part in parts)
        if not plain or re.search(r"[\x00-\x1f\x7f\\:]", path) or len(path) > 200:
            raise PackError(f"{path!r} is not a plain relative path")
        if path.casefold() in known:
            raise PackError(f"{path!r} and {known[path.casefold()]!r} are the same file on some machines")
        known[path.casefold()] = path
    for name, path in known.items():
        for end in range(len(name)):
            if name[end] == "/" and name[:end] in known:
                raise PackError(f"{known[name[:end]]!r} is a file and the folder of {path!r}")


def read_files(packed: Mapping[str, str] | str, manifest: Mapping[str, Sequence]) -> dict[str, bytes]:
    """The packed files by path, once their paths, sizes and hashes are proved.

    Args:
        packed: text by path; or all of them, one after the other in the manifest's order, as base64 of zlib's output.
        manifest: (bytes, hex sha256) by path.
    """
    check_paths(manifest)
    if isinstance(packed, str):
        found = _inflated(packed, {path: size for path, (size, _) in manifest.items()})
    else:
        found = {path: text.encode("utf-8") for path, text in packed.items()}
    if found.keys() != manifest.keys():
        raise PackError(f"what is packed is not what the manifest names: {sorted(found.keys() ^ manifest.keys())[:5]}")
    for path, data in found.items():
        size, sha256 = manifest[path]
        if len(data) != size or hashlib.sha256(data).hexdigest() != sha256:
            raise PackError(f"{path!r} is not what was packed: its hash differs from the manifest's")
    return found


def _inflated(text: str, sizes: Mapping[str, int]) -> dict[str, bytes]:
    """The files; never more bytes than their sizes, whatever the data would become."""
    total = sum(sizes.values())
    inflater = zlib.decompressobj()
    try:
        data = inflater.decompress(base64.b64decode("".join(text.split()), validate=True), total + 1)
    except (ValueError, zlib.error) as error:
        raise PackError(f"what is packed can't be decompressed: {error}") from None
    if len(data) != total or not inflater.eof or inflater.unused_data:
        raise PackError(f"what is packed is not of the {total} bytes that the manifest says")
    files, begin = {}, 0
    for path, size in sizes.items():
        files[path] = data[begin : begin + size]
        begin += size
    return files


def unpack(files: Mapping[str, bytes], folder: str) -> None:
    """Write files below a folder; through no link, and over nothing that is not a plain file."""
    check_paths(files)
    for path, data in files.items():
        place = folder
        for part in ("", *path.split("/")):
            place = os.path.join(place, part) if part else place
            if os.path.islink(place):
                raise PackError(f"{place!r} is a link: nothing is written through it")
        if os.path.isdir(place):
            raise PackError(f"{place!r} is a folder")
        os.makedirs(os.path.dirname(place), exist_ok=True)
        temporary = place + ".tmp"
        if os.path.lexists(temporary):
            os.unlink(temporary)
        with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(data)
        os.replace(temporary, place)


class Sources(importlib.abc.MetaPathFinder, importlib.abc.InspectLoader):
    """Imports modules from their texts, by name."""

    def __init__(self, texts: Mapping[str, str]) -> None:
        self.texts = texts

    def find_spec(
        self, fullname: str, path: object = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname not in self.texts:
            return None
        package, origin = self.is_package(fullname), f"<packed {fullname}>"
        return importlib.machinery.ModuleSpec(fullname, self, is_package=package, origin=origin)

    def is_package(self, fullname: str) -> bool:
        return any(other.startswith(fullname + ".") for other in self.texts)

    def get_source(self, fullname: str) -> str:
        return self.texts[fullname]

    def get_code(self, fullname: str) -> CodeType:
        """Compiled so that a traceback names the module and shows its lines."""
        name, text = f"<packed {fullname}>", self.texts[fullname]
        linecache.cache[name] = (len(text), None, text.splitlines(keepends=True), name)
        return self.source_to_code(text, name)


def start(packed: Mapping[str, str] | str, manifest: Mapping[str, Sequence]) -> tuple[dict, dict]:
    """The packed files (bytes by path) and module sources (text by name), which can be imported from now on."""
    try:
        files = read_files(packed, manifest)
    except PackError as error:
        print(f"error: this file was changed after it was packed: {error}", file=sys.stderr)
        sys.exit(4)
    texts = {}
    for path, data in files.items():
        if path.endswith(".py"):
            texts[path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")] = data.decode("utf-8")
    sys.meta_path.insert(0, Sources(texts))
    return files, texts
