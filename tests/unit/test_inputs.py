"""Input files: each is read, or refused with what is wrong with it; never a crash."""

import os
import resource
import shutil
from pathlib import Path

import awkward as ak
import numpy as np
import pytest
import uproot

from mlaas_condor.data import inputs
from mlaas_condor.errors import InputChanged, InputUnreadable


def refused(path, tree="events"):
    with pytest.raises(InputUnreadable) as caught:
        inputs.survey(str(path), tree)
    assert str(path) in str(caught.value)
    return str(caught.value)


def test_survey_says_what_is_in_a_file(mktree):
    path = mktree("a.root", 30)
    found = inputs.survey(str(path), "events")
    kinds = {name: (branch.kind, branch.dtype) for name, branch in found.branches.items()}
    assert kinds.items() >= {
        "run": ("flat", "uint32"), "event": ("flat", "uint64"), "met": ("flat", "float64"),
        "njets": ("flat", "int32"), "charge": ("flat", "int8"), "trigger": ("flat", "bool"),
        "jet_pt": ("jagged", "float32"), "jet_id": ("jagged", "int32"), "never": ("jagged", "float64"),
    }.items()  # fmt: skip
    assert (found.entries, found.size, found.left_out) == (30, path.stat().st_size, {})
    with uproot.open(path) as file:
        assert found.uuid == str(file.file.uuid)


def test_reading_gives_the_entries_asked_for(mktree):
    path = mktree("a.root", 30)
    with uproot.open(path) as file:
        wanted = file["events"].arrays()
    reader = inputs.Reader(str(path), "events")
    for start, stop in ((0, 30), (7, 19), (29, 30), (5, 5)):
        read = reader.read(["event", "jet_pt", "never"], start, stop)
        np.testing.assert_array_equal(read["event"], wanted["event"][start:stop])
        np.testing.assert_array_equal(read["jet_pt"].counts, ak.num(wanted["jet_pt"][start:stop]))
        np.testing.assert_array_equal(read["jet_pt"].values, ak.flatten(wanted["jet_pt"][start:stop]))
        assert read["never"].counts.tolist() == [0] * (stop - start) and len(read["never"].values) == 0
    assert read["jet_pt"].values.dtype == np.float32
    reader.close()


ODD = ["2jets", "jet-pt", "w[0]", "a b", "class", "a.b", "x*y", "log(x)", "ü", "a:b", "sin"]


def test_branch_names_are_names_and_not_expressions(mktree):
    branches = {name: np.arange(3.0) + i for i, name in enumerate(ODD)}
    path = mktree("odd.root", only=branches)
    assert set(inputs.survey(str(path), "events").branches) == set(ODD)
    read = inputs.Reader(str(path), "events").read(ODD, 0, 3)
    for name, values in branches.items():
        np.testing.assert_array_equal(read[name], values)


@pytest.mark.parametrize(
    "name",
    [
        "a b.root",
        "a,b.root",
        "a:b.root",
        "q'\".root",
        "ü.root",
        "a*b.root",
        "[x]?.root",
        "${HOME}.root",
        "plain",
    ],
)
def test_odd_file_names(mktree, name):
    assert inputs.survey(str(mktree(name, 5)), "events").entries == 5


def test_missing_file(tmp_path):
    assert "no such file" in refused(tmp_path / "none.root")


def test_empty_file(tmp_path):
    (tmp_path / "a.root").touch()
    assert "is empty (0 bytes)" in refused(tmp_path / "a.root")


def test_file_that_is_not_root(tmp_path):
    (tmp_path / "a.root").write_text("hello")
    assert "is not a ROOT file (begins with b'hell')" in refused(tmp_path / "a.root")


