"""What an expression is made of, and how its parts are evaluated: on whole columns, in float64."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlaas_condor.data.events import Column, Events, Jagged, Shapes
from mlaas_condor.data.functions import Reduction
from mlaas_condor.data.source import FLAT, JAGGED

NUMBER, UNKNOWN = "number", "unknown"

_SHOWN = 100  # characters of the expression in an error


class ExpressionError(ValueError):
    """An expression cannot be used.

    Parameters
    ----------
    text
        The expression.
    position
        Where in it, in characters from 0; where it ends if something is missing there.
    message, hint
        What is wrong; what to do about it, empty where that is plain.
    """

    def __init__(self, text: str, position: int, message: str, hint: str = "") -> None:
        super().__init__(text, position, message, hint)
        self.text = text
        self.position = position
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        start = max(0, min(self.position - _SHOWN // 2, len(self.text) - _SHOWN))
        line = "".join(each if each.isprintable() else " " for each in self.text[start : start + _SHOWN])
        before, after = "…" * (start > 0), "…" * (start + _SHOWN < len(self.text))
        caret = " " * (len(before) + self.position - start) + "^"
        hint = f" ({self.hint})" if self.hint else ""
        return f"{self.message}{hint}\n  {before}{line}{after}\n  {caret}"


class ShapeError(ValueError):
    """Two lists that an expression takes element by element are of different lengths.

    Parameters
    ----------
    left, right
        The two parts of the expression.
    event
        First event where they differ, counted from 0 in the events that were given.
    lengths
        Length of either list there.
    """

    def __init__(self, left: str, right: str, event: int, lengths: tuple[int, int]) -> None:
        super().__init__(left, right, event, lengths)
        self.left = left
        self.right = right
        self.event = event
        self.lengths = lengths

    def __str__(self) -> str:
        return (
            f"lists of different lengths: {self.left!r} has {self.lengths[0]} in event {self.event}, "
            f"{self.right!r} has {self.lengths[1]}"
        )


class Branches:
    """The branches of some events as expressions take them: float64 or booleans, each converted once."""

    def __init__(self, events: Events) -> None:
        self._events = events
        self._converted: dict[str, Column] = {}
        self._counts: list[NDArray[np.int64]] = []
        self.shapes = Shapes()

    def __getitem__(self, name: str) -> Column:
        if name not in self._converted:
            column = self._events[name]
            if isinstance(column, Jagged):
                self._converted[name] = Jagged(self._same(column.counts), _converted(column.values))
            else:
                self._converted[name] = _converted(column)
        return self._converted[name]

    def _same(self, counts: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the very same array for equal counts, so that they are compared only once."""
        for known in self._counts:
            if counts is known or np.array_equal(counts, known):
                return known
        self._counts.append(counts)
        return counts


def _converted(values: NDArray[Any]) -> NDArray[Any]:
    return values if values.dtype == np.bool_ else values.astype(np.float64, copy=False)


@dataclass(frozen=True)
class Part(ABC):
    """A part of an expression.

    Parameters
    ----------
    text, position
        As it was written, and where in the expression.
    boolean
        Whether it gives true or false whatever its branches hold.
    """

    text: str
    position: int
    boolean: bool

    @abstractmethod
    def kind(self, kinds: Mapping[str, str]) -> str:
        """Return `FLAT` or `JAGGED`, `NUMBER` for a constant, `UNKNOWN` where its branches' kinds are."""

    @abstractmethod
    def value(self, branches: Branches) -> Column:
        """Return its value; of shape () for a constant."""


@dataclass(frozen=True)
class Constant(Part):
    """A constant, an array of shape ()."""

    number: NDArray[Any]

    def kind(self, kinds: Mapping[str, str]) -> str:
        """Return `NUMBER`."""
        return NUMBER

    def value(self, branches: Branches) -> Column:
        """Return the constant."""
        return self.number


@dataclass(frozen=True)
class Read(Part):
    """A branch."""

    name: str

    def kind(self, kinds: Mapping[str, str]) -> str:
        """Return the kind of the branch."""
        return kinds[self.name]

    def value(self, branches: Branches) -> Column:
        """Return the branch."""
        return branches[self.name]


@dataclass(frozen=True)
class Elementwise(Part):
    """A function of one or more parts, element by element where there are lists."""

    call: Callable[..., NDArray[Any]]
    arguments: Sequence[Part]

    def kind(self, kinds: Mapping[str, str]) -> str:
        """Return the kind that all arguments together have."""
        found = [each.kind(kinds) for each in self.arguments]
        return next(kind for kind in (JAGGED, UNKNOWN, FLAT, NUMBER) if kind in found)

    def value(self, branches: Branches) -> Column:
        """Return what the function gives."""
        values = [each.value(branches) for each in self.arguments]
        counts = self._counts(values)
        if counts is None:
            return self.call(*values)
        return Jagged(counts, self.call(*(_elements(each, counts) for each in values)))

    def _counts(self, values: Sequence[Column]) -> NDArray[np.int64] | None:
        """Return the lengths that all lists have; None where there are no lists."""
        lists = [
            (part, each)
            for part, each in zip(self.arguments, values, strict=True)
            if isinstance(each, Jagged)
        ]
        if not lists:
            return None
        (left, first), *others = lists
        for right, other in others:
            if other.counts is not first.counts:  # `Branches` has made equal ones the same
                event = int(np.flatnonzero(first.counts != other.counts)[0])
                lengths = int(first.counts[event]), int(other.counts[event])
                raise ShapeError(left.text, right.text, event, lengths)
        return first.counts


def _elements(column: Column, counts: NDArray[np.int64]) -> NDArray[Any]:
    """Return a value for each element of all lists; a constant as it is."""
    if isinstance(column, Jagged):
        return column.values
    return np.repeat(column, counts) if column.ndim else column


@dataclass(frozen=True)
class OfList(Part):
    """A function of the list of each event; ``whole`` is the expression that it is in."""

    whole: str
    name: str
    reduction: Reduction
    argument: Part

    def kind(self, kinds: Mapping[str, str]) -> str:
        """Return `FLAT`; a number in place of the list is an error."""
        if self.argument.kind(kinds) not in (JAGGED, UNKNOWN):
            message = f"{self.name}() takes the list of an event, {self.argument.text!r} is one number"
            raise ExpressionError(self.whole, self.argument.position, message)
        return FLAT

    def value(self, branches: Branches) -> Column:
        """Return one number an event."""
        lists = self.argument.value(branches)
        assert isinstance(lists, Jagged)  # kind() has seen to it
        return self.reduction.call(lists.values, lists.counts, branches.shapes.offsets(lists.counts))
