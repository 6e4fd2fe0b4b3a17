"""The training loop over chunks: splits, both procedures, history, scores."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlaas_condor.data import chunks
from mlaas_condor.data.features import Columns, Matrix, normalise
from mlaas_condor.errors import DataFault
from mlaas_condor.training import metrics
from mlaas_condor.training.frameworks import TrainedModel
from mlaas_condor.training.recipe import Recipe

TEST_SHARE = 0.2  # of each chunk, never seen in training
SPLITS = ("train", "validation", "test")
_KEEP_BYTES = 2**28  # prepared chunks are kept between epochs while all of them together are smaller


@dataclass(frozen=True)
class Sample:
    """A chunk ready for training.

    Parameters
    ----------
    index
        Number of the chunk.
    x, y
        Normalised features, shape (events, columns); class of each event, shape (events,).
    rows
        For each of train, validation and test the rows that belong to it.
    file, entry
        Where each event comes from.
    """

    index: int
    x: Matrix
    y: NDArray[np.int64]
    rows: dict[str, NDArray[np.int64]]
    file: NDArray[np.uint32]
    entry: NDArray[np.int64]


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
        Of the training events, while they were trained on.
    val_loss, val_auc
        Of the validation events, after the pass; the AUC is None where they are of one class.
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
    """Scores of all events, once trained: shape (events,) or (events, classes), and whose they are."""

    score: NDArray[np.floating[Any]]
    y: NDArray[np.int64]
    split: NDArray[np.int8]  # position in SPLITS
    source: NDArray[np.uint32]  # position of the input file
    entry: NDArray[np.int64]

    def of(self, split: str) -> tuple[NDArray[np.int64], NDArray[np.floating[Any]]]:
        """Return classes and scores of one split."""
        mine = self.split == SPLITS.index(split)
        return self.y[mine], self.score[mine]


class Samples:
    """The chunks of a run as samples, in any order, as often as needed.

    Parameters
    ----------
    paths
        Chunk files, by number.
    columns, recipe
        How to normalise, label and split.
    """

    def __init__(self, paths: Sequence[Path], columns: Columns, recipe: Recipe) -> None:
        self.paths = list(paths)
        self._columns = columns
        self._recipe = recipe
        self._kept: dict[int, Sample] = {}
        self._keep: bool | None = None

    def __iter__(self) -> Iterator[Sample]:
        return self.inorder(range(len(self.paths)))

    def inorder(self, order: Sequence[int]) -> Iterator[Sample]:
        """Yield the samples in the given order."""
        if self._keep and len(self._kept) == len(self.paths):
            yield from (self._kept[index] for index in order)
            return
        for index, chunk in zip(order, chunks.stream(self.paths[i] for i in order), strict=True):
            sample = self._prepare(index, chunk)
            if self._keep is None:
                self._keep = sample.x.nbytes * len(self.paths) < _KEEP_BYTES
            if self._keep:
                self._kept[index] = sample
            yield sample

    def _prepare(self, index: int, chunk: chunks.Chunk) -> Sample:
        recipe = self._recipe
        y = recipe.targets(chunk)
        x = normalise(chunk.features, self._columns, recipe.padding)
        return Sample(index, x, y, split(y, recipe.split, recipe.seed), chunk.file, chunk.entry)


def split(y: NDArray[np.int64], validation: float, seed: int) -> dict[str, NDArray[np.int64]]:
    """Split the events of a chunk: a fifth for testing, a share of the rest for validation.

    Stratified by class, as MLaaS4HEP does it; where a class has too few events for that, not stratified.

    Parameters
    ----------
    y
        Class of each event, shape (events,).
    validation
        Share of what is not for testing.
    seed
        The same seed gives the same split.
    """
    everything = np.arange(len(y))
    rest, test = _cut(everything, y, TEST_SHARE, seed)
    train, held_back = _cut(rest, y[rest], validation, seed)
    return {"train": train, "validation": held_back, "test": test}


def _cut(
    rows: NDArray[np.int64], y: NDArray[np.int64], share: float, seed: int
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

    Raises
    ------
    DataFault
        The training events are all of one class.
    """
    return _standard(model, samples, recipe) if recipe.standard else _per_chunk(model, samples, recipe)