def test_folder_and_pipe(tmp_path):
    assert "directory" in refused(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    assert "is a pipe" in refused(tmp_path / "pipe")


def test_name_that_no_file_can_have(tmp_path):
    with pytest.raises(InputUnreadable):
        inputs.survey("a\0b", "events")
    assert "cannot be read" in refused(tmp_path / ("a" * 300))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_file_that_may_not_be_read(mktree):
    path = mktree("a.root")
    path.chmod(0)
    assert "Permission denied" in refused(path)


@pytest.mark.parametrize("share", [0.02, 0.3, 0.6, 0.99])
def test_truncated_file(mktree, share):
    path = mktree("a.root", 200)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    assert "cut short" in refused(path)


def test_missing_tree_names_those_there_are(mktree):
    path = mktree("a.root", tree="Events")
    assert "no tree 'events': it has Events; set 'branch' in params.json" in refused(path)


def test_trees_in_folders_are_named_and_found(mktree):
    path = mktree("a.root", 6, tree="boosted/events")
    assert "it has boosted/events" in refused(path, "nominal/events")
    assert inputs.survey(str(path), "boosted/events").entries == 6


def test_branch_or_histogram_is_no_tree(mktree, tmp_path):
    assert "it has events" in refused(mktree("a.root"), "events/met")
    with uproot.recreate(tmp_path / "h.root") as file:
        file["events"] = np.histogram([1, 2, 3])
    assert "it has no tree at all" in refused(tmp_path / "h.root")


def test_file_with_nothing_in_it(tmp_path):
    with uproot.recreate(tmp_path / "a.root"):
        pass
    assert "it has no tree at all" in refused(tmp_path / "a.root")


def test_empty_tree_has_no_entries(mktree):
    assert inputs.survey(str(mktree("a.root", 0)), "events").entries == 0


def test_damaged_basket_is_told_when_it_is_read(mktree):
    path = mktree("a.root", only={"x": np.random.default_rng(1).random(5000), "y": np.arange(5000.0)})
    with uproot.open(path) as file:
        start = file["events/x"].member("fBasketSeek")[0]
    data = bytearray(path.read_bytes())
    data[start + 300 : start + 400] = bytes(100)
    path.write_bytes(data)
    reader = inputs.Reader(str(path), "events")
    with pytest.raises(InputUnreadable, match="entries 0 to 5000 of x cannot be read"):
        reader.read(["x"], 0, 5000)
    assert reader.read(["y"], 0, 5000)["y"][-1] == 4999
    assert inputs.longest_lists(str(path), "events", ["x"]) == {"x": 0}


def test_missing_branch_is_told(mktree):
    with pytest.raises(InputUnreadable, match="entries 0 to 3 of nothing cannot be read"):
        inputs.Reader(str(mktree("a.root")), "events").read(["nothing"], 0, 3)


def test_memory_error_is_not_a_fault_of_the_file(mktree, monkeypatch):
    reader = inputs.Reader(str(mktree("a.root")), "events")

    def give_up(*_, **__):
        raise MemoryError

    monkeypatch.setattr(reader, "_tree", type("Tree", (), {"arrays": give_up})())
    with pytest.raises(MemoryError):
        reader.read(["met"], 0, 3)


def test_other_file_than_planned_is_not_read(mktree):
    path = mktree("a.root")
    planned = inputs.survey(str(path), "events").uuid
    inputs.Reader(str(path), "events", planned)
    shutil.copy(mktree("b.root"), path)
    with pytest.raises(InputChanged, match=planned):
        inputs.Reader(str(path), "events", planned)


def test_files_without_uuid_are_told_apart_by_content(tmp_path, monkeypatch):
    import uuid

    for name, seed in (("a", 1), ("b", 2), ("c", 1)):
        with uproot.recreate(tmp_path / f"{name}.root", uuid_function=lambda: uuid.UUID(int=0)) as file:
            tree = file.mktree("events", {"x": np.float64})
            tree.extend({"x": np.random.default_rng(seed).random(100)})
    found = {name: inputs.survey(str(tmp_path / f"{name}.root"), "events").uuid for name in "ab"}
    assert found["a"] != found["b"] and found["a"].startswith("ends-")
    assert inputs.survey(str(tmp_path / "a.root"), "events").uuid == found["a"]
    inputs.Reader(str(tmp_path / "a.root"), "events", found["a"])
    with pytest.raises(InputChanged):
        inputs.Reader(str(tmp_path / "b.root"), "events", found["a"])


def test_rntuple_is_read_like_a_tree(tmp_path):
    lists = ak.Array([[1.0, 2.5], [], [3.0]])
    with uproot.recreate(tmp_path / "a.root") as file:
        file["events"] = {"x": np.arange(3), "pt": lists, "name": ak.Array(["a", "b", "c"])}
    found = inputs.survey(str(tmp_path / "a.root"), "events")
    assert {name: branch.kind for name, branch in found.branches.items()} == {"x": "flat", "pt": "jagged"}
    assert "name" in found.left_out and found.entries == 3
    reader = inputs.Reader(str(tmp_path / "a.root"), "events", found.uuid)
    read = reader.read(["x", "pt"], 1, 3)
    assert read["x"].tolist() == [1, 2]
    assert read["pt"].counts.tolist() == [0, 1] and read["pt"].values.tolist() == [3.0]
    reader.close()
    assert "it has events" in refused(tmp_path / "a.root", "Events")


def test_branches_that_cannot_be_features_have_a_reason(tmp_path):
    with uproot.recreate(tmp_path / "a.root") as file:
        tree = file.mktree("events", {"x": np.float64, "m": np.dtype((np.float64, (2, 3)))})
        tree.extend({"x": np.zeros(2), "m": np.zeros((2, 2, 3))})
    found = inputs.survey(str(tmp_path / "a.root"), "events")
    assert set(found.branches) == {"x"}
    assert found.left_out == {"m": "holds 2x3 numbers an element"}


def test_longest_lists_of_the_first_entries(mktree):
    path = mktree(
        "a.root", only={"x": np.zeros(5), "pt": ak.Array([[1.0], [], [1.0, 2.0, 3.0], [1.0] * 9, []])}
    )
    assert inputs.longest_lists(str(path), "events", ["pt"], entries=3) == {"pt": 3}
    assert inputs.longest_lists(str(path), "events", ["pt"]) == {"pt": 9}


def test_more_files_than_may_be_open(mktree):
    path = str(mktree("a.root"))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (60, hard))
    try:
        readers = [inputs.Reader(path, "events") for _ in range(80)]
        assert all(len(reader.read(["met"], 0, 5)["met"]) == 5 for reader in readers)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


