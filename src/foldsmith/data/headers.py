"""What the header of an image file says, before anything is decoded: its size, what is unusual, the memory it takes.

Formats: JPEG (ITU-T T.81), PNG (W3C, third edition), GIF89a, BMP, WebP (RFC 9649), TIFF 6.0 and BigTIFF, PNM (Netpbm),
JPEG 2000 (ITU-T T.800), AVIF (AV1 Image File Format 1.1).
"""

import math
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Header:
    """Of an image file. `notes`: what reading changes, in words, such as "gray" or "16 bits"."""

    format: str
    width: int
    height: int
    notes: list[str] = field(default_factory=list)
    depth: int = 8  # bits of a channel
    per_pixel: float = 6  # bytes that images.read_image takes at most for each pixel, measured: at least 3, twice
    buffer: int = 0  # bytes that the decoder takes beside them
    transparent: bytes = b""  # of a PNG's chunk tRNS

    @property
    def memory(self) -> int:
        """Bytes that reading the image takes beside those of the file."""
        return round(self.width * self.height * self.per_pixel) + self.buffer


def read_header(data: bytes) -> Header | None:
    """The header of an image file, of which all bytes are given (a TIFF's may stand at the end).

    None where the format is another one or the header is not whole.
    """
    parse = next((parse for start, parse in _FORMATS.items() if data.startswith(start)), _pnm)
    try:
        header = _avif(data) if data[4:8] == b"ftyp" else parse(data)
    except (struct.error, IndexError, OverflowError):
        return None
    return header if header is not None and min(header.width, header.height) > 0 else None


def is_cut_off(data: bytes) -> bool:
    """Whether a JPEG, PNG, GIF or WebP ends before its end mark. What is damaged in the middle does not show here."""
    if data.startswith(b"\xff\xd8"):
        # In coded data a byte 0xff is followed by 0: what looks like an end mark there is one. EXIF before it may
        # hold a thumbnail with an end of its own.
        scan = next((at for marker, at in _jpeg_segments(data) if marker == 0xDA), None)
        return scan is None or data.find(b"\xff\xd9", scan) < 0
    if data.startswith(b"\x89PNG"):
        return not _has_png_end(data)
    if data.startswith(b"GIF8"):
        return not data.rstrip(b"\0").endswith(b";")
    if data.startswith(b"RIFF") and len(data) >= 8:
        return len(data) < struct.unpack("<I", data[4:8])[0] + 8
    return False


def _has_png_end(data: bytes) -> bool:
    """Whether chunk follows chunk up to IEND. OpenCV would make room for as much as the length of a chunk claims."""
    at = 8
    while at + 12 <= len(data):
        length, kind = struct.unpack(">I4s", data[at : at + 8])
        at += 12 + length
        if kind == b"IEND":
            return at <= len(data)
    return False


_JPEG_SEGMENT = re.compile(rb"\xff[^\x00\x01\xff\xd0-\xd7](?=..)", re.DOTALL)  # markers that a length follows


def _jpeg_segments(data: bytes) -> Iterator[tuple[int, int]]:
    """(marker, where its content begins) up to the first scan. Bytes between segments are skipped, as decoders do."""
    at = 2
    while found := _JPEG_SEGMENT.search(data, at):
        marker, at = data[found.end() - 1], found.end()
        yield marker, at + 2
        if marker == 0xDA:
            return
        at += struct.unpack_from(">H", data, at)[0]


def _jpeg(data: bytes) -> Header | None:
    size, notes, channels, coefficients, whole = None, [], 0, 0.0, False
    for marker, at in _jpeg_segments(data):
        if size is None and 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            _, height, width, channels = struct.unpack(">BHHB", data[at : at + 6])
            size = (width, height)
            notes += {1: ["gray"], 4: ["CMYK"]}.get(channels, [])
            whole = marker & 3 == 2  # progressive
            factors = [(data[at + 7 + 3 * each] >> 4, data[at + 7 + 3 * each] & 15) for each in range(channels)]
            largest = max(1, *(across for across, _ in factors)) * max(1, *(down for _, down in factors))
            coefficients = 2 * sum(across * down for across, down in factors) / largest  # bytes of a pixel
        if marker == 0xE1 and data[at : at + 6] == b"Exif\0\0":
            notes += _turned(data[at + 6 : at + 65_536])
        if marker == 0xDA:  # a scan of some channels: the coefficients of all pixels are kept, too
            whole = whole or data[at] < channels
    return None if size is None else Header("JPEG", *size, notes, per_pixel=max(6, 3 + coefficients * whole))


