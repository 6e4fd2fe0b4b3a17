"""What can be done with a request and with a run: the command line, the service and Python call this."""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from mlaas_condor import jsonfile, local, run, show
from mlaas_condor import settings as settings_module
from mlaas_condor.batch import dag, logs, pool, queue, status
from mlaas_condor.errors import CannotWrite, MlaasError, PoolLost, PoolUnreachable, RunFailed, WrongState
from mlaas_condor.prepare import Prepared, prepare
from mlaas_condor.request import Request
from mlaas_condor.run import RunFolder
from mlaas_condor.settings import Settings
from mlaas_condor.state import ENDED, RunState, read_history, read_metrics

_POLL_SECONDS = 1.0
_PATIENCE = 60.0  # seconds that a pool may not answer before we stop watching
_GRACE = 15.0  # seconds between DAGMan's end and the state of a run settling


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
        patience = _Patience(self.name)
        while True:
            state = self.status()
            yield state
            if state.state in ENDED or state.state == "prepared":
                return
            patience.check(state)
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
        started = time.monotonic()
        with show.live(enabled=progress) as update:
            for state in self.follow():
                update(state)
                if state.state == "held" and not any(each.running or each.idle for each in state.stages):
                    break
                if timeout is not None and time.monotonic() - started > timeout and state.state not in ENDED:
                    raise TimeoutError(f"{self.name} has not ended in {timeout:g} s: it is {state.state}")
        if state.state != "completed":
            raise RunFailed(show.failure(state))
        return state

    def logs(self, stage: str | None = None, task: int | None = None, stderr: bool = False) -> str:
        """Return what a task has said so far, also while it runs; without a stage, the most telling one."""
        stage, task = self._pick(stage, task)
        alive = self.folder.dagman_log.exists() and task not in self.folder.tasks_done(stage)
        ask_pool = alive and not _pool_problem(self.settings)
        return logs.read(self.folder, stage, task, stderr, ask_pool)

    def follow_logs(
        self, stage: str | None = None, task: int | None = None, stderr: bool = False
    ) -> Iterator[str]:
        """Yield what a task says as it says it, until it or the run ends; waits for it to start."""
        stage, task = self._pick(stage, task)
        shown, patience = "", _Patience(self.name)
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
            patience.check(state)
            time.sleep(_POLL_SECONDS)

    def _pick(self, stage: str | None, task: int | None) -> tuple[str, int]:
        """Choose the task that failed, else the one that runs, else the last one that is done."""
        state = self.status()
        failed = [each for each in state.failures if stage in (None, each.stage)]
        if stage is None:
            begun = [each.stage for each in state.stages if each.word not in ("waiting", "reused", "idle")]
            stage = failed[0].stage if failed else begun[-1] if begun else run.STAGES[0]
        if stage not in run.STAGES:
            raise WrongState(f"no stage {stage!r}: there is {', '.join(run.STAGES)}")
        tasks = self.folder.task_units(stage)
        if task is not None and task not in tasks:
            raise WrongState(
                f"{self.name}: stage {stage} has no task {task}, they go from 0 to {len(tasks) - 1}"
            )
        if task is None:
            task = next((each.task for each in failed if each.stage == stage), 0)
        return stage, task

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
        if not queue.remove(self.name):
            raise WrongState(f"{self.name}: nothing of it is in the queue of this pool")

    def resume(self) -> str:
        """Go on after a failure, a hold or a cancel, redoing only what is missing; return what was done."""
        state = self.status()
        if state.state == "completed":
            raise WrongState(f"{self.name} is completed: its model is {state.bundle}")
        if state.where == "local":
            local.run(self.folder)
            return "completed without HTCondor"
        pool.use(self.settings)
        if state.state == "held":
            return f"released {queue.release(self.name)} held jobs"
        if state.state not in ENDED and state.state != "prepared":
            raise WrongState(f"{self.name} is {state.state}: there is nothing to resume")
        _wait_until_gone(self.name)
        return f"submitted as cluster {queue.submit(self.folder)}"

    def delete(self) -> None:
        """Delete the run directory and what it alone used of specs and chunks."""
        state = self.status()
        if state.state not in (*ENDED, "prepared"):
            raise WrongState(
                f"{self.name} is {state.state}: cancel it first (`mlaas-condor cancel {self.name}`)"
            )
        run.delete(self.folder, self.settings.store)


