import numpy as np
import pytest
from sklearn.inspection import permutation_importance
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.metrics import roc_auc_score

from mlaas_condor.data.features import Columns, Scale
from mlaas_condor.training import importance, metrics

PLAIN = Scale(0.0, 1.0, "float32", 0.0)


def columns_of(lengths):
    """Return the layout of branches of these lengths; those of length 1 are flat."""
    names, first = [], {}
    for name, length in lengths.items():
        first[name] = len(names)
        names += [name] if length == 1 else [f"{name}_{i}" for i in range(length)]
    return Columns(tuple(names), first, dict(lengths), dict.fromkeys(lengths, PLAIN))


@pytest.fixture(scope="module")
def data():
    generator = np.random.default_rng(1)
    x = generator.normal(0, 1, (3000, 4)).astype(np.float32)
    y = (2 * x[:, 0] + x[:, 2] + generator.normal(0, 1, 3000) > 0).astype(int)
    return x, y


def test_it_is_that_of_scikit_learn_for_flat_branches(data):
    x, y = data
    model = LogisticRegression().fit(x, y)
    found = importance.permutation(
        lambda given: model.predict_proba(given)[:, 1], x, y, columns_of(dict.fromkeys("abcd", 1)), seed=3
    )
    theirs = permutation_importance(
        model, x, y, n_repeats=10, random_state=0,
        scoring=lambda fitted, given, truth: roc_auc_score(truth, fitted.predict_proba(given)[:, 1]),
    )  # fmt: skip
    assert [each["branch"] for each in found[:2]] == ["a", "c"]
    for each in found:
        assert each["importance"] == pytest.approx(
            theirs.importances_mean["abcd".index(each["branch"])], abs=0.01
        )
        assert 0 <= each["deviation"] < 0.02


def test_columns_of_a_branch_move_together_and_come_back(data):
    x = np.column_stack([data[0], data[0] * 10])
    kept = x.copy()
    columns = columns_of({"flat": 1, "pairs": 3, "more": 4})
    blocks = {"flat": slice(0, 1), "pairs": slice(1, 4), "more": slice(4, 8)}
    seen = []

    def predict(given):
        moved = [name for name, own in blocks.items() if not np.array_equal(given[:, own], x[:, own])]
        for name in moved:
            rows = {tuple(row) for row in x[:, blocks[name]].tolist()}
            assert {tuple(row) for row in given[:, blocks[name]].tolist()} == rows
        seen.append(moved)
        return given[:, 0] + given[:, 2]

    importance.permutation(predict, x, data[1], columns)
    assert seen == [[], *[["flat"]] * 3, *[["pairs"]] * 3, *[["more"]] * 3]
    np.testing.assert_array_equal(x, kept)


def test_regression_is_the_rise_of_the_rmse_also_with_weights(data):
    x, _ = data
    target = 3 * x[:, 1].astype(float)
    model = LinearRegression().fit(x, target)
    found = importance.permutation(
        model.predict, x, target, columns_of(dict.fromkeys("abcd", 1)), np.ones(3000), "regression"
    )
    assert found[0]["branch"] == "b"
    # Two independent values of standard deviation 3 differ by one of 3 * sqrt(2).
    assert found[0]["importance"] == pytest.approx(3 * np.sqrt(2), rel=0.05)
    assert [each["importance"] for each in found[1:]] == pytest.approx([0, 0, 0], abs=1e-6)


def test_weights_decide_which_events_count(data):
    x, _ = data
    y = np.where(np.arange(3000) < 1500, x[:, 0] > 0, x[:, 1] > 0).astype(int)
    first = (np.arange(3000) < 1500).astype(float)
    found = importance.permutation(
        lambda given: given[:, 0] + 1e-3 * given[:, 1], x, y, columns_of(dict.fromkeys("abcd", 1)), first
    )
    assert found[0]["importance"] == pytest.approx(0.5, abs=0.03)
    assert found[0]["branch"] == "a"


def test_several_classes(data):
    x, _ = data
    y = np.digitize(x[:, 3], [-0.5, 0.5])
    model = LogisticRegression().fit(x, y)
    found = importance.permutation(model.predict_proba, x, y, columns_of(dict.fromkeys("abcd", 1)))
    assert found[0]["branch"] == "d"
    assert found[0]["importance"] > 0.2 > 0.01 > abs(found[1]["importance"])


