"""Feature matrices of chunks for a trainer, which together may be larger than the memory.

Chunks are decompressed and normalised ahead, in threads. Where there is space on the scratch disk, the first
time leaves the matrices there, memory-mapped for every later one.
"""

from __future__ import annotations

import shutil
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlaas_condor.data import chunkfile
from mlaas_condor.data.chunkfile import Chunk
from mlaas_condor.data.features import Columns, Matrix, matrix

MIXED = 4  # chunks whose events are mixed with one another: the more, the better, and the more memory
_SPARE = 2**29  # bytes of the scratch disk left to others
_ROWS = 8192  # rows of a mix gathered at a time


@dataclass(frozen=True)
class Block:
    """A chunk as a trainer sees it.

    Parameters
    ----------
    index
        Number of the chunk, by its place among the files.
    x
        Feature matrix, shape (events, columns), normalised; perhaps memory-mapped, not to be written to.
    chunk
        The chunk without its events: where they come from, and the branches carried.
    """

    index: int
    x: Matrix
    chunk: Chunk


@dataclass(frozen=True)
class Batch:
    """Events of several chunks.

    Parameters
    ----------
    x
        Shape (events, columns), float32.
    chunk, row
        For each event, the number of its chunk and its row there.
    """

    x: Matrix
    chunk: NDArray[np.int64]
    row: NDArray[np.int64]


class Stream:
    """The chunks of a run as matrices, in any order, as often as needed.

    Parameters
    ----------
    paths
        Chunk files, by number.
    columns
        Layout of the matrices, and how they are normalised.
    scratch
        Folder for memory-mapped matrices; None: chunks are decompressed each time.
    threads
        Chunks prepared side by side.
    space
        Bytes that may be used of the scratch disk; None: all but what is left to others.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        columns: Columns,
        scratch: Path | None = None,
        threads: int = 1,
        space: int | None = None,
    ) -> None:
        self.paths = list(paths)
        self.columns = columns
        self._scratch = scratch if scratch and self._fits(scratch, space) else None
        self._threads = threads
        self._written: set[int] = set()

    def _fits(self, scratch: Path, space: int | None) -> bool:
        """Tell whether all matrices together fit on the scratch disk."""
        events = sum(chunkfile.events_in(path) for path in self.paths)
        free = shutil.disk_usage(scratch).free - _SPARE
        return events * len(self.columns) * 4 < (free if space is None else min(free, space))

    def inorder(self, order: Sequence[int]) -> Iterator[Block]:
        """Yield the chunks in the given order; never more than one a thread, and one, are held."""
        with ThreadPoolExecutor(self._threads) as pool:
            ahead: deque[Future[Block]] = deque()
            try:
                for index in order:
                    ahead.append(pool.submit(self._block, index))
                    if len(ahead) > self._threads:
                        yield ahead.popleft().result()
                while ahead:
                    yield ahead.popleft().result()
            finally:
                for waiting in ahead:
                    waiting.cancel()

    def batches(self, size: int, seed: int, epoch: int = 0) -> Iterator[Batch]:
        """Yield shuffled batches of all events, each event once.

        Chunks come in an order of their own each epoch, `MIXED` of them at a time, whose events are mixed;
        the last batch of each such mix may be smaller.

        Parameters
        ----------
        size
            Events a batch.
        seed, epoch
            The same give the same batches.
        """
        random = np.random.default_rng([seed, epoch])
        blocks = self.inorder(random.permutation(len(self.paths)).tolist())
        while mixed := list(islice(blocks, MIXED)):
            yield from _mixed(mixed, size, random)
            mixed.clear()  # or they would be held until the next ones are all there

    def _block(self, index: int) -> Block:
        path = self._scratch / f"matrix-{index:05d}.npy" if self._scratch else None
        if path and index in self._written:
            mapped: Any = np.load(path, mmap_mode="r")
            return Block(index, np.asarray(mapped), chunkfile.read(self.paths[index], with_events=False))
        chunk = chunkfile.read(self.paths[index])
        x = matrix(chunk.events, self.columns)
        if path:
            np.save(path, x)  # five times faster than filling it through a memory map
            self._written.add(index)
        return Block(index, x, replace(chunk, events={}))


def _mixed(blocks: Sequence[Block], size: int, random: np.random.Generator) -> Iterator[Batch]:
    """Yield the events of some chunks in one random order; within a batch, those of a chunk together."""
    lengths = np.array([len(block.x) for block in blocks], np.int64)
    ends = np.cumsum(lengths)
    order = random.permutation(int(ends[-1]))
    together = size * max(1, _ROWS // size)
    for start in range(0, len(order), together):
        drawn = order[start : start + together]
        # A large one, for many batches, is cheaper.
        x = np.empty((len(drawn), blocks[0].x.shape[1]), np.float32)
        for low in range(0, len(drawn), size):
            which = np.sort(drawn[low : low + size])
            bounds = np.searchsorted(which, [0, *ends])
            for block, first, one, last in zip(blocks, ends - lengths, bounds[:-1], bounds[1:], strict=True):
                if one < last:
                    # Checking each index costs as much as copying the row; these are all right.
                    rows = which[one:last] - first
                    np.take(block.x, rows, axis=0, out=x[low + one : low + last], mode="clip")
            position = np.searchsorted(ends, which, side="right")
            index = np.array([block.index for block in blocks], np.int64)[position]
            yield Batch(x[low : low + len(which)], index, which - (ends - lengths)[position])
