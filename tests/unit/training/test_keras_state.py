"""What a checkpoint of a Keras model holds, what a pass draws, learning rates and averaged weights."""

import numpy as np
import pytest
from keras_tools import events, maker, run_in_both_keras, same, text, weights

from mlaas_condor.errors import ModelFault

# What TensorFlow's own Python code does on import, by the module that does it.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning:tensorflow"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:keras"),
]

NETWORK = """
import keras
import tensorflow as tf
{own}
def model(idim):
    start = keras.Input((idim,))
    x = keras.layers.Dense(8, activation="relu")(start)
    {middle}
    net = {kind}(start, keras.layers.Dense(1, activation="sigmoid")(x))
    net.steps = tf.Variable(0.0, trainable=False)
    net.compile({optimizer}, "binary_crossentropy", metrics=["accuracy"], run_eagerly={eager})
    return net
"""
NOISE = """x = keras.layers.BatchNormalization()(keras.layers.Dropout(0.3)(x))
    x = keras.layers.GaussianNoise(0.1)(x)"""
STEP = """
class Noise(keras.layers.Layer):
    def call(self, x, training=False):
        return x + {normal}(tf.shape(x)) if training else x
class Counting(keras.Model):
    def train_step(self, data):
        self.steps.assign_add(0.1)
        x, y = data
        with tf.GradientTape() as tape:
            loss = self.steps * tf.reduce_mean(tf.square(y[:, None] - self(x, training=True)))
        weights = self.trainable_variables
        self.optimizer.apply_gradients(zip(tape.gradient(loss, weights), weights))
        return {{"loss": loss}}
"""


def network(optimizer="keras.optimizers.Adam(0.01)", middle=NOISE, own="", kind="keras.Model", eager=False):
    return NETWORK.format(optimizer=optimizer, middle=middle, own=own, kind=kind, eager=eager)


def counting(normal):
    return network(middle="x = Noise()(x)", own=STEP.format(normal=normal), kind="Counting")


SCHEDULE = "keras.optimizers.schedules.ExponentialDecay(0.1, 3, 0.9)"
NETWORKS = {
    "adam_weighted": network(),
    "sgd": network(f"keras.optimizers.SGD({SCHEDULE}, momentum=0.9, use_ema=True)"),
    "eager": network(eager=True),
    "tensorflow": counting("tf.random.normal"),
}
OF_KERAS3 = {"global": counting("keras.random.normal")}
OF_KERAS2 = {"with_decay": network("keras.optimizers.legacy.Adam(0.01, decay=1e-2)")}

# Three passes, with a checkpoint after two; or the third from the checkpoint, from other first weights.
PASSES = """
import hashlib, json, sys
from pathlib import Path
import numpy as np
from mlaas_condor.training import frameworks, models
folder, first = Path(sys.argv[1]), sys.argv[2] == "first"
generator = np.random.default_rng(0)
x = generator.random((130, 6), dtype=np.float32)
y, w = (x[:, 0] > 0.5).astype(int), generator.choice([-0.5, 0.0, 1.0, 2.5], 130)
found = {}
for path in sorted(folder.glob("*.py")):
    weights = w if "weighted" in path.stem else None
    file = models.check(path)
    model = frameworks.open_adapter(file, frameworks.Setup(6, 3 if first else 99, 2))
    if first:
        model.fit(x, y, 40, 11, weights)
        if model.learning_rate() is not None:
            model.set_learning_rate(0.5 * model.learning_rate())
        model.fit(x, y, 40, 12, weights)
        model.checkpoint(path.with_suffix(".npz"))
    else:
        model.restore(path.with_suffix(".npz"))
    logs = model.fit(x, y, 40, 16, weights)
    model.checkpoint(path.with_suffix(".end"))
    with np.load(path.with_suffix(".end")) as end:
        digest = hashlib.sha256(b"".join(end[name].tobytes() for name in sorted(end.files)))
    digest.update(model.predict(x).tobytes())
    found[path.stem] = [file.framework, logs, digest.hexdigest()]
print(json.dumps(found))
"""


def test_from_a_checkpoint_another_process_goes_on_bit_by_bit(tmp_path):
    networks = NETWORKS | OF_KERAS3, NETWORKS | OF_KERAS2
    uninterrupted = run_in_both_keras(PASSES, tmp_path, networks, "first")
    for found, contents, framework in zip(uninterrupted, networks, ("keras", "keras2"), strict=True):
        assert set(found) == set(contents)
        assert {used for used, _, _ in found.values()} == {framework}
    assert run_in_both_keras(PASSES, tmp_path, networks, "second") == uninterrupted


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


