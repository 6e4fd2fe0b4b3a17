"""Avro: an entry range is found by the headers of the blocks, and only its blocks are decoded."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from io import BytesIO
from typing import Any

import fastavro
import pyarrow as pa
from fastavro.io.binary_decoder import BinaryDecoder

from mlaas_condor.data.source import Index
from mlaas_condor.data.tables.columns import Leaf, prune
from mlaas_condor.data.tables.inference import EXACT, SAMPLE, to_table
from mlaas_condor.data.tables.lines import SPACING
from mlaas_condor.data.tables.parquet import plain
from mlaas_condor.data.tables.table import Record, Table
from mlaas_condor.errors import InputUnreadable

_MAGIC = b"Obj\x01"
_SYNC = 16
_PACKAGES = {"snappy": "cramjam", "zstandard": "backports.zstd", "lz4": "lz4"}
_PRIMITIVES: dict[str, Any] = {
    "null": pa.null(),
    "boolean": pa.bool_(),
    "int": pa.int32(),
    "long": pa.int64(),
    "float": pa.float32(),
    "double": pa.float64(),
    "string": pa.string(),
    "enum": pa.string(),
    "bytes": pa.binary(),
    "fixed": pa.binary(),
}
_TIMES = ("date", "time", "timestamp", "local-timestamp", "duration")


class AvroTable(Table):
    """An open Avro file."""

    def _open(self, index: Index) -> pa.Schema:
        self._file.seek(0)
        begins = self._file.read(len(_MAGIC))
        if begins != _MAGIC:
            raise InputUnreadable(f"{self.path}: is not an Avro file (begins with {begins!r})")
        self._file.seek(0)
        reader: Any = fastavro.reader(self._file)
        self._codec = str(reader.codec)
        first = self._file.tell()
        self._file.seek(0)
        self._header = self._file.read(first)
        schema = reader.writer_schema
        if not isinstance(schema, dict) or schema.get("type") != "record":
            raise InputUnreadable(f"{self.path}: holds {schema!r:.60}, not records")
        self.index = index or self._scan(first)
        self.entries = self.index[-1][0]
        kind = _Types().of(schema)
        near = self.index[1][0] if len(self.index) > 1 else 0
        sample = self._decoded(0, min(SAMPLE, near))
        return pa.schema([_kept_whole(field, sample) for field in kind.fields])

    def _blocks(self, position: int) -> Iterator[tuple[int, int, int]]:
        """Yield the number of records of each block, where it begins and where it ends."""
        decoder = BinaryDecoder(self._file)
        while position < self.size:
            self._file.seek(position)
            count, length = decoder.read_long(), decoder.read_long()
            end = self._file.tell() + length + _SYNC
            if count < 0 or length < 0 or end > self.size:
                raise InputUnreadable(f"{self.path}: is cut short or damaged: the block at byte {position}")
            self._file.seek(end - _SYNC)
            if self._file.read(_SYNC) != self._header[-_SYNC:]:
                raise InputUnreadable(f"{self.path}: is damaged: the block at byte {position}")
            yield count, position, end
            position = end

    def _scan(self, first: int) -> Index:
        index, entries, last = [(0, first)], 0, first
        for count, _, end in self._blocks(first):
            entries, last = entries + count, end
            if end - index[-1][1] >= SPACING and entries > index[-1][0]:
                index.append((entries, end))
        if entries > index[-1][0]:
            index.append((entries, last))
        return tuple(index)

    def _decoded(self, start: int, stop: int) -> list[Record]:
        """Return the records of a range, from its blocks only."""
        if start >= stop:
            return []
        first, position = self.index[bisect_right(self.index, (start, 2**63)) - 1]
        parts, skipped = [self._header], 0
        for count, begin, end in self._blocks(position):
            if first + count <= start:
                first += count
                continue
            if len(parts) == 1:
                skipped = start - first
            self._file.seek(begin)
            parts.append(self._file.read(end - begin))
            first += count
            if first >= stop:
                break
        records: Any = fastavro.reader(BytesIO(b"".join(parts)))
        try:
            return [
                record for number, record in enumerate(records) if skipped <= number < skipped + stop - start
            ]
        except ValueError as error:
            package = _PACKAGES.get(self._codec)
            if package and package in str(error):
                needed = f"is compressed with {self._codec}, which needs the package {package}"
                raise InputUnreadable(f"{self.path}: {needed}: pip install {package}") from error
            raise

    def _table(self, leaves: Sequence[Leaf], start: int, stop: int) -> pa.Table:
        return to_table(self._decoded(start, stop), prune(self._schema, leaves), typed=True)

    def _records(self, start: int, stop: int) -> list[Record]:
        records: list[Record] = plain(self._decoded(start, stop))
        return records


def _kept_whole(field: Any, sample: list[Record]) -> Any:
    """Return a field as not nullable where its integers are too large for float64, as identifiers are."""
    if not field.nullable or field.type != pa.int64():
        return field
    values = [record[field.name] for record in sample]
    large = None not in values and any(abs(value) >= EXACT for value in values)
    return field.with_nullable(not large)


class _Types:
    """Arrow's types for those of one Avro schema, whose records may be named once and used again."""

    def __init__(self) -> None:
        self._named: dict[str, Any] = {}
        self._within: set[str] = set()

    def of(self, schema: Any) -> Any:
        """Return Arrow's type."""
        if isinstance(schema, list):
            return self._union(schema)
        if isinstance(schema, str):
            if schema in _PRIMITIVES:
                return _PRIMITIVES[schema]
            if schema in self._within:
                return _reason("records within themselves")
            return self.of(self._named[schema])
        kind = schema["type"]
        if isinstance(kind, (list, dict)):
            return self.of(kind)
        if "name" in schema:
            self._named[schema["name"]] = schema
        if kind in ("record", "error"):
            return self._record(schema)
        if kind == "array":
            return pa.list_(self.field("item", schema["items"]))
        if kind == "map":
            return pa.map_(pa.string(), self.of(schema["values"]))
        return _logical(schema) if "logicalType" in schema else self.of(kind)

    def _record(self, schema: Mapping[str, Any]) -> Any:
        name = str(schema["name"])
        self._within.add(name)
        kind = pa.struct([self.field(field["name"], field["type"]) for field in schema["fields"]])
        self._within.discard(name)
        return kind

    def field(self, name: str, schema: Any) -> Any:
        """Return Arrow's field."""
        nullable = schema == "null" or (isinstance(schema, list) and "null" in schema)
        return pa.field(name, self.of(schema), nullable=nullable)

    def _union(self, schemas: list[Any]) -> Any:
        kinds = [self.of(each) for each in schemas if each != "null"]
        if len(kinds) == 1:
            return kinds[0]
        if all(pa.types.is_integer(kind) or pa.types.is_floating(kind) for kind in kinds):
            return pa.int64() if all(pa.types.is_integer(kind) for kind in kinds) else pa.float64()
        return _reason(*dict.fromkeys(map(str, kinds)))


def _logical(schema: Mapping[str, Any]) -> Any:
    logical = str(schema["logicalType"])
    if logical == "decimal":
        precision, scale = int(schema["precision"]), int(schema.get("scale", 0))
        return pa.decimal128(precision, scale) if precision <= 38 else pa.decimal256(precision, scale)
    if logical.startswith(_TIMES):
        return pa.timestamp("us")
    return pa.string() if logical == "uuid" else _PRIMITIVES[schema["type"]]


def _reason(*words: str) -> Any:
    """Return a type that is no number, and says in its names what it is."""
    return pa.sparse_union([pa.field(word, pa.null()) for word in words])
