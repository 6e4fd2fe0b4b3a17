"""The XGBoost adapter on real XGBoost, with models made by a file as a user writes it."""

import logging
import sys

import numpy as np
import pytest
import xgboost
from estimator_tools import COLUMNS, event_weights, events, linear, onnx_scores_of, portions, train

from mlaas_condor.errors import (
    DataFault,
    FrameworkMissing,
    InputUnreadable,
    ModelFault,
    OutOfMemory,
    StorageFull,
)
from mlaas_condor.training import frameworks, models
from mlaas_condor.training.frameworks import NoOnnx, Portion, Setup
from mlaas_condor.training.xgboost import adapter
from mlaas_condor.training.xgboost import data as binned

PUBLISHED = (
    "XGBClassifier(objective='binary:logistic', max_depth=9, subsample=0.9, alpha=10, learning_rate=1e-4, "
    "n_estimators=40)"
)
KINDS = [
    PUBLISHED,
    "XGBClassifier(n_estimators=33, max_depth=3)",
    "XGBClassifier(n_estimators=33, max_depth=3, subsample=0.7, colsample_bytree=0.8, colsample_bynode=0.7, "
    "colsample_bylevel=0.8)",
    "XGBClassifier(n_estimators=33, max_depth=3, num_parallel_tree=3, subsample=0.7)",
    "XGBClassifier(n_estimators=33, max_depth=3, booster='dart', rate_drop=0.3, subsample=0.7)",
    "XGBClassifier(n_estimators=33, grow_policy='lossguide', max_leaves=8, max_depth=0, subsample=0.7)",
    "XGBClassifier(n_estimators=33, max_depth=3, tree_method='approx', subsample=0.7, colsample_bytree=0.7)",
    "XGBClassifier(n_estimators=33, max_depth=3, tree_method='exact', subsample=0.7, colsample_bytree=0.7)",
]
ONNX = [
    "XGBClassifier(n_estimators=33, max_depth=4)",
    "XGBClassifier(n_estimators=5, max_depth=4, base_score=0.2)",
    "XGBClassifier(n_estimators=5, reg_lambda=0)",
]


@pytest.fixture
def make(tmp_path):
    def make_adapter(expression, seed=3, **setup):
        path = tmp_path / "model.py"
        path.write_text(f"from xgboost import *\nimport xgboost\ndef model():\n    return {expression}\n")
        return frameworks.open_adapter(models.check(path), Setup(COLUMNS, seed, **setup))

    return make_adapter


def trees(model):
    return model._booster.save_raw("ubj")


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("weighted", [False, True])
def test_it_does_what_xgboost_does(make, classes, weighted):
    x, y = events(1500, classes)
    weights = event_weights(1500) if weighted else None
    model = make("XGBClassifier(n_estimators=25, max_depth=4)", classes=classes)
    told = train(model, x, y, weights, parts=1)
    plain = xgboost.XGBClassifier(
        n_estimators=25, max_depth=4, tree_method="hist", n_jobs=1, eval_metric="logloss"
    )
    plain.fit(x, y, sample_weight=weights)
    expected = plain.predict_proba(x)
    scores = model.predict(x)
    assert scores.dtype == np.float32
    np.testing.assert_allclose(scores, expected[:, 1] if classes == 2 else expected, atol=1e-6)
    assert told[-1]["loss"] == pytest.approx(model.evaluate(x, y, weights)["loss"], rel=1e-5)
    assert model.predict(x[:0]).shape == scores[:0].shape
    fresh, truth = events(900, classes, seed=9)
    found = model.predict(fresh)
    assert np.mean((found > 0.5 if classes == 2 else found.argmax(axis=1)) == truth) > 0.8


def test_a_regression_does_what_xgboost_does(make):
    x, y = linear(1500)
    weights = event_weights(1500)
    model = make("XGBRegressor(n_estimators=25)", task="regression", classes=0)
    told = train(model, x, y, weights, parts=1)
    plain = xgboost.XGBRegressor(n_estimators=25, tree_method="hist", n_jobs=1)
    plain.fit(x, y, sample_weight=weights)
    np.testing.assert_allclose(model.predict(x), plain.predict(x), rtol=1e-6)
    residual = model.predict(x) - y
    assert model.evaluate(x, y, weights)["loss"] == pytest.approx(np.mean(weights * residual**2), rel=1e-6)
    assert told[-1]["loss"] == pytest.approx(np.mean(weights * residual**2), rel=1e-4)
    assert np.var(residual) < 0.1 * np.var(y)


