"""Events as XGBoost keeps them for training."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from mlaas_condor.errors import DataFault, ModelFault
from mlaas_condor.training.frameworks import Portion
from mlaas_condor.training.whole import gather
from mlaas_condor.training.xgboost.plan import Plan

IN_MEMORY = 2**29
"""Bytes of a float32 matrix up to which the bins are kept in memory, where they take two thirds of that."""


def read(
    xgboost: Any, portions: Callable[[], Iterator[Portion]], events: int, idim: int, plan: Plan, folder: Path
) -> Any:
    """Return all events as a matrix of XGBoost.

    The features are binned while they are read, some four times over. The bins of many events are kept on
    disk, half of what float32 takes; as long as there is memory the system keeps them there too, so that this
    is no slower, and the trees are the same to the last bit.

    Parameters
    ----------
    xgboost
        The package.
    portions, events, idim
        The events, how many there are, and the number of columns.
    plan
        What is to be trained.
    folder
        Where bins may be kept; as long as the matrix is there.

    Raises
    ------
    ModelFault
        A weight is negative.
    DataFault
        There are more events, or fewer.
    """
    common = {"missing": plan.missing, "nthread": plan.parameters["nthread"]}
    if plan.parameters["tree_method"] != "hist":
        x, y, weights = gather(_checked(portions()), events, idim)
        return xgboost.DMatrix(x, y, weight=weights, **common)
    if "max_bin" in plan.parameters:
        common["max_bin"] = plan.parameters["max_bin"]
    on_disk = events * idim * 4 > IN_MEMORY and hasattr(xgboost, "ExtMemQuantileDMatrix")
    feed = _feed(xgboost, portions, str(folder / "bins") if on_disk else None)
    kind = xgboost.ExtMemQuantileDMatrix if on_disk else xgboost.QuantileDMatrix
    matrix = kind(feed, **common)
    if matrix.num_row() != events:
        raise DataFault(f"{events} training events were counted before, now there are {matrix.num_row()}")
    return matrix


def _feed(xgboost: Any, portions: Callable[[], Iterator[Portion]], cache: str | None) -> Any:
    class Feed(xgboost.DataIter):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__(cache_prefix=cache)
            self._portions = _checked(portions())

        def reset(self) -> None:
            self._portions = _checked(portions())

        def next(self, input_data: Callable[..., Any]) -> bool:
            portion = next(self._portions, None)
            if portion is None:
                return False
            # A view of its own: it would take an array that it has seen for the same events.
            x = np.ascontiguousarray(portion.x, np.float32).view()
            input_data(data=x, label=portion.y, weight=portion.weights)
            return True

    return Feed()


def _checked(portions: Iterator[Portion]) -> Iterator[Portion]:
    for portion in portions:
        negative = 0 if portion.weights is None else np.count_nonzero(portion.weights < 0)
        if negative:
            raise ModelFault(
                f"{negative} of {len(portion.y)} events have a negative weight, which XGBoost does not take: "
                "leave them out with a cut, or use a network"
            )
        yield portion
