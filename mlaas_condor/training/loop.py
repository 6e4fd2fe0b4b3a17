"""The training loop over chunks: both procedures, and models that learn from all events at once.

Everything is a sequence of portions: a chunk, or some chunks mixed. Between two of them a training can be
interrupted, and gone on with elsewhere: each draws from a seed of its own, and `Progress` says where it is.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlaas_condor.data.streaming import MIXED
from mlaas_condor.errors import DataFault, ModelFault
from mlaas_condor.training import metrics
from mlaas_condor.training.checkpoints import Checkpoints
from mlaas_condor.training.frameworks import Portion, TrainedModel
from mlaas_condor.training.progress import Part, Progress
from mlaas_condor.training.recipe import Recipe
from mlaas_condor.training.samples import Sample, Samples, gather


@dataclass(frozen=True)
class Epoch:
    """What one pass gave.

    Parameters
    ----------
    epoch
        From 1; of a model that learns from all events at once, the stage.
    chunk
        The chunk passed over; None where it was all of them.
    loss, metrics
        Of the training events, while they were trained on; NaN where the model does not say. Losses are
        weighted means where events have weights; metrics are as the model was compiled, and Keras weighs
        only its ``weighted_metrics``.
    val_loss, val_auc, val_rmse
        Of the validation events, after the pass; the AUC is None where they are of one class, and for a
        regression, which has the root of the mean square of its residuals instead.
    learning_rate
        During the pass; None where there is none that could be changed.
    events, seconds
        Events trained on, and how long the pass took.
    """

    epoch: int
    chunk: int | None
    loss: float
    metrics: dict[str, float]
    val_loss: float
    val_auc: float | None
    val_rmse: float | None
    learning_rate: float | None
    events: int
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """Return it as a flat dict, for JSON."""
        plain = asdict(self)
        return {**{key: value for key, value in plain.items() if key != "metrics"}, **self.metrics}


class Trainer:
    """One training, begun or gone on with.

    Parameters
    ----------
    model, samples, recipe
        What is trained, on what, and how.
    checkpoints
        Where it can be interrupted.

    Attributes
    ----------
    progress
        Where it is.
    passes
        How many passes it is in all, if it is not stopped early.
    """

    def __init__(
        self, model: TrainedModel, samples: Samples, recipe: Recipe, checkpoints: Checkpoints
    ) -> None:
        self._model = model
        self._samples = samples
        self._recipe = recipe
        self._checkpoints = checkpoints
        # A loop of the user's own decides on epochs by itself.
        self._epochs = 1 if model.own_loop and not recipe.standard else recipe.epochs
        whole = model.learning == "whole"
        # Epochs over different chunks cannot be compared.
        self._keeps_best = recipe.best_model and (recipe.standard or whole)
        self.passes = 1 if whole else self._epochs * (1 if recipe.standard else len(samples))
        self._after_portion: Callable[[], None] = lambda: None
        self._since = time.monotonic()  # the end of what was last counted: reading counts as well
        self.progress = checkpoints.restore(model) or Progress()
        if self.progress.rate is not None:
            model.set_learning_rate(self.progress.rate)

    def run(self, after_portion: Callable[[], None] = lambda: None) -> Iterator[Epoch]:
        """Train, and yield what each pass gave as soon as it is over.

        The weights trained with are those of the samples, divided by the recipe's ``weight_scale``.

        Parameters
        ----------
        after_portion
            Called after each portion of a pass, to tell of it.

        Raises
        ------
        DataFault
            The training events are all of one class (a regression has none).
        Leave
            The training is to go on in another process.
        """
        self._after_portion = after_portion
        self._since = time.monotonic()
        if self._model.learning == "whole":
            yield from self._whole()
        elif self._recipe.standard:
            yield from self._standard()
        else:
            yield from self._per_chunk()
        self._checkpoints.training_is_over(self._model, self.progress)
        if self._keeps_best:
            self._checkpoints.restore_best(self._model)

    @property
    def stopped_early(self) -> bool:
        """Whether the last epochs brought no improvement any more."""
        return self.progress.watch.stops(self._recipe.early_stop)

    @property
    def part_of_pass(self) -> float:
        """Share of the current pass that is over."""
        portions = -(-len(self._samples) // MIXED) if self._recipe.standard else 1
        return min(1.0, self.progress.portions / portions)

    @property
    def history(self) -> list[dict[str, Any]]:
        """What each pass gave; the one whose model is kept has ``best``."""
        kept = self.progress.watch.best_epoch if self._keeps_best else 0
        return [
            {**entry, **({"best": True} if number == kept else {})}
            for number, entry in enumerate(self.progress.history, 1)
        ]

    def _per_chunk(self) -> Iterator[Epoch]:
        """Train on each chunk in turn for all its epochs: MLaaS4HEP's procedure."""
        progress = self.progress
        for sample in self._samples.inorder(range(progress.chunk, len(self._samples))):
            if self._recipe.task == "classification":
                _check_classes(sample.classes(), f"chunk {sample.index}: ")
            while progress.epoch < self._epochs and not self.stopped_early:
                if not progress.portions:
                    self._fit([sample])
                yield self._end_epoch([sample], sample.index)
                self._checkpoints.epoch_is_over(self._model, progress)
            progress.next_chunk()

    def _standard(self) -> Iterator[Epoch]:
        """Run every epoch over all chunks, in an order of its own, events of several mixed."""
        progress = self.progress
        while progress.epoch < self._epochs and not self.stopped_early:
            order = np.arange(len(self._samples))
            np.random.default_rng([self._recipe.seed, progress.epoch + 1]).shuffle(order)
            inorder = self._samples.inorder(order[progress.portions * MIXED :].tolist())
            while mixed := list(islice(inorder, MIXED)):
                self._fit(mixed)
                mixed.clear()  # or they would be held until the next ones are all there
            if self._recipe.task == "classification":
                _check_classes(set(progress.classes))
            yield self._end_epoch(self._samples, None)
            self._checkpoints.epoch_is_over(self._model, progress)

    def _whole(self) -> Iterator[Epoch]:
        """Train a model that wants all events at once, stage by stage where it has stages."""
        progress = self.progress
        if self.stopped_early:
            return
        events, weight = self._look_at_all()
        for values in self._model.fit_whole(self._portions, events):
            stage, self.passes = int(values.pop("stage")), int(values.pop("stages"))
            progress.epoch = stage - 1
            # What the model does not say of the training events is not known.
            progress.add(Part(events, weight, {"loss": float("nan"), **values}), self._lap())
            yield self._end_epoch(self._samples, None)
            self._checkpoints.epoch_is_over(self._model, progress)
            if self.stopped_early:
                return

    def _lap(self) -> float:
        """Return the seconds since this was last called."""
        before, self._since = self._since, time.monotonic()
        return self._since - before

    def _portions(self) -> Iterator[Portion]:
        for sample in self._samples:
            yield gather([sample], "train", self._recipe)

    def _look_at_all(self) -> tuple[int, float]:
        """Return how many training events there are, and the sum of their weights; check their classes."""
        events, weight = 0, 0.0
        classes: set[int] = set()
        for sample in self._samples:
            rows = sample.rows["train"]
            events += len(rows)
            weights = sample.truth("train", self._recipe)[1]
            weight += len(rows) if weights is None else float(weights.sum())
            classes |= sample.classes() if self._recipe.task == "classification" else set()
        if self._recipe.task == "classification":
            _check_classes(classes)
        return events, weight

    def _fit(self, samples: Sequence[Sample]) -> None:
        """Train by one pass over the training events of some chunks, mixed."""
        progress, recipe = self.progress, self._recipe
        portion = gather(samples, "train", recipe)
        # A seed of its own for each epoch and portion, so that a pass can be repeated alone.
        entropy = [recipe.seed, progress.epoch + 1, samples[0].index]
        seed = int(np.random.SeedSequence(entropy).generate_state(1)[0])
        held_back = gather(samples, "validation", recipe)[:2] if self._model.own_loop else None
        values = self._model.fit(portion.x, portion.y, recipe.batch_size, seed, portion.weights, held_back)
        progress.add(_part(portion, values), self._lap())
        if recipe.task == "classification":
            progress.classes = sorted({*progress.classes}.union(*(sample.classes() for sample in samples)))
        self._after_portion()
        self._checkpoints.consider(self._model, progress)

    def _end_epoch(self, samples: Iterable[Sample], chunk: int | None) -> Epoch:
        """Evaluate on the validation events, put the pass together, and see whether it was the best."""
        progress = self.progress
        trained = progress.seconds
        val_loss, val_auc, val_rmse = _validate(self._model, samples, self._recipe)
        means = _means(progress.fitted)
        if self._model.learning == "passes":
            _check_losses(progress.fitted)
        epoch = Epoch(
            epoch=progress.epoch + 1,
            chunk=chunk,
            loss=means.pop("loss"),
            metrics=means,
            val_loss=val_loss,
            val_auc=val_auc,
            val_rmse=val_rmse,
            learning_rate=self._model.learning_rate(),
            events=sum(part.events for part in progress.fitted),
            seconds=trained,
        )
        progress.history.append(epoch.to_dict())
        progress.end_epoch(self._lap())
        self._see(val_loss, val_auc)
        return epoch

    def _see(self, val_loss: float, val_auc: float | None) -> None:
        """Keep the model if it is the best so far, and learn in smaller steps if it is time for that."""
        recipe, watch = self._recipe, self.progress.watch
        auc = recipe.monitor == "val_auc"
        least = recipe.early_stop.min_delta if recipe.early_stop else 0.0
        is_best = watch.see(val_auc if auc else val_loss, len(self.progress.history), auc, least)
        if is_best and self._keeps_best:
            self._checkpoints.keep_best(self._model)
        rate = self._model.learning_rate() if recipe.reduce_lr else None
        lower = watch.lower(rate, recipe.reduce_lr) if rate is not None and recipe.reduce_lr else None
        if lower is not None:
            self._model.set_learning_rate(lower)
            self.progress.rate = lower


