"""What every kind of input file can do, whatever its format."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from mlaas_condor.data.events import Column

FLAT, JAGGED = "flat", "jagged"

Index = Sequence[tuple[int, int]]
"""Where reading may start in a file that has no directory: (entry, byte), ascending."""


@dataclass(frozen=True)
class Branch:
    """A branch that can be read: one number (flat) or one list of numbers (jagged) an event.

    Parameters
    ----------
    name, kind, dtype
        ``jet_pt``, ``jagged``, ``float32``.
    length
        Numbers an event where that is fixed (``x[3]``), which is read as a jagged branch; else 0.
    """

    name: str
    kind: Literal["flat", "jagged"]
    dtype: str
    length: int = 0


class Source(Protocol):
    """An open input file, at one of its trees where it has several."""

    @property
    def path(self) -> str:
        """Path or URL, as it was opened."""
        ...

    @property
    def entries(self) -> int:
        """Entries, all told."""
        ...

    @property
    def branches(self) -> Mapping[str, Branch]:
        """Branches that can be features, by name."""
        ...

    @property
    def left_out(self) -> Mapping[str, str]:
        """Every other branch, with the reason."""
        ...

    @property
    def uuid(self) -> str:
        """What tells this content from any other."""
        ...

    @property
    def content(self) -> str:
        """Digest of all that is in the file, where it was read through; else empty.

        What `uuid` is made of says little of the middle of a text file.
        """
        ...

    @property
    def size(self) -> int:
        """Bytes of the file."""
        ...

    @property
    def index(self) -> Index:
        """Where reading may start, for formats that do not say so themselves; else empty."""
        ...

    def read(self, names: Iterable[str], start: int, stop: int) -> dict[str, Column]:
        """Read entries ``start`` to ``stop`` (excluded) of the named branches.

        Raises
        ------
        InputUnreadable
            A branch is missing or its data is damaged.
        """
        ...

    def ahead(self, names: Iterable[str], start: int, stop: int) -> None:
        """Begin to fetch what `read` will need next, where the file is remote; may do nothing.

        It goes on in the background while what was read before is worked on. The next `read` should ask for
        the same entries: what is then not used is fetched in vain.
        """
        ...

    def boundaries(self, names: Iterable[str]) -> Sequence[int]:
        """Return entries, ascending, from 0 to ``entries``, between which it is best to read as a whole.

        They follow how the file is laid out (clusters, row groups, blocks): reading less decodes more
        than is wanted.
        """
        ...

    def close(self) -> None:
        """Close the file."""
        ...
