"""A run as an object: how it does, its logs, its model; its directory is in ``run.py``."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from mlaas_condor import access, chunkstore, local, run, show
from mlaas_condor.batch import logs, pool, queue, status
from mlaas_condor.errors import CannotWrite, PoolUnreachable, WrongState
from mlaas_condor.places import Patience, wait_for
from mlaas_condor.run import RunFolder
from mlaas_condor.settings import Settings
from mlaas_condor.state import ENDED, RunState, read_history, read_metrics

_POLL_SECONDS = 1.0
_GRACE = 15.0  # seconds for the queue to empty before a resume


class Run:
    """A run: ask how it does, wait for it, get its logs and its model.

    Parameters
    ----------
    folder
        Its run directory.
    settings
        Where the runs and the pool are.
    """

    def __init__(self, folder: RunFolder, settings: Settings) -> None:
        self.folder = folder
        self.settings = settings

    @property
    def name(self) -> str:
        """Name of the run: ``luca_1``."""
        return self.folder.name

    @property
    def where(self) -> str:
        """Where it is kept: its run directory."""
        return str(self.folder.path)

    def __repr__(self) -> str:
        return f"<Run {self.name}: {self.status().state}>"

    def _repr_html_(self) -> str:
        return show.html(self.status())

    def status(self) -> RunState:
        """Return the state of the run and of each stage."""
        return states([self.folder], self.settings, with_training=True)[0]

    def follow(self) -> Iterator[RunState]:
        """Yield the state again and again, until the run has ended.

        Raises
        ------
        PoolLost
            The pool has not answered for a minute; the run itself is not touched.
        """
        patience = Patience(self.name)
        while True:
            state = self.status()
            yield state
            if state.state in ENDED or state.state == "prepared":
                return
            patience.check(state.unreachable)
            time.sleep(_POLL_SECONDS)

    def wait(self, progress: bool = False, timeout: float | None = None) -> RunState:
        """Wait until the run has ended, or is held: a held run does not go on by itself.

        Parameters
        ----------
        progress
            Show the stages meanwhile, in a terminal or a notebook.
        timeout
            Seconds to wait at most.

        Raises
        ------
        RunFailed
            It ended without a model, or is held; the message says why, and what to do.
        TimeoutError
            It has not ended in time.
        """
        return wait_for(self, progress, timeout)

    def logs(self, stage: str | None = None, task: int | None = None, stderr: bool = False) -> str:
        """Return what a task has said so far, also while it runs; without a stage, the most telling one."""
        stage, task = self._pick(stage, task)
        alive = self.folder.dagman_log.exists() and task not in self.folder.tasks_done(stage)
        ask_pool = alive and not pool_problem(self.settings)
        return logs.read(self.folder, stage, task, stderr, ask_pool)

    def follow_logs(
        self, stage: str | None = None, task: int | None = None, stderr: bool = False
    ) -> Iterator[str]:
        """Yield what a task says as it says it, until it or the run ends; waits for it to start."""
        stage, task = self._pick(stage, task)
        shown, patience = "", Patience(self.name)
        while True:
            # Asked first: what a task says before it ends is then read after it has ended.
            state = self.status()
            over = state.state in (*ENDED, "prepared") or task in self.folder.tasks_done(stage)
            text = logs.read(self.folder, stage, task, stderr, ask_pool=not state.unreachable)
            if text and not text.startswith(shown):  # it was started again
                shown = ""
            if len(text) > len(shown):
                yield text[len(shown) :]
                shown = text
            if over:
                return
            patience.check(state.unreachable)
            time.sleep(_POLL_SECONDS)

    def _pick(self, stage: str | None, task: int | None) -> tuple[str, int]:
        return pick(self.folder, self.status(), stage, task)

    def model(self) -> Path:
        """Return the path of the model bundle.

        Raises
        ------
        WrongState
            There is none (yet); the message says why.
        """
        state = self.status()
        if not state.bundle:
            raise WrongState(
                f"{self.name} has no model: it is {state.state}; see `mlaas-condor status {self.name}`"
            )
        return Path(state.bundle)

    def fetch(self, output: str | Path, told: Callable[[int, int], None] = lambda *_: None) -> Path:
        """Copy the model bundle to a file, or into a folder; return where it is then.

        Parameters
        ----------
        told
            Gets how many bytes are there, and how many there are in all.

        Raises
        ------
        WrongState
            There is none (yet).
        CannotWrite
            There is no place for it.
        """
        bundle = self.model()
        try:
            copied = Path(shutil.copy(bundle, output))
            size = copied.stat().st_size
        except OSError as error:
            raise CannotWrite(f"{output}: {error.strerror}") from error
        told(size, size)
        return copied

    def metrics(self) -> Mapping[str, Any] | None:
        """Return the metrics on train, validation and test events, None before the training has ended."""
        return read_metrics(self.folder)

    def history(self) -> list[dict[str, Any]]:
        """Return what each epoch gave; empty before the training has ended."""
        return read_history(self.folder)

    def cancel(self) -> None:
        """Remove the run from the queue; what it has done stays, and `resume` goes on from there."""
        state = self.status()
        if state.where == "local" and state.state == "running":
            raise WrongState(f"{self.name} runs without HTCondor: press Ctrl-C where it was started")
        if state.state in ENDED or state.state == "prepared":
            raise WrongState(f"{self.name} is {state.state}: there is nothing to cancel")
        pool.use(self.settings)
        if not queue.remove(self.folder):
            raise WrongState(f"{self.name}: nothing of it is in the queue of this pool")

    def resume(self) -> str:
        """Go on after a failure, a hold or a cancel, redoing only what is missing; return what was done."""
        state = self.status()
        if state.state == "completed":
            raise WrongState(f"{self.name} is completed: its model is {state.bundle}")
        if state.state in (*ENDED, "prepared"):
            chunkstore.make_again(self.folder)
        if state.state != "held":
            access.check_again(self.folder, _missing(state))
        if state.where == "local":
            local.run(self.folder)
            return "completed without HTCondor"
        pool.use(self.settings)
        if state.state == "held":
            return f"released {queue.release(self.folder)} held jobs"
        if state.state not in ENDED and state.state != "prepared":
            raise WrongState(f"{self.name} is {state.state}: there is nothing to resume")
        _wait_until_gone(self.folder)
        return f"submitted as cluster {queue.submit(self.folder, self.settings.owner)}"

    def delete(self, keep_stored: bool = False) -> None:
        """Delete the run directory and what it alone used of specs and chunks.

        Parameters
        ----------
        keep_stored
            Leave the chunks of its chunk store there. Otherwise they go first, and where that fails the run
            stays.

        Raises
        ------
        WrongState
            It is not over.
        StageError
            The storage does not answer, or refuses; nothing is deleted here.
        """
        state = self.status()
        if state.state not in (*ENDED, "prepared"):
            raise WrongState(
                f"{self.name} is {state.state}: cancel it first (`mlaas-condor cancel {self.name}`)"
            )
        if not keep_stored:
            chunkstore.remove(self.folder, self.settings.runs)
        run.delete(self.folder, self.settings.store)


def pick(folder: RunFolder, state: RunState, stage: str | None, task: int | None) -> tuple[str, int]:
    """Choose whose log tells most: the task that failed, else the one that runs, else the last that is done.

    Parameters
    ----------
    stage, task
        What is chosen already.

    Raises
    ------
    WrongState
        There is no such stage, or no such task.
    """
    failed = [each for each in state.failures if stage in (None, each.stage)]
    if stage is None:
        begun = [each.stage for each in state.stages if each.word not in ("waiting", "reused", "idle")]
        stage = failed[0].stage if failed else begun[-1] if begun else run.STAGES[0]
    if stage not in run.STAGES:
        raise WrongState(f"no stage {stage!r}: there is {', '.join(run.STAGES)}")
    tasks = folder.task_units(stage)
    if task is not None and task not in tasks:
        raise WrongState(
            f"{folder.name}: stage {stage} has no task {task}, they go from 0 to {len(tasks) - 1}"
        )
    if task is None:
        task = next((each.task for each in failed if each.stage == stage), 0)
    return stage, task


def _wait_until_gone(folder: RunFolder) -> None:
    """Wait until nothing of a run is queued: a second DAGMan beside the first would spoil both."""
    deadline = time.monotonic() + _GRACE
    while left := queue.query([folder]):
        if time.monotonic() > deadline:
            raise WrongState(
                f"{folder.name}: {len(left)} of its jobs are still in the queue, {left[0].state}; "
                f"try again once `condor_q` does not show them any more, or `condor_rm -forcex` them"
            )
        time.sleep(0.5)


def pool_problem(settings: Settings) -> str:
    """Turn to the pool, and return why it cannot be asked: what is on disk can be told without."""
    try:
        pool.use(settings)
    except PoolUnreachable as error:
        return str(error)
    return ""


def states(
    folders: Iterable[RunFolder],
    settings: Settings,
    with_training: bool = False,
    turn_to_pool: Callable[[], str] | None = None,
) -> list[RunState]:
    """Return the states of runs; the schedd is asked once, and only if one of them is not over.

    Parameters
    ----------
    folders, settings
        The runs, of one owner or of several; where the pool is.
    with_training
        Whether to ask where each training is, which takes a call a run.
    turn_to_pool
        Called instead of `pool_problem`, by whoever knows already that the pool does not answer.
    """
    folders = list(folders)
    told = {folder: local.state(folder) for folder in folders if folder.local_log.exists()}
    remote = [folder for folder in folders if folder not in told]
    found = status.of_runs(remote, turn_to_pool or (lambda: pool_problem(settings)), with_training)
    told |= dict(zip(remote, found, strict=True))
    return [_with_credentials(folder, told[folder]) for folder in folders]


def _missing(state: RunState) -> dict[str, int]:
    """Return how many tasks of each stage are not done."""
    return {each.stage: each.tasks - each.done for each in state.stages}


def _with_credentials(folder: RunFolder, state: RunState) -> RunState:
    """Add what is to be said of a proxy that ends before the run does."""
    if state.state in (*ENDED, "prepared"):
        return state
    said = access.note(folder, _missing(state))
    return replace(state, notes=(*state.notes, said)) if said else state
