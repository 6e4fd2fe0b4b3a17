"""A form with a file in it (``multipart/form-data``), read as it comes.

Werkzeug's reader adds a byte to the file where a piece ends within what stands between two parts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from werkzeug.http import parse_options_header

from ..faults import HttpFault, TooLarge

AROUND = 2**20
"""Bytes of a form beside its file."""

_MOST_HEADERS = 2**14
_MOST_PARTS = 20
_LONGEST_BOUNDARY = 200
_LINE = b"\r\n"


class FileForm:
    """A form with one file; what else is in it is short.

    Parameters
    ----------
    part
        Name of the part with the file.
    write
        Gets the file, a piece at a time.
    """

    def __init__(self, part: str, write: Callable[[bytes], None]) -> None:
        self._part, self._write = part, write
        self._has_file = False
        self.fields: dict[str, str] = {}

    def read(self, pieces: Iterable[bytes], boundary: str) -> None:
        """Read the form, to its end.

        Parameters
        ----------
        pieces
            Its bytes.
        boundary
            What stands between its parts, as its content type says.

        Raises
        ------
        HttpFault
            It is no form, breaks off, or has no file or several.
        TooLarge
            What is not the file is not short.
        """
        if not boundary.isascii() or not 0 < len(boundary) <= _LONGEST_BOUNDARY:
            raise HttpFault("the form does not say what stands between its parts: boundary=…")
        source, mark = _Source(pieces), _LINE + b"--" + boundary.encode()
        source.short(mark, AROUND)
        for _ in range(_MOST_PARTS):
            if source.is_next(b"--"):
                break
            if source.short(_LINE, _MOST_HEADERS).strip(b" \t"):
                raise HttpFault("the form is damaged: something stands behind what is between its parts")
            self._take(_disposition(source.short(2 * _LINE, _MOST_HEADERS)), source, mark)
        else:
            raise TooLarge(f"a form may have {_MOST_PARTS} parts")
        source.end()
        if not self._has_file:
            raise HttpFault(f"the form has no file: write curl -F {self._part}=@luca.tar.gz")

    def _take(self, disposition: dict[str, str], source: _Source, mark: bytes) -> None:
        name = disposition.get("name", "")
        if "filename" not in disposition:
            if name == self._part:
                raise HttpFault(f"{name!r} is no file: write curl -F {name}=@luca.tar.gz, with an @")
            self.fields[name] = source.short(mark, AROUND).decode("utf-8", "replace")
            return
        if name != self._part or self._has_file:
            raise HttpFault(f"the form has a file in the part {name[:100]!r}: send one, as {self._part!r}")
        self._has_file = True
        self.fields[name] = disposition["filename"]
        for piece in source.upto(mark):
            self._write(piece)


def _disposition(headers: bytes) -> dict[str, str]:
    """Return what the headers of a part say of its name."""
    for line in headers.split(_LINE):
        header, _, value = line.decode("utf-8", "replace").partition(":")
        if header.strip().lower() == "content-disposition":
            return parse_options_header(value.strip())[1]
    raise HttpFault("the form is damaged: a part of it has no name")


class _Source:
    """The bytes of a form, from one mark to the next."""

    def __init__(self, pieces: Iterable[bytes]) -> None:
        self._pieces = iter(pieces)
        self._bytes = _LINE  # as if the first mark were a line like the others
        self._around = 0

    def _more(self) -> None:
        piece = next(self._pieces, b"")
        if not piece:
            raise HttpFault("the form broke off: the mark of its end has not come")
        self._bytes += piece

    def is_next(self, mark: bytes) -> bool:
        """Tell whether a mark is next; then it is read."""
        while len(self._bytes) < len(mark):
            self._more()
        found = self._bytes.startswith(mark)
        self._bytes = self._bytes[len(mark) :] if found else self._bytes
        return found

    def upto(self, mark: bytes) -> Iterator[bytes]:
        """Yield what stands before a mark, and read the mark."""
        while (at := self._bytes.find(mark)) < 0:
            ready = len(self._bytes) - len(mark) + 1
            if ready > 0:
                yield self._bytes[:ready]
                self._bytes = self._bytes[ready:]
            self._more()
        yield self._bytes[:at]
        self._bytes = self._bytes[at + len(mark) :]

    def short(self, mark: bytes, most: int) -> bytes:
        """Return what stands before a mark, and read the mark."""
        found = bytearray()
        for piece in self.upto(mark):
            found += piece
            self._count(len(piece))
            if len(found) > most:
                raise _too_much(most)
        return bytes(found)

    def end(self) -> None:
        """Read what stands behind the end: nothing is left that a check sum of all of it would miss."""
        self._count(len(self._bytes))
        for piece in self._pieces:
            self._count(len(piece))

    def _count(self, size: int) -> None:
        self._around += size
        if self._around > AROUND:
            raise _too_much(AROUND)


def _too_much(most: int) -> TooLarge:
    return TooLarge(f"of a form, what is not the file may have {most} bytes")
