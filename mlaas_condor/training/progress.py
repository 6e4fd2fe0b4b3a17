"""Where a training is: all that it takes, beside the model itself, to go on in another process."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Self

from mlaas_condor.params import EarlyStop, Plateau


@dataclass(frozen=True)
class Part:
    """What some events gave: how many they are, the sum of their weights of mean 1, the values.

    Parameters
    ----------
    events, weight, values
        As said; ``values`` has ``loss`` and the model's own metrics.
    """

    events: int
    weight: float
    values: dict[str, float]


@dataclass
class Watch:
    """Whether the validation events are still told better from epoch to epoch.

    Parameters
    ----------
    best, best_epoch
        The best value so far, and the number of its pass in the history, from 1; 0 for none.
    waited, since_rate
        Epochs without an improvement: since the best one, and since the learning rate was last changed.
    """

    best: float | None = None
    best_epoch: int = 0
    waited: int = 0
    since_rate: int = 0

    def see(self, value: float | None, number: int, larger: bool, least: float) -> bool:
        """Take the value of a pass, and tell whether it is the best so far.

        Parameters
        ----------
        value
            None where there is nothing to measure it by; NaN where the training has diverged, which is no
            improvement.
        number
            Number of the pass.
        larger
            Whether larger is better.
        least
            By how much it must be better to count.
        """
        if value is None or (math.isnan(value) and self.best is None):
            return False  # nothing there to be measured by: neither better nor worse
        if not math.isnan(value):
            gain = math.inf if self.best is None else (value - self.best if larger else self.best - value)
            if gain > least:
                self.best, self.best_epoch, self.waited, self.since_rate = value, number, 0, 0
                return True
        self.waited += 1
        self.since_rate += 1
        return False

    def stops(self, early: EarlyStop | None) -> bool:
        """Tell whether it is time to stop."""
        return early is not None and self.waited >= early.patience

    def lower(self, rate: float, plateau: Plateau) -> float | None:
        """Return the next learning rate if it is time for one, else None."""
        if self.since_rate < plateau.patience or rate <= plateau.least:
            return None
        self.since_rate = 0
        return max(rate * plateau.factor, plateau.least)


@dataclass
class Progress:
    """Where a training is.

    Parameters
    ----------
    chunk
        Chunk that is trained on, where each is trained in turn.
    epoch
        Epochs that are over: of that chunk, or of all of them.
    portions, fitted, classes, seconds
        Of the epoch that is not over: portions trained on, what they gave, the classes among them, how long
        it took.
    elapsed
        Seconds that all that is over took.
    rate
        Learning rate, once it has been changed.
    watch
        What tells when to stop.
    history
        What each pass gave.
    """

    chunk: int = 0
    epoch: int = 0
    portions: int = 0
    fitted: list[Part] = field(default_factory=list)
    classes: list[int] = field(default_factory=list)
    seconds: float = 0.0
    elapsed: float = 0.0
    rate: float | None = None
    watch: Watch = field(default_factory=Watch)
    history: list[dict[str, Any]] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain data; numbers that are not finite stay what they are."""
        return asdict(self)

    @classmethod
    def of(cls, plain: Mapping[str, Any]) -> Self:
        """Return what `to_dict` gave."""
        made = cls(**plain)
        made.fitted = [Part(**part) for part in plain["fitted"]]
        made.watch = Watch(**plain["watch"])
        return made

    def add(self, part: Part, seconds: float) -> None:
        """Note that a portion is over."""
        self.portions += 1
        self.fitted.append(part)
        self.seconds += seconds

    def end_epoch(self, seconds: float) -> None:
        """Note that the epoch is over."""
        self.epoch += 1
        self.portions, self.fitted, self.classes = 0, [], []
        self.elapsed += self.seconds + seconds
        self.seconds = 0.0

    def next_chunk(self) -> None:
        """Go on to the next chunk, whose validation events are others."""
        self.chunk += 1
        self.epoch = 0
        self.watch = Watch()
