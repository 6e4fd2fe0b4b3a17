"""Chunks: every event once, in proportion, and the same whenever, wherever and in whatever order."""

import random
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlaas_condor.data import chunks, specs
from mlaas_condor.data.dataset import Dataset, EntryRange, InputFile, share, split_entries
from mlaas_condor.data.features import Columns
from mlaas_condor.data.inputs import Jagged, Reader, survey
from mlaas_condor.errors import InputChanged, InputUnreadable

FILES = st.lists(st.integers(0, 120), min_size=1, max_size=12).filter(any)
SIZES = st.sampled_from([-1, 1, 2, 7, 30, 10_000])


@settings(max_examples=50)
@given(FILES, SIZES)
def test_dealing_gives_every_event_to_one_chunk(events, size):
    number = chunks.count(sum(events), size)
    dealt = [chunks.deal(events, size, k) for k in range(number)]
    for file, n in enumerate(events):
        ranges = [chunk[file] for chunk in dealt]
        assert ranges[0][0] == 0 and ranges[-1][1] == n
        assert all(stop == start for (_, stop), (start, _) in pairwise(ranges))
        assert all(start <= stop for start, stop in ranges)


@settings(max_examples=50)
@given(FILES, SIZES)
def test_chunks_are_equal_within_one_event_and_none_is_empty(events, size):
    number = chunks.count(sum(events), size)
    lengths = [sum(stop - start for start, stop in chunks.deal(events, size, k)) for k in range(number)]
    assert max(lengths) - min(lengths) <= 1
    assert min(lengths) > 0
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


@given(st.lists(st.integers(0, 10**6), min_size=1, max_size=30), st.integers(1, 10**7))
def test_share_is_exact_in_proportion_and_never_above_what_there_is(weights, total):
    shares = share(total, weights)
    assert sum(shares) == min(total, sum(weights))
    assert all(0 <= each <= weight for each, weight in zip(shares, weights, strict=True))
    if total < sum(weights):
        exact = [total * weight / sum(weights) for weight in weights]
        assert all(abs(each - wanted) < 1 for each, wanted in zip(shares, exact, strict=True))


@given(FILES, st.integers(1, 20))
def test_split_entries_covers_every_entry_once_in_lists_of_equal_length(used, tasks):
    tasks = min(tasks, sum(used))
    split = split_entries(used, tasks)
    found = [(r.file, entry) for task in split for r in task for entry in range(r.start, r.stop)]
    assert found == [(file, entry) for file, n in enumerate(used) for entry in range(n)]
    lengths = [sum(r.stop - r.start for r in task) for task in split]
    assert len(split) == tasks and max(lengths) - min(lengths) <= 1
    assert all(r.start < r.stop for task in split for r in task)


IDENTIFIERS = [np.int64, np.uint64, np.int8, np.float64, np.float32, np.bool_, np.uint32]


@st.composite
def any_chunk(draw):
    n, columns = draw(st.integers(1, 50)), draw(st.integers(1, 40))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    # Any bits, so also NaN of all kinds, infinities and -0.0.
    raw = rng.integers(0, 2**32, (columns, n), dtype=np.uint32).view(np.float32)
    kinds = draw(st.lists(st.sampled_from(IDENTIFIERS), unique=True, max_size=4))
    return chunks.Chunk(
        features=raw,
        file=rng.integers(0, 9, n, dtype=np.uint32),
        entry=rng.integers(0, 2**60, n),
        identifiers={f"id {np.dtype(kind).name}/x": rng.integers(0, 100, n).astype(kind) for kind in kinds},
    )


def same(one, other):
    """Tell whether two chunks are the same to the last bit."""
    pairs = [(one.features, other.features), (one.file, other.file), (one.entry, other.entry)]
    pairs += [(each, other.identifiers[name]) for name, each in one.identifiers.items()]
    return list(one.identifiers) == list(other.identifiers) and all(
        a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes() for a, b in pairs
    )


@settings(max_examples=40)
@given(any_chunk())
def test_chunk_read_back_is_the_same_and_equal_chunks_are_equal_files(tmp_path_factory, chunk):
    one, other = (tmp_path_factory.getbasetemp() / name for name in ("one.zip", "other.zip"))
    chunks.write(one, chunk)
    again = chunks.read(one)
    assert same(chunk, again)
    chunks.write(other, again)
    assert one.read_bytes() == other.read_bytes()
    assert len(again) == len(chunk.entry)


def test_chunk_larger_than_a_compressed_block(tmp_path, monkeypatch):
    monkeypatch.setattr(chunks, "_FRAME_BYTES", 1000)
    rng = np.random.default_rng(1)
    n = 600
    chunk = chunks.Chunk(rng.random((20, n), np.float32), np.zeros(n, np.uint32), np.arange(n), {})
    chunks.write(tmp_path / "c.zip", chunk)
    assert same(chunk, chunks.read(tmp_path / "c.zip"))


