"""The rules by which old files are known, each tried on the installed Keras 3 and Keras 2."""

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mlaas_condor.training import keras2, models

ROOT = Path(__file__).parents[3]
OLD = ROOT / "tests" / "data" / "old_style_model.py"

KEYWORD_SNIPPETS = {
    ("keras.optimizers.", "lr"): "keras.optimizers.Adam(lr=1e-3)",
    ("keras.optimizers.", "decay"): "keras.optimizers.SGD(learning_rate=0.1, decay=1e-4)",
    ("keras.layers.", "batch_input_shape"): "keras.layers.Dense(3, batch_input_shape=(None, 4))",
    ("keras.layers.BatchNormalization", "fused"): "keras.layers.BatchNormalization(fused=True)",
    ("keras.layers.LSTM", "time_major"): "keras.layers.LSTM(2, time_major=True)",
    ("keras.layers.GRU", "time_major"): "keras.layers.GRU(2, time_major=True)",
}
COMPILE_SNIPPET = (
    "net = keras.Sequential([keras.layers.Dense(1)])\nnet.compile(loss='mse', optimizer='sgd', {}=None)"
)
BACKEND_SNIPPET = "from keras import backend as K\nK.clip(K.square(K.constant([1.0, 2.0])), 0, 1)"


def snippets():
    for name in sorted(keras2.GONE):
        parent, _, last = name.rpartition(".")
        # Keras 3 has a module keras.optimizers.legacy, in which everything fails when it is called.
        use = ".Adam(1e-3)" if last == "legacy" else ""
        yield f"from {parent} import {last}\n{last}{use}"
        yield f"import {parent}\n{name}{use}"
        if last.islower():
            yield f"import {name}\n{name}{use}"
    for snippet in KEYWORD_SNIPPETS.values():
        yield f"import keras\n{snippet}"
    for word in sorted(keras2.COMPILE_KEYWORDS):
        yield f"import keras\n{COMPILE_SNIPPET.format(word)}"
    yield BACKEND_SNIPPET


ALL = list(snippets())

RUNNER = """
import json, sys, warnings
from mlaas_condor.training.keras import binding
binding.bind(legacy=sys.argv[1] == "2", threads=1, old_optimizers=sys.argv[1] == "2")
results = []
for snippet in json.load(sys.stdin):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.filterwarnings("error", message=".*decay.*no longer supported")
        try:
            exec(snippet, {})
            results.append("")
        except BaseException as error:
            results.append(repr(error)[:200])
import keras
json.dump([results, sorted(n for n in dir(keras.backend) if n[0] != "_")], sys.stdout)
"""


def run_all(generation):
    done = subprocess.run(
        [sys.executable, "-c", RUNNER, generation],
        input=json.dumps(ALL),
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(done.stdout)


def test_there_is_a_snippet_for_every_keyword():
    rules = {(prefix, word) for prefix, words in keras2.KEYWORDS.items() for word in words}
    assert rules == set(KEYWORD_SNIPPETS)


@pytest.mark.parametrize("snippet", ALL)
def test_each_is_found_without_running_it(snippet):
    refusal = keras2.first_refusal(ast.parse(snippet))
    assert refusal is not None
    assert refusal.what


def test_keras3_refuses_each_and_kept_of_its_backend_what_we_say():
    results, backend = run_all("3")
    assert [snippet for snippet, error in zip(ALL, results, strict=True) if not error] == []
    assert set(backend) <= keras2.BACKEND


def test_keras2_takes_each():
    results, _ = run_all("2")
    assert {snippet: error for snippet, error in zip(ALL, results, strict=True) if error} == {}


@pytest.mark.parametrize(
    ("code", "line"),
    [
        ("import tensorflow as tf\n\ntf.keras.optimizers.Adam(lr=0.1)", 3),
        ("import tensorflow as tf\ntf.optimizers.Adam(lr=0.1)", 2),
        ("from tensorflow import keras\nkeras.optimizers.SGD(lr=0.1)", 2),
        ("from tensorflow.keras.optimizers import Adam as Best\nBest(lr=0.1)", 2),
        ("import tensorflow.keras as k\nk.optimizers.Adam(lr=0.1)", 2),
        ("import keras.optimizers\nkeras.optimizers.Adam(lr=0.1)", 2),
        ("from keras import optimizers\noptimizers.Adam(lr=0.1)", 2),
        ("import keras\nkeras.layers.experimental.preprocessing.Normalization()", 2),
        ("from keras.layers.experimental import preprocessing", 1),
        ("import keras\na = 1\nkeras.optimizers.Adam(lr=1)\nkeras.optimizers.Adam(lr=2)", 3),
    ],
)
def test_whatever_the_import_the_line_is_right(code, line):
    refusal = keras2.first_refusal(ast.parse(code))
    assert refusal is not None
    assert refusal.line == line


@pytest.mark.parametrize(
    "code",
    [
        "import keras\nkeras.optimizers.Adam(learning_rate=0.1)",
        "import keras\nkeras.layers.Dense(3, input_shape=(4,))",
        "import tensorflow as tf\ntf.keras.backend.square(2)",
        "import keras\nkeras.backend.clear_session()",
        "import keras\nfrom mine import Adam\nAdam(lr=0.1)",
        "import torch\ntorch.optim.Adam(lr=0.1)",
        "import keras\ndef step(lr): ...\nstep(lr=0.1)",
        "from keras.optimizers import schedules\nschedules.ExponentialDecay(0.1, 10, 0.9)",
    ],
)
def test_what_keras3_takes_is_left_to_keras3(code):
    assert keras2.first_refusal(ast.parse(code)) is None


def test_example_is_for_keras3_and_the_old_model_for_keras2(monkeypatch):
    monkeypatch.delenv(models.LEGACY_VARIABLE, raising=False)
    example = models.check(ROOT / "examples" / "tth" / "model.py")
    assert (example.framework, example.reason) == ("keras", "")
    old = models.check(OLD)
    assert old.framework == "keras2"
    line = next(i for i, text in enumerate(OLD.read_text().splitlines(), 1) if "lr=" in text)
    assert old.reason == (
        f"old_style_model.py:{line}: Adam(lr=…) is refused by Keras 3; trained with tf_keras (Keras 2)"
    )
    assert not old.old_optimizers


def test_decay_asks_for_the_older_optimizers(tmp_path):
    path = tmp_path / "model.py"
    path.write_text("import keras\ndef model(idim): return keras.optimizers.Adam(lr=1e-3, decay=1e-5)")
    assert models.check(path).old_optimizers
