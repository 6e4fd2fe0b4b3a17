"""What a training has left in its folder, read back to be shown."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlaas_condor.jsonfile import dumps
from mlaas_condor.training import scan
from mlaas_condor.training.comparison import Comparison, overtraining
from mlaas_condor.training.distributions import Distributions
from mlaas_condor.training.models import Framework
from mlaas_condor.training.recipe import Recipe
from mlaas_condor.training.splitting import SPLITS

COMPARED = ("train", "test")


@dataclass(frozen=True)
class Result:
    """What came out of one training.

    Parameters
    ----------
    recipe
        How it was trained.
    framework, model
        What trained it, and the main file of the model.
    history
        What each pass gave.
    metrics
        Metrics of train, validation and test events.
    scores, labels, weights
        Scores or predictions, classes or targets, and weights (None where there are none) of the training and
        of the test events.
    importance
        What ``importance.permutation`` returned; empty where it was not measured.
    distributions
        Of the branches; None where they were not counted.
    resources
        What the job asked for and used: ``asked`` and ``used``; empty where it is not known.
    onnx
        What ``onnx.export`` returned; empty where it was not tried.
    """

    recipe: Recipe
    framework: Framework
    model: str
    history: list[dict[str, Any]]
    metrics: dict[str, dict[str, Any]]
    scores: dict[str, NDArray[Any]]
    labels: dict[str, NDArray[Any]]
    weights: dict[str, NDArray[Any]] | None
    importance: list[dict[str, Any]]
    distributions: Distributions | None
    resources: dict[str, Any]
    onnx: dict[str, Any]

    @classmethod
    def read(cls, folder: Path) -> Result:
        """Read the folder of a training."""
        recipe = Recipe.read(folder / "recipe.json")
        with np.load(folder / "scores.npz") as stored:
            which = {split: stored["split"] == SPLITS.index(split) for split in COMPARED}
            score, y, weight = (
                {split: stored[name][rows] for split, rows in which.items()}
                for name in ("score", "y", "weight")
            )
        counted = _json(folder / "distributions.json", None)
        trained = _json(folder / "trained.json", {})
        return cls(
            recipe,
            trained["framework"],
            trained["model"],
            [json.loads(line) for line in (folder / "history.jsonl").read_text("utf-8").splitlines()],
            _json(folder / "metrics.json", {}),
            score,
            y,
            weight if recipe.weighted else None,
            _json(folder / "importance.json", []),
            Distributions.of_dict(counted) if counted else None,
            _json(folder / "resources.json", {}),
            _json(folder / "onnx.json", {}),
        )

    @cached_property
    def overtraining(self) -> dict[str, Comparison]:
        """Training scores against test scores, by class; empty for a regression."""
        if self.recipe.task == "regression":
            return {}
        return overtraining(self.scores, self.labels, self.weights)

    @property
    def branches(self) -> list[str]:
        """Branches whose distributions are known, the most important first.

        Where that was not measured, those that separate the classes best.
        """
        if self.distributions is None:
            return []
        known = self.distributions.histograms
        important = [each["branch"] for each in self.importance if each["branch"] in known]
        return important or self.distributions.ranked()


@dataclass(frozen=True)
class Several:
    """The trainings of a scan or a cross-validation, compared.

    Parameters
    ----------
    table
        A row for each combination of scanned values.
    metric
        What they are compared by: ``auc`` or ``rmse``.
    best
        Folder of the training whose model is kept.
    folds
        Test metrics of each fold of the chosen combination; empty without a cross-validation.
    cross_validated
        Metrics of the events of all these folds, each scored by the training that did not see it.
    """

    table: list[scan.Row]
    metric: str
    best: Path
    folds: list[dict[str, Any]]
    cross_validated: Mapping[str, Any] | None

    @classmethod
    def read(cls, folder: Path) -> Several | None:
        """Read the folders of the trainings of a run; None where there is one training only."""
        folders = sorted(folder.glob("training-*"))
        if not folders:
            return None
        recipe = Recipe.read(folders[0] / "recipe.json")
        outcomes = scan.collect(folders, recipe)
        table = scan.rows(outcomes, recipe)
        (chosen,) = (row for row in table if row.chosen)
        folds = [each for each in outcomes if each.values == chosen.values and each.fold is not None]
        return cls(
            table,
            scan.metric_of(recipe),
            outcomes[chosen.best].folder,
            [_json(each.folder / "metrics.json", {})["test"] for each in folds],
            scan.cross_validated(folds, recipe) if folds else None,
        )

    def write(self, output: Path) -> None:
        """Write ``scan.txt`` for people, and ``scan.json``."""
        (output / "scan.txt").write_text(scan.text(self.table, self.metric), "utf-8")
        plain = {
            "metric": self.metric,
            "best": self.best.name,
            "combinations": [row.to_dict() for row in self.table],
            **({"cross_validated": self.cross_validated} if self.cross_validated else {}),
        }
        (output / "scan.json").write_text(dumps(plain) + "\n", "utf-8")


def _json(path: Path, missing: Any) -> Any:
    return json.loads(path.read_text("utf-8")) if path.exists() else missing
