"""Measuring entry ranges: blocks, what is lost to damage, what is filled in, what is refused."""

import shutil
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import uproot
from data_tools import chunks_of, dataset_of, jagged, plain_dataset, specs_of
from hypothesis import given
from hypothesis import strategies as st

from mlaas_condor.data import measuring, specs
from mlaas_condor.data.dataset import EntryRange, split_entries
from mlaas_condor.data.events import part
from mlaas_condor.data.measuring import Measurement, blocks, measure
from mlaas_condor.data.selection import Cut, Definition, Steps
from mlaas_condor.errors import DataFault, InputChanged, InputUnreadable

SHARED = Path(__file__).parents[3] / "shared" / "data"


def entries(start, stop, file=0):
    return EntryRange(file=file, start=start, stop=stop)


@given(
    st.integers(0, 500),
    st.integers(1, 2000),
    st.lists(st.integers(0, 3000), max_size=30),
    st.integers(1, 700),
)
def test_blocks_cover_the_range_once_and_follow_the_boundaries(start, length, places, size):
    stop = start + length
    boundaries = sorted({0, *places})
    found = list(blocks(entries(start, stop), boundaries, size))
    assert found[0][0] == start and found[-1][1] == stop
    assert all(one[1] == two[0] for one, two in pairwise(found))
    assert all(low < high <= low + 1.5 * size for low, high in found)
    inside = {start, stop, *(place for place in boundaries if start < place < stop)}
    edges = {edge for each in found for edge in each}
    for low, high in found:
        if low in inside and high not in inside:
            # Only what lies further apart than a block is split between boundaries.
            following = min(place for place in inside if place > low)
            assert following - low > 1.5 * size
    # A block ends early only where the next boundary would make it too large.
    for low, high in found:
        if high in inside and high != stop and low in inside:
            following = min(place for place in inside if place > high)
            assert following - low > size
    assert all(high - low <= size for low, high in found if {low, high} <= inside and high - low > 1.5 * size)
    assert edges >= {start, stop}


def test_blocks_between_distant_boundaries_are_even():
    assert list(blocks(entries(0, 100), [0, 100], 30)) == [(0, 25), (25, 50), (50, 75), (75, 100)]
    assert list(blocks(entries(0, 40), [0, 100], 30)) == [(0, 40)]
    assert list(blocks(entries(0, 100), [0, 10, 20, 35, 90, 100], 30)) == [
        (0, 20), (20, 35), (35, 62), (62, 90), (90, 100),
    ]  # fmt: skip


class Damaged:
    """A file with places that cannot be read."""

    def __init__(self, dataset, position, *_):
        self.source = SimpleNamespace(path="damaged.root", boundaries=lambda _: [0, dataset.files[0].entries])

    def read(self, names, start, stop):
        if any(start < high and low < stop for low, high in self.bad):
            raise InputUnreadable(f"entries {start} to {stop} are damaged")
        return {"x": np.arange(start, stop)}

    def ahead(self, names, start, stop):
        pass

    def close(self):
        pass


BAD = st.lists(
    st.tuples(st.integers(0, 4999), st.integers(1, 700)).map(lambda each: (each[0], sum(each))), max_size=4
)


