"""The calls of MLaaS4HEP_server: every line of its documents runs as it was typed, and what else they do."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import subprocess
import tarfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import issuers
import pytest
from example_tools import copy_example, edit
from pool_tools import personal_pool
from service_tools import served
from web_tools import audit_of, events_of, make_alive, record

from mlaas_condor.server import docker_words
from mlaas_condor.state import RunState, StageState

SEEDS = Path(__file__).parents[3] / "shared" / "seeds"
ADDRESS = re.compile(r"https?://[^/\s]+")
OLD_SERVER = re.compile(r"https?://[^/\s]+:(8080|4433|4180)/")

# As its documents have them. First a server on one's own machine, then one behind OAuth2-Proxy.
LOCAL = """\
curl -F "file=@folder_to_upload.tar.gz" http://localhost:8080/upload?name=luca
curl -H "Content-Type: application/json" -d @input_new.json http://localhost:8080/submit
curl http://localhost:8080/status_docker?process_name=luca_1
curl -L -o logs.txt http://localhost:8080/logs?process_name=luca_1
curl -L -o luca_1.tar.gz http://localhost:8080/model?process_name=luca_1
curl http://localhost:8080/delete_specs?name=luca
curl -H "Content-Type: application/json" -d @input.json http://localhost:8080/submit
curl 'http://localhost:8080/logs?process_name=luca_1&log_file=logs.txt'
curl http://localhost:8080/delete_folder?name=luca
"""
DEMO = """\
curl -L -k -H "Authorization: Bearer ${TOKEN_MLAAS}" -F "file=@folder_to_upload.tar.gz" https://90.147.174.27:4433/upload?name=luca
curl -L -k -H "Authorization: Bearer ${TOKEN_MLAAS}" -H "Content-Type: application/json" -d @submit.json https://90.147.174.27:4433/submit
curl -L -k -H "Authorization: Bearer ${TOKEN_MLAAS}" https://90.147.174.27:4433/status_docker?process_name=luca_1
curl -L -k -H "Authorization: Bearer ${TOKEN_MLAAS}" -o logs.txt https://90.147.174.27:4433/logs?process_name=luca_1
curl -L -k -H "Authorization: Bearer ${TOKEN_MLAAS}" -o luca_1.tar.gz https://90.147.174.27:4433/model?process_name=luca_1
curl -L -k -H "Authorization: Bearer ${TOKEN_MLAAS}" https://90.147.174.27:4433/delete_specs?name=luca
curl -L -k -H "Authorization: Bearer ${TOKEN_MLAAS}" -H "Content-Type: application/json" -d @submit_remote.json https://90.147.174.27:4433/submit
curl -L -k -H "Authorization: Bearer ${TOKEN_MLAAS}" -o logs_remote.txt https://90.147.174.27:4433/logs?process_name=luca_2
curl -L -k -H "Authorization: Bearer ${TOKEN_MLAAS}" -H "Content-Type: application/json" -d @input_new.json https://90.147.174.27:4433/submit
curl -L -k -H 'Content-Type: application/json' -H "Authorization: Bearer ${TOKEN}" -d @input.json http://localhost:4180/submit
curl -L -k -H "Authorization: Bearer ${TOKEN_MLAAS}" https://90.147.174.27:4433/delete_folder?name=luca
"""  # noqa: E501
REPLIES = {
    "/upload": r"Successfully uploaded!",
    "/submit": r'\{\n "process_name": "luca_\d",\n "job_id": \d+\n\}',
    "/status_docker": r'\{\n "process_name": "luca_1",\n "status": "(Created|Up .+|Exited \(0\) .+ ago)"\n\}',
    "/delete_specs": r"Specs deletion completed!",
    "/delete_folder": r"Folder deletion completed!",
}
MODEL = '''\
"""A model that is trained in a moment."""
from sklearn.linear_model import LogisticRegression


def model():
    return LogisticRegression(max_iter=200)
'''


def without_place(line):
    """Return a line without what differs: the server, and how the variable with the token is called."""
    return ADDRESS.sub("SERVER", line).replace("TOKEN_MLAAS", "TOKEN")


def in_seeds():
    """Yield the lines for the old server in its documents; one that is broken there is put together."""
    for path in sorted(SEEDS.glob("*.txt")):
        text = path.read_text().replace("’", "'")
        for found in re.finditer(r"^(?: - `)?(curl .*?https?://[^\n`]*)", text, re.MULTILINE | re.DOTALL):
            line = " ".join(found[1].split())
            if OLD_SERVER.search(line):
                yield line


@pytest.mark.skipif(not SEEDS.is_dir(), reason="the documents are not beside this checkout")
def test_every_line_of_the_documents_is_among_those_that_run_here():
    known = {without_place(line) for story in (LOCAL, DEMO) for line in story.splitlines()}
    seen = {without_place(line) for line in in_seeds()}
    assert len(seen) > 10
    assert seen <= known


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where somebody types: the archive and the job files."""
    parent = tmp_path_factory.mktemp("typed")
    request = copy_example(parent, nevts=2000, chunk_size=1000)
    (request / "data").unlink()
    shutil.copytree(Path(__file__).parents[2] / "examples" / "tth" / "data", request / "data")
    (request / "ex_keras_model.py").write_text(MODEL)
    (request / "model.py").unlink()
    edit(request, "job.json", name="luca", model="ex_keras_model.py", cpus="1", memory="1gb")
    for name in ("submit", "input_new", "input", "submit_remote"):
        shutil.copy(request / "job.json", parent / f"{name}.json")
    packed = request.rename(parent / "folder_to_upload")
    subprocess.run(["tar", "-czf", f"{packed}.tar.gz", "-C", parent, packed.name], check=True)
    return parent


