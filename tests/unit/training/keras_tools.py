"""Model files, events and processes for the tests of the Keras adapter."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np

from mlaas_condor.training import frameworks, models
from mlaas_condor.training.frameworks import Setup

ROOT = Path(__file__).parents[3]
OLD = ROOT / "tests" / "data" / "old_style_model.py"
COLUMNS = 6

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


def maker(folder, monkeypatch):
    """Return what makes the model of a model file's text, with Keras 3."""
    monkeypatch.delenv(models.LEGACY_VARIABLE, raising=False)

    def make_adapter(content, seed=3, task="classification", gpus=0):
        path = folder / "model.py"
        path.write_text(content)
        return frameworks.open_adapter(models.check(path), Setup(COLUMNS, seed, 1, task, gpus=gpus))

    return make_adapter


def events(count, classes=2, seed=0):
    generator = np.random.default_rng(seed)
    x = generator.random((count, COLUMNS), dtype=np.float32)
    return x, np.minimum((x[:, 0] * classes).astype(np.int64), classes - 1)


def event_weights(count, seed=1):
    return np.random.default_rng(seed).choice([-0.5, 0.0, 1.0, 2.5], count)


def weights(model):
    return [weight.numpy() for weight in model._model.weights]


def same(some, others):
    return len(some) == len(others) and all(np.array_equal(a, b) for a, b in zip(some, others, strict=True))


def run(script, *arguments, **environment):
    """Run Python code in a process of its own; return what it prints as JSON."""
    return _end(_start(script, arguments, environment))


def run_in_both_keras(script, folder, networks, *arguments):
    """Run Python code on model files with Keras 3 and with Keras 2, at the same time.

    ``networks`` are the texts of the files by name, for each of the two; they go to a folder that the code
    gets as its first argument.
    """
    running = []
    for legacy, contents in zip(("", "1"), networks, strict=True):
        own = folder / f"keras{legacy}"
        own.mkdir(exist_ok=True)
        for name, content in contents.items():
            (own / f"{name}.py").write_text(content)
        running.append(_start(script, [own, *arguments], {models.LEGACY_VARIABLE: legacy}))
    with running[0], running[1]:
        return [_end(process) for process in running]


def _start(script, arguments, environment):
    return subprocess.Popen(
        [sys.executable, "-c", script, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def _end(process):
    out, err = process.communicate()
    assert process.returncode == 0, err
    return json.loads(out)
