"""Opening a bundle and predicting, with a model whose scores can be worked out by hand."""

from __future__ import annotations

import gc
import json
import pickle
import sys
import tempfile
from pathlib import Path

import awkward as ak
import numpy as np
import pytest
import uproot
from bundle_tools import recipe_of, rewrite, weights_of, write_bundle, write_onnx
from data_tools import dataset_of, specs_of

from mlaas_condor.data.selection import Cut, Definition, Steps
from mlaas_condor.errors import FrameworkMissing, InputUnreadable, ModelFault, RequestError
from mlaas_condor.inference.model import Model
from mlaas_condor.training import bundle

STEPS = Steps(
    definitions=[Definition(name="double", expression="2 * njets", branches=["njets"])],
    cuts=[Cut(expression="njets > 4", branches=["njets"])],
)
FEATURES = ["met", "double", "jet_pt"]


@pytest.fixture
def path(mktree):
    return mktree("a.root", 40)


@pytest.fixture
def folder(tmp_path, path):
    """A bundle whose training dropped events with up to four jets."""
    dataset = dataset_of([path], features=FEATURES, steps=STEPS, flat=["double", "met"])
    write_bundle(tmp_path / "bundle", dataset)
    return tmp_path / "bundle"


@pytest.fixture
def model(folder):
    return Model.load(folder)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def test_scores_of_every_event_in_their_order(model, path):
    scores = model.predict(path)
    with uproot.open(path) as file:
        njets = file["events/njets"].array(library="np")
    assert scores.shape == (40,) and scores.dtype == np.float32
    assert np.isnan(scores).tolist() == (njets <= 4).tolist() and 0 < np.isnan(scores).sum() < 40
    features = model.features(path)
    assert features.kept.tolist() == (njets > 4).tolist()
    expected = sigmoid(features.x @ weights_of(6)[:, 0])
    assert scores[features.kept] == pytest.approx(expected, rel=1e-5)
    assert model.predict(str(path) + ":events").tobytes() == scores.tobytes()


def test_what_it_says_of_itself(model):
    assert (model.name, model.task, model.classes) == ("tiny_1", "classification", ("background", "signal"))
    assert model.columns == ("double", "met", *(f"jet_pt_{i}" for i in range(4)))
    assert dict(model.branches) == {"jet_pt": "jagged", "met": "flat", "njets": "flat"}
    assert model.metrics["test"]["auc"] == 0.9 and model.provenance == {}
    assert repr(model) == "<Model tiny_1: 3 branches, 6 columns, classes background, signal; onnxruntime>"


def test_an_array_is_normalised_features_if_not_said_otherwise(model):
    x = np.random.default_rng(1).random((5, 6))
    expected = sigmoid(x @ weights_of(6)[:, 0])
    for given in (x, x.astype(np.float32), x.tolist(), np.asfortranarray(x)):
        assert model.predict(given) == pytest.approx(expected, rel=1e-5)
    assert model.predict(x[0]) == pytest.approx(expected[:1], rel=1e-5)
    assert model.features(x, normalised=True).x.tolist() == x.astype(np.float32).tolist()


def test_raw_columns_are_normalised_as_branches_are(model, path):
    with uproot.open(path) as file:
        events = file["events"].arrays(list(model.branches))
    events = events[events.njets > 4]
    lists = ak.fill_none(ak.pad_none(events.jet_pt, 4), np.nan).to_numpy()
    raw = np.column_stack([2 * events.njets.to_numpy(), events.met.to_numpy(), lists])
    expected = model.features(events)
    assert model.features(raw).x.tobytes() == expected.x.tobytes()
    assert model.predict(raw, normalised=False).tolist() == model.predict(events).tolist()
    assert np.abs(model.predict(raw) - model.predict(events)).max() > 0.1
    padded = np.where(np.isnan(expected.x), 0, expected.x)
    padded[0, 1] = np.nan
    assert model.features(padded, normalised=True).x[0, 1] == 0 and np.isnan(padded[0, 1])


