"""Permutation importance of the branches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mlaas_condor.training.recipe import Task
from mlaas_condor.training.report.plots.style import COLOURS, figure, grid, shown

MOST = 25


def importance(found: Sequence[Mapping[str, Any]], path: Path, task: Task = "classification") -> None:
    """Draw the most important branches as bars, with the deviation over the repeats.

    Parameters
    ----------
    found
        What ``importance.permutation`` returned.
    path
        The PNG file to write.
    task
        What was learnt: it says what the importance is.
    """
    top = list(found[:MOST])
    what = "Fall of the AUC" if task == "classification" else "Rise of the RMSE"
    with figure(path, 9, 2.0 + 0.34 * max(3, len(top))) as drawn:
        axis = drawn.subplots()
        values = [each["importance"] for each in top]
        errors = [each["deviation"] or 0.0 for each in top]
        places = range(len(top))
        axis.barh(places, values, color=COLOURS[0], height=0.7)
        measured = [i for i in places if errors[i] > 0]
        axis.errorbar(
            [values[i] for i in measured],
            measured,
            xerr=[errors[i] for i in measured],
            fmt="none",
            ecolor="0.2",
            elinewidth=1.3,
            capsize=2.5,
        )
        axis.axvline(0, color="0.2", linewidth=0.8)
        axis.set_yticks(places, [shown(each["branch"]) for each in top], fontsize=12)
        axis.tick_params(axis="y", which="both", length=0)
        axis.set_ylim(len(top) - 0.4, -0.6)
        axis.set_xlabel(f"{what} when the values are shuffled")
        grid(axis)
        axis.yaxis.grid(False)
