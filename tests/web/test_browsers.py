"""What a browser may make the service do, and what its pages may."""

import time
from types import SimpleNamespace

import pytest
from flask import Flask, g, jsonify

from mlaas_condor.server import browsers
from mlaas_condor.server.configuration import Configuration
from mlaas_condor.server.faults import HttpFault
from mlaas_condor.server.identity import Identity
from mlaas_condor.server.service import EXTENSION

OURS = "http://localhost:8080"
SAME = {"Sec-Fetch-Site": "same-origin", "Origin": OURS}


def small_app(method="session", **listen):
    """An application with one view for each kind of request, that says who asked for what."""
    app = Flask("small")
    configuration = Configuration.model_validate({"service": listen})
    app.extensions[EXTENSION] = SimpleNamespace(configuration=configuration, secret=b"k" * 32)

    @app.before_request
    def begin():
        browsers.check_host(configuration)
        g.identity = Identity("jane", method=method)
        browsers.check_origin(g.identity)

    app.after_request(browsers.protect)

    @app.errorhandler(HttpFault)
    def refused(error):
        return jsonify(error=str(error), code=error.code), error.http_status

    methods = ["GET", "POST", "PUT", "DELETE"]

    @app.route("/token")
    def token():
        return browsers.csrf_token(g.identity)

    @app.route("/<path:path>", methods=methods)
    def anything(path):
        return jsonify(page=browsers.wants_page())

    return app


@pytest.fixture
def client():
    return small_app().test_client()


def ask(client, method="POST", path="/runs/luca_1/cancel", headers=None, **more):
    return client.open(path, method=method, base_url=OURS, headers=headers or {}, **more)


def token(client):
    return ask(client, "GET", "/token").text


def test_a_form_of_ours_with_the_token_is_taken(client):
    assert ask(client, headers=SAME, data={"csrf": token(client)}).status_code == 200


def test_a_script_of_ours_sends_the_token_as_a_header(client):
    given = {**SAME, "X-CSRF-Token": token(client)}
    assert ask(client, "PUT", "/api/v1/folders/luca", given, data=b"archive").status_code == 200


@pytest.mark.parametrize("method", ["session", "proxy", "none"])
@pytest.mark.parametrize("data", [{}, {"csrf": ""}, {"csrf": "0" * 64}, {"csrf": "ü"}])
def test_without_the_token_it_is_refused(method, data):
    reply = ask(small_app(method).test_client(), headers=SAME, data=data)
    assert reply.status_code == 403
    assert "load it anew" in reply.json["error"]


@pytest.mark.parametrize("headers", [
    {"Sec-Fetch-Site": "cross-site", "Origin": "https://evil.example"},
    {"Sec-Fetch-Site": "same-site", "Origin": "http://other.localhost:8080"},
    {"Origin": "https://evil.example"},
    {"Origin": "null"},
    {"Origin": "http://localhost:8081"},
    {"Origin": "file://"},
    {"Origin": "http://["},
    {"Referer": "https://evil.example/localhost:8080"},
    {"Sec-Fetch-Site": "same-origin", "Origin": "http://localhost:8080.evil.example"},
])  # fmt: skip
def test_another_site_is_refused_even_with_the_token(client, headers):
    reply = ask(client, headers=headers, data={"csrf": token(client)})
    assert reply.status_code == 403
    assert "another site" in reply.json["error"]


def test_the_token_is_of_one_owner_and_of_two_days(client, monkeypatch):
    given = {**SAME, "X-CSRF-Token": token(client)}
    other = small_app()
    other.extensions[EXTENSION].secret = b"l" * 32
    assert ask(other.test_client(), headers=given).status_code == 403
    now = time.time()
    for days, status in ((1, 200), (2, 403)):
        monkeypatch.setattr(browsers.time, "time", lambda days=days: now + days * 86_400)
        assert ask(client, headers=given).status_code == status


def test_a_program_with_a_token_of_its_own_needs_none_of_ours():
    reply = ask(small_app("token").test_client(), headers={"Origin": "https://evil.example"})
    assert reply.status_code == 200  # nothing but the program itself adds that token


@pytest.mark.parametrize(("method", "status"), [("proxy", 200), ("none", 200), ("session", 403)])
def test_curl_needs_one_only_with_a_cookie_of_ours(method, status):
    assert ask(small_app(method).test_client()).status_code == status


@pytest.mark.parametrize("path", ["/delete_specs?name=luca", "/delete_folder?name=luca"])
def test_the_old_gets_that_delete_are_no_links(path):
    client = small_app("none").test_client()
    assert ask(client, "GET", path).status_code == 200
    for site in ("cross-site", "same-origin", "none"):
        assert ask(client, "GET", path, {"Sec-Fetch-Site": site}).status_code == 403
    assert ask(client, "GET", path, {**SAME, "X-CSRF-Token": token(client)}).status_code == 200


