"""The scikit-learn adapter on real estimators, each made by a model file as a user writes it."""

import json
import logging
import sys

import numpy as np
import pytest
import sklearn.metrics
import threadpoolctl
from estimator_tools import COLUMNS, event_weights, events, linear, onnx_scores_of, portions, train

from mlaas_condor.errors import DataFault, FrameworkMissing, ModelFault, OutOfMemory, StorageFull
from mlaas_condor.training import frameworks, models, whole
from mlaas_condor.training.frameworks import NoOnnx, Setup
from mlaas_condor.training.sklearn import adapter, stages

# onnx and skl2onnx use names of their own that are on their way out.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning:skl2onnx"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:onnx"),
    pytest.mark.filterwarnings("ignore:Attribute `prob:FutureWarning"),
]


@pytest.fixture(autouse=True)
def one_thread():
    """More of them only wait for one another where events are few."""
    with threadpoolctl.threadpool_limits(1):
        yield


FILE = """
import numpy as np
from sklearn.calibration import *
from sklearn.discriminant_analysis import *
from sklearn.ensemble import *
from sklearn.linear_model import *
from sklearn.model_selection import GridSearchCV
from sklearn.naive_bayes import *
from sklearn.neighbors import *
from sklearn.neural_network import *
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import *
from sklearn.svm import *
from sklearn.tree import *

def model():
    return {}
"""

MLP = "MLPClassifier((16,), learning_rate_init=0.01)"
WITH_PROBABILITIES = [
    "RandomForestClassifier(20)",
    "ExtraTreesClassifier(20)",
    "GradientBoostingClassifier(n_estimators=20)",
    "HistGradientBoostingClassifier(max_iter=20)",
    "AdaBoostClassifier(n_estimators=20)",
    "BaggingClassifier(n_estimators=5)",
    "DecisionTreeClassifier(max_depth=6)",
    "KNeighborsClassifier()",
    "LogisticRegression()",
    "SGDClassifier(loss='log_loss')",
    "GaussianNB()",
    MLP,
    "CalibratedClassifierCV(LinearSVC())",
    "StackingClassifier([('a', GaussianNB()), ('b', DecisionTreeClassifier(max_depth=4))])",
    "make_pipeline(StandardScaler(), MLPClassifier((4,), solver='lbfgs', max_iter=1000, tol=0.1))",
    "make_pipeline(MinMaxScaler(), HistGradientBoostingClassifier(max_iter=20))",
    "make_pipeline(StandardScaler(), PolynomialFeatures(), LogisticRegression())",
    "GridSearchCV(DecisionTreeClassifier(), {'max_depth': [3, 5]})",
]
WITH_DECISIONS = [
    "SVC()",
    "LinearSVC()",
    "SGDClassifier()",
    "RidgeClassifier()",
    "make_pipeline(StandardScaler(), SVC())",
    "make_pipeline(StandardScaler(), LinearSVC())",
]
REGRESSORS = [
    "RandomForestRegressor(20)",
    "GradientBoostingRegressor(n_estimators=50)",
    "HistGradientBoostingRegressor(max_iter=50)",
    "AdaBoostRegressor(n_estimators=20)",
    "DecisionTreeRegressor()",
    "KNeighborsRegressor()",
    "SVR(C=10)",
    "LinearSVR()",
    "LinearRegression()",
    "SGDRegressor()",
    "MLPRegressor(hidden_layer_sizes=(16,), learning_rate_init=0.01)",
    "make_pipeline(StandardScaler(), LinearRegression())",
]
STAGED = [
    "RandomForestClassifier(12, class_weight='balanced')",
    "ExtraTreesClassifier(12, bootstrap=True)",
    "BaggingClassifier(n_estimators=12, max_samples=0.7)",
    "GradientBoostingClassifier(n_estimators=12)",
    "GradientBoostingClassifier(n_estimators=12, subsample=0.5, max_features=2)",
    "HistGradientBoostingClassifier(max_iter=25, max_features=0.5, max_bins=20)",
    "make_pipeline(StandardScaler(), RandomForestClassifier(12))",
]


