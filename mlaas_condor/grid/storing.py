"""Whole files on XRootD storage: written so that they are there completely or not at all, with a checksum."""

from __future__ import annotations

import secrets
import zlib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from mlaas_condor.errors import InputChanged, InputUnreadable, StageError, StorageUnavailable
from mlaas_condor.grid import xrootd
from mlaas_condor.grid.waiting import persist

_PIECE = 2**23  # bytes that are read or written at a time
_SECONDS, _CHECKSUM_SECONDS = 120, 600
_RESPONSE = 400
_NOT_FOUND, _EXISTS, _FAILS = 3011, 3018, 3005
_ADLER32 = "adler32"


def adler32(path: Path) -> str:
    """Return the checksum of a local file, as storage has it: eight hexadecimal digits."""
    with path.open("rb") as file:
        return _sum(iter(lambda: file.read(_PIECE), b""))


def put(local: Path, url: str, checksum: str = "") -> str:
    """Write a file to storage, and return its checksum, which may be known already.

    It is written under another name in the same folder and renamed once the storage has it whole, so that
    whoever finds it finds all of it. One that is there already, and is the same, is kept.

    Raises
    ------
    StorageFull, AccessDenied, CredentialFault, StorageUnavailable, InputUnreadable
        It is not there; nothing of it is left behind, as far as the storage answers.
    """
    folder, _, name = url.rpartition("/")
    temporary = f"{folder}/.{name}.{secrets.token_hex(4)}"
    size, checksum = local.stat().st_size, checksum or adler32(local)
    try:
        persist(lambda: _put(local, url, temporary, size, checksum))
    except BaseException:
        with suppress(StageError):
            _remove(temporary)
        raise
    return checksum


def get(url: str, local: Path, size: int, checksum: str) -> None:
    """Fetch a file whole; a local one that is it already is kept.

    Raises
    ------
    InputUnreadable
        It is not there, or damaged: its bytes do not have the checksum.
    InputChanged
        It has another size.
    StorageUnavailable, AccessDenied, CredentialFault
        As `xrootd.XrootdFile`.
    """
    if local.exists() and local.stat().st_size == size and adler32(local) == checksum:
        return
    part = local.with_name(f"{local.name}.part")
    for last in (False, True):
        found = persist(lambda: _get(url, part, size))
        if found == checksum:
            part.replace(local)
            return
        if last:
            part.unlink()
            host, path, _ = xrootd.split(url)
            raise InputUnreadable(
                f"{url}: is damaged: its checksum is {found}, and was {checksum} when it was written; "
                f"remove it, so that it is made again: xrdfs {host} rm {path}"
            )


def remove(url: str) -> None:
    """Remove a file; one that is not there is as good as removed."""
    persist(lambda: _remove(url))


def make_folder(url: str) -> bool:
    """Make a folder and those it is in; tell whether it was not there."""
    return persist(lambda: _make_folder(url))


def remove_folder(url: str) -> None:
    """Remove a folder if it is empty; one that stays does no harm."""
    system, path = _at(url)
    system.rmdir(path, timeout=_SECONDS)


def sizes(url: str) -> dict[str, int | None]:
    """Return the files of a folder, also those that begin with a dot; none if it is missing.

    Their sizes are None where the storage does not tell them.

    Raises
    ------
    StorageUnavailable, AccessDenied, CredentialFault
        It cannot be listed.
    """
    return persist(lambda: _sizes(url))


def _put(local: Path, url: str, temporary: str, size: int, checksum: str) -> None:
    there = _size(url)
    if there == size and _checksum(url, size) == checksum:
        return
    _write(local, temporary)
    if _size(temporary) != size or _checksum(temporary, size) != checksum:
        raise StorageUnavailable(f"{url}: what was written did not arrive as it was sent")
    _rename(temporary, url)


def _write(local: Path, url: str) -> None:
    module = xrootd.client()
    flags, modes = module.flags.OpenFlags, module.flags.AccessMode
    file = module.File()
    mode = modes.UR | modes.UW | modes.GR | modes.OR
    status, _ = file.open(url, flags.DELETE | flags.MAKEPATH | flags.WRITE, mode, timeout=_SECONDS)
    _check(url, status)
    try:
        with local.open("rb") as source:
            offset = 0
            while piece := source.read(_PIECE):
                status, _ = file.write(piece, offset, timeout=_SECONDS)
                _check(url, status)
                offset += len(piece)
    except BaseException:
        file.close(timeout=1)
        raise
    status, _ = file.close(timeout=_SECONDS)  # some storage says only here that it is full
    _check(url, status)


