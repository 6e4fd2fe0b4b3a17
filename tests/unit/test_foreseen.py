"""What the user's function leaves is told without running it; where it cannot be, the file can say it."""

import contextlib
import json

import pytest

from mlaas_condor import settings, workflow
from mlaas_condor.data.dataset import Dataset
from mlaas_condor.data.foreseen import Foreseen
from mlaas_condor.data.inputs import Reader, survey
from mlaas_condor.data.recordwise import Recordwise
from mlaas_condor.data.tables import open_table
from mlaas_condor.errors import ModelFault, RequestError
from mlaas_condor.prepare import prepare
from mlaas_condor.request import Request

RECORDS = [
    {"met": i + 0.5, "id": 2**60 + i, "sample": ("data", "mc")[i % 2], "pt": [i * 0.5, 1.0][: i % 3], "n": i,
     "jet": {"pt": [1.0, 2.0], "n": 3}, "js": [{"pt": 1.0, "e": 2.0}] * (i % 2 + 1)}
    for i in range(40)
]  # fmt: skip


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    path = tmp_path_factory.mktemp("records") / "a.jsonl"
    path.write_text("\n".join(map(json.dumps, RECORDS)))
    return path


def body(*lines, before="import math\nimport numpy as np\n"):
    return before + "def preprocessing(rec):\n" + "".join(f"    {line}\n" for line in lines)


@pytest.fixture
def foreseen(tmp_path, table):
    def foresee(code):
        path = tmp_path / "pre.py"
        path.write_text(code)
        with contextlib.closing(open_table(str(table))) as opened:
            return Foreseen(opened, path)

    return foresee


FOLLOWED = {
    "nothing": """
        return rec""",
    "of the documents": """
        rec["kind"] = KINDS[rec["sample"]]
        rec["log"] = math.log(rec["met"] + 1)
        rec["sum"] = sum(rec["pt"])
        rec["pt2"] = [pt**2 for pt in rec["pt"]]
        rec["new"] = {"a": rec["met"] > 10}
        del rec["met"]
        return rec""",
    "names in a list": """
        for name in ["met", "n"]:
            rec[f"{name}_2"] = rec[name] ** 2
        return rec""",
    "names that are put together": """
        for name in ("met", "n"):
            rec["log_" + name] = rec.pop(name)
        return rec""",
    "either": """
        if rec["n"] > 3:
            rec["x"] = 1
        else:
            rec["x"] = 0.5
            del rec["id"]
        return rec""",
    "early": """
        rec["x"] = 1
        if rec["n"] > 3:
            return rec
        rec["y"] = 2
        return rec""",
    "another record": """
        return {"a": rec["met"], "b": [j["pt"] for j in rec["js"]], "t": rec["sample"]}""",
    "unpacked": """
        return {**rec, "b": np.abs(rec["met"])}""",
    "a copy": """
        out = dict(rec)
        out["z"] = rec["n"] / 2
        out.pop("js")
        return out""",
    "updated": """
        rec.update(a=1, b=[2.0])
        rec.update({"c": rec["n"] * 2})
        return rec""",
    "grown": """
        found = []
        for x in rec["pt"]:
            found.append(x * 2)
        rec["found"] = found
        return rec""",
    "within": """
        rec["jet"]["e"] = rec["jet"]["n"] * 2
        jet = rec["jet"]
        jet["f"] = 1.5
        return rec""",
    "own functions": """
        rec["d"] = distance(rec["met"], rec["n"])
        return rec""",
    "text": """
        rec["e"] = float(rec["sample"].replace("data", "1").replace("mc", "2"))
        return rec""",
    "choice": """
        rec["c"] = 1 if rec["sample"] == "mc" else 0
        rec["l"] = rec["jet"]["pt"] or []
        return rec""",
    "tried": """
        try:
            rec["r"] = 1 / rec["n"]
        except ZeroDivisionError:
            rec["r"] = 0.0
        return rec""",
    "by numpy": """
        rec["m"] = float(np.mean(rec["jet"]["pt"]))
        rec["s"] = list(np.sort(rec["pt"]))
        return rec""",
    "given": """
        rec["g"] = rec.get("met", 0) + rec.setdefault("h", 3)
        return rec""",
    "counted": """
        rec["many"] = len([j for j in rec["js"] if j["pt"] > 0.5])
        rec["n"] += 1
        return rec""",
    "none": """
        rec["no"] = None
        return rec""",
}
HELPERS = """
import math
import numpy as np

KINDS = {"data": 0, "mc": 1}


def distance(a, b):
    return a - b


"""


