"""Delegation: a real client and a real server on loopback; no key travels, nothing wrong is taken."""

import json
import os
import shutil
import socket
import stat
import subprocess
import threading
import time
from contextlib import contextmanager

import pytest
from credential_tools import DAY, HOUR, Authority, issue, pem, pem_of_key, proxy_by_hand, save
from flask import Flask, Response, request
from werkzeug.serving import WSGIRequestHandler, make_server

from mlaas_condor.errors import CannotWrite, CredentialFault, WrongState
from mlaas_condor.grid import certificates, delegating
from mlaas_condor.grid.delegating import delegate
from mlaas_condor.grid.delegation import Requests
from mlaas_condor.grid.renewal import WrongSetting
from mlaas_condor.server.delegation import blueprint

JANE, JOHN = "/DC=test/CN=Jane Doe", "/DC=test/CN=John Roe"
TOKENS = {"Bearer janes": "jane", "Bearer johns": "john"}


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def jane(authority):
    return proxy_by_hand(authority.credential(JANE), seconds=2 * DAY)


@pytest.fixture
def proxy(jane, tmp_path):
    return save(jane, tmp_path / "x509up")


@pytest.fixture
def store(authority, tmp_path):
    return Requests(tmp_path / "delegated", authority.certificates)


class Quiet(WSGIRequestHandler):
    def log(self, *_):
        pass


@contextmanager
def served(app, **options):
    """Serve an application on loopback; give its address."""
    server = make_server("127.0.0.1", 0, app, threaded=True, request_handler=Quiet, **options)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http{'s' if options else ''}://localhost:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def app(store):
    """The service; who calls is known by the token; all that comes and goes is recorded."""
    app = Flask("test")
    app.recorded = []
    app.register_blueprint(blueprint(store, lambda: TOKENS.get(request.headers.get("Authorization", ""), "")))

    @app.before_request
    def note_request():
        app.recorded.append(
            f"{request.method} {request.path}\n{request.headers}\n{request.get_data(as_text=True)}"
        )

    @app.after_request
    def note_answer(response):
        app.recorded.append(f"{response.status}\n{response.headers}\n{response.get_data(as_text=True)}")
        return response

    return app


@pytest.fixture
def server(app):
    with served(app) as url:
        yield url


# --- the whole way


def test_a_service_gets_a_proxy_of_its_own_and_no_private_key_travels(server, app, store, proxy, jane):
    done = delegate(server, proxy, 12 * HOUR, "janes")
    assert (done.server, done.identity) == (server, JANE)
    assert done.ends == pytest.approx(time.time() + 12 * HOUR, abs=60)
    path = store.proxy_of("jane")
    made = certificates.load(path)
    assert (made.identity, made.level, made.ends) == (JANE, 2, done.ends)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert [each.name for each in path.parent.iterdir()] == ["proxy.pem"], "the request is gone"
    travelled = "\n".join(app.recorded)
    assert travelled.count("BEGIN CERTIFICATE REQUEST") == 1 and "BEGIN CERTIFICATE-----" in travelled
    assert "PRIVATE" not in travelled
    for key in (jane.key, made.key):
        # Whatever way it is written down: a line out of the middle of it.
        line = pem_of_key(key).splitlines()[10]
        assert line not in travelled
    assert "jane" not in str(path), "nor does the folder say whose it is"


def test_it_lasts_no_longer_than_the_proxy_it_is_made_from(server, jane, proxy):
    assert delegate(server, proxy, 30 * DAY, "janes").ends == jane.ends


def test_what_is_delegated_can_be_looked_at_renewed_and_deleted(server, app, store, proxy):
    client = app.test_client()
    headers = {"Authorization": "Bearer janes"}
    nothing = {"service": "mlaas-condor", "identity": None, "ends": None}
    assert client.get("/api/v1/delegation", headers=headers).json == nothing
    first = delegate(server, proxy, HOUR, "janes")
    second = delegate(server, proxy, 2 * HOUR, "janes")
    assert second.ends > first.ends
    answer = client.get("/api/v1/delegation", headers=headers)
    assert answer.json == {"service": "mlaas-condor", "identity": JANE, "ends": second.ends}
    assert answer.headers["Cache-Control"] == "no-store"
    assert store.proxy_of("john") is None
    assert client.delete("/api/v1/delegation", headers={"Authorization": "Bearer johns"}).status_code == 200
    assert store.proxy_of("jane")
    assert client.delete("/api/v1/delegation", headers=headers).status_code == 200
    assert store.proxy_of("jane") is None


