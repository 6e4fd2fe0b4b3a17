"""What several requests want at the same time is found out once, and holds for a moment."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")
_LONG_AFTER = 10  # times as long as it holds, an answer is dropped


@dataclass
class _Entry(Generic[V]):
    lock: threading.Lock = field(default_factory=threading.Lock)
    found: list[V] = field(default_factory=list)
    at: float = field(default_factory=time.monotonic)

    def is_fresh(self, seconds: float) -> bool:
        return bool(self.found) and time.monotonic() - self.at < seconds

    def note(self, value: V) -> None:
        self.found, self.at = [value], time.monotonic()


class Shared(Generic[K, V]):
    """Answers by key; one thread finds out, the others wait for what it finds.

    Parameters
    ----------
    seconds
        How long an answer holds.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._entries: dict[K, _Entry[V]] = {}
        self._notes = threading.Lock()

    def get(self, key: K, find: Callable[[], V]) -> V:
        """Return the answer for a key, from `find` where there is none that still holds."""
        entry = self._entry(key)
        with entry.lock:
            if not entry.is_fresh(self._seconds):
                entry.note(find())
            return entry.found[0]

    def _entry(self, key: K) -> _Entry[V]:
        with self._notes:
            # Long after its time, so that nobody who is about to look at one loses it.
            limit = time.monotonic() - _LONG_AFTER * self._seconds
            for old in [old for old, entry in self._entries.items() if entry.at < limit and old != key]:
                del self._entries[old]
            return self._entries.setdefault(key, _Entry())


class Soon(Shared[K, V]):
    """The same where finding out may take long: who has waited for a while gets what was found before.

    Parameters
    ----------
    seconds
        How long an answer holds.
    patience
        Seconds to wait for another.
    """

    def __init__(self, seconds: float, patience: float) -> None:
        super().__init__(seconds)
        self._patience = patience

    def latest(self, key: K, find: Callable[[], V]) -> V | None:
        """Return the answer for a key; None before there is a first one."""
        entry = self._entry(key)
        if not entry.is_fresh(self._seconds) and entry.lock.acquire(blocking=False):
            threading.Thread(target=self._find, args=(entry, find), daemon=True).start()
        if entry.lock.acquire(timeout=self._patience):
            entry.lock.release()
        return entry.found[0] if entry.found else None

    @staticmethod
    def _find(entry: _Entry[V], find: Callable[[], V]) -> None:
        try:
            entry.note(find())
        finally:
            entry.lock.release()
