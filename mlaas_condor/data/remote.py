"""Remote files, read by ranges: asked for in few requests, again where the connection is lost, elsewhere too.

A file may be in several places: the one that answers is read, and left for the next when it fails. What is
read ahead of its use, or near what was just read, is kept for a while and not fetched again.
"""

from __future__ import annotations

import math
import threading
import time
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Protocol, TypeVar
from urllib.parse import urlsplit

from mlaas_condor.errors import (
    AccessDenied,
    CredentialFault,
    InputChanged,
    InputUnreadable,
    StageError,
    StorageUnavailable,
)
from mlaas_condor.grid.waiting import Waiting
from mlaas_condor.grid.xrootd import HostSilent

SEPARATOR = "|"
"""Stands between the places of one file, in a list of files; no URL has it unescaped."""
_SILENT_SECONDS = 60.0  # for which the other files of a host that did not answer are not tried
_ENDS = 2**16  # what is read of both ends when a file is opened
_MARK = 512  # of these, what tells it from other files
_PAGE = 2**18  # what is read around a small piece: the directories of a file are many of these
_PAGES = 8
_AHEAD = 2**28  # bytes that wait for their use at most

_silent: dict[str, tuple[float, str]] = {}
"""When each host was given up, and what was wrong with it."""
_T = TypeVar("_T")


