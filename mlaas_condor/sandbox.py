"""One job without HTCondor, in a folder of its own, as its submit file describes it."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from mlaas_condor.run import RunFolder

_GRACE_SECONDS = 15.0  # between asking a job to end and ending it
_MACRO = re.compile(r"\$\((\w+)\)")


@dataclass(frozen=True)
class Job:
    """One line of a ``queue … from`` list, with the macros of its submit file filled in.

    Parameters
    ----------
    task
        Number of the task.
    command
        Program and arguments.
    inputs
        Files and folders that the job wants beside it, relative to the run directory.
    cpus
        Cores it asks for.
    """

    task: int
    command: list[str]
    inputs: list[str]
    cpus: int


def jobs_of(folder: RunFolder, stage: str) -> list[Job]:
    """Read a stage's submit file and its list of missing tasks, as far as it takes to run them here."""
    keys: dict[str, str] = {}
    variables: list[str] = []
    for line in folder.submit_file(stage).read_text("utf-8").splitlines():
        if line.startswith("queue "):
            variables = [name.strip() for name in line.removeprefix("queue ").split(" from ")[0].split(",")]
        elif "=" in line and not line.startswith("#"):
            key, _, value = line.partition("=")
            keys[key.strip()] = value.strip()
    return [_job(keys, variables, line) for line in folder.todo(stage).read_text("utf-8").splitlines()]


def _job(keys: dict[str, str], variables: list[str], line: str) -> Job:
    values = dict.fromkeys(variables, "") | dict(zip(variables, line.split(), strict=False))
    fill = {key: _MACRO.sub(lambda match: values.get(match[1], ""), text) for key, text in keys.items()}
    return Job(
        task=int(values["task"]),
        command=[keys["executable"], *fill["arguments"].split()],
        inputs=[name.strip() for name in fill["transfer_input_files"].split(",") if name.strip()],
        cpus=int(keys["request_cpus"]),
    )


class Sandboxes:
    """Runs the jobs of a stage, each in a folder of its own; several threads may call `run`.

    Parameters
    ----------
    folder, stage
        The run, and the stage.
    lock
        Descriptor of a lock that the jobs inherit.
    """

    def __init__(self, folder: RunFolder, stage: str, lock: int) -> None:
        self._run_lock = lock
        self._folder = folder
        self._stage = stage
        self._processes: list[subprocess.Popen[str]] = []
        self._stopped = False
        self._lock = threading.Lock()  # so that no job starts between the order to stop and its end

    def run(self, job: Job, say: Callable[[str], None]) -> int:
        """Run a job, bring its output back, and return its exit code (negative: the signal).

        Parameters
        ----------
        job
            What to run.
        say
            Gets every line that the job writes to its standard output.
        """
        place = self._folder.path / "sandbox" / f"{self._stage}.{job.task}"
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(parents=True)
        for name in job.inputs:
            (place / Path(name).name).symlink_to(self._folder.path / name)
        code = self._execute(job, place, say)
        _bring_back(place / "output" / self._stage, self._folder.output(self._stage))
        shutil.rmtree(place, ignore_errors=True)
        return code

    def stop(self) -> None:
        """End the jobs that run, and start no other."""
        with self._lock:
            self._stopped = True
            for process in self._processes:
                process.terminate()
        for process in self._processes:
            try:
                process.wait(_GRACE_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()

    def _execute(self, job: Job, place: Path, say: Callable[[str], None]) -> int:
        out, err = self._folder.stdout(self._stage, job.task), self._folder.stderr(self._stage, job.task)
        with out.open("w", encoding="utf-8") as log, err.open("w", encoding="utf-8") as errors:
            process = self._start(job, place, errors)
            if process is None:
                return -signal.SIGTERM
            with process:
                for line in process.stdout or ():
                    log.write(line)
                    log.flush()
                    say(line.rstrip())
        return process.returncode

    def _start(self, job: Job, place: Path, errors: TextIO) -> subprocess.Popen[str] | None:
        """Start a job; None where the jobs have been told to stop."""
        with self._lock:
            if self._stopped:
                return None
            process = subprocess.Popen(
                job.command,
                cwd=place,
                env=_environment(job),
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                errors="replace",
                pass_fds=(self._run_lock,),
                # Ctrl-C is for the command: it asks the jobs to end, and they leave a checkpoint first.
                start_new_session=True,
            )
            self._processes.append(process)
            return process


def _environment(job: Job) -> dict[str, str]:
    """Return the environment of a job; it is none of HTCondor's, also where this process is in one."""
    own = {name: value for name, value in os.environ.items() if not name.startswith("_CONDOR_")}
    return {**own, "OMP_NUM_THREADS": str(job.cpus)}


def _bring_back(output: Path, target: Path) -> None:
    """Move a job's output into the run directory, marks last."""
    files = [path for path in output.rglob("*") if path.is_file()]
    for path in sorted(files, key=lambda path: path.suffix == ".ok"):
        goal = target / path.relative_to(output)
        goal.parent.mkdir(parents=True, exist_ok=True)
        path.replace(goal)
    for empty in sorted((path for path in output.rglob("*") if path.is_dir()), key=str):
        (target / empty.relative_to(output)).mkdir(parents=True, exist_ok=True)
