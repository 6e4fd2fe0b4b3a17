"""The file of a chunk: its events as columns, as they were in the inputs, compressed.

A plain zip archive (members stored, not deflated) of Blosc2 buffers, and ``meta.json``, which says what each
member is. Flat branches of one type are one member, a row a branch; so are jagged branches of one type with
lists of the same lengths, which are kept once for all of them. Nothing is padded or normalised: what is not
there needs no space, and another normalisation no new chunks.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlaas_condor.data.events import Column, Jagged, Shapes
from mlaas_condor.errors import InputUnreadable

FILE_NAME = "chunk-{:05d}.zip"
_META = "meta.json"
_FIXED_TIME = (1980, 1, 1, 0, 0, 0)  # so that equal chunks are equal files
_MOST_BYTES = 2**30  # of what is compressed together; Blosc2 takes less than 2 GiB


@dataclass(frozen=True)
class Chunk:
    """Events of one chunk.

    Parameters
    ----------
    events
        Feature branches, raw values.
    file, entry
        Position of the input file and entry in its tree, each of shape (events,).
    carried
        Branches that are no features (identifiers, label, weight), each of shape (events,).
    """

    events: dict[str, Column]
    file: NDArray[np.uint32]
    entry: NDArray[np.int64]
    carried: dict[str, NDArray[Any]]

    def __len__(self) -> int:
        return len(self.entry)


def write(path: Path, chunk: Chunk) -> None:
    """Write a chunk file; equal chunks give equal files."""
    shapes = Shapes()
    lengths: dict[int, str] = {}
    members: dict[str, NDArray[Any]] = {"file": chunk.file, "entry": chunk.entry}
    members |= {f"carried/{name}": values for name, values in chunk.carried.items()}
    groups: dict[tuple[str, str], dict[str, NDArray[Any]]] = {}
    for name, column in chunk.events.items():
        of_lists, values = "", column
        if isinstance(column, Jagged):
            of_lists = lengths.setdefault(id(shapes.offsets(column.counts)), f"lengths/{len(lengths)}")
            members.setdefault(of_lists, _smallest(column.counts))
            values = column.values
        array = np.asarray(values)
        groups.setdefault((of_lists, array.dtype.str), {})[name] = array
    blocks: dict[str, dict[str, Any]] = {}
    for i, ((of_lists, _), rows) in enumerate(groups.items()):
        members[f"values/{i}"] = np.stack(list(rows.values()))
        blocks[f"values/{i}"] = {"branches": list(rows), "lengths": of_lists}
    arrays = {name: [array.dtype.str, list(array.shape)] for name, array in members.items()}
    meta = {"events": len(chunk), "arrays": arrays, "blocks": blocks, "order": list(chunk.events)}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr(zipfile.ZipInfo(_META, _FIXED_TIME), json.dumps(meta))
        for name, array in members.items():
            archive.writestr(zipfile.ZipInfo(name, _FIXED_TIME), _compress(array.reshape(-1)))


def _smallest(counts: NDArray[np.int64]) -> NDArray[Any]:
    return counts.astype(np.min_scalar_type(int(counts.max(initial=0))))


def _blosc2() -> Any:
    import blosc2

    blosc2.set_releasegil(True)
    return blosc2


def _compress(values: NDArray[Any]) -> bytes:
    """Compress: Zstandard 1 after a byte shuffle was the smallest of what was fast."""
    blosc2 = _blosc2()
    # A buffer is below 2 GiB; larger arrays are several, each after its length.
    step = _MOST_BYTES // values.itemsize
    packed = b""
    for start in range(0, len(values), step):
        buffer: bytes = blosc2.compress2(
            np.ascontiguousarray(values[start : start + step]),
            codec=blosc2.Codec.ZSTD, clevel=1, filters=[blosc2.Filter.SHUFFLE], typesize=values.itemsize,
            nthreads=1,
        )  # fmt: skip
        packed += len(buffer).to_bytes(8, "little") + buffer
    return packed


def _decompress(packed: bytes, dtype: str, shape: Sequence[int]) -> NDArray[Any]:
    length = int(np.prod(shape))
    values = np.empty(length, dtype)
    at, done = 0, 0
    while at < len(packed):
        size = int.from_bytes(packed[at : at + 8], "little")
        step = min(_MOST_BYTES // values.itemsize, length - done)
        _blosc2().decompress2(packed[at + 8 : at + 8 + size], dst=values[done : done + step], nthreads=1)
        at, done = at + 8 + size, done + step
    return values.reshape(shape)


class _File:
    """An open chunk file."""

    def __init__(self, path: Path) -> None:
        self._archive = zipfile.ZipFile(path)
        self.meta = json.loads(self._archive.read(_META))

    def __enter__(self) -> _File:
        return self

    def __exit__(self, *_: object) -> None:
        self._archive.close()

    def array(self, member: str) -> NDArray[Any]:
        return _decompress(self._archive.read(member), *self.meta["arrays"][member])

    def names(self, folder: str) -> list[str]:
        return [name.removeprefix(folder) for name in self.meta["arrays"] if name.startswith(folder)]


_DAMAGED = (OSError, EOFError, zipfile.BadZipFile, KeyError, TypeError, ValueError, RuntimeError)


@contextmanager
def _opened(path: Path) -> Iterator[_File]:
    try:
        with _File(path) as file:
            yield file
    except _DAMAGED as error:
        raise InputUnreadable(f"{path}: is no chunk that can be read: {error}") from error


def read(path: Path, with_events: bool = True) -> Chunk:
    """Read a chunk file back, or all of it but the feature branches.

    Raises
    ------
    InputUnreadable
        The file is damaged.
    """
    with _opened(path) as file:
        return Chunk(
            events=_events(file) if with_events else {},
            file=file.array("file"),
            entry=file.array("entry"),
            carried={name: file.array(f"carried/{name}") for name in file.names("carried/")},
        )


def _events(file: _File) -> dict[str, Column]:
    lengths = {f"lengths/{name}": file.array(f"lengths/{name}") for name in file.names("lengths/")}
    counts = {name: each.astype(np.int64) for name, each in lengths.items()}
    found: dict[str, Column] = {}
    for member, block in file.meta["blocks"].items():
        for name, row in zip(block["branches"], file.array(member), strict=True):
            found[name] = Jagged(counts[block["lengths"]], row) if block["lengths"] else row
    return {name: found[name] for name in file.meta["order"]}


def read_carried(path: Path, name: str) -> NDArray[Any]:
    """Read one branch that is no feature, shape (events,), and nothing else of the file; raises as `read`."""
    with _opened(path) as file:
        return file.array(f"carried/{name}")


def events_in(path: Path) -> int:
    """Return how many events a chunk file has; raises as `read`."""
    with _opened(path) as file:
        return int(file.meta["events"])
