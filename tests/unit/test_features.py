"""Columns, padding and normalising, against the definition written out value by value."""

import math

import numpy as np
import pytest
from data_tools import fake_reader, inputs_of, jagged, plain_dataset, specs_of
from hypothesis import given
from hypothesis import strategies as st

from mlaas_condor.data import measuring
from mlaas_condor.data.events import Jagged
from mlaas_condor.data.features import Columns, mask, matrix
from mlaas_condor.data.specs import BranchSpecs, Specs

LARGEST = float(np.finfo(np.float32).max)
NOTHING = [math.nan, math.inf, -math.inf, 1e308, -1e39]
NUMBER = st.one_of(st.integers(-(2**30), 2**30).map(lambda i: i / 1024), st.floats(-1e30, 1e30))
VALUE = st.one_of(NUMBER, st.sampled_from([0.0, -0.0, 7.5, *NOTHING]))
SINGLE = st.one_of(st.floats(width=32), st.sampled_from([0.0, 7.5, math.nan, math.inf]))
STAMP = st.one_of(st.integers(0, 3600 * 8).map(lambda i: 1.7e9 + i / 8), st.sampled_from(NOTHING))
ROW = st.tuples(
    VALUE, SINGLE, st.integers(-300, 300), st.booleans(), STAMP, st.lists(SINGLE, max_size=3),
    st.lists(st.integers(0, 9), max_size=2),
)  # fmt: skip
ROWS = st.lists(ROW, min_size=1, max_size=12)
NAMES = ("b", "Z", "n", "yes", "t", "a", "k")  # of the parts of a row
FLAT = ("Z", "b", "n", "t", "yes")
HOW = st.sampled_from(["minmax", "standard", "robust", "none"])
PADDING = st.sampled_from([None, 0.0, -5.0, 1e6])


def events_of(rows):
    b, z, n, yes, t, a, k = zip(*rows, strict=True)
    return {
        "b": np.array(b, np.float64), "Z": np.array(z, np.float32), "n": np.array(n, np.int16),
        "yes": np.array(yes), "t": np.array(t, np.float64),
        "a": jagged(a, np.float32), "k": jagged(k, np.uint64),
    }  # fmt: skip


