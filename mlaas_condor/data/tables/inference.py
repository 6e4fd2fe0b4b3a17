"""The types of records that do not say them: found in the first ones, kept to in all others."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow import types

SAMPLE = 1000
"""Entries whose values tell the types of all."""

EXACT = 2**53
"""From here on float64 cannot tell an integer from its neighbours."""

_INTEGERS = (int, np.integer)
_FLOATS = (float, np.floating, Decimal)
_TRUTHS = (bool, np.bool_)
_LISTS = (list, tuple, np.ndarray)


class Contradiction(ValueError):
    """A value is of another type than the first records say.

    Parameters
    ----------
    record
        Its position among the records given.
    what
        Its name, the value and what was expected.
    """

    def __init__(self, record: int, what: str) -> None:
        self.record, self.what = record, what
        super().__init__(f"record {record}: {what}")


class Seen:
    """What the values of one field have been so far."""

    def __init__(self) -> None:
        self.kinds: set[str] = set()
        self.values = self.records = 0
        self.low = self.high = 0
        self.fields: dict[str, Seen] = {}
        self.elements: Seen | None = None

    def add(self, value: Any) -> None:
        """Take one more value into account."""
        if value is None:
            return
        self.values += 1
        if isinstance(value, _TRUTHS):
            self.kinds.add("truth values")
        elif isinstance(value, _INTEGERS):
            self.kinds.add("integers")
            self.low, self.high = min(self.low, int(value)), max(self.high, int(value))
        elif isinstance(value, _FLOATS):
            self.kinds.add("numbers")
        elif isinstance(value, Mapping):
            self.kinds.add("records")
            self.records += 1
            for name, inner in value.items():
                self.fields.setdefault(str(name), Seen()).add(inner)
        elif isinstance(value, _LISTS):
            self.kinds.add("lists")
            self.elements = self.elements or Seen()
            for inner in value:
                self.elements.add(inner)
        else:
            self.kinds.add("text" if isinstance(value, str) else type(value).__name__)

    def type(self) -> Any:
        """Return Arrow's type for all of them; a union where they have nothing in common."""
        if self.kinds == {"truth values"}:
            return pa.bool_()
        if self.kinds <= {"truth values", "integers", "numbers"}:
            if not self._wide:
                return pa.float64()
            return pa.int64() if self.high < 2**63 else pa.uint64()
        if self.kinds == {"records"}:
            return pa.struct([each.field(name, self.records) for name, each in self.fields.items()])
        if self.kinds == {"lists"} and self.elements is not None:
            return pa.list_(self.elements.field("item", self.elements.values))
        if self.kinds == {"text"}:
            return pa.string()
        return pa.sparse_union([pa.field(kind, pa.null()) for kind in sorted(self.kinds)])

    @property
    def _wide(self) -> bool:
        fits = (self.low >= -(2**63) and self.high < 2**63) or (self.low >= 0 and self.high < 2**64)
        return self.kinds == {"integers"} and fits and (self.high >= EXACT or self.low <= -EXACT)

    def field(self, name: str, whole: int) -> Any:
        """Return Arrow's field of a record; integers that must stay so, with none of ``whole`` missing."""
        if self._wide and self.values < whole:
            return pa.field(name, pa.float64())
        return pa.field(name, self.type(), nullable=not self._wide)


def schema_of(records: Iterable[Mapping[str, Any]]) -> pa.Schema:
    """Return the schema that these first records show."""
    seen = Seen()
    for record in records:
        seen.add(record)
    return pa.schema([each.field(name, seen.records) for name, each in seen.fields.items()])


def to_table(records: Sequence[Mapping[str, Any]], schema: pa.Schema, *, typed: bool = False) -> pa.Table:
    """Make a table of those fields of the records that the schema has.

    Parameters
    ----------
    typed
        The records are known to be of these types.

    Raises
    ------
    Contradiction
        A value does not fit.
    """
    # Arrow cuts 1.5 to the integer 1 without a word.
    if typed or not any(_has_integers(field.type) for field in schema):
        try:
            return pa.Table.from_pylist(list(records), schema=schema)
        except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError):
            pass  # integers that float64 holds only roughly, or a value of another type: see below
    return pa.Table.from_pylist(
        [_fit(record, schema, number) for number, record in enumerate(records)], schema
    )


def _has_integers(kind: Any) -> bool:
    if types.is_struct(kind):
        return any(_has_integers(field.type) for field in kind.fields)
    return _has_integers(kind.value_type) if types.is_nested(kind) else bool(types.is_integer(kind))


def _fit(record: Mapping[str, Any], fields: Iterable[Any], number: int) -> dict[str, Any]:
    return {field.name: _fitted(record.get(field.name), field, number, field.name) for field in fields}


def _fitted(value: Any, field: Any, number: int, name: str) -> Any:
    """Return a value as Arrow takes it for a field."""
    kind = field.type
    if value is None and (field.nullable or not types.is_integer(kind)):
        return None
    if types.is_struct(kind) and isinstance(value, Mapping):
        return {
            each.name: _fitted(value.get(each.name), each, number, f"{name}.{each.name}")
            for each in kind.fields
        }
    if types.is_list(kind) and isinstance(value, _LISTS):
        return [_fitted(each, kind.value_field, number, name) for each in value]
    if types.is_floating(kind) and isinstance(value, (*_INTEGERS, *_FLOATS, *_TRUTHS)):
        return _float(value)
    if types.is_boolean(kind) and isinstance(value, _TRUTHS):
        return bool(value)
    if types.is_integer(kind) and isinstance(value, _INTEGERS) and not isinstance(value, _TRUTHS):
        low, high = (0, 2**64) if types.is_unsigned_integer(kind) else (-(2**63), 2**63)
        if low <= value < high:
            return int(value)
    elif types.is_decimal(kind) and isinstance(value, Decimal):
        return value
    text = "missing" if value is None else repr(value)
    raise Contradiction(
        number, f"{name} is {text[:80]} where {_words(kind)} are expected, as in the first entries"
    )


def _float(value: Any) -> float:
    try:
        return float(value)
    except OverflowError:
        return float("inf") if value > 0 else float("-inf")


def _words(kind: Any) -> str:
    if types.is_struct(kind):
        return "records"
    if types.is_nested(kind):
        return "lists"
    if types.is_boolean(kind):
        return "truth values"
    return "integers" if types.is_integer(kind) else "numbers"
