"""What ROOT files hold is told, and read in any portion, whatever its type, layout and compression."""

import http.server
import re
import subprocess
import sys
import threading
from collections import Counter
from itertools import pairwise
from pathlib import Path

import awkward as ak
import numpy as np
import pytest
import uproot
from hypothesis import given, settings
from hypothesis import strategies as st

from mlaas_condor.data import inputs, rootbranches
from mlaas_condor.data.events import Jagged
from mlaas_condor.data.rootfile import RootSource
from mlaas_condor.data.source import Branch
from mlaas_condor.errors import InputUnreadable

NUMBERS = ["int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float32", "float64"]
DTYPES = ["bool", *NUMBERS]
LISTS = [[1, 2, 3], [], [1], [0, 1], [], [7]]
CODECS = {
    "none": None,
    "zlib": uproot.ZLIB(6),
    "lz4": uproot.LZ4(4),
    "zstd": uproot.ZSTD(3),
    "lzma": uproot.LZMA(4),
}


def write(path, columns, kind="TTree", sizes=None, compression=None, tree="events"):
    """Write a file in portions of these sizes; a list of lists is jagged, an array of (n, …) is fixed."""
    n = len(next(iter(columns.values())))
    starts = np.cumsum([0, *(sizes or [n])])
    portions = [{name: each[low:high] for name, each in columns.items()} for low, high in pairwise(starts)]
    with uproot.recreate(path, compression=compression) as file:
        if kind == "TTree":
            types = {name: type_of(each) for name, each in columns.items()}
            made = file.mktree(tree, types, counter_name=lambda name: f"_n_{name}")
        else:
            made = file.mkrntuple(tree, portions.pop(0) if portions else columns)
        for portion in portions:
            if len(next(iter(portion.values()))):
                made.extend(portion)
    return str(path)


def type_of(column):
    if isinstance(column, ak.Array):
        return f"var * {ak.type(column).content.content}"
    return np.dtype((column.dtype, column.shape[1:]))


def same(column, wanted):
    """Compare a column with what was written, to the last bit and the type."""
    if isinstance(wanted, ak.Array):
        values, counts = np.asarray(ak.flatten(wanted, axis=None)), np.asarray(ak.num(wanted))
    elif wanted.ndim > 1:
        values, counts = wanted.reshape(-1), np.full(len(wanted), np.prod(wanted.shape[1:]))
    else:
        assert not isinstance(column, Jagged)
        values, counts = wanted, None
    if counts is not None:
        assert isinstance(column, Jagged) and column.counts.dtype == np.int64
        np.testing.assert_array_equal(column.counts, counts)
        column = column.values
    assert column.dtype == values.dtype and column.dtype.isnative and type(column) is np.ndarray
    assert column.ndim == 1
    np.testing.assert_array_equal(column, values)


def columns_of(n, seed=0):
    rng = np.random.default_rng(seed)
    counts = rng.integers(0, 5, n)
    return {
        "flat": rng.integers(0, 1000, n).astype(np.float32) / 8,
        "jagged": ak.unflatten(rng.integers(-9, 9, counts.sum()).astype(np.int16), counts),
        "fixed": rng.integers(0, 99, (n, 3)),
        "square": rng.integers(0, 99, (n, 2, 3)).astype(np.float32),
        "never": ak.unflatten(np.zeros(0, np.float64), np.zeros(n, np.int64)),
        "yes": rng.random(n) < 0.5,
    }


# ---- types


