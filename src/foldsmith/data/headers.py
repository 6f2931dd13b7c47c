"""What the first bytes of an image file say, before anything is decoded: its size, and what is unusual about it.

Formats: JPEG (ITU-T T.81), PNG (W3C, third edition), GIF89a, BMP, WebP (RFC 9649), TIFF 6.0.
"""

import struct
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Header:
    """Of an image file. `notes`: what reading changes, in words, such as "gray" or "16 bits"."""

    format: str
    width: int
    height: int
    notes: list[str] = field(default_factory=list)
    depth: int = 8  # bits of a channel


def read_header(data: bytes) -> Header | None:
    """The header of an image file; None where the format is another one or the header is not whole."""
    try:
        for start, parse in _FORMATS.items():
            if data.startswith(start):
                return parse(data)
    except (struct.error, IndexError):
        pass
    return None


def is_cut_off(data: bytes) -> bool:
    """Whether a JPEG, PNG, GIF or WebP ends before its end mark. What is damaged in the middle does not show here."""
    if data.startswith(b"\xff\xd8"):
        # In coded data a byte 0xff is followed by 0: what looks like an end mark there is one. EXIF before it may
        # hold a thumbnail with an end of its own.
        segments = _jpeg_segments(data)
        scan = next((at for marker, at in segments if marker == 0xDA), None)
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


def _jpeg_segments(data: bytes) -> list[tuple[int, int]]:
    """(marker, where its content begins) up to the first scan."""
    found, at = [], 2
    while at + 4 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker == 0xFF:  # fill
            at += 1
            continue
        found.append((marker, at + 4))
        if marker == 0xDA:
            break
        at += 2 + struct.unpack(">H", data[at + 2 : at + 4])[0]
    return found


def _jpeg(data: bytes) -> Header | None:
    size, notes = None, []
    for marker, at in _jpeg_segments(data):
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            _, height, width, channels = struct.unpack(">BHHB", data[at : at + 6])
            size = (width, height)
            notes += {1: ["gray"], 4: ["CMYK"]}.get(channels, [])
        if marker == 0xE1 and data[at : at + 6] == b"Exif\0\0":
            notes += _turned(data[at + 6 : at + 65_536])
    return None if size is None else Header("JPEG", *size, notes)


def _png(data: bytes) -> Header:
    width, height, bits, color = struct.unpack(">IIBB", data[16:26])
    notes = {0: ["gray"], 3: ["palette"], 4: ["gray", "alpha"], 6: ["alpha"]}.get(color, [])
    notes = notes + ([f"{bits} bit" + "s" * (bits > 1)] if bits != 8 else [])
    at = 33
    while at + 8 <= len(data):  # chunks before the pixels
        length, kind = struct.unpack(">I4s", data[at : at + 8])
        if kind == b"IDAT":
            break
        notes += ["alpha"] if kind == b"tRNS" else []
        notes += _turned(data[at + 8 : at + 8 + length]) if kind == b"eXIf" else []
        at += 12 + length
    return Header("PNG", width, height, notes, bits)


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
    return Header("GIF", width, height, notes)


def _bmp(data: bytes) -> Header:
    width, height, _, bits = struct.unpack("<iiHH", data[18:30])
    has_alpha = bits == 32 and len(data) >= 70 and struct.unpack("<I", data[14:18])[0] >= 56 and any(data[66:70])
    notes = ["alpha"] if has_alpha else ["palette"] if bits <= 8 else []
    return Header("BMP", abs(width), abs(height), [*notes, *(["1 bit"] if bits == 1 else [])])


def _webp(data: bytes) -> Header | None:
    kind = data[12:16]
    if kind == b"VP8X":
        width, height = (int.from_bytes(data[at : at + 3], "little") + 1 for at in (24, 27))
        return Header("WebP", width, height, ["alpha"] if data[20] & 0x10 else [])
    if kind == b"VP8L":
        bits = int.from_bytes(data[21:25], "little")
        return Header("WebP", (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1, ["alpha"] if bits >> 28 & 1 else [])
    if kind == b"VP8 ":
        width, height = struct.unpack("<HH", data[26:30])
        return Header("WebP", width & 0x3FFF, height & 0x3FFF)
    return None


def _tiff(data: bytes) -> Header | None:
    tags = _tiff_tags(data)
    if 256 not in tags or 257 not in tags:
        return None
    channels, bits, photometric = tags.get(277, 1), tags.get(258, 1), tags.get(262, 1)
    notes = {0: ["gray"], 1: ["gray"], 3: ["palette"], 5: ["CMYK"]}.get(photometric, [])
    notes = notes + (["floats"] if tags.get(339) == 3 else [f"{bits} bit" + "s" * (bits > 1)] if bits != 8 else [])
    notes += ["alpha"] if channels in (2, 4) and photometric != 5 else []
    return Header("TIFF", tags[256], tags[257], notes + _turned(data), bits)


def _tiff_tags(data: bytes) -> dict[int, int]:
    """Short and long tags of the first directory, the first value of each."""
    order = "<" if data[:2] == b"II" else ">"
    (start,) = struct.unpack(order + "I", data[4:8])
    (count,) = struct.unpack(order + "H", data[start : start + 2])
    tags = {}
    for entry in range(count):
        at = start + 2 + 12 * entry
        tag, kind, values = struct.unpack(order + "HHI", data[at : at + 8])
        if kind not in (3, 4):
            continue
        if values * (2 if kind == 3 else 4) > 4:  # they lie elsewhere
            (where,) = struct.unpack(order + "I", data[at + 8 : at + 12])
        else:
            where = at + 8
        form = "H" if kind == 3 else "I"
        (tags[tag],) = struct.unpack(order + form, data[where : where + struct.calcsize(form)])
    return tags


def _turned(exif: bytes) -> list[str]:
    """["rotated"] where EXIF data, which are a TIFF's, say so."""
    try:
        orientation = _tiff_tags(exif).get(0x0112, 1) if exif[:2] in (b"II", b"MM") else 1
    except struct.error:
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
}
