"""Several trainings: which is the best, the table, and the metrics of all folds."""

import json

import numpy as np
import pytest

from mlaas_condor.training import scan
from mlaas_condor.training.recipe import Recipe


def recipe(variants, **changes):
    values = {
        "name": "r", "model": "model.py", "labels": [0, 1], "classes": ["0", "1"], "epochs": 3,
        "batch_size": 10, "standard": True, "split": 0.25, "padding": None, "threshold": 0.5, "seed": 5,
        "verbose": 0, "threads": 1,
        "variants": variants,
    }  # fmt: skip
    return Recipe(**(values | changes))


@pytest.fixture
def outcomes(tmp_path):
    """Write what trainings gave: (validation, test) each."""

    def write(made, numbers, name="auc"):
        folders = []
        for number, (validation, test) in enumerate(numbers):
            folder = tmp_path / f"training-{number:05d}"
            folder.mkdir()
            metrics = {"validation": {name: validation}, "test": {name: test}}
            (folder / "metrics.json").write_text(json.dumps(metrics))
            folders.append(folder)
        return scan.collect(folders, made)

    return write


def test_the_best_is_told_by_the_validation_events(outcomes):
    made = recipe([{"batch_size": 10}, {"batch_size": 20}, {"batch_size": 30}])
    table = scan.rows(outcomes(made, [(0.8, 0.99), (0.9, 0.7), (None, 0.999)]), made)
    assert [row.chosen for row in table] == [False, True, False]
    assert (table[1].best, table[1].test, table[1].test_deviation) == (1, 0.7, None)
    assert scan.text(table, "auc").splitlines() == [
        "   batch_size  validation AUC  test AUC",
        "   10          0.8000          0.9900",
        "*  20          0.9000          0.7000",
        "   30          nan             0.9990",
    ]


def test_of_a_regression_the_smallest_is_best(outcomes):
    made = recipe([{"epochs": 1}, {"epochs": 2}], task="regression")
    table = scan.rows(outcomes(made, [(3.0, 1.0), (2.0, 5.0)], "rmse"), made)
    assert [row.chosen for row in table] == [False, True]


def test_folds_are_put_together(outcomes):
    made = recipe([{"epochs": e, "fold": f} for e in (1, 2) for f in (0, 1)], folds=2)
    found = outcomes(made, [(0.7, 0.6), (0.9, 0.8), (0.75, 0.6), (0.75, 0.6)])
    table = scan.rows(found, made)
    assert [dict(row.values) for row in table] == [{"epochs": 1}, {"epochs": 2}]
    first = table[0]
    assert (first.validation, first.test) == (pytest.approx(0.8), pytest.approx(0.7))
    assert first.validation_deviation == pytest.approx(np.std([0.7, 0.9], ddof=1))
    assert first.chosen and first.best == 1
    assert "0.8000 ± 0.1414" in scan.text(table, "auc")


def test_all_events_are_measured_by_the_training_that_did_not_see_them(outcomes):
    made = recipe([{"fold": 0}, {"fold": 1}], folds=2)
    found = outcomes(made, [(0.5, 0.5), (0.5, 0.5)])
    rng = np.random.default_rng(1)
    y = rng.integers(0, 2, 200)
    for fold, outcome in enumerate(found):
        tests = np.arange(200) % 2 == fold
        # What was trained on is told perfectly, which must not count.
        score = np.where(tests, 0.3 * y + 0.7 * rng.random(200), y)
        np.savez(
            outcome.folder / "scores.npz", score=score, y=y, split=np.where(tests, 2, 0).astype(np.int8),
            source=np.zeros(200, np.uint32), entry=np.arange(200), weight=np.ones(200),
        )  # fmt: skip
    measured = scan.cross_validated(found, made)
    assert measured["events"] == 200
    assert 0.5 < measured["auc"] < 0.95
