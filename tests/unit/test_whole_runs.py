"""Whole runs, a program a stage, on what users bring: cuts, weights, damage, CSV, given specs."""

from __future__ import annotations

import json

import numpy as np
import pytest
import uproot

from mlaas_condor import local, settings, workflow
from mlaas_condor.errors import RunFailed
from mlaas_condor.training.bundle import members, read_member

LINEAR = """\
import keras


def model(idim):
    network = keras.Sequential([keras.Input((idim,)), keras.layers.Dense(1)])
    network.compile(optimizer=keras.optimizers.Adam(0.05), loss="mse")
    return network
"""


@pytest.fixture
def home(tmp_path):
    return settings.load(home=str(tmp_path / "home"))


def run(folder, home):
    made = workflow.create(workflow.plan(folder, home), home)
    local.run(made)
    return workflow.open_run(made.name, home)


def in_bundle(run, name):
    return json.loads(read_member(run.model(), name))


def write_root(path, n, shift, seed, damaged=False):
    rng = np.random.default_rng(seed)
    events = {
        "x": rng.normal(shift, 1, n).astype(np.float32),
        "y": rng.normal(0, 1, n).astype(np.float32),
        "w": rng.choice([0.5, 1.5], n),
        "id": np.arange(n),
    }
    with uproot.recreate(path) as file:
        tree = file.mktree("events", {name: values.dtype for name, values in events.items()})
        for start in range(0, n, 500):
            tree.extend({name: values[start : start + 500] for name, values in events.items()})
    if damaged:
        with uproot.open(path) as file:
            at = file["events/x"].member("fBasketSeek")[2]
        data = bytearray(path.read_bytes())
        data[at + 100 : at + 200] = bytes(100)
        path.write_bytes(data)


@pytest.fixture
def folder(request_folder, change):
    """Two samples of 2000 events, the second with a damaged basket: entries 1000 to 1500 of x."""
    write_root(request_folder / "s.root", 2000, 1.0, 1)
    write_root(request_folder / "b.root", 2000, -1.0, 2, damaged=True)
    change(files=["s.root", "b.root"], labels=["s", "b"], weights="w")
    change(
        "params", identifier="id", exclude_branches=None, chunk_size=500, training="standard", epochs=10,
        batch_size=20, normalise="standard",
    )  # fmt: skip
    return request_folder


def test_cuts_weights_and_a_damaged_basket(folder, home, change):
    preproc = {
        "new_branch": {"z": {"def": "x + y", "cut": "z < 5"}},
        "flat_cut": {"y": {"cut": "-1 < y < 1", "remove": "True"}},
    }
    (folder / "preproc.json").write_text(json.dumps(preproc))
    change(preproc="preproc.json")
    with pytest.raises(RunFailed, match=r"b\.root: entries \d+ to \d+ of x cannot be read"):
        run(folder, home)
    change("params", bad_files={"skip": 0.2})
    done = run(folder, home)

    with uproot.open(folder / "s.root") as file:
        events = file["events"].arrays(["x", "y", "w"], library="np")
    kept = (events["x"] + events["y"] < 5) & (np.abs(events["y"]) < 1)
    first, second = in_bundle(done, "provenance.json")["inputs"]
    assert first["cut_flow"][::2] == [2000, int(kept.sum())]
    assert second["cut_flow"][0] == 1500, "one basket of four is lost"
    lost = in_bundle(done, "provenance.json")["lost"]
    assert sum(each["last_entry"] + 1 - each["first_entry"] for each in lost) == 500
    assert (lost[0]["first_entry"], lost[-1]["last_entry"]) == (1000, 1499)

    flow = read_member(done.model(), "cutflow.txt").decode()
    assert flow.splitlines()[0].split() == ["s.root", "b.root", "all"]
    assert [line.split()[0] for line in flow.splitlines()[1:4]] == ["all", "z", "-1"]
    assert f"{events['w'].sum():.6g}" in flow
    (note, *_) = [note for note in done.status().notes if note.startswith("lost")]
    assert "of 2000 entries" in note and str(folder / "b.root") in note

    features = in_bundle(done, "features.json")
    assert features["columns"] == ["x", "z"] and features["normalise"] == "standard"
    assert features["scales"]["z"]["width"] == pytest.approx(np.sqrt(2), rel=0.25)
    metrics = in_bundle(done, "metrics.json")["test"]
    assert metrics["auc"] > 0.85 and set(metrics["weight_by_class"]) == {"0", "1"}
    names = members(done.model())
    assert {"global-specs.json", "specs/specs-s.json", "specs/specs-b.json"} <= set(names)
    own = in_bundle(done, "specs/specs-s.json")
    assert own["fkeys"] == ["x", "z"] and own["events"]["total"] == int(kept.sum())
    assert own["maxv"]["x"] == pytest.approx(float(events["x"][kept].max()))


def test_a_cut_that_keeps_nothing_is_named(folder, home, change):
    write_root(folder / "b.root", 2000, -1.0, 2)
    preproc = {"flat_cut": {"x": {"cut": "x > -100"}, "y": {"cut": "y > 1000"}}}
    (folder / "preproc.json").write_text(json.dumps(preproc))
    change(preproc="preproc.json")
    with pytest.raises(RunFailed, match=r"the cut 'y > 1000' keeps none of 4000 events"):
        run(folder, home)


def test_csv_with_a_function_and_a_target(tmp_path, home):
    rng = np.random.default_rng(3)
    a, b = rng.normal(0, 1, (2, 3000))
    rows = [f"{x:.4f},{y:.4f},{'yes' if y > 0 else 'no'}" for x, y in zip(a, b, strict=True)]
    (tmp_path / "all.csv").write_text("a,b,flag\n" + "\n".join(rows) + "\n")
    (tmp_path / "pre.py").write_text(
        "import flags\n"
        "def preprocessing(rec):\n"
        "    rec['target'] = 2 * rec['a'] + flags.number(rec.pop('flag'))\n"
        "    return rec\n"
    )
    (tmp_path / "flags.py").write_text("def number(text):\n    return 1 if text == 'yes' else 0\n")
    (tmp_path / "model.py").write_text(LINEAR)
    params = {"epochs": 15, "batch_size": 50, "chunk_size": 1000, "training": "standard"}
    job = {
        "name": "line", "files": ["all.csv"], "labels": "target", "task": "regression", "model": "model.py",
        "preproc": "pre.py", "params": params,
    }  # fmt: skip
    (tmp_path / "job.json").write_text(json.dumps(job))
    done = run(tmp_path, home)
    metrics = in_bundle(done, "metrics.json")["test"]
    assert metrics["rmse"] < 0.5 and metrics["r2"] > 0.9
    assert in_bundle(done, "features.json")["columns"] == ["a", "b"]
    assert {"plots/residuals.png", "pre.py", "flags.py"} <= set(members(done.model()))


def test_given_specs_are_not_measured_again(folder, home, change):
    write_root(folder / "b.root", 2000, -1.0, 2)
    change("params", normalise=None, selected_branches=["x", "y"])
    first = run(folder, home)
    (folder / "own.json").write_bytes(read_member(first.model(), "global-specs.json"))
    change(specs="own.json", weights=None)
    second = run(folder, home)
    assert not list(second.folder.logs.glob("specs.*"))
    assert in_bundle(second, "features.json")["scales"] == in_bundle(first, "features.json")["scales"]
