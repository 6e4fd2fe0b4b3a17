"""The recipe: how to train, as prepare understood the request; travels as ``recipe.json``."""

from __future__ import annotations

from collections.abc import Iterable
from math import fsum
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from mlaas_condor.data.chunkfile import Chunk, read, read_carried
from mlaas_condor.data.features import Normalise
from mlaas_condor.data.specs import Specs
from mlaas_condor.errors import DataFault
from mlaas_condor.jsonfile import JsonFile
from mlaas_condor.params import MODEL_PREFIX, CheckpointEvery, EarlyStop, Plateau

MOST_CLASSES = 100
FEWEST = 5  # events of a class: with fewer, the split leaves none for training or for testing

Task = Literal["classification", "regression"]
_FIELDS = {"nan": "padding"}
"""Keys of params.json that have another name here."""


class Recipe(JsonFile):
    """How to train.

    Parameters
    ----------
    name
        Name of the run.
    model, modules
        Name of the user's model file; of modules and packages of the user's own that it imports.
    task
        What is learnt: the class of an event, or a number.
    labels
        Class of each input file, 0 … classes - 1, by the position of the file; empty with a label branch.
    label_branch
        Branch that holds the label of each event, or what a regression is to predict; empty where files
        have labels.
    values
        Values of the label branch, ascending, by class; known once the chunks are there.
    classes
        Name of each class, as the user wrote it; empty for a regression.
    weights
        Weight of the events of each input file, by the position of the file; empty where files have none.
    weight_branch
        Branch that holds the weight of each event; empty where there is none.
    weight_scale
        Mean weight of all events. What is trained with are weights divided by it, of mean 1: the
        loss, and with it what a learning rate means, does not depend on the unit of the weights.
    epochs, batch_size, split, seed, verbose
        As in params.json.
    standard
        Whether every epoch runs over all chunks; otherwise each chunk is trained in turn.
    normalise
        How features are normalised.
    padding
        Value of padding before normalising; None: 0 after it.
    threshold
        Score above which an event counts as signal.
    threads, gpus
        CPUs and GPUs the job asked for.
    test
        Share of the events that is never trained on.
    validation_files, test_files
        Positions of the input files whose events validate or test; empty: a share of all does.
    early_stop, best_model, monitor, reduce_lr, class_weights, checkpoint
        As in params.json.
    class_factors
        Factor to the loss of the training events of each class; empty where all count the same.
    arguments
        Keyword arguments of the user's function ``model``.
    folds, fold
        Parts of a cross-validation, and the one that tests; None for none.
    variants
        What each training of the run has of its own, where there are several: keys of params.json,
        ``model.…``, ``fold``.
    """

    name: str
    model: str
    modules: list[str] = Field(default_factory=list)
    task: Task = "classification"
    labels: list[int]
    label_branch: str = ""
    values: tuple[float, ...] = ()
    classes: list[str]
    weights: list[float] = Field(default_factory=list)
    weight_branch: str = ""
    weight_scale: float = 1.0
    epochs: int
    batch_size: int
    standard: bool
    split: float
    normalise: Normalise = "minmax"
    padding: float | None
    threshold: float
    seed: int
    verbose: int
    threads: int
    gpus: int = 0
    test: float = 0.2
    validation_files: list[int] = Field(default_factory=list)
    test_files: list[int] = Field(default_factory=list)
    early_stop: EarlyStop | None = None
    best_model: bool = False
    monitor: Literal["val_loss", "val_auc"] = "val_loss"
    reduce_lr: Plateau | None = None
    class_weights: Literal["balanced"] | dict[str, float] | None = None
    class_factors: list[float] = Field(default_factory=list)
    checkpoint: CheckpointEvery = CheckpointEvery(seconds=1800)
    arguments: dict[str, Any] = Field(default_factory=dict)
    folds: int | None = None
    fold: int | None = None
    variants: list[dict[str, Any]] = Field(default_factory=list)

    @property
    def weighted(self) -> bool:
        """Whether events have weights."""
        return bool(self.weights or self.weight_branch)

    def variant(self, number: int) -> Recipe:
        """Return the recipe of one of several trainings."""
        if not self.variants:
            return self
        own = self.variants[number]
        update = {
            _FIELDS.get(key, key): value for key, value in own.items() if not key.startswith(MODEL_PREFIX)
        }
        if "training" in own:
            update["standard"] = update.pop("training") == "standard"
        made = {key.removeprefix(MODEL_PREFIX): own[key] for key in own if key.startswith(MODEL_PREFIX)}
        plain = self.model_dump() | update | {"arguments": {**self.arguments, **made}}
        return Recipe.model_validate(plain)

    def targets(self, chunk: Chunk) -> NDArray[np.int64] | NDArray[np.float64]:
        """Return the class of each event of a chunk, or what a regression is to predict, shape (events,).

        Raises
        ------
        DataFault
            A regression's branch holds NaN or infinities.
        """
        if self.task == "regression":
            return _finite(chunk.carried[self.label_branch], f"label branch {self.label_branch!r}")
        if self.label_branch:
            classes = np.searchsorted(np.asarray(self.values), chunk.carried[self.label_branch])
            return classes.astype(np.int64, copy=False)
        return np.asarray(self.labels, dtype=np.int64)[chunk.file]

    def weights_of(self, chunk: Chunk) -> NDArray[np.float64] | None:
        """Return the weight of each event of a chunk, as the user gave it; None where there are no weights.

        Raises
        ------
        DataFault
            The branch holds NaN or infinities.
        """
        if self.weight_branch:
            return _finite(chunk.carried[self.weight_branch], f"weight branch {self.weight_branch!r}")
        if self.weights:
            return np.asarray(self.weights, dtype=np.float64)[chunk.file]
        return None

    def with_weight_scale(self, specs: Specs) -> Recipe:
        """Return the recipe with the mean weight of the events that are kept.

        Raises
        ------
        DataFault
            The weights do not add up to more than 0.
        """
        if not self.weighted:
            return self
        files = max((kept.range.file for kept in specs.kept), default=0) + 1
        sums = [sums[-1] for sums in specs.weights_of(files) if sums]
        if self.weights:
            sums = [w * n for w, n in zip(self.weights, specs.events_of(files), strict=False)]
        total = fsum(sums)
        if not total > 0:
            raise DataFault(
                f"the weights of the {specs.events} events add up to {total:g}: single weights may be "
                "negative, their sum must be above 0"
            )
        return self.model_copy(update={"weight_scale": total / specs.events})

    def check_events(self, specs: Specs, chunks: int) -> None:
        """Make sure that enough events of every class are left after the cuts, and of a weight above 0.

        Parameters
        ----------
        specs, chunks
            What was measured; chunks that it makes.

        Raises
        ------
        DataFault
            They do not suffice; names the labels and how many events of each are left.
        """
        self.with_weight_scale(specs)
        if not self.labels:  # of a label branch it is known once the chunks are there
            return
        left = dict.fromkeys(self.classes, 0)
        for label, n in zip(self.labels, specs.events_of(len(self.labels)), strict=True):
            left[self.classes[label]] += n
        needed = FEWEST * (1 if self.standard else chunks)
        few = {name: n for name, n in left.items() if n < needed}
        if few:
            found = ", ".join(f"{n} of label {name!r}" for name, n in few.items())
            raise DataFault(
                f"too few events are left: {found}; {needed} are needed"
                + ("" if self.standard else ', fewer with "training": "standard"')
            )

    def with_class_factors(self, chunks: Iterable[Path]) -> Recipe:
        """Return the recipe with a factor for each class, as ``class_weights`` asks for it.

        ``balanced`` gives every class the same sum of weights, and leaves that of all events as it is.
        """
        if self.class_weights is None or self.task == "regression":
            return self
        if self.class_weights != "balanced":
            unknown = sorted(set(self.class_weights) - set(self.classes))
            if unknown:
                raise DataFault(
                    f"class_weights: {', '.join(map(repr, unknown))} is no label; there are "
                    f"{', '.join(map(repr, self.classes))}"
                )
            factors = [self.class_weights.get(name, 1.0) for name in self.classes]
            return self.model_copy(update={"class_factors": factors})
        sums = np.zeros(len(self.classes))
        for path in chunks:
            chunk = read(path, with_events=False)
            sums += np.bincount(self.targets(chunk).astype(int), self.weights_of(chunk), len(sums))
        if not (sums > 0).all():
            poor = ", ".join(
                f"{total:g} of {name}" for name, total in zip(self.classes, sums, strict=True) if total <= 0
            )
            raise DataFault(f"classes cannot be balanced: the weights of their events add up to {poor}")
        return self.model_copy(update={"class_factors": (sums.sum() / len(sums) / sums).tolist()})

    def label_of(self, file: int) -> str:
        """Return what a person would call the label of an input file."""
        return f"branch {self.label_branch}" if self.label_branch else self.classes[self.labels[file]]

    def with_classes_of(self, chunks: Iterable[Path]) -> Recipe:
        """Return the recipe with the classes that the label branch has in the chunks.

        Raises
        ------
        DataFault
            The branch holds NaN, or more values than classes make sense.
        """
        if not self.label_branch or self.task == "regression":
            return self
        found = [np.unique(read_carried(path, self.label_branch)) for path in chunks]
        values = np.unique(np.concatenate(found))
        if len(values) > MOST_CLASSES or not np.isfinite(values).all():
            raise DataFault(
                f"branch {self.label_branch!r} is no class label: it has {len(values)} different values, "
                f"{values[0]} to {values[-1]} (allowed: {MOST_CLASSES} at most, no NaN)"
            )
        names = [str(int(value)) if float(value).is_integer() else repr(value) for value in values.tolist()]
        return self.model_copy(update={"values": tuple(values.astype(float).tolist()), "classes": names})


def _finite(values: NDArray[Any], what: str) -> NDArray[np.float64]:
    numbers = values.astype(np.float64)
    wrong = np.count_nonzero(~np.isfinite(numbers))
    if wrong:
        raise DataFault(
            f"{what} is not finite (NaN or infinite) for {wrong} of {len(numbers)} events of a chunk: "
            "leave such events out with a cut"
        )
    return numbers


def classes_of(labels: list[str]) -> tuple[list[int], list[str]]:
    """Turn labels as written into classes 0, 1, … and the name of each.

    Whole numbers that are already 0 … n-1 stay as they are; other numbers are numbered in ascending order,
    words in that of the alphabet.
    """
    try:
        numbers = {label: float(label) for label in labels}
    except ValueError:
        numbers = {}
    distinct = sorted(set(numbers.values()))
    if distinct and distinct == list(range(len(distinct))):
        return [int(numbers[label]) for label in labels], [f"{number:g}" for number in distinct]
    names = sorted(set(labels), key=lambda label: (numbers.get(label, 0.0), label))
    return [names.index(label) for label in labels], names
