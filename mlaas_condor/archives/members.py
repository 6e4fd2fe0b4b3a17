"""What may be in an archive: its files and folders, how many, how large, and under which names."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Literal

PIECE = 2**20
"""Bytes read at a time; a header that wants more holds no name of a file."""

MOST_RATIO = 250
"""How many times as large as the archive what comes out may be: more than data that people train on has."""

ANY_RATIO = 2**30
"""Bytes that may come out at any ratio."""

Kind = Literal["tar", "gzip", "bzip2", "xz", "zstd", "zip"]
KINDS: frozenset[Kind] = frozenset({"tar", "gzip", "bzip2", "xz", "zstd", "zip"})

_LONGEST_PART = 255  # bytes of a name, as file systems have it
_LONGEST_PATH = 1000
# What shells, submit files, DAG files and lists of files give a meaning to.
_SPECIAL = re.compile(r"""["'`$\\,;:|<>&*?]""")
_INVISIBLE = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp", "Zs"}


class Refused(Exception):
    """An archive is not taken; the message says why, and names the member.

    Parameters
    ----------
    message
        What is wrong with it.
    reason
        ``type``: it is no archive of a kind that is taken; ``damage``: it is cut off or broken; ``size``: it
        has too much in it; ``content``: something is in it that is not taken.
    """

    def __init__(
        self, message: str, reason: Literal["type", "damage", "size", "content"] = "content"
    ) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True)
class Bounds:
    """What is taken at most.

    Parameters
    ----------
    files
        Members, folders among them.
    bytes
        Bytes of all of them, unpacked.
    depth
        Folders within each other.
    plain_names
        Whether names must be free of what shells and submit files give a meaning to.
    kinds
        Kinds of archives.
    """

    files: int
    bytes: int
    depth: int = 32
    plain_names: bool = True
    kinds: frozenset[Kind] = KINDS


@dataclass(frozen=True)
class Member:
    """A file or folder in an archive, while it is read.

    Parameters
    ----------
    name
        As the archive has it.
    folder
        Whether it is one.
    size
        Bytes of its content.
    pieces
        The content; to be taken before the next member is.
    """

    name: str
    folder: bool
    size: int
    pieces: Iterator[bytes]


def check_ratio(size: int, packed: int) -> None:
    """Refuse what is much larger than the archive that it came out of.

    Raises
    ------
    Refused
        It is.
    """
    if size > max(ANY_RATIO, MOST_RATIO * packed):
        raise Refused(
            f"what is in it is more than {MOST_RATIO} times as large as itself, as in archives made to "
            "fill a disk; if it is data of yours, send it as a plain tar",
            "size",
        )


def shown(name: str) -> str:
    """Return a name for a message: nothing in it is invisible, and it is not long."""
    return repr(name if len(name) <= 120 else f"{name[:100]}…{name[-19:]}")


class Taken:
    """The members of one archive so far: how many, how large, and which names they take.

    Parameters
    ----------
    bounds
        What is taken at most.
    """

    def __init__(self, bounds: Bounds) -> None:
        self._bounds = bounds
        self._members = 0
        self._bytes = 0
        self._is_folder = {"": True}

    def add(self, member: Member) -> PurePosixPath:
        """Take a member and return its path within the archive.

        Raises
        ------
        Refused
            There are too many, they are too large, it has a name that is not taken, or that was there.
        """
        self._members += 1
        if self._members > self._bounds.files:
            raise Refused(f"it has more than {self._bounds.files} files", "size")
        if member.size < 0:
            raise Refused(f"{shown(member.name)} has {member.size} bytes", "damage")
        self._bytes += member.size
        if self._bytes > self._bounds.bytes:
            raise Refused(f"its files have more than {self._bounds.bytes} bytes", "size")
        path = checked_path(member.name, self._bounds)
        self._take_name(member, path)
        return path

    def _take_name(self, member: Member, path: PurePosixPath) -> None:
        # As one would read them: é may be written as one letter, or as a letter and an accent.
        parts = unicodedata.normalize("NFC", "/".join(path.parts)).split("/") if path.parts else []
        whole = "/".join(parts)
        for i in range(len(parts)):
            if not self._is_folder.setdefault("/".join(parts[:i]), True):
                raise Refused(f"{shown(member.name)} is in a folder that is there twice, as a file too")
        if whole in self._is_folder and not (member.folder and self._is_folder[whole]):
            raise Refused(f"{shown(member.name)} is there twice")
        self._is_folder[whole] = member.folder


def checked_path(name: str, bounds: Bounds) -> PurePosixPath:
    """Return the path of a member within its archive.

    Raises
    ------
    Refused
        It would be elsewhere, or cannot be the name of a file.
    """
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts:
        raise Refused(f"{shown(name)} would land outside the folder")
    if "\0" in name:
        raise Refused(f"{shown(name)} has a NUL in its name")
    if any("\ud800" <= each <= "\udfff" for each in name):
        raise Refused(f"{shown(name)} is not named in UTF-8")
    if len(path.parts) > bounds.depth:
        raise Refused(f"{shown(name)} is in more than {bounds.depth - 1} folders within each other")
    if len(str(path).encode()) > _LONGEST_PATH:
        raise Refused(f"{shown(name)} has a path of more than {_LONGEST_PATH} bytes")
    for part in path.parts:
        if len(part.encode()) > _LONGEST_PART:
            raise Refused(f"{shown(name)} has a name of more than {_LONGEST_PART} bytes")
        if bounds.plain_names and (odd := _odd(part)):
            raise Refused(f"{shown(name)} {odd}: rename it")
    return path


def _odd(part: str) -> str:
    """Return what is wrong with a name where it is meant to be plain; empty for nothing."""
    if found := _SPECIAL.search(part):
        return f"has a {found[0]} in its name"
    if any(each != " " and unicodedata.category(each) in _INVISIBLE for each in part):
        return "has a character in its name that cannot be seen"
    if part.startswith(("-", "~", "#")):
        return f"begins with {part[0]}, which programs take for something else"
    return "begins or ends with a space" if part != part.strip(" ") else ""
