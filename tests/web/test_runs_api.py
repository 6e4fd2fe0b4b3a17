"""``/api/v1/runs``: who sees what, how it is listed, what can be fetched, and what is said when it cannot."""

from __future__ import annotations

import json
import os
import shutil

import pytest
from web_tools import audit_of, make_alive, record

from mlaas_condor.run import STAGES

JANE, LUCA = "jane", "Luca Rossi"


@pytest.fixture
def jane(user):
    return user(JANE)


@pytest.fixture
def luca(user):
    return user(LUCA, groups=["/cms/higgs"])


@pytest.fixture
def run(shared_app):
    """A run of Jane's that is completed, with a model and a report."""
    folder = record(shared_app, "completed_1", JANE)
    folder.report.write_text("<!DOCTYPE html><title>report</title>")
    return folder


def error_of(response, status, code):
    """Check that it is an error in the shape of all errors; give what it says."""
    assert response.status_code == status, response.text
    told = response.json
    assert set(told) == {"error", "code", "status", "problems", "request_id", "service"}
    assert (told["status"], told["code"]) == (status, code)
    assert told["request_id"] == response.headers["X-Request-ID"]
    return told["error"]


def test_lists_have_the_newest_first_and_come_in_parts(shared_app, jane):
    for number in range(1, 6):
        folder = record(shared_app, "failed_1", JANE, f"tth_{number}")
        os.utime(folder.dag, (number, number))
    found = jane.get("/api/v1/runs?limit=2&offset=1").json
    assert [each["name"] for each in found["runs"]] == ["tth_4", "tth_3"]
    assert (found["total"], found["limit"], found["offset"]) == (5, 2, 1)
    assert jane.get("/api/v1/runs?offset=5").json["runs"] == []


def test_lists_can_be_narrowed(shared_app, jane):
    record(shared_app, "completed_1", JANE, folder="one")
    record(shared_app, "failed_1", JANE, folder="two")
    record(shared_app, "cancelled_1", JANE, folder="two")

    def names(query):
        return {each["name"] for each in jane.get(f"/api/v1/runs?{query}").json["runs"]}

    assert names("") == {"completed_1", "failed_1", "cancelled_1"}
    assert names("state=failed") == {"failed_1"}
    assert names("state=failed&state=completed") == {"failed_1", "completed_1"}
    assert names("name=ca") == {"cancelled_1"}
    assert names("folder=two") == {"failed_1", "cancelled_1"}
    assert names("folder=two&state=cancelled") == {"cancelled_1"}


def test_nobody_sees_the_runs_of_others(run, jane, luca):
    assert [each["name"] for each in jane.get("/api/v1/runs").json["runs"]] == ["completed_1"]
    assert luca.get("/api/v1/runs").json["runs"] == []
    assert luca.get("/api/v1/runs?shared=true").json["runs"] == []
    assert luca.get(f"/api/v1/runs?owner={JANE}").json["runs"] == []


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", ""), ("GET", "/status"), ("GET", "/logs"), ("GET", "/events"), ("GET", "/metrics"),
        ("GET", "/history"), ("GET", "/plan"), ("GET", "/request"), ("GET", "/report"), ("GET", "/model"),
        ("GET", "/status?follow=true"), ("GET", "/logs?follow=true"),
        ("DELETE", ""), ("PATCH", ""), ("POST", "/cancel"), ("POST", "/resume"),
    ],
)  # fmt: skip
def test_anothers_run_is_as_if_it_were_not_there(run, luca, method, path):
    path, _, query = path.partition("?")
    body = {"json": {"readers": ["/cms/higgs"]}} if method == "PATCH" else {}
    theirs = luca.open(f"/api/v1/runs/completed_1{path}?owner={JANE}&{query}", method=method, **body)
    nobodys = luca.open(f"/api/v1/runs/completed_1{path}?owner=nobody&{query}", method=method, **body)
    said = error_of(theirs, 404, "run_not_found")
    assert said == error_of(nobodys, 404, "run_not_found") == "no run 'completed_1'"
    assert run.dag.exists()


