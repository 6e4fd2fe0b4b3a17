import json
from types import SimpleNamespace

import numpy as np
import pytest
from data_tools import jagged
from hypothesis import given
from hypothesis import strategies as st

from mlaas_condor.data import chunkfile
from mlaas_condor.data.chunkfile import Chunk
from mlaas_condor.data.features import Columns, Scale, mask, matrix
from mlaas_condor.training import distributions
from mlaas_condor.training.distributions import BINS, Distributions

generator = np.random.default_rng(4)


def flat(name, low=0.0, width=1.0):
    return Columns((name,), {name: 0}, {name: 1}, {name: Scale(low, width, "float32", 0.0)})


def counted(values, low=None, width=None, y=None, weights=None, classes=("a", "b")):
    """Count one flat branch, normalised by its range unless told otherwise."""
    values = np.asarray(values, np.float64)
    low = float(values.min()) if low is None else low
    width = (float(np.ptp(values)) or 1.0) if width is None else width
    found = Distributions(flat("x", low, width), classes)
    x = ((values - low) / width).astype(np.float32)[:, None]
    found.add(x, np.zeros(len(values), int) if y is None else y, weights)
    return found.histograms["x"]


def test_counts_are_numpys():
    values, y = generator.normal(50, 10, 5000), generator.integers(0, 2, 5000)
    found = counted(values, y=y)
    for k in range(2):
        theirs = np.histogram(values[y == k], found.edges())[0]
        np.testing.assert_allclose(found.counts[k, 1:-1], theirs, atol=2)  # float32 at the edges
    assert found.counts.sum() == 5000
    assert found.low == pytest.approx(values.min(), abs=1e-3)
    assert found.high == pytest.approx(values.max(), abs=1e-3)
    assert found.missing.tolist() == [0, 0]


def test_weights_are_added_up():
    y, w = generator.integers(0, 2, 1000), generator.choice([-1.0, 0.5, 2.0], 1000)
    found = counted(generator.random(1000), y=y, weights=w)
    assert found.counts.sum(axis=1) == pytest.approx(np.bincount(y, w))


@given(st.lists(st.integers(-(10**4), 10**4), min_size=1, max_size=50))
def test_integers_have_bins_around_them(numbers):
    found = counted(numbers)
    assert found.whole
    assert found.bins <= BINS
    width = (found.high - found.low) / found.bins
    assert width == pytest.approx(round(width))
    assert (found.low - 0.5) % 1 == 0
    if max(numbers) - min(numbers) < BINS:
        assert width == 1
        assert found.counts[0, 1:-1].tolist() == np.bincount(np.array(numbers) - min(numbers)).tolist()
    assert found.counts.sum() == len(numbers)


def test_a_boolean_has_two_bins():
    found = counted([0, 1, 1, 0, 1], low=0.0, width=1.0)
    assert (found.edges().tolist(), found.counts[0].tolist()) == ([-0.5, 0.5, 1.5], [0, 2, 3, 0])


@pytest.mark.parametrize("value", [0.0, 7.5, -3e-7, 1e9, 123456789.25])
def test_a_constant_is_one_bin_around_it(value):
    found = counted(np.full(20, value), low=value if value > 1e8 else 0.0, width=1.0)
    assert found.bins == 1
    assert found.low < value < found.high
    assert found.counts[0].tolist() == [0, 20, 0]


def test_far_tails_are_counted_and_not_drawn():
    found = counted(np.concatenate([generator.exponential(1, 10_000), [1e5]]))
    assert found.low == pytest.approx(0, abs=0.01)
    assert 4 < found.high < 8
    assert found.counts[0, -1] == pytest.approx(50, abs=5)
    assert found.counts.sum() == 10_001
    both = counted(np.concatenate([generator.normal(0, 1, 10_000), [-1e4, 1e4]]))
    assert -4 < both.low < -2 < 2 < both.high < 4
    even = counted(generator.uniform(-np.pi, np.pi, 2000))
    assert even.counts[0, [0, -1]].sum() == 0, "without tails everything is shown"


def test_mostly_one_value_shows_the_others():
    found = counted(np.concatenate([np.zeros(9990), np.linspace(0.1, 9.9, 10)]))
    assert found.counts[0, 1] >= 9990
    assert found.counts[0, [0, -1]].sum() == 0


def test_the_first_chunk_decides_and_later_ones_may_lie_outside():
    found = Distributions(flat("x"), ["only", "other"])
    found.add(np.linspace(0, 1, 100, dtype=np.float32)[:, None], np.zeros(100, int))
    edges = found.histograms["x"].edges()
    found.add(np.array([[-5.0], [0.5], [9.0], [9.0]], np.float32), np.ones(4, int))
    histogram = found.histograms["x"]
    assert (histogram.edges() == edges).all()
    assert histogram.counts[1, [0, -1]].tolist() == [1, 2]
    assert histogram.counts[1].sum() == 4
    assert found.events == 104


def events(seed, n=400):
    rng = np.random.default_rng(seed)
    lengths = rng.integers(0, 4, n)
    return {
        "met": np.where(np.arange(n) % 10 == 0, np.nan, rng.exponential(30, n)).astype(np.float32),
        "flag": jagged([rng.integers(0, 2, k).tolist() for k in lengths], np.int32),
        "never": jagged([[] for _ in range(n)]),
        "pt": jagged([rng.exponential(50, k).tolist() for k in lengths]),
    }


