"""Request ids, the log, metrics, and whether the service lives and is ready."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
from flask import Flask, Response, g, jsonify, request
from flask.testing import FlaskClient

from mlaas_condor import run, runs
from mlaas_condor.server.configuration import Configuration
from mlaas_condor.server.faults import HttpFault, reply_of
from mlaas_condor.server.identity import Identity
from mlaas_condor.server.service import EXTENSION
from mlaas_condor.server.serving import journal, metrics, observing
from mlaas_condor.settings import load

TOKEN = "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJqYW5lIn0.c2lnbmF0dXJlLW9mLXNvbWVib2R5"


class Client(FlaskClient):
    """Reads replies to their ends, as servers do."""

    def open(self, *arguments, **options):
        return super().open(*arguments, **{"buffered": True, **options})


class Login:
    """Knows two people by their names."""

    def identify(self, request):
        name = request.headers.get("Authorization", "").removeprefix("Bearer ")
        known = {"jane": Identity("jane"), "root": Identity("root", administrator=True)}
        return known.get(name)


@pytest.fixture
def home(tmp_path):
    (tmp_path / "service").mkdir()
    return tmp_path


@pytest.fixture
def pool(monkeypatch):
    """What the pool answers, and how often it was asked."""
    told = SimpleNamespace(problem="", asked=0)

    def problem(_settings):
        told.asked += 1
        return told.problem

    monkeypatch.setattr(runs, "pool_problem", problem)
    return told


def application(home, **sections):
    """Return an application with a few views, observed."""
    app = Flask("observed")
    app.test_client_class = Client
    configuration = Configuration.model_validate(sections)
    app.extensions[EXTENSION] = SimpleNamespace(
        configuration=configuration, settings=load(home=str(home)), login=Login()
    )
    observing.add_to(app)

    @app.errorhandler(HttpFault)
    def refused(error):
        return jsonify(reply_of(error, g.request_id).model_dump()), error.http_status

    @app.route("/hello/<name>", methods=["GET", "POST"])
    def hello(name):
        g.identity = Identity(name)
        return g.request_id

    @app.get("/follow")
    def follow():
        return Response(iter([b"data: 1\n\n", b"data: 2\n\n"]), mimetype="text/event-stream")

    @app.put("/api/v1/folders/<name>")
    def upload(name):
        return "", 507 if name == "full" else 201

    @app.post("/api/v1/runs")
    def submit():
        repeated = {"Idempotency-Replayed": "true"} if request.args else {}
        return "", 201, repeated

    @app.get("/fails")
    def fails():
        raise RuntimeError(f"with {TOKEN}")

    return app


@pytest.fixture
def client(home, pool):
    return application(home).test_client()


@pytest.fixture
def lines(caplog):
    """Return the lines of the log so far, as they are written."""
    caplog.set_level(logging.INFO, "mlaas_condor")

    def read():
        return [json.loads(journal.Lines().format(each)) for each in caplog.records]

    return read


def value(text, name):
    """Return the value of a metric."""
    found = [line.rpartition(" ")[2] for line in text.splitlines() if line.startswith(f"{name} ")]
    return float(found[0]) if found else 0.0


# ---- request ids and the log


def test_a_request_has_an_id_and_a_line(client, lines):
    reply = client.get(
        "/hello/jane?process_name=tth_1&code=secret", environ_base={"REMOTE_ADDR": "192.0.2.7"}
    )
    (line,) = lines()
    assert reply.headers["X-Request-ID"] == reply.text == line["request_id"]
    assert len(reply.text) == 16
    expected = {
        "level": "info", "logger": "mlaas_condor.access", "message": "GET /hello/jane 200", "owner": "jane",
        "address": "192.0.2.7", "method": "GET", "path": "/hello/jane", "status": 200, "bytes": 16,
        "query": "process_name=tth_1&code=...", "received": 0,
    }  # fmt: skip
    assert expected.items() <= line.items()
    assert line["ms"] >= 0
    assert line["time"].endswith("+00:00")


@pytest.mark.parametrize(
    ("given", "taken"),
    [
        ("0123-abcd.EF:_9", True),
        ("a" * 64, True),
        ("a" * 65, False),
        ("short", False),
        ("with a space", False),
        ('quo"te-12345', False),
        ("-begins-so", False),
    ],
)
def test_ids_that_are_given(client, given, taken):
    assert (client.get("/hello/jane", headers={"X-Request-ID": given}).text == given) == taken


def test_nothing_secret_is_in_the_log(client, lines):
    headers = {"Authorization": f"Bearer {TOKEN}", "Cookie": "session=abcdef", "X-CSRF-Token": "fedcba"}
    client.post(f"/hello/jane?access_token={TOKEN}&next=/x", data={"token": TOKEN}, headers=headers)
    assert client.get("/fails", headers=headers).status_code == 500
    text = json.dumps(lines())
    assert len(lines()) == 3
    assert "RuntimeError: with ..." in text
    for secret in (TOKEN, TOKEN.partition(".")[0], "abcdef", "fedcba"):
        assert secret not in text


@pytest.mark.parametrize(
    "message",
    [
        f"the token {TOKEN} is refused",
        "sent Authorization: Bearer 0123456789abcdef",
        "-----BEGIN RSA PRIVATE KEY-----\nMIIEpAIBAAKCAQEA\n-----END RSA PRIVATE KEY-----",
    ],
)
def test_what_a_library_quotes_is_taken_out(message):
    record = logging.makeLogRecord({"msg": message, "levelno": logging.ERROR, "levelname": "ERROR"})
    line = journal.Lines().format(record)
    json.loads(line)
    for secret in (TOKEN[:20], "0123456789abcdef", "MIIEpAIBAAKCAQEA"):
        assert secret not in line


def test_an_exception_is_part_of_its_line():
    try:
        raise ValueError("one\ntwo")
    except ValueError:
        record = logging.getLogger("x").makeRecord(
            "x", logging.ERROR, "", 0, "it %s", ("failed",), sys.exc_info()
        )
    line = journal.Lines().format(record)
    assert "\n" not in line
    assert json.loads(line)["message"] == "it failed"
    assert "ValueError: one\ntwo" in json.loads(line)["exception"]


def test_the_log_may_be_a_file_that_is_moved_away(tmp_path):
    program = (
        "import logging, logging.config, pathlib, sys; from mlaas_condor.server.serving import journal\n"
        "logging.config.dictConfig(journal.configuration(sys.argv[1]))\n"
        "log = logging.getLogger('mlaas_condor.x'); log.info('one')\n"
        "pathlib.Path(sys.argv[1]).rename(sys.argv[1] + '.1'); log.info('two', extra={'request_id': 'abc'})\n"
    )
    path = tmp_path / "log"
    subprocess.run([sys.executable, "-c", program, str(path)], check=True)
    assert json.loads((tmp_path / "log.1").read_text())["message"] == "one"
    assert json.loads(path.read_text())["request_id"] == "abc"


def test_a_path_with_control_characters_is_refused(client):
    assert client.get("/hello/a%00b").status_code == 400


# ---- lives, ready


def test_it_lives(client, lines):
    assert client.get("/healthz").json == {"status": "ok"}
    assert lines() == []


def test_it_is_ready_with_a_pool_and_half_without(home, pool):
    reply = application(home).test_client().get("/readyz")
    assert (reply.status_code, reply.json["status"], reply.json["pool"]) == (200, "ready", "answers")
    pool.problem = "no answer from /home/jane/secret"
    reply = application(home).test_client().get("/readyz")
    assert (reply.status_code, reply.json["status"], reply.json["pool"]) == (
        200,
        "degraded",
        "does not answer",
    )
    assert "secret" not in reply.text


def test_the_pool_is_not_asked_by_everybody(client, pool):
    for _ in range(5):
        client.get("/readyz")
    assert pool.asked == 1


def test_it_is_not_ready_when_its_folder_cannot_be_written(client, home):
    (home / "service").rmdir()
    reply = client.get("/readyz")
    assert (reply.status_code, reply.json["status"]) == (503, "not ready")
    assert reply.headers["Retry-After"] == "10"
    (home / "service").mkdir()
    assert client.get("/readyz").status_code == 200
    assert [*(home / "service").iterdir()] == []


# ---- metrics


def test_requests_are_counted_by_route(client):
    before = client.get("/metrics").text
    for name in ("jane", "joe", "jill"):
        client.get(f"/hello/{name}")
    client.open("/hello/jane", method="BREW")
    client.get("/nowhere/at/all")
    after = client.get("/metrics")
    assert after.content_type.startswith("text/plain; version=0.0.4")

    def more(name):
        return value(after.text, name) - value(before, name)

    route = 'method="GET",route="/hello/<name>"'
    assert more(f'mlaas_condor_requests_total{{{route},status="200"}}') == 3
    assert more(f"mlaas_condor_request_seconds_count{{{route}}}") == 3
    assert more('mlaas_condor_requests_total{method="GET",route="none",status="404"}') == 1
    assert more('mlaas_condor_requests_total{method="other",route="none",status="405"}') == 1
    assert "jane" not in after.text


def test_uploads_and_submissions_are_counted_when_they_were_taken(client):
    before = client.get("/metrics").text
    client.put("/api/v1/folders/luca", data=b"x" * 1000)
    client.put("/api/v1/folders/full", data=b"x" * 1000)
    client.post("/api/v1/runs")
    client.post("/api/v1/runs?again=1")
    after = client.get("/metrics").text
    for name, number in (("uploaded_bytes", 1000), ("submissions", 1)):
        name = f"mlaas_condor_{name}_total"
        assert value(after, name) - value(before, name) == number


def test_followers_are_those_of_now(client):
    before = value(client.get("/metrics").text, "mlaas_condor_followers")  # of other tests in this process
    with client.get("/follow", buffered=False) as reply:
        assert value(client.get("/metrics").text, "mlaas_condor_followers") == before + 1
        assert reply.data == b"data: 1\n\ndata: 2\n\n"
    text = client.get("/metrics").text
    assert value(text, "mlaas_condor_followers") == before
    assert 'request_seconds_count{method="GET",route="/follow"}' not in text


def test_runs_and_the_pool_are_shown(client, home, pool, monkeypatch):
    states = {"a_1": "running", "a_2": "held", "b_1": "running"}
    for name in states:
        (home / "users" / name[0] / "runs" / name).mkdir(parents=True)
    monkeypatch.setattr(run, "list_folders", lambda path: sorted(path.iterdir()))
    seen = SimpleNamespace(of=lambda found: [SimpleNamespace(state=states[each.name]) for each in found])
    monkeypatch.setattr(observing.viewing, "viewing", lambda: SimpleNamespace(states=seen))
    text = client.get("/metrics").text
    assert value(text, 'mlaas_condor_runs{state="running"}') == 2
    assert value(text, 'mlaas_condor_runs{state="held"}') == 1
    assert value(text, 'mlaas_condor_runs{state="completed"}') == 0
    assert value(text, "mlaas_condor_pool_up") == 1


def test_metrics_are_not_for_everybody(home, pool, tmp_path):
    (tmp_path / "token").write_text("a-token-of-prometheus\n")
    proxy = {"addresses": ["127.0.0.1"]}
    app = application(
        home,
        service={"metrics_token_file": tmp_path / "token"},
        login={"method": "proxy", "proxy": proxy},
    )

    def status(given):
        headers = {"Authorization": f"Bearer {given}"} if given else {}
        return app.test_client().get("/metrics", headers=headers).status_code

    assert [status(each) for each in ("", "jane", "root", "a-token-of-prometheus", "a-token")] == [
        401, 403, 200, 200, 401,
    ]  # fmt: skip


def test_what_several_processes_count_is_added_up(tmp_path):
    """Two count and end, one is killed while it follows; the fourth adds up, and so it does again."""
    program = (
        "import os, signal, sys; from mlaas_condor.server.serving import metrics\n"
        "metrics.count_request('GET', '/x', 200, 0.1); metrics.count_follower(1)\n"
        "if sys.argv[1:]: os.kill(os.getpid(), signal.SIGKILL)\n"
        "metrics.count_follower(-1)\n"
    )
    environment = {**os.environ, metrics.FOLDER: str(tmp_path)}

    def start(*arguments):
        return subprocess.run(
            [sys.executable, "-c", *arguments], env=environment, capture_output=True, text=True
        )

    for arguments in ((), (), ("killed",)):
        start(program, *arguments)
    (tmp_path / "counter_1234567.db").touch()  # of one that was killed before it wrote
    show = "from mlaas_condor.server.serving import metrics; print(metrics.render({}, False).decode())"
    for _ in range(2):
        text = start(show).stdout
        assert value(text, 'mlaas_condor_requests_total{method="GET",route="/x",status="200"}') == 3
        assert value(text, "mlaas_condor_followers") == 0
        assert value(text, "mlaas_condor_pool_up") == 0


def test_runs_are_counted_behind_the_back_of_who_asks(monkeypatch):
    counted = metrics.Runs(lambda: {"running": 7})
    assert counted.numbers() == {"running": 7}

    def fails():
        raise AssertionError("asked again at once")

    counted._count = fails
    assert counted.numbers() == {"running": 7}
