"""A scan: how good the model is at each value that was tried."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from mlaas_condor.training.report.plots.style import COLOURS, figure, grid, shown

WIDE = 30.0  # ratio of the largest value to the least from which the axis is logarithmic


def scan(
    points: Sequence[Mapping[str, Any]], path: Path, name: str = "AUC", larger_is_better: bool = True
) -> None:
    """Draw the metric against each of the scanned parameters, a dot a training.

    Parameters
    ----------
    points
        Of each training ``values``, what was tried by parameter, and ``metric``, None where it failed.
    path
        The PNG file to write.
    name
        What the metric is called.
    larger_is_better
        Decides which one is marked as the best.
    """
    good = [point for point in points if point["metric"] is not None]
    keys = list(dict.fromkeys(key for point in good for key in point["values"]))
    sign = 1 if larger_is_better else -1
    best = max(good, key=lambda point: sign * point["metric"], default=None)
    across = min(3, max(1, len(keys)))
    down = max(1, math.ceil(len(keys) / across))
    with figure(path, max(7.0, 5.2 * across), 4.6 * down) as drawn:
        axes = drawn.subplots(down, across, squeeze=False, sharey=True).ravel()
        for axis in axes[len(keys) :]:
            axis.set_axis_off()
        for axis, key in zip(axes, keys, strict=False):
            _panel(axis, key, [point for point in good if key in point["values"]], best)
        for row in range(down):
            axes[row * across].set_ylabel(name)
        if keys:
            axes[0].legend(loc="best")


def _panel(axis: Axes, key: str, points: Sequence[Mapping[str, Any]], best: Mapping[str, Any] | None) -> None:
    tried = [point["values"][key] for point in points]
    at = _places(axis, tried)
    metrics = [point["metric"] for point in points]
    axis.plot(at, metrics, "o", color=COLOURS[0], markersize=8, alpha=0.8, label="a training")
    for place, point in zip(at, points, strict=True):
        if point is best:
            axis.plot([place], [point["metric"]], "o", markersize=15, markerfacecolor="none",
                      markeredgecolor=COLOURS[1], markeredgewidth=2, label="the best")  # fmt: skip
    axis.set_xlabel(shown(key))
    axis.margins(x=0.12, y=0.15)
    grid(axis)


def _places(axis: Axes, tried: Sequence[Any]) -> list[float]:
    """Return where the values stand on the axis: numbers at theirs, anything else side by side."""
    if all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in tried):
        numbers = np.asarray(tried, np.float64)
        if numbers.min() > 0 and numbers.max() / numbers.min() >= WIDE:
            axis.set_xscale("log")
        return [float(number) for number in numbers]
    texts = [str(value) for value in tried]
    order = list(dict.fromkeys(texts))
    axis.set_xticks(range(len(order)), [shown(text, 16) for text in order])
    axis.tick_params(axis="x", which="minor", length=0)
    return [float(order.index(text)) for text in texts]