def test_who_is_not_known_gets_nothing(server, app, store, proxy):
    with pytest.raises(CredentialFault, match=r"does not know who you are: say who you are.*--token-file"):
        delegate(server, proxy, HOUR)
    for method, path in (("get", ""), ("post", "/request"), ("put", "/0"), ("delete", "")):
        answer = getattr(app.test_client(), method)(f"/api/v1/delegation{path}")
        assert (answer.status_code, answer.headers["WWW-Authenticate"]) == (401, "Bearer")
        assert answer.json["service"] == "mlaas-condor", "so that the client knows whom it tells"


# --- what the service does not take


def begin(store, owner="jane"):
    number, text = store.begin(owner)
    return number, lambda holder, seconds=HOUR: certificates.sign_request(text, holder, seconds)


def refused(store, number, answer, told, kind=CredentialFault, owner="jane"):
    with pytest.raises(kind, match=told):
        store.finish(owner, number, answer)
    assert store.proxy_of(owner) is None


def test_a_certificate_of_another_key_is_refused(store, jane):
    number, _ = begin(store)
    _, sign_another = begin(store)
    refused(store, number, sign_another(jane), "the key does not belong to the certificate")
    stolen = certificates.make_proxy(jane, HOUR)
    refused(store, number, "".join(map(pem, stolen.chain)), "the key does not belong to the certificate")


def test_somebody_elses_request_an_unknown_and_an_old_one_are_refused_alike(store, jane):
    number, sign = begin(store)
    gone = "there is no such request, or it is older than an hour"
    refused(store, number, sign(jane), gone, WrongState, owner="john")
    for wrong in ("0" * 32, "", "../../etc/passwd", number.upper() + "x", f"{number}\n"):
        refused(store, wrong, sign(jane), gone, WrongState)
    [key] = store._of("jane").glob("*.key")
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    os.utime(key, (time.time() - 3601,) * 2)
    refused(store, number, sign(jane), gone, WrongState)
    assert not key.exists()


def test_an_answer_is_good_for_once(store, jane):
    number, sign = begin(store)
    store.finish("jane", number, sign(jane))
    with pytest.raises(WrongState, match="no such request"):
        store.finish("jane", number, sign(jane))


def test_a_chain_that_is_none_or_has_ended_is_refused(store, jane, authority):
    number, sign = begin(store)
    good = sign(jane)
    parts = [f"{part}-----END CERTIFICATE-----\n" for part in good.split("-----END CERTIFICATE-----\n")[:-1]]
    assert len(parts) == 3
    refused(store, number, parts[0], "ends before the certificate of a person|no authority")
    refused(store, number, parts[0] + parts[2], "is not one chain")
    refused(store, number, "nonsense", "holds no certificate")
    refused(store, number, good * 9, "too long for a chain")
    refused(store, number, good + pem_of_key(jane.key), "holds a private key, which nobody should send")
    other = proxy_by_hand(Authority(authority.directory / "other", "/DC=test/CN=Other").credential(JANE))
    refused(store, number, sign(other), "none of the authorities trusted here issued")
    _, text = store.begin("jane")
    ended = proxy_by_hand(authority.credential(JANE), begins=-DAY, seconds=-HOUR)
    with pytest.raises(CredentialFault, match="ended on"):
        certificates.sign_request(text, ended, HOUR)


def test_nobody_becomes_somebody_else_by_a_certificate_of_an_own_making(store, authority):
    """Jane's key signs what looks like a certificate of John's, and a proxy of that."""
    person = authority.credential(JANE)
    forged, key = issue(JOHN, person.leaf.subject, person.key)
    holder = certificates.Credential((forged, *person.chain), key)
    number, sign = begin(store)
    refused(store, number, sign(holder), "holds a certificate that no authority issued")
    refused(Requests(store._folder), number, sign(holder), "holds a certificate that no authority issued")


