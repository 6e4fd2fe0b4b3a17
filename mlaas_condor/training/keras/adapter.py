"""Train Keras models: Keras 3 on TensorFlow, or Keras 2 (``tf_keras``) for files written for it.

One process holds one of the two, the one that is bound first. TensorFlow is imported when a
model is made, never by importing this module.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import logging
from pathlib import Path
from types import ModuleType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from mlaas_condor.errors import ModelFault
from mlaas_condor.training import faults, models
from mlaas_condor.training.frameworks import FloatArray, Setup, TargetArray, TrainedModel
from mlaas_condor.training.keras import gpus, onnx, optimizers, state
from mlaas_condor.training.keras.binding import bind, is_refusal
from mlaas_condor.training.keras.passes import Kind, Passes
from mlaas_condor.training.keras.targets import Targets
from mlaas_condor.training.models import LegacyKerasNeeded, ModelFile
from mlaas_condor.training.recipe import Task

logger = logging.getLogger(__name__)

PREDICT_BATCH = 8192
"""Events a call of the network when nothing is learnt: large enough that the calls cost nothing."""

KERAS_FILE = "model.keras"
MAIN_FILE = "saved_model.pb"


class KerasModel(TrainedModel):
    """A compiled Keras model.

    Parameters
    ----------
    model
        The Keras model; compiled here for its task where it is not yet.
    keras
        The Keras it belongs to.
    name
        What to call it in messages: the name of the user's file.
    idim
        Number of columns.
    task
        What it learns.
    strategy
        Distributes the training over several GPUs; the model was made in its scope. None for one device.
    """

    learning = "passes"

    def __init__(
        self,
        model: Any,
        keras: ModuleType,
        name: str,
        idim: int,
        task: Task = "classification",
        strategy: Any | None = None,
    ) -> None:
        self._tf: Any = importlib.import_module("tensorflow")
        self._keras = keras
        self._model = model
        self._name = name
        self._idim = idim
        self._strategy = strategy
        signature = [self._tf.TensorSpec((None, idim), self._tf.float32)]
        self._scores = self._tf.function(lambda x: model(x, training=False), input_signature=signature)
        probe = np.zeros((2, idim), np.float32)
        with self._faults(probe), strategy.scope() if strategy else contextlib.nullcontext():
            self._targets = Targets(model, keras, name, task, model(probe, training=False))
            self._targets.settle()
            targets = self._targets.of(np.zeros(2, np.int64))
            model.test_on_batch(probe, targets)
            optimizers.create_variables(model.optimizer, model.trainable_variables)
            model.reset_metrics()
        replicas = gpus.Replicas(strategy, keras, model) if strategy else None
        self._passes = Passes(model, idim, targets, replicas)
        self._state = state.State(keras, model, self._passes)

    @classmethod
    def build(cls, model_file: ModelFile, setup: Setup) -> Self:
        """Make the user's model; parameters and errors as ``frameworks.open_adapter``."""
        legacy = model_file.framework == "keras2"
        keras = bind(legacy, setup.threads, model_file.old_optimizers)
        keras.utils.set_random_seed(setup.seed)
        importlib.import_module("tensorflow").config.experimental.enable_op_determinism()
        strategy = gpus.strategy_for(gpus.claim(setup.gpus))
        name = model_file.path.name
        try:
            model = _made(model_file, setup, keras, strategy)
            reason = gpus.hindrance(keras, model) if strategy else ""
            if reason:
                logger.warning("%s: %s: training on 1 GPU of %d", name, reason, setup.gpus)
                strategy = None
                keras.utils.set_random_seed(setup.seed)
                model = _made(model_file, setup, keras, strategy)
            return cls(model, keras, name, setup.idim, setup.task, strategy)
        except ModelFault as fault:
            if not legacy and fault.__cause__ and is_refusal(fault.__cause__, keras):
                raise LegacyKerasNeeded(f"{fault}\nKeras 3 refuses this; Keras 2 may take it") from fault
            raise

    @classmethod
    def load(
        cls,
        folder: Path,
        model_file: ModelFile | None = None,
        threads: int = 1,
        task: Task = "classification",
    ) -> Self:
        """Return the model that ``save`` wrote; the user's file is needed for classes of its own."""
        legacy = not (folder / KERAS_FILE).exists()
        keras = bind(legacy, threads)
        own = models.load_names(model_file) if model_file else {}
        try:
            if legacy:
                model = keras.models.load_model(folder, custom_objects=own)
            else:
                trusted = model_file is not None
                model = keras.saving.load_model(
                    folder / KERAS_FILE, custom_objects=own, safe_mode=not trusted
                )
        except (OSError, ValueError, TypeError) as error:
            raise ModelFault(
                f"{folder}: holds no Keras model that can be loaded: {models.brief(error)}"
            ) from error
        return cls(model, keras, folder.name, int(model.input_shape[-1]), task)

    def fit(
        self,
        x: FloatArray,
        y: TargetArray,
        batch_size: int,
        shuffle_seed: int | None = None,
        weights: FloatArray | None = None,
        validation: tuple[FloatArray, TargetArray] | None = None,
    ) -> dict[str, float]:
        """Train by one pass over these events."""
        order = None
        if shuffle_seed is not None:
            order = np.arange(len(x))
            np.random.default_rng(shuffle_seed).shuffle(order)
            with self._faults(x):
                self._state.seed(shuffle_seed)
        return self._run("train", x, y, weights, order, batch_size)

    def evaluate(self, x: FloatArray, y: TargetArray, weights: FloatArray | None = None) -> dict[str, float]:
        """Return loss and metrics for these events, without training."""
        with optimizers.averaged(self._model):
            return self._run("test", x, y, weights, None, PREDICT_BATCH)

    def predict(self, x: FloatArray) -> FloatArray:
        """Return the scores, shape (events,) or (events, classes), or the predictions; float32."""
        with self._faults(x), optimizers.averaged(self._model):
            parts = [
                self._scores(self._tf.constant(x[start : start + PREDICT_BATCH], self._tf.float32)).numpy()
                for start in range(0, max(len(x), 1), PREDICT_BATCH)
            ]
        scores: NDArray[np.float32] = np.concatenate(parts).astype(np.float32, copy=False)
        return scores.reshape(len(x)) if self._targets.outputs == 1 else scores

    def learning_rate(self) -> float | None:
        """Return the optimizer's learning rate; None where it follows a schedule of its own."""
        return optimizers.learning_rate(self._model.optimizer)

    def set_learning_rate(self, rate: float) -> None:
        """Change the optimizer's learning rate; ``ValueError`` where it follows a schedule of its own."""
        optimizers.set_learning_rate(self._model.optimizer, rate)

    def checkpoint(self, path: Path) -> None:
        """Write weights, the optimizer's state and what else changes in training to a file."""
        state.write(path, self._variables())

    def restore(self, path: Path) -> None:
        """Take weights and states from a checkpoint of the same model."""
        state.read(path, self._variables(), self._name)

    def save(self, folder: Path) -> str:
        """Write a SavedModel, for Keras 3 also ``model.keras``; return ``saved_model.pb``."""
        folder.mkdir(parents=True, exist_ok=True)
        with (
            faults.of_writing(folder),
            contextlib.redirect_stdout(io.StringIO()),
            optimizers.averaged(self._model),
        ):
            if self._keras.__name__ == "tf_keras":
                self._model.save(folder)
            else:
                self._model.export(folder)
                self._model.save(folder / KERAS_FILE)
        (folder / "assets").mkdir(exist_ok=True)
        return MAIN_FILE

    def export_onnx(self, path: Path) -> None:
        """Write the network as ONNX, through the TensorFlow function that predicts."""
        with optimizers.averaged(self._model):
            onnx.export(self._scores, self._idim, path, self._name)

    def describe(self) -> str:
        """Return the layers, the loss, the optimizer and the device."""
        lines: list[str] = []
        self._model.summary(print_fn=lambda line, **_: lines.append(str(line)))
        version = f"{self._keras.__name__} {self._keras.__version__}, TensorFlow {self._tf.__version__}"
        optimizer = type(self._model.optimizer).__name__
        loss = self._targets.loss()
        return "\n".join([*lines, f"loss {loss}, optimizer {optimizer}; {version}, {self._device()}"])

    def _device(self) -> str:
        if self._strategy:
            return f"{self._strategy.num_replicas_in_sync} GPUs"
        # Without a strategy TensorFlow takes the first of them, however many there are.
        return "1 GPU" if self._tf.config.list_logical_devices("GPU") else "CPU"

    def _run(
        self,
        kind: Kind,
        x: FloatArray,
        y: TargetArray,
        weights: FloatArray | None,
        order: NDArray[Any] | None,
        batch_size: int,
    ) -> dict[str, float]:
        self._targets.check(y, weights is not None)
        with self._faults(x):
            self._model.reset_metrics()
            self._passes.run(kind, order, batch_size, x, lambda rows: self._targets.of(y[rows]), weights)
            results = {name: np.asarray(value) for name, value in self._model.get_metrics_result().items()}
        return {name: float(value) for name, value in results.items() if value.size == 1}

    def _variables(self) -> list[Any]:
        with self._faults():
            return self._state.variables()

    def _faults(self, x: FloatArray | None = None) -> contextlib.AbstractContextManager[None]:
        none = np.empty((0, self._idim), np.float32)
        out_of_memory = (self._tf.errors.ResourceExhaustedError,)
        return faults.of_model(self._name, self._idim, none if x is None else x, out_of_memory)


def _made(model_file: ModelFile, setup: Setup, keras: ModuleType, strategy: Any | None) -> Any:
    """Return the user's model, made for one device, or for what the strategy distributes training over."""
    with strategy.scope() if strategy else contextlib.nullcontext():
        model = models.build(model_file, setup.idim, setup.arguments)
    if not isinstance(model, keras.Model):
        raise ModelFault(f"{model_file.path.name}: `model` returns a {type(model).__name__}, no Keras model")
    return model