def _check_losses(parts: Sequence[Part]) -> None:
    for part in parts:
        if not math.isfinite(part.values["loss"]):
            raise ModelFault(
                f"the loss of the training events is {part.values['loss']}: the training diverged (a lower "
                "learning rate helps), or the model gives NaN"
            )


def _check_classes(classes: set[int], where: str = "") -> None:
    if len(classes) < 2:
        found = ", ".join(map(str, classes)) or "none"
        raise DataFault(f"{where}the training events are all of one class ({found}): nothing can be learnt")


def _part(portion: Portion, values: dict[str, float]) -> Part:
    events = len(portion.y)
    return Part(events, float(events) if portion.weights is None else float(portion.weights.sum()), values)


def _means(parts: Sequence[Part]) -> dict[str, float]:
    """Return the means of several parts over their events; the loss over their weights."""
    events = sum(part.events for part in parts) or 1
    means = {
        name: sum(part.events * part.values[name] for part in parts) / events for name in parts[0].values
    }
    # A model's loss is the sum over weighted events by their number, not by their weights.
    weight = sum(part.weight for part in parts) / events
    return {**means, "loss": means["loss"] / weight if weight > 0 else float("nan")}


def _validate(
    model: TrainedModel, samples: Iterable[Sample], recipe: Recipe
) -> tuple[float, float | None, float | None]:
    """Return loss, AUC and root mean square residual of the validation events, as far as they are defined."""
    parts: list[Part] = []
    ys: list[NDArray[Any]] = []
    weights: list[NDArray[Any]] = []
    scores: list[NDArray[Any]] = []
    for sample in samples:
        portion = gather([sample], "validation", recipe)
        if len(portion.y):
            loss = model.evaluate(portion.x, portion.y, portion.weights)["loss"]
            parts.append(_part(portion, {"loss": loss}))
            scores.append(model.predict(portion.x))
            ys.append(portion.y)
            weights += [] if portion.weights is None else [portion.weights]
    if not parts:
        return float("nan"), None, None
    loss, y, found = _means(parts)["loss"], np.concatenate(ys), np.concatenate(scores)
    known = np.concatenate(weights) if weights else None
    if recipe.task == "regression":
        return loss, None, metrics.rmse(y, found, known) if np.isfinite(found).all() else None
    return loss, metrics.auc(y, found, known), None
