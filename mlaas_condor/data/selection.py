"""What is done to events as they are read: new branches, cuts, shorter lists; and the choice of features."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from mlaas_condor.data.events import Column, Events, Jagged, number_of, offsets_of, pick
from mlaas_condor.data.expressions import Expression, parse
from mlaas_condor.data.source import Branch
from mlaas_condor.jsonfile import Plain

Mask = NDArray[np.bool_]


class Definition(Plain):
    """A new branch.

    Parameters
    ----------
    name, expression
        What it is called, and how it is made.
    branches
        The branches that the expression uses, among them new ones made before.
    """

    name: str
    expression: str
    branches: list[str]

    @cached_property
    def parsed(self) -> Expression:
        """The expression, ready to be evaluated."""
        return parse(self.expression, self.branches)


class Cut(Plain):
    """A condition that an event must fulfil to be kept.

    Parameters
    ----------
    expression, branches
        The condition, and the branches that it uses.
    elements
        For a list, whether ``any`` or ``all`` of its elements must fulfil it: an event with an empty list
        fails the one and passes the other.
    """

    expression: str
    branches: list[str]
    elements: Literal["any", "all"] | None = None

    @property
    def title(self) -> str:
        """What a person would call it."""
        return f"{self.elements}({self.expression})" if self.elements else self.expression

    @cached_property
    def parsed(self) -> Expression:
        """The condition, ready to be evaluated."""
        return parse(self.expression, self.branches)

    def passed(self, events: Events) -> Mask:
        """Return which events fulfil it, shape (events,)."""
        result = self.parsed.evaluate(events)
        if not isinstance(result, Jagged):
            passed: Mask = result.astype(np.bool_)
            return passed
        offsets = offsets_of(result.counts)
        # True elements up to each place: their number within a list is a difference.
        true = np.concatenate([[0], np.cumsum(result.values.astype(np.bool_))])
        within = true[offsets[1:]] - true[offsets[:-1]]
        if self.elements == "all":
            within -= result.counts - 1
        return np.asarray(within > 0)


class Steps(Plain):
    """What is done to events before they are measured or made into chunks.

    Parameters
    ----------
    definitions
        New branches, each after those that it is made of.
    cuts
        All must be passed; the order is that of the cut flow.
    max_length
        Branch to the length that its lists are cut to.
    """

    definitions: list[Definition] = Field([])
    cuts: list[Cut] = Field([])
    max_length: dict[str, int] = Field({})

    def without_cuts(self) -> Steps:
        """Return the steps that make branches."""
        return self.model_copy(update={"cuts": []})


@dataclass(frozen=True)
class Selected:
    """Events that passed.

    Parameters
    ----------
    events
        The branches wanted, of the events kept.
    mask
        Which of the events given were kept, shape (events,).
    flow, weights
        Events before any cut, after the first, …; the sum of their weights, where there are any.
    """

    events: dict[str, Column]
    mask: Mask
    flow: tuple[int, ...]
    weights: tuple[float, ...]


class Selector:
    """Applies the steps, for the branches wanted.

    Parameters
    ----------
    steps
        What to do.
    names
        The branches wanted of the events that are kept.
    weight
        Branch of event weights, whose sums the cut flow shows; empty for none.
    """

    def __init__(self, steps: Steps, names: Iterable[str], weight: str = "") -> None:
        self._steps = steps
        self._names = list(names)
        self._weight = weight
        #: The branches to read for all that is wanted, and to know only which events are kept.
        self.inputs, self._definitions = _needed(steps, [*self._names, *self._for_cuts()])
        self.cut_inputs, self._cut_definitions = _needed(steps, self._for_cuts())

    def _for_cuts(self) -> list[str]:
        used = [name for cut in self._steps.cuts for name in cut.branches]
        return [*used, self._weight] if self._weight else used

    def count(self, events: Events, n: int) -> Selected:
        """Cut ``n`` events of which only the branches `cut_inputs` are there; the result has no branch."""
        every = _with(events, self._cut_definitions)
        masks = [np.ones(n, np.bool_)]
        for cut in self._steps.cuts:
            masks.append(masks[-1] & cut.passed(every))
        weights = every.get(self._weight)
        sums: tuple[float, ...] = ()
        if weights is not None and not isinstance(weights, Jagged):
            sums = tuple(float(weights[mask].sum(dtype=np.float64)) for mask in masks)
        return Selected({}, masks[-1], tuple(int(np.count_nonzero(mask)) for mask in masks), sums)

    def take(self, events: Events, mask: Mask) -> dict[str, Column]:
        """Return the branches wanted of the events in the mask; given are the branches `inputs`."""
        every = _with(events, self._definitions)
        chosen = {name: self._shortened(name, every[name]) for name in self._names}
        return chosen if mask.all() else pick(chosen, mask)

    def apply(self, events: Events) -> Selected:
        """Cut, and return the branches wanted; given are the branches `inputs`."""
        counted = self.count(events, number_of(events))
        return replace(counted, events=self.take(events, counted.mask))

    def _shortened(self, name: str, column: Column) -> Column:
        longest = self._steps.max_length.get(name)
        return shorten(column, longest) if longest is not None and isinstance(column, Jagged) else column


def _needed(steps: Steps, names: Iterable[str]) -> tuple[list[str], list[Definition]]:
    """Return what must be read, and made in this order, to have these branches."""
    needed, made = set(names), []
    for definition in reversed(steps.definitions):
        if definition.name in needed:
            needed = (needed - {definition.name}) | set(definition.branches)
            made.append(definition)
    return sorted(needed), made[::-1]


def _with(events: Events, definitions: Iterable[Definition]) -> dict[str, Column]:
    every = dict(events)
    for definition in definitions:
        every[definition.name] = definition.parsed.evaluate(every)
    return every


def shorten(column: Jagged, longest: int) -> Jagged:
    """Return the first ``longest`` elements of each list."""
    if column.counts.max(initial=0) <= longest:
        return column
    counts = np.minimum(column.counts, longest)
    first = offsets_of(column.counts)[:-1]
    moved = first - (np.cumsum(counts) - counts)
    return Jagged(counts, column.values[np.arange(int(counts.sum())) + np.repeat(moved, counts)])


@dataclass(frozen=True)
class Choice:
    """Names of flat and jagged features (each sorted), and patterns that nothing matched."""

    flat: list[str]
    jagged: list[str]
    unmatched: list[str]


def choose(
    branches: Mapping[str, Branch],
    selected: Sequence[str],
    excluded: Sequence[str],
    never: Collection[str],
) -> Choice:
    """Choose the feature branches.

    Parameters
    ----------
    branches
        What there is: in the files, and new ones.
    selected, excluded
        Names or patterns (``jet*``); no selected ones, or ``*`` alone, means all.
    never
        Branches that are no features: identifiers, label, weight.
    """
    names = sorted(branches)
    matched = {
        pattern: [n for n in names if n == pattern or fnmatchcase(n, pattern)]
        for pattern in (*selected, *excluded)
    }
    chosen = {n for pattern in selected for n in matched[pattern]} if selected else set(names)
    chosen -= {n for pattern in excluded for n in matched[pattern]} | set(never)
    return Choice(
        flat=[n for n in names if n in chosen and branches[n].kind == "flat"],
        jagged=[n for n in names if n in chosen and branches[n].kind == "jagged"],
        unmatched=[pattern for pattern, found in matched.items() if not found],
    )
