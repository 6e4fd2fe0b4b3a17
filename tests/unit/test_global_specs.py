"""Specs as MLaaS4HEP writes them: written, and read back when a user gives them."""

import json
import math

import numpy as np
import pytest
from data_tools import dataset_of, fake_reader, jagged, plain_dataset, specs_of
from hypothesis import given
from hypothesis import strategies as st

from mlaas_condor.data import global_specs, measuring
from mlaas_condor.data.dataset import EntryRange
from mlaas_condor.data.specs import Extent, Kept, Specs

EVENTS = {
    "nJets": np.array([2, 6]), "constant": np.array([3.0, 3.0]), "bad": np.array([math.nan, math.inf]),
    "pt": jagged([[1.0, -3.0], [5.0]], np.float32), "none": jagged([[], []], np.float32),
}  # fmt: skip


def specs_in_memory(monkeypatch):
    monkeypatch.setattr(measuring, "Reader", fake_reader({}, EVENTS))
    tasks = [[EntryRange(file=1, start=0, stop=2)]]
    return specs_of(
        plain_dataset([0, 2], tasks=tasks, flat=["bad", "constant", "nJets"], jagged=["none", "pt"])
    )


def test_written_as_mlaas4hep_does(monkeypatch):
    out = global_specs.of_specs(specs_in_memory(monkeypatch), ["/data/a.root", "/data/b.root"])
    assert list(out) == ["jdim", "minv", "maxv", "fkeys", "jkeys", "nans", "events"]
    assert out["jdim"] == {"pt": 2, "none": 0}
    assert out["minv"] == {"nJets": 2, "constant": 3, "bad": 0, "pt": -3, "none": 0}
    assert out["maxv"] == {"nJets": 6, "constant": 3, "bad": 0, "pt": 5, "none": 0}
    assert out["fkeys"] == ["bad", "constant", "nJets"] and out["jkeys"] == ["none", "pt"]
    # Where 0 goes when a branch is normalised.
    assert out["nans"] == {"nJets": -0.5, "constant": 0, "bad": 0, "pt": 3 / 8, "none": 0}
    assert out["events"] == {"/data/a.root": 0, "/data/b.root": 2, "total": 2}
    json.dumps(out, allow_nan=False)


def test_specs_of_one_file_have_the_same_keys(mktree):
    paths = [mktree(f"{i}.root", 30, seed=i) for i in range(2)]
    dataset = dataset_of(paths, carried=["run", "event"])
    part = measuring.measure(dataset, dataset.tasks[0])
    for i, path in enumerate(paths):
        alone = dataset_of([path], carried=["run", "event"])
        wanted = global_specs.of_specs(specs_of(alone), ["x"])
        assert wanted["maxv"]["met"] > 0 and wanted["jdim"]["jet_pt"] == 4
        assert global_specs.of_extents(part.files[i], dataset.flat, {"x": 30, "total": 30}) == wanted


def test_of_mlaas4hep_read(tmp_path, monkeypatch):
    path = tmp_path / "global-specs.json"
    path.write_text("\ufeff" + json.dumps(global_specs.of_specs(specs_in_memory(monkeypatch), ["a", "b"])))
    found = global_specs.read(path)
    assert set(found.flat) == {"bad", "constant", "nJets"} and set(found.jagged) == {"none", "pt"}
    pt = found.jagged["pt"]
    assert (pt.length, pt.minimum, pt.maximum, pt.mean, pt.quantiles) == (2, -3, 5, None, [])
    assert found.flat["nJets"].length == 1 and found.kept == []
    assert found.flat["nJets"].stored == "float32"


def test_of_ours_read_without_their_events(tmp_path, monkeypatch):
    whole = specs_in_memory(monkeypatch)
    whole.model_copy(update={"cuts": ["x>1"]}).write(tmp_path / "specs.json")
    found = global_specs.read(tmp_path / "specs.json")
    assert (found.kept, found.lost, found.cuts) == ([], [], [])
    assert found.flat["nJets"].mean == 4 and len(found.flat["nJets"].quantiles) == 7
    rest = {"whole", "values", "not_finite"}  # of other events
    for before, after in ((whole.flat, found.flat), (whole.jagged, found.jagged)):
        assert {n: b.model_dump(exclude=rest) for n, b in before.items()} == {
            n: b.model_dump(exclude=rest) for n, b in after.items()
        }
    # The events that they are given for may have 300 jets, or -1.
    assert whole.flat["nJets"].stored == "uint8" and found.flat["nJets"].stored == "float32"