@pytest.mark.parametrize(
    "expression", ["XGBRFClassifier(n_estimators=20)", KINDS[3], KINDS[4], KINDS[6], KINDS[7]]
)
def test_forests_and_other_boosters_learn(make, expression):
    x, y = events(1500)
    model = make(expression)
    told = train(model, x, y)
    assert told[-1]["stage"] == told[-1]["stages"] == len(told) == (1 if "XGBRF" in expression else 17)
    fresh, truth = events(900, seed=9)
    assert np.mean((model.predict(fresh) > 0.5) == truth) > 0.85
    assert told[-1]["loss"] == pytest.approx(model.evaluate(x, y)["loss"], rel=1e-4)


@pytest.mark.parametrize(("rounds", "stages"), [(1, 1), (7, 7), (30, 30), (31, 16), (100, 25), (3000, 30)])
def test_there_are_stages_to_be_seen_but_not_too_many(make, rounds, stages):
    model = make(f"XGBClassifier(n_estimators={rounds}, max_depth=1)")
    told = train(model, *events(40))
    assert [each["stage"] for each in told] == list(range(1, stages + 1))
    assert {each["stages"] for each in told} == {stages}
    assert model._booster.num_boosted_rounds() == rounds


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("expression", KINDS)
def test_an_interrupted_training_ends_the_same_to_the_last_bit(make, expression, classes, tmp_path):
    x, y = events(500, classes)
    threads = 2 if expression == PUBLISHED else 1  # two wait long for one another where others are at work
    through, first, second = (make(expression, classes=classes, threads=threads) for _ in range(3))
    told = train(through, x, y)
    stages = first.fit_whole(portions(x, y), len(x))
    before = [next(stages) for _ in range(5)]
    first.checkpoint(tmp_path / "checkpoint")
    stages.close()
    second.restore(tmp_path / "checkpoint")
    assert np.array_equal(first.predict(x), second.predict(x))
    after = train(second, x, y)
    assert trees(through) == trees(second)
    assert before + after == told
    assert train(second, x, y) == []


def test_the_seed_decides(make):
    x, y = events(500)
    found = []
    for seed in (1, 1, 2):
        model = make("XGBClassifier(n_estimators=5, subsample=0.5)", seed=seed)
        train(model, x, y)
        found.append(trees(model))
    assert found[0] == found[1] != found[2]


def test_bins_on_disk_give_the_same_trees_and_leave_nothing_there(make, monkeypatch, tmp_path):
    x, y = events(3000)
    weights = event_weights(3000)
    monkeypatch.chdir(tmp_path)
    in_memory, on_disk = (make(KINDS[2]) for _ in range(2))
    train(in_memory, x, y, weights)
    monkeypatch.setattr(binned, "IN_MEMORY", 1000)
    stages = on_disk.fit_whole(portions(x, y, weights), len(x))
    next(stages)
    assert [path for path in tmp_path.glob("xgboost-*/bins*") if path.stat().st_size > 3000 * COLUMNS / 2]
    list(stages)
    del stages
    assert not list(tmp_path.glob("xgboost-*"))
    assert trees(in_memory) == trees(on_disk)


def test_weight_two_is_the_event_twice_and_weight_zero_none(make):
    x, y = events(400)
    x = np.round(x, 1)  # so that weights do not move the edges of the bins
    times = np.random.default_rng(4).integers(0, 3, 400)
    weighted, repeated = (make("XGBClassifier(n_estimators=10)") for _ in range(2))
    train(weighted, x, y, times.astype(np.float64))
    train(repeated, np.repeat(x, times, axis=0), np.repeat(y, times))
    np.testing.assert_allclose(weighted.predict(x), repeated.predict(x), atol=1e-5)