def test_streaming_gives_all_chunks_in_order(tmp_path):
    paths = [tmp_path / f"{i}.zip" for i in range(5)]
    for i, path in enumerate(paths):
        chunk = chunks.Chunk(np.full((1, 3), i, np.float32), np.zeros(3, np.uint32), np.arange(3), {})
        chunks.write(path, chunk)
    assert [chunk.features[0, 0] for chunk in chunks.stream(paths)] == [0, 1, 2, 3, 4]
    assert [chunk.features[0, 0] for chunk in chunks.stream(reversed(paths))] == [4, 3, 2, 1, 0]
    assert list(chunks.stream([])) == []


# ---- made from files


def plan(paths, used=None, chunk_size=25, shuffle=True, seed=21, tasks=3):
    """Return the dataset of some files and its specs."""
    surveys = [survey(str(path), "events") for path in paths]
    files = [
        InputFile(
            path=str(path), staged=f"{i}_nowhere", uuid=each.uuid, size=each.size, entries=each.entries,
            used=used[i] if used else each.entries,
        )
        for i, (path, each) in enumerate(zip(paths, surveys, strict=True))
    ]  # fmt: skip
    identifiers = ["run", "event"]
    names = sorted(
        name for name in surveys[0].branches if not name.startswith("_n_") and name not in identifiers
    )
    kinds = {name: surveys[0].branches[name].kind for name in names}
    dataset = Dataset(
        files=files, tree="events", flat=[n for n in names if kinds[n] == "flat"],
        jagged=[n for n in names if kinds[n] == "jagged"], identifiers=identifiers,
        tasks=split_entries([file.used for file in files], tasks), chunk_size=chunk_size,
        shuffle=shuffle, seed=seed,
    )  # fmt: skip
    return dataset, measured(dataset)


def measured(dataset):
    return specs.join(
        specs.measure(
            Reader(dataset.files[r.file].path, "events").read(
                [*dataset.flat, *dataset.jagged], r.start, r.stop
            ),
            r,
        )
        for task in dataset.tasks
        for r in task
    )


@pytest.fixture
def paths(mktree):
    return [mktree(f"{i}.root", n, seed=i) for i, n in enumerate((40, 7, 63))]


def all_of(dataset, found):
    return [chunks.make(dataset, found, k) for k in range(chunks.count(found.events, dataset.chunk_size))]


@pytest.mark.parametrize("chunk_size", [-1, 1, 10, 25, 1000])
def test_identifiers_of_all_chunks_are_those_of_the_inputs(paths, chunk_size):
    dataset, found = plan(paths, chunk_size=chunk_size)
    made = all_of(dataset, found)
    got = np.sort(np.concatenate([chunk.identifiers["event"] for chunk in made]))
    read = [Reader(str(path), "events").read(["event"], 0, 10**6)["event"] for path in paths]
    assert got.tolist() == np.sort(np.concatenate(read)).tolist()
    for chunk in made:  # where each event says it comes from
        for file, entry, event in zip(chunk.file, chunk.entry, chunk.identifiers["event"], strict=True):
            assert read[file][entry] == event


def test_only_the_entries_used_are_in_chunks(paths):
    dataset, found = plan(paths, used=[10, 0, 30])
    made = all_of(dataset, found)
    where = sorted((int(f), int(e)) for chunk in made for f, e in zip(chunk.file, chunk.entry, strict=True))
    assert where == [(0, e) for e in range(10)] + [(2, e) for e in range(30)]


def test_chunk_is_the_same_whenever_and_in_whatever_order_it_is_made(paths):
    dataset, found = plan(paths)
    once = all_of(dataset, found)
    readers = {}
    for k in random.Random(1).sample(range(len(once)), len(once)):
        assert same(once[k], chunks.make(dataset, found, k, readers))
    assert set(readers) == {0, 1, 2}
    # Nor does it depend on how the measuring was split.
    other = dataset.model_copy(update={"tasks": split_entries([file.used for file in dataset.files], 7)})
    assert all(same(chunk, chunks.make(other, measured(other), k)) for k, chunk in enumerate(once))
    assert other.chunks_key == dataset.chunks_key and other.specs_key != dataset.specs_key


def test_no_more_files_are_kept_open_than_allowed(paths, monkeypatch):
    monkeypatch.setattr(chunks, "OPEN_TREES", 2)
    dataset, found = plan(paths)
    readers = {}
    assert all(
        same(chunks.make(dataset, found, k, readers), each) for k, each in enumerate(all_of(dataset, found))
    )
    assert len(readers) == 2


