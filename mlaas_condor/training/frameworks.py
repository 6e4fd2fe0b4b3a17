"""What training needs of a model, whatever framework made it; each framework has one adapter."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from mlaas_condor.errors import FrameworkMissing
from mlaas_condor.training.models import ModelFile

FloatArray = NDArray[np.floating[Any]]
LabelArray = NDArray[np.integer[Any]]


class TrainedModel(Protocol):
    """A model that is being trained, or was.

    ``x`` is always the feature matrix, shape (events, columns), without NaN; ``y`` the class of each
    event, shape (events,), integers from 0.
    """

    def fit(
        self, x: FloatArray, y: LabelArray, batch_size: int, shuffle_seed: int | None = None
    ) -> dict[str, float]:
        """Train by one pass over these events.

        Parameters
        ----------
        x, y
            Events and their classes.
        batch_size
            Events a step.
        shuffle_seed
            Seed of the order in which the events are taken; ``None`` takes them as they come.

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

    def evaluate(self, x: FloatArray, y: LabelArray) -> dict[str, float]:
        """Return ``loss`` and the model's own metrics over these events, without training."""
        ...

    def predict(self, x: FloatArray) -> FloatArray:
        """Return the scores, shape (events,) or (events, classes); errors as ``fit``."""
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
    def load(cls, folder: Path, model_file: ModelFile | None = None, threads: int = 1) -> Self:
        """Return the model that ``save`` wrote; ``model_file`` supplies the user's own classes."""
        ...

    def describe(self) -> str:
        """Return a few lines for people: layers, optimizer, loss, device."""
        ...


def open_adapter(model_file: ModelFile, idim: int, seed: int, threads: int) -> TrainedModel:
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

        return KerasModel.build(model_file, idim, seed, threads)
    raise FrameworkMissing(
        f"{model_file.path.name}: {model_file.framework} models cannot be trained yet; Keras models can"
    )
