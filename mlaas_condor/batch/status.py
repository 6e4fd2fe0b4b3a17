"""The state of a run, from its output, its event logs and, in one query, the schedd."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

from mlaas_condor.batch import events, logs, queue, reasons, unchanged, waiting
from mlaas_condor.errors import PoolUnreachable
from mlaas_condor.grid.credentials import Credentials
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
_LAST_BYTES = 2**16  # of a training's log, where it says how far it is
_NO_PROXY = "PRE Script failed with status 9"
_NEW_PROXY = "put a new one in its place (mlaas-condor proxy init --out FILE)"
_SUBMIT_ERROR = re.compile(r"submit error: (?P<text>.*?)(?=\n\d\d/\d\d/)", re.DOTALL)


def of_runs(
    folders: Iterable[RunFolder], turn_to_pool: Callable[[], str] = lambda: "", with_training: bool = True
) -> list[RunState]:
    """Return the states of several runs, asking the schedd once for all that are not over.

    Parameters
    ----------
    folders
        The runs.
    turn_to_pool
        Called if a run is alive; returns why the pool cannot be asked, or an empty string.
    with_training
        Whether to ask, run by run, where a training is.
    """
    told = {folder: _from_files(folder) for folder in folders}
    alive = [folder for folder, state in told.items() if state.state in _ALIVE]
    queued: list[queue.QueuedJob] = []
    pool_problem = turn_to_pool() if alive else ""
    if alive and not pool_problem:
        try:
            queued = queue.query(alive)
        except PoolUnreachable as error:
            pool_problem = str(error)
    by_directory: dict[str, list[queue.QueuedJob]] = {}
    for job in queued:
        by_directory.setdefault(job.directory, []).append(job)
    jobs = {folder: by_directory.get(queue.directory(folder), []) for folder in alive}
    return [
        state if folder not in jobs
        else replace(state, unreachable=pool_problem) if pool_problem
        else _with_queue(state, jobs[folder], with_training) if jobs[folder]
        else _without_jobs(folder)
        for folder, state in told.items()
    ]  # fmt: skip


def _without_jobs(folder: RunFolder) -> RunState:
    """Return the state of a run that seemed alive, but of which the schedd has nothing."""
    state = _from_files(folder)  # again: it may have ended between the look at its log and the query
    if state.state not in _ALIVE:
        return state
    there, here = _submitted_to(folder), queue.here()
    if there != here:
        return replace(state, unreachable=f"it was submitted to {there}, and this is {here}")
    reason = "the pool has no job of this run any more: its queue was lost, or emptied by force"
    lost = Failure(
        state.current.stage if state.current else "", 0, reason, f"mlaas-condor resume {state.name}"
    )
    return replace(state, state="failed", failures=(lost,), stages=tuple(map(_idle_no_more, state.stages)))


def _submitted_to(folder: RunFolder) -> str:
    try:
        return folder.submitted_to.read_text("utf-8").strip()
    except OSError:
        return "another pool"


def _idle_no_more(stage: StageState) -> StageState:
    return replace(stage, running=0, idle=0, held=0)


def _from_files(folder: RunFolder) -> RunState:
    """Tell the state from the run directory alone."""
    return unchanged.state(folder, _told_by_files)


def _told_by_files(folder: RunFolder) -> RunState:
    dagman = events.read(folder.dagman_log)
    done = unchanged.done(folder)
    stages = stages_by_output(folder, done)
    jobs = events.read(folder.events_log)
    since = dagman[-1].submitted if dagman else 0.0
    for stage, so_far in stages.items():
        mine = [job for job in jobs if job.stage == stage]
        stages[stage] = _with_jobs(so_far, mine, done[stage], since, over=_is_over(dagman))
    bundle = bundle_path(folder)
    state = _run_state(dagman, stages.values(), bundle)
    return RunState(
        name=folder.name,
        state=state,
        where="pool" if dagman else "",
        stages=tuple(_mark_reused(stages)),
        submitted=dagman[-1].submitted if dagman else None,
        ended=dagman[-1].changed if _is_over(dagman) else None,
        failures=_all_failures(folder, [job for job in jobs if job.submitted >= since], done, state),
        bundle=bundle,
        notes=folder.notes(),
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


def _with_jobs(
    stage: StageState, jobs: list[events.Job], done: set[int], since: float, over: bool
) -> StageState:
    """Add what a stage's jobs do; ``done`` are the tasks with all their output.

    Times are those of its last submission; counts only those of the DAG's last one, begun at ``since``:
    what failed before a resume is history.
    """
    if not jobs:
        return stage
    last = [job for job in jobs if job.cluster == jobs[-1].cluster]
    now = [job for job in last if job.submitted >= since]
    count = Counter(job.state for job in now)
    whole = stage.done == stage.tasks
    return replace(
        stage,
        running=0 if over else count["running"],
        idle=0 if over else count["idle"],
        held=0 if over else count["held"],
        failed=sum(job.state == "ended" and job.task not in done for job in now),
        started=min((job.started for job in last if job.started is not None), default=None),
        ended=max(job.changed for job in last) if whole or over else None,
    )


def _mark_reused(stages: dict[str, StageState]) -> Iterable[StageState]:
    for stage in stages.values():
        whole = bool(stage.tasks) and stage.done == stage.tasks
        yield replace(stage, reused=whole and stage.started is None)


def _all_failures(
    folder: RunFolder, jobs: list[events.Job], done: Mapping[str, set[int]], state: State
) -> tuple[Failure, ...]:
    if state in ("completed", "cancelled"):
        return ()
    # When a job fails DAGMan removes the others of its stage: that is no news.
    own = [job for job in jobs if job.state != "removed"]
    found = tuple(_failures(folder, own, done)) or tuple(_failures(folder, jobs, done))
    return found or (tuple(_dagman_failures(folder)) if state == "failed" else ())


def _dagman_failures(folder: RunFolder) -> Iterable[Failure]:
    """Find in what DAGMan said why a node failed without a job: at submission, or in its PRE script."""
    if not folder.dagman_out.exists():
        return
    text = folder.dagman_out.read_text("utf-8", "replace")
    # The last of each: DAGMan appends what it says after a resume.
    for node in list(_FAILED_NODE.finditer(text))[-1:]:
        if _NO_PROXY in node["error"]:
            named = Credentials.of(folder.credentials).proxy
            advice = f"{_NEW_PROXY}, then mlaas-condor resume {folder.name}"
            yield Failure(node["stage"], 0, f"the proxy {named} is not there", advice)
            continue
        cause = next(iter(list(_SUBMIT_ERROR.finditer(text))[-1:]), None)
        if cause and "proxy" in cause["text"]:
            reason = f"HTCondor does not take its proxy: {' '.join(cause['text'].split())}"
            yield Failure(node["stage"], 0, reason, f"{_NEW_PROXY}, then mlaas-condor resume {folder.name}")
            continue
        reason = f"{node['error'].strip()}{': ' + ' '.join(cause['text'].split()) if cause else ''}"
        yield Failure(
            node["stage"], 0, reason, f"see {folder.dagman_out}, then mlaas-condor resume {folder.name}"
        )


def _failures(folder: RunFolder, jobs: list[events.Job], done: Mapping[str, set[int]]) -> Iterable[Failure]:
    """Tell of the jobs of each stage's last submission that have no output and will not bring any."""
    last = {job.stage: job.cluster for job in jobs}
    for job in jobs:
        if job.cluster != last[job.stage] or job.task in done.get(job.stage, ()):
            continue
        where = (folder.name, job.stage, job.task)
        if job.state == "ended":
            stderr = folder.stderr(job.stage, job.task)
            reason, advice = reasons.of_exit(job.exit_code, job.signal, stderr, *where)
        elif job.state == "held":
            stderr = folder.stderr(job.stage, job.task)
            said = job.hold_reason
            reason, advice = reasons.of_hold(job.hold_code, job.hold_subcode, said, stderr, *where)
        elif job.state == "removed":
            reason, advice = reasons.of_removal(job.hold_reason, *where)
        else:
            continue
        yield Failure(job.stage, job.task, folder.in_users_words(reason), advice)


def _released(state: RunState) -> RunState:
    """Return the state of a run whose held jobs were just released: the event log says so a moment later."""
    held = {stage.stage for stage in state.stages if stage.held}
    return replace(
        state,
        state="running",
        stages=tuple(replace(stage, idle=stage.idle + stage.held, held=0) for stage in state.stages),
        failures=tuple(each for each in state.failures if each.stage not in held),
    )


def _with_queue(state: RunState, jobs: list[queue.QueuedJob], with_training: bool) -> RunState:
    """Add what only HTCondor knows: where the training is, and what idle jobs wait for."""
    if state.state == "held" and not any(job.state == "held" for job in jobs):
        state = _released(state)
    trains = [job for job in jobs if job.stage == "train" and job.state == "running"]
    training = (
        Training.last_of(logs.tail(trains[0], most=_LAST_BYTES) or "") if trains and with_training else None
    )
    idle = [job for job in jobs if job.state == "idle" and job.stage != "dagman"]
    try:
        waits = tuple(waiting.reasons_of(idle, queue.machines())) if idle else ()
    except PoolUnreachable as error:  # the schedd answers, the collector does not
        waits = (f"which machines there are cannot be asked: {error}",)
    return replace(state, training=training, waiting=waits)
