"""Pictures of a training: learning curves, ROC curves, distributions of the scores, residuals.

All go to PNG files without any display; nothing is kept in matplotlib's global state.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib
import mplhep
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from mlaas_condor.training.metrics import QUANTILES, regression

BINS = 40
COLOURS = ("#3f90da", "#e42536", "#ffa90e", "#964a8b", "#9c9ca1", "#7a21dd")
"""One a class: told apart by colour-blind readers too, and in print."""

SPLIT_STYLES = {"test": "-", "validation": "--", "train": ":"}
MOST_BOUNDARIES = 40
WEIGHTED_SHARE = "Share of the weights per bin"
WIDE = 4  # central 68 % intervals that a picture of residuals reaches to, either way

_SMALLER: dict[Any, Any] = {
    "font.size": 15,
    "axes.labelsize": 17,
    "axes.titlesize": 15,
    "xtick.labelsize": 14,
    "ytick.labelsize": 14,
    "legend.fontsize": 14,
    "lines.linewidth": 2.0,
    "lines.markersize": 5.0,
}


@contextmanager
def _figure(path: Path, width: float, height: float) -> Iterator[Figure]:
    """Give a figure in the style of the field and write it to ``path`` at the end."""
    with matplotlib.rc_context({**mplhep.style.ROOT, **_SMALLER}):
        figure = Figure(figsize=(width, height), layout="constrained")
        FigureCanvasAgg(figure)
        yield figure
        figure.savefig(path, format="png", dpi=110)


def learning_curves(history: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Draw loss, and AUC where there is one, against the epochs.

    Parameters
    ----------
    history
        One mapping a pass: ``epoch`` from 1, ``chunk`` (None where a pass is over all chunks), and
        values by name, of which those ending in ``loss`` or ``auc`` are drawn. Missing ones are gaps.
    path
        The PNG file to write.
    """
    by_chunk = any(entry.get("chunk") is not None for entry in history)
    at = [i + 1 if by_chunk else entry["epoch"] for i, entry in enumerate(history)]
    names = sorted({name for entry in history for name, value in entry.items() if _is_number(value)})
    panels = [
        (label, [name for name in names if name.split("_")[-1] == label.lower()]) for label in ("Loss", "AUC")
    ]
    panels = [panel for panel in panels if panel[1]] or [("Loss", [])]
    with _figure(path, 8, 3.2 + 2.4 * len(panels)) as figure:
        rows = figure.subplots(len(panels), 1, sharex=True, squeeze=False)
        axes: list[Axes] = [row[0] for row in rows]
        for axis, (label, shown) in zip(axes, panels, strict=True):
            for name in shown:
                _curve(axis, at, [entry.get(name) for entry in history], name)
            axis.set_ylabel(label)
            if shown:
                axis.legend()
            if by_chunk:
                _mark_chunks(axis, history)
        axes[-1].set_xlabel("Epochs, chunk after chunk" if by_chunk else "Epoch")
        axes[-1].xaxis.set_major_locator(MaxNLocator(integer=True))


def _curve(axis: Axes, at: Sequence[float], values: Sequence[float | None], name: str) -> None:
    held_back = name.startswith("val_")
    axis.plot(
        at,
        [math.nan if value is None else value for value in values],
        color=COLOURS[1] if held_back else COLOURS[0],
        marker="o" if len(at) <= 60 else "",
        label="validation" if held_back else "training",
    )


def _mark_chunks(axis: Axes, history: Sequence[Mapping[str, Any]]) -> None:
    chunks = [entry.get("chunk") for entry in history]
    starts = [i for i in range(1, len(chunks)) if chunks[i] != chunks[i - 1]]
    if len(starts) <= MOST_BOUNDARIES:
        for start in starts:
            axis.axvline(start + 0.5, color="0.8", linewidth=1, zorder=0)


def roc(metrics_by_split: Mapping[str, Mapping[str, Any]], path: Path) -> None:
    """Draw the ROC curves.

    Parameters
    ----------
    metrics_by_split
        For each split (``train``, ``validation``, ``test``) what ``metrics.classification`` returned.
    path
        The PNG file to write.
    """
    classes = sorted({name for metrics in metrics_by_split.values() for name in metrics["roc"]}, key=int)
    with _figure(path, 7.2, 7) as figure:
        axis = figure.subplots()
        for i, (split, metrics) in enumerate(metrics_by_split.items()):
            for k, name in enumerate(classes):
                curve = metrics["roc"].get(name)
                if curve is None:
                    continue
                area = float(np.trapezoid(curve["tpr"], curve["fpr"]))
                axis.plot(
                    curve["fpr"],
                    curve["tpr"],
                    # One class: a colour a split. Several: a colour a class, a dash a split.
                    color=COLOURS[(i if len(classes) == 1 else k) % len(COLOURS)],
                    linestyle=SPLIT_STYLES.get(split, "-"),
                    label=f"{split}, AUC {metrics['auc'] if len(classes) == 1 else area:.3f}"
                    + ("" if len(classes) == 1 else f", class {name}"),
                )
        axis.plot([0, 1], [0, 1], color="0.7", linewidth=1, zorder=0)
        several = len(classes) > 1
        axis.set_xlabel("Efficiency for the other classes" if several else "Background efficiency")
        axis.set_ylabel("Efficiency for the class" if several else "Signal efficiency")
        axis.set(xlim=(0, 1), ylim=(0, 1), aspect="equal")
        if classes:
            axis.legend(loc="lower right", fontsize=14 if len(axis.get_lines()) < 8 else 10)