def _png(data: bytes) -> Header:
    width, height, bits, color = struct.unpack(">IIBB", data[16:26])
    notes = {0: ["gray"], 3: ["palette"], 4: ["gray", "alpha"], 6: ["alpha"]}.get(color, [])
    notes = notes + ([f"{bits} bit" + "s" * (bits > 1)] if bits != 8 else [])
    at, transparent, frames = 33, b"", 0
    while at + 8 <= len(data):  # chunks before the pixels
        length, kind = struct.unpack(">I4s", data[at : at + 8])
        content = data[at + 8 : at + 8 + length] if kind in (b"tRNS", b"eXIf") else b""
        if kind == b"IDAT":
            break
        if kind == b"tRNS":
            transparent = transparent or content
            notes += ["alpha"]
        notes += _turned(content) if kind == b"eXIf" else []
        frames += kind == b"acTL"
        at += 12 + length
    per_pixel = (8 * max(8, bits) // 8 if "alpha" in notes else 6) + 8 * bool(frames)
    return Header("PNG", width, height, notes, bits, per_pixel, transparent=transparent)


def _gif(data: bytes) -> Header:
    width, height = struct.unpack("<HH", data[6:10])
    at = 13 + (3 << (data[10] & 7) + 1 if data[10] & 0x80 else 0)  # behind the palette of all frames
    notes = ["palette"]
    while data[at : at + 1] == b"!":  # extensions before the first frame; 0xf9 says whether a colour is transparent
        notes += ["alpha"] if data[at + 1 : at + 3] == b"\xf9\4" and data[at + 3] & 1 else []
        at += 2
        while data[at]:
            at += 1 + data[at]
        at += 1
    return Header("GIF", width, height, notes, per_pixel=9)


def _bmp(data: bytes) -> Header:
    (size,) = struct.unpack("<I", data[14:18])
    if size == 12:  # OS/2 1.x
        width, height, _, bits = struct.unpack("<HHHH", data[18:26])
    else:
        width, height, _, bits = struct.unpack("<iiHH", data[18:30])
    has_alpha = bits == 32 and len(data) >= 70 and size >= 56 and any(data[66:70])
    notes = ["alpha"] if has_alpha else ["palette"] if bits <= 8 else []
    return Header(
        "BMP", abs(width), abs(height), [*notes, *(["1 bit"] if bits == 1 else [])], per_pixel=8 if bits == 32 else 6
    )


def _webp(data: bytes) -> Header | None:
    kind = data[12:16]
    if kind == b"VP8X":
        width, height = (int.from_bytes(data[at : at + 3], "little") + 1 for at in (24, 27))
        per_pixel = 13 if data[20] & 0x02 else 9  # frames
        return Header("WebP", width, height, ["alpha"] if data[20] & 0x10 else [], per_pixel=per_pixel)
    if kind == b"VP8L":
        bits = int.from_bytes(data[21:25], "little")
        width, height = (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
        return Header("WebP", width, height, ["alpha"] if bits >> 28 & 1 else [], per_pixel=9)
    if kind == b"VP8 ":
        width, height = struct.unpack("<HH", data[26:30])
        return Header("WebP", width & 0x3FFF, height & 0x3FFF)
    return None


def _tiff(data: bytes) -> Header | None:
    tags = _tiff_tags(data)
    if 256 not in tags or 257 not in tags:
        return None
    width, height, channels, bits, photometric = (tags.get(tag, 1) for tag in (256, 257, 277, 258, 262))
    notes = {0: ["gray"], 1: ["gray"], 3: ["palette"], 5: ["CMYK"]}.get(photometric, [])
    notes = notes + (["floats"] if tags.get(339) == 3 else [f"{bits} bit" + "s" * (bits > 1)] if bits != 8 else [])
    notes += ["alpha"] if channels in (2, 4) and photometric != 5 else []
    stored = channels * max(8, bits) // 8  # bytes of a pixel
    at_a_time = tags.get(322, width) * tags.get(
        323, min(height, tags.get(278, height))
    )  # a tile's pixels, or a strip's
    per_pixel = 2 * stored + 4 if channels > 3 or bits > 8 else 6
    buffer = at_a_time * (max(4, stored) + 1 + stored * (tags.get(284) == 2))  # 2: channel by channel
    return Header("TIFF", width, height, notes + _turned(data), bits, per_pixel, buffer)


_TIFF_INTEGERS = {1: "B", 3: "H", 4: "I", 6: "b", 8: "h", 9: "i", 16: "Q", 17: "q"}
_TIFF_USED = {256, 257, 258, 262, 274, 277, 278, 284, 322, 323, 339}


def _tiff_tags(data: bytes) -> dict[int, int]:
    """The tags of the first directory that are used here, the first value of each.

    Raises:
        struct.error: the directory, or a value that it points to, is not there or is no integer.
    """
    order = "<" if data[:2] == b"II" else ">"
    is_big = data[2:4] in (b"+\0", b"\0+")
    offset, room = ("Q", 8) if is_big else ("I", 4)  # of positions, counts and values
    (start,) = struct.unpack_from(order + offset, data, 8 if is_big else 4)
    (count,) = struct.unpack_from(order + ("Q" if is_big else "H"), data, start)
    start += 8 if is_big else 2
    tags: dict[int, int] = {}
    for entry in range(min(count, 65_535)):
        at = start + (4 + 2 * room) * entry
        tag, kind, values = struct.unpack_from(order + "HH" + offset, data, at)
        if tag not in _TIFF_USED or tag in tags:
            continue
        if kind not in _TIFF_INTEGERS:
            raise struct.error(f"tag {tag} is of kind {kind}")
        form = order + _TIFF_INTEGERS[kind]
        where = at + 4 + room
        if values * struct.calcsize(form) > room:  # they lie elsewhere
            (where,) = struct.unpack_from(order + offset, data, where)
        (tags[tag],) = struct.unpack_from(form, data, where)
        if tags[tag] < 0:
            raise struct.error(f"tag {tag} is negative")
    return tags


def _pnm(data: bytes) -> Header | None:
    gap = rb"(?:\s|#[^\n]{0,999}\n)+"
    found = re.match(rb"P([1-6])" + gap + rb"(\d{1,9})" + gap + rb"(\d{1,9})(?:" + gap + rb"(\d{1,5}))?", data[:4096])
    if found is None:
        return None
    kind, width, height, top = (int(each or 0) for each in found.groups())
    is_deep = kind not in (1, 4) and top > 255
    notes = {1: ["1 bit"], 4: ["1 bit"], 2: ["gray"], 5: ["gray"]}.get(kind, []) + ["16 bits"] * is_deep
    return Header("PNM", width, height, notes, 16 if is_deep else 8, 12 if is_deep else 6)


def _boxes(data: bytes, start: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """(kind, where its content begins, where it ends) of boxes in a row (ISO/IEC 14496-12)."""
    while start + 8 <= end:
        size, kind = struct.unpack_from(">I4s", data, start)
        head = 8
        if size == 1:
            (size,), head = struct.unpack_from(">Q", data, start + 8), 16
        stop = end if size == 0 else start + size
        if stop < start + head:
            return
        yield kind, start + head, min(stop, end)
        start = stop


def _avif(data: bytes) -> Header | None:
    """The size is that of the largest item: an image, its alpha, or a grid of images."""
    _, begin, end = next(_boxes(data, 0, len(data)), (b"", 0, 0))
    if not {b"avif", b"avis"} & {data[at : at + 4] for at in range(begin, min(end, begin + 400), 4)}:
        return None
    width, height, inside = 0, 0, [(0, len(data))]
    while inside:
        for kind, begin, end in _boxes(data, *inside.pop()):
            if kind == b"ispe":
                size = struct.unpack_from(">II", data, begin + 4)
                width, height = max((width, height), size, key=math.prod)
            elif kind in (b"meta", b"iprp", b"ipco"):
                inside.append((begin + 4 * (kind == b"meta"), end))
    return Header("AVIF", width, height, per_pixel=33) if width * height else None


def _jpeg_2000(data: bytes) -> Header | None:
    at = 0
    if not data.startswith(b"\xff\x4f"):
        at = next((begin for kind, begin, _ in _boxes(data, 0, len(data)) if kind == b"jp2c"), len(data))
    if data[at : at + 4] != b"\xff\x4f\xff\x51":
        return None
    right, bottom, left, top = struct.unpack_from(">4I", data, at + 8)
    channels, bits = struct.unpack_from(">HB", data, at + 40)
    bits = (bits & 0x7F) + 1
    notes = {1: ["gray"], 2: ["gray"]}.get(channels, []) + ([f"{bits} bits"] if bits != 8 else [])
    per_pixel = max(3, channels) * (4 + 2 * (2 if bits > 8 else 1))
    return Header("JPEG 2000", right - left, bottom - top, notes, bits, per_pixel)


def _turned(exif: bytes) -> list[str]:
    """["rotated"] where EXIF data, which are a TIFF's, say so."""
    try:
        orientation = _tiff_tags(exif).get(0x0112, 1) if exif[:2] in (b"II", b"MM") else 1
    except (struct.error, OverflowError):
        return []
    return ["rotated"] if 2 <= orientation <= 8 else []


_FORMATS = {
    b"\xff\xd8": _jpeg,
    b"\x89PNG\r\n\x1a\n": _png,
    b"GIF8": _gif,
    b"BM": _bmp,
    b"RIFF": _webp,
    b"II*\0": _tiff,
    b"MM\0*": _tiff,
    b"II+\0": _tiff,
    b"MM\0+": _tiff,
    b"\0\0\0\x0cjP  \r\n\x87\n": _jpeg_2000,
    b"\xff\x4f\xff\x51": _jpeg_2000,
}
