"""Unpack an upload: each file under a number, so that nothing has a user's name before all is checked."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from mlaas_condor import versions
from mlaas_condor.archives import reading
from mlaas_condor.archives.members import Bounds, Member, Refused
from mlaas_condor.versions import Entry

from ..faults import HttpFault, TooLarge, Unprocessable, WrongType

_KINDS = "send a folder as .tar, .tar.gz, .tar.bz2, .tar.xz, .tar.zst or .zip"
_SIDE_BY_SIDE = 8  # files on their way to the disk


@dataclass(frozen=True)
class Found:
    """A file of an upload.

    Parameters
    ----------
    entry
        Its path in the folder, and what is in it.
    content
        Where that is; files of the same content may share it.
    """

    entry: Entry
    content: Path


def unpack(
    archive: Path,
    work: Path,
    bounds: Bounds,
    known: Callable[[str], Path],
    spend: Callable[[int], None] = lambda size: None,
) -> list[Found]:
    """Unpack an archive into a folder, and return what it has: at least one file, all of them on the disk.

    Parameters
    ----------
    archive
        The archive.
    work
        Where to; empty, and of no use after an error.
    bounds
        What is taken.
    known
        Returns where the content of a SHA-256 would be, were it stored: it is then not stored again.
    spend
        Told the bytes that are written, and, negative, those that turned out to be there already.

    Raises
    ------
    Unprocessable, TooLarge, WrongType
        The archive is refused; says why, and names the member.
    OSError
        It cannot be written.
    """
    unpacking = _Unpacking(work, known, spend)
    try:
        with unpacking:
            for path, member in reading.read(archive, bounds):
                if not member.folder:
                    unpacking.add(path, member)
    except Refused as refused:
        raise _fault(refused) from refused
    if not unpacking.found:
        raise Unprocessable("the archive is refused: there is no file in it")
    return _without_top(unpacking.found)


def _fault(refused: Refused) -> HttpFault:
    said = f"the archive is refused: {refused}"
    if refused.reason == "size":
        return TooLarge(said)
    return WrongType(f"{said}; {_KINDS}") if refused.reason == "type" else Unprocessable(said)


class _Unpacking:
    """Files on their way out of an archive; at the end of the ``with`` block they are on the disk."""

    def __init__(self, work: Path, known: Callable[[str], Path], spend: Callable[[int], None]) -> None:
        self.found: list[Found] = []
        self._work, self._known, self._spend = work, known, spend
        self._contents: dict[str, Path] = {}
        self._pool = ThreadPoolExecutor(_SIDE_BY_SIDE)
        self._syncing: list[Future[None]] = []

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._pool.shutdown(cancel_futures=kind is not None)
        for each in self._syncing if kind is None else ():
            each.result()

    def add(self, path: PurePosixPath, member: Member) -> None:
        """Write a file, unless it is none of the user's."""
        if versions.is_junk(path):
            return
        content = self._work / str(len(self.found))
        sha256 = hashlib.sha256()
        with open(os.open(content, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o444), "wb") as file:  # noqa: PTH123
            for piece in member.pieces:
                self._spend(len(piece))
                sha256.update(piece)
                file.write(piece)
        entry = Entry(str(path), member.size, sha256.hexdigest())
        self.found.append(Found(entry, self._once(entry, content)))

    def _once(self, entry: Entry, content: Path) -> Path:
        """Return where the content of a file is to stay: where it was before, if it was."""
        same = self._contents.get(entry.sha256)
        if same is None:
            self._contents[entry.sha256] = content
            if self._is_stored(entry, content):
                self._spend(-entry.size)
            else:
                self._syncing.append(self._pool.submit(sync, content))
            return content
        content.unlink()
        self._spend(-entry.size)
        return same

    def _is_stored(self, entry: Entry, content: Path) -> bool:
        """Tell whether the content was stored before; then that takes its place, and cannot go from there."""
        link = content.with_name(f"{content.name}.stored")
        try:
            link.hardlink_to(self._known(entry.sha256))
        except OSError:
            return False
        link.replace(content)
        return True


def sync(path: Path) -> None:
    """Bring a file, or the names in a folder, to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _without_top(found: list[Found]) -> list[Found]:
    """Take off the one folder that everything is in: users pack the folder, not what is in it."""
    tops = {PurePosixPath(each.entry.path).parts[0] for each in found}
    if len(tops) > 1 or any("/" not in each.entry.path for each in found):
        return found
    return [
        replace(each, entry=each.entry._replace(path=each.entry.path.partition("/")[2])) for each in found
    ]
