"""Chunks: how events are dealt out to them, their file format, and streaming them to a trainer.

A chunk file is a plain zip archive (members stored, not deflated) of Blosc2 frames: ``features`` of shape
(columns, events), float32, compressed by column; ``file`` and ``entry``, which together say where each
event comes from; one member an identifier branch; and ``meta.json``.
"""

from __future__ import annotations

import heapq
import json
import zipfile
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from fractions import Fraction
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlaas_condor.data.dataset import Dataset
from mlaas_condor.data.features import Columns, Matrix, raw_matrix
from mlaas_condor.data.inputs import Column, Jagged, Reader
from mlaas_condor.data.specs import Kept, Specs
from mlaas_condor.errors import InputChanged

FILE_NAME = "chunk-{:05d}.zip"
_FIXED_TIME = (1980, 1, 1, 0, 0, 0)  # so that equal chunks are equal files
_PHASES = 2**16
OPEN_TREES = 64  # files kept open from chunk to chunk; an open tree of 1500 branches takes 20 MB
_FRAME_BYTES = 2**30  # of what is compressed together; Blosc2 takes less than 2 GiB


@dataclass(frozen=True)
class Chunk:
    """Events of one chunk.

    Parameters
    ----------
    features
        Raw values, shape (columns, events), float32, NaN where there is none.
    file, entry
        Position of the input file and entry in its tree, each of shape (events,).
    identifiers
        Identifier branches, each of shape (events,).
    """

    features: Matrix
    file: NDArray[np.uint32]
    entry: NDArray[np.int64]
    identifiers: dict[str, NDArray[Any]]

    def __len__(self) -> int:
        return len(self.entry)


