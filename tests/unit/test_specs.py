"""Specs: parts in any order and grouping join to what one pass finds."""

import json
import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlaas_condor.data import specs
from mlaas_condor.data.dataset import Dataset, EntryRange, InputFile
from mlaas_condor.data.inputs import Jagged

VALUES = {
    np.float64: st.floats(width=64),
    np.float32: st.floats(width=32),
    np.int32: st.integers(-(2**31), 2**31 - 1),
    np.uint64: st.integers(0, 2**64 - 1),
    np.bool_: st.booleans(),
}
LARGEST = float(np.finfo(np.float32).max)


def column(lists, dtype):
    return Jagged(
        np.array([len(each) for each in lists], np.int64),
        np.array([x for each in lists for x in each], dtype),
    )


@st.composite
def data(draw):
    """Draw events as rows, the dtype of the flat and of the jagged branch, and where to cut the rows."""
    flat, jagged = draw(st.sampled_from(list(VALUES))), draw(st.sampled_from(list(VALUES)))
    lists = st.just([]) if draw(st.booleans()) else st.lists(VALUES[jagged], max_size=4)
    rows = draw(st.lists(st.tuples(VALUES[flat], lists), min_size=1, max_size=25))
    cuts = draw(st.lists(st.integers(0, len(rows)), max_size=5))
    return rows, flat, jagged, sorted({0, len(rows), *cuts})


def measure(rows, flat, jagged, start, stop, file=0):
    part = rows[start:stop]
    events = {
        "flat": np.array([x for x, _ in part], flat),
        "jagged": column([each for _, each in part], jagged),
    }
    return specs.measure(events, EntryRange(file=file, start=start, stop=stop))


def slow(values):
    """Measure values one by one."""
    usable = [float(x) for x in values if abs(float(x)) <= LARGEST]
    return min(usable, default=None), max(usable, default=None), len(values) - len(usable)


@given(data(), st.randoms())
def test_parts_join_in_any_order_and_grouping_to_one_pass(drawn, random):
    rows, flat, jagged, bounds = drawn
    parts = [measure(rows, flat, jagged, low, high) for low, high in pairwise(bounds)]
    whole = measure(rows, flat, jagged, 0, len(rows))
    kept = specs.join(parts).kept
    while len(parts) > 1:
        random.shuffle(parts)
        parts.append(parts.pop().join(parts.pop()))
    assert parts[0].flat == whole.flat and parts[0].jagged == whole.jagged
    assert parts[0].kept == kept and parts[0].events == whole.events == len(rows)
    # Not only equal but written the same: -0.0 equals 0.0.
    assert parts[0].model_dump_json(exclude={"kept"}) == whole.model_dump_json(exclude={"kept"})


@given(data())
def test_measure_is_what_a_slow_look_at_each_value_finds(drawn):
    rows, flat, jagged, _ = drawn
    found = measure(rows, flat, jagged, 0, len(rows))
    one, many = found.flat["flat"], found.jagged["jagged"]
    values = [flat(x) for x, _ in rows]
    elements = [jagged(x) for _, each in rows for x in each]
    assert (one.minimum, one.maximum, one.not_finite) == slow(values)
    assert (many.minimum, many.maximum, many.not_finite) == slow(elements)
    assert one.length == 1 and many.length == max(len(each) for _, each in rows)


@given(data())
def test_specs_read_back_are_the_same(tmp_path_factory, drawn):
    rows, flat, jagged, _ = drawn
    found = measure(rows, flat, jagged, 0, len(rows))
    path = tmp_path_factory.getbasetemp() / "specs.json"
    found.write(path)
    assert specs.Specs.read(path) == found


def test_values_beyond_float32_count_as_not_finite():
    found = measure([(1e308, [3.4028235e38]), (-2.0, [])], np.float64, np.float64, 0, 2)
    assert (found.flat["flat"].minimum, found.flat["flat"].maximum, found.flat["flat"].not_finite) == (
        -2,
        -2,
        1,
    )


def test_entry_ranges_of_several_files_add_up():
    rows = [(1.0, [])] * 10
    parts = [measure(rows, float, float, *each) for each in ((4, 10, 1), (0, 4, 1), (0, 5, 0))]
    joined = specs.join(parts)
    assert joined.events_of(3) == [5, 10, 0] and joined.events == 15
    assert [(kept.range.file, kept.range.start) for kept in joined.kept] == [(0, 0), (1, 0), (1, 4)]


def make_dataset(tasks):
    file = InputFile(path="/a.root", staged="0000_a.root", uuid="u", size=1, entries=10, used=10)
    return Dataset(
        files=[file], tree="t", flat=["flat"], jagged=["jagged"], identifiers=[], tasks=tasks, chunk_size=5,
        shuffle=True, seed=1,
    )  # fmt: skip


@pytest.mark.parametrize("ranges", [[(0, 5)], [(0, 5), (5, 10), (5, 10)], [(0, 5), (4, 10)], [(0, 10)]])
def test_parts_that_do_not_fit_the_plan_are_refused(ranges):
    dataset = make_dataset([[EntryRange(file=0, start=0, stop=5)], [EntryRange(file=0, start=5, stop=10)]])
    rows = [(1.0, [])] * 10
    parts = [measure(rows, float, float, *each) for each in ranges]
    with pytest.raises(ValueError, match="entry ranges were planned"):
        specs.of_dataset(dataset, parts)
    right = [measure(rows, float, float, *each) for each in ((5, 10), (0, 5))]
    assert specs.of_dataset(dataset, right).events == 10


def test_global_specs_are_written_as_mlaas4hep_does():
    events = {
        "nJets": np.array([2, 6]), "flatconst": np.array([3.0, 3.0]), "bad": np.array([math.nan, math.inf]),
        "pt": column([[1.0, -3.0], [5.0]], np.float32), "none": column([[], []], np.float32),
    }  # fmt: skip
    found = specs.measure(events, EntryRange(file=1, start=0, stop=2))
    out = specs.to_global_specs(found, ["/data/a.root", "/data/b.root"])
    assert list(out) == ["jdim", "minv", "maxv", "fkeys", "jkeys", "nans", "events"]
    assert out["jdim"] == {"pt": 2, "none": 0}
    assert out["minv"] == {"nJets": 2, "flatconst": 3, "bad": 0, "pt": -3, "none": 0}
    assert out["maxv"] == {"nJets": 6, "flatconst": 3, "bad": 0, "pt": 5, "none": 0}
    assert out["fkeys"] == ["bad", "flatconst", "nJets"] and out["jkeys"] == ["none", "pt"]
    # Where 0 goes when a branch is normalised.
    assert out["nans"] == {"nJets": -0.5, "flatconst": 0, "bad": 0, "pt": 3 / 8, "none": 0}
    assert out["events"] == {"/data/a.root": 0, "/data/b.root": 2, "total": 2}
    json.dumps(out, allow_nan=False)