@pytest.fixture
def make(tmp_path):
    def make_adapter(expression, **setup):
        path = tmp_path / "model.py"
        path.write_text(FILE.format(expression))
        return frameworks.open_adapter(models.check(path), Setup(COLUMNS, 3, **setup))

    return make_adapter


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("expression", [*WITH_PROBABILITIES, *WITH_DECISIONS])
def test_a_classifier_learns(make, expression, classes):
    x, y = events(1500, classes)
    model = make(expression, classes=classes)
    told = train(model, x, y)
    fresh, truth = events(900, classes, seed=9)
    scores = model.predict(fresh)
    assert scores.shape == ((900,) if classes == 2 else (900, classes))
    assert scores.dtype == np.float32 and 0 <= scores.min() <= scores.max() <= 1
    taken = scores >= 0.5 if classes == 2 else scores.argmax(axis=1)
    # One line a class cannot tell the class in the middle.
    by_lines = classes == 3 and expression in [*WITH_DECISIONS, "SGDClassifier(loss='log_loss')"]
    assert np.mean(taken == truth) > (0.5 if by_lines else 0.75)
    assert told[-1]["loss"] == pytest.approx(model.evaluate(x, y)["loss"])
    assert model.predict(fresh[:0]).shape == scores[:0].shape
    np.testing.assert_allclose(model.predict(fresh[:1]), scores[:1], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("expression", REGRESSORS)
def test_a_regressor_learns(make, expression):
    x, y = linear(1500)
    model = make(expression, task="regression", classes=0)
    train(model, x, y)
    fresh, truth = linear(900, seed=9)
    found = model.predict(fresh)
    assert (found.shape, found.dtype) == ((900,), np.float32)
    assert np.mean((found - truth) ** 2) < 0.35 * np.var(truth)
    assert model.evaluate(fresh, truth)["loss"] == pytest.approx(np.mean((found - truth) ** 2), rel=1e-5)


@pytest.mark.parametrize("classes", [2, 3])
def test_the_loss_is_the_weighted_log_loss_by_the_number_of_events(make, classes):
    x, y = events(500, classes)
    weights = event_weights(500)
    model = make("GaussianNB()", classes=classes)
    model.fit(x, y, 100)
    scores = model.predict(x).astype(np.float64)
    scores = scores if classes == 2 else scores / scores.sum(axis=1, keepdims=True)
    expected = sklearn.metrics.log_loss(y, scores, sample_weight=weights)
    assert model.evaluate(x, y, weights)["loss"] == pytest.approx(expected * weights.mean(), rel=1e-4)
    certain = whole.mean_loss(np.array([1, 0]), np.array([0.0, 0.0], np.float32), None, "classification")
    assert certain == pytest.approx(-np.log(whole.SMALLEST) / 2)


def test_a_pass_is_one_partial_fit_in_the_order_of_the_seed(make):
    x, y = events(400)
    weights = event_weights(400)
    ours, theirs = make("SGDClassifier(loss='log_loss')"), make("SGDClassifier(loss='log_loss')")
    for seed in (5, 6):
        ours.fit(x, y, 100, seed, weights)
        order = np.random.default_rng(seed).permutation(400)
        theirs._estimator.partial_fit(x[order], y[order], classes=[0, 1], sample_weight=weights[order])
    assert np.array_equal(ours.predict(x), theirs.predict(x))


@pytest.mark.parametrize("expression", ["MLPClassifier((8,))", "SGDClassifier()", "GaussianNB()"])
def test_passes_go_on_from_a_checkpoint_to_the_last_bit(make, expression, tmp_path):
    x, y = events(300)
    through, first, second = (make(expression) for _ in range(3))
    train(through, x, y, passes=4)
    train(first, x, y, passes=2)
    first.checkpoint(tmp_path / "checkpoint")
    second.restore(tmp_path / "checkpoint")
    for seed in (2, 3):
        second.fit(x, y, 100, seed)
    assert np.array_equal(through.predict(x), second.predict(x))
    assert not np.array_equal(first.predict(x), second.predict(x))


def test_a_portion_without_one_of_the_classes(make):
    x, y = events(600, 3)
    model = make(MLP, classes=3)
    model.fit(x[y < 2], y[y < 2], 100)
    assert model.predict(x).shape == (600, 3)


@pytest.mark.parametrize("expression", STAGED)
@pytest.mark.parametrize("weighted", [False, True])
def test_stages_end_as_one_fit_does(make, monkeypatch, expression, weighted):
    monkeypatch.setattr(stages, "SLOWLY_BINNED", 100)
    monkeypatch.setattr(stages, "LEAST_ROUNDS", 1)
    x, y = events(700, 3)
    weights = event_weights(700) if weighted else None
    staged, at_once = make(expression, classes=3), make(expression, classes=3)
    told = train(staged, x, y, weights)
    assert [each["stage"] for each in told] == list(range(1, told[0]["stages"] + 1))
    assert 5 <= len(told) <= stages.STAGES
    at_once._estimator.fit(x, y, **at_once._weight_argument("fit", weights))
    assert np.array_equal(staged.predict(x), at_once.predict(x))


@pytest.mark.parametrize("expression", [*STAGED, "HistGradientBoostingClassifier(early_stopping=True)"])
def test_stages_go_on_from_a_checkpoint_to_the_last_bit(make, monkeypatch, expression, tmp_path):
    monkeypatch.setattr(stages, "LEAST_ROUNDS", 1)
    x, y = events(700)
    through, first, second = (make(expression) for _ in range(3))
    told = train(through, x, y)
    begun = first.fit_whole(portions(x, y), len(x))
    before = [next(begun), next(begun)]
    first.checkpoint(tmp_path / "checkpoint")
    begun.close()
    second.restore(tmp_path / "checkpoint")
    after = train(second, x, y)
    assert before + after == told
    assert np.array_equal(through.predict(x), second.predict(x))
    second.checkpoint(tmp_path / "end")
    first.restore(tmp_path / "end")
    assert train(first, x, y) == []


@pytest.mark.parametrize("rounds", [10, 100])
@pytest.mark.parametrize("settings", ["early_stopping=True", "early_stopping=True, validation_fraction=None",
                                      "early_stopping=True, scoring='roc_auc'"])  # fmt: skip
def test_early_stopping_is_that_of_one_fit(make, monkeypatch, rounds, settings):
    """With 10 rounds each of them is a stage, so that it stops where a stage ends."""
    monkeypatch.setattr(stages, "LEAST_ROUNDS", 1)
    x, y = events(500)
    expression = (
        f"HistGradientBoostingClassifier(max_iter={rounds}, learning_rate=0.9, n_iter_no_change=3, tol=0.02, "
        f"{settings})"
    )
    staged, at_once = make(expression), make(expression)
    told = train(staged, x, y)
    at_once._estimator.fit(x, y)
    assert staged._estimator.n_iter_ == at_once._estimator.n_iter_ < rounds
    assert np.array_equal(staged.predict(x), at_once.predict(x))
    assert told[-1]["stage"] == told[-1]["stages"] == len(told)


@pytest.mark.parametrize(
    "expression",
    ["GradientBoostingClassifier(n_estimators=12, n_iter_no_change=2)",
     "RandomForestClassifier(30, oob_score=True)", "AdaBoostClassifier(n_estimators=12)", "SVC()",
     "MLPClassifier((4,), early_stopping=True, max_iter=500, learning_rate_init=0.1)",
     "SGDClassifier(class_weight='balanced')", "MLPClassifier((4,), solver='lbfgs', max_iter=1000, tol=0.1)"],
)  # fmt: skip
def test_what_cannot_be_fitted_in_parts_is_fitted_at_once(make, expression):
    x, y = events(500)
    ours, theirs = make(expression), make(expression)
    told = train(ours, x, y)
    assert [(each["stage"], each["stages"]) for each in told] == [(1, 1)]
    theirs._estimator.fit(x, y)
    assert np.array_equal(ours.predict(x), theirs.predict(x))


@pytest.mark.parametrize(("rounds", "weighted", "stages"), [(40, False, 1), (100, False, 2), (100, True, 1)])
def test_events_are_not_binned_over_and_over(make, rounds, weighted, stages):
    """scikit-learn bins them in every stage, and takes long for that where they have weights."""
    x, y = events(300)
    weights = event_weights(300) if weighted else None
    model = make(f"HistGradientBoostingClassifier(max_iter={rounds}, max_leaf_nodes=3)")
    told = train(model, x, y, weights)
    assert [(each["stage"], each["stages"]) for each in told] == [(n + 1, stages) for n in range(stages)]


def test_the_user_finds_his_parameters_again(make, tmp_path):
    model = make("RandomForestClassifier(20, random_state=8)")
    train(model, *events(200))
    model.save(tmp_path / "model")
    estimator = adapter.SklearnModel.load(tmp_path / "model")._estimator
    parameters = estimator.get_params()
    names = ("random_state", "n_estimators", "warm_start")
    assert [parameters[name] for name in names] == [8, 20, False]


def test_seeds_and_threads_are_set_where_they_are_open(make):
    tree = "make_pipeline(StandardScaler(), DecisionTreeClassifier(random_state=1))"
    expression = f"VotingClassifier([('a', RandomForestClassifier(5)), ('b', {tree})], voting='soft')"
    parameters = make(expression, threads=2)._estimator.get_params()
    assert (parameters["a__random_state"], parameters["b__decisiontreeclassifier__random_state"]) == (3, 1)
    assert (parameters["n_jobs"], parameters["a__n_jobs"]) == (2, 1)
    forest = make("RandomForestClassifier(5, n_jobs=-1)", threads=2)._estimator
    assert forest.n_jobs == 2
    assert make("RandomForestClassifier(5, n_jobs=3)", threads=2)._estimator.n_jobs == 3


@pytest.mark.parametrize("expression", ["RandomForestClassifier(10)", MLP])
def test_the_seed_decides(make, tmp_path, expression):
    x, y = events(300)
    path = tmp_path / "seeded.py"
    path.write_text(FILE.format(expression))
    found = []
    for seed in (1, 1, 2):
        model = frameworks.open_adapter(models.check(path), Setup(COLUMNS, seed))
        train(model, x, y, passes=2)
        found.append(model.predict(x))
    assert np.array_equal(found[0], found[1]) and not np.array_equal(found[0], found[2])


@pytest.mark.parametrize(
    "expression",
    ["DecisionTreeClassifier(max_depth=4)",
     "make_pipeline(MinMaxScaler(), DecisionTreeClassifier(max_depth=4))", "GaussianNB()"],
)  # fmt: skip
def test_weight_two_is_the_event_twice_and_weight_zero_none(make, expression):
    x, y = events(300)
    times = np.random.default_rng(4).integers(0, 3, 300)
    weighted, repeated = make(expression), make(expression)
    train(weighted, x, y, times.astype(np.float64), passes=1)
    train(repeated, np.repeat(x, times, axis=0), np.repeat(y, times), passes=1)
    np.testing.assert_allclose(weighted.predict(x), repeated.predict(x), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    "expression",
    ["KNeighborsClassifier()", "make_pipeline(StandardScaler(), KNeighborsClassifier())",
     "LinearDiscriminantAnalysis()"],
)  # fmt: skip
def test_weights_that_nobody_takes_are_refused(make, expression):
    x, y = events(60)
    with pytest.raises(ModelFault, match=r"model\.py: the events have weights, and a \w+ takes none"):
        train(make(expression), x, y, event_weights(60))


def test_a_class_that_never_occurs_has_a_column_of_zeros(make, tmp_path):
    x, y = events(300)
    for expression in ("RandomForestClassifier(5)", "SVC()"):
        model = make(expression, classes=4)
        train(model, x, 2 * y)
        scores = model.predict(x)
        assert scores.shape == (300, 4) and not scores[:, [1, 3]].any()
        assert np.mean(scores.argmax(axis=1) == 2 * y) > 0.9
        assert np.isfinite(model.evaluate(x, 2 * y)["loss"])
        np.testing.assert_allclose(onnx_scores_of(model, tmp_path, x), scores, atol=1e-5)


def test_a_file_that_wants_the_columns_and_arguments(tmp_path):
    path = tmp_path / "model.py"
    path.write_text(
        "from sklearn.tree import DecisionTreeClassifier\n"
        "def model(idim, depth=1):\n    return DecisionTreeClassifier(max_depth=depth, max_features=idim)\n"
    )
    model = frameworks.open_adapter(models.check(path), Setup(COLUMNS, 1, arguments={"depth": 4}))
    assert (model._estimator.max_depth, model._estimator.max_features) == (4, COLUMNS)


@pytest.mark.parametrize(
    ("expression", "task", "message"),
    [
        ("SVC", "classification", r"returns the class SVC, not an estimator: write SVC\(\)"),
        ("{'max_depth': 3}", "classification", "returns a dict, no scikit-learn estimator"),
        ("SVR()", "classification", 'SVR, which is a regressor: for a classification .* set "task"'),
        ("SVC()", "regression", "SVC, which is a classifier: for a regression return a regressor"),
        (
            "StandardScaler()",
            "classification",
            "which is neither classifier nor regressor: for",
        ),
        ("Perceptron", "regression", "write Perceptron"),
        ("make_pipeline(FunctionTransformer(lambda x: x), SVC())", "classification", "in place of a lambda"),
        ("VotingClassifier([('a', SVC())])", "classification", "neither predict_proba nor decision_function"),
    ],
)
def test_what_is_no_estimator_for_the_task_is_refused(make, expression, task, message):
    with pytest.raises(ModelFault, match=rf"model\.py: .*{message}"):
        make(expression, task=task)


def test_faults_of_the_model_and_the_data(make):
    x, y = events(90, 3)
    with pytest.raises(ModelFault, match=r"made for 6 columns, given events of shape \(90, 5\)"):
        make("GaussianNB()").fit(x[:, :5], y, 10)
    with pytest.raises(ModelFault, match=r"made for 6 columns, given events of shape \(30, 5\)"):
        train(make("SVC()"), x[:, :5], y)
    with pytest.raises(ModelFault, match=r"model\.py: the model fails on 90 events .*InvalidParameterError"):
        train(make("RandomForestClassifier(n_estimators='many')"), x, y)
    for events_told in (89, 91):
        with pytest.raises(
            DataFault, match=f"{events_told} training events were counted before, now there are 90"
        ):
            list(make("SVC()").fit_whole(portions(x, y), events_told))
    model = make("SVC(decision_function_shape='ovo')", classes=4)
    x, y = events(200, 4)
    with pytest.raises(ModelFault, match="leave decision_function_shape at 'ovr'"):
        train(model, x, y)


def test_events_that_do_not_fit_into_memory_say_so():
    with pytest.raises(OutOfMemory, match=r"do not fit into memory \(4000000000\.0 GB\)"):
        whole.gather([], 10**18, 1)


@pytest.mark.parametrize(
    ("other", "what"),
    [("RandomForestClassifier(20)", "rounds 20, not 12"),
     ("SVC()", "kind SVC, not RandomForestClassifier"),
     ("make_pipeline(StandardScaler(), RandomForestClassifier(12))", "kind Pipeline of ")],
)  # fmt: skip
def test_the_checkpoint_of_another_model_is_refused(make, tmp_path, other, what):
    model = make(other)
    train(model, *events(100))
    model.checkpoint(tmp_path / "checkpoint")
    with pytest.raises(ModelFault, match=rf"checkpoint of another model than model\.py: .*{what}"):
        make("RandomForestClassifier(12)").restore(tmp_path / "checkpoint")


@pytest.mark.parametrize("expression", [*WITH_PROBABILITIES, *WITH_DECISIONS])
def test_what_is_saved_predicts_the_same_and_runs_no_code(make, tmp_path, expression):
    x, y = events(200)
    model = make(expression)
    train(model, x, y, passes=2)
    assert model.save(tmp_path / "model") == "model.skops"
    again = adapter.SklearnModel.load(tmp_path / "model")
    assert np.array_equal(again.predict(x), model.predict(x))
    noted = json.loads((tmp_path / "model" / "versions.json").read_text())
    assert noted["scikit-learn"] == sklearn.__version__ and set(noted) > {"numpy", "skops", "python"}


def test_a_regression_is_loaded_as_one(make, tmp_path):
    x, y = linear(200)
    model = make("DecisionTreeRegressor()", task="regression", classes=0)
    train(model, x, y)
    model.save(tmp_path / "model")
    again = adapter.SklearnModel.load(tmp_path / "model", task="regression")
    assert np.array_equal(again.predict(x), model.predict(x))
    (tmp_path / "model" / "versions.json").unlink()
    with pytest.raises(ModelFault, match="holds no scikit-learn model that can be loaded"):
        adapter.SklearnModel.load(tmp_path / "model", task="regression")


OWN = """
from sklearn.naive_bayes import GaussianNB
class Mine(GaussianNB):
    def predict_proba(self, x):
        return super().predict_proba(x){extra}
def model():
    return Mine()
"""


def test_a_class_of_the_users_own_needs_his_file(tmp_path):
    path = tmp_path / "model.py"
    path.write_text(OWN.format(extra=""))
    file = models.check(path)
    model = frameworks.open_adapter(file, Setup(COLUMNS, 1))
    x, y = events(100)
    model.fit(x, y, 100)
    model.checkpoint(tmp_path / "checkpoint")
    frameworks.open_adapter(file, Setup(COLUMNS, 1)).restore(tmp_path / "checkpoint")
    model.save(tmp_path / "model")
    with pytest.raises(ModelFault, match=r"holds mlaas_condor_user_model\.Mine, .* give the model file too"):
        adapter.SklearnModel.load(tmp_path / "model")
    again = adapter.SklearnModel.load(tmp_path / "model", file)
    assert np.array_equal(again.predict(x), model.predict(x))


def test_what_skops_cannot_write_is_a_pickle_that_needs_trust(tmp_path):
    path = tmp_path / "own.py"
    path.write_text(
        "import re\nfrom sklearn.naive_bayes import GaussianNB\n"
        "class Mine(GaussianNB):\n"
        "    def fit(self, x, y):\n"
        "        self.pattern_ = re.compile('x')\n        return super().fit(x, y)\n"
        "    partial_fit = property()\n"
        "def model():\n    return Mine()\n"
    )
    file = models.check(path)
    model = frameworks.open_adapter(file, Setup(COLUMNS, 1))
    x, y = events(100)
    train(model, x, y)
    assert model.save(tmp_path / "model") == "model.joblib"
    assert not (tmp_path / "model" / "model.skops").exists()
    with pytest.raises(ModelFault, match="is a pickle, and loading it runs whatever code is in it"):
        adapter.SklearnModel.load(tmp_path / "model")
    again = adapter.SklearnModel.load(tmp_path / "model", file)
    assert np.array_equal(again.predict(x), model.predict(x))


def test_functions_of_numpy_that_run_code_are_not_trusted(make, tmp_path):
    """A model that calls numpy's `runstring` on what it is to predict would run that."""
    model = make("make_pipeline(FunctionTransformer(np.testing.runstring), GaussianNB())")
    model.save(tmp_path / "model")
    with pytest.raises(ModelFault, match=r"holds numpy.*runstring, which is not of scikit-learn"):
        adapter.SklearnModel.load(tmp_path / "model")


def test_what_is_no_model_is_refused(tmp_path):
    with pytest.raises(ModelFault, match="holds no scikit-learn model that can be loaded"):
        adapter.SklearnModel.load(tmp_path)
    (tmp_path / "versions.json").write_text("{}")
    (tmp_path / "model.skops").write_bytes(b"PK no archive")
    with pytest.raises(ModelFault, match="holds no scikit-learn model that can be loaded"):
        adapter.SklearnModel.load(tmp_path)


def test_another_version_is_noted(make, tmp_path, caplog):
    model = make("GaussianNB()")
    model.fit(*events(100), 100)
    model.save(tmp_path / "model")
    path = tmp_path / "model" / "versions.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "scikit-learn": "0.1"}))
    with caplog.at_level(logging.WARNING):
        adapter.SklearnModel.load(tmp_path / "model")
    assert f"was written with scikit-learn 0.1 (here {sklearn.__version__})" in caplog.text


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("expression", [*WITH_PROBABILITIES, *WITH_DECISIONS])
def test_onnx_predicts_the_same(make, tmp_path, expression, classes):
    x, y = events(500, classes)
    model = make(expression, classes=classes)
    train(model, x, y, passes=3)
    scores = model.predict(x).reshape(500, -1)
    found = onnx_scores_of(model, tmp_path, x)
    assert found.shape == (500, 1 if classes == 2 else classes)
    np.testing.assert_allclose(found, scores, atol=1e-4)


@pytest.mark.parametrize("expression", REGRESSORS)
def test_onnx_of_a_regression_predicts_the_same(make, tmp_path, expression):
    x, y = linear(500)
    model = make(expression, task="regression", classes=0)
    train(model, x, y, passes=3)
    found = onnx_scores_of(model, tmp_path, x)
    assert found.shape == (500, 1)
    np.testing.assert_allclose(found[:, 0], model.predict(x), rtol=1e-4, atol=1e-4)


def test_what_cannot_be_onnx_says_why(make, tmp_path, monkeypatch):
    x, y = events(100)
    model = make("make_pipeline(FunctionTransformer(np.log1p), GaussianNB())")
    train(model, x, y)
    with pytest.raises(NoOnnx, match="skl2onnx cannot convert a GaussianNB: "):
        model.export_onnx(tmp_path / "model.onnx")
    forest = make("RandomForestClassifier(5)")
    train(forest, x, y)
    monkeypatch.setattr("mlaas_condor.training.onnx_scores.NODES", 20)
    with pytest.raises(NoOnnx, match=r"the RandomForestClassifier has [\d,]+ nodes, more than the 20 that"):
        forest.export_onnx(tmp_path / "model.onnx")
    monkeypatch.setitem(sys.modules, "skl2onnx", None)
    with pytest.raises(NoOnnx, match=r"pip install 'mlaas-condor\[sklearn\]'"):
        forest.export_onnx(tmp_path / "model.onnx")
    assert not (tmp_path / "model.onnx").exists()


def test_a_full_disk_says_so(make, tmp_path, monkeypatch):
    model = make("SVC()")
    train(model, *events(50))

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("skops.io.dump", full)
    with pytest.raises(StorageFull):
        model.save(tmp_path / "model")
    monkeypatch.setattr("pickle.dump", full)
    with pytest.raises(StorageFull):
        model.checkpoint(tmp_path / "checkpoint")
    assert not (tmp_path / "checkpoint").exists()


def test_what_is_not_installed_says_how_to_install_it(make, monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(FrameworkMissing, match=r"pip install 'mlaas-condor\[sklearn\]'"):
        make("SVC()")


def test_it_says_what_it_is(make):
    network, machine = make("MLPClassifier((3,))", threads=2), make("LinearSVC(C=2)")
    assert "MLPClassifier(hidden_layer_sizes=(3,), random_state=3)" in network.describe()
    assert "its own max_iter counts for nothing" in network.describe() and "2 thread(s)" in network.describe()
    assert "all events at once, in at most 1 stage(s)" in machine.describe()
    assert "sigmoid (softmax) of its decision_function" in machine.describe()
    assert (network.learning_rate(), machine.learning, machine.own_loop) == (None, "whole", False)