@pytest.mark.parametrize("lines", FOLLOWED.values(), ids=FOLLOWED)
def test_it_is_as_when_it_runs(foreseen, table, tmp_path, lines):
    found = foreseen(f"{HELPERS}def preprocessing(rec):{lines}\n")
    with contextlib.closing(open_table(str(table))) as opened:
        real = Recordwise(opened, tmp_path / "pre.py")
    kinds = {name: branch.kind for name, branch in found.branches.items()}
    assert kinds == {name: branch.kind for name, branch in real.branches.items()}
    assert found.left_out.keys() == real.left_out.keys()
    carried = {name for name, branch in real.branches.items() if branch.dtype != "float64"}
    assert all(found.branches[name].dtype == real.branches[name].dtype for name in carried)
    assert all(
        (found.lengths[name] == real.lengths[name]).all() for name in ("js.pt",) if name in found.lengths
    )


@pytest.mark.parametrize(
    ("lines", "line", "words"),
    [
        (["helper(rec)", "return rec"], 3, "what helper does to the record"),
        (["return helper(rec)"], 3, "what helper does to the record"),
        (['for key in list(rec):', '    rec[key + "_2"] = 1', "return rec"], 4, "which key"),
        (["for key in rec:", '    rec[key + "_2"] = 1', "return rec"], 4, "which key"),
        (['rec[rec["sample"]] = 1', "return rec"], 3, "which key"),
        (['for j in rec["js"]:', '    j["x"] = 1', "return rec"], 4, "records in a list are changed"),
        (["def more():", '    rec["x"] = 1', "more()", "return rec"], 4, "what is done here to 'rec'"),
        (["(lambda: rec.clear())()", "return rec"], 3, "what is done here to 'rec'"),
        (["rec.clear()", "return rec"], 3, "what clear leaves"),
        (["exec('rec[\"x\"] = 1')", "return rec"], 3, "what exec does"),
        (["self.rec = rec", "return rec"], 3, "where the record is kept"),
        (['rec["x"] = other(rec["pt"])', "return rec"], 1, "what it puts into 'x'"),
        (['rec["x"] = rec["none"]', "return rec"], 3, "the first records have no 'none'"),
        (["return None"], 2, "what preprocessing returns"),
        (["return [rec]"], 2, "what preprocessing returns"),
        (["pass"], 2, "returns nothing"),
        (["rec.update(other)", "return rec"], 3, "with what the record is updated"),
        (["return {**other}"], 3, "what is unpacked here"),
        (["global x", "return rec"], 3, "cannot be followed"),
        (["match rec:", "    case _:", "        return rec"], 3, "cannot be followed"),
    ],
)  # fmt: skip
def test_what_only_running_it_would_tell_is_refused_with_its_line(foreseen, lines, line, words):
    with pytest.raises(ModelFault) as caught:
        foreseen(body(*lines, before="import other\n"))
    said = str(caught.value)
    assert said.startswith(f"pre.py:{line}: ") and words in said and 'BRANCHES = {"x": "flat"' in said
    assert "\n" not in said


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("def preprocessing(rec:\n", "pre.py:1: '(' was never closed"),
        ("def other(rec):\n    return rec\n", "no function `preprocessing` (functions in the file: other)"),
        ("def preprocessing(rec):\n    return {'t': 'text'}\n", "leaves no branch of numbers"),
        ("BRANCHES = ['a']\n" + body("return rec"), "BRANCHES is no dict"),
        ("BRANCHES = {'a': 'round'}\n" + body("return rec"), "BRANCHES is no dict"),
        ("BRANCHES = {}\n" + body("return rec"), "BRANCHES is no dict"),
        ("x = " + "(" * 1000 + ")" * 1000, "pre.py"),
        ("\0", "pre.py"),
    ],
)
def test_files_that_are_none(foreseen, code, words):
    with pytest.raises(ModelFault) as caught:
        foreseen(code)
    assert words in str(caught.value)


