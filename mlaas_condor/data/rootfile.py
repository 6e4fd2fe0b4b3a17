"""ROOT files: TTree and RNTuple, at the path of a tree in them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

import numpy as np

from mlaas_condor.data import rootheader, storage
from mlaas_condor.data.events import Column, Jagged
from mlaas_condor.data.remote import RemoteFile
from mlaas_condor.data.rootbranches import classify, first_line, is_ntuple
from mlaas_condor.data.source import Branch, Index
from mlaas_condor.errors import InputUnreadable, StageError

TREES = ("TTree", "TNtuple", "TNtupleD", "ROOT::RNTuple")
_SHOWN = 8  # names that a message lists


class RootSource:
    """A TTree or RNTuple, open for reading; the attributes are those of `Source`.

    Parameters
    ----------
    path
        Path or URL of the file.
    tree
        Path of the tree in it; with a cycle (``events;2``) where the last one is not meant.
    threads
        Threads that decompress.

    Raises
    ------
    InputUnreadable
        As `open_tree`.
    """

    index: Index = ()
    content = ""

    def __init__(self, path: str, tree: str, threads: int = 1) -> None:
        self.path = path
        self._name = tree
        self._tree = open_tree(path, tree)
        self.entries = int(self._tree.num_entries)
        self.uuid = identity(path, self._file)
        self._remote: RemoteFile | None = getattr(self._file.source, "remote", None)
        self.size = int(self._file.source.num_bytes)
        self._threads = _uproot().ThreadPoolExecutor(threads) if threads > 1 else None
        self._all: tuple[dict[str, Branch], dict[str, str]] | None = None

    @property
    def branches(self) -> Mapping[str, Branch]:
        """Branches that can be features, by name."""
        return self._known()[0]

    @property
    def left_out(self) -> Mapping[str, str]:
        """Every other branch, with the reason."""
        return self._known()[1]

    def _known(self) -> tuple[dict[str, Branch], dict[str, str]]:
        # Not at once: it takes a second for a thousand branches, and jobs know theirs.
        if self._all is None:
            branches: dict[str, Branch] = {}
            left_out: dict[str, str] = {}
            with _telling(f"{self.path}: its list of branches"):
                for name, found in classify(self._tree):
                    if name in branches or name in left_out:
                        left_out[f"{name} (again)"] = "has the name of another branch"
                    elif isinstance(found, Branch):
                        branches[name] = found
                    else:
                        left_out[name] = found
            self._all = branches, left_out
        return self._all

    def read(self, names: Iterable[str], start: int, stop: int) -> dict[str, Column]:
        """Read entries ``start`` to ``stop`` (excluded) of the named branches; as `Source.read`."""
        names = self._there(names)
        try:
            if self._remote and is_ntuple(self._tree):
                self.ahead(names, start, stop)  # or each page would be a request
            arrays = self._arrays(names, start, stop)
        except (MemoryError, StageError):  # the storage is the trouble, not what it holds
            raise
        except Exception as error:
            bad = list(self._damaged(names, start, stop))
            which = f" of {_some(bad)}" if bad else ""
            raise InputUnreadable(
                f"{self.path}: entries {start} to {stop}{which} cannot be read: {first_line(error)}"
            ) from error
        columns = {name: _to_column(arrays[name].layout) for name in names}
        for name, column in columns.items():
            if column is None:
                reason = self.left_out.get(name, "holds no numbers")
                raise InputUnreadable(f"{self.path}: branch {name!r} cannot be used: it {reason}")
        return {name: column for name, column in columns.items() if column is not None}

    def _there(self, names: Iterable[str]) -> list[str]:
        names = list(names)
        with _telling(f"{self.path}: its list of branches"):
            known = {field.name for field in self._tree.fields} if is_ntuple(self._tree) else self._tree
            missing = [name for name in names if name not in known]
        if missing:
            raise InputUnreadable(f"{self.path}: tree {self._name!r} has no branch {_some(missing)}")
        return names

    def _arrays(self, names: Sequence[str], start: int, stop: int) -> dict[str, Any]:
        wanted: dict[str, Any] = {"expressions": names}
        if is_ntuple(self._tree):
            # Names would be patterns there, and take fields of structures that are called the same.
            wanted = {"filter_field": lambda field, paths=frozenset(names): field.path in paths}
        arrays: dict[str, Any] = self._tree.arrays(
            **wanted, entry_start=start, entry_stop=stop, library="ak", how=dict,
            decompression_executor=self._threads,
        )  # fmt: skip
        return arrays

    def _damaged(self, names: Sequence[str], start: int, stop: int) -> Iterator[str]:
        """Yield the branches that cannot be read, by halves: one by one is slow where there are many."""
        try:
            self._arrays(names, start, stop)
        except MemoryError:
            raise
        except Exception:
            half = len(names) // 2
            if half:
                yield from self._damaged(names[:half], start, stop)
                yield from self._damaged(names[half:], start, stop)
            else:
                yield from names

    def ahead(self, names: Iterable[str], start: int, stop: int) -> None:
        """Begin to fetch what `read` will need; as `Source.ahead`."""
        if self._remote:
            names = self._there(names)
            find = _page_ranges if is_ntuple(self._tree) else _basket_ranges
            self._remote.ahead(find(self._tree, names, start, stop))

    def boundaries(self, names: Iterable[str]) -> Sequence[int]:
        """Return the entries at which a cluster begins in all these branches, and the last one."""
        names = self._there(names)
        if is_ntuple(self._tree):
            with _telling(f"{self.path}: its list of clusters"):
                firsts = [int(each.num_first_entry) for each in self._tree.cluster_summaries]
            return sorted({0, *firsts, self.entries})
        common: set[int] = set()
        for name in names:
            offsets = {int(offset) for offset in self._tree[name].entry_offsets}
            common = common & offsets if common else offsets
            if len(common) <= 2:
                break
        return sorted({0, *common, self.entries})

    @property
    def _file(self) -> Any:
        return self._tree.file if hasattr(self._tree, "file") else self._tree.parent.file

    def close(self) -> None:
        """Close the file."""
        if self._threads:
            self._threads.shutdown()
        self._file.close()


def _uproot() -> Any:
    import uproot

    # A third faster than Python's own zlib, in which most files are compressed. `ZLIB.library`, which is
    # documented, is asked only where uproot writes.
    inflate = getattr(uproot.compression, "_decompress_ZLIB", None)
    if inflate is not None and find_spec("isal"):
        inflate.library = "isal"
    return uproot


def open_tree(path: str, tree: str) -> Any:
    """Open a TTree or RNTuple.

    Raises
    ------
    InputUnreadable
        The file is missing, empty, no ROOT file, cut short, or has no such tree; the message names
        the trees there are.
    """
    file = open_file(path)
    try:
        with _telling(f"{path}: tree {tree!r}"):
            return tree_in(file, path, tree)
    except BaseException:
        file.close()
        raise


def open_file(path: str) -> Any:
    """Open a ROOT file; raises as `open_tree`."""
    uproot = _uproot()
    if storage.is_url(path):
        return _open_remote(path)
    rootheader.check(path)
    with _telling(f"{path}: perhaps cut short, for it"):
        # Each entry range is read once: a cache of 100 MB a file would only fill the memory.
        return uproot.open({path: None}, array_cache=None)


def _open_remote(path: str) -> Any:
    from mlaas_condor.data import remotesource

    remote = storage.open_remote(path)
    try:
        rootheader.tell(path, remote.piece(0, rootheader.HEADER), remote.size)
        with _telling(f"{path}: perhaps cut short, for it"):
            return remotesource.open_root(path, remote)
    except BaseException:
        remote.close()
        raise


def tree_in(file: Any, path: str, tree: str) -> Any:
    """Return a tree of an open file; raises as `open_tree`."""
    whole, size = int(file.file.fEND), int(file.file.source.num_bytes)
    if whole > size:
        raise InputUnreadable(f"{path}: is cut short: it has {size} of {whole} bytes")
    import uproot

    try:
        found = file[tree]
    except uproot.KeyInFileError:
        found = None
    if isinstance(found, uproot.TTree) or is_ntuple(found):
        _ = found.num_entries  # an RNTuple reads its directory only now
        return found
    if "RNTuple" in getattr(found, "classname", ""):
        raise InputUnreadable(
            f"{path}: {tree!r} is an RNTuple of a trial version of ROOT, before 6.34: write it anew"
        )
    trees = tree_names(file)
    hint = f"it has {', '.join(trees)}; set 'branch' in params.json" if trees else "it has no tree at all"
    raise InputUnreadable(f"{path}: no tree {tree!r}: {hint}")


def tree_names(file: Any) -> list[str]:
    """Return the paths of the trees of an open ROOT file, without cycle numbers."""
    classes = file.classnames(cycle=False)
    return sorted({name for name, kind in classes.items() if kind in TREES})


def identity(path: str, file: Any) -> str:
    """Return the file's UUID; where it has none, as some writers leave it, a digest of both its ends.

    The directory of a ROOT file, with the sizes and often checksums of all that is in it, is at the end.
    """
    return str(file.uuid) if file.uuid.int else storage.ends_digest(path)


def _basket_ranges(tree: Any, names: Iterable[str], start: int, stop: int) -> list[tuple[int, int]]:
    """Return where in the file the baskets with some entries are, as uproot will ask for them."""
    found = [each for name in names for _, each in tree[name].entries_to_ranges_or_baskets(start, stop)]
    return [(int(each[0]), int(each[1])) for each in found if isinstance(each, tuple)]


def _page_ranges(ntuple: Any, names: Iterable[str], start: int, stop: int) -> list[tuple[int, int]]:
    """Return where in the file the pages of the clusters with some entries are, as uproot asks for them."""
    wanted = set(names)
    records = ntuple.field_records

    def top(field: int) -> str:
        while records[field].parent_field_id != field:
            field = records[field].parent_field_id
        return str(records[field].field_name)

    columns = [column.idx for column in ntuple.column_records if top(column.field_id) in wanted]
    clusters = [
        k
        for k, each in enumerate(ntuple.cluster_summaries)
        if each.num_first_entry < stop and start < each.num_first_entry + each.num_entries
    ]
    places = [
        page.locator
        for links in (ntuple.page_link_list[k] for k in clusters)
        for column in columns
        if column < len(links)
        for page in links[column].pages
    ]
    return [(int(place.offset), int(place.offset + place.num_bytes)) for place in places]


def _to_column(layout: Any) -> Column | None:
    """Take an array apart, without a copy where there is none to be made; None where it is no numbers."""
    import awkward as ak

    if layout.is_numpy and layout.data.ndim == 1:
        return np.asarray(layout.data)
    inner = layout
    while inner.is_regular:
        inner = inner.content
    if inner.is_numpy:
        values = np.asarray(ak.to_numpy(layout))
        per_event = int(np.prod(values.shape[1:]))
        return Jagged(np.full(len(values), per_event, np.int64), values.reshape(-1))
    if not layout.is_list or layout.parameter("__array__") is not None:
        return None
    from_zero = layout.to_ListOffsetArray64(True)
    offsets = np.asarray(from_zero.offsets)
    if not from_zero.content.is_numpy:
        return None
    # Awkward's own functions take longer to find out what they were given than all of the rest.
    values = np.asarray(from_zero.content.data)[: int(offsets[-1])]
    return Jagged(np.diff(offsets), values) if values.ndim == 1 else None


@contextmanager
def _telling(what: str) -> Iterator[None]:
    """Turn whatever uproot stumbles over into `InputUnreadable`."""
    try:
        yield
    except (MemoryError, StageError):
        raise
    except Exception as error:
        raise InputUnreadable(f"{what} cannot be read: {first_line(error)}") from error


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
