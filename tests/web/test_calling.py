"""Calls to a service that is away, busy, another one, or says no: what is tried again, and what is told."""

import datetime
import io
import json
import socket
import threading
from contextlib import contextmanager

import pytest
import requests
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from flask import Flask, Response, request, send_file
from lines import Line, closed
from werkzeug.serving import WSGIRequestHandler, make_server

from mlaas_condor import Service, errors, places
from mlaas_condor.client import calling, downloading, listening
from mlaas_condor.client import service as client
from mlaas_condor.client.calling import Body, Calls
from mlaas_condor.client.packing import Package
from mlaas_condor.errors import (
    CredentialFault,
    MlaasError,
    PoolLost,
    PoolUnreachable,
    RequestError,
    ServiceRefused,
)
from mlaas_condor.grid.renewal import WrongSetting
from mlaas_condor.places import Patience


class Quiet(WSGIRequestHandler):
    def log(self, *_):
        pass


@contextmanager
def served(app, **options):
    """Serve an application on loopback; give its port."""
    server = make_server("127.0.0.1", 0, closed(app), threaded=True, request_handler=Quiet, **options)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture(autouse=True)
def soon(monkeypatch):
    for module in (calling, downloading):
        monkeypatch.setattr(module, "WAITS", (0.01, 0.01, 0.01))
    monkeypatch.setattr(listening, "_WAIT", 0.01)


@pytest.fixture
def answers():
    """What is answered next, as pairs of status and content, or responses; the last one again and again."""
    return []


@pytest.fixture
def app(answers):
    app = Flask("stand-in")
    app.seen = []

    @app.route("/", defaults={"path": ""}, methods=["GET", "POST", "PUT"])
    @app.route("/<path:path>", methods=["GET", "POST", "PUT"])
    def everything(path):
        app.seen.append((request.method, dict(request.headers), request.get_data()))
        answer = answers[0] if len(answers) == 1 else answers.pop(0)
        if not isinstance(answer, tuple):
            return answer if isinstance(answer, Response) else answer()
        status, content, *headers = answer
        body = content if isinstance(content, str | bytes) else json.dumps(content)
        return Response(body, status, dict(*headers))

    return app


@pytest.fixture
def port(app):
    with served(app) as port:
        yield port


@pytest.fixture
def calls(port):
    return Calls(f"http://localhost:{port}", lambda: "janes")


def refusal(code, text="why", status=400, **more):
    return status, {"error": text, "code": code, "status": status, "service": "mlaas-condor", **more}


# --- the token


