"""Shares, files and folds: every event is for one thing, and what tests is never trained on."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlaas_condor.training.recipe import Recipe
from mlaas_condor.training.splitting import SPLITS, split


def recipe(**changes):
    values = {
        "name": "r", "model": "model.py", "labels": [0, 1, 1], "classes": ["0", "1"], "epochs": 3,
        "batch_size": 10, "standard": True, "split": 0.25, "padding": None, "threshold": 0.5, "seed": 5,
        "verbose": 0, "threads": 1,
    }  # fmt: skip
    return Recipe(**(values | changes))


@given(
    file=st.lists(st.integers(0, 4), min_size=1, max_size=200),
    test=st.lists(st.integers(0, 4), max_size=3, unique=True),
    validation=st.lists(st.integers(0, 4), max_size=3, unique=True),
    folds=st.none() | st.integers(2, 6),
    regression=st.booleans(),
)
def test_every_event_is_for_one_thing(file, test, validation, folds, regression):
    file = np.array(file, np.uint32)
    validation = [each for each in validation if each not in test]
    made = recipe(
        test_files=test, validation_files=validation, folds=folds, fold=0,
        task="regression" if regression else "classification",
    )  # fmt: skip
    rows = split((file > 2).astype(np.int64), file, made)
    np.testing.assert_array_equal(
        np.sort(np.concatenate([rows[name] for name in SPLITS])), np.arange(len(file))
    )
    if test:
        np.testing.assert_array_equal(rows["test"], np.flatnonzero(np.isin(file, test)))
    if validation:
        assert set(file[rows["validation"]]) <= set(validation)
        assert not set(file[rows["train"]]) & set(validation)


@pytest.mark.parametrize("folds", [2, 5, 7])
@pytest.mark.parametrize("task", ["classification", "regression"])
def test_every_event_tests_in_one_fold(folds, task):
    y = (np.arange(503) % 5 == 0).astype(np.int64)
    file = np.zeros(503, np.uint32)
    tested = [split(y, file, recipe(folds=folds, fold=fold, task=task))["test"] for fold in range(folds)]
    np.testing.assert_array_equal(np.sort(np.concatenate(tested)), np.arange(503))
    assert max(map(len, tested)) - min(map(len, tested)) <= 1
    if task == "classification":
        of_signal = [int(y[rows].sum()) for rows in tested]
        assert max(of_signal) - min(of_signal) <= 1


def test_the_share_that_tests_can_be_given():
    y = np.arange(1000) % 2
    rows = split(y, np.zeros(1000, np.uint32), recipe(test=0.4, split=0.5))
    assert [len(rows[name]) for name in SPLITS] == [300, 300, 400]
