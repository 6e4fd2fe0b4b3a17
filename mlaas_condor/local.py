"""The stages of a run in order, without HTCondor: for a laptop, and to find a mistake.

The same programs run on the same files with the same arguments: both are read from the submit files,
which stay the only place that says what a job needs.
"""

from __future__ import annotations

import fcntl
import itertools
import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from mlaas_condor.batch import reasons
from mlaas_condor.errors import RunFailed, WrongState
from mlaas_condor.run import STAGES, RunFolder
from mlaas_condor.state import Failure, RunState, StageState, State, bundle_path, stages_by_output

NOTHING_TO_DO = 7  # exit code of the PRE script
Progress = Callable[[str, int, int, str], None]  # stage, tasks done, tasks, last line of a job
_MACRO = re.compile(r"\$\((\w+)\)")


@dataclass(frozen=True)
class _Job:
    """One line of a ``queue … from`` list, with the macros of its submit file filled in."""

    task: int
    command: list[str]
    inputs: list[str]
    cpus: int


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
    with _locked(folder):
        _note(folder, "started")
        try:
            for stage in STAGES:
                _run_stage(folder, stage, progress, jobs or os.cpu_count() or 1)
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
def _locked(folder: RunFolder) -> Iterator[None]:
    with folder.local_lock.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise WrongState(f"{folder.name} is being run by another process") from None
        yield


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
    with folder.local_log.open("a", encoding="utf-8") as log:
        log.write(json.dumps(line) + "\n")


def state(folder: RunFolder) -> RunState:
    """Return the state of a run that is, or was, done without HTCondor."""
    lines = [json.loads(line) for line in folder.local_log.read_text("utf-8").splitlines()]
    last, started = lines[-1], [line for line in lines if line["event"] == "started"]
    word: State = last["event"] if last["event"] != "started" else "cancelled"  # its process was killed
    if is_running(folder):
        word = "running"
    return RunState(
        name=folder.name,
        state=word,
        where="local",
        stages=tuple(_stages(folder, word)),
        submitted=started[0]["time"],
        ended=None if word == "running" else last["time"],
        failures=(Failure(**last["failure"]),) if word == "failed" else (),
        bundle=bundle_path(folder),
    )


def _stages(folder: RunFolder, word: State) -> Iterator[StageState]:
    """Yield the stages; the first that is not done is the one that runs, or failed."""
    before = True
    for stage in stages_by_output(folder).values():
        done = stage.word in ("done", "reused")
        if before and not done and word in ("running", "failed"):
            stage = replace(stage, running=int(word == "running"), failed=int(word == "failed"))
        before = before and done
        yield stage


def _run_stage(folder: RunFolder, stage: str, progress: Progress, side_by_side: int) -> None:
    total = len(folder.task_units(stage))
    if not _find_missing(folder, stage):
        progress(stage, total, total, "")
        return
    total = len(folder.task_units(stage))
    todo = _jobs(folder, stage)
    finished = itertools.count(total - len(todo) + 1)
    done = total - len(todo)
    progress(stage, done, total, "")

    def one(job: _Job) -> None:
        nonlocal done
        _run_job(folder, stage, job, lambda line: progress(stage, done, total, line))
        done = next(finished)
        progress(stage, done, total, "")

    width = max(1, min(side_by_side // max(job.cpus for job in todo), len(todo)))
    with ThreadPoolExecutor(width) as pool:
        running = [pool.submit(one, job) for job in todo]
        try:
            for each in as_completed(running):
                each.result()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


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


def _jobs(folder: RunFolder, stage: str) -> list[_Job]:
    """Read a submit file and its task list, as far as a run without HTCondor needs them."""
    keys: dict[str, str] = {}
    variables: list[str] = []
    for line in folder.submit_file(stage).read_text("utf-8").splitlines():
        if line.startswith("queue "):
            variables = [name.strip() for name in line.removeprefix("queue ").split(" from ")[0].split(",")]
        elif "=" in line and not line.startswith("#"):
            key, _, value = line.partition("=")
            keys[key.strip()] = value.strip()
    return [_job(keys, variables, line) for line in folder.todo(stage).read_text("utf-8").splitlines()]


def _job(keys: dict[str, str], variables: list[str], line: str) -> _Job:
    values = dict.fromkeys(variables, "") | dict(zip(variables, line.split(), strict=False))
    fill = {key: _MACRO.sub(lambda match: values.get(match[1], ""), text) for key, text in keys.items()}
    return _Job(
        task=int(values["task"]),
        command=[keys["executable"], *fill["arguments"].split()],
        inputs=[name.strip() for name in fill["transfer_input_files"].split(",") if name.strip()],
        cpus=int(keys["request_cpus"]),
    )


def _run_job(folder: RunFolder, stage: str, job: _Job, say: Callable[[str], None]) -> None:
    """Run a job in a folder of its own."""
    sandbox = folder.path / "sandbox" / f"{stage}.{job.task}"
    shutil.rmtree(sandbox, ignore_errors=True)
    sandbox.mkdir(parents=True)
    for name in job.inputs:
        (sandbox / Path(name).name).symlink_to(folder.path / name)
    code = _execute(folder, stage, job, sandbox, say)
    _bring_back(sandbox / "output" / stage, folder.output(stage))
    shutil.rmtree(sandbox, ignore_errors=True)
    if code == 0:
        return
    exit_code, signal = (code, None) if code > 0 else (None, -code)
    stderr = folder.stderr(stage, job.task)
    what, advice = reasons.of_exit(exit_code, signal, stderr, folder.name, stage, job.task)
    raise _TaskFailed(folder.name, Failure(stage, job.task, what, advice))


def _execute(folder: RunFolder, stage: str, job: _Job, sandbox: Path, say: Callable[[str], None]) -> int:
    environment = {**os.environ, "OMP_NUM_THREADS": str(job.cpus)}
    out, err = folder.stdout(stage, job.task), folder.stderr(stage, job.task)
    with (
        out.open("w", encoding="utf-8") as log,
        err.open("w", encoding="utf-8") as errors,
        subprocess.Popen(
            job.command,
            cwd=sandbox,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            errors="replace",
        ) as process,
    ):
        try:
            for line in process.stdout or ():
                log.write(line)
                log.flush()
                say(line.rstrip())
        except BaseException:  # we are being interrupted: take the job along
            process.terminate()
            raise
    return process.returncode


def _bring_back(output: Path, target: Path) -> None:
    """Move a job's output into the run directory, marks last."""
    files = [path for path in output.rglob("*") if path.is_file()]
    for path in sorted(files, key=lambda path: path.suffix == ".ok"):
        goal = target / path.relative_to(output)
        goal.parent.mkdir(parents=True, exist_ok=True)
        path.replace(goal)
    for empty in sorted((path for path in output.rglob("*") if path.is_dir()), key=str):
        (target / empty.relative_to(output)).mkdir(parents=True, exist_ok=True)