@given(BAD, st.integers(50, 6000), st.lists(st.integers(1, 4999), max_size=3))
def test_what_surrounds_a_damaged_place_is_kept_and_lost_ranges_are_joined(bad, block, cuts):
    n = 5000
    tasks = [[entries(low, high)] for low, high in pairwise(sorted({0, n, *cuts}))]
    dataset = plain_dataset([n], tasks=tasks, flat=["x"], block=block, may_lose=0.5)
    bad = [(low, min(high, n)) for low, high in bad]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(measuring, "Reader", type("Reader", (Damaged,), {"bad": bad}))
        parts = [measure(dataset, task) for task in tasks]
    damaged = np.zeros(n, np.bool_)
    for low, high in bad:
        damaged[low:high] = True
    kept, lost = np.zeros(n, np.int64), np.zeros(n, np.int64)
    for found in parts:
        for each in found.kept:
            kept[each.range.start : each.range.stop] += 1
        for each in found.lost:
            lost[each.range.start : each.range.stop] += 1
            # At each end, not more than a piece of the finest size is lost beyond the damage.
            inside = damaged[each.range.start : each.range.stop]
            assert inside[:100].any() and inside[-100:].any() and "are damaged" in each.reason
        assert all(one.range.stop < two.range.start for one, two in pairwise(found.lost))
    assert (kept + lost == 1).all() and not (damaged & (kept == 1)).any()
    assert lost.sum() <= damaged.sum() + 200 * max(1, len(bad))
    if kept.any():
        whole = specs.of_dataset(dataset, specs.join(parts))
        good = np.flatnonzero(kept)
        assert (whole.flat["x"].minimum, whole.flat["x"].maximum) == (good[0], good[-1])
        assert whole.flat["x"].values == whole.events == len(good) == n - whole.entries_lost


def test_nothing_is_lost_unless_it_may_be(monkeypatch):
    monkeypatch.setattr(measuring, "Reader", type("Reader", (Damaged,), {"bad": [(700, 701)]}))
    with pytest.raises(InputUnreadable, match="entries 500 to 1000 are damaged"):
        measure(plain_dataset([2000], flat=["x"], block=500), [entries(0, 2000)])
    found = measure(plain_dataset([2000], flat=["x"], block=500, may_lose=0.01), [entries(0, 2000)])
    assert [(each.range.start, each.range.stop) for each in found.lost] == [(687, 750)]
    # A whole range of that size is not looked into.
    found = measure(plain_dataset([2000], flat=["x"], may_lose=0.1), [entries(650, 750), entries(750, 760)])
    assert [(each.range.start, each.range.stop) for each in found.lost] == [(650, 750)]
    assert [(each.range.start, each.range.stop) for each in found.kept] == [(750, 760)]


def damage(path, branch, basket):
    """Destroy one basket of a branch of a file."""
    with uproot.open(path) as file:
        found = file["events"][branch]
        start = found.member("fBasketSeek")[basket]
        low, high = found.entry_offsets[basket : basket + 2]
    data = bytearray(path.read_bytes())
    data[start + 80 : start + 130] = bytes(50)
    path.chmod(0o644)
    path.write_bytes(data)
    return low, high


def test_damaged_basket_of_a_real_file_costs_what_lies_around_it(tmp_path, mktree):
    path = mktree("a.root", 0, only={"x": np.zeros(0), "y": np.zeros(0)})
    rng = np.random.default_rng(1)
    with uproot.recreate(path) as file:
        tree = file.mktree("events", {"x": np.float64, "y": np.float64})
        for _ in range(5):
            tree.extend({"x": rng.random(400), "y": rng.random(400)})
    low, high = damage(path, "x", 2)
    assert (low, high) == (800, 1200)
    with pytest.raises(InputUnreadable, match="of x cannot be read"):
        specs_of(dataset_of([path]))
    found = specs_of(dataset_of([path], may_lose=0.3, block=1000))
    assert [(each.range.start, each.range.stop) for each in found.lost] == [(800, 1200)]
    assert "a.root" in found.lost[0].reason and "of x" in found.lost[0].reason
    assert found.events == 1600 and found.flat["y"].values == 1600
    assert specs_of(dataset_of([path], features=["y"])).events == 2000
    # Where it is no feature, chunks need it all the same.
    for more in ({}, {"given": "digest"}):
        dataset = dataset_of([path], features=["y"], carried=["x"], may_lose=0.3, block=1000, **more)
        found = specs_of(dataset, found if more else None)
        assert [(each.range.start, each.range.stop) for each in found.lost] == [(800, 1200)]
        places = sorted(entry for chunk in chunks_of(dataset, found) for entry in chunk.entry.tolist())
        assert places == [*range(800), *range(1200, 2000)]


