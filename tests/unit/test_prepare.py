"""Prepare: what a request names is looked at, every mistake is told at once, and nothing is written."""

import os

import numpy as np
import pytest

from mlaas_condor import settings, workflow
from mlaas_condor.errors import RequestError
from mlaas_condor.prepare import prepare
from mlaas_condor.request import Request


@pytest.fixture
def ready(request_folder):
    """Prepare the request as it stands."""
    return lambda: prepare(Request.read(request_folder), settings.load())


@pytest.fixture
def refused(ready, tmp_path):
    """Return what is said of the request, and make sure that nothing was written."""

    def texts():
        before = sorted(tmp_path.rglob("*"))
        with pytest.raises(RequestError) as caught:
            ready()
        assert sorted(tmp_path.rglob("*")) == before
        assert not settings.load().home.exists()
        return [str(problem) for problem in caught.value.problems]

    return texts


@pytest.fixture
def the_problem(refused):
    """Return what is said of a request that has one mistake."""

    def text():
        (only,) = refused()
        return only

    return text


def test_right_request(ready, request_folder):
    found = ready()
    dataset = found.dataset
    assert [file.path for file in dataset.files] == [
        str(request_folder / f"data/{name}.root") for name in ("signal", "background")
    ]
    assert [file.entries for file in dataset.files] == [file.used for file in dataset.files] == [40, 60]
    assert dataset.flat == ["charge", "constant", "met", "njets", "trigger"]
    assert dataset.jagged == ["jet_id", "jet_pt", "never"]
    assert dataset.carried == ["run", "event"]
    assert (found.recipe.labels, found.recipe.classes) == ([1, 0], ["0", "1"])
    assert found.plan.size.events == 100 and found.plan.size.chunks == 4
    assert found.plan.size.columns == 5 + 3 + 4 + 1  # an empty list may still get longer
    assert found.plan.stage("specs").jobs == len(dataset.tasks) == 2
    assert not found.warnings


def test_request_given_is_not_changed(request_folder, change):
    change(model="none.py")
    request = Request.read(request_folder)
    for _ in range(2):
        with pytest.raises(RequestError) as caught:
            prepare(request, settings.load())
        assert len(caught.value.problems) == 1
    assert request.problems == []


def test_nevts_is_shared_out_by_the_entries(ready, change):
    change("params", nevts=50)
    assert [file.used for file in ready().dataset.files] == [20, 30]


def test_several_mistakes_come_together(refused, request_folder, change):
    change(memory="3xb", nam="x")
    change("params", nevtts=3, identifier=["runn"])
    (request_folder / "model.py").write_text("def model(:\n")
    (request_folder / "files.txt").write_text("data/signal.root\ndata/none.root\n")
    found = refused()
    assert len(found) == 6
    for words in ("3xb", "'nam'", "'nevtts'", "no branch 'runn'", "model.py:1", "none.root: no such file"):
        assert sum(words in each for each in found) == 1


# ---- files


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, ["no such file"]),
        (b"", ["is empty (0 bytes)"]),
        (b"no root file", ["is not a ROOT file", "b'no r'"]),
        (b"root\x00\x00\xf4\x24\x00\x00\x00\x64\x00\x01\x00\x00", ["cut short"]),
    ],
)
def test_bad_file_is_named(the_problem, request_folder, content, words):
    path = request_folder / "data/signal.root"
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    said = the_problem()
    assert str(path) in said and all(word in said for word in words)


def test_wrong_tree_is_told_the_right_one(refused, change):
    change("params", branch="Events")
    found = refused()
    assert len(found) == 2
    assert all("no tree 'Events': it has events; set 'branch' in params.json" in each for each in found)


def test_tree_without_entries(the_problem, mktree):
    mktree("request/data/signal.root", 0)
    assert "tree 'events' has no entries (take it off the list, and its label)" in the_problem()


def test_list_of_files_missing_or_empty(refused, request_folder, change):
    change(files="file.txt")
    assert any("files: file.txt: no such file (did you mean 'files.txt'" in each for each in refused())
    (request_folder / "file.txt").write_text("# none\n")
    assert any("job.json: files: file.txt: is empty" in each for each in refused())


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
@pytest.mark.parametrize("name", ["data/signal.root", "files.txt", "model.py"])
def test_file_that_may_not_be_read(refused, request_folder, name):
    (request_folder / name).chmod(0)
    assert any("Permission denied" in each for each in refused())


