"""Write a Keras model as ONNX, through the TensorFlow function that predicts."""

from __future__ import annotations

import contextlib
import importlib
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mlaas_condor.training import faults, models
from mlaas_condor.training.frameworks import NoOnnx

INPUT, OUTPUT = "features", "scores"


def export(scores: Any, idim: int, path: Path, name: str) -> None:
    """Write the network that a function of TensorFlow computes.

    Parameters
    ----------
    scores
        The function, of the features, shape (events, columns).
    idim
        Number of columns.
    path
        The file.
    name
        What to call the model in messages.

    Raises
    ------
    NoOnnx
        It cannot be written so; or ``tf2onnx`` is not installed.
    StorageFull
        There is no space left for the file.
    """
    import tensorflow

    try:
        tf2onnx: Any = importlib.import_module("tf2onnx")
    except ImportError as error:
        raise NoOnnx(
            f"tf2onnx cannot be imported ({error}): pip install 'mlaas-condor[tensorflow]' where the jobs run"
        ) from error
    signature = [tensorflow.TensorSpec((None, idim), tensorflow.float32, name=INPUT)]
    function = tensorflow.function(
        lambda features: {OUTPUT: tensorflow.identity(scores(features))}, input_signature=signature
    )
    try:
        with _quiet():
            proto, _ = tf2onnx.convert.from_function(function, signature)
    except Exception as error:
        raise NoOnnx(f"{name}: tf2onnx fails on it: {type(error).__name__}: {models.brief(error)}") from error
    unknown = sorted(set(_unknown_operators(proto.graph)))
    if unknown:
        raise NoOnnx(f"{name}: ONNX has no {', '.join(unknown)}, which the model uses")
    for end in (proto.graph.input[0], proto.graph.output[0]):
        end.type.tensor_type.shape.dim[0].dim_param = "events"
    with faults.of_writing(path):
        path.write_bytes(proto.SerializeToString())


def _unknown_operators(graph: Any) -> Iterator[str]:
    """Yield the operators that tf2onnx has left as TensorFlow's."""
    from onnx import defs

    for node in graph.node:
        if not defs.has(node.op_type, node.domain):
            yield node.op_type
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                yield from _unknown_operators(inner)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Let tf2onnx say nothing: what it cannot convert is seen in what it returns."""
    logger = logging.getLogger("tf2onnx")
    level = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        logger.setLevel(level)