def test_no_events_give_no_scores(model, mktree, tmp_path):
    for events in (np.zeros((0, 6)), [], {"met": [], "njets": [], "jet_pt": []}):
        assert model.predict(events).shape == (0,) and model.predict(events).dtype == np.float32
    empty = mktree("empty.root", 0)
    assert model.predict(empty).shape == (0,)
    assert model.features(empty).x.shape == (0, 6)
    dropped = model.predict({"met": 1.0, "njets": 0, "jet_pt": [3.0]})
    assert dropped.shape == (1,) and np.isnan(dropped).all()


@pytest.mark.parametrize(
    ("classes", "outputs", "shape"),
    [(["a", "b"], 1, (3,)), (["a", "b"], 2, (3,)), (["a", "b", "c"], 3, (3, 3)), (["a", "b", "c"], 4, (3, 3)),
     ([], 1, (3,))],
)  # fmt: skip
def test_shape_of_the_scores(tmp_path, path, classes, outputs, shape):
    recipe = recipe_of(classes=classes, task="classification" if classes else "regression")
    activation = "Softmax" if outputs > 1 else "Sigmoid"
    write_bundle(tmp_path / "b", dataset_of([path], features=["met"]), recipe, None, outputs, activation)
    model = Model.load(tmp_path / "b")
    x = np.array([[0.1], [0.5], [0.9]], np.float32)
    scores = model.predict(x)
    assert scores.shape == shape and model.predict(x[:0]).shape == (0, *shape[1:])
    sums = x @ weights_of(1, outputs)
    every = np.exp(sums) / np.exp(sums).sum(axis=1, keepdims=True) if outputs > 1 else sigmoid(sums)
    expected = every[:, :3] if len(shape) > 1 else every[:, -1]
    assert scores == pytest.approx(expected, rel=1e-5)


def test_scores_that_are_not_of_these_classes(tmp_path, path):
    write_bundle(tmp_path / "b", dataset_of([path], features=["met"]), recipe_of(classes=["a", "b", "c"]))
    with pytest.raises(ModelFault, match=r"tiny_1: gives scores of shape \(1,\) for 3 classes"):
        Model.load(tmp_path / "b").predict([[0.5]])


# What cannot be predicted from


@pytest.mark.parametrize(
    ("events", "why"),
    [
        (np.zeros((3, 5)), r"an array of shape \(3, 5\), the model takes \(events, 6\) \(give features"),
        (np.zeros((1, 2, 6)), "shape"),
        (7.0, "shape"),
        (None, "NoneType is nothing to predict from"),
        ([{"met": 1.0}], r"list is nothing to predict from .* a list of dicts as awkward"),
        ([[1.0], [2.0, 3.0]], "list is nothing"),
        (
            {"Met": [1.0], "njets": [1]},
            r"met: is missing \(did you mean 'Met'\?\)\nevents: jet_pt|jet_pt: is missing",
        ),
    ],
)
def test_what_is_no_event(model, events, why):
    with pytest.raises(RequestError, match=why) as caught:
        model.predict(events)
    assert caught.value.http_status == 400


def test_a_tree_without_a_file_and_a_runtime_that_there_is_not(model, folder):
    with pytest.raises(RequestError, match="tree: 'events' is given, but no file"):
        model.predict(np.zeros((1, 6)), tree="events")
    with pytest.raises(ValueError, match="'fast' is none of auto, onnx, native"):
        Model.load(folder, runtime="fast")


