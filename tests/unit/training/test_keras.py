"""The Keras adapter on real TensorFlow; Keras 2 in processes of its own, for it cannot share one."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mlaas_condor.errors import FrameworkMissing, ModelFault, OutOfMemory, StorageFull
from mlaas_condor.training import frameworks, models
from mlaas_condor.training import keras as adapter
from mlaas_condor.training.models import LegacyKerasNeeded

ROOT = Path(__file__).parents[3]
OLD = ROOT / "tests" / "data" / "old_style_model.py"
COLUMNS = 6

# What TensorFlow's own Python code does on import, by the module that does it.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning:tensorflow"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:keras"),
]

PLAIN = """
import keras
def model(idim):
    net = keras.Sequential([keras.Input((idim,)), keras.layers.Dense(8, activation="relu"), {middle}
                            keras.layers.Dense({outputs}, activation="{activation}")])
    {compile}
    return net
"""
COMPILE = "net.compile(optimizer=keras.optimizers.Adam(0.01), loss='{loss}', metrics=['accuracy'])"


def text(outputs=1, activation="sigmoid", middle="", loss="binary_crossentropy"):
    compile_line = COMPILE.format(loss=loss) if loss else ""
    return PLAIN.format(outputs=outputs, activation=activation, middle=middle, compile=compile_line)


@pytest.fixture
def make(tmp_path, monkeypatch):
    monkeypatch.delenv(models.LEGACY_VARIABLE, raising=False)

    def make_adapter(content, seed=3):
        path = tmp_path / "model.py"
        path.write_text(content)
        return frameworks.open_adapter(models.check(path), COLUMNS, seed, 1)

    return make_adapter


def events(count, classes=2, seed=0):
    generator = np.random.default_rng(seed)
    x = generator.random((count, COLUMNS), dtype=np.float32)
    return x, np.minimum((x[:, 0] * classes).astype(np.int64), classes - 1)


def weights(model):
    return [weight.numpy() for weight in model._model.weights]


def same(some, others):
    return len(some) == len(others) and all(np.array_equal(a, b) for a, b in zip(some, others, strict=True))


def test_fit_does_what_keras_does(make):
    x, y = events(250)  # the last batch is a short one
    ours, theirs = make(text()), make(text())
    logs = ours.fit(x, y, 100)
    kept = theirs._model.fit(x, y, batch_size=100, shuffle=False, verbose=0).history
    for mine, other in zip(weights(ours), weights(theirs), strict=True):
        np.testing.assert_allclose(mine, other, rtol=1e-5, atol=1e-7)
    assert set(logs) == set(kept) == {"loss", "accuracy"}
    assert logs["loss"] == pytest.approx(kept["loss"][0], rel=1e-5)


def test_shuffling_is_a_permutation_chosen_by_the_seed(make):
    x, y = events(230)
    order = np.arange(len(x))
    np.random.default_rng(17).shuffle(order)
    by_seed, by_hand, other = make(text()), make(text()), make(text())
    by_seed.fit(x, y, 50, shuffle_seed=17)
    by_hand.fit(x[order], y[order], 50)
    other.fit(x, y, 50, shuffle_seed=18)
    assert same(weights(by_seed), weights(by_hand))
    assert not same(weights(by_seed), weights(other))


def test_it_learns(make):
    x, y = events(3000)
    model = make(text())
    first = model.evaluate(x, y)
    for epoch in range(8):
        model.fit(x, y, 50, shuffle_seed=epoch)
    last = model.evaluate(x, y)
    assert last["loss"] < 0.5 * first["loss"]
    assert last["accuracy"] > 0.93
    assert np.mean((model.predict(x) >= 0.5) == y) == pytest.approx(last["accuracy"], abs=1e-6)


def test_evaluate_changes_nothing(make):
    x, y = events(100)
    model = make(text(middle="keras.layers.BatchNormalization(),"))
    before = weights(model)
    model.evaluate(x, y)
    model.predict(x)
    assert same(before, weights(model))


def test_predict_is_the_same_whatever_the_batches(make, monkeypatch):
    x, _ = events(101)
    model = make(text())
    whole = model.predict(x)
    assert (whole.shape, whole.dtype) == ((101,), np.float32)
    monkeypatch.setattr(adapter, "PREDICT_BATCH", 25)
    np.testing.assert_allclose(model.predict(x), whole, rtol=1e-6)
    np.testing.assert_allclose(model.predict(x.astype(np.float64)), whole, rtol=1e-6)
    assert model.predict(x[:0]).shape == (0,)


@pytest.mark.parametrize("loss", ["sparse_categorical_crossentropy", "categorical_crossentropy", ""])
def test_several_classes(make, loss):
    x, y = events(1500, classes=3)
    model = make(text(outputs=3, activation="softmax", loss=loss))
    for epoch in range(15):
        model.fit(x, y, 20, shuffle_seed=epoch)
    scores = model.predict(x)
    assert scores.shape == (1500, 3)
    assert np.mean(scores.argmax(axis=1) == y) > 0.75


def test_two_outputs_with_binary_crossentropy(make):
    x, y = events(300)
    logs = make(text(outputs=2, activation="softmax")).fit(x, y, 50)
    assert np.isfinite(logs["loss"])


def test_a_model_that_was_not_compiled(make):
    x, y = events(200)
    model = make(text(loss=""))
    assert set(model.fit(x, y, 50)) == {"loss", "accuracy"}
    assert "binary_crossentropy, optimizer Adam" in model.describe()


def test_a_model_run_eagerly_with_its_own_training_step(make):
    x, y = events(60)
    content = (
        "import keras\n"
        "seen = []\n"
        "class Mine(keras.Sequential):\n"
        "    def train_step(self, data):\n"
        "        seen.append(len(data[0]))\n"
        "        return super().train_step(data)\n"
        "def model(idim):\n"
        "    net = Mine([keras.Input((idim,)), keras.layers.Dense(1)])\n"
        "    net.compile('sgd', 'mse', run_eagerly=True)\n"
        "    return net\n"
    )
    make(content).fit(x, y, 25)
    assert sys.modules[models.MODULE_NAME].seen == [25, 25, 10]


def test_the_seed_decides(make):
    assert same(weights(make(text(), seed=3)), weights(make(text(), seed=3)))
    assert not same(weights(make(text(), seed=3)), weights(make(text(), seed=4)))


def test_a_checkpoint_goes_on_bit_by_bit(make, tmp_path):
    x, y = events(300)
    content = text(middle="keras.layers.Dropout(0.5), keras.layers.BatchNormalization(),")
    model = make(content)
    model.fit(x, y, 50, 1)
    model.checkpoint(tmp_path / "one.npz")
    model.fit(x, y, 50, 2)
    again = make(content, seed=99)
    again.restore(tmp_path / "one.npz")
    assert not same(weights(again), weights(model))
    again.fit(x, y, 50, 2)
    assert same(weights(again), weights(model))
    assert not (tmp_path / "one.npz.part").exists()


def test_a_checkpoint_of_another_model_is_refused(make, tmp_path):
    make(text()).checkpoint(tmp_path / "one.npz")
    with pytest.raises(ModelFault, match="another model"):
        make(text(outputs=2)).restore(tmp_path / "one.npz")


def test_saved_and_loaded_it_predicts_the_same(make, tmp_path, capfd):
    x, y = events(200)
    model = make(text(middle="keras.layers.BatchNormalization(),"))
    model.fit(x, y, 50)
    capfd.readouterr()
    assert model.save(tmp_path / "out") == "saved_model.pb"
    assert capfd.readouterr().out == ""
    found = {path.name for path in (tmp_path / "out").iterdir()}
    assert found >= {"saved_model.pb", "variables", "assets", "model.keras"}
    loaded = adapter.KerasModel.load(tmp_path / "out")
    np.testing.assert_array_equal(loaded.predict(x), model.predict(x))
    assert loaded.evaluate(x, y) == model.evaluate(x, y)

    import tensorflow

    served = tensorflow.saved_model.load(str(tmp_path / "out")).signatures["serving_default"]
    (scores,) = served(tensorflow.constant(x)).values()
    np.testing.assert_allclose(scores.numpy()[:, 0], model.predict(x), rtol=1e-5)


def test_classes_of_the_user_come_back_with_the_file(make, tmp_path):
    content = text(middle="Twice(),").replace(
        "def model",
        "class Twice(keras.layers.Layer):\n    def call(self, x):\n        return 2 * x\ndef model",
    )
    model = make(content)
    model.save(tmp_path / "out")
    x, _ = events(20)
    with pytest.raises(ModelFault, match="no Keras model that can be loaded"):
        adapter.KerasModel.load(tmp_path / "out")
    loaded = adapter.KerasModel.load(tmp_path / "out", models.check(tmp_path / "model.py"))
    np.testing.assert_array_equal(loaded.predict(x), model.predict(x))


def test_loading_what_is_no_model(tmp_path):
    (tmp_path / "model.keras").write_bytes(b"nothing")
    with pytest.raises(ModelFault, match="no Keras model"):
        adapter.KerasModel.load(tmp_path)


@pytest.mark.parametrize("call", ["fit", "evaluate", "predict"])
def test_wrong_columns_name_those_expected(make, call):
    x, y = events(20)
    model = make(text())
    arguments = {"fit": (x[:, :4], y, 10), "evaluate": (x[:, :4], y), "predict": (x[:, :4],)}
    with pytest.raises(ModelFault, match=r"model\.py: made for 6 columns, given events of shape \(20, 4\)"):
        getattr(model, call)(*arguments[call])


def test_a_network_of_the_wrong_width(make):
    with pytest.raises(ModelFault, match=r"(?s)events of 6 columns.*shape"):
        make(text().replace("keras.Input((idim,))", "keras.Input((idim + 1,))"))


def test_more_classes_than_scores(make):
    x, y = events(90, classes=3)
    with pytest.raises(ModelFault, match=r"3 classes, the model gives 1 score"):
        make(text()).fit(x, y, 10)


def test_an_output_that_is_no_score(make):
    with pytest.raises(ModelFault, match=r"one score, or one a class; for 2 events the model returns shape"):
        make(text(middle="keras.layers.Reshape((4, 2)),"))


def test_no_keras_model(make):
    with pytest.raises(ModelFault, match="returns a dict, no Keras model"):
        make("import keras\ndef model(idim): return {}")


def test_the_users_own_error_is_not_blamed_on_keras(make):
    with pytest.raises(ModelFault, match=r"model\.py:2: ValueError: mine") as caught:
        make("import keras\ndef model(idim): raise ValueError('mine')")
    assert not isinstance(caught.value, LegacyKerasNeeded)


@pytest.mark.parametrize(
    "line",
    [
        "keras.optimizers.Adam(**{'lr': 0.1})",
        "getattr(keras.layers, 'LocallyConnected1D')",
        "keras.Sequential([keras.layers.Dense(1)]).compile('sgd', 'mse', **{'target_tensors': None})",
        "__import__('keras.preprocessing.text')",
        "keras.Sequential().fit_generator",
    ],
)
def test_old_code_that_only_shows_when_it_is_run(make, line):
    with pytest.raises(LegacyKerasNeeded, match=r"model\.py:2: [\s\S]*Keras 3 refuses this"):
        make(f"import keras\ndef model(idim): {line}")


def test_a_file_for_keras2_in_a_process_with_keras3(make):
    make(text())
    with pytest.raises(LegacyKerasNeeded, match="Keras 3 is already imported"):
        frameworks.open_adapter(models.check(OLD), COLUMNS, 1, 1)


def test_out_of_memory_and_a_full_disk(make, tmp_path, monkeypatch):
    import tensorflow

    x, y = events(20)
    model = make(text())
    for error in (MemoryError(), tensorflow.errors.ResourceExhaustedError(None, None, "OOM")):

        def fail(*_, error=error):
            raise error

        monkeypatch.setattr(model, "_train_pass", fail)
        with pytest.raises(OutOfMemory, match="no memory left for 20 events of 6 columns"):
            model.fit(x, y, 10)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(model._model, "export", full)
    with pytest.raises(StorageFull):
        model.save(tmp_path / "out")


def test_what_is_not_installed_says_how_to_install_it(make, monkeypatch):
    monkeypatch.setitem(sys.modules, "keras", None)
    with pytest.raises(FrameworkMissing, match=r"pip install 'mlaas-condor\[tensorflow\]'"):
        make("import keras\ndef model(idim): ...")


def test_frameworks_without_an_adapter(make):
    with pytest.raises(FrameworkMissing, match="torch models cannot be trained yet"):
        make("import torch\ndef model(idim): ...")


# One training in a process of its own: what it printed, the files, and the weights' digest.
TRAINING = """
import hashlib, json, sys
from pathlib import Path
import numpy as np
from mlaas_condor.training import frameworks, models
file = models.check(Path(sys.argv[1]))
model = frameworks.open_adapter(file, 20, 11, 2)
x = np.random.default_rng(0).random((700, 20), dtype=np.float32)
y = (x[:, 0] > 0.5).astype(int)
logs = [model.fit(x, y, 64, seed) for seed in range(3)]
scores = model.predict(x)
folder = Path(sys.argv[2])
model.save(folder)
again = type(model).load(folder, file)
model.checkpoint(folder.with_suffix(".npz"))
model.restore(folder.with_suffix(".npz"))
import keras, tensorflow
print(json.dumps({
    "framework": file.framework, "keras": keras.__name__, "same": tensorflow.keras is keras,
    "logs": logs, "optimizer": type(model._model.optimizer).__module__,
    "digest": hashlib.sha256(b"".join(w.numpy().tobytes() for w in model._model.weights)).hexdigest(),
    "files": sorted(p.name for p in folder.iterdir()), "shape": scores.shape,
    "loaded": bool(np.array_equal(again.predict(x), scores)), "threads":
    tensorflow.config.threading.get_intra_op_parallelism_threads(),
}))
"""


def train(path, folder, **environment):
    done = subprocess.run(
        [sys.executable, "-c", TRAINING, str(path), str(folder)],
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_keras2_trains_the_old_model_as_it_is(tmp_path):
    first = train(OLD, tmp_path / "a")
    assert (first["framework"], first["keras"], first["same"]) == ("keras2", "tf_keras", True)
    assert set(first["files"]) >= {"saved_model.pb", "keras_metadata.pb", "variables", "assets"}
    assert "model.keras" not in first["files"]
    assert first["loaded"]
    assert first["shape"] == [700]
    assert first["threads"] == 2
    assert set(first["logs"][0]) == {"loss", "accuracy", "auc"}
    assert first["logs"][2]["loss"] < first["logs"][0]["loss"]
    # The same seed, another process: the same bits.
    assert train(OLD, tmp_path / "b")["digest"] == first["digest"]


def test_keras3_gives_the_same_bits_in_another_process(tmp_path):
    example = ROOT / "examples" / "tth" / "model.py"
    first = train(example, tmp_path / "a")
    assert (first["framework"], first["keras"]) == ("keras", "keras")
    assert first["loaded"]
    assert train(example, tmp_path / "b")["digest"] == first["digest"]


def test_with_decay_the_older_optimizers_are_bound(tmp_path):
    path = tmp_path / "model.py"
    content = text().replace("import keras", "from tensorflow import keras")
    path.write_text(content.replace("Adam(0.01)", "Adam(decay=1e-4, **{'lr': 0.01})"))
    found = train(path, tmp_path / "a")
    assert (found["framework"], found["keras"]) == ("keras2", "tf_keras")
    assert ".legacy." in found["optimizer"]
