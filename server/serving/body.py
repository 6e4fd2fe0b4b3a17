"""The body of a request, as it comes from granian: complete, or an error."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator

from werkzeug.exceptions import ClientDisconnected, LengthRequired, RequestTimeout

_BLOCK = 2**18
_LEAST_RATE = 1024  # bytes a second: whoever sends fewer for long only holds a place


class Body:
    """``wsgi.input``: gives what has come, a piece at a time, to another thread than the loop's.

    Parameters
    ----------
    pieces
        What comes.
    length
        Bytes that the client said it sends; None where it said nothing.
    loop
        The loop that `pieces` belongs to.
    patience
        Seconds to wait for a piece.
    """

    def __init__(
        self,
        pieces: AsyncIterator[bytes],
        length: int | None,
        loop: asyncio.AbstractEventLoop,
        patience: float,
    ) -> None:
        self._pieces, self._length, self._loop, self._patience = pieces, length, loop, patience
        self._rest = memoryview(b"")
        self._taken = 0
        self._over = False
        self._until = 0.0

    def read(self, size: int | None = -1) -> bytes:
        """Return at most so many bytes, fewer where fewer have come, none at the end; or all of them.

        Raises
        ------
        LengthRequired
            The client did not say how much it sends: a body that broke off would look complete.
        ClientDisconnected, RequestTimeout
            The rest does not come.
        """
        if size is None or size < 0:
            return b"".join(iter(lambda: self.read(_BLOCK), b""))
        if not self._rest and not self._over and size:
            self._rest = memoryview(asyncio.run_coroutine_threadsafe(self._next(), self._loop).result())
        piece, self._rest = self._rest[:size], self._rest[size:]
        return bytes(piece)

    def readline(self, size: int | None = -1) -> bytes:
        """Return a line; not for what is large."""
        line = bytearray()
        while size is None or size < 0 or len(line) < size:
            byte = self.read(1)
            line += byte
            if byte in (b"", b"\n"):
                break
        return bytes(line)

    def readlines(self, _: int | None = -1) -> list[bytes]:
        """Return all lines."""
        return list(self)

    def __iter__(self) -> Iterator[bytes]:
        return iter(self.readline, b"")

    async def _next(self) -> bytes:
        now, length = self._loop.time(), self._length or 0
        self._until = self._until or now + self._patience + length / _LEAST_RATE
        try:
            piece = await asyncio.wait_for(self._piece(), min(self._patience, self._until - now))
        except TimeoutError as error:
            raise RequestTimeout(f"{self._taken} of {length} bytes have come, and no more") from error
        self._taken += len(piece)
        if self._length is None:
            raise LengthRequired("send a Content-Length: without it nobody can tell whether all has come")
        if not piece:
            self._over = True
            if self._taken < length:
                raise ClientDisconnected(f"{self._taken} of {length} bytes have come")
        return piece

    async def _piece(self) -> bytes:
        while True:
            try:
                if piece := await anext(self._pieces):
                    return piece
            except StopAsyncIteration:
                return b""
