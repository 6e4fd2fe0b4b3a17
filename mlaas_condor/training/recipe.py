"""The recipe: how to train, as prepare understood the request; travels as ``recipe.json``."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mlaas_condor.data.chunks import Chunk
from mlaas_condor.jsonfile import JsonFile


class Recipe(JsonFile):
    """How to train.

    Parameters
    ----------
    name
        Name of the run.
    model
        Name of the user's model file.
    labels
        Class of each input file, 0 … classes - 1, by the position of the file.
    classes
        Name of each class, as the user wrote it.
    epochs, batch_size, split, seed, verbose
        As in params.json.
    standard
        Whether every epoch runs over all chunks; otherwise each chunk is trained in turn.
    padding
        Value of padding before normalising; None: 0 after it.
    threshold
        Score above which an event counts as signal.
    threads
        CPUs the job asked for.
    """

    name: str
    model: str
    labels: list[int]
    classes: list[str]
    epochs: int
    batch_size: int
    standard: bool
    split: float
    padding: float | None
    threshold: float
    seed: int
    verbose: int
    threads: int

    def targets(self, chunk: Chunk) -> NDArray[np.int64]:
        """Return the class of each event of a chunk, shape (events,)."""
        return np.asarray(self.labels, dtype=np.int64)[chunk.file]


def classes_of(labels: list[str]) -> tuple[list[int], list[str]]:
    """Turn labels as written into classes 0, 1, … and the name of each.

    Whole numbers that are already 0 … n-1 stay as they are; anything else is numbered in sorted order.
    """
    try:
        numbers = [int(float(label)) for label in labels if float(label) == int(float(label))]
    except (ValueError, OverflowError):  # a word, or inf
        numbers = []
    distinct = sorted(set(numbers))
    if len(numbers) == len(labels) and distinct == list(range(len(distinct))):
        return numbers, [str(number) for number in distinct]
    names = sorted(set(labels))
    return [names.index(label) for label in labels], names
