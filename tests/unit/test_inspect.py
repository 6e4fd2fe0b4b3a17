"""What is in files, as data and as people see it."""

import json
import math
from functools import partial
from pathlib import Path

import numpy as np
import pytest

import mlaas_condor
from mlaas_condor import show_files
from mlaas_condor.inspection import inspect
from mlaas_condor.lists import split_tree

SHARED = Path(__file__).parents[3] / "shared" / "data"


@pytest.fixture
def command(command):
    """Run inspect as the installed program does; give exit code, stdout and stderr."""
    return partial(command, "inspect")


def real(name):
    path = SHARED / name
    if not path.exists():
        pytest.skip(f"no {name} here")
    return path


def row(out, name):
    return next(line for line in out.splitlines() if line.split()[:1] == [name])


def test_numbers_of_a_branch_are_those_of_its_values(mktree):
    met = np.array([1.5, math.nan, 4.0, math.inf])
    found = inspect(mktree(only={"met": met}))
    facts = found.branches["met"]
    assert (facts.specs.minimum, facts.specs.maximum, facts.specs.mean) == (1.5, 4.0, 2.75)
    assert (facts.specs.values, facts.specs.not_finite, facts.entries) == (2, 2, 4)
    assert facts.type == "float64" and facts.mean_length is None
    assert found.files[0].branches["met"] == facts


def test_lengths_of_lists(mktree):
    ak = pytest.importorskip("awkward")
    path = mktree(only={"pt": ak.Array([[1.0, 2.0, 3.0], [], [4.0]]), "p4": np.ones((3, 4), np.float32)})
    found = inspect(path).branches
    assert (found["pt"].type, found["pt"].longest) == ("float64[]", 3)
    assert found["pt"].mean_length == pytest.approx(4 / 3)
    assert (found["p4"].type, found["p4"].mean_length, found["p4"].note) == ("float32[4]", 4, "constant")


def test_integers_of_a_small_range_each_have_a_bin(mktree):
    values = np.array([-2] * 3 + [0] * 5 + [5], np.int32)
    bars = inspect(mktree(only={"n": values, "flag": values > 0})).branches
    assert bars["n"].bars.counts == [3, 0, 5, 0, 0, 0, 0, 1]
    assert (bars["n"].bars.low, bars["n"].bars.high) == (-2.5, 5.5)
    assert bars["flag"].bars.counts == [8, 1]


@pytest.mark.parametrize("span", [24, 30, 63])
def test_bins_hold_as_many_integers_each(mktree, span):
    values = np.repeat(np.arange(span + 1, dtype=np.int32), 50)
    bars = inspect(mktree(only={"n": values})).branches["n"].bars
    assert set(bars.counts[:-1]) == {50 * int((bars.high - bars.low) / len(bars.counts))}


def test_what_is_odd_is_said(mktree):
    n = 300
    found = inspect(
        mktree(n=n, nan=np.full(n, math.nan), rare=np.where(np.arange(n), 0, 1e6).astype(np.float32))
    )
    notes = {name: facts.note for name, facts in found.branches.items()}
    assert notes["constant"] == "constant" and notes["never"] == "always empty"
    assert notes["nan"] == "only NaN" and notes["rare"] == "nearly constant" and notes["njets"] == ""


def test_the_first_entries_are_looked_at_unless_all_are(command, mktree):
    path = mktree(only={"x": np.arange(300.0)})
    assert inspect(path, entries=100).branches["x"].specs.maximum == 99
    assert inspect(path, entries=None).branches["x"].specs.maximum == 299
    out = command(path, "--entries", 100)[1]
    assert "range and histogram of the first 100 of 300 entries" in out
    assert "range and histogram" not in command(path, "--entries", 100, "--all")[1]


