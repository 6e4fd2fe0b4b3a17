"""How a run does in docker's words: what MLaaS4HEP_server said, and what scripts look for."""

from __future__ import annotations

import time

from mlaas_condor.errors import RunFailed
from mlaas_condor.state import RunState

_KILLED = 137  # the exit code of a container that somebody ended
_MINUTE, _HOUR = 60, 3600
_HALF_HOUR = _HOUR / 2
_DAY = 24  # hours; the rest, too
_WEEK, _MONTH, _YEAR = 7 * _DAY, 30 * _DAY, 365 * _DAY


def status(state: RunState, now: float | None = None) -> str:
    """Return the status: ``Created``, ``Up 8 seconds``, ``Up 2 hours (Paused)``, ``Exited (0) 5 days ago``.

    Parameters
    ----------
    state
        How the run does. It is up from when its first job starts, paused while something of it is held; a run
        that failed exited with our exit code for that, one that was cancelled as if killed.
    now
        Seconds since 1970.
    """
    now = time.time() if now is None else now
    if state.state in ("prepared", "idle"):
        return "Created"
    if state.state in ("running", "held"):
        started = [stage.started for stage in state.stages if stage.started is not None]
        up = f"Up {duration(now - min(started, default=state.submitted or now))}"
        return f"{up} (Paused)" if state.state == "held" else up
    code = {"completed": 0, "failed": RunFailed.exit_code}.get(state.state, _KILLED)
    return f"Exited ({code}) {duration(now - (state.ended or now))} ago"


def duration(seconds: float) -> str:
    """Return a time as docker says it: ``Less than a second``, ``About a minute``, ``3 weeks``."""
    hours = int((seconds + _HALF_HOUR) / _HOUR)
    if seconds < 1:
        return "Less than a second"
    if seconds < _MINUTE:
        return "1 second" if seconds < 2 else f"{int(seconds)} seconds"
    if seconds < _HOUR:
        return "About a minute" if seconds < 2 * _MINUTE else f"{int(seconds / _MINUTE)} minutes"
    if hours == 1:
        return "About an hour"
    for most, unit, words in (
        (2 * _DAY, 1, "hours"),
        (2 * _WEEK, _DAY, "days"),
        (2 * _MONTH, _WEEK, "weeks"),
    ):
        if hours < most:
            return f"{hours // unit} {words}"
    return f"{hours // _MONTH} months" if hours < 2 * _YEAR else f"{int(seconds / _HOUR) // _YEAR} years"