def test_the_token_goes_along_and_nothing_of_netrc(calls, app, answers, tmp_path, monkeypatch):
    (tmp_path / "netrc").write_text("machine localhost login jane password secret\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    answers.append((200, {}))
    calls.ask("GET", "/me")
    Calls(calls.url, lambda: "").ask("GET", "/me")
    assert [headers.get("Authorization") for _, headers, _ in app.seen] == ["Bearer janes", None]


def test_a_redirection_is_not_followed(app, answers, calls):
    answers.append((302, "", {"Location": "https://login.example.org/?a=b"}))
    with pytest.raises(ServiceRefused, match=r"sends to login\.example\.org, where no token of yours goes"):
        calls.ask("GET", "/me")
    assert len(app.seen) == 1


def test_what_is_on_this_machine_is_not_reached_by_a_proxy(calls, answers, monkeypatch):
    monkeypatch.setenv("http_proxy", "http://localhost:1")
    answers.append((200, {"a": 1}))
    assert calls.ask("GET", "/me") == {"a": 1}


def test_a_fresh_token_is_used_when_the_old_one_is_refused(port, app, answers):
    found = ["old", "new"]
    calls = Calls(f"http://localhost:{port}", lambda: found.pop(0) if len(found) > 1 else found[0])
    answers += [refusal("unauthorized", status=401), (200, {})]
    assert calls.ask("GET", "/me") == {}
    assert [headers["Authorization"] for _, headers, _ in app.seen] == ["Bearer old", "Bearer new"]
    answers[:] = [refusal("unauthorized", "it is over", 401)]
    with pytest.raises(
        CredentialFault, match="does not know who you are: it is over; give its token by --token-file"
    ):
        calls.ask("GET", "/me")
    assert len(app.seen) == 3


def test_a_token_with_a_line_end_is_refused_before_anything_is_sent(port, app):
    with pytest.raises(CredentialFault, match="what no token has") as error:
        Calls(f"http://localhost:{port}", lambda: "secret\r\nHost: other").ask("GET", "/me")
    assert "secret" not in str(error.value) and app.seen == []


def test_an_address_that_is_not_safe_is_refused():
    with pytest.raises(WrongSetting, match="is not https"):
        Calls("http://mlaas.example.org", lambda: "janes")


# --- what is refused


@pytest.mark.parametrize("kind", [each for each in calling._KINDS.values() if each is not RequestError])
def test_an_error_there_is_the_same_error_here(kind, calls, answers):
    code = calling._code_of(kind)
    answers.append(refusal(code, "what happened", 409))
    with pytest.raises(MlaasError, match=r"^what happened$") as error:
        calls.ask("GET", "/runs/a_1")
    assert type(error.value) is kind and error.value.exit_code == kind.exit_code


def test_all_problems_of_a_request_come_over(calls, answers):
    problems = [
        {"where": "job.json: memory", "what": "'x' is not a size", "hint": "3gb"},
        {"where": "a", "what": "b"},
    ]
    answers.append(refusal("request_error", "two", problems=problems))
    with pytest.raises(RequestError) as error:
        calls.ask("POST", "/runs", content={})
    assert [str(each) for each in error.value.problems] == [
        "job.json: memory: 'x' is not a size (3gb)",
        "a: b",
    ]


@pytest.mark.parametrize(
    ("answer", "kind", "told"),
    [
        (refusal("forbidden", "not yours", 403), ServiceRefused, "not yours"),
        (refusal("over_limit", "20 runs at a time", 429), ServiceRefused, "20 runs at a time"),
        (refusal("not_found", "no folder", 404), ServiceRefused, "no folder"),
        (refusal("conflict", "being changed", 409), errors.WrongState, "being changed"),
        (refusal("internal", "it is r-17", 500), MlaasError, "it is r-17"),
        (refusal("unavailable", "no pool", 503), PoolUnreachable, "no pool"),
        ((401, "<html>"), CredentialFault, "does not let you in"),
        ((403, "<html>"), CredentialFault, "does not let you in"),
        ((502, "<html>"), PoolUnreachable, "does not answer now .HTTP status 502"),
        ((413, "<html>"), ServiceRefused, "does not let through so much"),
        ((404, "<html>"), PoolUnreachable, "is no service of mlaas-condor .HTTP status 404"),
        ((200, "<html>"), PoolUnreachable, "is no service of mlaas-condor: is the address right"),
        ((400, "[]"), PoolUnreachable, "is no service of mlaas-condor"),
        ((500, '{"error": {"a": 1}}'), PoolUnreachable, "is no service of mlaas-condor"),
    ],
)
def test_what_else_is_refused_is_told(calls, answers, answer, kind, told):
    answers.append(answer)
    with pytest.raises(MlaasError, match=told) as error:
        calls.ask("GET", "/me")
    assert type(error.value) is kind
    assert error.value.exit_code == {ServiceRefused: 11, PoolUnreachable: 3, CredentialFault: 29}.get(
        kind, error.value.exit_code
    )


# --- what is tried again


def test_a_service_that_starts_again_is_waited_for(port, answers, app, monkeypatch):
    waited = []
    monkeypatch.setattr(calling.time, "sleep", waited.append)
    said = []
    calls = Calls(f"http://localhost:{port}", lambda: "", said.append)
    busy = {"Retry-After": "7"}
    answers += [
        (*refusal("unavailable", "starting", 503), busy), (502, ""),
    ]  # fmt: skip
    with pytest.raises(PoolUnreachable, match="502"):
        calls.ask("GET", "/me")
    answers[:] = [
        (*refusal("unavailable", "starting", 503), busy),
        (503, "", {"Retry-After": "tomorrow"}),
        (200, {}),
    ]
    assert calls.ask("POST", "/runs", content={}, repeat=False) == {}, "what was refused was not done"
    assert waited == [7.0, 7.0, 0.01] and len(said) == 2 and "starting; trying again" in said[0]


def test_other_refusals_are_not_repeated(calls, answers, app):
    answers.append((*refusal("over_limit", "too many", 429), {"Retry-After": "1"}))
    with pytest.raises(ServiceRefused):
        calls.ask("GET", "/me")
    assert len(app.seen) == 1


@pytest.fixture
def line(port):
    line = Line(port)
    yield line
    line.close()


@pytest.mark.parametrize("cut", [-1, 0, 30])
def test_a_lost_answer_is_asked_for_again(line, answers, app, cut):
    answers.append((200, {"name": "tiny_1"}))
    line.cuts = [(b"POST", cut), (b"POST", cut)]
    calls = Calls(line.url, lambda: "")
    assert calls.ask("POST", "/runs", content={"a": 1}, headers={"Idempotency-Key": "k"}) == {
        "name": "tiny_1"
    }
    assert {(headers["Idempotency-Key"], body) for _, headers, body in app.seen} == {("k", b'{"a": 1}')}
    assert len(line.seen) == 3


def test_but_not_where_it_may_have_been_done(line, answers, app):
    answers.append((200, {}))
    line.cuts = [(b"POST", 0)]
    with pytest.raises(PoolUnreachable, match="cannot be reached"):
        Calls(line.url, lambda: "").ask("POST", "/runs/a_1/resume", repeat=False)
    assert len(line.seen) == 1


def test_a_submission_whose_answer_is_late_is_asked_for_again(port, app, answers, monkeypatch):
    monkeypatch.setattr(client, "_SILENT_SECONDS", 0.2)
    monkeypatch.setattr(client, "_WAIT", 0.01)
    service = Service(f"http://localhost:{port}", "")
    package = Package("tiny", {"name": "tiny"}, {}, [])
    go_on = threading.Event()

    def late():
        assert go_on.wait(60)
        return Response("{}")

    answers += [(504, "<html>"), late, (201, {"name": "tiny_1"})]
    assert service._submitted(package) == {"name": "tiny_1"}
    go_on.set()
    assert len(app.seen) == 3 and len({headers["Idempotency-Key"] for _, headers, _ in app.seen}) == 1
    monkeypatch.setattr(client, "_PLAN_SECONDS", 0.05)
    answers[:] = [(504, "<html>")]
    with pytest.raises(PoolUnreachable, match="whether it was submitted, `mlaas-condor list` tells"):
        service._submitted(package)


def test_what_is_sent_in_pieces_is_made_again(line, answers, app):
    answers.append((200, {}))
    line.cuts = [(b"PUT", 0)]
    made = []

    def body():
        made.append(1)
        return Body(iter([b"ab" * 1000, b"c"]), 2001)

    Calls(line.url, lambda: "").ask("PUT", "/folders/a", body=body)
    assert len(made) == 2 and app.seen[-1][2] == b"ab" * 1000 + b"c"
    assert app.seen[-1][1]["Content-Length"] == "2001"


@pytest.mark.parametrize("pieces", [[b"abc"], [b"abc", b"abcd"]])
def test_files_that_change_while_they_are_sent_are_told(calls, answers, pieces):
    answers.append((200, {}))
    with pytest.raises(errors.InputChanged, match="was changed while it was sent"):
        calls.ask("PUT", "/folders/a", body=lambda: Body(iter(pieces), 5))


def test_a_service_that_is_not_there_is_told_apart(monkeypatch):
    with pytest.raises(PoolUnreachable, match="is not known: is the name right"):
        Calls("https://no-such-host.invalid", lambda: "").ask("GET", "/me")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        calls = Calls(f"http://localhost:{free.getsockname()[1]}", lambda: "")
        with pytest.raises(PoolUnreachable, match="refuses the connection: does the service run there"):
            calls.ask("GET", "/me")
        free.listen()
        with pytest.raises(PoolUnreachable, match=r"does not answer within 0\.1 s"):
            calls.ask("GET", "/me", seconds=0.1)


@pytest.fixture
def certificate(tmp_path):
    """A certificate of localhost that signed itself; its file, and that of its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    day = datetime.timedelta(days=1)
    built = x509.CertificateBuilder(name, name, key.public_key(), 1, now - day, now + day)
    made = (
        built.add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    plain = serialization.NoEncryption()
    pem, pkcs8 = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    (tmp_path / "certificate.pem").write_bytes(made.public_bytes(pem))
    (tmp_path / "key.pem").write_bytes(key.private_bytes(pem, pkcs8, plain))
    return str(tmp_path / "certificate.pem"), str(tmp_path / "key.pem")


def test_a_service_whose_certificate_is_not_trusted_gets_no_token(app, answers, certificate, monkeypatch):
    answers.append((200, {}))
    with served(app, ssl_context=certificate) as port:
        url = f"https://localhost:{port}"
        with pytest.raises(PoolUnreachable, match="has a certificate that is not trusted here"):
            Calls(url, lambda: "janes").ask("GET", "/me")
        # As other programs may have it set; ours are those of the system and of the grid.
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", certificate[0])
        with pytest.raises(PoolUnreachable, match="has a certificate that is not trusted here"):
            Calls(url, lambda: "janes").ask("GET", "/me")
        assert app.seen == []
        monkeypatch.setenv("SSL_CERT_FILE", certificate[0])
        assert Calls(url, lambda: "janes").ask("GET", "/me") == {}
        with pytest.raises(PoolUnreachable, match="has a certificate that is not trusted here"):
            Calls(url.replace("localhost", "127.0.0.1"), lambda: "janes").ask("GET", "/me")


def test_a_service_without_https_is_told(port, app):
    with pytest.raises(PoolUnreachable, match="speaks no https"):
        Calls(f"https://localhost:{port}", lambda: "janes").ask("GET", "/me")
    assert app.seen == []


# --- events


def sent(*events, headers=()):
    return Response("".join(events), 200, dict(headers), mimetype="text/event-stream")


def event(kind, content, number=""):
    return f"event: {kind}\ndata: {json.dumps(content)}\n" + (f"id: {number}\n" if number else "") + "\n"


def listened(calls, patience=None):
    found = listening.listen(calls, "/logs", {"follow": "true"}, patience or Patience("a_1"))
    return [(each.kind, each.content) for each in found]


def test_events_are_taken_up_where_they_stopped(calls, answers, app):
    answers += [
        sent("retry: 2000\n\n", event("log", {"text": "é\n1"}, "1"), ": \n\n", event("log", "2", "2")),
        sent(event("log", "3", "3"), event("log", "cut off", "4")[:-5]),
        (503, {"error": "starting", "code": "unavailable"}),
        sent(event("log", "4"), event("end", {}, "end")),
    ]
    assert listened(calls) == [("log", {"text": "é\n1"}), ("log", "2"), ("log", "3"), ("log", "4")]
    assert [headers.get("Last-Event-Id") for _, headers, _ in app.seen] == [None, "2", "3", "3"]


def test_events_come_as_they_are_sent(calls, answers):
    go_on = threading.Event()

    def slowly():
        yield event("log", "first")
        assert go_on.wait(60)
        yield event("end", {})

    answers.append(lambda: Response(slowly(), mimetype="text/event-stream"))
    for each in listening.listen(calls, "/logs", {}, Patience("a_1")):
        assert each.content == "first"
        go_on.set()


def test_a_connection_that_is_lost_is_made_again(line, answers):
    answers += [
        sent(event("log", "1", "1"), event("log", "x" * 5000, "2")),
        sent(event("log", "2", "2"), event("end", {})),
    ]
    line.cuts = [(b"GET", 2000)]
    assert listened(Calls(line.url, lambda: "")) == [("log", "1"), ("log", "2")]


def test_a_service_that_stays_away_is_given_up(calls, answers, monkeypatch):
    monkeypatch.setattr(places, "PATIENCE", 0.2)
    answers += [sent(event("log", "1", "1")), (502, "")]
    found = []
    with pytest.raises(
        PoolLost, match=r"HTTP status 502.*not touched: once it is back, `mlaas-condor watch a_1`"
    ):
        found.extend(
            each.content for each in listening.listen(calls, "/logs", {}, Patience("a_1", "once it is back"))
        )
    assert found == ["1"]


def test_what_is_not_ours_is_told(calls, answers):
    answers.append(sent("data: {\n\n"))
    with pytest.raises(MlaasError, match="is it of another version"):
        listened(calls)


# --- downloads


BUNDLE = bytes(range(256)) * 4000


@pytest.fixture
def model(app):
    """Serve a file as the real service does; its content and its tag can be changed."""
    kept = {"content": BUNDLE, "etag": "one", "asked": []}

    @app.get("/api/v1/model")
    def send_model():
        kept["asked"].append((request.method, request.headers.get("Range")))
        return send_file(
            io.BytesIO(kept["content"]), mimetype="application/gzip", conditional=True, etag=kept["etag"]
        )

    return kept


def left(folder):
    return sorted(each.name for each in folder.iterdir())


def test_a_file_comes_whole_and_progress_is_told(calls, model, tmp_path):
    told = []
    downloading.fetch(calls, "/model", tmp_path / "a.tar.gz", told=lambda *step: told.append(step))
    assert (tmp_path / "a.tar.gz").read_bytes() == BUNDLE and left(tmp_path) == ["a.tar.gz"]
    assert told[0] == (0, len(BUNDLE)) and told[-1] == (len(BUNDLE), len(BUNDLE))


def test_a_download_goes_on_where_it_broke_off(line, model, tmp_path):
    line.cuts = [(b"GET", 300_000), (b"GET", 0), (b"GET", 300_000)]
    downloading.fetch(Calls(line.url, lambda: ""), "/model", tmp_path / "a", told=lambda *_: None)
    assert (tmp_path / "a").read_bytes() == BUNDLE and left(tmp_path) == ["a"]
    ranges = [asked for method, asked in model["asked"] if method == "GET"]
    begins = [int(asked[6:-1]) if asked else 0 for asked in ranges]
    assert begins[0] == 0 < begins[-1] and begins == sorted(begins)


def test_nor_does_another_command_begin_anew(line, model, tmp_path):
    line.cuts = [(b"GET", 300_000)] + [(b"GET", 0)] * 20
    calls = Calls(line.url, lambda: "")
    with pytest.raises(PoolUnreachable):
        downloading.fetch(calls, "/model", tmp_path / "a")
    (name,) = left(tmp_path)
    assert (
        name.startswith(".a.")
        and name.endswith(".part")
        and 0 < (tmp_path / name).stat().st_size < len(BUNDLE)
    )
    line.cuts.clear()
    downloading.fetch(calls, "/model", tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == BUNDLE and left(tmp_path) == ["a"]
    assert model["asked"][-1][1]


def test_another_version_is_fetched_from_its_beginning(line, model, tmp_path):
    line.cuts = [(b"GET", 300_000)] + [(b"GET", 0)] * 20
    with pytest.raises(PoolUnreachable):
        downloading.fetch(Calls(line.url, lambda: ""), "/model", tmp_path / "a")
    model["content"], model["etag"] = BUNDLE[::-1], "two"
    line.cuts.clear()
    downloading.fetch(Calls(line.url, lambda: ""), "/model", tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == BUNDLE[::-1] and left(tmp_path) == ["a"]


def test_also_one_that_comes_meanwhile(calls, model, tmp_path):
    def told(done, size):
        if model["etag"] == "one" and done:
            model["content"], model["etag"] = b"new" * 1000, "two"
            raise requests.ConnectionError("lost")

    downloading.fetch(calls, "/model", tmp_path / "a", told=told)
    assert (tmp_path / "a").read_bytes() == b"new" * 1000 and left(tmp_path) == ["a"]


def test_what_is_here_already_in_whole_is_not_fetched_again(calls, model, tmp_path):
    downloading.fetch(calls, "/model", tmp_path / "a")
    part = downloading._Version('"one"', 0).part(tmp_path / "a")
    (tmp_path / "a").rename(part)
    model["asked"].clear()
    downloading.fetch(calls, "/model", tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == BUNDLE and [method for method, _ in model["asked"]] == ["HEAD"]


def test_what_came_damaged_is_thrown_away(calls, model, tmp_path):
    with pytest.raises(MlaasError, match="came damaged, and was thrown away"):
        downloading.fetch(calls, "/model", tmp_path / "a", is_whole=lambda _: False)
    assert left(tmp_path) == []


def test_a_place_that_is_none_is_told(calls, model, tmp_path):
    with pytest.raises(errors.CannotWrite, match="No such file or directory"):
        downloading.fetch(calls, "/model", tmp_path / "none" / "a")
