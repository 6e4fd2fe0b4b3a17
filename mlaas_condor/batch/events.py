"""The event logs of a run: which jobs there were, and what became of each."""

from __future__ import annotations

import contextlib
import pickle
import threading
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar


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


@dataclass(frozen=True)
class Event:
    """One event of a job, as HTCondor wrote it down.

    Parameters
    ----------
    time
        Seconds since 1970.
    kind
        submit, execute, image_size, job_held, job_terminated, …: HTCondor's own words.
    cluster, proc, stage, task
        Which job; the stage of the DAGMan job itself is ``dagman``.
    said
        Why it is held or was removed, or how it ended.
    machine
        Where it began to run.
    memory_mb, cpus
        What it has used so far: MiB, and cores on average; None where the event does not say.
    """

    time: float
    kind: str
    cluster: int
    proc: int
    stage: str
    task: int
    said: str = ""
    machine: str = ""
    memory_mb: int | None = None
    cpus: float | None = None


def listed(path: Path, stage: str = "") -> list[Event]:
    """Return all events of an event log, in its order.

    Parameters
    ----------
    stage
        Of jobs that do not say it: ``dagman``.
    """
    jobs: dict[tuple[int, int], Job] = {}
    found = []
    for event in _events(path):
        key, kind = (event.cluster, event.proc), event.type.name
        if kind == "SUBMIT":
            jobs[key] = _submitted(event)
        job = jobs.setdefault(key, Job(*key, "", 0, submitted=float(event.timestamp)))
        _apply(job, kind, event)
        found.append(Event(
            time=float(event.timestamp),
            kind=kind.lower(),
            cluster=event.cluster,
            proc=event.proc,
            stage=job.stage or stage,
            task=job.task,
            said=_said(job, kind, event),
            machine=str(event.get("SlotName", "")),
            memory_mb=_number(event, "MemoryUsage", int),
            cpus=_number(event, "CpusUsage", float),
        ))  # fmt: skip
    return found


def _said(job: Job, kind: str, event: Any) -> str:
    if kind == "JOB_TERMINATED":
        return f"exit code {job.exit_code}" if job.signal is None else f"signal {job.signal}"
    if kind in ("JOB_HELD", "JOB_ABORTED"):
        return job.hold_reason
    return str(event.get("Reason", ""))


_N = TypeVar("_N", int, float)


def _number(event: Any, name: str, kind: type[_N]) -> _N | None:
    value = event.get(name)
    return kind(value) if isinstance(value, int | float) else None


@dataclass(frozen=True)
class _Progress:
    """How far a log was read.

    Parameters
    ----------
    stamp
        Device, inode, size and time of change of the file, from before it was read.
    jobs
        Those it told of; they are never changed, only replaced.
    reader
        What goes on from there, as bytes, so that no file is kept open; empty where it has to begin anew.
    offset, end
        To where it was read, and the bytes before.
    """

    stamp: tuple[int, int, int, int]
    jobs: dict[tuple[int, int], Job]
    reader: bytes = b""
    offset: int = 0
    end: bytes = b""


_END = b"\n...\n"  # of an event
_COMPARED = 256  # bytes that are the same where a log has only grown
_MOST_JOBS = 200_000  # of all logs that are remembered
_progress: OrderedDict[Path, _Progress] = OrderedDict()
_lock = threading.Lock()


def read(path: Path) -> list[Job]:
    """Return the jobs of an event log in the order of their submission; none where there is no log.

    A log that has grown since this process read it is read from there on: one of many jobs takes seconds.
    """
    with _lock:
        progress = _progress.pop(path, None)
        try:
            status = path.stat()
            stamp = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)
            if progress is None or progress.stamp != stamp:
                progress = _read_on(path, stamp, progress)
                left = _MOST_JOBS - len(progress.jobs) - sum(len(each.jobs) for each in _progress.values())
                while left < 0 and _progress:
                    left += len(_progress.popitem(last=False)[1].jobs)
        except (FileNotFoundError, NotADirectoryError):
            return []
        _progress[path] = progress
        return list(progress.jobs.values())


def _read_on(path: Path, stamp: tuple[int, int, int, int], before: _Progress | None) -> _Progress:
    if not stamp[2]:
        return _Progress(stamp, {})
    import htcondor2

    jobs: dict[tuple[int, int], Job] = {}
    try:
        if before and before.reader and _has_only_grown(path, stamp, before):
            jobs, log = dict(before.jobs), pickle.loads(before.reader)
        else:
            log = htcondor2.JobEventLog(str(path))
        with log:
            for event in log.events(stop_after=0):
                _note(jobs, event)
            reader, offset = pickle.dumps(log), log.__getstate__()[1]
    except htcondor2.HTCondorException:
        # A damaged log is told as far as it can be read; the output says the rest.
        return _Progress(stamp, jobs)
    end = _before(path, offset)
    # A reader that met half an event has lost its way.
    return _Progress(stamp, jobs, reader, offset, end) if end.endswith(_END) else _Progress(stamp, jobs)


def _has_only_grown(path: Path, stamp: tuple[int, int, int, int], before: _Progress) -> bool:
    return (
        stamp[:2] == before.stamp[:2]
        and stamp[2] >= before.offset
        and _before(path, before.offset) == before.end
    )


def _before(path: Path, offset: int) -> bytes:
    with path.open("rb") as file:
        file.seek(max(0, offset - _COMPARED))
        return file.read(min(offset, _COMPARED))


def _note(jobs: dict[tuple[int, int], Job], event: Any) -> None:
    """Note an event in a copy of its job: others may hold what was told before."""
    key, name = (event.cluster, event.proc), event.type.name
    if name == "SUBMIT":
        job = _submitted(event)
    elif key in jobs:
        job = replace(jobs[key])
        _apply(job, name, event)
    else:
        return
    job.changed = float(event.timestamp)
    jobs[key] = job


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
