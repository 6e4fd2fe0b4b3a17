"""Runs without HTCondor: they go well, fail, are interrupted, and are gone on with."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from example_tools import copy_example, interruptible, prepend_to_model

from mlaas_condor import local, settings, workflow
from mlaas_condor.errors import RunFailed, WrongState
from mlaas_condor.show import html
from mlaas_condor.training.bundle import read_member
from mlaas_condor.training.recipe import Recipe


@pytest.fixture
def home(tmp_path):
    return settings.load(home=str(tmp_path / "home"))


def create(folder, home):
    return workflow.create(workflow.plan(folder / "job.json", home), home)


def words(state):
    return [stage.word for stage in state.stages]


def test_a_failing_model_is_explained_and_the_run_gone_on_with(tmp_path, home):
    folder = copy_example(tmp_path, nevts=3000)
    flag = tmp_path / "repaired"
    prepend_to_model(folder, f"import os\nassert os.path.exists({str(flag)!r}), 'not repaired yet'")
    made = create(folder, home)
    told = []
    with pytest.raises(RunFailed, match=r"train task 0: .*not repaired yet"):
        local.run(made, lambda *news: told.append(news))
    assert [news[0] for news in told if news[1] == news[2]] == ["specs", "merge", "preprocess"]
    run = workflow.open_run(made.name, home)
    state = run.status()
    assert (state.state, state.where) == ("failed", "local")
    assert words(state) == ["done", "done", "done", "failed", "waiting"]
    assert state.failures[0].advice.startswith("correct the model file")
    assert "not repaired yet" in run.logs(stderr=True)
    before = (made.output("specs") / "00000.ok").stat().st_mtime_ns
    flag.touch()
    run.resume()
    assert run.status().state == "completed"
    assert run.model().stat().st_size > 100_000
    assert (made.output("specs") / "00000.ok").stat().st_mtime_ns == before, "not done again"
    assert "completed" in html(run.status())
    run.delete()
    assert workflow.list_runs(home) == []
    assert list(home.store.glob("*/*")) == [], "nobody else uses these specs and chunks"


def test_ctrl_c_stops_the_jobs_and_says_how_to_go_on(tmp_path, home):
    folder = copy_example(tmp_path, nevts=3000)
    prepend_to_model(folder, "import time\nprint('sleeping', flush=True)\ntime.sleep(60)")
    program = Path(sys.executable).with_name("mlaas-condor")
    command = [program, "--home", home.home, "run", "--local", folder]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, **pipes, preexec_fn=interruptible) as process:
        log = home.runs / "tth_1" / "logs" / "train.0.out"
        deadline = time.monotonic() + 60
        while not (log.exists() and "sleeping" in log.read_text()):
            assert time.monotonic() < deadline
            time.sleep(0.1)
        assert workflow.open_run("tth_1", home).status().state == "running"
        started = time.monotonic()
        process.send_signal(signal.SIGINT)
        said, _ = process.communicate(timeout=30)
    assert process.returncode == 130
    assert time.monotonic() - started < 20, "the job was stopped, not waited for"
    assert "resume tth_1" in said
    assert workflow.open_run("tth_1", home).status().state == "cancelled"


def test_a_training_stopped_by_ctrl_c_goes_on_where_it_was(tmp_path, home):
    folder = copy_example(tmp_path, nevts=6000, epochs=40)
    program = Path(sys.executable).with_name("mlaas-condor")
    command = [program, "--home", home.home, "run", "--local", folder]
    output = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(command, **output, preexec_fn=interruptible, start_new_session=True) as process:
        log = home.runs / "tth_1" / "logs" / "train.0.out"
        deadline = time.monotonic() + 120
        while not (log.exists() and "epoch 3/40" in log.read_text()):
            assert time.monotonic() < deadline
            time.sleep(0.1)
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does: every process of the foreground
        process.wait(timeout=60)
    assert process.returncode == 130
    run = workflow.open_run("tth_1", home)
    run.resume()
    again = log.read_text()
    assert "going on from a checkpoint" in again and "epoch 1/" not in again
    assert len(run.history()) == 40


def test_a_killed_process_leaves_a_run_that_can_be_gone_on_with(tmp_path, home):
    folder = copy_example(tmp_path, nevts=3000)
    made = create(folder, home)
    code = f"""
