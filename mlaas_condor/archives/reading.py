"""Reading an archive, whatever its kind: the one place where members are taken or refused."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from . import streams, tarballs, zips
from .members import Bounds, Kind, Member, Refused, Taken

_BLOCK = 512
_MAGIC: dict[bytes, Kind] = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ\x00": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"PK\x03\x04": "zip",
    b"PK\x05\x06": "zip",  # an empty one
}
_KNOWN = {
    b"root": "a ROOT file",
    b"7z\xbc\xaf\x27\x1c": "a 7z archive",
    b"Rar!": "a RAR archive",
    b"PK\x07\x08": "a part of a zip archive",
    b"{": "a JSON file",
    b"%PDF": "a PDF file",
    b"<": "a page of HTML or XML",
}


def kind_of(path: Path) -> Kind:
    """Return the kind of an archive, by what is in it: names lie.

    Raises
    ------
    Refused
        It is of none that is taken.
    OSError
        It cannot be read.
    """
    with path.open("rb") as file:
        block = file.read(_BLOCK)
    for magic, kind in _MAGIC.items():
        if block.startswith(magic):
            return kind
    if len(block) == _BLOCK and tarballs.is_header(block):
        return "tar"
    if not block:
        raise Refused("nothing is in it", "type")
    known = next((what for magic, what in _KNOWN.items() if block.startswith(magic)), "")
    begins = f"it is {known}" if known else f"it begins with {block[:16]!r}"
    raise Refused(f"{begins}: no archive that is known here", "type")


def read(path: Path, bounds: Bounds) -> Iterator[tuple[PurePosixPath, Member]]:
    """Yield the members of an archive, each with its path in it; paths are relative and never lead out.

    No member is yielded twice, nor a file of the name of a folder. What was yielded holds only once all of
    the archive has been read: damage may show at its end.

    Parameters
    ----------
    path
        The archive.
    bounds
        What is taken.

    Raises
    ------
    Refused
        It is not taken; says why.
    OSError
        It cannot be read.
    """
    kind = kind_of(path)
    if kind not in bounds.kinds:
        raise Refused(f"it is {kind}; what is taken: {', '.join(sorted(bounds.kinds))}", "type")
    taken = Taken(bounds)
    packed = path.stat().st_size
    with path.open("rb") as file:
        if kind == "zip":
            found = zips.members(file, packed, bounds)
        else:
            found = tarballs.members(streams.Stream(streams.opened(file, kind), packed, bounds))
        for member in found:
            yield taken.add(member), member
