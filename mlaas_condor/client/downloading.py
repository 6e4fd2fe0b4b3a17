"""Fetching a large file from a service: what was interrupted goes on, and what is kept is complete."""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests

from mlaas_condor.client.calling import WAITS, Calls
from mlaas_condor.errors import CannotWrite, MlaasError

_PIECE = 2**18
_PARTIAL = 206
_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+)")

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class _Version:
    """What there is to fetch: a tag that changes with the content, and its bytes, -1 if that is not told."""

    tag: str
    size: int

    @classmethod
    def of(cls, headers: Mapping[str, str]) -> _Version:
        place = _RANGE.fullmatch(headers.get("Content-Range", ""))
        size = place[2] if place else headers.get("Content-Length", "")
        return cls(headers.get("ETag", ""), int(size) if size.isdecimal() else -1)

    def part(self, output: Path) -> Path:
        """Return where it is until it is complete: another version is another file."""
        name = hashlib.sha256(self.tag.encode()).hexdigest()[:12]
        return output.with_name(f".{output.name}.{name}.part")

    @property
    def can_go_on(self) -> bool:
        """Whether a part of it can be asked for, without getting one of another version."""
        return bool(self.tag) and not self.tag.startswith("W/")


def fetch(
    calls: Calls,
    path: str,
    output: Path,
    params: Mapping[str, Any] | None = None,
    told: Progress = lambda *_: None,
    is_whole: Callable[[Path], bool] = lambda _: True,
) -> None:
    """Bring a file from a service; it appears under its name when all of it is there.

    Until then it is beside it, under a name that tells which version it is, so that the next call goes on
    with it, in this process or in another one.

    Parameters
    ----------
    calls, path, params
        The service, and what is fetched.
    output
        Where it goes.
    told
        Gets how many bytes are here, and how many there are in all.
    is_whole
        Tells whether a file is what it should be; one that is not is thrown away.

    Raises
    ------
    CannotWrite
        There is no place for it.
    PoolUnreachable
        The service does not answer, or the connection is lost again and again; what came is kept.
    MlaasError
        What came is not what it should be.
    """
    found = _Version.of(calls.send("HEAD", path, params=params, headers=_PLAIN).headers)
    waits = iter(WAITS)
    try:
        if not found.can_go_on:
            found.part(output).unlink(missing_ok=True)
        while (before := _size(found.part(output))) != found.size:
            try:
                found = _go_on(calls, path, params, output, found, told)
            except requests.RequestException as error:
                if _size(found.part(output)) > before:  # a long way, with stops on it
                    waits = iter(WAITS)
                wait = next(waits, None)
                if wait is None:
                    lost = calls.unreached(error)
                    raise type(lost)(f"{lost}; the same command goes on where this one stopped") from error
                time.sleep(wait)
        part = found.part(output)
        if not is_whole(part):
            part.unlink()
            raise MlaasError(f"{output.name} came damaged, and was thrown away; fetch it again")
        part.replace(output)
        _tidy(output)
    except OSError as error:
        raise CannotWrite(f"{output}: {error.strerror}") from error


_PLAIN = {"Accept": "*/*", "Accept-Encoding": "identity"}


def _go_on(
    calls: Calls,
    path: str,
    params: Mapping[str, Any] | None,
    output: Path,
    wanted: _Version,
    told: Progress,
) -> _Version:
    """Fetch what is missing; return what it is of: another version may have come meanwhile."""
    here = _size(wanted.part(output)) if wanted.can_go_on else 0
    headers = dict(_PLAIN)
    if 0 < here < wanted.size:
        headers |= {"Range": f"bytes={here}-", "If-Range": wanted.tag}
    with calls.send("GET", path, params=params, headers=headers, stream=True) as answer:
        found = _Version.of(answer.headers)
        place = _RANGE.fullmatch(answer.headers.get("Content-Range", ""))
        partial = answer.status_code == _PARTIAL
        if (partial and not place) or (wanted.tag and not found.tag):
            raise requests.ConnectionError("the headers were cut off")
        begin = int(place[1]) if partial and place else 0
        part = found.part(output)
        with part.open("ab") as file:
            if begin > file.tell():
                raise MlaasError(f"{calls.url} sent another part of the file than was asked for")
            file.truncate(begin)
            told(begin, found.size)
            for piece in answer.iter_content(_PIECE):
                file.write(piece)
                begin += len(piece)
                told(begin, found.size)
    # One that does not say how much it sends has sent all of it when it ends.
    return found if found.size >= 0 else _Version(found.tag, begin)


def _tidy(output: Path) -> None:
    """Remove what is left of other versions."""
    for other in output.parent.iterdir():
        if other.name.startswith(f".{output.name}.") and other.suffix == ".part":
            other.unlink(missing_ok=True)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
