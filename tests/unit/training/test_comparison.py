import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from mlaas_condor.errors import DataFault
from mlaas_condor.training.comparison import FEWEST, kolmogorov_smirnov, overtraining, written

values = st.lists(st.integers(-20, 20), min_size=1, max_size=60).map(lambda each: np.array(each, float))
weighted = st.lists(st.tuples(st.integers(-9, 9), st.integers(0, 4)), min_size=1, max_size=40)


@given(values, values)
def test_without_weights_it_is_scipys(a, b):
    found = kolmogorov_smirnov(a, b)
    if len(a) * len(b) / (len(a) + len(b)) < FEWEST:
        assert found["p_value"] is None
        return
    theirs = scipy.stats.ks_2samp(a, b, method="asymp")
    assert found["statistic"] == pytest.approx(theirs.statistic)
    assert found["p_value"] == pytest.approx(theirs.pvalue, abs=1e-12)


@given(values, values, st.floats(0.01, 100))
def test_equal_weights_say_nothing(a, b, weight):
    plain = kolmogorov_smirnov(a, b)
    found = kolmogorov_smirnov(a, b, np.full(len(a), weight), np.full(len(b), 3.0))
    assert found["statistic"] == pytest.approx(plain["statistic"], abs=1e-9)
    if plain["p_value"] is None:
        assert found["p_value"] is None
    else:
        assert found["p_value"] == pytest.approx(plain["p_value"], abs=1e-6)


@given(weighted, values)
def test_a_whole_weight_is_that_many_events_and_none_is_no_event(sample, b):
    a, times = np.array(sample).T
    found = kolmogorov_smirnov(a, b, times)
    repeated = np.repeat(a, times)
    if not len(repeated):
        assert found == {"statistic": None, "p_value": None}
    else:
        places = np.concatenate([repeated, b])[:, None]
        far = np.abs((repeated <= places).mean(axis=1) - (b <= places).mean(axis=1)).max()
        assert found["statistic"] == pytest.approx(far)


@given(values, values)
def test_it_is_symmetric(a, b):
    w = 1.0 + np.arange(len(a)) % 3
    assert kolmogorov_smirnov(a, b, w) == pytest.approx(kolmogorov_smirnov(b, a, None, w))


def test_what_cancels_is_not_there():
    generator = np.random.default_rng(1)
    a, b, extra = generator.normal(0, 1, 300), generator.normal(0.3, 1, 200), generator.normal(5, 1, 50)
    found = kolmogorov_smirnov(
        np.concatenate([a, extra, extra]), b, np.repeat([1.0, 1.0, -1.0], [300, 50, 50])
    )
    plain = kolmogorov_smirnov(a, b)
    assert found["statistic"] == pytest.approx(plain["statistic"])
    assert found["p_value"] > plain["p_value"], "events that cancel leave fewer effective ones"


def test_p_values_are_even_also_with_weights_of_very_different_size():
    generator = np.random.default_rng(2)
    p_values = []
    for _ in range(400):
        a, b = generator.normal(0, 1, (2, 200))
        wide = generator.lognormal(0, 1, 200)
        p_values.append(kolmogorov_smirnov(a, b, wide)["p_value"])
    # Of 400 even p-values 40 are below 0.1, with a standard deviation of 6.
    assert 20 <= np.sum(np.array(p_values) < 0.1) <= 60
    assert 160 <= np.sum(np.array(p_values) < 0.5) <= 240


@pytest.mark.parametrize("w", [np.zeros(3), -np.ones(3), np.array([0.1, 0.2, -0.3])])
def test_weights_that_add_up_to_nothing_cannot_be_compared(w):
    assert kolmogorov_smirnov(np.arange(3), np.arange(9), w) == {"statistic": None, "p_value": None}


def test_nothing_and_too_many_weights():
    assert kolmogorov_smirnov(np.zeros(0), np.ones(3))["statistic"] is None
    with pytest.raises(DataFault, match=r"weights of shape \(2,\) do not belong to values of shape \(3,\)"):
        kolmogorov_smirnov(np.zeros(3), np.ones(3), np.ones(2))


def test_overtraining_compares_the_events_of_each_class():
    generator = np.random.default_rng(3)
    y = {"train": generator.integers(0, 2, 2000), "test": generator.integers(0, 2, 500)}
    scores = {split: generator.beta(2 + labels, 3 - labels) for split, labels in y.items()}
    scores["train"][y["train"] == 1] **= 0.5  # known by heart
    found = overtraining(scores, y)
    assert found["0"] == kolmogorov_smirnov(scores["train"][y["train"] == 0], scores["test"][y["test"] == 0])
    assert found["0"]["p_value"] > 0.01 > 1e-6 > found["1"]["p_value"]
    two = {split: np.column_stack([1 - each, each]) for split, each in scores.items()}
    assert overtraining(two, y) == found


def test_overtraining_of_several_classes_compares_the_score_for_the_class_itself():
    generator = np.random.default_rng(4)
    y = {"train": generator.integers(0, 3, 900), "test": generator.integers(0, 3, 300)}
    scores = {split: generator.dirichlet([1, 2, 3], len(labels)) for split, labels in y.items()}
    w = {split: generator.uniform(0, 2, len(labels)) for split, labels in y.items()}
    found = overtraining(scores, y, w)
    assert list(found) == ["0", "1", "2"]
    mine = {split: labels == 2 for split, labels in y.items()}
    assert found["2"] == kolmogorov_smirnov(
        *(scores[split][mine[split], 2] for split in ("train", "test")),
        *(w[split][mine[split]] for split in ("train", "test")),
    )


def test_overtraining_needs_both_samples():
    assert overtraining({"test": np.ones(3)}, {"test": np.ones(3)}) == {}


def test_p_values_as_people_read_them():
    assert [written(p) for p in (None, 0.0, 0.0009, 0.0123, 0.5, 1.0)] == [
        "", "< 0.001", "< 0.001", "0.012", "0.5", "1",
    ]  # fmt: skip