def test_lists_that_do_not_belong_together(tmp_path, mktree):
    steps = Steps(definitions=[Definition(name="p", expression="a * b", branches=["a", "b"])])
    events = {"a": ak.Array([[1.0, 2.0], [3.0]]), "b": ak.Array([[1.0, 2.0], [3.0]])}
    dataset = dataset_of([mktree("a.root", only=events)], features=[], jagged=["p"], steps=steps)
    write_bundle(tmp_path / "b", dataset)
    model = Model.load(tmp_path / "b")
    assert dict(model.branches) == {"a": None, "b": None}
    with pytest.raises(RequestError, match=r"lists of different lengths: 'a' has 2 in event 0, 'b' has 1"):
        model.predict({"a": [[1.0, 2.0]], "b": [[1.0]]})
    with pytest.raises(RequestError, match=r"p: is one number an event here; in training it was a list"):
        model.predict({"a": [1.0], "b": [1.0]})


# Files


def test_a_file_that_lacks_branches(model, mktree):
    other = mktree(
        "b.root", 5, only={"Met": np.zeros(5), "jetPt": ak.Array([[1.0]] * 5), "njets": np.zeros(5)}
    )
    with pytest.raises(
        InputUnreadable, match=r"b\.root: lacks branches .*: jet_pt \(did you mean 'jetPt'"
    ) as caught:
        model.predict(other)
    assert "met (did you mean 'Met'" in str(caught.value)


def test_another_tree(model, mktree, path):
    other = mktree("b.root", 40, tree="selected")
    with pytest.raises(InputUnreadable, match=r"no tree 'events': it has selected; say which with tree="):
        model.predict(other)
    expected = model.predict(path).tobytes()
    assert model.predict(other, tree="selected").tobytes() == expected
    assert model.predict(f"{other}:selected").tobytes() == expected


def test_a_file_that_is_not_there(model, tmp_path):
    with pytest.raises(InputUnreadable, match=r"none\.root"):
        model.predict(tmp_path / "none.root")


def test_branches_that_may_be_missing(tmp_path, path, mktree):
    may = {"jet_pt": "jagged", "met": "flat"}
    dataset = dataset_of([path], features=["met", "njets", "jet_pt"], fill_missing=may)
    write_bundle(tmp_path / "b", dataset)
    model = Model.load(tmp_path / "b")
    other = mktree("b.root", 5, only={"njets": np.arange(5)})
    features = model.features(other)
    assert features.x.shape == (5, 6)
    assert set(map(tuple, np.delete(features.x, model.columns.index("njets"), axis=1))) == {(0.0,) * 5}
    assert model.features({"njets": np.arange(5)}).x.tobytes() == features.x.tobytes()


def test_other_formats(model, tmp_path, path):
    import pyarrow as pa
    import pyarrow.parquet

    with uproot.open(path) as file:
        events = file["events"].arrays(list(model.branches))
    lists = {name: events[name].to_list() for name in events.fields}
    pa.parquet.write_table(pa.table(lists), tmp_path / "a.parquet")
    rows = [dict(zip(lists, row, strict=True)) for row in zip(*lists.values(), strict=True)]
    text = "".join(json.dumps(row).replace("NaN", "null") + "\n" for row in rows)
    (tmp_path / "a.jsonl").write_text(text)
    expected = model.predict(path)
    for name in ("a.parquet", "a.jsonl"):
        assert np.array_equal(model.predict(tmp_path / name), expected, equal_nan=True)


# The user's preprocessing(rec)

FUNCTION = """\
import places


def preprocessing(rec):
    places.visit()
    rec["sum"] = rec["a"] + (1 if rec.pop("flag") == "yes" else 0)
    rec["pt"] = [x * 2 for x in rec["jet"]["pt"] or []]
    return rec
"""
RECORDS = [
    {"a": 1.0, "flag": "yes", "jet": {"pt": [1.0, 2.0]}},
    {"a": 2.5, "flag": "no", "jet": {"pt": []}},
    {"a": 3.0, "flag": "yes", "jet": {"pt": [3.0]}},
]


