"""Where runs are: on this machine, or with a service; and what both can do, so that nobody asks which."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from mlaas_condor import show
from mlaas_condor.errors import PoolLost, RunFailed
from mlaas_condor.state import ENDED, RunState

if TYPE_CHECKING:
    from mlaas_condor.planned import Planned
    from mlaas_condor.planning import Size
    from mlaas_condor.runs import Run

PATIENCE = 60.0
"""Seconds that a pool or a service may not answer before we stop watching."""


class AnyRun(Protocol):
    """A run, wherever it is; `Run` says more of each."""

    @property
    def name(self) -> str:
        """Name of the run: ``luca_1``."""

    @property
    def where(self) -> str:
        """Where it is kept: a run directory, or an address."""

    def status(self) -> RunState:
        """Return the state of the run and of each stage."""

    def follow(self) -> Iterator[RunState]:
        """Yield the state again and again, until the run has ended."""

    def wait(self, progress: bool = False, timeout: float | None = None) -> RunState:
        """Wait until the run has ended, or is held."""

    def logs(self, stage: str | None = None, task: int | None = None, stderr: bool = False) -> str:
        """Return what a task has said so far."""

    def follow_logs(
        self, stage: str | None = None, task: int | None = None, stderr: bool = False
    ) -> Iterator[str]:
        """Yield what a task says as it says it."""

    def model(self) -> Path | str:
        """Return where the model bundle is."""

    def fetch(self, output: str | Path, told: Callable[[int, int], None] = ...) -> Path:
        """Copy the model bundle to a file, or into a folder."""

    def metrics(self) -> Mapping[str, Any] | None:
        """Return the metrics on train, validation and test events."""

    def history(self) -> list[dict[str, Any]]:
        """Return what each epoch gave."""

    def cancel(self) -> None:
        """Remove the run from the queue."""

    def resume(self) -> str:
        """Go on after a failure, a hold or a cancel; return what was done."""

    def delete(self, keep_stored: bool = False) -> None:
        """Delete the run with its logs and its model."""


@dataclass(frozen=True)
class Told:
    """Who is told what happens on the way.

    Parameters
    ----------
    warn
        Gets what the user should know of the request.
    step
        Gets what is done now (``sending``), how many bytes of it are, and how many there are in all.
    """

    warn: Callable[[list[str]], None] = lambda _: None
    step: Callable[[str, int, int], None] = lambda *_: None


QUIET = Told()


@dataclass(frozen=True)
class Started:
    """A run that was submitted, and the size of its dataset; None where that cannot be told."""

    run: AnyRun
    size: Size | None


class Place(Protocol):
    """Where runs are."""

    @property
    def kept(self) -> str:
        """Where runs are kept, for people."""

    def look(self, job: str, proxy: str, lifetime_ok: bool, told: Told) -> Planned:
        """Check a request and plan it; queues nothing."""

    def start(self, job: str, proxy: str, lifetime_ok: bool, told: Told) -> Started:
        """Check a request, plan it and submit it."""

    def open_run(self, name: str) -> AnyRun:
        """Open a run by its name."""

    def states(self) -> list[RunState]:
        """Return the states of all runs, oldest first."""

    def without_pool(self, run: AnyRun) -> Run | None:
        """Return a run that is done by this machine alone, None for any other."""


class Patience:
    """Bears with a pool or a service that does not answer, for a minute.

    Parameters
    ----------
    name
        Of the run.
    back
        How to get it back, for people.
    """

    def __init__(self, name: str, back: str = "once the pool is back (`mlaas-condor pool up`)") -> None:
        self._name = name
        self._back = back
        self._answered = time.monotonic()

    def check(self, unreachable: str) -> None:
        """Note why it does not answer, empty where it does.

        Raises
        ------
        PoolLost
            It has been silent for too long.
        """
        if not unreachable:
            self._answered = time.monotonic()
        elif time.monotonic() - self._answered > PATIENCE:
            then = f"{self._back}, `mlaas-condor watch {self._name}` goes on"
            raise PoolLost(f"{unreachable}. The run is not touched: {then}")


def wait_for(run: AnyRun, progress: bool, timeout: float | None) -> RunState:
    """Wait until a run has ended, or is held: what `wait` of each kind of run does.

    Raises
    ------
    RunFailed
        It ended without a model, or is held; the message says why, and what to do.
    TimeoutError
        It has not ended in time.
    """
    started = time.monotonic()
    with show.live(enabled=progress) as update:
        for state in run.follow():
            update(state)
            if state.state == "held" and not any(each.running or each.idle for each in state.stages):
                break
            if timeout is not None and time.monotonic() - started > timeout and state.state not in ENDED:
                raise TimeoutError(f"{run.name} has not ended in {timeout:g} s: it is {state.state}")
    if state.state != "completed":
        raise RunFailed(show.failure(state))
    return state
