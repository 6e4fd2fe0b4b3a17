"""What a user's function may have in its hands, as `foreseen` follows it: types instead of values.

Arrow's types for numbers, texts and lists; `Record` for dicts, which can be changed; `Constant` for what
stands in the file as it is; None for what is not known.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Mapping
from typing import Any

import pyarrow as pa
from pyarrow import types

NUMBER, TEXT, NUMBERS = pa.float64(), pa.string(), pa.list_(pa.float64())


class Unforeseen(Exception):
    """What cannot be told without running it, and where."""

    def __init__(self, node: ast.AST, what: str) -> None:
        self.line = getattr(node, "lineno", 1)
        super().__init__(what)


class Record:
    """A dict with the types of its values; None where one is not known."""

    def __init__(self, fields: Mapping[str, Any], element: bool = False) -> None:
        self.fields = dict(fields)
        #: Whether it stands for each of a list of records, which is not followed where it is changed.
        self.element = element


class Constant:
    """A value that stands in the file as it is."""

    def __init__(self, value: Any) -> None:
        self.value = value


def value_of(kind: Any, element: bool = False) -> Any:
    """Return Arrow's type as what is followed: records that can be changed."""
    if types.is_struct(kind):
        return Record({field.name: value_of(field.type, element) for field in kind.fields}, element)
    return kind


def field(name: str, value: Any, path: str = "") -> Any:
    """Return what is followed as a field of a schema; integers are those that must stay so, none missing."""
    kind = type_of(value, f"{path}{name}")
    return pa.field(name, kind, nullable=not types.is_integer(kind))


def type_of(value: Any, name: str = "") -> Any:
    """Return what is followed as Arrow's type."""
    if isinstance(value, Record):
        return pa.struct([field(each, inner, f"{name}.") for each, inner in value.fields.items()])
    if isinstance(value, Constant):
        return _of_constant(value.value)
    if value is None:
        raise Unforeseen(ast.Pass(), f"what it puts into {name!r} cannot be told")
    return value


def _of_constant(value: Any) -> Any:
    if value is None:
        return pa.null()
    if isinstance(value, str | bytes):
        return TEXT
    if isinstance(value, list | tuple | set):
        kinds = [_of_constant(each) for each in value]
        return pa.list_(kinds[0] if kinds else NUMBER)
    if isinstance(value, dict):
        return pa.struct([pa.field(str(name), _of_constant(each)) for name, each in value.items()])
    return NUMBER


def joined(first: Any, second: Any, seen: dict[tuple[int, int], Any]) -> Any:
    """Return what a value is that is one or the other; the same two give the same one again."""
    if isinstance(first, Record) and isinstance(second, Record):
        key = id(first), id(second)
        if key not in seen:
            seen[key] = made = Record({})
            for name in {**first.fields, **second.fields}:
                both = [each.fields[name] for each in (first, second) if name in each.fields]
                made.fields[name] = joined(both[0], both[-1], seen)
        return seen[key]
    if first is None or second is None or isinstance(first, Record) or isinstance(second, Record):
        return None
    one, other = type_of(first), type_of(second)
    if one == other or types.is_null(other):
        return first if one == other else one
    if types.is_null(one):
        return other
    if types.is_list(one) and types.is_list(other):
        empty = isinstance(first, Constant) and not first.value
        return other if empty else one
    return NUMBER if _is_number(one) and _is_number(other) else None


def _is_number(kind: Any) -> bool:
    return bool(
        types.is_floating(kind) or types.is_integer(kind) or types.is_boolean(kind) or types.is_null(kind)
    )


def is_list(value: Any) -> bool:
    """Tell whether it is a list."""
    if isinstance(value, Constant):
        return isinstance(value.value, list | tuple)
    return isinstance(value, pa.DataType) and bool(types.is_list(value) or types.is_large_list(value))


def is_text(value: Any) -> bool:
    """Tell whether it is text."""
    if isinstance(value, Constant):
        return isinstance(value.value, str)
    return isinstance(value, pa.DataType) and bool(types.is_string(value))


def element(value: Any) -> Any:
    """Return what one element of a list is, or one value of a dict."""
    if isinstance(value, Constant):
        inside = list(value.value.values()) if isinstance(value.value, dict) else value.value
        if not isinstance(inside, list | tuple | str) or not inside:
            return None
        whole: Any = Constant(inside[0])
        for each in inside[1:]:
            whole = joined(whole, Constant(each), {})
        return type_of(whole) if whole is not None else None
    return value_of(value.value_type, element=True) if is_list(value) else None


def holds_records(value: Any) -> bool:
    """Tell whether whoever gets this could change records."""
    if isinstance(value, Record):
        return True
    return is_list(value) and not isinstance(value, Constant) and bool(types.is_struct(value.value_type))


def known(named: Mapping[str | None, Any]) -> dict[str, Any]:
    """Return the arguments that are given by their names."""
    return {name: value for name, value in named.items() if name is not None}


def grown(before: Any, more: Any, whole: bool) -> Any:
    """Return a list that something was put to."""
    inner = element(more) if whole else more
    return pa.list_(NUMBER if inner is None else type_of(inner)) if is_list(before) else None


def kinds_in(names: Mapping[str, Any]) -> Iterable[Any]:
    """Yield the types in what is followed, which need no copies of their own."""
    todo = list(names.values())
    while todo:
        each = todo.pop()
        if isinstance(each, Record):
            todo += each.fields.values()
        elif isinstance(each, pa.DataType):
            yield each
