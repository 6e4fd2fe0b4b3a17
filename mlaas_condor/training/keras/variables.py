"""The variables that a Keras model changes while it is trained, as TensorFlow's own, for both Keras."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any


def found(model: Any, traced: Any | None) -> list[Any]:
    """Return each variable once, without those of metrics, in an order that depends on the model alone.

    Parameters
    ----------
    model
        The compiled model.
    traced
        The traced function that trains it, for what only the function knows of: a generator that all of Keras
        shares, or variables of the user's own. None to leave it out.
    """
    beyond = _captured(traced) if traced else []
    unique = {id(each): each for each in [*_listed(model), *beyond]}
    passing = {id(each) for each in of_metrics(model)}
    return [variable for key, variable in unique.items() if key not in passing]


def of_metrics(model: Any) -> list[Any]:
    """Return the variables of the model's metrics, which begin anew with each pass."""
    if _is_keras3(model):
        return [variable.value for variable in model.metrics_variables]
    return [variable for metric in model.metrics for variable in metric.variables]


def _is_keras3(model: Any) -> bool:
    return hasattr(model, "metrics_variables")


def _listed(model: Any) -> Iterator[Any]:
    """Yield what is to be found from the model on, some of it twice."""
    import tensorflow as tf

    owned = model.optimizer.variables
    for variable in [*model.variables, *(owned() if callable(owned) else owned)]:
        yield variable if isinstance(variable, tf.Variable) else variable.value
    for each in tf.train.TrackableView(model).descendants():
        if isinstance(each, tf.Variable):
            yield each
    # Keras 2 leaves its generators out of what it tracks.
    for layer in [] if _is_keras3(model) else model._flatten_layers():
        generator = getattr(getattr(layer, "_random_generator", None), "_generator", None)
        if generator is not None:
            yield generator.state


def _captured(traced: Any) -> list[Any]:
    """Return the variables that a traced function uses, in the order in which it came upon them."""
    owners = {id(variable.handle): variable for variable in traced.variables}
    return [owners[id(each)] for each in traced.captured_inputs if id(each) in owners]
