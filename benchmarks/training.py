#!/usr/bin/env python3
"""How fast a training goes through our stream, against the same fit on arrays in memory.

    python benchmarks/training.py [--events N] [--columns N] [--batch N] [--rounds N]

Chunk files of made-up events are trained on with Keras and PyTorch: by our loop (standard procedure, chunks
mixed, from the scratch disk), by the framework's own fit on all events in memory, and for Keras as MLaaS4HEP
does it, one `Model.fit` a chunk on arrays converted for it. All in one process, in turns; the second epoch is
timed, and what is printed are events a second and their ratio to the fit in memory, medians over the rounds.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np

from mlaas_condor.data import chunkfile
from mlaas_condor.data.features import Columns
from mlaas_condor.data.specs import BranchSpecs, Specs
from mlaas_condor.params import CheckpointEvery
from mlaas_condor.training import models
from mlaas_condor.training.checkpoints import Checkpoints
from mlaas_condor.training.frameworks import Setup, open_adapter
from mlaas_condor.training.recipe import Recipe

CHUNK = 10_000
KERAS = """
import keras
def model(idim):
    dense = keras.layers.Dense
    net = keras.Sequential([keras.Input((idim,)), dense(64, activation="relu"), dense(32, activation="relu"),
                            dense(1, activation="sigmoid")])
    net.compile(optimizer=keras.optimizers.Adam(1e-3), loss="binary_crossentropy")
    return net
"""
TORCH = """
import torch
def model(idim):
    return torch.nn.Sequential(torch.nn.Linear(idim, 64), torch.nn.ReLU(), torch.nn.Linear(64, 32),
                               torch.nn.ReLU(), torch.nn.Linear(32, 1), torch.nn.Sigmoid())
"""


def make_chunks(folder, events, columns):
    """Write the chunks; the first columns tell the classes."""
    rng = np.random.default_rng(1)
    paths = []
    for index in range(events // CHUNK):
        file = rng.integers(0, 2, CHUNK).astype(np.uint32)
        branches = {
            f"b{i:03d}": (rng.random(CHUNK) + 0.1 * file * (i < 5)).astype("f4") for i in range(columns)
        }
        chunk = chunkfile.Chunk(branches, file, np.arange(CHUNK), {})
        paths.append(folder / f"chunk-{index:05d}.zip")
        chunkfile.write(paths[-1], chunk)
    return paths


def recipe(batch, threads):
    """Return a recipe of two epochs that test and validate with next to nothing."""
    return Recipe(
        name="bench", model="model.py", labels=[0, 1], classes=["0", "1"], epochs=2, batch_size=batch,
        standard=True, split=0.001, test=0.001, padding=None, threshold=0.5, seed=1, verbose=0,
        threads=threads, checkpoint=CheckpointEvery(seconds=3600),
    )  # fmt: skip


def ours(adapter, paths, columns, how, folder):
    """Return events a second of the second epoch through our loop."""
    from mlaas_condor.training.loop import Trainer
    from mlaas_condor.training.samples import Samples

    scratch = folder / "scratch"
    scratch.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as place:
        trainer = Trainer(
            adapter, Samples(paths, columns, how, scratch), how, Checkpoints(Path(place), "", how.checkpoint)
        )
        epochs = list(trainer.run())
    return epochs[-1].events / epochs[-1].seconds


def keras_in_memory(adapter, x, y, batch):
    """Return events a second of `Model.fit` on all events."""
    return timed(
        len(y), lambda: adapter._model.fit(x, y, batch_size=batch, epochs=1, shuffle=True, verbose=0)
    )


def keras_by_chunk(adapter, parts, batch):
    """Return events a second of one fit a chunk, arrays put together and split as MLaaS4HEP does it."""
    from sklearn.model_selection import train_test_split

    def run():
        for x, y in parts:
            both = np.append(x, np.array(y).reshape(len(y), 1), axis=1)
            train, _ = train_test_split(both, stratify=y, test_size=0.002, random_state=21, shuffle=True)
            adapter._model.fit(
                train[:, :-1], train[:, -1:], batch_size=batch, epochs=1, shuffle=True, verbose=0
            )

    return timed(sum(len(y) for _, y in parts), run)


def torch_in_memory(adapter, x, y, batch):
    """Return events a second of a plain loop over tensors in memory."""
    import torch

    network = torch.nn.Sequential(
        torch.nn.Linear(x.shape[1], 64), torch.nn.ReLU(), torch.nn.Linear(64, 32), torch.nn.ReLU(),
        torch.nn.Linear(32, 1), torch.nn.Sigmoid(),
    )  # fmt: skip
    optimizer, loss = torch.optim.Adam(network.parameters(), 1e-3), torch.nn.BCELoss()
    xs, ys = torch.from_numpy(x), torch.from_numpy(y.astype("f4"))[:, None]

    def run():
        order = torch.randperm(len(xs))
        for start in range(0, len(xs), batch):
            rows = order[start : start + batch]
            optimizer.zero_grad()
            loss(network(xs[rows]), ys[rows]).backward()
            optimizer.step()

    return timed(len(y), run)


def timed(events, run):
    """Return events a second of the second of two calls."""
    run()
    started = time.perf_counter()
    run()
    return events / (time.perf_counter() - started)


def adapter_for(text, folder, columns, threads):
    """Make a model of ours from the text of a model file."""
    path = folder / "model.py"
    path.write_text(text)
    return open_adapter(models.check(path), Setup(columns, 1, threads))


def main():
    """Measure, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--events", type=int, default=100_000)
    parser.add_argument("--columns", type=int, default=100)
    parser.add_argument("--batch", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        measure(folder, given)


def measure(folder, given):
    """Run all in turns, and print the medians."""
    paths = make_chunks(folder, given.events // CHUNK * CHUNK, given.columns)
    flat = {
        f"b{i:03d}": BranchSpecs(length=1, minimum=0.0, maximum=0.0, not_finite=0)
        for i in range(given.columns)
    }
    columns = Columns.of(Specs(flat=flat, jagged={}, kept=[]))
    how = recipe(given.batch, given.threads)
    keras = adapter_for(KERAS, folder, given.columns, given.threads)
    torch = adapter_for(TORCH, folder, given.columns, given.threads)

    from mlaas_condor.training.samples import Samples

    parts = [(np.array(sample.x), np.array(sample.y)) for sample in Samples(paths, columns, how)]
    x, y = (np.concatenate(each) for each in zip(*parts, strict=True))
    what = {
        "Keras, in memory": lambda: keras_in_memory(keras, x, y, given.batch),
        "Keras, our stream": lambda: ours(keras, paths, columns, how, folder),
        "Keras, a fit a chunk": lambda: keras_by_chunk(keras, parts, given.batch),
        "PyTorch, in memory": lambda: torch_in_memory(torch, x, y, given.batch),
        "PyTorch, our stream": lambda: ours(torch, paths, columns, how, folder),
    }
    rates = {name: [] for name in what}
    for _ in range(given.rounds):
        for name, run in what.items():
            rates[name].append(run())
    print(f"{len(y)} events, {given.columns} columns, batches of {given.batch}, {given.threads} threads")
    for name, found in rates.items():
        peer = rates[f"{name.split(',')[0]}, in memory"]
        ratio = statistics.median(a / b for a, b in zip(found, peer, strict=True))
        print(f"{name:24} {statistics.median(found):12,.0f} events/s   {ratio:5.2f} of in memory")


if __name__ == "__main__":
    sys.exit(main())
