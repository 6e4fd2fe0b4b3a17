"""Open input files, say what is in them, and read an entry range of named branches.

Jagged branches come out as counts and values (`Jagged`), never as lists: everything downstream is
columnar.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from mlaas_condor.errors import InputChanged, InputUnreadable

FLAT, JAGGED = "flat", "jagged"
_END_BYTES = 2**16
_NUMBERS = {"bool": "bool", "float": "float32", "double": "float64"}
_NUMBERS |= {f"std::{sign}int{bits}_t": f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)}
_VECTOR = re.compile(r"(?:std::vector|ROOT::VecOps::RVec)<(.+)>")
_HEADER = 20  # bytes of a ROOT file up to the position of its end


@dataclass(frozen=True)
class Jagged:
    """A list of numbers an event.

    Parameters
    ----------
    counts
        Length of each event's list, shape (events,), int64.
    values
        All values one after another, shape (sum of counts,).
    """

    counts: NDArray[np.int64]
    values: NDArray[Any]


Column = NDArray[Any] | Jagged
Events = Mapping[str, Column]


@dataclass(frozen=True)
class Branch:
    """A branch that can be read: one number (flat) or one list of numbers (jagged) an event."""

    name: str
    kind: Literal["flat", "jagged"]
    dtype: str


@dataclass(frozen=True)
class Survey:
    """What one file holds.

    Parameters
    ----------
    uuid, size, entries
        Identity of the file, bytes, entries of the tree.
    branches
        Branches that can be features, by name.
    left_out
        Every other branch, with the reason.
    """

    uuid: str
    size: int
    entries: int
    branches: Mapping[str, Branch]
    left_out: Mapping[str, str]


def open_tree(path: str, tree: str) -> Any:
    """Open a TTree or RNTuple.

    Raises
    ------
    InputUnreadable
        The file is missing, empty, no ROOT file, cut short, or has no such tree; the message names
        the trees there are.
    """
    import uproot

    _check_header(path)
    try:
        # Each entry range is read once: a cache of 100 MB a file would only fill the memory.
        file = uproot.open(path, array_cache=None)
    except MemoryError:
        raise
    except Exception as error:
        raise InputUnreadable(f"{path}: cannot be opened, perhaps cut short: {_first_line(error)}") from error
    try:
        found = file[tree]
        # A branch of a tree has entries too, and some old RNTuples are objects without any.
        is_tree = hasattr(found, "num_entries") and not isinstance(found, uproot.TBranch)
        trees = [] if is_tree else tree_names(file)
    except uproot.KeyInFileError:
        is_tree, trees = False, tree_names(file)
    except MemoryError:
        raise
    except Exception as error:
        raise InputUnreadable(f"{path}: tree {tree!r} cannot be read: {_first_line(error)}") from error
    if not is_tree:
        hint = f"it has {', '.join(trees)}; set 'branch' in params.json" if trees else "it has no tree at all"
        raise InputUnreadable(f"{path}: no tree {tree!r}: {hint}")
    return found


def tree_names(file: Any) -> list[str]:
    """Return the paths of the trees of an open ROOT file, without cycle numbers."""
    classes = file.classnames(cycle=False)
    return sorted({name for name, kind in classes.items() if kind in ("TTree", "TNtuple", "ROOT::RNTuple")})


def survey(path: str, tree: str) -> Survey:
    """Look into a file without reading events; raises `InputUnreadable` as `open_tree` does."""
    found = open_tree(path, tree)
    branches: dict[str, Branch] = {}
    left_out: dict[str, str] = {}
    for name, kind, dtype in _classify(found):
        if kind in (FLAT, JAGGED):
            branches[name] = Branch(name, "flat" if kind == FLAT else "jagged", dtype)
        else:
            left_out[name] = kind
    return Survey(
        uuid=identity(path, found),
        size=Path(path).stat().st_size,
        entries=int(found.num_entries),
        branches=branches,
        left_out=left_out,
    )


def identity(path: str, tree: Any) -> str:
    """Return the file's UUID; where it has none, as some writers leave it, a digest of both its ends.

    The directory of a ROOT file, with the sizes and often checksums of all that is in it, is at the end.
    """
    file = tree.file if hasattr(tree, "file") else tree.parent.file
    if file.uuid.int:
        return str(file.uuid)
    with Path(path).open("rb") as raw:
        ends = raw.read(_END_BYTES)
        raw.seek(max(0, raw.seek(0, os.SEEK_END) - _END_BYTES))
        ends += raw.read()
    return "ends-" + hashlib.sha256(ends).hexdigest()[:32]


def _classify(found: Any) -> Iterable[tuple[str, str, str]]:
    """Yield (name, flat | jagged | why it is neither, dtype) for every leaf."""
    import uproot

    if not isinstance(found, uproot.TTree):
        yield from _classify_fields(found)
        return
    for branch in found.itervalues(recursive=True):
        if len(branch.branches):
            continue
        name = branch.object_path.rsplit(":", 1)[-1] if branch.parent is not found else branch.name
        try:
            interpretation = branch.interpretation
        except Exception as error:
            yield name, f"cannot be read: {_first_line(error)}", ""
            continue
        yield name, *_kind(interpretation)


def _kind(interpretation: Any) -> tuple[str, str]:
    """Tell flat, jagged or the reason to leave out, and the dtype, from uproot's interpretation."""
    import uproot

    numeric = (uproot.AsDtype, uproot.interpretation.numerical.TruncatedNumerical)
    jagged = isinstance(interpretation, uproot.AsJagged)
    content = interpretation.content if jagged else interpretation
    if not isinstance(content, numeric):
        return f"holds {getattr(interpretation, 'typename', None) or type(interpretation).__name__}", ""
    dtype = np.dtype(content.to_dtype)
    if dtype.fields is not None:
        return "holds a structure", ""
    if dtype.shape:
        return f"holds {'x'.join(map(str, dtype.shape))} numbers an element", ""
    return (JAGGED if jagged else FLAT), dtype.newbyteorder("=").name


