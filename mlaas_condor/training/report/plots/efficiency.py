"""Curves as the cut on the score is lowered: ROC, background rejection, precision against recall."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from mlaas_condor.training.report.plots.style import COLOURS, SPLIT_STYLES, colour, figure, grid, names_of

MOST_IN_LEGEND = 12
MOST_COMPARED = 6  # classes for which training and test can be told apart
ENDS = (-0.01, 1.01)  # a curve along the frame is to be seen
LOWEST_EFFICIENCY = 0.02  # below, the background rejection is of a handful of events

Curve = Callable[[Mapping[str, Any], str], tuple[NDArray[Any], NDArray[Any]] | None]


def roc(
    metrics_by_split: Mapping[str, Mapping[str, Any]], path: Path, classes: Sequence[str] | None = None
) -> None:
    """Draw the ROC curves, and the background rejection against the signal efficiency.

    Parameters
    ----------
    metrics_by_split
        For each split (``train``, ``validation``, ``test``) what ``metrics.classification`` returned.
    path
        The PNG file to write.
    classes
        Names of the classes; ``class 0``, ``class 1``, … where not given.
    """
    known = _known(metrics_by_split.values(), "roc")
    several = len(known) > 1
    with figure(path, 14, 6.8) as drawn:
        left, right = drawn.subplots(1, 2)
        _draw(left, metrics_by_split, known, _roc)
        _draw(right, metrics_by_split, known, _rejection)
        left.plot([0, 1], [0, 1], color="0.7", linewidth=1, zorder=0)
        left.set_xlabel("Efficiency for the other classes" if several else "Background efficiency")
        left.set_ylabel("Efficiency for the class" if several else "Signal efficiency")
        left.set(xlim=ENDS, ylim=ENDS, aspect="equal")
        efficiencies = np.linspace(LOWEST_EFFICIENCY, 1, 200)
        right.plot(efficiencies, 1 / efficiencies, color="0.7", linewidth=1, zorder=0)
        right.set(xlim=ENDS, yscale="log")
        right.set_ylim(bottom=1)
        right.set_xlabel("Efficiency for the class" if several else "Signal efficiency")
        right.set_ylabel("1 / efficiency for the others" if several else "1 / background efficiency")
        _legend(left, metrics_by_split, known, classes, "auc", "AUC", "lower right")


def precision_recall(
    metrics_by_split: Mapping[str, Mapping[str, Any]], path: Path, classes: Sequence[str] | None = None
) -> None:
    """Draw precision against recall; parameters as of ``roc``."""
    known = _known(metrics_by_split.values(), "precision_recall")
    with figure(path, 7.6, 6.8) as drawn:
        axis = drawn.subplots()
        _draw(axis, metrics_by_split, known, _precision)
        several = len(known) > 1
        axis.set_xlabel("Recall (efficiency)" if several else "Recall (signal efficiency)")
        axis.set_ylabel("Precision (purity)")
        axis.set(xlim=ENDS, ylim=ENDS)
        measured = "average_precision"
        _legend(axis, metrics_by_split, known, classes, measured, "average precision", "lower left")


def folds(metrics_by_fold: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Draw the ROC curve of each fold of a cross-validation, and their mean.

    The mean is of the signal efficiencies at equal background efficiency, the band the standard deviation
    over the folds. Of more than two classes a fold has one curve, the mean over its classes.

    Parameters
    ----------
    metrics_by_fold
        Of each fold what ``metrics.classification`` returned for its test events.
    path
        The PNG file to write.
    """
    at = np.linspace(0, 1, 201)
    curves = [found for found in (_mean_roc(metrics, at) for metrics in metrics_by_fold) if found is not None]
    areas = [metrics["auc"] for metrics in metrics_by_fold if metrics["auc"] is not None]
    with figure(path, 7.4, 7) as drawn:
        axis = drawn.subplots()
        for i, curve in enumerate(curves):
            axis.plot(at, curve, color="0.65", linewidth=1, label="" if i else "each fold")
        if curves:
            mean, spread = np.mean(curves, axis=0), np.std(curves, axis=0, ddof=1 if len(curves) > 1 else 0)
            label = f"mean of {len(curves)}, AUC {np.mean(areas):.3f}"
            if len(areas) > 1:
                label += f" ± {np.std(areas, ddof=1):.3f}"
            axis.fill_between(at, mean - spread, mean + spread, color=COLOURS[0], alpha=0.25, linewidth=0)
            axis.plot(at, mean, color=COLOURS[0], linewidth=2.4, label=label)
            axis.legend(loc="lower right")
        axis.plot([0, 1], [0, 1], color="0.7", linewidth=1, zorder=0)
        axis.set_xlabel("Background efficiency")
        axis.set_ylabel("Signal efficiency")
        axis.set(xlim=ENDS, ylim=ENDS, aspect="equal")
        grid(axis)


