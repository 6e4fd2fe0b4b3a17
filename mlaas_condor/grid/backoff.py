"""Not asking too soon again what has failed."""

from __future__ import annotations

import os
import threading
from pathlib import Path

from mlaas_condor.errors import CredentialFault, MlaasError
from mlaas_condor.jsonfile import JsonFile

from .times import moment

_LONGEST_WAIT = 60 * 60.0


class TooSoon(CredentialFault):
    """The source failed a moment ago, and is not asked yet."""


class Attempts(JsonFile):
    """What is known of a source that fails: how often in a row, since when, and why."""

    failures: int = 0
    last: float = 0.0
    message: str = ""


def wait_seconds(failures: int) -> float:
    """Return how long not to ask after so many failures in a row: 1, 2, 4, … up to 60 minutes."""
    return 0.0 if failures < 1 else min(_LONGEST_WAIT, 60.0 * 2 ** min(failures - 1, 10))


class BackOff:
    """Remembers, in a file, not to ask too soon what failed.

    Parameters
    ----------
    path
        The file; it is there only while something fails.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self) -> Attempts:
        """Return what is known; nothing where the file is not there, or no use."""
        try:
            return Attempts.read(self._path)
        except (OSError, ValueError):
            return Attempts()

    def check(self, now: float) -> None:
        """Raise `TooSoon` with the last error where that was a moment ago."""
        known = self.read()
        again = known.last + wait_seconds(known.failures)
        if known.last <= now < again:  # a clock that was set back does not make it wait for years
            raise TooSoon(
                f"{known.message} (failed {known.failures} times; not asked again before {moment(again)}, "
                "--now asks at once)"
            )

    def failed(self, now: float, error: MlaasError) -> None:
        """Count a failure."""
        attempts = Attempts(failures=self.read().failures + 1, last=now, message=str(error))
        temporary = self._path.with_name(f"{self._path.name}.{os.getpid()}.{threading.get_ident()}")
        attempts.write(temporary)
        temporary.replace(self._path)

    def succeeded(self) -> None:
        """Forget all failures."""
        self._path.unlink(missing_ok=True)
