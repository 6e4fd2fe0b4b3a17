"""How good scores or predictions are, as plain numbers that go into JSON.

Where events have weights every number is weighted, except those that count events. Weights may be
negative, as generators beyond leading order give them: a sum then runs over the weights as they are, so
that such events cancel others, and a number whose denominator is not positive is ``None``.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any, NotRequired, TypedDict

import numpy as np
import sklearn.metrics
from numpy.typing import NDArray

from mlaas_condor.errors import DataFault, ModelFault
from mlaas_condor.training.curves import (
    ROC_POINTS,
    BestThreshold,
    Passing,
    PrecisionRecall,
    Rejection,
    RocCurve,
    Scores,
    Weights,
    area,
    roc_curve,
)

__all__ = [
    "QUANTILES",
    "ROC_POINTS",
    "Metrics",
    "Regression",
    "auc",
    "classification",
    "regression",
    "rmse",
    "roc_curve",
]

QUANTILES = (16, 50, 84)
"""Percentiles given of a regression's residuals: the median and what would be one standard deviation."""

Truth = NDArray[np.integer[Any]] | NDArray[np.floating[Any]]


class Metrics(TypedDict):
    """Metrics of one sample; ``None`` where a number is not defined for it.

    ``auc`` is one-versus-rest for several classes, averaged over the classes that have events (with
    weights: whose weights, and whose others' weights, add up to more than 0).
    ``confusion_matrix[i][j]`` counts events of class i taken for class j, or adds up their weights;
    ``report`` is scikit-learn's classification report. ``roc``, ``precision_recall``, ``best_threshold``
    and ``rejection`` are of class 1 against class 0; where there are more than two classes, of every one
    that has events against the rest. So is ``average_precision``, whose mean is given.
    ``weight_by_class`` and ``negative_weights``, the number of events whose weight is negative, are there
    where events have weights.
    """

    events: int
    events_by_class: dict[str, int]
    weight_by_class: NotRequired[dict[str, float]]
    negative_weights: NotRequired[int]
    threshold: float
    auc: float | None
    accuracy: float | None
    log_loss: float | None
    confusion_matrix: list[list[int]] | list[list[float]]
    report: dict[str, Any]
    roc: dict[str, RocCurve]
    auc_by_class: dict[str, float]
    average_precision: float | None
    average_precision_by_class: dict[str, float]
    precision_recall: dict[str, PrecisionRecall]
    best_threshold: dict[str, BestThreshold]
    rejection: dict[str, list[Rejection]]


class Regression(TypedDict):
    """Metrics of a regression; ``None`` where a number is not defined.

    A residual is predicted minus true: ``bias`` is its mean, ``resolution`` its standard deviation,
    ``residual_quantiles`` has its percentiles by their number. ``weight``, the sum of weights, and
    ``negative_weights``, the number of events whose weight is negative, are there where events have
    weights.
    """

    events: int
    weight: NotRequired[float]
    negative_weights: NotRequired[int]
    mae: float | None
    rmse: float | None
    bias: float | None
    r2: float | None
    resolution: float | None
    residual_quantiles: dict[str, float | None]


