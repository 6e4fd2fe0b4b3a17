"""Specs: parts in any order and grouping join to the same, and to what one pass finds."""

import json
import math
from itertools import pairwise

import numpy as np
import pytest
from data_tools import fake_reader, jagged, plain_dataset
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mlaas_condor.data import measuring, specs
from mlaas_condor.data.dataset import EntryRange
from mlaas_condor.data.selection import Cut, Steps
from mlaas_condor.data.specs import BranchSpecs, FileSpecs, Kept, Lost, Part, Specs

LARGEST = float(np.finfo(np.float32).max)
# What is beyond float32, but would be rounded into it, is nobody's value.
FLOATS = st.floats(width=64).filter(lambda x: not LARGEST < abs(x) < LARGEST * (1 + 1e-6))
VALUES = {
    np.float64: FLOATS,
    np.float32: st.floats(width=32),
    np.int32: st.integers(-(2**31), 2**31 - 1),
    np.uint64: st.integers(0, 2**64 - 1),
    np.bool_: st.booleans(),
}


@st.composite
def data(draw):
    """Draw the rows of two files, the types of the flat and of the jagged branch, and where to cut."""
    flat, many = draw(st.sampled_from(list(VALUES))), draw(st.sampled_from(list(VALUES)))
    lists = st.just([]) if draw(st.booleans()) else st.lists(VALUES[many], max_size=4)
    rows = draw(st.lists(st.tuples(VALUES[flat], lists), min_size=1, max_size=25))
    first = draw(st.integers(0, len(rows)))
    files = [rows[:first], rows[first:]]
    cuts = [draw(st.lists(st.integers(0, len(each)), max_size=4)) for each in files]
    return files, flat, many, [sorted({0, len(each), *cut}) for each, cut in zip(files, cuts, strict=True)]


def events_of(rows, flat, many):
    return {
        "flat": np.array([x for x, _ in rows], flat),
        "jagged": jagged([each for _, each in rows], many),
    }


def measured(files, ranges, block=10_000, steps=None, weight=""):
    """Measure (file, start, stop) of events in memory."""
    entries = [len(each["flat"]) for each in files]
    dataset = plain_dataset(
        entries, flat=["flat"], jagged=["jagged"], block=block, steps=steps or Steps(), weight=weight
    )
    reader = fake_reader(*files)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(measuring, "Reader", reader)
        found = measuring.measure(dataset, [EntryRange(file=f, start=a, stop=b) for f, a, b in ranges])
    assert reader.opened == 0
    return found


def content(part):
    """Return what of a part has nothing to do with how it was cut; also mean and deviation do, in the end."""
    rounded = {"distribution": {"total", "squares"}}
    return {name: branch.model_dump(exclude=rounded) for name, branch in part.branches.items()}, part.files


@given(data(), st.integers(1, 30), st.randoms())
@example(([[(-0.0, [0.0])], [(0.0, [-0.0])]], np.float64, np.float32, [[0, 1], [0, 1]]), 10, None)
def test_parts_join_in_any_order_and_grouping_to_one_pass(drawn, block, random):
    rows, flat, many, bounds = drawn
    files = [events_of(each, flat, many) for each in rows]
    ranges = [(f, a, b) for f, places in enumerate(bounds) for a, b in pairwise(places)]
    parts = [measured(files, [each], block) for each in ranges]
    at_once = specs.join(parts)
    while random and len(parts) > 1:
        random.shuffle(parts)
        parts.append(specs.join([parts.pop() for _ in range(min(len(parts), random.randint(2, 3)))]))
    grouped = specs.join(parts)
    # Not only equal but written the same: -0.0 equals 0.0.
    assert grouped == at_once and grouped.model_dump_json() == at_once.model_dump_json()
    one_pass = measured(files, [(f, 0, len(each)) for f, each in enumerate(rows) if each])
    assert content(at_once) == content(one_pass)
    assert sum(each.events for each in at_once.kept) == sum(map(len, rows))
    for name, branch in at_once.branches.items():
        joined, whole = specs.summarise(branch), specs.summarise(one_pass.branches[name])
        rounded = {"mean", "standard_deviation"}
        assert joined.model_dump(exclude=rounded) == whole.model_dump(exclude=rounded)
        if whole.values:
            spread = whole.maximum - whole.minimum
            assert joined.mean == pytest.approx(whole.mean, rel=1e-13, abs=1e-13 * spread)
            assert joined.standard_deviation == pytest.approx(whole.standard_deviation, rel=1e-8, abs=1e-150)


