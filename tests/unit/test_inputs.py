"""Input files of any format: each is opened as what it is, or refused with what is wrong; never a crash."""

import os
import resource
import shutil
import uuid

import awkward as ak
import numpy as np
import pytest
import uproot

from mlaas_condor.data import inputs
from mlaas_condor.data.dataset import Dataset, EntryRange, InputFile
from mlaas_condor.data.events import Jagged
from mlaas_condor.errors import InputChanged, InputUnreadable


def refused(path, tree="events"):
    with pytest.raises(InputUnreadable) as caught:
        inputs.survey(str(path), tree)
    message = str(caught.value)
    assert str(path) in message and len(message.splitlines()) == 1
    return message


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
    assert (found.path, found.tree, tuple(found.index)) == (str(path), "events", ())
    with uproot.open(path) as file:
        assert found.uuid == str(file.file.uuid)


def test_reading_gives_the_entries_asked_for(mktree):
    path = mktree("a.root", 30)
    with uproot.open(path) as file:
        wanted = file["events"].arrays()
    source = inputs.open_source(str(path), "events")
    for start, stop in ((0, 30), (7, 19), (29, 30), (5, 5)):
        read = source.read(["event", "jet_pt", "never"], start, stop)
        np.testing.assert_array_equal(read["event"], wanted["event"][start:stop])
        np.testing.assert_array_equal(read["jet_pt"].counts, ak.num(wanted["jet_pt"][start:stop]))
        np.testing.assert_array_equal(read["jet_pt"].values, ak.flatten(wanted["jet_pt"][start:stop]))
        assert read["never"].counts.tolist() == [0] * (stop - start) and len(read["never"].values) == 0
    assert read["jet_pt"].values.dtype == np.float32
    source.close()


ODD = [
    "2jets",
    "jet-pt",
    "w[0]",
    "a b",
    "class",
    "a.b",
    "a/b",
    "x*y",
    "x?",
    "log(x)",
    "ü",
    "a:b",
    "A::c",
    "sin",
]


def test_branch_names_are_names_and_not_expressions(mktree):
    branches = {name: np.arange(3.0) + i for i, name in enumerate(ODD)}
    path = mktree("odd.root", only=branches)
    assert set(inputs.survey(str(path), "events").branches) == set(ODD)
    read = inputs.open_source(str(path), "events").read(ODD, 0, 3)
    for name, values in branches.items():
        np.testing.assert_array_equal(read[name], values)


@pytest.mark.parametrize(
    "name",
    ["a b.root", "a,b.root", "a:b.root", "a.root:events", "q'\".root", "ü.root", "a*b.root", "[x]?.root",
     "${HOME}.root", "plain"],
)  # fmt: skip
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
    assert "ermission" in refused(path)


@pytest.mark.parametrize("share", [0.002, 0.02, 0.3, 0.6, 0.99, 0.9999])
def test_truncated_file(mktree, share):
    path = mktree("a.root", 200)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    assert "cut short" in refused(path)


@pytest.mark.parametrize("cut", [5, 19, 100, 300])
def test_file_that_ends_in_its_header_or_first_key(mktree, cut):
    path = mktree("a.root", 200)
    path.write_bytes(path.read_bytes()[:cut])
    assert "cut short" in refused(path)


def test_file_whose_end_is_overwritten(mktree):
    path = mktree("a.root", 200)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 3].ljust(len(data), b"\0"))
    with pytest.raises(InputUnreadable, match=r"a\.root: [^\n]*$"):
        source = inputs.open_source(str(path), "events")
        source.read(source.branches, 0, source.entries)


def test_missing_tree_names_those_there_are(mktree):
    path = mktree("a.root", tree="Events")
    assert "no tree 'events': it has Events; set 'branch' in params.json" in refused(path)


def test_trees_in_folders_are_named_and_found(mktree):
    path = mktree("a.root", 6, tree="boosted/events")
    assert "it has boosted/events" in refused(path, "nominal/events")
    assert "it has boosted/events" in refused(path, "boosted")
    assert inputs.survey(str(path), "boosted/events").entries == 6


def test_branch_or_histogram_is_no_tree(mktree, tmp_path):
    assert "no tree 'events/met': it has events" in refused(mktree("a.root"), "events/met")
    with uproot.recreate(tmp_path / "h.root") as file:
        file["events"] = np.histogram([1, 2, 3])
    assert "it has no tree at all" in refused(tmp_path / "h.root")


def test_file_with_nothing_in_it(tmp_path):
    with uproot.recreate(tmp_path / "a.root"):
        pass
    assert "it has no tree at all" in refused(tmp_path / "a.root")


def test_empty_tree_has_no_entries(mktree):
    path = str(mktree("a.root", 0))
    found = inputs.survey(path, "events")
    assert found.entries == 0 and found.branches["jet_pt"].kind == "jagged"
    source = inputs.open_source(path, "events")
    read = source.read(["met", "jet_pt"], 0, 0)
    assert len(read["met"]) == len(read["jet_pt"].counts) == len(read["jet_pt"].values) == 0
    assert list(source.boundaries(["met", "jet_pt"])) == [0]


def test_damaged_basket_is_told_when_it_is_read(mktree):
    numbers = {f"y{i}": np.arange(5000.0) + i for i in range(20)}
    path = mktree("a.root", only={"x": np.random.default_rng(1).integers(0, 1000, 5000) / 8, **numbers})
    with uproot.open(path) as file:
        start = file["events/x"].member("fBasketSeek")[0]
    data = bytearray(path.read_bytes())
    data[start + 300 : start + 400] = bytes(100)
    path.write_bytes(data)
    source = inputs.open_source(str(path), "events")
    with pytest.raises(InputUnreadable, match=r"a\.root: entries 0 to 5000 of x cannot be read: "):
        source.read(["y7", "x", *numbers], 0, 5000)
    assert source.read(["y3"], 0, 5000)["y3"][-1] == 5002


