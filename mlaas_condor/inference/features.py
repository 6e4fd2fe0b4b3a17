"""From raw events to the feature matrix, by what a bundle says: as the training did it, to the last bit."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mlaas_condor.data import features
from mlaas_condor.data.events import Column, Events, Jagged, part
from mlaas_condor.data.features import Columns, Matrix
from mlaas_condor.data.formula import ExpressionError, ShapeError
from mlaas_condor.data.selection import Selector, shorten
from mlaas_condor.data.source import FLAT, JAGGED
from mlaas_condor.errors import ModelFault, Problem, RequestError
from mlaas_condor.inference import events as raw
from mlaas_condor.training.description import FeaturesFile

_BLOCK_BYTES = 2**25  # of the matrix that is made at a time
_MOST = 100_000  # events of such a block: what is read of a file takes memory beside the matrix


class Features(NamedTuple):
    """The features of some events.

    Parameters
    ----------
    x
        Feature matrix of the events that the selection keeps, normalised, shape (events kept, columns),
        float32.
    kept
        Which of the events given these are, shape (events,).
    """

    x: Matrix
    kept: NDArray[np.bool_]


class Preparation:
    """Makes feature matrices.

    Parameters
    ----------
    file
        What the bundle says.
    folder
        The bundle, unpacked.
    trust
        Whether the user's ``preprocessing(rec)`` in it may be run.

    Raises
    ------
    ExpressionError
        An expression in it is not valid.
    """

    def __init__(self, file: FeaturesFile, folder: Path, trust: bool) -> None:
        self.file = file
        self.columns: Columns = file.layout()
        self._function = folder / file.function if file.function else None
        self._trust = trust
        self._selector = Selector(file.steps, [*file.flat, *file.jagged])
        for made in file.steps.definitions:
            _ = made.parsed
        for cut in file.steps.cuts:
            _ = cut.parsed
        self._loaded: Callable[[dict[str, Any]], Any] | None = None
        self._told = False

    def of_columns(self, events: Events, n: int) -> Features:
        """Return the features of ``n`` events, of which all branches needed are given.

        Raises
        ------
        RequestError
            Lists that an expression takes element by element have different lengths, or a branch is a
            list where the training had a number.
        """
        try:
            kept = self._selector.count(events, n).mask
            chosen = self._selector.take(events, kept)
        except (ExpressionError, ShapeError) as error:
            raise RequestError([Problem("events", str(error))]) from error
        self._check_kinds(chosen)
        fitted = self._cut_to_length(chosen)
        prepared = {name: self._as_stored(name, column) for name, column in fitted.items()}
        return Features(features.matrix(prepared, self.columns), kept)

    def of_events(self, events: Any) -> Iterator[Features]:
        """Yield the features of a mapping or an awkward array, block by block, at least once.

        Raises
        ------
        RequestError, ModelFault
            As `events.to_columns`, `of_columns` and `of_records`.
        """
        if self._function:
            yield self.of_records(_records(events))
            return
        columns, n = raw.to_columns(events, self.file.inputs, self.file.fill_missing)
        if n <= self.block:
            yield self.of_columns(columns, n)
            return
        for start in range(0, n, self.block):
            stop = min(start + self.block, n)
            block = {name: part(column, start, stop) for name, column in columns.items()}
            yield self.of_columns(block, stop - start)

    def of_records(self, records: Sequence[Mapping[str, Any]]) -> Features:
        """Return the features of records, each a dict, after the user's ``preprocessing(rec)``.

        Raises
        ------
        ModelFault
            The function is not trusted, fails, or leaves a value of another type than in the other records.
        RequestError
            As `of_columns`; also where a branch is missing after it.
        """
        path = self.function()
        # Not imported by those who have none: it pulls in pyarrow.
        from mlaas_condor.data import recordwise
        from mlaas_condor.data.tables import columns, inference

        self._loaded = self._loaded or recordwise.load(path)
        made = recordwise.apply(self._loaded, path, [dict(each) for each in records])
        schema = inference.schema_of(made)
        leaves, left_out = columns.survey(schema)
        wanted = {name: leaves[name] for name in self.file.inputs if name in leaves}
        problems = [
            Problem(f"events: {name}", left_out.get(name, f"is not there after {recordwise.FUNCTION}"))
            for name in self.file.inputs
            if name not in leaves and name not in self.file.fill_missing
        ]
        if problems and made:
            raise RequestError(problems)
        try:
            table = inference.to_table(made, columns.prune(schema, wanted.values()))
        except inference.Contradiction as error:
            raise ModelFault(f"{path.name}: at record {error.record}, {error.what}") from None
        found = {name: columns.column(table, leaf) for name, leaf in wanted.items()}
        for name, column in found.items():
            if self.file.inputs[name] == JAGGED and not isinstance(column, Jagged) and np.isnan(column).all():
                found[name] = raw.nothing(JAGGED, len(made))  # a list that is missing in all of them
        return self.of_columns(self.with_missing(found, len(made)), len(made))

    def function(self) -> Path:
        """Return the user's file with ``preprocessing(rec)``, which is about to be run.

        Raises
        ------
        ModelFault
            Nobody has said that it is to be trusted.
        """
        assert self._function is not None
        if not self._trust:
            raise ModelFault(
                f"{self._function.name}: raw events first go through preprocessing(rec) in this file of the "
                "bundle: load it with trust=True if you know where it comes from, or give features"
            )
        return self._function

    @property
    def block(self) -> int:
        """Events whose matrix is made at a time."""
        return max(1, min(_MOST, _BLOCK_BYTES // (4 * max(1, len(self.columns)))))

    @property
    def has_function(self) -> bool:
        """Whether raw events go through the user's ``preprocessing(rec)``."""
        return self._function is not None

    def with_missing(self, events: Events, n: int) -> dict[str, Column]:
        """Return ``n`` events with padding for branches that need not be there."""
        lacking = {
            name: raw.nothing(self.file.fill_missing.get(name) or self.file.inputs[name] or FLAT, n)
            for name in self.file.inputs
            if name not in events
        }
        return {**events, **lacking}

    def of_matrix(self, values: NDArray[Any]) -> Features:
        """Return features that are made already, with padding for NaN, shape (events, columns)."""
        with np.errstate(over="ignore"):
            x = np.ascontiguousarray(values, np.float32)
        if np.isnan(x.min(initial=0.0)):  # with no copy where there is none
            x = np.where(np.isnan(x), self.columns.padding, x)
        return Features(x, np.ones(len(x), np.bool_))

    def of_raw_matrix(self, values: NDArray[Any]) -> Features:
        """Return the features of a matrix of raw values in the order of the columns, NaN for padding."""
        events: dict[str, Column] = {}
        for name, start in self.columns.first.items():
            block = np.ascontiguousarray(values[:, start : start + self.columns.length[name]])
            if name in self.file.jagged:
                counts = np.full(len(block), block.shape[1], np.int64)
                events[name] = self._as_stored(name, Jagged(counts, block.reshape(-1)))
            else:
                events[name] = self._as_stored(name, block[:, 0])
        return Features(features.matrix(events, self.columns), np.ones(len(values), np.bool_))

    def _check_kinds(self, events: Events) -> None:
        problems = [
            Problem(name, "is a list of numbers here; in training it was one number an event")
            if name not in self.file.jagged
            else Problem(name, "is one number an event here; in training it was a list")
            for name, column in events.items()
            if isinstance(column, Jagged) != (name in self.file.jagged)
        ]
        if problems:
            raise RequestError(problems)

    def _cut_to_length(self, events: Events) -> dict[str, Column]:
        """Cut lists to what the training had; say so once."""
        fitted: dict[str, Column] = {}
        longer: list[str] = []
        for name, column in events.items():
            if isinstance(column, Jagged):
                most, longest = self.file.jagged[name], int(column.counts.max(initial=0))
                if longest > most:
                    longer.append(f"{name} ({longest}, trained with {most})")
                    column = shorten(column, most)
            fitted[name] = column
        if longer and not self._told:
            self._told = True
            warnings.warn(
                f"{self.file.name}: lists longer than any in training: only their first elements count: "
                + ", ".join(longer),
                stacklevel=_outside(),
            )
        return fitted

    def _as_stored(self, name: str, column: Column) -> Column:
        """Round to float32 first where the training did."""
        values = column.values if isinstance(column, Jagged) else column
        if self.file.scales[name].stored != "float32" or values.dtype == np.float32:
            return column
        with np.errstate(over="ignore", invalid="ignore"):
            values = values.astype(np.float32)
        return Jagged(column.counts, values) if isinstance(column, Jagged) else values


def _outside() -> int:
    """Return the level of the stack at which the package was called."""
    import inspect

    frame, level = inspect.currentframe(), 0
    while frame and str(frame.f_globals.get("__name__", "")).startswith("mlaas_condor."):
        frame, level = frame.f_back, level + 1
    return level


def _records(events: Any) -> list[dict[str, Any]]:
    """Return events as records; of a mapping, one where it holds a single event."""
    if raw.is_awkward(events):
        listed = events.to_list()
        return [listed] if isinstance(listed, dict) else list(listed)
    values = {name: _listed(value) for name, value in events.items()}
    if not all(isinstance(value, list) for value in values.values()):
        return [values]
    lengths = {len(value) for value in values.values()}
    if len(lengths) > 1:
        raise RequestError([Problem("events", f"the branches have different lengths: {sorted(lengths)}")])
    return [dict(zip(values, row, strict=True)) for row in zip(*values.values(), strict=True)]


def _listed(value: Any) -> Any:
    for convert in ("to_list", "tolist"):
        if hasattr(value, convert):
            return getattr(value, convert)()
    return list(value) if isinstance(value, tuple) else value
