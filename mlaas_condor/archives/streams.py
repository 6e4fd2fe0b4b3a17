"""Compressed files as bytes, a bounded piece at a time, and no more of them than allowed."""

from __future__ import annotations

import bz2
import lzma
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO, Protocol, cast

from isal import igzip, isal_zlib

from .members import PIECE, Bounds, Kind, Refused, check_ratio

# xz -9 asks for 65 MiB, zstd --long for 128: an archive that needs more was made to.
_MOST_MEMORY = 2**27
# Of a header of a file, of what fills it up, and of what says more about the file.
_HEADERS = 8 * 1024
_SLACK = 2**24
# The last is that of a gzip header that does not end.
_BROKEN: tuple[type[Exception], ...] = (
    EOFError, cast(Any, isal_zlib).error, lzma.LZMAError, OverflowError,
)  # fmt: skip


class Readable(Protocol):
    """What bytes can be read of."""

    def read(self, size: int, /) -> bytes:
        """Read up to so many bytes; none at the end only."""
        ...


class _Decompressor(Protocol):
    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int = -1) -> bytes: ...


class Stream:
    """The bytes of an archive as they were before it was compressed.

    Parameters
    ----------
    source
        Where they come from.
    packed
        Bytes of the archive itself.
    bounds
        What is taken at most: headers and what is between files cost time too.
    """

    def __init__(self, source: Readable, packed: int, bounds: Bounds) -> None:
        self._source = source
        self._position = 0
        self._most = bounds.bytes + bounds.files * _HEADERS + _SLACK
        self._packed = packed

    def read(self, size: int) -> bytes:
        """Read so many bytes; fewer at the end only.

        Raises
        ------
        Refused
            It is damaged, or has more in it than is taken.
        """
        found = b""
        # Never none at all: asked for that, a decompressor gives nothing for ever.
        while len(found) < size and (more := self._some(size - len(found))):
            found += more
        return found

    def _some(self, size: int) -> bytes:
        with damage():
            found = self._source.read(min(size, PIECE))
        self._position += len(found)
        if self._position > self._most:
            raise Refused(f"it has more than {self._most} bytes in it", "size")
        check_ratio(self._position, self._packed)
        return found


class _Joined:
    """Compressed streams behind each other, as xz and bzip2 write them with several threads."""

    def __init__(self, file: BinaryIO, new: Callable[[], _Decompressor], padded: bool) -> None:
        self._file, self._new, self._padded = file, new, padded
        self._one = new()
        self._first = file.read(PIECE)

    def read(self, size: int) -> bytes:
        while not self._one.eof or self._next():
            given = self._first or (self._file.read(PIECE) if self._one.needs_input else b"")
            if not given and self._one.needs_input:
                raise EOFError("its end is missing")
            self._first = b""
            if found := self._one.decompress(given, size):
                return found
        return b""

    def _next(self) -> bool:
        """Begin with the next stream; tell whether there is one."""
        data = self._one.unused_data or self._file.read(PIECE)
        while self._padded and data and not data.strip(b"\0"):
            data = self._file.read(PIECE)
        self._first = data.lstrip(b"\0") if self._padded else data
        if not self._first:
            return False
        self._one = self._new()
        return True


def opened(file: BinaryIO, kind: Kind) -> Readable:
    """Return the bytes of a compressed file.

    Raises
    ------
    Refused
        What is needed for it is not installed.
    """
    if kind == "gzip":
        return cast(Readable, cast(Any, igzip).IGzipFile(fileobj=file))
    if kind == "bzip2":
        return _Joined(file, bz2.BZ2Decompressor, padded=False)
    if kind == "xz":
        return _Joined(file, lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ, _MOST_MEMORY), padded=True)
    if kind == "zstd":
        try:
            import zstandard
        except ImportError as error:
            raise Refused("zstd is not installed here: send it as .tar.gz", "type") from error
        unpacker = zstandard.ZstdDecompressor(max_window_size=_MOST_MEMORY)
        return unpacker.stream_reader(file, read_across_frames=True)
    return file


@contextmanager
def damage(what: str = "it") -> Iterator[None]:
    """Make one error of all that a damaged archive ends in."""
    try:
        yield
    except Exception as error:
        # By name: what need not be installed is not imported to know its error.
        broken = isinstance(error, _BROKEN) or type(error).__name__ == "ZstdError"
        if not broken and not (isinstance(error, OSError) and error.errno is None):
            raise  # of the disk, not of the archive
        raise Refused(f"{what} is damaged or cut off: {error or 'its end is missing'}", "damage") from error
