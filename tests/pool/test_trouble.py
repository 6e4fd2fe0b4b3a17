"""What goes wrong on a pool, and how a run comes through it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from example_tools import copy_example, edit, interruptible, prepend_to_model
from pool_tools import jobs_by_stage, settings_of, stage, submit, turn_to, wait_for

from mlaas_condor import places, workflow
from mlaas_condor.batch import personal, pool, queue
from mlaas_condor.errors import PoolLost, PoolUnreachable, RequestError, RunFailed, WrongState

pytestmark = pytest.mark.pool

SLEEP = "import time\nprint('sleeping', flush=True)\ntime.sleep(8)"


def daemon_pids(settings, name):
    return [pid for pid, comm in personal.processes(pool.folder(settings)).items() if comm.startswith(name)]


def test_a_failed_training_is_explained_and_resumed_without_redoing_the_rest(
    settings, request_folder, tmp_path
):
    flag = tmp_path / "repaired"
    # Other events than those of the other tests, so that nothing comes from the store.
    edit(request_folder, "params.json", nevts=16000)
    prepend_to_model(request_folder, f"import os\nassert os.path.exists({str(flag)!r}), 'not repaired yet'")
    run = submit(request_folder, settings)
    with pytest.raises(RunFailed, match="not repaired yet"):
        run.wait(timeout=200)
    state = run.status()
    assert state.state == "failed"
    assert (state.failures[0].stage, stage(state, "train").failed) == ("train", 1)
    assert "AssertionError" in run.logs(stderr=True)
    with pytest.raises(WrongState, match="has no model: it is failed"):
        run.model()
    before = jobs_by_stage(run)
    assert before["train"] == 1, "a model's own mistake is not tried again"
    flag.touch()
    assert "submitted" in run.resume()
    assert run.wait(timeout=200).state == "completed"
    after = jobs_by_stage(run)
    assert {name: after[name] - before[name] for name in after} == {
        "specs": 0, "merge": 0, "preprocess": 0, "train": 1, "report": 1,
    }  # fmt: skip


def test_a_cancelled_run_leaves_nothing_queued_and_can_be_resumed(settings, request_folder):
    edit(request_folder, "params.json", epochs=4000)
    run = submit(request_folder, settings)
    wait_for(run, lambda state: stage(state, "train").running)
    with pytest.raises(WrongState, match="cancel it first"):
        run.delete()
    run.cancel()
    state = wait_for(run, lambda state: state.state == "cancelled")
    assert stage(state, "preprocess").word in ("done", "reused")
    wait_for(run, lambda state: not queue.query([run.folder]))
    with pytest.raises(WrongState, match="nothing to cancel"):
        run.cancel()
    recipe = run.folder.recipe.read_text().replace('"epochs": 4000', '"epochs": 2')
    run.folder.recipe.write_text(recipe)
    run.resume()
    assert run.wait(timeout=200).state == "completed"
    run.delete()
    assert run.name not in [each.name for each in workflow.list_runs(settings)]


def test_an_evicted_job_finishes_all_the_same(settings, request_folder):
    prepend_to_model(request_folder, SLEEP)
    run = submit(request_folder, settings)
    wait_for(run, lambda state: stage(state, "train").running)
    wait_for(run, lambda state: "sleeping" in run.logs("train", 0))
    job = next(job for job in queue.query([run.folder]) if job.stage == "train")
    subprocess.run(["condor_vacate_job", f"{job.cluster}.{job.proc}"], check=True, capture_output=True)
    assert run.wait(timeout=200).state == "completed"
    log = run.folder.events_log.read_text()
    number = f"({job.cluster:03d}.000.000)"
    assert f"004 {number}" in log, "evicted"
    assert log.count(f"001 {number}") == 2, "started twice"


def test_a_job_that_a_signal_kills_is_tried_again(settings, request_folder, tmp_path):
    flag = tmp_path / "once"
    prepend_to_model(
        request_folder,
        f"import os\nif not os.path.exists({str(flag)!r}):\n"
        f"    open({str(flag)!r}, 'w').close()\n    os.kill(os.getpid(), 9)",
    )
    run = submit(request_folder, settings)
    assert run.wait(timeout=200).state == "completed"
    assert flag.exists()
    assert jobs_by_stage(run)["train"] == 1, "the same job"


def test_a_run_of_another_pool_is_not_taken_for_lost(settings, request_folder, monkeypatch):
    prepend_to_model(request_folder, SLEEP)
    run = submit(request_folder, settings)
    wait_for(run, lambda state: stage(state, "train").running)
    with monkeypatch.context() as patch:
        # As another access point would see it, that shares the folder and knows nothing of the run.
        patch.setattr(queue, "query", lambda runs=None: [])
        patch.setattr(queue, "here", lambda: "another machine")
        state = run.status()
        assert state.state == "running"
        assert "this is another machine" in state.unreachable
        with pytest.raises(WrongState, match="cancel it first"):
            run.delete()
    assert run.wait(timeout=200).state == "completed"


def test_the_schedd_killed_in_the_middle_changes_nothing(settings, request_folder):
    prepend_to_model(request_folder, SLEEP)
    run = submit(request_folder, settings)
    wait_for(run, lambda state: stage(state, "train").running)
    (schedd,) = daemon_pids(settings, "condor_schedd")
    os.kill(schedd, signal.SIGKILL)
    assert run.status().state == "running", "what is on disk can be told without a schedd"
    assert run.wait(timeout=300).state == "completed"
    assert stage(run.status(), "preprocess").done == 2


def test_a_held_job_is_explained_and_released(settings, request_folder):
    prepend_to_model(request_folder, SLEEP)
    run = submit(request_folder, settings)
    wait_for(run, lambda state: stage(state, "train").running)
    job = next(job for job in queue.query([run.folder]) if job.stage == "train")
    subprocess.run(["condor_hold", f"{job.cluster}.{job.proc}"], check=True, capture_output=True)
    state = wait_for(run, lambda state: state.state == "held")
    assert "you held it" in state.failures[0].reason
    assert state.failures[0].advice == f"mlaas-condor resume {run.name}"
    assert run.resume() == "released 1 held jobs"
    assert run.wait(timeout=200).state == "completed"


def test_a_run_that_the_pool_has_lost_can_be_resumed(settings, request_folder):
    prepend_to_model(request_folder, SLEEP)
    run = submit(request_folder, settings)
    wait_for(run, lambda state: stage(state, "train").running)
    log = run.folder.dagman_log.read_bytes()
    run.cancel()
    wait_for(run, lambda state: state.state == "cancelled" and not queue.query([run.folder]))
    run.folder.dagman_log.write_bytes(log)  # as if the queue had been lost: nobody wrote how it ended
    state = run.status()
    assert state.state == "failed"
    assert "no job of this run any more" in state.failures[0].reason
    run.resume()
    assert run.wait(timeout=200).state == "completed"


def test_ctrl_c_while_watching_leaves_the_run_alone(settings, request_folder):
    prepend_to_model(request_folder, SLEEP)
    run = submit(request_folder, settings)
    program = Path(sys.executable).with_name("mlaas-condor")
    command = [program, "--home", settings.home, "--pool", "personal", "watch", run.name]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, **pipes, preexec_fn=interruptible) as process:
        wait_for(run, lambda state: stage(state, "train").running)
        process.send_signal(signal.SIGINT)
        said, _ = process.communicate(timeout=30)
    assert process.returncode == 130
    assert f"watch {run.name}" in said
    assert run.wait(timeout=200).state == "completed"


def test_a_log_is_followed_from_before_the_job_starts_to_its_end(settings, request_folder):
    prepend_to_model(request_folder, SLEEP)
    run = submit(request_folder, settings)
    with ThreadPoolExecutor(1) as thread:
        following = thread.submit(lambda: list(run.follow_logs("train", 0)))
        run.wait(timeout=200)
        pieces = following.result(timeout=30)
    assert len(pieces) > 1, "as it was written, not at the end"
    assert "".join(pieces) == run.logs("train", 0)
    assert "epoch 3/3" in "".join(pieces)


def test_a_gpu_is_asked_for_by_the_training_only(settings, request_folder):
    edit(request_folder, "job.json", device="gpu", gpu_memory="16gb", gpu_capability=7.0)
    prepend_to_model(
        request_folder, "import os\nprint('cards', os.environ['CUDA_VISIBLE_DEVICES'], flush=True)"
    )
    run = submit(request_folder, settings)
    assert run.wait(timeout=200).state == "completed"
    assert "cards GPU-" in run.logs("train", 0)
    assert "request_gpus" not in run.folder.submit_file("preprocess").read_text()


def test_a_job_that_no_machine_can_run_says_what_it_waits_for(settings, request_folder):
    edit(request_folder, "job.json", gpus=8)
    run = submit(request_folder, settings)
    state = wait_for(run, lambda state: stage(state, "train").idle and state.waiting)
    assert "no machine has 8 GPUs (the largest has 2)" in state.waiting[0]
    run.cancel()
    edit(request_folder, "job.json", gpus=1, gpu_memory="99gb")
    run = submit(request_folder, settings)
    state = wait_for(run, lambda state: stage(state, "train").idle and state.waiting)
    assert "no machine has 1 GPUs with" in state.waiting[0]
    assert "101376" in state.waiting[0] and "(the best has 0)" in state.waiting[0]
    run.cancel()


def test_a_file_that_changes_after_planning_is_noticed(settings, tmp_path):
    folder = copy_example(tmp_path, nevts=6000)
    data = (folder / "data").resolve()
    (folder / "data").unlink()
    (folder / "data").mkdir()
    for path in data.iterdir():
        (folder / "data" / path.name).write_bytes(path.read_bytes())
    prepared = workflow.plan(folder, settings)
    (folder / "data" / "ttH_1.root").write_bytes((data / "ttbar_1.root").read_bytes())
    run = workflow.submit_prepared(prepared, settings)
    with pytest.raises(RunFailed, match=r"ttH_1.root: its UUID is .*, planned was"):
        run.wait(timeout=100)
    assert "submit the request again" in run.status().failures[0].advice


def test_a_bad_request_queues_nothing(settings, request_folder):
    edit(request_folder, "job.json", memory="3xb", model="modle.py")
    before = [run.name for run in workflow.list_runs(settings)]
    with pytest.raises(RequestError) as caught:
        submit(request_folder, settings)
    assert len(caught.value.problems) == 2
    assert [run.name for run in workflow.list_runs(settings)] == before


def test_a_pool_that_goes_away_while_watching_ends_the_watching_not_the_run(tmp_path, monkeypatch):
    own = settings_of(tmp_path / "home")
    pool.up(own, cpus=2)
    try:
        folder = copy_example(tmp_path, epochs=2)
        prepend_to_model(folder, SLEEP)
        run = submit(folder, own)
        wait_for(run, lambda state: stage(state, "specs").running or stage(state, "specs").done)
        monkeypatch.setattr(places, "PATIENCE", 3.0)
        threading.Timer(
            1.0, lambda: [os.kill(p, signal.SIGKILL) for p in personal.processes(pool.folder(own))]
        ).start()
        with pytest.raises(PoolLost, match=f"mlaas-condor watch {run.name}"):
            for _ in run.follow():
                pass
        with pytest.raises(PoolUnreachable, match="pool up"):
            submit(folder, own)
        pool.up(own, cpus=2)
        assert run.wait(timeout=300).state == "completed"
    finally:
        pool.down(own, force=True)


@pytest.fixture(autouse=True)
def back_to_the_session_pool(pool_home):
    """A test may have turned this process to a pool of its own."""
    yield
    turn_to(settings_of(pool_home))
