"""Events as columns: flat branches are arrays, jagged ones counts and values; never lists of lists."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Jagged:
    """A list of numbers an event.

    Parameters
    ----------
    counts
        Length of each event's list, shape (events,), int64.
    values
        All values one after another, shape (sum of counts,).
    """

    counts: NDArray[np.int64]
    values: NDArray[Any]


Column = NDArray[Any] | Jagged
Events = Mapping[str, Column]


def number_of(events: Events) -> int:
    """Return how many events there are; 0 where there is no branch."""
    for column in events.values():
        return len(column.counts) if isinstance(column, Jagged) else len(column)
    return 0


def offsets_of(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return where each list begins, and after them where the last one ends, shape (events + 1,)."""
    offsets = np.zeros(len(counts) + 1, np.int64)
    np.cumsum(counts, out=offsets[1:])
    return offsets


class Shapes:
    """Offsets of lists, worked out once for all branches that have lists of the same lengths.

    The branches of one collection (all properties of the jets) nearly always do, and finding that out
    costs far less than what follows from it.
    """

    def __init__(self) -> None:
        self._known: list[tuple[NDArray[np.int64], NDArray[np.int64]]] = []

    def offsets(self, counts: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return `offsets_of` the counts, the very same array for equal counts."""
        for known, offsets in self._known:
            if counts is known or np.array_equal(counts, known):
                return offsets
        offsets = offsets_of(counts)
        self._known.append((counts, offsets))
        return offsets


def part(column: Column, start: int, stop: int) -> Column:
    """Return events ``start`` to ``stop`` (excluded) of a column, without copying its values."""
    if not isinstance(column, Jagged):
        return column[start:stop]
    low = int(column.counts[:start].sum())
    high = low + int(column.counts[start:stop].sum())
    return Jagged(column.counts[start:stop], column.values[low:high])


def pick(events: Events, which: NDArray[Any]) -> dict[str, Column]:
    """Return the events of a mask, shape (events,), or at these positions, shape (n,), in their order."""
    rows = np.flatnonzero(which) if which.dtype == np.bool_ else which
    shapes = Shapes()
    values_of: dict[int, tuple[NDArray[np.int64], NDArray[np.int64]]] = {}
    picked: dict[str, Column] = {}
    for name, column in events.items():
        if not isinstance(column, Jagged):
            picked[name] = column[rows]
            continue
        offsets = shapes.offsets(column.counts)
        if id(offsets) not in values_of:
            values_of[id(offsets)] = _positions(offsets, rows)
        counts, positions = values_of[id(offsets)]
        picked[name] = Jagged(counts, column.values[positions])
    return picked


def _positions(
    offsets: NDArray[np.int64], rows: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the lengths of the lists of these events, and the positions of their values."""
    counts = offsets[rows + 1] - offsets[rows]
    moved = offsets[rows] - (np.cumsum(counts) - counts)
    return counts, np.arange(int(counts.sum())) + np.repeat(moved, counts)


def concatenate(parts: Sequence[Events]) -> dict[str, Column]:
    """Join events of the same branches, at least one part."""
    if len(parts) == 1:
        return dict(parts[0])
    return {name: _join([events[name] for events in parts]) for name in parts[0]}


def _join(columns: Iterable[Column]) -> Column:
    columns = list(columns)
    jagged = [column for column in columns if isinstance(column, Jagged)]
    if jagged:
        return Jagged(
            np.concatenate([column.counts for column in jagged]),
            np.concatenate([column.values for column in jagged]),
        )
    return np.concatenate([column for column in columns if not isinstance(column, Jagged)])