def scores(
    scores_by_split: Mapping[str, NDArray[Any]],
    labels_by_split: Mapping[str, NDArray[Any]],
    path: Path,
    classes: Sequence[str] | None = None,
    weights_by_split: Mapping[str, NDArray[Any]] | None = None,
) -> None:
    """Draw how the scores of each class are distributed: training filled, test as points.

    Parameters
    ----------
    scores_by_split
        Scores of ``train`` and ``test``, shape (events,) or (events, classes); either may be missing.
    labels_by_split
        Classes of the same events, shape (events,).
    path
        The PNG file to write.
    classes
        Names of the classes; ``class 0``, ``class 1``, … where not given.
    weights_by_split
        Weights of the same events, shape (events,).
    """
    weights = _or_ones(weights_by_split, labels_by_split)
    columns = {split: _columns(np.asarray(values)) for split, values in scores_by_split.items()}
    count = max((table.shape[1] for table in columns.values()), default=1)
    highest = max((int(np.max(labels, initial=0)) for labels in labels_by_split.values()), default=0)
    names = list(classes or [f"class {k}" for k in range(max(highest + 1, count))])
    across = min(count, 3)
    down = math.ceil(count / across)
    with _figure(path, 8 if count == 1 else 6 * across, 6 if count == 1 else 4.6 * down) as figure:
        axes = figure.subplots(down, across, squeeze=False).ravel()
        for k, axis in enumerate(axes):
            if k >= count:
                axis.set_axis_off()
                continue
            values = {split: table[:, k] for split, table in columns.items()}
            _distributions(axis, values, labels_by_split, weights, names)
            axis.set_xlabel("Score" if count == 1 else f"Score for {names[k]}")
            axis.set_ylabel("Share of events per bin" if weights_by_split is None else WEIGHTED_SHARE)
            if k == 0 and values:
                axis.legend(fontsize=14 if count == 1 else 11, ncols=2)


def _columns(values: NDArray[Any]) -> NDArray[Any]:
    """Return one column for two classes, else one a class."""
    if values.ndim == 1:
        return values[:, None]
    return values[:, 1:] if values.shape[1] == 2 else values


def _distributions(
    axis: Axes,
    values: Mapping[str, NDArray[Any]],
    labels: Mapping[str, NDArray[Any]],
    weights: Mapping[str, NDArray[Any]],
    names: Sequence[str],
) -> None:
    everything = np.concatenate([*values.values(), np.zeros(0)])
    low = min(0.0, float(everything.min(initial=0.0)))
    high = max(1.0, float(everything.max(initial=1.0)))
    edges = np.linspace(low, high, BINS + 1)
    for k, name in enumerate(names):
        for split, column in values.items():
            mine = np.asarray(labels[split]) == k
            colour = COLOURS[k % len(COLOURS)]
            _shares(axis, column[mine], weights[split][mine], edges, split, colour, f"{name}, {split}")
    _finish(axis, edges)


def _shares(
    axis: Axes,
    values: NDArray[Any],
    weights: NDArray[Any],
    edges: NDArray[Any],
    split: str,
    colour: str,
    label: str,
) -> None:
    """Draw a histogram of sum 1: training filled, others as points with their statistical errors."""
    sums = np.histogram(values, edges, weights=weights)[0]
    errors = np.sqrt(np.histogram(values, edges, weights=weights**2)[0])
    total = sums.sum() if sums.sum() > 0 else 1.0
    if split == "train":
        axis.stairs(sums / total, edges, fill=True, color=colour, alpha=0.35)
        axis.stairs(sums / total, edges, color=colour, linewidth=1.5, label=label)
        return
    seen = errors > 0
    axis.errorbar(
        ((edges[1:] + edges[:-1]) / 2)[seen],
        sums[seen] / total,
        errors[seen] / total,
        fmt="o" if split == "test" else "s",
        color=colour,
        linewidth=1.2,
        label=label,
    )


def _finish(axis: Axes, edges: NDArray[Any]) -> None:
    """Leave room for the legend; below 0 only negative weights can lead."""
    low, high = axis.dataLim.y0, axis.get_ylim()[1]
    axis.set_xlim(edges[0], edges[-1])
    axis.set_ylim(1.1 * low if low < 0 else 0, high * 1.25)


