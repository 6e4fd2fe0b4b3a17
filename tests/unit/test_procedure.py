"""What params.json says of the training: read, checked against files, labels, model, all told at once."""

import pytest

from mlaas_condor import settings
from mlaas_condor.errors import RequestError
from mlaas_condor.params import EarlyStop, Plateau
from mlaas_condor.prepare import prepare
from mlaas_condor.request import Request

WIDE = """\
import keras


def model(idim, width=8, *, depth=2):
    network = keras.Sequential([keras.Input((idim,)), keras.layers.Dense(width), keras.layers.Dense(1)])
    network.compile(optimizer="adam", loss="mse")
    return network
"""
TREES = "from sklearn.ensemble import {0}\n\n\ndef model():\n    return {0}()\n"


@pytest.fixture
def ready(request_folder):
    """Prepare the request as it stands."""
    return lambda: prepare(Request.read(request_folder), settings.load())


@pytest.fixture
def problems(ready):
    """Return what is said of the request."""

    def texts():
        with pytest.raises(RequestError) as caught:
            ready()
        return [str(problem) for problem in caught.value.problems]

    return texts


@pytest.fixture
def three_files(request_folder, change, mktree):
    """A third file, of signal, to keep aside."""
    mktree("request/data/late_signal.root", 30, seed=3)
    change(files=["data/signal.root", "data/background.root", "data/late_signal.root"], labels=[1, 0, 1])
    return request_folder


def test_wishes_are_in_the_recipe(ready, change):
    change(
        "params", training="standard", early_stop={"patience": 4, "min_delta": 0.01}, reduce_lr=2,
        monitor="val_auc", class_weights={"0": 0.5}, checkpoint={"epochs": 7}, seed=3,
    )  # fmt: skip
    recipe = ready().recipe
    assert recipe.early_stop == EarlyStop(patience=4, min_delta=0.01)
    assert recipe.reduce_lr == Plateau(patience=2)
    assert (recipe.monitor, recipe.class_weights, recipe.seed) == ("val_auc", {"0": 0.5}, 3)
    assert (recipe.checkpoint.epochs, recipe.checkpoint.seconds) == (7, None)
    assert recipe.best_model, "early_stop keeps the best one"


@pytest.mark.parametrize(
    ("params", "best"),
    [
        ({"training": "standard", "early_stop": 3, "best_model": False}, False),
        ({"training": "standard", "best_model": True}, True),
        ({"early_stop": 3}, True),  # which the loop heeds where epochs can be compared
        ({}, False),
    ],
)
def test_the_best_model_is_kept_when_it_is_asked_for(ready, change, params, best):
    change("params", **params)
    assert ready().recipe.best_model is best


def test_files_may_say_what_validates_and_what_tests(ready, three_files, change):
    change("params", split={"test": ["late_*.root"], "validation": 0.3})
    recipe = ready().recipe
    assert (recipe.test_files, recipe.validation_files, recipe.split) == ([2], [], 0.3)
    change("params", split={"validation": "data/late_signal.root", "test": 0.1})
    recipe = ready().recipe
    assert (recipe.test_files, recipe.validation_files, recipe.test) == ([], [2], 0.1)


@pytest.mark.parametrize(
    ("split", "words"),
    [
        ({"test": ["late_signl.root"]}, ["split.test: late_signl.root", "is none of", "late_signal.root"]),
        ({"test": ["background.root"]}, ["leaves no file of label '0' to train on"]),
        ({"test": ["*signal.root"], "validation": ["background.root"]}, ["leaves no file to train on"]),
        ({"test": ["late_*"], "validation": ["late_*"]}, ["late_signal.root is in both"]),
    ],
)  # fmt: skip
def test_files_that_cannot_be_kept_aside(problems, three_files, change, split, words):
    change("params", split=split)
    (said,) = problems()
    assert all(word in said for word in words), said


