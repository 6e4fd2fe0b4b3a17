"""Several devices learning one PyTorch module: processes on the CPU stand for GPUs, with real gloo."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from mlaas_condor.errors import ModelFault, OutOfMemory
from mlaas_condor.training import models
from mlaas_condor.training.frameworks import Setup
from mlaas_condor.training.torch import parallel
from mlaas_condor.training.torch.adapter import TorchModel

ROOT = Path(__file__).parents[3]
COLUMNS = 6
RANKS = ["cpu", "cpu"]

MODEL = """
import multiprocessing
import os
import time
import torch
from torch import nn
FIRST = multiprocessing.parent_process() is None
class Net(nn.Module):
    def __init__(self, idim):
        super().__init__()
        self.parts = nn.Sequential(nn.Linear(idim, 16), nn.ReLU(), nn.Linear(16, 1))
        self.idle = nn.Linear(3, 3)
    def forward(self, x):
        {line}
        return self.parts(x)[:, 0]
def model(idim):
    {first}
    return Net(idim)
"""


def content(line="pass", first="pass"):
    return MODEL.format(line=line, first=first)


@pytest.fixture
def make(tmp_path):
    made = []

    def make_adapter(text, devices=RANKS, seed=3):
        path = tmp_path / "model.py"
        path.write_text(text)
        model = TorchModel.on_devices(models.check(path), Setup(COLUMNS, seed, 2), devices)
        made.append(model)
        return model

    yield make_adapter
    for model in made:
        if model._ranks:
            model._ranks.close()


def events(count, seed=0):
    x = np.random.default_rng(seed).random((count, COLUMNS), dtype=np.float32)
    return x, (x[:, 0] > 0.5).astype(np.int64)


def weights(model):
    return [value.numpy().copy() for value in model._network.module.state_dict().values()]


def close(one, other):
    for a, b in zip(weights(one), weights(other), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


def test_two_learn_as_one(make, tmp_path):
    """Uneven shares, weights, a batch of a single event, more events than before, another learning rate."""
    alone, together = make(content(), ["cpu"]), make(content())
    for number, (count, size, weighted) in enumerate(
        [(203, 50, False), (90, 45, True), (301, 100, True), (7, 1, False)]
    ):
        x, y = events(count, number)
        w = np.random.default_rng(number).choice([-0.5, 0.0, 1.0, 2.5], count) if weighted else None
        logs = [model.fit(x, y, size, number, w) for model in (alone, together)]
        assert logs[0] == pytest.approx(logs[1], rel=1e-5)
        close(alone, together)
        for model in (alone, together):
            model.set_learning_rate(0.01)
    pids = [process.pid for process in together._ranks._processes]
    np.testing.assert_allclose(alone.predict(x), together.predict(x), rtol=1e-4)
    assert alone.evaluate(x, y) == pytest.approx(together.evaluate(x, y), rel=1e-4)
    assert together.describe().endswith(", cpu, cpu")

    # Back to a checkpoint, and on with more than one process again.
    together.checkpoint(tmp_path / "one.pth")
    x, y = events(150, 9)
    expected = together.fit(x, y, 50, 1)
    after = weights(together)
    together.restore(tmp_path / "one.pth")
    assert together.fit(x, y, 50, 1) == expected
    assert all(np.array_equal(a, b) for a, b in zip(after, weights(together), strict=True))
    assert not any(is_running(pid) for pid in pids)
    pids = [process.pid for process in together._ranks._processes]
    assert all(map(is_running, pids))
    together._ranks.close()
    assert not any(map(is_running, pids))


def is_running(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_for_end(pids, seconds=20):
    end = time.monotonic() + seconds
    while any(map(is_running, pids)) and time.monotonic() < end:
        time.sleep(0.05)
    return not any(map(is_running, pids))


@pytest.mark.parametrize(
    ("text", "error", "what"),
    [
        (content("if self.training and not FIRST: raise ValueError('mine')"), ModelFault,
         r"model\.py: the model fails on .* ValueError: mine \(rank 1, cpu\)"),
        (content("if self.training and FIRST: raise ValueError('first')"), ModelFault, "ValueError: first"),
        (content("if self.training and not FIRST: raise MemoryError"), OutOfMemory,
         r"no memory left for .* \(rank 1, cpu\)"),
        (content("if self.training and not FIRST: os.kill(os.getpid(), 9)"), OutOfMemory,
         r"model\.py: rank 1 was killed"),
        (content(first="if not FIRST: raise ValueError('early')"), ModelFault,
         r"model\.py:17: ValueError: early.* \(rank 1"),
    ],
)  # fmt: skip
def test_a_rank_that_fails_is_an_error_here(make, text, error, what):
    model = make(text)
    processes = model._ranks._processes
    with pytest.raises(error, match=rf"(?s){what}"):
        model.fit(*events(60), 20)
    assert len(processes) == 1 and not any(process.is_alive() for process in processes)


def test_a_rank_that_hangs_is_an_error_here(make, monkeypatch):
    monkeypatch.setattr(parallel, "TIMEOUT", 5.0)
    monkeypatch.setattr(parallel, "GRACE", 1.0)
    model = make(content("if self.training and not FIRST: time.sleep(300)"))
    processes = model._ranks._processes
    with pytest.raises(ModelFault, match=r"model\.py: a rank let the others wait for more than 5 s"):
        model.fit(*events(60), 20)
    assert not any(process.is_alive() for process in processes)


# Trains without end in the midst of it, or ends by itself, and leaves it to others to tidy up.
PROGRAM = """
import os, sys
from pathlib import Path
import numpy as np
from mlaas_condor.training import models
from mlaas_condor.training.frameworks import Setup
from mlaas_condor.training.torch.adapter import TorchModel
model = TorchModel.on_devices(models.check(Path({path!r})), Setup(6, 3, 2), ["cpu", "cpu"])
x = np.random.default_rng(0).random((100, 6), dtype=np.float32)
y = (x[:, 0] > 0.5).astype(int)
model.fit(x, y, 50)
print(*(process.pid for process in model._ranks._processes), flush=True)
if {ends}:
    sys.exit(3)
while True:
    model.fit(x, y, 50)
"""


@pytest.mark.parametrize("ends", [True, False])
def test_the_others_end_with_this_process(tmp_path, ends):
    (tmp_path / "model.py").write_text(content())
    program = PROGRAM.format(path=str(tmp_path / "model.py"), ends=ends)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        [sys.executable, "-c", program],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as first:
        pids = [int(word) for word in first.stdout.readline().split()]
        assert len(pids) == 1
        if not ends:
            assert all(map(is_running, pids))
            time.sleep(0.2)
            first.send_signal(signal.SIGKILL)
        _, said = first.communicate(timeout=60)
    assert first.returncode == (3 if ends else -signal.SIGKILL)
    assert said == ""
    assert wait_for_end(pids)


def test_an_own_loop_gets_one_device(make, caplog):
    text = content().replace("    def forward", "    def train_clf(self, model, train_loader, val_loader):\n"
                             "        assert len(list(train_loader)) == 3\n    def forward")  # fmt: skip
    model = make(text)
    assert "model.py: its own loop, train_clf, trains on one of 2 GPUs" in caplog.text
    assert model._ranks is None and model.fit(*events(60), 20)["loss"] > 0


def test_too_little_shared_memory(make, monkeypatch):
    monkeypatch.setattr(parallel.shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(9, 1, 8))
    with pytest.raises(
        OutOfMemory, match=r"model\.py: 2 devices share 0 MiB of events, /dev/shm has 0 MiB left"
    ):
        make(content()).fit(*events(60), 20)
