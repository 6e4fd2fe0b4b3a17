import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlaas_condor.errors import DataFault, ModelFault
from mlaas_condor.training import metrics

samples = st.lists(st.tuples(st.integers(0, 1), st.integers(0, 8)), min_size=1, max_size=40)


def both(sample):
    y, marks = np.array(sample).T
    return y, marks / 8


@given(samples)
def test_auc_is_the_share_of_pairs_in_the_right_order(sample):
    y, scores = both(sample)
    signal, background = scores[y == 1], scores[y == 0]
    found = metrics.classification(y, scores)["auc"]
    if not len(signal) or not len(background):
        assert found is None
        return
    above = (signal[:, None] > background).mean() + 0.5 * (signal[:, None] == background).mean()
    assert found == pytest.approx(above)


@given(samples, st.floats(0.05, 0.95))
def test_counts_add_up_and_everything_is_json(sample, threshold):
    y, scores = both(sample)
    found = metrics.classification(y, scores, threshold)
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert np.sum(found["confusion_matrix"]) == len(y) == found["events"]
    assert np.trace(found["confusion_matrix"]) / len(y) == pytest.approx(found["accuracy"])
    assert [sum(row) for row in found["confusion_matrix"]] == list(found["events_by_class"].values())
    assert found["confusion_matrix"][1][1] == np.count_nonzero((y == 1) & (scores >= threshold))
    assert found["report"]["1"]["support"] == np.count_nonzero(y == 1)


@given(samples)
def test_one_column_or_two_is_the_same(sample):
    y, scores = both(sample)
    assert metrics.classification(y, scores) == metrics.classification(
        y, np.column_stack([1 - scores, scores])
    )


@given(st.integers(0, 2**32 - 1), st.integers(2, 3000))
def test_thinned_roc_keeps_its_ends_its_order_and_its_area(seed, events):
    generator = np.random.default_rng(seed)
    y = generator.integers(0, 2, events)
    y[:2] = 0, 1
    scores = generator.normal(y * generator.uniform(-1, 3), 1)
    found = metrics.classification(y, 1 / (1 + np.exp(-scores)))
    curve = found["roc"]["1"]
    fpr, tpr = np.array(curve["fpr"]), np.array(curve["tpr"])
    assert 2 <= len(fpr) == len(tpr) <= metrics.ROC_POINTS
    assert (fpr[0], tpr[0], fpr[-1], tpr[-1]) == (0, 0, 1, 1)
    assert np.all(np.diff(fpr) >= 0)
    assert np.all(np.diff(tpr) >= 0)
    assert np.trapezoid(tpr, fpr) == pytest.approx(found["auc"], abs=0.01)


def test_known_numbers():
    y = np.array([0, 0, 1, 1])
    found = metrics.classification(y, np.array([0.1, 0.6, 0.4, 0.9]))
    assert found["auc"] == 0.75
    assert found["accuracy"] == 0.5
    assert found["log_loss"] == pytest.approx(-np.log([0.9, 0.4, 0.4, 0.9]).mean())
    assert found["confusion_matrix"] == [[1, 1], [1, 1]]


def test_several_classes():
    y = np.array([0, 1, 2, 2, 1, 0])
    scores = np.eye(3)[y] * 0.7 + 0.1
    scores[0] = [0.2, 0.7, 0.1]
    found = metrics.classification(y, scores)
    assert found["confusion_matrix"] == [[1, 1, 0], [0, 2, 0], [0, 0, 2]]
    # Class 0: 7.5 of 8 pairs in order; class 1: 7 of 8, one pair equal; class 2: all.
    by_hand = []
    for k in range(3):
        inside, outside = scores[y == k, k], scores[y != k, k]
        by_hand.append((inside[:, None] > outside).mean() + 0.5 * (inside[:, None] == outside).mean())
    assert found["auc"] == pytest.approx(np.mean(by_hand))
    assert set(found["roc"]) == {"0", "1", "2"}


def test_a_class_without_events_is_left_out_of_the_mean():
    y = np.array([0, 1, 0, 1])
    scores = np.array([[0.6, 0.2, 0.2], [0.2, 0.6, 0.2], [0.5, 0.3, 0.2], [0.1, 0.8, 0.1]])
    found = metrics.classification(y, scores)
    assert found["auc"] == 1.0
    assert set(found["roc"]) == {"0", "1"}
    assert found["log_loss"] is not None


def test_one_class_only_and_no_events():
    alone = metrics.classification(np.zeros(5, int), np.linspace(0, 1, 5))
    assert (alone["auc"], alone["roc"], alone["accuracy"]) == (None, {}, 0.4)
    empty = metrics.classification(np.zeros(0, int), np.zeros(0))
    assert (empty["events"], empty["auc"], empty["accuracy"], empty["log_loss"]) == (0, None, None, None)
    assert json.dumps(empty)