class _Patience:
    """Bears with a pool that does not answer, for a minute."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._answered = time.monotonic()

    def check(self, state: RunState) -> None:
        """Raise `PoolLost` when the pool has been silent for too long."""
        if not state.unreachable:
            self._answered = time.monotonic()
        elif time.monotonic() - self._answered > _PATIENCE:
            raise PoolLost(
                f"{state.unreachable}. The run is not touched: once the pool is back "
                f"(`mlaas-condor pool up`), `mlaas-condor watch {self._name}` goes on"
            )


def _wait_until_gone(name: str) -> None:
    """Wait until nothing of a run is queued: a second DAGMan beside the first would spoil both."""
    deadline = time.monotonic() + _GRACE
    while left := queue.query([name]):
        if time.monotonic() > deadline:
            raise WrongState(
                f"{name}: {len(left)} of its jobs are still in the queue, {left[0].state}; "
                f"try again once `condor_q` does not show them any more, or `condor_rm -forcex` them"
            )
        time.sleep(0.5)


def _pool_problem(settings: Settings) -> str:
    """Turn to the pool, and return why it cannot be asked: what is on disk can be told without."""
    try:
        pool.use(settings)
    except PoolUnreachable as error:
        return str(error)
    return ""


def states(folders: Iterable[RunFolder], settings: Settings, with_training: bool = False) -> list[RunState]:
    """Return the states of runs; the schedd is asked once, and only if one of them is not over.

    Parameters
    ----------
    folders, settings
        The runs; where the pool is.
    with_training
        Whether to ask where each training is, which takes a call a run.
    """
    folders = list(folders)
    remote = [folder for folder in folders if not folder.local_log.exists()]
    found = status.of_runs(remote, lambda: _pool_problem(settings), with_training)
    told = {state.name: state for state in found}
    told |= {folder.name: local.state(folder) for folder in folders if folder.local_log.exists()}
    return [told[folder.name] for folder in folders]


def load_request(request: Request | str | Path | Mapping[str, Any]) -> Request:
    """Return a request: as it is, read from a job file, or made of a job file's content."""
    if isinstance(request, Request):
        return request
    if isinstance(request, Mapping):
        return Request.of(request)
    return Request.read(request)


def plan(request: Request | str | Path | Mapping[str, Any], settings: Settings | None = None) -> Prepared:
    """Check a request and plan it; queues nothing, writes nothing.

    Raises
    ------
    RequestError
        With every problem found.
    """
    return prepare(load_request(request), settings or settings_module.load())


def submit_files(prepared: Prepared, settings: Settings, name: str) -> dict[str, str]:
    """Return what HTCondor would get of a prepared request, by file name."""
    return dag.render(
        name,
        prepared.request.job,
        prepared.dataset,
        prepared.plan,
        [prepared.recipe.model, *(path.name for path in prepared.companions)],
        settings.python,
        settings.store,
    )


def create(prepared: Prepared, settings: Settings) -> RunFolder:
    """Write the run directory of a prepared request under the next free name.

    Raises
    ------
    CannotWrite
        The directory cannot be written, for lack of space or of permission; nothing is left behind.
    """
    try:
        name = run.reserve(settings.runs, prepared.request.job.name)
        folder = run.staging(settings.runs, name)
    except OSError as error:
        raise CannotWrite(
            f"{settings.runs}: no run directory can be made: {error.strerror}; see MLAAS_CONDOR_HOME"
        ) from error
    try:
        _fill(RunFolder(folder), name, prepared, settings)
        return run.publish(folder, settings.runs, name)
    except BaseException as error:
        shutil.rmtree(folder, ignore_errors=True)
        if isinstance(error, OSError):
            raise CannotWrite(f"{folder}: {error.strerror}: nothing was submitted") from error
        raise


def _fill(folder: RunFolder, name: str, prepared: Prepared, settings: Settings) -> None:
    request = prepared.request
    folder.files.mkdir()
    for source, text in request.sources.items():
        (folder.files / source).write_text(text, "utf-8")
    shutil.copyfile(prepared.model.path, folder.files / prepared.recipe.model)
    for path in prepared.companions:
        copy = shutil.copytree if path.is_dir() else shutil.copyfile
        copy(path, folder.files / path.name)
    understood = {"job": request.job.model_dump(exclude={"params"}), "params": request.params.model_dump()}
    folder.request.write_text(jsonfile.dumps(understood) + "\n", "utf-8")
    prepared.dataset.write(folder.dataset)
    prepared.recipe.model_copy(update={"name": name}).write(folder.recipe)
    prepared.plan.write(folder.plan)
    folder.inputs.mkdir()
    for file in prepared.dataset.files:
        (folder.inputs / file.staged).symlink_to(file.path)
    dag.write(folder, submit_files(prepared, settings, name), dag.task_lists(prepared.dataset, prepared.plan))


def submit(request: Request | str | Path | Mapping[str, Any], settings: Settings | None = None) -> Run:
    """Check a request, plan it, write its run directory and submit it.

    Parameters
    ----------
    request
        Path of a job file, its content, or a `Request`.

    Raises
    ------
    RequestError
        With every problem found; nothing is queued.
    PoolUnreachable
        There is no pool; nothing is left behind.
    """
    settings = settings or settings_module.load()
    prepared = plan(request, settings)
    return submit_prepared(prepared, settings)


def submit_prepared(prepared: Prepared, settings: Settings) -> Run:
    """Submit what `plan` returned."""
    pool.use(settings)
    folder = create(prepared, settings)
    try:
        queue.submit(folder)
    except BaseException:
        # An interrupt can come right after the schedd took it: then it must not run without its files.
        with contextlib.suppress(MlaasError):
            queue.remove(folder.name)
        shutil.rmtree(folder.path, ignore_errors=True)
        raise
    return Run(folder, settings)


def open_run(name: str, settings: Settings | None = None) -> Run:
    """Open a run by its name.

    Raises
    ------
    RunNotFound
        There is none of that name.
    """
    settings = settings or settings_module.load()
    return Run(run.open_folder(settings.runs, name), settings)


def list_runs(settings: Settings | None = None) -> list[Run]:
    """Return all runs, oldest first."""
    settings = settings or settings_module.load()
    return [Run(folder, settings) for folder in run.list_folders(settings.runs)]
