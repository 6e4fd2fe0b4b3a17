"""The state of recorded run directories: what status makes of logs and marks, without a pool."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from mlaas_condor.batch import events, queue, status
from mlaas_condor.run import RunFolder
from mlaas_condor.show import failure, html, line

RECORDED = Path(__file__).parent


def recorded(name):
    return RunFolder(RECORDED / name)


def state_of(folder):
    return status.of_runs([folder])[0]


def words(state):
    return {stage.stage: stage.word for stage in state.stages}


def test_a_completed_run():
    state = state_of(recorded("completed_1"))
    assert (state.state, state.where) == ("completed", "pool")
    assert set(words(state).values()) == {"done"}
    assert [stage.done for stage in state.stages] == [2, 1, 2, 1, 1]
    assert state.bundle.endswith("completed_1/report/completed_1.tar.gz")
    assert 20 < state.elapsed < 60
    assert all(stage.started <= stage.ended for stage in state.stages)
    assert state.current is None


def test_a_run_whose_model_fails():
    state = state_of(recorded("failed_1"))
    assert state.state == "failed"
    assert words(state) == {
        "specs": "done", "merge": "done", "preprocess": "done", "train": "failed", "report": "waiting",
    }  # fmt: skip
    (found,) = state.failures
    assert (found.stage, found.task) == ("train", 0)
    assert found.reason == "model.py:8: RuntimeError: no such layer"
    assert found.advice.startswith("correct the model file")
    assert "no such layer" in failure(state)
    assert "no such layer" in html(state)


def test_a_cancelled_run_that_took_its_chunks_from_another():
    state = state_of(recorded("cancelled_1"))
    assert state.state == "cancelled"
    assert list(words(state).values())[:3] == ["reused"] * 3
    assert state.failures == ()
    assert line(state).startswith("cancelled_1 cancelled: specs 2/2, merge 1/1, preprocess 2/2")


@pytest.fixture
def completed(tmp_path):
    shutil.copytree(RECORDED / "completed_1", tmp_path / "completed_1")
    return RunFolder(tmp_path / "completed_1")


def test_a_run_that_ended_without_its_bundle_has_failed_whatever_dagman_says(completed):
    completed.bundle.unlink()
    assert state_of(completed).state == "failed"


def test_a_bundle_cut_short_is_no_bundle(completed):
    completed.bundle.write_bytes(completed.bundle.read_bytes()[:-1])
    state = state_of(completed)
    assert (state.state, state.bundle) == ("failed", None)
    assert words(state)["report"] != "done"


def test_a_damaged_log_is_told_as_far_as_it_can_be_read(completed):
    completed.events_log.write_bytes(b"no event at all\n" * 40)
    assert [stage.done for stage in state_of(completed).stages] == [2, 1, 2, 1, 1]
    assert events.read(completed.events_log) == []


def test_what_failed_before_a_resume_is_history(tmp_path):
    shutil.copytree(RECORDED / "failed_1", tmp_path / "failed_1")
    run = RunFolder(tmp_path / "failed_1")
    log = run.dagman_log.read_text()
    again = log[log.index("000 (") : log.index("...", log.index("000 ("))] + "...\n"
    later = again.replace("000 (", "000 (9", 1).replace("2026-11-20 12", "2026-11-20 23", 1)
    run.dagman_log.write_text(log + later)
    state = status.of_runs([run], lambda: "not asked")[0]
    assert state.state in ("idle", "running")
    assert state.failures == ()
    assert words(state)["train"] == "waiting"


def test_a_log_cut_in_the_middle_of_an_event_is_read_as_far_as_it_goes(completed):
    whole = completed.events_log.read_bytes()
    seen = []
    for share in (0.3, 0.6, 0.9):
        completed.events_log.write_bytes(whole[: int(len(whole) * share)])
        assert [stage.done for stage in state_of(completed).stages] == [2, 1, 2, 1, 1]
        seen.append(len(events.read(completed.events_log)))
    assert seen == sorted(seen)
    assert 2 <= seen[0] < seen[-1] <= 7


def test_jobs_carry_their_stage_and_task():
    jobs = events.read(recorded("completed_1").events_log)
    assert [(job.stage, job.task, job.state, job.exit_code) for job in jobs] == [
        ("specs", 0, "ended", 0), ("specs", 1, "ended", 0), ("merge", 0, "ended", 0),
        ("preprocess", 0, "ended", 0), ("preprocess", 1, "ended", 0), ("train", 0, "ended", 0),
        ("report", 0, "ended", 0),
    ]  # fmt: skip


def test_a_pool_that_cannot_be_asked_is_said_and_changes_nothing_else(completed):
    text = completed.dagman_log.read_text()
    end = text.index("005 (")
    completed.dagman_log.write_text(text[:end])
    state = status.of_runs([completed], lambda: "it is down")[0]
    assert state.state == "running"
    assert state.unreachable == "it is down"


@pytest.mark.parametrize(
    ("in_queue", "told"), [("held", "held"), ("idle", "running"), ("running", "running")]
)
def test_a_job_just_released_is_not_told_as_held(completed, monkeypatch, in_queue, told):
    """The schedd has released it; the event log, read a moment earlier, still ends with the hold."""
    completed.bundle.unlink()
    log = completed.events_log.read_text()
    ended = log.rindex("005 (")
    when = log[ended + 5 : ended + 38]
    completed.events_log.write_text(
        f"{log[:ended]}012 ({when}Job was held.\n\tby user luca\n\tCode 1 Subcode 0\n...\n"
    )
    text = completed.dagman_log.read_text()
    completed.dagman_log.write_text(text[: text.index("005 (")])
    job = queue.QueuedJob(72, 0, in_queue, queue.directory(completed), "report", 0)
    monkeypatch.setattr(queue, "query", lambda runs: [job])
    monkeypatch.setattr(queue, "machines", list)
    state = state_of(completed)
    assert state.state == told
    assert words(state)["report"] == ("held" if told == "held" else "idle")
    assert len(state.failures) == (told == "held")


def test_a_job_that_ends_well_without_its_output_has_failed(completed):
    completed.bundle.unlink()
    state = state_of(completed)
    assert words(state)["report"] == "failed"
    assert "without its output" in state.failures[0].reason


def test_a_job_that_was_removed_is_explained(completed):
    completed.bundle.unlink()
    text = completed.events_log.read_text()
    ended = text.rindex("005 (")
    when = text[ended + 5 : ended + 38]
    aborted = f"009 ({when}Job was aborted.\n\tvia condor_rm (by user luca)\n...\n"
    completed.events_log.write_text(text[:ended] + aborted)
    (found,) = state_of(completed).failures
    assert found.reason == "was removed from the queue (via condor_rm (by user luca))"
    assert found.advice == "mlaas-condor resume completed_1"


def test_a_node_that_cannot_be_submitted_is_explained(completed):
    completed.bundle.unlink()
    completed.events_log.write_text("")
    completed.dagman_out.write_text(
        "11/20/26 12:20:52 submit error: Submit:-1:Parse error in expression: \n\tMLaaSTask = 00000\n\t\n"
        "11/20/26 12:20:52 ---------------------- Node ----------------------\n"
        "11/20/26 12:20:52       Node Name: train\n"
        "11/20/26 12:20:52            Noop: false\n"
        "11/20/26 12:20:52           Error: Job submit failed\n"
    )
    (found,) = state_of(completed).failures
    assert found.stage == "train"
    assert found.reason == ("Job submit failed: Submit:-1:Parse error in expression: MLaaSTask = 00000")