@pytest.mark.skipif(not SHARED.is_dir(), reason="the shared files are not here")
def test_damaged_file_of_others(tmp_path):
    path = SHARED / "broken" / "flipped_Jet_Px.root"
    names = ["Jet_Px", "MET_px", "NJet"]
    with pytest.raises(InputUnreadable, match="Jet_Px"):
        specs_of(dataset_of([path], features=names))
    # Its one basket holds every entry.
    lost = specs_of(dataset_of([path], features=names, may_lose=1.0))
    assert lost.events == 0 and lost.entries_lost == 2421 and len(lost.lost) == 1
    found = specs_of(dataset_of([path], features=names[1:], may_lose=1.0))
    assert found.events == 2421 and found.lost == []


def test_file_that_cannot_be_opened_is_lost_and_one_that_changed_is_not(mktree):
    paths = [mktree(f"{i}.root", 30, seed=i) for i in range(3)]
    dataset = dataset_of(paths, carried=["run", "event"], tasks=2, may_lose=0.4)
    whole = paths[1].read_bytes()
    paths[1].write_bytes(whole[: len(whole) // 2])
    found = specs_of(dataset)
    assert {(each.range.file, each.range.stop - each.range.start) for each in found.lost} == {(1, 15)}
    assert found.events_of(3) == [30, 0, 30] and found.flow_of(3)[1] == []
    shutil.copy(paths[0], paths[1])
    with pytest.raises(InputChanged, match="submit the run again"):
        specs_of(dataset)
    paths[1].unlink()
    with pytest.raises(InputUnreadable, match="no such file"):
        specs_of(dataset.model_copy(update={"may_lose": 0.0}))


def test_branches_that_a_file_does_not_have_are_filled(mktree):
    only = {"x": np.arange(5, dtype=np.int32), "y": np.ones(5)}
    paths = [mktree("0.root", only=only), mktree("1.root", only={"y": np.zeros(4)}), mktree("2.root", 6)]
    fields = {"features": [], "flat": ["met", "x", "y"], "jagged": ["jet_pt"]}
    fill = {"x": "flat", "met": "flat", "jet_pt": "jagged", "y": "flat"}
    found = specs_of(dataset_of(paths, **fields, fill_missing=fill))
    assert (found.flat["x"].minimum, found.flat["x"].maximum) == (0, 4)
    assert (found.flat["x"].values, found.flat["x"].not_finite, found.flat["x"].whole) == (5, 10, False)
    assert (found.flat["y"].values, found.flat["y"].not_finite) == (9, 6)
    assert found.flat["met"].values + found.flat["met"].not_finite == 15
    alone = specs_of(dataset_of(paths[2:], features=["jet_pt"]))
    assert found.jagged["jet_pt"].model_dump(exclude={"histogram"}) == alone.jagged["jet_pt"].model_dump(
        exclude={"histogram"}
    )
    assert found.events_of(3) == [5, 4, 6]
    del fill["x"]
    with pytest.raises(InputUnreadable, match=r"1.root.* x( |$)"):
        specs_of(dataset_of(paths, **fields, fill_missing=fill))


CUT = Steps(cuts=[Cut(expression="njets>5", branches=["njets"])])


def test_with_given_specs_events_are_only_counted(mktree):
    paths = [mktree(f"{i}.root", 30, seed=i) for i in range(2)]
    plain = dataset_of(paths, carried=["run", "event"], given="digest")
    measurement = Measurement(plain)
    assert measurement.needs_no_file
    for path in paths:
        path.rename(path.with_suffix(".gone"))
    found = measure(plain, plain.tasks[0])
    assert found.branches == {} and found.files == {}
    assert [each.flow for each in found.kept] == [(30,), (30,)]
    for path in paths:
        path.with_suffix(".gone").rename(path)
    cutting = plain.model_copy(update={"steps": CUT, "block": 7})
    assert not Measurement(cutting).needs_no_file
    counted = measure(cutting, cutting.tasks[0])
    whole = measure(cutting.model_copy(update={"given": ""}), cutting.tasks[0])
    assert counted.kept == whole.kept and counted.branches == {} and counted.files == {}
    assert set(whole.branches) == {*plain.flat, *plain.jagged}
    weighted = cutting.model_copy(update={"steps": Steps(), "weight": "njets"})
    assert measure(weighted, weighted.tasks[0]).kept[0].weights != ()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_weights_that_are_not_finite_are_refused(mktree, value):
    weights = np.ones(30)
    path = mktree("a.root", 30, w=weights)
    fields = {"carried": ["run", "event", "w"], "weight": "w", "block": 10}
    assert specs_of(dataset_of([path], **fields)).weights_of(1) == [[30.0]]
    weights[17] = value
    path = mktree("b.root", 30, w=weights)
    with pytest.raises(DataFault, match=r"b.root: entries 10 to 20: weight 'w' is not finite for all events"):
        specs_of(dataset_of([path], **fields))
    # Nor where no event of the block passes the cuts.
    steps = Steps(cuts=[Cut(expression="njets>99", branches=["njets"])])
    with pytest.raises(DataFault, match="is not finite"):
        specs_of(dataset_of([path], **fields, steps=steps))


def test_expression_that_does_not_fit_the_events_is_told_with_the_place(mktree):
    path = mktree("a.root", 30)
    steps = Steps(
        definitions=[Definition(name="s", expression="jet_pt+jet_id", branches=["jet_pt", "jet_id"])]
    )
    dataset = dataset_of([path], features=[], flat=[], jagged=["s"], steps=steps)
    with pytest.raises(DataFault, match=r"(?s)a.root: entries 0 to 30: lists of different lengths"):
        specs_of(dataset)


def test_cuts_and_new_branches_are_measured_after_the_cuts(mktree):
    path = mktree("a.root", 200)
    steps = Steps(
        definitions=[Definition(name="half", expression="jet_pt/2", branches=["jet_pt"])],
        cuts=[
            Cut(expression="half>20", branches=["half"], elements="any"),
            Cut(expression="njets<6", branches=["njets"]),
        ],
        max_length={"half": 2},
    )
    found = specs_of(dataset_of([path], features=[], flat=["njets"], jagged=["half"], steps=steps, block=30))
    with uproot.open(path) as file:
        arrays = file["events"].arrays(["njets", "jet_pt"])
    rows = list(zip(arrays["njets"].tolist(), arrays["jet_pt"].tolist(), strict=True))
    first = [(n, [x / 2 for x in each]) for n, each in rows if any(x / 2 > 20 for x in each)]
    kept = [(n, each[:2]) for n, each in first if n < 6]
    assert found.flow == [200, len(first), len(kept)] and 0 < len(kept) < len(first) < 200
    assert found.cuts == ["any(half>20)", "njets<6"]
    values = [x for _, each in kept for x in each]
    half = found.jagged["half"]
    assert (half.length, half.minimum, half.maximum, half.values) == (
        2,
        min(values),
        max(values),
        len(values),
    )
    assert found.flat["njets"].maximum == max(n for n, _ in kept)
    assert found.flat["njets"].whole and not half.whole


@given(st.integers(1, 9), st.integers(1, 60))
def test_events_kept_do_not_depend_on_tasks_and_blocks(tasks, block):
    events = {"x": np.arange(100) % 7, "y": jagged([[i] * (i % 3) for i in range(100)])}
    steps = Steps(cuts=[Cut(expression="y>30", branches=["y"], elements="all")])

    class Reader:
        def __init__(self, *_):
            self.source = SimpleNamespace(path="", boundaries=lambda _: [0, 30, 60, 100])

        def read(self, names, start, stop):
            return {name: part(events[name], start, stop) for name in names}

        def ahead(self, names, start, stop):
            pass

        def close(self):
            pass

    dataset = plain_dataset(
        [100], tasks=split_entries([100], tasks), flat=["x"], jagged=["y"], steps=steps, block=block
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(measuring, "Reader", Reader)
        found = specs_of(dataset)
    passed = [all(i > 30 for _ in range(i % 3)) for i in range(100)]
    assert found.flow == [100, sum(passed)]
    for kept in found.kept:
        assert kept.events == sum(passed[kept.range.start : kept.range.stop])
    assert found.flat["x"].values == sum(passed)