def test_the_file_can_say_what_it_leaves(foreseen):
    found = foreseen('BRANCHES = {"a": "flat", "b.c": "jagged"}\n' + body("return helper(rec)"))
    assert {name: branch.kind for name, branch in found.branches.items()} == {"a": "flat", "b.c": "jagged"}
    assert not found.left_out and not found.lengths


# ---- a whole request


@pytest.fixture
def folder(tmp_path):
    """A request on two tables, whose files of Python say when they are run."""
    for name, shift in (("a", 0), ("b", 100)):
        rows = [{"x": i + shift, "l": [1.0] * (i % 3), "t": "1"} for i in range(60)]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    touch = f"import pathlib\npathlib.Path({str(tmp_path / 'ran')!r}).touch()\n"
    function = 'import helper\ndef preprocessing(rec):\n    rec["h"] = helper.half(rec["x"])\n'
    (tmp_path / "helper.py").write_text(touch + "def half(x):\n    return x / 2\n")
    (tmp_path / "pre.py").write_text(touch + function + '    del rec["x"]\n    return rec\n')
    (tmp_path / "model.py").write_text(touch + "import keras\ndef model(idim):\n    pass\n")
    job = {
        "name": "t",
        "files": ["a.jsonl", "b.jsonl"],
        "labels": [0, 1],
        "model": "model.py",
        "preproc": "pre.py",
    }
    (tmp_path / "job.json").write_text(json.dumps(job))
    return tmp_path


def test_nothing_of_the_users_runs_where_it_must_not(folder, tmp_path):
    found = prepare(Request.read(folder), settings.load(), run_code=False)
    assert not (folder / "ran").exists()
    assert (found.dataset.flat, found.dataset.jagged) == (["h"], ["l"])
    assert found.plan.size.columns == 3  # the lists are those of the file
    (warning,) = [each for each in found.warnings if "planned by reading it" in each]
    assert "it leaves h, l; the specs jobs say if it does not" in warning
    created = workflow.create(found, settings.load(home=str(tmp_path / "home")))
    assert not (folder / "ran").exists()
    assert (created.files / "helper.py").is_file() and (created.files / "pre.py").is_file()
    ran = prepare(Request.read(folder), settings.load())
    assert (folder / "ran").exists()
    assert (ran.dataset.flat, ran.dataset.jagged, ran.dataset.specs_key) == (
        found.dataset.flat, found.dataset.jagged, found.dataset.specs_key,
    )  # fmt: skip


def test_what_cannot_be_told_is_one_problem_of_the_request(folder):
    (folder / "pre.py").write_text("import helper\ndef preprocessing(rec):\n    return helper.half(rec)\n")
    with pytest.raises(RequestError) as caught:
        prepare(Request.read(folder), settings.load(), run_code=False)
    (problem,) = caught.value.problems
    assert problem.where == "job.json: preproc" and "pre.py:3" in problem.what


def test_a_job_says_that_it_was_foreseen_wrongly(folder, monkeypatch):
    (folder / "pre.py").write_text('def preprocessing(rec):\n    rec["h"] = f(rec["x"])\n    return rec\n'
                                   "def f(x):\n    return [x]\n")  # fmt: skip
    dataset = prepare(Request.read(folder), settings.load(), run_code=False).dataset
    assert dataset.flat == ["h", "x"]
    monkeypatch.chdir(folder)
    with pytest.raises(ModelFault, match=r"it leaves 'h' jagged.*planned with as flat.*BRANCHES"):
        Reader(Dataset.model_validate(dataset.model_dump()), 0)
    code = 'BRANCHES = {"h": "jagged", "x": "flat", "l": "jagged"}\n' + (folder / "pre.py").read_text()
    (folder / "pre.py").write_text(code)
    dataset = prepare(Request.read(folder), settings.load(), run_code=False).dataset
    reader = Reader(dataset, 0)
    assert reader.read(["h"], 0, 2)["h"].values.tolist() == [0.0, 1.0]
    reader.close()


def test_a_survey_that_may_not_run_code_leaves_files_without_records_alone(mktree, tmp_path):
    path = mktree("a.root")
    (tmp_path / "pre.py").write_text("import os\nos._exit(3)\n")
    assert survey(str(path), "events", str(tmp_path / "pre.py"), run_code=False).entries == 30
