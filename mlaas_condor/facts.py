"""What a look at its values says of one branch."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from mlaas_condor.data.sketch import BINS
from mlaas_condor.data.source import JAGGED, Branch
from mlaas_condor.data.specs import BranchPart, BranchSpecs, summarise

_OWN_BIN = 64  # below, every integer has a bin of its own in a sketch, at most half as wide as their distance


@dataclass(frozen=True)
class Bars:
    """A histogram: how many values are in each of the equal bins from ``low`` to ``high``."""

    low: float
    high: float
    counts: list[int]


@dataclass(frozen=True)
class BranchFacts:
    """What is known of one branch.

    Parameters
    ----------
    branch
        Its name and type.
    entries
        How many entries were looked at.
    specs
        Its specs over them; None where there was none.
    bars
        How most values are spread, the lowest and the highest hundredth aside; integers of a small range
        all, each with a bin of its own. None where there is nothing to be seen.
    """

    branch: Branch
    entries: int
    specs: BranchSpecs | None
    bars: Bars | None

    @property
    def type(self) -> str:
        """``float32``, ``float32[]`` for lists, ``float32[3]`` for lists of a fixed length."""
        if self.branch.kind != JAGGED:
            return self.branch.dtype
        return f"{self.branch.dtype}[{self.branch.length or ''}]"

    @property
    def mean_length(self) -> float | None:
        """Mean length of its lists; None for a flat branch."""
        if self.specs is None or self.branch.kind != JAGGED:
            return None
        return (self.specs.values + self.specs.not_finite) / self.entries

    @property
    def longest(self) -> int | None:
        """Length of its longest list; None for a flat branch."""
        return self.specs.length if self.specs and self.branch.kind == JAGGED else None

    @property
    def note(self) -> str:
        """What is odd about its values: it has none, only one, or hardly any other."""
        seen = self.specs
        if seen is None:
            return ""
        if not seen.values:
            return "only NaN" if seen.not_finite else "always empty"
        if seen.minimum == seen.maximum:
            return "constant"
        return "" if self.bars else "nearly constant"

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain data."""
        seen = self.specs
        return {
            "name": self.branch.name,
            "type": self.type,
            "kind": self.branch.kind,
            "dtype": self.branch.dtype,
            "entries": self.entries,
            "mean_length": self.mean_length,
            "longest": self.longest,
            "minimum": seen.minimum if seen else None,
            "maximum": seen.maximum if seen else None,
            "mean": seen.mean if seen else None,
            "standard_deviation": seen.standard_deviation if seen else None,
            "values": seen.values if seen else 0,
            "not_finite": seen.not_finite if seen else 0,
            "quantiles": seen.quantiles if seen else [],
            "histogram": asdict(self.bars) if self.bars else None,
            "note": self.note,
        }


def of_branch(branch: Branch, entries: int, part: BranchPart | None) -> BranchFacts:
    """Return the facts of a branch.

    Parameters
    ----------
    branch, entries
        The branch, and the entries that were looked at.
    part
        What was measured over them; None where there was none.
    """
    if part is None:
        return BranchFacts(branch, entries, None, None)
    seen = summarise(part)
    return BranchFacts(branch, entries, seen, _bars(part, seen))


def _bars(part: BranchPart, seen: BranchSpecs) -> Bars | None:
    if seen.minimum is None or seen.maximum is None or seen.minimum == seen.maximum:
        return None
    first, last = seen.quantiles[0], seen.quantiles[-1]
    if not seen.whole or max(-seen.minimum, seen.maximum) >= _OWN_BIN:
        return Bars(first, last, seen.histogram) if seen.histogram else None
    # Bins that do not fit the integers would make a comb of them.
    if seen.maximum - seen.minimum < BINS:
        first, last = seen.minimum, seen.maximum
    if first == last:
        return None
    width = -(-int(last - first + 1) // BINS)
    number = -(-int(last - first + 1) // width)
    low = first - 0.5
    counts = part.distribution.histogram(seen.minimum, seen.maximum, low, low + width * BINS)
    return Bars(low, low + number * width, counts[:number])
