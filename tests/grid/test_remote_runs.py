"""Whole runs that read from real storage, as the user: with a proxy that HTCondor delegates to the jobs."""

from __future__ import annotations

import itertools
import re
import time
from pathlib import Path

import numpy as np
import pytest
from authority import HOUR, proxy
from example_tools import EXAMPLE, copy_example
from pool_tools import jobs_by_stage, stage, submit, wait_for

from mlaas_condor import local, renewing, workflow
from mlaas_condor.batch import queue
from mlaas_condor.data import chunkfile
from mlaas_condor.data.dataset import Dataset

EVENTS = itertools.count(6000, 10)  # other events for each test: what another has read would be used again
pytestmark = [pytest.mark.grid, pytest.mark.pool]


@pytest.fixture
def private(gsi_server):
    """The inputs of the example, where Jane only may read them."""
    for path in sorted((EXAMPLE / "data").glob("*.root")):
        gsi_server.put(f"/private/{path.name}", path.read_bytes())
    return gsi_server


@pytest.fixture
def request_folder(tmp_path, private, monkeypatch, jane):
    """The example, reading from the server with Jane's proxy."""
    folder = copy_example(tmp_path, epochs=2, nevts=next(EVENTS))
    names = [line for line in (folder / "files.txt").read_text().splitlines() if line.strip()]
    (folder / "files.txt").write_text("".join(private.url(f"/private/{Path(name).name}\n") for name in names))
    mine = proxy(jane, 6 * HOUR).write_proxy(tmp_path / "x509up")
    monkeypatch.setenv("X509_USER_PROXY", str(mine))
    return folder


def chunks_of(run):
    """Return all that the chunks of a run hold, by chunk."""
    return [
        chunkfile.read(path)
        for path in sorted(run.folder.output("preprocess").glob(chunkfile.FILE_NAME.replace("{:05d}", "*")))
    ]


def levels(run, name):
    """Return the delegation levels of the proxies that the jobs of a stage say they have."""
    texts = [path.read_text() for path in sorted(run.folder.logs.glob(f"{name}.*.out"))]
    return {int(level) for text in texts for level in re.findall(r"proxy of .*Jane Doe, level (\d+)", text)}


def identifiers(run):
    """Return file and entry of every event of the chunks."""
    pairs = [np.stack([chunk.file, chunk.entry], axis=1) for chunk in chunks_of(run)]
    return [tuple(pair) for pair in np.concatenate(pairs).tolist()]


def test_a_run_reads_with_a_delegated_proxy(request_folder, settings, private):
    run = submit(request_folder, settings)
    assert run.wait(timeout=300).state == "completed" and run.metrics()["test"]["auc"] > 0.7
    # Mine is of level 1; what HTCondor delegates is made from it.
    assert levels(run, "specs") == levels(run, "preprocess") == {2}
    assert {each.user for each in private.requests() if each.kind == "login"} == {"jane"}
    # The others have no use for it.
    for name in ("merge", "train", "report"):
        assert "x509userproxy" not in run.folder.submit_file(name).read_text()
    assert every_event_once(run)
    assert "PRIVATE KEY" not in "".join(
        path.read_text(errors="replace") for path in run.folder.path.rglob("*") if path.is_file()
    )


def replace(path, holder, seconds):
    """Put a new proxy in the place of another, as grid tools do: at once, never half of it."""
    proxy(holder, seconds).write_proxy(path.with_suffix(".new")).replace(path)


def every_event_once(run):
    found = identifiers(run)
    return len(found) == len(set(found)) == Dataset.read(run.folder.dataset).events


@pytest.fixture
def short(monkeypatch, jane, tmp_path):
    """Let Jane have a proxy that soon ends; give its path and when."""

    def make(seconds):
        path = proxy(jane, seconds).write_proxy(tmp_path / "short")
        monkeypatch.setenv("X509_USER_PROXY", str(path))
        return path, time.time() + seconds

    return make


def submit_and_stop_the_server(folder, settings, server):
    """Submit a run, and have its first jobs wait for their files."""
    run = workflow.submit(folder / "job.json", settings, lifetime_ok=True)
    server.kill()
    wait_for(run, lambda state: stage(state, "specs").running, 60)
    return run


def test_a_proxy_replaced_in_time_reaches_the_running_jobs(request_folder, settings, private, short, jane):
    path, ends = short(60)
    run = submit_and_stop_the_server(request_folder, settings, private)
    replace(path, jane, 6 * HOUR)
    time.sleep(max(0.0, ends + 2 - time.time()))
    private.start()
    assert run.wait(timeout=300).state == "completed"
    assert "was held" not in run.folder.events_log.read_text()
    assert jobs_by_stage(run)["specs"] == len(run.folder.task_units("specs")), "no job was started again"


def test_an_expired_proxy_holds_the_jobs_and_a_new_one_lets_them_finish(
    request_folder, settings, private, short, jane
):
    path, ends = short(40)
    run = submit_and_stop_the_server(request_folder, settings, private)
    said = next(note for note in run.status().notes if "expire" in note)
    assert f"the proxy {path} expires in" in said and f"mlaas-condor proxy renew {run.name}" in said
    time.sleep(max(0.0, ends + 2 - time.time()))
    private.start()
    # All of them: one that still runs would be held after the new proxy is there, for the old one.
    state = wait_for(run, lambda state: stage(state, "specs").held and not stage(state, "specs").running, 120)
    assert any("has expired" in note for note in state.notes)
    failure = state.failures[0]
    assert "has expired, or is not accepted" in failure.reason
    assert failure.advice == f"mlaas-condor proxy renew {run.name}"
    replace(path, jane, 6 * HOUR)
    outcome = renewing.renew([run.name], settings)[0]
    assert outcome.released >= 1 and not outcome.error
    assert run.wait(timeout=300).state == "completed"
    assert every_event_once(run)


def test_a_proxy_that_is_gone_before_the_jobs_start_ends_the_run_in_words(
    request_folder, settings, private, short
):
    path, _ = short(6 * HOUR)
    prepared = workflow.plan(request_folder / "job.json", settings)
    folder = workflow.create(prepared, settings)
    path.unlink()
    queue.submit(folder)
    run = workflow.open_run(folder.name, settings)
    state = wait_for(run, lambda state: state.state == "failed", 90)
    assert f"{path} is not there" in state.failures[0].reason


def test_without_htcondor_it_reads_just_the_same(request_folder, settings, private):
    prepared = workflow.plan(request_folder / "job.json", settings)
    folder = workflow.create(prepared, settings)
    local.run(folder)
    assert workflow.open_run(folder.name, settings).status().state == "completed"
    assert levels(workflow.open_run(folder.name, settings), "specs") == {1}
