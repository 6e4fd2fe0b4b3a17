"""The first events of some files, to guess what all of them will need, and to warn of what needs too much."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mlaas_condor.data.dataset import Dataset
from mlaas_condor.data.events import Jagged
from mlaas_condor.data.inputs import Reader
from mlaas_condor.data.selection import Selector
from mlaas_condor.errors import StageError

FILES, ENTRIES = 5, 1000
LONG = 64  # columns of a branch from which on a shorter list may do as well
_KEPT = 0.99  # share of the values that the proposed length keeps
_SHOWN = 4


@dataclass(frozen=True)
class Sample:
    """What the first events show.

    Parameters
    ----------
    lengths
        Jagged feature to the lengths of its lists, shape (events,); empty where none could be read.
    flat
        Number of flat features.
    problems
        Files of which these events cannot be read, and why.
    """

    lengths: Mapping[str, NDArray[np.int64]]
    flat: int
    problems: Sequence[str] = ()

    @property
    def columns(self) -> int:
        """Columns of the feature matrix, as far as these events show."""
        return self.flat + sum(max(1, int(each.max(initial=0))) for each in self.lengths.values())

    @property
    def values(self) -> float:
        """Mean number of values of an event."""
        return self.flat + sum(float(each.mean()) if len(each) else 1.0 for each in self.lengths.values())

    def warnings(self) -> Iterable[str]:
        """Yield what to say of lists that make very many columns, with a length that would do."""
        long = {name: each for name, each in self.lengths.items() if each.max(initial=0) > LONG}
        if not long:
            return
        longest = {name: int(each.max()) for name, each in long.items()}
        names = sorted(longest, key=lambda name: -longest[name])
        more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
        proposed = ", ".join(f'"{name}": {_enough(long[name])}' for name in names[:_SHOWN])
        yield (
            f"params.json: lists of {', '.join(names[:_SHOWN])}{more} have up to {longest[names[0]]} elements"
            f', {sum(longest.values())} of {self.columns} columns; "max_length": {{{proposed}}} would keep '
            f"{_KEPT:.0%} of their values"
        )


def _enough(lengths: NDArray[np.int64]) -> int:
    """Return the length that keeps most of the values."""
    upto = np.arange(1, int(lengths.max()) + 1)
    kept = np.minimum(lengths[:, None], upto).sum(axis=0)
    return int(upto[np.searchsorted(kept, _KEPT * lengths.sum())])


def take(dataset: Dataset, made: Sequence[Mapping[str, NDArray[np.int64]]] = ()) -> Sample:
    """Read the first events of some files.

    Parameters
    ----------
    dataset
        What is to be read.
    made
        Lengths of lists that a function of the user's made, file by file: it does not run here.
    """
    step = max(1, len(dataset.files) // FILES)
    found: dict[str, list[NDArray[np.int64]]] = {name: [] for name in dataset.jagged}
    problems: list[str] = []
    for position in range(0, len(dataset.files), step):
        try:
            lengths = made[position] if dataset.function else _lengths(dataset, position)
            for name in set(dataset.jagged) & set(lengths):
                longest = dataset.steps.max_length.get(name)
                found[name].append(np.minimum(lengths[name], longest) if longest else lengths[name])
        except StageError as error:
            problems.append(str(error))
        except ValueError as error:
            problems.append(f"{dataset.files[position].path}: {error}; see the expressions of preproc")
    nothing = np.zeros(0, np.int64)
    lengths_of = {name: np.concatenate([nothing, *each]) for name, each in found.items()}
    return Sample(lengths_of, len(dataset.flat), problems)


def _lengths(dataset: Dataset, position: int) -> dict[str, NDArray[np.int64]]:
    n = min(ENTRIES, dataset.files[position].used)
    selector = Selector(dataset.steps, [*dataset.flat, *dataset.jagged, *dataset.carried])
    reader = Reader(dataset, position)
    try:
        taken = selector.take(reader.read(selector.inputs, 0, n), np.ones(n, np.bool_))
    finally:
        reader.close()
    return {name: column.counts for name in dataset.jagged if isinstance(column := taken[name], Jagged)}