COLUMNS = Columns(
    ("met", "flag_0", "flag_1", "flag_2", "pt_0", "pt_1", "pt_2"),
    {"met": 0, "flag": 1, "never": 4, "pt": 4},
    {"met": 1, "flag": 3, "never": 0, "pt": 3},
    {
        "met": Scale(0.0, 300.0, "float32", 0.0),
        "flag": Scale(0.0, 1.0, "float32", 0.0),
        "never": Scale(0.0, 1.0, "float32", 0.0),
        "pt": Scale(0.0, 500.0, "float32", -1.0),
    },
)


def test_a_chunk_says_what_is_padding(tmp_path):
    paths, samples, ys = [], [], []
    for i in range(3):
        own, n = events(i), 400
        paths.append(tmp_path / f"chunk-{i}.zip")
        chunkfile.write(paths[-1], Chunk(own, np.zeros(n, np.uint32), np.arange(n), {}))
        ys.append(np.arange(n) % 2)
        samples.append(SimpleNamespace(index=i, x=matrix(own, COLUMNS), y=ys[-1], weights=None))
    found = distributions.of_samples(samples, paths, COLUMNS, ["even", "odd"])
    flags = [events(i)["flag"] for i in range(3)]
    values = sum(len(each.values) for each in flags)
    flag = found.histograms["flag"]
    assert flag.whole
    assert flag.counts.sum() == values
    assert flag.counts[:, 1].sum() == sum((each.values == 0).sum() for each in flags)
    assert flag.missing.sum() == 3 * 3 * 400 - values
    assert found.histograms["met"].missing.sum() == 120
    never = found.histograms["never"]
    assert (never.low, never.counts.sum(), never.edges().tolist()) == (None, 0, [0.0, 1.0])
    for k in range(2):
        lists = [each.counts[y == k].sum() for each, y in zip(flags, ys, strict=True)]
        assert flag.counts[k].sum() == sum(lists)


def test_without_lists_padding_is_guessed_from_the_end_of_each(tmp_path):
    own = events(1)
    x, y = matrix(own, COLUMNS), np.zeros(400, int)
    exact, guessed = (Distributions(COLUMNS, []) for _ in range(2))
    exact.add(x, y, missing=mask(own, COLUMNS))
    guessed.add(x, y)
    assert guessed.histograms["pt"].missing == exact.histograms["pt"].missing, "no value is like this padding"
    np.testing.assert_array_equal(guessed.histograms["pt"].counts, exact.histograms["pt"].counts)
    assert guessed.histograms["flag"].missing > exact.histograms["flag"].missing
    assert guessed.histograms["met"].missing == 0, "of a flat branch it cannot be told"


def test_a_regression_has_one_class():
    found = Distributions(flat("x"), [])
    found.add(generator.random((50, 1)).astype(np.float32), generator.normal(0, 1, 50))
    assert found.classes == ["all"]
    assert found.histograms["x"].counts.shape == (1, BINS + 2)
    assert found.histograms["x"].separation() == 0


@pytest.mark.parametrize("weighted", [False, True])
def test_it_comes_back_from_json(weighted):
    own = events(2)
    found = Distributions(COLUMNS, ["a", "b"])
    w = generator.random(400) if weighted else None
    found.add(matrix(own, COLUMNS), np.arange(400) % 2, w, mask(own, COLUMNS))
    plain = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert plain == found.to_dict()
    assert isinstance(plain["branches"][0]["counts"][0][1], float if weighted else int)
    back = Distributions.of_dict(plain)
    assert (back.classes, back.events, list(back.histograms)) == (["a", "b"], 400, list(found.histograms))
    for name, histogram in found.histograms.items():
        np.testing.assert_array_equal(back.histograms[name].counts, histogram.counts)
        np.testing.assert_array_equal(back.histograms[name].edges(True), histogram.edges(True))


def test_normalised_edges_are_those_that_training_sees():
    found = counted(generator.uniform(20, 30, 500))
    raw, normalised = found.edges(), found.edges(normalised=True)
    assert (normalised[0], normalised[-1]) == (pytest.approx(0, abs=1e-4), pytest.approx(1, abs=1e-4))
    np.testing.assert_allclose(normalised * found.width + found.centre, raw)


def test_separation_of_known_distributions():
    y = np.repeat([0, 1], 2000)
    values = generator.random(4000)
    assert counted(values, y=y).separation() < 0.03
    assert counted(values + 2 * y, y=y).separation() == pytest.approx(1)
    # Half of the one lies where all of the other is: p = 1/2, q = 1 there, and p = 1/2, q = 0 beside it.
    half = counted(np.where(y == 1, np.arange(4000) % 2, 0.0), y=y).separation()
    assert half == pytest.approx(0.5 * (0.25 / 1.5 + 0.5))


def test_branches_are_ranked_by_what_they_separate():
    columns = Columns(
        ("a", "b"), {"a": 0, "b": 1}, {"a": 1, "b": 1}, dict.fromkeys("ab", Scale(0, 1, "float32", 0))
    )
    found = Distributions(columns, ["x", "y"])
    y = np.arange(1000) % 2
    found.add(np.column_stack([generator.random(1000), y + generator.random(1000)]).astype(np.float32), y)
    assert found.ranked() == ["b", "a"]


def test_of_large_data_the_first_chunks_do(tmp_path, monkeypatch):
    own = events(1)
    path = tmp_path / "chunk.zip"
    chunkfile.write(path, Chunk(own, np.zeros(400, np.uint32), np.arange(400), {}))
    sample = SimpleNamespace(index=0, x=matrix(own, COLUMNS), y=np.zeros(400, int), weights=None)
    monkeypatch.setattr(distributions, "MOST_VALUES", 1000 * len(COLUMNS))
    found = distributions.of_samples((sample for _ in range(10)), [path], COLUMNS, ["a", "b"])
    assert found.events == 1200