@pytest.fixture(scope="module")
def places():
    """A pool with two services on it: one for the account that runs it, one that wants tokens."""
    with personal_pool(cpus=4) as home, issuers.running() as issuer:
        lines = ["[service]", "port = 0", "[login]", 'method = "tokens"', "[login.tokens]"]
        named = [f'issuer = "{issuer.url}"', f'audience = ["{issuers.AUDIENCE}"]']
        (home / "other").mkdir()
        # Two services have one home, as two workers do.
        own = f'home = "{home}"\n[service]\nport = 0\n'
        with served(home, "\n".join([*lines, *named])) as asking, served(home / "other", own) as trusting:
            yield asking.url, trusting.url, issuer


class Typed:
    """Somebody who types lines of the documents, in a folder of their own."""

    def __init__(self, folder, to, url, token="", follows=False):
        self.follows, self.followed = follows, []
        self.folder = to
        self.url = url
        self.header = '-H "Authorization: Bearer ${TOKEN}" ' if token else ""
        self.environment = {**os.environ, "TOKEN": token, "TOKEN_MLAAS": token}
        shutil.copytree(folder, to, ignore=shutil.ignore_patterns("folder_to_upload"))

    def type(self, line):
        """Run a line, with the server replaced; give what it prints."""
        command = ADDRESS.sub(self.url, line).replace("curl ", "curl -sS ", 1)
        done = subprocess.run(
            ["bash", "-c", command], cwd=self.folder, env=self.environment, capture_output=True, text=True
        )
        assert done.returncode == 0, (line, done.stderr)
        return done.stdout

    def tell(self, story):
        """Run lines in their order, each checked; before a log is fetched its run has ended."""
        for line in story.splitlines():
            call = re.search(r"/\w+", ADDRESS.sub("", line))[0] if "'" not in line[-2:] else "/logs"
            if call == "/logs" and "luca_1" in line:
                self.wait("luca_1")
            said = self.type(line)
            if call in REPLIES:
                assert re.fullmatch(REPLIES[call], said), (line, said)
            if call == "/submit" and "input" in line and "luca_1" not in said:
                self.cancel(json.loads(said)["process_name"])  # of no use to what follows
            if call == "/logs" and "luca_1" in line:
                log = said or (self.folder / "logs.txt").read_text()
                assert "=== train, task 0" in log
                assert "=== report, task 0" in log
            if call == "/model":
                with tarfile.open(self.folder / "luca_1.tar.gz") as bundle:
                    names = {name.removeprefix("./") for name in bundle.getnames()}
                assert "params.json" in names

    def cancel(self, name):
        """Take a run off the queue."""
        told = json.loads(self.type(f"curl {self.header}-X POST {self.url}/api/v1/runs/{name}/cancel"))
        assert told["name"] == name

    def follow(self, name, what):
        """Return the events of a reply that goes on, to its end."""
        events, last = [], ""
        while last != "end":
            address = f"{self.url}/api/v1/runs/{name}/{what}?follow=true"
            said = self.type(f'curl {self.header}-N -H "Last-Event-ID: {last}" "{address}"')
            events += events_of([said.encode()])
            last = events[-1][2]
        return events

    def wait(self, name):
        """Wait until a run has ended, and well."""
        if self.follows and not self.followed:
            self.followed = self.follow(name, "logs")
        deadline = time.monotonic() + 300
        while True:
            told = json.loads(self.type(f"curl {self.header}{self.url}/status_docker?process_name={name}"))
            if told["status"].startswith("Exited"):
                assert told["status"].startswith("Exited (0) "), told
                return
            assert told["status"].startswith(("Created", "Up ")), told
            assert time.monotonic() < deadline, told
            time.sleep(0.5)