def slow(values):
    """Measure values one by one."""
    usable = [float(x) for x in values if abs(float(x)) <= LARGEST]
    return min(usable, default=None), max(usable, default=None), len(values) - len(usable), len(usable)


@given(data())
def test_specs_are_what_a_slow_look_at_each_value_finds(drawn):
    rows, flat, many, bounds = drawn
    files = [events_of(each, flat, many) for each in rows]
    part = measured(files, [(f, a, b) for f, places in enumerate(bounds) for a, b in pairwise(places)])
    every = [row for each in rows for row in each]
    one, several = (specs.summarise(part.branches[name]) for name in ("flat", "jagged"))
    assert (one.minimum, one.maximum, one.not_finite, one.values) == slow([flat(x) for x, _ in every])
    elements = [many(x) for _, each in every for x in each]
    assert (several.minimum, several.maximum, several.not_finite, several.values) == slow(elements)
    assert one.length == 1 and several.length == max(len(each) for _, each in every)
    assert one.whole == (flat in (np.int32, np.uint64, np.bool_))
    assert several.whole == (many in (np.int32, np.uint64, np.bool_))
    for file, each in enumerate(rows):
        if each:
            extent = part.files[file]["jagged"]
            low, high, _, _ = slow([many(x) for _, lists in each for x in lists])
            assert (extent.minimum, extent.maximum) == (low, high)
            assert extent.length == max(len(lists) for _, lists in each)


@settings(max_examples=30)
@given(data())
def test_what_is_written_is_read_back_the_same(tmp_path_factory, drawn):
    rows, flat, many, _ = drawn
    files = [events_of(each, flat, many) for each in rows]
    path = tmp_path_factory.getbasetemp() / "specs.json"
    ranges = [(f, 0, len(each)) for f, each in enumerate(rows) if each]
    part = measured(files, ranges)
    part.write(path)
    assert Part.read(path) == part
    FileSpecs(files=part.files).write(path)
    assert FileSpecs.read(path).files == part.files
    dataset = plain_dataset([len(each) for each in rows], flat=["flat"], jagged=["jagged"])
    whole = specs.of_dataset(dataset, part)
    whole.write(path)
    assert Specs.read(path) == whole and set(whole.flat) == {"flat"} and set(whole.jagged) == {"jagged"}
    assert "NaN" not in path.read_text() and "Infinity" not in path.read_text()


def test_only_what_is_finite_as_float32_is_measured():
    values = [-2.0, 1e308, math.nan, 1.0, -math.inf, math.inf, -1e39, LARGEST / 2]
    found = specs.summarise(
        measured([events_of([(x, []) for x in values], float, float)], [(0, 0, 8)]).branches["flat"]
    )
    assert (found.minimum, found.maximum, found.values, found.not_finite) == (-2.0, LARGEST / 2, 3, 5)
    assert found.mean == pytest.approx(LARGEST / 6) and sum(found.histogram) in (2, 3)
    half = {"flat": np.array([1, np.inf, 2], np.float16), "jagged": jagged([[], [], []])}
    found = measured([half], [(0, 0, 3)]).branches["flat"]
    assert (found.minimum, found.maximum, found.not_finite) == (1, 2, 1)


