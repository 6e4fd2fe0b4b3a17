"""Streams of chunks: every event once an epoch, shuffled, the same each time, and few chunks in memory."""

import gc
import threading
import weakref

import numpy as np
import pytest
from data_tools import jagged
from hypothesis import given, settings
from hypothesis import strategies as st

from mlaas_condor.data import chunkfile, streaming
from mlaas_condor.data.chunkfile import Chunk
from mlaas_condor.data.features import Columns, matrix
from mlaas_condor.data.specs import BranchSpecs, Specs
from mlaas_condor.data.streaming import MIXED, Stream
from mlaas_condor.errors import InputUnreadable

COLUMNS = Columns.of(
    Specs(
        flat={"x": BranchSpecs(length=1, minimum=0, maximum=1)},
        jagged={"pt": BranchSpecs(length=3, minimum=0, maximum=4)},
        kept=[],
    ),
    padding=-1.0,
)


def write_chunks(folder, lengths):
    """Write chunks of so many events; return their files and, as matrices, what is in them."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(3)
    paths, matrices = [], []
    for i, n in enumerate(lengths):
        events = {"x": rng.random(n), "pt": jagged([rng.random(k).tolist() for k in rng.integers(0, 4, n)])}
        chunk = Chunk(events, np.full(n, i, np.uint32), np.arange(n) + 10, {"label": np.full(n, i % 2)})
        paths.append(folder / chunkfile.FILE_NAME.format(i))
        chunkfile.write(paths[-1], chunk)
        matrices.append(matrix(events, COLUMNS))
    return paths, matrices


LENGTHS = (30, 31, 30, 31, 30, 31, 30, 31, 30)


@pytest.fixture
def chunks(tmp_path):
    return write_chunks(tmp_path / "chunks", LENGTHS)


@pytest.fixture(params=["memory", "scratch"])
def scratch(request, tmp_path):
    if request.param == "memory":
        return None
    (tmp_path / "scratch").mkdir()
    return tmp_path / "scratch"


@pytest.fixture(autouse=True)
def no_thread_is_left():
    before = set(threading.enumerate())
    yield
    gc.collect()
    assert set(threading.enumerate()) <= before


def places(batches):
    return [place for each in batches for place in zip(each.chunk.tolist(), each.row.tolist(), strict=True)]


def check(batches, matrices, size):
    """Make sure that these batches are an epoch."""
    found = places(batches)
    assert sorted(found) == [(i, row) for i, each in enumerate(matrices) for row in range(len(each))]
    assert all(0 < len(each.x) <= size for each in batches)
    for each in batches:
        assert each.x.dtype == np.float32 and len(each.x) == len(each.chunk) == len(each.row)
        for x, i, row in zip(each.x, each.chunk, each.row, strict=True):
            assert x.tobytes() == matrices[i][row].tobytes()


@pytest.mark.parametrize("threads", [1, 2])
def test_an_epoch_has_every_event_once_and_each_has_an_order_of_its_own(chunks, scratch, threads):
    paths, matrices = chunks
    stream = Stream(paths, COLUMNS, scratch, threads)
    epochs = [list(stream.batches(7, seed=5, epoch=epoch)) for epoch in (0, 1, 0)]
    for batches in epochs:
        check(batches, matrices, 7)
    one, two, again = map(places, epochs)
    assert one == again != two and one != sorted(one)
    assert places(stream.batches(7, seed=6)) != one
    # Also from the beginning, with other threads, and without what lies on the scratch disk.
    other = list(Stream(paths, COLUMNS, None, 3 - threads).batches(7, seed=5, epoch=1))
    assert [each.x.tobytes() for each in other] == [each.x.tobytes() for each in epochs[1]]
    assert places(other) == two


@settings(max_examples=25)
@given(
    st.lists(st.integers(1, 40), min_size=1, max_size=11), st.integers(1, 60), st.integers(0, 99),
    st.integers(1, 3),
)  # fmt: skip
def test_batches_of_any_size_of_chunks_of_any_size(tmp_path_factory, lengths, size, seed, threads):
    paths, matrices = write_chunks(tmp_path_factory.mktemp("chunks"), lengths)
    batches = list(Stream(paths, COLUMNS, None, threads).batches(size, seed))
    check(batches, matrices, size)
    # Only the last batch of each mix may be smaller.
    mixes = -(-len(lengths) // MIXED)
    assert sum(len(each.x) < size for each in batches) <= mixes


def test_gathering_more_or_less_at_a_time_makes_no_difference(chunks, monkeypatch):
    paths, _ = chunks
    wanted = list(Stream(paths, COLUMNS).batches(10, 1))
    monkeypatch.setattr(streaming, "_ROWS", 25)
    got = list(Stream(paths, COLUMNS).batches(10, 1))
    assert places(got) == places(wanted)
    assert [each.x.tobytes() for each in got] == [each.x.tobytes() for each in wanted]


def test_events_of_several_chunks_are_mixed(chunks):
    paths, _ = chunks
    batches = list(Stream(paths, COLUMNS).batches(20, seed=1))
    together = [set(each.chunk.tolist()) for each in batches]
    assert all(len(each) <= MIXED for each in together)
    assert sum(len(each) == MIXED for each in together) > len(together) / 2
    # Which are mixed with one another changes from epoch to epoch.
    first = {frozenset(each) for each in together if len(each) == MIXED}
    second = {frozenset(each.chunk.tolist()) for each in Stream(paths, COLUMNS).batches(20, 1, epoch=1)}
    assert len(first) == len(LENGTHS) // MIXED and not first <= second


def test_chunks_in_a_given_order(chunks, scratch):
    paths, matrices = chunks
    stream = Stream(paths, COLUMNS, scratch, 2)
    for order in ([3, 1, 8, 0], list(range(9)), [], [3, 3]):
        blocks = list(stream.inorder(order))
        assert [block.index for block in blocks] == order
        for block in blocks:
            assert block.x.tobytes() == matrices[block.index].tobytes()
            assert block.chunk.events == {} and set(block.chunk.file) == {block.index}
            assert block.chunk.entry.tolist() == list(range(10, 10 + len(block.x)))
            assert set(block.chunk.carried["label"]) == {block.index % 2}


def test_with_scratch_the_events_are_decompressed_once(chunks, tmp_path, monkeypatch):
    paths, matrices = chunks
    (tmp_path / "scratch").mkdir()
    made = []
    monkeypatch.setattr(streaming, "matrix", lambda *each, **named: made.append(1) or matrix(*each, **named))
    stream = Stream(paths, COLUMNS, tmp_path / "scratch")
    for epoch in range(3):
        check(list(stream.batches(50, 1, epoch)), matrices, 50)
    assert len(made) == len(paths)
    stream = Stream(paths, COLUMNS)
    for epoch in range(2):
        check(list(stream.batches(50, 1, epoch)), matrices, 50)
    assert len(made) == 3 * len(paths)


def test_scratch_that_is_too_small_is_not_used(chunks, tmp_path, monkeypatch):
    paths, matrices = chunks
    (tmp_path / "scratch").mkdir()
    usage = type("Usage", (), {"free": streaming._SPARE + 4 * len(COLUMNS) * sum(LENGTHS)})
    monkeypatch.setattr(streaming.shutil, "disk_usage", lambda _: usage)
    check(list(Stream(paths, COLUMNS, tmp_path / "scratch").batches(50, 1)), matrices, 50)
    assert list((tmp_path / "scratch").iterdir()) == []
    usage.free += 1
    list(Stream(paths, COLUMNS, tmp_path / "scratch").batches(50, 1))
    assert len(list((tmp_path / "scratch").iterdir())) == len(paths)


@pytest.mark.parametrize("threads", [1, 2])
def test_no_more_chunks_are_held_than_are_mixed_and_made_ahead(chunks, monkeypatch, threads):
    paths, _ = chunks
    alive, most, lock = [0], [0], threading.Lock()

    def gone():
        with lock:
            alive[0] -= 1

    def counted(*arguments, **named):
        made = matrix(*arguments, **named)
        with lock:
            alive[0] += 1
            most[0] = max(most[0], alive[0])
        weakref.finalize(made, gone)
        return made

    monkeypatch.setattr(streaming, "matrix", counted)
    for _ in Stream(paths, COLUMNS, None, threads).batches(5, 1):
        pass
    assert MIXED <= most[0] <= MIXED + threads + 1 < len(paths) and alive[0] == 0
    most[0] = 0
    for block in Stream(paths, COLUMNS, None, threads).inorder(range(len(paths))):
        assert len(block.x)
    del block
    assert 1 <= most[0] <= threads + 2 and alive[0] == 0


@pytest.mark.parametrize("after", [1, 3, 20])
def test_whoever_stops_early_leaves_nothing_behind(chunks, scratch, after):
    paths, matrices = chunks
    before = threading.active_count()
    stream = Stream(paths, COLUMNS, scratch, 2)
    batches = stream.batches(10, 1)
    for _ in range(after):
        next(batches)
    batches.close()
    assert threading.active_count() == before
    check(list(stream.batches(10, 1)), matrices, 10)


def test_damaged_chunk_is_told(chunks):
    paths, _ = chunks
    data = bytearray(paths[4].read_bytes())
    data[len(data) // 2] ^= 0xFF
    paths[4].write_bytes(data)
    with pytest.raises(InputUnreadable, match="chunk-00004"):
        list(Stream(paths, COLUMNS, None, 2).batches(10, 1))
    paths[4].unlink()
    with pytest.raises(InputUnreadable, match="chunk-00004"):
        list(Stream(paths, COLUMNS, None, 2).inorder(range(9)))