def test_ones_own_is_hinted_at(run, jane):
    said = error_of(jane.get("/api/v1/runs/complete_1"), 404, "run_not_found")
    assert "did you mean 'completed_1'" in said


@pytest.mark.parametrize("name", ["..", ".names", "%2e%2e%2f%2e%2e", "a%00b", "x" * 300, "%F0%9F%98%80"])
def test_names_lead_nowhere_else(run, jane, name):
    assert jane.get(f"/api/v1/runs/{name}").status_code in (400, 404)
    assert jane.get(f"/api/v1/runs/completed_1?owner={name}").status_code in (400, 404)


def test_a_group_that_may_read_cannot_change(shared_app, run, jane, luca):
    shared = jane.patch("/api/v1/runs/completed_1", json={"readers": ["/cms/higgs"]})
    assert shared.json["readers"] == ["/cms/higgs"]
    found = luca.get(f"/api/v1/runs/completed_1?owner={JANE}").json
    assert (found["owner"], found["state"], found["may"]) == (JANE, "completed", [])
    assert [each["name"] for each in luca.get("/api/v1/runs?shared=true").json["runs"]] == ["completed_1"]
    assert [each["name"] for each in luca.get(f"/api/v1/runs?owner={JANE}").json["runs"]] == ["completed_1"]
    for method, path in (("DELETE", ""), ("PATCH", ""), ("POST", "/cancel"), ("POST", "/resume")):
        refused = luca.open(
            f"/api/v1/runs/completed_1{path}?owner={JANE}", method=method, json={"readers": []}
        )
        assert "shared with you to read" in error_of(refused, 403, "forbidden")
    refused = [line for line in audit_of(shared_app) if line.get("refused")]
    assert [(line["who"], line["action"], line["refused"]) for line in refused] == [
        (LUCA, action, "forbidden") for action in ("delete", "share", "cancel", "resume")
    ]


def test_a_group_that_may_write_cannot_hand_it_on(run, jane, luca):
    jane.patch("/api/v1/runs/completed_1", json={"writers": ["/cms/higgs"]})
    assert luca.get(f"/api/v1/runs/completed_1?owner={JANE}").json["may"] == ["delete"]
    refused = luca.patch(f"/api/v1/runs/completed_1?owner={JANE}", json={"readers": ["/cms/all"]})
    assert "only its owner" in error_of(refused, 403, "forbidden")


def test_sharing_changes_what_it_names(shared_app, run, jane):
    jane.patch("/api/v1/runs/completed_1", json={"readers": ["/a"], "writers": ["/b"]})
    jane.patch("/api/v1/runs/completed_1", json={"readers": []})
    found = jane.get("/api/v1/runs/completed_1").json
    assert (found["readers"], found["writers"]) == ([], ["/b"])
    assert [line["readers"] for line in audit_of(shared_app)] == [["/a"], []]
    assert "readers" in error_of(
        jane.patch("/api/v1/runs/completed_1", json={"readers": "/a"}), 400, "request_error"
    )
    assert "reader:" in error_of(
        jane.patch("/api/v1/runs/completed_1", json={"reader": []}), 400, "request_error"
    )


def test_an_administrator_sees_all(run, user):
    boss = user("boss", groups=["/cms/operators"])
    assert [each["owner"] for each in boss.get("/api/v1/runs?shared=true").json["runs"]] == [JANE]
    assert boss.get(f"/api/v1/runs/completed_1?owner={JANE}").json["may"] == ["delete", "share"]


