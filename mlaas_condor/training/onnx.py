"""Write the trained model as ONNX too, and make sure that it predicts the same."""

from __future__ import annotations

import os
import shutil
import warnings
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlaas_condor.training import models
from mlaas_condor.training.frameworks import FloatArray, NoOnnx, TrainedModel
from mlaas_condor.training.recipe import Task

FILE = "model.onnx"
LARGEST = 1e-4
"""How far the two may differ: float32 and another order of summing explain a tenth of it."""


def export(model: TrainedModel, folder: Path, x: FloatArray, task: Task = "classification") -> dict[str, Any]:
    """Write ``model.onnx`` into a folder and compare it with the model; never fails.

    Parameters
    ----------
    model
        A trained model.
    folder
        Where to write, beside what ``model.save`` wrote.
    x
        Features of some events, shape (events, columns).
    task
        What it learnt.

    Returns
    -------
    dict
        What goes to ``onnx.json``: ``file``, ``events`` compared, ``largest_difference`` of their scores,
        ``opset`` (versions of the operators, by their domain); or ``file`` None and the ``reason``. The
        difference is absolute for a classification; for a regression it is divided by the root mean square of
        the predictions. Where it is above `LARGEST` no file is left.
    """
    before = set(folder.iterdir())
    try:
        found = _written(model, folder, x, task)
    except NoOnnx as error:
        found = {"file": None, "reason": str(error)}
    except ImportError as error:
        found = {"file": None, "reason": f"{error}: pip install 'mlaas-condor[onnx]' where the jobs run"}
    except Exception as error:
        # Exporters fail in every way there is, and the model itself is well.
        found = {"file": None, "reason": f"{type(error).__name__}: {models.brief(error)}"}
    for path in set(folder.iterdir()) - before:
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name != found["file"]:
            path.unlink()
    return found


def _written(model: TrainedModel, folder: Path, x: FloatArray, task: Task) -> dict[str, Any]:
    if not find_spec("onnxruntime"):
        raise ImportError("onnxruntime is not installed, without which the file cannot be checked")
    path = folder / FILE
    features = np.ascontiguousarray(x, np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporters, on their own affairs
        model.export_onnx(path)
    opset = _in_one_file(path)
    expected = np.asarray(model.predict(features))
    # One event alone too: exporters like to take the number of events for a constant.
    found = _scores(path, [features, features[:1]])
    largest = max(
        _difference(expected, found[0], task, expected), _difference(expected[:1], found[1], task, expected)
    )
    if not largest <= LARGEST:
        raise NoOnnx(
            f"as ONNX it predicts something else: the scores of {len(features)} events differ by "
            f"up to {largest:.2g}"
        )
    return {"file": FILE, "events": len(features), "largest_difference": largest, "opset": opset}


def _in_one_file(path: Path) -> dict[str, int]:
    """Bring weights that an exporter wrote beside the file into it; return the versions of the operators."""
    onnx: Any = import_module("onnx")
    outside = [each for each in path.parent.iterdir() if each.name.startswith(f"{path.name}.")]
    proto = onnx.load(path, load_external_data=bool(outside))
    if outside:
        onnx.save(proto, path)
    # Trees are of another domain than ONNX's own, and may be all there is.
    return {each.domain or "ai.onnx": int(each.version) for each in proto.opset_import}


def runtime() -> Any:
    """Import onnxruntime, without the reports on its users that it sends to its makers by default.

    Raises
    ------
    ImportError
        It is not installed.
    """
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    return import_module("onnxruntime")


def _scores(path: Path, batches: list[NDArray[np.float32]]) -> list[NDArray[Any]]:
    onnxruntime = runtime()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return [np.asarray(session.run(["scores"], {"features": batch})[0]) for batch in batches]


def _difference(expected: NDArray[Any], found: NDArray[Any], task: Task, every: NDArray[Any]) -> float:
    """Return the largest difference; infinite where one has a number and the other none."""
    if found.size != expected.size:
        raise NoOnnx(f"as ONNX it gives scores of shape {found.shape}, the model {expected.shape}")
    if not expected.size:
        return 0.0
    known, other = (each.reshape(-1).astype(np.float64) for each in (expected, found))
    if not np.array_equal(np.isnan(known), np.isnan(other)):
        return float("inf")
    there = ~np.isnan(known)
    size = 1.0
    if task == "regression":
        size = float(np.sqrt(np.nanmean(every.astype(np.float64) ** 2))) or 1.0
    with np.errstate(invalid="ignore"):
        return float(np.abs(known[there] - other[there]).max(initial=0.0)) / size
