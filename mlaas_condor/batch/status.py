"""The state of a run, from its output, its event logs and, in one query, the schedd."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace

from mlaas_condor.batch import events, logs, queue, reasons
from mlaas_condor.errors import PoolUnreachable
from mlaas_condor.run import RunFolder
from mlaas_condor.state import (
    Failure,
    RunState,
    StageState,
    State,
    Training,
    bundle_path,
    stages_by_output,
)

_ALIVE: tuple[State, ...] = ("idle", "running", "held")
_FAILED_NODE = re.compile(r"Node Name: (?P<stage>\w+).*?\n\S+ \S+ +Error: (?P<error>[^\n]*)", re.DOTALL)
_SUBMIT_ERROR = re.compile(r"submit error: (?P<text>.*?)(?=\n\d\d/\d\d/)", re.DOTALL)


def of_runs(folders: Iterable[RunFolder], pool_problem: str = "") -> list[RunState]:
    """Return the states of several runs, asking the schedd once for all that are not over.

    Parameters
    ----------
    folders
        The runs.
    pool_problem
        Why the pool cannot be asked; empty where it can.
    """
    told = {folder: _from_files(folder) for folder in folders}
    alive = [state.name for state in told.values() if state.state in _ALIVE]
    queued: list[queue.QueuedJob] = []
    if alive and not pool_problem:
        try:
            queued = queue.query(alive)
        except PoolUnreachable as error:
            pool_problem = str(error)
    jobs = {name: [job for job in queued if job.run == name] for name in alive}
    return [
        state if state.name not in jobs
        else replace(state, unreachable=pool_problem) if pool_problem
        else _with_queue(state, jobs[state.name]) if jobs[state.name]
        else _without_jobs(folder)
        for folder, state in told.items()
    ]  # fmt: skip


def _without_jobs(folder: RunFolder) -> RunState:
    """Return the state of a run that seemed alive, but of which the schedd has nothing."""
    state = _from_files(folder)  # again: it may have ended between the look at its log and the query
    if state.state not in _ALIVE:
        return state
    reason = "the pool has no job of this run any more: its queue was lost, or emptied by force"
    lost = Failure(
        state.current.stage if state.current else "", 0, reason, f"mlaas-condor resume {state.name}"
    )
    return replace(state, state="failed", failures=(lost,), stages=tuple(map(_idle_no_more, state.stages)))


def _idle_no_more(stage: StageState) -> StageState:
    return replace(stage, running=0, idle=0, held=0)


def _from_files(folder: RunFolder) -> RunState:
    """Tell the state from the run directory alone."""
    dagman = events.read(folder.dagman_log)
    stages = stages_by_output(folder)
    jobs = events.read(folder.events_log)
    for stage, so_far in stages.items():
        stages[stage] = _with_jobs(so_far, [job for job in jobs if job.stage == stage], over=_is_over(dagman))
    bundle = bundle_path(folder)
    state = _run_state(dagman, stages.values(), bundle)
    return RunState(
        name=folder.name,
        state=state,
        where="pool" if dagman else "",
        stages=tuple(_mark_reused(stages)),
        submitted=dagman[-1].submitted if dagman else None,
        ended=dagman[-1].changed if _is_over(dagman) else None,
        failures=_all_failures(folder, jobs, stages, state),
        bundle=bundle,
    )


def _is_over(dagman: list[events.Job]) -> bool:
    return bool(dagman) and dagman[-1].state in ("ended", "removed")


def _run_state(dagman: list[events.Job], stages: Iterable[StageState], bundle: str | None) -> State:
    if not dagman:
        return "prepared"
    last = dagman[-1]
    if last.state == "removed":
        return "cancelled"
    if last.state == "ended":
        # The output decides: DAGMan can end with 0 although a node failed.
        return "completed" if bundle and last.exit_code == 0 else "failed"
    if last.state == "held" or any(stage.word == "held" for stage in stages):
        return "held"
    if last.state == "idle" and last.started is None:
        return "idle"
    return "running"


def _with_jobs(stage: StageState, jobs: list[events.Job], over: bool) -> StageState:
    """Add what the last submission of a stage's jobs does; earlier ones are history."""
    if not jobs:
        return stage
    cluster = jobs[-1].cluster
    last = [job for job in jobs if job.cluster == cluster]
    count = Counter(job.state for job in last)
    failed = sum(_failed(job) for job in last)
    running = [job for job in last if job.state == "running"]
    starts = [job.started for job in jobs if job.started is not None]
    whole = stage.done == stage.tasks
    return replace(
        stage,
        running=0 if over else len(running),
        idle=0 if over else count["idle"],
        held=0 if over else count["held"],
        failed=0 if whole else failed,
        started=min(starts, default=None),
        ended=max(job.changed for job in last) if whole or over else None,
    )


