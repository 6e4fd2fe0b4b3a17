"""Checkpoints of a training: written while it runs, so that another process can go on from there.

A checkpoint is the model's own file, the progress of the training, and the best model so far where one is
kept. HTCondor brings it to safety when the job leaves with exit code `LEAVE`, starts the job again, and gives
it the checkpoint back wherever it runs next (``checkpoint_exit_code`` in ``train.sub``).
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mlaas_condor.params import CheckpointEvery
from mlaas_condor.training.frameworks import TrainedModel
from mlaas_condor.training.progress import Progress
from mlaas_condor.training.writing import replacing

WRITE_SECONDS = 60.0
"""A checkpoint is written at least this often: a process that is killed loses no more."""

_MOST_SHARE = 0.05  # of the time that may go into writing them

log = logging.getLogger("mlaas_condor")


class Leave(Exception):
    """The checkpoint is written, and the process is to end with `LEAVE`."""


class Checkpoints:
    """The checkpoints of one training.

    Parameters
    ----------
    folder
        Where they are.
    key
        What the training depends on; a checkpoint of another one is not gone on from.
    every
        How often to leave.
    leave
        Whether to leave at these intervals: only a pool brings checkpoints to safety.
    """

    def __init__(self, folder: Path, key: str, every: CheckpointEvery, leave: bool = False) -> None:
        self.folder = folder
        folder.mkdir(exist_ok=True)
        self._key = key
        self._every = every
        self._leave = leave
        self._asked = False
        self._number = max((number for number, _ in self._found()), default=0)
        self._best: str | None = None
        self._started: float | None = None  # of the first portion: what came before would come again
        self._written = time.monotonic()
        self._least = WRITE_SECONDS if every.seconds is None else min(WRITE_SECONDS, every.seconds)
        self._epochs = 0

    def ask(self, *_: object) -> None:
        """Leave as soon as the portion being trained on is over: what SIGTERM means."""
        self._asked = True

    def restore(self, model: TrainedModel) -> Progress | None:
        """Take the newest checkpoint that is whole; None where there is none of this training."""
        for number, progress in sorted(self._found(), reverse=True):
            said = json.loads(progress.read_text("utf-8"))
            if said["key"] != self._key:
                log.info("the checkpoint here is of another training: beginning anew")
                return None
            model.restore(self.folder / said["model"])
            self._best = said["best"]
            self._number = number
            return Progress.of(said["progress"])
        return None

    def training_is_over(self, model: TrainedModel, progress: Progress) -> None:
        """Write a last checkpoint: what is left to do, scores and so on, may take long too.

        Raises
        ------
        Leave
            Somebody asked for it.
        """
        self._write(model, progress)
        if self._asked:
            raise Leave

    def epoch_is_over(self, model: TrainedModel, progress: Progress) -> None:
        """Count the epoch, then do as `consider`."""
        self._epochs += 1
        self.consider(model, progress)

    def consider(self, model: TrainedModel, progress: Progress) -> None:
        """Write a checkpoint if it is time for one.

        Raises
        ------
        Leave
            It is written, and it is time to leave, or somebody asked for it.
        """
        leave = self._asked or (self._leave and self._is_time_to_leave())
        if leave or time.monotonic() - self._written > self._least:
            self._write(model, progress)
        if leave:
            raise Leave

    def keep_best(self, model: TrainedModel) -> None:
        """Keep the model as it is now: it is the best so far."""
        before, self._best = self._best, f"best-{self._number + 1:05d}.model"
        if before == self._best:  # a checkpoint that is there may name the other one
            self._best = f"best-{self._number + 1:05d}.next.model"
        model.checkpoint(self.folder / self._best)

    def restore_best(self, model: TrainedModel) -> None:
        """Go back to the best model, where one was kept."""
        if self._best:
            model.restore(self.folder / self._best)

    def clear(self) -> None:
        """Remove them all: the training is over."""
        self._forget_all_but(set())

    def _is_time_to_leave(self) -> bool:
        seconds, epochs = self._every.seconds, self._every.epochs
        if self._started is None:
            self._started = time.monotonic()
        late = seconds is not None and time.monotonic() - self._started > seconds
        return late or (epochs is not None and self._epochs >= epochs)

    def _write(self, model: TrainedModel, progress: Progress) -> None:
        began = time.monotonic()
        self._number += 1
        name = f"{self._number:05d}.model"
        model.checkpoint(self.folder / name)
        files = [name, *([self._best] if self._best else [])]
        said: dict[str, Any] = {
            "key": self._key,
            "model": name,
            "best": self._best,
            "digests": {each: _digest(self.folder / each) for each in files},
            "progress": progress.to_dict(),
        }
        path = self.folder / f"{self._number:05d}.json"
        with replacing(path) as part:
            part.write_text(json.dumps(said), "utf-8")
        self._forget_all_but({path.name, *files})
        self._written = time.monotonic()
        # Of a large model that is slow to write, less often.
        self._least = max(self._least, (self._written - began) / _MOST_SHARE)

    def _forget_all_but(self, names: set[str]) -> None:
        for path in self.folder.glob("*[0-9]*.*"):  # what else is there is not ours
            if path.name not in names:
                path.unlink()

    def _found(self) -> Iterator[tuple[int, Path]]:
        """Yield the checkpoints that are whole: a process may be killed at any moment."""
        for path in self.folder.glob("[0-9]*.json"):
            try:
                digests = json.loads(path.read_text("utf-8"))["digests"]
                whole = all(_digest(self.folder / name) == digest for name, digest in digests.items())
            except (OSError, ValueError, KeyError):
                continue
            if whole:
                yield int(path.stem), path
            else:
                log.warning("%s is damaged, and left alone", path)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
