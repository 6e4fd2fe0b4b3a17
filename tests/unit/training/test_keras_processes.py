"""Trainings in processes of their own: Keras 2 cannot share one, and another one is to give the same bits."""

import pytest
from keras_tools import OLD, ROOT, run, text

# One training in a process of its own: what it printed, the files, and the weights' digest.
TRAINING = """
import hashlib, json, sys
from pathlib import Path
import numpy as np
from mlaas_condor.training import frameworks, models
file = models.check(Path(sys.argv[1]))
model = frameworks.open_adapter(file, frameworks.Setup(20, 11, 2))
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


def train(path, folder):
    return run(TRAINING, path, folder)


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


# In Keras 2 as above in Keras 3: ours and theirs, with weights, for both tasks.
WEIGHTED = """
import json, sys
from pathlib import Path
import numpy as np
from mlaas_condor.training import frameworks, models
generator = np.random.default_rng(0)
x = generator.random((250, 6), dtype=np.float32)
w = generator.choice([-0.5, 0.0, 1.0, 2.5], 250)
found = {}
for task, y in (("classification", (x[:, 0] > 0.5).astype(int)), ("regression", 3 * x[:, 0] - 1)):
    file = models.check(Path(sys.argv[1]) / f"{task}.py")
    ours, theirs = (frameworks.open_adapter(file, frameworks.Setup(6, 3, 1, task)) for _ in range(2))
    logs = ours.fit(x, y, 100, weights=w)
    kept = theirs._model.fit(
        x, y.astype(np.float32)[:, None], sample_weight=w, batch_size=100, shuffle=False, verbose=0
    ).history
    pairs = list(zip(ours._model.get_weights(), theirs._model.get_weights()))
    asked = theirs._model.evaluate(x, y, sample_weight=w, batch_size=250, return_dict=True, verbose=0)
    found[task] = {
        "framework": file.framework, "losses": [logs["loss"], kept["loss"][0]],
        "evaluated": [theirs.evaluate(x, y, w)["loss"], asked["loss"]],
        "apart": max(float(np.abs(a - b).max()) for a, b in pairs), "shape": ours.predict(x).shape,
    }
print(json.dumps(found))
"""


def test_weights_and_regressions_in_keras2_do_what_keras2_does(tmp_path):
    for task, loss, activation in (
        ("classification", "binary_crossentropy", "sigmoid"),
        ("regression", "mse", "linear"),
    ):
        content = text(activation=activation, loss=loss).replace("Adam(0.01)", "Adam(lr=0.01)")
        (tmp_path / f"{task}.py").write_text(content)
    for found in run(WEIGHTED, tmp_path).values():
        assert found["framework"] == "keras2"
        assert found["losses"][0] == pytest.approx(found["losses"][1], rel=1e-4)
        assert found["evaluated"][0] == pytest.approx(found["evaluated"][1], rel=1e-5)
        assert found["apart"] < 1e-6
        assert found["shape"] == [250]


def test_with_decay_the_older_optimizers_are_bound(tmp_path):
    path = tmp_path / "model.py"
    content = text().replace("import keras", "from tensorflow import keras")
    path.write_text(content.replace("Adam(0.01)", "Adam(decay=1e-4, **{'lr': 0.01})"))
    found = train(path, tmp_path / "a")
    assert (found["framework"], found["keras"]) == ("keras2", "tf_keras")
    assert ".legacy." in found["optimizer"]