def _known(measured: Iterable[Mapping[str, Any]], kind: str) -> list[str]:
    """Return the classes that have such a curve."""
    return sorted({name for metrics in measured for name in metrics.get(kind, ())}, key=int)


def _draw(
    axis: Axes, metrics_by_split: Mapping[str, Mapping[str, Any]], classes: Sequence[str], curve: Curve
) -> None:
    """Draw a curve for each split and class. One class: a colour a split. Several: a colour a class."""
    for i, (split, metrics) in enumerate(metrics_by_split.items()):
        if split not in _splits(metrics_by_split, classes):
            continue
        for k, name in enumerate(classes):
            found = curve(metrics, name)
            if found is not None:
                paint = colour(i) if len(classes) == 1 else colour(k, len(classes))
                axis.plot(*found, color=paint, linestyle=SPLIT_STYLES.get(split, "-"))
    grid(axis)


def _splits(metrics_by_split: Mapping[str, Any], classes: Sequence[str]) -> list[str]:
    """Return the splits that there is room for: all for one class, the test events alone for many."""
    if len(classes) == 1 or "test" not in metrics_by_split:
        return list(metrics_by_split)
    shown = ("train", "test") if len(classes) <= MOST_COMPARED else ("test",)
    return [split for split in metrics_by_split if split in shown]


def _roc(metrics: Mapping[str, Any], name: str) -> tuple[NDArray[Any], NDArray[Any]] | None:
    curve = metrics["roc"].get(name)
    return None if curve is None else (np.asarray(curve["fpr"]), np.asarray(curve["tpr"]))


def _rejection(metrics: Mapping[str, Any], name: str) -> tuple[NDArray[Any], NDArray[Any]] | None:
    found = _roc(metrics, name)
    if found is None:
        return None
    fpr, tpr = found
    seen = (fpr > 0) & (tpr >= LOWEST_EFFICIENCY)
    return tpr[seen], 1 / fpr[seen]


def _precision(metrics: Mapping[str, Any], name: str) -> tuple[NDArray[Any], NDArray[Any]] | None:
    curve = metrics.get("precision_recall", {}).get(name)
    return None if curve is None else (np.asarray(curve["recall"]), np.asarray(curve["precision"]))


def _mean_roc(metrics: Mapping[str, Any], at: NDArray[Any]) -> NDArray[Any] | None:
    curves = [np.interp(at, curve["fpr"], curve["tpr"]) for curve in metrics["roc"].values()]
    return np.mean(curves, axis=0) if curves else None


def _legend(
    axis: Axes,
    metrics_by_split: Mapping[str, Mapping[str, Any]],
    known: Sequence[str],
    classes: Sequence[str] | None,
    measured: str,
    word: str,
    place: Literal["lower right", "lower left"],
) -> None:
    """Say what the lines are. Of several classes: a line a class, then a line a split."""
    if not known:
        return
    splits = [
        split
        for split in _splits(metrics_by_split, known)
        if metrics_by_split[split].get(measured) is not None
    ]
    if len(known) == 1:
        handles = [
            _line(colour(i), split, f"{split}, {word} {metrics_by_split[split][measured]:.3f}")
            for i, split in enumerate(metrics_by_split)
            if split in splits
        ]
        axis.legend(handles=handles, loc=place)
        return
    last = metrics_by_split[splits[-1]].get(f"{measured}_by_class", {}) if splits else {}
    names = names_of(classes, 1 + max(map(int, known)))
    handles = [
        _line(colour(k, len(known)), "test", names[int(name)] + _number(word, last.get(name)))
        for k, name in enumerate(known[:MOST_IN_LEGEND])
    ]
    if len(known) > MOST_IN_LEGEND:
        handles.append(_line("none", "test", f"… {len(known)} classes"))
    handles += [_line("0.3", split, split) for split in splits] if len(splits) > 1 else []
    axis.legend(handles=handles, loc=place, fontsize=14 if len(handles) < 8 else 10)


def _line(paint: str, split: str, label: str) -> Line2D:
    return Line2D([], [], color=paint, linestyle=SPLIT_STYLES.get(split, "-"), label=label)


def _number(word: str, value: float | None) -> str:
    return "" if value is None else f", {word} {value:.3f}"
