"""The user's function on records: its branches are as any others; its faults name file, line and record."""

import contextlib
import gzip
import json
import math
import os
import time
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlaas_condor.data.events import Jagged, concatenate
from mlaas_condor.data.recordwise import Recordwise, load, try_out
from mlaas_condor.data.tables import open_table
from mlaas_condor.errors import InputUnreadable, ModelFault

N = 150
CODE = """
import math

KINDS = {"data": 0, "mc": 1}


def preprocessing(rec):
    rec["kind"] = KINDS[rec["sample"]]
    rec["log"] = math.log(rec["met"] + 1)
    rec["sum"] = sum(rec["pt"])
    rec["pt2"] = [pt**2 for pt in rec["pt"]]
    rec["new"] = {"a": rec["met"] > 10}
    del rec["met"]
    return rec
"""


@pytest.fixture(scope="module")
def table_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("records") / "a.jsonl"
    rows = [
        {"met": i, "id": 2**60 + i, "sample": ("data", "mc")[i % 2], "pt": [i * 0.5] * (i % 3)}
        for i in range(N)
    ]
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


@pytest.fixture
def wrapped(tmp_path, table_file):
    """Wrap the table in a function of the user's; it is closed when the test ends."""
    with contextlib.ExitStack() as stack:

        def wrap(code, table=table_file, **options):
            path = tmp_path / "pre.py"
            path.write_text(code)
            opened = open_table(str(table))
            stack.callback(opened.close)
            return Recordwise(opened, path, **options)

        yield wrap


def fault(function, *args, **options):
    with pytest.raises(ModelFault) as caught:
        function(*args, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def body(lines, before=""):
    return before + "def preprocessing(rec):\n" + "".join(f"    {line}\n" for line in lines)


def test_branches_are_those_the_function_leaves(wrapped, table_file):
    source = wrapped(CODE)
    assert {name: (b.kind, b.dtype) for name, b in source.branches.items()} == {
        "id": ("flat", "int64"), "kind": ("flat", "float64"), "log": ("flat", "float64"),
        "sum": ("flat", "float64"), "pt": ("jagged", "float64"), "pt2": ("jagged", "float64"),
        "new.a": ("flat", "float64"),
    }  # fmt: skip
    assert source.left_out == {"sample": "holds text"}
    assert (source.entries, source.path, source.size) == (N, str(table_file), table_file.stat().st_size)
    assert list(source.boundaries(["kind"])) == [0, N]
    read = source.read(source.branches, 100, 103)
    assert read["kind"].tolist() == [0, 1, 0] and read["id"].tolist() == [2**60 + i for i in (100, 101, 102)]
    np.testing.assert_allclose(read["log"], np.log([101, 102, 103]))
    assert read["pt2"].counts.tolist() == [1, 2, 0] and read["pt2"].values.tolist() == [50**2] + [50.5**2] * 2
    assert read["new.a"].tolist() == [1, 1, 1]


def test_ranges_in_a_row_are_the_whole(wrapped):
    source = wrapped(CODE)
    whole = source.read(source.branches, 0, N)

    @settings(max_examples=30)
    @given(cuts=st.lists(st.integers(0, N), max_size=5))
    def law(cuts):
        parts = [source.read(source.branches, a, b) for a, b in pairwise([0, *sorted(cuts), N])]
        for name, column in concatenate(parts).items():
            if isinstance(column, Jagged):
                np.testing.assert_array_equal(column.counts, whole[name].counts)
            values = getattr(column, "values", column)
            np.testing.assert_array_equal(values, getattr(whole[name], "values", whole[name]))

    law()


@pytest.mark.parametrize("suffix", ["csv", "csv.gz"])
def test_text_of_a_csv_becomes_numbers(tmp_path, wrapped, suffix):
    path = tmp_path / f"a.{suffix}"
    text = b"x,t\n1,2 GeV\n,3 GeV\n"
    path.write_bytes(gzip.compress(text) if suffix.endswith("gz") else text)
    source = wrapped(body(['rec["e"] = float(rec["t"].split()[0]) + rec["x"]', "return rec"]), path)
    e = source.read(["e"], 0, 2)["e"]
    assert e[0] == 3 and math.isnan(e[1])


def test_numpy_and_modules_beside_the_file(tmp_path, wrapped):
    (tmp_path / "beside_the_file.py").write_text("FACTOR = 2\n")
    before = "import numpy as np\nimport beside_the_file\nprint('hello')\n"
    lines = [
        'rec["a"] = np.float32(rec["met"]) * beside_the_file.FACTOR',
        'rec["l"] = np.arange(3)',
        "print(rec)",
    ]
    source = wrapped(body([*lines, "return rec"], before))
    read = source.read(["a", "l"], 10, 12)
    assert read["a"].tolist() == [20, 22] and read["l"].counts.tolist() == [3, 3]


def test_missing_branch(wrapped):
    source = wrapped(CODE)
    with pytest.raises(InputUnreadable, match="branch 'met' is not there after preprocessing"):
        source.read(["met"], 0, 1)
    with pytest.raises(InputUnreadable, match="branch 'sample' holds text"):
        source.read(["sample"], 0, 1)


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("def preprocessing(rec)\n    return rec\n", "pre.py:1: expected ':': def preprocessing(rec)"),
        ("import nothing_of_that_name\n", "pre.py:1: ModuleNotFoundError: No module named"),
        (
            "def other(rec): return rec\n",
            "pre.py: no function `preprocessing` (functions in the file: other)",
        ),
        ("preprocessing = 3\n", "no function `preprocessing` (functions in the file: none)"),
        ("import sys\nsys.exit(3)\n", "pre.py:2: ends the program, with exit(3)"),
        ("open('/nowhere/at/all')\n", "pre.py:1: FileNotFoundError"),
        (body(["return rec['x'] + 1"]), "pre.py:2: KeyError at record 0: 'x'"),
        (body(["if rec['met'] == 7:", "    1 / 0", "return rec"]), "pre.py:3: ZeroDivisionError at record 7"),
        (
            body(["rec['a'] = 1"]),
            "returns NoneType at record 0: it must return the record; an event cannot be",
        ),
        (body(["return [1]"]), "returns list at record 0: it must return the record"),
        (body(["raise SystemExit('enough')"]), "pre.py:2: ends the program at record 0, with exit('enough')"),
        (body(["os._exit(0)"], "import os\n"), "pre.py: ends its process (code 0) without returning"),
        (body(["os.kill(os.getpid(), 11)"], "import os\n"), "pre.py: crashes (SIGSEGV) without returning"),
        (body(["return {'a': 'text'}"]), "pre.py: preprocessing leaves no branch of numbers"),
        (body(["def f(): return f()", "return f()"]), "pre.py:2: RecursionError at record 0"),
        (body(["r = {}", "r['r'] = r", "return r"]), "preprocessing returns what is no record: Circular"),
    ],
)
def test_faults_are_found_in_the_first_records(wrapped, code, said):
    assert said in fault(wrapped, code)


