"""What training needs of a model, whatever framework made it; each framework has one adapter."""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from mlaas_condor.training.models import Framework, ModelFile
from mlaas_condor.training.recipe import Task

FloatArray = NDArray[np.floating[Any]]
TargetArray = NDArray[np.integer[Any]] | NDArray[np.floating[Any]]
Learning = Literal["passes", "whole"]

_ADAPTERS: dict[Framework, tuple[str, str]] = {
    "keras": ("mlaas_condor.training.keras.adapter", "KerasModel"),
    "keras2": ("mlaas_condor.training.keras.adapter", "KerasModel"),
    "torch": ("mlaas_condor.training.torch.adapter", "TorchModel"),
    "sklearn": ("mlaas_condor.training.sklearn.adapter", "SklearnModel"),
    "xgboost": ("mlaas_condor.training.xgboost.adapter", "XGBoostModel"),
}


@dataclass(frozen=True)
class Setup:
    """What a model is made for.

    Parameters
    ----------
    idim
        Number of columns of the feature matrix.
    seed
        Seed of the initial weights and of whatever the model draws while training.
    threads
        CPU threads the framework may use. Chosen once a process: a later call cannot change it.
    task
        What is learnt; a regression needs a model of one output, and another loss than a cross-entropy.
    classes
        Number of classes; 0 for a regression.
    gpus
        GPUs the job asked for.
    arguments
        Keyword arguments of the user's function ``model``, beside the number of columns.
    """

    idim: int
    seed: int
    threads: int = 1
    task: Task = "classification"
    classes: int = 2
    gpus: int = 0
    arguments: Mapping[str, Any] = field(default_factory=dict)


class Portion(NamedTuple):
    """Events to train on at a time: features (events, columns), classes or targets and weights (events,)."""

    x: FloatArray
    y: TargetArray
    weights: FloatArray | None


class NoOnnx(Exception):
    """The model cannot be written as ONNX; the message says why, in a sentence for the user."""


class TrainedModel(ABC):
    """A model that is being trained, or was: what every framework's adapter is.

    ``x`` is always the feature matrix, shape (events, columns), without NaN; ``y`` has shape (events,):
    the class of each event, integers from 0, or for a regression its target. ``weights`` are factors to
    the loss of each event, shape (events,), of mean 1 over the training: a batch of n events has the loss
    ``sum(weight * loss) / n``, so that the step that is learnt with keeps its size.

    Models learn in one of two ways. ``passes``: ``fit`` is called with a portion of the events at a time,
    again in each epoch. ``whole``: ``fit_whole`` is called once, and gets at all of them.
    """

    learning: Learning
    own_loop: bool = False
    """Whether the user's own loop trains, which decides by itself on epochs, loss and optimizer."""

    def fit(
        self,
        x: FloatArray,
        y: TargetArray,
        batch_size: int,
        shuffle_seed: int | None = None,
        weights: FloatArray | None = None,
        validation: tuple[FloatArray, TargetArray] | None = None,
    ) -> dict[str, float]:
        """Train by one pass over these events; only where ``learning`` is ``passes``.

        Parameters
        ----------
        x, y
            Events and their classes or targets.
        batch_size
            Events a step.
        shuffle_seed
            Seed of the order in which the events are taken, and of all else that is drawn during the pass, so
            that a pass can be repeated alone; ``None`` takes the events as they come.
        weights
            Weights of the events; ``None``: all count the same.
        validation
            Validation events and their classes or targets, for loops of the user's own that ask for them.

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
        raise NotImplementedError

    def fit_whole(self, portions: Callable[[], Iterator[Portion]], events: int) -> Iterator[dict[str, float]]:
        """Train on all events, and yield after each stage of it; only where ``learning`` is ``whole``.

        Parameters
        ----------
        portions
            Gives the events, portion by portion, as often as it is called.
        events
            How many there are.

        Yields
        ------
        dict
            ``stage``, ``stages`` (how far it is, from 1) and what is known of the training events, if
            anything, such as ``loss``. After each one ``checkpoint`` may be called; a model that was
            restored from it goes on there when this is called again, and ends the same.
        """
        raise NotImplementedError

    @abstractmethod
    def evaluate(self, x: FloatArray, y: TargetArray, weights: FloatArray | None = None) -> dict[str, float]:
        """Return ``loss`` and the model's own metrics over these events, without training."""

    @abstractmethod
    def predict(self, x: FloatArray) -> FloatArray:
        """Return the scores, shape (events,) or (events, classes), or what a regression predicts,
        shape (events,); errors as ``fit``.
        """

    def learning_rate(self) -> float | None:
        """Return the learning rate; None where there is none that could be changed between passes."""
        return None

    def set_learning_rate(self, rate: float) -> None:
        """Change the learning rate of the passes that follow; only where there is one."""
        raise NotImplementedError

    @abstractmethod
    def checkpoint(self, path: Path) -> None:
        """Write all that changes in training to one file, replacing it only once it is complete."""

    @abstractmethod
    def restore(self, path: Path) -> None:
        """Continue from a checkpoint of the same model; ``ModelFault`` where it is of another.

        A checkpoint is the job's own: it is read without distrust, and is never part of a bundle.
        """

    @abstractmethod
    def save(self, folder: Path) -> str:
        """Write the model for serving into a folder; return the name of the main file in it."""

    @abstractmethod
    def export_onnx(self, path: Path) -> None:
        """Write the model as ONNX: input ``features``, float32 (events, columns); output ``scores``, as
        ``predict`` gives them, or of shape (events, 1).

        Raises
        ------
        NoOnnx
            It cannot be written so.
        """

    @classmethod
    @abstractmethod
    def build(cls, model_file: ModelFile, setup: Setup) -> Self:
        """Make the user's model; parameters and errors as ``open_adapter``."""

    @classmethod
    @abstractmethod
    def load(
        cls,
        folder: Path,
        model_file: ModelFile | None = None,
        threads: int = 1,
        task: Task = "classification",
    ) -> Self:
        """Return the model that ``save`` wrote.

        Parameters
        ----------
        folder
            Where it wrote.
        model_file
            The user's file: supplies what ``save`` could not write. Its code is run, and trusted.
        threads
            CPU threads the framework may use.
        task
            What the model was trained for.

        Raises
        ------
        ModelFault
            There is no model that can be loaded, or not without the user's file.
        """

    @abstractmethod
    def describe(self) -> str:
        """Return a few lines for people: layers, optimizer, loss, device."""


def adapter_of(framework: Framework) -> type[TrainedModel]:
    """Return the adapter of a framework; the framework itself is not imported by that."""
    module, name = _ADAPTERS[framework]
    adapter: type[TrainedModel] = getattr(importlib.import_module(module), name)
    return adapter


def open_adapter(model_file: ModelFile, setup: Setup) -> TrainedModel:
    """Make the user's model, ready to be trained.

    Parameters
    ----------
    model_file
        What ``models.check`` returned.
    setup
        What it is made for.

    Raises
    ------
    ModelFault
        The user's code fails, or what it makes is no model of that framework.
    LegacyKerasNeeded
        The file needs Keras 2 and this process has, or has just tried, Keras 3: start the process
        again with ``MLAAS_LEGACY_KERAS=1``.
    FrameworkMissing
        The framework is not installed here; says which extra brings it.
    OutOfMemory
        The model does not fit into memory.
    """
    return adapter_of(model_file.framework).build(model_file, setup)
