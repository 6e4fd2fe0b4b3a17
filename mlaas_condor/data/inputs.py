"""Open input files of any format, and read what a dataset wants of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np
from numpy.typing import NDArray

from mlaas_condor.data import rootfile, tables
from mlaas_condor.data.dataset import Dataset
from mlaas_condor.data.events import Column, Jagged
from mlaas_condor.data.source import FLAT, JAGGED, Branch, Index, Source
from mlaas_condor.errors import InputChanged, ModelFault

if TYPE_CHECKING:
    from mlaas_condor.data.foreseen import Foreseen

_TEXT, _RECORD = 4, 20  # bytes that text takes as columns in the making, and as Python's objects


@dataclass(frozen=True)
class Survey:
    """What one file holds; the fields are those of `Source`, and two more.

    Parameters
    ----------
    lengths
        Jagged branch to the lengths of its first lists, where a function of the user's makes them.
    work
        Bytes that reading an entry takes, beside its values.
    """

    path: str
    tree: str
    uuid: str
    size: int
    entries: int
    branches: Mapping[str, Branch]
    left_out: Mapping[str, str]
    index: Index
    content: str
    lengths: Mapping[str, NDArray[np.int64]]
    work: float


def open_source(
    path: str, tree: str = "", uuid: str | None = None, index: Index = (), threads: int = 1
) -> Source:
    """Open a file of whatever format its name tells; without one of the others' endings it is a ROOT file.

    Parameters
    ----------
    path, tree
        Path or URL; path of the tree in a ROOT file.
    uuid
        If given, the file must have it.
    index
        Where reading may start, if that is known from an earlier opening.
    threads
        Threads that decompress, where a format allows it.

    Raises
    ------
    InputUnreadable, InputChanged
        The file cannot be opened, or is not the one that was planned.
    """
    if tables.format_of(path):
        source: Source = tables.open_table(path, index)
    else:
        source = rootfile.RootSource(path, tree, threads)
    if uuid is not None and source.uuid != uuid:
        found = source.uuid
        source.close()
        raise InputChanged(f"{path}: its UUID is {found}, planned was {uuid}; submit the run again")
    return source


def survey(path: str, tree: str = "", function: str = "", run_code: bool = True) -> Survey:
    """Look into a file without reading its events; raises as `open_source` does.

    Parameters
    ----------
    path, tree
        The file, and the path of the tree in it.
    function
        The user's file with ``preprocessing(rec)``, for formats that are made of records.
    run_code
        Whether the function may be run on the first records. Otherwise what it leaves is foreseen.
    """
    opened = open_source(path, tree)
    source: Source | Foreseen = opened
    try:
        if function and tables.format_of(path):
            source = _recordwise(opened, function) if run_code else _foreseen(opened, function)
        return Survey(
            path=path,
            tree="" if tables.format_of(path) else tree,
            uuid=source.uuid,
            size=source.size,
            entries=source.entries,
            branches=dict(source.branches),
            left_out=dict(source.left_out),
            index=source.index,
            content=source.content,
            lengths=getattr(source, "lengths", {}),
            work=_work(source, bool(function)),
        )
    finally:
        source.close()


def _work(source: Source | Foreseen, by_record: bool) -> float:
    """Return about how many bytes reading an entry takes: its text, or the objects that are made of it."""
    form = tables.format_of(source.path)
    if not form or not source.entries:
        return 0.0
    text = source.index[-1][1] if source.index else source.size
    return text / source.entries * (_RECORD if by_record or form == "avro" else _TEXT)


def _recordwise(source: Source, function: str) -> Source:
    # Not imported by those who have none: it pulls in pyarrow.
    from mlaas_condor.data import recordwise
    from mlaas_condor.data.tables.table import Table

    try:
        return recordwise.Recordwise(cast(Table, source), Path(function))
    except BaseException:
        source.close()
        raise


def _foreseen(source: Source, function: str) -> Foreseen:
    from mlaas_condor.data.foreseen import Foreseen
    from mlaas_condor.data.tables.table import Table

    try:
        return Foreseen(cast(Table, source), Path(function))
    except BaseException:
        source.close()
        raise


class Reader:
    """Reads entry ranges of one file of a dataset, which stays open between reads.

    Parameters
    ----------
    dataset
        What is read; names are those it has.
    position
        Which of its files.
    threads
        Threads that decompress.

    Raises
    ------
    InputUnreadable, InputChanged
        As `open_source`.
    ModelFault
        The user's function leaves other branches than were planned with.
    """

    def __init__(self, dataset: Dataset, position: int, threads: int = 1) -> None:
        file = dataset.files[position]
        self.source: Source = open_source(file.locate(), file.tree, file.uuid, file.index, threads)
        if dataset.function:
            self.source = _recordwise(self.source, dataset.function.name)
            _check_kinds(self.source, dataset)
        self._fill = dataset.fill_missing

    def read(self, names: Iterable[str], start: int, stop: int) -> dict[str, Column]:
        """Read entries ``start`` to ``stop`` (excluded) of the named branches.

        Where the dataset says so, a branch that the file does not have is NaN, or an empty list.

        Raises
        ------
        InputUnreadable
            A branch is missing or its data is damaged.
        """
        names = list(names)
        missing = [name for name in names if name in self._fill and name not in self.source.branches]
        present = [name for name in names if name not in missing]
        events = self.source.read(present, start, stop) if present else {}
        return events | {name: self._nothing(name, stop - start) for name in missing}

    def ahead(self, names: Iterable[str], start: int, stop: int) -> None:
        """Begin to fetch what `read` will be asked for next."""
        self.source.ahead([name for name in names if name not in self._fill], start, stop)

    def _nothing(self, name: str, n: int) -> Column:
        if self._fill[name] == JAGGED:
            return Jagged(np.zeros(n, np.int64), np.zeros(0, np.float32))
        return np.full(n, np.nan, np.float32)

    def close(self) -> None:
        """Close the file."""
        self.source.close()


def _check_kinds(source: Source, dataset: Dataset) -> None:
    """Make sure that the user's function leaves what was foreseen, where it was not run to plan."""
    for kind, names in ((FLAT, dataset.flat), (JAGGED, dataset.jagged)):
        for name in names:
            found = source.branches[name].kind if name in source.branches else kind
            if found != kind:
                source.close()
                file = dataset.function.name if dataset.function else ""
                raise ModelFault(
                    f"{file}: it leaves {name!r} {found}, and was planned with as {kind}: say in the file "
                    f'which branches it leaves, all of them: BRANCHES = {{"{name}": "{found}", …}}'
                )
