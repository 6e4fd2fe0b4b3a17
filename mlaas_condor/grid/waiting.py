"""How long storage that does not answer is borne with, and when it is asked again."""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from mlaas_condor.errors import StorageUnavailable

log = logging.getLogger("mlaas_condor")

_FIRST_WAIT, _LONGEST_WAIT = 0.5, 30.0
_T = TypeVar("_T")


@dataclass
class Patience:
    """How long a storage that does not answer is borne with: seconds since it last did."""

    seconds: float = 2.0


patience = Patience()
"""Of this process. Whoever waits at a terminal has little; a job has more, see `stages.program`."""


class Waiting:
    """Waits longer and longer between attempts, until patience ends, which begins with the first failure.

    Parameters
    ----------
    over
        Set when nobody wants the outcome any more.
    """

    def __init__(self, over: threading.Event | None = None) -> None:
        self._over = over or threading.Event()
        self._began: float | None = None
        self._wait = _FIRST_WAIT

    def again(self, fault: Exception) -> bool:
        """Wait for another attempt; False, at once, where patience would end before it."""
        if self._began is None:
            self._began = time.monotonic()
        if self._over.is_set() or time.monotonic() - self._began + self._wait > patience.seconds:
            return False
        log.info("%s; trying again in %.1f s", fault, self._wait)
        # Hundreds of jobs lose the same server at the same moment: they should not all return at once.
        over = self._over.wait(self._wait * random.uniform(0.7, 1.3))
        self._wait = min(2 * self._wait, _LONGEST_WAIT)
        return not over


def persist(act: Callable[[], _T]) -> _T:
    """Do something, again and again while the storage does not answer and patience lasts."""
    waiting = Waiting()
    while True:
        try:
            return act()
        except StorageUnavailable as error:
            if not waiting.again(error):
                raise
