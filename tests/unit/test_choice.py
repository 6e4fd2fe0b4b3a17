"""What a request makes of the branches: cuts, new branches, weights, targets, lengths, given specs, gaps."""

import json
import shutil

import awkward as ak
import numpy as np
import pytest

from mlaas_condor import settings, workflow
from mlaas_condor.data import specs
from mlaas_condor.data.measuring import measure
from mlaas_condor.errors import RequestError
from mlaas_condor.prepare import prepare
from mlaas_condor.request import Request


@pytest.fixture
def ready(request_folder):
    """Prepare the request as it stands."""
    return lambda: prepare(Request.read(request_folder), settings.load())


@pytest.fixture
def problems(ready):
    """Return what is said of the request."""

    def texts():
        with pytest.raises(RequestError) as caught:
            ready()
        return [str(problem) for problem in caught.value.problems]

    return texts


@pytest.fixture
def preproc(request_folder, change):
    """Write preproc.json and name it in the request."""

    def write(content, name="preproc.json"):
        (request_folder / name).write_text(content if isinstance(content, str) else json.dumps(content))
        change(preproc=name)

    return write


# MLaaS4HEP's own example, on the branches that there are.
EXAMPLE = {
    "new_branch": {
        "log_pt": {
            "def": "log(jet_pt)", "type": "jagged", "cut_1": ["log_pt<6.31", "any"],
            "cut_2": ["log_pt>-5.85", "all"], "remove": "False", "keys_to_remove": ["jet_pt"],
        },
        "njets_square": {
            "def": "njets**2", "type": "flat", "cut": "1<=njets_square<=100", "remove": "False",
            "keys_to_remove": ["njets"],
        },
    },
    "flat_cut": {"charge": {"cut": "-1<=charge<=1", "remove": "False"}},
    "jagged_cut": {"jet_id": {"cut": ["jet_id>0", "all"], "remove": "True"}},
}  # fmt: skip


def test_the_published_example_of_preproc(ready, preproc):
    preproc(EXAMPLE)
    dataset = ready().dataset
    assert dataset.flat == ["charge", "constant", "met", "njets_square", "trigger"]
    assert dataset.jagged == ["log_pt", "never"]
    assert [cut.title for cut in dataset.steps.cuts] == [
        "any(log_pt<6.31)", "all(log_pt>-5.85)", "1<=njets_square<=100", "-1<=charge<=1", "all(jet_id>0)",
    ]  # fmt: skip
    assert [(each.name, each.branches) for each in dataset.steps.definitions] == [
        ("log_pt", ["jet_pt"]),
        ("njets_square", ["njets"]),
    ]


def test_new_branches_are_made_in_an_order_that_works_and_are_features_whatever_is_selected(
    ready, preproc, change
):
    preproc(
        {"new_branch": {"b": {"def": "2*a"}, "a": {"def": "njets+1"}, "c": {"def": "b-a", "remove": True}}}
    )
    change("params", selected_branches=["met"])
    dataset = ready().dataset
    assert [each.name for each in dataset.steps.definitions] == ["a", "b", "c"]
    assert (dataset.flat, dataset.jagged) == (["a", "b", "met"], [])


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"flat_cuts": {}}, ["unknown key 'flat_cuts'", "'flat_cut'"]),
        ({"flat_cut": {"met": "met>3"}}, ["flat_cut: met", "is not an object"]),
        ({"flat_cut": {"met": {"cuts": "met>3"}}}, ["unknown key 'cuts'"]),
        ({"flat_cut": {"met": {"cut": ["met>3", "some"]}}}, ["is no cut", '["x>200", "any"]']),
        ({"flat_cut": {"met": {"cut": "met>"}}}, ["flat_cut: met: cut", "met>"]),
        ({"flat_cut": {"met": {"cut": "mett>3"}}}, ["'met'", "mett>3\n  ^"]),
        ({"flat_cut": {"met": {"cut": "__import__('os')"}}}, ["__import__"]),
        ({"jagged_cut": {"jet_pt": {"cut": "jet_pt>3"}}}, ['["jet_pt>3", "any"]']),
        ({"flat_cut": {"met": {}}}, ["flat_cut: met", "has no cut"]),
        ({"flat_cut": {"mett": {"cut": "met > 3"}}}, ["flat_cut: mett", "no branch 'mett'", "'met'"]),
        ({"new_branch": {"x": {"def": " "}}}, ["has no 'def'"]),
        ({"flat_cut": {"met": {"cut": "met"}}}, ["'met' is no condition", "compare it"]),
        ({"new_branch": {"x": {"type": "flat"}}}, ["has no 'def'"]),
        ({"new_branch": {"x": {"def": "log(jet_pt)", "type": "flat"}}}, ["its type is flat", "is jagged"]),
        ({"new_branch": {"x": {"def": "met", "type": "round"}}}, ["type: 'round'"]),
        ({"new_branch": {"met": {"def": "njets"}}}, ["there is a branch of that name already"]),
        ({"new_branch": {"x": {"def": "y"}, "y": {"def": "x+1"}}}, ["made of one another", "x"]),
        ({"new_branch": {"x": {"def": "sum(met)"}}}, ["sum(met)"]),
        ({"flat_cut": {"met": {"cut": "met>3", "remove": "maybe"}}}, ["remove: 'maybe'"]),
        ({"flat_cut": {"met": {"keys_to_remove": ["mett"]}}}, ["no branch 'mett' to remove", "'met'"]),
        ("{", ["preproc.json:1", "not valid JSON"]),
    ],
)
def test_mistakes_in_preproc_are_told_with_their_place(problems, preproc, content, words):
    preproc(content)
    (said,) = problems()
    assert "preproc.json" in said and all(word in said for word in words), said


