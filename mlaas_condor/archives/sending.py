"""A folder as a tar archive that is made while it is sent: no copy of it is written anywhere."""

from __future__ import annotations

import tarfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from isal import isal_zlib

from mlaas_condor.errors import InputChanged, InputUnreadable

from .members import PIECE

_BLOCK = tarfile.BLOCKSIZE
_GZIP = 31  # what zlib calls the format
_FAST = 1  # most of it is ROOT files, which are compressed already
_WORTH = 0.97  # of its size, below which it is sent compressed
_SUSPICIOUS = 0.01  # below which a service may take it for a bomb


@dataclass(frozen=True)
class Archive:
    """An archive that can be made again and again, always the same.

    Parameters
    ----------
    files
        Their names in it, and where they are.
    length
        Bytes of it.
    compressed
        Whether it is a ``.tar.gz``, or a ``.tar``.
    """

    files: Mapping[str, Path]
    length: int
    compressed: bool

    @classmethod
    def of(cls, files: Mapping[str, Path]) -> Archive:
        """Find out whether it is worth compressing, as fast as the files can be read.

        Raises
        ------
        InputUnreadable, InputChanged
            As for `stream`.
        """
        plain = compressed = 0
        squeeze = isal_zlib.compressobj(_FAST, wbits=_GZIP)
        for piece in _tar(files, lambda _: None):
            plain += len(piece)
            compressed += len(squeeze.compress(piece))
        compressed += len(squeeze.flush())
        worth = _SUSPICIOUS * plain < compressed < _WORTH * plain
        return cls(files, compressed if worth else plain, worth)

    def stream(self, told: Callable[[int], None] = lambda _: None) -> Iterator[bytes]:
        """Yield it in pieces.

        Parameters
        ----------
        told
            Gets the number of bytes of files that went in since the last time.

        Raises
        ------
        InputUnreadable
            A file cannot be read.
        InputChanged
            A file became shorter meanwhile.
        """
        pieces = _tar(self.files, told)
        if not self.compressed:
            yield from pieces
            return
        squeeze = isal_zlib.compressobj(_FAST, wbits=_GZIP)
        for piece in pieces:
            if packed := squeeze.compress(piece):
                yield packed
        yield squeeze.flush()


def _tar(files: Mapping[str, Path], told: Callable[[int], None]) -> Iterator[bytes]:
    for name, path in files.items():
        yield from _member(name, path, told)
    yield b"\0" * 2 * _BLOCK


def _member(name: str, path: Path, told: Callable[[int], None]) -> Iterator[bytes]:
    """Yield a header, the content, and what fills the last block."""
    try:
        with path.open("rb") as file:
            size = path.stat().st_size
            header = tarfile.TarInfo(name)
            # Nothing else of the file is anybody's business, and equal folders are equal archives.
            header.size, header.mode = size, 0o644
            yield header.tobuf(tarfile.PAX_FORMAT)
            left = size
            while left:
                piece = file.read(min(PIECE, left))
                if not piece:
                    raise InputChanged(f"{path}: became shorter while it was sent; submit again")
                left -= len(piece)
                told(len(piece))
                yield piece
            yield b"\0" * (-size % _BLOCK)
    except OSError as error:
        raise InputUnreadable(f"{path}: {error.strerror}") from error