def test_globs_give_their_label_to_all_they_match(ready, request_folder, mktree):
    mktree("request/data/signal2.root", 20, seed=3)
    (request_folder / "files.txt").write_text("data/sig*.root\ndata/back*.root\n")
    found = ready()
    assert [os.path.basename(file.path) for file in found.dataset.files] == [  # noqa: PTH119
        "signal.root", "signal2.root", "background.root",
    ]  # fmt: skip
    assert found.recipe.labels == [1, 1, 0]


def test_glob_may_have_a_label_for_each_file(ready, request_folder):
    (request_folder / "files.txt").write_text("data/*.root\n")
    found = ready()
    assert found.recipe.labels == [1, 0]
    assert found.dataset.files[0].path.endswith("background.root")


def test_glob_without_a_match(the_problem, request_folder):
    (request_folder / "files.txt").write_text("data/sig*.root\ndata/nothing*.root\n")
    assert "data/nothing*.root: matches no file" in the_problem()


def test_folder_of_the_request_is_no_pattern(request_folder, tmp_path):
    (request_folder / "files.txt").write_text("data/sig*.root\ndata/back*.root\n")
    odd = request_folder.rename(tmp_path / "a [1] *?")
    assert len(prepare(Request.read(odd), settings.load()).dataset.files) == 2


NAMES = [
    "a b.root",
    "a,b.root",
    "q'\".root",
    "ü.root",
    "$(x).root",
    "[1]*.root",
    "x;y&.root",
    "a" * 250 + ".root",
]


@pytest.mark.parametrize("name", NAMES)
def test_odd_file_names_are_read_and_staged_plainly(ready, request_folder, mktree, name, tmp_path):
    mktree(f"request/data/{name}", 20, seed=5)
    (request_folder / "files.txt").write_text(f"data/{name}\ndata/background.root\n")
    found = ready()
    staged = found.dataset.files[0].staged
    assert staged.isascii() and not set(staged) & set(" ,'\"$()[]*;&") and len(staged) <= 110
    folder = workflow.create(found, settings.load(home=str(tmp_path / "home")))
    assert (folder.inputs / staged).resolve() == request_folder / "data" / name


def test_same_name_in_two_folders_is_told_apart(ready, request_folder, mktree):
    mktree("request/other/signal.root", 20, seed=5)
    (request_folder / "files.txt").write_text("data/signal.root\nother/signal.root\n")
    assert len({file.staged for file in ready().dataset.files}) == 2


def test_file_given_twice_is_a_warning(ready, request_folder):
    (request_folder / "files.txt").write_text("data/signal.root\ndata/background.root\ndata/signal.root\n")
    (request_folder / "labels.txt").write_text("1\n0\n1\n")
    (warning,) = ready().warnings
    assert "1 of the 3 files hold the same data as another one" in warning


# ---- labels


def test_number_of_labels_must_be_that_of_the_files(the_problem, request_folder):
    (request_folder / "labels.txt").write_text("1\n0\n1\n")
    assert "there are 3 labels and 2 files" in the_problem()


def test_one_class_only(the_problem, request_folder):
    (request_folder / "labels.txt").write_text("1\n1\n")
    assert "all files have the label '1' (a classifier needs two classes" in the_problem()


def test_missing_labels(the_problem, change):
    change(labels="label.txt")
    assert "labels: label.txt: no such file, and no such branch (did you mean 'labels.txt'" in the_problem()


def test_class_that_nevts_leaves_no_events_is_told(the_problem, change):
    change("params", nevts=1)
    assert "params.json: nevts: 1 of 100 events leave none of label '1' (use more)" in the_problem()


def test_a_label_branch_is_carried_along_and_no_feature(ready, change):
    change(labels="charge")
    found = ready()
    assert (found.recipe.label_branch, found.recipe.labels) == ("charge", [])
    assert found.dataset.carried == ["run", "event", "charge"]
    assert "charge" not in found.dataset.flat


def test_a_label_branch_must_be_one_number_an_event(the_problem, change):
    change(labels="jet_pt")
    assert "branch 'jet_pt' is jagged" in the_problem()