@pytest.mark.skipif(shutil.which("curl") is None, reason="no curl on this machine")
def test_the_lines_of_the_documents_run_as_typed(places, folder, tmp_path):
    asking, trusting, issuer = places
    local = Typed(folder, tmp_path / "local", trusting, follows=True)
    demo = Typed(folder, tmp_path / "demo", asking, issuer.token("luca"))
    with ThreadPoolExecutor(2) as threads:
        told = [threads.submit(local.tell, LOCAL), threads.submit(demo.tell, DEMO)]
        for each in told:
            each.result()
    demo.cancel("luca_2")
    # Whoever follows a run hears all of it, to its end.
    kinds = [kind for kind, _, _ in local.followed]
    assert {"task", "log", "end"} <= set(kinds)
    assert local.follow("luca_1", "status")[-2][1]["state"] == "completed"


@pytest.mark.skipif(shutil.which("curl") is None, reason="no curl on this machine")
def test_a_run_is_submitted_once_cancelled_resumed_and_deleted(places, folder, tmp_path):
    asking, _, issuer = places
    typed = Typed(folder, tmp_path / "typed", asking, issuer.token("mia"))

    def call(method, path, *more):
        options = " ".join([typed.header, "-X", method, "-i", *more])
        head, _, body = typed.type(f'curl {options} "{asking}/api/v1/{path}"').rpartition("\n\n")
        return int(re.findall(r"^HTTP/\S+ (\d+)", head, re.MULTILINE)[-1]), head, json.loads(body or "{}")

    call("PUT", "folders/luca", "-T folder_to_upload.tar.gz")
    sent = ("-H 'Content-Type: application/json'", "-H 'Idempotency-Key: once'", "-d @submit.json")
    first, again = call("POST", "runs", *sent), call("POST", "runs", *sent)
    assert (first[0], again[0]) == (201, 201)
    assert (first[2]["name"], first[2]["repeated"], again[2]["repeated"]) == ("luca_1", False, True)
    assert first[2]["job_id"] == again[2]["job_id"] > 0
    assert re.search("^location: /api/v1/runs/luca_1", first[1], re.MULTILINE | re.IGNORECASE)
    assert re.search("^idempotency-replayed: true", again[1], re.MULTILINE | re.IGNORECASE)
    assert call("POST", "runs?folder=luca", *sent[:2], "-d '{}'")[0] == 422
    assert call("GET", "runs")[2]["total"] == 1
    assert call("DELETE", "runs/luca_1")[0] == 409  # it is not over
    assert call("POST", "runs/luca_1/cancel")[0] == 200
    while call("GET", "runs/luca_1")[2]["state"] != "cancelled":
        time.sleep(0.3)
    assert call("POST", "runs/luca_1/resume")[2]["done"].startswith("submitted as cluster")
    # The process that answers may have looked a second ago.
    while (state := call("GET", "runs/luca_1")[2]["state"]) == "cancelled":
        time.sleep(0.3)
    assert state in ("idle", "running")
    assert call("POST", "runs/luca_1/cancel")[0] == 200
    while call("DELETE", "runs/luca_1")[0] != 204:
        time.sleep(0.3)
    assert call("GET", "runs/luca_1")[0] == 404


