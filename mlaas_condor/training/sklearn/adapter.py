"""Train scikit-learn estimators: pass by pass where they can, otherwise on all events at once.

scikit-learn is imported when a model is made, never by importing this module.
"""

from __future__ import annotations

import contextlib
import importlib
import inspect
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from mlaas_condor.errors import FrameworkMissing, ModelFault
from mlaas_condor.training import faults, models, onnx_scores
from mlaas_condor.training.frameworks import FloatArray, Portion, Setup, TargetArray, TrainedModel
from mlaas_condor.training.models import ModelFile
from mlaas_condor.training.recipe import Task
from mlaas_condor.training.sklearn import files, parts
from mlaas_condor.training.sklearn.stages import Stages
from mlaas_condor.training.whole import gather, mean_loss
from mlaas_condor.training.writing import replacing

LOSS_EVENTS = 10_000
"""Training events that the loss after a stage is of: all of them could cost more than the stage."""

PREDICT_BATCH = 16384
"""Events a call when nothing is learnt: what a network computes of them in between stays small."""


class SklearnModel(TrainedModel):
    """A scikit-learn estimator.

    Parameters
    ----------
    estimator
        The estimator.
    name
        What to call it in messages: the name of the user's file.
    idim
        Number of columns.
    task
        What it learns.
    classes
        Number of classes; 0 for a regression.
    threads
        CPU threads that the linear algebra below it may use.
    """

    def __init__(self, estimator: Any, name: str, idim: int, task: Task, classes: int, threads: int) -> None:
        self._name = name
        self._idim = idim
        self._task = task
        self._classes = classes
        self._estimator = estimator
        self._threads = threads
        self._pools = importlib.import_module("threadpoolctl").ThreadpoolController()
        self._stages = Stages(self._final)
        self._done, self._over = 0, False
        self.learning = "passes" if parts.learns_in_passes(estimator) else "whole"

    @classmethod
    def build(cls, model_file: ModelFile, setup: Setup) -> Self:
        """Make the user's estimator; parameters and errors as ``frameworks.open_adapter``."""
        _import_sklearn()
        name = model_file.path.name
        estimator = models.build(model_file, setup.idim, setup.arguments)
        parts.check(estimator, name, setup.task)
        parts.settle(estimator, setup.seed, setup.threads)
        return cls(estimator, name, setup.idim, setup.task, setup.classes, setup.threads)

    @classmethod
    def load(
        cls,
        folder: Path,
        model_file: ModelFile | None = None,
        threads: int = 1,
        task: Task = "classification",
    ) -> Self:
        """Return the estimator that ``save`` wrote.

        The user's file is needed where it has classes of the user's own, or is a pickle.
        """
        _import_sklearn()
        if model_file:
            models.load(model_file)
        estimator, noted = files.read(folder, trusted=model_file is not None)
        parts.set_threads(estimator, threads, always=True)
        return cls(estimator, folder.name, noted["columns"], task, noted["classes"], threads)

    def fit(
        self,
        x: FloatArray,
        y: TargetArray,
        batch_size: int,
        shuffle_seed: int | None = None,
        weights: FloatArray | None = None,
        validation: tuple[FloatArray, TargetArray] | None = None,
    ) -> dict[str, float]:
        """Train by one pass over these events; ``loss`` is that of the model after it.

        ``batch_size`` counts for nothing: estimators take steps as their own parameters say.
        """
        arguments = self._weight_argument("partial_fit", weights)
        xs, ys = x, y
        if shuffle_seed is not None:
            order = np.random.default_rng(shuffle_seed).permutation(len(x))
            xs, ys = x[order], y[order]
            arguments = {name: values[order] for name, values in arguments.items()}
        if self._task == "classification":
            arguments["classes"] = np.arange(self._classes)
        with self._at_work(x):
            self._estimator.partial_fit(xs.astype(np.float32, copy=False), ys, **arguments)
        return self.evaluate(x, y, weights)

    def fit_whole(self, portions: Callable[[], Iterator[Portion]], events: int) -> Iterator[dict[str, float]]:
        """Train on all events, in stages where the estimator can be grown; see ``Stages``.

        ``loss`` is that of at most ``LOSS_EVENTS`` training events, evenly chosen.
        """
        stages = self._stages
        if self._over:
            return
        x, y, weights = gather(portions(), events, self._idim)
        stages.settle(events, weights is not None)
        arguments = self._weight_argument("fit", weights)
        some = np.linspace(0, events - 1, min(events, LOSS_EVENTS)).astype(np.int64)
        for stage in range(self._done + 1, stages.number + 1):
            with self._at_work(x), stages.prepared(self._final, stage):
                self._estimator.fit(x, y, **arguments)
            self._done, self._over = stage, stage == stages.number or stages.is_over(self._final)
            of_some = None if weights is None else weights[some]
            loss = self.evaluate(x[some], y[some], of_some)["loss"]
            yield {"stage": stage, "stages": stage if self._over else stages.number, "loss": loss}
            if self._over:
                return

    def evaluate(self, x: FloatArray, y: TargetArray, weights: FloatArray | None = None) -> dict[str, float]:
        """Return the loss of these events: a log loss, or of a regression the mean square."""
        return {"loss": mean_loss(y, self.predict(x), weights, self._task)}

    def predict(self, x: FloatArray) -> FloatArray:
        """Return the scores, shape (events,) or (events, classes), or the predictions; float32."""
        with self._at_work(x):
            parts = [
                self._scores(x[start : start + PREDICT_BATCH].astype(np.float32, copy=False))
                for start in range(0, len(x), PREDICT_BATCH)
            ]
        shape = (0, self._classes) if self._classes > 2 else (0,)
        return np.concatenate([np.empty(shape, np.float32), *parts])

    def checkpoint(self, path: Path) -> None:
        """Write the estimator, and how far its training is, as a pickle."""
        state = {**self._identity(), "stage": (self._done, self._over), "estimator": self._estimator}
        with replacing(path) as part, part.open("wb") as file:
            pickle.dump(state, file, protocol=pickle.HIGHEST_PROTOCOL)

    def restore(self, path: Path) -> None:
        """Take the estimator from a checkpoint of the same one."""
        with path.open("rb") as file:
            state = pickle.load(file)
        own = self._identity()
        other = [f"{key} {state[key]}, not {own[key]}" for key in own if state[key] != own[key]]
        if other:
            raise ModelFault(
                f"{path}: is the checkpoint of another model than {self._name}: {', '.join(other)}"
            )
        self._estimator = state["estimator"]
        self._done, self._over = state["stage"]

    def save(self, folder: Path) -> str:
        """Write ``model.skops``, or ``model.joblib`` where skops cannot; return which."""
        self._stages.put_back(self._final)
        return files.write(self._estimator, folder, columns=self._idim, classes=self._classes)

    def export_onnx(self, path: Path) -> None:
        """Write the estimator as ONNX, through skl2onnx."""
        graph = onnx_scores.of_sklearn(self._estimator, self._final, self._idim, self._decides)
        if self._task == "regression":
            onnx_scores.write(path, graph)
            return
        seen = np.asarray(self._estimator.classes_, np.int64)
        activation: onnx_scores.Activation = "Sigmoid" if len(seen) == 2 else "Softmax"
        choice = onnx_scores.choice(seen, self._classes)
        onnx_scores.write(path, graph, choice, activation if self._decides else "")

    def describe(self) -> str:
        """Return the estimator's parameters, and how it is trained."""
        sklearn = importlib.import_module("sklearn")
        lines = [str(self._estimator)]
        if self.learning == "passes":
            lines.append(
                "trained by partial_fit, epoch by epoch: its own max_iter counts for nothing, batch_size in "
                "params.json neither"
            )
        else:
            lines.append(f"trained on all events at once, in at most {self._stages.number} stage(s)")
        if self._decides:
            lines.append("it has no predict_proba: scores are a sigmoid (softmax) of its decision_function")
        lines.append(f"scikit-learn {sklearn.__version__}, CPU, {self._threads} thread(s)")
        return "\n".join(lines)

    @property
    def _final(self) -> Any:
        """The estimator, or the last step of a pipeline."""
        return parts.steps(self._estimator)[-1][1]

    @property
    def _decides(self) -> bool:
        """Whether it gives decision values, no probabilities."""
        return self._task == "classification" and not hasattr(self._estimator, "predict_proba")

    def _scores(self, x: FloatArray) -> NDArray[np.float32]:
        """Return the scores of some events, at least one."""
        if self._task == "regression":
            found = np.asarray(self._estimator.predict(x), np.float32)
            if found.size != len(x):
                raise ModelFault(
                    f"{self._name}: a regression needs one value an event; for {len(x)} events the model "
                    f"predicts an array of shape {found.shape}"
                )
            return found.reshape(len(x))
        seen = np.asarray(self._estimator.classes_, np.int64)
        table = self._probabilities(x)
        if table.shape != (len(x), len(seen)):
            raise ModelFault(
                f"{self._name}: for {len(x)} events of {len(seen)} classes the model gives an array of shape "
                f"{table.shape}; of an SVC, leave decision_function_shape at 'ovr'"
            )
        # A class that never occurred in training has a column too.
        scores = np.zeros((len(x), self._classes), np.float32)
        scores[:, seen] = table
        return scores[:, 1] if self._classes == 2 else scores

    def _probabilities(self, x: FloatArray) -> NDArray[np.floating[Any]]:
        if not self._decides:
            return np.asarray(self._estimator.predict_proba(x))
        values = np.asarray(self._estimator.decision_function(x), np.float64)
        special = importlib.import_module("scipy.special")
        if values.ndim == 1:
            return np.column_stack([special.expit(-values), special.expit(values)])
        return np.asarray(special.softmax(values, axis=1))

    def _weight_argument(self, method: str, weights: FloatArray | None) -> dict[str, Any]:
        """Return the weights as keyword argument of a method, for a pipeline that of its last step."""
        if weights is None:
            return {}
        steps = parts.steps(self._estimator)
        taken = inspect.signature(getattr(self._final, method)).parameters
        if "sample_weight" not in taken and not any(each.kind == each.VAR_KEYWORD for each in taken.values()):
            raise ModelFault(
                f"{self._name}: the events have weights, and a {type(self._final).__name__} takes none: "
                "leave the weights out, or use another estimator"
            )
        prefix = "".join(f"{name}__" for name, _ in steps[1:])
        return {f"{prefix}sample_weight": weights}

    def _identity(self) -> dict[str, Any]:
        """Return what a checkpoint must agree with."""
        kinds = [type(each).__name__ for each in parts.parts(self._estimator).values()]
        return {"kind": " of ".join(kinds), "columns": self._idim, "rounds": self._stages.rounds}

    @contextlib.contextmanager
    def _at_work(self, x: FloatArray) -> Iterator[None]:
        with faults.of_model(self._name, self._idim, x), self._pools.limit(limits=self._threads):
            yield


def _import_sklearn() -> None:
    try:
        importlib.import_module("sklearn")
    except ImportError as error:
        raise FrameworkMissing(
            f"scikit-learn cannot be imported where the job runs ({error}): "
            "pip install 'mlaas-condor[sklearn]'"
        ) from error
