"""JSON lines: each line is an entry, a JSON object."""

from __future__ import annotations

import json
from collections.abc import Sequence
from io import BytesIO
from typing import Any

import pyarrow as pa
import pyarrow.json

from mlaas_condor.data import storage
from mlaas_condor.data.source import Index
from mlaas_condor.data.tables import lines
from mlaas_condor.data.tables.columns import Leaf, prune
from mlaas_condor.data.tables.inference import SAMPLE, Contradiction, schema_of, to_table
from mlaas_condor.data.tables.table import Record, Table
from mlaas_condor.errors import InputUnreadable

_NEEDED = "JSON lines are needed: each line one whole record {…} (`jq -c` writes them)"
_PEEK = 2**12


class JsonTable(Table):
    """An open file of JSON lines, plain or compressed."""

    def _open(self, index: Index) -> pa.Schema:
        text = lines.decompressed(self.path, self._file)
        first = lines.bare(text)
        beginning = text.read(_PEEK).lstrip()
        if beginning.startswith(b"["):
            raise InputUnreadable(f"{self.path}: is one JSON array; {_NEEDED}")
        if beginning and not beginning.startswith(b"{"):
            raise InputUnreadable(f"{self.path}: is not JSON (begins with {beginning[:8]!r}); {_NEEDED}")
        if beginning.split(b"\n")[0].strip() == b"{":
            raise InputUnreadable(f"{self.path}: its records go over several lines; {_NEEDED}")
        self._lines = lines.Lines(text, first, False, index)
        self.index, self.entries = self._lines.index, self._lines.entries
        self.content = self._lines.content
        near = self.index[1][0] if len(self.index) > 1 else 0
        return schema_of(self._records(0, min(SAMPLE, near)))

    def _table(self, leaves: Sequence[Leaf], start: int, stop: int) -> pa.Table:
        schema = prune(self._schema, leaves)
        if start == stop:
            return schema.empty_table()
        begin, text = self._lines.locate(start, stop)
        try:
            table = pyarrow.json.read_json(
                BytesIO(text),
                read_options=pyarrow.json.ReadOptions(use_threads=False, block_size=len(text)),
                parse_options=pyarrow.json.ParseOptions(
                    explicit_schema=schema, unexpected_field_behavior="ignore"
                ),
            )
            if table.num_rows == stop - start:
                return table
        except pa.ArrowInvalid:
            pass  # Python's parser takes more (1e400, a name twice), and finds the line that is wrong
        records = self._parsed(text, start, begin)
        try:
            return to_table(records, schema)
        except Contradiction as error:
            where = self._where(text, start, begin, error.record)
            raise InputUnreadable(f"{self.path}: {where}: {error.what}") from None

    def _records(self, start: int, stop: int) -> list[Record]:
        begin, text = self._lines.locate(start, stop)
        return self._parsed(text, start, begin)

    def _parsed(self, text: bytes, start: int, begin: int) -> list[Record]:
        records: list[Any] = []
        for line in text.split(b"\n"):
            if not line.strip():
                continue
            wrong = ""
            try:
                record = json.loads(line)
            except (ValueError, RecursionError) as error:
                wrong = f"is not JSON: {error}; {_NEEDED}"
            else:
                if not isinstance(record, dict):
                    wrong = f"is {line[:40].decode(errors='replace')!r}, not a record; {_NEEDED}"
            if wrong:
                where = self._where(text, start, begin, len(records))
                raise InputUnreadable(f"{self.path}: {where}: {wrong}")
            records.append(record)
        return records

    def _where(self, text: bytes, start: int, begin: int, record: int) -> str:
        """Return the line of a record of this text; its entry where all before it would be fetched."""
        if storage.is_url(self.path):
            return f"entry {start + record}"
        solid = [number for number, line in enumerate(text.split(b"\n")) if line.strip()]
        return f"line {self._lines.line_number(begin) + solid[record]}"