def test_a_branch_of_truth_values_is_a_condition(ready, preproc):
    preproc({"flat_cut": {"trigger": {"cut": "trigger"}}})
    assert [cut.title for cut in ready().dataset.steps.cuts] == ["trigger"]


def test_several_mistakes_in_preproc_come_together(problems, preproc):
    preproc({"flat_cut": {"met": {"cut": "mett>3"}, "njets": {"cut": "njets>", "remove": 3}}})
    assert len(problems()) == 3


def test_missing_preproc_is_told_the_nearest(problems, preproc, change):
    preproc({})
    change(preproc="preprok.json")
    (said,) = problems()
    assert said.startswith("job.json: preproc: preprok.json: no such file (did you mean 'preproc.json'")


def test_function_for_records_is_refused_with_root_files(problems, preproc):
    preproc("def preprocessing(rec):\n    return rec\n", "pre.py")
    (said,) = problems()
    assert "is a Python file" in said and "is a ROOT file" in said


# ---- labels, targets, weights


def test_regression_takes_a_branch_of_floats(ready, change):
    change(labels="met", task="regression")
    recipe = ready().recipe
    assert (recipe.task, recipe.label_branch, recipe.classes) == ("regression", "met", [])
    assert "met" in ready().dataset.carried and "met" not in ready().dataset.flat


def test_regression_needs_a_branch(problems, change):
    change(task="regression")
    assert "a regression needs the name of a branch" in problems()[0]


def test_weights_may_be_a_branch(ready, change):
    change(weights="met")
    found = ready()
    assert (found.recipe.weight_branch, found.dataset.weight) == ("met", "met")
    assert found.dataset.carried == ["run", "event", "met"] and "met" not in found.dataset.flat


@pytest.mark.parametrize("as_file", [True, False])
def test_weights_may_be_a_number_a_file(ready, change, request_folder, as_file):
    (request_folder / "w.txt").write_text("0.5\n2e-3\n")
    change(weights="w.txt" if as_file else [0.5, 2e-3])
    assert ready().recipe.weights == [0.5, 0.002]


@pytest.mark.parametrize(
    ("weights", "words"),
    [
        ([1.0], "there are 1 weights and 2 files"),
        (["x", 1], "weights: 'x' is not a number"),
        (["nan", 1], "'nan' is not a number"),
        ("jet_pt", "branch 'jet_pt' is jagged"),
        ("mett", "no such file, and no such branch (did you mean 'met'"),
    ],
)
def test_wrong_weights(problems, change, weights, words):
    change(weights=weights)
    (said,) = problems()
    assert words in said


def test_more_than_two_classes(ready, change, mktree):
    mktree("request/data/third.root", 30, seed=3)
    change(files=["data/signal.root", "data/background.root", "data/third.root"], labels=["s", "b", "w"])
    assert ready().recipe.classes == ["b", "s", "w"]


# ---- trees


def test_tree_may_stand_after_the_file(ready, request_folder, mktree):
    mktree("request/data/other.root", 20, seed=4, tree="boosted/events")
    text = "data/signal.root\ndata/other.root:boosted/events\n"
    (request_folder / "files.txt").write_text(text)
    assert [file.tree for file in ready().dataset.files] == ["events", "boosted/events"]


