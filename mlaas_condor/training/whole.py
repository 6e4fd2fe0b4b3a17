"""What models share that learn from all events at once, and say little of how well they do."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from mlaas_condor.errors import DataFault, ModelFault, OutOfMemory
from mlaas_condor.training.frameworks import FloatArray, Portion, TargetArray
from mlaas_condor.training.recipe import Task

SMALLEST = 1e-7
"""A probability is not taken for less in a loss: about the rounding of a float32."""


def gather(portions: Iterable[Portion], events: int, idim: int) -> Portion:
    """Return all events as one portion, features as float32; beside them one portion is held at a time.

    Parameters
    ----------
    portions
        The events.
    events, idim
        How many there are, and the number of columns.

    Raises
    ------
    DataFault
        There are more or fewer.
    ModelFault
        They have other columns.
    OutOfMemory
        They do not fit into memory.
    """
    try:
        x = np.empty((events, idim), np.float32)
    except MemoryError as error:
        raise OutOfMemory(
            f"{events} events of {idim} columns do not fit into memory ({events * idim * 4 / 1e9:.1f} GB), "
            "and the model wants them all at once: ask for more memory in job.json, or train on fewer (nevts)"
        ) from error
    ys: list[Any] = []
    weights: list[Any] = []
    at = 0
    for portion in portions:
        end = at + len(portion.y)
        if portion.x.shape[1:] != (idim,):
            raise ModelFault(f"the model is made for {idim} columns, given events of shape {portion.x.shape}")
        if end <= events:
            x[at:end] = portion.x
        ys.append(portion.y)
        weights += [] if portion.weights is None else [portion.weights]
        at = end
    if at != events:
        raise DataFault(f"{events} training events were counted before, now there are {at}")
    return Portion(x, np.concatenate(ys), np.concatenate(weights) if weights else None)


def mean_loss(y: TargetArray, scores: FloatArray, weights: FloatArray | None, task: Task) -> float:
    """Return ``sum(weight * loss) / n``: of a classification the log loss, of a regression the square.

    Parameters
    ----------
    y
        Class or target of each event, shape (events,).
    scores
        What the model gives them, shape (events,) or (events, classes).
    weights
        Shape (events,); ``None``: all are 1.
    task
        Which of the two.
    """
    values = scores.astype(np.float64)
    if task == "regression":
        losses = (values - y) ** 2
    else:
        table = np.column_stack([1 - values, values]) if values.ndim == 1 else values
        right = np.take_along_axis(table, np.asarray(y, np.int64)[:, None], axis=1)[:, 0]
        losses = -np.log(np.maximum(right, SMALLEST))
    return float(np.mean(losses if weights is None else weights * losses))
