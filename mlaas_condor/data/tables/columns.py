"""From Arrow's nested data to branches: which there are, and their values as columns."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pyarrow import types

from mlaas_condor.data.events import Column, Jagged
from mlaas_condor.data.source import Branch


@dataclass(frozen=True)
class Leaf:
    """Where a branch is in a nested schema: the names of the fields on the way to it."""

    branch: Branch
    path: tuple[str, ...]


def survey(schema: pa.Schema) -> tuple[dict[str, Leaf], dict[str, str]]:
    """Return the leaves that are branches, by name, and the reason for each that is none.

    A field that is not nullable has no missing values: this alone lets integers stay integers.
    """
    leaves: dict[str, Leaf] = {}
    left_out: dict[str, str] = {}
    for field in schema:
        for path, found in _walk(field.type, field.nullable, (field.name,), None):
            name = ".".join(path)
            if name in leaves or name in left_out:
                left_out[f"{name} (again)"] = "has the name of another branch"
            elif isinstance(found, str):
                left_out[name] = found
            else:
                kind, dtype, length = found
                leaves[name] = Leaf(Branch(name, kind, dtype, length), path)
    return leaves, left_out


def _walk(kind: Any, nullable: bool, path: tuple[str, ...], length: int | None) -> Iterable[tuple[Any, Any]]:
    """Yield (path, (kind, dtype, length) or the reason to leave it out); ``length`` is None outside lists."""
    if types.is_dictionary(kind):
        kind = kind.value_type
    if types.is_struct(kind):
        if not kind.num_fields:
            yield path, "holds nothing"
        for field in kind.fields:
            yield from _walk(field.type, nullable or field.nullable, (*path, field.name), length)
    elif _is_list(kind):
        if length is not None:
            yield path, "holds lists of lists"
            return
        fixed = kind.list_size if types.is_fixed_size_list(kind) else 0
        # A missing list is empty; of a fixed length it cannot be, and its values are missing.
        element = kind.value_field.nullable or (bool(fixed) and nullable)
        yield from _walk(kind.value_type, element, path, fixed)
    elif types.is_null(kind) or _is_number(kind):
        yield path, ("flat" if length is None else "jagged", _dtype(kind, nullable), length or 0)
    else:
        yield path, f"holds {_words(kind)}"


def _is_list(kind: Any) -> bool:
    return bool(types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind))


def _is_number(kind: Any) -> bool:
    return bool(
        types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind) or types.is_decimal(kind)
    )


def _dtype(kind: Any, nullable: bool) -> str:
    if types.is_floating(kind):
        return str(np.dtype(kind.to_pandas_dtype()))
    if nullable or types.is_decimal(kind) or types.is_null(kind):
        return "float64"
    return "bool" if types.is_boolean(kind) else str(kind)


def _words(kind: Any) -> str:
    if types.is_union(kind):
        return " or ".join(str(kind.field(i).name) for i in range(kind.num_fields))
    if types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind):
        return "text"
    if types.is_temporal(kind):
        return "times"
    return "maps" if types.is_map(kind) else str(kind)


def prune(schema: pa.Schema, leaves: Iterable[Leaf]) -> pa.Schema:
    """Return the part of a schema that these leaves need."""
    wanted = {leaf.path[:length] for leaf in leaves for length in range(1, len(leaf.path) + 1)}
    return pa.schema([_pruned(field, (field.name,), wanted) for field in schema if (field.name,) in wanted])


def _pruned(field: Any, path: tuple[str, ...], wanted: set[tuple[str, ...]]) -> Any:
    kind = field.type
    if types.is_struct(kind):
        kept = [
            _pruned(each, (*path, each.name), wanted) for each in kind.fields if (*path, each.name) in wanted
        ]
        return field.with_type(pa.struct(kept))
    if _is_list(kind):
        inner = _pruned(kind.value_field, path, wanted)
        return field.with_type(
            pa.list_(inner, kind.list_size) if types.is_fixed_size_list(kind) else pa.list_(inner)
        )
    return field


def column(table: pa.Table, leaf: Leaf, first: int = 0) -> Column:
    """Return the values of a leaf; ``first`` is the entry of the first row, for messages.

    Raises
    ------
    ValueError
        A value is missing in a branch of integers.
    """
    values, names = _joined(table.column(leaf.path[0])), list(leaf.path[1:])
    counts: NDArray[np.int64] | None = None
    while True:
        kind = values.type
        if types.is_dictionary(kind):
            values = values.dictionary_decode()
        elif _is_list(kind):
            counts, values = _opened(values)
        elif types.is_struct(kind):
            values = pc.struct_field(values, [kind.get_field_index(names.pop(0))])
        else:
            break
    numbers = _numbers(values, leaf.branch, first if counts is None else None)
    return numbers if counts is None else Jagged(counts, numbers)


def _joined(chunked: Any) -> Any:
    if types.is_dictionary(chunked.type):
        chunked = chunked.cast(chunked.type.value_type)
    if chunked.num_chunks == 1:
        return chunked.chunk(0)
    return pa.concat_arrays(chunked.chunks) if chunked.num_chunks else pa.array([], chunked.type)


def _opened(lists: Any) -> tuple[NDArray[np.int64], Any]:
    """Return the length of each list, and all their elements."""
    if types.is_fixed_size_list(lists.type):
        length = lists.type.list_size
        values = lists.values.slice(lists.offset * length, len(lists) * length)
        if lists.null_count:
            gone = np.repeat(lists.is_null().to_numpy(zero_copy_only=False), length)
            values = pc.if_else(pa.array(gone), pa.scalar(None, values.type), values)
        return np.full(len(lists), length, np.int64), values
    counts = lists.value_lengths().fill_null(0).to_numpy(zero_copy_only=False).astype(np.int64, copy=False)
    return counts, lists.flatten()


def _numbers(values: Any, branch: Branch, first: int | None) -> NDArray[Any]:
    """Return Arrow's numbers as NumPy's, missing ones as NaN."""
    dtype = np.dtype(branch.dtype)
    if types.is_null(values.type):
        return np.full(len(values), np.nan, dtype)
    if dtype.kind == "f":
        if not types.is_floating(values.type):
            values = values.cast(pa.float64(), safe=False)
        if values.null_count:
            values = values.fill_null(pa.scalar(np.nan, pa.float64()).cast(values.type))
    elif values.null_count:
        where = f" of entry {first + values.is_null().index(True).as_py()}" if first is not None else ""
        raise ValueError(f"{branch.name}{where} is missing, in a branch of integers")
    found: NDArray[Any] = values.to_numpy(zero_copy_only=False)
    return found.astype(dtype, copy=False)


def names_of(leaves: Sequence[Leaf]) -> list[str]:
    """Return the fields of the outermost record that these leaves are in, each once."""
    return list(dict.fromkeys(leaf.path[0] for leaf in leaves))
