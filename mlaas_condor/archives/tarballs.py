"""Tar archives, from their first byte to the last: files and folders, nothing else.

The header of each member is read by Python's `tarfile`; what stands between them is read here, because there
a member that says how long its own description is would be believed.
"""

from __future__ import annotations

import tarfile
from collections.abc import Iterator

from .members import PIECE, Member, Refused, shown
from .streams import Stream

_BLOCK = tarfile.BLOCKSIZE
_EXTENDED = (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE)
_GNU_NAMES = (tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK)
_FILES = (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE)
_WHAT = {
    tarfile.SYMTYPE: "a link",
    tarfile.LNKTYPE: "a link",
    tarfile.CHRTYPE: "a device",
    tarfile.BLKTYPE: "a device",
    tarfile.FIFOTYPE: "a device: a named pipe",
    tarfile.GNUTYPE_SPARSE: "of an unknown type: a file with holes",
}
_MOST_EXTENDED = 8  # headers that say more about one member


class _Said:
    """What the headers before a member say about it."""

    def __init__(self) -> None:
        self.count = 0
        self.names: set[str] = set()
        self.size: int | None = None

    def count_one(self) -> None:
        self.count += 1
        if self.count > _MOST_EXTENDED:
            raise Refused(f"it has more than {_MOST_EXTENDED} headers for one file", "damage")


def members(stream: Stream) -> Iterator[Member]:
    """Yield the members of a tar archive.

    Raises
    ------
    Refused
        It is damaged, or something else than files and folders is in it.
    """
    said, first = _Said(), True
    while True:
        header = _header(stream, first)
        first = False
        if header is None:
            if said.count:
                raise Refused("it ends where a file should begin", "damage")
            _end(stream)
            return
        if header.type in (*_EXTENDED, *_GNU_NAMES, tarfile.XGLTYPE):
            said.count_one()
            _extend(said, header, stream)
            continue
        yield from _member(header, said, stream)
        said = _Said()


def is_header(block: bytes) -> bool:
    """Tell whether a tar archive may begin so."""
    if len(block) == _BLOCK and not block.strip(b"\0"):
        return True
    try:
        tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except tarfile.TarError:
        return False
    return True


def _header(stream: Stream, first: bool) -> tarfile.TarInfo | None:
    """Return the next header; None for the mark of the end."""
    block = stream.read(_BLOCK)
    if first and not block:
        raise Refused("it is cut off, or empty: nothing comes out of it", "damage")
    if first and not is_header(block):
        raise Refused("what is compressed in it is no tar archive", "type")
    if len(block) < _BLOCK:
        raise Refused("it is cut off: the mark of its end is missing", "damage")
    if not block.strip(b"\0"):
        return None
    try:
        return tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except (tarfile.TarError, ValueError) as error:
        raise Refused(f"a header is damaged: {error}", "damage") from error


def _member(header: tarfile.TarInfo, said: _Said, stream: Stream) -> Iterator[Member]:
    names = said.names or {header.name}
    if len(names) > 1:
        raise Refused(f"{shown(min(names))} is named otherwise as well: {shown(max(names))}")
    name = names.pop()
    if header.type == tarfile.DIRTYPE:
        yield Member(name, True, 0, iter(()))
        return
    if header.type not in _FILES:
        what = _WHAT.get(header.type, f"of an unknown type, {header.type!r}")
        raise Refused(f"{shown(name)} is {what}: only files and folders are taken")
    if name.endswith("/"):
        raise Refused(f"{shown(name)} is named as a folder, and is a file")
    size = header.size if said.size is None else said.size
    pieces = _pieces(stream, name, size)
    yield Member(name, False, size, pieces)
    for _ in pieces:  # what nobody wanted
        pass
    _skip(stream, size)


def _pieces(stream: Stream, name: str, size: int) -> Iterator[bytes]:
    left = size
    while left:
        piece = stream.read(min(left, PIECE))
        if not piece:
            raise Refused(f"it is cut off within {shown(name)}", "damage")
        left -= len(piece)
        yield piece


def _skip(stream: Stream, size: int) -> None:
    """Read what fills the last block of a member."""
    rest = -size % _BLOCK
    if len(stream.read(rest)) < rest:
        raise Refused("it is cut off: the mark of its end is missing", "damage")


def _end(stream: Stream) -> None:
    """Make sure that nothing is behind the end; compressed, the check sum is behind it."""
    while piece := stream.read(PIECE):
        if piece.strip(b"\0"):
            raise Refused("something is behind its end")


def _extend(said: _Said, header: tarfile.TarInfo, stream: Stream) -> None:
    """Take what a header says about the member behind it."""
    if not 0 <= header.size <= PIECE:
        raise Refused(f"it has a header of {header.size} bytes", "damage")
    content = stream.read(header.size)
    if len(content) < header.size:
        raise Refused("it is cut off within a header", "damage")
    _skip(stream, header.size)
    if header.type == tarfile.GNUTYPE_LONGNAME:
        said.names.add(content.rstrip(b"\0").decode("utf-8", "surrogateescape"))
    elif header.type in (*_EXTENDED, tarfile.XGLTYPE):
        for key, value in _records(content):
            _take(said, key, value, of_all=header.type == tarfile.XGLTYPE)


def _take(said: _Said, key: str, value: bytes, of_all: bool) -> None:
    if key.startswith(("GNU.sparse.", "SCHILY.realsize")):
        raise Refused("a file with holes is in it, of an unknown type: pack it without --sparse")
    if key not in ("path", "size"):
        return
    if of_all:
        raise Refused(f"one header gives all its files the same {key}")
    if key == "path":
        said.names.add(value.decode("utf-8", "surrogateescape"))
    elif value.isdigit() and len(value) < 20:
        said.size = int(value)
    else:
        raise Refused(f"a file in it has {value[:40]!r} bytes", "damage")


def _records(content: bytes) -> Iterator[tuple[str, bytes]]:
    """Yield the records of an extended header: ``30 path=data/ttH_signal.root``, each with its length."""
    content, at = content.rstrip(b"\0"), 0
    while at < len(content):
        digits, blank, _ = content[at : at + 8].partition(b" ")
        length = int(digits) if blank and digits.isdigit() else 0
        record = content[at : at + length]
        key, equals, value = record[len(digits) + 1 : -1].partition(b"=")
        if len(record) < length or not record.endswith(b"\n") or not equals:
            raise Refused("a header is damaged: it does not say how long it is", "damage")
        yield key.decode("utf-8", "replace"), value
        at += length
