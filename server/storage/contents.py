"""The contents of somebody's folders: each once on the disk, however many versions of folders have it.

``versions/<digest>/`` is a folder as it was sent, ``versions/<digest>.files`` lists it, and its files are
links to those of ``contents/``. Nothing of it ever changes; what nobody names any more is removed.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, suppress
from pathlib import Path

from mlaas_condor import versions
from mlaas_condor.versions import Entry

from . import incoming
from .unpacking import Found, sync

_LEASE = "version"
_VERSION = re.compile(r"[0-9a-f]{64}")


class Contents:
    """What is stored of one owner's folders.

    Parameters
    ----------
    own
        The owner's folder; need not be there.
    """

    def __init__(self, own: Path) -> None:
        self.incoming = own / "incoming"
        self._versions = own / "versions"
        self._contents = own / "contents"

    def locked(self) -> AbstractContextManager[None]:
        """Hold what is stored as it is: nobody adds or removes anything meanwhile."""
        return incoming.locked(self._versions / ".lock")

    def version(self, digest: str) -> Path:
        """Return the folder of a version; it need not be there."""
        return self._versions / digest

    def content(self, sha256: str) -> Path:
        """Return the file of a content; it need not be there."""
        return self._contents / sha256[:2] / sha256

    def entries(self, digest: str) -> list[Entry]:
        """Return the files of a version.

        Raises
        ------
        OSError
            It is not there.
        """
        return versions.parse(self._list(digest).read_text("utf-8"))

    def _list(self, digest: str) -> Path:
        return self._versions / f"{digest}.files"

    def new_bytes(self, found: Iterable[Found]) -> int:
        """Return how many bytes more are stored with some files than without."""
        sizes = {each.entry.sha256: each.entry.size for each in found}
        return sum(size for sha256, size in sizes.items() if not self.content(sha256).exists())

    def add(self, found: Sequence[Found], work: Path) -> str:
        """Store a version of a folder, and return its digest; to be called with the lock held.

        Parameters
        ----------
        found
            Its files; their contents are on the disk, on the same file system.
        work
            A folder to build it in.

        Raises
        ------
        OSError
            It cannot be written; nothing is there under its name then.
        """
        entries = [each.entry for each in found]
        digest = versions.digest(entries)
        target = self.version(digest)
        if target.is_dir():
            return digest
        built, changed = work / "built", {self._contents}
        built.mkdir()
        for each in found:
            stored = self._store(each)
            place = built / each.entry.path
            place.parent.mkdir(parents=True, exist_ok=True)
            self._link(stored, place, work)
            changed |= {stored.parent, *(built / above for above in Path(each.entry.path).parents)}
        listed = work / "files"
        listed.write_text(versions.manifest(entries), "utf-8")
        for path in (listed, *sorted(changed)):
            sync(path)
        listed.rename(self._list(digest))
        built.rename(target)
        sync(self._versions)
        return digest

    def _store(self, found: Found) -> Path:
        stored = self.content(found.entry.sha256)
        stored.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with suppress(FileExistsError):
            stored.hardlink_to(found.content)
        return stored

    def _link(self, stored: Path, place: Path, work: Path) -> None:
        try:
            place.hardlink_to(stored)
        except OSError as error:
            if error.errno != errno.EMLINK:
                raise
            # As many links as a file can have: the next ones are to another copy.
            copy = shutil.copyfile(stored, work / "copy")
            copy.chmod(0o444)
            sync(copy)
            copy.replace(stored)
            place.hardlink_to(stored)

    def use(self, digest: str, lease: Path) -> bool:
        """Keep a version while a folder in `incoming` is held; tell whether there is such a version.

        To be called with the lock held.
        """
        if not self.version(digest).is_dir():
            return False
        (lease / _LEASE).write_text(digest, "utf-8")
        return True

    def _used(self) -> set[str]:
        found = set()
        for lease in incoming.living(self.incoming):
            with suppress(OSError):
                found.add((lease / _LEASE).read_text("utf-8"))
        return found

    def collect(self, named: Iterable[str], work: Path) -> None:
        """Remove versions that nobody names or uses, and contents of no version; with the lock held.

        Parameters
        ----------
        named
            Versions that stay.
        work
            A folder that all of it is moved to.
        """
        stay = {*named, *self._used()}
        contents: set[str] = set()
        # A version before its list: who is killed between them leaves a list, which is nothing by itself.
        for path in sorted(_inside(self._versions), key=lambda each: each.suffix):
            digest = path.name.removesuffix(".files")
            if _VERSION.fullmatch(digest) and digest not in stay:
                path.rename(work / path.name)
            elif path.suffix == ".files":
                contents |= {each.sha256 for each in self.entries(digest)}
        for part in _inside(self._contents):
            for path in _inside(part):
                if path.name not in contents:
                    path.rename(work / f"{path.name}.content")
            with suppress(OSError):  # not empty
                part.rmdir()


def _inside(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except FileNotFoundError:
        return []


def bytes_in(*folders: str | Path, without: Sequence[Path] = ()) -> int:
    """Return the bytes of all files in some folders, each file once, however many names it has.

    Parameters
    ----------
    folders
        Those that are not there have none.
    without
        Folders in them that are not looked at.
    """
    left_out, waiting = {os.fspath(path) for path in without}, [os.fspath(path) for path in folders]
    total, seen = 0, set[tuple[int, int]]()
    while waiting:
        try:
            found = os.scandir(waiting.pop())
        except OSError:
            continue  # gone, or going
        with found:
            for each in found:
                if each.is_dir(follow_symlinks=False):
                    if each.path not in left_out:
                        waiting.append(each.path)
                    continue
                with suppress(OSError):
                    status = each.stat(follow_symlinks=False)
                    if status.st_nlink > 1:
                        key = (status.st_dev, status.st_ino)
                        if key in seen:
                            continue
                        seen.add(key)
                    total += status.st_size
    return total