@given(st.lists(st.integers(-63, 63), min_size=1, max_size=80))
def test_quantiles_of_small_integers_are_exact(values):
    rows = [(x, []) for x in values]
    found = specs.summarise(measured([events_of(rows, np.int8, float)], [(0, 0, len(rows))]).branches["flat"])
    wanted = np.sort(values)[[-(-len(values) * p // 100) - 1 for p in (1, 5, 25, 50, 75, 95, 99)]]
    assert found.quantiles == wanted.tolist()
    assert [str(each) for each in found.quantiles if each == 0] == ["0.0"] * found.quantiles.count(0)


@pytest.mark.parametrize(
    ("low", "high", "whole", "not_finite", "dtype"),
    [
        (0, 255, True, 0, "uint8"), (-1, 127, True, 0, "int8"), (-1, 128, True, 0, "int16"),
        (0, 256, True, 0, "uint16"), (0, 65536, True, 0, "uint32"), (-40_000, 5, True, 0, "int32"),
        (None, None, True, 0, "uint8"), (0, 2**32, True, 0, "float32"), (0, 1, True, 1, "float32"),
        (0, 1, False, 0, "float32"), (None, None, False, 5, "float32"),
        # Time stamps: an hour of seconds since 1970, an hour of nanoseconds.
        (1.7e9, 1.7e9 + 3600, False, 0, "float64"), (2**60, 2**60 + 3.6e12, True, 0, "float64"),
        (5.0, 5.0, False, 0, "float32"), (1.0, 1.5, False, 0, "float32"), (-1e9, 1e9, False, 0, "float32"),
    ],
)  # fmt: skip
def test_type_that_chunks_store(low, high, whole, not_finite, dtype):
    branch = BranchSpecs(length=1, minimum=low, maximum=high, whole=whole, not_finite=not_finite)
    assert branch.stored == dtype


def ranges_of(*places):
    return [EntryRange(file=f, start=a, stop=b) for f, a, b in places]


def test_cut_flow_weights_and_losses_of_several_files():
    kept = [
        Kept(range=EntryRange(file=f, start=a, stop=b), flow=flow, weights=weights)
        for f, a, b, flow, weights in (
            (0, 0, 10, (10, 6, 3), (1e16, 1.0, 0.5)),
            (0, 10, 20, (10, 2, 2), (1.0, 1.0, 0.5)),
            (0, 20, 30, (10, 0, 0), (1.0, 0.0, 0.0)),
            (2, 0, 4, (4, 4, 4), (4.0, 4.0, 4.0)),
        )
    ]
    lost = [Lost(range=EntryRange(file=1, start=3, stop=10), reason="damaged")]
    found = Specs(flat={}, jagged={}, cuts=["a>1", "any(b<2)"], kept=kept, lost=lost)
    assert found.events == 9 and found.flow == [34, 12, 9] and found.entries_lost == 7
    assert found.flow_of(4) == [[30, 8, 5], [], [4, 4, 4], []]
    assert found.events_of(4) == [5, 0, 4, 0]
    # Exactly rounded: one after another the ones would be lost.
    assert found.weights_of(4) == [[1e16 + 2, 2.0, 1.0], [], [4.0, 4.0, 4.0], []]


def test_values_of_an_event():
    kept = [Kept(range=EntryRange(file=0, start=0, stop=4), flow=(4,))]
    flat = {"x": BranchSpecs(length=1, minimum=0, maximum=1, values=3, not_finite=1)}
    many = {"y": BranchSpecs(length=5, minimum=0, maximum=1, values=6)}
    assert Specs(flat=flat, jagged=many, kept=kept).values_an_event == 2.5
    given_ones = {"y": BranchSpecs(length=5, minimum=0, maximum=1)}  # do not say how many values there are
    assert Specs(flat=flat, jagged=given_ones, kept=kept).values_an_event == 6


ROWS = [(float(i), [1.0] * (i % 3)) for i in range(10)]


@pytest.mark.parametrize(
    "found", [[(0, 5)], [(0, 5), (5, 10), (5, 10)], [(0, 5), (4, 10)], [(0, 10), (2, 3)], [(0, 9)], []]
)
def test_parts_that_do_not_fit_the_plan_are_refused(found):
    tasks = [ranges_of((0, 0, 5)), ranges_of((0, 5, 10))]
    dataset = plain_dataset([10], tasks=tasks, flat=["flat"], jagged=["jagged"])
    files = [events_of(ROWS, float, float)]
    with pytest.raises(ValueError, match="planned were the entries"):
        specs.of_dataset(dataset, specs.join([measured(files, [(0, *each)]) for each in found]))


@pytest.mark.parametrize("found", [[(5, 10), (0, 5)], [(0, 10)], [(0, 1), (9, 10), (1, 9)]])
def test_parts_that_fit_the_plan_however_they_are_cut(found):
    tasks = [ranges_of((0, 0, 5)), ranges_of((0, 5, 10))]
    dataset = plain_dataset([10], tasks=tasks, flat=["flat"], jagged=["jagged"])
    files = [events_of(ROWS, float, float)]
    whole = specs.of_dataset(dataset, specs.join([measured(files, [(0, *each)]) for each in found]))
    assert whole.events == 10 and whole.flat["flat"].maximum == 9 and whole.jagged["jagged"].length == 2
    assert [kept.range.start for kept in whole.kept] == sorted(start for start, _ in found)


def test_lost_entries_count_as_planned():
    dataset = plain_dataset([10], flat=["flat"], jagged=["jagged"])
    part = measured([events_of(ROWS, float, float)], [(0, 0, 4)])
    lost = [Lost(range=EntryRange(file=0, start=4, stop=10), reason="damaged")]
    whole = specs.of_dataset(dataset, part.model_copy(update={"lost": lost}))
    assert whole.lost == lost and whole.events == 4 and whole.entries_lost == 6


def test_given_specs_go_before_measured_ones_and_no_event_kept_leaves_none():
    dataset = plain_dataset(
        [10],
        flat=["flat"],
        jagged=["jagged"],
        steps=Steps(cuts=[Cut(expression="flat>99", branches=["flat"])]),
    )
    part = measured([events_of(ROWS, float, float)], [(0, 0, 10)], steps=dataset.steps)
    assert part.branches == {} and part.files == {}
    whole = specs.of_dataset(dataset, part)
    assert (whole.flat, whole.jagged, whole.cuts, whole.flow) == ({}, {}, ["flat>99"], [10, 0])
    own = Specs(flat={"flat": BranchSpecs(length=1, minimum=0, maximum=5)}, jagged={}, kept=[])
    whole = specs.of_dataset(dataset, part, own)
    assert whole.flat == own.flat and whole.jagged == {} and whole.flow == [10, 0]


def test_branch_is_of_integers_only_where_every_file_says_so():
    whole, broken = events_of([(1, [2])], np.int32, np.int8), events_of([(1.5, [])], float, float)
    parts = [measured([whole, broken, whole], [(f, 0, 1)]) for f in range(3)]
    for some in ([0, 1], [1, 0], [0, 1, 2]):
        branches = specs.join([parts[i] for i in some]).branches
        assert not branches["flat"].whole and not branches["jagged"].whole
    assert specs.join([parts[0], parts[2]]).branches["flat"].whole


def test_numbers_that_are_none_are_never_written():
    part = measured([events_of([(math.nan, [math.inf])], float, float)], [(0, 0, 1)])
    text = json.loads(part.model_dump_json())
    assert text["branches"]["flat"]["minimum"] is None and text["branches"]["flat"]["not_finite"] == 1
    branch = specs.summarise(part.branches["jagged"])
    assert (branch.minimum, branch.mean, branch.standard_deviation) == (None, None, None)
    assert (branch.quantiles, branch.histogram, branch.length, branch.not_finite) == ([], [], 1, 1)
