"""Columns, padding and normalising, against the definition written out."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlaas_condor.data.dataset import EntryRange
from mlaas_condor.data.features import Columns, normalise, raw_matrix
from mlaas_condor.data.inputs import Jagged
from mlaas_condor.data.specs import measure

# Steps of 1/1024: the difference of two values is never too small to divide by.
VALUE = st.one_of(
    st.integers(-(2**30), 2**30).map(lambda i: i / 1024),
    st.sampled_from([0.0, -0.0, math.nan, math.inf, -math.inf]),
)
ROWS = st.lists(st.tuples(VALUE, VALUE, st.lists(VALUE, max_size=3)), min_size=1, max_size=12)


def events_of(rows):
    lists = [each for _, _, each in rows]
    return {
        "b": np.array([x for x, _, _ in rows], np.float64),
        "Z": np.array([y for _, y, _ in rows], np.float32),
        "a": Jagged(
            np.array([len(x) for x in lists]), np.array([x for each in lists for x in each], np.float32)
        ),
    }


def specs_of(events, n):
    return measure(events, EntryRange(file=0, start=0, stop=n))


def slow(rows, specs, padding):
    """Return the normalised matrix, value by value, in double precision."""
    longest = specs.jagged["a"].length

    def scaled(x, branch):
        low, high = branch.minimum or 0.0, branch.maximum or 0.0
        if not math.isfinite(x):
            if padding is None:
                return 0.0
            x = padding
        return x if high == low else (x - low) / (high - low)

    return [
        [scaled(z, specs.flat["Z"]), scaled(b, specs.flat["b"])]
        + [scaled(x, specs.jagged["a"]) for x in [*each, *[math.nan] * (longest - len(each))]]
        for b, z, each in rows
    ]


@given(ROWS, st.sampled_from([None, 0.0, -5.0]))
def test_matrix_is_that_of_the_definition(rows, padding):
    events = events_of(rows)
    specs = specs_of(events, len(rows))
    columns = Columns.of(specs)
    assert columns.names == ("Z", "b", *(f"a_{i}" for i in range(specs.jagged["a"].length)))
    got = normalise(raw_matrix(events, columns), columns, padding)
    wanted = np.array(slow(rows, specs, padding))
    assert got.shape == wanted.shape and got.dtype == np.float32 and got.flags.c_contiguous
    # Relative to the numbers that are subtracted: float32 has 24 bits.
    spans = columns.high - columns.low
    largest = np.maximum(np.abs(columns.low), np.maximum(np.abs(columns.high), abs(padding or 0)))
    allowed = 4e-7 * largest / np.where(spans == 0, 1, spans) + 4e-7
    assert (np.abs(got - wanted) <= allowed)[:, distinct(specs, columns)].all()


def distinct(specs, columns):
    """Tell the columns apart whose range is still one as float32, or was none from the beginning."""
    branches = [
        *(specs.flat[name] for name in sorted(specs.flat)),
        *[specs.jagged["a"]] * specs.jagged["a"].length,
    ]
    none = np.array([each.minimum == each.maximum for each in branches])
    return none | (columns.low != columns.high)


@given(ROWS)
def test_normalised_values_lie_between_0_and_1(rows):
    events = events_of(rows)
    columns = Columns.of(specs_of(events, len(rows)))
    got = normalise(raw_matrix(events, columns), columns)
    varying = columns.low != columns.high
    assert (got[:, varying] >= 0).all() and (got[:, varying] <= 1).all()
    assert np.isfinite(got).all()


def test_raw_values_are_padded_with_nan_and_not_scaled():
    events = events_of([(1, 2, [3, 4]), (5, 6, [])])
    got = raw_matrix(events, Columns.of(specs_of(events, 2)))
    np.testing.assert_array_equal(got, np.array([[2, 6], [1, 5], [3, math.nan], [4, math.nan]], np.float32))


def test_constant_branch_stays_as_it_is_and_padding_is_zero():
    events = events_of([(7, 1, [2]), (7, 3, [])])
    columns = Columns.of(specs_of(events, 2))
    got = normalise(raw_matrix(events, columns), columns)
    np.testing.assert_array_equal(got, [[0, 7, 2], [1, 7, 0]])


def test_padding_value_is_normalised_too():
    events = events_of([(0, 0, [10.0]), (0, 0, [20.0]), (0, 0, [])])
    columns = Columns.of(specs_of(events, 3))
    assert normalise(raw_matrix(events, columns), columns, padding=5.0)[2, 2] == np.float32(-0.5)


def test_values_beyond_float32_are_as_infinite():
    events = {"x": np.array([1e308, 1.0, 3.0])}
    columns = Columns.of(specs_of(events, 3))
    np.testing.assert_array_equal(normalise(raw_matrix(events, columns), columns), [[0], [0], [1]])


def test_range_wider_than_float32_is_no_warning():
    events = {"x": np.array([-3e38, 3e38])}
    columns = Columns.of(specs_of(events, 2))
    assert np.isfinite(normalise(raw_matrix(events, columns), columns)).all()


def test_branch_whose_lists_are_all_empty_has_no_column():
    events = {"x": np.array([1.0, 2.0]), "none": Jagged(np.zeros(2, np.int64), np.zeros(0))}
    columns = Columns.of(specs_of(events, 2))
    assert columns.names == ("x",) and raw_matrix(events, columns).shape == (1, 2)


def test_integers_and_truth_values_become_numbers():
    events = {"n": np.array([1, 2**63], np.uint64), "yes": np.array([True, False])}
    columns = Columns.of(specs_of(events, 2))
    np.testing.assert_array_equal(normalise(raw_matrix(events, columns), columns), [[0, 1], [1, 0]])


def test_list_longer_than_the_specs_is_refused():
    short = events_of([(0, 0, [1.0])])
    columns = Columns.of(specs_of(short, 1))
    with pytest.raises(ValueError, match="a: a list has 2 elements, the specs say at most 1"):
        raw_matrix(events_of([(0, 0, [1.0, 2.0])]), columns)
