"""Chunks: every event once, in proportion, and the same whenever, wherever and in whatever order."""

import random
import threading
from functools import partial
from itertools import pairwise

import numpy as np
import pytest
import uproot
from data_tools import chunks_of, dataset_of, same_chunk, specs_of, to_lists
from hypothesis import given, settings
from hypothesis import strategies as st

from mlaas_condor.data import chunks, specs
from mlaas_condor.data.dataset import (
    Dataset,
    EntryRange,
    Function,
    InputFile,
    Unreadable,
    share,
    split_entries,
)
from mlaas_condor.data.measuring import Measurement
from mlaas_condor.data.selection import Cut, Definition, Steps
from mlaas_condor.errors import InputChanged, InputUnreadable

FILES = st.lists(st.integers(0, 120), min_size=1, max_size=12).filter(any)
SIZES = st.sampled_from([-1, 1, 2, 7, 30, 10_000])


@settings(max_examples=50)
@given(FILES, SIZES)
def test_dealing_gives_every_event_to_one_chunk_and_all_chunks_as_many(events, size):
    number = chunks.count(sum(events), size)
    dealt = [chunks.deal(events, size, k) for k in range(number)]
    for file, n in enumerate(events):
        ranges = [chunk[file] for chunk in dealt]
        assert ranges[0][0] == 0 and ranges[-1][1] == n
        assert all(stop == start for (_, stop), (start, _) in pairwise(ranges))
        assert all(start <= stop for start, stop in ranges)
    lengths = [sum(stop - start for start, stop in each) for each in dealt]
    assert max(lengths) - min(lengths) <= 1 and min(lengths) > 0
    assert size == -1 or max(lengths) <= size


