"""Learning curves."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from mlaas_condor.training.report.plots.style import COLOURS, figure, grid

MOST_BOUNDARIES = 40
MOST_MARKERS = 60
KINDS = {"loss": "Loss", "auc": "AUC", "rmse": "RMSE", "rate": "Learning rate"}
"""The last word of a value's name, and what its panel is called."""


def learning_curves(history: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Draw loss, and AUC, RMSE and learning rate where there are such, against the epochs.

    Parameters
    ----------
    history
        One mapping a pass: ``epoch`` from 1, ``chunk`` (None where a pass is over all chunks), and
        values by name, of which those ending in ``loss``, ``auc``, ``rmse`` or ``rate`` are drawn: the last
        only if it changes. Missing ones are gaps. The pass with ``best``, if there is one, is marked.
    path
        The PNG file to write.
    """
    by_chunk = any(entry.get("chunk") is not None for entry in history)
    at = [i + 1 if by_chunk else entry["epoch"] for i, entry in enumerate(history)]
    panels = _panels(history)
    with figure(path, 8, 3.2 + 2.4 * len(panels)) as drawn:
        rows = drawn.subplots(len(panels), 1, sharex=True, squeeze=False)
        axes: list[Axes] = [row[0] for row in rows]
        for axis, (kind, names) in zip(axes, panels.items(), strict=True):
            for name in names:
                _curve(axis, at, [entry.get(name) for entry in history], name)
            axis.set_ylabel(KINDS[kind])
            grid(axis)
            _mark_best(axis, at, history)
            if by_chunk:
                _mark_chunks(axis, history)
            if kind == "rate":
                axis.ticklabel_format(axis="y", style="sci", scilimits=(-2, 3))
            elif axis.get_legend_handles_labels()[0]:
                axis.legend()
        axes[-1].set_xlabel("Epochs, chunk after chunk" if by_chunk else "Epoch")
        axes[-1].xaxis.set_major_locator(MaxNLocator(integer=True))


def has_curves(history: Sequence[Mapping[str, Any]]) -> bool:
    """Tell whether there is anything to draw: a model trained in one go may tell of nothing."""
    return any(_panels(history).values())


def _panels(history: Sequence[Mapping[str, Any]]) -> dict[str, list[str]]:
    """Return the values to draw by the kind of panel."""
    names = sorted({name for entry in history for name, value in entry.items() if _is_number(value)})
    panels = {kind: [name for name in names if name.split("_")[-1] == kind] for kind in KINDS}
    changing = {name for name in panels["rate"] if len({entry.get(name) for entry in history} - {None}) > 1}
    panels["rate"] = sorted(changing)
    return {kind: found for kind, found in panels.items() if found} or {"loss": []}


def _curve(axis: Axes, at: Sequence[float], values: Sequence[float | None], name: str) -> None:
    held_back = name.startswith("val_")
    axis.plot(
        at,
        [math.nan if value is None else value for value in values],
        color=COLOURS[1] if held_back else COLOURS[0],
        marker="o" if len(at) <= MOST_MARKERS else "",
        drawstyle="steps-mid" if name.endswith("rate") else "default",
        label="validation" if held_back else "training",
    )


def _mark_best(axis: Axes, at: Sequence[float], history: Sequence[Mapping[str, Any]]) -> None:
    for place, entry in zip(at, history, strict=True):
        if entry.get("best"):
            label = f"model kept: epoch {entry['epoch']}"
            axis.axvline(place, color=COLOURS[3], linestyle="--", linewidth=1.6, zorder=1, label=label)


def _mark_chunks(axis: Axes, history: Sequence[Mapping[str, Any]]) -> None:
    chunks = [entry.get("chunk") for entry in history]
    starts = [i for i in range(1, len(chunks)) if chunks[i] != chunks[i - 1]]
    if len(starts) <= MOST_BOUNDARIES:
        for start in starts:
            axis.axvline(start + 0.5, color="0.8", linewidth=1, zorder=0)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