@pytest.mark.parametrize("middle", ["keras.layers.Dropout(0.5),", "Noise(),"])
def test_a_pass_draws_what_its_seed_says(make, tmp_path, middle):
    """All events are the same one, so that nothing but the noise tells two orders of them apart."""
    x, y = np.ones((100, 6), np.float32), np.zeros(100, np.int64)
    noise = """
import tensorflow as tf
class Noise(keras.layers.Layer):
    def call(self, x, training=False):
        return x + tf.random.normal(tf.shape(x)) if training else x
def model"""
    model = make(text(middle=middle).replace("\ndef model", noise))
    model.checkpoint(tmp_path / "start.npz")
    found = {}
    for seed in (1, 2, 1):
        model.restore(tmp_path / "start.npz")
        model.fit(x, y, 20, seed)
        found.setdefault(seed, []).append(weights(model))
    assert same(*found[1])
    assert not same(found[1][0], found[2][0])


LEARNING = """
import json, sys
from pathlib import Path
import numpy as np
from mlaas_condor.training import frameworks, models
x = np.random.default_rng(0).random((40, 6), dtype=np.float32)
y = (x[:, 0] > 0.5).astype(int)
found = {}
for path in sorted(Path(sys.argv[1]).glob("*.py")):
    model = frameworks.open_adapter(models.check(path), frameworks.Setup(6, 3, 1))
    given = model.learning_rate()
    if given is None:
        try:
            model.set_learning_rate(0.1)
        except ValueError as error:
            found[path.stem] = str(error)
        continue
    model.checkpoint(path.with_suffix(".npz"))
    before = model._model.get_weights()
    moved = []
    for factor in (1, 2, 0):
        model.restore(path.with_suffix(".npz"))
        model.set_learning_rate(factor * given)
        model.fit(x, y, 40)
        after = model._model.get_weights()
        moved.append([a - b for a, b in zip(after, before)])
    found[path.stem] = [
        given, model.learning_rate(), max(float(abs(each).max()) for each in moved[0]),
        max(float(abs(2 * a - b).max()) for a, b in zip(*moved[:2])),
        max(float(abs(each).max()) for each in moved[2]),
    ]
print(json.dumps(found))
"""


def test_a_changed_learning_rate_is_learnt_with(tmp_path):
    """Of one step of gradient descent, which is as long as the rate says."""
    networks = [
        {
            f"{kind}_{name}": text().replace("keras.optimizers.Adam(0.01)", f"{kind}({rate})")
            for kind in kinds
            for name, rate in (("rate", 0.5), ("schedule", SCHEDULE))
        }
        for kinds in (["keras.optimizers.SGD"], ["keras.optimizers.SGD", "keras.optimizers.legacy.SGD"])
    ]
    for found, contents in zip(run_in_both_keras(LEARNING, tmp_path, networks), networks, strict=True):
        assert set(found) == set(contents)
        for name, values in found.items():
            if name.endswith("_schedule"):
                assert values == "SGD: the learning rate follows a schedule of its own"
                continue
            given, last, moved, apart, still = values
            assert (given, last, still) == (0.5, 0.0, 0.0)
            assert moved > 1e-3
            assert apart < 1e-6


def test_averaged_weights_are_what_predicts(make):
    """As after ``Model.fit``, while the training itself goes on from those that were learnt."""
    x, y = events(250)
    content = text().replace("Adam(0.01)", "Adam(0.05, use_ema=True, ema_momentum=0.9)")
    ours, theirs = make(content), make(content)
    np.testing.assert_allclose(ours.predict(x), theirs.predict(x))  # no step is done, there is no average
    for _ in range(2):
        ours.fit(x, y, 50, weights=np.ones(250))
    theirs._model.fit(x, y, sample_weight=np.ones(250), batch_size=50, epochs=2, shuffle=False, verbose=0)
    learnt = weights(ours)
    np.testing.assert_allclose(ours.predict(x), theirs._model(x)[:, 0], rtol=1e-5)
    assert ours.evaluate(x, y)["loss"] == pytest.approx(theirs._model.evaluate(x, y, verbose=0)[0], rel=1e-5)
    assert same(weights(ours), learnt)
    assert not same(learnt, weights(theirs))


@pytest.fixture
def make(tmp_path, monkeypatch):
    return maker(tmp_path, monkeypatch)
