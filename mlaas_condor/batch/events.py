"""The event logs of a run: which jobs there were, and what became of each."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass
class Job:
    """A job as its events tell it.

    Parameters
    ----------
    cluster, proc, stage, task
        Its number, and what it works on.
    state
        idle, running, held, ended, removed.
    exit_code, signal
        How it ended; None while it has not, or where the other one says.
    hold_code, hold_subcode, hold_reason
        Why it is held; the reason also where it was removed.
    submitted, started, changed
        Seconds since 1970: of submission, of its first start (None before), and of its last event.
    """

    cluster: int
    proc: int
    stage: str
    task: int
    submitted: float
    state: str = "idle"
    exit_code: int | None = None
    signal: int | None = None
    hold_code: int = 0
    hold_subcode: int = 0
    hold_reason: str = ""
    started: float | None = None
    changed: float = 0.0


def read(path: Path) -> list[Job]:
    """Return the jobs of an event log in the order of their submission; none where there is no log."""
    jobs: dict[tuple[int, int], Job] = {}
    for event in _events(path):
        key = (event.cluster, event.proc)
        name = event.type.name
        if name == "SUBMIT":
            jobs[key] = _submitted(event)
        elif key in jobs:
            _apply(jobs[key], name, event)
        if key in jobs:
            jobs[key].changed = float(event.timestamp)
    return list(jobs.values())


def _events(path: Path) -> Iterator[Any]:
    if not path.exists() or not path.stat().st_size:
        return
    import htcondor2

    # A damaged log is told as far as it can be read; the output says the rest.
    with contextlib.suppress(htcondor2.HTCondorException), htcondor2.JobEventLog(str(path)) as log:
        yield from log.events(stop_after=0)


def _submitted(event: Any) -> Job:
    # Ours, from submit_event_user_notes: "specs 3". The DAGMan job itself has none.
    stage, _, task = str(event.get("UserNotes", "")).strip().partition(" ")
    return Job(event.cluster, event.proc, stage, int(task or 0), submitted=float(event.timestamp))


def _apply(job: Job, name: str, event: Any) -> None:
    if name == "EXECUTE":
        job.state = "running"
        job.started = job.started or float(event.timestamp)
    elif name in ("JOB_EVICTED", "SHADOW_EXCEPTION", "JOB_RECONNECT_FAILED"):
        job.state = "idle"
    elif name == "JOB_HELD":
        job.state = "held"
        job.hold_code, job.hold_reason = int(event.get("HoldReasonCode", 0)), str(event.get("HoldReason", ""))
        job.hold_subcode = int(event.get("HoldReasonSubCode", 0))
    elif name == "JOB_RELEASED":
        job.state = "idle"
    elif name == "JOB_TERMINATED":
        job.state = "ended"
        if event.get("TerminatedNormally", True):
            job.exit_code = int(event.get("ReturnValue", 0))
        else:
            job.signal = int(event.get("TerminatedBySignal", 0))
    elif name == "JOB_ABORTED":
        job.state = "removed"
        job.hold_reason = str(event.get("Reason", ""))
