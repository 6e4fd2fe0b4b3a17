"""The recipe: how to train, as prepare understood the request; travels as ``recipe.json``."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mlaas_condor.data.chunks import Chunk, read_identifier
from mlaas_condor.errors import DataFault
from mlaas_condor.jsonfile import JsonFile

MOST_CLASSES = 100


class Recipe(JsonFile):
    """How to train.

    Parameters
    ----------
    name
        Name of the run.
    model
        Name of the user's model file.
    labels
        Class of each input file, 0 … classes - 1, by the position of the file; empty with a label branch.
    label_branch
        Branch that holds the label of each event; empty where files have labels.
    values
        Values of the label branch, ascending, by class; known once the chunks are there.
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
    label_branch: str = ""
    values: tuple[float, ...] = ()
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
        if self.label_branch:
            return np.searchsorted(np.asarray(self.values), chunk.identifiers[self.label_branch])
        return np.asarray(self.labels, dtype=np.int64)[chunk.file]

    def label_of(self, file: int) -> str:
        """Return what a person would call the label of an input file."""
        return f"branch {self.label_branch}" if self.label_branch else self.classes[self.labels[file]]

    def with_classes_of(self, chunks: Iterable[Path]) -> Recipe:
        """Return the recipe with the classes that the label branch has in the chunks.

        Raises
        ------
        DataFault
            The branch holds NaN, or more values than classes make sense.
        """
        if not self.label_branch:
            return self
        found = [np.unique(read_identifier(path, self.label_branch)) for path in chunks]
        values = np.unique(np.concatenate(found))
        if len(values) > MOST_CLASSES or not np.isfinite(values).all():
            raise DataFault(
                f"branch {self.label_branch!r} is no class label: it has {len(values)} different values, "
                f"{values[0]} to {values[-1]} (allowed: {MOST_CLASSES} at most, no NaN)"
            )
        names = [f"{value:g}" for value in values.tolist()]
        return self.model_copy(update={"values": tuple(values.astype(float).tolist()), "classes": names})


def classes_of(labels: list[str]) -> tuple[list[int], list[str]]:
    """Turn labels as written into classes 0, 1, … and the name of each.

    Whole numbers that are already 0 … n-1 stay as they are; other numbers are numbered in ascending order,
    words in that of the alphabet.
    """
    try:
        numbers = {label: float(label) for label in labels}
    except ValueError:
        numbers = {}
    distinct = sorted(set(numbers.values()))
    if distinct and distinct == list(range(len(distinct))):
        return [int(numbers[label]) for label in labels], [f"{number:g}" for number in distinct]
    names = sorted(set(labels), key=lambda label: (numbers.get(label, 0.0), label))
    return [names.index(label) for label in labels], names