def test_intermediate_authorities_are_found_in_the_folder_of_the_trusted(store, authority):
    name = "/DC=test/CN=Middle"
    middle, key = issue(name, authority.certificate.subject, authority.key, ca=True)
    leaf, leaf_key = issue(JANE, middle.subject, key)
    holder = certificates.Credential((leaf,), leaf_key)
    number, sign = begin(store)
    refused(store, number, sign(holder), "none of the authorities trusted here")
    (authority.certificates / "middle.pem").write_text(pem(middle))
    try:
        assert store.finish("jane", number, sign(holder))
    finally:
        (authority.certificates / "middle.pem").unlink()


def test_what_is_no_proxy_or_one_of_an_old_kind_is_refused(store, authority):
    from cryptography import x509

    person = authority.credential(JANE)
    for subject, told in (("x", "is no proxy"), ("proxy", "a proxy of an old kind")):
        number, text = store.begin("jane")
        key = x509.load_pem_x509_csr(text.encode()).public_key()
        name = f"{JANE}/CN={subject}"

        class Asked:  # a key pair of which we have the public half
            @staticmethod
            def public_key(key=key):
                return key

        certificate, _ = issue(name, person.leaf.subject, person.key, key=Asked)
        refused(store, number, pem(certificate) + pem(person.leaf), told)


def test_the_identity_stays_until_the_owner_deletes_it(store, jane, authority):
    number, sign = begin(store)
    store.finish("jane", number, sign(jane))
    john = proxy_by_hand(authority.credential(JOHN))
    number, sign = begin(store)
    with pytest.raises(
        WrongState, match=f"is of {JANE}, and this one of {JOHN}: delete the delegation first"
    ):
        store.finish("jane", number, sign(john))
    store.drop("jane")
    number, sign = begin(store)
    assert certificates.load(store.finish("jane", number, sign(john))).identity == JOHN


def test_requests_of_one_owner_do_not_pile_up(store):
    numbers = [store.begin("jane")[0] for _ in range(18)]
    left = {path.stem for path in store._of("jane").glob("*.key")}
    assert len(left) == 16 and numbers[-1] in left
    for path in store._of("jane").glob("*.key"):
        os.utime(path, (1, 1))
    store.begin("jane")
    assert len(list(store._of("jane").glob("*.key"))) == 1


def test_a_full_or_forbidden_disk_is_told(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(CannotWrite, match="no request can be kept"):
        Requests(tmp_path / "file").begin("jane")


@pytest.mark.parametrize(
    ("body", "status", "told"),
    [
        ("[]", 400, 'send {"certificates"'),
        ('{"certificates": 3}', 400, 'send {"certificates"'),
        ("{", 400, 'send {"certificates"'),
        ('{"certificates": "x"}', 409, "no such request"),
        ('{"certificates": "' + "x" * 140_000 + '"}', 413, "a chain of certificates, and short"),
    ],
)
def test_bodies_that_are_none_are_answered_with_a_sentence(app, body, status, told):
    headers = {"Authorization": "Bearer janes", "Content-Type": "application/json"}
    answer = app.test_client().put(f"/api/v1/delegation/{'0' * 32}", data=body, headers=headers)
    assert answer.status_code == status and told in answer.json["error"]


def test_a_wrong_chain_is_422_over_http(app, store, jane):
    number, _ = begin(store)
    _, sign_another = begin(store)
    headers = {"Authorization": "Bearer janes"}
    body = {"certificates": sign_another(jane)}
    answer = app.test_client().put(f"/api/v1/delegation/{number}", json=body, headers=headers)
    assert answer.status_code == 422 and "the key does not belong" in answer.json["error"]


# --- what the client does not do


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("http://mlaas.example.org", "is not https"),
        ("http://localhost.example.org", "is not https"),
        ("ftp://localhost", "is no address"),
        ("mlaas.example.org", "is no address"),
        ("https://", "is no address"),
        ("https://mlaas.example.org:port", "is no address"),
        ("https://jane:secret@mlaas.example.org", "holds a user or password"),
        ("https://mlaas.example.org/?a=b", "is no address"),
    ],
)
def test_addresses_that_are_none_or_not_safe_are_refused(url, told, proxy):
    with pytest.raises(WrongSetting, match=told) as error:
        delegate(url, proxy, HOUR)
    assert "secret" not in str(error.value)
    assert error.value.exit_code == 2 and "submitted" not in str(error.value)


