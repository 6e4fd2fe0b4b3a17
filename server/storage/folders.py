"""Uploaded folders: each has a name, an owner and a version, and changes only as a whole."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

from pydantic import Field

from mlaas_condor.archives.members import Bounds
from mlaas_condor.errors import CannotWrite, Problem, RequestError
from mlaas_condor.jsonfile import JsonFile
from mlaas_condor.request import NAME
from mlaas_condor.settings import Settings
from mlaas_condor.versions import Entry

from .. import configuration, permissions
from ..faults import Conflict, OverLimit, Unavailable
from ..identity import Identity
from ..permissions import Sharing
from . import incoming, unpacking
from .contents import Contents
from .room import Room

_MEBIBYTE = 2**20
_RETRY = {"Retry-After": "5"}
_log = logging.getLogger(__name__)


class Folder(JsonFile):
    """An uploaded folder, as it was when it was opened."""

    owner: str = Field(description="whose it is")
    name: str = Field(description="what the owner calls it: luca")
    version: str = Field(description="digest of its files; the same for the same files")
    files: int = Field(description="how many it has")
    bytes: int = Field(description="of all of them")
    uploaded: float = Field(description="when, in seconds since 1970")
    sharing: Sharing = Field(Sharing(), description="which groups may read and change it")
    path: Path = Field(exclude=True, description="where its files are; nothing there ever changes")

    def entries(self) -> list[Entry]:
        """Return its files, sorted by path.

        Raises
        ------
        Conflict
            It was replaced or deleted meanwhile.
        """
        try:
            return Contents(self.path.parents[1]).entries(self.version)
        except FileNotFoundError as error:
            raise _changed(self) from error


Found: TypeAlias = list[Folder]
Check: TypeAlias = Callable[[Folder | None], None]
"""Told the folder that is there now, or None; raises where it may not be changed."""


def _changed(folder: Folder) -> Conflict:
    return Conflict(f"folder {folder.name!r} was replaced or deleted just now: open it again")


def _always(found: Folder | None) -> None:
    pass


@dataclass(frozen=True)
class Arrival:
    """An upload on its way.

    Parameters
    ----------
    path
        A folder for it; gone in the end, however that comes.
    most
        Bytes that it may have as it is sent.
    spend
        To be told of bytes that are written there; raises where the owner has no room for them.
    """

    path: Path
    most: int
    spend: Callable[[int], None]


class Folders:
    """The folders of everybody.

    Parameters
    ----------
    settings
        Where they are kept.
    limits
        What each owner may have.
    """

    def __init__(self, settings: Settings, limits: configuration.Limits) -> None:
        self._settings = settings
        self._limits = limits

    def _of(self, owner: str) -> Settings:
        return replace(self._settings, owner=owner)

    def _contents(self, owner: str) -> Contents:
        return Contents(self._of(owner).own)

    def _room(self, owner: str) -> Room:
        return Room(self._of(owner).own, self._limits)

    def _file(self, owner: str, name: str) -> Path:
        return self._of(owner).own / "folders" / f"{name}.json"

    def open(self, owner: str, name: str) -> Folder:
        """Open a folder.

        Raises
        ------
        NotFound
            There is none.
        """
        found = _read(self._file(owner, name)) if NAME.fullmatch(name) else None
        if found is None:
            raise permissions.missing(f"folder {name!r}")
        return found

    def list(self, owner: str) -> Found:
        """Return the folders of an owner, by name."""
        return _all(self._of(owner).own)

    def shared_with(self, identity: Identity) -> Found:
        """Return the folders of others that somebody may read; of everybody, for an administrator."""
        mine = self._of(identity.owner).own
        others = (own for own in sorted(self._settings.home.glob("users/*")) if own != mine)
        every = (folder for own in others for folder in _all(own))
        return [each for each in every if permissions.may_read(identity, each.owner, each.sharing)]

    def version_path(self, owner: str, version: str) -> Path:
        """Return where the files of a version are, be it of a folder or of a run of the owner."""
        return self._contents(owner).version(version)

    def stored_bytes(self, owner: str) -> int:
        """Return the bytes of all that is stored of an owner, runs too; each file once.

        What is arriving is not counted: it is not stored yet.
        """
        return self._room(owner).stored()

    @contextmanager
    def arriving(self, owner: str) -> Iterator[Arrival]:
        """Take a place for an upload, and a folder to receive it in.

        Raises
        ------
        OverLimit, Unavailable
            There are as many uploads as there may be, of this owner or in all.
        OverQuota
            The owner has no room left.
        CannotWrite
            There is no space, or no permission.
        """
        most = self._limits.uploads
        mine = most - most // 4  # some places are for others
        with ExitStack() as stack:
            with writing():
                own = self._of(owner).make_own()
                one = stack.enter_context(incoming.one_of(own / "uploads", mine))
                every = self._settings.home / "service" / "uploads"
                another = stack.enter_context(incoming.one_of(every, most))
                path = stack.enter_context(incoming.held(Contents(own).incoming))
            if not one:
                raise OverLimit(f"{mine} uploads of yours are under way, the limit: try again soon", _RETRY)
            if not another:
                raise Unavailable(f"{most} uploads are under way, the limit: try again soon", _RETRY)
            yield Arrival(path, self._limits.upload * _MEBIBYTE, self._room(owner).watch())

    def put(self, owner: str, name: str, archive: Path, check: Check = _always) -> Folder:
        """Make what is in an archive the content of a folder, wholly or not at all.

        The folder may be there: runs that were submitted from it keep the files that they were submitted
        with. It stays shared with whom it was.

        Parameters
        ----------
        archive
            A tar archive, plain or compressed by gzip, bzip2, xz or zstd, or a zip archive.
        check
            Asked once all is ready, while nobody else can change the folder.

        Raises
        ------
        RequestError
            The name does not do.
        Unprocessable, TooLarge, WrongType
            The archive is refused.
        OverQuota
            The owner has no room for it.
        CannotWrite
            There is no space, or no permission.
        """
        check_name(name)
        bounds = Bounds(self._limits.upload_files, self._limits.upload * _MEBIBYTE)
        room = self._room(owner)
        with writing(), ExitStack() as stack:
            contents = Contents(self._of(owner).make_own())
            # Last of all: what was replaced goes, or what had been stored before something failed.
            stack.callback(self.collect, owner)
            work = stack.enter_context(incoming.held(contents.incoming))
            found = unpacking.unpack(archive, work, bounds, contents.content, room.watch())
            stack.enter_context(contents.locked())
            before = _read(self._file(owner, name))
            check(before)
            room.check(contents.new_bytes(found))
            version = contents.add(found, work)
            made = Folder(
                owner=owner,
                name=name,
                version=version,
                files=len(found),
                bytes=sum(each.entry.size for each in found),
                uploaded=time.time(),
                sharing=before.sharing if before else Sharing(),
                path=contents.version(version),
            )
            self._publish(made, work)
        return made

    def _publish(self, folder: Folder, work: Path) -> None:
        path = self._file(folder.owner, folder.name)
        path.parent.mkdir(exist_ok=True, mode=0o700)
        part = work / "folder.json"
        folder.write(part)
        unpacking.sync(part)
        part.replace(path)
        unpacking.sync(path.parent)

    def share(self, owner: str, name: str, sharing: Sharing, check: Check = _always) -> Folder:
        """Say which groups may read a folder, and which may change it.

        Raises
        ------
        NotFound
            There is none.
        """
        contents = self._contents(owner)
        self.open(owner, name)
        with writing(), incoming.held(contents.incoming) as work, contents.locked():
            found = self.open(owner, name)
            check(found)
            shared = found.model_copy(update={"sharing": sharing})
            self._publish(shared, work)
        return shared

    def delete(self, owner: str, name: str, check: Check = _always) -> None:
        """Delete a folder; what runs need of it stays until they are deleted.

        Raises
        ------
        NotFound
            There is none.
        """
        self.open(owner, name)
        with writing(), self._contents(owner).locked():
            found = self.open(owner, name)
            check(found)
            path = self._file(owner, name)
            path.unlink()
            unpacking.sync(path.parent)
        self.collect(owner)

    @contextmanager
    def using(self, owner: str, folder: Folder) -> Iterator[Folder]:
        """Keep the version of a folder for an owner, until a run of theirs names it or they let go of it.

        Parameters
        ----------
        owner
            Whose run it is for. Where the folder is another's, the version becomes theirs as well, without
            taking space twice, so that the run needs nothing of others.
        folder
            As it was opened.

        Returns
        -------
        The folder, its files where that owner has them.

        Raises
        ------
        Conflict
            It was replaced or deleted meanwhile.
        OverQuota
            The owner has no room for it.
        """
        with ExitStack() as stack:
            if folder.owner != owner:
                stack.callback(self.collect, owner)  # where no run came of it
                stack.enter_context(self.using(folder.owner, folder))
            with writing():
                mine = Contents(self._of(owner).make_own())
                lease = stack.enter_context(incoming.held(mine.incoming))
                with mine.locked():
                    if folder.owner != owner:
                        self._adopt(owner, folder, lease)
                    if not mine.use(folder.version, lease):
                        raise _changed(folder)
            yield folder.model_copy(update={"path": mine.version(folder.version)})

    def _adopt(self, owner: str, folder: Folder, work: Path) -> None:
        mine, theirs = self._contents(owner), self._contents(folder.owner)
        found = [unpacking.Found(each, theirs.content(each.sha256)) for each in folder.entries()]
        self._room(owner).check(mine.new_bytes(found))
        mine.add(found, work)

    def collect(self, owner: str) -> None:
        """Remove what no folder and no run of an owner needs any more: after a run was deleted, say.

        Where that cannot be found out, or not be done, all stays for the next time.
        """
        own = self._of(owner).own
        contents = Contents(own)
        try:
            with incoming.held(contents.incoming) as work, contents.locked():
                contents.collect({*_versions_of_runs(own), *(each.version for each in _all(own))}, work)
        except (OSError, ValueError) as error:
            _log.warning("%s: what nobody needs is not removed: %s", own, error)

    def tidy(self) -> None:
        """Remove what processes that were killed have left: when the service starts."""
        for own in [self._settings.home, *self._settings.home.glob("users/*")]:
            incoming.tidy(Contents(own).incoming)


def _all(own: Path) -> Found:
    return [found for path in sorted(own.glob("folders/[!.]*.json")) if (found := _read(path))]


def _read(path: Path) -> Folder | None:
    try:
        content: dict[str, Any] = json.loads(path.read_text("utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    version = Contents(path.parents[1]).version(content["version"])
    return Folder.model_validate({**content, "path": version})


def _versions_of_runs(own: Path) -> Iterator[str]:
    """Yield the versions that runs name, also those that are being written."""
    for path in own.glob("runs/*/owner.json"):
        with suppress(FileNotFoundError):  # deleted just now
            yield str(json.loads(path.read_text("utf-8")).get("version"))


def check_name(name: str) -> None:
    """Make sure that a folder can be called so: before anything is sent for it.

    Raises
    ------
    RequestError
        It cannot.
    """
    if not NAME.fullmatch(name):
        what = f"{name[:100]!r} cannot name a folder"
        hint = "use letters, digits and _ . + -, at most 100, beginning with a letter or digit"
        raise RequestError([Problem("name", what, hint)])


@contextmanager
def writing() -> Iterator[None]:
    """Tell the user of a disk that is full, or read-only, without where it is."""
    try:
        yield
    except OSError as error:
        raise CannotWrite(
            f"the service cannot keep this: {error.strerror or error}; nothing of it is left, tell who runs "
            "the service"
        ) from error
