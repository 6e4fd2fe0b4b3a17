"""What jobs say, also while they run: read once a second at most, however many follow it."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from pathlib import Path

from mlaas_condor import runs
from mlaas_condor.batch import logs, queue
from mlaas_condor.batch.events import Job
from mlaas_condor.errors import MlaasError
from mlaas_condor.run import RunFolder
from mlaas_condor.settings import Settings
from mlaas_condor.state import Training

from .shared import Shared, Soon
from .states import FRESH, States

PIECE_BYTES = 4 * 2**20  # the most that one reply brings
_PATIENCE = 1.0  # seconds to wait for a machine that does not answer at once
_JOBS_SECONDS = 2.0  # how long it holds which job does a task

Task = tuple[Path, str, int, bool]


@dataclass(frozen=True)
class Piece:
    """A part of what a task has said.

    Parameters
    ----------
    content
        The bytes.
    start, end
        Where they are in all of it.
    size
        How much there is of it now.
    live
        Whether the task says it now; otherwise it was brought back.
    """

    content: bytes
    start: int
    size: int
    live: bool

    @property
    def end(self) -> int:
        """Return where the next piece begins."""
        return self.start + len(self.content)


class Tails:
    """Reads what tasks say.

    Parameters
    ----------
    states
        Tells whether the pool answers, and which job does a task.
    settings
        Where the pool is.
    """

    def __init__(self, states: States, settings: Settings) -> None:
        self._states = states
        self._settings = settings
        self._jobs: Shared[Path, list[Job]] = Shared(_JOBS_SECONDS)
        self._said: Soon[Task, bytes | None] = Soon(FRESH, _PATIENCE)
        self._turning = threading.Lock()
        self._turned = False

    def piece(
        self,
        folder: RunFolder,
        stage: str,
        task: int,
        stderr: bool,
        offset: int = 0,
        most: int = PIECE_BYTES,
        ask: bool = True,
    ) -> Piece:
        """Return what a task has said, from a byte on.

        Parameters
        ----------
        stderr
            Whether it is the standard error that is read.
        offset
            Where to begin; beyond what there is nothing is returned.
        most
            Bytes.
        ask
            Whether to ask the machine where it runs; otherwise it is what was brought back.
        """
        said = self._live(folder, stage, task, stderr) if ask else None
        if said is not None:
            start = min(offset, len(said))
            return Piece(_whole(said[start : start + most]), start, len(said), live=True)
        path = folder.stderr(stage, task) if stderr else folder.stdout(stage, task)
        try:
            with path.open("rb") as file:
                size = path.stat().st_size
                start = min(offset, size)
                file.seek(start)
                content = file.read(most)
                return Piece(
                    content if start + len(content) >= size else _whole(content), start, size, live=False
                )
        except OSError:
            return Piece(b"", 0, 0, live=False)

    def training(self, folder: RunFolder) -> Training | None:
        """Return where the training of a run is; None where none runs, or it has not said yet."""
        job = next((job for job in self.running(folder) if job.stage == "train"), None)
        if job is None:
            return None
        said = self._live(folder, "train", job.task, stderr=False)
        return Training.last_of(said.decode("utf-8", "replace")) if said else None

    def running(self, folder: RunFolder) -> list[Job]:
        """Return the jobs of a run that run, as its events tell it."""
        if not folder.dagman_log.exists():
            return []
        try:
            jobs = self._jobs.get(folder.path, lambda: self._states.looking.jobs(folder))
        except MlaasError:
            return []  # what was brought back can be read all the same
        return [job for job in jobs if job.state == "running"]

    def _live(self, folder: RunFolder, stage: str, task: int, stderr: bool) -> bytes | None:
        """Return what a task says now; None where it does not run, or cannot be asked."""
        if self._states.problem:
            return None
        jobs = [job for job in self.running(folder) if (job.stage, job.task) == (stage, task)]
        if not jobs or not self._is_turned():
            return None
        job = queue.QueuedJob(jobs[-1].cluster, jobs[-1].proc, "running", str(folder.path), stage, task)
        key = (folder.path, stage, task, stderr)
        return self._said.latest(key, lambda: logs.tail_bytes(job, stderr))

    def _is_turned(self) -> bool:
        """Turn this process to the pool, once: HTCondor's programs find it by the environment."""
        with self._turning:
            self._turned = self._turned or not runs.pool_problem(self._settings)
            return self._turned


def _whole(content: bytes) -> bytes:
    """Return bytes without the beginning of a character whose end is not among them."""
    for back in range(1, min(4, len(content) + 1)):
        byte = content[-back]
        if byte >= 0xC0:
            length = 2 if byte < 0xE0 else 3 if byte < 0xF0 else 4
            return content[:-back] if back < length else content
        if byte < 0x80:
            break
    return content
