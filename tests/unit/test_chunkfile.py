"""Chunk files: read back the same to the last bit, equal for equal chunks, refused where damaged."""

import json
import zipfile

import numpy as np
import pytest
from data_tools import jagged, same_array, same_chunk
from hypothesis import given, settings
from hypothesis import strategies as st

from mlaas_condor.data import chunkfile
from mlaas_condor.data.chunkfile import Chunk
from mlaas_condor.data.events import Jagged
from mlaas_condor.errors import InputUnreadable

TYPES = [np.dtype(kind) for kind in ("?", "i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f2", "f4", "f8")]
NAMES = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=8)


def any_bits(rng, dtype, n):
    """Return values of any bits: NaN of all kinds, infinities, -0.0."""
    if dtype == np.bool_:
        return rng.random(n) < 0.5
    return np.frombuffer(rng.bytes(n * dtype.itemsize), dtype)


@st.composite
def any_chunk(draw):
    n = draw(st.integers(0, 60))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    shapes = [rng.integers(0, most + 1, n) for most in (0, 3, 300)]
    names = iter(draw(st.lists(NAMES, unique=True, min_size=8, max_size=8)))
    events = {}
    for _ in range(draw(st.integers(1, 5))):
        dtype = draw(st.sampled_from(TYPES))
        which = draw(st.integers(0, 3))
        counts = shapes[which].copy() if which < 3 else None
        if counts is None:
            events[next(names)] = any_bits(rng, dtype, n)
        else:
            events[next(names)] = Jagged(counts, any_bits(rng, dtype, int(counts.sum())))
    kinds = draw(st.lists(st.sampled_from([*TYPES, np.dtype(">i4"), np.dtype(">f8")]), max_size=3))
    return Chunk(
        events=events,
        file=rng.integers(0, 9, n).astype(np.uint32),
        entry=rng.integers(0, 2**60, n),
        carried={next(names): any_bits(rng, dtype, n) for dtype in kinds},
    )


@settings(max_examples=60)
@given(any_chunk())
def test_read_back_is_the_same_and_equal_chunks_are_equal_files(tmp_path_factory, chunk):
    one, other = (tmp_path_factory.getbasetemp() / name for name in ("one.zip", "other.zip"))
    chunkfile.write(one, chunk)
    again = chunkfile.read(one)
    assert same_chunk(chunk, again)
    chunkfile.write(other, again)
    assert one.read_bytes() == other.read_bytes()
    assert len(again) == chunkfile.events_in(one) == len(chunk.entry)
    for name, values in chunk.carried.items():
        assert same_array(chunkfile.read_carried(one, name), values)
    without = chunkfile.read(one, with_events=False)
    assert same_chunk(without, Chunk({}, chunk.file, chunk.entry, chunk.carried))


def small(n=50):
    rng = np.random.default_rng(1)
    counts = rng.integers(0, 4, n)
    lists = [rng.random(k).tolist() for k in counts]
    return Chunk(
        {"x": rng.random(n), "pt": jagged(lists, np.float32), "eta": jagged(lists), "id": jagged([[]] * n)},
        np.zeros(n, np.uint32),
        np.arange(n),
        {"run": rng.integers(0, 9, n)},
    )


def test_arrays_larger_than_what_is_compressed_together(tmp_path, monkeypatch):
    monkeypatch.setattr(chunkfile, "_MOST_BYTES", 100)
    chunk = small(1000)
    chunkfile.write(tmp_path / "c.zip", chunk)
    assert same_chunk(chunk, chunkfile.read(tmp_path / "c.zip"))


def test_what_is_in_the_file(tmp_path):
    """It can be taken apart with nothing but zip and Blosc2."""
    import blosc2

    path = tmp_path / "c.zip"
    chunk = small()
    chunkfile.write(path, chunk)
    with zipfile.ZipFile(path) as archive:
        meta = json.loads(archive.read("meta.json"))
        names = archive.namelist()
        assert {info.date_time for info in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}
        packed = {name: archive.read(name) for name in names}
    # The lengths of lists once for all branches that share them, in one byte each.
    assert [name for name in names if name.startswith("lengths/")] == ["lengths/0", "lengths/1"]
    assert meta["arrays"]["lengths/0"] == ["|u1", [50]] and meta["events"] == 50
    assert meta["order"] == ["x", "pt", "eta", "id"]
    found = {}
    for member, block in meta["blocks"].items():
        dtype, shape = meta["arrays"][member]
        values = np.empty(shape, dtype)
        assert int.from_bytes(packed[member][:8], "little") == len(packed[member]) - 8 or not values.size
        if values.size:
            blosc2.decompress2(packed[member][8:], dst=values)
        for name, row in zip(block["branches"], values, strict=True):
            found[name] = block["lengths"], row
    assert {name: lengths for name, (lengths, _) in found.items()} == {
        "x": "", "pt": "lengths/0", "eta": "lengths/0", "id": "lengths/1",
    }  # fmt: skip
    assert same_array(found["eta"][1], chunk.events["eta"].values)
    assert same_array(found["x"][1], chunk.events["x"])


def test_padding_takes_no_space(tmp_path):
    rng = np.random.default_rng(1)
    for name, longest in (("short", 5), ("long", 5000)):
        lists = [rng.random(5).tolist() for _ in range(100)]
        lists[3] = rng.random(longest).tolist()
        counts = np.array([len(each) for each in lists])
        chunk = Chunk({"x": jagged(lists, np.float32)}, np.zeros(100, np.uint32), np.arange(100), {})
        chunkfile.write(tmp_path / name, chunk)
        assert (tmp_path / name).stat().st_size < 4 * counts.sum() + 2000


def test_damaged_anywhere_is_refused_or_makes_no_difference(tmp_path):
    path = tmp_path / "c.zip"
    chunk = small(5)
    chunkfile.write(path, chunk)
    whole = path.read_bytes()
    refused = 0
    for place in range(len(whole)):
        for change in (0xFF, 0x01) if place % 5 == 0 else (0x55,):
            path.write_bytes(whole[:place] + bytes([whole[place] ^ change]) + whole[place + 1 :])
            try:
                assert same_chunk(chunkfile.read(path), chunk), place
            except InputUnreadable as error:
                assert str(path) in str(error)
                refused += 1
    assert refused > len(whole) / 3


def test_cut_short_missing_or_something_else_is_refused(tmp_path):
    path = tmp_path / "c.zip"
    chunkfile.write(path, small())
    whole = path.read_bytes()
    for size in range(0, len(whole), 23):
        path.write_bytes(whole[:size])
        with pytest.raises(InputUnreadable, match=r"c\.zip: is no chunk that can be read"):
            chunkfile.read(path)
        with pytest.raises(InputUnreadable):
            chunkfile.events_in(path)
    for content in ("{}", "[]", "null", '{"events": 1, "arrays": {}, "blocks": {}, "order": ["x"]}'):
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("meta.json", content)
        with pytest.raises(InputUnreadable):
            chunkfile.read(path)
    with pytest.raises(InputUnreadable, match="No such file"):
        chunkfile.read(tmp_path / "none.zip")