def packed(**files):
    """Return an archive of a folder."""
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w:gz") as tar:
        for name, text in files.items():
            info = tarfile.TarInfo(f"folder/{name.replace('__', '.')}")
            info.size = len(text)
            tar.addfile(info, io.BytesIO(text.encode()))
    content.seek(0)
    return content


@pytest.fixture
def me(app, client):
    """The owner of what the one user has."""
    return client.get("/api/v1/me").json["owner"]


def upload(client, name="luca", **files):
    files = files or {"job__json": "{}"}
    return client.post(f"/upload?name={name}", data={"file": (packed(**files), "folder_to_upload.tar.gz")})


def test_hello(client):
    assert client.get("/hello").text == "Hello World"


def test_an_upload_is_a_folder_and_another_replaces_it(client):
    assert upload(client, a__txt="1").text == "Successfully uploaded!"
    assert upload(client, b__txt="22").text == "Successfully uploaded!"
    files = client.get("/api/v1/folders/luca/files").json["files"]
    assert [(each["path"], each["bytes"]) for each in files] == [("b.txt", 2)]


NAMED = [("POST", "/upload")] + [
    (method, path) for method in ("GET", "DELETE") for path in ("/delete_specs", "/delete_folder")
]
ON_RUNS = [("GET", path) for path in ("/status", "/status_docker", "/logs", "/model")]


@pytest.mark.parametrize(
    ("method", "path", "missing"),
    [
        *((*each, "name") for each in NAMED),
        *((*each, "process_name") for each in (*ON_RUNS, ("POST", "/logs"), ("POST", "/setup_tfaas"))),
    ],
)
def test_a_parameter_that_is_missing_is_named(client, method, path, missing):
    response = client.open(path, method=method)
    assert response.status_code == 400
    assert response.json["error"] == f"{missing}: is missing"


def test_what_cannot_be_submitted_says_why(client):
    assert client.post("/submit", data="{}").status_code == 415
    assert client.post("/submit", json=[1]).status_code == 400
    nameless = client.post("/submit", json={}).json["error"]
    assert nameless == 'which uploaded folder? give "name" in job.json, or ?folder='
    assert client.post("/submit", json={"name": "luca"}).json["error"] == "no folder 'luca': upload one first"
    broken = client.post("/submit", data='{"name": ', content_type="application/json")
    assert (broken.status_code, broken.json["error"][:21]) == (400, "job.json is no JSON: ")
    large = client.post("/submit", data=b"[" * (2**20 + 1), content_type="application/json")
    assert large.status_code == 413
    upload(client)
    wrong = client.post("/api/v1/plans", json={"name": "luca", "modle": "m.py"})
    assert wrong.status_code == 400
    assert any("modle" in each["what"] for each in wrong.json["problems"])


