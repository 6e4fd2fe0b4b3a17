"""Optimizers of Keras 3, of Keras 2, and of Keras 2 before 2.11 (``optimizers.legacy``), by one interface."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np


def create_variables(optimizer: Any, weights: list[Any]) -> None:
    """Create what would else be created during the first step."""
    # The older optimizers have no public way to do it.
    (getattr(optimizer, "build", None) or optimizer._create_all_weights)(weights)


def learning_rate(optimizer: Any) -> float | None:
    """Return the learning rate; None where it follows a schedule."""
    rate = _rate(optimizer)
    return None if rate is None else float(np.asarray(rate))


def set_learning_rate(optimizer: Any, rate: float) -> None:
    """Change the learning rate, also of functions that are traced already.

    Raises
    ------
    ValueError
        It follows a schedule.
    """
    variable = _rate(optimizer)
    if variable is None:
        raise ValueError(f"{type(optimizer).__name__}: the learning rate follows a schedule of its own")
    variable.assign(rate)


def _rate(optimizer: Any) -> Any | None:
    """Return the variable that holds the learning rate, if there is one that can be changed."""
    optimizer = getattr(optimizer, "inner_optimizer", optimizer)  # of mixed precision
    # With a schedule the newer optimizers of Keras 2 show a variable too, which they only write to.
    rate = getattr(optimizer, "_learning_rate", None)
    rate = getattr(optimizer, "learning_rate", None) if rate is None else rate
    return rate if hasattr(rate, "assign") else None


@contextlib.contextmanager
def averaged(model: Any) -> Iterator[None]:
    """Give the model the moving averages of its weights meanwhile, where its optimizer keeps them.

    ``Model.fit`` does so when it ends; here nobody knows which pass is the last one.
    """
    optimizer = getattr(model.optimizer, "inner_optimizer", model.optimizer)
    if not getattr(optimizer, "use_ema", False) or int(optimizer.iterations.numpy()) == 0:
        yield
        return
    weights = model.trainable_variables
    values = [weight.numpy() for weight in weights]
    optimizer.finalize_variable_values(weights)
    try:
        yield
    finally:
        for weight, value in zip(weights, values, strict=True):
            weight.assign(value)
