"""Distributions drawn as shares of their sample."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

BINS = 40
UNWEIGHTED = "Share of events per bin"
WEIGHTED = "Share of the weights per bin"


def shares(
    axis: Axes,
    values: NDArray[Any],
    weights: NDArray[Any],
    edges: NDArray[Any],
    filled: bool,
    colour: str,
    label: str,
) -> None:
    """Draw a histogram of sum 1: filled, or as points with their statistical errors.

    The errors are the roots of the sums of squared weights; those of a filled one are a band.
    """
    sums = np.histogram(values, edges, weights=weights)[0]
    errors = np.sqrt(np.histogram(values, edges, weights=weights**2)[0])
    total = sums.sum() if sums.sum() > 0 else 1.0
    if filled:
        low, high = (sums - errors) / total, (sums + errors) / total
        axis.stairs(sums / total, edges, fill=True, color=colour, alpha=0.25)
        axis.stairs(high, edges, baseline=low, fill=True, color=colour, alpha=0.25, linewidth=0)
        axis.stairs(sums / total, edges, color=colour, linewidth=1.5, label=label)
        return
    seen = errors > 0
    axis.errorbar(
        ((edges[1:] + edges[:-1]) / 2)[seen],
        sums[seen] / total,
        errors[seen] / total,
        fmt="o",
        color=colour,
        linewidth=1.2,
        label=label,
    )


def finish(axis: Axes, edges: NDArray[Any], room: float = 0.25) -> None:
    """Leave room for the legend, a share of the height; below 0 only negative weights can lead."""
    low, high = axis.dataLim.y0, axis.get_ylim()[1]
    axis.set_xlim(edges[0], edges[-1])
    axis.set_ylim(1.1 * low if low < 0 else 0, high * (1 + room))
