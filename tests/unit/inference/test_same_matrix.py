"""What a model is given of raw events is what it was trained on, to the last bit."""

from __future__ import annotations

import json
import warnings

import awkward as ak
import numpy as np
import pytest
import uproot
from bundle_tools import write_bundle
from data_tools import chunks_of, dataset_of, same_array, specs_of
from example_tools import copy_example, edit

from mlaas_condor import settings, workflow
from mlaas_condor.data.features import Columns, matrix
from mlaas_condor.inference import features, files
from mlaas_condor.inference.model import Model

PREPROC = {
    "new_branch": {
        "logPt": {"def": "log(jetPt)", "type": "jagged", "cut_1": ["logPt>3.6", "any"]},
        "ptSum": {"def": "sum(jetPt * (abs(jetEta) < 2))", "keys_to_remove": ["jetEta"]},
        "jetsSquare": {"def": "nJets**2", "type": "flat", "cut": "1<=jetsSquare<=100"},
    },
    "flat_cut": {"nLeptons": {"cut": "0<=nLeptons<=2", "remove": "True"}},
    "jagged_cut": {"jetMass": {"cut": ["jetMass>0", "all"], "remove": "False"}},
}


def training_rows(dataset, specs, recipe):
    """Return the matrices of all chunks, and file and entry of every row."""
    chunks = chunks_of(dataset, specs)
    columns = Columns.of(specs, recipe.normalise, recipe.padding)
    x = np.concatenate([matrix(chunk.events, columns) for chunk in chunks])
    return x, *(np.concatenate([getattr(chunk, name) for chunk in chunks]) for name in ("file", "entry"))


@pytest.mark.parametrize(
    ("params", "preproc"),
    [({}, None), ({"normalise": "robust", "nan": -5.0, "max_length": {"jet*": 3}}, PREPROC)],
    ids=["plain", "preproc"],
)
def test_tth(tmp_path, params, preproc):
    folder = copy_example(tmp_path, **params)
    if preproc:
        (folder / "preproc.json").write_text(json.dumps(preproc))
        edit(folder, "job.json", preproc="preproc.json")
    planned = workflow.plan(folder, settings.load(home=str(tmp_path / "home")))
    dataset, recipe = planned.dataset, planned.recipe
    specs = specs_of(dataset)
    x, file, entry = training_rows(dataset, specs, recipe)
    found = write_bundle(tmp_path / "bundle", dataset, recipe, specs)
    # Whether it is a list is not seen from `jetPt * (abs(jetEta) < 2)`; it is from the events.
    unknown = [name for name, kind in found["inputs"].items() if kind is None]
    assert unknown == (["jetEta"] if preproc else [])
    model = Model.load(tmp_path / "bundle")
    rows = 0
    for position, each in enumerate(dataset.files):
        made = model.features(each.path)
        of_file = file == position
        assert same_array(np.flatnonzero(made.kept), np.sort(entry[of_file]))
        assert same_array(made.x, x[of_file][np.argsort(entry[of_file])])
        assert len(made.kept) == each.entries
        rows += len(made.x)
    assert rows == len(x) == specs.events
    assert bool(preproc) == (rows < dataset.events)

    # The same from memory, as arrays and as plain lists; and the scores follow.
    path = dataset.files[0].path
    with uproot.open(path) as opened:
        arrays = opened["events"].arrays(list(model.branches))
    of_path = model.features(path)
    for events in (arrays, {name: arrays[name] for name in arrays.fields}):
        again = model.features(events)
        assert same_array(again.x, of_path.x) and same_array(again.kept, of_path.kept)
    one = {
        name: arrays[name][0].tolist() if arrays[name].ndim > 1 else arrays[name][0] for name in arrays.fields
    }
    assert same_array(model.features(one).x, of_path.x[: int(of_path.kept[0])])
    few = {name: arrays[name][:50].to_list() for name in arrays.fields}
    assert same_array(model.features(few).x, of_path.x[: np.count_nonzero(of_path.kept[:50])])
    scores = model.predict(path)
    assert scores.shape == of_path.kept.shape and scores.dtype == np.float32
    assert same_array(np.isnan(scores), ~of_path.kept)
    assert same_array(scores[of_path.kept], model.predict(of_path.x))