def test_a_class_that_never_occurs_has_a_column(make):
    x, y = events(300)
    model = make("XGBClassifier(n_estimators=20)", classes=4)
    train(model, x, 2 * y)
    scores = model.predict(x)
    assert scores.shape == (300, 4) and scores[:, [1, 3]].max() < 0.1
    assert np.mean(scores.argmax(axis=1) == 2 * y) > 0.9


@pytest.mark.parametrize(
    ("objective", "classes", "taken"),
    [("'binary:logitraw'", 2, "binary:logistic"), ("'reg:logistic'", 2, "binary:logistic"),
     ("'multi:softmax'", 2, "multi:softprob"), ("'binary:hinge'", 2, "binary:hinge"),
     ("None", 3, "multi:softprob"), ("'multi:softmax'", 3, "multi:softprob")],
)  # fmt: skip
def test_objectives_that_can_give_scores(make, objective, classes, taken):
    x, y = events(600, classes)
    model = make(f"XGBClassifier(n_estimators=20, objective={objective})", classes=classes)
    told = train(model, x, y)
    assert f"objective={taken}" in model.describe()
    scores = model.predict(x)
    assert scores.shape == ((600,) if classes == 2 else (600, 3))
    assert 0 <= scores.min() <= scores.max() <= 1
    assert np.mean((scores > 0.5 if classes == 2 else scores.argmax(axis=1)) == y) > 0.9
    if "hinge" not in taken:  # of certain scores XGBoost takes another smallest probability
        assert told[-1]["loss"] == pytest.approx(model.evaluate(x, y)["loss"], rel=1e-3)


@pytest.mark.parametrize("objective", ["reg:absoluteerror", "reg:gamma", "count:poisson"])
def test_objectives_of_regressions(make, objective):
    x, y = linear(800, offset=10.0)
    model = make(f"XGBRegressor(n_estimators=60, objective='{objective}')", task="regression", classes=0)
    told = train(model, x, y)
    assert told[-1]["loss"] == pytest.approx(model.evaluate(x, y)["loss"], rel=1e-4)
    assert told[-1]["loss"] < 0.3 * np.var(y)


def test_metrics_of_the_user_are_told(make):
    x, y = events(300)
    told = train(make("XGBClassifier(n_estimators=5, eval_metric=['auc', 'error@0.4'])"), x, y)
    assert set(told[-1]) == {"stage", "stages", "loss", "auc", "error@0.4"}
    assert told[-1]["auc"] > 0.9 > told[-1]["error@0.4"]
    assert "logloss" in train(make("XGBClassifier(n_estimators=5, eval_metric='logloss')"), x, y)[0]


@pytest.mark.parametrize(
    ("expression", "task", "message"),
    [
        ("XGBClassifier", "classification", r"returns the class XGBClassifier, not an estimator"),
        (
            "{'max_depth': 3}",
            "classification",
            r"a dict, which does not say .*XGBClassifier\(n_estimators",
        ),
        ("xgboost.Booster()", "regression", r"a Booster, which does not say .*XGBRegressor\(n_estimators"),
        (
            "__import__('sklearn.svm').svm.SVC()",
            "classification",
            "a SVC of scikit-learn, but the file",
        ),
        ("3", "classification", "returns a int, no estimator of XGBoost"),
        ("XGBRegressor()", "classification", "an XGBRegressor: for a classification return an XGBClassifier"),
        ("XGBClassifier()", "regression", "an XGBClassifier: for a regression return an XGBRegressor"),
        ("XGBRanker()", "classification", "an XGBRanker: for a classification return an XGBClassifier"),
        ("XGBClassifier(booster='gblinear')", "classification", "gblinear makes no trees"),
        ("XGBClassifier(objective='rank:map')", "classification", "rank:map gives no score for 2 classes"),
        ("XGBRegressor(objective='binary:hinge')", "regression", "binary:hinge is none for a regression"),
        ("XGBClassifier(objective=lambda y, p: (p, p))", "classification", "the objective is a function"),
    ],
)
def test_what_cannot_be_trained_is_refused(make, expression, task, message):
    with pytest.raises(ModelFault, match=rf"model\.py: .*{message}"):
        make(expression, task=task)


