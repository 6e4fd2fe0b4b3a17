"""Specs: longest length, minimum, maximum of every branch, and events kept, over all files.

Parts measured over entry ranges join to the same specs in any order and grouping.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import reduce
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlaas_condor.data.dataset import Dataset, EntryRange
from mlaas_condor.data.inputs import Column, Events, Jagged
from mlaas_condor.jsonfile import JsonFile, Plain

_LARGEST = float(np.finfo(np.float32).max)  # chunks hold float32; some ntuples mark "none" with 1.8e308


class BranchSpecs(Plain):
    """Specs of one branch.

    Parameters
    ----------
    length
        Longest list of a jagged branch; 1 for a flat one.
    minimum, maximum
        Over all values that are finite as float32; None while there is none.
    not_finite
        The other values: NaN, infinite, or beyond float32. Never part of minimum and maximum.
    """

    length: int
    minimum: float | None
    maximum: float | None
    not_finite: int

    def join(self, other: BranchSpecs) -> BranchSpecs:
        """Return the specs of both parts together."""
        lows = [low for low in (self.minimum, other.minimum) if low is not None]
        highs = [high for high in (self.maximum, other.maximum) if high is not None]
        return BranchSpecs(
            length=max(self.length, other.length),
            minimum=min(lows, default=None),
            maximum=max(highs, default=None),
            not_finite=self.not_finite + other.not_finite,
        )


class Kept(Plain):
    """Events of an entry range that pass all cuts."""

    range: EntryRange
    events: int


class Specs(JsonFile):
    """Specs of all branches, and the events kept of each entry range, in order."""

    flat: dict[str, BranchSpecs]
    jagged: dict[str, BranchSpecs]
    kept: list[Kept]

    @property
    def events(self) -> int:
        """Events kept in all files together."""
        return sum(kept.events for kept in self.kept)

    def events_of(self, files: int) -> list[int]:
        """Return the events kept of each of the ``files`` files."""
        events = [0] * files
        for kept in self.kept:
            events[kept.range.file] += kept.events
        return events

    def join(self, other: Specs) -> Specs:
        """Return the specs of both parts together; their entry ranges must not overlap."""
        return Specs(
            flat={name: own.join(other.flat[name]) for name, own in self.flat.items()},
            jagged={name: own.join(other.jagged[name]) for name, own in self.jagged.items()},
            kept=sorted((*self.kept, *other.kept), key=lambda kept: (kept.range.file, kept.range.start)),
        )


def measure(events: Events, range: EntryRange) -> Specs:
    """Measure the events of one entry range.

    Parameters
    ----------
    events
        Branches as read; flat ones of shape (events,), jagged ones as counts and values.
    range
        Where they come from.
    """
    flat = {name: column for name, column in events.items() if not isinstance(column, Jagged)}
    jagged = {name: column for name, column in events.items() if isinstance(column, Jagged)}
    first: Column = next(iter(events.values()))
    n = len(first.counts) if isinstance(first, Jagged) else len(first)
    return Specs(
        flat={name: _measure_values(values, 1) for name, values in flat.items()},
        jagged={
            name: _measure_values(column.values, int(column.counts.max(initial=0)))
            for name, column in jagged.items()
        },
        kept=[Kept(range=range, events=n)],
    )


def _measure_values(values: NDArray[Any], length: int) -> BranchSpecs:
    if not len(values):
        return BranchSpecs(length=length, minimum=None, maximum=None, not_finite=0)
    low, high = float(values.min()), float(values.max())
    bad = 0
    if not (low >= -_LARGEST and high <= _LARGEST):  # NaN and infinity show in one of the two
        usable = values[(values >= -_LARGEST) & (values <= _LARGEST)]
        bad = len(values) - len(usable)
        if not len(usable):
            return BranchSpecs(length=length, minimum=None, maximum=None, not_finite=bad)
        low, high = float(usable.min()), float(usable.max())
    # -0.0 would make the result depend on the order of the parts.
    return BranchSpecs(length=length, minimum=low + 0.0, maximum=high + 0.0, not_finite=bad)


def join(parts: Iterable[Specs]) -> Specs:
    """Join partial specs of different entry ranges, at least one."""
    return reduce(Specs.join, parts)


def to_global_specs(specs: Specs, files: Sequence[str]) -> dict[str, Any]:
    """Return the specs as MLaaS4HEP writes them to ``global-specs.json``.

    ``nans`` is the value of 0 after normalising. Branches without a finite value have range [0, 0].
    """
    both = {**specs.flat, **specs.jagged}
    low = {name: branch.minimum or 0.0 for name, branch in both.items()}
    high = {name: branch.maximum or 0.0 for name, branch in both.items()}
    kept = specs.events_of(len(files))
    return {
        "jdim": {name: branch.length for name, branch in specs.jagged.items()},
        "minv": low,
        "maxv": high,
        "fkeys": sorted(specs.flat),
        "jkeys": sorted(specs.jagged),
        "nans": {n: -low[n] / (high[n] - low[n]) if high[n] != low[n] else 0.0 for n in both},
        "events": {**dict(zip(files, kept, strict=True)), "total": specs.events},
    }


def of_dataset(dataset: Dataset, parts: Sequence[Specs]) -> Specs:
    """Join the parts of a dataset and make sure that every entry range is there exactly once.

    Raises
    ------
    ValueError
        Entry ranges are missing or doubled.
    """
    specs = join(parts)
    wanted = sorted((r.file, r.start, r.stop) for task in dataset.tasks for r in task)
    found = [(kept.range.file, kept.range.start, kept.range.stop) for kept in specs.kept]
    if wanted != found:
        raise ValueError(f"{len(wanted)} entry ranges were planned, the partial specs hold {len(found)}")
    return specs
