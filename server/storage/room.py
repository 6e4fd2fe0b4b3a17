"""The room that an owner has for folders and runs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ..configuration import Limits
from ..faults import OverQuota
from .contents import Contents, bytes_in

_MEBIBYTE = 2**20
_LOOK_EVERY = 64 * _MEBIBYTE


class Room:
    """The room of one owner.

    Parameters
    ----------
    own
        The owner's folder; need not be there.
    limits
        What each owner may have.
    """

    def __init__(self, own: Path, limits: Limits) -> None:
        self._own = own
        self._most = limits.stored * _MEBIBYTE
        self._upload = limits.upload * _MEBIBYTE
        self._incoming = Contents(own).incoming

    def stored(self) -> int:
        """Return the bytes of all that is stored, each file once; what is arriving is not stored yet."""
        return bytes_in(self._own, without=[self._incoming])

    def check(self, more: int) -> None:
        """Make sure that there is room for so many bytes more.

        Raises
        ------
        OverQuota
            There is not.
        """
        stored = self.stored()
        if stored + more > self._most:
            beside = f", and this has {_size(more)} more" if more else ""
            raise self._over(f"{_size(stored)} are stored of yours{beside}")

    def watch(self) -> Callable[[int], None]:
        """Return what is to be told of bytes as they arrive; it raises where they leave no room.

        Raises
        ------
        OverQuota
            Already there is none.
        """
        stored, spent = self.stored(), 0
        if stored >= self._most:
            raise self._over(f"{_size(stored)} are stored of yours")
        # Packed and unpacked it is there twice; and it may turn out to be stored already.
        most = self._most + 2 * self._upload

        def spend(size: int) -> None:
            nonlocal spent
            spent += size
            if spent >= _LOOK_EVERY:
                spent = 0
                arriving = bytes_in(self._incoming)
                if stored + arriving > most:
                    raise self._over(f"{_size(stored)} are stored of yours, and {_size(arriving)} arrive")

        return spend

    def _over(self, what: str) -> OverQuota:
        return OverQuota(f"{what}; the limit is {_size(self._most)}: delete folders or runs first")


def _size(number: float) -> str:
    for unit in ("bytes", "KiB", "MiB"):
        if number < 1024:
            return f"{number:.4g} {unit}"
        number /= 1024
    return f"{number:.4g} GiB"