@given(FILES, SIZES)
def test_every_chunk_has_of_every_file_its_proportion(events, size):
    number = chunks.count(sum(events), size)
    for k in {0, number // 2, number - 1}:
        for n, (start, stop) in zip(events, chunks.deal(events, size, k), strict=True):
            assert abs((stop - start) - n / number) <= 2 + len(events) * n / sum(events)


@given(st.integers(1, 40), st.integers(1, 300), SIZES)
def test_files_of_one_length_give_equally_within_two_events(files, n, size):
    number = chunks.count(files * n, size)
    for k in {0, number // 2, number - 1}:
        dealt = [stop - start for start, stop in chunks.deal([n] * files, size, k)]
        assert max(dealt) - min(dealt) <= 2


def test_many_small_files_fill_all_chunks():
    lengths = [sum(b - a for a, b in chunks.deal([1] * 100, 10, k)) for k in range(10)]
    assert lengths == [10] * 10


def test_small_files_of_one_class_after_another_give_to_all_chunks():
    for k in range(10):
        dealt = [stop - start for start, stop in chunks.deal([3] * 100, 30, k)]
        assert 12 <= sum(dealt[:50]) <= 18 and sum(dealt) == 30


@given(st.lists(st.integers(0, 10**6), min_size=1, max_size=30), st.integers(1, 10**7))
def test_share_is_exact_in_proportion_and_never_above_what_there_is(weights, total):
    shares = share(total, weights)
    assert sum(shares) == min(total, sum(weights))
    assert all(0 <= each <= weight for each, weight in zip(shares, weights, strict=True))
    if total < sum(weights):
        exact = [total * weight / sum(weights) for weight in weights]
        assert all(abs(each - wanted) < 1 for each, wanted in zip(shares, exact, strict=True))


PLACES = st.lists(st.integers(0, 120), max_size=6)


@given(FILES, st.integers(1, 20), st.none() | PLACES)
def test_split_entries_covers_every_entry_once_in_lists_of_nearly_equal_length(used, tasks, places):
    tasks = min(tasks, sum(used))

    def boundaries(file):
        return sorted({0, used[file] + 5, *places})

    split = split_entries(used, tasks, boundaries if places is not None else None)
    found = [(r.file, entry) for task in split for r in task for entry in range(r.start, r.stop)]
    assert found == [(file, entry) for file, n in enumerate(used) for entry in range(n)]
    lengths = [sum(r.stop - r.start for r in task) for task in split]
    assert len(split) == tasks and all(r.start < r.stop for task in split for r in task)
    if places is None:
        assert max(lengths) - min(lengths) <= 1
    else:
        third = sum(used) // tasks // 3
        assert min(lengths) > 0 and max(lengths) - min(lengths) <= 1 + 4 * third


def test_split_follows_the_boundaries_that_are_near():
    split = split_entries([100, 100], 4, lambda file: [0, 45, 60, 100])
    assert [[(r.file, r.start, r.stop) for r in task] for task in split] == [
        [(0, 0, 45)], [(0, 45, 100)], [(1, 0, 45)], [(1, 45, 100)],
    ]  # fmt: skip
    far = split_entries([100], 2, lambda file: [0, 10, 100])
    assert [task[0].stop for task in far] == [50, 100]


# ---- made from files


@pytest.fixture
def paths(mktree):
    return [mktree(f"{i}.root", n, seed=i) for i, n in enumerate((40, 7, 63))]


plan = partial(dataset_of, carried=["run", "event"], tasks=3)
STEPS = Steps(
    definitions=[
        Definition(name="half", expression="jet_pt/2", branches=["jet_pt"]),
        Definition(name="more", expression="half+njets", branches=["half", "njets"]),
    ],
    cuts=[
        Cut(expression="more>25", branches=["more"], elements="any"),
        Cut(expression="jet_id<8", branches=["jet_id"], elements="all"),
        Cut(expression="charge>=0", branches=["charge"]),
    ],
    max_length={"jet_pt": 3},
)
WITH_STEPS = {
    "features": ["charge", "constant", "jet_id", "jet_pt", "met", "never", "njets", "trigger"],
    "steps": STEPS,
}


def with_steps(paths, **fields):
    dataset = plan(paths, **{**WITH_STEPS, **fields})
    return dataset.model_copy(update={"jagged": [*dataset.jagged, "half"]})


def rows_of(paths):
    """Return all events as plain Python, by file and entry."""
    rows = {}
    for file, path in enumerate(paths):
        with uproot.open(path) as opened:
            arrays = opened["events"].arrays(library="ak")
            names = [name for name in arrays.fields if not name.startswith("_n_")]
            columns = {name: arrays[name].tolist() for name in names}
        for entry in range(len(columns["met"])):
            rows[file, entry] = {name: column[entry] for name, column in columns.items()}
    return rows


def where(chunk):
    return list(zip(chunk.file.tolist(), chunk.entry.tolist(), strict=True))


def passes(row):
    more = [x / 2 + row["njets"] > 25 for x in row["jet_pt"]]
    return any(more) and all(x < 8 for x in row["jet_id"]) and row["charge"] >= 0


@pytest.mark.parametrize("chunk_size", [-1, 1, 10, 25, 1000])
@pytest.mark.parametrize("cut", [False, True])
def test_every_event_is_in_one_chunk_with_the_values_of_the_inputs(paths, chunk_size, cut):
    dataset = (with_steps if cut else plan)(paths, chunk_size=chunk_size)
    found = specs_of(dataset)
    made = chunks_of(dataset, found)
    rows = rows_of(paths)
    wanted = [place for place, row in rows.items() if passes(row) or not cut]
    assert 5 < len(wanted) <= 110 and (len(wanted) < 110) == cut and found.events == len(wanted)
    assert sorted(place for chunk in made for place in where(chunk)) == wanted
    lengths = [len(chunk) for chunk in made]
    assert max(lengths) - min(lengths) <= 1
    for chunk in made:
        columns = {name: to_lists(column) for name, column in chunk.events.items()} | {
            name: values.tolist() for name, values in chunk.carried.items()
        }
        for i, place in enumerate(where(chunk)):
            row = rows[place]
            if cut:
                row = {**row, "half": [x / 2 for x in row["jet_pt"]], "jet_pt": row["jet_pt"][:3]}
            for name, column in columns.items():
                got = np.array(column[i], np.float32 if name not in chunk.carried else np.uint64)
                assert got.tobytes() == np.array(row[name], got.dtype).tobytes()
        assert set(columns) == {*dataset.flat, *dataset.jagged, "run", "event"}
        assert chunk.carried["event"].dtype == np.uint64 and chunk.events["njets"].dtype == np.uint8
        assert chunk.events["charge"].dtype == (np.uint8 if cut else np.int8)
        assert chunk.events["met"].dtype == np.float32 and chunk.events["never"].values.dtype == np.float32


def test_only_the_entries_used_are_in_chunks(paths):
    dataset = plan(paths, used=[10, 0, 30])
    made = chunks_of(dataset, specs_of(dataset))
    places = sorted(place for chunk in made for place in where(chunk))
    assert places == [(0, e) for e in range(10)] + [(2, e) for e in range(30)]


@pytest.mark.parametrize("make_plan", [plan, with_steps])
def test_chunk_is_the_same_whenever_and_in_whatever_order_and_batch(paths, monkeypatch, make_plan):
    dataset = make_plan(paths, chunk_size=9)
    found = specs_of(dataset)
    once = chunks_of(dataset, found)
    assert len(once) >= 4
    for size in (1, 2000, 10**9):  # bytes: chunk by chunk, a few, all of them
        monkeypatch.setattr(chunks, "BATCH_BYTES", size)
        maker = chunks.Maker(dataset, found)
        for k in random.Random(1).sample(range(len(once)), len(once)):
            ((index, chunk),) = maker.make(k, k)
            assert index == k and same_chunk(chunk, once[k])
        several = list(maker.make(1, len(once) - 1))
        assert [index for index, _ in several] == list(range(1, len(once)))
        assert all(same_chunk(chunk, once[index]) for index, chunk in several)
        maker.close()


@pytest.mark.parametrize("make_plan", [plan, with_steps])
def test_chunks_do_not_depend_on_how_the_measuring_was_split(paths, make_plan):
    dataset = make_plan(paths)
    once = chunks_of(dataset, specs_of(dataset))
    used = [file.used for file in dataset.files]
    single = [[EntryRange(file=f, start=s, stop=s + 1)] for f, n in enumerate(used) for s in range(n)]
    for tasks, block in ((split_entries(used, 7), 10_000), (split_entries(used, 2), 4), (single, 1)):
        other = dataset.model_copy(update={"tasks": tasks, "block": block})
        made = chunks_of(other, specs_of(other))
        assert len(made) == len(once)
        assert all(same_chunk(one, two) for one, two in zip(once, made, strict=True))
        assert other.chunks_key == dataset.chunks_key and other.specs_key != dataset.specs_key


def test_files_that_give_nothing_have_no_say_in_the_types(mktree, monkeypatch):
    paths = [
        mktree(f"{i}.root", n, seed=i, mark=np.zeros(n, dtype))
        for i, (n, dtype) in enumerate(((60, np.int32), (1, np.float64)))
    ]
    dataset = plan(paths, carried=["run", "event", "mark"], chunk_size=10)
    found = specs_of(dataset)
    monkeypatch.setattr(chunks, "BATCH_BYTES", 1)
    alone = chunks_of(dataset, found)
    monkeypatch.setattr(chunks, "BATCH_BYTES", 10**9)
    together = chunks_of(dataset, found)
    assert all(same_chunk(one, two) for one, two in zip(alone, together, strict=True))
    kinds = {chunk.carried["mark"].dtype.kind for chunk in together}
    assert kinds == {"i", "f"}


def test_file_is_read_once_for_several_chunks(paths, monkeypatch):
    dataset = with_steps(paths, chunk_size=5)
    found = specs_of(dataset)
    read = []

    class Reader(chunks.Reader):
        def read(self, names, start, stop):
            read.append((self.source.path, stop - start, len(list(names))))
            return super().read(names, start, stop)

    monkeypatch.setattr(chunks, "Reader", Reader)
    chunks_of(dataset, found)
    assert len(read) <= 2 * len(found.kept) and len({path for path, _, _ in read}) == 3


def test_no_more_files_are_kept_open_than_allowed(paths, monkeypatch):
    class Reader(chunks.Reader):
        open = most = 0

        def __init__(self, *arguments, **named):
            super().__init__(*arguments, **named)
            Reader.open += 1
            Reader.most = max(Reader.most, Reader.open)

        def close(self):
            super().close()
            Reader.open -= 1

    dataset = plan(paths, chunk_size=20)
    found = specs_of(dataset)
    once = chunks_of(dataset, found)
    monkeypatch.setattr(chunks, "Reader", Reader)
    monkeypatch.setattr(chunks, "BATCH_BYTES", 1)
    for allowed in (3, 1, 0):
        monkeypatch.setattr(chunks, "OPEN_FILES", allowed)
        Reader.most = 0
        assert all(same_chunk(one, two) for one, two in zip(once, chunks_of(dataset, found), strict=True))
        assert Reader.open == 0 and Reader.most == min(allowed + 1, 3)


def test_threads_make_no_difference_and_are_not_left_behind(paths):
    dataset = with_steps(paths)
    found = specs_of(dataset)
    before = threading.active_count()
    measurement = Measurement(dataset, threads=3)
    for task in dataset.tasks:
        for entries in task:
            measurement.measure(entries)
    assert specs.of_dataset(dataset, measurement.part()).kept == found.kept
    maker = chunks.Maker(dataset, found, threads=3)
    several = [chunk for _, chunk in maker.make(0, 1)]
    maker.close()
    assert threading.active_count() == before
    once = chunks_of(dataset, found)
    assert len(several) == 2 and all(same_chunk(one, two) for one, two in zip(several, once, strict=False))


def test_shuffling_changes_the_order_within_a_chunk_only(paths):
    mixed, plain, other = (
        chunks_of(dataset, specs_of(dataset))
        for dataset in (plan(paths), plan(paths, shuffle=False), plan(paths, seed=22))
    )
    for one, two, three in zip(mixed, plain, other, strict=True):
        assert sorted(where(one)) == where(two) == sorted(where(three))
        assert where(one) != where(two) != where(three) != where(one)
    orders = [tuple(np.argsort(np.lexsort((each.entry, each.file))).tolist()) for each in mixed]
    assert len({len(each) for each in orders}) < len(orders) == len(set(orders))


def test_lost_entries_are_in_no_chunk(paths):
    dataset = plan(paths, tasks=1)
    found = specs_of(dataset)
    kept = [each for each in found.kept if each.range.file != 1]
    some = kept[0].model_copy(update={"range": EntryRange(file=0, start=0, stop=12), "flow": (12,)})
    more = kept[0].model_copy(update={"range": EntryRange(file=0, start=20, stop=40), "flow": (20,)})
    part = found.model_copy(update={"kept": [some, more, *kept[1:]]})
    places = sorted(place for chunk in chunks_of(dataset, part) for place in where(chunk))
    first = [(0, e) for e in range(40) if not 12 <= e < 20]
    assert places == first + [(2, e) for e in range(63)]


def test_branches_that_a_file_does_not_have(mktree):
    paths = [mktree("0.root", 20), mktree("1.root", 20, seed=1, njets=None, jet_pt=None)]
    fill = {"njets": "flat", "jet_pt": "jagged"}
    dataset = plan(paths, features=["njets", "jet_pt", "met"], fill_missing=fill)
    for chunk in chunks_of(dataset, specs_of(dataset)):
        filled = chunk.file == 1
        assert 0 < filled.sum() < len(chunk)
        assert (np.isnan(chunk.events["njets"]) == filled).all()
        assert (chunk.events["jet_pt"].counts[filled] == 0).all()
        assert (chunk.events["jet_pt"].counts[~filled] > 0).any()


def test_changed_or_vanished_file_is_not_read(paths, mktree):
    dataset = plan(paths)
    found = specs_of(dataset)
    other = mktree("1b.root", 7, seed=1)
    paths[1].write_bytes(other.read_bytes())
    with pytest.raises(InputChanged, match="submit the run again"):
        chunks_of(dataset, found)
    paths[1].unlink()
    with pytest.raises(InputUnreadable, match="no such file"):
        chunks_of(dataset, found)


def test_other_events_than_measured_are_a_change(paths):
    dataset = plan(paths)
    found = specs_of(dataset)
    short = found.jagged["jet_pt"].model_copy(update={"length": 1})
    with pytest.raises(InputChanged, match="jet_pt: a list has"):
        chunks_of(dataset, found.model_copy(update={"jagged": {**found.jagged, "jet_pt": short}}))
    dataset = with_steps(paths)
    found = specs_of(dataset)
    flow = found.kept[0].flow
    fewer = found.kept[0].model_copy(update={"flow": (*flow[:-1], flow[-1] - 1)})
    with pytest.raises(InputChanged, match=rf"{flow[-1]} pass the cuts, {flow[-1] - 1} did"):
        chunks_of(dataset, found.model_copy(update={"kept": [fewer, *found.kept[1:]]}))


def test_identifier_that_is_jagged_is_refused(paths):
    dataset = plan(paths, carried=["jet_pt"])
    with pytest.raises(ValueError, match="jet_pt: must be one number an event"):
        chunks_of(dataset, specs_of(dataset))


# ---- the dataset itself


def test_dataset_read_back_is_the_same_and_keys_follow_the_content(paths, tmp_path):
    dataset = with_steps(paths)
    dataset.write(tmp_path / "d.json")
    assert Dataset.read(tmp_path / "d.json") == dataset
    moved = dataset.model_copy(update={"files": [f.model_copy(update={"path": "/x"}) for f in dataset.files]})
    assert (moved.specs_key, moved.chunks_key) == (dataset.specs_key, dataset.chunks_key)

    def of_files(**change):
        return {"files": [file.model_copy(update=change) for file in dataset.files]}

    function = Function(name="f.py", modules=[], digest="d")
    lost = [Unreadable(path="/y", reason="r", entries=3)]
    of_both = (
        {"files": dataset.files[::-1]}, {"flat": dataset.flat[1:]}, {"format": 99}, {"given": "x"},
        {"weight": "met"}, {"may_lose": 0.1}, {"fill_missing": {"met": "flat"}}, {"function": function},
        {"steps": Steps()}, {"steps": STEPS.model_copy(update={"max_length": {"jet_pt": 2}})},
        of_files(used=3), of_files(size=3), of_files(uuid="other"), of_files(tree="other"),
        of_files(content="x"), {"jagged": dataset.jagged[1:]}, {"unreadable": lost},
    )  # fmt: skip
    of_specs = ({"tasks": split_entries([40, 7, 63], 5)}, {"block": 7})
    of_chunks = ({"chunk_size": 3}, {"seed": 3}, {"shuffle": False}, {"carried": []})
    tried = {key for change in (*of_both, *of_specs, *of_chunks) for key in change}
    assert tried == set(Dataset.model_fields), "a new field must say what depends on it"
    for change in of_both:
        changed = dataset.model_copy(update=change)
        assert changed.specs_key != dataset.specs_key and changed.chunks_key != dataset.chunks_key, change
    for change in of_specs:
        changed = dataset.model_copy(update=change)
        assert changed.specs_key != dataset.specs_key and changed.chunks_key == dataset.chunks_key, change
    for change in of_chunks:
        changed = dataset.model_copy(update=change)
        assert changed.specs_key == dataset.specs_key and changed.chunks_key != dataset.chunks_key, change


def test_where_events_may_be_lost_chunks_follow_how_they_were_measured(paths):
    dataset = plan(paths, may_lose=0.1)
    for change in ({"tasks": split_entries([40, 7, 63], 5)}, {"block": 7}):
        assert dataset.model_copy(update=change).chunks_key != dataset.chunks_key
        sure = dataset.model_copy(update={"may_lose": 0.0})
        assert sure.model_copy(update=change).chunks_key == sure.chunks_key


def test_file_is_opened_where_the_job_has_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    file = InputFile(path="/far/a.root", staged="0000_a.root", uuid="u", size=1, entries=1, used=1)
    assert file.locate() == "/far/a.root"
    (tmp_path / "0000_a.root").touch()
    assert file.locate() == "0000_a.root"
