"""How the scores of each class are distributed: training against test."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from mlaas_condor.training.comparison import Comparison, by_column, written
from mlaas_condor.training.report.plots.shares import BINS, UNWEIGHTED, WEIGHTED, finish, shares
from mlaas_condor.training.report.plots.style import colour, figure, names_of, or_ones

MOST_PANELS = 12
MOST_TOGETHER = 5  # classes in one panel


def scores(
    scores_by_split: Mapping[str, NDArray[Any]],
    labels_by_split: Mapping[str, NDArray[Any]],
    path: Path,
    classes: Sequence[str] | None = None,
    weights_by_split: Mapping[str, NDArray[Any]] | None = None,
    overtraining: Mapping[str, Comparison] | None = None,
) -> None:
    """Draw how the scores of each class are distributed: test filled, training as points.

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
    overtraining
        What ``comparison.overtraining`` returned: its p-values are shown.
    """
    weights = or_ones(weights_by_split, labels_by_split)
    columns = {split: by_column(np.asarray(values)) for split, values in scores_by_split.items()}
    count = min(MOST_PANELS, max((table.shape[1] for table in columns.values()), default=1))
    highest = max((int(np.max(labels, initial=0)) for labels in labels_by_split.values()), default=0)
    names = names_of(classes, max(highest + 1, count))
    p_values = {int(k): _p_value(found) for k, found in (overtraining or {}).items()}
    across = min(count, 3)
    down = math.ceil(count / across)
    with figure(path, 8.4 if count == 1 else 6 * across, 6.2 if count == 1 else 4.8 * down) as drawn:
        axes = drawn.subplots(down, across, squeeze=False).ravel()
        for k, axis in enumerate(axes):
            if k >= count:
                axis.set_axis_off()
                continue
            values = {split: table[:, k] for split, table in columns.items()}
            written = p_values if count == 1 else {}
            only = k if len(names) > MOST_TOGETHER else None
            _distributions(axis, values, labels_by_split, weights, names, written, only)
            axis.set_xlabel("Score" if count == 1 else f"Score for {names[k]}")
            axis.set_ylabel(UNWEIGHTED if weights_by_split is None else WEIGHTED)
            if count > 1 and p_values.get(k):
                axis.set_title(f"{names[k]}: {p_values[k]}", loc="right")
            if values and (k == 0 or len(names) > MOST_TOGETHER):
                axis.legend(fontsize=13 if count == 1 else 10, ncols=2, loc="upper center")


def _p_value(found: Comparison) -> str:
    text = written(found["p_value"])
    return f"KS p {text}" if text.startswith("<") else f"KS p = {text}" if text else ""


def _distributions(
    axis: Axes,
    values: Mapping[str, NDArray[Any]],
    labels: Mapping[str, NDArray[Any]],
    weights: Mapping[str, NDArray[Any]],
    names: Sequence[str],
    p_values: Mapping[int, str],
    only: int | None = None,
) -> None:
    """Draw one panel: every class, or one of many and all others together."""
    everything = np.concatenate([*values.values(), np.zeros(0)])
    low = min(0.0, float(everything.min(initial=0.0)))
    high = max(1.0, float(everything.max(initial=1.0)))
    edges = np.linspace(low, high, BINS + 1)
    shown = list(enumerate(names)) if only is None else [(-1, "all others"), (only, names[only])]
    for k, name in shown:
        for split in sorted(values, reverse=True):  # training before test
            truth = np.asarray(labels[split])
            mine = truth == k if k >= 0 else truth != only
            label = f"{name}, {split}" + (f" ({p_values[k]})" if split == "test" and p_values.get(k) else "")
            paint = "0.5" if k < 0 else colour(k if only is None else 0)
            column, w = values[split][mine], weights[split][mine]
            shares(axis, column, w, edges, split == "test", paint, label)
    finish(axis, edges, 0.3)
