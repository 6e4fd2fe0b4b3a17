"""The sketch of a distribution: parts join exactly; quantiles are right to the width of a bin."""

import math
import struct
from collections import Counter
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mlaas_condor.data import sketch
from mlaas_condor.data.sketch import BINS, QUANTILES, Sketch, Tally

LARGEST, TINY = float(np.finfo(np.float32).max), float(np.finfo(np.float32).tiny)
FLOATS = st.floats(-LARGEST, LARGEST)
KINDS = {
    np.float64: st.one_of(FLOATS, st.floats(-10, 10), st.sampled_from([0.0, -0.0, 1.0, -1.0, 1e-300])),
    np.float32: st.floats(-LARGEST, LARGEST, width=32),
    np.int32: st.one_of(st.integers(-9, 9), st.integers(-(2**31), 2**31 - 1)),
    np.uint64: st.integers(0, 2**64 - 1),
    np.int64: st.integers(-(2**63), 2**63 - 1),
    np.bool_: st.booleans(),
}
VALUES = st.sampled_from(list(KINDS)).flatmap(
    lambda kind: st.lists(KINDS[kind], min_size=1, max_size=60).map(lambda values: np.array(values, kind))
)


def tally(blocks):
    counted = Tally()
    for block in blocks:
        if len(block):
            counted.add(block, float(block.min()) + 0.0, float(block.max()) + 0.0)
    return counted.sketch()


def pieces(values, cuts):
    places = sorted({0, len(values), *(min(cut, len(values)) for cut in cuts)})
    return [values[low:high] for low, high in pairwise(places)]


def bin_of(value):
    """Return the bin of a value, by its definition: the first 7 bits, leading one included, of a float32."""
    single = abs(float(np.float32(value)))
    sign = math.copysign(1, value) if single else 1.0  # -0.0 is 0.0
    if single < TINY:
        return sign, 0, math.floor(single / TINY * 64)
    mantissa, exponent = math.frexp(single)
    return sign, exponent, math.floor(mantissa * 128)


CUTS = st.lists(st.integers(0, 60), max_size=5)


@given(VALUES, CUTS, st.randoms())
@example(np.array([-0.0, 1.0]), [], None)
@example(np.array([-0.0]), [], None)
# In one step to float32 this is less than 2**62, by way of float64 it is not.
@example(np.array([2**62 - 2**37 - 1]), [], None)
@example(np.array([2**63 - 2**38 - 1], np.uint64), [], None)
def test_parts_join_to_the_same_in_any_order_and_grouping(values, cuts, random):
    parts = [tally([piece]) for piece in pieces(values, cuts)]
    at_once = sketch.join(parts)
    one_pass = tally([values])
    while random and len(parts) > 1:
        random.shuffle(parts)
        parts.append(sketch.join([parts.pop() for _ in range(min(len(parts), random.randint(2, 3)))]))
    grouped = sketch.join(parts)
    assert grouped == at_once and grouped.model_dump_json() == at_once.model_dump_json()
    assert (at_once.keys, at_once.counts, at_once.count) == (one_pass.keys, one_pass.counts, one_pass.count)
    assert at_once.count == sum(at_once.counts) == len(values)
    assert at_once.keys == sorted(set(at_once.keys)) and 0 not in at_once.counts


@given(VALUES, CUTS)
def test_mean_and_deviation_are_the_exact_ones_to_rounding(values, cuts):
    numbers = [Fraction(float(value)) for value in values]
    mean = sum(numbers) / len(numbers)
    variance = sum((number - mean) ** 2 for number in numbers) / len(numbers)
    spread = float(max(numbers) - min(numbers))
    joined = sketch.join([tally([piece]) for piece in pieces(values, cuts)])
    for found in (tally([values]), tally(pieces(values, cuts)), joined):
        assert abs(found.mean - float(mean)) <= 1e-13 * spread + 1e-15 * abs(float(mean))
        # Squares of what is below 1e-150 are beyond float64.
        wanted = float(np.sqrt(float(variance)))
        assert found.standard_deviation == pytest.approx(wanted, rel=1e-8, abs=1e-150)


