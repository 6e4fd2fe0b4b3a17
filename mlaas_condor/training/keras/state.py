"""All that changes while a Keras model is trained: found, written, read, and its random part seeded."""

from __future__ import annotations

import logging
import random
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from mlaas_condor.errors import ModelFault
from mlaas_condor.training.keras import variables
from mlaas_condor.training.keras.passes import Passes
from mlaas_condor.training.writing import replacing

logger = logging.getLogger(__name__)

RANDOM_STATES = ("seed_generator_state", "StateVar")
"""What Keras 3 and TensorFlow call the variables that their generators of random numbers keep."""

SEQUENCES = 8
"""Of random numbers, for operations that have their seed from the moment when they are traced."""


class State:
    """The variables that training changes.

    Parameters
    ----------
    keras, model
        The Keras and the compiled model, which has all its variables.
    passes
        The functions that train it: what they use beyond that is found there.
    """

    def __init__(self, keras: ModuleType, model: Any, passes: Passes) -> None:
        import tensorflow

        self._tf: Any = tensorflow
        self._keras = keras
        self._model = model
        self._passes = passes
        self._found: list[Any] | None = None
        self._counts_drawings = False

    def seed(self, seed: int) -> None:
        """Seed all that is drawn from now on."""
        variables = self.variables()
        seed %= 2**32
        if not self._counts_drawings:
            random.seed(seed)
            np.random.seed(seed)
        elif self._model.run_eagerly:
            self._keras.utils.set_random_seed(seed)
        else:
            # Their seeds are part of what is traced. To set them anew makes them count from the beginning.
            self._passes.variant = seed % SEQUENCES
            random.seed(self._passes.variant)
            np.random.seed(self._passes.variant)
            self._tf.random.set_seed(self._passes.variant)
        words = np.random.default_rng([seed, 1])  # other numbers than those of the events' order
        for variable in variables:
            if variable.dtype.is_integer and any(name in variable.name for name in RANDOM_STATES):
                kind = variable.dtype.as_numpy_dtype
                ends = np.iinfo(kind)
                variable.assign(words.integers(ends.min, ends.max, variable.shape, kind, endpoint=True))

    def variables(self) -> list[Any]:
        """Return the variables; the model is traced for that."""
        if self._found is None:
            traced = self._passes.traced()
            # A function on several GPUs knows the copies on each of them, not the variables.
            self._found = variables.found(self._model, None if self._passes.replicas else traced)
            self._counts_drawings = traced is None or _counts_drawings(traced)
            if traced and self._counts_drawings:
                logger.warning(
                    "the model draws random numbers with tf.random: each pass takes some tenths of a second "
                    "more, and gets one of %d sequences; keras.random and layers of Keras know neither limit",
                    SEQUENCES,
                )
                self._passes.forget()
        return self._found


def write(path: Path, variables: Sequence[Any]) -> None:
    """Write the values of variables to a file, replacing it only once it is complete."""
    values = {f"v{i:05}": variable.numpy() for i, variable in enumerate(variables)}
    with replacing(path) as part, part.open("wb") as file:
        np.savez(file, allow_pickle=False, **values)


def read(path: Path, variables: Sequence[Any], name: str) -> None:
    """Give variables the values in a file; ``ModelFault`` where it is of another model than ``name``."""
    with np.load(path) as file:
        values = [file[key] for key in sorted(file.files)]
    if [value.shape for value in values] != [tuple(variable.shape) for variable in variables]:
        raise ModelFault(f"{path}: is the checkpoint of another model than {name}")
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)


def _counts_drawings(traced: Any) -> bool:
    """Tell whether a function has operations such as ``RandomUniform``, known by their second seed.

    They count what they have drawn, where nobody can read or set it.
    """
    graph = traced.graph.as_graph_def()
    nodes = [*graph.node, *(node for function in graph.library.function for node in function.node_def)]
    return any("seed2" in node.attr for node in nodes)