def count(events: int, chunk_size: int) -> int:
    """Return how many chunks ``events`` events make."""
    return 1 if chunk_size == -1 else max(1, -(-events // chunk_size))


def deal(events_of_files: Sequence[int], chunk_size: int, index: int) -> list[tuple[int, int]]:
    """Return which of the kept events of every file go to one chunk, in proportion to what each file has.

    Returns
    -------
    list of (start, stop) in kept events, one for every file
        Over all chunks every event is in exactly one; chunks are equal to within one event.
    """
    total = sum(events_of_files)
    chunks = count(total, chunk_size)
    low, high = (_evenly_mixed(events_of_files, total * k // chunks) for k in (index, index + 1))
    return list(zip(low, high, strict=True))


def _evenly_mixed(events: Sequence[int], number: int) -> list[int]:
    """Return how many events of each file are among the first ``number`` of all when they are mixed evenly.

    Event j of file i stands at (j + phase_i) / events_i; a divisor method of apportionment. Unlike rounding
    file by file, the numbers add up, and no chunk is left empty where there are many small files. The
    phases keep files of equal length from giving their events to the same chunks.
    """
    phases = [file * 40503 % _PHASES | 1 for file in range(len(events))]  # by the golden ratio
    # Up to this place there are at most `number` events; the others are taken one by one.
    before, total = max(number - len(events), 0), sum(events)
    taken = [
        min(max((n * before * _PHASES - phase * total) // (total * _PHASES) + 1, 0), n) if n else 0
        for n, phase in zip(events, phases, strict=True)
    ]

    def place(file: int) -> tuple[Fraction, int]:
        return Fraction(taken[file] * _PHASES + phases[file], events[file] * _PHASES), file

    following = [place(file) for file, n in enumerate(events) if taken[file] < n]
    heapq.heapify(following)
    for _ in range(number - sum(taken)):
        _, file = heapq.heappop(following)
        taken[file] += 1
        if taken[file] < events[file]:
            heapq.heappush(following, place(file))
    return taken


def make(dataset: Dataset, specs: Specs, index: int, readers: dict[int, Reader] | None = None) -> Chunk:
    """Make one chunk from the input files; the same to the last bit whenever and wherever it is made.

    Parameters
    ----------
    dataset, specs
        The plan, and what was measured.
    index
        Which chunk.
    readers
        Open files by position, used and added to; for several chunks in a row.

    Raises
    ------
    InputUnreadable, InputChanged
        As `Reader`; also where a file has other lists than when it was measured.
    """
    readers = {} if readers is None else readers
    columns = Columns.of(specs)
    shares = deal(specs.events_of(len(dataset.files)), dataset.chunk_size, index)
    ranges = _by_file(specs, len(dataset.files))
    branches = [*dataset.flat, *dataset.jagged, *dataset.identifiers]
    parts: list[tuple[dict[str, Column], int, NDArray[np.int64]]] = []
    for position, (start, stop) in enumerate(shares):
        if start < stop:
            reader = _reader(dataset, position, readers)
            parts += [
                (reader.read(branches, low, high), position, np.arange(low, high, dtype=np.int64))
                for low, high in _entries(ranges[position], start, stop)
            ]
    events = {name: _concatenate([part[name] for part, _, _ in parts]) for name in branches}
    file = np.concatenate([np.full(len(entry), position, np.uint32) for _, position, entry in parts])
    entry = np.concatenate([entry for _, _, entry in parts])
    try:
        raw = raw_matrix(events, columns)
    except ValueError as error:
        raise InputChanged(f"the files hold something else than when they were measured: {error}") from error
    order = np.arange(len(entry))
    if dataset.shuffle:
        order = np.random.default_rng([dataset.seed, index]).permutation(len(entry))
    return Chunk(
        features=raw[:, order],
        file=file[order],
        entry=entry[order],
        identifiers={name: _flat(events[name], name)[order] for name in dataset.identifiers},
    )


def _by_file(specs: Specs, files: int) -> list[list[Kept]]:
    """Return the entry ranges of each file, in order."""
    ranges: list[list[Kept]] = [[] for _ in range(files)]
    for kept in specs.kept:
        ranges[kept.range.file].append(kept)
    return ranges


def _reader(dataset: Dataset, position: int, readers: dict[int, Reader]) -> Reader:
    if position in readers:
        return readers[position]
    file = dataset.files[position]
    reader = Reader(file.locate(), dataset.tree, file.uuid)
    # Chunks go through the files in turn: those that were first are needed again first.
    if len(readers) < OPEN_TREES:
        readers[position] = reader
    return reader


def _entries(ranges: Sequence[Kept], start: int, stop: int) -> Iterator[tuple[int, int]]:
    """Yield the entries, as (first, one after the last), of kept events ``start`` to ``stop`` of a file."""
    ends = list(accumulate(kept.events for kept in ranges))
    for k in range(bisect_right(ends, start), len(ranges)):
        first = ends[k] - ranges[k].events
        if first >= stop:
            break
        # Nothing is cut here, so the kept events of a range are its entries in order.
        low = ranges[k].range.start + max(start - first, 0)
        high = ranges[k].range.start + min(stop - first, ranges[k].events)
        if low < high:
            yield low, high


def _concatenate(parts: Sequence[Column]) -> Column:
    jagged = [part for part in parts if isinstance(part, Jagged)]
    if jagged:
        counts = np.concatenate([part.counts for part in jagged])
        return Jagged(counts, np.concatenate([part.values for part in jagged]))
    return np.concatenate([part for part in parts if not isinstance(part, Jagged)])


def _flat(column: Column, name: str) -> NDArray[Any]:
    if isinstance(column, Jagged):
        raise ValueError(f"{name}: an identifier must be one number an event, this branch is jagged")
    return column


def write(path: Path, chunk: Chunk) -> None:
    """Write a chunk file; equal chunks give equal files."""
    meta = {"events": len(chunk), "columns": len(chunk.features), "identifiers": list(chunk.identifiers)}
    members: dict[str, NDArray[Any]] = {"file": chunk.file, "entry": chunk.entry}
    members |= {f"id/{name}": values for name, values in chunk.identifiers.items()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr(zipfile.ZipInfo("meta.json", _FIXED_TIME), json.dumps(meta))
        archive.writestr(zipfile.ZipInfo("features", _FIXED_TIME), _compress(chunk.features))
        for name, values in members.items():
            archive.writestr(zipfile.ZipInfo(name, _FIXED_TIME), _compress(values[None, :]))


def _compress(rows: NDArray[Any]) -> bytes:
    """Compress row by row: Zstandard 1 after a byte shuffle was the smallest of what was fast."""
    import blosc2

    n = max(1, rows.shape[1])
    together = max(1, min(16, len(rows), _FRAME_BYTES // (n * rows.itemsize)))
    cparams = blosc2.CParams(
        codec=blosc2.Codec.ZSTD, clevel=1, filters=[blosc2.Filter.SHUFFLE], nthreads=1, typesize=rows.itemsize
    )
    rows = np.ascontiguousarray(rows)
    array: Any = blosc2.asarray(rows, chunks=(together, n), blocks=(1, n), cparams=cparams)
    frame: bytes = array.to_cframe()
    return frame


def read(path: Path) -> Chunk:
    """Read a chunk file back."""
    with zipfile.ZipFile(path) as archive:
        meta = json.loads(archive.read("meta.json"))
        return Chunk(
            features=_decompress(archive.read("features")),
            file=_decompress(archive.read("file"))[0],
            entry=_decompress(archive.read("entry"))[0],
            identifiers={name: _decompress(archive.read(f"id/{name}"))[0] for name in meta["identifiers"]},
        )


def read_identifier(path: Path, name: str) -> NDArray[Any]:
    """Read one identifier branch of a chunk file, shape (events,), and nothing else of it."""
    with zipfile.ZipFile(path) as archive:
        values: NDArray[Any] = _decompress(archive.read(f"id/{name}"))[0]
    return values


def _decompress(frame: bytes) -> Any:
    import blosc2

    array: Any = blosc2.ndarray_from_cframe(frame)
    return array[:]


def stream(paths: Iterable[Path]) -> Iterator[Chunk]:
    """Yield the chunks of ``paths`` in order, decompressing one ahead in a thread."""
    todo = list(paths)
    with ThreadPoolExecutor(1) as ahead:
        waiting = ahead.submit(read, todo[0]) if todo else None
        for following in [*todo[1:], None]:
            if waiting is None:
                return
            chunk = waiting.result()
            waiting = ahead.submit(read, following) if following else None
            yield chunk
