"""How runs do, looked at once a second at most, however many ask."""

from __future__ import annotations

import os
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

from mlaas_condor import runs
from mlaas_condor.errors import MlaasError, PoolLost
from mlaas_condor.run import RunFolder
from mlaas_condor.settings import Settings
from mlaas_condor.state import RunState

from .looking import Looking

FRESH = 1.0  # seconds for which an answer does for everybody
_PATIENCE = 3.0  # seconds after which an older answer is better than none
_OLD = 10.0  # seconds after which it is said that it is an older one
_AGAIN = 5.0  # seconds between looks for a pool that does not answer
_BATCH = 100  # runs looked at together
_KEPT = 20_000  # answers, some KiB each

Stamp = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class _Told:
    state: RunState
    at: float
    stamp: Stamp

    @property
    def age(self) -> float:
        return time.monotonic() - self.at


class States:
    """Knows how runs do.

    Whoever asks first looks, for all who have asked meanwhile: one look at a time, with one question to the
    schedd. Of a run that is over the answer holds as long as nothing changes in its folder.

    Parameters
    ----------
    settings
        Where the pool is.
    """

    def __init__(self, settings: Settings) -> None:
        self.looking = Looking(settings)
        self._settings = settings
        self._told: OrderedDict[Path, _Told] = OrderedDict()
        self._due: dict[Path, RunFolder] = {}
        self._notes = threading.Lock()
        self._turn = threading.Lock()
        self._problem = ""
        self._closed = threading.Event()
        self._waiter: threading.Thread | None = None

    @property
    def problem(self) -> str:
        """Why the pool could not be asked, when it was last needed; empty where it could."""
        return self._problem

    def of(self, folders: Sequence[RunFolder]) -> list[RunState]:
        """Return the states of runs, in the order of their folders; without where a training is."""
        missing = [folder for folder in folders if not self._is_fresh(folder)]
        if missing:
            self._look_for(missing)
        return [self._recalled(folder) for folder in folders]

    def forget(self, folder: RunFolder) -> None:
        """Look again at the next question: something was done to the run."""
        with self._notes:
            self._told.pop(folder.path, None)

    def close(self) -> None:
        """End what goes on beside requests."""
        self._closed.set()
        if self._waiter:
            self._waiter.join()
        self.looking.close()

    def _is_fresh(self, folder: RunFolder) -> bool:
        told = self._told.get(folder.path)
        if told is None:
            return False
        return told.age < FRESH or (told.state.ended is not None and told.stamp == _stamp(folder))

    def _recalled(self, folder: RunFolder) -> RunState:
        told = self._told.get(folder.path)
        if told is None:  # forgotten by another thread, a moment ago
            return _unknown(folder, "ask again")
        if told.state.ended is None and told.age > _OLD:
            return replace(told.state, unreachable=f"HTCondor was last asked {told.age:.0f} s ago")
        return told.state

    def _look_for(self, missing: list[RunFolder]) -> None:
        wanted = {folder.path: folder for folder in missing}
        with self._notes:
            self._due.update(wanted)
        old_ones_do = all(path in self._told for path in wanted)
        if not self._turn.acquire(timeout=_PATIENCE if old_ones_do else -1):
            return
        try:
            with self._notes:
                # What another's look has brought meanwhile is not looked for again.
                due = [each for each in {**self._due, **wanted}.values() if not self._is_fresh(each)]
                self._due.clear()
            for batch in _batches(due):
                self._look(batch)
        finally:
            self._turn.release()

    def _look(self, folders: list[RunFolder]) -> None:
        stamps = [_stamp(folder) for folder in folders]  # before: what changes meanwhile is looked at again
        try:
            found, problem = self._ask(folders)
        except MlaasError as error:
            if len(folders) > 1:
                for folder in folders:
                    self._look([folder])
                return
            found, problem = [_unknown(folders[0], str(error))], self._problem
        self._note_problem(problem)
        at = time.monotonic()
        with self._notes:
            for folder, state, stamp in zip(folders, found, stamps, strict=True):
                self._told[folder.path] = _Told(state, at, stamp)
                self._told.move_to_end(folder.path)
            while len(self._told) > _KEPT:
                self._told.popitem(last=False)

    def _ask(self, folders: list[RunFolder]) -> tuple[list[RunState], str]:
        try:
            return self.looking.states(folders, self._problem)
        except PoolLost as error:
            return self.looking.states(folders, self._problem or str(error))

    def _note_problem(self, problem: str) -> None:
        if problem and not self._problem:
            # Nobody who asks waits for a pool that is known not to answer.
            self._waiter = threading.Thread(target=self._wait_for_pool, name="pool", daemon=True)
            self._waiter.start()
        self._problem = problem

    def _wait_for_pool(self) -> None:
        while not self._closed.wait(_AGAIN):
            if not (problem := runs.pool_problem(self._settings)):
                self._problem = ""
                return
            self._problem = problem


def _unknown(folder: RunFolder, why: str) -> RunState:
    return RunState(folder.name, "prepared", "", (), unreachable=f"how it does cannot be told now: {why}")


def _batches(folders: list[RunFolder]) -> Iterator[list[RunFolder]]:
    left = iter(folders)
    while batch := list(islice(left, _BATCH)):
        yield batch


def _stamp(folder: RunFolder) -> Stamp:
    """Return what changes whenever something happens to a run."""
    return tuple(
        map(_changed, (folder.dagman_log, folder.local_log, folder.events_log, folder.output("report")))
    )


def _changed(path: Path) -> tuple[int, int]:
    try:
        found = os.stat(path)  # noqa: PTH116 - of thousands of paths
    except OSError:
        return 0, 0
    return found.st_mtime_ns, found.st_size