import os
from pathlib import Path
from mlaas_condor import local
from mlaas_condor.run import RunFolder
def die(stage, done, tasks, line):
    if stage == "preprocess" and done:
        os.kill(os.getpid(), 9)
local.run(RunFolder(Path({str(made.path)!r})), die, jobs=1)
"""
    killed = subprocess.run([sys.executable, "-c", code], capture_output=True)
    assert killed.returncode == -signal.SIGKILL
    run = workflow.open_run(made.name, home)
    assert run.status().state == "cancelled"
    run.resume()
    assert run.status().state == "completed"


def test_a_run_that_is_being_run_is_left_alone(tmp_path, home):
    made = create(copy_example(tmp_path, nevts=3000), home)
    with made.local_lock.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(WrongState, match="another process"):
            local.run(made)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_job_on_a_full_disk_says_so_by_its_exit_code(tmp_path):
    code = "from mlaas_condor.stages.program import main; main('specs', lambda *_: print('x', flush=True))"
    with Path("/dev/full").open("w") as full:
        done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, stdout=full, stderr=full)
    assert done.returncode == 25


def test_a_home_that_cannot_be_written_is_an_error_that_leaves_nothing(tmp_path, home):
    blocked = tmp_path / "file"
    blocked.touch()
    with pytest.raises(workflow.CannotWrite, match="MLAAS_CONDOR_HOME"):
        create(copy_example(tmp_path, nevts=3000), settings.load(home=str(blocked / "home")))


def test_jobs_get_the_threads_they_asked_for(tmp_path, home):
    folder = copy_example(tmp_path, nevts=3000)
    prepend_to_model(folder, "import os\nprint('threads', os.environ['OMP_NUM_THREADS'], flush=True)")
    made = create(folder, home)
    local.run(made)
    assert "threads 1" in made.stdout("train", 0).read_text()


def test_labels_may_come_from_a_branch_with_several_classes(request_folder, change, home):
    change(labels="charge")
    model = request_folder / "model.py"
    text = model.read_text().replace('Dense(1, activation="sigmoid")', 'Dense(3, activation="softmax")')
    model.write_text(text.replace("binary_crossentropy", "sparse_categorical_crossentropy"))
    made = create(request_folder, home)
    local.run(made)
    run = workflow.open_run(made.name, home)
    test = run.metrics()["test"]
    assert len(test["confusion_matrix"]) == 3
    assert sum(test["events_by_class"].values()) == test["events"] > 10
    assert Recipe.read(made.output("train") / "recipe.json").classes == ["-1", "0", "1"]
    labels = {each["label"] for each in json.loads(read_member(run.model(), "provenance.json"))["inputs"]}
    assert labels == {"branch charge"}
    assert read_member(run.model(), "labels.txt") == b"-1\n0\n1\n"


def test_a_label_branch_with_too_many_values_is_refused(request_folder, change, home):
    change(labels="met")
    made = create(request_folder, home)
    with pytest.raises(RunFailed, match="branch 'met' is no class label"):
        local.run(made)


@pytest.mark.parametrize(
    ("statements", "said"),
    [
        ("import os\nos._exit(0)", "without its output: did the model end the process"),
        ("return keras.nosuch(idim)", r"keras' has no attribute 'nosuch'.*and with Keras 2"),
    ],
)
def test_a_model_that_misbehaves_is_named_as_what_is_wrong(tmp_path, home, statements, said):
    folder = copy_example(tmp_path, nevts=3000)
    prepend_to_model(folder, statements)
    with pytest.raises(RunFailed, match=rf"train task 0: .*{said}"):
        local.run(create(folder, home))


def test_messages_call_files_as_the_user_does(tmp_path, home):
    made = create(copy_example(tmp_path, nevts=3000), home)
    user = tmp_path / "request" / "data" / "ttH_1.root"
    for name in ("0000_ttH_1.root", f"{made.inputs}/0000_ttH_1.root"):
        assert (
            made.in_users_words(f"reading {name}: no, 12_3 is {name}")
            == f"reading {user}: no, 12_3 is {user}"
        )
    assert made.in_users_words("chunk-00001.zip and 0009_other.root") == "chunk-00001.zip and 0009_other.root"
