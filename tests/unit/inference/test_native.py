"""Models in the framework that made them, and what of their code is run."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from bundle_tools import recipe_of, rewrite, write_bundle
from data_tools import dataset_of

from mlaas_condor.errors import ModelFault
from mlaas_condor.inference.model import Model
from mlaas_condor.training import models
from mlaas_condor.training.frameworks import Setup
from mlaas_condor.training.keras.adapter import KerasModel

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning:tensorflow"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:keras"),
]
ROOT = Path(__file__).parents[3]
HEAD = """\
from pathlib import Path

import keras

Path({ran!r}).write_text("")
"""
PLAIN = """

def model(idim):
    return keras.Sequential([keras.Input((idim,)), keras.layers.Dense(1, activation="sigmoid")])
"""
OWN = """

class Doubled(keras.layers.Layer):
    def call(self, x):
        return 2 * x


def model(idim):
    layers = [keras.Input((idim,)), Doubled(), keras.layers.Dense(1, activation="sigmoid")]
    return keras.Sequential(layers)
"""
LAMBDA = """

def model(idim):
    layers = [keras.Input((idim,)), keras.layers.Lambda(lambda x: 2 * x), keras.layers.Dense(1)]
    return keras.Sequential(layers)
"""
X = np.random.default_rng(2).random((20, 1), np.float32)


@pytest.fixture
def make(tmp_path, mktree):
    """Make a bundle of a Keras model; return its folder, the model, and what running model.py leaves."""

    def of(text):
        folder, ran = tmp_path / "bundle", tmp_path / "ran"
        write_bundle(folder, dataset_of([mktree("a.root", 30)], features=["njets"]), recipe_of())
        (folder / "model.onnx").unlink()
        (folder / "model.py").write_text(HEAD.format(ran=str(ran)) + text)
        model = KerasModel.build(models.check(folder / "model.py"), Setup(1, seed=1))
        model.save(folder)
        ran.unlink()
        return folder, model, ran

    return of


def test_a_plain_model_needs_no_trust_and_runs_no_code(make, tmp_path):
    folder, made, ran = make(PLAIN)
    model = Model.load(folder)
    assert model.runtime == "keras"
    assert model.predict(X).tobytes() == made.predict(X).tobytes()
    assert model.predict(tmp_path / "a.root").shape == (30,)
    assert not ran.exists()


def test_onnx_and_native_agree(make):
    folder, made, ran = make(PLAIN)
    made.export_onnx(folder / "model.onnx")
    by_onnx, native = Model.load(folder), Model.load(folder, runtime="native")
    assert (by_onnx.runtime, native.runtime) == ("onnxruntime", "keras")
    assert by_onnx.predict(X) == pytest.approx(native.predict(X), abs=1e-6)
    assert not ran.exists()


@pytest.mark.parametrize("text", [OWN, LAMBDA], ids=["own class", "lambda"])
def test_code_of_the_users_own_is_run_with_trust_only(make, text):
    folder, made, ran = make(text)
    with pytest.raises(
        ModelFault, match=r"holds no Keras model .* code of model\.py: load it with trust=True"
    ):
        Model.load(folder)
    assert not ran.exists()
    model = Model.load(folder, trust=True)
    assert ran.exists()
    assert model.predict(X) == pytest.approx(made.predict(X), abs=1e-6)


def test_keras_2_beside_keras_3_says_what_to_do(make):
    folder, *_ = make(PLAIN)
    (folder / "model.keras").unlink()
    rewrite(folder, framework="keras2")
    with pytest.raises(ModelFault, match=r"in a process of its own, or with onnxruntime"):
        Model.load(folder, trust=True)


PROGRAM = """
import sys
from pathlib import Path
import numpy as np
from mlaas_condor.errors import ModelFault
from mlaas_condor.inference.model import Model
from mlaas_condor.training import models, onnx
from mlaas_condor.training.frameworks import Portion, Setup, open_adapter

folder, framework = Path(sys.argv[1]), sys.argv[2]
made = open_adapter(models.check(folder / "model.py"), Setup(1, seed=1))
x = np.linspace(0, 1, 40, dtype=np.float32)[:, None]
y = (x[:, 0] > 0.5).astype(np.int64)
if made.learning == "passes":
    made.fit(x, y, 10)
else:
    list(made.fit_whole(lambda: iter([Portion(x, y, None)]), len(x)))
main = made.save(folder)
text = (folder / "features.json").read_text()
(folder / "features.json").write_text(text.replace("main file", main))
assert onnx.export(made, folder, x)["file"] == "model.onnx"
expected = made.predict(x).reshape(len(x), -1)[:, -1]
try:
    Model.load(folder, runtime="native")
    assert framework == "xgboost"
except ModelFault as fault:
    assert framework != "xgboost" and "trust=True" in str(fault), fault
for runtime, found in (("auto", "onnxruntime"), ("native", framework)):
    model = Model.load(folder, runtime=runtime, trust=runtime == "native")
    assert model.runtime == found
    assert np.allclose(model.predict(x), expected, atol=1e-5)
"""
OLD_KERAS = """\
import keras


def model(idim):
    network = keras.Sequential([keras.Input((idim,)), keras.layers.Dense(1, activation="sigmoid")])
    network.compile(keras.optimizers.Adam(lr=0.01), "binary_crossentropy")
    return network
"""
TORCH = """\
import torch


def model(idim):
    return torch.nn.Sequential(torch.nn.Linear(idim, 1), torch.nn.Sigmoid())
"""
SKLEARN = """\
from sklearn.linear_model import LogisticRegression


def model():
    return LogisticRegression()
"""
XGBOOST = """\
import xgboost


def model():
    return xgboost.XGBClassifier(n_estimators=5)
"""


@pytest.mark.parametrize(
    ("framework", "text"),
    [("keras2", OLD_KERAS), ("torch", TORCH), ("sklearn", SKLEARN), ("xgboost", XGBOOST)],
    ids=["keras2", "torch", "sklearn", "xgboost"],
)
def test_other_frameworks_each_in_a_process_of_its_own(tmp_path, mktree, framework, text):
    folder = tmp_path / "bundle"
    write_bundle(folder, dataset_of([mktree("a.root", 30)], features=["njets"]), recipe_of())
    (folder / "model.onnx").unlink()
    (folder / "model.py").write_text(text)
    rewrite(folder, framework=framework, model="main file")
    command = [sys.executable, "-c", PROGRAM, folder, framework]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
