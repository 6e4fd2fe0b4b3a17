"""Uploads as they come over HTTP: in every way that people send them, complete or not at all."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import io
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import archive_tools as made
import pytest
import requests
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from serving_tools import everything, served, wait_until
from upload_service import views
from werkzeug.test import create_environ, run_wsgi_app

from mlaas_condor.server.configuration import Configuration
from mlaas_condor.server.faults import HttpFault
from mlaas_condor.server.storage import forms, uploads
from mlaas_condor.settings import load

FILES = {"model.py": b"def model(idim): ...", "data.root": os.urandom(30_000)}
ARCHIVE = made.pack(FILES, "gzip", "folder_to_upload/")
SERVICE = Path(__file__).with_name("upload_service.py")
BOUNDARY = "----x"


@pytest.fixture
def home(tmp_path):
    return tmp_path / "home"


def client_of(home, **limits):
    configuration = Configuration.model_validate({"limits": limits})
    return views(configuration, load(home=str(home))).test_client()


@pytest.fixture
def client(home):
    return client_of(home)


def form(*parts, end=True):
    """Return a form of parts (name, file name or None, content)."""
    body = b""
    for name, filename, content in parts:
        file = "" if filename is None else f'; filename="{filename}"'
        body += f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"{file}\r\n\r\n'.encode()
        body += content + b"\r\n"
    return body + (f"--{BOUNDARY}--\r\n".encode() if end else b"")


def post(client, body, **headers):
    return client.post(
        "/folders/luca", data=body, headers=headers, content_type=f"multipart/form-data; boundary={BOUNDARY}"
    )


def check_nothing_is_left(home, owner="jane"):
    found = [
        path for path in (home / "users" / owner).rglob("*") if path.is_file() and "uploads" not in path.parts
    ]
    assert {path.name for path in found} <= {".lock"}, found


@pytest.mark.parametrize(
    "kind",
    [
        "application/gzip",
        "application/octet-stream",
        "application/x-tar",
        "text/plain",
        "application/json",
        None,
    ],
)
def test_an_archive_is_the_body(client, kind):
    reply = client.put("/folders/luca", data=ARCHIVE, content_type=kind)
    assert reply.status_code == 200 and reply.json["files"] == 2
    assert (
        client.post("/folders/luca", data=ARCHIVE, content_type=kind).json["version"] == reply.json["version"]
    )


def test_an_archive_is_in_a_form(client):
    body = form(
        ("csrf", None, b"secret"),
        ("file", "C:\\fakepath\\..\\x.tar.gz", ARCHIVE),
        ("note", None, "é".encode()),
    )
    reply = post(client, body)
    assert reply.status_code == 200 and reply.json["files"] == 2
    fields = reply.json["fields"]
    assert (fields["csrf"], fields["note"]) == ("secret", "é")


def test_what_a_proxy_says_of_the_encoding_makes_no_difference(client):
    reply = client.put("/folders/luca", data=ARCHIVE, headers={"Content-Encoding": "gzip"})
    assert reply.json["files"] == 2


@pytest.mark.parametrize(
    ("body", "status", "why"),
    [
        (form(("other", "x", ARCHIVE)), 400, "send one, as 'file'"),
        (form(("file", "x", ARCHIVE), ("file", "y", ARCHIVE)), 400, "send one, as 'file'"),
        (form(("file", "x", ARCHIVE), ("more", "y", b"")), 400, "send one, as 'file'"),
        (form(("file", None, b"folder.tar.gz")), 400, "with an @"),
        (form(("name", None, b"luca")), 400, "the form has no file"),
        (form(), 400, "the form has no file"),
        (form(("file", "", b"")), 400, "nothing was sent"),
        (form(("", "x", ARCHIVE)), 400, "in the part ''"),
        (b"------x\r\n\r\n\r\nx\r\n------x--", 400, "has no name"),
        (b"------x and\r\n\r\n\r\nx\r\n------x--", 400, "something stands behind"),
        (form(("n" * 20_000, None, b"")), 413, "16384 bytes"),
        (form(("file", "x", ARCHIVE), end=False), 400, "broke off"),
        (form(("file", "x", ARCHIVE))[:-20], 400, "broke off"),
        (form(("file", "x", ARCHIVE))[:300], 400, "broke off"),
        (b"no form at all", 400, "broke off"),
        (b"x" * 2**21, 413, "what is not the file"),
        (form(("file", "x", ARCHIVE)) + b"x" * 2**21, 413, "what is not the file"),
        (form(("note", None, b"x" * 2**21), ("file", "x", ARCHIVE)), 413, "1048576 bytes"),
        (form(*[(f"f{i}", None, b"") for i in range(30)], ("file", "x", ARCHIVE)), 413, "20 parts"),
        (form(("file", "x", b"no archive")), 415, "no archive that is known"),
    ],
)
def test_forms_that_are_refused(client, home, body, status, why):
    reply = post(client, body)
    assert reply.status_code == status and why in reply.json["error"], reply.json
    check_nothing_is_left(home)


@pytest.mark.parametrize(
    "kind",
    ["multipart/form-data", "multipart/form-data; boundary=" + "x" * 300, "multipart/form-data; boundary=é"],
)
def test_a_form_without_a_boundary_is_refused(client, home, kind):
    reply = client.post("/folders/luca", data=form(("file", "x", ARCHIVE)), content_type=kind)
    assert reply.status_code == 400 and "boundary" in reply.json["error"]
    check_nothing_is_left(home)


def test_a_body_that_curl_has_changed_is_refused(client, home):
    reply = client.post("/folders/luca", data=ARCHIVE, content_type="application/x-www-form-urlencoded")
    assert reply.status_code == 415 and "curl -T" in reply.json["error"]
    reply = client.put("/folders/luca", environ_overrides={"CONTENT_LENGTH": "0"})
    assert reply.status_code == 400 and reply.json["error"].startswith("nothing was sent: send an archive")
    check_nothing_is_left(home)


def digest(name, content, form="{}=:{}:"):
    return form.format(name, base64.b64encode(hashlib.new(name.replace("-", ""), content).digest()).decode())


@pytest.mark.parametrize(
    "headers",
    [
        {"Content-Digest": digest("sha-256", ARCHIVE)},
        {"Repr-Digest": digest("sha-512", ARCHIVE)},
        {"Repr-Digest": f"unknown=:AAAA:, {digest('sha-256', ARCHIVE)}"},
        {"Digest": digest("sha-256", ARCHIVE, "{}={}")},
        {"Digest": digest("md5", ARCHIVE, "{}={}") + "," + digest("sha-256", ARCHIVE, "SHA-256={1}")},
        {"Content-MD5": base64.b64encode(hashlib.md5(ARCHIVE).digest()).decode()},
        {"Content-Digest": "unknown=:AAAA:"},
    ],
)
def test_digests_are_checked(client, home, headers):
    assert client.put("/folders/luca", data=ARCHIVE, headers=headers).status_code == 200
    if "unknown" not in headers.get("Content-Digest", ""):
        reply = client.put("/folders/another", data=ARCHIVE + b"x", headers=headers)
        assert reply.status_code == 400 and "what has come is not what was sent" in reply.json["error"]
    assert [path.name for path in (home / "users/jane/folders").iterdir()] == ["luca.json"]


def test_a_digest_is_of_the_whole_body_also_of_a_form(client):
    body = form(("file", "x", ARCHIVE))
    assert post(client, body, **{"Content-Digest": digest("sha-256", body)}).status_code == 200
    assert post(client, body, **{"Content-Digest": digest("sha-256", ARCHIVE)}).status_code == 400


@pytest.mark.parametrize(
    "headers",
    [
        {"Content-MD5": "no base64"},
        {"Content-MD5": "AAAA"},
        {"Content-Digest": "sha-256=:AAAA:"},
        {"Digest": "md5=A"},
    ],
)
def test_what_is_no_digest_is_refused(client, home, headers):
    reply = client.put("/folders/luca", data=ARCHIVE, headers=headers)
    assert reply.status_code == 400 and "is no such digest" in reply.json["error"]
    check_nothing_is_left(home)


def test_more_than_the_limit_is_refused_as_it_comes(home):
    client = client_of(home, upload="1m")
    large = os.urandom(2**20 + 1)
    said = client.put("/folders/luca", data=large)
    assert said.status_code == 413 and "one upload may have 1048576 bytes" in said.json["error"]
    # Without a length, and in a form, it shows on the way only.
    assert put_without_length(client, Endless())[0] == 413 and Endless.given < 2**22
    assert post(client, form(("file", "x", large))).status_code == 413
    unpacked = made.pack({"a": bytes(2**20 + 1)}, "gzip")
    assert client.put("/folders/luca", data=unpacked).status_code == 413
    check_nothing_is_left(home)


def put_without_length(client, stream, terminated=True):
    """Send what a server of WSGI gives where the client says no length; return status and content."""
    environ = create_environ("/folders/luca", method="PUT")
    environ.pop("CONTENT_LENGTH", None)
    environ["wsgi.input"] = stream
    if terminated:
        environ["wsgi.input_terminated"] = True
    content, status, _ = run_wsgi_app(client.application, environ)
    return int(status.split()[0]), json.loads(b"".join(content))


class Endless:
    given = 0

    def read(self, size=-1):
        assert 0 < size <= 2**20
        Endless.given += size
        return bytes(size)


def test_without_a_length_the_server_must_know_the_end(client, home):
    body = io.BytesIO(ARCHIVE)
    status, reply = put_without_length(client, body, terminated=False)
    assert status == 400 and "send a Content-Length" in reply["error"]
    check_nothing_is_left(home)
    assert put_without_length(client, body)[1]["files"] == 2
    # Where it broke off nobody can tell but by the archive itself.
    status, reply = put_without_length(client, io.BytesIO(ARCHIVE[:-9]))
    assert status == 422 and "cut off" in reply["error"]


@pytest.mark.parametrize("missing", [1, 1000, len(ARCHIVE)], ids=["last byte", "end", "all"])
def test_a_body_that_breaks_off_is_refused(client, home, missing):
    reply = client.put(
        "/folders/luca",
        input_stream=io.BytesIO(ARCHIVE[: len(ARCHIVE) - missing]),
        environ_overrides={"CONTENT_LENGTH": str(len(ARCHIVE))},
    )
    assert reply.status_code == 400 and "broke off" in reply.json["error"]
    check_nothing_is_left(home)


def test_other_requests_are_short_and_never_in_tmp(client, monkeypatch):
    monkeypatch.setattr(tempfile, "SpooledTemporaryFile", None)
    monkeypatch.setattr(tempfile, "TemporaryFile", None)
    body = json.dumps({"name": "x" * 2**21})
    assert client.post("/other", data=body, content_type="application/json").status_code == 200
    kind = f"multipart/form-data; boundary={BOUNDARY}"
    reply = client.post("/other", data=form(("file", "x", bytes(2**21))), content_type=kind)
    assert reply.json["files"] == 1
    for kind in ("application/json", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"):
        reply = client.post("/other", data=b"x" * (uploads.MOST_BODY + 1), content_type=kind)
        assert reply.status_code == 413


class Sink:
    def __init__(self):
        self.content = b""

    def write(self, piece):
        self.content += piece


@given(st.binary(max_size=300), st.integers(1, 40))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_file_in_a_form_comes_out_as_it_went_in(content, size):
    content = content.replace(b"A", b"\r\n--" + BOUNDARY.encode()[:3])
    sink, body = Sink(), form(("x", None, b"1"), ("file", "n", content), ("y", None, b"2"))
    found = forms.FileForm("file", sink.write)
    found.read((body[i : i + size] for i in range(0, len(body), size)), BOUNDARY)
    assert sink.content == content and found.fields == {"x": "1", "file": "n", "y": "2"}


@given(st.data())
def test_no_form_does_anything_but_give_a_file_or_be_refused(data):
    body = bytearray(form(("x", None, b"1"), ("file", "n", b"content"), ("y", None, b"2")))
    for _ in range(data.draw(st.integers(1, 6))):
        at = data.draw(st.integers(0, len(body) - 1))
        body[at : at + data.draw(st.integers(0, 20))] = data.draw(st.binary(max_size=5))
        if not body:
            break
    with contextlib.suppress(HttpFault):
        forms.FileForm("file", Sink().write).read([bytes(body)], BOUNDARY)


def command(home, workers=1, **limits):
    configuration = {"service": {"port": 0, "workers": workers}, "limits": limits}
    return [sys.executable, "-P", SERVICE, json.dumps(configuration), home]


@pytest.fixture
def service(home):
    with served(command(home, workers=2)) as found:
        yield found


def test_the_seeds_own_command_and_others(service, home, tmp_path):
    (tmp_path / "folder_to_upload.tar.gz").write_bytes(ARCHIVE)
    url = f"{service.url}/folders/luca"
    whole = ["-X", "PUT", "--data-binary", "@folder_to_upload.tar.gz", "-H", "Content-Type: application/gzip"]
    for how in (["-F", "file=@folder_to_upload.tar.gz"], ["-T", "folder_to_upload.tar.gz"], whole):
        done = subprocess.run(["curl", "-sS", *how, url], capture_output=True, cwd=tmp_path, check=True)
        assert json.loads(done.stdout)["files"] == 2
    done = subprocess.run(
        ["curl", "-sS", "-d", "@folder_to_upload.tar.gz", url], capture_output=True, cwd=tmp_path
    )
    assert json.loads(done.stdout)["status"] == 415


def memory_of(service):
    text = [Path(f"/proc/{number}/status").read_text() for number in service.workers()]
    return sum(int(each.partition("VmHWM:")[2].split()[0]) for each in text) * 1024


def test_an_upload_is_never_in_memory(service, home):
    url = f"{service.url}/folders/luca"
    for _ in range(4):
        assert requests.put(url, data=ARCHIVE, timeout=60).status_code == 200
    before = memory_of(service)
    large = made.tar(made.file("a", os.urandom(2**26)))
    assert requests.put(url, data=io.BytesIO(large), timeout=60).status_code == 200
    kind = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}
    body = form(("file", "x", large))
    assert requests.post(url, data=body, headers=kind, timeout=60).status_code == 200
    assert memory_of(service) - before < 2**25


@pytest.mark.parametrize("how", ["plain", "form"])
def test_a_client_that_goes_away_leaves_nothing(service, home, how):
    body, kind = made.tar(made.file("a", os.urandom(10**6))), "application/gzip"
    if how == "form":
        body, kind = form(("file", "x", body)), f"multipart/form-data; boundary={BOUNDARY}"
    head = f"POST /folders/luca HTTP/1.1\r\nHost: x\r\nContent-Type: {kind}\r\n"
    head += f"Content-Length: {len(body)}\r\n\r\n"
    incoming = home / "users" / "jane" / "incoming"
    with service.connect() as connection:
        connection.sendall(head.encode() + body[: len(body) // 2])
        wait_until(lambda: any(path.name == "archive" for path in incoming.rglob("*")))
    wait_until(lambda: [path.name for path in incoming.iterdir()] == [".lock"])
    check_nothing_is_left(home)


def all_went_on(accepted, before):
    return len(accepted) == 4 and all(accepted[number] != before.get(number) for number in range(4))


def test_a_service_killed_in_the_middle_of_uploads_keeps_what_it_accepted(home, tmp_path):
    """kill -9 of all of it, again and again, while clients send; whoever had an answer has a folder."""
    accepted, over = {}, threading.Event()

    def send(number, url):
        i = 0
        while not over.is_set():
            i += 1
            content = {"a": os.urandom(200_000), "b": f"{number} {i}".encode()}
            try:
                reply = requests.put(
                    f"{url[0]}/folders/luca{number}", data=made.pack(content, "gzip"), timeout=30
                )
            except requests.RequestException:
                time.sleep(0.02)
                continue
            if reply.status_code == 200:
                accepted[number] = (i, reply.json()["version"])

    with ThreadPoolExecutor(4) as pool:
        url = [""]
        for attempt in range(4):
            with served(command(home)) as service:
                url[0] = service.url
                if not attempt:
                    for number in range(4):
                        pool.submit(send, number, url)
                wait_until(partial(all_went_on, accepted, dict(accepted)))
                time.sleep(0.05 * attempt)
                for number in [*service.workers(), service.process.pid]:
                    os.kill(number, signal.SIGKILL)
        over.set()
    app = client_of(home).application
    folders = app.extensions["mlaas_condor"].folders
    folders.tidy()
    folders.collect("jane")
    assert len(accepted) == 4
    for number, (i, version) in accepted.items():
        found = folders.open("jane", f"luca{number}")
        # The last upload may have been stored, and killed before the answer.
        assert found.version == version or int((found.path / "b").read_text().split()[1]) > i
        for each in found.entries():
            assert hashlib.sha256((found.path / each.path).read_bytes()).hexdigest() == each.sha256
    place = home / "users" / "jane"
    assert [path.name for path in (place / "incoming").iterdir()] == [".lock"]
    assert len([path for path in (place / "versions").iterdir() if path.is_dir()]) == 4


def test_many_upload_at_the_same_time(service, home):
    def send(number):
        body = made.pack({"same": bytes(range(256)) * 4000, "own": str(number).encode()}, "tar")
        return requests.put(f"{service.url}/folders/luca{number % 10}", data=body, timeout=60).status_code

    with ThreadPoolExecutor(12) as pool:
        assert {*pool.map(send, range(40))} == {200}
    stored = client_of(home).application.extensions["mlaas_condor"].folders.stored_bytes("jane")
    assert 256 * 4000 < stored < 256 * 4000 + 40_000


def test_a_refusal_reaches_a_client_that_is_still_sending(home):
    with served(command(home, upload="1m")) as service, service.connect() as connection:
        head = "PUT /folders/luca HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999\r\n\r\n"
        connection.sendall(head.encode() + bytes(50_000))
        assert b" 413 " in everything(connection).splitlines()[0]
    check_nothing_is_left(home)
