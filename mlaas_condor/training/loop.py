"""The training loop over chunks: splits, both procedures, history, scores."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlaas_condor.data.features import Columns, Matrix
from mlaas_condor.data.streaming import MIXED, Block, Stream
from mlaas_condor.errors import DataFault
from mlaas_condor.training import metrics
from mlaas_condor.training.frameworks import TrainedModel
from mlaas_condor.training.recipe import Recipe

TEST_SHARE = 0.2  # of each chunk, never seen in training
SPLITS = ("train", "validation", "test")
Targets = NDArray[np.int64] | NDArray[np.float64]


@dataclass(frozen=True)
class Sample:
    """A chunk ready for training.

    Parameters
    ----------
    index
        Number of the chunk.
    x, y
        Normalised features, shape (events, columns); class or target of each event, shape (events,).
    rows
        For each of train, validation and test the rows that belong to it.
    file, entry
        Where each event comes from.
    weights
        Weight of each event as the user gave it, shape (events,); None where there are no weights.
    """

    index: int
    x: Matrix
    y: Targets
    rows: dict[str, NDArray[np.int64]]
    file: NDArray[np.uint32]
    entry: NDArray[np.int64]
    weights: NDArray[np.float64] | None = None


@dataclass(frozen=True)
class Epoch:
    """What one pass gave.

    Parameters
    ----------
    epoch
        From 1.
    chunk
        The chunk passed over; None where it was all of them.
    loss, metrics
        Of the training events, while they were trained on. Losses are weighted means where events have
        weights; metrics are as the model was compiled, and Keras weighs only its ``weighted_metrics``.
    val_loss, val_auc
        Of the validation events, after the pass; the AUC is None where they are of one class, and for a
        regression.
    events, seconds
        Events trained on, and how long the pass took.
    """

    epoch: int
    chunk: int | None
    loss: float
    metrics: dict[str, float]
    val_loss: float
    val_auc: float | None
    events: int
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """Return it as a flat dict, for JSON."""
        plain = asdict(self)
        return {**{key: value for key, value in plain.items() if key != "metrics"}, **self.metrics}


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


class Samples:
    """The chunks of a run as samples, in any order, as often as needed.

    Parameters
    ----------
    paths
        Chunk files, by number.
    columns, recipe
        How to normalise, label and split.
    scratch, space
        Folder where matrices may be kept between epochs, None for none; bytes that they may take there, None
        for what there is.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        columns: Columns,
        recipe: Recipe,
        scratch: Path | None = None,
        space: int | None = None,
    ) -> None:
        self.paths = list(paths)
        self._recipe = recipe
        self._stream = Stream(paths, columns, scratch, recipe.threads, space)

    def __iter__(self) -> Iterator[Sample]:
        return self.inorder(range(len(self.paths)))

    def inorder(self, order: Sequence[int]) -> Iterator[Sample]:
        """Yield the samples in the given order."""
        return map(self._sample, self._stream.inorder(order))

    def _sample(self, block: Block) -> Sample:
        recipe, chunk = self._recipe, block.chunk
        y = recipe.targets(chunk)
        rows = split(y, recipe.split, recipe.seed, stratified=recipe.task == "classification")
        return Sample(block.index, block.x, y, rows, chunk.file, chunk.entry, recipe.weights_of(chunk))


def split(y: Targets, validation: float, seed: int, stratified: bool = True) -> dict[str, NDArray[np.int64]]:
    """Split the events of a chunk: a fifth for testing, a share of the rest for validation.

    Stratified by class, as MLaaS4HEP does it; where a class has too few events for that, not stratified.

    Parameters
    ----------
    y
        Class of each event, shape (events,); of a regression, its targets.
    validation
        Share of what is not for testing.
    seed
        The same seed gives the same split.
    stratified
        Whether by class; targets of a regression are no classes.
    """
    everything = np.arange(len(y))
    rest, test = _cut(everything, y if stratified else None, TEST_SHARE, seed)
    train, held_back = _cut(rest, y[rest] if stratified else None, validation, seed)
    return {"train": train, "validation": held_back, "test": test}