# ---- files that nobody here wrote, where they are present

SHARED = Path(__file__).parents[3] / "shared" / "data"
NONE = [pytest.param(Path(), marks=pytest.mark.skip("the shared files are not here"))]


def shared(kind):
    return [pytest.param(path, id=path.name) for path in sorted((SHARED / kind).glob("*.root"))] or NONE


@pytest.mark.parametrize("path", shared("broken"))
def test_broken_file_is_refused(path):
    with pytest.raises(InputUnreadable, match=path.name):
        found = inputs.survey(str(path), "events")
        inputs.Reader(str(path), "events").read(found.branches, 0, found.entries)


@pytest.mark.parametrize("path", shared("real"))
def test_real_file_is_read_as_the_survey_says_or_refused(path):
    with uproot.open(path) as file:
        trees = inputs.tree_names(file) or ["events"]
    for tree in trees:
        try:
            found = inputs.survey(str(path), tree)
            some = list(found.branches)[:15]
            read = inputs.Reader(str(path), tree, found.uuid).read(some, 0, min(3, found.entries))
        except InputUnreadable as error:
            assert path.name in str(error)
            continue
        for name in some:
            jagged = isinstance(read[name], inputs.Jagged)
            dtype = (read[name].values if jagged else read[name]).dtype
            branch = found.branches[name]
            assert (branch.kind, branch.dtype) == ("jagged" if jagged else "flat", dtype.name)