def _failed(job: events.Job) -> bool:
    return job.state == "ended" and job.exit_code != 0


def _mark_reused(stages: dict[str, StageState]) -> Iterable[StageState]:
    for stage in stages.values():
        whole = bool(stage.tasks) and stage.done == stage.tasks
        yield replace(stage, reused=whole and stage.started is None)


def _all_failures(
    folder: RunFolder, jobs: list[events.Job], stages: dict[str, StageState], state: State
) -> tuple[Failure, ...]:
    if state == "completed":
        return ()
    found = tuple(_failures(folder, jobs, stages))
    return found or (tuple(_dagman_failures(folder)) if state == "failed" else ())


def _dagman_failures(folder: RunFolder) -> Iterable[Failure]:
    """Find in what DAGMan said why a node failed without a job: at submission, or in its PRE script."""
    if not folder.dagman_out.exists():
        return
    text = folder.dagman_out.read_text("utf-8", "replace")
    node = _FAILED_NODE.search(text)
    if node:
        cause = _SUBMIT_ERROR.search(text)
        reason = f"{node['error'].strip()}{': ' + ' '.join(cause['text'].split()) if cause else ''}"
        yield Failure(
            node["stage"], 0, reason, f"see {folder.dagman_out}, then mlaas-condor resume {folder.name}"
        )


def _failures(folder: RunFolder, jobs: list[events.Job], stages: dict[str, StageState]) -> Iterable[Failure]:
    last = {job.stage: job.cluster for job in jobs}
    for job in jobs:
        if job.cluster != last[job.stage] or stages[job.stage].word == "done":
            continue
        if _failed(job):
            stderr = folder.stderr(job.stage, job.task)
            reason, advice = reasons.of_exit(
                job.exit_code, job.signal, stderr, folder.name, job.stage, job.task
            )
            yield Failure(job.stage, job.task, reason, advice)
        elif job.state == "held":
            reason, advice = reasons.of_hold(job.hold_code, job.hold_reason, folder.name, job.stage, job.task)
            yield Failure(job.stage, job.task, reason, advice)


def _with_queue(state: RunState, jobs: list[queue.QueuedJob]) -> RunState:
    """Add what only HTCondor knows: where the training is, and what idle jobs wait for."""
    trains = [job for job in jobs if job.stage == "train" and job.state == "running"]
    training = Training.last_of(logs.tail(trains[0])) if trains else None
    idle = [job for job in jobs if job.state == "idle" and job.stage != "dagman"]
    waiting = tuple(_what_idle_jobs_wait_for(idle)) if idle else ()
    return replace(state, training=training, waiting=waiting)


def _what_idle_jobs_wait_for(idle: list[queue.QueuedJob]) -> Iterable[str]:
    pool = queue.machines()
    for stage in dict.fromkeys(job.stage for job in idle):
        jobs = [job for job in idle if job.stage == stage]
        job = jobs[0]
        asked = f"{job.cpus} CPU, {job.memory} MiB" + (f", {job.gpus} GPU" if job.gpus else "")
        if not pool:
            yield f"{stage}: {len(jobs)} idle, the pool has no machine at the moment"
        elif too_much := _beyond(job, pool):
            yield f"{stage}: {len(jobs)} idle, no machine has {too_much}; asked is {asked}"
        else:
            yield f"{stage}: {len(jobs)} idle, waiting for a free slot with {asked}"


def _beyond(job: queue.QueuedJob, pool: list[queue.Machine]) -> str:
    """Return what no machine of the pool could ever give the job, or an empty string."""
    wanted = {"cpus": job.cpus, "memory": job.memory, "disk": job.disk, "gpus": job.gpus}
    units = {"cpus": "CPUs", "memory": "MiB of memory", "disk": "KiB of disk", "gpus": "GPUs"}
    for name, amount in wanted.items():
        most = max(getattr(machine, name) for machine in pool)
        if amount > most:
            return f"{amount} {units[name]} (the largest has {most})"
    if job.require_gpus and (most := queue.most_gpus(job.require_gpus)) < job.gpus:
        return f"{job.gpus} GPUs with {job.require_gpus} (the best has {most})"
    return ""
