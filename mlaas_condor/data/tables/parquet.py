"""Parquet: only the columns and row groups that are asked for are read."""

from __future__ import annotations

import datetime
import decimal
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet
from pyarrow import types

from mlaas_condor.data.source import Index
from mlaas_condor.data.tables.columns import Leaf
from mlaas_condor.data.tables.table import Record, Table
from mlaas_condor.errors import InputUnreadable

_ROWS = 2**16  # decoded at a time
_MAGIC = b"PAR1"


class ParquetTable(Table):
    """An open Parquet file."""

    def _open(self, index: Index) -> pa.Schema:
        self._file.seek(0)
        begins = self._file.read(4)
        self._file.seek(-min(4, self.size), 2)
        if begins != _MAGIC:
            raise InputUnreadable(f"{self.path}: is not a Parquet file (begins with {begins!r})")
        if self._file.read(4) != _MAGIC or self.size < 12:
            raise InputUnreadable(f"{self.path}: is cut short: a Parquet file ends with {_MAGIC!r}")
        self._parquet: Any = pyarrow.parquet.ParquetFile(self._file)
        meta = self._parquet.metadata
        self.entries = meta.num_rows
        rows = (meta.row_group(i).num_rows for i in range(meta.num_row_groups))
        self._edges = list(accumulate(rows, initial=0))
        schema = self._parquet.schema_arrow
        self._places = {path: place for place, path in enumerate(_leaf_paths(schema))}
        if len(self._places) != meta.num_columns:
            self._places = {}  # twice the same name: whole fields are read
            return schema
        places = iter(range(meta.num_columns))
        return pa.schema([self._known(field, places) for field in schema])

    def _known(self, field: Any, places: Iterator[int]) -> Any:
        """Return a field as not nullable where the file's statistics say that nothing is missing."""
        kind = field.type
        if types.is_struct(kind):
            fields = [self._known(each, places) for each in kind.fields]
            # A record that is missing counts as missing in each of its fields.
            nullable = field.nullable and all(each.nullable for each in fields)
            return pa.field(field.name, pa.struct(fields), nullable=nullable)
        if types.is_list(kind) or types.is_large_list(kind):
            return field.with_type(pa.list_(self._known(kind.value_field, places)))
        if types.is_fixed_size_list(kind):
            inner = self._known(kind.value_field, places)
            nullable = field.nullable and inner.nullable
            return pa.field(field.name, pa.list_(inner, kind.list_size), nullable=nullable)
        at = [next(places) for _ in range(_width(kind))]
        whole = types.is_integer(kind) or types.is_boolean(kind)
        if field.nullable and whole and not any(self._misses(group, at[0]) for group in self._groups()):
            return field.with_nullable(False)
        return field

    def _groups(self) -> range:
        return range(self._parquet.metadata.num_row_groups)

    def _misses(self, group: int, place: int) -> bool:
        found = self._parquet.metadata.row_group(group).column(place)
        if found.statistics is not None and found.statistics.has_null_count:
            return bool(found.statistics.null_count)
        leaf = self._parquet.schema.column(place)
        if leaf.max_repetition_level or leaf.physical_type != "INT64":
            return True
        # Identifiers must not lose digits only because the writer left out its statistics.
        table = self._parquet.read_row_group(group, columns=[leaf.path], use_threads=False)
        return any(_nulls(column) for column in table.columns)

    def _table(self, leaves: Sequence[Leaf], start: int, stop: int) -> pa.Table:
        paths = [self._path(leaf) for leaf in leaves]
        batches = list(self._batches(start, stop, paths))
        if batches:
            return pa.Table.from_batches(batches)
        return self._parquet.schema_arrow.empty_table()

    def _path(self, leaf: Leaf) -> str:
        place = self._places.get(leaf.path)
        return leaf.path[0] if place is None else str(self._parquet.schema.column(place).path)

    def _batches(self, start: int, stop: int, columns: list[str] | None) -> Iterator[Any]:
        """Yield the rows of a range, and decode nothing behind it."""
        for group, (low, high) in enumerate(zip(self._edges, self._edges[1:], strict=False)):
            if high <= start or low >= stop or low == high:
                continue
            # One by one: a batch over two row groups would need both in memory.
            for batch in self._parquet.iter_batches(
                batch_size=_ROWS, row_groups=[group], columns=columns, use_threads=False
            ):
                begin, end = max(start - low, 0), min(stop - low, batch.num_rows)
                if begin < end:
                    yield batch.slice(begin, end - begin)
                low += batch.num_rows
                if low >= stop:
                    break

    def _records(self, start: int, stop: int) -> list[Record]:
        records = [each for batch in self._batches(start, stop, None) for each in batch.to_pylist()]
        return plain(records) if any(_is_odd(field.type) for field in self._schema) else records

    def boundaries(self, names: Iterable[str]) -> Sequence[int]:
        """Return where row groups begin, and the end."""
        return sorted({0, self.entries, *self._edges})

    def close(self) -> None:
        """Close the file."""
        self._parquet.close()
        super().close()


def _leaf_paths(schema: pa.Schema) -> Iterator[tuple[str, ...]]:
    """Yield the names on the way to each column of the file, in their order."""

    def walk(kind: Any, path: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
        if types.is_struct(kind):
            for field in kind.fields:
                yield from walk(field.type, (*path, field.name))
        elif types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
            yield from walk(kind.value_type, path)
        else:
            for i in range(_width(kind)):
                yield (*path, f"\0{i}") if i else path

    for field in schema:
        yield from walk(field.type, (field.name,))


def _width(kind: Any) -> int:
    """Return how many columns of a Parquet file a field takes."""
    if types.is_map(kind):
        return _width(kind.key_type) + _width(kind.item_type)
    if types.is_struct(kind):
        return sum(_width(field.type) for field in kind.fields)
    if types.is_dictionary(kind):
        return 1
    return _width(kind.value_type) if types.is_nested(kind) else 1


def _nulls(column: Any) -> int:
    """Return how many values are missing, of a column or of the only field within it."""
    while types.is_struct(column.type):
        column = pc.struct_field(column, [0])
    return int(column.null_count)


def _is_odd(kind: Any) -> bool:
    """Tell whether values of a type are something else than numbers, texts, lists and dicts."""
    if types.is_struct(kind):
        return any(_is_odd(field.type) for field in kind.fields)
    if types.is_map(kind):
        return True
    if types.is_nested(kind) or types.is_dictionary(kind):
        return _is_odd(kind.value_type)
    usual = (types.is_integer, types.is_floating, types.is_boolean, types.is_string, types.is_large_string)
    return not (types.is_null(kind) or any(is_one(kind) for is_one in usual))


def plain(value: Any) -> Any:
    """Return a value of numbers, texts, lists and dicts only."""
    if isinstance(value, dict):
        return {name: plain(inner) for name, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(inner) for inner in value]
    if isinstance(value, decimal.Decimal):
        return float(value)
    if isinstance(value, (datetime.date, datetime.time)):
        return value.isoformat()
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    return value if value is None or isinstance(value, (bool, int, float, str)) else str(value)