def test_without_a_pool_nothing_is_submitted(client, request_folder):
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w:gz") as tar:
        tar.add(request_folder, "request")
    content.seek(0)
    client.post("/upload?name=tiny", data={"file": (content, "tiny.tar.gz")})
    later = client.post("/submit", json=json.loads((request_folder / "job.json").read_text()))
    assert (later.status_code, later.json["code"]) == (503, "pool_unreachable")
    assert int(later.headers["Retry-After"]) > 0
    assert client.get("/api/v1/runs").json["total"] == 0


@pytest.mark.parametrize("method", ["GET", "DELETE"])
def test_what_is_deleted_is_gone(app, client, method):
    upload(client)
    assert client.open("/delete_specs?name=luca", method=method).text == "Specs deletion completed!"
    assert client.open("/delete_folder?name=luca", method=method).text == "Folder deletion completed!"
    assert client.open("/delete_folder?name=luca", method=method).status_code == 404
    lines = [(line["action"], line["what"], line.get("refused")) for line in audit_of(app)]
    assert lines == [
        ("upload", "folder luca", None),
        ("delete", "specs of folder luca", None),
        ("delete", "folder luca", None),
        ("delete", "folder luca", "not_found"),
    ]


@pytest.mark.parametrize(("path", "successor"), [("/delete_specs", "luca/specs"), ("/delete_folder", "luca")])
def test_a_get_that_deletes_says_that_it_should_not_be_used(client, path, successor):
    upload(client)
    for query in ("name=luca", "name=nobodys", ""):
        response = client.get(f"{path}?{query}")
        assert re.fullmatch(r"@\d{10}", response.headers["Deprecation"])
    response = client.get(f"{path}?name=luca")
    assert response.headers["Link"] == f'</api/v1/folders/{successor}>; rel="successor-version"'
    assert "Deprecation" not in client.delete(f"{path}?name=luca").headers


def test_whoever_only_looks_deletes_nothing(client):
    upload(client)
    for path in ("/delete_specs", "/delete_folder"):
        assert client.head(f"{path}?name=luca").status_code == 200
        assert client.options(f"{path}?name=luca").status_code == 200
    assert client.get("/api/v1/folders/luca").status_code == 200


def test_a_page_of_another_site_deletes_nothing(client):
    upload(client)
    for name, value in (
        ("Sec-Fetch-Site", "cross-site"),
        ("Sec-Fetch-Site", "none"),
        ("Origin", "http://evil"),
    ):
        assert client.get("/delete_folder?name=luca", headers={name: value}).status_code == 403
    assert client.get("/api/v1/folders/luca").status_code == 200


def test_logs_and_model_are_attachments(app, client, me):
    run = record(app, "completed_1", me)
    run.stdout("train", 0).write_text("said\n")
    logs = client.get("/logs?process_name=completed_1")
    assert logs.headers["Content-Disposition"] == "attachment; filename=completed_1.txt"
    assert "=== train, task 0\nsaid\n=== train, task 0, standard error\n" in logs.text
    named = client.get("/logs?process_name=completed_1&log_file=logs.txt")
    assert named.headers["Content-Disposition"] == "attachment; filename=logs.txt"
    assert client.post("/logs?process_name=completed_1").text == logs.text
    model = client.get("/model?process_name=completed_1")
    assert model.headers["Content-Disposition"] == "attachment; filename=completed_1.tar.gz"
    assert model.data == run.bundle.read_bytes()
    for odd in ("a\r\nX: y", "a/b", 'a"b', "é", "x" * 101, ""):
        query = {"process_name": "completed_1", "log_file": odd}
        assert client.get("/logs", query_string=query).status_code == 400


def test_the_status_is_said_in_dockers_words(app, client, me):
    for name in ("completed_1", "failed_1", "cancelled_1"):
        record(app, name, me)
    make_alive(record(app, "completed_1", me, "alive_1"))
    said = {}
    for name in ("completed_1", "failed_1", "cancelled_1", "alive_1"):
        both = [client.get(f"/{call}?process_name={name}").json for call in ("status", "status_docker")]
        assert both[0] == both[1]
        assert list(both[0]) == ["process_name", "status"]
        said[name] = both[0]["status"].split(" ")[:2]
    assert said["completed_1"] == ["Exited", "(0)"]
    assert said["failed_1"] == ["Exited", "(7)"]
    assert said["cancelled_1"] == ["Exited", "(137)"]
    assert said["alive_1"][0] == "Up"
    assert client.get("/status?process_name=nobodys_1").status_code == 404


