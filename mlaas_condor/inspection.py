"""What is in a file, before there is a request: its trees, its branches and how their values are spread."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, TypeVar

from mlaas_condor import facts, survey
from mlaas_condor.data import inputs, storage, tables, trees
from mlaas_condor.data import specs as specs_of
from mlaas_condor.data.dataset import Dataset, EntryRange, InputFile
from mlaas_condor.data.inputs import Survey
from mlaas_condor.data.measuring import blocks, measure
from mlaas_condor.data.selection import choose
from mlaas_condor.data.specs import Part
from mlaas_condor.errors import InputUnreadable, Problem, StageError
from mlaas_condor.facts import BranchFacts
from mlaas_condor.lists import Input, names_beside, split_tree
from mlaas_condor.reading import join_path, nearest

FIRST = 10_000  # entries of each file that are looked at if nothing else is said
_OPENERS = 16  # files opened side by side
_T = TypeVar("_T")
_R = TypeVar("_R")


@dataclass(frozen=True)
class FileFacts:
    """What is in one file.

    Parameters
    ----------
    path, format, size
        Path or URL; ``root``, ``csv``, ``json``, ``parquet`` or ``avro``; bytes.
    trees
        Path of each tree to its entries, None where it cannot be read; empty for a format that has none.
    tree, entries, seen
        The tree looked into, its entries, and how many of the first ones were looked at.
    branches
        What can be a feature, in the order of the file.
    left_out
        What cannot, with the reason.
    damaged
        What could be a feature, but cannot be read, with the reason: a run needs it excluded.
    """

    path: str
    format: str
    size: int
    trees: Mapping[str, int | None]
    tree: str
    entries: int
    seen: int
    branches: Mapping[str, BranchFacts]
    left_out: Mapping[str, str]
    damaged: Mapping[str, str]

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain data."""
        return {
            "path": self.path,
            "format": self.format,
            "size": self.size,
            "trees": [{"path": name, "entries": number} for name, number in self.trees.items()],
            "tree": self.tree,
            "entries": self.entries,
            "seen": self.seen,
            "branches": [each.to_dict() for each in self.branches.values()],
            "left_out": dict(self.left_out),
            "damaged": dict(self.damaged),
        }


