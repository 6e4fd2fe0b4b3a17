"""What each user may have: counted over all processes, and told what it is when it is over."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from mlaas_condor import planning
from mlaas_condor import settings as settings_module
from mlaas_condor.batch import queue
from mlaas_condor.run import RunFolder
from mlaas_condor.server.acting import limits as limits_module
from mlaas_condor.server.acting.limits import Limits, is_alive
from mlaas_condor.server.configuration import Limits as Values
from mlaas_condor.server.faults import OverLimit, OverQuota, TooLarge
from mlaas_condor.server.identity import Identity

RECORDED = Path(__file__).parents[1] / "runs" / "completed_1"
JANE, JOHN = Identity("jane"), Identity("john")


@pytest.fixture
def limits(tmp_path):
    """Make limits: ``limits(cpus=4)``; those that are not given are wide."""

    def make(**given):
        home = tmp_path / "home"
        settings = settings_module.load(home=str(home), pool="personal")
        return Limits(Values(**given), settings, home / "service" / "rates")

    return make


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still, and can be set."""
    found = {"now": 1e9}
    monkeypatch.setattr(limits_module.time, "time", lambda: found["now"])
    return found


def plan_of(cpus=1, gpus=0, trainings=1, jobs=None):
    size = planning.Size(
        files=1, bytes=1000, transferred=1000, events=1000, flat=3, jagged=0, columns=3, values=3,
        chunk_size=100,
    )  # fmt: skip
    wishes = planning.Wishes(cpus=cpus, gpus=gpus, trainings=trainings, specs_jobs=jobs)
    return planning.make(size, wishes)


@pytest.fixture
def make_run(tmp_path):
    """Make a run of somebody that is alive, over, or not submitted."""

    def make(name, owner="jane", alive=True, submitted=True, **asked):
        folder = RunFolder(tmp_path / "home" / "users" / owner / "runs" / name)
        folder.path.mkdir(parents=True)
        folder.dag.touch()
        plan_of(**asked).write(folder.plan)
        log = (RECORDED / "run.dag.dagman.log").read_text()
        if submitted:
            folder.dagman_log.write_text(log[: log.index("\n005 (") + 1] if alive else log)
        return folder

    return make


@pytest.fixture
def queued(monkeypatch):
    """Runs that the schedd still has."""
    found = []

    def query(folders):
        return [
            queue.QueuedJob(1, 0, "running", queue.directory(each), "dagman", 0)
            for each in folders
            if each in found
        ]

    monkeypatch.setattr(queue, "query", query)
    return found


# ---- requests a second


def test_a_burst_of_ten_seconds_is_free_and_what_follows_waits(limits, clock):
    counting = limits(requests_per_second=2)
    for _ in range(20):
        counting.count_request(JANE)
    with pytest.raises(OverLimit) as caught:
        counting.count_request(JANE)
    assert "2 requests a second, the limit of each user" in str(caught.value)
    assert caught.value.headers == {"Retry-After": "1"} and caught.value.http_status == 429
    counting.count_request(JOHN)  # is somebody else
    clock["now"] += 1
    counting.count_request(JANE)
    counting.count_request(JANE)
    with pytest.raises(OverLimit):
        counting.count_request(JANE)
    clock["now"] += 1000  # no more than the burst is saved up
    for _ in range(20):
        counting.count_request(JANE)
    with pytest.raises(OverLimit):
        counting.count_request(JANE)


def test_whoever_waits_as_told_is_let_in(limits, clock):
    counting = limits(requests_per_second=0.01)
    counting.count_request(JANE)
    with pytest.raises(OverLimit) as caught:
        counting.count_request(JANE)
    clock["now"] += int(caught.value.headers["Retry-After"])
    counting.count_request(JANE)


def test_a_clock_that_is_set_back_locks_nobody_out(limits, clock):
    counting = limits(requests_per_second=1)
    counting.count_request(JANE)
    clock["now"] -= 1e6
    for _ in range(9):
        counting.count_request(JANE)
    with pytest.raises(OverLimit):
        counting.count_request(JANE)
    clock["now"] += 1
    counting.count_request(JANE)


def test_administrators_have_the_same_limits(limits, clock):
    counting = limits(requests_per_second=0.1)
    who = Identity("root", administrator=True)
    counting.count_request(who)
    with pytest.raises(OverLimit):
        counting.count_request(who)


@pytest.mark.parametrize("owner", ["../jane", "a/b", "", "é" * 300, "\n", "jane.doe@cern.ch"])
def test_whatever_an_owner_is_called(limits, owner, tmp_path):
    counting = limits(requests_per_second=1)
    counting.count_request(Identity(owner))
    assert len(list((tmp_path / "home/service/rates").iterdir())) == 1


def test_a_damaged_count_begins_anew(limits, tmp_path, clock):
    counting = limits(requests_per_second=1)
    for damaged in (b"", b"x", b"\xff" * 16, b"\0" * 100):
        (tmp_path / "home/service/rates/jane").write_bytes(damaged)
        for _ in range(3):
            counting.count_request(JANE)


COUNT = """
import sys
from pathlib import Path
from mlaas_condor import settings
from mlaas_condor.server.configuration import Limits as Values
from mlaas_condor.server.faults import OverLimit
from mlaas_condor.server.identity import Identity
from mlaas_condor.server.acting.limits import Limits

home = Path(sys.argv[1])
values = Values(requests_per_second=20.001)
limits = Limits(values, settings.load(home=str(home)), home / "service" / "rates")
sys.stdin.read()
let_in = 0
for _ in range(2000):
    try:
        limits.count_request(Identity("jane"))
        let_in += 1
    except OverLimit:
        pass
print(let_in)
"""