def _cut(
    rows: NDArray[np.int64], y: Targets | None, share: float, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    from sklearn.model_selection import train_test_split

    # Not stratified where a class has a single event; nothing set aside where there is too little.
    for classes in (y, None):
        with contextlib.suppress(ValueError):
            first, second = train_test_split(rows, test_size=share, random_state=seed, stratify=classes)
            return first, second
    return rows, rows[:0]


def train(model: TrainedModel, samples: Samples, recipe: Recipe) -> Iterator[Epoch]:
    """Train, and yield what each pass gave as soon as it is over.

    The weights trained with are those of the samples, divided by the recipe's ``weight_scale``.

    Raises
    ------
    DataFault
        The training events are all of one class (a regression has none).
    """
    return _standard(model, samples, recipe) if recipe.standard else _per_chunk(model, samples, recipe)


def _per_chunk(model: TrainedModel, samples: Samples, recipe: Recipe) -> Iterator[Epoch]:
    """Train on each chunk in turn for all its epochs: MLaaS4HEP's procedure."""
    for sample in samples:
        if recipe.task == "classification":
            _check_classes(_classes(sample), f"chunk {sample.index}: ")
        for number in range(1, recipe.epochs + 1):
            started = time.monotonic()
            fitted = _fit(model, [sample], recipe, number)
            yield _epoch(model, [sample], recipe, number, sample.index, [fitted], started)


def _standard(model: TrainedModel, samples: Samples, recipe: Recipe) -> Iterator[Epoch]:
    """Run every epoch over all chunks, in an order of its own, events of several mixed."""
    for number in range(1, recipe.epochs + 1):
        started = time.monotonic()
        order = np.arange(len(samples.paths))
        np.random.default_rng([recipe.seed, number]).shuffle(order)
        fitted = []
        classes: set[int] = set()
        inorder = samples.inorder(order.tolist())
        while mixed := list(islice(inorder, MIXED)):
            fitted.append(_fit(model, mixed, recipe, number))
            if recipe.task == "classification":
                classes = classes.union(*map(_classes, mixed))
            mixed.clear()  # or they would be held until the next ones are all there
        if recipe.task == "classification":
            _check_classes(classes)
        yield _epoch(model, samples, recipe, number, None, fitted, started)


def _classes(sample: Sample) -> set[int]:
    """Return the classes among the training events that count."""
    rows = sample.rows["train"]
    if sample.weights is not None:
        rows = rows[sample.weights[rows] != 0]
    return set(np.unique(sample.y[rows]).tolist())


def _check_classes(classes: set[int], where: str = "") -> None:
    if len(classes) < 2:
        found = ", ".join(map(str, classes)) or "none"
        raise DataFault(f"{where}the training events are all of one class ({found}): nothing can be learnt")


@dataclass(frozen=True)
class _Part:
    """Values of some events: how many events, the sum of their weights of mean 1."""

    events: int
    weight: float
    values: dict[str, float]


def _weights(sample: Sample, rows: NDArray[np.int64], recipe: Recipe) -> NDArray[np.float64] | None:
    return None if sample.weights is None else sample.weights[rows] / recipe.weight_scale


def _fit(model: TrainedModel, samples: Sequence[Sample], recipe: Recipe, epoch: int) -> _Part:
    """Train by one pass over the training events of some chunks, mixed."""
    rows = [sample.rows["train"] for sample in samples]
    x = np.concatenate([sample.x[mine] for sample, mine in zip(samples, rows, strict=True)])
    y = np.concatenate([sample.y[mine] for sample, mine in zip(samples, rows, strict=True)])
    found = [_weights(sample, mine, recipe) for sample, mine in zip(samples, rows, strict=True)]
    given = [each for each in found if each is not None]
    weights = np.concatenate(given) if given else None
    # A seed of its own for each epoch and chunk, so that a pass can be repeated alone.
    entropy = [recipe.seed, epoch, samples[0].index]
    seed = int(np.random.SeedSequence(entropy).generate_state(1)[0])
    values = model.fit(x, y, recipe.batch_size, seed, weights)
    return _Part(len(y), float(len(y)) if weights is None else float(weights.sum()), values)


def _epoch(
    model: TrainedModel,
    samples: Samples | Sequence[Sample],
    recipe: Recipe,
    number: int,
    chunk: int | None,
    fitted: Sequence[_Part],
    started: float,
) -> Epoch:
    """Evaluate on the validation events, and put the pass together."""
    seconds = time.monotonic() - started
    val_loss, val_auc = _validate(model, samples, recipe)
    means = _means(fitted)
    return Epoch(
        epoch=number,
        chunk=chunk,
        loss=means.pop("loss"),
        metrics=means,
        val_loss=val_loss,
        val_auc=val_auc,
        events=sum(part.events for part in fitted),
        seconds=seconds,
    )


def _means(parts: Sequence[_Part]) -> dict[str, float]:
    """Return the means of several parts over their events; the loss over their weights."""
    events = sum(part.events for part in parts) or 1
    means = {
        name: sum(part.events * part.values[name] for part in parts) / events for name in parts[0].values
    }
    # A model's loss is the sum over weighted events by their number, not by their weights.
    weight = sum(part.weight for part in parts) / events
    return {**means, "loss": means["loss"] / weight if weight > 0 else float("nan")}


def _validate(
    model: TrainedModel, samples: Samples | Sequence[Sample], recipe: Recipe
) -> tuple[float, float | None]:
    parts: list[_Part] = []
    ys: list[NDArray[Any]] = []
    scores: list[NDArray[Any]] = []
    weights: list[NDArray[Any]] = []
    for sample in samples:
        rows = sample.rows["validation"]
        if len(rows):
            x, y, w = sample.x[rows], sample.y[rows], _weights(sample, rows, recipe)
            weight = float(len(rows)) if w is None else float(w.sum())
            parts.append(_Part(len(rows), weight, {"loss": model.evaluate(x, y, w)["loss"]}))
            if recipe.task == "classification":
                ys.append(y)
                scores.append(model.predict(x))
                weights += [] if w is None else [w]
    if not parts:
        return float("nan"), None
    loss = _means(parts)["loss"]
    if not ys:
        return loss, None
    together = np.concatenate(weights) if weights else None
    return loss, metrics.classification(np.concatenate(ys), np.concatenate(scores), weights=together)["auc"]


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
