"""The scores of all events once a model is trained, and what they say of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlaas_condor.training import metrics
from mlaas_condor.training.frameworks import TrainedModel
from mlaas_condor.training.recipe import Recipe
from mlaas_condor.training.samples import Samples
from mlaas_condor.training.splitting import SPLITS, Targets


@dataclass(frozen=True)
class Scores:
    """Scores of all events, once trained: shape (events,) or (events, classes), and whose they are.

    For a regression ``score`` is what was predicted, and ``y`` what is true.
    """

    score: NDArray[np.floating[Any]]
    y: Targets
    split: NDArray[np.int8]  # position in SPLITS
    source: NDArray[np.uint32]  # position of the input file
    entry: NDArray[np.int64]
    weight: NDArray[np.float64]  # as the user gave it; 1 where there are no weights

    def of(self, split: str) -> tuple[Targets, NDArray[np.floating[Any]], NDArray[np.float64]]:
        """Return classes or targets, scores and weights of one split."""
        mine = self.split == SPLITS.index(split)
        return self.y[mine], self.score[mine], self.weight[mine]


def score(model: TrainedModel, samples: Samples) -> Scores:
    """Return the model's scores of all events."""
    parts = []
    for sample in samples:
        which = np.empty(len(sample.y), np.int8)
        for position, name in enumerate(SPLITS):
            which[sample.rows[name]] = position
        weights = np.ones(len(sample.y)) if sample.weights is None else sample.weights
        parts.append(Scores(model.predict(sample.x), sample.y, which, sample.file, sample.entry, weights))
    return Scores(
        *(np.concatenate(columns) for columns in zip(*(vars(part).values() for part in parts), strict=True))
    )


def measure(scores: Scores, recipe: Recipe) -> dict[str, metrics.Metrics] | dict[str, metrics.Regression]:
    """Return the metrics of each split, of the kind that belongs to what was learnt."""
    parts = {split: scores.of(split) for split in SPLITS}
    weight = {split: w if recipe.weighted else None for split, (_, _, w) in parts.items()}
    if recipe.task == "regression":
        return {split: metrics.regression(y, found, weight[split]) for split, (y, found, _) in parts.items()}
    return {
        split: metrics.classification(y, found, recipe.threshold, weight[split])
        for split, (y, found, _) in parts.items()
    }
