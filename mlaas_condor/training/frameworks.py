"""What training needs of a model, whatever framework made it; each framework has one adapter."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from mlaas_condor.errors import FrameworkMissing
from mlaas_condor.training.models import ModelFile
from mlaas_condor.training.recipe import Task

FloatArray = NDArray[np.floating[Any]]
TargetArray = NDArray[np.integer[Any]] | NDArray[np.floating[Any]]


class TrainedModel(Protocol):
    """A model that is being trained, or was.

    ``x`` is always the feature matrix, shape (events, columns), without NaN; ``y`` has shape (events,):
    the class of each event, integers from 0, or for a regression its target. ``weights`` are factors to
    the loss of each event, shape (events,), of mean 1 over the training: a batch of n events has the loss
    ``sum(weight * loss) / n``, so that the step that is learnt with keeps its size.
    """

    def fit(
        self,
        x: FloatArray,
        y: TargetArray,
        batch_size: int,
        shuffle_seed: int | None = None,
        weights: FloatArray | None = None,
    ) -> dict[str, float]:
        """Train by one pass over these events.

        Parameters
        ----------
        x, y
            Events and their classes or targets.
        batch_size
            Events a step.
        shuffle_seed
            Seed of the order in which the events are taken; ``None`` takes them as they come.
        weights
            Weights of the events; ``None``: all count the same.

        Returns
        -------
        dict
            ``loss`` and the model's own metrics, over this pass.

        Raises
        ------
        ModelFault
            The model does not fit the events, or fails on them.
        OutOfMemory
            The memory does not suffice.
        """
        ...

    def evaluate(self, x: FloatArray, y: TargetArray, weights: FloatArray | None = None) -> dict[str, float]:
        """Return ``loss`` and the model's own metrics over these events, without training."""
        ...

    def predict(self, x: FloatArray) -> FloatArray:
        """Return the scores, shape (events,) or (events, classes), or what a regression predicts,
        shape (events,); errors as ``fit``.
        """
        ...

    def checkpoint(self, path: Path) -> None:
        """Write all that changes in training to one file, replacing it only once it is complete."""
        ...

    def restore(self, path: Path) -> None:
        """Continue from a checkpoint of the same model; ``ModelFault`` where it is of another."""
        ...

    def save(self, folder: Path) -> str:
        """Write the model for serving into a folder; return the name of the main file in it."""
        ...

    @classmethod
    def load(
        cls,
        folder: Path,
        model_file: ModelFile | None = None,
        threads: int = 1,
        task: Task = "classification",
    ) -> Self:
        """Return the model that ``save`` wrote; ``model_file`` supplies the user's own classes."""
        ...

    def describe(self) -> str:
        """Return a few lines for people: layers, optimizer, loss, device."""
        ...


def open_adapter(
    model_file: ModelFile, idim: int, seed: int, threads: int, task: Task = "classification"
) -> TrainedModel:
    """Make the user's model, ready to be trained.

    Parameters
    ----------
    model_file
        What ``models.check`` returned.
    idim
        Number of columns of the feature matrix.
    seed
        Seed of the initial weights and of whatever the model draws while training.
    threads
        CPU threads the framework may use. Chosen once a process: a later call cannot change it.
    task
        What is learnt; a regression needs a model of one output, and another loss than a cross-entropy.

    Raises
    ------
    ModelFault
        The user's code fails, or what it makes is no model of that framework.
    LegacyKerasNeeded
        The file needs Keras 2 and this process has, or has just tried, Keras 3: start the process
        again with ``MLAAS_LEGACY_KERAS=1``.
    FrameworkMissing
        The framework is not installed here, or has no adapter yet.
    OutOfMemory
        The model does not fit into memory.
    """
    if model_file.framework in ("keras", "keras2"):
        from mlaas_condor.training.keras import KerasModel

        return KerasModel.build(model_file, idim, seed, threads, task)
    raise FrameworkMissing(
        f"{model_file.path.name}: {model_file.framework} models cannot be trained yet; Keras models can"
    )