@pytest.mark.parametrize(
    ("scope", "method", "path"),
    [
        ("compute.read", "POST", "/runs/completed_1/cancel"),
        ("compute.read", "POST", "/runs/completed_1/resume"),
        ("compute.read", "DELETE", "/runs/completed_1"),
        ("compute.read", "PATCH", "/runs/completed_1"),
        ("compute.read", "PUT", "/folders/tth"),
        ("compute.create", "GET", "/runs"),
        ("compute.create", "GET", "/runs/completed_1"),
        ("compute.create", "GET", "/folders"),
    ],
)
def test_a_token_allows_what_its_scopes_say(run, user, scope, method, path):
    refused = user(JANE, scope=scope).open(f"/api/v1{path}", method=method, json={"readers": []})
    assert "this needs a token with the scope compute." in error_of(refused, 403, "forbidden")


def test_without_a_token_nothing_is_told(shared_app, run):
    stranger = shared_app.test_client()
    for path in ("/api/v1/runs", "/api/v1/runs/completed_1", "/openapi.json", "/api/v1/me", "/hello"):
        response = stranger.get(path)
        error_of(response, 401, "unauthorized")
        assert response.headers["WWW-Authenticate"].startswith("Bearer")


def test_a_run_is_told_as_on_the_command_line(run, jane):
    found = jane.get("/api/v1/runs/completed_1").json
    assert found == {**jane.get("/api/v1/runs/completed_1/status").json, "elapsed": found["elapsed"]}
    assert (found["name"], found["state"], found["where"]) == ("completed_1", "completed", "pool")
    assert [(each["stage"], each["state"]) for each in found["stages"]] == [
        (stage, "done") for stage in ("specs", "merge", "preprocess", "train", "report")
    ]
    assert (found["done"], found["tasks"], found["stage"]) == (7, 7, None)
    assert (found["bundle"], found["folder"], found["may"]) == (
        "completed_1.tar.gz",
        "tth",
        ["delete", "share"],
    )


def test_a_failure_says_why_and_what_to_do(shared_app, jane):
    record(shared_app, "failed_1", JANE)
    found = jane.get("/api/v1/runs/failed_1").json
    assert found["failures"] == [
        {
            "stage": "train",
            "task": 0,
            "reason": "model.py:8: RuntimeError: no such layer",
            "advice": found["failures"][0]["advice"],
        }
    ]
    assert found["failures"][0]["advice"].startswith("correct the model file")
    assert found["may"] == ["resume", "delete", "share"]


def test_no_reply_says_where_the_service_keeps_things(shared_app, run, jane):
    home = str(shared_app.extensions["mlaas_condor"].settings.home)
    version = f"{home}/users/{JANE}/versions/{'0' * 64}"
    run.plan.write_text(json.dumps({"file": f"{version}/data/ttH.root", "folder": str(run.path)}))
    run.request.write_text(
        json.dumps(
            {"job": {"files": [f"{version}/a.root"], "x509_proxy": f"{home}/service/proxies/x"}, "params": {}}
        )
    )
    make_alive(record(shared_app, "completed_1", JANE, "alive_1"))
    run.stdout("train", 0).write_text(f"reading {version}/data/ttH.root\n")
    for name in ("completed_1", "alive_1"):
        for part in (
            "",
            "/status",
            "/logs",
            "/events",
            "/metrics",
            "/plan",
            "/request",
            "/report",
            "/history",
        ):
            response = jane.get(f"/api/v1/runs/{name}{part}")
            assert home not in response.text, part
    assert jane.get("/api/v1/runs/completed_1/plan").json["file"] == "data/ttH.root"
    assert jane.get("/api/v1/runs/completed_1/request").json["job"]["files"] == ["a.root"]
    assert jane.get("/api/v1/runs/completed_1/logs?stage=train").text == "reading data/ttH.root\n"


def test_without_a_pool_what_is_on_disk_is_told(shared_app, jane):
    make_alive(record(shared_app, "completed_1", JANE, "alive_1"))
    found = jane.get("/api/v1/runs/alive_1").json
    assert found["state"] == "running"
    assert "does not answer" in found["unreachable"]
    assert jane.get("/api/v1/runs").json["runs"][0]["state"] == "running"
    assert jane.get("/api/v1/runs/alive_1/events").status_code == 200