@pytest.mark.parametrize(
    ("state", "words"),
    [
        ("prepared", "Created"), ("idle", "Created"),
        ("running", "Up 8 seconds"), ("held", "Up 8 seconds (Paused)"),
        ("completed", "Exited (0) 3 seconds ago"), ("failed", "Exited (7) 3 seconds ago"),
        ("cancelled", "Exited (137) 3 seconds ago"),
    ],
)  # fmt: skip
def test_words_for_states(state, words):
    stage = StageState("specs", 1, started=1000.0)
    told = RunState("luca_1", state, "pool", (stage,), submitted=990.0, ended=1005.0)
    assert docker_words.status(told, now=1008.0) == words
    waiting = replace(told, stages=(), ended=None)
    assert docker_words.status(waiting, now=1008.0).partition(" ")[0] == words.partition(" ")[0]


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.5, "Less than a second"), (1.9, "1 second"), (59.9, "59 seconds"), (61, "About a minute"),
        (120, "2 minutes"), (3599, "59 minutes"), (3600, "About an hour"), (5399, "About an hour"),
        (5400, "2 hours"), (47 * 3600, "47 hours"), (48 * 3600, "2 days"), (13 * 86400, "13 days"),
        (14 * 86400, "2 weeks"), (59 * 86400, "8 weeks"), (60 * 86400, "2 months"),
        (729 * 86400, "24 months"), (731 * 86400, "2 years"),
    ],
)  # fmt: skip
def test_times_are_said_as_docker_does(seconds, words):
    assert docker_words.duration(seconds) == words


def add(client, name="labels.txt", run="completed_1", content=b"signal\n"):
    return client.post(f"/setup_tfaas?process_name={run}", data={"file": (io.BytesIO(content), name)})


def test_a_file_is_added_to_a_model(app, client, me):
    run = record(app, "completed_1", me)
    assert add(client).text == "Successfully uploaded!"
    assert (run.served / "labels.txt").read_bytes() == b"signal\n"
    add(client, content=b"background\n")
    assert [(path.name, path.read_bytes()) for path in run.served.iterdir()] == [
        ("labels.txt", b"background\n")
    ]
    assert [line["file"] for line in audit_of(app)] == ["labels.txt"] * 2


@pytest.mark.parametrize(
    "name", ["../owner.json", "/etc/passwd", ".hidden", "", "a b", "x" * 101, "é.txt", "a/b"]
)
def test_a_file_goes_nowhere_else(app, client, me, name):
    run = record(app, "completed_1", me)
    before = sorted(run.path.rglob("*"))
    assert add(client, name).status_code == 400
    assert sorted(run.path.rglob("*")) == before


def test_a_file_needs_a_model(app, client, me):
    record(app, "failed_1", me)
    assert add(client, run="failed_1").status_code == 409
    assert add(client, run="nobodys_1").status_code == 404


def test_old_calls_know_whose_things_are(shared_app, user):
    jane, luca = user("jane"), user("luca")
    record(shared_app, "completed_1", "jane")
    upload(jane)
    assert jane.get("/status?process_name=completed_1").status_code == 200
    for call in ("status", "logs", "model"):
        assert luca.get(f"/{call}?process_name=completed_1").status_code == 404
    assert luca.get("/delete_folder?name=luca").status_code == 404
    assert add(luca).status_code == 404
    assert luca.post("/submit", json={"name": "luca"}).status_code == 404
    assert jane.get("/api/v1/folders/luca").status_code == 200
    assert user("jane", scope="compute.read").get("/delete_folder?name=luca").status_code == 403