RIGHT = {
    "jdim": {"pt": 2},
    "minv": {"pt": 0, "x": 1},
    "maxv": {"pt": 9, "x": 2},
    "fkeys": ["x"],
    "jkeys": ["pt"],
}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"jdim": None, "fkeys": None}, "are no specs: they have no jdim, fkeys"),
        ({"jdim": {}}, "are no specs: jdim, minv or maxv has no 'pt'"),
        ({"minv": {"pt": 0}}, "has no 'x'"),
        ({"jdim": {"pt": "long"}}, "are no specs: length"),
        ({"maxv": {"pt": 9, "x": "nan"}}, "are no specs: maximum"),
        ({"maxv": {"pt": 9, "x": math.nan}}, "are no specs: maximum"),
        ({"jdim": 3}, "are no specs"),
        ({"jdim": [3]}, "are no specs"),
        ({"fkeys": 3}, "are no specs"),
        ({"minv": "x"}, "are no specs"),
        ({"kept": []}, "are no specs"),
    ],
)
def test_what_is_no_specs_is_refused(tmp_path, change, message):
    path = tmp_path / "specs.json"
    path.write_text(json.dumps(RIGHT))
    assert global_specs.read(path).flat["x"].maximum == 2
    content = {key: value for key, value in {**RIGHT, **change}.items() if value is not None}
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=message):
        global_specs.read(path)


@pytest.mark.parametrize("text", ["", "{", "[]", "3", "null", '"kept"', "\xff"])
def test_what_is_no_object_is_refused(tmp_path, text):
    path = tmp_path / "specs.json"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(ValueError):
        global_specs.read(path)


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.floats() | st.sampled_from(["x", "pt", ""]),
    lambda each: (
        st.lists(each, max_size=3) | st.dictionaries(st.sampled_from(["x", "pt", "y"]), each, max_size=3)
    ),
    max_leaves=6,
)


@given(st.dictionaries(st.sampled_from([*RIGHT, "kept", "flat", "jagged"]), ANYTHING))
def test_nothing_that_a_user_gives_is_anything_but_specs_or_a_refusal(tmp_path_factory, change):
    path = tmp_path_factory.getbasetemp() / "any.json"
    path.write_text(json.dumps({**RIGHT, **change}))
    try:
        found = global_specs.read(path)
    except ValueError:
        return
    assert isinstance(found, Specs) and found.events == 0


EXTENTS = st.dictionaries(
    st.sampled_from("abcdef"),
    st.tuples(st.integers(0, 9), st.floats(-3e38, 3e38), st.floats(-3e38, 3e38)).map(
        lambda each: Extent(length=each[0], minimum=min(each[1:]), maximum=max(each[1:]))
    ),
)


@given(EXTENTS, st.sets(st.sampled_from("abcdef")))
def test_what_is_written_is_read_back(tmp_path_factory, extents, flat):
    path = tmp_path_factory.getbasetemp() / "global-specs.json"
    path.write_text(json.dumps(global_specs.of_extents(extents, sorted(flat), {"total": 3}), allow_nan=False))
    found = global_specs.read(path)
    assert set(found.flat) == set(extents) & flat and set(found.jagged) == set(extents) - flat
    for name, branch in (*found.flat.items(), *found.jagged.items()):
        assert (branch.minimum, branch.maximum) == (extents[name].minimum, extents[name].maximum)
        assert branch.length == (1 if name in flat else extents[name].length)


def test_events_of_a_run_without_any_file_left():
    kept = [Kept(range=EntryRange(file=1, start=0, stop=4), flow=(4, 2))]
    out = global_specs.of_specs(Specs(flat={}, jagged={}, kept=kept), ["a", "b", "c"])
    assert out["events"] == {"a": 0, "b": 2, "c": 0, "total": 2}
