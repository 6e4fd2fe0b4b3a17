"""scikit-learn and XGBoost models as ONNX graphs of ours: input ``features``, one output ``scores``.

Converters give graphs of their own: class labels beside the scores, a column for each class seen, decision
values instead of scores. Not all of them convert every model rightly: whoever uses a graph compares it first.
"""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from mlaas_condor.training import models
from mlaas_condor.training.frameworks import NoOnnx
from mlaas_condor.training.writing import replacing

INPUT, OUTPUT = "features", "scores"
OPSET, ML_OPSET, XGBOOST_OPSET = 18, 3, 15
"""Versions of ONNX's operators: old enough for every onnxruntime that is allowed here."""

IR_VERSION = 8  # that of OPSET
NODES = 3_000_000
"""Most nodes of trees: while it converts them, skl2onnx holds 650 bytes for each."""

Activation = Literal["", "Sigmoid", "Softmax"]


def of_sklearn(estimator: Any, final: Any, idim: int, decision: bool) -> Any:
    """Convert a fitted scikit-learn estimator.

    Parameters
    ----------
    estimator
        The estimator.
    final
        The last step of it where it is a pipeline, otherwise itself.
    idim
        Number of columns.
    decision
        Whether to give what its decision function gives.

    Returns
    -------
    onnx.ModelProto
        A graph whose last output has the probabilities, shape (events, classes seen), or decision values, of
        two classes those of class 0 and 1; or what a regression predicts.

    Raises
    ------
    NoOnnx
        There is no converter for it, it is too large, or the packages are not there.
    """
    name = type(final).__name__
    skl2onnx = _package("skl2onnx", "sklearn")
    types = _package("skl2onnx.common.data_types", "sklearn")
    nodes = sum(tree.tree_.node_count for tree in _trees(final))
    if nodes > NODES:
        raise NoOnnx(
            f"the {name} has {nodes:,} nodes, more than the {NODES:,} that can be written as ONNX: limit "
            "max_depth, min_samples_leaf or n_estimators"
        )
    options = {"zipmap": False} if hasattr(estimator, "classes_") else {}
    if decision:
        options["raw_scores"] = True

    def convert() -> Any:
        return skl2onnx.convert_sklearn(
            estimator,
            initial_types=[(INPUT, types.FloatTensorType([None, idim]))],
            options={id(final): options} if options else None,
            target_opset={"": OPSET, "ai.onnx.ml": ML_OPSET},
        )

    try:
        with _integers():
            try:
                return convert()
            except NameError:  # LinearSVC has no such option
                options.pop("zipmap", None)
                return convert()
    except Exception as error:
        raise NoOnnx(f"skl2onnx cannot convert a {name}: {models.brief(error)}") from error


def of_xgboost(estimator: Any, idim: int) -> Any:
    """Convert a fitted estimator of XGBoost; returns and raises as ``of_sklearn``."""
    onnxmltools = _package("onnxmltools", "xgboost")
    types = _package("onnxmltools.convert.common.data_types", "xgboost")
    initial_types = [(INPUT, types.FloatTensorType([None, idim]))]
    try:
        return onnxmltools.convert_xgboost(estimator, initial_types=initial_types, target_opset=XGBOOST_OPSET)
    except Exception as error:
        raise NoOnnx(f"onnxmltools cannot convert this XGBoost model: {models.brief(error)}") from error


def choice(seen: NDArray[np.int64], classes: int) -> NDArray[np.float32]:
    """Return what a row of probabilities is multiplied with to give scores, shape (classes seen, outputs).

    Parameters
    ----------
    seen
        The classes that the model saw in training, one for each probability.
    classes
        How many there are: of two the second one is the score; a class never seen has the score 0.
    """
    columns = np.eye(classes, dtype=np.float32)[seen]
    return columns[:, 1:] if classes == 2 else columns


def write(
    path: Path, model: Any, choice: NDArray[np.float32] | None = None, activation: Activation = ""
) -> None:
    """Reduce a graph to scores, and write it.

    Parameters
    ----------
    path
        File to write; replaced only once it is complete.
    model
        What one of the functions above returned; it is changed.
    choice
        What the last output is multiplied with; ``None``: it is a single column, and stays as it is.
    activation
        What is applied to the last output before that.

    Raises
    ------
    StorageFull
        No space is left.
    """
    _reduce(model, choice, activation)
    with replacing(path) as part:
        part.write_bytes(model.SerializeToString())


def _reduce(model: Any, choice: NDArray[np.float32] | None, activation: Activation) -> None:
    """Make the scores the only output, and drop what only the others needed."""
    onnx = importlib.import_module("onnx")
    graph, make = model.graph, onnx.helper.make_node
    last = graph.output[-1].name
    if activation:
        axis = {"axis": 1} if activation == "Softmax" else {}
        graph.node.append(make(activation, [last], ["mlaas_activated"], **axis))
        last = "mlaas_activated"
    column = np.array([-1, 1], np.int64)
    constant = onnx.numpy_helper.from_array(column if choice is None else choice, "mlaas_choice")
    graph.initializer.append(constant)
    graph.node.append(make("Reshape" if choice is None else "MatMul", [last, constant.name], [OUTPUT]))
    shape = [None, 1 if choice is None else choice.shape[1]]
    # What converters note of the shapes in between is not always so, and nobody needs it.
    del graph.output[:], graph.value_info[:]
    graph.output.append(onnx.helper.make_tensor_value_info(OUTPUT, onnx.TensorProto.FLOAT, shape))
    _prune(graph)
    if not any(each.domain in ("", "ai.onnx") for each in model.opset_import):
        model.opset_import.append(onnx.helper.make_opsetid("", OPSET))
    model.ir_version = IR_VERSION


def _prune(graph: Any) -> None:
    needed = {output.name for output in graph.output}
    kept = []
    for node in reversed(graph.node):
        if needed.intersection(node.output):
            needed.update(node.input)
            kept.append(node)
    constants = [constant for constant in graph.initializer if constant.name in needed]
    del graph.node[:], graph.initializer[:]
    graph.node.extend(reversed(kept))
    graph.initializer.extend(constants)


def _trees(final: Any) -> list[Any]:
    """Return the trees of a forest, and of what is built like one."""
    found = np.ravel(np.asarray(getattr(final, "estimators_", []), dtype=object))
    return [each for each in found if hasattr(each, "tree_")]


@contextlib.contextmanager
def _integers() -> Iterator[None]:
    """Let skl2onnx 1.20 convert HistGradientBoosting also with ONNX 1.23.

    It gives truth values for integers, which older releases of ONNX took.
    """
    module = importlib.import_module("skl2onnx.operator_converters.random_forest")
    name, key = "add_tree_to_attribute_pairs_hist_gradient_boosting", "nodes_missing_value_tracks_true"
    original = getattr(module, name)

    def add_tree(pairs: dict[str, Any], *arguments: Any, **options: Any) -> None:
        before = len(pairs[key])
        original(pairs, *arguments, **options)
        pairs[key][before:] = map(int, pairs[key][before:])

    setattr(module, name, add_tree)
    try:
        yield
    finally:
        setattr(module, name, original)


def _package(name: str, extra: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise NoOnnx(f"{name} cannot be imported ({error}): pip install 'mlaas-condor[{extra}]'") from error
