"""Tables that are no ROOT files: CSV, JSON lines, Parquet, Avro, local or remote.

What is read of them are columns of numbers, as of ROOT. Fields of a record within a record get dotted names
(``jet.pt``); a list of numbers is a jagged branch, a list of records one jagged branch a number of theirs.
What is missing is NaN; a missing list is empty. So that a branch has one type in the whole file:

- CSV and JSON do not say their types: the first 1000 entries do. Numbers and truth values are float64.
  Only where all are integers and one is beyond 2**53, which float64 cannot tell from its neighbours, they
  are int64 or uint64, as identifiers need it.
- In Parquet and Avro, integers and truth values of which one may be missing are float64; a column that may
  have missing ones, but is all integers with one beyond 2**53 in the first block of an Avro file, is int64.

An entry that contradicts is refused with its number; a branch of texts, times or lists of lists is left out.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from mlaas_condor.data import storage
from mlaas_condor.data.source import Index
from mlaas_condor.errors import InputUnreadable

if TYPE_CHECKING:
    from mlaas_condor.data.tables.table import Table

COMPRESSIONS = (".gz", ".bz2")

FORMATS = {
    ".csv": "csv",
    ".tsv": "csv",
    ".json": "json",
    ".jsonl": "json",
    ".ndjson": "json",
    ".parquet": "parquet",
    ".pq": "parquet",
    ".avro": "avro",
}
"""The format that each suffix stands for; CSV and JSON also with .gz or .bz2 after it."""

_CLASSES = {
    "csv": ("csvfile", "CsvTable"),
    "json": ("jsonlines", "JsonTable"),
    "parquet": ("parquet", "ParquetTable"),
    "avro": ("avro", "AvroTable"),
}


def format_of(path: str) -> str | None:
    """Return ``csv``, ``json``, ``parquet`` or ``avro`` as the name of a file says, or None."""
    suffixes = storage.suffixes(path)
    if suffixes and suffixes[-1] in COMPRESSIONS:
        found = FORMATS.get(suffixes[-2]) if len(suffixes) > 1 else None
        return found if found in ("csv", "json") else None
    return FORMATS.get(suffixes[-1]) if suffixes else None


def open_table(path: str, index: Index = ()) -> Table:
    """Open a table.

    Parameters
    ----------
    path
        Path or URL, whose suffix tells the format.
    index
        What `Table.index` was when this file was opened before: spares reading through it.

    Raises
    ------
    InputUnreadable
        The file is missing, empty, cut short, of another format, or a package that reads it is missing.
    """
    found = format_of(path)
    if found is None:
        raise InputUnreadable(f"{path}: no format has that suffix; known are {', '.join(FORMATS)}")
    module, name = _CLASSES[found]
    try:
        table: type[Table] = getattr(import_module(f"mlaas_condor.data.tables.{module}"), name)
    except ModuleNotFoundError as error:
        raise InputUnreadable(f"{path}: needs a package that is missing: pip install {error.name}") from error
    return table(path, index)