def test_shuffling_changes_the_order_within_a_chunk_only(paths):
    mixed, plain = (all_of(*plan(paths, shuffle=shuffle)) for shuffle in (True, False))
    other = all_of(*plan(paths, seed=22))
    for one, two, three in zip(mixed, plain, other, strict=True):
        sets = [set(zip(each.file.tolist(), each.entry.tolist(), strict=True)) for each in (one, two, three)]
        assert sets[0] == sets[1] == sets[2]
        assert two.file.tolist() == sorted(two.file.tolist())
        assert one.entry.tolist() != two.entry.tolist() != three.entry.tolist()


def slow_features(dataset, found, chunk):
    """Return the raw matrix of a chunk, event by event and value by value."""
    order = [*sorted(dataset.flat), *sorted(dataset.jagged)]
    rows = []
    for file, entry in zip(chunk.file, chunk.entry, strict=True):
        event = Reader(dataset.files[file].path, "events").read(order, int(entry), int(entry) + 1)
        row = []
        for name in order:
            values = event[name].values if isinstance(event[name], Jagged) else event[name]
            length = found.jagged[name].length if name in dataset.jagged else 1
            row += [float(x) for x in values] + [float("nan")] * (length - len(values))
        rows.append(row)
    return np.array(rows, np.float64).T.astype(np.float32)


def test_features_are_those_of_a_slow_loop_over_events(paths):
    dataset, found = plan(paths, chunk_size=40)
    chunk = chunks.make(dataset, found, 1)
    assert Columns.of(found).names[:5] == ("charge", "constant", "met", "njets", "trigger")
    np.testing.assert_array_equal(chunk.features, slow_features(dataset, found, chunk))


def test_changed_or_vanished_file_is_not_read(paths, mktree):
    dataset, found = plan(paths)
    other = mktree("1b.root", 7, seed=1)
    paths[1].write_bytes(other.read_bytes())
    with pytest.raises(InputChanged, match="submit the run again"):
        all_of(dataset, found)
    paths[1].unlink()
    with pytest.raises(InputUnreadable, match="no such file"):
        all_of(dataset, found)


def test_lists_longer_than_measured_are_a_change(paths):
    dataset, found = plan(paths)
    short = found.jagged["jet_pt"].model_copy(update={"length": 1})
    with pytest.raises(InputChanged, match="jet_pt: a list has"):
        all_of(dataset, found.model_copy(update={"jagged": {**found.jagged, "jet_pt": short}}))


def test_dataset_read_back_is_the_same_and_keys_follow_the_content(paths, tmp_path):
    dataset, _ = plan(paths)
    dataset.write(tmp_path / "d.json")
    assert Dataset.read(tmp_path / "d.json") == dataset
    moved = dataset.model_copy(update={"files": [f.model_copy(update={"path": "/x"}) for f in dataset.files]})
    assert (moved.specs_key, moved.chunks_key) == (dataset.specs_key, dataset.chunks_key)
    for change in (
        {"files": dataset.files[::-1]}, {"tree": "other"}, {"flat": dataset.flat[1:]}, {"format": 99},
        {"files": [f.model_copy(update={"used": 3}) for f in dataset.files]},
        {"files": [f.model_copy(update={"size": 3}) for f in dataset.files]},
        {"files": [f.model_copy(update={"uuid": "other"}) for f in dataset.files]},
    ):  # fmt: skip
        changed = dataset.model_copy(update=change)
        assert changed.specs_key != dataset.specs_key and changed.chunks_key != dataset.chunks_key
    for change in ({"chunk_size": 3}, {"seed": 3}, {"shuffle": False}, {"identifiers": []}):
        changed = dataset.model_copy(update=change)
        assert changed.specs_key == dataset.specs_key and changed.chunks_key != dataset.chunks_key


def test_file_is_opened_where_the_job_has_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    file = InputFile(path="/far/a.root", staged="0000_a.root", uuid="u", size=1, entries=1, used=1)
    assert file.locate() == "/far/a.root"
    (tmp_path / "0000_a.root").touch()
    assert file.locate() == "0000_a.root"


def test_identifier_that_is_jagged_is_refused(paths):
    dataset, found = plan(paths)
    with pytest.raises(ValueError, match="must be one number an event"):
        chunks.make(dataset.model_copy(update={"identifiers": ["jet_pt"]}), found, 0)


def test_entry_ranges_that_are_cut_small_give_the_same_chunks(paths):
    dataset, found = plan(paths)
    pieces = [
        [EntryRange(file=f, start=s, stop=s + 1)] for f in range(3) for s in range(dataset.files[f].used)
    ]
    other = dataset.model_copy(update={"tasks": pieces})
    assert same(chunks.make(dataset, found, 0), chunks.make(other, measured(other), 0))