def test_faults_of_the_model_and_the_data(make):
    x, y = events(90)
    with pytest.raises(ModelFault, match=r"model\.py: the model fails .*XGBoostError: .*max_depth"):
        train(make("XGBClassifier(max_depth=-3)"), x, y)
    weights = np.where(np.arange(90) < 40, -1.0, 1.0)
    with pytest.raises(ModelFault, match="30 of 30 events have a negative weight, which XGB"):
        train(make("XGBClassifier()"), x, y, weights)
    with pytest.raises(DataFault, match="91 training events were counted before, now there are 90"):
        list(make("XGBClassifier()").fit_whole(portions(x, y), 91))
    with pytest.raises(ModelFault, match="there are no trees yet to predict with"):
        make("XGBClassifier()").predict(x)
    model = make("XGBClassifier(n_estimators=1)")
    train(model, x, y)
    with pytest.raises(ModelFault, match=r"made for 6 columns, given events of shape \(90, 5\)"):
        model.predict(x[:, :5])


@pytest.mark.parametrize("method", ["hist", "approx"])
def test_a_fault_of_what_is_read_stays_what_it_is(make, method):
    x, y = events(90)

    def breaks():
        yield Portion(x, y, None)
        raise InputUnreadable("chunk-00001.zip: is damaged")

    with pytest.raises(InputUnreadable, match=r"^chunk-00001\.zip: is damaged$"):
        list(make(f"XGBClassifier(tree_method='{method}')").fit_whole(breaks, 180))


def test_want_of_memory_and_of_disk(make, monkeypatch, tmp_path):
    x, y = events(50)
    model = make("XGBClassifier(n_estimators=1)")
    train(model, x, y)

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(StorageFull):
        model.checkpoint(tmp_path / "checkpoint")

    def starve(*_, **__):
        raise xgboost.core.XGBoostError("std::bad_alloc")

    monkeypatch.setattr(xgboost.Booster, "inplace_predict", starve)
    with pytest.raises(OutOfMemory, match="no memory left for 50 events of 6 columns"):
        model.predict(x)


@pytest.mark.parametrize(
    "other", ["XGBClassifier(n_estimators=4)", "XGBClassifier(n_estimators=5, max_depth=2)"]
)
def test_the_checkpoint_of_another_model_is_refused(make, tmp_path, other):
    model = make(other)
    train(model, *events(50))
    model.checkpoint(tmp_path / "checkpoint")
    with pytest.raises(ModelFault, match=r"checkpoint of another model than model\.py: that is .*rounds"):
        make("XGBClassifier(n_estimators=5)").restore(tmp_path / "checkpoint")


def test_a_checkpoint_before_there_are_trees(make, tmp_path):
    make("XGBClassifier(n_estimators=5)").checkpoint(tmp_path / "checkpoint")
    model = make("XGBClassifier(n_estimators=5)", threads=2)  # that may be another number on another machine
    model.restore(tmp_path / "checkpoint")
    assert len(train(model, *events(50))) == 5


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize(
    "expression",
    [KINDS[1], KINDS[4], "XGBClassifier(n_estimators=5, objective='multi:softmax')",
     "XGBClassifier(n_estimators=5, missing=0.0)"],
)  # fmt: skip
def test_what_is_saved_predicts_the_same(make, tmp_path, expression, classes):
    x, y = events(300, classes)
    x[::3, 0] = 0
    model = make(expression, classes=classes)
    train(model, x, y)
    assert model.save(tmp_path / "model") == "model.ubj"
    again = adapter.XGBoostModel.load(tmp_path / "model")
    assert np.array_equal(again.predict(x), model.predict(x))
    assert again.describe().startswith(f"Booster, {model._booster.num_boosted_rounds()} round(s)")


def test_what_is_saved_is_for_xgboost_itself_too(make, tmp_path):
    x, y = events(300)
    model = make("XGBClassifier(n_estimators=5)")
    train(model, x, y)
    model.save(tmp_path)
    plain = xgboost.XGBClassifier()
    plain.load_model(tmp_path / "model.ubj")
    assert np.array_equal(plain.predict_proba(x)[:, 1], model.predict(x))


