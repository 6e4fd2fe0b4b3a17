"""Chunks: how events are dealt out to them, and making them from the input files."""

from __future__ import annotations

import heapq
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

from mlaas_condor.data import storage
from mlaas_condor.data.chunkfile import Chunk
from mlaas_condor.data.dataset import Dataset
from mlaas_condor.data.events import Column, Jagged, concatenate, part, pick
from mlaas_condor.data.inputs import Reader
from mlaas_condor.data.selection import Selector
from mlaas_condor.data.specs import Kept, Specs
from mlaas_condor.errors import InputChanged

_PHASES = 2**16
BATCH_BYTES = 2**27  # of events that are read together, for several chunks where they are small
_BLOCKS = 4  # blocks of the measuring that are read together
_SIDE_BY_SIDE = 4  # remote files
OPEN_FILES = 64  # files kept open from batch to batch; an open tree of 1500 branches takes 20 MB


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


class Maker:
    """Makes chunks from the input files; each the same to the last bit whenever and wherever it is made.

    Parameters
    ----------
    dataset, specs
        The plan, and what was measured.
    threads
        Threads that decompress what is read.
    """

    def __init__(self, dataset: Dataset, specs: Specs, threads: int = 1) -> None:
        self._threads = threads
        self._dataset = dataset
        self._specs = specs
        self._kept: list[list[Kept]] = [[] for _ in dataset.files]
        for kept in specs.kept:
            of_file = self._kept[kept.range.file]
            if of_file and not dataset.steps.cuts and of_file[-1].range.stop == kept.range.start:
                kept = _joined(of_file.pop(), kept)
            of_file.append(kept)
        self._events = specs.events_of(len(dataset.files))
        self._selector = Selector(dataset.steps, [*dataset.flat, *dataset.jagged, *dataset.carried])
        self._readers: dict[int, Reader] = {}
        self._remote = any(storage.is_url(file.path) for file in dataset.files)

    def make(self, first: int, last: int) -> Iterator[tuple[int, Chunk]]:
        """Yield the chunks from ``first`` to ``last`` (included), with their numbers.

        A file is read once for several chunks, as many as `BATCH_BYTES` of events make, at least one.

        Raises
        ------
        InputUnreadable, InputChanged
            As `Reader`; also where a file has other events than when it was measured.
        """
        size = self._dataset.chunk_size if self._dataset.chunk_size > 0 else self._specs.events
        by_values = int(BATCH_BYTES / max(1.0, 4 * self._specs.values_an_event * size))
        # A block also counts what reading takes beside the values.
        together = max(1, min(by_values, _BLOCKS * self._dataset.block // max(1, size)))
        for start in range(first, last + 1, together):
            yield from self._batch(range(start, min(start + together, last + 1)))

    def close(self) -> None:
        """Close the files."""
        for reader in self._readers.values():
            reader.close()
        self._readers.clear()

    def _batch(self, indices: range) -> Iterator[tuple[int, Chunk]]:
        deals = [deal(self._events, self._dataset.chunk_size, index) for index in indices]
        parts: list[list[tuple[int, dict[str, Column], NDArray[np.int64]]]] = [[] for _ in indices]
        bounds = [(file, deals[0][file][0], deals[-1][file][1]) for file in range(len(self._dataset.files))]
        wanted = [(file, start, stop) for file, start, stop in bounds if start < stop]
        for (file, start, _), (events, entries) in zip(wanted, self._read_all(wanted), strict=True):
            for (low, high), of_chunk in zip((each[file] for each in deals), parts, strict=True):
                if low == high:
                    continue  # its types would have a say in those of the chunk
                piece = {name: part(column, low - start, high - start) for name, column in events.items()}
                of_chunk.append((file, piece, entries[low - start : high - start]))
        for index, of_chunk in zip(indices, parts, strict=True):
            yield index, self._chunk(index, of_chunk)
            of_chunk.clear()

    def _read_all(
        self, wanted: Sequence[tuple[int, int, int]]
    ) -> Iterator[tuple[dict[str, Column], NDArray[np.int64]]]:
        """Yield what is read of each file, in their order; of remote ones some are waited for at a time."""
        if not self._remote:
            yield from (self._read(*each) for each in wanted)
            return
        with ThreadPoolExecutor(_SIDE_BY_SIDE) as pool:
            yield from pool.map(lambda each: self._read(*each), wanted)

    def _read(self, file: int, start: int, stop: int) -> tuple[dict[str, Column], NDArray[np.int64]]:
        """Return the kept events ``start`` to ``stop`` (excluded) of a file, and their entries."""
        reader = self._reader(file)
        read = [
            self._read_range(reader, kept, low, high)
            for kept, low, high in _within(self._kept[file], start, stop)
        ]
        if file not in self._readers:
            reader.close()
        return concatenate([events for events, _ in read]), np.concatenate([entries for _, entries in read])

    def _read_range(
        self, reader: Reader, kept: Kept, low: int, high: int
    ) -> tuple[dict[str, Column], NDArray[np.int64]]:
        """Return events ``low`` to ``high`` of those that an entry range keeps."""
        start, stop = kept.range.start, kept.range.stop
        if not self._dataset.steps.cuts:
            every = reader.read(self._selector.inputs, start + low, start + high)
            taken = self._selector.take(every, np.ones(high - low, np.bool_))
            return taken, np.arange(start + low, start + high)
        # Only part of the range may be wanted, and to know which costs the branches of the cuts.
        counted = reader.read(self._selector.cut_inputs, start, stop)
        mask = self._selector.count(counted, stop - start).mask
        passed = np.flatnonzero(mask)
        if len(passed) != kept.events:
            raise InputChanged(
                f"{reader.source.path}: of the entries {start} to {stop} {len(passed)} pass the cuts, "
                f"{kept.events} did when they were measured"
            )
        first, last = int(passed[low]), int(passed[high - 1]) + 1
        events = reader.read(self._selector.inputs, start + first, start + last)
        return self._selector.take(events, mask[first:last]), start + passed[low:high]

    def _reader(self, file: int) -> Reader:
        if file in self._readers:
            return self._readers[file]
        reader = Reader(self._dataset, file, self._threads)
        if len(self._readers) < OPEN_FILES:
            self._readers[file] = reader
        return reader

    def _chunk(self, index: int, parts: Sequence[tuple[int, dict[str, Column], NDArray[np.int64]]]) -> Chunk:
        dataset = self._dataset
        events = concatenate([piece for _, piece, _ in parts])
        file = np.concatenate([np.full(len(entries), number, np.uint32) for number, _, entries in parts])
        entry = np.concatenate([entries for _, _, entries in parts])
        order = np.arange(len(entry))
        if dataset.shuffle:
            order = np.random.default_rng([dataset.seed, index]).permutation(len(entry))
        carried = {name: _flat(events[name], name)[order] for name in dataset.carried}
        features = {name: self._stored(name, events[name]) for name in (*dataset.flat, *dataset.jagged)}
        return Chunk(pick(features, order), file[order], entry[order], carried)

    def _stored(self, name: str, column: Column) -> Column:
        """Bring a branch into the type that chunks have it in; refuse what the specs do not know of."""
        branch = self._specs.flat.get(name) or self._specs.jagged[name]
        if not isinstance(column, Jagged):
            return _converted(column, branch.stored)
        longest = int(column.counts.max(initial=0))
        if longest > branch.length:
            raise InputChanged(
                f"{name}: a list has {longest} elements, the specs say at most {branch.length}"
            )
        return Jagged(column.counts, _converted(column.values, branch.stored))


def _joined(one: Kept, next_one: Kept) -> Kept:
    """Return two adjacent entry ranges of which all events are kept as one, to be read in one go."""
    return Kept(
        range=one.range.model_copy(update={"stop": next_one.range.stop}),
        flow=(one.events + next_one.events,),
    )


def _within(ranges: Sequence[Kept], start: int, stop: int) -> Iterator[tuple[Kept, int, int]]:
    """Yield the entry ranges with the kept events ``start`` to ``stop`` of a file, and which of their own."""
    ends = list(accumulate(kept.events for kept in ranges))
    for k in range(bisect_right(ends, start), len(ranges)):
        first = ends[k] - ranges[k].events
        if first >= stop:
            break
        low, high = max(start - first, 0), min(stop - first, ranges[k].events)
        if low < high:
            yield ranges[k], low, high


def _converted(values: NDArray[np.generic], dtype: str) -> NDArray[np.generic]:
    # What is beyond float32 becomes infinite, which the specs count as not finite.
    with np.errstate(over="ignore", invalid="ignore"):
        return values.astype(dtype, copy=False)


def _flat(column: Column, name: str) -> NDArray[np.generic]:
    if isinstance(column, Jagged):
        raise ValueError(f"{name}: must be one number an event, this branch is jagged")
    return column
