"""What all tables have in common: opening, the branches there are, and entry ranges of them as columns."""

from __future__ import annotations

import difflib
import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pyarrow as pa

from mlaas_condor.data import storage
from mlaas_condor.data.events import Column
from mlaas_condor.data.source import Index
from mlaas_condor.data.tables import columns
from mlaas_condor.errors import InputUnreadable, StageError

Record = dict[str, Any]


class Table(ABC):
    """An open table, which is a `Source`; see there for the attributes.

    Parameters
    ----------
    path
        Path or URL.
    index
        What the attribute of that name was when the file was opened before.

    Raises
    ------
    InputUnreadable
        The file cannot be opened, or is not what its suffix says.
    """

    entries: int
    content = ""

    def __init__(self, path: str, index: Index = ()) -> None:
        self.path = path
        self.index: Index = ()
        self._file = storage.open_bytes(path)
        try:
            with self._telling("cannot be opened"):
                self.size = self._file.seek(0, os.SEEK_END)
                if not self.size:
                    raise InputUnreadable(f"{path}: is empty (0 bytes)")
                self.uuid = storage.digest(self._file)
                self._schema = self._open(tuple((int(entry), int(byte)) for entry, byte in index))
                self._leaves, self.left_out = columns.survey(self._schema)
        except BaseException:
            self._file.close()
            raise
        self.branches = {name: leaf.branch for name, leaf in self._leaves.items()}

    @abstractmethod
    def _open(self, index: Index) -> pa.Schema:
        """Look into the file, set ``entries`` and, where there is one, ``index``; return the schema."""

    @abstractmethod
    def _table(self, leaves: Sequence[columns.Leaf], start: int, stop: int) -> pa.Table:
        """Read entries of at least these leaves."""

    @abstractmethod
    def _records(self, start: int, stop: int) -> list[Record]: ...

    def read(self, names: Iterable[str], start: int, stop: int) -> dict[str, Column]:
        """Read entries ``start`` to ``stop`` (excluded) of the named branches.

        Raises
        ------
        InputUnreadable
            A branch is missing, its data is damaged, or not of the type it has elsewhere.
        """
        names = list(names)
        leaves = [self._leaf(name) for name in names]
        start, stop = self._within(start, stop)
        if not names:
            return {}
        with self._telling(f"entries {start} to {stop} cannot be read"):
            table = self._table(leaves, start, stop)
            if table.num_rows != stop - start:
                raise InputUnreadable(
                    f"{self.path}: entries {start} to {stop} are {table.num_rows} records: it is damaged"
                )
            return {leaf.branch.name: columns.column(table, leaf, start) for leaf in leaves}

    def records(self, start: int, stop: int) -> list[Record]:
        """Read entries ``start`` to ``stop`` (excluded) whole, each as a dict.

        In it are numbers, texts, lists and dicts, nested as in the file; times are text (ISO 8601), bytes
        the text they are in UTF-8. What is missing is None; in a CSV file, among numbers, it is NaN.
        """
        start, stop = self._within(start, stop)
        with self._telling(f"entries {start} to {stop} cannot be read"):
            return self._records(start, stop)

    def ahead(self, names: Iterable[str], start: int, stop: int) -> None:
        """Do nothing: what follows in such a file is fetched with what is read."""
        return

    def boundaries(self, names: Iterable[str]) -> Sequence[int]:
        """Return entries, ascending, from 0 to ``entries``, between which it is best to read as a whole."""
        return sorted({0, self.entries, *(entry for entry, _ in self.index)})

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _within(self, start: int, stop: int) -> tuple[int, int]:
        start = min(max(start, 0), self.entries)
        return start, min(max(stop, start), self.entries)

    def _leaf(self, name: str) -> columns.Leaf:
        if name in self._leaves:
            return self._leaves[name]
        if name in self.left_out:
            raise InputUnreadable(f"{self.path}: branch {name!r} {self.left_out[name]}")
        near = difflib.get_close_matches(name, self._leaves, 3)
        hint = f"; near are {', '.join(near)}" if near else ""
        raise InputUnreadable(f"{self.path}: no branch {name!r}{hint}")

    @contextmanager
    def _telling(self, what: str) -> Iterator[None]:
        """Turn whatever a library says of a damaged file into one line with the path."""
        try:
            yield
        except (MemoryError, StageError):
            raise
        except EOFError as error:
            raise InputUnreadable(f"{self.path}: {what}: it is cut short") from error
        except Exception as error:
            text = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
            raise InputUnreadable(f"{self.path}: {what}: {text or type(error).__name__}") from error
