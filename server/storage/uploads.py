"""Uploads: straight from the connection into a file, never into memory; and how long other requests may be.

An archive is sent as it is (``PUT``, any content type), or in a form, as the part ``file``.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from flask import Request, request

from ..faults import HttpFault, TooLarge, WrongType
from ..service import service
from . import digests
from .folders import Arrival, writing
from .forms import AROUND, FileForm

MOST_BODY = 4 * 2**20
"""Bytes of a request that is no upload; a job.json has some hundred."""

_PIECE = 2**18
_FORM = "multipart/form-data"
_CHANGED = "application/x-www-form-urlencoded"
_PART = "file"
_HOW = "send an archive as the body, curl -T luca.tar.gz, or in a form, curl -F file=@luca.tar.gz"


class StreamingRequest(Request):
    """A request whose body is short, and may be looked at as a whole; an upload is for `receive`."""

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self.max_content_length = MOST_BODY

    def _get_file_stream(self, *_: object, **__: object) -> IO[bytes]:
        return io.BytesIO()  # what is short needs no file in /tmp


@contextmanager
def receive(owner: str, fields: dict[str, str] | None = None) -> Iterator[Path]:
    """Receive the upload of the request of now; its file is gone at the end of the ``with`` block.

    To be called before anything looks at the body, and after it is known that they may: who, for which name.

    Parameters
    ----------
    owner
        Whose folder it is for: their room and their places are taken.
    fields
        Gets what else is in a form: ``csrf``, say; and as ``file`` what the sender calls the file.

    Raises
    ------
    HttpFault
        It is not complete, or not what its digest says.
    TooLarge, WrongType
        It is larger than an upload may be, or sent in a way that changes it.
    OverLimit, OverQuota, Unavailable, CannotWrite
        There is no place or no room for it.
    """
    if request.mimetype == _CHANGED:
        raise WrongType(f"sent as {_CHANGED}, which changes a file: {_HOW}")
    with service().folders.arriving(owner) as arrival:
        body = _Body(arrival.most)
        path = arrival.path / "archive"
        with writing():
            file = path.open("xb", buffering=0)
        with file:
            writer = _Writer(file, arrival)
            if request.mimetype == _FORM:
                form = FileForm(_PART, writer.write)
                form.read(body, request.mimetype_params.get("boundary", ""))
                if fields is not None:
                    fields.update(form.fields)
            else:
                for piece in body:
                    writer.write(piece)
            writer.end()
        yield path


class _Body:
    """The body of the request of now, a piece at a time: complete, and what its digests say.

    Parameters
    ----------
    most
        Bytes that it may have, beside a form around it.
    """

    def __init__(self, most: int) -> None:
        self._most = most + (AROUND if request.mimetype == _FORM else 0)
        self._length = request.content_length
        self._stream: IO[bytes] = request.environ["wsgi.input"]
        self._digests = digests.of_headers(request.headers)
        if self._length is None and not request.environ.get("wsgi.input_terminated"):
            raise HttpFault("send a Content-Length: without one nobody can tell whether all has come")
        self._check(self._length or 0)

    def _check(self, size: int) -> None:
        if size > self._most:
            raise _too_large(self._most)

    def __iter__(self) -> Iterator[bytes]:
        size = 0
        while piece := self._stream.read(self._wanted(size)):
            size += len(piece)
            self._check(size)
            for each in self._digests:
                each.update(piece)
            yield piece
        if size < (self._length or 0):
            raise HttpFault(f"the upload broke off: {size} of {self._length} bytes have come")
        for each in self._digests:
            each.check()

    def _wanted(self, size: int) -> int:
        # Some servers wait for more where there is no more.
        return _PIECE if self._length is None else min(_PIECE, self._length - size)


class _Writer:
    """The file that an upload is written to."""

    def __init__(self, file: io.FileIO, arrival: Arrival) -> None:
        self._file, self._arrival = file, arrival
        self._size = 0

    def write(self, piece: bytes) -> None:
        self._size += len(piece)
        if self._size > self._arrival.most:
            raise _too_large(self._arrival.most)
        self._arrival.spend(len(piece))
        left = memoryview(piece)
        with writing():
            while left:
                left = left[self._file.write(left) :]

    def end(self) -> None:
        if not self._size:
            raise HttpFault(f"nothing was sent: {_HOW}")


def _too_large(most: int) -> TooLarge:
    return TooLarge(
        f"one upload may have {most} bytes, this has more: leave large files on storage, and name them by URL"
    )
