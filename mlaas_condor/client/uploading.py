"""Sending what a request needs to a service, unless that has it already."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from mlaas_condor import versions
from mlaas_condor.archives.sending import Archive
from mlaas_condor.client.calling import Body, Calls
from mlaas_condor.errors import InputChanged, InputUnreadable, ServiceRefused

if TYPE_CHECKING:
    from mlaas_condor.client.packing import Package
    from mlaas_condor.places import Told

_SECONDS = 600.0  # after the last byte: it is unpacked and looked through
_PIECE = 2**20
_MIB = 2**20


def send(calls: Calls, package: Package, told: Told) -> None:
    """Make sure that a service has the folder of a request, as it is here.

    Raises
    ------
    InputUnreadable, InputChanged
        A file cannot be read, or changes meanwhile.
    ServiceRefused
        The service does not take it.
    """
    entries = list(_entries(package.files, told))
    version = versions.digest(entries)
    where = f"/folders/{quote(package.name, safe='')}"
    if _there(calls, where) == version:
        return
    size = sum(each.size for each in entries)
    _check_limits(calls, size, len(entries))
    # All in one folder: a service takes off one that everything is in.
    archive = Archive.of({f"{package.name}/{name}": path for name, path in package.files.items()})

    def body() -> Body:
        sent = 0

        def count(number: int) -> None:
            nonlocal sent
            sent += number
            told.step("sending", sent, size)

        return Body(archive.stream(count), archive.length)

    kind = "application/gzip" if archive.compressed else "application/x-tar"
    answer = calls.ask("PUT", where, body=body, headers={"Content-Type": kind}, seconds=_SECONDS)
    if answer.get("version") != version:
        raise InputChanged("a file was changed while it was sent: submit again")


def _entries(files: Mapping[str, Path], told: Told) -> Iterator[versions.Entry]:
    """Yield the files as a service counts them: with their digests."""
    seen = 0
    try:
        size = sum(path.stat().st_size for path in files.values())
        for name, path in files.items():
            digest, begin = hashlib.sha256(), seen
            with path.open("rb") as file:
                while piece := file.read(_PIECE):
                    digest.update(piece)
                    seen += len(piece)
                    told.step("reading", seen, size)
            yield versions.Entry(name, seen - begin, digest.hexdigest())
    except OSError as error:
        raise InputUnreadable(f"{error.filename or 'a file'}: {os.strerror(error.errno or 0)}") from error


def _there(calls: Calls, where: str) -> str:
    """Return the version of a folder that the service has; empty for none."""
    try:
        return str(calls.ask("GET", where).get("version", ""))
    except ServiceRefused:
        return ""


def _check_limits(calls: Calls, size: int, files: int) -> None:
    """Refuse what the service would refuse in the end, before it is sent."""
    limits: Mapping[str, Any] = calls.ask("GET", "/me").get("limits", {})
    most, most_files = limits.get("upload"), limits.get("upload_files")
    if isinstance(most, int | float) and size > most * _MIB:
        raise ServiceRefused(
            f"{calls.url} takes {most / 1024:.3g} GB at a time, the files of this request have "
            f"{size / 2**30:.3g} GB: name large ones by the URL of their storage"
        )
    if isinstance(most_files, int | float) and files > most_files:
        raise ServiceRefused(
            f"{calls.url} takes {most_files} files at a time, this request has {files}: join some of them"
        )
