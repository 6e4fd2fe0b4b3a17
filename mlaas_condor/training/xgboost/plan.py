"""What an estimator of XGBoost asks to be trained, as parameters of a booster."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

from mlaas_condor.errors import ModelFault
from mlaas_condor.training.frameworks import Setup

TWO_CLASSES = ("binary:logistic", "binary:hinge")
LIKE_LOGISTIC = ("binary:logitraw", "reg:logistic")
"""Objectives that learn what binary:logistic does, but do not give a probability, or not to a classifier."""

NO_NUMBERS = ("binary:", "multi:", "rank:", "survival:")

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Plan:
    """What is to be trained.

    Parameters
    ----------
    parameters
        Of the booster, without metrics.
    rounds
        Rounds of boosting; a round is a tree, or one a class, or a forest.
    missing
        The value of a feature that stands for none.
    kind
        Name of the estimator's class.
    metrics
        Metrics that the user wants to know.
    regression
        Whether it is one.
    """

    parameters: dict[str, Any]
    rounds: int
    missing: float
    kind: str
    metrics: tuple[str, ...] = ()
    regression: bool = False

    @property
    def loss_metric(self) -> str:
        """The metric of XGBoost's that is the loss, or of a regression its root."""
        if self.regression:
            return "rmse"
        return "mlogloss" if self.parameters["objective"].startswith("multi:") else "logloss"


def plan(estimator: Any, xgboost: Any, name: str, setup: Setup) -> Plan:
    """Return what the user's estimator asks for.

    Parameters
    ----------
    estimator
        What the user's function returned.
    xgboost
        The package.
    name
        Name of the user's file.
    setup
        What the model is made for.

    Raises
    ------
    ModelFault
        It is no estimator of XGBoost for this task, or cannot be trained here.
    """
    _check(estimator, xgboost, name, setup)
    parameters = {key: value for key, value in estimator.get_xgb_params().items() if value is not None}
    for key in ("missing", "verbose", "eval_metric"):
        parameters.pop(key, None)
    jobs, seed = parameters.pop("n_jobs", None), parameters.pop("random_state", None)
    parameters |= {
        "objective": _objective(estimator.objective, name, setup),
        "nthread": setup.threads if jobs is None or jobs < 1 else jobs,
        "seed": setup.seed if seed is None else seed,
        # So that a round draws the same whether or not the process has done those before.
        "seed_per_iteration": True,
        "device": _device(parameters.get("device"), xgboost, setup),
        "tree_method": _tree_method(parameters.get("tree_method")),
    }
    if parameters["objective"].startswith("multi:"):
        parameters["num_class"] = setup.classes
    _tell_what_is_left_out(estimator, name)
    return Plan(
        parameters,
        estimator.get_num_boosting_rounds(),
        float("nan") if estimator.missing is None else float(estimator.missing),
        type(estimator).__name__,
        _metrics(estimator.eval_metric),
        setup.task == "regression",
    )


def _check(estimator: Any, xgboost: Any, name: str, setup: Setup) -> None:
    kind = type(estimator).__name__
    wanted = "XGBRegressor" if setup.task == "regression" else "XGBClassifier"
    if isinstance(estimator, type) and issubclass(estimator, xgboost.XGBModel):
        raise ModelFault(
            f"{name}: `model` returns the class {estimator.__name__}, not an estimator: write "
            f"{estimator.__name__}()"
        )
    if isinstance(estimator, (dict, xgboost.Booster)):
        raise ModelFault(
            f"{name}: `model` returns a {kind}, which does not say how many rounds to train: return "
            f"xgboost.{wanted}(n_estimators=..., **parameters)"
        )
    if type(estimator).__module__.startswith("sklearn."):
        raise ModelFault(
            f"{name}: `model` returns a {kind} of scikit-learn, but the file imports xgboost, and is "
            f"taken for a model of XGBoost: return xgboost.{wanted}, which needs no scaler or pipeline, or "
            "remove that import"
        )
    if not isinstance(estimator, xgboost.XGBModel):
        raise ModelFault(f"{name}: `model` returns a {kind}, no estimator of XGBoost such as {wanted}")
    if not isinstance(estimator, getattr(xgboost, wanted)):
        raise ModelFault(
            f"{name}: `model` returns an {kind}: for a {setup.task} return an {wanted}, or set "
            '"task" in job.json'
        )
    if getattr(estimator, "booster", None) == "gblinear":
        raise ModelFault(
            f"{name}: the booster gblinear makes no trees, and its result is not repeatable: use gbtree or "
            "dart, or a linear model of scikit-learn"
        )


def _objective(wanted: Any, name: str, setup: Setup) -> str:
    """Return the objective; where the user left it open or it cannot give scores, the usual one."""
    if callable(wanted):
        raise ModelFault(
            f"{name}: the objective is a function, which cannot be written with the model: name one of "
            "XGBoost's"
        )
    if setup.task == "regression":
        if wanted is not None and wanted.startswith(NO_NUMBERS):
            raise ModelFault(
                f"{name}: the objective {wanted} is none for a regression: use reg:squarederror, or another "
                "of XGBoost's that begins with reg:"
            )
        return wanted or "reg:squarederror"
    many = setup.classes > 2
    usual = "multi:softprob" if many else "binary:logistic"
    if wanted is None or wanted == usual or (wanted in TWO_CLASSES and not many):
        return wanted or usual
    if wanted.startswith("multi:"):  # softmax learns the same, and gives less
        return "multi:softprob"
    if wanted in (*TWO_CLASSES, *LIKE_LOGISTIC):
        if wanted != "binary:logistic":  # the default of XGBClassifier, whatever the number of classes
            logger.info("%s: the objective %s is taken for %s", name, wanted, usual)
        return usual
    raise ModelFault(
        f"{name}: the objective {wanted} gives no score for {setup.classes} classes: use {usual}, or leave "
        "it out"
    )


def _device(wanted: Any, xgboost: Any, setup: Setup) -> str:
    """Return the device: the GPUs that the job asked for, if this XGBoost can use them."""
    if not setup.gpus:
        if wanted not in (None, "cpu"):
            logger.warning('device=%s: the job asked for no GPU ("device": "gpu" in job.json)', wanted)
        return "cpu"
    if not xgboost.build_info().get("USE_CUDA"):
        logger.warning("the job has a GPU, but XGBoost is installed here without CUDA: trained on the CPU")
        return "cpu"
    return str(wanted or "cuda")


def _tree_method(wanted: str | None) -> str:
    return "hist" if wanted in (None, "auto", "gpu_hist") else wanted


def _metrics(wanted: Any) -> tuple[str, ...]:
    """Return the user's metrics that have a name."""
    several = wanted if isinstance(wanted, (list, tuple)) else [wanted]
    return tuple(each for each in several if isinstance(each, str))


def _tell_what_is_left_out(estimator: Any, name: str) -> None:
    if estimator.early_stopping_rounds is not None:
        logger.warning(
            "%s: early_stopping_rounds=%s is left out: early_stop in params.json does that",
            name,
            estimator.early_stopping_rounds,
        )
    if estimator.callbacks:
        logger.warning("%s: callbacks of the estimator are left out", name)