@dataclass(frozen=True)
class Inspection:
    """What is in some files.

    Parameters
    ----------
    files
        Those that can be read.
    unreadable
        Path of each other one, and why.
    branches
        The branches of all files together, with the entries that were looked at in any of them.
    differences
        Path of a file, and what sets it apart from the others, with what to do about it.
    unmatched
        Patterns that no branch matches.
    """

    files: Sequence[FileFacts]
    unreadable: Sequence[tuple[str, StageError]]
    branches: Mapping[str, BranchFacts]
    differences: Sequence[tuple[str, Problem]]
    unmatched: Sequence[str]

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain data; its keys are those that ``mlaas-condor inspect --json`` prints."""
        return {
            "files": [each.to_dict() for each in self.files],
            "unreadable": [{"path": path, "error": str(error)} for path, error in self.unreadable],
            "branches": [each.to_dict() for each in self.branches.values()],
            "differences": [
                {"path": path, "difference": each.what.removeprefix(f"{path}: ")}
                for path, each in self.differences
            ],
            "unmatched": list(self.unmatched),
        }

    def __str__(self) -> str:
        from mlaas_condor import show_files

        return show_files.text(self)

    def _repr_html_(self) -> str:
        from html import escape

        return f"<pre>{escape(str(self))}</pre>"


@dataclass(frozen=True)
class _Looked:
    """One file, opened and measured."""

    trees: Mapping[str, int | None]
    survey: Survey
    seen: int
    part: Part
    damaged: Mapping[str, str]


def inspect(
    files: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    tree: str = "",
    entries: int | None = FIRST,
    branches: Sequence[str] = (),
) -> Inspection:
    """Look into files.

    Parameters
    ----------
    files
        Path, URL or glob, or several; ``file.root:tree`` names a tree.
    tree
        The tree to look into where the file does not name one; without, the one with the most entries.
    entries
        How many of the first entries of each file are looked at; None for all.
    branches
        Names or patterns (``jet*``) of the branches to look at; none for all.

    Returns
    -------
    Inspection
        Files that cannot be read are among it, with the reason.
    """
    given = [files] if isinstance(files, str | os.PathLike) else files
    unreadable: list[tuple[str, StageError]] = []
    found = [each for name in given for each in _kept(_expand, [os.fspath(name)], unreadable)]
    with ThreadPoolExecutor(_OPENERS) as pool:
        with_trees = _kept(_trees, [each for _, group in found for each in group], unreadable, pool)
        totals: Counter[str] = Counter()
        for _, of_file in with_trees:
            totals.update({name: number or 0 for name, number in of_file.items()})

        def opened(each: tuple[Input, Mapping[str, int | None]]) -> Survey:
            return inputs.survey(each[0].path, _pick(*each, tree, totals))

        surveys = _kept(opened, with_trees, unreadable, pool)

    def looked(each: tuple[tuple[Input, Mapping[str, int | None]], Survey]) -> _Looked:
        (_, of_file), known = each
        return _look(of_file, known, entries, branches)

    return _joined([each for _, each in _kept(looked, surveys, unreadable)], unreadable, branches)


def _kept(
    act: Callable[[_T], _R],
    items: Sequence[_T],
    unreadable: list[tuple[str, StageError]],
    pool: ThreadPoolExecutor | None = None,
) -> list[tuple[_T, _R]]:
    """Return each item with what ``act`` makes of it; where that fails, the reason goes to ``unreadable``."""

    def attempt(item: _T) -> _R | StageError:
        try:
            return act(item)
        except StageError as error:
            return error

    kept: list[tuple[_T, _R]] = []
    for item, outcome in zip(items, (pool.map if pool else map)(attempt, items), strict=True):
        if isinstance(outcome, StageError):
            unreadable.append((_path_of(item), outcome))
        else:
            kept.append((item, outcome))
    return kept


def _path_of(item: Any) -> str:
    """Return the path that is innermost in what an earlier step returned."""
    while isinstance(item, tuple):
        item = item[0]
    return item.path if isinstance(item, Input) else str(item)


def _expand(name: str) -> list[Input]:
    file, tree = split_tree(name, join_path(Path(), name))
    paths = storage.expand(file if storage.is_url(file) else str(join_path(Path(), file)))
    if not paths:
        raise InputUnreadable(f"{name}: matches no file")
    return [Input(path, tree) for path in paths]


def _trees(item: Input) -> dict[str, int | None]:
    path = Path(item.path)
    if not storage.is_url(item.path) and not os.path.lexists(path):
        near = nearest(path.name, names_beside(path, path.suffix))
        raise InputUnreadable(f"{path}: no such file" + (f" ({near})" if near else ""))
    return {} if tables.format_of(item.path) else trees.trees(item.path)


def _pick(item: Input, there: Mapping[str, int | None], tree: str, totals: Mapping[str, int]) -> str:
    """Return the path of the tree to look into: the one named, or the one with the most entries in all."""
    if tables.format_of(item.path):
        return ""
    wanted = item.tree or tree
    if not there:
        raise InputUnreadable(f"{item.path}: has no tree")
    if not wanted:
        return max(there, key=lambda name: (totals[name], there[name] is not None))
    if wanted.split(";")[0] not in there:
        raise InputUnreadable(f"{item.path}: no tree {wanted!r} ({nearest(wanted, there)})")
    return wanted


def _look(
    there: Mapping[str, int | None], found: Survey, entries: int | None, patterns: Sequence[str]
) -> _Looked:
    """Measure the first entries of a file; branches that cannot be read do not keep the others from it."""
    seen = found.entries if entries is None else min(entries, found.entries)
    chosen = choose(found.branches, patterns, (), ())
    names, damaged = {*chosen.flat, *chosen.jagged}, {}
    try:
        part = _measure(found, names, seen)
    except InputUnreadable:
        damaged = _damaged(found, names, seen)
        if not damaged:
            raise
        part = _measure(found, names - set(damaged), seen)
    there = there and {**there, found.tree.split(";")[0]: found.entries}
    return _Looked(there, found, seen, part, damaged)


def _measure(found: Survey, names: Iterable[str], seen: int) -> Part:
    kinds = {name: found.branches[name].kind for name in sorted(names)}
    file = InputFile(
        path=found.path, tree=found.tree, uuid=found.uuid, size=found.size,
        entries=found.entries, used=seen, index=list(found.index),
    )  # fmt: skip
    dataset = Dataset(
        files=[file],
        flat=[name for name, kind in kinds.items() if kind == "flat"],
        jagged=[name for name, kind in kinds.items() if kind == "jagged"],
        tasks=[[EntryRange(file=0, start=0, stop=seen)] if seen else []],
        chunk_size=-1,
        shuffle=False,
        seed=0,
    )
    return measure(dataset, dataset.tasks[0])


def _damaged(found: Survey, names: Iterable[str], seen: int) -> dict[str, str]:
    """Return the branches that cannot be read, one by one, with the reason."""
    source = inputs.open_source(found.path, found.tree, found.uuid, found.index)
    damaged: dict[str, str] = {}
    try:
        for name in sorted(names):
            try:
                whole = EntryRange(file=0, start=0, stop=seen)
                for start, stop in blocks(whole, source.boundaries([name]), FIRST):
                    source.read([name], start, stop)
            except InputUnreadable as error:
                _, _, reason = str(error).removeprefix(f"{found.path}: ").partition("cannot be read: ")
                damaged[name] = reason or str(error)
    finally:
        source.close()
    return damaged


def _joined(
    looked: Sequence[_Looked], unreadable: Sequence[tuple[str, StageError]], patterns: Sequence[str]
) -> Inspection:
    files = [_facts(each, patterns) for each in looked]
    together = specs_of.join([each.part for each in looked]).branches
    surveys = [each.survey for each in looked]
    shown = {name: each.branch for file in reversed(files) for name, each in file.branches.items()}
    order = dict.fromkeys(name for file in files for name in file.branches)
    seen = Counter(dict.fromkeys(order, 0))
    for file in files:
        seen.update(dict.fromkeys(file.branches, file.seen))
    names = {name for file in files for name in (*file.branches, *file.left_out, *file.damaged)}
    return Inspection(
        files=files,
        unreadable=unreadable,
        branches={name: facts.of_branch(shown[name], seen[name], together.get(name)) for name in order},
        differences=[
            (each.path, problem)
            for each in surveys
            for problem in survey.differences([each], shown, fill=False)
        ],
        unmatched=[each for each in patterns if files and not any(_matches(name, [each]) for name in names)],
    )


def _facts(looked: _Looked, patterns: Sequence[str]) -> FileFacts:
    found, measured = looked.survey, looked.part.branches
    return FileFacts(
        path=found.path,
        format=tables.format_of(found.path) or "root",
        size=found.size,
        trees=looked.trees,
        tree=found.tree,
        entries=found.entries,
        seen=looked.seen,
        branches={
            name: facts.of_branch(branch, looked.seen, measured.get(name))
            for name, branch in _matching(found.branches, patterns)
            if name not in looked.damaged
        },
        left_out=dict(_matching(found.left_out, patterns)),
        damaged=looked.damaged,
    )


def _matching(found: Mapping[str, _T], patterns: Sequence[str]) -> Iterator[tuple[str, _T]]:
    for name, value in found.items():
        if not patterns or _matches(name, patterns):
            yield name, value


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(name == pattern or fnmatchcase(name, pattern) for pattern in patterns)
