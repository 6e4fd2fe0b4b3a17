"""Operators and functions of expressions: of each number, or of the list of each event.

All take and give float64 or booleans; booleans count as 0 and 1 where numbers are needed, and numbers that
are not 0 as true where booleans are (NaN too, as everywhere in NumPy).
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[Any]
Counts = NDArray[np.int64]

CONSTANTS = {"pi": np.pi, "e": np.e, "inf": np.inf, "nan": np.nan}


@dataclass(frozen=True)
class Function:
    """A function of one or more numbers.

    Parameters
    ----------
    call
        Takes arrays that broadcast, gives one array.
    least, most
        How many arguments it takes; None: any number from ``least`` on.
    boolean
        Whether it gives true or false.
    """

    call: Callable[..., Numbers]
    least: int
    most: int | None
    boolean: bool = False


@dataclass(frozen=True)
class Reduction:
    """A function of one list, which gives one number.

    Parameters
    ----------
    call
        Takes the values of all lists, their lengths, shape (events,), and their offsets,
        shape (events + 1,); gives an array of shape (events,).
    boolean
        Whether it gives true or false.
    """

    call: Callable[[Numbers, Counts, Counts], Numbers]
    boolean: bool = False


def as_numbers(values: Numbers) -> Numbers:
    """Return the values as float64, without a copy where they are."""
    return values.astype(np.float64, copy=False)


def as_booleans(values: Numbers) -> Numbers:
    """Return where the values are not 0, without a copy where they are booleans."""
    return values if values.dtype == np.bool_ else np.not_equal(values, 0)


def power(base: Numbers, exponent: Numbers) -> Numbers:
    """Return ``base ** exponent``; squares, by far the most frequent, at the price of a product."""
    if exponent.ndim == 0 and exponent == 2:
        return np.square(base)
    return np.power(base, exponent)


def of_numbers(call: Callable[..., Any]) -> Callable[..., Numbers]:
    """Return the function with all its arguments made float64 first."""
    return lambda *arguments: call(*(as_numbers(each) for each in arguments))


def of_booleans(call: Callable[..., Any]) -> Callable[..., Numbers]:
    """Return the function of two booleans as one of any number of booleans, or as it is for one."""
    return lambda first, *others: (
        reduce(call, map(as_booleans, others), as_booleans(first)) if others else call(as_booleans(first))
    )


OPERATORS: dict[type[ast.operator], Callable[..., Any]] = {
    ast.Add: np.add,
    ast.Sub: np.subtract,
    ast.Mult: np.multiply,
    ast.Div: np.true_divide,
    ast.FloorDiv: np.floor_divide,
    ast.Mod: np.mod,
    ast.Pow: power,
}
LOGICAL: dict[type[ast.AST], Callable[..., Any]] = {
    ast.And: np.logical_and,
    ast.Or: np.logical_or,
    ast.BitAnd: np.logical_and,
    ast.BitOr: np.logical_or,
    ast.Not: np.logical_not,
    ast.Invert: np.logical_not,
}
SIGNS: dict[type[ast.unaryop], Callable[..., Any]] = {ast.UAdd: np.positive, ast.USub: np.negative}
COMPARISONS: dict[type[ast.cmpop], Callable[..., Any]] = {
    ast.Lt: np.less,
    ast.LtE: np.less_equal,
    ast.Gt: np.greater,
    ast.GtE: np.greater_equal,
    ast.Eq: np.equal,
    ast.NotEq: np.not_equal,
}


def chain(comparisons: Sequence[Callable[..., Any]]) -> Callable[..., NDArray[Any]]:
    """Return ``a < b <= c`` as a function of a, b and c."""

    def compare(*values: NDArray[Any]) -> NDArray[Any]:
        pairs = zip(comparisons, values, values[1:], strict=False)
        first, *others = (comparison(left, right) for comparison, left, right in pairs)
        return of_booleans(np.logical_and)(first, *others) if others else first

    return of_numbers(compare)


def _folded(ufunc: np.ufunc) -> Callable[..., Numbers]:
    """Return a function of two numbers as one of two or more."""
    return of_numbers(lambda *arguments: reduce(ufunc, arguments))


def _where(condition: Numbers, yes: Numbers, no: Numbers) -> Numbers:
    return np.where(as_booleans(condition), yes, no)


_ONE: dict[str, Callable[..., Any]] = {
    "abs": np.abs, "absolute": np.abs, "fabs": np.abs, "sign": np.sign,
    "sqrt": np.sqrt, "cbrt": np.cbrt, "square": np.square,
    "exp": np.exp, "exp2": np.exp2, "expm1": np.expm1,
    "log": np.log, "log2": np.log2, "log10": np.log10, "log1p": np.log1p,
    "sin": np.sin, "cos": np.cos, "tan": np.tan,
    "arcsin": np.arcsin, "arccos": np.arccos, "arctan": np.arctan,
    "asin": np.arcsin, "acos": np.arccos, "atan": np.arctan,
    "sinh": np.sinh, "cosh": np.cosh, "tanh": np.tanh,
    "arcsinh": np.arcsinh, "arccosh": np.arccosh, "arctanh": np.arctanh,
    "asinh": np.arcsinh, "acosh": np.arccosh, "atanh": np.arctanh,
    "floor": np.floor, "ceil": np.ceil, "trunc": np.trunc, "round": np.rint, "rint": np.rint,
    "degrees": np.degrees, "rad2deg": np.degrees, "radians": np.radians, "deg2rad": np.radians,
}  # fmt: skip
_TWO: dict[str, Callable[..., Any]] = {
    "arctan2": np.arctan2, "atan2": np.arctan2, "hypot": np.hypot, "power": power,
    "mod": np.mod, "fmod": np.fmod, "heaviside": np.heaviside,
}  # fmt: skip
_TESTS = {"isnan": np.isnan, "isinf": np.isinf, "isfinite": np.isfinite}
_EXTREMES = {"minimum": np.minimum, "maximum": np.maximum, "min": np.minimum, "max": np.maximum}

FUNCTIONS: dict[str, Function] = {
    **{name: Function(of_numbers(call), 1, 1) for name, call in _ONE.items()},
    **{name: Function(of_numbers(call), 2, 2) for name, call in _TWO.items()},
    **{name: Function(of_numbers(call), 1, 1, boolean=True) for name, call in _TESTS.items()},
    **{name: Function(_folded(ufunc), 2, None) for name, ufunc in _EXTREMES.items()},
    "clip": Function(of_numbers(np.clip), 3, 3),
    "where": Function(_where, 3, 3),
}


def _each_list(ufunc: np.ufunc, empty: float | bool) -> Callable[[Numbers, Counts, Counts], Numbers]:
    """Return how to fold every list with a function of two numbers; ``empty`` is what an empty list gives."""

    def fold(values: Numbers, counts: Counts, offsets: Counts) -> Numbers:
        folded = np.full(len(counts), empty)
        filled = counts > 0
        if len(values):
            # Empty lists are left out: reduceat would give them the value that follows. Without them the
            # start of each list is the end of the one before.
            folded[filled] = ufunc.reduceat(values, offsets[:-1][filled])
        return folded

    return fold


_sum = _each_list(np.add, 0.0)


def _mean(values: Numbers, counts: Counts, offsets: Counts) -> Numbers:
    mean: Numbers = _sum(values, counts, offsets) / counts
    return mean


def _std(values: Numbers, counts: Counts, offsets: Counts) -> Numbers:
    """Return the standard deviation as ``np.std`` has it: divided by the length of the list."""
    apart = values - np.repeat(_mean(values, counts, offsets), counts)
    deviation: Numbers = np.sqrt(_mean(apart * apart, counts, offsets))
    return deviation


def _count(values: Numbers, counts: Counts, offsets: Counts) -> Numbers:
    return counts.astype(np.float64)


def _first(values: Numbers, counts: Counts, offsets: Counts) -> Numbers:
    first = np.full(len(counts), np.nan)
    filled = counts > 0
    first[filled] = values[offsets[:-1][filled]]
    return first


def _numeric(call: Callable[[Numbers, Counts, Counts], Numbers]) -> Reduction:
    return Reduction(lambda values, counts, offsets: call(as_numbers(values), counts, offsets))


def _logical(call: Callable[[Numbers, Counts, Counts], Numbers]) -> Reduction:
    return Reduction(lambda values, counts, offsets: call(as_booleans(values), counts, offsets), boolean=True)


LENGTHS = ("count", "len", "length")

REDUCTIONS: dict[str, Reduction] = {
    "sum": _numeric(_sum),
    "prod": _numeric(_each_list(np.multiply, 1.0)),
    "mean": _numeric(_mean),
    "std": _numeric(_std),
    "min": _numeric(_each_list(np.minimum, np.nan)),
    "max": _numeric(_each_list(np.maximum, np.nan)),
    "first": _numeric(_first),
    **{name: _numeric(_count) for name in LENGTHS},
    "any": _logical(_each_list(np.logical_or, False)),
    "all": _logical(_each_list(np.logical_and, True)),
}

NAMES = frozenset(FUNCTIONS) | frozenset(REDUCTIONS)


def arguments_of(name: str) -> tuple[int, int | None]:
    """Return the least and the largest number of arguments of a function; None: any number."""
    function = FUNCTIONS.get(name)
    least = 1 if name in REDUCTIONS or function is None else function.least
    return least, function.most if function else 1