def test_signal_and_background_may_be_trees_of_one_file(ready, request_folder, change):
    import uproot

    rng = np.random.default_rng(1)
    with uproot.recreate(request_folder / "both.root") as file:
        for tree in ("TreeS", "TreeB"):
            file.mktree(tree, {"x": np.float32}).extend({"x": rng.normal(0, 1, 50).astype(np.float32)})
    change(files=["both.root:TreeS", "both.root:TreeB"], labels=["S", "B"])
    change("params", identifier=None, exclude_branches=None)
    dataset = ready().dataset
    assert [file.tree for file in dataset.files] == ["TreeS", "TreeB"]
    assert len({file.staged for file in dataset.files}) == 2 and not ready().warnings


# ---- lengths


def test_lists_can_be_cut_to_a_length(ready, change):
    change("params", max_length={"jet_p*": 2})
    found = ready()
    assert found.dataset.steps.max_length == {"jet_pt": 2} and found.plan.size.columns == 5 + 3 + 2 + 1
    change("params", max_length=1)
    assert set(ready().dataset.steps.max_length.values()) == {1}


def test_length_of_nothing(problems, change):
    change("params", max_length={"jets": 2})
    assert "max_length: 'jets' matches no jagged feature (did you mean 'jet_" in problems()[0]


def test_very_long_lists_are_warned_of_with_a_length_that_would_do(ready, mktree):
    for name, n, seed in (("signal", 40, 1), ("background", 60, 2)):
        counts = np.full(n, 3)
        counts[0] = 300
        mktree(f"request/data/{name}.root", n, seed=seed, tracks=ak.unflatten(np.ones(counts.sum()), counts))
    (said,) = ready().warnings
    assert "lists of tracks have up to 300 elements" in said and '"max_length": {"tracks": ' in said
    proposed = int(said.split('"tracks": ')[1].split("}")[0])
    assert 3 <= proposed < 300


# ---- specs that are given


@pytest.fixture
def measured(ready, request_folder):
    """Write the specs of the request into its folder, as ours."""
    dataset = ready().dataset
    part = measure(dataset, [each for task in dataset.tasks for each in task])
    found = specs.of_dataset(dataset, part)
    found.write(request_folder / "specs.json")
    return found


def test_given_specs_are_used_and_nothing_is_measured(ready, measured, change, tmp_path):
    change(specs="specs.json")
    found = ready()
    assert found.given.jagged["jet_pt"].maximum == measured.jagged["jet_pt"].maximum
    folder = workflow.create(found, settings.load(home=str(tmp_path / "home")))
    assert folder.units_done("specs") == set(range(len(found.dataset.tasks)))
    assert "given-specs.json" in folder.submit_file("merge").read_text()


def test_specs_of_mlaas4hep_are_taken(ready, request_folder, change):
    names = {
        "flat": ["charge", "constant", "met", "njets", "trigger"],
        "jagged": ["jet_id", "jet_pt", "never"],
    }
    both = [*names["flat"], *names["jagged"]]
    raw = {
        "jdim": dict.fromkeys(names["jagged"], 2), "minv": dict.fromkeys(both, 0), "nans": {}, "events": {},
        "maxv": dict.fromkeys(both, 9), "fkeys": names["flat"], "jkeys": names["jagged"],
    }  # fmt: skip
    (request_folder / "global-specs.json").write_text(json.dumps(raw))
    change(specs="global-specs.json")
    found = ready()
    assert found.given.flat["met"].maximum == 9
    assert found.dataset.steps.max_length == dict.fromkeys(names["jagged"], 2)


def test_given_specs_with_cuts_are_counted_only(ready, measured, change, preproc, tmp_path):
    change(specs="specs.json")
    preproc({"flat_cut": {"njets": {"cut": "njets>5"}}})
    found = ready()
    folder = workflow.create(found, settings.load(home=str(tmp_path / "home")))
    assert folder.units_done("specs") == set()
    part = measure(found.dataset, [each for task in found.dataset.tasks for each in task])
    assert not part.branches and 0 < sum(kept.events for kept in part.kept) < 100


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "no such file"),
        ("{", "Expecting property name"),
        ("[]", "holds a list"),
        ("{}", "have no jdim, minv, maxv, fkeys, jkeys"),
        ('{"jdim": {}, "minv": {}, "maxv": {}, "fkeys": ["met"], "jkeys": []}', "has no 'met'"),
        ('{"jdim": {}, "minv": {}, "maxv": {}, "fkeys": [], "jkeys": []}', "have no flat branch charge"),
        ('{"kept": 3}', "are no specs"),
    ],
)
def test_wrong_specs(problems, request_folder, change, text, words):
    change(specs="own.json")
    if text is not None:
        (request_folder / "own.json").write_text(text)
    assert any("specs: own.json" in each and words in each for each in problems())