@pytest.mark.parametrize("seconds", [0, -1, float("nan"), float("inf")])
def test_a_time_that_is_none_is_refused(seconds, proxy):
    with pytest.raises(WrongSetting, match="--hours"):
        delegate("http://localhost", proxy, seconds)


def test_a_service_that_is_not_there_is_told_apart_from_one_that_refuses(proxy, monkeypatch):
    with pytest.raises(CredentialFault, match="is not known: is the name right"):
        delegate("https://no-such-host.invalid", proxy, HOUR)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://localhost:{free.getsockname()[1]}"
        with pytest.raises(CredentialFault, match="refuses the connection: does the service run there"):
            delegate(url, proxy, HOUR)
        free.listen()
        monkeypatch.setattr(delegating, "ANSWER_SECONDS", 0.3)
        with pytest.raises(CredentialFault, match=r"does not answer within 0\.3 s"):
            delegate(url, proxy, HOUR)


def other_service(status=200, body="", headers=()):
    app = Flask("other")
    app.recorded = []

    @app.route("/", defaults={"path": ""}, methods=["GET", "POST", "PUT"])
    @app.route("/<path:path>", methods=["GET", "POST", "PUT"])
    def everything(path):
        app.recorded.append(f"{request.method} {path} {request.headers} {request.get_data(as_text=True)}")
        return Response(body, status, dict(headers))

    return app


@pytest.mark.parametrize(
    ("status", "body", "told"),
    [
        (200, "<html>", "is no service of mlaas-condor: nothing was signed"),
        (200, "[1]", "is no service of mlaas-condor"),
        (200, '{"service": "another"}', "is no service of mlaas-condor"),
        (404, "", "is no service of mlaas-condor"),
        (403, '{"error": "not in the VO"}', "does not allow it: not in the VO"),
        (500, "", "refused with HTTP status 500"),
        (200, '{"service": "mlaas-condor"}', "does not give 'id': is its version another one"),
        (200, '{"service": "mlaas-condor", "id": "1", "request": "no"}', "this is no request"),
    ],
)
def test_for_a_service_that_is_not_ours_nothing_is_signed(status, body, told, proxy):
    app = other_service(status, body)
    with served(app) as url, pytest.raises(CredentialFault, match=told):
        delegate(url, proxy, HOUR, "janes")
    assert "CERTIFICATE" not in "".join(app.recorded)


@pytest.mark.parametrize(
    ("status", "body", "asks"),
    [
        (200, "<html>", ""),
        (404, "", ""),
        (401, "", 'Basic realm="wiki"'),
        (401, "", ""),
        (500, "", ""),
        (401, "", "Bearer"),
        (401, '{"error": "say who you are"}', "Bearer"),
        (401, '{"service": "another"}', "Bearer"),
        (401, '{"service": ["mlaas-condor"]}', "Bearer"),
        (401, '{"service": "mlaas-condor"}', "Basic"),
    ],
)
def test_the_token_goes_only_to_a_service_of_ours_that_asks_for_one(status, body, asks, proxy):
    app = other_service(status, body, {"WWW-Authenticate": asks}.items() if asks else ())
    with served(app) as url, pytest.raises(CredentialFault):
        delegate(url, proxy, HOUR, "janes")
    assert len(app.recorded) == 1 and "janes" not in app.recorded[0]


def test_a_token_that_a_service_does_not_know_is_told(server, app, proxy):
    with pytest.raises(CredentialFault, match="does not know who you are"):
        delegate(server, proxy, HOUR, "nobodys")
    asked = [each for each in app.recorded if each.startswith("GET")]
    assert ["Bearer nobodys" in each for each in asked] == [False, True]