def classification(
    y_true: Truth, scores: Scores, threshold: float = 0.5, weights: Weights | None = None
) -> Metrics:
    """Measure how well scores tell the classes apart.

    Parameters
    ----------
    y_true
        Class of each event, shape (events,), integers 0..n-1.
    scores
        Shape (events,): score of class 1; or (events, classes).
    threshold
        Two classes: an event with at least this score is taken for class 1. With more, the class
        with the highest score is taken.
    weights
        Weight of each event, shape (events,). An AUC with weights is the share of pairs in the right
        order, a pair counting the product of its weights; with negative ones it may lie outside 0 to 1.

    Raises
    ------
    ModelFault
        Scores are not finite.
    DataFault
        A class has no column of scores, or the shapes do not belong together.
    """
    y, table, w = _classified(y_true, scores, weights)
    classes = table.shape[1]
    taken = (table[:, 1] >= threshold).astype(np.int64) if classes == 2 else table.argmax(axis=1)
    counts = np.bincount(y, minlength=classes)
    sums = counts if w is None else np.bincount(y, w, minlength=classes)
    known = float(sums.sum()) > 0
    shown = _shown(y, table, w)
    areas = {str(k): area(y == k, table[:, k], w) for k in shown}
    passing = {str(k): Passing.of(y == k, table[:, k], w) for k in shown}
    precisions = {name: each.average_precision() for name, each in passing.items()}
    measured: Metrics = {
        "events": len(y),
        "events_by_class": {str(k): int(count) for k, count in enumerate(counts)},
        "threshold": float(threshold),
        "auc": _average(areas),
        "accuracy": float(np.average(taken == y, weights=w)) if known else None,
        "log_loss": _log_loss(y, table, w) if known else None,
        "confusion_matrix": _confusion(y, taken, classes, w),
        "report": _report(y, taken, classes, w) if known else {},
        "roc": {str(k): roc_curve(y == k, table[:, k], w) for k in shown},
        "auc_by_class": areas,
        "average_precision": _average(precisions),
        "average_precision_by_class": precisions,
        "precision_recall": {name: each.precision_recall() for name, each in passing.items()},
        "best_threshold": {name: each.best_threshold() for name, each in passing.items()},
        "rejection": {name: each.rejection() for name, each in passing.items()},
    }
    if w is not None:
        measured["weight_by_class"] = {str(k): float(weight) for k, weight in enumerate(sums)}
        measured["negative_weights"] = int(np.count_nonzero(w < 0))
    return measured


def auc(y_true: Truth, scores: Scores, weights: Weights | None = None) -> float | None:
    """Return the AUC alone, as ``classification`` has it, at a fraction of its cost; raises as that does."""
    y, table, w = _classified(y_true, scores, weights)
    return _average({str(k): area(y == k, table[:, k], w) for k in _shown(y, table, w)})


def _classified(
    y_true: Truth, scores: Scores, weights: Weights | None
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64] | None]:
    """Return classes, scores with a column a class, and weights, after checking them."""
    y = np.asarray(y_true).astype(np.int64)
    return y, _by_class(y, np.asarray(scores, np.float64)), _checked(weights, y)


def _shown(y: NDArray[np.int64], table: NDArray[np.float64], w: NDArray[np.float64] | None) -> list[int]:
    """Return the classes that can be told from the rest: class 1 of two, those that have events of more."""
    classes = table.shape[1]
    sums = np.bincount(y, w, minlength=classes)
    # Weights that cancel leave a sum that is 0 but for rounding.
    least = 0.0 if w is None else 1e-9 * float(np.abs(w).sum())
    candidates = [1] if classes == 2 else range(classes)
    return [k for k in candidates if sums[k] > least and sums.sum() - sums[k] > least]


def _average(by_class: Mapping[str, float]) -> float | None:
    return float(np.mean(list(by_class.values()))) if by_class else None


def regression(y_true: Truth, predicted: Scores, weights: Weights | None = None) -> Regression:
    """Measure how close predictions are to the truth.

    Parameters
    ----------
    y_true, predicted
        True and predicted value of each event, shape (events,).
    weights
        Weight of each event, shape (events,).

    Raises
    ------
    ModelFault
        Predictions are not finite.
    DataFault
        The shapes do not belong together.
    """
    y, found = _regressed(y_true, predicted)
    checked = _checked(weights, y)
    w = np.ones(len(y)) if checked is None else checked
    total = float(w.sum())
    residual = found - y
    bias = _mean(residual, w)
    spread = _mean((y - (_mean(y, w) or 0.0)) ** 2, w)
    square = _mean(residual**2, w)
    measured: Regression = {
        "events": len(y),
        "mae": _mean(np.abs(residual), w),
        "rmse": _root(square),
        "bias": bias,
        "r2": 1 - square / spread if square is not None and spread is not None and spread > 0 else None,
        "resolution": _root(_mean((residual - (bias or 0.0)) ** 2, w)),
        "residual_quantiles": {str(percent): _quantile(residual, w, percent / 100) for percent in QUANTILES},
    }
    if checked is not None:
        measured["weight"] = total
        measured["negative_weights"] = int(np.count_nonzero(w < 0))
    return measured


