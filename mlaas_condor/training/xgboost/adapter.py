"""Train XGBoost's estimators: on all events, which it keeps binned, a byte a value, in memory or on disk.

XGBoost is imported when a model is made, never by importing this module.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import logging
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from mlaas_condor.errors import FrameworkMissing, ModelFault
from mlaas_condor.training import faults, models, onnx_scores
from mlaas_condor.training.frameworks import FloatArray, NoOnnx, Portion, Setup, TargetArray, TrainedModel
from mlaas_condor.training.models import ModelFile
from mlaas_condor.training.recipe import Task
from mlaas_condor.training.whole import mean_loss
from mlaas_condor.training.writing import replacing
from mlaas_condor.training.xgboost import data as binned
from mlaas_condor.training.xgboost.plan import Plan, plan

STAGES = 30
"""Most stages of a training: after each, whoever trains looks at all validation events."""

MAIN_FILE = "model.ubj"
_RUNNING = {"nthread", "device", "verbosity"}  # parameters that do not change what is learnt

logger = logging.getLogger(__name__)


class XGBoostModel(TrainedModel):
    """Boosted trees of XGBoost.

    Parameters
    ----------
    planned
        What the user wants to be trained.
    booster
        The trees so far; None where there are none yet.
    name
        What to call it in messages: the name of the user's file.
    idim
        Number of columns.
    task
        What it learns.
    classes
        Number of classes; 0 for a regression.
    """

    learning = "whole"

    def __init__(
        self, planned: Plan, booster: Any | None, name: str, idim: int, task: Task, classes: int
    ) -> None:
        self._xgboost = _import_xgboost()
        self._plan = planned
        self._booster = booster
        self._name = name
        self._idim = idim
        self._task = task
        self._classes = classes

    @classmethod
    def build(cls, model_file: ModelFile, setup: Setup) -> Self:
        """Make the user's estimator; parameters and errors as ``frameworks.open_adapter``."""
        xgboost = _import_xgboost()
        name = model_file.path.name
        estimator = models.build(model_file, setup.idim, setup.arguments)
        return cls(plan(estimator, xgboost, name, setup), None, name, setup.idim, setup.task, setup.classes)

    @classmethod
    def load(
        cls,
        folder: Path,
        model_file: ModelFile | None = None,
        threads: int = 1,
        task: Task = "classification",
    ) -> Self:
        """Return the model that ``save`` wrote; the user's file is not needed, and not run."""
        xgboost = _import_xgboost()
        path = folder / MAIN_FILE
        try:
            booster = xgboost.Booster({"nthread": threads}, model_file=path)
            config = json.loads(booster.save_config())["learner"]
        except (xgboost.core.XGBoostError, OSError, ValueError) as error:
            raise ModelFault(
                f"{folder}: holds no XGBoost model that can be loaded: {models.brief(error)}"
            ) from error
        classes = max(2, int(config["learner_model_param"]["num_class"]))
        grown = config["gradient_booster"].get("gbtree_model_param", {}).get("num_parallel_tree", 1)
        parameters = {
            "objective": config["objective"]["name"], "nthread": threads, "num_parallel_tree": int(grown)
        }  # fmt: skip
        missing = float(booster.attr("missing") or "nan")
        planned = Plan(parameters, booster.num_boosted_rounds(), missing, "Booster")
        columns = booster.num_features()
        return cls(planned, booster, folder.name, columns, task, 0 if task == "regression" else classes)

    def fit_whole(self, portions: Callable[[], Iterator[Portion]], events: int) -> Iterator[dict[str, float]]:
        """Train on all events, some rounds a stage; ``loss`` and the estimator's own metrics are of all."""
        if self._rounds_done() >= self._plan.rounds:
            return
        # Beside the matrices: it goes with the folder of the job, should the process end at once.
        with tempfile.TemporaryDirectory(
            prefix="xgboost-", dir=Path.cwd(), ignore_cleanup_errors=True
        ) as folder:
            yield from self._stages(portions, events, Path(folder))

    def evaluate(self, x: FloatArray, y: TargetArray, weights: FloatArray | None = None) -> dict[str, float]:
        """Return the loss of these events: a log loss, or of a regression the mean square."""
        return {"loss": mean_loss(y, self.predict(x), weights, self._task)}

    def predict(self, x: FloatArray) -> FloatArray:
        """Return the scores, shape (events,) or (events, classes), or the predictions; float32."""
        features = np.ascontiguousarray(x, np.float32)
        with self._faults(x):
            if self._booster is None:
                raise ModelFault(f"{self._name}: there are no trees yet to predict with")
            # XGBoost loses the columns where there is no event.
            scores = self._raw_scores(features) if len(x) else np.empty((0, self._classes or 1), np.float32)
        if self._classes == 2 and scores.ndim == 2:
            return scores[:, 1]
        return scores.reshape(len(x)) if self._classes <= 2 else scores

    def checkpoint(self, path: Path) -> None:
        """Write the trees, and what they are trained with."""
        trees = b"" if self._booster is None else bytes(self._booster.save_raw("ubj"))
        with replacing(path) as part, part.open("wb") as file:
            np.savez(
                file, allow_pickle=False, trees=np.frombuffer(trees, np.uint8), identity=self._identity()
            )

    def restore(self, path: Path) -> None:
        """Take the trees from a checkpoint of the same model."""
        with np.load(path) as file:
            trees, identity = file["trees"].tobytes(), str(file["identity"])
        if identity != self._identity():
            raise ModelFault(
                f"{path}: is the checkpoint of another model than {self._name}: that is {identity}, this is "
                f"{self._identity()}"
            )
        self._booster = self._new_booster(bytearray(trees)) if trees else None

    def save(self, folder: Path) -> str:
        """Write ``model.ubj``, which ``xgboost.Booster`` and its estimators load; return that name."""
        folder.mkdir(parents=True, exist_ok=True)
        booster = self._trained()
        if not np.isnan(self._plan.missing):
            booster.set_attr(missing=repr(self._plan.missing))
        with faults.of_writing(folder):
            booster.save_model(folder / MAIN_FILE)
        return MAIN_FILE

    def export_onnx(self, path: Path) -> None:
        """Write the trees as ONNX, through onnxmltools."""
        if not np.isnan(self._plan.missing):
            raise NoOnnx(f"missing={self._plan.missing:g} is nothing that ONNX knows")
        if self._classes == 2 and self._plan.parameters["objective"].startswith("multi:"):
            raise NoOnnx("onnxmltools confuses the two classes of multi:softprob: use binary:logistic")
        if self._classes > 2 and self._plan.parameters.get("num_parallel_tree", 1) > 1:
            raise NoOnnx(f"onnxmltools confuses the {self._classes} classes of a forest (num_parallel_tree)")
        kind = "XGBRegressor" if self._task == "regression" else "XGBClassifier"
        estimator = getattr(self._xgboost, kind)()
        estimator.load_model(self._trained().save_raw("ubj"))
        graph = onnx_scores.of_xgboost(estimator, self._idim)
        choice = onnx_scores.choice(np.arange(self._classes), self._classes) if self._classes else None
        onnx_scores.write(path, graph, choice)

    def describe(self) -> str:
        """Return the parameters that the user or the setup has set, and where it is trained."""
        parameters = {name: value for name, value in self._plan.parameters.items() if name not in _RUNNING}
        told = ", ".join(f"{name}={value}" for name, value in sorted(parameters.items()))
        device = self._plan.parameters.get("device", "cpu").upper()
        threads = self._plan.parameters["nthread"]
        return (
            f"{self._plan.kind}, {self._plan.rounds} round(s)\n{told}\n"
            f"XGBoost {self._xgboost.__version__}, {device}, {threads} thread(s)"
        )

    def _stages(
        self, portions: Callable[[], Iterator[Portion]], events: int, folder: Path
    ) -> Iterator[dict[str, float]]:
        trees = None if self._booster is None else self._booster.save_raw("ubj")
        some: NDArray[np.float32] = np.broadcast_to(np.float32(0), (events, self._idim))
        with self._faults(some):
            data = binned.read(self._xgboost, portions, events, self._idim, self._plan, folder)
            self._booster = booster = self._new_booster(trees, data)
            done = self._rounds_done()  # also the first to look at the parameters
        weights = data.get_weight()
        mean_weight = float(weights.mean()) if weights.size else 1.0
        rounds = self._plan.rounds
        each = -(-rounds // STAGES)
        stages = -(-rounds // each)
        for stage in range(done // each + 1, stages + 1):
            with self._faults(some):
                self._begin_anew(booster)
                for number in range((stage - 1) * each, min(stage * each, rounds)):
                    booster.update(data, number)
                told = self._told(booster.eval_set([(data, "train")], rounds), mean_weight)
            yield {"stage": stage, "stages": stages, **told}

    def _begin_anew(self, booster: Any) -> None:
        """Let it forget what it has drawn so far: a booster that is gone on with does not know of it.

        It draws columns from a generator that is made with the part that grows trees, whose making also
        takes from the generator that draws events. Another tree method lets it make that part anew.
        """
        method = self._plan.parameters["tree_method"]
        for each in ("approx" if method == "hist" else "hist", method):
            booster.set_param("tree_method", each)
            booster.save_config()  # that is when parameters come into force

    def _told(self, line: str, mean_weight: float) -> dict[str, float]:
        """Return the metrics in a line of XGBoost's; the loss as ``evaluate`` would."""
        pairs = (each.rpartition(":") for each in line.split("\t")[1:])
        found = {name.removeprefix("train-"): float(value) for name, _, value in pairs}
        metric = self._plan.loss_metric
        loss = found[metric] ** 2 if metric == "rmse" else found[metric]
        own = {name: value for name, value in found.items() if name in self._plan.metrics}
        # XGBoost divides by the sum of weights, others by the number of events.
        return {"loss": loss * mean_weight, **own}

    def _new_booster(self, trees: bytearray | None, data: Any | None = None) -> Any:
        metrics = dict.fromkeys([*self._plan.metrics, self._plan.loss_metric])
        return self._xgboost.Booster(
            [*self._plan.parameters.items(), *(("eval_metric", metric) for metric in metrics)],
            [] if data is None else [data],
            model_file=trees,
        )

    def _raw_scores(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        booster, missing = self._trained(), self._plan.missing
        if self._plan.parameters.get("device", "cpu") != "cpu":
            # It cannot predict in place what is not there.
            return np.asarray(booster.predict(self._xgboost.DMatrix(x, missing=missing)))
        return np.asarray(booster.inplace_predict(x, missing=missing, validate_features=False))

    def _trained(self) -> Any:
        if self._booster is None:
            raise ModelFault(f"{self._name}: has not been trained yet")
        return self._booster

    def _rounds_done(self) -> int:
        return 0 if self._booster is None else int(self._booster.num_boosted_rounds())

    def _identity(self) -> str:
        """Return what a checkpoint must agree with."""
        parameters = {name: each for name, each in self._plan.parameters.items() if name not in _RUNNING}
        what = {"rounds": self._plan.rounds, "columns": self._idim, **parameters}
        return json.dumps(what, default=str, sort_keys=True)

    @contextlib.contextmanager
    def _faults(self, x: FloatArray) -> Iterator[None]:
        out_of_memory = ("bad_alloc", "out of memory", "cudaErrorMemoryAllocation")
        with faults.of_model(self._name, self._idim, x):
            try:
                yield
            except self._xgboost.core.XGBoostError as error:
                if any(sign in str(error) for sign in out_of_memory):
                    raise MemoryError from error
                raise


def _import_xgboost() -> Any:
    try:
        return importlib.import_module("xgboost")
    except ImportError as error:
        raise FrameworkMissing(
            f"XGBoost cannot be imported where the job runs ({error}): pip install 'mlaas-condor[xgboost]'"
        ) from error
