"""The feature matrix: columns, padding, normalising.

Columns are the flat branches sorted by name, then the jagged branches sorted by name, each as
``length`` columns ``name_0 … name_{length-1}``. The raw matrix holds the values as they were in the file, as
float32, with NaN where an event has no such element; normalising is a separate, last step.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlaas_condor.data.inputs import Events, Jagged
from mlaas_condor.data.specs import BranchSpecs, Specs

Matrix = NDArray[np.float32]


@dataclass(frozen=True)
class Columns:
    """The columns of the feature matrix and the range of each.

    Parameters
    ----------
    names
        Column names, in order.
    first
        Branch to position of its first column.
    length
        Branch to number of its columns; a flat branch has one.
    low, high
        Minimum and maximum of each column's branch, float32, shape (columns,).
    """

    names: tuple[str, ...]
    first: dict[str, int]
    length: dict[str, int]
    low: NDArray[np.float32]
    high: NDArray[np.float32]

    @classmethod
    def of(cls, specs: Specs) -> Columns:
        """Lay out the columns that the specs ask for."""
        names: list[str] = []
        first: dict[str, int] = {}
        length: dict[str, int] = {}
        ranges: list[BranchSpecs] = []
        for name in sorted(specs.flat):
            first[name], length[name] = len(names), 1
            names.append(name)
            ranges.append(specs.flat[name])
        for name in sorted(specs.jagged):
            branch = specs.jagged[name]
            first[name], length[name] = len(names), branch.length
            names += [f"{name}_{i}" for i in range(branch.length)]
            ranges += [branch] * branch.length
        low = np.array([each.minimum or 0.0 for each in ranges], dtype=np.float32)
        high = np.array([each.maximum or 0.0 for each in ranges], dtype=np.float32)
        return cls(tuple(names), first, length, low, high)

    def __len__(self) -> int:
        return len(self.names)


def raw_matrix(events: Events, columns: Columns) -> Matrix:
    """Lay events out in columns.

    Returns
    -------
    array of shape (columns, events), float32
        By column, because that is how it is filled and compressed; padding is NaN.

    Raises
    ------
    ValueError
        A list is longer than the specs say.
    """
    first = events[next(iter(columns.first))]
    n = len(first.counts) if isinstance(first, Jagged) else len(first)
    matrix = np.full((len(columns), n), np.nan, dtype=np.float32)
    for name, start in columns.first.items():
        column = events[name]
        if isinstance(column, Jagged):
            _pad(column, matrix[start : start + columns.length[name]], name)
        else:
            matrix[start] = _as_float32(column)
    return matrix


def _as_float32(values: NDArray[Any]) -> NDArray[np.float32]:
    """Convert; what is beyond float32 becomes infinite, which the specs count as not finite."""
    with np.errstate(over="ignore", invalid="ignore"):
        return values.astype(np.float32, copy=False)


def _pad(column: Jagged, block: Matrix, name: str) -> None:
    """Write element i of every list into row i of ``block``, shape (longest, events)."""
    longest = int(column.counts.max(initial=0))
    if longest > len(block):
        raise ValueError(f"{name}: a list has {longest} elements, the specs say at most {len(block)}")
    offsets = np.cumsum(column.counts) - column.counts
    values = _as_float32(column.values)
    for i in range(longest):
        has = column.counts > i
        block[i, has] = values[offsets[has] + i]


def normalise(raw: Matrix, columns: Columns, padding: float | None = None) -> Matrix:
    """Normalise a raw matrix for training.

    ``(x - min) / (max - min)``, or ``x`` where max equals min, as MLaaS4HEP does.

    Parameters
    ----------
    raw
        Shape (columns, events), as of `raw_matrix`.
    columns
        Its layout.
    padding
        Value that padding takes before normalising; None: padding is 0 after it. NaN and infinities in
        the data count as padding.

    Returns
    -------
    array of shape (events, columns), float32, C order
    """
    with np.errstate(over="ignore", invalid="ignore"):
        span = columns.high - columns.low
    flat = span == 0
    low = np.where(flat, np.float32(0), columns.low)
    scale = np.where(flat, np.float32(1), span)
    matrix = raw if padding is None else np.where(np.isfinite(raw), raw, np.float32(padding))
    with np.errstate(invalid="ignore", over="ignore"):
        matrix = (matrix - low[:, None]) / scale[:, None]
    matrix[~np.isfinite(matrix)] = 0
    return np.ascontiguousarray(matrix.T)