def test_file_that_is_missing(tmp_path):
    assert fault(load, tmp_path / "none.py").endswith("none.py: cannot be read: No such file or directory")
    assert "none.py: cannot be read" in fault(try_out, tmp_path / "none.py", [{"x": 1}])


def test_function_that_never_ends_is_stopped_with_all_it_started(tmp_path, wrapped):
    mark = tmp_path / "pid"
    code = body(
        [f"pathlib.Path({str(mark)!r}).write_text(str(child.pid))", "while True: pass"],
        "import subprocess, pathlib\nchild = subprocess.Popen(['sleep', '60'])\n",
    )
    begin = time.monotonic()
    assert "pre.py: preprocessing does not come back within 2 s for 100 records" in fault(
        wrapped, code, seconds=2
    )
    assert time.monotonic() - begin < 20
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        try:
            state = Path(f"/proc/{mark.read_text()}/stat").read_text().rpartition(")")[2].split()[0]
        except FileNotFoundError:
            break
        if state == "Z":
            break
        time.sleep(0.05)
    else:
        os.kill(int(mark.read_text()), 9)
        pytest.fail("a process that the file started is left")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("if late: 1 / 0", "pre.py:3: ZeroDivisionError at record 140: division by zero"),
        ("if late: return None", "pre.py: preprocessing returns NoneType at record 140"),
        ("if late: raise SystemExit", "pre.py:3: ends the program at record 140"),
        ("if late: rec['met'] = 'x'", "pre.py: at record 140, met is 'x' where numbers are expected"),
        ("if late: rec['id'] = 1.5", "pre.py: at record 140, id is 1.5 where integers are expected"),
    ],
)
def test_faults_in_later_records(wrapped, line, said):
    source = wrapped(body(["late = rec['met'] == 140", line, "return rec"]))
    assert said in fault(source.read, ["met", "id"], 120, N)
    assert len(source.read(["met"], 120, 140)["met"]) == 20


def test_user_file_is_not_run_in_this_process_before_it_reads(tmp_path, wrapped):
    mark = tmp_path / "mark"
    before = f"import os\nwith open({str(mark)!r}, 'a') as mark:\n    mark.write(f'{{os.getpid()}} ')\n"
    source = wrapped(body(["return rec"], before))
    assert mark.read_text().split() != [str(os.getpid())] and len(mark.read_text().split()) == 1
    source.read(["met"], 0, 1)
    source.read(["met"], 1, 2)
    assert mark.read_text().split()[1:] == [str(os.getpid())]


def test_empty_table(tmp_path, wrapped):
    path = tmp_path / "a.csv"
    path.write_text("x\n")
    assert wrapped(body(["return rec"]), path).entries == 0