def test_a_misspelt_label_branch_is_answered_with_the_nearest(the_problem, change):
    change(labels="chrage")
    assert "labels: chrage: no such file, and no such branch (did you mean 'charge'" in the_problem()


def test_labels_may_stand_in_the_job(ready, change):
    change(labels=["ttH", "QCD"], files=["data/signal.root", "data/background.root"])
    recipe = ready().recipe
    assert (recipe.labels, recipe.classes) == ([1, 0], ["QCD", "ttH"])


# ---- branches


def test_selected_and_excluded_branches(ready, change, request_folder):
    (request_folder / "use.txt").write_text("jet_*\nmet\nconstant\n")
    change("params", selected_branches="use.txt", exclude_branches="jet_id")
    dataset = ready().dataset
    assert (dataset.flat, dataset.jagged) == (["constant", "met"], ["jet_pt"])


@pytest.mark.parametrize(
    ("params", "words"),
    [
        (
            {"selected_branches": ["met", "jet_ptt"]},
            "selected_branches: no branch 'jet_ptt' (did you mean 'jet_pt'",
        ),
        (
            {"exclude_branches": ["_n_*", "consant"]},
            "exclude_branches: no branch 'consant' (did you mean 'constant'",
        ),
        ({"identifier": ["run", "evt"]}, "identifier: no branch 'evt' (did you mean 'event'"),
        ({"identifier": ["jet_pt"]}, "identifier: 'jet_pt' is jagged"),
        ({"selected_branches": "none.txt"}, "no branch 'none.txt' and no such file"),
        ({"exclude_branches": "*"}, "no branch is left to train on"),
    ],
)
def test_wrong_branches(the_problem, change, params, words):
    change("params", **params)
    assert words in the_problem()


def test_branch_that_one_file_lacks(the_problem, mktree, request_folder):
    mktree("request/data/background.root", 60, seed=2, met=None)
    said = the_problem()
    assert (
        f"{request_folder}/data/background.root: has no met (leave them out with exclude_branches, " in said
    )


def test_branch_that_is_jagged_in_one_file_only(the_problem, mktree):
    import awkward as ak

    mktree("request/data/background.root", 60, seed=2, met=ak.Array([[1.0]] * 60))
    assert "background.root: met is jagged, elsewhere it is not" in the_problem()


def test_branch_that_cannot_be_a_feature(ready, refused, change, request_folder):
    import uproot

    for name in ("signal", "background"):
        with uproot.recreate(request_folder / f"data/{name}.root") as file:
            tree = file.mktree("events", {"met": np.float32, "box": "string"})
            tree.extend({"met": np.arange(30, dtype=np.float32), "box": ["a"] * 30})
    change("params", exclude_branches="box", identifier=None)
    assert ready().left_out == {"box": "holds text"}
    change("params", selected_branches=["met", "box"], exclude_branches=None)
    assert refused() == ["params.json: selected_branches: branch 'box' cannot be used: it holds text"]


def test_branch_of_a_fixed_number_of_numbers_is_jagged(ready, mktree):
    for name, n, seed in (("signal", 40, 1), ("background", 60, 2)):
        mktree(f"request/data/{name}.root", n, seed=seed, box=np.zeros((n, 2, 2)))
    found = ready()
    assert "box" in found.dataset.jagged and found.plan.size.columns == 5 + 3 + 4 + 1 + 4


# ---- model


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("import keras\ndef model(:\n", ["model.py:2", "def model(:"]),
        ("import keras\ndef make(idim): ...\n", ["no function `model`", "make"]),
        ("def model(idim): ...\n", ["imports none of keras"]),
        ("import keras\ndef model(a, b): ...\n", ["model.py:2", "cannot be called"]),
        ("\0", ["model.py"]),
    ],
)
def test_wrong_model(the_problem, request_folder, text, words):
    (request_folder / "model.py").write_text(text)
    said = the_problem()
    assert all(word in said for word in words)


def test_missing_model_is_told_the_nearest(the_problem, change):
    change(model="modl.py")
    assert "model: modl.py: no such file (did you mean 'model.py'?)" in the_problem()


def test_model_must_be_called_py(the_problem, change, request_folder):
    (request_folder / "model.py").rename(request_folder / "model.txt")
    change(model="model.txt")
    assert "must end in .py" in the_problem()


