"""All the pictures of a training, as files."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mlaas_condor.training.report import plots
from mlaas_condor.training.report.result import Result
from mlaas_condor.training.scan import Row

MOST_IMPORTANT = 12

EXPLAINED = {
    "roc": (
        "ROC curve and background rejection",
        "Left: the share of the signal against the share of the background that pass, as the cut on the "
        "score is lowered; the diagonal is guessing. Right: the same, as 1 over the background "
        "efficiency; to the left few background events are left, and the curve is uncertain. The further "
        "training lies above test, the more the model is overtrained.",
    ),
    "precision_recall": (
        "Precision and recall",
        "How pure the selected events are against how many of the signal are selected. It depends on "
        "how much of either class the sample has.",
    ),
    "scores": (
        "Distribution of the scores",
        "Filled: test events, with a band for their statistical error. Points: training events. Where "
        "the model knows nothing of single training events the two agree; the Kolmogorov-Smirnov "
        "p-value says how probable a difference as large is by chance.",
    ),
    "confusion_matrix": (
        "Confusion matrix",
        "Each row is a true class; its cells say what share of it, and how many test events, were taken "
        "for each class.",
    ),
    "residuals": (
        "Predictions and residuals",
        "Left: predicted against true values of the test events; the dashed line is a perfect "
        "prediction. Right: predicted minus true; filled: test events, points: training events.",
    ),
    "learning_curves": (
        "Learning curves",
        "Training values are taken while an epoch runs, validation values after it. A validation loss "
        "that rises while the training loss falls is overtraining.",
    ),
    "importance": (
        "Importance of the branches",
        "How much worse the test events are told when the values of one branch are shuffled among them; "
        "the lines are the standard deviation over repeats. Of branches that say the same, each may "
        "seem unimportant.",
    ),
    "features": (
        "Distributions of the most important branches",
        "Values before normalising, by class. The axis is logarithmic where one bin holds most values.",
    ),
    "scan": (
        "Scan",
        "Each dot is a combination of values, measured on the validation events; the circle is the "
        "best, which is the model of this report.",
    ),
    "folds": (
        "ROC curve of each fold",
        "Each fold is tested on events that it was not trained on; the band is the standard deviation "
        "over them.",
    ),
}
"""Title of each picture, and how to read it."""


def draw(result: Result, folder: Path) -> dict[str, Path]:
    """Draw a training into a folder that is there.

    Returns
    -------
    dict
        The pictures by name: ``roc``, ``scores``, …; only those that there is something to show of.
    """
    drawn = {name: folder / f"{name}.png" for name in _wanted(result)}
    recipe, test = result.recipe, result.metrics["test"]
    if "learning_curves" in drawn:
        plots.learning_curves(result.history, drawn["learning_curves"])
    if recipe.task == "regression":
        label = recipe.label_branch
        plots.residuals(result.labels, result.scores, drawn["residuals"], label, result.weights)
    else:
        plots.roc(result.metrics, drawn["roc"], recipe.classes)
        plots.precision_recall(result.metrics, drawn["precision_recall"], recipe.classes)
        plots.scores(
            result.scores, result.labels, drawn["scores"], recipe.classes, result.weights,
            result.overtraining,
        )  # fmt: skip
        plots.confusion(test, drawn["confusion_matrix"], recipe.classes)
    if result.importance:
        plots.importance(result.importance, drawn["importance"], recipe.task)
    if result.distributions:
        plots.overview(result.distributions, result.branches, drawn["features"])
    return drawn


def _wanted(result: Result) -> list[str]:
    of_classes = ["roc", "precision_recall", "scores", "confusion_matrix"]
    return [
        *(["learning_curves"] if plots.has_curves(result.history) else []),
        *(["residuals"] if result.recipe.task == "regression" else of_classes),
        *(["importance"] if result.importance else []),
        *(["features"] if result.distributions else []),
    ]


def draw_branches(result: Result, folder: Path, everything: bool) -> int:
    """Draw branches before and after normalising, one picture each, into a folder that is made for them.

    Parameters
    ----------
    result, folder
        What to draw, and where to.
    everything
        Whether all branches, or only the ``MOST_IMPORTANT``.

    Returns
    -------
    int
        How many pictures there are; with none there is no folder.
    """
    if not result.distributions:
        return 0
    branches = list(result.distributions.histograms) if everything else result.branches[:MOST_IMPORTANT]
    folder.mkdir()
    return len(plots.each_branch(result.distributions, branches, folder))


def draw_scan(rows: Sequence[Row], regression: bool, folder: Path) -> dict[str, Path]:
    """Draw what ``scan.rows`` returned; nothing where there is one combination only."""
    if len(rows) < 2:
        return {}
    path = folder / "scan.png"
    known = [None if math.isnan(row.validation) else row.validation for row in rows]
    points = [{"values": row.values, "metric": metric} for row, metric in zip(rows, known, strict=True)]
    plots.scan(points, path, f"Validation {'RMSE' if regression else 'AUC'}", larger_is_better=not regression)
    return {"scan": path}


def draw_folds(metrics: Sequence[Mapping[str, Any]], regression: bool, folder: Path) -> dict[str, Path]:
    """Draw the test metrics of some folds; nothing for a regression, which has no ROC curve."""
    if len(metrics) < 2 or regression:
        return {}
    path = folder / "folds.png"
    plots.folds(metrics, path)
    return {"folds": path}
