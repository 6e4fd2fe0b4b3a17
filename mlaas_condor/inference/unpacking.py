"""Unpack a bundle that may come from anyone: nothing of it lands outside its folder, nothing of it is run."""

from __future__ import annotations

from pathlib import Path

from mlaas_condor.archives import reading
from mlaas_condor.archives.members import Bounds, Member, Refused
from mlaas_condor.errors import InputUnreadable
from mlaas_condor.training import faults

MOST_FILES = 10_000
"""Members that a bundle may have, folders among them."""

MOST_BYTES = 2**32
"""Bytes that they may have together, unpacked: 4 GiB."""

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
    bounds = Bounds(MOST_FILES, most_bytes, plain_names=False, kinds=frozenset({"gzip"}))
    try:
        with faults.of_writing(folder):
            for place, member in reading.read(path, bounds):
                _write(member, folder / place)
    except Refused as refused:
        if refused.reason in ("type", "damage"):
            raise InputUnreadable(f"{path}: is no bundle that can be read: {refused}") from refused
        hint = f"; {_BY_HAND}" if refused.reason == "size" else ""
        raise InputUnreadable(f"{path}: is no bundle that is taken: {refused}{hint}") from refused
    except OSError as error:
        raise InputUnreadable(f"{path}: is no bundle that can be read: {error}") from error


def _write(member: Member, target: Path) -> None:
    folder = target if member.folder else target.parent
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not member.folder:
        with target.open("xb") as file:
            file.writelines(member.pieces)
