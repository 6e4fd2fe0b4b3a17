"""Tables: any entry range of any format reads as a part of the whole; what is wrong is told."""

import bz2
import contextlib
import gzip
import io
import json
import math
import os
import sys
from datetime import date
from decimal import Decimal
from itertools import pairwise
from pathlib import Path

import fastavro
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlaas_condor.data import storage
from mlaas_condor.data.events import Jagged, concatenate, part
from mlaas_condor.data.tables import avro, format_of, lines, open_table
from mlaas_condor.errors import InputUnreadable

N = 120
SUFFIXES = [
    "csv", "csv.gz", "csv.bz2", "tsv", "jsonl", "jsonl.gz", "jsonl.bz2", "ndjson", "json",
    "parquet", "pq", "avro",
]  # fmt: skip

AVRO = {
    "type": "record",
    "name": "event",
    "fields": [
        {"name": "met", "type": ["null", "double"]},
        {"name": "n", "type": "int"},
        {"name": "id", "type": "long"},
        {"name": "good", "type": "boolean"},
        {"name": "sample", "type": "string"},
        {
            "name": "jet",
            "type": {
                "type": "record",
                "name": "jet",
                "fields": [
                    {"name": "pt", "type": ["null", {"type": "array", "items": ["null", "double"]}]},
                    {"name": "n", "type": "long"},
                ],
            },
        },
        {
            "name": "muons",
            "type": {
                "type": "array",
                "items": {
                    "type": "record",
                    "name": "muon",
                    "fields": [{"name": "pt", "type": "float"}, {"name": "tag", "type": "string"}],
                },
            },
        },
    ],
}


def record(i):
    return {
        "met": None if i % 7 == 0 else i * 0.5,
        "n": i,
        "id": 2**60 + i,
        "good": i % 3 == 0,
        "sample": f"a, {i}",
        "jet": {
            "pt": None if i % 5 == 0 else [None if k == 2 else float(i + k) for k in range(i % 4)],
            "n": i % 4,
        },
        "muons": [{"pt": float(k), "tag": "x"} for k in range(i % 3)],
    }


RECORDS = [record(i) for i in range(N)]
FLAT = ["met", "n", "id", "good", "sample"]


def as_csv(records, delimiter=","):
    def text(value):
        if isinstance(value, str):
            return f'"{value}"'
        return "" if value is None else str(value).lower()

    rows = [delimiter.join(FLAT), *(delimiter.join(text(r[name]) for name in FLAT) for r in records)]
    return "\r\n".join(rows)


def write(path, records=RECORDS):
    """Write records as the suffix says; CSV gets the flat fields."""
    kind = format_of(str(path))
    if kind == "parquet":
        pq.write_table(pa.Table.from_pylist(records), path, row_group_size=30)
    elif kind == "avro":
        with path.open("wb") as file:
            fastavro.writer(file, AVRO, records, codec="deflate", sync_interval=500)
    else:
        text = as_csv(records, "\t" if ".tsv" in path.name else ",") if kind == "csv" else ""
        text = text or "\n\n".join(map(json.dumps, records))
        packed = {".gz": gzip.compress, ".bz2": bz2.compress}.get(path.suffix, bytes)
        path.write_bytes(packed(text.encode()))
    return path


@pytest.fixture
def opened():
    """Open tables that are closed when the test ends."""
    with contextlib.ExitStack() as stack:

        def open_one(path, *args):
            table = open_table(str(path), *args)
            stack.callback(table.close)
            return table

        yield open_one