@pytest.fixture
def recordwise(tmp_path, monkeypatch):
    """A bundle of a training on records, with a function of the user's; and the file trained on."""
    from mlaas_condor.data.dataset import Function

    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in RECORDS))
    folder = tmp_path / "bundle"
    folder.mkdir()
    (folder / "pre.py").write_text(FUNCTION)
    (folder / "places.py").write_text(f"def visit():\n    open({str(tmp_path / 'ran')!r}, 'w').close()\n")
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, "places", raising=False)
    monkeypatch.chdir(folder)
    function = Function(name="pre.py", modules=["places.py"], digest="")
    dataset = dataset_of([path], flat=["a", "sum"], jagged=["pt"], features=[], function=function)
    write_bundle(folder, dataset, specs=specs_of(dataset))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "ran").unlink()
    return folder, path


def test_the_users_function_is_run_only_with_trust(recordwise, tmp_path):
    folder, path = recordwise
    model = Model.load(folder)
    assert model.predict(np.zeros((1, 4))).shape == (1,)
    for events in (path, ak.Array(RECORDS), RECORDS[0]):
        with pytest.raises(ModelFault, match=r"pre\.py: raw events first go through .* trust=True"):
            model.predict(events)
    assert not (tmp_path / "ran").exists()


def test_records_go_through_the_users_function(recordwise, tmp_path):
    folder, path = recordwise
    model = Model.load(folder, trust=True)
    assert model.columns == ("a", "sum", "pt_0", "pt_1")
    x = model.features(path).x
    assert (tmp_path / "ran").exists()
    assert x.tolist() == pytest.approx(np.array([[0, 0, 0, 0.5], [0.75, 0.25, 0, 0], [1, 1, 1, 0]]))
    columns = {"a": [1.0, 2.5, 3.0], "flag": ["yes", "no", "yes"], "jet": [each["jet"] for each in RECORDS]}
    assert model.features(ak.Array(RECORDS)).x.tolist() == x.tolist()
    assert model.features(columns).x.tolist() == x.tolist()
    for record, row in zip(RECORDS, x, strict=True):
        assert model.features(record).x.tolist() == [row.tolist()]
    assert model.features(RECORDS[1] | {"jet": {"pt": None}}).x.tolist() == [x[1].tolist()]
    assert model.features(ak.Array(RECORDS)[:0]).x.shape == (0, 4)
    with pytest.raises(ModelFault, match=r"pre\.py:\d+: KeyError at record 0: 'flag'"):
        model.predict({"a": 1.0, "jet": {"pt": []}})
    with pytest.raises(RequestError, match=r"events: pt: holds text"):
        model.predict(RECORDS[0] | {"jet": {"pt": ["x"]}})


# Bundles


@pytest.fixture
def tarball(tmp_path, folder):
    bundle.write(tmp_path / "tiny_1.tar.gz", folder)
    return tmp_path / "tiny_1.tar.gz"


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    """Where folders for a while are made."""
    made = tmp_path / "temporary"
    made.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(made))
    return made


def test_a_tarball_is_unpacked_for_as_long_as_the_model_is_there(tarball, path, temporary, model):
    expected = model.predict(path).tobytes()
    with Model.load(tarball) as opened:
        (folder,) = temporary.iterdir()
        assert folder.stat().st_mode & 0o077 == 0
        assert opened.predict(path).tobytes() == expected
    assert not list(temporary.iterdir())
    with pytest.raises(InputUnreadable, match="tiny_1: the model is closed"):
        opened.predict(path)
    opened = Model.load(str(tarball))
    assert len(list(temporary.iterdir())) == 1
    del opened
    gc.collect()
    assert not list(temporary.iterdir())


def test_a_folder_stays(folder):
    with Model.load(folder):
        pass
    assert (folder / "features.json").exists()


