"""Specs: longest length, minimum, maximum and distribution of every branch, and events kept, over all files.

Parts measured over entry ranges (`Part`) join to the same result in any order and grouping; `Specs` is what
is left of them at the end: plain numbers.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from math import fsum
from typing import TypeVar

import numpy as np
from pydantic import Field

from mlaas_condor.data import sketch
from mlaas_condor.data.dataset import Dataset, EntryRange
from mlaas_condor.jsonfile import JsonFile, Plain

_T = TypeVar("_T")
_WIDE = 2.0**12  # what a value may be in units of the branch's range before float32 is too coarse for it


class Extent(Plain):
    """How far a branch goes: in one file, this is what MLaaS4HEP notes.

    Parameters
    ----------
    length
        Longest list of a jagged branch; 1 for a flat one.
    minimum, maximum
        Over all values that are finite as float32; None while there is none.
    """

    length: int
    minimum: float | None
    maximum: float | None


class BranchPart(Extent):
    """What a part of the dataset says of one branch.

    Parameters
    ----------
    not_finite
        Values that are NaN, infinite, or beyond float32. Never part of anything else here.
    whole
        Whether all values are integers or booleans by their type.
    distribution
        Of the finite values.
    """

    not_finite: int
    whole: bool
    distribution: sketch.Sketch


class Kept(Plain):
    """How many events of an entry range pass the cuts.

    Parameters
    ----------
    range
        The entries.
    flow
        Events before any cut, after the first, …, after all of them.
    weights
        Sum of the weights of the same events; empty without a weight branch.
    """

    range: EntryRange
    flow: tuple[int, ...]
    weights: tuple[float, ...] = ()

    @property
    def events(self) -> int:
        """Events that pass all cuts."""
        return self.flow[-1]


class Lost(Plain):
    """Entries that could not be read, and why."""

    range: EntryRange
    reason: str


class Part(JsonFile):
    """Partial specs: what was measured over some entry ranges.

    Parameters
    ----------
    branches
        Every feature branch; none where the specs are given and only events are counted.
    files
        Extent of every branch in each file, by the position of the file.
    kept, lost
        Events kept of each entry range, and ranges that could not be read, in order.
    """

    branches: dict[str, BranchPart]
    files: dict[int, dict[str, Extent]]
    kept: list[Kept]
    lost: list[Lost] = Field([])


class FileSpecs(JsonFile):
    """Extent of every branch in each file, by the position of the file."""

    files: dict[int, dict[str, Extent]]


class BranchSpecs(Extent):
    """Specs of one branch.

    Parameters
    ----------
    not_finite
        Values that are NaN, infinite, or beyond float32.
    values
        Finite values.
    whole
        Whether all values are integers or booleans by their type.
    mean, standard_deviation
        Of the finite values; None where there is none, or where the specs were given without.
    quantiles
        At the shares `sketch.QUANTILES`, each right to ``resolution`` of its value.
    resolution
        How exact the quantiles are: 1/64 for a wide distribution, far less for a narrow one.
    histogram
        Values in equal bins from the first to the last of these quantiles.
    """

    not_finite: int = 0
    values: int = 0
    whole: bool = False
    mean: float | None = None
    standard_deviation: float | None = None
    quantiles: list[float] = Field([])
    resolution: float = 0.0
    histogram: list[int] = Field([])

    @property
    def wide(self) -> bool:
        """Whether the range would vanish in the spacing of float32 numbers of its size: a time stamp."""
        low, high = self.minimum or 0.0, self.maximum or 0.0
        return max(abs(low), abs(high)) > _WIDE * (high - low) > 0

    @property
    def stored(self) -> str:
        """The type in which chunks hold the values: the smallest that keeps them as far as a feature can."""
        low, high = self.minimum or 0.0, self.maximum or 0.0
        if self.whole and not self.not_finite:
            for name in ("uint8", "int8", "uint16", "int16", "uint32", "int32"):
                if np.iinfo(name).min <= low and high <= np.iinfo(name).max:
                    return name
        return "float64" if self.wide else "float32"


class Specs(JsonFile):
    """Specs of all branches, and the events kept of each entry range, in order.

    Parameters
    ----------
    flat, jagged
        Feature branches.
    cuts
        The cuts, as a person would name them, in the order of `Kept.flow`.
    kept, lost
        As of `Part`.
    """

    flat: dict[str, BranchSpecs]
    jagged: dict[str, BranchSpecs]
    cuts: list[str] = Field([])
    kept: list[Kept]
    lost: list[Lost] = Field([])

    @property
    def events(self) -> int:
        """Events kept in all files together."""
        return sum(kept.events for kept in self.kept)

    @property
    def flow(self) -> list[int]:
        """Events before any cut, after the first, …, in all files together."""
        return [sum(column) for column in zip(*(kept.flow for kept in self.kept), strict=True)]

    @property
    def entries_lost(self) -> int:
        """Entries that could not be read."""
        return sum(lost.range.stop - lost.range.start for lost in self.lost)

    @property
    def values_an_event(self) -> float:
        """Mean number of values of an event in all feature branches together."""
        # Given specs may not say; then as many as there can be.
        counted = [
            branch.values + branch.not_finite or branch.length * self.events
            for branch in (*self.flat.values(), *self.jagged.values())
        ]
        return sum(counted) / max(1, self.events)

    def events_of(self, files: int) -> list[int]:
        """Return the events kept of each of the ``files`` files."""
        return [flow[-1] if flow else 0 for flow in self.flow_of(files)]

    def flow_of(self, files: int) -> list[list[int]]:
        """Return the events of each file before any cut and after each; empty for a file that was lost."""
        flows: list[list[int]] = [[] for _ in range(files)]
        for kept in self.kept:
            own = flows[kept.range.file] or [0] * len(kept.flow)
            flows[kept.range.file] = [n + more for n, more in zip(own, kept.flow, strict=True)]
        return flows

    def weights_of(self, files: int) -> list[list[float]]:
        """Return the sums of weights of each file, as `flow_of`; empty without a weight branch."""
        rows: list[list[tuple[float, ...]]] = [[] for _ in range(files)]
        for kept in self.kept:
            rows[kept.range.file].append(kept.weights)
        return [[fsum(column) for column in zip(*row, strict=True)] for row in rows]


def join(parts: Sequence[Part]) -> Part:
    """Join partial specs of entry ranges that do not overlap; in any order and grouping it is the same."""
    files: dict[int, list[dict[str, Extent]]] = {}
    for part in parts:
        for file, extents in part.files.items():
            files.setdefault(file, []).append(extents)
    return Part(
        branches={name: _join_branch(found) for name, found in _by_name(part.branches for part in parts)},
        files={
            file: {name: join_extents(found) for name, found in _by_name(of_file)}
            for file, of_file in sorted(files.items())
        },
        kept=sorted((each for part in parts for each in part.kept), key=lambda each: _place(each.range)),
        lost=sorted((each for part in parts for each in part.lost), key=lambda each: _place(each.range)),
    )


def _by_name(parts: Iterable[Mapping[str, _T]]) -> Iterable[tuple[str, list[_T]]]:
    """Yield each name, in order, with what the parts that have it say."""
    found: dict[str, list[_T]] = {}
    for part in parts:
        for name, value in part.items():
            found.setdefault(name, []).append(value)
    return sorted(found.items(), key=lambda each: each[0])


def join_extents(parts: Sequence[Extent]) -> Extent:
    """Return the extent over all parts."""
    return Extent(
        length=max(part.length for part in parts),
        minimum=min((part.minimum for part in parts if part.minimum is not None), default=None),
        maximum=max((part.maximum for part in parts if part.maximum is not None), default=None),
    )


def _join_branch(parts: Sequence[BranchPart]) -> BranchPart:
    return BranchPart(
        **join_extents(parts).model_dump(),
        not_finite=sum(part.not_finite for part in parts),
        whole=all(part.whole for part in parts),
        distribution=sketch.join([part.distribution for part in parts]),
    )


def of_dataset(dataset: Dataset, whole: Part, given: Specs | None = None) -> Specs:
    """Return the specs of a dataset, and make sure that every planned entry is there exactly once.

    Parameters
    ----------
    dataset, whole
        The plan, and what all tasks together brought back.
    given
        Specs of the branches to take instead of what was measured.

    Raises
    ------
    ValueError
        Entries are missing or doubled.
    """
    planned = _connected(each for task in dataset.tasks for each in task)
    found = _connected([*(kept.range for kept in whole.kept), *(lost.range for lost in whole.lost)])
    if planned != found:
        raise ValueError(f"planned were the entries {planned}, the partial specs hold {found}")
    flat, jagged = (
        {name: summarise(whole.branches[name]) for name in names if name in whole.branches}
        for names in (dataset.flat, dataset.jagged)
    )
    return Specs(
        flat=given.flat if given else flat,
        jagged=given.jagged if given else jagged,
        cuts=[cut.title for cut in dataset.steps.cuts],
        kept=whole.kept,
        lost=whole.lost,
    )


def summarise(branch: BranchPart) -> BranchSpecs:
    """Return the numbers that are left of a branch once all parts are joined."""
    seen = branch.distribution
    low, high = branch.minimum or 0.0, branch.maximum or 0.0
    quantiles = seen.quantiles(low, high)
    if branch.whole:
        # Bins begin, seen from 0, at integers as long as each integer has one of its own.
        quantiles = [float(np.trunc(value)) for value in quantiles]
    return BranchSpecs(
        length=branch.length,
        minimum=branch.minimum,
        maximum=branch.maximum,
        not_finite=branch.not_finite,
        values=seen.count,
        whole=branch.whole,
        mean=seen.mean,
        standard_deviation=seen.standard_deviation,
        quantiles=quantiles,
        resolution=seen.resolution,
        histogram=seen.histogram(low, high, quantiles[0], quantiles[-1]) if quantiles else [],
    )


def _connected(ranges: Iterable[EntryRange]) -> list[tuple[int, int, int]]:
    """Return ranges in order, as (file, start, stop), with those that touch made one; doubled ones stay."""
    merged: list[tuple[int, int, int]] = []
    for file, start, stop in sorted((each.file, each.start, each.stop) for each in ranges):
        if start == stop:
            continue
        if merged and merged[-1][0] == file and merged[-1][2] == start:
            merged[-1] = (file, merged[-1][1], stop)
        else:
            merged.append((file, start, stop))
    return merged


def _place(entries: EntryRange) -> tuple[int, int]:
    return entries.file, entries.start