@pytest.mark.parametrize("kind", ["TTree", "RNTuple"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_number_flat_jagged_and_fixed(tmp_path, dtype, kind):
    counts = [len(each) for each in LISTS]
    if dtype == "bool" or dtype.startswith("float"):
        extreme = [0, 1]
    else:
        extreme = [np.iinfo(dtype).min, np.iinfo(dtype).max]
    columns = {
        "x": np.array([0, 1, *extreme, 1, 0], dtype),
        "pt": ak.unflatten(np.concatenate(LISTS).astype(dtype), counts),
        "three": np.arange(18).reshape(6, 3).astype(dtype),
        "six": np.arange(36).reshape(6, 2, 3).astype(dtype),
    }
    source = RootSource(write(tmp_path / "a.root", columns, kind), "events")
    assert {name: each for name, each in source.branches.items() if name[0] != "_"} == {
        "x": Branch("x", "flat", dtype),
        "pt": Branch("pt", "jagged", dtype),
        "three": Branch("three", "jagged", dtype, 3),
        "six": Branch("six", "jagged", dtype, 6),
    }
    read = source.read(["six", "x", "three", "pt"], 0, 6)
    assert list(read) == ["six", "x", "three", "pt"] and not source.left_out
    for name, wanted in columns.items():
        same(read[name], wanted)


@pytest.mark.parametrize("kind", ["TTree", "RNTuple"])
@pytest.mark.parametrize("codec", CODECS)
def test_every_compression(tmp_path, codec, kind):
    columns = columns_of(500)
    source = RootSource(write(tmp_path / "a.root", columns, kind, [200, 300], CODECS[codec]), "events")
    for name, column in source.read(columns, 0, 500).items():
        same(column, columns[name])


def test_isal_inflates_what_zlib_deflated_and_finds_what_is_damaged(tmp_path):
    columns = columns_of(2000)
    path = write(tmp_path / "a.root", columns, compression=uproot.ZLIB(9))
    source = RootSource(path, "events")
    inflate = uproot.compression._decompress_ZLIB
    assert inflate.library == "isal"
    fast = source.read(columns, 0, 2000)
    try:
        inflate.library = "zlib"
        slow = source.read(columns, 0, 2000)
    finally:
        inflate.library = "isal"
    for name, column in columns.items():
        same(fast[name], column)
        same(slow[name], column)
    with uproot.open(path) as file:
        basket = file["events/flat"].member("fBasketSeek")[0]
    whole = Path(path).read_bytes()
    for place in (150, 400, 900):
        damaged = bytearray(whole)
        damaged[basket + place] ^= 0x10
        Path(path).write_bytes(damaged)
        with pytest.raises(InputUnreadable, match="of flat cannot be read"):
            RootSource(path, "events").read(["flat", "yes"], 0, 2000)


def test_isal_is_really_used(tmp_path, monkeypatch):
    import isal.isal_zlib

    used = []
    real = isal.isal_zlib.decompress
    monkeypatch.setattr(isal.isal_zlib, "decompress", lambda *a, **k: used.append(1) or real(*a, **k))
    path = write(tmp_path / "a.root", {"x": np.zeros(1000)}, compression=uproot.ZLIB(1))
    RootSource(path, "events").read(["x"], 0, 1000)
    assert used


def test_what_is_no_number_is_left_out_with_a_reason(tmp_path):
    with uproot.recreate(tmp_path / "a.root") as file:
        file.mkrntuple(
            "events",
            {
                "x": np.arange(2.0),
                "name": ak.Array(["a", "b"]),
                "names": ak.Array([["a"], []]),
                "deep": ak.Array([[[1.0]], []]),
                "maybe": ak.Array([1.0, None]),
                "two": ak.Array([{"a": 1.0, "b": 2.0}, {"a": 1.0, "b": 2.0}]),
                "jets": ak.Array([[{"pt": 1.0}], []]),
                "pairs": ak.to_regular(ak.Array([[[1.0, 2.0]], [[1.0, 2.0]]]), axis=2),
            },
        )
    source = RootSource(str(tmp_path / "a.root"), "events")
    assert set(source.branches) == {"x"}
    for name, reason in source.left_out.items():
        assert re.fullmatch(r"(holds|is) [^\n]{3,60}", reason), (name, reason)
        with pytest.raises(InputUnreadable, match=f"branch '{name}' cannot be used: it {re.escape(reason)}$"):
            source.read(["x", name], 0, 2)
    assert source.left_out["name"] == "holds text"
    assert source.left_out["jets"] == "holds structures"


def test_lists_of_pairs_are_left_out(tmp_path):
    columns = {"x": np.zeros(2), "m": np.zeros((2, 2, 3))}
    with uproot.recreate(tmp_path / "a.root") as file:
        tree = file.mktree("events", {"x": np.float64, "m": "var * float64"})
        tree.extend({"x": columns["x"], "m": ak.Array([[1.0], []])})
    source = RootSource(str(tmp_path / "a.root"), "events")
    assert set(source.branches) == {"x", "m", "nm"}
    assert rootbranches._branch("m", "jagged", "float64", (2, 3)) == "holds lists of 2x3 numbers each"


def test_of_branches_of_one_name_the_first_counts(tmp_path):
    columns = {"xaa": np.arange(5.0), "xbb": np.arange(5.0) + 100, "y": np.arange(5.0)}
    path = Path(write(tmp_path / "a.root", columns))
    path.write_bytes(path.read_bytes().replace(b"xbb", b"xaa"))
    source = RootSource(str(path), "events")
    assert list(source.branches) == ["xaa", "y"]
    assert source.left_out == {"xaa (again)": "has the name of another branch"}
    assert source.read(["xaa"], 0, 5)["xaa"].tolist() == [0, 1, 2, 3, 4]


def test_field_of_a_structure_is_not_taken_for_one_of_the_same_name(tmp_path):
    with uproot.recreate(tmp_path / "a.root") as file:
        jets = ak.Array([[{"pt": 1.0, "x*": 1.0}], []])
        file.mkrntuple("events", {"jets": jets, "pt": np.array([5.0, 6.0]), "pt2": np.array([7.0, 8.0])})
    source = RootSource(str(tmp_path / "a.root"), "events")
    assert source.read(["pt"], 0, 2)["pt"].tolist() == [5.0, 6.0]
    for pattern in ("pt*", "p?", "jets.pt", "/pt.*/"):
        with pytest.raises(InputUnreadable, match="has no branch"):
            source.read([pattern], 0, 2)
    assert set(source._arrays(["pt"], 0, 2)) == {"pt"}  # the structure is not even fetched
    with pytest.raises(InputUnreadable, match="has no branch nothing"):
        source.boundaries(["nothing"])


# ---- portions

SIZES = [40, 1, 59, 100]
PORTIONS = sum(SIZES)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """The same columns as TTree and RNTuple of several clusters, open."""
    folder = tmp_path_factory.mktemp("portions")
    columns = columns_of(PORTIONS, 3)
    paths = {kind: write(folder / f"{kind}.root", columns, kind, SIZES) for kind in ("TTree", "RNTuple")}
    return columns, {kind: RootSource(path, "events") for kind, path in paths.items()}


@pytest.mark.parametrize("kind", ["TTree", "RNTuple"])
@given(
    cuts=st.lists(st.integers(0, PORTIONS), max_size=6),
    names=st.lists(st.sampled_from(sorted(columns_of(1))), min_size=1, unique=True),
)
@settings(max_examples=40)
def test_portions_together_are_one_read(written, kind, cuts, names):
    columns, sources = written
    for start, stop in pairwise(sorted([0, *cuts, PORTIONS])):
        read = sources[kind].read(names, start, stop)
        assert list(read) == names
        for name in names:
            same(read[name], columns[name][start:stop])


@pytest.mark.parametrize("kind", ["TTree", "RNTuple"])
def test_nothing_asked_is_nothing_read(written, kind):
    assert written[1][kind].read([], 0, 10) == {}


def test_threads_read_the_same(written):
    columns, sources = written
    for source in sources.values():
        other = RootSource(source.path, "events", threads=3)
        for name, column in other.read(columns, 10, 150).items():
            same(column, columns[name][10:150])
        other.close()


# ---- boundaries


@pytest.mark.parametrize("kind", ["TTree", "RNTuple"])
def test_boundaries_are_the_clusters(written, kind):
    columns, sources = written
    for names in (columns, ["flat"], ["jagged", "yes"]):
        assert list(sources[kind].boundaries(names)) == [0, 40, 41, 100, 200]


def test_boundaries_of_no_branch(written):
    assert list(written[1]["TTree"].boundaries([])) == [0, PORTIONS]


@pytest.mark.parametrize("kind", ["TTree", "RNTuple"])
def test_boundaries_of_an_empty_tree(tmp_path, kind):
    columns = {"x": np.zeros(0), "pt": ak.Array([[1.0]])[:0]}
    if kind == "TTree":
        path = write(tmp_path / "a.root", columns, sizes=[0])
    else:
        path = write(tmp_path / "a.root", columns, kind, sizes=[0])
    source = RootSource(path, "events")
    assert source.entries == 0 and list(source.boundaries(["x", "pt"])) == [0]
    read = source.read(["x", "pt"], 0, 0)
    assert len(read["x"]) == len(read["pt"].counts) == len(read["pt"].values) == 0


@pytest.mark.parametrize(
    ("offsets", "expected"),
    [
        ({"a": [0, 10, 20, 30], "b": [0, 10, 20, 30]}, [0, 10, 20, 30]),
        ({"a": [0, 10, 20, 30], "b": [0, 20, 30]}, [0, 20, 30]),
        ({"a": [0, 10, 30], "b": [0, 15, 30]}, [0, 30]),
        ({"a": [0, 10, 30], "b": [0, 15, 30], "c": [0, 10, 30]}, [0, 30]),
        ({"a": [0], "b": [0, 10, 30]}, [0, 30]),
        ({"a": [0, 10, 10, 30]}, [0, 10, 30]),
    ],
)
def test_only_baskets_that_all_branches_share_are_boundaries(written, monkeypatch, offsets, expected):
    source = written[1]["TTree"]
    branches = {name: type("Branch", (), {"entry_offsets": each}) for name, each in offsets.items()}
    monkeypatch.setattr(source, "_tree", branches)
    monkeypatch.setattr(source, "entries", 30)
    assert list(source.boundaries(offsets)) == expected


# ---- trees


def test_cycles_of_a_tree(tmp_path):
    with uproot.recreate(tmp_path / "a.root") as file:
        for n in (3, 5):
            file.mktree("sub/events", {"x": np.float64}).extend({"x": np.arange(float(n))})
    path = str(tmp_path / "a.root")
    entries = {
        tree: RootSource(path, tree).entries for tree in ("sub/events", "sub/events;1", "sub/events;2")
    }
    assert entries == {"sub/events": 5, "sub/events;1": 3, "sub/events;2": 5}
    with pytest.raises(InputUnreadable, match="no tree 'sub/events;3': it has sub/events; set"):
        RootSource(path, "sub/events;3")


def test_ntuple_of_a_trial_version_is_told(tmp_path, monkeypatch):
    path = write(tmp_path / "a.root", {"x": np.zeros(3)}, "RNTuple")
    old = type("Old", (), {"classname": "ROOT::Experimental::RNTuple"})()
    monkeypatch.setattr(uproot.ReadOnlyDirectory, "__getitem__", lambda *_: old)
    with pytest.raises(
        InputUnreadable, match=r"'events' is an RNTuple of a trial version of ROOT, before 6\.34"
    ):
        RootSource(path, "events")


def test_field_of_an_ntuple_is_no_tree(tmp_path):
    path = write(tmp_path / "a.root", {"x": np.zeros(3)}, "RNTuple")
    with pytest.raises(InputUnreadable, match="no tree 'events/x': it has events"):
        RootSource(path, "events/x")


def test_damaged_ntuple_is_refused_when_opened_or_read(tmp_path):
    columns = {f"x{i}": np.arange(500.0) for i in range(5)}
    whole = Path(write(tmp_path / "a.root", columns, "RNTuple", compression=uproot.ZLIB(1))).read_bytes()
    found = Counter()
    for place in range(500, len(whole) - 200, 211):
        damaged = bytearray(whole)
        damaged[place : place + 60] = bytes(60)
        (tmp_path / "a.root").write_bytes(damaged)
        try:
            source = RootSource(str(tmp_path / "a.root"), "events")
            source.boundaries(source.branches)
            source.read(source.branches, 0, 500)
            found["read"] += 1
        except InputUnreadable as error:
            assert "a.root" in str(error) and len(str(error).splitlines()) == 1
            found["refused"] += 1
    assert found["refused"] > 5


# ---- how much is fetched


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """A file of several MB: 20 branches in 50 baskets each."""
    path = tmp_path_factory.mktemp("large") / "large.root"
    rng = np.random.default_rng(1)
    with uproot.recreate(path, compression=None) as file:
        tree = file.mktree("events", {f"x{i}": np.float64 for i in range(19)} | {"pt": "var * float32"})
        for _ in range(50):
            lists = ak.unflatten(rng.random(1500).astype(np.float32), np.full(500, 3))
            tree.extend({f"x{i}": rng.random(500) for i in range(19)} | {"pt": lists})
    return path


def test_part_of_a_file_is_read_for_part_of_its_events(large):
    source = RootSource(str(large), "events")
    size = large.stat().st_size
    assert size == source.size > 4_000_000
    assert source.branches and source._file.source.num_requested_bytes < size / 8
    before = source._file.source.num_requested_bytes
    read = source.read(["x3", "pt"], 6000, 6100)
    fetched = source._file.source.num_requested_bytes - before
    assert len(read["x3"]) == len(read["pt"].counts) == 100 and len(read["pt"].values) == 300
    assert fetched < 30_000
    before = source._file.source.num_requested_bytes
    source.boundaries(source.branches)
    assert source._file.source.num_requested_bytes == before


def test_part_of_an_ntuple_is_read_for_part_of_its_events(tmp_path):
    rng = np.random.default_rng(1)
    portion = {f"x{i}": rng.random(5000) for i in range(10)}
    with uproot.recreate(tmp_path / "a.root", compression=None) as file:
        ntuple = file.mkrntuple("events", portion)
        for _ in range(9):
            ntuple.extend(portion)
    source = RootSource(str(tmp_path / "a.root"), "events")
    assert source.size > 4_000_000 and source.branches
    assert len(source.read(["x3"], 6000, 6100)["x3"]) == 100
    assert source._file.source.num_requested_bytes < source.size / 8


# ---- over http


class Server(http.server.BaseHTTPRequestHandler):
    """Serves one folder in ranges, and counts."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_HEAD(self):
        self.do_GET(head=True)

    def do_GET(self, head=False):
        path = self.server.folder / self.path.lstrip("/")
        if not path.is_file():
            self.send_error(404)
            return
        data = path.read_bytes()
        asked = re.match(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        first, last = (int(asked[1]), int(asked[2] or len(data) - 1)) if asked else (0, len(data) - 1)
        part = data[first : last + 1]
        self.send_response(206 if asked else 200)
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(len(part)))
        if asked:
            self.send_header("Content-Range", f"bytes {first}-{first + len(part) - 1}/{len(data)}")
        self.end_headers()
        if not head:
            self.server.sent.append(len(part))
            self.wfile.write(part)


@pytest.fixture
def served(large):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server)
    server.folder, server.sent, server.daemon_threads = large.parent, [], True
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def test_part_of_a_file_is_fetched_over_http(large, served):
    url = f"http://127.0.0.1:{served.server_port}/large.root"
    source = inputs.open_source(url, "events")
    assert source.size == large.stat().st_size and source.entries == 25_000
    assert source.uuid == RootSource(str(large), "events").uuid
    read = source.read(["x3", "pt"], 6000, 6100)
    straight = RootSource(str(large), "events").read(["x3", "pt"], 6000, 6100)
    np.testing.assert_array_equal(read["x3"], straight["x3"])
    np.testing.assert_array_equal(read["pt"].values, straight["pt"].values)
    source.close()
    assert sum(served.sent) < source.size / 6


def test_file_that_is_cut_short_is_told_over_http(large, served):
    cut = large.parent / "cut.root"
    cut.write_bytes(large.read_bytes()[:-1000])
    with pytest.raises(InputUnreadable, match=r"cut\.root: is cut short: it has \d+ of \d+ bytes"):
        inputs.open_source(f"http://127.0.0.1:{served.server_port}/cut.root", "events")


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("http://127.0.0.1:{port}/none.root", "no such file"),
        ("http://127.0.0.1:1/a.root", "refuses the connection"),
        ("http://no-such-host.invalid/a.root", "host is unknown"),
        ("gopher://127.0.0.1/a.root", "gopher:// is not supported"),
    ],
)
def test_wrong_url_is_told_at_once(served, url, message):
    url = url.format(port=served.server_port)
    with pytest.raises(InputUnreadable, match=re.escape(message)) as caught:
        inputs.open_source(url, "events")
    assert str(caught.value).startswith(url)


def test_importing_does_not_import_uproot():
    code = "import sys, mlaas_condor.data.rootfile; assert 'uproot' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