class Place(Protocol):
    """A file, open at one of its places."""

    url: str
    size: int
    gap: int
    """Bytes between two ranges that cost less than another range."""

    def read(self, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        """Return the bytes of ranges (start, stop), all of them, or raise."""
        ...

    def close(self) -> None:
        """Close it."""
        ...


@dataclass
class Cost:
    """What reading took: requests, ranges in them, bytes; times a place had to be opened."""

    requests: int = 0
    ranges: int = 0
    bytes: int = 0
    opened: int = 0


@dataclass
class _Pages:
    """The pieces of the file that were read last, by where they begin."""

    pieces: dict[int, bytes] = field(default_factory=dict)

    def find(self, start: int, stop: int) -> bytes | None:
        for first, piece in self.pieces.items():
            if first <= start and stop <= first + len(piece):
                return piece[start - first : stop - first]
        return None

    def keep(self, start: int, piece: bytes) -> None:
        self.pieces[start] = piece
        while len(self.pieces) > _PAGES:
            self.pieces.pop(next(iter(self.pieces)))


class _GivenUp(HostSilent):
    """The host was just given up for another file."""


class RemoteFile:
    """A remote file, open for reading by ranges, at whichever of its places answers.

    Parameters
    ----------
    places
        URLs of the same file, in the order in which they are tried.
    connect
        Opens one of them.

    Raises
    ------
    InputUnreadable, CredentialFault
        No place has it, or lets us read it. With several, the message tells of the first, and how many
        more there are. `StorageUnavailable` only after `patience`, since the others do not pass by waiting.
    """

    def __init__(self, places: Sequence[str], connect: Callable[[str], Place]) -> None:
        self._places = list(places)
        self._connect = connect
        self._at = 0
        self._place: Place | None = None
        self._ends = b""
        self._turn = threading.RLock()
        self._closed = threading.Event()
        self._lock = threading.Lock()  # of the pages
        self._pages = _Pages()
        self._ahead: dict[tuple[int, int], Future[bytes]] = {}
        self._latest: set[tuple[int, int]] = set()
        self._fetcher: ThreadPoolExecutor | None = None
        self.cost = Cost()
        self.size = self._persist(lambda place: place.size)

    def read(self, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        """Return the bytes of ranges (start, stop), in their order.

        Raises
        ------
        InputUnreadable, CredentialFault
            As when opening.
        InputChanged
            The file has become another one.
        """
        found: dict[tuple[int, int], bytes] = {}
        for each in dict.fromkeys(ranges):
            if each in self._ahead:
                found[each] = self._awaited(each)
        missing = [each for each in dict.fromkeys(ranges) if each not in found]
        found |= self._fetch(missing)
        return [found[each] for each in ranges]

    def piece(self, start: int, stop: int) -> bytes:
        """Return some bytes, fetched with those that follow: small pieces are often asked for in a row."""
        if (start, stop) in self._ahead:
            return self._awaited((start, stop))
        stop = min(stop, self.size)
        if stop <= start:
            return b""
        with self._lock:
            known = self._pages.find(start, stop)
        if known is not None:
            return known
        if stop - start >= _PAGE:
            return self.read([(start, stop)])[0]
        upto = min(start + _PAGE, self.size)
        page = self._fetch([(start, upto)])[start, upto]
        with self._lock:
            self._pages.keep(start, page)
        return page[: stop - start]

    def _awaited(self, each: tuple[int, int]) -> bytes:
        try:
            return self._ahead[each].result()
        except StageError:
            self._ahead.pop(each)  # whoever asks again wants it tried again
            raise

    def ahead(self, ranges: Sequence[tuple[int, int]]) -> None:
        """Begin to fetch ranges, in the background, that `read` or `piece` will be asked for exactly.

        They are kept until this is called twice more: what is worked on, and what comes after it.
        """
        wanted = [each for each in dict.fromkeys(ranges) if each not in self._ahead]
        if not wanted:
            return
        for each in self._ahead.keys() - self._latest - set(ranges):
            self._ahead.pop(each).cancel()
        self._latest = set(ranges)
        if sum(stop - start for start, stop in ranges) > _AHEAD:
            return
        self._fetcher = self._fetcher or ThreadPoolExecutor(1)
        together = self._fetcher.submit(self._fetch, wanted)
        for each in wanted:
            self._ahead[each] = _part_of(together, each)

    def close(self) -> None:
        """Close it; what is still on its way is not waited for longer than a request takes."""
        self._closed.set()
        if self._fetcher:
            self._fetcher.shutdown(cancel_futures=True)
        self._ahead.clear()
        with self._turn:
            self._leave()

    def _fetch(self, ranges: Sequence[tuple[int, int]]) -> dict[tuple[int, int], bytes]:
        if not ranges:
            return {}
        found = self._persist(lambda place: self._request(place, ranges))
        return dict(zip(ranges, found, strict=True))

    def _request(self, place: Place, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        beyond = max(stop for _, stop in ranges)
        if beyond > place.size:
            raise InputUnreadable(f"{place.url}: is cut short: it ends at {place.size}, not at {beyond}")
        wide = joined(ranges, place.gap)
        parts = place.read(wide)
        self.cost.requests += 1
        self.cost.ranges += len(wide)
        self.cost.bytes += sum(map(len, parts))
        return cut_out(ranges, wide, parts)

    def _persist(self, act: Callable[[Place], _T]) -> _T:
        """Do something with the file where it is open; elsewhere, and again, as long as that may help.

        One thread at a time: what one finds lost, another may just have opened anew.
        """
        waiting = Waiting(self._closed)
        faults: dict[int, StageError] = {}
        while True:
            with self._turn:
                try:
                    return act(self._open())
                except (InputUnreadable, CredentialFault) as error:
                    faults[self._at] = error
                    self._leave()
                left = [at for at in range(len(self._places)) if at not in faults]
                if left:
                    self._at = left[0]
                    continue
                passing = [at for at, fault in faults.items() if isinstance(fault, StorageUnavailable)]
                self._at = passing[0] if passing else 0
            told_before = all(isinstance(faults[at], _GivenUp) for at in passing)
            if told_before or not waiting.again(faults[passing[0]]):
                self._give_up({self._places[at]: faults[at] for at in passing})
                raise _told(list(faults.values()))
            faults = {at: fault for at, fault in faults.items() if at not in passing}

    def _pass_over_the_silent(self) -> None:
        """Fail at once where a host was just given up: each of a thousand files would wait for it."""
        url = self._places[self._at]
        since, what = _silent.get(_host(url), (-math.inf, ""))
        if not self.cost.opened and time.monotonic() - since < _SILENT_SECONDS:
            raise _GivenUp(f"{url}: {what}")

    @staticmethod
    def _give_up(faults: Mapping[str, StageError]) -> None:
        for url, fault in faults.items():
            if isinstance(fault, HostSilent) and not isinstance(fault, _GivenUp):
                _silent[_host(url)] = time.monotonic(), str(fault).removeprefix(f"{url}: ")

    def _open(self) -> Place:
        if self._place is None:
            self._pass_over_the_silent()
            place = self._connect(self._places[self._at])
            self.cost.opened += 1
            try:
                self._check(place)
            except BaseException:
                place.close()
                raise
            self._place = place
        return self._place

    def _check(self, place: Place) -> None:
        """Make sure that a file is the one that was opened first: by its size, and both its ends.

        What tells a ROOT file from others is at its beginning, its directory at its end, so that both are
        of use when it is opened first.
        """
        first = not self._ends
        length = _ENDS if first else _MARK
        wanted = joined([(0, min(length, place.size)), (max(0, place.size - length), place.size)], 0)
        parts = place.read(wanted) if place.size else []
        head, tail = (parts[0], parts[-1]) if parts else (b"", b"")
        ends = head[:_MARK] + tail[-_MARK:] + b" %d" % place.size
        self.cost.requests += 1
        self.cost.ranges += len(wanted)
        self.cost.bytes += sum(map(len, parts))
        if first:
            self._ends = ends
            with self._lock:
                for (start, _), part in zip(wanted, parts, strict=True):
                    self._pages.keep(start, part)
        elif ends != self._ends:
            had = self._ends.rpartition(b" ")[2].decode()
            what = (
                f"has {place.size} bytes, it had {had}" if place.size != int(had) else "has another content"
            )
            raise InputChanged(f"{place.url}: {what}; submit the run again")

    def _leave(self) -> None:
        place, self._place = self._place, None
        if place:
            place.close()


def _host(url: str) -> str:
    return urlsplit(url).netloc


def joined(ranges: Sequence[tuple[int, int]], gap: int) -> list[tuple[int, int]]:
    """Return ascending ranges that hold all of these, joined where little lies between them."""
    wide: list[tuple[int, int]] = []
    for start, stop in sorted(ranges):
        if wide and start - wide[-1][1] <= gap:
            wide[-1] = (wide[-1][0], max(stop, wide[-1][1]))
        else:
            wide.append((start, stop))
    return wide


def cut_out(
    ranges: Sequence[tuple[int, int]], wide: Sequence[tuple[int, int]], parts: Sequence[bytes]
) -> list[bytes]:
    """Return the bytes of each range, from those of the joined ones."""
    firsts = [start for start, _ in wide]
    found = []
    for start, stop in ranges:
        at = bisect_right(firsts, start) - 1
        first = firsts[at]
        whole = (start, stop) == wide[at]
        found.append(parts[at] if whole else parts[at][start - first : stop - first])
    return found


def _part_of(together: Future[dict[tuple[int, int], bytes]], each: tuple[int, int]) -> Future[bytes]:
    part: Future[bytes] = Future()

    def deliver(done: Future[dict[tuple[int, int], bytes]]) -> None:
        if not part.set_running_or_notify_cancel():
            return
        if done.cancelled():
            part.set_exception(StorageUnavailable("the file was closed"))
        elif error := done.exception():
            part.set_exception(error)
        else:
            part.set_result(done.result()[each])

    together.add_done_callback(deliver)
    return part


def _told(faults: Sequence[StageError]) -> StageError:
    """Return the error to raise: the one that passes by waiting, or by a new proxy, before the others."""
    order = (StorageUnavailable, CredentialFault, AccessDenied, InputUnreadable)
    first = next(fault for kind in order for fault in faults if isinstance(fault, kind))
    others = [fault for fault in faults if fault is not first]
    if not others:
        return first
    return type(first)(f"{first} (nor can it be read from {len(others)} other place"
                       f"{'s' * (len(others) > 1)}: {'; '.join(map(str, others))})")  # fmt: skip
