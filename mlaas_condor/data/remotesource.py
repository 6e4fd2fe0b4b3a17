"""Remote files as uproot reads them: what it asks for together is fetched together."""

from __future__ import annotations

import queue
from collections.abc import Sequence
from typing import Any

import uproot
from uproot.source.chunk import Chunk, Source
from uproot.source.futures import TrivialFuture

from mlaas_condor.data.remote import RemoteFile


class RemoteSource(Source):  # type: ignore[misc]
    """The bytes of a remote ROOT file for uproot; the name is all that it is given, hence `of`."""

    remote: RemoteFile

    def __init__(self, file_path: str, **_options: Any) -> None:
        self._file_path = file_path
        self._num_bytes = self.remote.size
        self._num_requests = self._num_requested_chunks = self._num_requested_bytes = 0
        self._closed = False

    @classmethod
    def of(cls, remote: RemoteFile) -> type[RemoteSource]:
        """Return the class to give to ``uproot.open`` as ``handler``."""
        return type("RemoteSourceOf", (cls,), {"remote": remote})

    def __repr__(self) -> str:
        return f"<RemoteSource {self._file_path!r}>"

    def chunk(self, start: int, stop: int) -> Any:
        """Return one piece, of a directory mostly."""
        return Chunk(self, start, stop, TrivialFuture(self.remote.piece(start, stop)))

    def chunks(self, ranges: Sequence[tuple[int, int]], notifications: queue.Queue[Any]) -> list[Any]:
        """Return all the pieces, in few requests."""
        each = [(int(start), int(stop)) for start, stop in ranges]
        found = self.remote.read(each)
        made = [
            Chunk(self, start, stop, TrivialFuture(data))
            for (start, stop), data in zip(each, found, strict=True)
        ]
        for chunk in made:
            notifications.put(chunk)
        return made

    @property
    def closed(self) -> bool:
        """Whether it was closed."""
        return self._closed

    def close(self) -> None:
        """Close the file."""
        self._closed = True
        self.remote.close()

    def __enter__(self) -> RemoteSource:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def open_root(path: str, remote: RemoteFile) -> Any:
    """Open a remote ROOT file with uproot."""
    return uproot.open({path: None}, handler=RemoteSource.of(remote), array_cache=None)
