"""What a Keras model is to learn: its output, its loss, and the targets in the form that the loss wants."""

from __future__ import annotations

import contextlib
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlaas_condor.errors import ModelFault
from mlaas_condor.training.frameworks import TargetArray
from mlaas_condor.training.recipe import Task

BOUNDED = {"sigmoid": (0.0, 1.0), "softmax": (0.0, 1.0), "tanh": (-1.0, 1.0), "relu": (0.0, np.inf)}
"""What a last layer with that activation can give."""


class Targets:
    """The targets of one model.

    Parameters
    ----------
    model, keras
        The Keras model, and the Keras it belongs to.
    name
        What to call it in messages.
    task
        What it learns.
    scores
        What it gives for two events.
    """

    def __init__(self, model: Any, keras: ModuleType, name: str, task: Task, scores: Any) -> None:
        self._model = model
        self._keras = keras
        self._name = name
        self._task = task
        self.shape = self._output_shape(scores)
        """Of what the network gives an event: empty, or one length."""
        self.outputs = self.shape[0] if self.shape else 1

    def settle(self) -> None:
        """Compile the model where the user did not, and refuse a loss that cannot learn its task."""
        if getattr(self._model, "optimizer", None) is None:
            loss = "binary_crossentropy" if self.outputs == 1 else "sparse_categorical_crossentropy"
            loss, metric = ("mse", "mae") if self._task == "regression" else (loss, "accuracy")
            self._model.compile(optimizer=self._keras.optimizers.Adam(1e-3), loss=loss, metrics=[metric])
        if self._task == "regression" and "crossentropy" in self._loss_names():
            raise ModelFault(
                f"{self._name}: compiled with the loss {self.loss()}, which compares classes; for a "
                "regression use mse, mae or huber"
            )

    def check(self, y: TargetArray, weighted: bool) -> None:
        """Refuse targets, shape (events,), and weights that the model would learn nothing right from."""
        if weighted and not self.shape:
            # Keras averages such a batch before it weighs it: no error in Keras 3, and no weighting.
            raise ModelFault(
                f"{self._name}: with event weights the model must give an output of shape (events, 1), it "
                "gives (events,): end it with Dense(1), without Flatten or Reshape"
            )
        if self._task == "regression":
            self._check_range(y)
            return
        classes = int(y.max(initial=0)) + 1
        if classes > max(self.outputs, 2):
            raise ModelFault(
                f"{self._name}: the data have {classes} classes, the model gives {self.outputs} score(s)"
            )

    def of(self, y: TargetArray) -> NDArray[Any]:
        """Return ``y`` as the model's loss wants it: as its output, class numbers, or one column a class."""
        if self._task == "regression":
            return np.asarray(y, np.float32).reshape(len(y), *self.shape)
        if self.outputs == 1:
            return np.asarray(y, np.float32)
        if "sparse" in self.loss():
            return np.asarray(y, np.int64)
        return np.eye(self.outputs, dtype=np.float32)[y]

    def loss(self) -> str:
        """Return the name of the loss."""
        loss = getattr(self._model, "loss", None)
        return str(loss if isinstance(loss, str) else getattr(loss, "name", getattr(loss, "__name__", loss)))

    def _output_shape(self, scores: Any) -> tuple[int, ...]:
        shape = tuple(getattr(scores, "shape", ()))
        if len(shape) not in (1, 2) or shape[0] != 2:
            raise ModelFault(
                f"{self._name}: an event must give one score, or one a class; "
                f"for 2 events the model returns {'shape ' + str(shape) if shape else type(scores).__name__}"
            )
        if self._task == "regression" and shape[1:] not in ((), (1,)):
            raise ModelFault(
                f"{self._name}: a regression needs one output an event, the model gives {shape[1]}: "
                "end it with Dense(1)"
            )
        return tuple(int(length) for length in shape[1:])

    def _check_range(self, y: TargetArray) -> None:
        """Refuse targets that the last layer cannot give; without an error it would just go to its end."""
        layers = getattr(self._model, "layers", None) or [None]
        activation = getattr(getattr(layers[-1], "activation", None), "__name__", "")
        low, high = BOUNDED.get(activation, (-np.inf, np.inf))
        if len(y) and not low <= y.min() <= y.max() <= high:
            raise ModelFault(
                f"{self._name}: the targets run from {y.min():g} to {y.max():g}, the last layer's "
                f"{activation} gives {low:g} to {high:g}: for a regression end with Dense(1), without an "
                "activation"
            )

    def _loss_names(self) -> str:
        """Return all that the loss may be called, whether it was given as a word, function or object."""
        loss = getattr(self._model, "loss", None)
        found = loss
        if isinstance(loss, str):
            with contextlib.suppress(ValueError):  # a name of the user's own
                found = self._keras.losses.get(loss)
        names = (getattr(found, "__name__", ""), getattr(found, "name", ""), type(found).__name__, loss)
        return " ".join(map(str, names)).lower()
