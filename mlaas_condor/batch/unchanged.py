"""What was told of a run directory and still holds, because nothing has changed there since.

A service is asked for the same runs many times a second. Nothing here needs to outlive the process, or to be
the same in two of them. Files that somebody writes in place, which no job does once it is over, go unnoticed.
"""

from __future__ import annotations

import os
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Generic, TypeVar

from mlaas_condor.run import STAGES, RunFolder
from mlaas_condor.state import ENDED, RunState

_Value = TypeVar("_Value")
_Look = tuple[tuple[int, int, int], ...]
_RACY_SECONDS = 2.0  # in which a file system may give two changes the same time


class _Told(Generic[_Value]):
    """What was told, with what the files looked like then; the oldest is forgotten first."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._kept: OrderedDict[Hashable, tuple[_Look, _Value]] = OrderedDict()

    def get(self, key: Hashable, look: _Look) -> _Value | None:
        kept = self._kept.get(key)
        return kept[1] if kept and kept[0] == look else None

    def keep(self, key: Hashable, look: _Look, value: _Value) -> None:
        newest = max((changed for changed, _, _ in look), default=0) / 1e9
        if newest > time.time() - _RACY_SECONDS:
            return
        self._kept[key] = (look, value)
        with suppress(KeyError):  # another thread was faster
            while len(self._kept) > self._most:
                self._kept.popitem(last=False)


_states: _Told[RunState] = _Told(5000)
_complete: _Told[set[int]] = _Told(1000)


def state(folder: RunFolder, tell: Callable[[RunFolder], RunState]) -> RunState:
    """Return the state that a run directory tells; what it told before, if the run was over then."""
    folders = [folder.path, folder.logs, folder.tasks("").parent, *map(folder.output, STAGES)]
    look = _look((*folders, folder.dagman_log, folder.dagman_out, folder.events_log))
    known = _states.get(folder.path, look)
    if known is None:
        known = tell(folder)
        if known.state in ENDED:
            _states.keep(folder.path, look, known)
    return known


def done(folder: RunFolder) -> dict[str, set[int]]:
    """Return the tasks of every stage whose units are all complete, as `RunFolder.done` does."""
    found = {}
    for stage in STAGES:
        key, look = (folder.path, stage), _look((folder.output(stage), folder.tasks(stage)))
        tasks = _complete.get(key, look)
        if tasks is None:
            tasks = folder.tasks_done(stage)
            if tasks.issuperset(folder.task_units(stage)):  # else files may still grow
                _complete.keep(key, look, tasks)
        found[stage] = tasks
    return found


def _look(paths: Iterable[Path]) -> _Look:
    """Return what changes when a file is added or taken away, and when one of these is written."""
    found = []
    for path in paths:
        try:
            status = os.stat(path)  # noqa: PTH116 - Path.stat takes twice the time
        except OSError:
            found.append((0, 0, 0))
        else:
            found.append((status.st_mtime_ns, status.st_ino, status.st_size))
    return tuple(found)