@given(VALUES, CUTS)
def test_values_are_in_the_bins_of_the_definition(values, cuts):
    numbers = values.astype(np.float64) if values.dtype.itemsize == 8 else values
    found = tally(pieces(values, cuts))
    keys = [whole_number(value) for value in numbers.tolist()]
    first, last = min(keys), max(keys)
    shift = next(s for s in range(32) if last // 2**s - first // 2**s < sketch.WINDOW)
    assert (found.first, found.last, found.shift) == (first, last, shift)
    wanted = Counter(key // 2**shift for key in keys)
    assert dict(zip(found.keys, found.counts, strict=True)) == wanted
    assert found.keys == sorted(found.keys)


def whole_number(value):
    """Return the bits of a float32 as a number that ascends with its value."""
    (bits,) = struct.unpack(">I", struct.pack(">f", float(np.float32(value)) + 0.0))
    return bits if bits < 2**31 else 2**31 - 1 - bits


def test_never_more_than_so_many_bins_in_any_grouping(monkeypatch):
    monkeypatch.setattr(sketch, "MOST", 20)
    values = np.random.default_rng(3).lognormal(0, 3, 3000)
    parts = [tally([piece]) for piece in np.array_split(values, 7)]
    whole = tally([values])
    assert len(whole.keys) <= 20 < len(whole.keys) * 2.5
    assert sketch.join(parts) == sketch.join([sketch.join(parts[:3]), sketch.join(parts[3:])])
    joined = sketch.join(parts)
    assert (joined.keys, joined.counts, joined.shift) == (whole.keys, whole.counts, whole.shift)


@pytest.mark.parametrize(
    "values",
    [
        np.random.default_rng(1).normal(172.5, 0.01, 20_000),
        np.random.default_rng(1).normal(1e6, 0.5, 20_000),
        np.append(np.ones(9999), 1.84),
        np.where(np.random.default_rng(1).random(20_000) < 0.9, -999.0, 50.0),
    ],
)
def test_narrow_and_peaked_distributions_have_exact_quantiles(values):
    single = values.astype(np.float32)
    found = tally([single]).quantiles(float(single.min()), float(single.max()))
    wanted = np.quantile(single, QUANTILES, method="inverted_cdf")
    np.testing.assert_allclose(found, wanted, rtol=3e-7)


@given(VALUES, CUTS)
def test_quantiles_are_right_to_the_width_of_a_bin(values, cuts):
    numbers = np.sort(values.astype(np.float64))
    found = tally(pieces(values, cuts)).quantiles(float(numbers[0]), float(numbers[-1]))
    assert len(found) == len(QUANTILES) and found == sorted(found)
    for share, value in zip(QUANTILES, found, strict=True):
        # Only the bin of a rank is known, so there is nothing to interpolate between two ranks with.
        exact = numbers[math.ceil(Fraction(str(share)) * len(numbers)) - 1]
        assert numbers[0] <= value <= numbers[-1]
        assert abs(value - exact) <= abs(exact) / 64 * (1 + 1e-5) + TINY


@pytest.mark.parametrize("draw", ["normal", "standard_exponential", "random", "standard_cauchy"])
def test_quantiles_and_moments_of_many_values_are_those_of_numpy(draw):
    values = getattr(np.random.default_rng(5), draw)(size=100_003)
    found = tally(np.array_split(values, 3))
    low, high = float(values.min()), float(values.max())
    wanted = np.quantile(values, QUANTILES, method="inverted_cdf")
    np.testing.assert_allclose(found.quantiles(low, high), wanted, rtol=1 / 64)
    assert found.mean == pytest.approx(values.mean(), rel=1e-9)
    assert found.standard_deviation == pytest.approx(values.std(), rel=1e-9)
    first, last = wanted[0], wanted[-1]
    heights = np.array(found.histogram(low, high, first, last))
    exact, _ = np.histogram(values, BINS, (first, last))
    # A bin of the sketch is at most 1/64 of the largest value there, its two edges count.
    sharing = 2 / 64 * max(abs(first), abs(last)) / ((last - first) / BINS)
    assert abs(heights.sum() - exact.sum()) < 0.01 * len(values)
    assert (np.abs(heights - exact) < sharing * exact.max() + 30).all() and (heights > 0).all()


@given(VALUES, CUTS, st.data())
def test_histogram_is_right_to_what_shares_a_bin_with_an_edge(values, cuts, data):
    numbers = np.sort(values.astype(np.float64))
    low, high = float(numbers[0]) + 0.0, float(numbers[-1]) + 0.0
    within = st.floats(low, high)
    first, last = data.draw(
        st.one_of(st.just((low, high)), st.tuples(within, within).map(lambda both: tuple(sorted(both))))
    )
    found = tally(pieces(values, cuts)).histogram(low, high, first, last)
    if not first < last:
        assert found == []
        return
    assert len(found) == BINS and min(found) >= 0
    edges = np.linspace(first, last, BINS + 1)
    bins = [(bin_of(number), number) for number in numbers]
    sharing = [sum(each == bin_of(edge) for each, _ in bins) for edge in edges]
    for i in range(1, BINS + 1):
        upper = numbers <= last if i == BINS else numbers < edges[i]
        wanted = np.count_nonzero((numbers >= first) & upper)
        assert abs(sum(found[:i]) - wanted) <= sharing[0] + sharing[i]
    if (first, last) == (low, high):
        assert sum(found) == len(numbers)


def test_histogram_of_a_value_next_to_nothing():
    found = tally([np.array([-2e-313, 0.001])])
    assert found.histogram(-2e-313, 0.001, 0.0, 0.001)[-1] == 1


@given(VALUES)
def test_sketch_read_back_is_the_same(values):
    found = tally([values])
    assert Sketch.model_validate_json(found.model_dump_json()) == found


@pytest.mark.parametrize("value", [0.1, 1e9 + 0.1, -LARGEST, 1e-300, 16777217])
def test_constant_values_have_no_deviation_at_all(value):
    parts = [tally([np.full(n, value)]) for n in (1, 7, 100_000)]
    found = sketch.join(parts)
    assert found.standard_deviation == 0 and found.mean == value
    assert found.quantiles(value, value) == [value] * len(QUANTILES)
    assert found.histogram(value, value, value, value) == []


def test_no_values():
    found = tally([])
    assert found.count == 0 and found.mean is None and found.standard_deviation is None
    assert found.quantiles(0, 0) == [] and found.histogram(0, 0, 0, 0) == []
    some = tally([np.array([1.0, 2.0])])
    assert sketch.join([found, some, found]) == some


def test_more_values_than_are_worked_on_at_a_time(monkeypatch):
    values = np.random.default_rng(1).integers(-1000, 1000, 1000) / 8  # sums of these are exact
    whole = tally([values])
    monkeypatch.setattr(sketch, "_BLOCK", 7)
    assert tally([values]) == whole
