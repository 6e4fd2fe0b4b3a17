"""CSV and TSV: the first line names the columns, each other line is an entry."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Sequence
from io import BytesIO, StringIO
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from mlaas_condor.data import storage
from mlaas_condor.data.source import Index
from mlaas_condor.data.tables import lines
from mlaas_condor.data.tables.columns import Leaf, names_of
from mlaas_condor.data.tables.inference import EXACT, SAMPLE
from mlaas_condor.data.tables.table import Record, Table
from mlaas_condor.errors import InputUnreadable

_MISSING = ("", "nan", "NaN", "NAN", "-nan", "-NaN", "NA", "N/A", "n/a", "null", "NULL", "None", "#N/A")


def _spaced(words: Iterable[str]) -> list[str]:
    """Return words, also as they stand after ``, ``."""
    return [space + word for word in words for space in ("", " ")]


class CsvTable(Table):
    """An open CSV or TSV file, plain or compressed."""

    def __init__(self, path: str, index: Index = ()) -> None:
        super().__init__(path, index)
        unnamed = [position for position, name in enumerate(self._names, 1) if name.startswith("\0")]
        self.left_out |= {f"column {position}": "has no name" for position in unnamed}

    def _open(self, index: Index) -> pa.Schema:
        text = lines.decompressed(self.path, self._file)
        self._delimiter = "\t" if ".tsv" in storage.suffixes(self.path) else ","
        line, first = lines.header(text, lines.bare(text))
        self._names = self._columns(line)
        self._lines = lines.Lines(text, first, True, index)
        self.index, self.entries = self._lines.index, self._lines.entries
        self.content = self._lines.content
        return self._infer()

    def _columns(self, line: str) -> list[str]:
        """Return the names of the columns; those without one get one, which no branch has."""
        if "\r" in line:
            raise InputUnreadable(
                f"{self.path}: its lines end with a carriage return alone; save it with \\n"
            )
        names = [name.strip() for name in next(csv.reader([line], delimiter=self._delimiter))]
        other = next((each for each in ";\t," if each != self._delimiter and each in line), None)
        if len(names) == 1 and other:
            raise InputUnreadable(
                f"{self.path}: its fields seem to be separated by {other!r}, not by {self._delimiter!r}"
            )
        if all(_is_number(name) for name in names):
            raise InputUnreadable(f"{self.path}: its first line must name the columns, it is {line[:60]!r}")
        twice = sorted({name for name in names if name and names.count(name) > 1})
        if twice:
            raise InputUnreadable(f"{self.path}: two columns are called {', '.join(map(repr, twice))}")
        return [name or f"\0{position}" for position, name in enumerate(names)]

    def _infer(self) -> pa.Schema:
        """Return what the columns hold, from the first entries."""
        near = self.index[1][0] if len(self.index) > 1 else 0
        begin, text = self._lines.locate(0, min(SAMPLE, near))
        sample = self._parse(text, 0, {}, begin) if near else pa.table({name: [] for name in self._names})
        fields = [self._field(name, sample.column(name), text) for name in self._names]
        return pa.schema([field for field in fields if not field.name.startswith("\0")])

    def _field(self, name: str, values: Any, text: bytes) -> Any:
        if pa.types.is_boolean(values.type):
            return pa.field(name, pa.bool_())
        if pa.types.is_floating(values.type) or pa.types.is_integer(values.type):
            size = pc.abs(values.cast(pa.float64(), safe=False))
            if not values.null_count and pc.any(pc.greater_equal(size, EXACT)).as_py():
                for kind in (pa.int64(), pa.uint64()):
                    if self._is_all(name, kind, text):
                        return pa.field(name, kind, nullable=False)
        known = (pa.types.is_floating, pa.types.is_integer, pa.types.is_null)
        return pa.field(name, pa.float64() if any(is_one(values.type) for is_one in known) else pa.string())

    def _is_all(self, name: str, kind: Any, text: bytes) -> bool:
        try:
            self._arrow(text, {name: kind})
        except pa.ArrowInvalid:
            return False
        return True

    def _table(self, leaves: Sequence[Leaf], start: int, stop: int) -> pa.Table:
        kinds = {name: self._schema.field(name).type for name in names_of(leaves)}
        return self._range(start, stop, kinds)

    def _range(self, start: int, stop: int, kinds: dict[str, Any]) -> pa.Table:
        if start == stop:
            return pa.schema(list(kinds.items())).empty_table()
        begin, text = self._lines.locate(start, stop)
        table = self._parse(text, start, kinds, begin)
        if table.num_rows != stop - start:
            self._explain(text, start, kinds, begin)
        return table

    def _parse(self, text: bytes, start: int, kinds: dict[str, Any], begin: int) -> pa.Table:
        """Parse lines; with no kinds all columns, of whatever types they seem to be."""
        try:
            return self._arrow(text, kinds)
        except pa.ArrowInvalid:
            self._explain(text, start, kinds, begin)
            raise

    def _arrow(self, text: bytes, kinds: dict[str, Any]) -> pa.Table:
        return pyarrow.csv.read_csv(
            BytesIO(text),
            read_options=pyarrow.csv.ReadOptions(
                use_threads=False, block_size=max(len(text), 1), column_names=self._names
            ),
            parse_options=pyarrow.csv.ParseOptions(delimiter=self._delimiter, newlines_in_values=True),
            convert_options=pyarrow.csv.ConvertOptions(
                column_types=kinds,
                include_columns=list(kinds),
                null_values=_spaced(_MISSING),
                true_values=_spaced(["true", "True", "TRUE"]),
                false_values=_spaced(["false", "False", "FALSE"]),
            ),
        )

    def _explain(self, text: bytes, start: int, kinds: dict[str, Any], begin: int) -> None:
        """Find the line that is wrong and say so; returns where none is found."""
        reader = csv.reader(StringIO(text.decode(errors="replace"), newline=""), delimiter=self._delimiter)
        before, entry = 0, start
        for fields in reader:
            wrong = self._wrong(fields, kinds) if fields else ""
            if wrong:
                where = f"entry {entry}"
                if not storage.is_url(self.path):  # all that comes before would be fetched
                    where = f"line {self._lines.line_number(begin) + before}"
                raise InputUnreadable(f"{self.path}: {where}: {wrong}")
            entry += bool(fields)
            before = reader.line_num

    def _wrong(self, fields: list[str], kinds: dict[str, Any]) -> str:
        if len(fields) != len(self._names):
            return f"has {len(fields)} fields, the first line names {len(self._names)}"
        for name, value in zip(self._names, fields, strict=True):
            kind = kinds.get(name)
            if kind is None or pa.types.is_string(kind) or (value.strip() in _MISSING and not _whole(kind)):
                continue
            if pa.types.is_boolean(kind):
                if value.strip().lower() not in ("true", "false"):
                    return f"{name} is {value[:60]!r} where the first entries hold truth values"
            elif not (_is_integer(value) if _whole(kind) else _is_number(value)):
                held = "integers beyond 2**53" if _whole(kind) else "numbers"
                return f"{name} is {value[:60]!r} where the first entries hold {held}"
        return ""

    def _records(self, start: int, stop: int) -> list[Record]:
        kinds = {field.name: field.type for field in self._schema}
        table = self._range(start, stop, kinds)
        columns = {name: list(_values(table.column(name))) for name in kinds}
        return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _values(column: Any) -> Iterator[Any]:
    """Yield values, a number that is missing as NaN, of which one can calculate."""
    if pa.types.is_floating(column.type):
        column = column.fill_null(np.nan)
    return iter(column.to_pylist())


def _whole(kind: Any) -> bool:
    return bool(pa.types.is_integer(kind))


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return "_" not in text


def _is_integer(text: str) -> bool:
    return text.strip().removeprefix("-").isdecimal()
