"""How well scores tell the classes apart, as plain numbers that go into JSON."""

from __future__ import annotations

import json
from typing import Any, TypedDict

import numpy as np
import sklearn.metrics
from numpy.typing import NDArray

from mlaas_condor.errors import DataFault, ModelFault

ROC_POINTS = 200
"""Most points kept of a ROC curve: more than a plot can show, few enough for a page."""

Scores = NDArray[np.floating[Any]]
Labels = NDArray[np.integer[Any]]


class RocCurve(TypedDict):
    """Share of other classes (``fpr``) and of the class (``tpr``) that pass, as the cut is lowered."""

    fpr: list[float]
    tpr: list[float]


class Metrics(TypedDict):
    """Metrics of one sample; ``None`` where a number is not defined for it.

    ``auc`` is one-versus-rest for several classes, averaged over the classes that have events.
    ``confusion_matrix[i][j]`` counts events of class i taken for class j; ``report`` is
    scikit-learn's classification report; ``roc`` has a curve for class 1, or for every class where
    there are more than two.
    """

    events: int
    events_by_class: dict[str, int]
    threshold: float
    auc: float | None
    accuracy: float | None
    log_loss: float | None
    confusion_matrix: list[list[int]]
    report: dict[str, Any]
    roc: dict[str, RocCurve]


def classification(y_true: Labels, scores: Scores, threshold: float = 0.5) -> Metrics:
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

    Raises
    ------
    ModelFault
        Scores are not finite.
    DataFault
        A class has no column of scores, or the shapes do not belong together.
    """
    y = np.asarray(y_true).astype(np.int64)
    table = _by_class(y, np.asarray(scores, np.float64))
    classes = table.shape[1]
    taken = (table[:, 1] >= threshold).astype(np.int64) if classes == 2 else table.argmax(axis=1)
    shown = [1] if classes == 2 else list(range(classes))
    curves = {k: table[:, k] for k in shown if 0 < np.count_nonzero(y == k) < len(y)}
    areas = [float(sklearn.metrics.roc_auc_score(y == k, column)) for k, column in curves.items()]
    labels = np.arange(classes)
    return {
        "events": len(y),
        "events_by_class": {str(k): int(np.count_nonzero(y == k)) for k in range(classes)},
        "threshold": float(threshold),
        "auc": float(np.mean(areas)) if areas else None,
        "accuracy": float(np.mean(taken == y)) if len(y) else None,
        "log_loss": _log_loss(y, table),
        "confusion_matrix": _confusion(y, taken, classes),
        "report": _report(y, taken, labels),
        "roc": {str(k): roc_curve(y == k, column) for k, column in curves.items()},
    }


def roc_curve(is_class: NDArray[np.bool_], scores: Scores) -> RocCurve:
    """Return a ROC curve of at most ``ROC_POINTS`` points, from (0, 0) to (1, 1).

    Points are left out evenly along the curve, so that steep parts keep their share.
    """
    fpr, tpr, _ = sklearn.metrics.roc_curve(is_class, scores)
    way = fpr + tpr
    kept = np.unique(np.searchsorted(way, np.linspace(0, way[-1], ROC_POINTS)))
    return {"fpr": fpr[kept].tolist(), "tpr": tpr[kept].tolist()}


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
        raise ModelFault(
            f"the model gives no finite score for {wrong} of {len(y)} events: the training diverged "
            "(a lower learning rate helps), or a feature is not finite"
        )
    return table


def _log_loss(y: NDArray[np.int64], table: NDArray[np.float64]) -> float | None:
    """Return the log loss; None where the scores are no probabilities (a model may give logits)."""
    if not len(y) or table.min() < 0 or table.max() > 1 or not (table.sum(axis=1) > 0).all():
        return None
    shares = table / table.sum(axis=1, keepdims=True)
    return float(sklearn.metrics.log_loss(y, shares, labels=np.arange(table.shape[1])))


def _confusion(y: NDArray[np.int64], taken: NDArray[np.int64], classes: int) -> list[list[int]]:
    counts = np.bincount(y * classes + taken, minlength=classes * classes)
    rows: list[list[int]] = counts.reshape(classes, classes).tolist()
    return rows


def _report(y: NDArray[np.int64], taken: NDArray[np.int64], labels: NDArray[np.int64]) -> dict[str, Any]:
    if not len(y):
        return {}
    report = sklearn.metrics.classification_report(
        y, taken, labels=labels, output_dict=True, zero_division=0.0
    )
    plain: dict[str, Any] = json.loads(json.dumps(report, default=float))
    return plain
