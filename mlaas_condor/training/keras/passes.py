"""One pass over events with a Keras model, all within TensorFlow.

``Model.fit`` sets up a data pipeline and comes back to Python for every batch: for portions of ten thousand
events that costs more than the training of a usual network.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from mlaas_condor.training.keras.gpus import Replicas, Step

SLAB_BYTES = 2**24
"""Features handed to TensorFlow at a time: it keeps two copies of what it is given."""

Kind = Literal["train", "test"]


class Passes:
    """The functions that take one pass over events.

    Parameters
    ----------
    model
        The compiled Keras model, which has all its variables.
    idim
        Number of columns.
    targets
        One of the targets as the model's loss wants them, for their shape and type.
    replicas
        What takes a step to several GPUs, None for one device.
    """

    def __init__(self, model: Any, idim: int, targets: NDArray[Any], replicas: Replicas | None) -> None:
        import tensorflow

        self._tf: Any = tensorflow
        self._model = model
        self._idim = idim
        self._targets = targets
        self.replicas = replicas
        # Where there are several GPUs, events are in the host's memory, and each GPU fetches its share.
        self._home = "CPU:0" if replicas else None
        self._functions: dict[tuple[Kind, bool, int], Any] = {}
        self.variant = 0
        """Which of several functions trains, each traced on its own."""

    def run(
        self,
        kind: Kind,
        order: NDArray[np.integer[Any]] | None,
        batch_size: int,
        x: NDArray[Any],
        targets: Callable[[Any], NDArray[Any]],
        weights: NDArray[Any] | None,
    ) -> None:
        """Take one pass.

        Parameters
        ----------
        kind
            Whether the model learns.
        order
            Rows in the order in which they are taken; None as they come.
        batch_size
            Events a step.
        x, weights
            Features, shape (events, columns), and perhaps weights, shape (events,).
        targets
            Gives the targets of some rows as the model's loss wants them.
        """
        tf = self._tf
        one_pass = self._function(kind, weights is not None)
        for rows in self._slabs(order, len(x), batch_size):
            with tf.device(self._home):
                arrays = [tf.constant(x[rows], tf.float32), tf.constant(targets(rows))]
                if weights is not None:
                    arrays.append(tf.constant(weights[rows], tf.float32))
            one_pass(tf.constant(batch_size, tf.int32), *arrays)

    def traced(self) -> Any | None:
        """Return the traced function that trains without weights; None for a model that is run eagerly."""
        return None if self._model.run_eagerly else self._function("train", False).get_concrete_function()

    def forget(self) -> None:
        """Forget what was traced, to trace it anew when it is next run."""
        self._functions.clear()

    def _slabs(
        self, order: NDArray[np.integer[Any]] | None, events: int, batch_size: int
    ) -> Iterator[slice | NDArray[np.integer[Any]]]:
        """Yield the rows of some whole batches at a time."""
        most = max(1, SLAB_BYTES // (4 * self._idim) // batch_size) * batch_size
        for start in range(0, events, most):
            rows = slice(start, start + most)
            yield rows if order is None else order[rows]

    def _function(self, kind: Kind, weighted: bool) -> Any:
        key = kind, weighted, self.variant if kind == "train" else 0
        if key not in self._functions:
            step = self._model.train_step if kind == "train" else self._model.test_step
            step = self.replicas.share(step) if self.replicas else step
            self._functions[key] = self._one_pass(step, weighted)
        return self._functions[key]

    def _one_pass(self, step: Step, weighted: bool) -> Any:
        """Return a function of the batch size, ``x``, ``y`` and perhaps the weights."""
        tf = self._tf

        def run(batch_size: Any, *arrays: Any) -> None:
            for start in tf.range(0, tf.shape(arrays[0])[0], batch_size):
                # Or what draws random numbers does so for some batches at once, in any order.
                tf.autograph.experimental.set_loop_options(parallel_iterations=1)
                with tf.device(self._home):
                    batch = tuple(array[start : start + batch_size] for array in arrays)
                step(batch)

        if self._model.run_eagerly:
            return run
        signature = [
            tf.TensorSpec((), tf.int32),
            tf.TensorSpec((None, self._idim), tf.float32),
            tf.TensorSpec((None, *self._targets.shape[1:]), self._targets.dtype),
        ]
        if weighted:
            signature.append(tf.TensorSpec((None,), tf.float32))
        return tf.function(run, input_signature=signature)
