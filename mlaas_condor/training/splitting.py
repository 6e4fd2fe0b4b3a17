"""Which events of a chunk are trained on, which validate, and which test."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from mlaas_condor.training.recipe import Recipe

SPLITS = ("train", "validation", "test")
Targets = NDArray[np.int64] | NDArray[np.float64]
Rows = NDArray[np.int64]


def split(y: Targets, file: NDArray[np.uint32], recipe: Recipe) -> dict[str, Rows]:
    """Split the events of a chunk: first what tests, then of the rest what validates.

    Either is a share, stratified by class as MLaaS4HEP does it (not where a class has too few events for
    that), or the events of files that the user named; with folds, what tests is one of them.

    Parameters
    ----------
    y
        Class of each event, shape (events,); of a regression, its targets.
    file
        Position of the input file of each event, shape (events,).
    recipe
        Says how; the same seed gives the same split.

    Returns
    -------
    dict
        The rows of each of `SPLITS`.
    """
    by_class = recipe.task == "classification"
    everything = np.arange(len(y))
    if recipe.test_files:
        rest, test = _by_file(everything, file, recipe.test_files)
    elif recipe.folds:
        rest, test = _fold(everything, y if by_class else None, recipe)
    else:
        rest, test = _cut(everything, y if by_class else None, recipe.test, recipe.seed)
    if recipe.validation_files:
        train, validation = _by_file(rest, file, recipe.validation_files)
    else:
        train, validation = _cut(rest, y[rest] if by_class else None, recipe.split, recipe.seed)
    return {"train": train, "validation": validation, "test": test}


def _by_file(rows: Rows, file: NDArray[np.uint32], files: Sequence[int]) -> tuple[Rows, Rows]:
    named = np.isin(file[rows], files)
    return rows[~named], rows[named]


def _fold(rows: Rows, y: Targets | None, recipe: Recipe) -> tuple[Rows, Rows]:
    """Deal the events out to the folds, class by class; of too few a fold may get none."""
    rng = np.random.default_rng(recipe.seed)
    fold = np.empty(len(rows), np.int64)
    start = 0
    for value in np.unique(y) if y is not None else [None]:
        mine = rng.permutation(rows if value is None or y is None else rows[y == value])
        fold[mine] = (start + np.arange(len(mine))) % (recipe.folds or 1)
        start += len(mine)
    own = fold == (recipe.fold or 0)
    return rows[~own], rows[own]


def _cut(rows: Rows, y: Targets | None, share: float, seed: int) -> tuple[Rows, Rows]:
    from sklearn.model_selection import train_test_split

    # Not stratified where a class has a single event; nothing set aside where there is too little.
    for classes in (y, None):
        with contextlib.suppress(ValueError):
            first, second = train_test_split(rows, test_size=share, random_state=seed, stratify=classes)
            return np.sort(first), np.sort(second)  # in order, as they are read; a pass shuffles them
    return rows, rows[:0]
