"""The dataset of a run: which entries of which files, which branches, how they are cut into chunks.

`Dataset` is written by prepare as ``dataset.json`` and travels with every job; all that a job of the
specs, merge and preprocess stages does follows from it and from the number of its task.
"""

from __future__ import annotations

import hashlib
import json
from itertools import pairwise
from pathlib import Path

from mlaas_condor.jsonfile import JsonFile, Plain

FORMAT = 1  # raised whenever specs or chunks made from the same dataset would differ


class InputFile(Plain):
    """One input file as prepare found it.

    Parameters
    ----------
    path
        Where it is on the access point, or its URL.
    staged
        Its name beside the job; no two files of a run share it.
    uuid, size
        Identity of the content: ROOT's own UUID (or what `identity` makes up for it), and bytes.
    entries, used
        Entries of the tree, and how many of the first ones the run uses.
    """

    path: str
    staged: str
    uuid: str
    size: int
    entries: int
    used: int

    def locate(self) -> str:
        """Return the path to open: the copy in the working directory where there is one."""
        return self.staged if Path(self.staged).exists() else self.path


class EntryRange(Plain):
    """Entries ``start`` to ``stop`` (excluded) of one file, by its position in ``Dataset.files``."""

    file: int
    start: int
    stop: int


class Dataset(JsonFile):
    """Everything that decides what specs and chunks hold.

    Parameters
    ----------
    files, tree
        Inputs, and the path of the tree in each.
    flat, jagged
        Names of the feature branches, each list sorted.
    identifiers
        Branches that are kept with each event but are no features.
    tasks
        The entry ranges that each task of the specs stage measures.
    chunk_size
        Events a chunk, after cuts; -1 for one chunk.
    shuffle, seed
        Whether, and with which seed, the events of a chunk are shuffled.
    """

    format: int = FORMAT
    files: list[InputFile]
    tree: str
    flat: list[str]
    jagged: list[str]
    identifiers: list[str]
    tasks: list[list[EntryRange]]
    chunk_size: int
    shuffle: bool
    seed: int

    @property
    def events(self) -> int:
        """Entries used, before cuts."""
        return sum(file.used for file in self.files)

    @property
    def specs_key(self) -> str:
        """Names the content of the specs: the same for equal inputs, ranges, branches and format."""
        return _digest({**self._content(), "tasks": [[r.model_dump() for r in task] for task in self.tasks]})

    @property
    def chunks_key(self) -> str:
        """Names the content of the chunks; does not depend on how the specs stage is split."""
        shape = {"chunk_size": self.chunk_size, "shuffle": self.shuffle, "seed": self.seed}
        return _digest({**self._content(), **shape, "identifiers": self.identifiers})

    def _content(self) -> dict[str, object]:
        return {
            "format": self.format,
            "files": [[file.uuid, file.size, file.used] for file in self.files],
            "tree": self.tree,
            "branches": [self.flat, self.jagged],
        }


def share(total: int, weights: list[int]) -> list[int]:
    """Share ``total`` out in proportion to ``weights``, no share above its weight, the sum exact.

    What rounding leaves goes to the largest remainders (Hamilton's method), earlier ones first.
    """
    whole = sum(weights)
    if total >= whole:
        return list(weights)
    shares = [total * weight // whole for weight in weights]
    by_remainder = sorted(range(len(weights)), key=lambda i: (-(total * weights[i] % whole), i))
    for i in by_remainder[: total - sum(shares)]:
        shares[i] += 1
    return shares


def split_entries(used: list[int], tasks: int) -> list[list[EntryRange]]:
    """Split the first ``used[i]`` entries of each file into ``tasks`` lists of nearly equal length."""
    total = sum(used)
    bounds = [k * total // tasks for k in range(tasks + 1)]
    starts = [sum(used[:i]) for i in range(len(used))]
    return [
        [
            EntryRange(file=i, start=max(low - first, 0), stop=min(high - first, n))
            for i, (first, n) in enumerate(zip(starts, used, strict=True))
            if max(low - first, 0) < min(high - first, n)
        ]
        for low, high in pairwise(bounds)
    ]


def _digest(content: object) -> str:
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:20]