def test_specs_that_do_not_say_what_normalising_needs(problems, request_folder, measured, change):
    bare = {name: {"length": 1, "minimum": 0.0, "maximum": 1.0} for name in measured.flat}
    jagged = {name: {"length": 4, "minimum": 0.0, "maximum": 1.0} for name in measured.jagged}
    (request_folder / "own.json").write_text(json.dumps({"flat": bare, "jagged": jagged, "kept": []}))
    change(specs="own.json")
    change("params", normalise="standard")
    assert "do not say what normalise: 'standard' needs" in problems()[0]


# ---- gaps


def test_branch_that_one_file_lacks_may_be_padding_there(ready, change, mktree):
    mktree("request/data/background.root", 60, seed=2, met=None, jet_pt=None)
    change("params", missing_branches="nan")
    found = ready()
    assert found.dataset.fill_missing == {"met": "flat", "jet_pt": "jagged"}
    (warning,) = found.warnings
    assert "background.root has no" in warning and "padding there" in warning
    part = measure(found.dataset, [each for task in found.dataset.tasks for each in task])
    whole = specs.of_dataset(found.dataset, part)
    assert whole.flat["met"].not_finite == 60 + len(range(0, 40, 7)) and whole.events == 100


@pytest.fixture
def many(request_folder, mktree, change):
    """Ten files, of which the last two can be damaged."""
    files = [f"data/{i}.root" for i in range(10)]
    for i, name in enumerate(files):
        mktree(f"request/{name}", 30, seed=i)
    change(files=files, labels=[i % 2 for i in range(10)])
    return [request_folder / name for name in files]


def test_unreadable_file_may_be_left_out(ready, problems, change, many):
    many[9].write_bytes(many[9].read_bytes()[:500])
    assert "9.root: is cut short" in problems()[0]
    change("params", bad_files={"skip": 0.2})
    found = ready()
    assert len(found.dataset.files) == 9 and found.recipe.labels == [i % 2 for i in range(9)]
    (lost,) = found.dataset.unreadable
    assert lost.path.endswith("9.root") and lost.entries < 30 and "cut short" in lost.reason
    assert any("left out" in each and "9.root" in each for each in found.warnings)


def test_more_unreadable_files_than_allowed(problems, change, many):
    for path in many[5:]:
        shutil.copy(many[0], path)
        path.write_bytes(b"root" + b"x" * path.stat().st_size)
    change("params", bad_files={"skip": 0.2})
    said = problems()
    assert "bad_files: 5 files cannot be read, about 50.0% of the events; allowed is 20.0%" in said[0]
    assert len(said) == 6


@pytest.mark.parametrize("value", ["skip", {"skip": 2}, {"skip": 0}, {"drop": 0.1}, 0.1])
def test_wrong_bad_files(problems, change, value):
    change("params", bad_files=value)
    assert any("bad_files" in each for each in problems())


def test_a_flat_branch_called_like_an_element_is_a_warning(ready, mktree):
    for name, n, seed in (("signal", 40, 1), ("background", 60, 2)):
        mktree(f"request/data/{name}.root", n, seed=seed, jet_pt_0=np.ones(n))
    assert ready().warnings == [
        "branches: flat 'jet_pt_0' and the elements of 'jet_pt' make columns of the same name"
    ]


# ---- record formats


@pytest.fixture
def csv(tmp_path):
    """Write two small CSV files and a request on them; returns a function that prepares it."""
    folder = tmp_path / "csv"
    folder.mkdir()
    (folder / "model.py").write_text("import keras\ndef model(idim):\n    ...\n")
    for i, name in enumerate("sb"):
        rows = [f"{k},{k + i}.5,{2**60 + k}" for k in range(9000)]
        (folder / f"{name}.csv").write_text("x,y,event\n" + "\n".join(rows) + "\n")

    def prepared(files=("s.csv", "b.csv"), **keys):
        job = {"name": "c", "files": list(files), "labels": ["s", "b"][: len(files)], "model": "model.py"}
        params = keys.pop("params", {"identifier": "event"})
        (folder / "job.json").write_text(json.dumps(job | {"params": params} | keys))
        return prepare(Request.read(folder), settings.load())

    prepared.folder = folder
    return prepared