def test_model_of_any_name_gets_one_that_submit_files_can_hold(ready, change, request_folder):
    (request_folder / "model.py").rename(request_folder / "my model, $(new).py")
    change(model="my model, $(new).py")
    assert ready().recipe.model == "my_model____new_.py"


def test_old_style_model_is_told_to_train_with_keras_2(ready, request_folder):
    (request_folder / "model.py").write_text(
        "from keras.optimizers import Adam\ndef model(idim):\n    return Adam(lr=1e-3)\n"
    )
    found = ready()
    assert found.model.framework == "keras2"
    assert any("trained with tf_keras" in each for each in found.warnings)


# ---- the rest


@pytest.mark.parametrize("key", ["gpu_memory", "gpu_capability"])
def test_card_is_described_but_none_asked_for(the_problem, ready, change, key):
    change(**{key: "8"})
    assert f"job.json: {key}: is given, but no GPU is asked for" in the_problem()
    change(device="gpu")
    ready()


def test_what_is_ignored_is_a_warning(ready, change):
    change(host_folder="/x")
    warnings = "\n".join(ready().warnings)
    assert "'host_folder' is not needed" in warnings


def test_wishes_reach_the_plan(ready, change):
    change(memory="5gb", cpus="3", disk="7gb", device="gpu", tasks={"specs": 3, "preprocess": 4})
    plan = ready().plan
    train = plan.stage("train")
    assert (train.memory, train.cpus, train.disk, train.gpus) == (5120, 3, 7168, 1)
    assert plan.stage("specs").jobs == 3 and plan.stage("preprocess").jobs == 4
    assert all(stage.gpus == 0 for stage in plan.stages if stage.stage != "train")


def test_modules_of_the_users_travel_with_the_model(ready, request_folder, tmp_path):
    (request_folder / "layers.py").write_text("import blocks\n")
    (request_folder / "blocks").mkdir()
    (request_folder / "blocks" / "__init__.py").write_text("import helpers, numpy\n")
    (request_folder / "helpers.py").write_text("")
    (request_folder / "unused.py").write_text("")
    model = request_folder / "model.py"
    model.write_text("import layers\n" + model.read_text())
    found = ready()
    assert [path.name for path in found.companions] == ["blocks", "helpers.py", "layers.py"]
    folder = workflow.create(found, settings.load(home=str(tmp_path / "home")))
    assert (folder.files / "blocks" / "__init__.py").is_file()
    sub = folder.submit_file("train").read_text()
    assert "files/model.py, files/blocks, files/helpers.py, files/layers.py, preprocess" in sub


def test_what_is_not_here_is_looked_for_at_the_redirectors(the_problem, change, request_folder):
    change("params", redirector=["root://no-such-redirector.invalid", "root://other.invalid:1094/"])
    (request_folder / "files.txt").write_text("data/signal.root\n/store/user/background.root:trees/events\n")
    said = the_problem()
    assert "root://no-such-redirector.invalid//store/user/background.root: its host is unknown" in said
    assert "root://other.invalid:1094//store/user/background.root: its host is unknown" in said


@pytest.mark.parametrize("value", ["stormgf1.pi.infn.it", ["root://a", "b"], 3])
def test_a_redirector_that_is_none_is_refused(the_problem, change, value):
    change("params", redirector=value)
    assert "redirector" in the_problem()


@pytest.mark.parametrize("key", ["files", "labels", "model"])
def test_an_empty_name_is_a_problem_not_a_crash(the_problem, change, key):
    change(**{key: ""})
    assert key in the_problem()


def test_chunks_too_small_for_their_classes_are_told_before_anything_is_queued(the_problem, ready, change):
    change("params", chunk_size=5)
    assert "20 chunks share 40 events of label '1', each needs 5" in the_problem()
    change("params", chunk_size=5, training="standard")
    assert ready().plan.size.chunks == 20


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("data/a.root|root://h.invalid//a.root", "'data/a.root' is no URL"),
        ("root://h.invalid//a.root|", "'' is no URL"),
        ("root://h.invalid//*.root | root://i.invalid//*.root", "is a pattern"),
        ("root://h.invalid//a.root | root://i.invalid//a.root:trees/events", "its host is unknown (nor"),
    ],
)
def test_places_of_a_file_are_urls(the_problem, request_folder, line, said):
    (request_folder / "files.txt").write_text(f"data/signal.root\n{line}\n")
    assert said in the_problem()
