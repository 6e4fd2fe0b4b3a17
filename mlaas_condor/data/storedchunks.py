"""Chunks on storage: what is kept of each here is a stub, which says where it is and how to know it.

A stored chunk has its checksum in its name. Two runs that make the same chunk on different processors, with
other last bits, so never overwrite what the other has noted.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from mlaas_condor.errors import InputUnreadable
from mlaas_condor.grid import storing
from mlaas_condor.jsonfile import JsonFile

STUB_NAME = "chunk-{:05d}.stored"
STUBS = "chunk-*.stored"
OURS = re.compile(r"chunk-\d{5,}-[0-9a-f]{8}\.zip|\.chunk-\d{5,}-[0-9a-f]{8}\.zip\.[0-9a-f]{8}")
"""Names of stored chunks, and of those that were being written when their job was killed."""
_SIDE_BY_SIDE = 4
_MEBIBYTE = 2**20
log = logging.getLogger("mlaas_condor")


class StoredChunk(JsonFile):
    """A stub: a chunk that is on storage.

    Parameters
    ----------
    url
        Where it is.
    size, checksum
        Its bytes, and their Adler-32 as eight hexadecimal digits.
    events
        Events in it.
    """

    url: str
    size: int
    checksum: str
    events: int

    @property
    def name(self) -> str:
        """Name of its file on storage."""
        return self.url.rpartition("/")[2]


def store(path: Path, folder: str, events: int) -> StoredChunk:
    """Write a chunk file to a folder on storage; raises as `storing.put`."""
    checksum = storing.adler32(path)
    url = f"{folder}/{path.stem}-{checksum}{path.suffix}"
    storing.put(path, url, checksum)
    return StoredChunk(url=url, size=path.stat().st_size, checksum=checksum, events=events)


def read(stub: Path) -> StoredChunk:
    """Read a stub.

    Raises
    ------
    InputUnreadable
        It is damaged.
    """
    try:
        return StoredChunk.read(stub)
    except (OSError, ValueError) as error:
        raise InputUnreadable(f"{stub}: does not say where its chunk is: {error}") from error


def fetch(stubs: Sequence[Path], folder: Path) -> list[Path]:
    """Fetch the chunks of some stubs, a few at a time, and return their files in the same order.

    Raises
    ------
    InputUnreadable
        One is not there any more, or damaged; also as `storing.get`.
    """
    began = time.monotonic()
    folder.mkdir(exist_ok=True)
    chunks = [read(stub) for stub in stubs]
    paths = [folder / stub.with_suffix(".zip").name for stub in stubs]
    with ThreadPoolExecutor(_SIDE_BY_SIDE) as pool:
        fetched = [
            pool.submit(storing.get, chunk.url, path, chunk.size, chunk.checksum)
            for chunk, path in zip(chunks, paths, strict=True)
        ]
        try:
            for each in fetched:
                each.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    total = sum(chunk.size for chunk in chunks) / _MEBIBYTE
    log.info("%d chunks, %.0f MiB, fetched in %.0f s", len(chunks), total, time.monotonic() - began)
    return paths
