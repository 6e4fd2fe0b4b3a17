"""The WSGI application behind granian's own interface (RSGI): threads for its requests, and their end.

granian speaks WSGI by itself, too. But there a client's ``X_Forwarded_User`` replaces a proxy's
``X-Forwarded-User``, a body that never comes holds a thread for ever, one that broke off looks complete, and
every reply that follows a log takes the place of other requests.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from .exchange import Channel, Exchange, Scope

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication

_LARGE = 2**20  # a body of so many bytes takes a while
_PR_SET_PDEATHSIG = 1


class Gateway:
    """The application as granian calls it, in a process of its own.

    Parameters
    ----------
    application
        The WSGI application.
    threads
        Requests that are answered at a time.
    streams
        Uploads, submissions, downloads and replies that follow something, beside those: they take long,
        and mostly wait.
    body_seconds
        How long to wait for the next piece of a body.
    stop_seconds
        How long requests may go on when the process is to stop; then it ends as it is.
    parent
        Number of the process without which this one is to stop.
    """

    def __init__(
        self,
        application: WSGIApplication,
        threads: int,
        streams: int,
        body_seconds: float,
        stop_seconds: float,
        parent: int,
    ) -> None:
        self._application = application
        self._body_seconds, self._stop_seconds, self._parent = body_seconds, stop_seconds, parent
        self._short = ThreadPoolExecutor(threads, "request")
        self._long = ThreadPoolExecutor(streams, "stream")
        self._places = threading.BoundedSemaphore(streams)
        self._running: set[Exchange] = set()
        self._stopping = False

    def __rsgi_init__(self, loop: asyncio.AbstractEventLoop) -> None:
        """Begin; granian has set its own handlers of signals, which go on working."""
        self._loop = loop
        # The loop hears of a signal through a descriptor, whatever else is called.
        signal.signal(signal.SIGTERM, self._told)
        signal.signal(signal.SIGINT, self._told)
        end_with(self._parent)

    def __rsgi_del__(self, _: asyncio.AbstractEventLoop) -> None:
        """End."""
        for pool in (self._short, self._long):
            pool.shutdown(wait=False, cancel_futures=True)

    async def __rsgi__(self, scope: Scope, channel: Channel) -> None:
        """Answer a request."""
        exchange = Exchange(self._application, scope, channel, self._loop, self._places, self._body_seconds)
        self._running.add(exchange)
        if self._stopping:
            exchange.ended.set()
        try:
            await self._answer(exchange)
        finally:
            self._running.discard(exchange)
            exchange.over()

    async def _answer(self, exchange: Exchange) -> None:
        long = exchange.changes and exchange.step_aside()
        if not long and (exchange.length or 0) >= _LARGE:
            said = "too many uploads and downloads go on at a time: try again soon"
            exchange.refuse(503, "unavailable", said, **{"retry-after": "10"})
            return
        first = self._long if long else self._short
        if await self._loop.run_in_executor(first, exchange.begin):
            await self._loop.run_in_executor(self._long, exchange.go_on)

    def _told(self, *_: object) -> None:
        """Stop; and have the kernel end the process, should something not end.

        A thread could not: granian, told to stop, may wait for one of its own threads that waits for Python,
        with no thread of Python going on meanwhile (seen with 2.8.7, now and then).
        """
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_REAL, self._stop_seconds)
        self._loop.call_soon_threadsafe(self._stop)

    def _stop(self) -> None:
        """Let end what would go on for ever."""
        self._stopping = True
        for exchange in self._running:
            exchange.ended.set()


def end_with(parent: int) -> None:
    """Stop this process when the one that started it is gone, however that ended."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:  # it went before we asked
        os.kill(os.getpid(), signal.SIGTERM)
