"""Fitting scikit-learn's ensembles a part of their trees at a time.

A warm start goes on with the trees that are there. For the ensembles here it ends with the very same model as
fitting once; so that a training which takes hours shows how it does, and can be interrupted.
"""

from __future__ import annotations

import contextlib
import importlib
import warnings
from collections.abc import Iterator
from typing import Any

STAGES = 10
"""Most stages of a training: after each, whoever trains looks at all validation events."""

LEAST_ROUNDS = 50
"""Of HistGradientBoosting in a stage: it bins all events anew in each, as long as some ten rounds take."""

SLOWLY_BINNED = 200_000
"""So many weighted events it bins with their weights, which takes much longer still; of more it draws so many
by their weights, and bins those without.
"""


class Stages:
    """The stages of fitting an estimator, numbered from 1.

    Parameters
    ----------
    final
        The estimator as the user made it; of a pipeline the last step. What comes before that is fitted again
        in every stage, to the same end.

    Attributes
    ----------
    number
        How many there are; 1 where it cannot be fitted in parts, or not to the same end, or not as fast.
    rounds
        Trees, or rounds of them, that the user wants; 1 where there are no such.
    """

    def __init__(self, final: Any) -> None:
        self._parameter = _parameter(final)
        self.rounds = 1 if self._parameter is None else int(getattr(final, self._parameter))
        self._warm_start = getattr(final, "warm_start", None)
        self._divide(LEAST_ROUNDS if self._parameter == "max_iter" else 1)

    def settle(self, events: int, weighted: bool) -> None:
        """Take into account how many events there are to fit, and whether they have weights."""
        if self._parameter == "max_iter" and weighted and events <= SLOWLY_BINNED:
            self._divide(self.rounds)

    def _divide(self, least: int) -> None:
        self._each = max(least, -(-self.rounds // STAGES))
        self.number = -(-self.rounds // self._each)

    @contextlib.contextmanager
    def prepared(self, final: Any, stage: int) -> Iterator[None]:
        """Let what is fitted within be that stage."""
        if self._parameter is None or self.number == 1:
            yield
            return
        rounds = min(stage * self._each, self.rounds)
        final.set_params(**{self._parameter: rounds, "warm_start": True})
        with warnings.catch_warnings():
            # It is afraid of other data than before; these are the same.
            warnings.filterwarnings("ignore", "class_weight presets", UserWarning)
            yield

    def is_over(self, final: Any) -> bool:
        """Tell whether early stopping has ended the fit: where that is at the end of a stage, the next one
        would not know.
        """
        if self._parameter != "max_iter" or not final.do_early_stopping_:
            return False
        scores = final.validation_score_ if len(final.validation_score_) else final.train_score_
        before, last = scores[: -final.n_iter_no_change], scores[-final.n_iter_no_change :]
        if final.n_iter_ < final.max_iter:
            return True
        return len(before) > 0 and bool(max(last) <= before[-1] + final.tol)

    def put_back(self, final: Any) -> None:
        """Give back the parameter that is not the user's."""
        if self._parameter is not None:
            final.set_params(warm_start=self._warm_start)


def _parameter(final: Any) -> str | None:
    """Return the parameter that says how many rounds there are; None where rounds cannot be added, or would
    not give the same as fitting once.
    """
    ensemble = importlib.import_module("sklearn.ensemble")

    def is_one_of(*names: str) -> bool:
        kinds = tuple(
            getattr(ensemble, name + kind) for name in names for kind in ("Classifier", "Regressor")
        )
        return isinstance(final, kinds)

    found = None
    if is_one_of("HistGradientBoosting"):
        found = "max_iter"
    elif is_one_of("GradientBoosting"):
        # It forgets how the last rounds did.
        found = "n_estimators" if final.n_iter_no_change is None else None
    elif is_one_of("RandomForest", "ExtraTrees", "Bagging"):
        # What a few trees leave out of the bag is not every event.
        found = None if final.oob_score else "n_estimators"
    rounds = getattr(final, found) if found else None
    return found if isinstance(rounds, int) and rounds > 0 else None
