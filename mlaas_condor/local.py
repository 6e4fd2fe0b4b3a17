"""The stages of a run in order, without HTCondor: for a laptop, and to find a mistake.

The same programs run on the same files with the same arguments: both are read from the submit files,
which stay the only place that says what a job needs.
"""

from __future__ import annotations

import fcntl
import itertools
import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from typing import Any

from mlaas_condor import access
from mlaas_condor.batch import reasons
from mlaas_condor.errors import RunFailed, WrongState
from mlaas_condor.run import STAGES, RunFolder
from mlaas_condor.sandbox import Job, Sandboxes, jobs_of
from mlaas_condor.state import (
    Failure,
    RunState,
    StageState,
    State,
    Training,
    bundle_path,
    stages_by_output,
)

NOTHING_TO_DO = 7  # exit code of the PRE script
Progress = Callable[[str, int, int, str], None]  # stage, tasks done, tasks, last line of a job


def run(folder: RunFolder, progress: Progress | None = None, jobs: int | None = None) -> None:
    """Do what is missing of a run, stage by stage.

    Parameters
    ----------
    folder
        A prepared run directory.
    progress
        Told of every finished task and of every line that a job writes.
    jobs
        Jobs side by side; default: one a core.

    Raises
    ------
    RunFailed
        A job failed; the message says why and what to do.
    WrongState
        The run is being done by another process.
    """
    progress = progress or (lambda stage, done, tasks, line: None)
    with _locked(folder) as lock:
        _note(folder, "started")
        try:
            with access.used(folder):
                for stage in STAGES:
                    _run_stage(folder, stage, progress, jobs or os.cpu_count() or 1, lock)
        except _TaskFailed as error:
            _note(folder, "failed", error.failure)
            raise
        except BaseException:
            _note(folder, "cancelled")
            raise
        _note(folder, "completed")


class _TaskFailed(RunFailed):
    """A job of a run ended without its output."""

    def __init__(self, name: str, failure: Failure) -> None:
        super().__init__(f"{name}: {failure.stage} task {failure.task}: {failure.reason}\n→ {failure.advice}")
        self.failure = failure


@contextmanager
def _locked(folder: RunFolder) -> Iterator[int]:
    """Hold the run's lock and give its descriptor: jobs inherit it, so it is held as long as one lives."""
    with folder.local_lock.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise WrongState(
                f"{folder.name} is being run by another process, or a job of it has outlived that: "
                f"`pgrep -af mlaas_condor.stages` shows it"
            ) from None
        yield lock.fileno()


def is_running(folder: RunFolder) -> bool:
    """Tell whether a process is doing this run."""
    if not folder.local_lock.exists():
        return False
    with folder.local_lock.open() as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def _note(folder: RunFolder, event: str, failure: Failure | None = None) -> None:
    line = {"time": time.time(), "event": event, "failure": asdict(failure) if failure else None}
    # On a full disk the reason for the failure is more important than its note.
    with suppress(OSError), folder.local_log.open("a", encoding="utf-8") as log:
        log.write(json.dumps(line) + "\n")


def state(folder: RunFolder) -> RunState:
    """Return the state of a run that is, or was, done without HTCondor."""
    lines = list(_notes(folder))
    started = [line["time"] for line in lines if line["event"] == "started"]
    last: dict[str, Any] = lines[-1] if lines else {"event": "prepared", "time": None, "failure": None}
    word: State = last["event"] if last["event"] != "started" else "cancelled"  # its process was killed
    if is_running(folder):
        word = "running"
    logs = sorted(folder.logs.glob("train.*.out"), key=lambda path: path.stat().st_mtime)
    over = folder.tasks_done("train").issuperset(folder.task_units("train"))
    training = logs and word == "running" and not over
    return RunState(
        name=folder.name,
        state=word,
        where="local",
        stages=tuple(_stages(folder, word)),
        submitted=started[-1] if started else None,
        ended=None if word == "running" else last["time"],
        training=Training.last_of(logs[-1].read_text("utf-8", "replace")) if training else None,
        failures=(Failure(**last["failure"]),) if word == "failed" else (),
        bundle=bundle_path(folder),
        notes=folder.notes(),
    )


def _notes(folder: RunFolder) -> Iterator[dict[str, Any]]:
    """Yield what was noted; a line that a full disk or a kill cut short is passed over."""
    for line in folder.local_log.read_text("utf-8", "replace").splitlines():
        with suppress(ValueError):
            note = json.loads(line)
            if {"event", "time", "failure"} <= note.keys():
                yield note


def _stages(folder: RunFolder, word: State) -> Iterator[StageState]:
    """Yield the stages; the first that is not done is the one that runs, or failed."""
    before = True
    for stage in stages_by_output(folder, folder.done()).values():
        done = stage.word in ("done", "reused")
        if done and not any(folder.logs.glob(f"{stage.stage}.*")):
            stage = replace(stage, reused=True)
        if before and not done and word in ("running", "failed"):
            stage = replace(stage, running=int(word == "running"), failed=int(word == "failed"))
        before = before and done
        yield stage


def _run_stage(folder: RunFolder, stage: str, progress: Progress, side_by_side: int, lock: int) -> None:
    missing = _find_missing(folder, stage)
    units = folder.task_units(stage)  # now, as output of merge may have come from the store
    total = len(units)
    if not missing:
        progress(stage, total, total, "")
        return
    todo = jobs_of(folder, stage)
    done = total - len(todo)
    finished = itertools.count(done + 1)
    progress(stage, done, total, "")
    sandboxes = Sandboxes(folder, stage, lock)

    def one(job: Job) -> None:
        nonlocal done
        code = sandboxes.run(job, lambda line: progress(stage, done, total, line))
        if code or not all(folder.is_complete(stage, unit) for unit in units[job.task]):
            raise _TaskFailed(folder.name, _failure(folder, stage, job, code))
        done = next(finished)
        progress(stage, done, total, "")

    width = max(1, min(side_by_side // max(job.cpus for job in todo), len(todo)))
    with ThreadPoolExecutor(width) as pool:
        running = [pool.submit(one, job) for job in todo]
        try:
            for each in as_completed(running):
                each.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            sandboxes.stop()
            raise


def _failure(folder: RunFolder, stage: str, job: Job, code: int) -> Failure:
    exit_code, signal = (code, None) if code >= 0 else (None, -code)
    stderr = folder.stderr(stage, job.task)
    what, advice = reasons.of_exit(exit_code, signal, stderr, folder.name, stage, job.task)
    return Failure(stage, job.task, folder.in_users_words(what), advice)


def _find_missing(folder: RunFolder, stage: str) -> bool:
    """Run the stage's PRE script as the DAG gives it; False when all output is there."""
    lines = [line.split() for line in folder.dag.read_text("utf-8").splitlines()]
    words = next(line[3:] for line in lines if line[:3] == ["SCRIPT", "PRE", stage])
    ready = subprocess.run(
        ["sh", folder.path / words[0], *words[1:]], capture_output=True, text=True, check=False
    )
    if ready.returncode not in (0, NOTHING_TO_DO):
        reason = ready.stderr.strip() or f"its PRE script ended with exit code {ready.returncode}"
        raise _TaskFailed(folder.name, Failure(stage, 0, reason, f"mlaas-condor resume {folder.name}"))
    return ready.returncode == 0
