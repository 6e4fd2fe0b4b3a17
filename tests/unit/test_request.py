"""job.json and params.json: every key, every spelling, and what is said of the wrong ones."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlaas_condor.errors import RequestError
from mlaas_condor.params import Params
from mlaas_condor.reading import content_lines, nearest
from mlaas_condor.request import Job, Request, json_schema, parse_size

JOB = {"name": "luca", "files": ["a.root"], "labels": ["1"], "model": "model.py"}
SCALE = {"k": 2**10, "m": 2**20, "g": 2**30, "t": 2**40}


def read(job=None, **params):
    """Return a request of a right job, changed."""
    return Request.of({**JOB, "params": params, **(job or {})})


def said(request):
    return "\n".join(map(str, request.problems))


def test_old_request_of_mlaas4hep_is_understood(tmp_path):
    (tmp_path / "params_local.json").write_text(
        '{"nevts": 3000, "shuffle": true, "chunk_size": 10000, "epochs": 5, "batch_size": 100,'
        '"identifier": ["runNo", "evtNo", "lumi"], "branch": "events", "selected_branches": "",'
        '"exclude_branches": "", "hist": "pdfs", "redirector": "root://redirector.example", "verbose": 1}'
    )
    (tmp_path / "job.json").write_text(
        '{"name": "luca", "device": "cpu", "memory": "3gb", "cpus": "2", "files": "files_local.txt",'
        '"labels": "labels_local.txt", "model": "ex_keras_model.py", "params": "params_local.json"}'
    )
    request = Request.read(tmp_path / "job.json")
    assert not request.problems and not request.warnings
    job, params = request.job, request.params
    assert (job.name, job.memory, job.cpus, job.gpus_wanted) == ("luca", 3072, 2, 0)
    assert (params.nevts, params.chunk_size, params.epochs, params.branch) == (3000, 10000, 5, "events")
    assert params.identifier == ["runNo", "evtNo", "lumi"]
    assert params.selected_branches == [] and params.hist == "pdfs"
    assert request.path("x/y.root") == tmp_path / "x/y.root"
    assert set(request.sources) == {"job.json", "params.json"}
    assert Request.read(tmp_path).job == job  # the folder will do


def test_defaults_are_those_of_the_formats_page():
    params = read().params
    assert (params.nevts, params.chunk_size, params.shuffle) == (-1, 10_000, True)
    assert (params.epochs, params.batch_size, params.identifier) == (10, 100, [])
    assert (params.branch, params.selected_branches, params.exclude_branches) == ("Events", [], [])
    assert (params.hist, params.redirector, params.training) == (None, [], "per chunk")
    assert (params.metrics, params.split, params.nan, params.verbose) == (False, 0.2, None, 0)


@pytest.mark.parametrize(
    ("key", "given", "understood"),
    [
        ("nevts", "500", 500),
        ("nevts", -1, -1),
        ("chunk_size", -1, -1),
        ("shuffle", "False", False),
        ("identifier", "", []),
        ("identifier", "run, event ,lumi", ["run", "event", "lumi"]),
        ("identifier", ["run", "run"], ["run"]),
        ("selected_branches", "jet_*", ["jet_*"]),
        ("exclude_branches", ["a", "b"], ["a", "b"]),
        ("training", "standard", "standard"),
        ("split", 0.3, 0.3),
        ("nan", 0, 0.0),
        ("nan", "NaN", None),
        ("nan", math.nan, None),
        ("verbose", 2, 2),
        ("seed", 0, 0),
    ],
)
def test_spellings_of_params(key, given, understood):
    request = read(**{key: given})
    assert not request.problems
    assert getattr(request.params, key) == understood


def test_metrics_is_a_switch_or_has_a_threshold():
    assert read(metrics=True).params.metrics is True
    assert read(metrics={"threshold": 0.7}).params.metrics.threshold == 0.7


@pytest.mark.parametrize(
    ("key", "given", "understood"),
    [
        ("cpus", "0.1", 1),
        ("cpus", 0.1, 1),
        ("cpus", "2", 2),
        ("cpus", 2.5, 3),
        ("memory", "500m", 500),
        ("memory", "3gb", 3072),
        ("memory", "1.5 GiB", 1536),
        ("memory", "0.1m", 1),
        ("memory", 2000, 2000),
        ("memory", "2000", 2000),
        ("memory", 3 * 2**30, 3072),
        ("memory", "1048577b", 2),
        ("disk", "1tb", 2**20),
        ("disk", "2097152K", 2048),
        ("gpu_memory", "16G", 16384),
        ("gpu_capability", "8.0", 8.0),
        ("gpus", 2, 2),
    ],
)
def test_spellings_of_resources(key, given, understood):
    request = read({key: given})
    assert not request.problems
    assert getattr(request.job, key) == understood


@given(
    st.integers(1, 10**6),
    st.sampled_from("kmgt"),
    st.sampled_from(["", "b", "ib"]),
    st.sampled_from(["", " "]),
    st.booleans(),
)
def test_size_is_the_number_times_its_unit_rounded_up(number, unit, tail, space, capital):
    text = f"{number}{space}{unit}{tail}"
    assert parse_size(text.upper() if capital else text) == -(-number * SCALE[unit] // 2**20)


@given(st.integers(1, 2**20 - 1))
def test_bare_number_is_mib_and_a_large_one_bytes(number):
    assert parse_size(number) == parse_size(str(number)) == parse_size(f"{number}m") == number
    assert parse_size(number * 2**20) == number or number == 0


@pytest.mark.parametrize(
    "size", ["3xb", "", "gb", "-3gb", "0", 0, -5, True, None, [], "1e3", "9" * 400, math.nan]
)
def test_size_that_is_none_is_refused_with_an_example(size):
    with pytest.raises(ValueError, match=r"is not a size.*3gb"):
        parse_size(size)


@pytest.mark.parametrize("cpus", ["many", 0, -1, True, "nan", "inf", []])
def test_cpus_that_are_none(cpus):
    assert "is not a number of CPUs" in said(read({"cpus": cpus}))


def test_gpu_device_means_one_gpu_and_gpus_decide():
    assert read({"device": "gpu"}).job.gpus_wanted == 1
    assert read({"device": "gpu", "gpus": 3}).job.gpus_wanted == 3
    assert read({"gpus": 2}).job.gpus_wanted == 2


@pytest.mark.parametrize("name", ["../x", "a b", "", ".hidden", "-x", "a/b", "ü", "a" * 101, "a\n", "$(x)"])
def test_name_that_cannot_name_a_run(name):
    assert "cannot name a run" in said(read({"name": name}))


@pytest.mark.parametrize("name", ["luca_1", "a", "ttH-2.0+new", "1st", "a" * 100])
def test_name_that_can(name):
    assert read({"name": name}).job.name == name


@pytest.mark.parametrize("typo", ["nevents", "nevtts", "nevt"])
def test_published_misspellings_are_told_the_key(typo):
    problem = read(**{typo: 3}).problems[0]
    assert typo in problem.what and "'nevts'" in problem.hint


def test_unknown_key_is_told_the_nearest_with_its_line(tmp_path):
    (tmp_path / "job.json").write_text(json.dumps({**JOB, "memmory": "3gb"}, indent=1))
    (problem,) = Request.read(tmp_path / "job.json").problems
    line = (tmp_path / "job.json").read_text().splitlines().index(' "memmory": "3gb"') + 1
    assert problem.where == f"job.json:{line}"
    assert str(problem).endswith("unknown key 'memmory' (did you mean 'memory' or 'gpu_memory'?)")


def test_key_of_the_other_file_is_told_so():
    assert "'epochs' (it belongs into params.json)" in said(read({"epochs": 3}))
    assert "'memory' (it belongs into job.json)" in said(read(memory="3gb"))


def test_unknown_key_inside_a_key():
    assert "metrics: unknown key 'treshold' (did you mean 'threshold'?)" in said(
        read(metrics={"treshold": 1})
    )
    assert "tasks: unknown key 'spec' (did you mean 'specs'?)" in said(read({"tasks": {"spec": 1}}))


@pytest.mark.parametrize(
    ("job", "params", "words"),
    [
        ({"device": "tpu"}, {}, ["device", "'tpu'", "'cpu' or 'gpu'"]),
        ({"files": 5}, {}, ["files", "5"]),
        ({"files": [1, 2]}, {}, ["files", "[1, 2]"]),
        ({"labels": {"a": 1}}, {}, ["labels", "{'a': 1}"]),
        ({"gpus": 0}, {}, ["gpus", "0"]),
        ({"gpus": True}, {}, ["gpus", "True"]),
        ({"gpu_capability": math.inf}, {}, ["gpu_capability", "inf"]),
        ({"tasks": {"specs": 0}}, {}, ["tasks.specs", "0"]),
        ({}, {"nevts": 0}, ["nevts", "0", "-1 for all"]),
        ({}, {"nevts": -2}, ["nevts", "-2"]),
        ({}, {"nevts": True}, ["nevts", "True is not a number"]),
        ({}, {"chunk_size": 1.5}, ["chunk_size", "1.5"]),
        ({}, {"epochs": 0}, ["epochs", "0"]),
        ({}, {"batch_size": "many"}, ["batch_size", "'many'"]),
        ({}, {"split": 1}, ["split", "1"]),
        ({}, {"split": 0}, ["split", "0"]),
        ({}, {"nan": math.inf}, ["nan", "inf"]),
        ({}, {"branch": ""}, ["branch", "''"]),
        ({}, {"identifier": 5}, ["identifier", "5"]),
        ({}, {"metrics": {"threshold": 2}}, ["metrics", "2"]),
        ({}, {"verbose": 3}, ["verbose", "3"]),
        ({}, {"seed": -1}, ["seed", "-1"]),
    ],
)
def test_wrong_value_is_one_problem_with_the_key_and_the_value(job, params, words):
    request = read(job, **params)
    assert len(request.problems) == 1
    assert all(word in said(request) for word in words)


@pytest.mark.parametrize("key", ["name", "files", "labels", "model"])
def test_missing_key_is_named_and_explained(key):
    job = {name: value for name, value in JOB.items() if name != key}
    (problem,) = Request.of(job).problems
    assert problem.what == f"{key!r} is missing" and problem.hint


def test_all_problems_come_at_once_and_in_one_error():
    request = read({"memory": "3xb", "cpus": "x", "nam": 1}, nevtts=1, epochs=-1)
    assert len(request.problems) == 5
    with pytest.raises(RequestError) as caught:
        request.check()
    assert len(caught.value.problems) == 5 and caught.value.exit_code == 2
    assert str(caught.value).count("\n") == 4


def test_what_is_right_beside_a_problem_is_kept():
    request = read({"memory": "3xb", "cpus": 4})
    assert request.job.cpus == 4 and request.job.memory is None and request.job.name == "luca"


@pytest.mark.parametrize("key", ["host_folder", "cert_folder", "fout"])
def test_old_key_is_ignored_with_one_warning(key):
    request = read({key: "/somewhere"})
    assert not request.problems
    assert len(request.warnings) == 1 and key in request.warnings[0]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"name": "a",\n "files": }', ["job.json:2:", "not valid JSON"]),
        ("", ["job.json:1:1", "not valid JSON"]),
        ("[1]", ["job.json", "list"]),
        ("[" * 100_000, ["job.json"]),
        ('{"a": ' + "9" * 5000 + "}", ["job.json"]),
        ('{"name": "a", "name": "b"}', ["'name' is given twice"]),
    ],
)
def test_wrong_json_says_where(tmp_path, text, words):
    (tmp_path / "job.json").write_text(text)
    with pytest.raises(RequestError) as caught:
        Request.read(tmp_path / "job.json")
    assert all(word in str(caught.value) for word in words)


def test_wrong_json_of_params_keeps_the_problems_of_the_job(tmp_path):
    (tmp_path / "p.json").write_text('{\n "nevts": 3,\n}')
    request = Request.of({**JOB, "params": "p.json", "memory": "3xb"}, tmp_path)
    assert [problem.where for problem in request.problems] == ["p.json:3:1", "job"]


def test_files_written_on_windows_can_be_read(tmp_path):
    (tmp_path / "job.json").write_bytes(b"\xef\xbb\xbf" + json.dumps(JOB).replace(",", ",\r\n").encode())
    assert Request.read(tmp_path / "job.json").job.name == "luca"


def test_missing_job_file_is_told_the_nearest(tmp_path):
    (tmp_path / "job.json").write_text("{}")
    with pytest.raises(RequestError, match=r"jobs\.json: no such file \(did you mean 'job\.json'\?\)"):
        Request.read(tmp_path / "jobs.json")


@pytest.mark.parametrize("name", ["a" * 300, "nul\0", "."])
def test_name_that_is_no_file_is_no_crash(name, tmp_path):
    with pytest.raises(RequestError):
        Request.read(tmp_path / name / "x.json" if name == "." else name)


def test_job_file_that_is_no_text(tmp_path):
    (tmp_path / "job.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(RequestError, match="cannot be read"):
        Request.read(tmp_path / "job.json")


@pytest.mark.parametrize("params", [5, [1], [["nevts", 3]]])
def test_params_that_are_neither_file_nor_object(params):
    (problem,) = Request.of({**JOB, "params": params}).problems
    assert "neither a file name nor an object" in problem.what


def test_branch_names_may_come_from_a_file(tmp_path):
    (tmp_path / "use.txt").write_text("# features\njet_pt\n\n met \njet_pt\n")
    request = Request.of({**JOB, "params": {"selected_branches": "use.txt"}}, tmp_path)
    assert request.params.selected_branches == ["jet_pt", "met"]
    assert Request.of(
        {**JOB, "params": {"selected_branches": "no.txt"}}, tmp_path
    ).params.selected_branches == ["no.txt"]


def test_file_of_branch_names_with_nothing_in_it_does_not_mean_all(tmp_path):
    (tmp_path / "use.txt").write_text("# nothing\n")
    request = Request.of({**JOB, "params": {"selected_branches": "use.txt"}}, tmp_path)
    assert "has no branch in it" in said(request)


def test_branch_name_as_long_as_no_file_name_is_no_crash():
    assert read(selected_branches="a" * 300).params.selected_branches == ["a" * 300]


def test_unknown_home_folder_is_a_plain_name(tmp_path):
    assert Request.of(JOB, tmp_path).path("~nobody-of-that-name/x") == tmp_path / "~nobody-of-that-name/x"


def test_comment_and_blank_lines_do_not_count():
    assert list(content_lines("# a\n\n  b c \n\t\n#d\ne#f\n")) == ["b c", "e#f"]


def test_nearest_looks_past_capitals_and_lists_when_nothing_is_near():
    assert nearest("JETPT", ["jetpt", "mass"]) == "did you mean 'jetpt'?"
    assert nearest("zzz", ["jetpt", "met"]) == "there is jetpt, met"
    assert nearest("zzz", []) == ""
    assert nearest("zzz", [f"b{i}" for i in range(20)]).endswith(", …")


def test_schema_allows_exactly_the_keys_there_are():
    schema = json_schema()
    assert schema["additionalProperties"] is False
    assert set(schema["properties"]) == set(Job.model_fields)
    assert set(schema["required"]) == {"name", "files", "labels", "model"}
    params = schema["$defs"]["Params"]
    assert set(params["properties"]) == set(Params.model_fields) and params["additionalProperties"] is False
    for properties in (schema["properties"], params["properties"]):
        assert all(each.get("description") for name, each in properties.items())


def conforms(value, schema, root):
    """Check a value against the part of JSON Schema that ours uses."""
    if "$ref" in schema:
        return conforms(value, root["$defs"][schema["$ref"].rpartition("/")[2]], root)
    if "anyOf" in schema:
        return any(conforms(value, each, root) for each in schema["anyOf"])
    if "enum" in schema:
        return value in schema["enum"]
    kinds = {
        "object": dict, "array": list, "string": str, "number": (int, float), "integer": int, "boolean": bool,
        "null": type(None),
    }  # fmt: skip
    kind = schema.get("type")
    if kind and (
        not isinstance(value, kinds[kind]) or (isinstance(value, bool) and kind in ("integer", "number"))
    ):
        return False
    if kind == "object":
        known = schema["properties"]
        return set(schema.get("required", ())) <= set(value) <= set(known) and all(
            conforms(each, known[key], root) for key, each in value.items()
        )
    if kind == "array":
        return all(conforms(each, schema["items"], root) for each in value)
    return schema.get("minimum", -math.inf) <= value if kind in ("integer", "number") else True


def test_schema_takes_the_example_and_refuses_mistakes(pytestconfig):
    example = pytestconfig.rootpath / "examples" / "tth"
    schema = json_schema()
    job, params = (json.loads((example / f"{name}.json").read_text()) for name in ("job", "params"))
    assert conforms(job, schema, schema)
    assert conforms({**job, "params": params}, schema, schema)
    assert conforms(params, schema["$defs"]["Params"], schema)
    for wrong in ({"memmory": "3gb"}, {"device": "tpu"}, {"cpus": []}, {"gpus": 0}, {"name": None}):
        assert not conforms({**job, **wrong}, schema, schema)
    assert Request.read(example).problems == []
