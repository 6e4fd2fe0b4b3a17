"""Listening to a service: server-sent events, taken up again where they stopped."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import requests

from mlaas_condor.client.calling import Calls
from mlaas_condor.errors import MlaasError, PoolUnreachable
from mlaas_condor.places import Patience

_SILENCE_SECONDS = 60.0  # a service says something each quarter of a minute
_WAIT = 1.0
_END = "end"


@dataclass(frozen=True)
class Event:
    """What a service tells.

    Parameters
    ----------
    kind
        ``log``, ``state``, …
    content
        What it says, as JSON had it.
    number
        By which the service knows how far we have come; empty where it gives none.
    """

    kind: str
    content: Any
    number: str


def listen(calls: Calls, path: str, params: Mapping[str, Any], patience: Patience) -> Iterator[Event]:
    """Yield events until the service says that there are no more of them; each comes once.

    Parameters
    ----------
    calls, path, params
        The service, and what is listened to.
    patience
        With a service that goes away.

    Raises
    ------
    PoolLost
        It was away for too long.
    """
    last = ""
    while True:
        headers = {"Accept": "text/event-stream", "Accept-Encoding": "identity"}
        if last:
            headers["Last-Event-ID"] = last
        lost = ""
        try:
            with calls.send(
                "GET", path, params=params, headers=headers, stream=True, seconds=_SILENCE_SECONDS
            ) as answer:
                for event in _events(_pieces(answer)):
                    patience.check("")
                    last = event.number or last
                    if event.kind == _END:
                        return
                    yield event
        except requests.RequestException as error:
            lost = str(calls.unreached(error, _SILENCE_SECONDS))
        except PoolUnreachable as error:
            lost = str(error)
        # One that ends in good order does so every few minutes, or because the service is started again.
        patience.check(lost)
        time.sleep(_WAIT)


def _pieces(answer: requests.Response) -> Iterator[bytes]:
    """Yield what comes as it comes."""
    chunked = answer.headers.get("Transfer-Encoding", "").lower() == "chunked"
    found: Iterator[bytes] = answer.iter_content(None if chunked else 1)
    return found


def _events(pieces: Iterable[bytes]) -> Iterator[Event]:
    """Yield the events in a stream; one that was cut off is none."""
    fields: dict[str, list[str]] = {}
    for line in _lines(pieces):
        if line:
            name, _, value = line.partition(":")
            fields.setdefault(name, []).append(value.removeprefix(" "))
            continue
        if "data" in fields:
            text = "\n".join(fields["data"])
            try:
                content = json.loads(text)
            except ValueError:
                raise MlaasError("the service tells what is no JSON: is it of another version?") from None
            yield Event(fields.get("event", ["message"])[-1], content, fields.get("id", [""])[-1])
        fields = {}


def _lines(pieces: Iterable[bytes]) -> Iterator[str]:
    rest = b""
    for piece in pieces:
        *whole, rest = (rest + piece).split(b"\n")
        for line in whole:
            yield line.decode("utf-8", "replace").rstrip("\r")