def test_many_damaged_branches_do_not_make_a_long_message(mktree):
    path = mktree(
        "a.root", only={f"x{i}": np.random.default_rng(i).integers(0, 99, 500) / 8 for i in range(30)}
    )
    with uproot.open(path) as file:
        starts = [branch.member("fBasketSeek")[0] for branch in file["events"].branches]
    data = bytearray(path.read_bytes())
    for start in starts:
        data[start + 100 : start + 300] = bytes(200)
    path.write_bytes(data)
    source = inputs.open_source(str(path), "events")
    with pytest.raises(InputUnreadable, match=r"of x0, .*, x7 and 22 more cannot be read: [^\n]*$"):
        source.read([f"x{i}" for i in range(30)], 0, 500)


def test_missing_branch_is_told(mktree):
    source = inputs.open_source(str(mktree("a.root")), "events")
    for ask in (lambda: source.read(["met", "nothing"], 0, 3), lambda: source.boundaries(["nothing"])):
        with pytest.raises(InputUnreadable, match=r"a\.root: tree 'events' has no branch nothing$"):
            ask()


def test_memory_error_is_not_a_fault_of_the_file(mktree, monkeypatch):
    source = inputs.open_source(str(mktree("a.root")), "events")

    def give_up(*_, **__):
        raise MemoryError

    monkeypatch.setattr(type(source._tree), "arrays", give_up)
    with pytest.raises(MemoryError):
        source.read(["met"], 0, 3)


def test_other_file_than_planned_is_not_read(mktree):
    path = mktree("a.root")
    planned = inputs.survey(str(path), "events").uuid
    inputs.open_source(str(path), "events", planned)
    shutil.copy(mktree("b.root"), path)
    with pytest.raises(InputChanged, match=planned):
        inputs.open_source(str(path), "events", planned)


def test_files_without_uuid_are_told_apart_by_content(tmp_path):
    for name, seed in (("a", 1), ("b", 2), ("c", 1)):
        with uproot.recreate(tmp_path / f"{name}.root", uuid_function=lambda: uuid.UUID(int=0)) as file:
            tree = file.mktree("events", {"x": np.float64})
            tree.extend({"x": np.random.default_rng(seed).random(100)})
    found = {name: inputs.survey(str(tmp_path / f"{name}.root"), "events").uuid for name in "ab"}
    assert found["a"] != found["b"] and found["a"].startswith("ends-")
    assert inputs.survey(str(tmp_path / "a.root"), "events").uuid == found["a"]
    inputs.open_source(str(tmp_path / "a.root"), "events", found["a"])
    with pytest.raises(InputChanged):
        inputs.open_source(str(tmp_path / "b.root"), "events", found["a"])


def test_more_files_than_may_be_open(mktree):
    path = str(mktree("a.root"))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (60, hard))
    try:
        sources = [inputs.open_source(path, "events") for _ in range(80)]
        assert all(len(source.read(["met"], 0, 5)["met"]) == 5 for source in sources)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


# ---- what a dataset reads


def dataset_of(path, **changed):
    found = inputs.survey(str(path), "events")
    file = InputFile(
        path=str(path), tree="events", uuid=found.uuid, size=found.size, entries=found.entries,
        used=found.entries, staged=changed.pop("staged", ""),
    )  # fmt: skip
    whole = EntryRange(file=0, start=0, stop=found.entries)
    made = {"flat": ["met"], "jagged": ["jet_pt"], "chunk_size": -1, "shuffle": False, "seed": 0}
    return Dataset(files=[file], tasks=[[whole]], **(made | changed))


def test_reader_reads_the_file_of_the_dataset(mktree):
    path = mktree("a.root", 30)
    reader = inputs.Reader(dataset_of(path), 0)
    straight = inputs.open_source(str(path), "events").read(["met", "jet_pt"], 3, 9)
    read = reader.read(["met", "jet_pt"], 3, 9)
    np.testing.assert_array_equal(read["met"], straight["met"])
    np.testing.assert_array_equal(read["jet_pt"].values, straight["jet_pt"].values)
    reader.close()


def test_copy_beside_the_job_is_read_rather_than_the_original(mktree, tmp_path, monkeypatch):
    path = mktree("a.root", 30)
    dataset = dataset_of(path, staged="0-a.root")
    monkeypatch.chdir(tmp_path)
    path.rename("0-a.root")
    assert inputs.Reader(dataset, 0).source.path == "0-a.root"


def test_branch_that_a_file_lacks_is_nan_or_empty_where_that_is_allowed(mktree):
    path = mktree("a.root", 30)
    dataset = dataset_of(path, fill_missing={"extra": "flat", "more": "jagged", "met": "flat"})
    read = inputs.Reader(dataset, 0).read(["extra", "met", "more"], 3, 7)
    assert np.isnan(read["extra"]).all() and len(read["extra"]) == len(read["met"]) == 4
    assert isinstance(read["more"], Jagged) and read["more"].counts.tolist() == [0] * 4
    assert np.isfinite(read["met"]).any()
    only = inputs.Reader(dataset, 0).read(["extra"], 3, 7)
    assert len(only["extra"]) == 4
    with pytest.raises(InputUnreadable, match="has no branch other"):
        inputs.Reader(dataset, 0).read(["other"], 0, 3)
