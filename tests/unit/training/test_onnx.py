"""The model as ONNX: written, and compared with itself."""

from __future__ import annotations

import sys

import numpy as np
import onnx
import onnxruntime
import pytest

from mlaas_condor.training import models
from mlaas_condor.training.frameworks import NoOnnx, Setup
from mlaas_condor.training.keras.adapter import KerasModel
from mlaas_condor.training.onnx import FILE, export

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning:tensorflow"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:keras"),
]
COLUMNS = 4
X = np.random.default_rng(1).random((50, COLUMNS), np.float32)
TEXT = """\
import keras


def model(idim):
    return keras.Sequential([keras.Input((idim,)), keras.layers.Dense(3, activation="relu"), {last}])
"""


def build(
    tmp_path, last="keras.layers.Dense(1, activation='sigmoid')", kind=KerasModel, task="classification"
):
    path = tmp_path / "model.py"
    path.write_text(TEXT.format(last=last))
    return kind.build(models.check(path), Setup(COLUMNS, seed=1, task=task))


@pytest.fixture
def folder(tmp_path):
    made = tmp_path / "model"
    made.mkdir()
    (made / "saved_model.pb").write_bytes(b"")
    return made


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize(
    ("last", "task"),
    [
        ("keras.layers.Dense(1, activation='sigmoid')", "classification"),
        ("keras.layers.Dense(3, activation='softmax')", "classification"),
        ("keras.layers.Dense(1, kernel_initializer='ones', bias_initializer='ones')", "regression"),
    ],
)
def test_a_network_predicts_the_same(tmp_path, folder, last, task):
    model = build(tmp_path, last, task=task)
    found = export(model, folder, X, task)
    assert found.keys() == {"file", "events", "largest_difference", "opset"} and found["file"] == FILE
    assert (
        found["events"] == 50 and 0 <= found["largest_difference"] < 1e-5 and found["opset"]["ai.onnx"] >= 13
    )
    assert names(folder) == [FILE, "saved_model.pb"]
    session = onnxruntime.InferenceSession(folder / FILE, providers=["CPUExecutionProvider"])
    scores = session.run(["scores"], {"features": X})[0]
    assert scores.reshape(model.predict(X).shape) == pytest.approx(model.predict(X), abs=1e-5)


class Other(KerasModel):
    """Predicts something else than it exports."""

    def predict(self, x):
        return super().predict(x) * np.float32(1.001)


@pytest.mark.parametrize("task", ["classification", "regression"])
def test_one_that_predicts_something_else_is_removed(tmp_path, folder, task):
    last = "keras.layers.Dense(1, kernel_initializer='ones', bias_initializer='ones')"
    model = build(tmp_path, last, Other, task)
    found = export(model, folder, X, task)
    assert found["file"] is None and found["reason"].startswith(
        "as ONNX it predicts something else: the scores of 50"
    )
    assert names(folder) == ["saved_model.pb"]


def test_a_difference_of_a_regression_is_relative(tmp_path, folder):
    class Large(KerasModel):
        """Estimates in units of which one is much."""

        def predict(self, x):
            return super().predict(x) * np.float32(1 + 1e-5)

    last = (
        "keras.layers.Dense(1, kernel_initializer='ones', bias_initializer=keras.initializers.Constant(1e6))"
    )
    found = export(build(tmp_path, last, Large, "regression"), folder, X, "regression")
    assert found["largest_difference"] == pytest.approx(1e-5, rel=0.1)


class OfOneEvent(KerasModel):
    """Exports a graph for exactly so many events as it was tried on."""

    def export_onnx(self, path):
        super().export_onnx(path)
        graph = onnx.load(path)
        for end in (graph.graph.input[0], graph.graph.output[0]):
            end.type.tensor_type.shape.dim[0].dim_value = len(X)
        onnx.save(graph, path)


def test_one_that_takes_a_fixed_number_of_events_is_no_use(tmp_path, folder):
    found = export(build(tmp_path, kind=OfOneEvent), folder, X)
    assert found["file"] is None and "Got invalid dimensions" in found["reason"]
    assert names(folder) == ["saved_model.pb"]


class Scattered(KerasModel):
    """Writes weights beside the file."""

    def export_onnx(self, path):
        super().export_onnx(path)
        onnx.save(
            onnx.load(path), path, save_as_external_data=True, location="model.onnx.data", size_threshold=0
        )
        assert path.with_name("model.onnx.data").exists()


def test_weights_beside_the_file_are_brought_into_it(tmp_path, folder):
    assert export(build(tmp_path, kind=Scattered), folder, X)["file"] == FILE
    assert names(folder) == [FILE, "saved_model.pb"]
    onnxruntime.InferenceSession((folder / FILE).read_bytes(), providers=["CPUExecutionProvider"])


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (NoOnnx("it has a Lambda layer"), "it has a Lambda layer"),
        (
            ImportError("No module named 'tf2onnx'"),
            "No module named 'tf2onnx': pip install 'mlaas-condor[onnx]'",
        ),
        (RuntimeError("a\nb"), "RuntimeError: a b"),
        (MemoryError(), "MemoryError: "),
    ],
)
def test_whatever_goes_wrong_is_a_reason(tmp_path, folder, error, reason):
    class Failing(KerasModel):
        def export_onnx(self, path):
            path.write_bytes(b"half")
            path.with_name("scratch").mkdir()
            raise error

    found = export(build(tmp_path, kind=Failing), folder, X)
    assert found["file"] is None and found["reason"].startswith(reason)
    assert names(folder) == ["saved_model.pb"]


def test_without_onnxruntime(tmp_path, folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    found = export(build(tmp_path), folder, X)
    assert found["file"] is None and "pip install 'mlaas-condor[onnx]'" in found["reason"]


def test_without_events_to_compare(tmp_path, folder):
    found = export(build(tmp_path), folder, X[:0])
    assert (found["file"], found["events"], found["largest_difference"]) == (FILE, 0, 0.0)