def test_no_entries_are_no_numbers(mktree, command):
    path = mktree(only={"x": np.zeros(0)})
    assert inspect(path).branches["x"].specs is None
    code, out, _ = command(path)
    assert code == 0 and "0 entries, 1 branch that" in out and row(out, "x").split() == ["x", "float64"]


def test_tree_with_the_most_entries_is_shown_where_none_is_named(tmp_path, command):
    import uproot

    path = tmp_path / "a.root"
    with uproot.recreate(path) as file:
        file.mktree("Runs", {"run": "int32"}).extend({"run": np.arange(2, dtype=np.int32)})
        file.mktree("deep/Events", {"x": "float32"}).extend({"x": np.arange(5, dtype=np.float32)})
    found = inspect(path).files[0]
    assert found.trees == {"Runs": 2, "deep/Events": 5} and found.tree == "deep/Events"
    assert inspect(f"{path}:Runs").files[0].tree == inspect(path, tree="Runs").files[0].tree == "Runs"
    assert inspect([f"{path}:Runs"], tree="deep/Events").files[0].tree == "Runs"
    assert "Runs (2), deep/Events (5); --tree chooses" in command(path)[1]
    code, out, err = command(path, "--tree", "Run")
    assert code == 20 and out == "" and "no tree 'Run' (did you mean 'Runs'" in err


def test_patterns_narrow_the_branches(command, mktree):
    path = mktree()
    assert list(inspect(path, branches=["jet_*", "met"]).branches) == ["met", "jet_pt", "jet_id"]
    code, out, _ = command(path, "--branches", "jet_*,met")
    assert code == 0 and "jet_pt" in out and "met" in out and "njets" not in out
    code, _, err = command(path, "--branches", "jet_*", "--branches", "xyz")
    assert code == 0 and "'xyz' matches no branch" in err
    assert command(path, "--branches", "xyz")[0] == 2


def test_several_files_are_a_row_each_and_what_differs(command, mktree):
    one, other = mktree("a.root", 20), mktree("b.root", 30, seed=1, met=None, extra=np.ones(30))
    found = inspect([one, other])
    assert found.branches["njets"].entries == 50 and found.branches["met"].entries == 20
    whole = {path: inspect(path).branches["njets"].specs for path in (one, other)}
    joined = found.branches["njets"].specs
    assert joined.values == 50 and joined.maximum == max(each.maximum for each in whole.values())
    code, out, _ = command(one, other)
    assert code == 0 and row(out, str(one)).split()[1:3] == ["events", "20"]
    assert f"has no met: {other}" in out and f"has no extra: {one}" in out
    assert command(one, other, "--each")[1].count("\nnjets ") == 2


def test_globs_are_taken_in_quotes_too(mktree, tmp_path):
    mktree("a.root"), mktree("b.root")
    assert [Path(each.path).name for each in inspect(f"{tmp_path}/*.root:events").files] == [
        "a.root",
        "b.root",
    ]


def test_a_bad_file_does_not_hide_the_others(command, mktree, tmp_path):
    good, bad = mktree(), tmp_path / "bad.root"
    bad.write_bytes(b"nothing")
    code, out, err = command(good, bad, tmp_path / "aa.root", tmp_path / "x*.root")
    assert code == 20 and "jet_pt" in out
    assert "bad.root: is not a ROOT file" in err and "x*.root: matches no file" in err
    assert "aa.root: no such file (did you mean 'a.root'" in err


def test_a_branch_that_cannot_be_read_does_not_hide_the_others(command):
    path = real("broken/flipped_Jet_Px.root")
    found = inspect(path)
    assert list(found.files[0].damaged) == ["Jet_Px"] and found.branches["Jet_Py"].specs.values
    assert "Jet_Px" not in found.branches
    code, out, _ = command(path)
    assert code == 0 and "a run needs them in exclude_branches" in out


def test_branches_that_are_no_features_are_there_with_the_reason(command):
    code, out, _ = command(real("real/skhep--HZZ-objects.root"))
    assert code == 0 and "11 branches cannot be features" in out and "holds" in out and "jetp4" in out


