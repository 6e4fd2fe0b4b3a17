"""ONNX of Keras models, computed by onnxruntime."""

import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from keras_tools import events, maker, run, text

from mlaas_condor.errors import StorageFull
from mlaas_condor.training import models
from mlaas_condor.training.frameworks import NoOnnx

# What TensorFlow's own Python code does on import, by the module that does it.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning:tensorflow"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:keras"),
]

OWN = """
import keras
import tensorflow as tf
class Own(keras.layers.Layer):
    def call(self, x):
        {body}
def model(idim):
    net = keras.Sequential([keras.Input((idim,)), Own(), keras.layers.Dense(1)])
    net.compile("sgd", "mse")
    return net
"""
BRANCHES = """
import keras
from keras import layers
def model(idim):
    start = keras.Input((idim,))
    one = layers.BatchNormalization()(layers.Dense(8, activation="elu")(start))
    two = layers.Dropout(0.4)(layers.Dense(8, activation="tanh")(start[:, :3]))
    both = layers.Concatenate()([one, two, layers.Add()([one, two]), layers.Multiply()([one, two])])
    net = keras.Model(start, layers.Dense(1, activation="sigmoid")(both))
    net.compile("adam", "binary_crossentropy")
    return net
"""
NOISY = "keras.layers.BatchNormalization(), keras.layers.Dropout(0.3), keras.layers.GaussianNoise(0.1),"
NETWORKS = {
    "plain": text(),
    "noisy": text(middle=NOISY),
    "classes": text(3, "softmax", NOISY, "sparse_categorical_crossentropy"),
    "branches": BRANCHES,
    "own": OWN.format(body="return tf.where(x > 0.5, tf.sin(x), tf.square(x))"),
    "averaged": text().replace("Adam(0.01)", "Adam(0.05, use_ema=True)"),
    "flat": text().replace("    net.compile", "    net.add(keras.layers.Reshape(()))\n    net.compile"),
}


@pytest.fixture
def make(tmp_path, monkeypatch):
    return maker(tmp_path, monkeypatch)


@pytest.mark.parametrize("name", NETWORKS)
def test_onnx_predicts_the_same(make, tmp_path, capfd, name):
    x, y = events(1000, classes=3 if name == "classes" else 2)
    model = make(NETWORKS[name])
    model.fit(x, y, 50, 1)
    capfd.readouterr()
    model.export_onnx(tmp_path / "model.onnx")
    assert capfd.readouterr() == ("", "")
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    (given,), (wanted,) = session.get_inputs(), session.get_outputs()
    assert (given.name, given.type, given.shape) == ("features", "tensor(float)", ["events", 6])
    assert (wanted.name, wanted.type) == ("scores", "tensor(float)")
    for count in (1, 2, 1000):
        (scores,) = session.run(None, {"features": x[:count]})
        expected = model.predict(x[:count])
        assert len(scores) == count
        np.testing.assert_allclose(scores.reshape(expected.shape), expected, rtol=0, atol=1e-5)


IN_KERAS2 = """
import json, sys
from pathlib import Path
import numpy as np
import onnxruntime
from mlaas_condor.training import frameworks, models
x = np.random.default_rng(0).random((1000, 6), dtype=np.float32)
found = {}
for path in sorted(Path(sys.argv[1]).glob("*.py")):
    file = models.check(path)
    model = frameworks.open_adapter(file, frameworks.Setup(6, 3, 1))
    model.fit(x, (x[:, 0] > 0.5).astype(int), 50, 1)
    model.export_onnx(path.with_suffix(".onnx"))
    session = onnxruntime.InferenceSession(path.with_suffix(".onnx"))
    expected = model.predict(x)
    apart = [
        float(abs(session.run(["scores"], {"features": x[:n]})[0].reshape(expected[:n].shape)
        - expected[:n]).max()) for n in (1, 2, 1000)
    ]
    found[path.stem] = [file.framework, max(apart)]
print(json.dumps(found))
"""


def test_onnx_predicts_the_same_as_keras2(tmp_path):
    for name, content in NETWORKS.items():
        (tmp_path / f"{name}.py").write_text(content)
    found = run(IN_KERAS2, tmp_path, **{models.LEGACY_VARIABLE: "1"})
    assert set(found) == set(NETWORKS)
    for framework, apart in found.values():
        assert framework == "keras2"
        assert apart < 1e-5


@pytest.mark.parametrize(
    ("body", "why"),
    [
        ("return tf.reshape(tf.py_function(lambda v: v, [x], tf.float32), tf.shape(x))",
         r"ONNX has no EagerPyFunc, which the model uses"),
        ("return tf.math.lgamma(x) + tf.nn.local_response_normalization(x[:, None, None])[:, 0, 0]",
         r"ONNX has no Lgamma, which the model uses"),
    ],
)  # fmt: skip
def test_what_onnx_cannot_do_is_said(make, tmp_path, capfd, body, why):
    model = make(OWN.format(body=body))
    capfd.readouterr()
    with pytest.raises(NoOnnx, match=rf"model\.py: {why}"):
        model.export_onnx(tmp_path / "model.onnx")
    assert capfd.readouterr() == ("", "")
    assert not (tmp_path / "model.onnx").exists()


def test_what_is_not_installed_is_said(make, tmp_path, monkeypatch):
    model = make(text())
    monkeypatch.setitem(sys.modules, "tf2onnx", None)
    with pytest.raises(NoOnnx, match=r"tf2onnx cannot be imported .*'mlaas-condor\[tensorflow\]'"):
        model.export_onnx(tmp_path / "model.onnx")


def test_a_full_disk_is_not_blamed_on_the_model(make):
    with pytest.raises(StorageFull):
        make(text()).export_onnx(Path("/dev/full"))