def test_logits_have_an_auc_and_no_log_loss():
    found = metrics.classification(np.array([0, 1]), np.array([-3.0, 4.0]), threshold=0.0)
    assert (found["auc"], found["accuracy"], found["log_loss"]) == (1.0, 1.0, None)


def test_certain_and_wrong_is_finite():
    found = metrics.classification(np.array([0, 1]), np.array([1.0, 0.0]))
    assert np.isfinite(found["log_loss"])


def test_what_cannot_be_measured_is_said():
    with pytest.raises(ModelFault, match="no finite score for 1 of 2 events"):
        metrics.classification(np.array([0, 1]), np.array([0.5, np.nan]))
    with pytest.raises(DataFault, match="labels run from 0 to 2, but the model tells only 2"):
        metrics.classification(np.array([0, 1, 2]), np.array([0.5, 0.5, 0.5]))
    with pytest.raises(DataFault, match="do not belong to labels"):
        metrics.classification(np.array([0, 1]), np.array([0.5, 0.5, 0.5]))


weighted_samples = st.lists(
    st.tuples(st.integers(0, 1), st.integers(0, 8), st.integers(-3, 6)), min_size=1, max_size=40
)


def all_three(sample):
    y, marks, w = np.array(sample).T
    return y, marks / 8, w / 2


@given(weighted_samples)
def test_auc_with_weights_is_the_weighted_share_of_ordered_pairs_whatever_the_signs(sample):
    y, scores, w = all_three(sample)
    found = metrics.classification(y, scores, weights=w)["auc"]
    signal, background = y == 1, y == 0
    if w[signal].sum() <= 0 or w[background].sum() <= 0:
        assert found is None
        return
    ahead = np.sign(scores[signal][:, None] - scores[background]) / 2 + 0.5
    pairs = w[signal][:, None] * w[background]
    assert found == pytest.approx((pairs * ahead).sum() / pairs.sum())


@given(weighted_samples)
def test_with_weights_everything_is_json_and_adds_up(sample):
    y, scores, w = all_three(sample)
    found = metrics.classification(y, scores, weights=w)
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert np.sum(found["confusion_matrix"]) == pytest.approx(w.sum())
    assert [sum(row) for row in found["confusion_matrix"]] == pytest.approx(
        list(found["weight_by_class"].values())
    )
    assert found["negative_weights"] == (w < 0).sum()
    assert sum(found["events_by_class"].values()) == len(y) == found["events"]
    if w.sum() <= 0:
        assert found["accuracy"] is None
        assert found["log_loss"] is None
    else:
        assert found["accuracy"] == pytest.approx(np.trace(found["confusion_matrix"]) / w.sum())


@given(weighted_samples.map(lambda sample: [(y, mark, abs(w)) for y, mark, w in sample]))
def test_a_whole_weight_is_that_many_events_and_none_is_no_event(sample):
    y, scores, half = all_three(sample)
    times = (2 * half).astype(int)
    weighted = metrics.classification(y, scores, weights=times)
    repeated = metrics.classification(np.repeat(y, times), np.repeat(scores, times))
    for name in ("auc", "accuracy", "log_loss"):
        assert weighted[name] == pytest.approx(repeated[name]), name
    assert weighted["confusion_matrix"] == repeated["confusion_matrix"]
    assert list(weighted["weight_by_class"].values()) == list(repeated["events_by_class"].values())
    if times.sum():
        assert weighted["report"]["1"] == pytest.approx(repeated["report"]["1"])


def test_weights_of_one_change_no_number():
    generator = np.random.default_rng(3)
    y = generator.integers(0, 3, 300)
    table = generator.dirichlet([1, 1, 1], 300) + np.eye(3)[y]
    table /= table.sum(axis=1, keepdims=True)
    plain, ones = (metrics.classification(y, table, weights=w) for w in (None, np.ones(300)))
    assert set(ones) - set(plain) == {"weight_by_class", "negative_weights"}
    assert ones["roc"] == plain["roc"]
    for name in ("auc", "accuracy", "log_loss"):
        assert ones[name] == pytest.approx(plain[name], rel=1e-12)


@given(st.integers(0, 2**32 - 1))
def test_a_roc_curve_with_negative_weights_keeps_its_ends_and_its_area(seed):
    generator = np.random.default_rng(seed)
    y = generator.integers(0, 2, 2000)
    scores = 1 / (1 + np.exp(-generator.normal(2 * y - 1, 1)))
    w = generator.choice([-1.0, 1.0], 2000, p=[0.2, 0.8])
    found = metrics.classification(y, scores, weights=w)
    curve = found["roc"]["1"]
    assert len(curve["fpr"]) == len(curve["tpr"]) <= metrics.ROC_POINTS
    ends = [curve[rate][i] for rate in ("fpr", "tpr") for i in (0, -1)]
    assert ends == pytest.approx([0, 1, 0, 1])
    assert np.trapezoid(curve["tpr"], curve["fpr"]) == pytest.approx(found["auc"], abs=0.02)


