"""Replies that go on while something changes: server-sent events, which a browser takes up again by itself.

Each event has an id that says how far the reply was, so whoever comes back with ``Last-Event-ID``, to
whichever process, misses nothing and gets nothing twice. Nothing of it is remembered here.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from hashlib import sha256
from typing import Any
from zlib import crc32

import orjson
from flask import Response, request, stream_with_context

from mlaas_condor import runs
from mlaas_condor.run import STAGES
from mlaas_condor.runs import Run
from mlaas_condor.state import ENDED, RunState

from ..faults import Unavailable
from ..serving.exchange import ended, step_aside
from . import viewing
from .tails import Piece

TICK = 1.0  # seconds between two looks
_HEARTBEAT = 15.0  # seconds after which something is sent, so that nobody on the way hangs up
_LONGEST = 300.0  # seconds of one reply: then the client comes back, perhaps to another process
_PIECE = 2**16  # bytes of a log in one event
_CONTEXT = 64  # bytes before a place in a log by which it is known again
_END = "end"
_PLACE = re.compile(
    r"(?P<stage>[a-z]+)\.(?P<task>\d{1,9}):(?P<places>(?:stdout|stderr)\.\d{1,15}\.\d{1,10}"
    r"(?:_(?:stdout|stderr)\.\d{1,15}\.\d{1,10})?)"
)


def event(kind: str, content: Any, number: str = "") -> bytes:
    """Return an event as it is sent; its content is JSON, so that it is one line."""
    lines = [f"event: {kind}".encode(), b"data: " + orjson.dumps(content)]
    if number:
        lines.append(f"id: {number}".encode())
    return b"\n".join(lines) + b"\n\n"


def reply(events: Iterator[bytes]) -> Response:
    """Return a reply that goes on.

    Raises
    ------
    Unavailable
        Too many of them go on already.
    """
    if not step_aside(request.environ):
        raise Unavailable(
            "too many replies are being followed: ask again, or without follow", {"Retry-After": "5"}
        )
    response = Response(stream_with_context(_alive(events)), mimetype="text/event-stream")
    # A proxy that collects it would show it when it is over.
    response.headers.update({"Cache-Control": "no-store", "X-Accel-Buffering": "no"})
    return response


def _alive(events: Iterator[bytes]) -> Iterator[bytes]:
    """Pass events on once a second, with something now and then where there is none, for some minutes."""
    over = ended(request.environ)
    began = spoke = time.monotonic()
    yield b"retry: 2000\n\n"
    for each in events:
        if each:
            yield each
            spoke = time.monotonic()
            continue
        if time.monotonic() - spoke > _HEARTBEAT:
            yield b": \n\n"
            spoke = time.monotonic()
        if time.monotonic() - began > _LONGEST or over.wait(TICK):
            return


def is_over(last: str) -> bool:
    """Tell whether somebody comes back who has seen the end: a browser does, unless it is told not to."""
    return last == _END


def of_state(run: Run, describe: Callable[[RunState], dict[str, Any]], last: str) -> Iterator[bytes]:
    """Yield ``state`` whenever a run does something else, and ``end`` when it is over; nothing between.

    Parameters
    ----------
    describe
        Makes of a state what is sent.
    last
        The id of the last event that came through, if one did.
    """
    while run.folder.dag.exists():
        state = viewing.state_of(run)
        told = describe(state)
        number = _digest(told)
        if number != last:
            last = number
            yield event("state", told, number)
        if state.state in ENDED:
            break
        yield b""
    yield event("end", {"name": run.name}, _END)


def _digest(told: dict[str, Any]) -> str:
    # The time that has passed is no news.
    return sha256(orjson.dumps({**told, "elapsed": None}, default=str)).hexdigest()[:16]


@dataclass
class _Place:
    """How far a log has been sent.

    Parameters
    ----------
    stream
        stdout or stderr.
    offset, check
        Bytes sent, and a checksum of the last of them.
    """

    stream: str
    offset: int = 0
    check: int = 0

    @property
    def known(self) -> int:
        """Return how many bytes before the place it is known by."""
        return min(_CONTEXT, self.offset)

    def __str__(self) -> str:
        return f"{self.stream}.{self.offset}.{self.check}"


class Log:
    """The log of a task, or of whichever task of a run tells most, as it grows.

    Parameters
    ----------
    stage, task
        Which one; None for what tells most, from one to the next.
    streams
        stdout, stderr, or both.
    """

    def __init__(self, run: Run, stage: str | None, task: int | None, streams: tuple[str, ...]) -> None:
        self._run = run
        self._wanted = stage, task
        self._streams = streams
        self._at: tuple[str, int] | None = None
        self._places: list[_Place] = []

    def events(self, last: str) -> Iterator[bytes]:
        """Yield ``task``, ``log``, ``restart`` and ``end`` events, and nothing where there is no news.

        Parameters
        ----------
        last
            The id of the last event that came through, if one did.
        """
        self._take_up(last)
        while self._run.folder.dag.exists():
            # Asked first: what a task says before it ends is then read after it has ended.
            state = viewing.state_of(self._run)
            run_is_over = state.state in (*ENDED, "prepared")
            if self._at is None:
                yield from self._begin(*runs.pick(self._run.folder, state, *self._wanted))
            task_is_over = run_is_over or self._at is None or self._is_done(*self._at)
            yield from self._news(task_is_over)
            if task_is_over:
                next_one = runs.pick(self._run.folder, state, *self._wanted)
                if next_one != self._at and self._wanted[0] is None:
                    yield from self._begin(*next_one)
                elif run_is_over or self._wanted[0] is not None:
                    break
            yield b""
        yield event("end", {"name": self._run.name}, _END)

    def _is_done(self, stage: str, task: int) -> bool:
        return task in self._run.folder.tasks_done(stage)

    def _take_up(self, last: str) -> None:
        found = _PLACE.fullmatch(last)
        if not found or found["stage"] not in STAGES:
            return
        self._at = found["stage"], int(found["task"])
        parts = [part.split(".") for part in found["places"].split("_")]
        known = {stream: _Place(stream, int(offset), int(check)) for stream, offset, check in parts}
        self._places = [known.get(stream, _Place(stream)) for stream in self._streams]

    def _begin(self, stage: str, task: int) -> Iterator[bytes]:
        self._at = stage, task
        self._places = [_Place(stream) for stream in self._streams]
        yield event("task", {"stage": stage, "task": task}, self._number())

    def _number(self) -> str:
        stage, task = self._at or ("", 0)
        return f"{stage}.{task}:{'_'.join(map(str, self._places))}"

    def _news(self, over: bool) -> Iterator[bytes]:
        for place in self._places:
            while (piece := self._read(place)).size > place.offset or piece.live or over:
                known = piece.content[: place.known]
                if place.offset and (len(known) < place.known or crc32(known) != place.check):
                    place.offset = place.check = 0
                    yield event("restart", {"stream": place.stream}, self._number())
                    continue
                fresh = piece.content[place.known :]
                if not fresh:
                    break
                self._move(place, known + fresh)
                text = viewing.in_words(self._run)(fresh.decode("utf-8", "replace"))
                yield event("log", {"stream": place.stream, "text": text}, self._number())

    def _read(self, place: _Place) -> Piece:
        stage, task = self._at or ("", 0)
        tails = viewing.viewing().tails
        start = place.offset - place.known
        return tails.piece(self._run.folder, stage, task, place.stream == "stderr", start, _PIECE)

    @staticmethod
    def _move(place: _Place, seen: bytes) -> None:
        place.offset += len(seen) - place.known
        place.check = crc32(seen[-place.known :])
