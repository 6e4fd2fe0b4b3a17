"""Versions of a folder: the same where paths and contents of the files are, whatever else may differ.

A service tells by it what it has, and a client what it need not send.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from mlaas_condor.errors import Problem, RequestError


class Entry(NamedTuple):
    """A file of a folder: its path in there with ``/`` between its parts, its bytes, their SHA-256 in hex."""

    path: str
    size: int
    sha256: str


def manifest(entries: Iterable[Entry]) -> str:
    """Return the list of the files of a folder: a line ``sha256  size  path`` each, sorted."""
    lines = sorted(f"{each.sha256}  {each.size}  {each.path}\n" for each in entries)
    if any(line.count("\n") > 1 for line in lines):
        raise ValueError("a path has a line end in it")
    return "".join(lines)


def parse(text: str) -> list[Entry]:
    """Return the files that a `manifest` lists, sorted by path."""
    parts = [line.split("  ", 2) for line in text.split("\n") if line]
    return sorted(Entry(path, int(size), sha256) for sha256, size, path in parts)


def digest(entries: Iterable[Entry]) -> str:
    """Return the version of a folder with these files: the SHA-256 of their `manifest`, in hex."""
    return hashlib.sha256(manifest(entries).encode()).hexdigest()


def is_junk(path: PurePosixPath) -> bool:
    """Tell whether a file is none of the user's: what macOS puts beside theirs."""
    return path.name == ".DS_Store" or path.name.startswith("._") or "__MACOSX" in path.parts


def of_folder(folder: Path) -> list[Entry]:
    """Return the files of a folder of this machine, as a service has them once it was sent there.

    Raises
    ------
    RequestError
        A file cannot be read, or one of `files_of`.
    """
    return sorted(_entry(folder, path) for path in files_of(folder))


def files_of(folder: Path) -> list[PurePosixPath]:
    """Return the paths of the files in a folder of this machine, without what is not the user's.

    Links are followed: input files are often links to where the data are. An archive of them has the files
    that are meant, and one folder around them, however it is called: ``tar --dereference -cf luca.tar luca``.

    Raises
    ------
    RequestError
        A folder cannot be read, a link leads back to a folder that it is in, or something is neither a file
        nor a folder.
    """
    found = (path.relative_to(folder) for path in _files(folder, (folder.resolve(),)))
    return [path for each in found if not is_junk(path := PurePosixPath(each))]


def _files(folder: Path, within: tuple[Path, ...]) -> Iterator[Path]:
    try:
        found = sorted(folder.iterdir())
    except OSError as error:
        raise RequestError([Problem(str(folder), f"cannot be read: {error.strerror}")]) from error
    for path in found:
        if path.is_dir():
            real = path.resolve()
            if real in within:
                raise RequestError([Problem(str(path), "is a link to a folder that it is in", "remove it")])
            yield from _files(path, (*within, real))
        elif path.is_file():
            yield path
        else:
            what = "is a link to nothing" if path.is_symlink() else "is neither a file nor a folder"
            raise RequestError([Problem(str(path), what, "remove it")])


def _entry(folder: Path, path: PurePosixPath) -> Entry:
    try:
        with (folder / path).open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
            return Entry(str(path), os.fstat(file.fileno()).st_size, sha256)
    except OSError as error:
        raise RequestError([Problem(str(folder / path), f"cannot be read: {error.strerror}")]) from error