def _rename(old: str, new: str) -> None:
    system, source = _at(old)
    _, target = _at(new)
    status, _ = system.mv(source, target, timeout=_SECONDS)
    if not status.ok and status.errno in (_EXISTS, _FAILS) and _size(new) is not None:
        _remove(new)  # some storage does not rename over what is there
        status, _ = system.mv(source, target, timeout=_SECONDS)
    _check(new, status)


def _get(url: str, local: Path, size: int) -> str:
    """Fetch a file, and return its checksum."""
    file = xrootd.XrootdFile(url)
    try:
        if file.size != size:
            raise InputChanged(f"{url}: has {file.size} bytes, and had {size} when it was written")
        with local.open("wb") as target:
            return _sum(_written(_pieces(file), target))
    finally:
        file.close()


def _written(pieces: Iterator[bytes], target: Any) -> Iterator[bytes]:
    for piece in pieces:
        target.write(piece)
        yield piece


def _pieces(file: xrootd.XrootdFile) -> Iterator[bytes]:
    for start in range(0, file.size, _PIECE):
        yield file.read([(start, min(start + _PIECE, file.size))])[0]


def _sum(pieces: Iterator[bytes]) -> str:
    value = 1
    for piece in pieces:
        value = zlib.adler32(piece, value)
    return f"{value:08x}"


def _size(url: str) -> int | None:
    """Return the size of a file, None where there is none."""
    system, path = _at(url)
    status, info = system.stat(path, timeout=_SECONDS)
    if not status.ok and status.errno == _NOT_FOUND:
        return None
    _check(url, status)
    return int(info.size)


def _checksum(url: str, size: int) -> str:
    """Return the checksum of a file on storage: the storage's own, or else of what it gives back."""
    system, path = _at(url)
    code = xrootd.client().flags.QueryCode.CHECKSUM
    status, answer = system.query(code, f"{path}?cks.type={_ADLER32}", timeout=_CHECKSUM_SECONDS)
    if not status.ok and status.code != _RESPONSE:
        _check(url, status)
    words = bytes(answer or b"").rstrip(b"\0").decode("ascii", "replace").split()
    if status.ok and len(words) == 2 and words[0].lower() == _ADLER32:
        return words[1].lower().zfill(8)
    file = xrootd.XrootdFile(url)
    try:
        return _sum(_pieces(file)) if file.size == size else ""
    finally:
        file.close()


def _remove(url: str) -> None:
    system, path = _at(url)
    status, _ = system.rm(path, timeout=_SECONDS)
    if not status.ok and status.errno != _NOT_FOUND:
        xrootd.fail(url, status)


def _make_folder(url: str) -> bool:
    system, path = _at(url)
    if system.stat(path, timeout=_SECONDS)[0].ok:
        return False
    module = xrootd.client()
    modes = module.flags.AccessMode
    mode = modes.UR | modes.UW | modes.UX | modes.GR | modes.GX | modes.OR | modes.OX
    status, _ = system.mkdir(path, module.flags.MkDirFlags.MAKEPATH, mode, timeout=_SECONDS)
    if not status.ok and status.errno == _EXISTS:
        return False
    _check(url, status)
    return True


def _sizes(url: str) -> dict[str, int | None]:
    system, path = _at(url)
    flags = xrootd.client().flags
    status, listing = system.dirlist(path, flags.DirListFlags.STAT, timeout=_SECONDS)
    if not status.ok and status.errno == _NOT_FOUND:
        return {}
    _check(url, status)
    folder = flags.StatInfoFlags.IS_DIR
    files = [each for each in listing if not (each.statinfo and each.statinfo.flags & folder)]
    return {each.name: int(each.statinfo.size) if each.statinfo else None for each in files}


def _check(url: str, status: Any) -> None:
    if not status.ok:
        xrootd.fail(url, status)


def _at(url: str) -> tuple[Any, str]:
    """Return the file system that a URL is of, and the path there."""
    host, path, _ = xrootd.split(url)
    return xrootd.client().FileSystem(host), path
