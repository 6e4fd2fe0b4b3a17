"""The Keras adapter on real TensorFlow: training, event weights, regressions, files."""

import sys

import numpy as np
import pytest
from keras_tools import event_weights, events, maker, same, text, weights

from mlaas_condor.errors import ModelFault
from mlaas_condor.training import models
from mlaas_condor.training.keras import adapter

# What TensorFlow's own Python code does on import, by the module that does it.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning:tensorflow"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:keras"),
]


@pytest.fixture
def make(tmp_path, monkeypatch):
    return maker(tmp_path, monkeypatch)


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


@pytest.mark.parametrize(
    ("outputs", "activation", "loss"),
    [(1, "sigmoid", "binary_crossentropy"), (3, "softmax", "sparse_categorical_crossentropy")],
)
def test_weights_do_what_keras_does(make, outputs, activation, loss):
    x, y = events(250, classes=max(outputs, 2))
    w = event_weights(250)
    content = text(outputs, activation, loss=loss)
    ours, theirs = make(content), make(content)
    logs = [ours.fit(x, y, 100, weights=w) for _ in range(2)][-1]
    kept = theirs._model.fit(
        x, y, sample_weight=w, batch_size=100, epochs=2, shuffle=False, verbose=0
    ).history
    for mine, other in zip(weights(ours), weights(theirs), strict=True):
        np.testing.assert_allclose(mine, other, rtol=1e-4, atol=1e-6)
    assert logs["loss"] == pytest.approx(kept["loss"][-1], rel=1e-4)
    asked = theirs._model.evaluate(x, y, sample_weight=w, batch_size=250, return_dict=True, verbose=0)
    assert theirs.evaluate(x, y, w) == pytest.approx(asked, rel=1e-5)


def test_weights_of_one_are_no_weights(make):
    x, y = events(250)
    weighted, plain = make(text()), make(text())
    logs = [weighted.fit(x, y, 100, 4, np.ones(250)), plain.fit(x, y, 100, 4)]
    assert logs[0] == pytest.approx(logs[1], rel=1e-5)
    for one, other in zip(weights(weighted), weights(plain), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-7)


def test_weight_two_is_the_event_twice_and_weight_zero_none(make):
    """In one batch, with plain SGD: the same gradient once the batch sizes are put right."""
    x, y = events(60)
    times = np.random.default_rng(4).integers(0, 3, 60)
    content = text().replace("Adam(0.01)", "SGD(0.5)")
    weighted, repeated = make(content), make(content)
    mean = times.mean()
    first = weighted.fit(x, y, 1000, weights=times / mean)
    second = repeated.fit(np.repeat(x, times, axis=0), np.repeat(y, times), 1000)
    assert first["loss"] == pytest.approx(second["loss"], rel=1e-5)
    for one, other in zip(weights(weighted), weights(repeated), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)


def test_weights_follow_their_events_when_shuffled(make):
    x, y = events(230)
    w = event_weights(230)
    order = np.arange(len(x))
    np.random.default_rng(17).shuffle(order)
    by_seed, by_hand = make(text()), make(text())
    by_seed.fit(x, y, 50, 17, w)
    by_hand.fit(x[order], y[order], 50, None, w[order])
    assert same(weights(by_seed), weights(by_hand))


def test_a_pass_is_traced_once_whatever_the_weights_and_the_number_of_events(make):
    traced = []
    model = make(text())
    step = model._model.train_step
    model._model.train_step = lambda data: traced.append(1) or step(data)
    for count in (40, 75, 75):
        model.fit(*events(count), 20, weights=event_weights(count, count))
    assert len(traced) == 1


def test_weights_in_a_model_run_eagerly(make):
    x, y = events(60)
    eager, compiled = (
        make(text().replace("metrics=", f"run_eagerly={way}, metrics=")) for way in (True, False)
    )
    for model in (eager, compiled):
        model.fit(x, y, 25, weights=event_weights(60))
    for one, other in zip(weights(eager), weights(compiled), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)


def test_weights_need_a_column_of_outputs(make):
    """Keras 3 would take the mean of the batch first, and not weigh events at all."""
    x, y = events(60)
    content = text().replace("    net.compile", "    net.add(keras.layers.Reshape(()))\n    net.compile")
    model = make(content)
    assert np.isfinite(model.fit(x, y, 25)["loss"])
    for call in (lambda: model.fit(x, y, 25, None, np.ones(60)), lambda: model.evaluate(x, y, np.ones(60))):
        with pytest.raises(
            ModelFault, match=r"model\.py: with event weights the model must give .*Dense\(1\)"
        ):
            call()


def linear(count, seed=0):
    x, _ = events(count, seed=seed)
    return x, 3.0 + x.astype(np.float64) @ np.array([2.0, -1.0, 0.5, 0.0, 4.0, -3.0])


