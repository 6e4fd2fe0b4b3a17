"""The dataset of a run: which entries of which files, which branches, how they are cut into chunks.

`Dataset` is written by prepare as ``dataset.json`` and travels with every job; all that a job of the
specs, merge and preprocess stages does follows from it and from the number of its task.
"""

from __future__ import annotations

import hashlib
import json
from bisect import bisect_right
from collections.abc import Callable, Sequence
from itertools import accumulate, pairwise
from pathlib import Path

from pydantic import Field

from mlaas_condor.data.selection import Steps
from mlaas_condor.jsonfile import JsonFile, Plain

FORMAT = 2  # raised whenever specs or chunks made from the same dataset would differ


class InputFile(Plain):
    """One input file as prepare found it.

    Parameters
    ----------
    path, tree
        Where it is on the access point, or its URL; the path of the tree in it, empty for a format that has
        none.
    staged
        Its name beside the job, which no two files of a run share; empty where jobs read the URL.
    uuid, content, size
        Identity of the content: ROOT's own UUID (or what `identity` makes up for it), a digest where the
        file was read through, and bytes.
    entries, used
        Entries, and how many of the first ones the run uses.
    index
        Where reading may start in a format that does not say so itself: (entry, byte).
    """

    path: str
    tree: str = ""
    staged: str = ""
    uuid: str
    content: str = ""
    size: int
    entries: int
    used: int
    index: list[tuple[int, int]] = Field([])

    def locate(self) -> str:
        """Return the path to open: the copy in the working directory where there is one."""
        return self.staged if self.staged and Path(self.staged).exists() else self.path


class EntryRange(Plain):
    """Entries ``start`` to ``stop`` (excluded) of one file, by its position in ``Dataset.files``."""

    file: int
    start: int
    stop: int


class Function(Plain):
    """The user's file with ``preprocessing(rec)``, as jobs have it.

    Parameters
    ----------
    name, modules
        Its name, and those of the user's modules and packages that it imports, beside the job.
    digest
        Of all of these.
    """

    name: str
    modules: list[str]
    digest: str


class Unreadable(Plain):
    """A file that was left out because it cannot be read, and why; ``entries`` is a guess from its size."""

    path: str
    reason: str
    entries: int


class Dataset(JsonFile):
    """Everything that decides what specs and chunks hold.

    Parameters
    ----------
    files
        Inputs.
    flat, jagged
        Names of the feature branches, each list sorted.
    carried
        Branches that are kept with each event but are no features: identifiers, label, weight.
    weight
        The one of them that is the weight of an event; empty for none.
    steps
        New branches and cuts.
    function
        What is done to each record of a file made of records; None for nothing.
    fill_missing
        Branches that some file does not have, which is padding there, and whether they are flat or jagged.
    may_lose
        Share of the entries that may be unreadable.
    unreadable
        Files that were left out.
    given
        Digest of the specs that the user gave; empty where they are measured.
    tasks
        The entry ranges that each task of the specs stage measures.
    block
        Entries that are read at a time to be measured.
    chunk_size
        Events a chunk, after cuts; -1 for one chunk.
    shuffle, seed
        Whether, and with which seed, the events of a chunk are shuffled.
    """

    format: int = FORMAT
    files: list[InputFile]
    flat: list[str]
    jagged: list[str]
    carried: list[str] = Field([])
    weight: str = ""
    steps: Steps = Steps()
    function: Function | None = None
    fill_missing: dict[str, str] = Field({})
    may_lose: float = 0.0
    unreadable: list[Unreadable] = Field([])
    given: str = ""
    tasks: list[list[EntryRange]]
    block: int = 10_000
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
        tasks = [[r.model_dump() for r in task] for task in self.tasks]
        # Where events may be lost, those are that lack any branch.
        all_read = {"carried": self.carried} if self.may_lose else {}
        return _digest({**self._content(), **all_read, "tasks": tasks, "block": self.block})

    @property
    def chunks_key(self) -> str:
        """Names the content of the chunks; does not depend on how the specs stage is split.

        Where events may be lost it does: around damage whole blocks are given up.
        """
        shape = {"chunk_size": self.chunk_size, "shuffle": self.shuffle, "seed": self.seed}
        split = {"split": self.specs_key} if self.may_lose else {}
        return _digest({**self._content(), **shape, **split, "carried": self.carried})

    def _content(self) -> dict[str, object]:
        return {
            "format": self.format,
            "files": [[f.uuid, f.content, f.size, f.tree, f.used] for f in self.files],
            "branches": [self.flat, self.jagged],
            "steps": self.steps.model_dump(),
            "weight": self.weight,
            "function": self.function.digest if self.function else "",
            # What one run may lose is a fault for the next.
            "losses": [self.may_lose, self.fill_missing, [file.path for file in self.unreadable]],
            "given": self.given,
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


def split_entries(
    used: list[int], tasks: int, boundaries: Callable[[int], Sequence[int]] | None = None
) -> list[list[EntryRange]]:
    """Split the first ``used[i]`` entries of each file into ``tasks`` lists of nearly equal length.

    ``boundaries`` tells where in a file it is best to split, as `Source.boundaries` does; it is asked only
    for files that are split.
    """
    total = sum(used)
    bounds = [k * total // tasks for k in range(tasks + 1)]
    starts = list(accumulate(used, initial=0))[:-1]
    if boundaries:
        # Not so far that a task could come out empty.
        most = total // tasks // 3
        bounds = [_to_boundary(bound, starts, used, boundaries, most) for bound in bounds]
    return [
        [
            EntryRange(file=i, start=max(low - first, 0), stop=min(high - first, n))
            for i, (first, n) in enumerate(zip(starts, used, strict=True))
            if max(low - first, 0) < min(high - first, n)
        ]
        for low, high in pairwise(bounds)
    ]


def _to_boundary(
    bound: int, starts: list[int], used: list[int], boundaries: Callable[[int], Sequence[int]], most: int
) -> int:
    """Move a bound, in entries of all files, to the nearest good place in its file, by ``most`` entries."""
    file = bisect_right(starts, bound) - 1
    inside = bound - starts[file]
    if not 0 < inside < used[file]:
        return bound
    places = [place for place in boundaries(file) if place <= used[file]]
    nearest = min(places, key=lambda place: abs(place - inside), default=inside)
    return starts[file] + nearest if abs(nearest - inside) <= most else bound


def _digest(content: object) -> str:
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:20]
