"""Which branches become features: selected, excluded, never the identifiers."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from mlaas_condor.data.inputs import Branch


@dataclass(frozen=True)
class Selection:
    """The outcome: names of flat and jagged features (each sorted), and patterns nothing matched."""

    flat: list[str]
    jagged: list[str]
    unmatched: list[str]


def select(
    branches: Mapping[str, Branch],
    selected: Sequence[str],
    excluded: Sequence[str],
    identifiers: Collection[str],
) -> Selection:
    """Choose the feature branches.

    Parameters
    ----------
    branches
        What the files hold.
    selected, excluded
        Names or patterns (``jet*``); no selected ones, or ``*`` alone, means all.
    identifiers
        Never features.
    """
    names = sorted(branches)
    matched = {
        pattern: [n for n in names if n == pattern or fnmatchcase(n, pattern)]
        for pattern in (*selected, *excluded)
    }
    chosen = {n for pattern in selected for n in matched[pattern]} if selected else set(names)
    chosen -= {n for pattern in excluded for n in matched[pattern]} | set(identifiers)
    return Selection(
        flat=[n for n in names if n in chosen and branches[n].kind == "flat"],
        jagged=[n for n in names if n in chosen and branches[n].kind == "jagged"],
        unmatched=[pattern for pattern, found in matched.items() if not found],
    )