@pytest.fixture(scope="module", params=[each for each in SUFFIXES if each not in ("ndjson", "json", "pq")])
def sample(request, tmp_path_factory):
    """A file of every format, with many places where reading may start."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lines, "SPACING", 1000)
        patch.setattr(lines, "_BLOCK", 256)
        patch.setattr(avro, "SPACING", 1000)
        yield write(tmp_path_factory.mktemp("sample") / f"a.{request.param}")


def same(one, other):
    assert one.keys() == other.keys()
    for name, column in one.items():
        if isinstance(column, Jagged):
            assert column.counts.dtype == np.int64 and column.values.dtype == other[name].values.dtype
            np.testing.assert_array_equal(column.counts, other[name].counts)
            np.testing.assert_array_equal(column.values, other[name].values)
        else:
            assert column.dtype == other[name].dtype
            np.testing.assert_array_equal(column, other[name])


def test_table_holds_what_was_written(sample, opened):
    table = opened(sample)
    assert (table.entries, table.size, table.path) == (N, sample.stat().st_size, str(sample))
    assert table.uuid == storage.ends_digest(str(sample))
    read = table.read(table.branches, 0, N)
    assert {name: column.dtype.name for name, column in read.items() if not isinstance(column, Jagged)} == {
        name: branch.dtype for name, branch in table.branches.items() if branch.kind == "flat"
    }
    met = [math.nan if r["met"] is None else r["met"] for r in RECORDS]
    np.testing.assert_array_equal(read["met"], met)
    assert read["id"].dtype == np.int64 and read["id"].tolist() == [r["id"] for r in RECORDS]
    assert read["good"].tolist() == [r["good"] for r in RECORDS]
    assert table.left_out["sample"] == "holds text"
    if format_of(str(sample)) == "csv":
        assert set(table.branches) == {"met", "n", "id", "good"}
        return
    assert set(table.branches) == {"met", "n", "id", "good", "jet.pt", "jet.n", "muons.pt"}
    lists = [r["jet"]["pt"] or [] for r in RECORDS]
    assert read["jet.pt"].counts.tolist() == [len(each) for each in lists]
    values = [math.nan if value is None else value for each in lists for value in each]
    np.testing.assert_array_equal(read["jet.pt"].values, values)
    assert read["muons.pt"].counts.tolist() == [len(r["muons"]) for r in RECORDS]
    assert table.left_out["muons.tag"] == "holds text"


@settings(max_examples=30)
@given(data=st.data())
def test_ranges_in_a_row_are_the_whole(sample, data):
    cuts = sorted(data.draw(st.lists(st.integers(0, N), max_size=6)))
    with contextlib.closing(open_table(str(sample))) as table:
        whole = table.read(table.branches, 0, N)
        edges = [0, *cuts, N]
        parts = [table.read(table.branches, a, b) for a, b in pairwise(edges)]
    same(concatenate(parts), whole)


@settings(max_examples=30)
@given(data=st.data())
def test_any_range_is_a_part_of_the_whole_with_an_index_found_before(sample, data):
    with contextlib.closing(open_table(str(sample))) as table:
        whole, index = table.read(table.branches, 0, N), table.index
    with contextlib.closing(open_table(str(sample), json.loads(json.dumps(index)))) as table:
        assert table.index == index and table.entries == N
        for _ in range(3):
            start = data.draw(st.integers(0, N))
            stop = data.draw(st.integers(start, N))
            names = data.draw(st.lists(st.sampled_from(sorted(table.branches)), unique=True))
            wanted = {name: part(whole[name], start, stop) for name in names}
            same(table.read(names, start, stop), wanted)


def test_records_are_whole_with_texts(sample, opened):
    table = opened(sample)
    found = table.records(3, 110)
    assert len(found) == 107 and found[0]["sample"] == "a, 3" and found[-1]["id"] == 2**60 + 109
    if format_of(str(sample)) == "csv":
        assert math.isnan(found[4]["met"]) and list(found[0]) == FLAT
    else:
        assert found == RECORDS[3:110]


def test_boundaries_go_from_the_first_to_the_last_entry(sample, opened):
    table = opened(sample)
    edges = list(table.boundaries(["n"]))
    assert edges == sorted(set(edges)) and edges[0] == 0 and edges[-1] == N and len(edges) > 3
    if format_of(str(sample)) == "parquet":
        assert edges == [0, 30, 60, 90, 120]


def test_missing_branch_names_those_that_are_near(sample, opened):
    table = opened(sample)
    with pytest.raises(InputUnreadable, match=r"no branch 'mett'; near are met"):
        table.read(["mett"], 0, 1)
    with pytest.raises(InputUnreadable, match="'sample' holds text"):
        table.read(["sample"], 0, 1)


def test_range_beyond_the_end_is_cut(sample, opened):
    table = opened(sample)
    assert len(table.read(["n"], N - 1, N + 5)["n"]) == 1
    assert len(table.read(["n"], N + 1, N + 5)["n"]) == 0
    assert table.read([], 0, 5) == {}


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("a.csv", "csv"), ("a.CSV.GZ", "csv"), ("x/a.b.jsonl.bz2", "json"), ("a.parquet", "parquet"),
        ("https://h/a.avro?token=x.y", "avro"), ("a.parquet.gz", None), ("a.root", None), ("csv", None),
        ("a.txt", None), ("a.gz", None),
    ],
)  # fmt: skip
def test_format_is_told_by_the_suffix(name, found):
    assert format_of(name) == found


# Lines


@given(
    parts=st.lists(
        st.sampled_from(["a", "bb", " ", "\t", "\r", "\n", "\r\n", "\n\n", '"', "x,y", " \n"]), max_size=60
    ),
    block=st.integers(1, 9),
    quotes=st.booleans(),
)
def test_lines_are_found_whatever_the_blocks(parts, block, quotes):
    text = "".join(parts)
    if quotes and text.count('"') % 2:
        text += '"'
    wanted, line, within, blank = [], "", False, "\r" if quotes else " \t\r"
    for letter in text:
        within ^= quotes and letter == '"'
        if letter != "\n" or within:
            line += letter
            continue
        wanted += [line] if line.strip(blank) else []
        line = ""
    wanted += [line] if line.strip(blank) else []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lines, "_BLOCK", block)
        patch.setattr(lines, "SPACING", 7)
        found = lines.Lines(io.BytesIO(text.encode()), 0, quotes)
        assert found.entries == len(wanted)
        for start in range(len(wanted)):
            for stop in range(start + 1, len(wanted) + 1):
                # Blank lines, which no parser counts, may be before and between.
                got = found.locate(start, stop)[1].decode()
                assert got.strip("\r\n \t") == got[got.find(wanted[start]) :].strip("\r\n \t")
                assert all(line in got for line in wanted[start:stop])
                assert lines.Lines(io.BytesIO(got.encode()), 0, quotes).entries == stop - start


class Counting(io.RawIOBase):
    """A file that counts the bytes that are read of it."""

    def __init__(self, path):
        self.inner = Path(path).open("rb", buffering=0)  # noqa: SIM115 - closed with this
        self.count = 0

    def readable(self):
        return True

    def seekable(self):
        return True

    def seek(self, offset, whence=0):
        return self.inner.seek(offset, whence)

    def readinto(self, buffer):
        found = self.inner.readinto(buffer)
        self.count += found
        return found

    def close(self):
        self.inner.close()
        super().close()


@pytest.fixture
def counted(monkeypatch):
    files = []

    def open_counting(path):
        files.append(Counting(path))
        return io.BufferedReader(files[-1], 4096)

    monkeypatch.setattr(storage, "open_bytes", open_counting)
    return files


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet", "avro"])
def test_reading_a_little_at_the_end_reads_little(tmp_path, suffix, counted, monkeypatch, opened):
    for module in (lines, avro):
        monkeypatch.setattr(module, "SPACING", 2**16)
    monkeypatch.setattr(lines, "_BLOCK", 2**14)
    many = [record(i) for i in range(20000)]
    path = tmp_path / f"a.{suffix}"
    if suffix == "parquet":
        pq.write_table(pa.Table.from_pylist(many), path, row_group_size=1000)
    else:
        write(path, many)
    index = opened(path).index
    table = opened(path, index)
    before = counted[-1].count
    assert before < 4 * 2**16  # both ends for the digest, and the first entries
    assert table.read(["met"], 19900, 19910)["met"][2] == 19902 * 0.5
    assert counted[-1].count - before < 2**17 < table.size / 3


@pytest.mark.parametrize("suffix", ["csv.gz", "jsonl.bz2"])
def test_compressed_ranges_in_a_row_do_not_begin_again(tmp_path, suffix, counted, opened, monkeypatch):
    monkeypatch.setattr(lines, "_BLOCK", 2**14)
    path = write(tmp_path / f"a.{suffix}", [record(i) for i in range(20000)])
    table = opened(path)
    before = counted[-1].count
    for start in range(0, 20000, 500):
        table.read(["n"], start, start + 500)
    assert counted[-1].count - before < 1.2 * table.size + 2**16


# CSV


def csv_of(tmp_path, text, name="a.csv"):
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def refused(path):
    with pytest.raises(InputUnreadable) as caught:
        open_table(str(path)).close()
    message = str(caught.value)
    assert str(path) in message and "\n" not in message
    return message


def test_csv_knows_all_spellings_of_nothing(tmp_path, opened):
    path = csv_of(tmp_path, "x,y\n1,a\n,b\nnan, NA\n NaN,\nNA,\n-inf,\n 2.5 ,c")
    x = opened(path).read(["x"], 0, 99)["x"]
    np.testing.assert_array_equal(x, [1, math.nan, math.nan, math.nan, math.nan, -math.inf, 2.5])


def test_csv_types_hold_for_the_whole_file(tmp_path, opened):
    rows = [f"{i},,{2**63 + i},{i}" for i in range(1500)] + ["0.5,7,9,1e3"]
    table = opened(csv_of(tmp_path, "a,b,c,d\n" + "\n".join(rows)))
    assert {name: branch.dtype for name, branch in table.branches.items()} == {
        "a": "float64", "b": "float64", "c": "uint64", "d": "float64"
    }  # fmt: skip
    end = table.read("abcd", 1499, 1501)
    assert end["a"].tolist() == [1499, 0.5] and end["b"][1] == 7 and end["c"].tolist() == [2**63 + 1499, 9]


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ("1,2", "line 1503: has 2 fields, the first line names 3"),
        ("1,2,3,4", "line 1503: has 4 fields, the first line names 3"),
        ("x,true,5000000000000000000", "line 1503: a is 'x' where the first entries hold numbers"),
        ("1,maybe,5000000000000000000", "line 1503: b is 'maybe' where the first entries hold truth values"),
        ("1,true,1.5", r"line 1503: c is '1.5' where the first entries hold integers beyond 2\*\*53"),
        ("1,true,", "c of entry 1500 is missing, in a branch of integers"),
    ],
)
@pytest.mark.parametrize("suffix", ["csv", "csv.gz"])
def test_csv_says_which_line_contradicts(tmp_path, opened, row, said, suffix):
    rows = [f"{i},true,{5 * 10**18 + i}" for i in range(1500)]
    text = "a,b,c\n\n" + "\n".join([*rows, row, *rows]) + "\n"
    path = tmp_path / f"a.{suffix}"
    path.write_bytes(gzip.compress(text.encode()) if suffix.endswith("gz") else text.encode())
    table = opened(path)
    assert table.entries == 3001
    with pytest.raises(InputUnreadable, match=said):
        table.read("abc", 1400, 1600)
    assert len(table.read("abc", 1501, 3001)["a"]) == 1500


def test_csv_quotes_may_hold_newlines(tmp_path, opened):
    table = opened(csv_of(tmp_path, 'x,t\n1,"a\n\nb"\n2,"say ""hi"", then"\n"3",c\n'))
    assert table.entries == 3 and table.read(["x"], 1, 3)["x"].tolist() == [2, 3]
    assert [each["t"] for each in table.records(0, 3)] == ["a\n\nb", 'say "hi", then', "c"]


def test_csv_column_without_name_is_left_out(tmp_path, opened):
    table = opened(csv_of(tmp_path, "\ufeff,x\r\n0,5\r\n1,6\r\n"))
    assert list(table.branches) == ["x"] and table.left_out == {"column 1": "has no name"}
    assert table.records(1, 2) == [{"x": 6.0}]


def test_csv_with_a_header_only_has_no_entries(tmp_path, opened):
    table = opened(csv_of(tmp_path, "x,y\n"))
    assert table.entries == 0 and len(table.read(["x"], 0, 1)["x"]) == 0 and table.records(0, 5) == []


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("x,y,x\n1,2,3\n", "two columns are called 'x'"),
        ("1,2.5\n3,4\n", "its first line must name the columns, it is '1,2.5'"),
        ("x;y\n1;2\n", "separated by ';', not by ','"),
        ("x,y\r1,2\r", "carriage return alone"),
        ('x,y\n1,"2\n', "a quote is opened and never closed"),
        ("\n\n", "has no line that names its columns"),
        ("x,y\n1\n", "line 2: has 1 fields, the first line names 2"),
        (b"\xff\xfex\x00,\x00", "codec can't decode"),
    ],
)
def test_csv_refused(tmp_path, text, said):
    assert said in refused(csv_of(tmp_path, text))


# JSON lines


def test_json_fields_that_are_missing_or_odd(tmp_path, opened):
    rows = [
        '{"x": 1, "big": 1, "l": [1, null], "o": [{"p": 1}, {}, null], "mixed": 1, "t": "a", "deep": [[1]]}',
        '  {"x": NaN, "l": null, "mixed": "b", "never": null, "empty": []}  ',
        "   ",
        '{"x": -Infinity, "big": 1e400, "s": {"in": {"n": 3}}, "o": []}',
        '{"big": 123456789012345678901234567890, "x": true}',
    ]
    table = opened(csv_of(tmp_path, "\n".join(rows), "a.json"))
    assert table.left_out == {
        "mixed": "holds integers or text",
        "t": "holds text",
        "deep": "holds lists of lists",
    }
    read = table.read(table.branches, 0, 4)
    np.testing.assert_array_equal(read["x"], [1, math.nan, -math.inf, 1])
    np.testing.assert_array_equal(read["big"], [1, math.nan, math.inf, 123456789012345678901234567890.0])
    assert read["l"].counts.tolist() == [2, 0, 0, 0] and read["o.p"].counts.tolist() == [3, 0, 0, 0]
    np.testing.assert_array_equal(read["o.p"].values, [1, math.nan, math.nan])
    np.testing.assert_array_equal(read["s.in.n"], [math.nan, math.nan, 3, math.nan])
    assert np.isnan(read["never"]).all() and read["empty"].counts.tolist() == [0] * 4


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ('{"x": "abc"}', "line 1502: x is 'abc' where numbers are expected"),
        ('{"x": [1]}', r"line 1502: x is \[1\] where numbers are expected"),
        ('{"l": 3}', "line 1502: l is 3 where lists are expected"),
        ('{"l": [{}]}', r"line 1502: l is \{\} where numbers are expected"),
        ('{"id": 1.5}', r"line 1502: id is 1.5 where integers are expected"),
        ('{"x": 1}', "line 1502: id is missing where integers are expected"),
        ('{"x": ', "line 1502: is not JSON: Expecting value"),
        ('{"x": 1}{"x": 2}', "line 1502: is not JSON: Extra data"),
        ("[1]", r"line 1502: is '\[1\]', not a record"),
        ('{"x": "\xff"}', "line 1502: is not JSON: .* can't decode"),
    ],
)
def test_json_says_which_line_contradicts(tmp_path, opened, row, said):
    rows = [f'{{"x": {i}, "l": [{i}], "id": {2**60 + i}}}' for i in range(1500)]
    text = "\n".join(["", *rows, row, *rows])
    table = opened(csv_of(tmp_path, text.encode("latin-1"), "a.jsonl"))
    with pytest.raises(InputUnreadable, match=said):
        table.read(["x", "l", "id"], 1400, 1600)
    assert len(table.read(["x"], 1501, 3001)["x"]) == 1500


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[{"x": 1},\n{"x": 2}]', "is one JSON array; JSON lines are needed"),
        ('{\n  "x": 1\n}', "its records go over several lines; JSON lines are needed"),
        ('{"x": 1,\n "y": 2}\n', "line 1: is not JSON"),
        ("x,y\n1,2\n", "is not JSON (begins with"),
    ],
)
def test_json_refused(tmp_path, text, said):
    assert said in refused(csv_of(tmp_path, text, "a.json"))


def test_json_line_of_several_megabytes(tmp_path, opened):
    rows = [json.dumps({"l": list(range(200000)), "x": i}) for i in range(4)]
    table = opened(csv_of(tmp_path, "\n".join(rows), "a.jsonl"))
    assert table.read(["l"], 2, 4)["l"].counts.tolist() == [200000] * 2
    assert table.read(["x"], 3, 4)["x"].tolist() == [3]


# Parquet


def parquet_of(tmp_path, columns, **options):
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table(columns), path, **options)
    return path


def test_parquet_types(tmp_path, opened):
    columns = {
        "i8": pa.array([1, 2, 3], pa.int8()),
        "u64": pa.array([2**64 - 1, 0, 1], pa.uint64()),
        "f16": pa.array([1.5, 2, 3], pa.float16()),
        "some": pa.array([1, None, 3], pa.int32()),
        "good": pa.array([True, None, False]),
        "late": pa.array([True, True, False]),
        "money": pa.array([Decimal("1.25"), None, Decimal("3.00")], pa.decimal128(10, 2)),
        "words": pa.array(["a", "b", "a"]).dictionary_encode(),
        "codes": pa.array([5.5, 6.5, 5.5]).dictionary_encode(),
        "when": pa.array([date(2020, 1, 2)] * 3),
        "raw": pa.array([b"x", b"\xff", b"z"]),
        "x3": pa.array([[1, 2, 3], None, [4, 5, None]], pa.list_(pa.float32(), 3)),
        "grid": pa.array([[[1]], [], [[2, 3]]]),
        "map": pa.array([[("a", 1)], [], []], pa.map_(pa.string(), pa.int64())),
        "s": pa.array([{"a": 1, "b": {"c": 2}}, None, {"a": 3, "b": None}]),
        "none": pa.nulls(3),
        "hits": pa.array([[{"e": 1}], None, [{"e": 2}, None]], pa.large_list(pa.struct({"e": pa.int64()}))),
    }
    table = opened(parquet_of(tmp_path, columns, row_group_size=2))
    dtypes = {name: branch.dtype for name, branch in table.branches.items()}
    assert dtypes == {
        "i8": "int8", "u64": "uint64", "f16": "float16", "some": "float64", "good": "float64", "late": "bool",
        "money": "float64", "codes": "float64", "x3": "float32", "s.a": "float64", "s.b.c": "float64",
        "none": "float64", "hits.e": "float64",
    }  # fmt: skip
    assert table.left_out == {
        "words": "holds text", "when": "holds times", "raw": "holds binary", "grid": "holds lists of lists",
        "map": "holds maps",
    }  # fmt: skip
    assert table.branches["x3"].length == 3
    for start, stop in ((0, 3), (1, 3), (2, 3)):
        read = table.read(table.branches, start, stop)
        assert {name: getattr(c, "values", c).dtype.name for name, c in read.items()} == dtypes
        np.testing.assert_array_equal(read["u64"], np.array([2**64 - 1, 0, 1], np.uint64)[start:stop])
        np.testing.assert_array_equal(read["some"], [1, math.nan, 3][start:stop])
        np.testing.assert_array_equal(read["money"], [1.25, math.nan, 3][start:stop])
        np.testing.assert_array_equal(read["codes"], [5.5, 6.5, 5.5][start:stop])
        np.testing.assert_array_equal(read["s.b.c"], [2, math.nan, math.nan][start:stop])
        assert read["x3"].counts.tolist() == [3] * (stop - start)
        fixed = [1, 2, 3, math.nan, math.nan, math.nan, 4, 5, math.nan]
        np.testing.assert_array_equal(read["x3"].values, fixed[3 * start : 3 * stop])
        assert read["hits.e"].counts.tolist() == [1, 0, 2][start:stop]
    first = table.records(0, 1)[0]
    assert first["when"] == "2020-01-02" and first["raw"] == "x" and first["money"] == 1.25
    assert json.dumps(table.records(0, 3))


def test_parquet_identifiers_stay_whole_without_statistics(tmp_path, opened):
    columns = {"id": pa.array([2**60 + 1, 2**60 + 2]), "s": pa.array([{"id": 2**60 + 1}, {"id": 5}])}
    table = opened(parquet_of(tmp_path, columns, write_statistics=False))
    assert table.branches["id"].dtype == table.branches["s.id"].dtype == "int64"
    assert table.read(["id"], 0, 2)["id"].tolist() == [2**60 + 1, 2**60 + 2]


def test_parquet_reads_only_the_columns_asked_for(tmp_path, counted, opened):
    rng = np.random.default_rng(1)
    wide = pa.array([{"a": a, "b": b} for a, b in rng.random((50000, 2))])
    table = opened(parquet_of(tmp_path, {"x": rng.random(50000), "s": wide}, compression="none"))
    before = counted[-1].count
    table.read(["s.b"], 0, 50000)
    assert counted[-1].count - before < table.size / 2


def test_parquet_without_rows(tmp_path, opened):
    table = opened(parquet_of(tmp_path, {"x": pa.array([], pa.float64())}))
    assert table.entries == 0 and table.boundaries(["x"]) == [0] and len(table.read(["x"], 0, 1)["x"]) == 0


def test_branch_of_the_same_name_twice(tmp_path, opened):
    table = opened(parquet_of(tmp_path, {"s": [{"a": 1.0}], "s.a": [2.0]}))
    assert table.left_out == {"s.a (again)": "has the name of another branch"}
    assert table.read(["s.a"], 0, 1)["s.a"].tolist() == [1]


# Avro


def avro_of(tmp_path, fields, records, codec="null", name="a.avro"):
    path = tmp_path / name
    with path.open("wb") as file:
        schema = {
            "type": "record",
            "name": "r",
            "fields": [{"name": k, "type": v} for k, v in fields.items()],
        }
        fastavro.writer(file, schema, records, codec=codec)
    return path


def test_avro_types(tmp_path, opened):
    point = {"type": "record", "name": "point", "fields": [{"name": "x", "type": "float"}]}
    tree = {"type": "record", "name": "tree", "fields": [{"name": "up", "type": ["null", "tree"]}, {"name": "n", "type": "int"}]}  # fmt: skip  # noqa: E501
    fields = {
        "a": ["int", "double"],
        "b": ["string", "long"],
        "id": ["null", "long"],
        "few": ["null", "long"],
        "p": point,
        "q": ["null", "point"],
        "money": {"type": "bytes", "logicalType": "decimal", "precision": 9, "scale": 2},
        "when": {"type": "long", "logicalType": "timestamp-millis"},
        "colour": {"type": "enum", "name": "colour", "symbols": ["red", "blue"]},
        "map": {"type": "map", "values": "int"},
        "tree": tree,
        "good": ["null", "boolean"],
    }
    one = {"a": 2**60 + 1, "b": "x", "id": 2**60 + 1, "few": 3, "p": {"x": 1.5}, "q": None,
           "money": Decimal("1.25"), "when": 0, "colour": "red", "map": {}, "good": None,
           "tree": {"up": None, "n": 1}}  # fmt: skip
    two = {**one, "a": 0.5, "b": 7, "id": 2**60 + 3, "few": None, "q": {"x": 2.5}, "good": True}
    table = opened(avro_of(tmp_path, fields, [one, two]))
    read = table.read(table.branches, 0, 2)
    assert {name: column.dtype.name for name, column in read.items()} == {
        "a": "float64", "id": "int64", "few": "float64", "p.x": "float32", "q.x": "float32",
        "money": "float64",
        "tree.n": "int32", "good": "float64",
    }  # fmt: skip
    assert table.left_out == {
        "b": "holds string or int64", "when": "holds times", "colour": "holds text",
        "map": "holds maps",
        "tree.up": "holds records within themselves",
    }  # fmt: skip
    np.testing.assert_array_equal(read["a"], [float(2**60), 0.5])
    np.testing.assert_array_equal(read["q.x"], np.array([math.nan, 2.5], np.float32))
    assert read["id"].tolist() == [2**60 + 1, 2**60 + 3] and read["money"].tolist() == [1.25, 1.25]
    assert json.dumps(table.records(0, 2))


@pytest.mark.parametrize("codec", ["null", "deflate", "bzip2", "xz"])
def test_avro_codecs(tmp_path, opened, codec):
    table = opened(avro_of(tmp_path, {"x": "double"}, [{"x": i} for i in range(5000)], codec))
    assert table.read(["x"], 4000, 4002)["x"].tolist() == [4000, 4001]


def test_avro_codec_that_needs_a_package_names_it(tmp_path):
    path = avro_of(tmp_path, {"x": "double"}, [{"x": 1}])
    path.write_bytes(path.read_bytes().replace(b"\x08null", b"\x12zstandard"))
    try:
        from backports import zstd  # noqa: F401
    except ImportError:
        assert "pip install backports.zstd" in refused(path)


def test_avro_nullable_identifier_that_is_missing_later(tmp_path, opened):
    records = [{"id": 2**60 + i} for i in range(1500)] + [{"id": None}]
    table = opened(avro_of(tmp_path, {"id": ["null", "long"]}, records))
    with pytest.raises(InputUnreadable, match="id of entry 1500 is missing, in a branch of integers"):
        table.read(["id"], 1490, 1501)


def test_avro_without_records_and_of_no_records(tmp_path, opened):
    assert opened(avro_of(tmp_path, {"x": "double"}, [])).entries == 0
    path = tmp_path / "b.avro"
    with path.open("wb") as file:
        fastavro.writer(file, "long", [1, 2])
    assert "not records" in refused(path)


# Files that are no good


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_no_such_file_directory_pipe_empty(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    assert "no such file" in refused(path)
    path.mkdir()
    assert "is a directory, not a file" in refused(path)
    path.rmdir()
    os.mkfifo(path)
    assert "is a pipe, not a file" in refused(path)
    path.unlink()
    path.touch()
    assert "is empty (0 bytes)" in refused(path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_no_permission(tmp_path):
    path = write(tmp_path / "a.csv")
    path.chmod(0)
    assert "no permission" in refused(path)


@pytest.mark.parametrize("suffix", ["csv.gz", "jsonl.gz", "csv.bz2", "parquet", "avro"])
@pytest.mark.parametrize("kept", [0.02, 0.5, 0.9, 0.999])
def test_file_that_is_cut_short(tmp_path, suffix, kept):
    path = write(tmp_path / f"a.{suffix}")
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * kept)])
    message = refused(path)
    assert "cut short" in message or "cannot be opened" in message


@pytest.mark.parametrize("suffix", ["csv.gz", "jsonl.bz2", "parquet", "avro"])
def test_file_of_another_format(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    path.write_bytes(b"root\x00 this is something else\n" * 10)
    refused(path)


@settings(max_examples=30)
@given(data=st.data())
def test_damaged_file_is_refused_or_read(sample, data):
    whole = sample.read_bytes()
    at = data.draw(st.integers(0, len(whole) - 1))
    damaged = sample.with_name(f"damaged.{sample.name.partition('.')[2]}")
    damaged.write_bytes(whole[:at] + bytes([whole[at] ^ data.draw(st.integers(1, 255))]) + whole[at + 1 :])
    try:
        with contextlib.closing(open_table(str(damaged))) as table:
            table.read(table.branches, 0, table.entries)
            table.records(0, table.entries)
    except InputUnreadable as error:
        assert "\n" not in str(error)


def test_unknown_suffix(tmp_path):
    assert "no format has that suffix; known are .csv" in refused(tmp_path / "a.txt")


def test_package_that_is_missing_is_named(tmp_path, monkeypatch):
    path = write(tmp_path / "a.avro")
    monkeypatch.setitem(sys.modules, "fastavro", None)
    monkeypatch.delitem(sys.modules, "mlaas_condor.data.tables.avro", raising=False)
    assert "needs a package that is missing: pip install fastavro" in refused(path)
