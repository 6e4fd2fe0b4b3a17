"""Unpack a bundle that may come from anyone: nothing of it lands outside its folder, nothing of it is run."""

from __future__ import annotations

import gzip
import io
import tarfile
import zlib
from pathlib import Path, PurePosixPath
from typing import Any, cast

from mlaas_condor.errors import InputUnreadable
from mlaas_condor.training import faults

MOST_FILES = 10_000
"""Members that a bundle may have, folders among them."""

MOST_BYTES = 2**32
"""Bytes that they may have together, unpacked: 4 GiB."""

_PIECE = 2**20  # bytes read at a time; a header that wants more holds no name of a file
_BY_HAND = "if you trust it, unpack it yourself and give the folder"


def unpack(path: Path, folder: Path, most_bytes: int = MOST_BYTES) -> None:
    """Unpack a tarball into an empty folder that only its owner can read.

    Parameters
    ----------
    path
        The tarball, ``.tar.gz``.
    folder
        Where to; it is there.
    most_bytes
        Bytes that may come out.

    Raises
    ------
    InputUnreadable
        It is missing or damaged, larger than allowed, or a member is a link, a device, named twice, or
        named as if it belonged elsewhere.
    StorageFull
        There is no space for it.
    """
    try:
        with faults.of_writing(folder), gzip.open(path, "rb") as plain:
            # Stream and tarball are bounded alike: headers, and what is skipped, cost memory and time too.
            bounded = cast(io.BytesIO, _Bounded(plain, path, most_bytes + 1024 * MOST_FILES))
            with tarfile.open(fileobj=bounded, mode="r:") as tar:
                _unpack(tar, path, folder, most_bytes)
            while bounded.read(_PIECE):  # to the end, where the checksum is
                pass
    except (OSError, EOFError, tarfile.TarError, zlib.error, ValueError, OverflowError) as error:
        what = f"{type(error).__name__}: {error}" if not str(error) else str(error)
        raise InputUnreadable(f"{path}: is no bundle that can be read: {what}") from error


def _unpack(tar: tarfile.TarFile, path: Path, folder: Path, most_bytes: int) -> None:
    total = 0
    for number, member in enumerate(tar, 1):
        total += member.size
        if number > MOST_FILES:
            raise _refusal(path, f"it has more than {MOST_FILES} files")
        if total > most_bytes:
            raise _refusal(path, f"its files have more than {most_bytes} bytes; {_BY_HAND}")
        if member.issparse() or not (member.isdir() or member.isreg()):
            raise _refusal(path, f"{member.name!r} is {_kind(member)}: a bundle has only files and folders")
        name = PurePosixPath(member.name)
        if name.is_absolute() or ".." in name.parts:
            raise _refusal(path, f"{member.name!r} would land outside the folder of the bundle")
        target = folder / name
        if member.isdir():
            target.mkdir(mode=0o700, parents=True, exist_ok=True)
            continue
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        source = tar.extractfile(member)
        if source is None:  # cannot be, of a file
            raise _refusal(path, f"{member.name!r} has no content")
        try:
            with target.open("xb") as file:
                while piece := source.read(_PIECE):
                    file.write(piece)
        except FileExistsError as error:
            raise _refusal(path, f"{member.name!r} is there twice") from error


def _kind(member: tarfile.TarInfo) -> str:
    if member.issym() or member.islnk():
        return "a link"
    return "a device" if member.isdev() else "of an unknown type"


def _refusal(path: Path, why: str) -> InputUnreadable:
    return InputUnreadable(f"{path}: is refused as a bundle: {why}")


class _Bounded:
    """A stream that ends in an error where more is read of it than allowed."""

    def __init__(self, stream: Any, path: Path, most: int) -> None:
        self._stream, self._path, self._most = stream, path, most

    def read(self, size: int = -1) -> bytes:
        """Read up to ``size`` bytes, never more at a time than a piece."""
        if not 0 <= size <= _PIECE:
            raise _refusal(self._path, f"it has a header of {size} bytes")
        self._check(self._stream.tell() + size)
        found: bytes = self._stream.read(size)
        return found

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go to a place counted from the beginning; of gzip, what is between is decompressed."""
        if whence != io.SEEK_SET:
            raise ValueError("only from the beginning")
        self._check(offset)
        return int(self._stream.seek(offset))

    def tell(self) -> int:
        """Return the place."""
        return int(self._stream.tell())

    def _check(self, upto: int) -> None:
        if upto > self._most:
            raise _refusal(self._path, f"it has more than {self._most} bytes; {_BY_HAND}")
