"""The chunks of a run as samples: features, targets, weights, and what each event is for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mlaas_condor.data.features import Columns, Matrix
from mlaas_condor.data.streaming import Block, Stream
from mlaas_condor.training.frameworks import Portion
from mlaas_condor.training.recipe import Recipe
from mlaas_condor.training.splitting import SPLITS, Rows, Targets, split


@dataclass(frozen=True)
class Sample:
    """A chunk ready for training.

    Parameters
    ----------
    index
        Number of the chunk.
    x, y
        Normalised features, shape (events, columns); class or target of each event, shape (events,).
    rows
        For each of train, validation and test the rows that belong to it.
    file, entry
        Where each event comes from.
    weights
        Weight of each event as the user gave it, shape (events,); None where there are no weights.
    """

    index: int
    x: Matrix
    y: Targets
    rows: dict[str, Rows]
    file: NDArray[np.uint32]
    entry: NDArray[np.int64]
    weights: NDArray[np.float64] | None = None

    def truth(self, which: str, recipe: Recipe) -> tuple[Targets, NDArray[np.float64] | None]:
        """Return targets and weights of the events of one split, as `gather` does."""
        rows = self.rows[which]
        y = self.y[rows]
        weights = None if self.weights is None else self.weights[rows] / recipe.weight_scale
        if which == "train" and recipe.class_factors:
            factors = np.asarray(recipe.class_factors)[y.astype(np.int64)]
            weights = factors if weights is None else weights * factors
        return y, weights

    def classes(self) -> set[int]:
        """Return the classes among the training events that count."""
        rows = self.rows["train"]
        if self.weights is not None:
            rows = rows[self.weights[rows] != 0]
        return set(np.unique(self.y[rows]).astype(int).tolist())


class Samples:
    """The chunks of a run as samples, in any order, as often as needed.

    Parameters
    ----------
    paths
        Chunk files, by number.
    columns, recipe
        How to normalise, label and split.
    scratch, space
        Folder where matrices may be kept between epochs, None for none; bytes that they may take there, None
        for what there is.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        columns: Columns,
        recipe: Recipe,
        scratch: Path | None = None,
        space: int | None = None,
    ) -> None:
        self.paths = list(paths)
        self.columns = columns
        self._recipe = recipe
        self._stream = Stream(paths, columns, scratch, recipe.threads, space)
        self._splits: dict[int, NDArray[np.int8]] = {}  # a byte an event: splitting takes longer than reading

    def __iter__(self) -> Iterator[Sample]:
        return self.inorder(range(len(self.paths)))

    def __len__(self) -> int:
        return len(self.paths)

    def inorder(self, order: Sequence[int]) -> Iterator[Sample]:
        """Yield the samples in the given order."""
        return map(self._sample, self._stream.inorder(order))

    def _sample(self, block: Block) -> Sample:
        recipe, chunk = self._recipe, block.chunk
        y = recipe.targets(chunk)
        if block.index not in self._splits:
            self._splits[block.index] = _numbered(split(y, chunk.file, recipe), len(y))
        which = self._splits[block.index]
        rows = {name: np.flatnonzero(which == number) for number, name in enumerate(SPLITS)}
        return Sample(block.index, block.x, y, rows, chunk.file, chunk.entry, recipe.weights_of(chunk))


def _numbered(rows: dict[str, Rows], events: int) -> NDArray[np.int8]:
    """Return the position in `SPLITS` of what each event is for, shape (events,)."""
    which = np.empty(events, np.int8)
    for number, name in enumerate(SPLITS):
        which[rows[name]] = number
    return which


def gather(samples: Sequence[Sample], which: str, recipe: Recipe) -> Portion:
    """Return the events of one split of some chunks, with weights of mean 1, for training by class too."""
    lengths = [len(sample.rows[which]) for sample in samples]
    x = np.empty((sum(lengths), samples[0].x.shape[1]), np.float32)
    ends = np.cumsum(lengths)
    for sample, start, stop in zip(samples, ends - lengths, ends, strict=True):
        # Straight to its place: the events of a portion are what takes the memory of a training.
        np.take(sample.x, sample.rows[which], axis=0, out=x[start:stop], mode="clip")
    ys, weights = zip(*(sample.truth(which, recipe) for sample in samples), strict=True)
    given = [each for each in weights if each is not None]
    return Portion(x, np.concatenate(ys), np.concatenate(given) if given else None)
