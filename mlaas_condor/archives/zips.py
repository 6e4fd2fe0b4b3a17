"""Zip archives: each file as the list at the end says it is, and nothing said otherwise at its place.

The list is read by Python's `zipfile`; the content of the files is read here, where what is longer, shorter
or shared with another file shows.
"""

from __future__ import annotations

import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator
from typing import Any, BinaryIO, cast

from isal import isal_zlib

from .members import PIECE, Bounds, Member, Refused, check_ratio, shown
from .streams import damage

_END = b"PK\x05\x06"
_END_BYTES = 22
_LOCAL = struct.Struct("<4s5H3L2H")
_LISTED = 300  # bytes of the list for each file, on average
_SLACK = 2**20
_ENCRYPTED, _UTF8 = 0x1, 0x800
_STORED, _DEFLATED = zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED


class _Bounded:
    """A file of which nobody reads more at a time than a list of so many files may have."""

    def __init__(self, file: BinaryIO, most: int) -> None:
        self._file, self._most = file, most
        self.seek, self.tell = file.seek, file.tell

    def read(self, size: int = -1) -> bytes:
        """Read as a file does."""
        found = self._file.read(self._most + 1 if size < 0 else min(size, self._most + 1))
        if len(found) > self._most:
            raise Refused(f"its list of files has more than {self._most} bytes", "size")
        return found


def members(file: BinaryIO, packed: int, bounds: Bounds) -> Iterator[Member]:
    """Yield the members of a zip archive.

    Raises
    ------
    Refused
        It is damaged, or something else than files and folders is in it.
    """
    listed, end = _list(file, packed, bounds)
    check_ratio(sum(each.file_size for each in listed), packed)
    before = 0
    for info in sorted(listed, key=lambda each: each.header_offset):
        name = _name(info)
        _check(info, name)
        if info.header_offset < before:
            raise Refused(f"{shown(name)} shares its bytes with another file")
        begin = _begin(file, info, name)
        before = begin + info.compress_size
        if before > end:
            raise Refused(f"{shown(name)} is cut off", "damage")
        if name.endswith("/"):
            yield Member(name, True, info.file_size, iter(()))
            continue
        pieces = _pieces(file, info, name, begin)
        yield Member(name, False, info.file_size, pieces)
        for _ in pieces:  # what nobody wanted
            pass


def _list(file: BinaryIO, packed: int, bounds: Bounds) -> tuple[list[zipfile.ZipInfo], int]:
    """Return what the list at the end says, and where that begins."""
    bounded = cast(Any, _Bounded(file, _SLACK + _LISTED * bounds.files))
    try:
        with zipfile.ZipFile(bounded) as archive:
            listed, comment, end = archive.infolist(), archive.comment, cast(Any, archive).start_dir
    except (
        zipfile.BadZipFile,
        ValueError,
        struct.error,
        NotImplementedError,
        OverflowError,
        EOFError,
    ) as error:
        raise Refused(f"it is damaged or cut off: {error}", "damage") from error
    if len(listed) > bounds.files:
        raise Refused(f"it has more than {bounds.files} files", "size")
    file.seek(packed - _END_BYTES - len(comment))
    if file.read(len(_END)) != _END:
        raise Refused("something is behind its end")
    return listed, end


def _name(info: zipfile.ZipInfo) -> str:
    # Not `filename`: that is cut where there is a NUL.
    name = info.orig_filename
    if info.flag_bits & _UTF8 or name.isascii():
        return name
    # macOS writes UTF-8 without saying so; what Windows writes depends on where it was bought.
    return name.encode("cp437").decode("utf-8", "surrogateescape")


def _check(info: zipfile.ZipInfo, name: str) -> None:
    if info.flag_bits & _ENCRYPTED:
        raise Refused(f"{shown(name)} is encrypted")
    kind = stat.S_IFMT(info.external_attr >> 16)
    if kind == stat.S_IFLNK:
        raise Refused(f"{shown(name)} is a link: only files and folders are taken")
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        raise Refused(f"{shown(name)} is a device: only files and folders are taken")
    if (kind == stat.S_IFDIR) != name.endswith("/") and kind:
        raise Refused(f"{shown(name)} is both a file and a folder")
    if name.endswith("/") and info.file_size:
        raise Refused(f"{shown(name)} is a folder, and has {info.file_size} bytes")
    if info.compress_type not in (_STORED, _DEFLATED):
        raise Refused(f"{shown(name)} is compressed by method {info.compress_type}: use deflate, as zip does")
    if info.compress_type == _STORED and info.file_size != info.compress_size:
        raise Refused(f"{shown(name)} is not as long as the list says", "damage")


def _begin(file: BinaryIO, info: zipfile.ZipInfo, name: str) -> int:
    """Return where the content of a file begins, once what stands before it agrees with the list."""
    file.seek(info.header_offset)
    found = file.read(_LOCAL.size)
    if len(found) < _LOCAL.size or found[:4] != b"PK\x03\x04":
        raise Refused(f"{shown(name)} is not where the list says", "damage")
    _, _, flags, method, _, _, _, _, _, name_bytes, extra_bytes = _LOCAL.unpack(found)
    encoded = info.orig_filename.encode("utf-8" if info.flag_bits & _UTF8 else "cp437")
    if file.read(name_bytes) != encoded or method != info.compress_type or flags & _ENCRYPTED:
        raise Refused(f"{shown(name)} is another file where the list says it is", "damage")
    return int(info.header_offset + _LOCAL.size + name_bytes + extra_bytes)


def _pieces(file: BinaryIO, info: zipfile.ZipInfo, name: str, begin: int) -> Iterator[bytes]:
    file.seek(begin)
    read = _inflated if info.compress_type == _DEFLATED else _stored
    size, checksum = 0, 0
    with damage(shown(name)):
        for piece in read(file, info.compress_size):
            size += len(piece)
            if size > info.file_size:
                break
            checksum = isal_zlib.crc32(piece, checksum)
            yield piece
    if size != info.file_size:
        raise Refused(f"{shown(name)} is not as long as the list says, {info.file_size} bytes", "damage")
    if checksum != info.CRC:
        raise Refused(f"{shown(name)} is damaged: its check sum is another", "damage")


def _stored(file: BinaryIO, left: int) -> Iterator[bytes]:
    while left:
        piece = file.read(min(left, PIECE))
        if not piece:
            raise EOFError
        left -= len(piece)
        yield piece


def _inflated(file: BinaryIO, left: int) -> Iterator[bytes]:
    inflate = isal_zlib.decompressobj(-zlib.MAX_WBITS)
    while not inflate.eof:
        packed = inflate.unconsumed_tail
        if not packed:
            packed = file.read(min(left, PIECE))
            left -= len(packed)
        piece = inflate.decompress(packed, PIECE)
        if not piece and not packed:
            raise EOFError
        yield piece
    if left or inflate.unused_data:
        raise EOFError("more bytes are there than its content has")