def test_every_type_of_branch_and_values_beyond_those_of_the_training(mktree, tmp_path):
    n = 40
    branches = {
        "time": np.linspace(1.6e9, 1.6e9 + 1000, n),  # kept as float64
        "huge": np.geomspace(1e30, 3e38, n),  # kept as float32, scaled in float64
        "third": np.arange(n) / 3,  # kept as float32, comes as float64
        "big": np.arange(n) + 2**40,
        "fixed": np.arange(2 * n).reshape(n, 2).astype(np.int16),
    }
    path = mktree("a.root", n, **branches)
    dataset = dataset_of([path], carried=["run", "event"], chunk_size=-1, shuffle=False)
    specs = specs_of(dataset)
    assert {branch.stored for branch in specs.flat.values()} >= {"float32", "float64", "uint8", "int8"}
    columns = Columns.of(specs)
    (chunk,) = chunks_of(dataset, specs)
    write_bundle(tmp_path / "bundle", dataset, specs=specs)
    model = Model.load(tmp_path / "bundle")
    assert same_array(model.features(path).x, matrix(chunk.events, columns))

    # An integer that the training's smallest type does not hold is not wrapped round.
    with uproot.open(path) as opened:
        events = opened["events"].arrays(list(model.branches))
    events["njets"] = np.full(n, 1000)
    column = model.features(events).x[:, model.columns.index("njets")]
    expected = (1000 - specs.flat["njets"].minimum) / (
        specs.flat["njets"].maximum - specs.flat["njets"].minimum
    )
    assert column == pytest.approx(expected)
    events["met"] = np.full(n, 1e39)  # infinite as float32: padding
    assert set(model.features(events).x[:, model.columns.index("met")]) == {0.0}


def test_events_are_taken_in_blocks_and_give_the_same(mktree, tmp_path, monkeypatch):
    path = mktree("a.root", 100)
    dataset = dataset_of([path])
    write_bundle(tmp_path / "bundle", dataset)
    model = Model.load(tmp_path / "bundle")
    whole = model.features(path)
    scores = model.predict(path)
    with uproot.open(path) as file:
        events = file["events"].arrays(list(model.branches))
    monkeypatch.setattr(features, "_MOST", 7)
    blocks = list(files.of_file(model._preparation, str(path)))
    assert len(blocks) == 15 and max(len(block.kept) for block in blocks) == 7
    for given in (path, events):
        assert same_array(model.features(given).x, whole.x)
        assert same_array(model.features(given).kept, whole.kept)
    # A network's last bits may depend on how many events it gets at a time.
    assert model.predict(path) == pytest.approx(scores, abs=1e-6)


def test_lists_longer_than_in_training_are_cut_and_it_is_said_once(mktree, tmp_path):
    path = mktree("a.root", 40)
    write_bundle(tmp_path / "bundle", dataset_of([path], features=["met", "jet_pt", "jet_id"]))
    model = Model.load(tmp_path / "bundle")
    assert model.columns == ("met", *(f"jet_id_{i}" for i in range(3)), *(f"jet_pt_{i}" for i in range(4)))
    event = {"met": [20.0], "jet_pt": [[5.0, 4.0, 3.0, 2.0, 1.0, 0.5]], "jet_id": [[1, 2]]}
    with pytest.warns(UserWarning, match=r"tiny_1: lists longer .*: jet_pt \(6, trained with 4\)$") as told:
        long = model.predict(event)
    assert told[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert model.predict(event | {"jet_pt": [event["jet_pt"][0][:4]]}) == long
        assert model.predict(event) == long
    assert len(ak.Array(event["jet_pt"])[0]) == 6