def _classify_fields(ntuple: Any) -> Iterable[tuple[str, str, str]]:
    """Tell the fields of an RNTuple apart by their C++ types, the others by an empty read, which is slow."""
    for name in ntuple.keys(recursive=False):
        typename = str(getattr(ntuple[name], "typename", ""))
        vector = _VECTOR.fullmatch(typename)
        number = _NUMBERS.get(vector[1] if vector else typename)
        if number:
            yield name, (JAGGED if vector else FLAT), number
        else:
            yield name, *_kind_of_empty_read(ntuple, name)


def _kind_of_empty_read(ntuple: Any, name: str) -> tuple[str, str]:
    import awkward as ak

    try:
        kind = ak.type(ntuple.arrays([name], entry_stop=0)[name]).content
    except Exception as error:
        return f"cannot be read: {_first_line(error)}", ""
    inner = kind.content if isinstance(kind, ak.types.ListType) else kind
    if not isinstance(inner, ak.types.NumpyType) or inner.parameters or kind.parameters:
        return f"holds {kind}", ""
    return (FLAT if inner is kind else JAGGED), inner.primitive


class Reader:
    """Reads entry ranges of one tree, which stays open between reads.

    Parameters
    ----------
    path, tree
        File and tree.
    uuid
        If given, the file must have it.

    Raises
    ------
    InputUnreadable, InputChanged
        The file cannot be opened, or is not the one that was planned.
    """

    def __init__(self, path: str, tree: str, uuid: str | None = None) -> None:
        self.path = path
        self._tree = open_tree(path, tree)
        found = None if uuid is None else identity(path, self._tree)
        if found != uuid:
            raise InputChanged(f"{path}: its UUID is {found}, planned was {uuid}; submit the run again")

    def read(self, branches: Iterable[str], start: int, stop: int) -> dict[str, Column]:
        """Read entries ``start`` to ``stop`` (excluded) of the named branches.

        Raises
        ------
        InputUnreadable
            A branch is missing or its data is damaged.
        """
        names = list(branches)
        try:
            arrays = self._tree.arrays(names, entry_start=start, entry_stop=stop, library="ak", how=dict)
        except MemoryError:
            raise
        except Exception as error:
            bad = [name for name in names if not self._can_read(name, start, stop)]
            which = f" of {', '.join(bad)}" if bad else ""
            raise InputUnreadable(
                f"{self.path}: entries {start} to {stop}{which} cannot be read: {_first_line(error)}"
            ) from error
        return {name: _to_column(arrays[name]) for name in names}

    def _can_read(self, branch: str, start: int, stop: int) -> bool:
        try:
            self._tree.arrays([branch], entry_start=start, entry_stop=stop, library="ak")
        except Exception:
            return False
        return True

    def close(self) -> None:
        """Close the file."""
        file = self._tree.file if hasattr(self._tree, "file") else self._tree.parent.file
        file.close()


def longest_lists(path: str, tree: str, jagged: Iterable[str], entries: int = 1000) -> dict[str, int]:
    """Return the longest list of each jagged branch among the first entries; 0 where it cannot be read."""
    names = list(jagged)
    try:
        events = Reader(path, tree).read(names, 0, entries)
    except InputUnreadable:
        return dict.fromkeys(names, 0)
    columns = {name: events[name] for name in names}
    return {
        name: int(column.counts.max(initial=0)) if isinstance(column, Jagged) else 1
        for name, column in columns.items()
    }


def _to_column(array: Any) -> Column:
    import awkward as ak

    if array.ndim == 1:
        return np.asarray(ak.to_numpy(array))
    counts = np.asarray(ak.to_numpy(ak.num(array)), dtype=np.int64)
    return Jagged(counts, np.asarray(ak.to_numpy(ak.flatten(array))))


def _check_header(path: str) -> None:
    """Tell a missing, empty, foreign or shortened file apart before uproot is asked."""
    if "://" in path:
        return
    try:
        if stat.S_ISFIFO(os.stat(path).st_mode):  # noqa: PTH116 - opening it would wait for ever
            raise InputUnreadable(f"{path}: is a pipe, not a file")
        with Path(path).open("rb") as file:
            header, size = file.read(_HEADER), file.seek(0, os.SEEK_END)
    except FileNotFoundError:
        raise InputUnreadable(f"{path}: no such file") from None
    except OSError as error:
        raise InputUnreadable(f"{path}: cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise InputUnreadable(f"{path!r}: is no file name: {error}") from error
    if not header:
        raise InputUnreadable(f"{path}: is empty (0 bytes)")
    if header[:4] != b"root":
        raise InputUnreadable(f"{path}: is not a ROOT file (begins with {header[:4]!r})")
    # Where the directory stands first, as uproot writes it, a file that is cut short opens all the same.
    padded = header.ljust(_HEADER, b"\0")
    (version,) = struct.unpack_from(">i", padded, 4)
    (whole,) = struct.unpack_from(">q" if version >= 1_000_000 else ">i", padded, 12)
    if whole > size:
        raise InputUnreadable(f"{path}: is cut short: it has {size} of {whole} bytes")


def _first_line(error: Exception) -> str:
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0]}" if text else type(error).__name__