def test_processes_and_threads_count_together(limits, tmp_path):
    command = [sys.executable, "-P", "-c", COUNT, str(tmp_path / "home")]
    limits()  # makes the folder
    started = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(3)
    ]
    began = time.time()
    with ThreadPoolExecutor(3) as pool:
        let_in = sum(int(out) for out, _ in pool.map(lambda each: each.communicate(""), started))
    assert 200 <= let_in <= 202 + 20.01 * (time.time() - began)


def test_threads_of_a_process_count_together(limits, clock):
    counting, let_in = limits(requests_per_second=10), Counter()
    start = threading.Barrier(8)

    def come():
        start.wait()
        for _ in range(50):
            try:
                counting.count_request(JANE)
                let_in["jane"] += 1
            except OverLimit:
                pass

    threads = [threading.Thread(target=come) for _ in range(8)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert let_in["jane"] == 100


# ---- runs, CPUs, GPUs


def test_what_is_over_or_never_began_does_not_count(limits, make_run):
    make_run("a_1", cpus=3, gpus=1, trainings=2)
    make_run("b_1", alive=False, cpus=64)
    make_run("c_1", submitted=False, cpus=64)
    make_run("d_1", owner="john", cpus=64)
    used = limits().usage("jane")
    assert {key: used[key] for key in ("running_runs", "cpus", "gpus")} == {
        "running_runs": 1,
        "cpus": 6,
        "gpus": 2,
    }
    assert limits().usage("nobody") == {"running_runs": 0, "cpus": 0, "gpus": 0, "stored": 0}
    assert set(used) == {"running_runs", "cpus", "gpus", "stored"}


@pytest.mark.parametrize(
    ("most", "asked", "words"),
    [
        (
            {"running_runs": 2},
            {},
            "your runs have 2 runs that are not over, and this one asks for 1: the limit is 2",
        ),
        ({"cpus": 9}, {"cpus": 2}, "your runs have 8 CPUs, and this one asks for 2: the limit is 9"),
        ({"cpus": 9}, {"trainings": 2}, "your runs have 8 CPUs, and this one asks for 2: the limit is 9"),
        ({"gpus": 3}, {"gpus": 2}, "your runs have 2 GPUs, and this one asks for 2: the limit is 3"),
    ],
)
def test_a_run_too_many_has_to_wait(limits, make_run, queued, most, asked, words):
    queued += [make_run("a_1", cpus=4, gpus=1), make_run("b_1", cpus=4, gpus=1)]
    with pytest.raises(OverLimit) as caught:
        limits(**most).check_submission("jane", plan_of(**asked))
    assert words in str(caught.value) and "wait until one is over, or cancel one" in str(caught.value)
    assert "Retry-After" in caught.value.headers
    limits(**most).check_submission("john", plan_of(**asked))
    shutil.rmtree(queued[0].path)
    limits(**most).check_submission("jane", plan_of(**asked))


@pytest.mark.parametrize(
    ("most", "asked", "words"),
    [
        ({"running_runs": 0}, {}, "the run asks for 1 runs that are not over, and each user may have 0"),
        ({"cpus": 4}, {"cpus": 5}, "the run asks for 5 CPUs, and each user may have 4"),
        ({"gpus": 0}, {"gpus": 1}, "the run asks for 1 GPUs, and each user may have 0"),
        ({"jobs": 10}, {"jobs": 11}, "a stage of the run has 11 jobs, and may have 10"),
    ],
)
def test_a_run_that_never_could_be_is_refused(limits, most, asked, words):
    with pytest.raises(OverQuota) as caught:
        limits(**most).check_submission("jane", plan_of(**asked))
    assert words in str(caught.value) and caught.value.http_status == 403


def test_runs_that_the_schedd_has_lost_do_not_count(limits, make_run, queued):
    make_run("a_1")
    with_one = limits(running_runs=1)
    with_one.check_submission("jane", plan_of())  # the queue was emptied by force, say
    queued.append(make_run("b_1"))
    with pytest.raises(OverLimit):
        with_one.check_submission("jane", plan_of())


def test_the_schedd_is_asked_only_where_it_matters(limits, make_run, monkeypatch):
    make_run("a_1")
    monkeypatch.setattr(queue, "query", None)
    limits(running_runs=2).check_submission("jane", plan_of())


def test_a_run_that_is_being_deleted_counts_nothing(limits, make_run, queued):
    folder = make_run("a_1")
    folder.plan.unlink()
    assert is_alive(folder)
    assert limits().usage("jane")["running_runs"] == 0


# ---- bytes


def test_uploads_are_refused_before_they_are_taken(limits, make_run):
    few = limits(stored=1, upload=2)
    few.check_upload("jane", 2 * 2**20)
    with pytest.raises(TooLarge, match="the upload has 3 MiB, and may have 2"):
        few.check_upload("jane", 3 * 2**20)
    (make_run("a_1", alive=False).path / "large").write_bytes(bytes(2**20 + 1))
    for check in (lambda: few.check_upload("jane"), lambda: few.check_submission("jane", plan_of())):
        with pytest.raises(OverQuota) as caught:
            check()
        assert re.search(r"1\.\d* MiB are stored of yours.*the limit is 1 MiB: delete", str(caught.value))
    few.check_upload("john")
    assert few.usage("jane")["stored"] == 1
