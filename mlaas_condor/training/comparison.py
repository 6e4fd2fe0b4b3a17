"""Whether two samples are of one distribution: the Kolmogorov-Smirnov test, also of events with weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypedDict

import numpy as np
import scipy.stats  # type: ignore[import-untyped]
from numpy.typing import NDArray

from mlaas_condor.errors import DataFault

FEWEST = 4
"""Effective number of events below which the formula says nothing of a probability."""

Values = NDArray[np.floating[Any]]


class Comparison(TypedDict):
    """Largest distance of two cumulative distributions, and how probable one as large is by chance.

    ``p_value`` is None for few events; both are where the weights of a sample do not add up to more than 0.
    """

    statistic: float | None
    p_value: float | None


def kolmogorov_smirnov(
    a: Values, b: Values, weights_a: Values | None = None, weights_b: Values | None = None
) -> Comparison:
    """Compare two samples, event by event and not in bins.

    The p-value is that of Kolmogorov's distribution (Simard and L'Ecuyer, J. Stat. Soft. 39 (2011) 11) for
    ``n = n_a n_b / (n_a + n_b)`` events, rounded, as scipy's ``ks_2samp(method="asymp")`` has it. With
    weights the n_a and n_b are the effective numbers of events, ``(sum w)^2 / sum w^2``. The formula
    is good from n = 4 on (Press et al., Numerical Recipes, section 14.3); below, there is no p-value.

    Parameters
    ----------
    a, b
        Values, shape (events,).
    weights_a, weights_b
        Weights of the same events, shape (events,); also negative ones.

    Raises
    ------
    DataFault
        There are not as many weights as values.
    """
    first, second = _sample(a, weights_a), _sample(b, weights_b)
    if first is None or second is None:
        return {"statistic": None, "p_value": None}
    places = np.concatenate([first[0], second[0]])
    distance = float(np.max(np.abs(_cumulative(first, places) - _cumulative(second, places))))
    one, other = _effective(first[1]), _effective(second[1])
    # Rounding in the sums of equal weights must not decide on which side of a half, or of the limit, it is.
    together = round(one * other / (one + other), 6)
    if together < FEWEST:
        return {"statistic": distance, "p_value": None}
    # Only negative weights lead beyond a distance of 1.
    p_value = scipy.stats.kstwo.sf(min(distance, 1.0), round(together))
    return {"statistic": distance, "p_value": float(p_value)}


def _sample(values: Values, weights: Values | None) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
    """Return values in ascending order and their weights; None where there is nothing to compare."""
    x = np.asarray(values, np.float64)
    w = np.ones(len(x)) if weights is None else np.asarray(weights, np.float64)
    if w.shape != x.shape:
        raise DataFault(f"weights of shape {w.shape} do not belong to values of shape {x.shape}")
    if not w.sum() > 1e-9 * np.abs(w).sum():  # that much may be left of weights that cancel
        return None
    order = np.argsort(x, kind="stable")
    return x[order], w[order]


def _cumulative(
    sample: tuple[NDArray[np.float64], NDArray[np.float64]], places: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the share of a sample's weights that lies at or below each place."""
    x, w = sample
    reached = np.concatenate([[0.0], np.cumsum(w)])
    shares: NDArray[np.float64] = reached[np.searchsorted(x, places, side="right")] / reached[-1]
    return shares


def _effective(w: NDArray[np.float64]) -> float:
    return float(w.sum() ** 2 / (w**2).sum())


def overtraining(
    scores: Mapping[str, Values],
    y: Mapping[str, NDArray[Any]],
    weights: Mapping[str, Values] | None = None,
) -> dict[str, Comparison]:
    """Compare the scores of training and test events of each class, as TMVA does to find overtraining.

    A small p-value says that the model knows its training events better than others.

    Parameters
    ----------
    scores
        Of ``train`` and ``test``: shape (events,), the score of class 1; or (events, classes), of which that
        of class 1 of two is compared, and with more for the events of each class the score for it.
    y
        Classes of the same events, shape (events,).
    weights
        Weights of the same events, shape (events,).

    Returns
    -------
    dict
        By class, ``"0"``, ``"1"``, …; empty where either sample is missing.
    """
    if not {"train", "test"} <= scores.keys():
        return {}
    two = {split: by_column(np.asarray(scores[split])) for split in ("train", "test")}
    classes = two["test"].shape[1] if two["test"].shape[1] > 1 else 2
    found: dict[str, Comparison] = {}
    for k in range(classes):
        column = k if two["test"].shape[1] > 1 else 0
        mine = {split: np.asarray(y[split]) == k for split in two}
        values = [two[split][mine[split], column] for split in ("train", "test")]
        w = [weights[split][mine[split]] if weights else None for split in ("train", "test")]
        found[str(k)] = kolmogorov_smirnov(*values, *w)
    return found


def written(p_value: float | None) -> str:
    """Return a p-value as people read it; empty where there is none."""
    if p_value is None:
        return ""
    return "< 0.001" if p_value < 0.001 else f"{p_value:.2g}"


def by_column(scores: NDArray[Any]) -> NDArray[Any]:
    """Return scores with a column for class 1 of two, else with one a class, shape (events, columns)."""
    if scores.ndim == 1:
        return scores[:, None]
    return scores[:, 1:] if scores.shape[1] == 2 else scores