def _per_chunk(model: TrainedModel, samples: Samples, recipe: Recipe) -> Iterator[Epoch]:
    """Train on each chunk in turn for all its epochs: MLaaS4HEP's procedure."""
    for sample in samples:
        _check_classes(_classes(sample), f"chunk {sample.index}: ")
        for number in range(1, recipe.epochs + 1):
            started = time.monotonic()
            fitted = _fit(model, sample, recipe, number)
            yield _epoch(model, [sample], number, sample.index, [fitted], started)


def _standard(model: TrainedModel, samples: Samples, recipe: Recipe) -> Iterator[Epoch]:
    """Run every epoch over all chunks, in an order of its own."""
    for number in range(1, recipe.epochs + 1):
        started = time.monotonic()
        order = np.arange(len(samples.paths))
        np.random.default_rng([recipe.seed, number]).shuffle(order)
        fitted = []
        classes: set[int] = set()
        for sample in samples.inorder(order.tolist()):
            fitted.append(_fit(model, sample, recipe, number))
            classes |= _classes(sample)
        _check_classes(classes)
        yield _epoch(model, samples, number, None, fitted, started)


def _classes(sample: Sample) -> set[int]:
    return set(np.unique(sample.y[sample.rows["train"]]).tolist())


def _check_classes(classes: set[int], where: str = "") -> None:
    if len(classes) < 2:
        found = ", ".join(map(str, classes)) or "none"
        raise DataFault(f"{where}the training events are all of one class ({found}): nothing can be learnt")


def _fit(model: TrainedModel, sample: Sample, recipe: Recipe, epoch: int) -> tuple[int, dict[str, float]]:
    rows = sample.rows["train"]
    # A seed of its own for each epoch and chunk, so that a pass can be repeated alone.
    seed = int(np.random.SeedSequence([recipe.seed, epoch, sample.index]).generate_state(1)[0])
    values = model.fit(sample.x[rows], sample.y[rows], recipe.batch_size, seed)
    return len(rows), values


def _epoch(
    model: TrainedModel,
    samples: Samples | Sequence[Sample],
    number: int,
    chunk: int | None,
    fitted: Sequence[tuple[int, dict[str, float]]],
    started: float,
) -> Epoch:
    """Evaluate on the validation events, and put the pass together."""
    seconds = time.monotonic() - started
    val_loss, val_auc = _validate(model, samples)
    means = _weighted(fitted)
    return Epoch(
        epoch=number,
        chunk=chunk,
        loss=means.pop("loss"),
        metrics=means,
        val_loss=val_loss,
        val_auc=val_auc,
        events=sum(n for n, _ in fitted),
        seconds=seconds,
    )


def _weighted(parts: Sequence[tuple[int, dict[str, float]]]) -> dict[str, float]:
    """Return the means of several parts, weighted by their events."""
    total = sum(n for n, _ in parts) or 1
    return {name: sum(n * values[name] for n, values in parts) / total for name in parts[0][1]}


def _validate(model: TrainedModel, samples: Samples | Sequence[Sample]) -> tuple[float, float | None]:
    losses, ys, scores = [], [], []
    for sample in samples:
        rows = sample.rows["validation"]
        if len(rows):
            x, y = sample.x[rows], sample.y[rows]
            losses.append((len(rows), {"loss": model.evaluate(x, y)["loss"]}))
            ys.append(y)
            scores.append(model.predict(x))
    if not losses:
        return float("nan"), None
    return _weighted(losses)["loss"], metrics.classification(np.concatenate(ys), np.concatenate(scores))[
        "auc"
    ]


def score(model: TrainedModel, samples: Samples) -> Scores:
    """Return the model's scores of all events."""
    parts = []
    for sample in samples:
        which = np.empty(len(sample.y), np.int8)
        for position, name in enumerate(SPLITS):
            which[sample.rows[name]] = position
        parts.append(Scores(model.predict(sample.x), sample.y, which, sample.file, sample.entry))
    return Scores(
        *(np.concatenate(columns) for columns in zip(*(vars(part).values() for part in parts), strict=True))
    )
