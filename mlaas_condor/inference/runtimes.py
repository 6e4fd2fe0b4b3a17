"""What computes scores: onnxruntime, or the framework that made the model."""

from __future__ import annotations

import json
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from mlaas_condor.data.features import Matrix
from mlaas_condor.errors import FrameworkMissing, InputUnreadable, ModelFault
from mlaas_condor.training import models, onnx
from mlaas_condor.training.description import FeaturesFile
from mlaas_condor.training.frameworks import adapter_of
from mlaas_condor.training.keras.adapter import KERAS_FILE
from mlaas_condor.training.models import Framework, LegacyKerasNeeded
from mlaas_condor.training.onnx import FILE as ONNX_FILE

Choice = Literal["auto", "onnx", "native"]

BATCH = 1024
"""Events at a time: what a network of usual width gives of them stays in the cache."""

_RUNS: dict[Framework, str] = {
    "keras2": "a SavedModel of Keras 2 may hold Python code, which loading it runs",
    "sklearn": "a scikit-learn model may be a pickle, which runs code when it is loaded",
    "torch": "a model of PyTorch may hold pickles, which run code when they are loaded",
}
_FREE = ([[False, True]], [[False, False]])  # one input, of any number of events
_SAFE_KERAS = (3, 12)  # in older ones a file could get round what `safe_mode` forbids


class Runtime(Protocol):
    """Computes scores; ``name`` says of what kind it is."""

    name: str

    def scores(self, x: Matrix) -> NDArray[Any]:
        """Return the scores of features of shape (events, columns), at least one event.

        Returns
        -------
        array of shape (events,), (events, 1) or (events, classes)
        """
        ...


class OnnxRuntime:
    """A model as ONNX.

    Parameters
    ----------
    path
        The file.
    columns
        Columns of the feature matrix.
    threads
        CPU threads.

    Raises
    ------
    FrameworkMissing
        onnxruntime is not installed.
    ModelFault
        The file cannot be loaded, or takes other features.
    """

    name = "onnxruntime"

    def __init__(self, path: Path, columns: int, threads: int = 1) -> None:
        try:
            onnxruntime = onnx.runtime()
        except ImportError as error:
            raise FrameworkMissing(
                f"onnxruntime cannot be imported ({error}): pip install 'mlaas-condor[inference]'"
            ) from error
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        # Threads that wait by running in circles take the CPU from whatever makes the events.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            self._session = onnxruntime.InferenceSession(
                str(path), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # of onnxruntime's own kinds, which have no common base
            raise ModelFault(f"{path.name}: onnxruntime cannot load it: {models.brief(error)}") from error
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        shapes = [list(each.shape) for each in inputs]  # in which names, or None, stand for any number
        if [[isinstance(n, int) for n in shape] for shape in shapes] not in _FREE or (
            isinstance(shapes[0][1], int) and shapes[0][1] != columns
        ):
            raise ModelFault(f"{path.name}: takes {shapes}, not features of shape (events, {columns})")
        self._input = inputs[0].name
        names = [each.name for each in outputs]
        self._outputs = ["scores" if "scores" in names else names[0]]

    def scores(self, x: Matrix) -> NDArray[Any]:
        """Return the scores; as `Runtime.scores`."""
        try:
            parts = [
                self._session.run(self._outputs, {self._input: x[start : start + BATCH]})[0]
                for start in range(0, len(x), BATCH)
            ]
        except Exception as error:
            raise ModelFault(
                f"onnxruntime fails on {len(x)} events of {x.shape[1]} columns: {models.brief(error)}"
            ) from error
        return parts[0] if len(parts) == 1 else np.concatenate(parts)


class NativeRuntime:
    """A model in the framework that made it.

    Parameters
    ----------
    folder
        The bundle, unpacked.
    file
        What it says.
    threads
        CPU threads; chosen once a process.
    trust
        Whether code in the bundle may be run.

    Raises
    ------
    FrameworkMissing
        The framework is not installed.
    ModelFault
        The model cannot be loaded, or not without running code that nobody said is to be trusted.
    """

    def __init__(self, folder: Path, file: FeaturesFile, threads: int = 1, trust: bool = False) -> None:
        self.name: str = file.framework
        refusal = refusal_of(file.framework, folder)
        if refusal and not trust:
            raise ModelFault(f"{file.model}: {refusal}: {_advice(folder)}")
        source = None
        if trust and (folder / file.source).is_file():
            source = models.check(folder / file.source)
        try:
            self._model = adapter_of(file.framework).load(folder, source, threads, file.task)
        except LegacyKerasNeeded as error:
            raise ModelFault(
                f"{file.name}: {error}: predict in a process of its own, or with onnxruntime"
            ) from error
        except ModelFault as error:
            if trust or not file.source:
                raise
            raise ModelFault(f"{error} (if it needs code of {file.source}: {_advice(folder)})") from error

    def scores(self, x: Matrix) -> NDArray[Any]:
        """Return the scores; as `Runtime.scores`."""
        return np.asarray(self._model.predict(x))


def _advice(folder: Path) -> str:
    other = ", or predict with onnxruntime, which runs none of it" if (folder / ONNX_FILE).is_file() else ""
    return f"load it with trust=True if you know where it comes from{other}"


def refusal_of(framework: Framework, folder: Path) -> str:
    """Return why a framework's own files are not to be loaded without trust; empty where they are safe."""
    if framework == "keras" and not (folder / KERAS_FILE).is_file():
        framework = "keras2"  # whatever the bundle says: it would be loaded as such
    if framework == "keras" and find_spec("keras"):
        installed = version("keras")
        if tuple(int(part) for part in installed.split(".")[:2]) < _SAFE_KERAS:
            return f"Keras {installed} does not load a model safely, {'.'.join(map(str, _SAFE_KERAS))} does"
    return _RUNS.get(framework, "")


def open_runtime(folder: Path, file: FeaturesFile, choice: Choice, threads: int, trust: bool) -> Runtime:
    """Load the model of a bundle.

    Parameters
    ----------
    folder, file, threads, trust
        As of `NativeRuntime`.
    choice
        ``onnx``, ``native``, or ``auto``: onnxruntime where it is installed and the bundle has the file.

    Raises
    ------
    FrameworkMissing, ModelFault
        As of the runtime that is chosen; ``onnx`` is asked for, and the bundle has none.
    """
    there = (folder / ONNX_FILE).is_file()
    if choice == "onnx" and not there:
        raise ModelFault(
            f"{file.name}: the bundle has no {ONNX_FILE}{_why_not(folder)}: use runtime='native'"
        )
    if choice == "onnx" or (choice == "auto" and there and find_spec("onnxruntime")):
        return OnnxRuntime(folder / ONNX_FILE, len(file.columns), threads)
    if choice not in ("auto", "native"):
        raise ValueError(f"runtime {choice!r} is none of auto, onnx, native")
    return NativeRuntime(folder, file, threads, trust)


def _why_not(folder: Path) -> str:
    """Return the reason that the training noted."""
    path = folder / "onnx.json"
    if not path.is_file():
        return ""
    try:
        reason = json.loads(path.read_text("utf-8"))["reason"]
    except (ValueError, KeyError, TypeError) as error:
        raise InputUnreadable(f"onnx.json: is damaged: {error}") from error
    return f" ({reason})"