def test_negative_weights_take_away_what_other_events_added():
    """What generators do: events of weight -1 cancel others, here a copy of some of them."""
    generator = np.random.default_rng(8)
    y = generator.integers(0, 2, 400)
    scores = 1 / (1 + np.exp(-generator.normal(2 * y - 1, 1)))
    extra = np.arange(100)
    plain = metrics.classification(y, scores)
    cancelled = metrics.classification(
        np.concatenate([y, y[extra], y[extra]]),
        np.concatenate([scores, scores[extra], scores[extra]]),
        weights=np.repeat([1.0, 1.0, -1.0], [400, 100, 100]),
    )
    for name in ("auc", "accuracy", "log_loss"):
        assert cancelled[name] == pytest.approx(plain[name]), name
    assert cancelled["confusion_matrix"] == plain["confusion_matrix"]


def test_weights_that_cancel_have_no_auc():
    w = np.array([0.1, 0.2, -0.3, 1.0])  # not exactly 0 in floating point
    found = metrics.classification(np.array([0, 0, 0, 1]), np.array([0.1, 0.2, 0.3, 0.4]), weights=w)
    assert (found["auc"], found["roc"]) == (None, {})


def test_weights_of_another_sample_are_refused():
    with pytest.raises(DataFault, match=r"weights of shape \(3,\) do not belong to events of shape \(2,\)"):
        metrics.classification(np.array([0, 1]), np.array([0.1, 0.9]), weights=np.ones(3))
    with pytest.raises(DataFault, match="do not belong to events"):
        metrics.regression(np.zeros(2), np.zeros(2), np.ones(3))


def test_known_numbers_of_a_regression():
    found = metrics.regression(np.array([1.0, 2.0, 3.0, 6.0]), np.array([2.0, 2.0, 3.0, 3.0]))
    # Residuals 1, 0, 0, -3.
    assert found["events"] == 4
    assert found["mae"] == 1
    assert found["rmse"] == pytest.approx(np.sqrt(2.5))
    assert found["bias"] == -0.5
    assert found["resolution"] == pytest.approx(np.sqrt(2.5 - 0.25))
    assert found["r2"] == pytest.approx(1 - 10 / 14)
    assert found["residual_quantiles"] == {"16": -3, "50": 0, "84": 1}
    assert "weight" not in found


@given(
    st.lists(st.tuples(st.integers(-9, 9), st.integers(-9, 9), st.integers(0, 3)), min_size=1, max_size=30)
)
def test_a_whole_weight_is_that_many_events_of_a_regression(sample):
    y, predicted, times = np.array(sample).T
    weighted = metrics.regression(y, predicted, times)
    repeated = metrics.regression(np.repeat(y, times), np.repeat(predicted, times))
    assert weighted.pop("residual_quantiles") == repeated.pop("residual_quantiles")
    assert weighted.pop("weight") == repeated.pop("events")
    for name in ("mae", "rmse", "bias", "r2", "resolution"):
        assert weighted[name] == pytest.approx(repeated[name], abs=1e-9), name


@given(
    st.lists(st.tuples(st.integers(-9, 9), st.integers(-9, 9), st.integers(-3, 4)), min_size=1, max_size=30)
)
def test_a_regression_with_negative_weights_is_json_and_none_where_undefined(sample):
    y, predicted, w = np.array(sample).T
    found = metrics.regression(y, predicted, w)
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert (found["bias"] is None) == (w.sum() <= 0)
    assert found["negative_weights"] == (w < 0).sum()


def test_quantiles_of_a_normal_distribution():
    generator = np.random.default_rng(2)
    y = generator.uniform(0, 100, 20000)
    found = metrics.regression(y, y + generator.normal(1, 2, 20000))
    assert found["residual_quantiles"]["16"] == pytest.approx(1 - 2 * 0.9945, abs=0.08)
    assert found["residual_quantiles"]["50"] == pytest.approx(1, abs=0.05)
    assert found["residual_quantiles"]["84"] == pytest.approx(1 + 2 * 0.9945, abs=0.08)
    assert found["resolution"] == pytest.approx(2, abs=0.05)
    assert found["r2"] == pytest.approx(1 - 5 / (100**2 / 12), abs=1e-3)


def test_what_a_regression_cannot_measure():
    constant = metrics.regression(np.ones(3), np.array([1.0, 2.0, 3.0]))
    assert (constant["r2"], constant["bias"]) == (None, 1)
    empty = metrics.regression(np.zeros(0), np.zeros(0))
    assert (empty["events"], empty["mae"], empty["residual_quantiles"]["50"]) == (0, None, None)
    with pytest.raises(ModelFault, match="no finite prediction for 1 of 2 events"):
        metrics.regression(np.zeros(2), np.array([0, np.inf]))
    with pytest.raises(DataFault, match="do not belong to targets"):
        metrics.regression(np.zeros(2), np.zeros(3))