def _or_ones(
    weights: Mapping[str, NDArray[Any]] | None, events: Mapping[str, NDArray[Any]]
) -> dict[str, NDArray[Any]]:
    if weights is None:
        return {split: np.ones(len(values)) for split, values in events.items()}
    return {split: np.asarray(weights[split], np.float64) for split in events}


def residuals(
    true_by_split: Mapping[str, NDArray[Any]],
    predicted_by_split: Mapping[str, NDArray[Any]],
    path: Path,
    name: str = "value",
    weights_by_split: Mapping[str, NDArray[Any]] | None = None,
) -> None:
    """Draw a regression: predicted against true values, and how the residuals are distributed.

    Parameters
    ----------
    true_by_split, predicted_by_split
        True and predicted values of ``train`` and ``test``, shape (events,); either may be missing. The
        first picture is of ``test`` where it is there.
    path
        The PNG file to write.
    name
        What is predicted: the name of the branch.
    weights_by_split
        Weights of the same events, shape (events,).
    """
    weights = _or_ones(weights_by_split, true_by_split)
    shown = next((split for split in ("test", *true_by_split) if len(true_by_split.get(split, ()))), None)
    with _figure(path, 14, 6) as figure:
        left, right = figure.subplots(1, 2, gridspec_kw={"wspace": 0.1})
        if shown is not None:
            _against(left, true_by_split[shown], predicted_by_split[shown], weights[shown])
            _residuals(right, true_by_split, predicted_by_split, weights)
            left.set_title(("Events" if weights_by_split is None else "Weight") + f" per bin, {shown}")
        # In the middle, because a power of ten that the numbers share is written at the end.
        left.set_xlabel(f"True {name}", loc="center")
        left.set_ylabel(f"Predicted {name}")
        right.set_xlabel(f"Predicted - true {name}", loc="center")
        right.set_ylabel("Share of events per bin" if weights_by_split is None else WEIGHTED_SHARE)


def _against(axis: Axes, true: NDArray[Any], predicted: NDArray[Any], weights: NDArray[Any]) -> None:
    # A few far away would leave the others a single bin.
    ends = np.quantile(np.concatenate([true, predicted]), [0.002, 0.998])
    margin = 0.05 * max(ends[1] - ends[0], 1e-6 * abs(ends[0])) or 0.5
    low, high = ends[0] - margin, ends[1] + margin
    sums, *edges = np.histogram2d(true, predicted, 60, [[low, high], [low, high]], weights=weights)
    filled = sums > 0
    if filled.any():
        colours = LogNorm(sums[filled].min(), max(sums.max(), 10 * sums[filled].min()))
        mesh = axis.pcolormesh(*edges, np.where(filled, sums, np.nan).T, norm=colours, cmap="viridis")
        axis.figure.colorbar(mesh, ax=axis)
    axis.plot([low, high], [low, high], color=COLOURS[1], linewidth=1.5, linestyle="--")
    axis.set(xlim=(low, high), ylim=(low, high), aspect="equal")


def _residuals(
    axis: Axes,
    true: Mapping[str, NDArray[Any]],
    predicted: Mapping[str, NDArray[Any]],
    weights: Mapping[str, NDArray[Any]],
) -> None:
    measured = {split: regression(true[split], predicted[split], weights[split]) for split in true}
    reach = [_reach(numbers["residual_quantiles"]) for numbers in measured.values()]
    low, high = min(ends[0] for ends in reach), max(ends[1] for ends in reach)
    edges = np.linspace(low, high, BINS + 1)
    for i, (split, numbers) in enumerate(measured.items()):
        first, _, last = (numbers["residual_quantiles"][str(percent)] for percent in QUANTILES)
        label = split
        if numbers["bias"] is not None and numbers["resolution"] is not None:
            # Two widths: far tails, which the picture leaves out, count for the first one only.
            label += f": mean {numbers['bias']:.3g}, std. dev. {numbers['resolution']:.3g}"
        if first is not None and last is not None:
            label += f"\n(half of the central 68 %: {(last - first) / 2:.3g})"
        colour = COLOURS[i % len(COLOURS)]
        _shares(axis, predicted[split] - true[split], weights[split], edges, split, colour, label)
    _finish(axis, edges)
    axis.set_ylim(top=axis.get_ylim()[1] * 1.2)
    axis.legend()


def _reach(quantiles: Mapping[str, float | None]) -> tuple[float, float]:
    """Return what to show of residuals with these quantiles: all but far tails."""
    low, middle, high = (quantiles[str(percent)] or 0.0 for percent in QUANTILES)
    half = max(WIDE * (middle - low), WIDE * (high - middle), 1e-6 * abs(middle)) or 0.5
    return middle - half, middle + half


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