@pytest.mark.parametrize(
    ("params", "words"),
    [
        ({"best_model": True}, 'best_model: compares epochs over the same events: it needs "training"'),
        ({"reduce_lr": True}, "reduce_lr: compares epochs over the same events"),
        ({"class_weights": {"2": 1}}, "class_weights: '2' is no label; there are '0', '1'"),
        ({"class_weights": {"0": -1}}, "class_weights: -1 for '0' is negative"),
        ({"folds": 3, "split": {"test": ["background.root"]}}, "folds: deals out what tests"),
        ({"scan": {"batch_size": [10, 0]}}, "scan: batch_size: 0 does not do"),
        ({"scan": {"model.width": [10]}}, "model.width: `model` in model.py has no argument 'width' (none)"),
        ({"scan": {"seed": list(range(40)), "epochs": list(range(1, 40))}}, "scan: makes 1560 trainings"),
    ],
)  # fmt: skip
def test_wishes_that_do_not_go_together(problems, change, params, words):
    change("params", **params)
    assert any(words in said for said in problems()), problems()


@pytest.mark.parametrize(
    ("params", "words"),
    [
        ({"class_weights": "balanced"}, "class_weights: a regression has no classes"),
        ({"monitor": "val_auc"}, "monitor: a regression has no AUC"),
    ],
)
def test_what_a_regression_cannot_have(problems, change, params, words):
    change(task="regression", labels="met")
    change("params", **params)
    assert any(words in said for said in problems())


def test_all_problems_come_at_once(problems, change):
    change("params", best_model=True, scan={"model.width": [1]}, class_weights={"x": 1})
    assert len(problems()) == 3


def test_trees_have_no_learning_rate_to_lower(problems, request_folder, change):
    (request_folder / "model.py").write_text(
        "import xgboost\n\n\ndef model():\n    return xgboost.XGBClassifier()\n"
    )
    change("params", reduce_lr=True, training="standard")
    (said,) = problems()
    assert "a xgboost model has no learning rate" in said


def test_a_scan_is_every_combination_with_every_fold(ready, request_folder, change):
    (request_folder / "model.py").write_text(WIDE)
    change("params", scan={"batch_size": [10, 20], "model.depth": [1, 2, 3]}, folds=2)
    prepared = ready()
    variants = prepared.recipe.variants
    assert len(variants) == 12 == prepared.plan.stage("train").jobs
    assert variants[0] == {"batch_size": 10, "model.depth": 1, "fold": 0}
    assert variants[-1] == {"batch_size": 20, "model.depth": 3, "fold": 1}
    one = prepared.recipe.variant(11)
    assert (one.batch_size, one.arguments, one.fold, one.folds) == (20, {"depth": 3}, 1, 2)


def test_without_scan_and_folds_there_is_one_training(ready):
    prepared = ready()
    assert prepared.recipe.variants == []
    assert prepared.recipe.variant(0) is prepared.recipe
    assert prepared.plan.stage("train").jobs == 1


def test_scanned_keys_reach_the_fields_they_mean(ready, change):
    change(
        "params",
        scan={"nan": [-1.0], "normalise": ["none"], "training": ["standard"], "class_weights": ["balanced"]},
    )
    one = ready().recipe.variant(0)
    assert (one.padding, one.normalise, one.standard, one.class_weights) == (-1.0, "none", True, "balanced")


@pytest.mark.parametrize(
    ("text", "whole"),
    [
        (TREES.format("GradientBoostingClassifier"), True),
        ("from sklearn.neural_network import MLPClassifier\ndef model(): return MLPClassifier()\n", False),
        ("from sklearn import linear_model\ndef model():\n    return linear_model.SGDClassifier()\n", False),
        ("from sklearn.naive_bayes import GaussianNB\nfrom sklearn.pipeline import Pipeline\n"
         "def model():\n    return Pipeline([('nb', GaussianNB())])\n", True),
        ("import sklearn\nimport mine\ndef model():\n    return mine.make()\n", True),
    ],
)  # fmt: skip
def test_memory_for_all_events_is_asked_for_where_it_is_needed(ready, request_folder, change, text, whole):
    (request_folder / "model.py").write_text(text)
    prepared = ready()
    assert bool(prepared.plan.wishes.copies) is whole
    told = [warning for warning in prepared.warnings if "all 100 events at once" in warning]
    assert bool(told) is whole
    if whole:
        assert f"asks for {prepared.plan.stage('train').memory} MiB" in told[0]
