"""Measuring entry ranges of a dataset: the partial specs."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlaas_condor.data import sketch
from mlaas_condor.data.dataset import Dataset, EntryRange
from mlaas_condor.data.events import Column, Events, Jagged
from mlaas_condor.data.inputs import Reader
from mlaas_condor.data.selection import Selector
from mlaas_condor.data.specs import BranchPart, Extent, Kept, Lost, Part, join_extents
from mlaas_condor.errors import AccessDenied, DataFault, InputUnreadable, StorageUnavailable

PART_NAME = "part-{:05d}.json"
_LARGEST = float(np.finfo(np.float32).max)  # features are float32; some ntuples mark "none" with 1.8e308
_ENTRIES = re.compile(r"entries \d+ to \d+")
_FINEST = 100  # entries: what surrounds a damaged place is given up in pieces of this size


class _Tally:
    """Measures one branch, block after block."""

    def __init__(self) -> None:
        self._extent: Extent | None = None
        self._not_finite = 0
        self._whole = True
        self._distribution = sketch.Tally()

    def add(self, column: Column) -> Extent:
        """Measure some events; return how far they go."""
        values, length = column, 1
        if isinstance(column, Jagged):
            values, length = column.values, int(column.counts.max(initial=0))
        extent = self._add_values(np.asarray(values), length)
        self._extent = join_extents([self._extent, extent]) if self._extent else extent
        return extent

    def _add_values(self, values: NDArray[Any], length: int) -> Extent:
        self._whole &= values.dtype.kind in "bui"
        low, high = (float(values.min()), float(values.max())) if len(values) else (np.nan, np.nan)
        if not (low >= -_LARGEST and high <= _LARGEST):  # NaN and infinity show in one of the two
            largest = np.float32(_LARGEST)  # a Python number would be made float16 with values of that type
            usable = values[(values >= -largest) & (values <= largest)]
            self._not_finite += len(values) - len(usable)
            if not len(usable):
                return Extent(length=length, minimum=None, maximum=None)
            values, low, high = usable, float(usable.min()), float(usable.max())
        # -0.0 would make the result depend on the order of the parts.
        low, high = low + 0.0, high + 0.0
        self._distribution.add(values, low, high)
        return Extent(length=length, minimum=low, maximum=high)

    def part(self) -> BranchPart:
        """Return what was measured; at least one block must have been."""
        assert self._extent is not None
        return BranchPart(
            length=self._extent.length,
            minimum=self._extent.minimum,
            maximum=self._extent.maximum,
            not_finite=self._not_finite,
            whole=self._whole,
            distribution=self._distribution.sketch(),
        )


class Measurement:
    """Partial specs in the making.

    Parameters
    ----------
    dataset
        What is measured.
    threads
        Threads that decompress what is read.
    """

    def __init__(self, dataset: Dataset, threads: int = 1) -> None:
        self._threads = threads
        self._dataset = dataset
        # With given specs only the events that pass are counted.
        names = [] if dataset.given else [*dataset.flat, *dataset.jagged]
        self._selector = Selector(dataset.steps, names, dataset.weight)
        # What chunks need and cannot be read must be known before events are dealt out to them.
        of_chunks = [*dataset.flat, *dataset.jagged, *dataset.carried] if dataset.may_lose else []
        self._inputs = sorted({*self._selector.inputs, *Selector(dataset.steps, of_chunks).inputs})
        self._tallies: dict[str, _Tally] = {}
        self._files: dict[int, dict[str, Extent]] = {}
        self._kept: list[Kept] = []
        self._lost: list[Lost] = []

    @property
    def needs_no_file(self) -> bool:
        """Whether nothing is to be read: the specs are given, nothing is cut, and nothing may be lost."""
        return not self._inputs

    def measure(self, entries: EntryRange) -> None:
        """Measure an entry range, block after block.

        Raises
        ------
        InputUnreadable, InputChanged
            As `Reader`, where the dataset may not lose events.
        DataFault
            A weight is not finite, or an expression does not fit the events.
        """
        if self.needs_no_file:
            self._kept.append(Kept(range=entries, flow=(entries.stop - entries.start,)))
            return
        try:
            reader = Reader(self._dataset, entries.file, self._threads)
        except InputUnreadable as error:
            self._give_up(entries, error)
            return
        try:
            names = [name for name in self._inputs if name not in self._dataset.fill_missing]
            pieces = list(blocks(entries, reader.source.boundaries(names), self._dataset.block))
        except InputUnreadable as error:
            reader.close()
            self._give_up(entries, error)
            return
        try:
            for (start, stop), following in zip(pieces, [*pieces[1:], None], strict=True):
                reader.ahead(self._inputs, start, stop)
                if following:  # on its way while this one is decompressed and measured
                    reader.ahead(self._inputs, *following)
                self._block(reader, entries.model_copy(update={"start": start, "stop": stop}))
        finally:
            reader.close()

    def part(self) -> Part:
        """Return what was measured."""
        return Part(
            branches={name: tally.part() for name, tally in self._tallies.items()},
            files=self._files,
            kept=self._kept,
            lost=self._lost,
        )

    def _block(self, reader: Reader, entries: EntryRange) -> None:
        try:
            events = reader.read(self._inputs, entries.start, entries.stop)
        except (StorageUnavailable, AccessDenied):
            raise  # the events are there: they are not lost because the way to them is
        except InputUnreadable as error:
            if self._dataset.may_lose and entries.stop - entries.start > _FINEST:
                middle = (entries.start + entries.stop) // 2
                self._block(reader, entries.model_copy(update={"stop": middle}))
                self._block(reader, entries.model_copy(update={"start": middle}))
            else:
                self._give_up(entries, error)
            return
        try:
            self._add(entries, events)
        except ValueError as error:
            place = f"{reader.source.path}: entries {entries.start} to {entries.stop}"
            raise DataFault(f"{place}: {error}") from error

    def _add(self, entries: EntryRange, events: Events) -> None:
        selected = self._selector.apply(events)
        if not np.isfinite(selected.weights).all():
            raise ValueError(f"weight {self._dataset.weight!r} is not finite for all events")
        self._kept.append(Kept(range=entries, flow=selected.flow, weights=selected.weights))
        if not selected.flow[-1]:
            return
        for name, column in selected.events.items():
            of_file = self._files.setdefault(entries.file, {})
            extent = self._tallies.setdefault(name, _Tally()).add(column)
            of_file[name] = join_extents([of_file[name], extent]) if name in of_file else extent

    def _give_up(self, entries: EntryRange, error: InputUnreadable) -> None:
        if not self._dataset.may_lose or isinstance(error, StorageUnavailable | AccessDenied):
            raise error
        before = self._lost[-1] if self._lost else None
        if before and before.range.file == entries.file and before.range.stop == entries.start:
            self._lost.pop()
            entries = entries.model_copy(update={"start": before.range.start})
        # What was tried last is only a piece of what is lost.
        reason = _ENTRIES.sub(f"entries {entries.start} to {entries.stop}", str(error))
        self._lost.append(Lost(range=entries, reason=reason))


def measure(dataset: Dataset, ranges: Iterable[EntryRange]) -> Part:
    """Measure entry ranges of a dataset; errors as `Measurement.measure`."""
    measurement = Measurement(dataset)
    for entries in ranges:
        measurement.measure(entries)
    return measurement.part()


def blocks(entries: EntryRange, boundaries: Sequence[int], size: int) -> Iterator[tuple[int, int]]:
    """Yield the blocks in which to read an entry range: of about ``size`` entries, following the boundaries.

    Where boundaries lie further apart, what is between them is split evenly.
    """
    at = entries.start
    places = [*(place for place in boundaries if entries.start < place < entries.stop), entries.stop]
    for place, following in zip(places, [*places[1:], None], strict=True):
        if following is not None and following - at <= size:
            continue
        parts = max(1, -(-(place - at) // size)) if place - at > 1.5 * size else 1
        cuts = [at + (place - at) * k // parts for k in range(parts + 1)]
        yield from pairwise(cuts)
        at = place
