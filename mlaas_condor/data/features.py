"""The feature matrix: columns, padding, normalising.

Columns are the flat branches sorted by name, then the jagged branches sorted by name, each as
``length`` columns ``name_0 … name_{length-1}``. Where an event has no such element, or the value is not
finite, the matrix has the padding.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mlaas_condor.data.events import Column, Events, Jagged, Shapes, number_of
from mlaas_condor.data.sketch import QUANTILES
from mlaas_condor.data.specs import BranchSpecs, Specs

Matrix = NDArray[np.float32]
Normalise = Literal["minmax", "standard", "robust", "none"]
_LARGEST = float(np.finfo(np.float32).max)
_ROWS = 256  # rows filled at a time from flat branches: so many of 500 branches fit into the cache
_LOW, _MIDDLE, _HIGH = (QUANTILES.index(share) for share in (0.25, 0.5, 0.75))


class Scale(NamedTuple):
    """``(x - centre) / width``, in which type it is worked out, and what padding becomes."""

    centre: float
    width: float
    dtype: str
    padding: float

    @classmethod
    def of(cls, branch: BranchSpecs, how: Normalise, padding: float | None) -> Scale:
        """Return the scale of a branch.

        ``minmax`` is MLaaS4HEP's: 0 at the minimum, 1 at the maximum; ``standard`` has mean 0 and standard
        deviation 1; ``robust`` has median 0 and interquartile range 1, or standard deviation 1 where
        the quartiles are too close to one another to be told apart. Where the width would be 0, as for a
        constant branch, or is not known, values stay as they are.
        """
        low, high = branch.minimum or 0.0, branch.maximum or 0.0
        centre, width = low, high - low
        if how == "standard":
            centre, width = branch.mean or 0.0, branch.standard_deviation or 0.0
        elif how == "robust":
            at = branch.quantiles or [0.0] * len(QUANTILES)
            centre, width = at[_MIDDLE], at[_HIGH] - at[_LOW]
            if width <= branch.resolution * max(abs(at[_LOW]), abs(at[_HIGH])):
                # The quartiles cannot be told apart: most values are one, or the branch is far from 0.
                width = branch.standard_deviation or 0.0
        # Differences of large numbers would overflow in float32, and a small range may vanish.
        large = max(-low, high) > _LARGEST / 4
        dtype = "float64" if large or branch.wide else "float32"
        if how == "minmax" and dtype == "float32":
            # As the values are rounded, so that none falls outside [0, 1].
            width = float(np.float32(high) - np.float32(low))
        if how == "none" or not np.dtype(dtype).type(width) > 0:
            centre, width = 0.0, 1.0
        filled = 0.0 if padding is None else (padding - centre) / width
        return cls(centre, width, dtype, max(-_LARGEST, min(filled, _LARGEST)))


@dataclass(frozen=True)
class Columns:
    """The columns of the feature matrix, and how each branch is normalised.

    Parameters
    ----------
    names
        Column names, in order.
    first
        Branch to position of its first column.
    length
        Branch to number of its columns; a flat branch has one.
    scales
        Branch to how it is normalised.
    """

    names: tuple[str, ...]
    first: Mapping[str, int]
    length: Mapping[str, int]
    scales: Mapping[str, Scale]

    @classmethod
    def of(cls, specs: Specs, normalise: Normalise = "minmax", padding: float | None = None) -> Columns:
        """Lay out the columns that the specs ask for.

        Parameters
        ----------
        specs
            What was measured.
        normalise
            How values are normalised.
        padding
            Value that padding takes before normalising; None: it is 0 after it.
        """
        names: list[str] = []
        first: dict[str, int] = {}
        length: dict[str, int] = {}
        for name in sorted(specs.flat):
            first[name], length[name] = len(names), 1
            names.append(name)
        for name in sorted(specs.jagged):
            first[name], length[name] = len(names), specs.jagged[name].length
            names += [f"{name}_{i}" for i in range(length[name])]
        both = {**specs.flat, **specs.jagged}
        scales = {name: Scale.of(branch, normalise, padding) for name, branch in both.items()}
        return cls(tuple(names), first, length, scales)

    def __len__(self) -> int:
        return len(self.names)

    @property
    def padding(self) -> Matrix:
        """What each column has where there is no value, shape (columns,)."""
        row = np.zeros(len(self), np.float32)
        for name, start in self.first.items():
            row[start : start + self.length[name]] = self.scales[name].padding
        return row


def matrix(events: Events, columns: Columns, out: Matrix | None = None) -> Matrix:
    """Lay events out in columns, normalised.

    Parameters
    ----------
    events
        All branches of the columns.
    columns
        The layout.
    out
        Where to write, shape (events, columns), C order; a new array where not given.

    Returns
    -------
    array of shape (events, columns), float32, C order

    Raises
    ------
    ValueError
        A list is longer than its columns.
    """
    shape = (number_of(events), len(columns))
    filled = out if out is not None else np.empty(shape, np.float32)
    flat = [name for name in columns.first if not isinstance(events[name], Jagged)]
    filled[:, len(flat) :] = columns.padding[len(flat) :]
    if flat:
        _fill_flat(
            [np.asarray(events[name]) for name in flat], [columns.scales[name] for name in flat], filled
        )
    _fill_jagged(events, columns, filled)
    return filled


def _fill_flat(branches: Sequence[NDArray[Any]], scales: Sequence[Scale], filled: Matrix) -> None:
    """Fill the first columns: block by block, since each write of one branch alone touches every row."""
    plain = [s if s.dtype == "float32" else s._replace(centre=0.0, width=1.0) for s in scales]
    centre, width, padding = (
        np.array([getattr(scale, name) for scale in plain], np.float32)[:, None]
        for name in ("centre", "width", "padding")
    )
    wide = {i: _scaled(branches[i], scale) for i, scale in enumerate(scales) if scale.dtype == "float64"}
    block = np.empty((len(branches), _ROWS), np.float32)
    with np.errstate(over="ignore", invalid="ignore"):
        for start in range(0, len(filled), _ROWS):
            part = block[:, : len(filled) - start]
            for row, branch in zip(part, branches, strict=True):
                row[:] = branch[start : start + _ROWS]
            part -= centre
            part /= width
            for i, scaled in wide.items():
                part[i] = scaled[start : start + _ROWS]
            finite = np.isfinite(part)
            if not finite.all():
                np.copyto(part, padding, where=~finite)
            filled[start : start + _ROWS, : len(branches)] = part.T


def _fill_jagged(events: Events, columns: Columns, filled: Matrix) -> None:
    width = filled.shape[1]
    flat = filled.reshape(-1)
    shapes = Shapes()
    places: dict[int, NDArray[np.int64]] = {}
    for name, start in columns.first.items():
        column = events[name]
        if not isinstance(column, Jagged) or not len(column.values):
            continue
        longest = int(column.counts.max())
        if longest > columns.length[name]:
            raise ValueError(
                f"{name}: a list has {longest} elements, the specs say at most {columns.length[name]}"
            )
        offsets = shapes.offsets(column.counts)
        if id(offsets) not in places:
            # Of the first element of each list, less where it stands among all values.
            of_lists = np.arange(len(column.counts)) * width - offsets[:-1]
            places[id(offsets)] = np.repeat(of_lists, column.counts) + np.arange(len(column.values))
        flat[start:][places[id(offsets)]] = _scaled(column.values, columns.scales[name])


def _scaled(values: NDArray[Any], scale: Scale) -> NDArray[np.float32]:
    """Normalise values of any shape; those that are not finite as float32 become the padding."""
    with np.errstate(over="ignore", invalid="ignore"):
        scaled = values.astype(scale.dtype)
        if scale.dtype == "float64":  # what is beyond float32 may come back into it
            scaled[~_finite(values)] = np.nan
        scaled -= scaled.dtype.type(scale.centre)
        scaled /= scaled.dtype.type(scale.width)
        result = scaled.astype(np.float32, copy=False)
    finite = np.isfinite(result)
    if not finite.all():
        result[~finite] = scale.padding
    return result


def mask(events: Events, columns: Columns) -> NDArray[np.bool_]:
    """Return where the matrix of these events has padding, shape (events, columns)."""
    found = np.ones((number_of(events), len(columns)), np.bool_)
    for name, start in columns.first.items():
        column: Column = events[name]
        if isinstance(column, Jagged):
            block = found[:, start : start + columns.length[name]]
            has = np.arange(columns.length[name]) < column.counts[:, None]
            block[has] = ~_finite(column.values)
        else:
            found[:, start] = ~_finite(column)
    return found


def _finite(values: NDArray[Any]) -> NDArray[np.bool_]:
    with np.errstate(over="ignore", invalid="ignore"):
        return np.isfinite(values.astype(np.float32))
