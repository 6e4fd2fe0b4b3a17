"""Train Keras models: Keras 3 on TensorFlow, or Keras 2 (``tf_keras``) for files written for it.

One process holds one of the two, the one that is bound first. TensorFlow is imported when a
model is made, never by importing this module.
"""

from __future__ import annotations

import contextlib
import importlib
import io
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from mlaas_condor.errors import ModelFault
from mlaas_condor.training import faults, models
from mlaas_condor.training.binding import bind, is_refusal
from mlaas_condor.training.frameworks import FloatArray, Learning, NoOnnx, Portion, Setup, TargetArray
from mlaas_condor.training.models import LegacyKerasNeeded, ModelFile
from mlaas_condor.training.recipe import Task

PREDICT_BATCH = 8192
"""Events a call of the network when nothing is learnt: large enough that the calls cost nothing."""

KERAS_FILE = "model.keras"
MAIN_FILE = "saved_model.pb"
SIGNATURE = "serving_default"

BOUNDED = {"sigmoid": (0.0, 1.0), "softmax": (0.0, 1.0), "tanh": (-1.0, 1.0), "relu": (0.0, np.inf)}
"""What a last layer with that activation can give."""


class KerasModel:
    """A compiled Keras model; see ``frameworks.TrainedModel`` for what its methods promise.

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
    """

    learning: Learning = "passes"
    own_loop = False

    def __init__(
        self, model: Any, keras: ModuleType, name: str, idim: int, task: Task = "classification"
    ) -> None:
        self._tf: Any = importlib.import_module("tensorflow")
        self._keras = keras
        self._model = model
        self._name = name
        self._idim = idim
        self._task = task
        signature = [self._tf.TensorSpec((None, idim), self._tf.float32)]
        self._scores = self._tf.function(lambda x: model(x, training=False), input_signature=signature)
        self._shape = self._output_shape()
        self._outputs = self._shape[0] if self._shape else 1
        self._settle()
        self._train_pass = self._one_pass(model.train_step)
        self._test_pass = self._one_pass(model.test_step)
        # Traced only once there are weights.
        self._weighted_train_pass = self._one_pass(model.train_step, weighted=True)
        self._weighted_test_pass = self._one_pass(model.test_step, weighted=True)

    @classmethod
    def build(cls, model_file: ModelFile, setup: Setup) -> Self:
        """Make the user's model; parameters and errors as ``frameworks.open_adapter``."""
        legacy = model_file.framework == "keras2"
        keras = bind(legacy, setup.threads, model_file.old_optimizers)
        keras.utils.set_random_seed(setup.seed)
        importlib.import_module("tensorflow").config.experimental.enable_op_determinism()
        try:
            model = models.build(model_file, setup.idim, setup.arguments)
            if not isinstance(model, keras.Model):
                raise ModelFault(
                    f"{model_file.path.name}: `model` returns a {type(model).__name__}, no Keras model"
                )
            return cls(model, keras, model_file.path.name, setup.idim, setup.task)
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
        """Return the model that ``save`` wrote into a folder.

        Parameters
        ----------
        folder
            The folder.
        model_file
            The user's file; needed where the model has classes of the user's own. It is run.
        threads
            CPU threads TensorFlow may use.
        task
            What the model was trained for.
        """
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
        order = np.arange(len(x))
        if shuffle_seed is not None:
            np.random.default_rng(shuffle_seed).shuffle(order)
        one_pass = self._train_pass if weights is None else self._weighted_train_pass
        return self._run(one_pass, x, y, weights, order, batch_size)

    def evaluate(self, x: FloatArray, y: TargetArray, weights: FloatArray | None = None) -> dict[str, float]:
        """Return loss and metrics for these events, without training."""
        one_pass = self._test_pass if weights is None else self._weighted_test_pass
        return self._run(one_pass, x, y, weights, np.arange(len(x)), PREDICT_BATCH)

    def predict(self, x: FloatArray) -> FloatArray:
        """Return the scores, shape (events,) or (events, classes), or the predictions; float32."""
        with self._faults(x):
            parts = [
                self._scores(self._tf.constant(x[start : start + PREDICT_BATCH], self._tf.float32)).numpy()
                for start in range(0, max(len(x), 1), PREDICT_BATCH)
            ]
        scores: NDArray[np.float32] = np.concatenate(parts).astype(np.float32, copy=False)
        return scores.reshape(len(x)) if self._outputs == 1 else scores

    def fit_whole(self, portions: Callable[[], Iterator[Portion]], events: int) -> Iterator[dict[str, float]]:
        """Refuse: a network learns pass by pass."""
        raise NotImplementedError

    def learning_rate(self) -> float | None:
        """Return the optimizer's learning rate; None where it follows a schedule of its own."""
        rate = getattr(self._model.optimizer, "_learning_rate", self._model.optimizer.learning_rate)
        return float(np.asarray(rate)) if hasattr(rate, "assign") else None

    def set_learning_rate(self, rate: float) -> None:
        """Change the optimizer's learning rate."""
        self._model.optimizer.learning_rate.assign(rate)

    def checkpoint(self, path: Path) -> None:
        """Write weights, the optimizer's state and Keras 3's random states (Keras 2 hides them) to a file."""
        values = {f"v{i:05}": variable.numpy() for i, variable in enumerate(self._variables())}
        part = path.with_name(path.name + ".part")
        with faults.of_writing(path), part.open("wb") as file:
            np.savez(file, allow_pickle=False, **values)
        part.replace(path)

    def restore(self, path: Path) -> None:
        """Take weights and states from a checkpoint of the same model."""
        variables = self._variables()
        with np.load(path) as file:
            values = [file[name] for name in sorted(file.files)]
        if [value.shape for value in values] != [tuple(variable.shape) for variable in variables]:
            raise ModelFault(f"{path}: is the checkpoint of another model than {self._name}")
        for variable, value in zip(variables, values, strict=True):
            variable.assign(value)

    def save(self, folder: Path) -> str:
        """Write a SavedModel, for Keras 3 also ``model.keras``; return ``saved_model.pb``."""
        folder.mkdir(parents=True, exist_ok=True)
        with faults.of_writing(folder), contextlib.redirect_stdout(io.StringIO()):
            if self._keras.__name__ == "tf_keras":
                self._model.save(folder)
            else:
                self._model.export(folder)
                self._model.save(folder / KERAS_FILE)
        (folder / "assets").mkdir(exist_ok=True)
        return MAIN_FILE

    def export_onnx(self, path: Path) -> None:
        """Write the network as ONNX, through the TensorFlow function that predicts."""
        raise NoOnnx("not yet")

    def describe(self) -> str:
        """Return the layers, the loss, the optimizer and the device."""
        lines: list[str] = []
        self._model.summary(print_fn=lambda line, **_: lines.append(str(line)))
        gpus = self._tf.config.list_physical_devices("GPU")
        version = f"{self._keras.__name__} {self._keras.__version__}, TensorFlow {self._tf.__version__}"
        device = f"{len(gpus)} GPU" if gpus else "CPU"
        optimizer = type(self._model.optimizer).__name__
        return "\n".join([*lines, f"loss {self._loss()}, optimizer {optimizer}; {version}, {device}"])

    def _one_pass(self, step: Callable[[Any], Any], weighted: bool = False) -> Callable[..., None]:
        """Return a function that takes one pass over arrays, all within TensorFlow.

        Its arguments are the order of the events, the batch size, ``x``, ``y`` and perhaps the weights.

        ``Model.fit`` sets up a data pipeline and comes back to Python for every batch: for chunks of
        ten thousand events that costs more than the training of a usual network.
        """
        tf = self._tf

        def run(order: Any, batch_size: Any, *arrays: Any) -> None:
            for start in tf.range(0, tf.shape(order)[0], batch_size):
                rows = order[start : start + batch_size]
                step(tuple(tf.gather(array, rows) for array in arrays))

        if self._model.run_eagerly:
            return run
        labels = self._targets(np.zeros(1, np.int64))
        signature = [
            tf.TensorSpec((None,), tf.int32),
            tf.TensorSpec((), tf.int32),
            tf.TensorSpec((None, self._idim), tf.float32),
            tf.TensorSpec((None, *labels.shape[1:]), labels.dtype),
        ]
        if weighted:
            signature.append(tf.TensorSpec((None,), tf.float32))
        compiled: Callable[..., None] = tf.function(run, input_signature=signature)
        return compiled

    def _run(
        self,
        one_pass: Callable[..., None],
        x: FloatArray,
        y: TargetArray,
        weights: FloatArray | None,
        order: NDArray[Any],
        batch_size: int,
    ) -> dict[str, float]:
        tf = self._tf
        if weights is not None and not self._shape:
            # Keras averages such a batch before it weighs it: no error in Keras 3, and no weighting.
            raise ModelFault(
                f"{self._name}: with event weights the model must give an output of shape (events, 1), it "
                "gives (events,): end it with Dense(1), without Flatten or Reshape"
            )
        with self._faults(x):
            targets = self._targets(y)
            self._model.reset_metrics()
            one_pass(
                tf.constant(order, tf.int32),
                tf.constant(batch_size, tf.int32),
                tf.constant(x, tf.float32),
                tf.constant(targets),
                *([] if weights is None else [tf.constant(weights, tf.float32)]),
            )
            results = {name: np.asarray(value) for name, value in self._model.get_metrics_result().items()}
        return {name: float(value) for name, value in results.items() if value.size == 1}

    def _output_shape(self) -> tuple[int, ...]:
        """Return the shape of what the network gives an event, after trying it on two events of zeros."""
        probe = np.zeros((2, self._idim), np.float32)
        with self._faults(probe):
            scores = self._model(probe, training=False)
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

    def _settle(self) -> None:
        """Compile where the user did not, and create what else would be created during the first step."""
        model = self._model
        if getattr(model, "optimizer", None) is None:
            loss = "binary_crossentropy" if self._outputs == 1 else "sparse_categorical_crossentropy"
            loss, metric = ("mse", "mae") if self._task == "regression" else (loss, "accuracy")
            model.compile(optimizer=self._keras.optimizers.Adam(1e-3), loss=loss, metrics=[metric])
        if self._task == "regression" and "crossentropy" in self._loss_names():
            raise ModelFault(
                f"{self._name}: compiled with the loss {self._loss()}, which compares classes; for a "
                "regression use mse, mae or huber"
            )
        probe = np.zeros((2, self._idim), np.float32)
        with self._faults(probe):
            model.test_on_batch(probe, self._targets(np.zeros(2, np.int64)))
            # Keras 2's older optimizers have no public way to do it.
            create = getattr(model.optimizer, "build", None) or model.optimizer._create_all_weights
            create(model.trainable_variables)
            model.reset_metrics()

    def _targets(self, y: TargetArray) -> NDArray[Any]:
        """Return ``y`` as the model's loss wants it: as its output, class numbers, or one column a class."""
        if self._task == "regression":
            self._check_range(y)
            return np.asarray(y, np.float32).reshape(len(y), *self._shape)
        classes = int(y.max(initial=0)) + 1
        if classes > max(self._outputs, 2):
            raise ModelFault(
                f"{self._name}: the data have {classes} classes, the model gives {self._outputs} score(s)"
            )
        if self._outputs == 1:
            return np.asarray(y, np.float32)
        if "sparse" in self._loss():
            return np.asarray(y, np.int64)
        return np.eye(self._outputs, dtype=np.float32)[y]

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

    def _loss(self) -> str:
        loss = getattr(self._model, "loss", None)
        return str(loss if isinstance(loss, str) else getattr(loss, "name", getattr(loss, "__name__", loss)))

    def _loss_names(self) -> str:
        """Return all that the loss may be called, whether it was given as a word, function or object."""
        loss = getattr(self._model, "loss", None)
        found = loss
        if isinstance(loss, str):
            with contextlib.suppress(ValueError):  # a name of the user's own
                found = self._keras.losses.get(loss)
        names = (getattr(found, "__name__", ""), getattr(found, "name", ""), type(found).__name__, loss)
        return " ".join(map(str, names)).lower()

    def _variables(self) -> list[Any]:
        owned = self._model.optimizer.variables
        return [*self._model.variables, *(owned() if callable(owned) else owned)]

    def _faults(self, x: FloatArray) -> contextlib.AbstractContextManager[None]:
        return faults.of_model(self._name, self._idim, x, (self._tf.errors.ResourceExhaustedError,))