def test_json_has_everything_and_no_nan(command, mktree):
    path = mktree()
    code, out, err = command(path, "--json")
    found = json.loads(out, parse_constant=lambda name: pytest.fail(name))
    assert code == 0 and err == ""
    assert set(found) == {"files", "unreadable", "branches", "differences", "unmatched"}
    file = found["files"][0]
    assert file["trees"] == [{"path": "events", "entries": 30}] and file["entries"] == file["seen"] == 30
    by_name = {each["name"]: each for each in file["branches"]}
    assert by_name["never"]["minimum"] is None and by_name["jet_pt"]["type"] == "float32[]"
    assert found["branches"] == file["branches"]


def test_tables_have_no_tree(command, tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("x,y,name\n1,2,a\n3,,b\n")
    code, out, _ = command(path)
    assert code == 0 and "2 entries, 2 branches" in out and "holds text: name" in out
    assert "50.0%" in row(out, "y")


def test_many_branches_share_rows(command, mktree, monkeypatch):
    names = [f"HLT_{i}" for i in range(show_files.MANY)]
    path = mktree(only={name: np.arange(9) % 2 == 0 for name in names} | {"met": np.arange(9.0)})
    out = command(path)[1]
    assert row(out, "HLT_*").split() == ["HLT_*", str(len(names)), "bool"]
    assert "HLT_7" not in out and row(out, "met")
    assert "HLT_7 " in command(path, "--branches", "*")[1]


def test_narrow_terminals_get_fewer_columns_and_whole_names(command, mktree, monkeypatch):
    path = mktree(a_name_that_is_a_little_longer_than_others=np.arange(30.0))
    monkeypatch.setenv("COLUMNS", "80")
    narrow = command(path)[1]
    monkeypatch.setenv("COLUMNS", "160")
    wide = command(path)[1]
    assert "mean" in wide and " mean " not in narrow
    assert "a_name_that_is_a_little_longer_than_others" in narrow


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, ""), (0.0, "0"), (3.0, "3"), (-1e6, "-1000000"), (12.3456, "12.35"), (123456.7, "123457"),
        (0.00123456, "0.001235"), (1.5e-16, "1.5e-16"), (2.0**64, "1.84e19"), (-3.4e38, "-3.4e38"),
    ],
)  # fmt: skip
def test_numbers_have_the_digits_that_count(value, text):
    assert show_files.number(value) == text


def test_blocks_show_any_value_at_all():
    assert show_files.blocks([0, 1, 1000], 24) == " ▁█"
    assert show_files.blocks([1, 1, 0, 0, 4], 3) == "▄ █"


def test_notebooks_get_the_same(mktree):
    found = mlaas_condor.inspect(mktree())
    assert "jet_pt" in str(found) and found._repr_html_().startswith("<pre>")


@pytest.mark.parametrize(
    "name",
    ["unroot--NanoAODv5_sample", "laurelin--all-types", "skhep--nesteddirs", "skhep--stl_containers",
     "skhep--issue261", "skhep--test_stl_containers_rntuple_v1-0-0-0"],
)  # fmt: skip
def test_real_files(command, name):
    code, out, err = command(real(f"real/{name}.root"))
    assert code == 0 and out and err == "" and len(out.splitlines()) < 150


@pytest.mark.parametrize(
    ("line", "file", "tree"),
    [
        ("http://h.cern.ch:8443/a.root", "http://h.cern.ch:8443/a.root", ""),
        ("http://127.0.0.1:80/a.root:t/x", "http://127.0.0.1:80/a.root", "t/x"),
        ("a.root:events;2", "a.root", "events;2"),
        ("/x/a.root", "/x/a.root", ""),
    ],
)
def test_the_port_of_a_url_is_no_tree(line, file, tree):
    assert split_tree(line, Path(line)) == (file, tree)
