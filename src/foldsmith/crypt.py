"""Encrypted files, for weights in public datasets: AES-256-GCM in chunks, with a key from a passphrase.

The scheme is STREAM (Hoang, Reyhanitabar, Rogaway and Vizár, CRYPTO 2015): every chunk is sealed with its position and
a mark of the last chunk in its nonce, so that none can be changed, cut off, swapped or repeated. The header is
authenticated with every chunk. The key comes from scrypt (RFC 7914).

    header   magic, log2 N, r, p of scrypt, size of a chunk, salt, the nonces' first 7 bytes
    chunks   at most `chunk` bytes of the file, and 16 bytes of tag, each
"""

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from foldsmith.errors import EXIT_UNTRUSTED, UserError
from foldsmith.files import atomic_path

MAGIC = b"foldsmith-enc-1\n"
TAG = 16
_FIELDS = struct.Struct(">BBBI16s7s")
_MOST_MEMORY = 64 << 20  # of scrypt, 128 * N * r bytes


@dataclass(frozen=True)
class Header:
    """What stands in front of the chunks, unencrypted."""

    log_n: int
    r: int
    p: int
    chunk: int  # bytes of the file in a chunk, at most
    salt: bytes
    prefix: bytes  # of the nonces

    def to_bytes(self) -> bytes:
        return MAGIC + _FIELDS.pack(self.log_n, self.r, self.p, self.chunk, self.salt, self.prefix)

    def key(self, passphrase: str) -> AESGCM:
        derived = Scrypt(salt=self.salt, length=32, n=1 << self.log_n, r=self.r, p=self.p).derive(passphrase.encode())
        return AESGCM(derived)

    def nonce(self, number: int, is_last: bool) -> bytes:
        return self.prefix + struct.pack(">IB", number, is_last)


def encrypt_file(source: Path, target: Path, passphrase: str, chunk: int = 1 << 20) -> None:
    """Write an encrypted copy. Two copies differ: salt and nonces are random.

    Args:
        chunk: bytes; what is in memory at a time.
    """
    header = Header(15, 8, 1, chunk, os.urandom(16), os.urandom(7))
    start, key = header.to_bytes(), header.key(passphrase)
    length = source.stat().st_size
    size = len(start) + length + TAG * max(1, -(-length // chunk))
    with open(source, "rb") as plain, atomic_path(target, size) as temporary, open(temporary, "wb") as sealed:
        sealed.write(start)
        for number, (data, is_last) in enumerate(_chunks(plain, chunk)):
            sealed.write(key.encrypt(header.nonce(number, is_last), data, start))


def decrypt_file(source: Path, target: Path, passphrase: str) -> None:
    """Write the decrypted file; it appears once the last chunk has proved to be whole.

    Raises:
        UserError: code 4; not such a file, changed in any bit, cut, or another passphrase.
    """
    with open(source, "rb") as sealed:
        header = _read_header(sealed, source)
        start, key = header.to_bytes(), header.key(passphrase)
        with atomic_path(target, source.stat().st_size) as temporary, open(temporary, "wb") as plain:
            for number, (data, is_last) in enumerate(_chunks(sealed, header.chunk + TAG)):
                try:
                    plain.write(key.decrypt(header.nonce(number, is_last), data, start))
                except (InvalidTag, ValueError):
                    what = "another passphrase, or a damaged file" if number == 0 else "damaged, cut or put together"
                    raise UserError(
                        f"can't be decrypted ({what}; chunk {number})", file=source, code=EXIT_UNTRUSTED
                    ) from None


def _read_header(sealed: BinaryIO, source: Path) -> Header:
    """The header, with bounds on what it makes this machine do."""
    start = sealed.read(len(MAGIC) + _FIELDS.size)
    if len(start) < len(MAGIC) + _FIELDS.size or not start.startswith(MAGIC):
        raise UserError("is not a file that foldsmith encrypt wrote", file=source, code=EXIT_UNTRUSTED)
    header = Header(*_FIELDS.unpack(start[len(MAGIC) :]))
    memory = 128 * header.r << header.log_n if header.log_n < 32 else _MOST_MEMORY + 1
    fits = header.log_n >= 10 and header.r >= 1 and 1 <= header.p <= 4 and memory <= _MOST_MEMORY
    if not fits or not 1 <= header.chunk <= 16 << 20:
        raise UserError("has a header that asks for too much memory or time", file=source, code=EXIT_UNTRUSTED)
    return header


def _chunks(file: BinaryIO, size: int) -> Iterator[tuple[bytes, bool]]:
    """Chunks of a file, each with whether it is the last; an empty file is one empty chunk."""
    data = file.read(size)
    while True:
        following = file.read(size) if len(data) == size else b""
        yield data, not following
        if not following:
            return
        data = following
