"""How the values of every branch are distributed, by class: counted chunk by chunk, in bounded memory.

What is counted are the features as training has them. Normalising is linear, so the same bins serve before
and after it: ``raw = x * width + centre``. What it adds is the padding, which is counted apart.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from mlaas_condor.data import chunkfile
from mlaas_condor.data.features import Columns, Matrix, mask

if TYPE_CHECKING:
    from mlaas_condor.training.samples import Sample

BINS = 60
TAILS = (0.005, 0.995)  # what is beyond goes to under- and overflow, where it is far away
FAR = 0.5  # times the distance of these quantiles
MOST_VALUES = 10**8  # of all branches together; chunks are alike, so that the first ones do for the rest
_ROWS = 10_000  # counted at a time
_FLOAT32 = 1e-6  # how exact a value is that comes back from normalising, of its size


@dataclass
class Histogram:
    """The values of one branch, in equal bins.

    Parameters
    ----------
    branch
        Its name.
    whole
        Whether all values are integers; then a bin holds one of them, or as many as the next.
    low, high
        Where the bins begin and end, before normalising; None while there was no value.
    centre, width, padding
        How values are normalised, ``(raw - centre) / width``, and what padding becomes.
    counts
        Shape (classes, bins + 2): values, or the sum of their weights; the first bin is for what is below all
        others, the last for what is above.
    missing
        Shape (classes,): elements that an event does not have, or that are not finite.
    """

    branch: str
    whole: bool
    low: float | None
    high: float | None
    centre: float
    width: float
    padding: float
    counts: NDArray[np.float64]
    missing: NDArray[np.float64]

    @property
    def bins(self) -> int:
        """Number of bins, without those for what is below and above."""
        return int(self.counts.shape[1]) - 2

    def edges(self, normalised: bool = False) -> NDArray[np.float64]:
        """Return the edges of the bins, shape (bins + 1,); of a branch without values there is one bin."""
        low, high = (0.0, 1.0) if self.low is None or self.high is None else (self.low, self.high)
        raw = np.linspace(low, high, self.bins + 1)
        return (raw - self.centre) / self.width if normalised else raw

    def separation(self) -> float:
        """Return how far the classes are apart: 0 for equal distributions, 1 for such without overlap.

        The separation of TMVA, half the sum over bins of (p - q)^2 / (p + q), with p of one class and q of
        the rest; the mean over the classes where there are more than two.
        """
        content = np.column_stack([self.counts, self.missing])
        if len(content) < 2:
            return 0.0
        found = []
        for k in range(1 if len(content) == 2 else 0, len(content)):
            p, q = _shares(content[k]), _shares(np.delete(content, k, axis=0).sum(axis=0))
            both = p + q
            found.append(0.5 * float(np.sum(np.divide((p - q) ** 2, both, np.zeros(len(p)), where=both > 0))))
        return float(np.mean(found))

    def choose(self, values: NDArray[np.floating[Any]]) -> None:
        """Choose the bins by some normalised values."""
        raw = values.astype(np.float64) * self.width + self.centre
        least, most = float(raw.min()), float(raw.max())
        exact = _FLOAT32 * max(abs(least), abs(most), self.width)
        self.whole = exact < 0.1 and bool((np.abs(raw - np.rint(raw)) <= exact).all())
        low, high = least, most
        if not self.whole or most - least >= BINS:
            low, high = _reach(raw)
        bins = BINS
        if self.whole:
            low, high = np.rint(low), np.rint(high)
            step = np.ceil((high - low + 1) / BINS)
            bins = int(np.ceil((high - low + 1) / step))
            low, high = low - 0.5, low - 0.5 + bins * step
        elif high - low <= exact:
            bins, low, high = 1, low - (0.1 * abs(low) or 0.5), high + (0.1 * abs(high) or 0.5)
        else:
            low, high = low - _FLOAT32 * (high - low), high + _FLOAT32 * (high - low)
        self.low, self.high = float(low), float(high)
        self.counts = np.zeros((len(self.counts), bins + 2))

    def add(
        self, x: Matrix, gone: NDArray[np.bool_], y: NDArray[np.int64], w: NDArray[np.float64] | None
    ) -> None:
        """Count the columns of the branch, shape (events, length); ``gone`` says where there is no value."""
        of_lists = gone.sum(axis=1) if w is None else gone.sum(axis=1) * w
        self.missing += np.bincount(y, of_lists, minlength=len(self.missing))
        if gone.all():
            return
        if self.low is None:
            self.choose(x[~gone])
        edges = self.edges(normalised=True)
        places = np.floor((x - edges[0]) * (self.bins / (edges[-1] - edges[0])))
        cells = np.clip(places, -1, self.bins).astype(np.int64) + 1 + (y * (self.bins + 2))[:, None]
        of_values = None if w is None else np.broadcast_to(w[:, None], x.shape)[~gone]
        found = np.bincount(cells[~gone], of_values, minlength=self.counts.size)
        self.counts += found.reshape(self.counts.shape)


def _shares(content: NDArray[np.float64]) -> NDArray[np.float64]:
    positive = np.maximum(content, 0.0)
    return positive / (positive.sum() or 1.0)


def _reach(raw: NDArray[np.float64]) -> tuple[float, float]:
    """Return from where to where to look: all there is, unless there are far tails."""
    least, most = float(raw.min()), float(raw.max())
    low, high = (float(value) for value in np.quantile(raw, TAILS))
    far = FAR * (high - low) or most - least
    return low if low - least > far else least, high if most - high > far else most


class Distributions:
    """The distributions of all branches.

    Parameters
    ----------
    columns
        Layout of the features.
    classes
        Names of the classes; a regression has none, and its events are all of one.
    """

    def __init__(self, columns: Columns, classes: Sequence[str]) -> None:
        self.classes = list(classes) or ["all"]
        self.events = 0
        self.weighted = False
        self.histograms: dict[str, Histogram] = {}
        self._columns = columns
        for branch, scale in columns.scales.items():
            empty, none = np.zeros((len(self.classes), 3)), np.zeros(len(self.classes))
            self.histograms[branch] = Histogram(
                branch, False, None, None, scale.centre, scale.width, scale.padding, empty, none
            )

    def add(
        self,
        x: Matrix,
        y: NDArray[Any],
        weights: NDArray[Any] | None = None,
        missing: NDArray[np.bool_] | None = None,
    ) -> None:
        """Count the events of a chunk; the first one decides on the bins.

        Parameters
        ----------
        x, y
            Normalised features, shape (events, columns); classes, shape (events,), which do not matter for a
            regression.
        weights
            Weights of the events, shape (events,).
        missing
            Where the features are padding, shape (events, columns), as `data.features.mask` gives it. Without
            it, what is equal to the padding at the end of a list is taken for padding: with the usual 0 after
            normalising, an element of the least value that ends a list goes there as well.
        """
        self.events += len(x)
        self.weighted = self.weighted or weights is not None
        classes = y.astype(np.int64) if len(self.classes) > 1 else np.zeros(len(x), np.int64)
        for start in range(0, len(x), _ROWS):
            rows = slice(start, start + _ROWS)
            w = None if weights is None else np.asarray(weights[rows], np.float64)
            for branch, first in self._columns.first.items():
                own = slice(first, first + self._columns.length[branch])
                block = x[rows, own]
                gone = self._gone(branch, block) if missing is None else missing[rows, own]
                self.histograms[branch].add(block, gone, classes[rows], w)

    def _gone(self, branch: str, block: Matrix) -> NDArray[np.bool_]:
        if self._columns.names[self._columns.first[branch]] == branch:  # flat: every event has a value
            return np.zeros(block.shape, np.bool_)
        equal = block == np.float32(self.histograms[branch].padding)
        return np.logical_and.accumulate(equal[:, ::-1], axis=1)[:, ::-1]

    def ranked(self) -> list[str]:
        """Return the branches, those that separate the classes best first."""
        return sorted(self.histograms, key=lambda name: (-self.histograms[name].separation(), name))

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain data, for JSON."""
        return {
            "events": self.events,
            "weighted": self.weighted,
            "classes": self.classes,
            "branches": [self._plain(histogram) for histogram in self.histograms.values()],
        }

    def _plain(self, histogram: Histogram) -> dict[str, Any]:
        counts, missing = (
            each if self.weighted else each.astype(np.int64) for each in (histogram.counts, histogram.missing)
        )
        return {**vars(histogram), "counts": counts.tolist(), "missing": missing.tolist()}

    @classmethod
    def of_dict(cls, plain: Mapping[str, Any]) -> Self:
        """Return what ``to_dict`` gave, to be looked at; nothing can be added to it."""
        made = cls(Columns((), {}, {}, {}), plain["classes"])
        made.events, made.weighted = plain["events"], plain["weighted"]
        for each in plain["branches"]:
            arrays = {key: np.asarray(each[key], np.float64) for key in ("counts", "missing")}
            made.histograms[each["branch"]] = Histogram(**{**each, **arrays})
        return made


def of_samples(
    samples: Iterable[Sample], paths: Sequence[Path], columns: Columns, classes: Sequence[str]
) -> Distributions:
    """Count the events of a run, train, validation and test together.

    The chunks are opened a second time, for their lists: so padding is told from values exactly. Of large
    data the first chunks are counted, ``MOST_VALUES`` values of the feature matrix: every chunk is a mix of
    the events of all files.

    Parameters
    ----------
    samples, paths
        The samples, and the chunk files by number; `training.samples.Samples` has both.
    columns, classes
        As of `Distributions`.
    """
    found = Distributions(columns, classes)
    for sample in samples:
        missing = mask(chunkfile.read(paths[sample.index]).events, columns)
        found.add(sample.x, sample.y, sample.weights, missing)
        if found.events * len(columns) >= MOST_VALUES:
            break
    return found