def test_a_regression_is_loaded_as_one(make, tmp_path):
    x, y = linear(200)
    model = make("XGBRFRegressor(n_estimators=5)", task="regression", classes=0)
    train(model, x, y)
    model.save(tmp_path)
    again = adapter.XGBoostModel.load(tmp_path, task="regression")
    assert np.array_equal(again.predict(x), model.predict(x))


@pytest.mark.parametrize("content", [None, b"{}", b"no model"])
def test_what_is_no_model_is_refused(tmp_path, content):
    if content is not None:
        (tmp_path / "model.ubj").write_bytes(content)
    with pytest.raises(ModelFault, match="holds no XGBoost model that can be loaded"):
        adapter.XGBoostModel.load(tmp_path)


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("expression", ONNX)
def test_onnx_predicts_the_same(make, tmp_path, expression, classes):
    x, y = events(500, classes)
    model = make(expression, classes=classes)
    train(model, x, y)
    found = onnx_scores_of(model, tmp_path, x)
    assert found.shape == (500, 1 if classes == 2 else classes)
    np.testing.assert_allclose(found, model.predict(x).reshape(500, -1), atol=1e-5)


@pytest.mark.parametrize("expression", ["XGBRegressor(n_estimators=20)", "XGBRFRegressor(n_estimators=5)",
                                        "XGBRegressor(n_estimators=20, objective='reg:gamma')"])  # fmt: skip
def test_onnx_of_a_regression_predicts_the_same(make, tmp_path, expression):
    x, y = linear(500, offset=10.0)
    model = make(expression, task="regression", classes=0)
    train(model, x, y)
    found = onnx_scores_of(model, tmp_path, x)
    assert found.shape == (500, 1)
    np.testing.assert_allclose(found[:, 0], model.predict(x), rtol=1e-5)


def test_what_cannot_be_onnx_says_why(make, tmp_path, monkeypatch):
    x, y = events(100)
    for expression, why in (
        (KINDS[4], "onnxmltools cannot convert"),
        ("XGBClassifier(missing=0.0)", "missing=0 is"),
    ):
        model = make(expression)
        train(model, x, y)
        with pytest.raises(NoOnnx, match=why):
            model.export_onnx(tmp_path / "model.onnx")
    monkeypatch.setitem(sys.modules, "onnxmltools", None)
    plain = make("XGBClassifier(n_estimators=1)")
    train(plain, x, y)
    with pytest.raises(NoOnnx, match=r"pip install 'mlaas-condor\[xgboost\]'"):
        plain.export_onnx(tmp_path / "model.onnx")


def test_what_is_the_business_of_the_loop_is_left_out(make, caplog):
    with caplog.at_level(logging.INFO):
        model = make("XGBClassifier(n_estimators=3, early_stopping_rounds=1, device='cuda')")
        make("XGBClassifier()", gpus=1)
    assert "early_stopping_rounds=1 is left out: early_stop in params.json does that" in caplog.text
    assert "device=cuda: the job asked for no GPU" in caplog.text
    assert len(train(model, *events(50))) == 3
    if not xgboost.build_info()["USE_CUDA"]:
        assert "XGBoost is installed here without CUDA" in caplog.text


def test_it_says_what_it_is(make):
    told = make("XGBClassifier(max_depth=4, n_jobs=-1)", threads=2).describe()
    assert told.startswith("XGBClassifier, 100 round(s)\nmax_depth=4, objective=binary:logistic, seed=3, ")
    assert told.endswith(f"XGBoost {xgboost.__version__}, CPU, 2 thread(s)")
    assert make("XGBClassifier(n_jobs=1, random_state=7)", threads=2).describe().endswith("1 thread(s)")


def test_what_is_not_installed_says_how_to_install_it(make, monkeypatch):
    monkeypatch.setitem(sys.modules, "xgboost", None)
    with pytest.raises(FrameworkMissing, match=r"pip install 'mlaas-condor\[xgboost\]'"):
        make("XGBClassifier()")
