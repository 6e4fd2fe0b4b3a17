"""How the values of the branches are distributed, by class, before and after normalising."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator, NullLocator

from mlaas_condor.training.distributions import Distributions, Histogram
from mlaas_condor.training.report.plots.style import colour, figure, file_name, names_of, shown

MOST_FILLED = 3  # classes whose areas can still be told apart
MOST_IN_LEGEND = 8
MOST_IN_OVERVIEW = 12
SPIKE = 0.3  # share of one bin beside which the others are not seen on a linear axis
FEW_BINS = 15  # each is seen then
SHARE = "Share of the values per bin"


def overview(distributions: Distributions, branches: Sequence[str], path: Path) -> None:
    """Draw the distributions of some branches in a grid, before normalising.

    Parameters
    ----------
    distributions
        What was counted.
    branches
        Which ones, the first ``MOST_IN_OVERVIEW`` of them.
    path
        The PNG file to write.
    """
    first = list(branches[:MOST_IN_OVERVIEW])
    across = min(4, max(1, len(first)))
    down = max(1, math.ceil(len(first) / across))
    with figure(path, 4.1 * across, 3.2 * down + 0.8) as drawn:
        axes = drawn.subplots(down, across, squeeze=False).ravel()
        for axis in axes[len(first) :]:
            axis.set_axis_off()
        for axis, name in zip(axes, first, strict=False):
            _outlines(axis, distributions.histograms[name], normalised=False)
            axis.set_title(shown(name, 28), fontsize=13, loc="left")
            axis.tick_params(labelsize=10)
            axis.xaxis.get_offset_text().set_fontsize(9)
            axis.yaxis.get_offset_text().set_fontsize(9)
        drawn.supylabel(SHARE, fontsize=14)
        if len(distributions.classes) > 1:
            handles = _handles(distributions)
            drawn.legend(handles=handles, loc="outside upper right", ncols=len(handles), fontsize=13)


def each_branch(distributions: Distributions, branches: Sequence[str], folder: Path) -> dict[str, str]:
    """Draw a picture of each branch, before and after normalising, into a folder that is there.

    Returns
    -------
    dict
        Branch to the name of its file, which the name of the branch may be unfit for.
    """
    taken: set[str] = set()
    files = {name: f"{file_name(name, taken)}.png" for name in branches}
    for name, file in files.items():
        _branch(distributions, distributions.histograms[name], folder / file)
    return files


def _branch(distributions: Distributions, histogram: Histogram, path: Path) -> None:
    with figure(path, 12, 4.8, fitted=False) as drawn:
        left, right = drawn.subplots(1, 2)
        drawn.subplots_adjust(left=0.08, right=0.985, bottom=0.15, top=0.86, wspace=0.16)
        _outlines(left, histogram, normalised=False)
        _outlines(right, histogram, normalised=True)
        left.set_ylabel(SHARE)
        left.set_xlabel(shown(histogram.branch), loc="center")
        right.set_xlabel(f"{shown(histogram.branch)}, normalised", loc="center")
        left.set_title(_outside(histogram), fontsize=12, loc="left", color="0.3")
        _mark_padding(right, histogram)
        if len(distributions.classes) > 1:
            handles = _handles(distributions)
            drawn.legend(handles=handles, loc="upper right", ncols=len(handles), fontsize=13)


def _outside(histogram: Histogram) -> str:
    """Say how many values the picture leaves out."""
    values, beyond = float(histogram.counts.sum()), float(histogram.counts[:, [0, -1]].sum())
    return f"{_percent(beyond / values)} of the values are outside" if values > 0 and beyond > 0 else ""


def _mark_padding(axis: Axes, histogram: Histogram) -> None:
    """Show where the padding goes: no such element, or not finite."""
    values, missing = float(histogram.counts.sum()), float(histogram.missing.sum())
    if values + missing <= 0 or missing <= 0:
        return
    share = _percent(missing / (values + missing))
    label = f"no such value: {share}, becomes {histogram.padding:.3g}"
    axis.set_title(label, fontsize=12, loc="left", color="0.3")
    low, high = axis.get_xlim()
    room = 0.04 * (high - low)
    if low - room <= histogram.padding <= high + room:
        axis.set_xlim(min(low, histogram.padding - room), max(high, histogram.padding + room))
        axis.axvline(histogram.padding, color="0.3", linestyle="--", linewidth=1.3)


def _percent(share: float) -> str:
    return "< 0.1 %" if share < 0.001 else f"{100 * share:.1f} %"


def _outlines(axis: Axes, histogram: Histogram, normalised: bool) -> None:
    edges = histogram.edges(normalised)
    totals = histogram.counts.sum(axis=1, keepdims=True)
    shares = histogram.counts[:, 1:-1] / np.where(totals > 0, totals, 1.0)
    for k, content in enumerate(shares):
        paint = colour(k, len(shares))
        if len(shares) <= MOST_FILLED:
            axis.stairs(content, edges, fill=True, color=paint, alpha=0.2)
        axis.stairs(content, edges, color=paint, linewidth=1.6)
    axis.set_xlim(edges[0], edges[-1])
    top = float(shares.max(initial=0.0))
    positive = shares[shares > 0]
    if histogram.bins > FEW_BINS and top > SPIKE:
        axis.set_yscale("log")
        axis.set_ylim(0.5 * float(positive.min()), 2 * top)
    else:
        axis.set_ylim(min(0.0, 1.1 * float(shares.min(initial=0.0))), 1.1 * top if top > 0 else 1.0)
    if histogram.whole and not normalised:
        axis.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True))
        if histogram.bins <= FEW_BINS:
            axis.xaxis.set_minor_locator(NullLocator())
    if histogram.low is None:
        axis.text(0.5, 0.5, "no value", ha="center", va="center", transform=axis.transAxes, color="0.4")


def _handles(distributions: Distributions) -> list[Patch]:
    count = len(distributions.classes)
    names = names_of(distributions.classes, count)[:MOST_IN_LEGEND]
    return [Patch(facecolor=colour(k, count), alpha=0.7, label=name) for k, name in enumerate(names)]