def refused(prepared, **keys):
    with pytest.raises(RequestError) as caught:
        prepared(**keys)
    return [str(problem) for problem in caught.value.problems]


def test_a_change_in_the_middle_of_a_text_file_is_another_dataset(csv):
    before = csv().dataset
    assert csv().dataset.chunks_key == before.chunks_key
    path = csv.folder / "s.csv"
    path.write_text(path.read_text().replace("4500,4500.5", "4500,9999.5"))
    after = csv().dataset
    assert after.files[0].size == before.files[0].size
    assert after.specs_key != before.specs_key and after.chunks_key != before.chunks_key


def test_modules_of_the_function_travel_and_are_part_of_the_key(csv, tmp_path):
    (csv.folder / "pre.py").write_text("import helper\ndef preprocessing(rec):\n    return helper.f(rec)\n")
    (csv.folder / "helper.py").write_text("def f(rec):\n    return rec\n")
    found = csv(preproc="pre.py")
    folder = workflow.create(found, settings.load(home=str(tmp_path / "home")))
    assert (folder.files / "helper.py").is_file()
    for stage in ("specs", "preprocess", "report"):
        assert "files/pre.py, files/helper.py" in folder.submit_file(stage).read_text()
    (csv.folder / "helper.py").write_text("def f(rec):\n    rec['x'] += 1\n    return rec\n")
    assert csv(preproc="pre.py").dataset.chunks_key != found.dataset.chunks_key


def test_function_called_as_the_model_is_told(csv):
    (csv.folder / "pre").mkdir()
    (csv.folder / "pre" / "model.py").write_text("def preprocessing(rec):\n    return rec\n")
    (said,) = refused(csv, preproc="pre/model.py")
    assert "have the same name" in said


def test_mistake_in_the_function_is_told_once_and_is_no_bad_file(csv):
    (csv.folder / "pre.py").write_text("def preprocessing(rec):\n    return rec['none']\n")
    (said,) = refused(csv, preproc="pre.py", params={"bad_files": {"skip": 0.9}})
    assert said.startswith("job.json: preproc: pre.py:2: KeyError")


def test_identifiers_of_types_that_no_other_holds_are_refused(csv):
    text = "x,y,event\n" + "\n".join(f"{k},1.5,{k}" for k in range(9000)) + "\n"
    (csv.folder / "b.csv").write_text(text)
    (said,) = refused(csv)
    assert "branch 'event' is float64 in" in said and "int64 in" in said and "last digits" in said


def test_branch_that_is_text_in_one_file_is_no_gap(csv):
    path = csv.folder / "b.csv"
    path.write_text(path.read_text().replace(".5,", ".5 GeV,"))
    (said,) = refused(csv, params={"identifier": "event", "missing_branches": "nan"})
    assert "b.csv: branch 'y' cannot be used: it holds text" in said


def test_class_that_is_left_out_with_its_file_is_told(csv):
    (csv.folder / "b.csv").write_bytes(b"")
    (said,) = refused(csv, params={"identifier": "event", "bad_files": {"skip": 0.9}})
    assert "the files that can be read all have the label 's'" in said


def test_url_of_a_local_file_travels_like_any_other(csv):
    found = csv(files=[f"file://{csv.folder}/s.csv", "b.csv"])
    assert found.dataset.files[0].path == str(csv.folder / "s.csv") and found.dataset.files[0].staged


def test_new_branch_may_be_label_and_weight(ready, preproc, change):
    preproc({"new_branch": {"cls": {"def": "njets > 5"}, "weight": {"def": "2 * constant"}}})
    change(labels="cls", weights="weight")
    found = ready()
    assert found.dataset.carried == ["run", "event", "cls", "weight"]
    part = measure(found.dataset, [each for task in found.dataset.tasks for each in task])
    assert sum(kept.weights[-1] for kept in part.kept) == 100 * 15.0


def test_weights_none_of_which_is_above_nothing(problems, change):
    change(weights=[-1, 0])
    assert problems() == ["job.json: weights: none is above 0 (their sum must be)"]