def test_what_is_refused_leaves_nothing_behind(tmp_path, temporary, folder):
    (folder / "features.json").unlink()
    bundle.write(tmp_path / "m.tar.gz", folder)
    with pytest.raises(InputUnreadable, match=r"holds no features\.json: it is no bundle of mlaas-condor"):
        Model.load(tmp_path / "m.tar.gz")
    with pytest.raises(InputUnreadable, match="No such file"):
        Model.load(tmp_path / "none.tar.gz")
    assert not list(temporary.iterdir())


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"format": 99}, r"features\.json: has format 99, this version reads \d+: install"),
        ({"format": None}, "has format None"),
        ({"columns": ["a"]}, r"features\.json: is damaged: .*columns do not follow"),
        ({"framework": "other"}, r"is damaged: framework: "),
        ({"source": "../x.py"}, r"is damaged: source: "),
        ({"function": "/etc/x.py"}, r"is damaged: function: "),
        ({"model": "a/../../b"}, r"is damaged: model: "),
        ({"steps": {"cuts": [{"expression": "njets >", "branches": ["njets"]}]}}, "damaged: cannot be under"),
    ],
)  # fmt: skip
def test_a_features_file_that_is_of_another_version_or_damaged(folder, change, why):
    rewrite(folder, **change)
    with pytest.raises(InputUnreadable, match=why):
        Model.load(folder)


def test_a_features_file_that_is_no_json(folder):
    for content in ("{", "[]", "[" * 100_000):
        (folder / "features.json").write_text(content)
        with pytest.raises(InputUnreadable, match=r"features\.json: (cannot be read|holds no object)"):
            Model.load(folder)


# Runtimes and trust


def test_onnx_is_asked_for_and_not_there(folder):
    (folder / "model.onnx").unlink()
    (folder / "onnx.json").write_text('{"file": null, "reason": "it has a strange layer"}')
    with pytest.raises(ModelFault, match=r"no model\.onnx \(it has a strange layer\): use runtime='native'"):
        Model.load(folder, runtime="onnx")


@pytest.mark.parametrize("content", [b"", b"no graph", pickle.dumps(7)])
def test_a_damaged_onnx_file(folder, content):
    (folder / "model.onnx").write_bytes(content)
    with pytest.raises(ModelFault, match=r"model\.onnx: onnxruntime cannot load it"):
        Model.load(folder)


def test_onnx_of_other_features(folder):
    write_onnx(folder / "model.onnx", 5)
    with pytest.raises(ModelFault, match=r"takes \[\['events', 5\]\], not features of shape \(events, 6\)"):
        Model.load(folder)


def test_without_onnxruntime(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(FrameworkMissing, match=r"pip install 'mlaas-condor\[inference\]'"):
        Model.load(folder, runtime="onnx")
    rewrite(folder, framework="sklearn", model="model.joblib")
    with pytest.raises(ModelFault, match=r"model\.joblib: .* trust=True .* onnxruntime"):
        Model.load(folder)


class Evil:
    """Writes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.write_text, (Path(self.path), "")


@pytest.mark.parametrize(
    ("framework", "main"),
    [("sklearn", "model.joblib"), ("sklearn", "model.skops"), ("torch", "model.pt2"),
     ("keras2", "saved_model.pb"), ("keras", "saved_model.pb")],
)  # fmt: skip
def test_files_that_may_hold_code_are_not_even_opened_without_trust(folder, tmp_path, framework, main):
    (folder / "model.onnx").unlink()
    (folder / main).write_bytes(pickle.dumps(Evil(tmp_path / "ran")))
    rewrite(folder, framework=framework, model=main)
    before = {name for name in sys.modules if name in ("sklearn", "torch", "tf_keras")}
    for runtime in ("auto", "native"):
        with pytest.raises(ModelFault, match=rf"{main}: .*(code|run).* trust=True if you know"):
            Model.load(folder, runtime=runtime)
    assert not (tmp_path / "ran").exists()
    assert {name for name in sys.modules if name in ("sklearn", "torch", "tf_keras")} == before


def test_with_onnx_no_trust_is_needed(folder, path, tmp_path):
    (folder / "model.joblib").write_bytes(pickle.dumps(Evil(tmp_path / "ran")))
    rewrite(folder, framework="sklearn", model="model.joblib")
    assert Model.load(folder).predict(path).shape == (40,)
    assert not (tmp_path / "ran").exists()
