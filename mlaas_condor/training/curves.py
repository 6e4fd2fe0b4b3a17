"""What passes a cut on the score, as the cut is lowered: curves, and the working points on them.

One class is the signal, all others are the background. With weights every sum is one of weights. Negative
ones may make a curve turn back, and bring efficiencies and precisions outside 0 to 1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Self, TypedDict

import numpy as np
import sklearn.metrics
from numpy.typing import NDArray

ROC_POINTS = 200
"""Most points kept of a curve: more than a plot can show, few enough for a page."""

SIGNAL_EFFICIENCIES = (0.3, 0.5, 0.7, 0.8, 0.9)
"""Where the background rejection is given."""

_ROUNDING = 1e-12  # what sums of weights that cancel may leave, of 1

Scores = NDArray[np.floating[Any]]
Weights = NDArray[np.floating[Any]]


class RocCurve(TypedDict):
    """Share of other classes (``fpr``) and of the class (``tpr``) that pass, as the cut is lowered.

    With negative weights it may turn back in places.
    """

    fpr: list[float]
    tpr: list[float]


class PrecisionRecall(TypedDict):
    """Share of the class that passes (``recall``), and share of the class in what passes (``precision``)."""

    recall: list[float]
    precision: list[float]


class BestThreshold(TypedDict):
    """The threshold with the largest geometric mean of the efficiency and 1 - background efficiency."""

    threshold: float
    g_mean: float


class Rejection(TypedDict):
    """Background rejection at a signal efficiency.

    The cut is the highest at which at least ``signal_efficiency`` of the class passes; ``reached`` is what
    passes there. ``rejection`` is 1 over the background efficiency, None where no background passes;
    ``background_events`` passed, so that its relative error is about 1 over their square root.
    """

    signal_efficiency: float
    reached: float
    threshold: float
    rejection: float | None
    background_events: int


@dataclass(frozen=True)
class Passing:
    """What passes a cut at each of the scores there are, the highest first.

    Parameters
    ----------
    thresholds
        The different scores, descending; a cut lets pass what has at least this score.
    signal, background
        Weight of the signal and of the background that pass.
    background_events
        Number of background events that pass.
    """

    thresholds: NDArray[np.float64]
    signal: NDArray[np.float64]
    background: NDArray[np.float64]
    background_events: NDArray[np.int64]

    @classmethod
    def of(cls, is_signal: NDArray[np.bool_], scores: Scores, weights: Weights | None = None) -> Self:
        """Count what passes; both classes must have a weight above 0 in all."""
        order = np.argsort(-scores, kind="stable")
        ascending, signal = scores[order], is_signal[order]
        w = np.ones(len(order)) if weights is None else np.asarray(weights, np.float64)[order]
        last = np.append(np.flatnonzero(np.diff(ascending)), len(order) - 1)
        return cls(
            ascending[last].astype(np.float64),
            np.cumsum(np.where(signal, w, 0.0))[last],
            np.cumsum(np.where(signal, 0.0, w))[last],
            np.cumsum(~signal)[last],
        )

    @property
    def signal_efficiency(self) -> NDArray[np.float64]:
        """Share of the signal that passes each cut."""
        return self.signal / float(self.signal[-1])

    @property
    def background_efficiency(self) -> NDArray[np.float64]:
        """Share of the background that passes each cut."""
        return self.background / float(self.background[-1])

    def _precision(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return recall and precision wherever something passes."""
        both = self.signal + self.background
        some = both > _ROUNDING * float(np.abs(both).max())
        return self.signal_efficiency[some], self.signal[some] / both[some]

    def average_precision(self) -> float:
        """Return the sum of the precisions, each times what the recall gained there.

        The definition that scikit-learn's ``average_precision_score`` has.
        """
        recall, precision = self._precision()
        return float(np.sum(np.diff(recall, prepend=0.0) * precision))

    def precision_recall(self) -> PrecisionRecall:
        """Return the curve of at most ``ROC_POINTS`` points, evenly along the recall.

        A recall is taken where it is first reached: these are the points that the average precision counts.
        """
        recall, precision = self._precision()
        way = np.cumsum(np.abs(np.diff(recall, prepend=0.0)))
        kept = np.unique(np.searchsorted(way, np.linspace(way[0], way[-1], ROC_POINTS)))
        return {"recall": recall[kept].tolist(), "precision": precision[kept].tolist()}

    def best_threshold(self) -> BestThreshold:
        """Return the threshold with the largest g-mean, the highest of them where several have it."""
        kept, rejected = self.signal_efficiency, 1 - self.background_efficiency
        product = np.where((kept > 0) & (rejected > 0), kept * rejected, 0.0)
        best = int(np.argmax(product))
        return {
            "threshold": float(self.thresholds[best]),
            "g_mean": math.sqrt(product[best]),
        }

    def rejection(self) -> list[Rejection]:
        """Return the background rejection at each of ``SIGNAL_EFFICIENCIES``."""
        efficiency, passed = self.signal_efficiency, self.background_efficiency
        found: list[Rejection] = []
        for wanted in SIGNAL_EFFICIENCIES:
            at = int(np.argmax(efficiency >= wanted - _ROUNDING))
            found.append(
                {
                    "signal_efficiency": wanted,
                    "reached": float(efficiency[at]),
                    "threshold": float(self.thresholds[at]),
                    "rejection": float(1 / passed[at]) if passed[at] > _ROUNDING else None,
                    "background_events": int(self.background_events[at]),
                }
            )
        return found


def roc_curve(is_class: NDArray[np.bool_], scores: Scores, weights: Weights | None = None) -> RocCurve:
    """Return a ROC curve of at most ``ROC_POINTS`` points, from (0, 0) to (1, 1).

    Points are left out evenly along the curve, so that steep parts keep their share.
    """
    fpr, tpr, _ = sklearn.metrics.roc_curve(is_class, scores, sample_weight=weights)
    way = fpr + tpr
    if np.any(np.diff(way) < 0):  # negative weights: the length of the way, back and forth
        way = np.concatenate([[0.0], np.cumsum(np.abs(np.diff(fpr)) + np.abs(np.diff(tpr)))])
    kept = np.unique(np.searchsorted(way, np.linspace(0, way[-1], ROC_POINTS)))
    return {"fpr": fpr[kept].tolist(), "tpr": tpr[kept].tolist()}


def area(is_class: NDArray[np.bool_], scores: Scores, weights: Weights | None = None) -> float:
    """Return the area under the ROC curve: the weighted share of pairs in the right order."""
    if weights is None or (weights >= 0).all():
        return float(sklearn.metrics.roc_auc_score(is_class, scores, sample_weight=weights))
    # scikit-learn integrates only curves that never turn back. The trapezoids add up to the weighted share
    # of ordered pairs whatever the signs.
    fpr, tpr, _ = sklearn.metrics.roc_curve(is_class, scores, sample_weight=weights)
    return float(np.trapezoid(tpr, fpr))