def test_a_service_that_sends_elsewhere_is_not_followed(proxy):
    there = other_service(200, '{"service": "mlaas-condor"}')
    with served(there) as elsewhere:
        here = other_service(302, "", {"Location": f"{elsewhere}/api/v1/delegation"}.items())
        with served(here) as url, pytest.raises(CredentialFault, match="sends elsewhere"):
            delegate(url, proxy, HOUR, "janes")
    assert there.recorded == []


def test_a_service_with_a_certificate_that_is_not_trusted_gets_no_token(
    proxy, authority, tmp_path, monkeypatch
):
    from cryptography import x509

    alternative = x509.SubjectAlternativeName([x509.DNSName("localhost")]), False
    certificate, key = authority.pair("/DC=test/CN=localhost", stem="host", extensions=[alternative])
    app = other_service(200, '{"service": "mlaas-condor"}')
    with served(app, ssl_context=(str(certificate), str(key))) as url:
        monkeypatch.setenv("X509_CERT_DIR", str(tmp_path))
        with pytest.raises(CredentialFault, match="has a certificate that is not trusted here"):
            delegate(url, proxy, HOUR, "janes")
        assert app.recorded == []
        monkeypatch.setenv("X509_CERT_DIR", str(authority.certificates))
        with pytest.raises(CredentialFault, match="does not give 'id'"):
            delegate(url, proxy, HOUR, "janes")
    assert "Bearer" not in app.recorded[0] and "Bearer janes" in app.recorded[1]


def test_a_token_with_a_line_end_is_refused_before_anything_is_sent(server, app, proxy):
    with pytest.raises(CredentialFault, match="what no token has") as error:
        delegate(server, proxy, HOUR, "secret\r\nHost: other")
    assert "secret" not in str(error.value) and app.recorded == []


def test_a_proxy_that_has_ended_or_is_none_is_told_before_anything_is_sent(server, app, authority, tmp_path):
    ended = save(proxy_by_hand(authority.credential(JANE), begins=-DAY, seconds=-60), tmp_path / "ended")
    with pytest.raises(CredentialFault, match="ended on"):
        delegate(server, ended, HOUR, "janes")
    with pytest.raises(CredentialFault, match="there is no"):
        delegate(server, tmp_path / "none", HOUR, "janes")
    assert app.recorded == []


# --- the command


def test_the_command_delegates_and_says_until_when(server, proxy, tmp_path, monkeypatch, capsys):
    import typer

    from mlaas_condor.cli import renewing as commands

    app = typer.Typer()
    commands.add_to(app)
    (tmp_path / "token").write_text("janes\n")
    given = ["delegate", "--server", server, "--proxy", str(proxy), "--hours", "2"]
    app([*given, "--token-file", str(tmp_path / "token")], standalone_mode=False)
    assert f"{server} may act for {JANE} until" in capsys.readouterr().out
    monkeypatch.setenv("MLAAS_CONDOR_TOKEN", "janes")
    app([*given, "--json"], standalone_mode=False)
    assert json.loads(capsys.readouterr().out)["identity"] == JANE
    with pytest.raises(CredentialFault, match=r"the token in .* cannot be read: No such file"):
        app([*given, "--token-file", str(tmp_path / "none")], standalone_mode=False)


def test_openssl_takes_what_came_of_it(server, store, proxy, authority, tmp_path):
    """Not only our own reading of it: storage uses OpenSSL's."""
    delegate(server, proxy, HOUR, "janes")
    made = certificates.load(store.proxy_of("jane"))
    (tmp_path / "leaf.pem").write_text(pem(made.leaf))
    (tmp_path / "rest.pem").write_text("".join(map(pem, made.chain[1:])))
    assert shutil.which("openssl")
    command = ["openssl", "verify", "-allow_proxy_certs", "-CAfile", authority.file]
    command += ["-untrusted", tmp_path / "rest.pem", tmp_path / "leaf.pem"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
