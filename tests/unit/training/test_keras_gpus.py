"""Several devices at once: two CPUs stand for two GPUs, in processes of their own; and no GPU at all."""

import logging

import pytest
from keras_tools import maker, run_in_both_keras, text

# What TensorFlow's own Python code does on import, by the module that does it.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning:tensorflow"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:keras"),
]


@pytest.fixture
def make(tmp_path, monkeypatch):
    return maker(tmp_path, monkeypatch)


OWN_STEP = """
import keras
class Mine(keras.Sequential):
    def train_step(self, data):
        return super().train_step(data)
def model(idim):
    net = Mine([keras.Input((idim,)), keras.layers.Dense(1)])
    net.compile(keras.optimizers.SGD(0.1), "mse")
    return net
"""
LAYER = "keras.layers.Dense(8, activation='tanh', kernel_regularizer=keras.regularizers.L2(0.01)),"
RATE = "'accuracy', keras.metrics.AUC(name='auc')"
NETWORKS = {
    "adam": text(middle=LAYER).replace("'accuracy'", RATE),
    "clipped": text(3, "softmax", LAYER, "sparse_categorical_crossentropy").replace(
        "Adam(0.01)", "SGD(0.5, momentum=0.9, clipnorm=0.05)"
    ),
    "normalised": text(middle="keras.layers.BatchNormalization(),").replace("Adam(0.01)", "SGD(0.1)"),
    "own_step": OWN_STEP,
}

# 251 events in batches of 125: shares of 63 and 62, and in the last batch of one event and of none.
TRAINING = """
import json, logging, sys
from pathlib import Path
import numpy as np
from mlaas_condor.training import frameworks, models
from mlaas_condor.training.keras import binding, gpus
paths = sorted(Path(sys.argv[1]).glob("*.py"))
binding.bind(models.check(paths[0]).framework == "keras2", 2)
import tensorflow as tf
cpu, = tf.config.list_physical_devices("CPU")
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
gpus.DEVICE = "CPU"
said = []
handler = logging.Handler()
handler.emit = lambda record: said.append(record.getMessage())
logging.getLogger("mlaas_condor").addHandler(handler)
generator = np.random.default_rng(0)
x = generator.random((251, 6), dtype=np.float32)
w = generator.choice([-0.5, 0.0, 1.0, 2.5], 251)
found = {}
for path in paths:
    said.clear()
    file = models.check(path)
    y = (x[:, 0] * 3).astype(int) if path.stem == "clipped" else (x[:, 0] > 0.5).astype(int)
    both = [frameworks.open_adapter(file, frameworks.Setup(6, 3, 2, gpus=count)) for count in (1, 2)]
    values = []
    for model in both:
        weights = None if path.stem == "adam" else w
        logs = [model.fit(x, y, 125, weights=weights) for _ in range(2)] + [model.evaluate(x, y, weights)]
        values.append([value for log in logs for value in log.values()])
        values[-1] += [float(value) for value in model.predict(x).ravel()]
    pairs = zip(*(model._model.get_weights() for model in both))
    found[path.stem] = {
        "framework": file.framework, "apart": max(float(np.abs(one - two).max()) for one, two in pairs),
        "values": float(np.abs(np.subtract(*values)).max()), "said": list(said),
        "device": both[1].describe().splitlines()[-1].rpartition(", ")[2],
    }
    if path.stem == "adam":  # what two have learnt, one goes on with
        two, one = both[1], both[0]
        two.checkpoint(path.with_suffix(".npz"))
        one.restore(path.with_suffix(".npz"))
        two.fit(x, y, 50, 3)
        one.fit(x, y, 50, 3)
        two.save(path.with_suffix(".saved"))
        two.export_onnx(path.with_suffix(".onnx"))
        found[path.stem]["after"] = max(
            float(np.abs(two.predict(x) - other.predict(x)).max())
            for other in (one, type(two).load(path.with_suffix(".saved")))
        )
print(json.dumps(found))
"""


def test_two_devices_learn_what_one_does(tmp_path):
    both = run_in_both_keras(TRAINING, tmp_path, [NETWORKS, NETWORKS])
    for found, framework in zip(both, ("keras", "keras2"), strict=True):
        assert set(found) == set(NETWORKS)
        own = found.pop("own_step")
        assert own["said"] == [
            "own_step.py: it has a train_step of its own, which may take the mean over a part of the batch: "
            "training on 1 GPU of 2"
        ]
        assert own["device"] == "CPU"
        assert own["apart"] == 0
        for name, each in found.items():
            assert each["framework"] == framework
            assert each["device"] == "2 GPUs"
            # The variance of a batch suffers more from another order of adding, and is divided by.
            assert each["apart"] < (1e-3 if name == "normalised" else 1e-5), name
            assert each["values"] < (1e-3 if name == "normalised" else 1e-5), name
            assert each["said"] == []
        assert found["adam"]["after"] < 1e-6


def test_a_gpu_that_is_not_there_is_said(make, caplog):
    make(text())
    import tensorflow

    if tensorflow.config.list_physical_devices("GPU"):
        pytest.skip("there is a GPU")
    for asked, what in ((1, "1 GPU was"), (4, "4 GPUs were")):
        caplog.clear()
        with caplog.at_level(logging.WARNING, "mlaas_condor"):
            model = make(text(), gpus=asked)
        assert f"{what} asked for, TensorFlow sees none: training on the CPU" in caplog.text
        assert model.describe().endswith(", CPU")
