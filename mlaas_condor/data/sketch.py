"""How the values of a branch are distributed, in a form in which parts can be joined exactly.

Float32 numbers, as whole numbers that ascend with them, are counted in bins of a power of two of these: of
constant relative width. How fine they are follows from the least and the largest value (`WINDOW` bins from
one to the other) and from how many are filled (`MOST` at most). So of few different values, or of a narrow
range, every one is told apart, and a bin of a wide distribution is 1/64 of its values wide. Bins only grow
as more values come, and sums are kept as exact fractions: parts join to the same in any order and grouping.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from math import fsum
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BeforeValidator, PlainSerializer

from mlaas_condor.jsonfile import Plain

WINDOW = 2**15
MOST = 2**11
QUANTILES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)
BINS = 24
_INFINITE = 0x7F800000  # infinity as a whole number: beyond all bins
_TINY = float(np.finfo(np.float32).tiny)
_BLOCK = 2**16  # values worked on at a time: what they make stays in the cache

# A float64 is a whole number over a power of two: so is any sum of them, and it is exact.
Exact = Annotated[
    Fraction,
    BeforeValidator(lambda value: Fraction(value) if isinstance(value, str | int | float) else value),
    PlainSerializer(str, return_type=str),
]


class Sketch(Plain):
    """The distribution of finite values.

    Parameters
    ----------
    count, total, squares
        How many; the sum of the values, and of their squares.
    first, last
        The least and the largest value, as whole numbers.
    shift
        Bits of these numbers that a bin leaves open.
    keys, counts
        Bins that are not empty, ascending, and how many values are in each.
    """

    count: int
    total: Exact
    squares: Exact
    first: int
    last: int
    shift: int
    keys: list[int]
    counts: list[int]

    @property
    def mean(self) -> float | None:
        """Mean; None where there is no value."""
        return float(self.total / self.count) if self.count else None

    @property
    def standard_deviation(self) -> float | None:
        """Standard deviation of the values as a population; None where there is no value."""
        if not self.count:
            return None
        variance = self.squares / self.count - (self.total / self.count) ** 2
        return float(np.sqrt(max(float(variance), 0.0)))

    @property
    def resolution(self) -> float:
        """The width of a bin in units of its values, at most."""
        return 2.0 ** (self.shift - 23)

    def quantiles(self, low: float, high: float, shares: Sequence[float] = QUANTILES) -> list[float]:
        """Return quantiles, each right to the width of its bin; ``low``, ``high`` are minimum and maximum."""
        if not self.count:
            return []
        edges, heights = self._bins(low, high)
        reached = np.concatenate([[0], np.cumsum(heights)]) / self.count
        where = np.clip(np.searchsorted(reached, shares, side="left") - 1, 0, len(heights) - 1)
        inside = (np.asarray(shares) - reached[where]) * self.count / heights[where]
        found = edges[0][where] + inside * (edges[1][where] - edges[0][where])
        found[np.abs(found) < _TINY] = 0  # a bin that begins at 0
        values: list[float] = np.clip(found, low, high).tolist()
        return values

    def histogram(self, low: float, high: float, first: float, last: float) -> list[int]:
        """Return how many values are in each of `BINS` equal bins from ``first`` to ``last``.

        The counts are right to what shares a bin of the sketch with an edge; values outside are not counted.
        """
        if not self.count or not last > first:
            return []
        edges, heights = self._bins(low, high)
        reached = np.concatenate([[0], np.cumsum(heights)])
        # The distribution function at the edges: within a bin of the sketch it grows evenly.
        at = np.linspace(first, last, BINS + 1)
        where = np.clip(np.searchsorted(edges[0], at, side="right") - 1, 0, len(heights) - 1)
        width = edges[1][where] - edges[0][where]
        with np.errstate(over="ignore"):  # a bin may be narrower than float64 can divide by
            inside = np.where(
                width > 0, (at - edges[0][where]) / np.where(width > 0, width, 1), at >= edges[1][where]
            )
        below = np.rint(reached[where] + heights[where] * np.clip(inside, 0, 1))
        below[-1] = max(below[-1], reached[-1] if last >= high else 0)
        below[0] = 0 if first <= low else below[0]
        counts: list[int] = np.diff(below).astype(int).tolist()
        return counts

    def _bins(
        self, low: float, high: float
    ) -> tuple[tuple[NDArray[np.float64], NDArray[np.float64]], NDArray[np.int64]]:
        """Return lower and upper edges of the bins that are not empty, and the counts."""
        keys = np.array(self.keys, np.int64)
        lower, upper = (np.clip(_edge(each, self.shift), low, high) for each in (keys, keys + 1))
        if len(keys) > 1:
            # What marks "none" (-999, 0, -1) is often the least value, and fills a bin with only itself.
            upper[0], lower[-1] = low, high
        return (lower, upper), np.array(self.counts, np.int64)


def join(parts: Sequence[Sketch]) -> Sketch:
    """Return the sketch of several parts together."""
    parts = [part for part in parts if part.count] or list(parts[:1])
    first, last = min(part.first for part in parts), max(part.last for part in parts)
    shift = max(_shift_of(first, last), *(part.shift for part in parts))
    keys = np.concatenate([np.array(part.keys, np.int64) >> (shift - part.shift) for part in parts])
    counts = np.concatenate([np.array(part.counts, np.int64) for part in parts])
    return _sketch(
        sum(part.count for part in parts),
        sum((part.total for part in parts), Fraction(0)),
        sum((part.squares for part in parts), Fraction(0)),
        (first, last, shift),
        keys,
        counts,
    )


def _sketch(
    count: int,
    total: Fraction,
    squares: Fraction,
    extent: tuple[int, int, int],
    keys: NDArray[np.int64],
    counts: NDArray[np.int64],
) -> Sketch:
    """Return a sketch of bins of which some may be the same, and that may be too many."""
    first, last, shift = extent
    distinct, where = np.unique(keys, return_inverse=True)
    while len(distinct) > MOST:
        keys, shift = keys >> 1, shift + 1
        distinct, where = np.unique(keys, return_inverse=True)
    joined = np.zeros(len(distinct), np.int64)
    np.add.at(joined, where, counts)
    return Sketch(
        count=count,
        total=total,
        squares=squares,
        first=first,
        last=last,
        shift=shift,
        keys=distinct.tolist(),
        counts=joined.tolist(),
    )


def _shift_of(first: int, last: int) -> int:
    """Return the least shift at which less than `WINDOW` bins lie between two numbers."""
    shift = 0
    while (last >> shift) - (first >> shift) >= WINDOW:
        shift += 1
    return shift


class Tally:
    """Counts values, block after block; `sketch` gives what was seen."""

    def __init__(self) -> None:
        self._counts = np.zeros(0, np.int64)
        self._first, self._last, self._shift = 0, 0, 0
        self._around = 0.0
        self._count = 0
        self._moved, self._squared = Fraction(0), Fraction(0)

    def add(self, values: NDArray[Any], low: float, high: float) -> None:
        """Count finite values, shape (n,), n > 0, between their minimum ``low`` and maximum ``high``."""
        if not self._count:
            # Around a value of the sample no precision is lost where all of them are far from 0.
            self._around = float(values[0])
        if values.dtype.itemsize == 8:
            # Integers would be rounded to float32 in another way than `low` and `high` are.
            values = values.astype(np.float64, copy=False)
        self._make_room(*(int(key) for key in _keys(np.array([low, high], np.float32))))
        base = self._first >> self._shift
        keys_of = _keys_above_zero if low > 0 else _keys
        sums, squares = [], []
        for start in range(0, len(values), _BLOCK):
            block = values[start : start + _BLOCK]
            keys = (keys_of(block.astype(np.float32, copy=False)) >> self._shift).astype(np.intp)
            keys -= base
            self._counts += np.bincount(keys, minlength=len(self._counts))
            moved = block.astype(np.float64)
            moved -= self._around
            sums.append(float(moved.sum()))
            # Not a product of vectors: libraries for these use threads, and sum up in their own order.
            squares.append(float(np.square(moved, out=moved).sum()))
        self._moved += Fraction(fsum(sums))
        self._squared += Fraction(fsum(squares))
        self._count += len(values)

    def _make_room(self, first: int, last: int) -> None:
        """Make the bins reach from the least to the largest value, coarser where that takes too many."""
        base = self._first >> self._shift
        if self._count:
            first, last = min(first, self._first), max(last, self._last)
        shift = max(self._shift, _shift_of(first, last))
        moved = (np.arange(len(self._counts)) + base) >> (shift - self._shift)
        counts = np.zeros((last >> shift) - (first >> shift) + 1, np.int64)
        if self._count:
            np.add.at(counts, moved - (first >> shift), self._counts)
        self._first, self._last, self._shift, self._counts = first, last, shift, counts

    def sketch(self) -> Sketch:
        """Return the distribution of all values added."""
        n, centre = self._count, Fraction(self._around)
        filled = np.flatnonzero(self._counts)
        return _sketch(
            n,
            self._moved + n * centre,
            self._squared + 2 * centre * self._moved + n * centre * centre,
            (self._first, self._last, self._shift),
            filled + (self._first >> self._shift),
            self._counts[filled],
        )


def _keys(values: NDArray[np.float32]) -> NDArray[np.int32]:
    """Return each value as a whole number: they ascend with the values, and are negative with them."""
    # -0.0 has the bits of a negative number, and those of negative ones ascend as the values descend.
    bits = (values + np.float32(0)).view(np.int32)
    return bits ^ ((bits >> 31) & 0x7FFFFFFF)


def _keys_above_zero(values: NDArray[np.float32]) -> NDArray[np.int32]:
    """Return the same as `_keys` for values that all are above 0."""
    return np.ascontiguousarray(values).view(np.int32)


def _edge(keys: NDArray[np.int64], shift: int) -> NDArray[np.float64]:
    """Return the value at which a bin begins: the inverse of `_keys`, the same on both sides of 0."""
    bits = np.minimum(np.abs(keys) << shift, _INFINITE).astype(np.int32)
    edges = np.copysign(bits.view(np.float32).astype(np.float64), keys)
    largest = float(np.finfo(np.float32).max)
    finite: NDArray[np.float64] = np.nan_to_num(edges, posinf=largest, neginf=-largest)
    return finite
