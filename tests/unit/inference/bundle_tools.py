"""What tests of predicting share: bundles of a tiny ONNX model, whose scores can be worked out by hand."""

from __future__ import annotations

import json

import numpy as np
import onnx
from data_tools import specs_of
from onnx import TensorProto, helper, numpy_helper

from mlaas_condor.training import description
from mlaas_condor.training.recipe import Recipe


def recipe_of(labels=(0, 1), classes=("background", "signal"), **keys):
    """Return a recipe; only what the bundle says of it counts here."""
    given = {
        "name": "tiny_1", "model": "model.py", "labels": list(labels), "classes": list(classes), "epochs": 1,
        "batch_size": 10, "standard": True, "split": 0.2, "padding": None, "threshold": 0.5, "seed": 21,
        "verbose": 0, "threads": 1,
    }  # fmt: skip
    return Recipe(**{**given, **keys})


def weights_of(columns, outputs=1):
    """Return the weights that the tiny model has, shape (columns, outputs)."""
    return np.random.default_rng(columns).normal(0, 1, (columns, outputs)).astype(np.float32)


def write_onnx(path, columns, outputs=1, activation="Sigmoid"):
    """Write a model of one layer: scores are the activation of x @ weights."""
    weights = numpy_helper.from_array(weights_of(columns, outputs), "weights")
    nodes = [
        helper.make_node("MatMul", ["features", "weights"], ["sums"]),
        helper.make_node(activation, ["sums"], ["scores"]),
    ]
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["events", n])
        for name, n in (("features", columns), ("scores", outputs))
    ]
    graph = helper.make_graph(nodes, "tiny", ends[:1], ends[1:], [weights])
    opset = helper.make_opsetid("", 17)
    onnx.save(helper.make_model(graph, opset_imports=[opset], ir_version=9), path)


def write_bundle(folder, dataset, recipe=None, specs=None, outputs=1, activation="Sigmoid"):
    """Write a bundle into a folder, as its unpacked files; return what its features.json says."""
    found = description.features(recipe or recipe_of(), dataset, specs or specs_of(dataset))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / description.FILE).write_text(json.dumps(found, indent=1))
    (folder / "metrics.json").write_text('{"test": {"auc": 0.9}}')
    write_onnx(folder / "model.onnx", len(found["columns"]), outputs, activation)
    return found


def rewrite(folder, **keys):
    """Change keys of the features.json of a bundle."""
    path = folder / description.FILE
    path.write_text(json.dumps(json.loads(path.read_text()) | keys))
