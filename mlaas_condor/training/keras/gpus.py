"""The GPUs that Keras trains on: which of them TensorFlow may use, and steps on several of them at once."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

from mlaas_condor.training.keras import variables

Batch = tuple[Any, ...]
Step = Callable[[Batch], Any]

logger = logging.getLogger(__name__)

DEVICE = "GPU"
"""What ``claim`` hands out, by TensorFlow's word for it."""


def claim(asked: int) -> int:
    """Let TensorFlow use as many GPUs as the job asked for, no others, and return how many it has.

    Where there are fewer, a warning is logged. To be called before TensorFlow does anything: what it runs on
    cannot be changed after that.
    """
    import tensorflow as tf

    try:
        tf.config.set_visible_devices(tf.config.list_physical_devices(DEVICE)[:asked], DEVICE)
    except RuntimeError:  # TensorFlow is running already, and keeps what it has
        logger.debug("TensorFlow is running already: its devices stay as they are")
    found = min(asked, len(tf.config.list_logical_devices(DEVICE)))
    if found < asked:
        logger.warning(
            "%d GPU%s asked for, TensorFlow sees %s: training on %s",
            asked, "s were" if asked > 1 else " was", found or "none", f"{found} GPU" if found else "the CPU",
        )  # fmt: skip
    return found


@functools.cache  # two strategies in one process mistake each other's gradients for their own
def strategy_for(count: int) -> Any | None:
    """Return what distributes training over this many GPUs; None for one or none."""
    import tensorflow

    devices = [f"{DEVICE}:{i}" for i in range(count)]
    return tensorflow.distribute.MirroredStrategy(devices) if count > 1 else None


def hindrance(keras: ModuleType, model: Any) -> str:
    """Return why several GPUs cannot train a compiled model as one would; empty if they can."""
    for own in ("train_step", "compute_loss"):
        if getattr(type(model), own, None) is not getattr(keras.Model, own, None):
            return f"it has a {own} of its own, which may take the mean over a part of the batch"
    optimizer = _inner(getattr(model, "optimizer", None))
    if getattr(optimizer, "gradient_accumulation_steps", None):
        return "its optimizer accumulates gradients"
    if _adds_up_too_late(keras, model) and not hasattr(optimizer, "_all_reduce_sum_gradients"):
        return f"its optimizer clips gradients, and this is Keras {keras.__version__}"
    return ""


def _inner(optimizer: Any) -> Any:
    """Return the optimizer within the one that scales the loss, of mixed precision."""
    return getattr(optimizer, "inner_optimizer", optimizer)


def _adds_up_too_late(keras: ModuleType, model: Any) -> bool:
    """Tell whether Keras 3 would clip gradients, or look whether they are finite, before it adds them up."""
    if keras.__name__ == "tf_keras":
        return False
    inner = _inner(model.optimizer)
    clips = any(getattr(inner, name, None) for name in ("clipnorm", "clipvalue", "global_clipnorm"))
    return clips or inner is not model.optimizer


class Replicas:
    """Steps on several GPUs at once, each on its share of every batch, that learn what one GPU would.

    Keras takes the mean of the loss over the share of each GPU, divides it by the number n of GPUs, and adds
    the gradients up. Where the shares are of different sizes that is not the mean over the batch: here the
    gradient of share i is first multiplied with ``n * size of share i / size of the batch``.

    Batch normalisation takes mean and variance over the whole batch, as with ``synchronized=True``.

    Parameters
    ----------
    strategy
        What ``strategy_for`` returned; the model was made and compiled in its scope.
    keras, model
        The Keras and the compiled model.
    """

    def __init__(self, strategy: Any, keras: ModuleType, model: Any) -> None:
        import tensorflow

        self._tf: Any = tensorflow
        self._strategy = strategy
        self._count: int = strategy.num_replicas_in_sync
        self._events: Any = None  # in the batch that is being traced
        self._model = model
        self._adjust_gradients(keras, model.optimizer)
        for layer in model._flatten_layers():
            if hasattr(layer, "synchronized"):
                layer.synchronized = True

    def share(self, step: Step) -> Step:
        """Return a step that takes a batch to all GPUs."""
        tf = self._tf

        def shared(batch: Batch) -> None:
            self._events = tf.shape(batch[0])[0]
            self._strategy.run(one_gpu, (batch,))

        def one_gpu(batch: Batch) -> None:
            replica, size = self._own_share()
            with tf.device("CPU:0"):  # where the events are: only the share goes to the GPU
                # One event at least: for the mean of none there is no number.
                rows = tf.range(replica, tf.maximum(self._events, replica + 1), self._count) % self._events
                share = tuple(tf.gather(array, rows) for array in batch)
            metrics = variables.of_metrics(self._model)
            before = [tf.identity(variable) for variable in metrics]
            step(share)
            for variable, value in zip(metrics, before, strict=True):
                # An event that is another GPU's is not to count twice.
                variable.assign(tf.where(size > 0, variable, value))

        return shared

    def _own_share(self) -> tuple[Any, Any]:
        """Return the number of this GPU, from 0, and how many events of the batch are its own."""
        replica = self._tf.distribute.get_replica_context().replica_id_in_sync_group
        return replica, self._tf.maximum(0, (self._events - replica + self._count - 1) // self._count)

    def _adjust_gradients(self, keras: ModuleType, optimizer: Any) -> None:
        """Have the optimizer weigh each GPU's gradients before it adds them up."""
        if keras.__name__ == "tf_keras":
            apply_gradients = optimizer.apply_gradients

            def weighing(grads_and_vars: Any, *rest: Any, **named: Any) -> Any:
                gradients, variables = zip(*grads_and_vars, strict=True)
                pairs = list(zip(self._weighed(gradients), variables, strict=True))
                return apply_gradients(pairs, *rest, **named)

            optimizer.apply_gradients = weighing
            return
        apply = optimizer.apply
        first = _adds_up_too_late(keras, self._model)
        if first:
            _inner(optimizer)._all_reduce_sum_gradients = list

        def weighing3(gradients: Any, *rest: Any, **named: Any) -> Any:
            weighed = self._weighed(gradients)
            return apply(self._added_up(weighed) if first else weighed, *rest, **named)

        optimizer.apply = weighing3

    def _weighed(self, gradients: Sequence[Any]) -> list[Any]:
        tf = self._tf
        _, size = self._own_share()
        factor = tf.cast(self._count * size, tf.float32) / tf.cast(self._events, tf.float32)
        return [
            None if each is None else tf.math.scalar_mul(tf.cast(factor, each.dtype), each)
            for each in gradients
        ]

    def _added_up(self, gradients: Sequence[Any]) -> list[Any]:
        context = self._tf.distribute.get_replica_context()
        present = [each for each in gradients if each is not None]
        sums = iter(context.all_reduce(self._tf.distribute.ReduceOp.SUM, present))
        return [None if each is None else next(sums) for each in gradients]
