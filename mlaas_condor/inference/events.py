"""Raw events as users have them in Python, as columns: dicts of arrays or lists, awkward arrays, records."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlaas_condor.data.events import Column, Jagged
from mlaas_condor.data.source import FLAT, JAGGED
from mlaas_condor.errors import Problem, RequestError
from mlaas_condor.reading import nearest

_SHOWN = 4  # names that a message lists


class _NoNumbers(ValueError):
    """What was given for a branch is no number and no list of numbers; the message says what it is."""


@dataclass(frozen=True)
class _Given:
    """What was given for a branch.

    Parameters
    ----------
    depth
        0 for a number, 1 for a list, 2 for a list of lists.
    values
        The number or numbers, shape (n,); with depth 2 the lists.
    """

    depth: int
    values: NDArray[Any] | Jagged

    def __len__(self) -> int:
        return len(self.values.counts) if isinstance(self.values, Jagged) else len(self.values)


def to_columns(
    events: Any, inputs: Mapping[str, str | None], may_lack: Mapping[str, str]
) -> tuple[dict[str, Column], int]:
    """Return the branches needed, and how many events there are.

    Parameters
    ----------
    events
        Branch to its values: a mapping, or an awkward array or record. Either all branches hold a value an
        event, or all hold one event. Names with dots may be nested (``{"jet": {"pt": …}}``).
    inputs
        The branches needed, and whether each is flat or jagged, where that is known.
    may_lack
        Those that may be missing, which is padding.

    Raises
    ------
    RequestError
        With everything that is wrong: branches that are missing, hold no numbers, are lists where
        numbers are needed or the reverse, or have other lengths than the rest.
    """
    problems: list[Problem] = []
    given: dict[str, _Given] = {}
    missing: list[str] = []
    for name in inputs:
        try:
            given[name] = _look(_find(events, name))
        except KeyError:
            missing.append(name)
        except _NoNumbers as error:
            problems.append(Problem(f"events: {name}", str(error)))
    problems += _missing(events, [name for name in missing if name not in may_lack])
    one = _is_one_event(given, inputs, problems)
    problems += _unfit(given, inputs, one)
    if problems or (inputs and not given):
        raise RequestError(problems or [Problem("events", "hold none of the branches that the model needs")])
    columns = {name: _column(each, inputs[name] == JAGGED, one) for name, each in given.items()}
    n = _number(columns)
    for name in missing:
        columns[name] = nothing(may_lack[name], n)
    return columns, n


def as_branches(events: Any) -> Any:
    """Return what has values under the names of branches; None for what has none, as an array.

    Data frames and NumPy's structured arrays become a dict.
    """
    if isinstance(events, Mapping):
        return events
    if is_awkward(events):
        return events if events.fields else None
    if isinstance(events, np.ndarray):
        return {name: events[name] for name in events.dtype.names} if events.dtype.names else None
    return {str(name): events[name] for name in list(events.keys())} if hasattr(events, "keys") else None


def nothing(kind: str, n: int) -> Column:
    """Return a branch that is missing, for ``n`` events: NaN, or empty lists."""
    if kind == JAGGED:
        return Jagged(np.zeros(n, np.int64), np.zeros(0, np.float32))
    return np.full(n, np.nan, np.float32)


def is_awkward(value: Any) -> bool:
    """Tell whether this is an awkward array or record; awkward is not imported to find out."""
    awkward = sys.modules.get("awkward")
    return awkward is not None and isinstance(value, awkward.Array | awkward.Record)


def names(events: Any) -> list[str]:
    """Return the names of the branches, nested ones with dots."""
    found: list[str] = []
    for name in _fields(events):
        inner = events[name]
        nested = [f"{name}.{each}" for each in names(inner)] if _fields(inner) else [name]
        found += nested
    return found


def _fields(events: Any) -> list[str]:
    if isinstance(events, Mapping):
        return list(map(str, events))
    return list(events.fields) if is_awkward(events) else []


def _find(events: Any, name: str) -> Any:
    """Return what stands under a name, or under its part before a dot; KeyError where there is nothing."""
    if isinstance(events, Mapping) and name in events:
        return events[name]
    fields = _fields(events)
    if name in fields:
        return events[name]
    for field in fields:
        if name.startswith(f"{field}."):
            with suppress(KeyError):
                return _find(events[field], name.removeprefix(f"{field}."))
    raise KeyError(name)


def _missing(events: Any, missing: Sequence[str]) -> Iterable[Problem]:
    there = names(events) if missing else []
    for name in missing:
        yield Problem(f"events: {name}", "is missing", nearest(name, there))


def _look(value: Any) -> _Given:
    """Return the numbers in what was given for a branch."""
    if value is None:
        return _Given(0, np.full(1, np.nan))
    if isinstance(value, str | bytes):
        raise _NoNumbers("holds text")
    if isinstance(value, Mapping):
        raise _NoNumbers("holds a dict, not numbers")
    if is_awkward(value):
        return _look_into_awkward(value)
    if isinstance(value, list | tuple):
        return _look_into_list(value)
    array = value.filled(np.nan) if _is_masked(value) else np.asarray(value)
    if array.dtype == object and array.ndim:
        return _look_into_list(array.tolist())
    return _of_array(array)


def _is_masked(value: Any) -> bool:
    if not isinstance(value, np.ma.MaskedArray):
        return False
    if value.dtype.kind != "f":
        raise _NoNumbers("is a masked array of integers: fill it")
    return True


def _of_array(array: NDArray[Any]) -> _Given:
    numbers = _numbers(array)
    if numbers.ndim == 2:
        counts = np.full(len(numbers), numbers.shape[1], np.int64)
        return _Given(2, Jagged(counts, numbers.reshape(-1)))
    if numbers.ndim > 2:
        raise _NoNumbers(f"holds arrays of {'x'.join(map(str, numbers.shape[1:]))} numbers an event")
    return _Given(numbers.ndim, numbers.reshape(-1))


def _numbers(array: NDArray[Any]) -> NDArray[Any]:
    if array.dtype.kind in "biu" or array.dtype in (np.float16, np.float32, np.float64):
        return array
    if array.dtype.kind == "f":
        return array.astype(np.float64)
    if array.dtype == object and not any(isinstance(each, str | bytes) for each in array.flat):
        try:
            return array.astype(np.float64)  # of which None becomes NaN
        except (TypeError, ValueError, OverflowError):
            pass
    words = {"U": "text", "S": "text", "c": "complex numbers", "M": "times", "m": "times", "O": "no numbers"}
    raise _NoNumbers(f"holds {words.get(array.dtype.kind, str(array.dtype))}")


def _look_into_list(values: Sequence[Any]) -> _Given:
    try:
        array = np.asarray(values)
    except ValueError:
        array = None  # lists of different lengths
    if array is not None and (array.dtype != object or array.ndim > 1):
        return _of_array(array)
    if any(isinstance(each, str | bytes) for each in values):
        raise _NoNumbers("holds text")
    if array is not None and not any(hasattr(each, "__len__") for each in values):
        return _Given(1, _numbers(array))
    try:
        rows = [() if row is None else row for row in values]  # a missing list is empty
        counts = np.fromiter(map(len, rows), np.int64, len(rows))
    except TypeError:
        raise _NoNumbers("holds numbers and lists side by side") from None
    try:
        elements = np.asarray(list(chain.from_iterable(rows)))
    except ValueError:
        raise _NoNumbers("holds lists of lists") from None
    if elements.ndim > 1 or any(isinstance(row, str | Mapping) for row in rows):
        raise _NoNumbers("holds lists of lists" if elements.ndim > 1 else "holds text or dicts")
    return _Given(2, Jagged(counts, _numbers(elements)))


def _look_into_awkward(value: Any) -> _Given:
    import awkward as ak

    if _fields(value):
        raise _NoNumbers(f"holds records of {', '.join(_fields(value)[:_SHOWN])}")
    if value.ndim > 2:
        raise _NoNumbers("holds lists of lists")
    if value.ndim == 1:
        return _of_array(_plain(value))
    lists = ak.fill_none(value, [], axis=0)
    counts = np.asarray(ak.num(lists, axis=1), np.int64)
    return _Given(2, Jagged(counts, _plain(ak.flatten(lists, axis=1))))


def _plain(value: Any) -> NDArray[Any]:
    """Return awkward's numbers as NumPy's, missing ones as NaN."""
    import awkward as ak

    kind = ak.type(value).content
    if isinstance(kind, ak.types.OptionType | ak.types.UnknownType):
        value = ak.values_astype(ak.fill_none(value, np.nan), np.float64)
    try:
        return _numbers(np.asarray(ak.to_numpy(value)))
    except (TypeError, ValueError) as error:
        raise _NoNumbers(f"holds {kind}, no numbers") from error


def _is_one_event(
    given: Mapping[str, _Given], inputs: Mapping[str, str | None], problems: list[Problem]
) -> bool:
    """Tell whether one event was given, or several; a problem where some branches say so and others not."""
    one, many = [], []
    for name, each in given.items():
        if each.depth == 0:
            one.append(name)
        elif each.depth == 2 or inputs[name] == FLAT:
            many.append(name)
        elif inputs[name] == JAGGED and len(each):
            one.append(name)
    if one and many:
        problems.append(
            Problem(
                "events",
                f"{_some(one)} hold one event, {_some(many)} several",
                "give an array an event of numbers, and one of lists for jagged branches",
            )
        )
    return bool(one) and not many


def _unfit(given: Mapping[str, _Given], inputs: Mapping[str, str | None], one: bool) -> Iterable[Problem]:
    """Yield what is a list where a number is needed, or the reverse, and lengths that differ."""
    lengths: dict[int, list[str]] = {}
    for name, each in given.items():
        if inputs[name] == FLAT and each.depth == 2:
            yield Problem(f"events: {name}", "holds lists; the model was trained with one number an event")
        elif inputs[name] == JAGGED and each.depth == 0:
            yield Problem(f"events: {name}", "is a number; the model was trained with a list an event")
        elif not one and each.depth:
            lengths.setdefault(len(each), []).append(name)
    if len(lengths) > 1:
        found = ", ".join(f"{n} in {_some(branches)}" for n, branches in lengths.items())
        yield Problem("events", f"the branches have different numbers of events: {found}")


def _column(given: _Given, jagged: bool, one: bool) -> Column:
    values = given.values
    if isinstance(values, Jagged):
        return values
    if given.depth == 1 and (one or jagged):
        # All of one event; or, of no event, no list.
        counts = np.full(1, len(values), np.int64) if one else np.zeros(0, np.int64)
        return Jagged(counts, values)
    return values


def _number(columns: Mapping[str, Column]) -> int:
    first = next(iter(columns.values()))
    return len(first.counts) if isinstance(first, Jagged) else len(first)


def _some(branches: Sequence[str]) -> str:
    more = f" and {len(branches) - _SHOWN} more" if len(branches) > _SHOWN else ""
    return ", ".join(branches[:_SHOWN]) + more
