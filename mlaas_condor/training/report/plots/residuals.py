"""A regression: predicted against true values, and residuals."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from numpy.typing import NDArray

from mlaas_condor.training.metrics import QUANTILES, regression
from mlaas_condor.training.report.plots.shares import BINS, UNWEIGHTED, WEIGHTED, finish, shares
from mlaas_condor.training.report.plots.style import COLOURS, colour, figure, or_ones, shown

WIDE = 4  # central 68 % intervals that the picture reaches to, either way


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
    weights = or_ones(weights_by_split, true_by_split)
    first = next((split for split in ("test", *true_by_split) if len(true_by_split.get(split, ()))), None)
    called = shown(name)
    with figure(path, 14, 6) as drawn:
        left, right = drawn.subplots(1, 2, gridspec_kw={"wspace": 0.1})
        if first is not None:
            _against(left, true_by_split[first], predicted_by_split[first], weights[first])
            _residuals(right, true_by_split, predicted_by_split, weights)
            left.set_title(("Events" if weights_by_split is None else "Weight") + f" per bin, {first}")
        # In the middle, because a power of ten that the numbers share is written at the end.
        left.set_xlabel(f"True {called}", loc="center")
        left.set_ylabel(f"Predicted {called}")
        right.set_xlabel(f"Predicted - true {called}", loc="center")
        right.set_ylabel(UNWEIGHTED if weights_by_split is None else WEIGHTED)


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
        found = predicted[split] - true[split]
        shares(axis, found, weights[split], edges, split == "test", colour(i), label)
    finish(axis, edges)
    axis.set_ylim(top=axis.get_ylim()[1] * 1.2)
    axis.legend()


def _reach(quantiles: Mapping[str, float | None]) -> tuple[float, float]:
    """Return what to show of residuals with these quantiles: all but far tails."""
    low, middle, high = (quantiles[str(percent)] or 0.0 for percent in QUANTILES)
    half = max(WIDE * (middle - low), WIDE * (high - middle), 1e-6 * abs(middle)) or 0.5
    return middle - half, middle + half