def test_a_regression_learns_a_linear_truth(make):
    x, y = linear(4000)
    model = make(text(activation="linear", loss="mse"), task="regression")
    for epoch in range(12):
        model.fit(x, y, 50, epoch)
    fresh, truth = linear(1000, seed=9)
    found = model.predict(fresh)
    assert found.shape == (1000,)
    assert np.std(found - truth) < 0.03 * np.std(truth)
    assert model.evaluate(fresh, truth)["loss"] == pytest.approx(np.mean((found - truth) ** 2), rel=1e-3)


@pytest.mark.parametrize("weighted", [False, True])
def test_a_regression_does_what_keras_does(make, weighted):
    x, y = linear(250)
    w = event_weights(250) if weighted else None
    content = text(activation="linear", loss="mse")
    ours, theirs = make(content, task="regression"), make(content, task="regression")
    logs = ours.fit(x, y, 100, weights=w)
    kept = theirs._model.fit(
        x, y.astype(np.float32)[:, None], sample_weight=w, batch_size=100, shuffle=False, verbose=0
    ).history
    for mine, other in zip(weights(ours), weights(theirs), strict=True):
        np.testing.assert_allclose(mine, other, rtol=1e-4, atol=1e-6)
    assert logs["loss"] == pytest.approx(kept["loss"][0], rel=1e-4)


def test_a_regression_that_was_not_compiled_takes_the_squares(make):
    x, y = linear(200)
    model = make(text(activation="linear", loss=""), task="regression")
    logs = model.evaluate(x, y)
    residual = model.predict(x) - y
    assert logs == pytest.approx({"loss": np.mean(residual**2), "mae": np.mean(np.abs(residual))}, rel=1e-4)
    assert "loss mse, optimizer Adam" in model.describe()


def test_a_regression_of_a_model_with_flat_output(make):
    x, y = linear(200)
    content = text(activation="linear", loss="huber")
    flat = make(
        content.replace("    net.compile", "    net.add(keras.layers.Reshape(()))\n    net.compile"),
        task="regression",
    )
    column = make(content, task="regression")
    assert flat.fit(x, y, 50)["loss"] == pytest.approx(column.fit(x, y, 50)["loss"], rel=1e-4)
    assert flat.predict(x).shape == (200,)


@pytest.mark.parametrize(
    "loss",
    ["'binary_crossentropy'", "'bce'", "keras.losses.BinaryCrossentropy(name='mine')",
     "keras.losses.binary_crossentropy", "['binary_crossentropy']", "keras.losses.BinaryFocalCrossentropy()"],
)  # fmt: skip
def test_a_regression_with_a_loss_for_classes_is_refused(make, loss):
    content = text(activation="sigmoid").replace("'binary_crossentropy'", loss)
    with pytest.raises(ModelFault, match=r"model\.py: compiled with the loss .* use mse, mae or huber"):
        make(content, task="regression")


@pytest.mark.parametrize("loss", ["'mae'", "keras.losses.Huber()", "lambda true, found: (true - found) ** 2"])
def test_other_losses_are_the_users_choice(make, loss):
    content = text(activation="linear").replace("'binary_crossentropy'", loss)
    assert np.isfinite(make(content, task="regression").fit(*linear(60), 20)["loss"])


@pytest.mark.parametrize(("activation", "ends"), [("sigmoid", "0 to 1"), ("relu", "0 to inf")])
def test_targets_beyond_what_the_last_layer_gives_are_refused(make, activation, ends):
    x, y = linear(60)
    model = make(text(activation=activation, loss="mse"), task="regression")
    with pytest.raises(ModelFault, match=f"the last layer's {activation} gives {ends}: .* Dense"):
        model.fit(x, y - 5, 20)
    assert np.isfinite(model.fit(x, (y - y.min()) / np.ptp(y), 20)["loss"])


def test_a_regression_with_several_outputs_is_refused(make):
    with pytest.raises(ModelFault, match="one output an event, the model gives 3"):
        make(text(outputs=3, activation="linear", loss="mse"), task="regression")


def test_a_regression_comes_back_from_its_files(make, tmp_path):
    x, y = linear(100)
    model = make(text(activation="linear", loss="mse"), task="regression")
    model.fit(x, y, 20)
    model.save(tmp_path / "out")
    loaded = adapter.KerasModel.load(tmp_path / "out", task="regression")
    np.testing.assert_array_equal(loaded.predict(x), model.predict(x))
    assert loaded.evaluate(x, y) == model.evaluate(x, y)


def test_the_seed_decides(make):
    assert same(weights(make(text(), seed=3)), weights(make(text(), seed=3)))
    assert not same(weights(make(text(), seed=3)), weights(make(text(), seed=4)))


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
