"""The state of a run as plain data: what status, watch, Python and the service show."""

from __future__ import annotations

import dataclasses
import json
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self

from mlaas_condor.run import STAGES, RunFolder

State = Literal["prepared", "idle", "running", "held", "completed", "failed", "cancelled"]
_TRAINING = re.compile(
    r"epoch (\d+)/(\d+)(?: \((\d+) %\))?  validation (AUC|RMSE) (\S+)  loss (\S+)  validation loss (\S+)"
    r"  (\S+) events/s  (\S+) s left"
)
ENDED: tuple[State, ...] = ("completed", "failed", "cancelled")


@dataclass(frozen=True)
class Failure:
    """A task that ended without its output, or that is held.

    Parameters
    ----------
    stage, task
        Which one.
    reason
        What happened, in a sentence.
    advice
        What to do, with the command to type.
    """

    stage: str
    task: int
    reason: str
    advice: str


@dataclass(frozen=True)
class Training:
    """Where a training is, as its log says it: written by the train stage, read back by status.

    Parameters
    ----------
    epoch, epochs
        Passes done, and passes in all; a pass is over all chunks, or over one where each is trained in turn.
        Within a pass, that one.
    loss, val_loss, metric, value
        Of the last pass that is over; the metric of the validation events is the AUC, or of a regression the
        RMSE, and its value None where it is not known.
    rate
        Events a second.
    left
        Seconds until the last pass is over.
    percent
        How much of the pass is over; None at its end.
    """

    epoch: int
    epochs: int
    loss: float
    val_loss: float
    value: float | None
    rate: float
    left: float
    metric: str = "AUC"
    percent: int | None = None

    def __str__(self) -> str:
        value = "-" if self.value is None else f"{self.value:.4f}"
        part = "" if self.percent is None else f" ({self.percent} %)"
        return (
            f"epoch {self.epoch}/{self.epochs}{part}  validation {self.metric} {value}  "
            f"loss {self.loss:.4f}  validation loss {self.val_loss:.4f}  "
            f"{self.rate:.0f} events/s  {self.left:.0f} s left"
        )

    @classmethod
    def last_of(cls, log: str) -> Training | None:
        """Return the last one that a training's log has; None before its first pass is over."""
        found = cls.all_of(log)
        return found[-1] if found else None

    @classmethod
    def all_of(cls, log: str) -> list[Training]:
        """Return all that a training's log has, the first pass first."""
        return [
            cls(
                epoch=int(epoch),
                epochs=int(epochs),
                loss=float(loss),
                val_loss=float(val_loss),
                value=None if value == "-" else float(value),
                rate=float(rate),
                left=float(left),
                metric=metric,
                percent=int(percent) if percent else None,
            )
            for epoch, epochs, percent, metric, value, loss, val_loss, rate, left in _TRAINING.findall(log)
        ]


@dataclass(frozen=True)
class StageState:
    """One stage: its tasks by what they do.

    Parameters
    ----------
    stage
        specs, merge, preprocess, train or report.
    tasks
        How many there are, as far as known.
    done, running, idle, held, failed
        How many of them have all their output, run, wait for a machine, are held, ended without it.
    reused
        Whether all output came from the store, so that no job was needed.
    started, ended
        Seconds since 1970 of its first job's start and last job's end, None before.
    """

    stage: str
    tasks: int
    done: int = 0
    running: int = 0
    idle: int = 0
    held: int = 0
    failed: int = 0
    reused: bool = False
    started: float | None = None
    ended: float | None = None

    @property
    def word(self) -> str:
        """Return the state of the stage in a word."""
        if self.tasks and self.done == self.tasks:
            return "reused" if self.reused else "done"
        for word in ("failed", "held", "running", "idle"):
            if getattr(self, word):
                return word
        return "waiting"


@dataclass(frozen=True)
class RunState:
    """A run: its own state and that of its stages.

    Parameters
    ----------
    name, state
        Name; prepared, idle, running, held, completed, failed, cancelled.
    where
        ``pool`` or ``local``; ``""`` before it started.
    stages
        In order.
    submitted, ended
        Of its last submission; seconds since 1970, None where it has not happened.
    training
        While it trains.
    waiting
        What it waits for, a sentence each.
    failures
        Tasks that failed or are held.
    unreachable
        Why the pool could not be asked; empty where it could, or need not be.
    bundle
        Path of the model bundle, once it is there.
    notes
        What is to be known of the data: what was lost, and what is not finite.
    """

    name: str
    state: State
    where: str
    stages: tuple[StageState, ...]
    submitted: float | None = None
    ended: float | None = None
    training: Training | None = None
    waiting: tuple[str, ...] = ()
    failures: tuple[Failure, ...] = ()
    unreachable: str = ""
    bundle: str | None = None
    notes: tuple[str, ...] = ()

    @property
    def elapsed(self) -> float | None:
        """Return seconds from submission to the end, or to now."""
        if self.submitted is None:
            return None
        return max(0.0, (self.ended or time.time()) - self.submitted)

    @property
    def current(self) -> StageState | None:
        """Return the first stage that is not done."""
        return next((stage for stage in self.stages if stage.word not in ("done", "reused")), None)

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain dicts and lists, for JSON."""
        stages = [{**dataclasses.asdict(stage), "state": stage.word} for stage in self.stages]
        return {**dataclasses.asdict(self), "stages": stages, "elapsed": self.elapsed}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Self:
        """Read back what `to_dict` gave; what only a later version knows is left out.

        Raises
        ------
        KeyError, TypeError
            It is no state of a run.
        """
        training = content.get("training")
        own = _known(cls, content)
        return cls(
            **{
                **own,
                "stages": tuple(StageState(**_known(StageState, each)) for each in content["stages"]),
                "training": Training(**_known(Training, training)) if training else None,
                "failures": tuple(Failure(**_known(Failure, each)) for each in content.get("failures", ())),
                "waiting": tuple(own.get("waiting", ())),
                "notes": tuple(own.get("notes", ())),
            }
        )


def _known(kind: type[Any], content: Mapping[str, Any]) -> dict[str, Any]:
    names = {each.name for each in dataclasses.fields(kind)}
    return {name: value for name, value in content.items() if name in names}


def stages_by_output(folder: RunFolder, done: Mapping[str, set[int]]) -> dict[str, StageState]:
    """Return what the output alone says of each stage.

    Parameters
    ----------
    folder
        The run.
    done
        What `RunFolder.done` returned: looking at every file of the output is not for free.
    """
    return {
        stage: StageState(stage, tasks=len(folder.task_units(stage)), done=len(done[stage]))
        for stage in STAGES
    }


def bundle_path(folder: RunFolder) -> str | None:
    """Return the bundle's path once the report stage is complete."""
    return str(folder.bundle) if folder.units_done("report") and folder.bundle.exists() else None


def read_history(folder: RunFolder) -> list[dict[str, Any]]:
    """Return what each epoch gave; empty before the training has ended."""
    if not folder.history.exists():
        return []
    return [json.loads(line) for line in folder.history.read_text("utf-8").splitlines()]


def read_metrics(folder: RunFolder) -> dict[str, Any] | None:
    """Return the metrics, None before the training has ended."""
    if not folder.metrics.exists():
        return None
    try:
        metrics: dict[str, Any] = json.loads(folder.metrics.read_text("utf-8"))
    except ValueError:  # it is still arriving, or a full disk cut it short
        return None
    return metrics
