"""Several trainings on the same chunks: scanned values, and folds of a cross-validation; the best one."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mlaas_condor.training.metrics import Metrics, Regression
from mlaas_condor.training.recipe import Recipe

FOLD = "fold"


@dataclass(frozen=True)
class Outcome:
    """What one training gave.

    Parameters
    ----------
    number
        Of the training, from 0.
    folder
        What it brought back.
    values
        What it has of its own: scanned values.
    fold
        Which part tests; None without a cross-validation.
    validation, test
        AUC of these events, or RMSE of a regression; NaN where it is not defined.
    """

    number: int
    folder: Path
    values: Mapping[str, Any]
    fold: int | None
    validation: float
    test: float


@dataclass(frozen=True)
class Row:
    """The trainings of one combination of scanned values, over all folds.

    Parameters
    ----------
    values
        The combination.
    validation, validation_deviation, test, test_deviation
        Means over the folds, and standard deviations; the latter None for a single training.
    best
        Number of the fold's training that did best on its validation events.
    chosen
        Whether this combination did best of all.
    """

    values: Mapping[str, Any]
    validation: float
    validation_deviation: float | None
    test: float
    test_deviation: float | None
    best: int
    chosen: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain data."""
        return {**vars(self), "values": dict(self.values)}


def metric_of(recipe: Recipe) -> str:
    """Return the name of the number that trainings are compared by."""
    return "rmse" if recipe.task == "regression" else "auc"


def collect(folders: Sequence[Path], recipe: Recipe) -> list[Outcome]:
    """Read what the trainings of a run gave.

    Parameters
    ----------
    folders
        What each training brought back, in order.
    recipe
        Of the run.
    """
    found = []
    for number, (folder, own) in enumerate(zip(folders, recipe.variants, strict=True)):
        metrics: Mapping[str, Any] = json.loads((folder / "metrics.json").read_text("utf-8"))
        validation, test = (metrics[split][metric_of(recipe)] for split in ("validation", "test"))
        values = {key: value for key, value in own.items() if key != FOLD}
        found.append(
            Outcome(number, folder, values, own.get(FOLD), _number(validation), _number(test))
        )  # fmt: skip
    return found


def rows(outcomes: Sequence[Outcome], recipe: Recipe) -> list[Row]:
    """Return a row for each combination of scanned values, in order; the best one is chosen.

    The best is told by the validation events, so that the numbers of the test events stay honest; where there
    are none, by the first combination.
    """
    sign = -1.0 if recipe.task == "regression" else 1.0
    combinations: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        combinations.setdefault(json.dumps(dict(outcome.values), sort_keys=True), []).append(outcome)
    made = [_row(each, sign) for each in combinations.values()]
    best = max(range(len(made)), key=lambda i: _rank(sign * made[i].validation))
    return [Row(**{**vars(row), "chosen": i == best}) for i, row in enumerate(made)]


def text(table: Sequence[Row], metric: str) -> str:
    """Return the table for people, the chosen combination marked with a star."""
    keys = list(table[0].values)
    head = ["", *keys, f"validation {metric.upper()}", f"test {metric.upper()}"]
    lines = [head]
    for row in table:
        numbers = [
            f"{mean:.4f}" + ("" if spread is None else f" ± {spread:.4f}")
            for mean, spread in (
                (row.validation, row.validation_deviation), (row.test, row.test_deviation),
            )
        ]  # fmt: skip
        lines.append(["*" if row.chosen else "", *(str(row.values[key]) for key in keys), *numbers])
    widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
    return "".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() + "\n"
        for line in lines
    )


def cross_validated(outcomes: Sequence[Outcome], recipe: Recipe) -> Metrics | Regression:
    """Measure all events of the folds, each scored by the training that did not see it.

    Parameters
    ----------
    outcomes
        The folds of one combination.
    recipe
        With the classes of the training.
    """
    from mlaas_condor.training.scoring import Scores, measure
    from mlaas_condor.training.splitting import SPLITS

    parts = []
    for outcome in outcomes:
        with np.load(outcome.folder / "scores.npz") as file:
            mine = file["split"] == SPLITS.index("test")
            parts.append({name: file[name][mine] for name in file.files})
    together = Scores(**{name: np.concatenate([part[name] for part in parts]) for name in parts[0]})
    return measure(together, recipe)["test"]


def _row(outcomes: Sequence[Outcome], sign: float) -> Row:
    validation, test = ([getattr(each, name) for each in outcomes] for name in ("validation", "test"))
    several = len(outcomes) > 1
    return Row(
        values=outcomes[0].values,
        validation=float(np.mean(validation)),
        validation_deviation=float(np.std(validation, ddof=1)) if several else None,
        test=float(np.mean(test)),
        test_deviation=float(np.std(test, ddof=1)) if several else None,
        best=max(outcomes, key=lambda each: _rank(sign * each.validation)).number,
    )


def _rank(value: float) -> float:
    return -math.inf if math.isnan(value) else value


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)
