"""Several people on one pool by way of a service: their runs are kept apart, and they share fairly."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest
from example_tools import copy_example, prepend_to_model
from pool_tools import configured, stage, submit, wait_for

from mlaas_condor import owners, workflow
from mlaas_condor.batch import dag, pool, queue
from mlaas_condor.errors import PoolUnreachable, WrongState

pytestmark = pytest.mark.pool

PEOPLE = ("jane.doe@lab.example", "joe")
WAIT = """\
import os, time
print("model of {owner}", flush=True)
while not os.path.exists({flag!r}):
    time.sleep(0.2)"""


@pytest.fixture
def start(settings, tmp_path):
    """Submit somebody's run, whose training waits for a file; give the run, and the file."""
    started = []

    def begin(owner):
        place = tmp_path / owners.short_name(owner)
        place.mkdir()
        folder = copy_example(place, nevts=18000, epochs=1)
        prepend_to_model(folder, WAIT.format(owner=owner, flag=str(place / "go")))
        own = replace(settings, owner=owner)
        own.make_own()
        started.append(submit(folder, own))
        return started[-1], place / "go"

    yield begin
    for run in started:
        queue.remove(run.folder)


def ads_of(run):
    import htcondor2

    return htcondor2.Schedd().query(constraint=queue.constraint(run.folder))


def submitters():
    import htcondor2

    return {str(ad["Name"]).partition("@")[0] for ad in htcondor2.Negotiator().getPriorities()}


def trains(run):
    """Wait until a training has begun; give the ads of the run's jobs."""
    wait_for(run, lambda state: stage(state, "train").running)
    wait_for(run, lambda state: "model of" in run.logs("train", 0))
    return ads_of(run)


def test_runs_of_the_same_name_leave_each_other_alone(settings, start, tmp_path):
    (jane, janes_flag), (joe, joes_flag) = map(start, PEOPLE)
    assert jane.name == joe.name and jane.folder.path != joe.folder.path
    for owner, run in zip(PEOPLE, (jane, joe), strict=True):
        jobs = trains(run)
        assert {ad["MLaaSStage"] for ad in jobs} == {"dagman", "train"}
        assert {ad.eval("MLaaSOwner") for ad in jobs} == {owner}
        assert {ad.eval("MLaaSDirectory") for ad in jobs} == {str(run.folder.path.resolve())}
        groups = {ad["AccountingGroup"] for ad in jobs if ad["MLaaSStage"] != "dagman"}
        assert groups == {owners.short_name(owner)} <= submitters()
        assert run.logs("train", 0).count(f"model of {owner}") == run.logs("train", 0).count("model of") == 1

    _jane_cancels(jane, joe)
    janes_flag.touch()
    assert "submitted" in jane.resume()
    assert jane.wait(timeout=200).state == "completed"
    assert {each.word for each in jane.status().stages if each.stage not in ("train", "report")} <= {
        "done", "reused",
    }  # fmt: skip
    assert joe.status().state == "running" and len(queue.query([joe.folder])) == 2
    with pytest.raises(WrongState, match="cancel it first"):
        joe.delete()
    jane.delete()
    assert not jane.folder.path.exists() and not any(jane.settings.store.glob("preprocess/*"))
    _joes_go_on(joe, settings, tmp_path)
    joes_flag.touch()
    assert joe.wait(timeout=200).state == "completed"


def _jane_cancels(jane, joe):
    before = {(job.cluster, job.stage) for job in queue.query([joe.folder])}
    assert len(queue.query([jane.folder, joe.folder])) == 2 + len(before)
    jane.cancel()
    wait_for(jane, lambda state: state.state == "cancelled" and not queue.query([jane.folder]))
    assert {(job.cluster, job.stage) for job in queue.query([joe.folder])} == before
    assert joe.status().state == "running" and not joe.status().failures


def _joes_go_on(joe, settings, tmp_path):
    """They are found by whatever path leads to them."""
    (tmp_path / "link").symlink_to(settings.home)
    again = workflow.open_run(joe.name, replace(joe.settings, home=tmp_path / "link"))
    assert again.folder.path != joe.folder.path
    assert again.status().state == "running" and "model of joe" in again.logs("train", 0)


def test_one_with_much_to_do_does_not_keep_others_waiting(settings, tmp_path):
    """The jobs are of no run: what counts is what the submit files say of whose they are."""
    import htcondor2

    schedd = htcondor2.Schedd()

    def jobs(owner, number):
        lines = dag.owner_lines(owner, "").splitlines()
        description = {
            "executable": "/bin/sleep", "arguments": "2", "transfer_executable": "False",
            "should_transfer_files": "YES", "initialdir": str(tmp_path), "request_memory": "64",
            **dict(map(str.strip, line.split("=", 1)) for line in lines),
        }  # fmt: skip
        cluster = schedd.submit(htcondor2.Submit(description), count=number).cluster()
        return lambda: [ad["JobStatus"] for ad in schedd.query(constraint=f"ClusterId == {cluster}")]

    with configured(settings, "CLAIM_WORKLIFE = 1"):
        try:
            busy = jobs("busy", 60)
            wait_for_jobs(lambda: 2 in busy())
            other = jobs("other", 2)
            wait_for_jobs(lambda: 1 not in other())
            assert busy().count(1) > 10
        finally:
            schedd.act(htcondor2.JobAction.Remove, 'MLaaSOwner == "busy" || MLaaSOwner == "other"')
    assert {"busy", "other"} <= submitters()


def test_a_pool_that_answered_just_now_is_trusted_for_a_moment(settings, monkeypatch):
    pool.use(settings)
    monkeypatch.setattr(pool, "_silence", lambda seconds: "no answer")
    assert pool.use(settings, trust_seconds=60) == pool.find(settings)
    for seconds in (0, 60):  # once it was silent it is asked again
        with pytest.raises(PoolUnreachable):
            pool.use(settings, trust_seconds=seconds)


def wait_for_jobs(condition, seconds=60):
    """Wait until something is so of jobs."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.2)