def test_a_model_comes_whole_or_in_parts(run, jane):
    content = os.urandom(1000)
    # With its mark, or it would not count as there.
    run.bundle.write_bytes(content)
    mark = run.output("report") / "00000.ok"
    lines = [line for line in mark.read_text().splitlines() if not line.endswith(run.bundle.name)]
    mark.write_text("\n".join([*lines, f"1000 {run.bundle.name}"]) + "\n")
    os.utime(run.output("report"))
    whole = jane.get("/api/v1/runs/completed_1/model")
    assert (whole.status_code, whole.data, whole.mimetype) == (200, content, "application/gzip")
    assert whole.headers["Content-Disposition"] == "attachment; filename=completed_1.tar.gz"
    assert whole.headers["Accept-Ranges"] == "bytes"
    tag = whole.headers["ETag"]
    assert tag.startswith('"')

    def part(**headers):
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return jane.get("/api/v1/runs/completed_1/model", headers=named)

    rest = part(Range="bytes=400-", If_Range=tag)
    assert (rest.status_code, rest.data) == (206, content[400:])
    assert rest.headers["Content-Range"] == "bytes 400-999/1000"
    assert part(Range="bytes=400-", If_Range='"of-another"').data == content
    assert part(Range="bytes=2000-").status_code == 416
    assert part(If_None_Match=tag).status_code == 304
    asked = jane.head("/api/v1/runs/completed_1/model")
    assert (asked.headers["Content-Length"], asked.data) == ("1000", b"")


def test_a_report_can_do_nothing_but_be_looked_at(run, jane):
    page = jane.get("/api/v1/runs/completed_1/report")
    assert (page.status_code, page.mimetype) == (200, "text/html")
    policy = page.headers["Content-Security-Policy"]
    assert "sandbox" in policy
    assert "default-src 'none'" in policy
    assert "allow-" not in policy
    assert page.headers["X-Content-Type-Options"] == "nosniff"


@pytest.mark.parametrize("part", ["metrics", "report", "model"])
def test_what_is_not_there_yet_says_why(shared_app, jane, part):
    make_alive(record(shared_app, "completed_1", JANE, "alive_1"))
    said = error_of(jane.get(f"/api/v1/runs/alive_1/{part}"), 409, "wrong_state")
    assert said == f"alive_1 has no {part}: it is running; see `mlaas-condor status alive_1`"


def test_figures(run, jane):
    assert jane.get("/api/v1/runs/completed_1/metrics").json["test"]["auc"] > 0.5
    history = jane.get("/api/v1/runs/completed_1/history").json["history"]
    assert [each["epoch"] for each in history] == [*range(1, 13)]
    assert [each["stage"] for each in jane.get("/api/v1/runs/completed_1/plan").json["stages"]] == [*STAGES]
    assert jane.get("/api/v1/runs/completed_1/request").status_code == 404


def test_events_are_listed_in_parts(run, jane):
    every = jane.get("/api/v1/runs/completed_1/events").json
    assert every["total"] == len(every["events"])
    assert every["events"][0]["stage"] == "dagman"
    part = jane.get("/api/v1/runs/completed_1/events?limit=3&offset=2").json
    assert part["events"] == every["events"][2:5]
    trains = jane.get("/api/v1/runs/completed_1/events?stage=train").json["events"]
    assert {each["kind"] for each in trains} >= {"submit", "execute", "job_terminated"}
    assert {each["stage"] for each in trains} == {"train"}


