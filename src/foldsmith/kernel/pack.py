"""One Python file that holds code, configs and what they need, for machines without this project and a network.

The sources stand in it as readable text. An import hook serves them from memory (kernel/loader.py, which stands at its
beginning); nothing is unpacked but the configs and tables of scripts.
"""

import ast
import base64
import hashlib
import pprint
import zlib
from collections.abc import Mapping
from pathlib import Path

import foldsmith
from foldsmith.errors import UserError
from foldsmith.kernel.contents import Contents
from foldsmith.kernel.loader import PackError, check_paths

LARGEST = 1_000_000  # bytes; Kaggle refuses scripts above a megabyte

_TEMPLATE = '''#!/usr/bin/env python3
"""{name} in one file. Writes {writes} into the working folder.

Packed by foldsmith {version}. No network is needed. Weights are found anywhere below ../input and /kaggle/input, the
data there by the name of its folder or of the competition.
"""

{loader}

OPTIONS = {options}

MANIFEST = {manifest}  # bytes and sha256

PACKED = {packed}

FILES, SOURCES = start(PACKED, MANIFEST)

if __name__ == "__main__":
    from foldsmith.errors import run
{tail}'''


def render(contents: Contents, compress: bool) -> str:
    """The packed file's text; equal contents give equal text.

    Args:
        compress: base64 of zlib's output instead of readable text.

    Raises:
        UserError: it is too large, or holds a path that unpacking would refuse, or a name that is no plain one.
    """
    _check_names(contents)
    try:
        check_paths(contents.files)
    except PackError as error:
        raise UserError(f"can't be packed: {error}") from None
    files = dict(sorted(contents.files.items()))
    text = _TEMPLATE.format(
        name=contents.name,
        writes=contents.writes,
        version=foldsmith.__version__,
        loader=Path(__file__).with_name("loader.py").read_text(encoding="utf-8").strip(),
        options=pprint.pformat(contents.options, width=118),
        manifest=pprint.pformat(manifest(files), width=118),
        packed=_deflated(files) if compress else _readable(files),
        tail=contents.tail,
    )
    size = len(text.encode("utf-8"))
    if size > LARGEST:
        largest = sorted(((len(text), path) for path, text in files.items()), reverse=True)[:3]
        named = ", ".join(f"{path} {length / 1000:.0f} KB" for length, path in largest)
        raise UserError(
            f"{contents.name}.py would have {size / 1000:.0f} KB, and a kernel may have {LARGEST // 1000}; "
            f"the largest parts: {named}",
            hint="tables can lie in a dataset instead" if compress else "--compress makes it smaller",
        )
    return text


def _check_names(contents: Contents) -> None:
    """Refuse names that would end the texts in which they stand, here, in a shell or in a README."""
    for name in (contents.name, contents.writes, *contents.files):
        strange = sorted({letter for letter in name if letter in "\"'`\\" or not letter.isprintable()})
        if strange:
            raise UserError(
                f"can't be packed: the name {name!r} holds {' '.join(map(ascii, strange))}",
                hint="rename the file: letters, digits, spaces, . _ and - are safe; quotes and backslashes are not",
            )


def manifest(files: Mapping[str, str]) -> dict[str, tuple[int, str]]:
    """Bytes and hex sha256 of every packed file."""
    encoded = {path: text.encode("utf-8") for path, text in files.items()}
    return {path: (len(data), hashlib.sha256(data).hexdigest()) for path, data in encoded.items()}


def _literal(text: str) -> str:
    """A Python literal that reads like the text itself, line by line, wherever one can."""
    escaped = text.replace("\\", "\\\\").replace("'''", "\\'\\'\\'")
    for literal in (f"r'''{text}'''", f"'''{escaped}'''"):
        try:
            if ast.literal_eval(literal) == text:
                return literal
        except (SyntaxError, ValueError):  # a NUL is a ValueError in some releases
            pass
    return repr(text)


def _readable(files: Mapping[str, str]) -> str:
    return "{\n" + "".join(f"{path!r}: {_literal(text)},\n" for path, text in files.items()) + "}"


def _deflated(files: Mapping[str, str]) -> str:
    """All files in one stream, which is smaller than a stream each."""
    data = base64.b64encode(zlib.compress("".join(files.values()).encode("utf-8"), 9)).decode("ascii")
    return '"""\n' + "".join(f"{data[begin : begin + 118]}\n" for begin in range(0, len(data), 118)) + '"""'
