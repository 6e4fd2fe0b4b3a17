"""Text files of which each line is an entry: found by number, without reading what comes before."""

from __future__ import annotations

import bz2
import gzip
import hashlib
from bisect import bisect_right
from collections.abc import Iterator
from typing import BinaryIO, cast

import numpy as np
from numpy.typing import NDArray

from mlaas_condor.data import storage
from mlaas_condor.data.source import Index

SPACING = 2**22
"""Bytes between the places where reading may start."""

_BLOCK = 2**20
_NEWLINE, _RETURN, _QUOTE = b'\n\r"'
_SPACE = b" \t\r\v\f"


def decompressed(path: str, file: BinaryIO) -> BinaryIO:
    """Return the text of a file that may be compressed, as its suffix says."""
    file.seek(0)
    last = storage.suffixes(path)[-1:]
    if last == [".gz"]:
        return cast(BinaryIO, gzip.GzipFile(fileobj=file, mode="rb"))
    if last == [".bz2"]:
        return cast(BinaryIO, bz2.BZ2File(file))
    return file


def bare(file: BinaryIO) -> int:
    """Return where the text begins: after a byte order mark, if there is one."""
    file.seek(0)
    if file.read(3) == b"\xef\xbb\xbf":
        return 3
    file.seek(0)
    return 0


class _Ends:
    """Finds where entries end, block by block.

    Parameters
    ----------
    position
        Where the first block begins, which must be where a line begins.
    quotes
        A newline within quotes ends no entry (CSV), and a line of spaces is one.
    """

    def __init__(self, position: int, quotes: bool) -> None:
        self._position = position
        self._blank = b"\r" if quotes else _SPACE
        self._quotes = quotes
        self.open_quote = False
        self.unfinished = False  # whether there is more than blanks after the last newline

    def of(self, block: bytes) -> NDArray[np.int64]:
        """Return the positions after the newline of each entry that ends in this block."""
        data = np.frombuffer(block, np.uint8)
        newlines = np.flatnonzero(data == _NEWLINE)
        if self._quotes and (self.open_quote or b'"' in block):
            quotes = np.flatnonzero(data == _QUOTE)
            within = (np.searchsorted(quotes, newlines) + self.open_quote) % 2
            newlines = newlines[within == 0]
            self.open_quote = bool((self.open_quote + len(quotes)) % 2)
        ends = newlines + 1 + self._position
        self._position += len(block)
        if not len(newlines):
            self.unfinished |= bool(block.strip(self._blank))
            return ends
        starts = np.concatenate([[0], newlines[:-1] + 1])
        blank = (newlines == starts) | ((newlines == starts + 1) & (data[starts] == _RETURN))
        # Other lines that begin with a space are few in files of one record a line.
        for i in np.flatnonzero(~blank & np.isin(data[starts], np.frombuffer(self._blank, np.uint8))):
            blank[i] = not block[starts[i] : newlines[i]].strip(self._blank)
        blank[0] &= not self.unfinished
        self.unfinished = bool(block[newlines[-1] + 1 :].strip(self._blank))
        kept: NDArray[np.int64] = ends[~blank]
        return kept


class Lines:
    """The entries of a text file; blank lines are none.

    Parameters
    ----------
    file
        Text; may be one that cannot go back without beginning again (compressed).
    first
        Where the first entry begins.
    quotes
        As of CSV: a newline within quotes ends no entry.
    index
        As this class found it before; else the file is read through once, in bounded memory.

    Raises
    ------
    ValueError
        A quote is never closed.
    EOFError
        The file is cut short; also other errors of the compression.
    """

    def __init__(self, file: BinaryIO, first: int, quotes: bool, index: Index = ()) -> None:
        self._file = file
        self._quotes = quotes
        self._last = (0, first)  # entry and byte after the last range read
        self._rest = (first, b"")  # what has been read beyond it, and where that begins
        self.content = ""  # digest of the text, where all of it was read to find the index
        self.index: Index = index or self._scan(first)
        self.entries = self.index[-1][0]

    def _scan(self, first: int) -> Index:
        ends, entries, position = _Ends(first, self._quotes), 0, first
        last = first
        index = [(0, first)]
        content = hashlib.sha256()
        self._file.seek(first)
        while block := self._file.read(_BLOCK):
            content.update(block)
            found = ends.of(block)
            position += len(block)
            entries += len(found)
            last = int(found[-1]) if len(found) else last
            if last - index[-1][1] >= SPACING:
                index.append((entries, last))
        if ends.open_quote:
            raise ValueError("a quote is opened and never closed")
        if ends.unfinished:
            entries, last = entries + 1, position
        if entries > index[-1][0]:
            index.append((entries, last))
        self.content = content.hexdigest()[:32]
        return tuple(index)

    def locate(self, start: int, stop: int) -> tuple[int, bytes]:
        """Return where the text of these entries begins, and the text."""
        if start >= stop:
            return self._last[1], b""
        seen, position = self._near(start)
        above = self.index[bisect_right(self.index, (stop - 1, 2**63))]
        begin = position if seen == start else -1
        end = above[1] if above[0] == stop else -1
        ends, pieces = _Ends(position, self._quotes), []
        for block in self._blocks(position, above[1]):
            if begin < 0 or end < 0:
                found = ends.of(block)
                if begin < 0 and seen + len(found) >= start:
                    begin = int(found[start - seen - 1])
                if end < 0 and seen + len(found) >= stop:
                    end = int(found[stop - seen - 1])
                seen += len(found)
            high = len(block) if end < 0 else end - position
            if begin >= 0:
                pieces.append(block[max(begin - position, 0) : high])
            position += len(block)
            if 0 <= end <= position:
                self._last, self._rest = (stop, end), (end, block[high:])
                break
        return begin, b"".join(pieces)

    def _near(self, entry: int) -> tuple[int, int]:
        """Return the entry and byte, not behind ``entry``, from where to read."""
        known = self.index[bisect_right(self.index, (entry, 2**63)) - 1]
        return max(known, self._last) if self._last[0] <= entry else known

    def _blocks(self, position: int, stop: int) -> Iterator[bytes]:
        at, rest = self._rest
        if at <= position < at + len(rest):
            block = rest[position - at : stop - at]
            position += len(block)
            yield block
        if position < stop:
            self._file.seek(position)
        while position < stop:
            block = self._file.read(min(_BLOCK, stop - position))
            if not block:
                raise EOFError
            position += len(block)
            yield block

    def line_number(self, byte: int) -> int:
        """Return the number, from 1, of the line at a byte; reads all that comes before."""
        self._file.seek(0)
        number = 1
        while byte > 0 and (block := self._file.read(min(_BLOCK, byte))):
            number += block.count(b"\n")
            byte -= len(block)
        self._rest = (0, b"")
        return number


def header(file: BinaryIO, first: int, longest: int = 2**20) -> tuple[str, int]:
    """Return the first line that is not blank, without its end, and where the next one begins.

    Raises
    ------
    ValueError
        There is none, or none of this length.
    """
    file.seek(first)
    while line := file.readline(longest):
        if line.strip(b"\r\n"):
            if len(line) == longest:
                raise ValueError(f"its first line is longer than {longest} bytes")
            return line.rstrip(b"\r\n").decode(), file.tell()
    raise ValueError("has no line that names its columns")
