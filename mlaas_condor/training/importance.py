"""Which branches a model needs: how much worse it gets where the values of one are shuffled among events.

The permutation importance of Breiman, Machine Learning 45 (2001) 5, by branch: all columns of a branch with
lists are shuffled together. Of branches that say the same, each alone may seem of little use.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypedDict

import numpy as np
from numpy.typing import NDArray

from mlaas_condor.data.features import Columns, Matrix
from mlaas_condor.training import metrics
from mlaas_condor.training.recipe import Task

MOST_EVENTS = 10_000
FEWEST_EVENTS = 1_000
MANY_BRANCHES = 60  # beyond, one repeat, and so many events that it costs no more
MOST_BYTES = 2**26  # of the matrix of these events

Predict = Callable[[Matrix], NDArray[Any]]
Part = tuple[Matrix, NDArray[Any], NDArray[Any] | None, NDArray[np.int64]]


class Importance(TypedDict):
    """Importance of one branch, and its standard deviation over the repeats (None for a single one)."""

    branch: str
    importance: float
    deviation: float | None


def events_used(columns: Columns) -> int:
    """Return how many events suffice: fewer for many branches or columns, so that the cost is bounded."""
    branches = max(1, len(columns.first))
    by_branches = MOST_EVENTS if branches <= MANY_BRANCHES else MOST_EVENTS * MANY_BRANCHES // branches
    by_bytes = MOST_BYTES // (4 * max(1, len(columns)))
    return max(FEWEST_EVENTS, min(by_branches, by_bytes))


def gather(
    parts: Iterable[Part], total: int, columns: Columns, seed: int
) -> tuple[Matrix, NDArray[Any], NDArray[Any] | None]:
    """Draw the events to measure with from chunks, never holding more than one of them.

    Parameters
    ----------
    parts
        Of each chunk: features, shape (events, columns); classes or targets, shape (events,); weights, shape
        (events,), or None; and the rows that may be drawn: its test events.
    total
        How many such rows there are in all chunks.
    columns
        Layout of the features.
    seed
        Seed of what is drawn.

    Returns
    -------
    tuple
        Features, classes or targets, weights or None, of at most ``events_used(columns)`` events.
    """
    most = min(total, events_used(columns))
    drawn = np.sort(np.random.default_rng(seed).choice(total, most, replace=False))
    found, start = [], 0
    for x, y, weights, rows in parts:
        low, high = np.searchsorted(drawn, [start, start + len(rows)])
        mine = rows[drawn[low:high] - start]
        found.append((x[mine], y[mine], None if weights is None else weights[mine]))
        start += len(rows)
    xs, ys, ws = zip(*found, strict=True)
    return np.concatenate(xs), np.concatenate(ys), None if ws[0] is None else np.concatenate(ws)


def permutation(
    predict: Predict,
    x: Matrix,
    y: NDArray[Any],
    columns: Columns,
    weights: NDArray[Any] | None = None,
    task: Task = "classification",
    seed: int = 0,
    repeats: int = 3,
) -> list[Importance]:
    """Measure how much a model needs each branch.

    Parameters
    ----------
    predict
        Gives the scores or predictions of a feature matrix, as ``TrainedModel.predict``.
    x, y
        Events that the model was not trained on: features, shape (events, columns), left as they are; classes
        or targets, shape (events,). Of more than ``events_used(columns)`` some are drawn.
    columns
        Layout of the features.
    weights
        Weights of the events, shape (events,).
    task
        What the model learnt.
    seed
        Seed of what is drawn and shuffled.
    repeats
        How often each branch is shuffled; once where there are more than ``MANY_BRANCHES``.

    Returns
    -------
    list
        The most important branch first: by how much the AUC falls (one-versus-rest, the mean over the
        classes), or the RMSE rises. Empty where these are not defined: events of one class, say.

    Raises
    ------
    ModelFault
        The model's scores are not finite.
    """
    scratch, y, weights = _drawn(x, y, weights, columns, seed)
    repeats = 1 if len(columns.first) > MANY_BRANCHES else repeats

    def badness() -> float | None:
        return _badness(predict(scratch), y, weights, task)

    before = badness() if len(y) else None
    if before is None:
        return []
    found: list[Importance] = []
    for position, (branch, first) in enumerate(columns.first.items()):
        block = scratch[:, first : first + columns.length[branch]]
        random = np.random.default_rng([seed, position])
        found.append(_of_branch(branch, block, badness, before, repeats, random))
    return sorted(found, key=lambda each: (-each["importance"], each["branch"]))


def _drawn(
    x: Matrix, y: NDArray[Any], weights: NDArray[Any] | None, columns: Columns, seed: int
) -> tuple[Matrix, NDArray[Any], NDArray[Any] | None]:
    """Return a copy of the features of the events to measure with, and what belongs to them."""
    most = events_used(columns)
    if len(y) <= most:
        return np.array(x), y, weights
    rows = np.sort(np.random.default_rng(seed).choice(len(y), most, replace=False))
    return x[rows], y[rows], None if weights is None else weights[rows]


def _of_branch(
    branch: str,
    block: Matrix,
    badness: Callable[[], float | None],
    before: float,
    repeats: int,
    random: np.random.Generator,
) -> Importance:
    """Shuffle the rows of a branch's columns, which are part of the matrix, and put them back."""
    kept = block.copy()
    if (kept == kept[0]).all():
        return {"branch": branch, "importance": 0.0, "deviation": 0.0}
    changes = []
    for _ in range(repeats):
        block[:] = kept[random.permutation(len(kept))]
        after = badness()
        changes.append(0.0 if after is None else after - before)  # None: a sum of squares below 0, by weights
    block[:] = kept
    deviation = float(np.std(changes, ddof=1)) if repeats > 1 else None
    return {"branch": branch, "importance": float(np.mean(changes)), "deviation": deviation}


def _badness(found: NDArray[Any], y: NDArray[Any], weights: NDArray[Any] | None, task: Task) -> float | None:
    if task == "regression":
        return metrics.rmse(y, found, weights)
    area = metrics.auc(y, found, weights)
    return None if area is None else -area