def test_the_same_seed_gives_the_same(data):
    x, y = data
    made = [
        importance.permutation(
            lambda given: given[:, 0], x, y, columns_of(dict.fromkeys("abcd", 1)), seed=seed
        )
        for seed in (5, 5, 6)
    ]
    assert made[0] == made[1] != made[2]


def test_a_constant_branch_costs_nothing(data):
    x, y = data
    calls = []

    def predict(given):
        calls.append(1)
        return given[:, 0]

    still = np.column_stack([x[:, :1], np.ones(3000, np.float32)])
    found = importance.permutation(predict, still, y, columns_of({"a": 1, "still": 1}))
    assert found[-1] == {"branch": "still", "importance": 0.0, "deviation": 0.0}
    assert len(calls) == 1 + 3


def test_many_branches_are_shuffled_once_and_on_fewer_events():
    generator = np.random.default_rng(2)
    x = generator.normal(0, 1, (20_000, 300)).astype(np.float32)
    y = (x[:, 7] > 0).astype(int)
    columns = columns_of({f"b{i}": 1 for i in range(300)})
    sizes = []

    def predict(given):
        sizes.append(len(given))
        return given[:, 7]

    found = importance.permutation(predict, x, y, columns)
    assert set(sizes) == {2000} == {importance.events_used(columns)}
    assert len(sizes) == 301
    assert (found[0]["branch"], found[0]["deviation"]) == ("b7", None)
    assert importance.events_used(columns_of({"a": 1})) == importance.MOST_EVENTS
    assert importance.events_used(columns_of({"a": 10_000})) == 2**26 // 40_000


def test_events_of_one_class_or_none_have_no_importance(data):
    x, _ = data
    columns = columns_of(dict.fromkeys("abcd", 1))
    assert importance.permutation(lambda given: given[:, 0], x, np.zeros(3000, int), columns) == []
    assert importance.permutation(lambda given: given[:, 0], x[:0], np.zeros(0, int), columns) == []


@pytest.mark.parametrize("weighted", [False, True])
def test_gathering_draws_test_events_of_all_chunks(weighted):
    generator = np.random.default_rng(3)
    columns = columns_of({"a": 1, "list": 3})
    parts = []
    for chunk in range(5):
        x = np.full((9000, 4), chunk, np.float32)
        x[:, 0] = np.arange(9000)
        rows = np.sort(generator.choice(9000, 4000, replace=False))
        parts.append((x, np.isin(np.arange(9000), rows), x[:, 0] * 2 if weighted else None, rows))
    x, y, w = importance.gather(iter(parts), 20_000, columns, seed=1)
    assert len(x) == len(y) == importance.MOST_EVENTS
    assert y.all(), "only rows that may be drawn"
    assert len(np.unique(x[:, :2], axis=0)) == len(x), "each once"
    assert np.bincount(x[:, 1].astype(int)) == pytest.approx(np.full(5, 2000), abs=200)
    assert (w is None) if not weighted else (w == 2 * x[:, 0]).all()
    few = importance.gather(iter(parts), 20_000, columns_of({f"b{i}": 1 for i in range(100)}), seed=1)
    assert len(few[0]) == 6000


def test_all_are_gathered_where_there_are_few():
    x = np.arange(20, dtype=np.float32).reshape(10, 2)
    parts = [(x, x[:, 0], None, np.array([1, 3])), (x, x[:, 0], None, np.array([], int))]
    gathered, y, w = importance.gather(parts, 2, columns_of({"a": 1, "b": 1}), seed=0)
    assert gathered.tolist() == [[2, 3], [6, 7]]
    assert (y.tolist(), w) == ([2, 6], None)


def test_the_drop_is_from_the_auc_of_the_metrics(data):
    x, y = data
    columns = columns_of(dict.fromkeys("abcd", 1))
    (first, *_) = importance.permutation(lambda given: given[:, 0], x, y, columns)
    whole = metrics.classification(y, x[:, 0])["auc"]
    assert first["importance"] == pytest.approx(whole - 0.5, abs=0.03), "shuffled, it guesses"
