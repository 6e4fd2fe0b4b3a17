"""Files of events, block by block: in memory there is one at a time, however long the file is."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import cast

from mlaas_condor.data import tables
from mlaas_condor.data.inputs import open_source
from mlaas_condor.data.source import Source
from mlaas_condor.errors import InputUnreadable
from mlaas_condor.inference.features import Features, Preparation
from mlaas_condor.lists import split_tree
from mlaas_condor.reading import join_path, nearest


def of_file(
    preparation: Preparation, path: str, tree: str | None = None, threads: int = 1
) -> Iterator[Features]:
    """Yield the features of all events of a file, in order; at least once.

    Parameters
    ----------
    preparation
        Makes the features.
    path
        A file of any format that a training reads; path or URL; ``file.root:tree`` names a tree.
    tree
        Path of the tree; where not given and not in ``path`` either, that of the training.
    threads
        Threads that decompress.

    Raises
    ------
    InputUnreadable
        The file cannot be opened or read, or lacks branches; names the nearest that it has.
    ModelFault
        As `Preparation.of_records`.
    RequestError
        As `Preparation.of_columns`.
    """
    file, named = split_tree(path, join_path(Path(), path))
    source = _open(file, tree or named or preparation.file.tree, threads)
    if preparation.has_function:
        source = _by_record(source, preparation)
    with closing(source):
        there = _present(source, preparation)
        for start, stop in _blocks(source, there, preparation):
            events = source.read(there, start, stop) if there else {}
            yield preparation.of_columns(preparation.with_missing(events, stop - start), stop - start)


def _open(path: str, tree: str, threads: int) -> Source:
    try:
        return open_source(path, tree, threads=threads)
    except InputUnreadable as error:
        # What to do about it is another thing in a request.
        told = str(error).replace("set 'branch' in params.json", "say which with tree=")
        raise InputUnreadable(told) from error


def _by_record(source: Source, preparation: Preparation) -> Source:
    """Return a table as the user's ``preprocessing(rec)`` leaves it; ROOT files have none, as in training."""
    if not tables.format_of(source.path):
        return source
    from mlaas_condor.data.recordwise import Recordwise
    from mlaas_condor.data.tables.table import Table

    try:
        return Recordwise(cast(Table, source), preparation.function())
    except BaseException:
        source.close()
        raise


def _present(source: Source, preparation: Preparation) -> list[str]:
    """Return the branches to read; those that may be missing only where they are there."""
    wanted, may_lack = list(preparation.file.inputs), preparation.file.fill_missing
    if not may_lack:
        # Not by asking for all there are: that takes a second for a thousand.
        try:
            source.read(wanted, 0, 0)
            return wanted
        except InputUnreadable:
            pass
    problems = []
    for name in wanted:
        if name not in source.branches and name not in may_lack:
            reason = source.left_out.get(name)
            near = nearest(name, source.branches)
            problems.append(f"{name} ({reason or near})" if reason or near else name)
    if problems:
        raise InputUnreadable(f"{source.path}: lacks branches that the model needs: {', '.join(problems)}")
    return [name for name in wanted if name in source.branches]


def _blocks(source: Source, names: list[str], preparation: Preparation) -> Iterator[tuple[int, int]]:
    """Yield entry ranges that go from one boundary in the file to another, where one is near enough."""
    size = preparation.block
    boundaries = source.boundaries(names) if names else [0, source.entries]
    start = 0
    while start < source.entries:
        reachable = boundaries[bisect_right(boundaries, start) : bisect_right(boundaries, start + size)]
        stop = reachable[-1] if reachable else min(start + size, source.entries)
        yield start, stop
        start = stop
    if not source.entries:
        yield 0, 0
