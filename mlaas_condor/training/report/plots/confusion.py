"""The confusion matrix."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from mlaas_condor.training.report.plots.style import figure, names_of

MOST_WRITTEN = 15  # classes whose cells still have room for numbers


def confusion(metrics: Mapping[str, Any], path: Path, classes: Sequence[str] | None = None) -> None:
    """Draw the confusion matrix, each row as shares of its true class, with the numbers of events.

    Parameters
    ----------
    metrics
        What ``metrics.classification`` returned.
    path
        The PNG file to write.
    classes
        Names of the classes; ``class 0``, ``class 1``, … where not given.
    """
    cells = np.asarray(metrics["confusion_matrix"], np.float64)
    count = len(cells)
    names = names_of(classes, count)
    totals = cells.sum(axis=1, keepdims=True)
    shares = np.divide(cells, totals, np.zeros_like(cells), where=totals > 0)
    side = min(12.0, 4.6 + 0.9 * count)
    with figure(path, side + 1.4, side) as drawn:
        axis = drawn.subplots()
        picture = axis.imshow(np.clip(shares, 0, 1), cmap="Blues", vmin=0, vmax=1)
        bar = drawn.colorbar(picture, ax=axis, shrink=0.85)
        bar.set_label("Share of the true class")
        axis.minorticks_off()
        axis.tick_params(length=0)
        small = 14 if count <= 6 else max(6, 84 // count)
        slanted = max(map(len, names)) * count > 50
        axis.set_xticks(range(count), names, fontsize=small, rotation=40 if slanted else 0,
                        ha="right" if slanted else "center")  # fmt: skip
        axis.set_yticks(range(count), names, fontsize=small)
        axis.set_xlabel("Predicted class", loc="center")
        axis.set_ylabel("True class", loc="center")
        if count <= MOST_WRITTEN:
            _write(axis, cells, shares, "weight_by_class" in metrics)


def _write(axis: Axes, cells: NDArray[Any], shares: NDArray[Any], weighted: bool) -> None:
    size = max(6.5, min(17.0, 62 / len(cells)))
    for (i, j), share in np.ndenumerate(shares):
        counted = f"{cells[i, j]:.4g}" if weighted else f"{cells[i, j]:,.0f}"
        axis.text(j, i, f"{100 * share:.1f} %\n{counted}", ha="center", va="center", fontsize=size,
                  color="white" if share > 0.55 else "black")  # fmt: skip
