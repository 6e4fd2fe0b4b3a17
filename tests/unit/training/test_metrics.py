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