def measured(events):
    flat = sorted(name for name, column in events.items() if not isinstance(column, Jagged))
    dataset = plain_dataset(
        [max(inputs_of(events))], flat=flat, jagged=sorted(set(events) - set(flat)), chunk_size=5
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(measuring, "Reader", fake_reader(events))
        return specs_of(dataset)


def as_stored(events, specs):
    """Return events as chunks hold them."""
    both = {**specs.flat, **specs.jagged}
    stored = {}
    with np.errstate(over="ignore"):
        for name, column in events.items():
            dtype = both[name].stored
            is_jagged = isinstance(column, Jagged)
            values = (column.values if is_jagged else column).astype(dtype)
            stored[name] = Jagged(column.counts, values) if is_jagged else values
    return stored


def usable(x):
    with np.errstate(over="ignore"):
        return bool(np.isfinite(np.float32(x)))


def robust_width(branch):
    first, third = branch.quantiles[2], branch.quantiles[4]
    told_apart = third - first > branch.resolution * max(abs(first), abs(third))
    return third - first if told_apart else branch.standard_deviation


def definition(x, branch, how, padding):
    """Return the normalised value in double precision, and how far float32 may be from it."""
    centre, width = {
        "minmax": lambda: (branch.minimum, branch.maximum - branch.minimum),
        "standard": lambda: (branch.mean, branch.standard_deviation),
        "robust": lambda: (branch.quantiles[3], robust_width(branch)),
        "none": lambda: (0.0, 1.0),
    }[how if branch.values else "none"]()
    wide = branch.stored == "float64" or max(-(branch.minimum or 0), branch.maximum or 0) > LARGEST / 4
    if (width if wide else float(np.float32(width))) == 0:
        centre, width = 0.0, 1.0
    if not usable(x):
        if padding is None:
            return 0.0, 0.0
        x = padding
    wanted = (x - centre) / width
    # Each number is rounded to 24 bits, or for wide branches only the result.
    rounded = abs(wanted) if wide else abs(wanted) + (abs(x) + abs(centre)) / width
    smallest = 0.0 if wide else 2.0**-149 * (2 + abs(wanted)) / width  # steps next to 0
    return wanted, 2.0**-22 * rounded + smallest + 1e-44


@given(ROWS, HOW, PADDING)
def test_matrix_is_that_of_the_definition(rows, how, padding):
    events = events_of(rows)
    specs = measured(events)
    columns = Columns.of(specs, how, padding)
    lists = {name: specs.jagged[name].length for name in ("a", "k")}
    names = [*FLAT, *(f"{name}_{i}" for name in ("a", "k") for i in range(lists[name]))]
    assert columns.names == tuple(names) and len(columns) == len(names)
    got = matrix(as_stored(events, specs), columns)
    assert got.shape == (len(rows), len(names)) and got.dtype == np.float32 and got.flags.c_contiguous
    hidden = mask(events, columns)
    assert hidden.shape == got.shape and hidden.dtype == np.bool_
    for row, found, padded in zip(rows, got.tolist(), hidden.tolist(), strict=True):
        by_name = dict(zip(NAMES, row, strict=True))
        wanted = [(by_name[name], specs.flat[name]) for name in FLAT]
        for name in ("a", "k"):
            filled = [*by_name[name], *[math.nan] * (lists[name] - len(by_name[name]))]
            wanted += [(x, specs.jagged[name]) for x in filled]
        assert padded == [not usable(x) for x, _ in wanted]
        for value, (x, branch) in zip(found, wanted, strict=True):
            exact, allowed = definition(x, branch, how, padding)
            if abs(exact) < LARGEST:
                assert abs(value - exact) <= allowed
            assert math.isfinite(value)
    assert (got == columns.padding)[hidden].all()


@given(ROWS, HOW)
def test_matrix_is_the_same_from_the_input_as_from_a_chunk(rows, how):
    events = events_of(rows)
    specs = measured(events)
    columns = Columns.of(specs, how, -1.0)
    stored = as_stored(events, specs)
    assert stored["n"].dtype.itemsize <= 2 and stored["yes"].dtype == np.uint8
    assert matrix(events, columns).tobytes() == matrix(stored, columns).tobytes()
    assert mask(events, columns).tobytes() == mask(stored, columns).tobytes()


@given(ROWS)
def test_minmax_values_lie_between_0_and_1(rows):
    events = events_of(rows)
    specs = measured(events)
    got = matrix(events, Columns.of(specs))
    branches = [specs.flat[name] for name in FLAT]
    branches += [specs.jagged["a"]] * specs.jagged["a"].length + [specs.jagged["k"]] * specs.jagged[
        "k"
    ].length
    for column, branch in zip(got.T, branches, strict=True):
        width = (branch.maximum or 0.0) - (branch.minimum or 0.0)
        if width > 1e-40:
            # float32 cannot tell where a wide range ends.
            far = 2.0**-23 * (1 + max(abs(branch.minimum), abs(branch.maximum)) / width)
            assert column.min() >= 0 and column.max() <= 1 + far


def test_time_stamps_keep_their_range():
    stamps = 1.7e9 + np.arange(100) / 8
    specs = measured({"t": stamps})
    assert specs.flat["t"].stored == "float64"
    got = matrix({"t": stamps}, Columns.of(specs))[:, 0]
    np.testing.assert_allclose(got, np.arange(100) / 99, rtol=1e-6)
    # What is beyond float32 does not come back into it.
    odd = {"t": np.array([1e40, 1.7e9, 1.7e9 + 99 / 8])}
    assert matrix(odd, Columns.of(specs, padding=None))[:, 0].tolist() == [0, 0, 1]
    assert mask(odd, Columns.of(specs))[:, 0].tolist() == [True, False, False]


ONE = {"x": np.array([7.0, 1.0, 3.0, 5.0]), "c": np.array([7.5] * 4), "l": jagged([[2, 6], [], [4], []])}


@pytest.mark.parametrize(
    ("how", "wanted"),
    [
        ("minmax", [[7.5, 1, 0, 1], [7.5, 0, 0, 0], [7.5, 1 / 3, 0.5, 0], [7.5, 2 / 3, 0, 0]]),
        ("none", [[7.5, 7, 2, 6], [7.5, 1, 0, 0], [7.5, 3, 4, 0], [7.5, 5, 0, 0]]),
    ],
)
def test_small_matrix_by_hand(how, wanted):
    np.testing.assert_array_equal(matrix(ONE, Columns.of(measured(ONE), how)), np.array(wanted, np.float32))


def test_robust_takes_the_standard_deviation_where_quartiles_cannot_be_told_apart():
    numbers = {"x": np.array([-999.0] * 9 + [1.0])}
    branch = measured(numbers).flat["x"]
    scale = Columns.of(measured(numbers), "robust").scales["x"]
    assert scale.width == branch.standard_deviation == pytest.approx(300)
    assert scale.centre == pytest.approx(-999, rel=1 / 64)


def test_standard_and_robust_by_hand():
    specs = measured(ONE)
    deviation = math.sqrt(5)  # of 1, 3, 5, 7
    got = matrix(ONE, Columns.of(specs, "standard"))
    np.testing.assert_allclose(got[:, 1], (ONE["x"] - 4) / deviation, rtol=1e-6)
    np.testing.assert_array_equal(got[:, 0], 7.5)
    numbers = {"x": np.array([0, 1, 2, 3, 4, 5, 6, 7, 8, 60])}
    got = matrix(numbers, Columns.of(measured(numbers), "robust"))[:, 0]
    np.testing.assert_allclose(got, (numbers["x"] - 4) / 5, rtol=1e-6)  # quartiles 2 and 7


def test_padding_value_is_normalised_too():
    events = {"l": jagged([[10.0], [20.0], []]), "x": np.array([0.0, 4.0, math.nan])}
    columns = Columns.of(measured(events), padding=5.0)
    np.testing.assert_array_equal(matrix(events, columns)[2], [1.25, -0.5])
    np.testing.assert_array_equal(columns.padding, [1.25, -0.5])
    np.testing.assert_array_equal(mask(events, columns), [[False, False], [False, False], [True, True]])


@pytest.mark.parametrize("values", [[0.0, 1e-50], [5.0, 5.0], [math.nan, math.nan]])
def test_ranges_that_float32_cannot_divide_by_leave_values_as_they_are(values):
    events = {"x": np.array(values), "l": jagged([values, []])}
    for how in ("minmax", "standard", "robust"):
        columns = Columns.of(measured(events), how)
        scale = columns.scales["x"]
        assert (scale.centre, scale.width) == (0, 1)
        wanted = np.nan_to_num(np.array(values, np.float32))
        got = matrix(events, columns)
        assert got[:, 0].tolist() == wanted.tolist() == got[0, 1:].tolist()


@pytest.mark.parametrize("values", [[-3e38, 3e38, 0.0], [-LARGEST, LARGEST, 0.0]])
def test_ranges_wider_than_float32(values):
    events = {"x": np.array(values, np.float32), "l": jagged([values, [], []], np.float32)}
    got = matrix(events, Columns.of(measured(events), padding=-3e38))
    assert got[:, 0].tolist() == got[0, 1:].tolist() == [0, 1, 0.5]
    got = matrix(events, Columns.of(measured(events), "standard"))
    np.testing.assert_allclose(got[:, 0], [-math.sqrt(1.5), math.sqrt(1.5), 0], rtol=1e-6)


def test_padding_is_finite_however_narrow_the_range():
    events = {"x": np.array([0.0, 2e-38, math.nan])}
    assert matrix(events, Columns.of(measured(events), padding=-50.0))[:, 0].tolist() == [0, 1, -LARGEST]


def test_branch_whose_lists_are_all_empty_has_no_column():
    events = {"x": np.array([1.0, 2.0]), "none": jagged([[], []])}
    columns = Columns.of(measured(events))
    assert columns.names == ("x",)
    assert matrix(events, columns).tolist() == [[0], [1]] and mask(events, columns).tolist() == [[False]] * 2


def test_no_event_and_no_flat_branch():
    events = {"l": jagged([[1.0, 2.0]])}
    columns = Columns.of(measured(events))
    assert matrix({"l": jagged([])}, columns).shape == (0, 2)
    assert matrix({"l": jagged([[], [3.0]])}, columns).tolist() == [[0, 0], [2, 0]]


def test_list_longer_than_the_specs_is_refused():
    columns = Columns.of(measured({"a": jagged([[1.0], [3.0]]), "b": jagged([[], []])}))
    with pytest.raises(ValueError, match="a: a list has 2 elements, the specs say at most 1"):
        matrix({"a": jagged([[1.0], [1.0, 2.0]]), "b": jagged([[], []])}, columns)
    with pytest.raises(ValueError, match="b: a list has 1 elements, the specs say at most 0"):
        matrix({"a": jagged([[], []]), "b": jagged([[], [1.0]])}, columns)


def test_writing_into_an_array_that_is_there_leaves_nothing_of_it(tmp_path):
    columns = Columns.of(measured(ONE))
    wanted = matrix(ONE, columns)
    filled = np.full(wanted.shape, 99, np.float32)
    assert matrix(ONE, columns, out=filled) is filled and filled.tobytes() == wanted.tobytes()
    mapped = np.lib.format.open_memmap(tmp_path / "x.npy", "w+", np.float32, wanted.shape)
    matrix(ONE, columns, out=mapped)
    del mapped
    assert np.load(tmp_path / "x.npy").tobytes() == wanted.tobytes()


def test_more_rows_than_are_filled_at_a_time():
    rng = np.random.default_rng(1)
    n = 1300
    lists = [rng.random(k).tolist() for k in rng.integers(0, 4, n)]
    events = {"x": rng.random(n), "y": rng.random(n), "a": jagged(lists), "z": jagged(lists[::-1])}
    columns = Columns.of(measured(events), "none")
    got = matrix(events, columns)
    for i in (0, 511, 512, 700, 1024, n - 1):
        wanted = [events["x"][i], events["y"][i]]
        for each in (lists[i], lists[n - 1 - i]):
            wanted += [*each, *[0.0] * (3 - len(each))]
        assert got[i].tolist() == np.array(wanted, np.float32).tolist()


def test_columns_are_sorted_whatever_the_order_of_the_specs():
    branch = BranchSpecs(length=1, minimum=0, maximum=2)
    pair = BranchSpecs(length=2, minimum=0, maximum=4)
    specs = Specs(flat={"y": branch, "B": branch, "a": branch}, jagged={"z": pair, "c": branch}, kept=[])
    columns = Columns.of(specs)
    assert columns.names == ("B", "a", "y", "c_0", "z_0", "z_1")
    events = {
        "z": jagged([[4, 2]]), "y": np.array([1.0]), "c": jagged([[1]]), "a": np.array([2.0]),
        "B": np.array([0.0]),
    }  # fmt: skip
    assert matrix(events, columns).tolist() == [[0, 1, 0.5, 0.5, 1, 0.5]]


def test_specs_that_say_nothing_of_the_distribution_scale_by_minimum_and_maximum_only():
    branch = BranchSpecs(length=1, minimum=0, maximum=10)
    specs = Specs(flat={"x": branch}, jagged={}, kept=[])
    events = {"x": np.array([5.0, 20.0])}
    assert matrix(events, Columns.of(specs)).tolist() == [[0.5], [2.0]]
    for how in ("standard", "robust"):
        assert matrix(events, Columns.of(specs, how)).tolist() == [[5.0], [20.0]]
