"""Standard output and error of any task, also while it runs."""

from __future__ import annotations

import subprocess
from pathlib import Path

from mlaas_condor.batch import queue
from mlaas_condor.errors import PoolUnreachable
from mlaas_condor.run import RunFolder

MOST = 2**24
"""Bytes of a job's standard output or error that are fetched from its machine: the last ones."""


def read(folder: RunFolder, stage: str, task: int, stderr: bool = False, ask_pool: bool = True) -> str:
    """Return what a task has said so far; an empty string where it has not started.

    Without asking the pool, that is what was brought back.
    """
    job = _running(folder, stage, task) if ask_pool else None
    said = tail(job, stderr) if job else None
    if said is not None:
        return said
    path = folder.stderr(stage, task) if stderr else folder.stdout(stage, task)
    return _read_file(path)


def _running(folder: RunFolder, stage: str, task: int) -> queue.QueuedJob | None:
    if not folder.dagman_log.exists():
        return None
    try:
        jobs = queue.query([folder])
    except PoolUnreachable:
        return None  # what was brought back can be read all the same
    found = [job for job in jobs if (job.stage, job.task, job.state) == (stage, task, "running")]
    return found[0] if found else None


def tail(job: queue.QueuedJob, stderr: bool = False, most: int = MOST) -> str | None:
    """Return what a running job has said so far; None where its machine does not tell (any more)."""
    said = tail_bytes(job, stderr, most)
    return None if said is None else said.decode("utf-8", "replace")


def tail_bytes(job: queue.QueuedJob, stderr: bool = False, most: int = MOST) -> bytes | None:
    """Return the same as it was written: the last `most` bytes of it."""
    # The bindings have no call for it.
    command = ["condor_tail", "-maxbytes", str(most), f"{job.cluster}.{job.proc}"]
    if stderr:
        command.append("-stderr")
    try:
        reply = subprocess.run(command, capture_output=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return None if reply.returncode else reply.stdout


def _read_file(path: Path) -> str:
    try:
        return path.read_text("utf-8", "replace")
    except OSError:
        return ""
