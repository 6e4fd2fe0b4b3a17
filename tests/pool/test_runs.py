"""Whole runs on a real pool."""

from __future__ import annotations

import json
import subprocess
import tarfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import uproot
from example_tools import copy_example, edit
from pool_tools import jobs_by_stage, settings_of, stage, submit, turn_to, wait_for

from mlaas_condor import local, workflow
from mlaas_condor.data import chunkfile

pytestmark = pytest.mark.pool

OLD_STYLE = Path(__file__).parents[1] / "data" / "old_style_model.py"
BUNDLE = {
    "saved_model.pb", "variables/variables.index", "assets", "params.json", "features.json", "specs.json",
    "global-specs.json", "metrics.json", "history.jsonl", "provenance.json", "request.json", "model.py",
}  # fmt: skip


@pytest.fixture(scope="module")
def whole(pool_home, tmp_path_factory):
    """One run that goes well, looked at while it trains and when it is done."""
    settings = turn_to(settings_of(pool_home))
    run = submit(copy_example(tmp_path_factory.mktemp("whole"), epochs=60), settings)
    training = wait_for(run, lambda state: state.training or state.state == "completed")
    queue = subprocess.run(["condor_q", "-allusers"], capture_output=True, text=True, check=True).stdout
    said = run.logs("train", 0)
    return run, training, queue, said, run.wait(timeout=300)


def test_a_run_brings_a_good_model(whole):
    run, _, _, _, state = whole
    assert state.state == "completed"
    assert [each.word for each in state.stages] == ["done"] * 5
    assert run.metrics()["test"]["auc"] > 0.88
    assert len(run.history()) == 60


def test_status_shows_where_the_training_is(whole):
    _, training, _, _, _ = whole
    assert 1 <= training.training.epoch <= training.training.epochs == 60
    assert 0.5 < training.training.value < 1
    assert stage(training, "train").running == 1


def test_logs_of_a_running_job_can_be_read(whole):
    assert "epoch 1/60" in whole[3]


def test_condor_q_knows_the_run_by_its_name(whole):
    assert whole[0].name in whole[2]


def test_the_bundle_holds_what_it_takes_to_predict(whole):
    run = whole[0]
    with tarfile.open(run.model()) as tar:
        names = {name.removeprefix("./") for name in tar.getnames()}
        params = json.load(tar.extractfile("./params.json"))
        provenance = json.load(tar.extractfile("./provenance.json"))
        features = json.load(tar.extractfile("./features.json"))
    assert names >= BUNDLE
    assert (params["name"], params["model"]) == (run.name, "saved_model.pb")
    assert provenance["versions"]["htcondor"].startswith("$CondorVersion: 2")
    assert {each["entries"] for each in provenance["inputs"]} == {2750, 900}
    assert all(len(each["uuid"]) == 36 and each["bytes"] > 100_000 for each in provenance["inputs"])
    assert provenance["request"]["params"]["seed"] == provenance["seed"] == 21
    assert len(features["columns"]) == 347


def test_every_event_is_used_exactly_once(whole):
    folder = whole[0].folder
    made = [chunkfile.read(path) for path in sorted(folder.output("preprocess").glob("chunk-*.zip"))]
    found = np.stack([np.concatenate([c.carried[n] for c in made]) for n in ("runNo", "evtNo", "lumi")])
    inputs = []
    for path in sorted(folder.inputs.iterdir()):
        with uproot.open(path) as file:
            inputs.append(file["events"].arrays(["runNo", "evtNo", "lumi"], library="np"))
    wanted = np.stack([np.concatenate([each[n] for each in inputs]) for n in ("runNo", "evtNo", "lumi")])
    assert len(made) == 5
    assert found.shape == wanted.shape == (3, 16450)
    np.testing.assert_array_equal(found[:, np.lexsort(found)], wanted[:, np.lexsort(wanted)])


def test_a_run_without_htcondor_gives_the_same_to_the_last_bit(whole, tmp_path):
    pooled = whole[0]
    settings = settings_of(tmp_path / "home")
    folder = workflow.create(workflow.plan(copy_example(tmp_path, epochs=60), settings), settings)
    local.run(folder)
    for part in ("merge/specs.json", *(f"preprocess/chunk-{i:05d}.zip" for i in range(5))):
        assert (folder.path / part).read_bytes() == (pooled.folder.path / part).read_bytes(), part
    assert json.loads(folder.metrics.read_text()) == pooled.metrics()


def test_a_second_model_on_the_same_data_reuses_specs_and_chunks(whole, settings, request_folder):
    text = (request_folder / "model.py").read_text()
    (request_folder / "model.py").write_text(text.replace("Dense(64", "Dense(16"))
    run = submit(request_folder, settings)
    state = run.wait(timeout=200)
    assert [each.word for each in state.stages] == ["reused", "reused", "reused", "done", "done"]
    assert jobs_by_stage(run) == {"train": 1, "report": 1}


def test_two_runs_at_once_do_not_disturb_each_other(settings, tmp_path):
    folders = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        # Different chunks, so that both have all the work to do.
        folders.append(copy_example(tmp_path / name, chunk_size=4000 if name == "a" else 5000))
    plans = [workflow.plan(folder, settings) for folder in folders]
    with ThreadPoolExecutor(2) as threads:
        runs = list(threads.map(lambda plan: workflow.submit_prepared(plan, settings), plans))
    assert runs[0].name != runs[1].name
    assert {run.wait(timeout=300).state for run in runs} == {"completed"}
    assert all(jobs_by_stage(run)["preprocess"] == 2 for run in runs)


def test_an_old_style_model_trains_unmodified(settings, request_folder):
    old = request_folder / "old.py"
    old.write_text(OLD_STYLE.read_text())
    edit(request_folder, "job.json", model="old.py", name="old_style")
    prepared = workflow.plan(request_folder, settings)
    assert any("tf_keras" in warning for warning in prepared.warnings)
    run = workflow.submit_prepared(prepared, settings)
    run.wait(timeout=200)
    assert run.name == "old_style_1"
    assert run.metrics()["test"]["auc"] > 0.88
    with tarfile.open(run.model()) as tar:
        assert "./keras_metadata.pb" in tar.getnames()


def test_runs_are_listed_oldest_first(whole, settings):
    found = workflow.list_runs(settings)
    times = [run.status().submitted for run in found]
    assert times == sorted(times)
    assert whole[0].name in [run.name for run in found]