def test_looking_needs_nothing(client):
    headers = {"Sec-Fetch-Site": "cross-site", "Origin": "https://evil.example"}
    assert ask(client, "GET", "/runs/luca_1", headers).status_code == 200


def test_behind_a_proxy_with_tls_the_origin_is_what_users_see():
    app = small_app(url="https://mlaas.example")
    client = app.test_client()
    given = {"X-CSRF-Token": token(client), "Sec-Fetch-Site": "same-origin"}
    assert ask(client, headers={**given, "Origin": "https://mlaas.example"}).status_code == 200
    assert ask(client, headers={**given, "Origin": "https://mlaas.example:444"}).status_code == 403


@pytest.mark.parametrize(("listen", "host", "answered"), [
    ({}, "localhost:8080", True),
    ({}, "127.0.0.1:8080", True),
    ({}, "127.0.0.5", True),
    ({}, "[::1]:8080", True),
    ({}, "LOCALHOST.", True),
    ({}, "evil.example:8080", False),
    ({}, "127.0.0.1.evil.example", False),
    ({}, "localhost@evil.example", False),
    ({}, "10.0.0.1", False),
    ({"host": "localhost"}, "127.0.0.1", True),
    ({"url": "https://mlaas.example:8443"}, "mlaas.example:8443", True),
    ({"url": "https://mlaas.example:8443"}, "mlaas.example", True),
    ({"url": "https://mlaas.example"}, "evil.example", False),
    ({"host": "10.0.0.1"}, "10.0.0.1:8080", True),
    ({"host": "10.0.0.1"}, "localhost:8080", False),
    ({"host": "2001:db8::1"}, "[2001:db8::1]:8080", True),
    ({"host": "0.0.0.0"}, "10.0.0.1", True),
    ({"host": "::"}, "[2001:db8::1]", True),
    ({"host": "0.0.0.0"}, "evil.example", False),
])  # fmt: skip
def test_only_requests_for_our_hosts_are_answered(listen, host, answered):
    reply = small_app("token", **listen).test_client().get("/runs", headers={"Host": host})
    assert reply.status_code == (200 if answered else 421), reply.text
    if not answered:
        assert reply.json["code"] == "wrong_host"


CHROMIUM = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,*/*;q=0.8"


@pytest.mark.parametrize(("method", "path", "accept", "page"), [
    ("GET", "/runs/luca_1", CHROMIUM, True),
    ("GET", "/api", CHROMIUM, True),
    ("GET", "/submit", CHROMIUM, True),
    ("POST", "/submit/form", CHROMIUM, True),
    ("GET", "/runs/luca_1", "*/*", False),
    ("GET", "/runs/luca_1", "application/json", False),
    ("GET", "/runs/luca_1", "", False),
    ("GET", "/api/v1/runs", CHROMIUM, False),
    ("POST", "/submit", CHROMIUM, False),
    ("GET", "/status", CHROMIUM, False),
    ("GET", "/openapi.json", CHROMIUM, False),
    ("DELETE", "/runs/luca_1", CHROMIUM, False),
])  # fmt: skip
def test_pages_are_for_who_asks_for_pages(method, path, accept, page):
    reply = ask(small_app("token").test_client(), method, path, {"Accept": accept})
    assert reply.json == {"page": page}


def test_every_reply_says_what_a_browser_may_do_with_it(client):
    headers = ask(client, "GET", "/token").headers
    policy = headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self';")
    assert "unsafe" not in policy
    assert "frame-ancestors 'none'" in policy
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Referrer-Policy"] == "same-origin"
    assert headers["Cross-Origin-Opener-Policy"] == "same-origin"
    assert headers["Cache-Control"] == "no-store"
    assert "camera=()" in headers["Permissions-Policy"]
    assert "Strict-Transport-Security" not in headers


def test_what_a_view_says_of_it_stays():
    app = small_app("token")

    @app.get("/report")
    def report():
        return "", {"Content-Security-Policy": "sandbox", "Cache-Control": "no-cache"}

    headers = ask(app.test_client(), "GET", "/report").headers
    assert headers["Content-Security-Policy"] == "sandbox"
    assert headers["Cache-Control"] == "no-cache"


@pytest.mark.parametrize(("listen", "base"), [
    ({"url": "https://mlaas.example"}, "http://mlaas.example"),
    ({}, "https://localhost"),
])  # fmt: skip
def test_with_tls_browsers_are_told_to_stay_with_it(listen, base):
    reply = small_app("token", **listen).test_client().get("/token", base_url=base)
    assert reply.headers["Strict-Transport-Security"].startswith("max-age=")
