"""The first bytes of a ROOT file, which tell whether it is one, and whether all of it is there."""

from __future__ import annotations

import os
import stat
import struct
from pathlib import Path

from mlaas_condor.errors import InputUnreadable

HEADER = 20  # bytes up to the position of the file's end


def check(path: str) -> None:
    """Tell a missing, empty, foreign or shortened local file apart before uproot is asked.

    Raises
    ------
    InputUnreadable
        The file is one of these.
    """
    try:
        if stat.S_ISFIFO(os.stat(path).st_mode):  # noqa: PTH116 - opening it would wait for ever
            raise InputUnreadable(f"{path}: is a pipe, not a file")
        with Path(path).open("rb") as file:
            header, size = file.read(HEADER), file.seek(0, os.SEEK_END)
    except FileNotFoundError:
        raise InputUnreadable(f"{path}: no such file") from None
    except OSError as error:
        raise InputUnreadable(f"{path}: cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise InputUnreadable(f"{path!r}: is no file name: {error}") from error
    tell(path, header, size)


def tell(path: str, header: bytes, size: int) -> None:
    """Raise `InputUnreadable` for what cannot be a whole ROOT file, from its first bytes and its size."""
    if not header:
        raise InputUnreadable(f"{path}: is empty (0 bytes)")
    if header[:4] != b"root":
        raise InputUnreadable(f"{path}: is not a ROOT file (begins with {header[:4]!r})")
    # Where the directory stands first, as uproot writes it, a file that is cut short opens all the same.
    padded = header.ljust(HEADER, b"\0")
    (version,) = struct.unpack_from(">i", padded, 4)
    (whole,) = struct.unpack_from(">q" if version >= 1_000_000 else ">i", padded, 12)
    if whole > size:
        raise InputUnreadable(f"{path}: is cut short: it has {size} of {whole} bytes")