def test_logs_go_on_where_the_last_reply_ended(run, jane):
    said = run.stdout("train", 0)
    said.write_text("épée\n")

    def read(**query):
        words = "&".join(f"{name}={value}" for name, value in {"stage": "train", **query}.items())
        return jane.get(f"/api/v1/runs/completed_1/logs?{words}")

    first = read()
    assert (first.text, first.mimetype, first.headers["X-Log-Task"]) == ("épée\n", "text/plain", "train.0")
    offset = first.headers["X-Next-Offset"]
    assert offset == first.headers["X-Log-Size"] == "7"
    assert read(offset=offset).text == ""
    with said.open("a") as file:
        file.write("more\n")
    more = read(offset=offset)
    assert (more.text, more.headers["X-Next-Offset"]) == ("more\n", "12")
    said.write_text("anew\n")
    anew = read(offset=12)
    assert (anew.text, anew.headers["X-Next-Offset"]) == ("anew\n", "5")


def test_logs_of_a_task(run, jane):
    run.stdout("preprocess", 1).write_text("out\n")
    run.stderr("preprocess", 1).write_text("err\n")
    both = jane.get("/api/v1/runs/completed_1/logs?stage=preprocess&task=1&stream=both")
    assert both.text == "out\nerr\n"
    only = jane.get("/api/v1/runs/completed_1/logs?stage=preprocess&task=1&stream=stderr")
    assert only.text == "err\n"
    said = error_of(jane.get("/api/v1/runs/completed_1/logs?stage=preprocess&task=9"), 404, "not_found")
    assert "has no task 9, they go from 0 to 1" in said
    error_of(jane.get("/api/v1/runs/completed_1/logs?stage=nothing"), 400, "request_error")
    error_of(jane.get("/api/v1/runs/completed_1/logs?stream=both&offset=3"), 400, "bad_request")


def test_everything_that_is_wrong_is_told_at_once(jane):
    response = jane.get("/api/v1/runs?limit=0&offset=-1&stat=failed&state=lost")
    error_of(response, 400, "request_error")
    assert {each["where"].partition(".")[0] for each in response.json["problems"]} == {
        "limit", "offset", "stat", "state",
    }  # fmt: skip


def test_methods_that_are_not_known(jane):
    response = jane.put("/api/v1/runs")
    error_of(response, 405, "method_not_allowed")
    assert set(response.headers["Allow"].split(", ")) >= {"GET", "POST"}
    error_of(jane.get("/api/v1/nothing"), 404, "not_found")


def test_a_run_that_is_over_is_not_cancelled(shared_app, run, jane):
    said = error_of(jane.post("/api/v1/runs/completed_1/cancel"), 409, "wrong_state")
    assert "there is nothing to cancel" in said
    (line,) = audit_of(shared_app)
    assert (line["who"], line["action"], line["what"], line["refused"]) == (
        JANE, "cancel", "run completed_1", "wrong_state",
    )  # fmt: skip


def test_a_run_is_deleted(shared_app, run, jane):
    assert jane.delete("/api/v1/runs/completed_1").status_code == 204
    assert not run.path.exists()
    error_of(jane.get("/api/v1/runs/completed_1"), 404, "run_not_found")
    assert [line["action"] for line in audit_of(shared_app)] == ["delete"]


def test_what_one_is(shared_app, jane, user):
    found = jane.get("/api/v1/me").json
    assert (found["owner"], found["name"], found["administrator"], found["actions"]) == (
        JANE,
        "Jane",
        False,
        None,
    )
    assert found["limits"]["running_runs"] == 20
    assert len(found["csrf"]) == 64
    reader = user(LUCA, scope="compute.read compute.cancel", groups=["/cms"]).get("/api/v1/me").json
    assert (reader["actions"], reader["groups"]) == (["cancel", "read"], ["/cms"])


def test_a_run_that_is_being_deleted_spoils_no_list(shared_app, run, jane):
    other = record(shared_app, "failed_1", JANE)
    assert jane.get("/api/v1/runs").json["total"] == 2
    shutil.rmtree(other.path / "logs")
    other.path.rename(other.path.with_name(".failed_1.1234"))
    assert [each["name"] for each in jane.get("/api/v1/runs").json["runs"]] == ["completed_1"]