def rmse(y_true: Truth, predicted: Scores, weights: Weights | None = None) -> float | None:
    """Return the root mean square residual alone; parameters and errors as of ``regression``."""
    y, found = _regressed(y_true, predicted)
    checked = _checked(weights, y)
    return _root(_mean((found - y) ** 2, np.ones(len(y)) if checked is None else checked))


def _regressed(y_true: Truth, predicted: Scores) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return true and predicted values after checking them."""
    y, found = np.asarray(y_true, np.float64), np.asarray(predicted, np.float64)
    if y.ndim != 1 or found.shape != y.shape:
        raise DataFault(f"predictions of shape {found.shape} do not belong to targets of shape {y.shape}")
    wrong = np.count_nonzero(~np.isfinite(found))
    if wrong:
        raise _diverged("prediction", wrong, len(y))
    return y, found


def _checked(
    weights: Weights | None, y: NDArray[np.int64] | NDArray[np.float64]
) -> NDArray[np.float64] | None:
    if weights is None:
        return None
    w = np.asarray(weights, np.float64)
    if w.shape != y.shape:
        raise DataFault(f"weights of shape {w.shape} do not belong to events of shape {y.shape}")
    return w


def _mean(values: NDArray[np.float64], w: NDArray[np.float64]) -> float | None:
    return float(np.average(values, weights=w)) if w.sum() > 0 else None


def _root(square: float | None) -> float | None:
    """Return the root; None also where negative weights make a mean of squares negative."""
    return math.sqrt(square) if square is not None and square >= 0 else None


def _quantile(values: NDArray[np.float64], w: NDArray[np.float64], share: float) -> float | None:
    """Return the lowest value up to which at least that share of the weights lies."""
    total = w.sum()
    if not total > 0:
        return None
    order = np.argsort(values, kind="stable")
    reached = np.cumsum(w[order]) >= share * total
    return float(values[order][np.argmax(reached)])


def _diverged(what: str, wrong: np.integer[Any], events: int) -> ModelFault:
    return ModelFault(
        f"the model gives no finite {what} for {wrong} of {events} events: the training diverged "
        "(a lower learning rate helps), or a feature is not finite"
    )


def _by_class(y: NDArray[np.int64], scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the scores with a column a class, shape (events, classes), after checking them."""
    table = np.column_stack([1 - scores, scores]) if scores.ndim == 1 else scores
    if table.ndim != 2 or y.shape != table.shape[:1] or table.shape[1] < 2:
        raise DataFault(f"scores of shape {scores.shape} do not belong to labels of shape {y.shape}")
    if len(y) and not 0 <= y.min() <= y.max() < table.shape[1]:
        raise DataFault(
            f"labels run from {y.min()} to {y.max()}, but the model tells only {table.shape[1]} classes apart"
        )
    wrong = np.count_nonzero(~np.isfinite(table).all(axis=1))
    if wrong:
        raise _diverged("score", wrong, len(y))
    return table


def _log_loss(
    y: NDArray[np.int64], table: NDArray[np.float64], w: NDArray[np.float64] | None
) -> float | None:
    """Return the log loss; None where the scores are no probabilities (a model may give logits)."""
    if table.min() < 0 or table.max() > 1 or not (table.sum(axis=1) > 0).all():
        return None
    shares = table / table.sum(axis=1, keepdims=True)
    return float(sklearn.metrics.log_loss(y, shares, labels=np.arange(table.shape[1]), sample_weight=w))


def _confusion(
    y: NDArray[np.int64], taken: NDArray[np.int64], classes: int, w: NDArray[np.float64] | None
) -> list[list[int]] | list[list[float]]:
    cells = np.bincount(y * classes + taken, w, minlength=classes * classes)
    rows: list[list[int]] | list[list[float]] = cells.reshape(classes, classes).tolist()
    return rows


def _report(
    y: NDArray[np.int64], taken: NDArray[np.int64], classes: int, w: NDArray[np.float64] | None
) -> dict[str, Any]:
    report = sklearn.metrics.classification_report(
        y, taken, labels=np.arange(classes), output_dict=True, zero_division=0.0, sample_weight=w
    )
    plain: dict[str, Any] = json.loads(json.dumps(report, default=float))
    return plain
