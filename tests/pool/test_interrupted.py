"""Trainings that are evicted, killed and held on a real pool lose nothing, and end the same."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
from example_tools import edit
from pool_tools import stage, submit, wait_for

from mlaas_condor import local, workflow
from mlaas_condor.batch import personal, pool, queue

pytestmark = pytest.mark.pool


def train_job(run):
    job = next(job for job in queue.query([run.folder]) if job.stage == "train")
    return f"{job.cluster}.{job.proc}"


def epochs_said(run):
    return [int(number) for number in re.findall(r" epoch (\d+)/\d+  ", run.logs("train", 0))]


def wait_for_epochs(run, number):
    """Wait until so many epochs are over, and the training runs."""
    wait_for(run, lambda state: stage(state, "train").running and len(set(epochs_said(run))) >= number, 200)


def kill_training(settings):
    """Kill the process that trains, as a machine short of memory would."""
    for pid in personal.processes(pool.folder(settings)):
        try:
            command = Path(f"/proc/{pid}/cmdline").read_bytes()
        except OSError:
            continue
        if b"mlaas_condor.stages.train" in command and b"python" in command.split(b"\0")[0]:
            os.kill(pid, signal.SIGKILL)
            return
    raise AssertionError("no training runs")


def compare(run, other):
    """Make sure that two runs trained the same model: by the scores of all events, and all of the history."""
    paths = [each.folder.output("train") / "scores.npz" for each in (run, other)]
    with np.load(paths[0]) as one, np.load(paths[1]) as two:
        for name in one.files:
            np.testing.assert_array_equal(one[name], two[name], err_msg=name)
    assert run.metrics() == other.metrics()
    histories = [
        [{key: value for key, value in each.items() if key != "seconds"} for each in which.history()]
        for which in (run, other)
    ]
    assert histories[0] == histories[1]


def uninterrupted(folder, settings):
    """Return the same request, done in one go without HTCondor."""
    made = workflow.create(workflow.plan(folder / "job.json", settings), settings)
    local.run(made)
    return workflow.open_run(made.name, settings)


def test_three_evictions_and_a_kill_change_nothing(settings, request_folder):
    epochs = 30
    edit(request_folder, "params.json", epochs=epochs, checkpoint=6, nevts=15000)
    run = submit(request_folder, settings)
    rng = random.Random(1)
    for number in range(3):
        wait_for_epochs(run, 2 + number * epochs // 5)
        time.sleep(rng.uniform(0, 1.5))
        subprocess.run(["condor_vacate_job", train_job(run)], check=True, capture_output=True)
        time.sleep(1)
    wait_for_epochs(run, 2 + 3 * epochs // 5)
    kill_training(settings)
    assert run.wait(timeout=300).state == "completed"
    log = run.folder.events_log.read_text()
    assert len(re.findall(r"^004 ", log, re.MULTILINE)) >= 3, "evicted"
    said = epochs_said(run)
    again = len(said) - len(set(said))
    # Only what was killed is lost, back to the last checkpoint; what is evicted writes one first.
    assert sorted(set(said)) == list(range(1, epochs + 1))
    assert again <= epochs // 2
    compare(run, uninterrupted(request_folder, settings))
    assert [path.name for path in (run.folder.path / "checkpoint.0").iterdir()] == ["README"]


def test_a_training_held_in_the_middle_goes_on_where_it_was(settings, request_folder):
    edit(request_folder, "params.json", epochs=25, nevts=15000)
    run = submit(request_folder, settings)
    wait_for_epochs(run, 4)
    subprocess.run(["condor_hold", train_job(run)], check=True, capture_output=True)
    wait_for(run, lambda state: state.state == "held")
    run.resume()
    assert run.wait(timeout=200).state == "completed"
    said = epochs_said(run)
    assert len(said) == len(set(said)) == 25, "no epoch twice"


def test_progress_is_in_the_job_ad(settings, request_folder):
    # Until it is cancelled: the ad is brought up to date every half minute.
    edit(request_folder, "params.json", epochs=2000, nevts=15000)
    run = submit(request_folder, settings)
    wait_for_epochs(run, 3)
    names = ["Epoch", "Epochs", "Loss", "ValLoss", "ValAuc", "EventsPerSecond", "SecondsLeft"]
    deadline = time.monotonic() + 90
    while "undefined" in (shown := condor_q(train_job(run), names)) or not shown.strip():
        assert time.monotonic() < deadline, shown
        time.sleep(1)
    epoch, epochs, loss, val_loss, auc, rate, left = map(json.loads, shown.split())
    assert 1 <= epoch < epochs == 2000
    assert 0 < loss < 2 and 0 < val_loss < 2 and 0.5 < auc <= 1 and rate > 100 and left > 0
    run.cancel()
    wait_for(run, lambda state: state.state == "cancelled" and not queue.query([run.folder]))


def condor_q(job, names):
    """Ask for what a training says of itself, as a user would."""
    asked = [f"ChirpMLaaS{name}" for name in names]
    return subprocess.run(
        ["condor_q", job, "-af", *asked], check=True, capture_output=True, text=True
    ).stdout  # fmt: skip
