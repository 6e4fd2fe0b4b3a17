"""Logging a browser in: at the provider, by pasting a token, through a proxy; and what strangers try."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import time
from urllib.parse import parse_qs, urlsplit

import issuers
import pytest
from login_app import SECRET, application, configured, taking_tokens

from mlaas_condor.server.login import Login
from mlaas_condor.server.login.goals import safe_goal
from mlaas_condor.server.login.sessions import Attempt, Sessions

CLIENT = "mlaas-pages"
SESSION, ATTEMPT, FORM = (f"mlaas-condor-{what}" for what in ("session", "attempt", "form"))


@pytest.fixture(scope="module")
def provider():
    with issuers.running() as running:
        yield running


@pytest.fixture
def secret(tmp_path):
    path = tmp_path / "secret"
    path.write_text("s3cret/of+the:client\n")
    return path


@pytest.fixture
def app(provider, secret):
    return application(taking_tokens(provider, client_id=CLIENT, client_secret_file=str(secret)))


@pytest.fixture
def browser(app):
    return app.test_client()


def begin(browser, goal="/runs/luca_1"):
    """Follow the link on the log-in page; return the issuer's address."""
    answer = browser.get("/login/begin", query_string={"next": goal})
    assert answer.status_code == 302
    return answer.location


def asked_in(address):
    return {name: values[0] for name, values in parse_qs(urlsplit(address).query).items()}


def log_in(browser, provider, subject="jane", goal="/runs/luca_1", **claims):
    """Go the whole way; return the answer that a browser ends with."""
    provider.user(subject, **claims)
    back = provider.consent(begin(browser, goal), subject=subject)
    parts = urlsplit(back)
    assert (parts.path, parts.netloc) == ("/login/callback", "localhost")
    return browser.get(f"{parts.path}?{parts.query}")


def form_of(browser, **query):
    """Return what the form on the log-in page carries."""
    page = browser.get("/login", query_string=query).text
    return dict(re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)">', page))


def paste(browser, token, **changed):
    return browser.post("/login/paste", data=form_of(browser) | {"token": token} | changed)


# At the provider


def test_a_browser_logs_in_at_the_provider(browser, provider):
    claims = {"wlcg.groups": ["/cms/higgs"], "name": "Jane Doe"}
    answer = log_in(browser, provider, "jane", **claims)
    assert (answer.status_code, answer.location) == (303, "/runs/luca_1")
    assert browser.get("/").json == {
        "owner": "jane", "name": "Jane Doe", "groups": ["/cms/higgs"], "actions": None,
        "administrator": False, "method": "session", "token": "",
    }  # fmt: skip


def test_the_provider_is_asked_as_it_should_be(browser, provider):
    asked = asked_in(begin(browser))
    assert asked | {"state": "", "nonce": "", "code_challenge": ""} == {
        "response_type": "code", "client_id": CLIENT, "redirect_uri": "http://localhost/login/callback",
        "scope": "openid profile email", "code_challenge_method": "S256",
        "state": "", "nonce": "", "code_challenge": "",
    }  # fmt: skip
    assert len({asked["state"], asked["nonce"], asked["code_challenge"]}) == 3
    assert asked_in(begin(browser))["state"] != asked["state"]


def test_the_code_is_exchanged_with_the_verifier_and_the_secret(browser, provider):
    log_in(browser, provider)
    asked = next(each for each in reversed(provider.forms()) if each["path"] == "/oauth2/authorize")
    form = provider.forms()[-1]
    digest = hashlib.sha256(form["code_verifier"].encode()).digest()
    assert base64.urlsafe_b64encode(digest).rstrip(b"=").decode() == asked["code_challenge"]
    assert form["grant_type"] == "authorization_code" and form["redirect_uri"] == asked["redirect_uri"]
    # In the form that RFC 6749 wants, which this provider leaves as it is.
    assert form["client"] == [CLIENT, "s3cret%2Fof%2Bthe%3Aclient"] and "client_secret" not in form


def test_a_client_without_a_secret_shows_the_verifier_only(provider):
    browser = application(taking_tokens(provider, client_id=CLIENT)).test_client()
    address = begin(browser)
    back = urlsplit(provider.consent(address))
    token = provider.token("jane", audience=CLIENT, nonce=asked_in(address)["nonce"])
    provider.answer("/oauth2/token", response=json.dumps({"id_token": token}))  # the provider wants a secret
    try:
        assert browser.get(f"{back.path}?{back.query}").status_code == 303
    finally:
        provider.answer("/oauth2/token")
    form = provider.forms()[-1]
    assert form["client"] is None and form["client_id"] == CLIENT and form["code_verifier"]


def test_a_secret_goes_into_the_form_where_the_provider_wants_that(secret):
    with issuers.running() as own:
        found = {
            "issuer": own.url, "jwks_uri": f"{own.url}/jwks", "token_endpoint": f"{own.url}/oauth2/token",
            "authorization_endpoint": f"{own.url}/oauth2/authorize",
            "token_endpoint_auth_methods_supported": ["client_secret_post"],
        }  # fmt: skip
        own.answer("/.well-known/openid-configuration", response=json.dumps(found))
        configuration = taking_tokens(own, client_id=CLIENT, client_secret_file=str(secret))
        assert log_in(application(configuration).test_client(), own).status_code == 303
        form = own.forms()[-1]
        assert form["client"] is None and form["client_secret"] == "s3cret/of+the:client"


def test_two_browsers_are_two_users(app, provider):
    one, other = app.test_client(), app.test_client()
    log_in(one, provider, "jane"), log_in(other, provider, "joe")
    assert [each.get("/").json["owner"] for each in (one, other)] == ["jane", "joe"]


def test_scopes_that_the_provider_grants_say_what_the_session_may_do(provider, secret):
    scopes = {"scopes": "required", "client_scopes": "openid compute.read"}
    only = taking_tokens(provider, client_id=CLIENT, client_secret_file=str(secret), **scopes)
    browser = application(only).test_client()
    assert log_in(browser, provider).status_code == 303
    assert browser.get("/").json["actions"] == []  # this provider grants openid only


@pytest.mark.parametrize(
    "changed",
    [
        {"state": "another"},
        {"state": None},
        {"code": "guessed"},
        {"code": None},
        {"iss": "https://evil.example"},
        {"error": "access_denied", "error_description": "The user says no"},
    ],
)
def test_an_answer_that_is_not_the_providers_is_refused(browser, provider, changed):
    answer = asked_in(provider.consent(begin(browser))) | changed
    sent = {name: value for name, value in answer.items() if value is not None}
    refused = browser.get("/login/callback", query_string=sent)
    assert (refused.status_code == 401 and "log in again" in refused.text) or "evil.example" in refused.text
    assert "WWW-Authenticate" in refused.headers and SESSION not in str(refused.headers)
    assert browser.get("/").status_code == 401


def test_the_user_may_say_no(browser, provider):
    back = urlsplit(provider.consent(begin(browser), action="deny"))
    refused = browser.get(f"{back.path}?{back.query}&state={asked_in(begin(browser))['state']}")
    assert refused.status_code == 401 and browser.get("/").status_code == 401


def test_an_answer_belongs_to_the_browser_that_began(app, provider):
    back = urlsplit(provider.consent(begin(app.test_client())))
    victim = app.test_client()
    assert victim.get(f"{back.path}?{back.query}").status_code == 401
    begin(victim)
    assert victim.get(f"{back.path}?{back.query}").status_code == 401
    assert victim.get("/").status_code == 401


def test_an_answer_is_good_once(browser, provider):
    back = urlsplit(provider.consent(begin(browser)))
    assert browser.get(f"{back.path}?{back.query}").status_code == 303
    again = browser.get(f"{back.path}?{back.query}")
    assert again.status_code == 401 and "took too long" in again.text


def test_a_token_of_another_log_in_is_refused(app, browser, provider, monkeypatch):
    stolen = provider.log_in("jane", client=CLIENT)  # of a log-in without a nonce of ours
    back = urlsplit(provider.consent(begin(browser)))
    told = {"id_token": stolen, "token_type": "Bearer", "access_token": "x"}
    provider.answer("/oauth2/token", response=json.dumps(told))
    try:
        refused = browser.get(f"{back.path}?{back.query}")
    finally:
        provider.answer("/oauth2/token")
    assert refused.status_code == 401 and "another log-in" in refused.text


@pytest.mark.parametrize(
    "changed", [{"audience": "another"}, {"seconds": -3600}, {"azp": "another"}, {"sub": None}]
)
def test_the_token_of_a_log_in_is_checked_as_any(browser, provider, changed):
    address = begin(browser)
    claims = provider.claims("jane", **{"audience": CLIENT, "nonce": asked_in(address)["nonce"]} | changed)
    back = urlsplit(provider.consent(address))
    provider.answer("/oauth2/token", response=json.dumps({"id_token": provider.signed(claims)}))
    try:
        assert browser.get(f"{back.path}?{back.query}").status_code == 401
    finally:
        provider.answer("/oauth2/token")
    assert browser.get("/").status_code == 401


def test_a_provider_that_is_away_says_so_on_the_page(secret):
    with issuers.running() as own:
        browser = application(
            taking_tokens(own, client_id=CLIENT, client_secret_file=str(secret))
        ).test_client()
        back = urlsplit(own.consent(begin(browser)))
        own.stop()
        answer = browser.get(f"{back.path}?{back.query}")
        assert answer.status_code == 503 and "<form" in answer.text
        fresh = application(taking_tokens(own, client_id=CLIENT)).test_client().get("/login/begin")
        assert fresh.status_code == 503 and "<form" in fresh.text


# Sessions


def test_a_session_holds_no_token_and_cannot_be_changed(browser, provider):
    log_in(browser, provider)
    text = browser.get_cookie(SESSION).value
    assert "eyJ" not in text[3:] and text.count(".") <= 2
    for forged in (text[:-2] + "AA", text[4:], "x", text.split(".")[0], text + text):
        browser.set_cookie(SESSION, forged)
        assert browser.get("/").status_code == 401
    browser.set_cookie(SESSION, text)
    assert browser.get("/").status_code == 200


def test_a_session_of_another_service_or_issuer_is_not_taken(browser, provider):
    log_in(browser, provider)
    cookie = browser.get_cookie(SESSION).value
    for configuration in (taking_tokens(provider, user_claim="email"), taking_tokens(provider)):
        another = application(configuration).test_client()
        another.set_cookie(SESSION, cookie)
        expected = 200 if configuration.login.tokens.user_claim == "sub" else 401
        assert another.get("/").status_code == expected
    stranger = Sessions(b"another secret", taking_tokens(provider))
    with application(taking_tokens(provider)).test_request_context(headers={"Cookie": f"{SESSION}={cookie}"}):
        from flask import request

        assert Sessions(SECRET, taking_tokens(provider)).read(request).owner == "jane"
        assert stranger.read(request) is None


def test_what_one_cookie_holds_is_not_taken_for_another(browser, provider):
    begin(browser)
    browser.set_cookie(SESSION, browser.get_cookie(ATTEMPT).value)
    assert browser.get("/").status_code == 401


def test_cookies_are_hidden_from_scripts_and_stay_with_us(browser, provider):
    answer = log_in(browser, provider)
    session = next(each for each in answer.headers.getlist("Set-Cookie") if each.startswith(SESSION))
    assert "HttpOnly" in session and "SameSite=Lax" in session and "Path=/" in session
    assert "Domain" not in session and "Secure" not in session  # http, on loopback


@pytest.mark.parametrize("how", ["url", "tls", "request"])
def test_over_https_cookies_stay_there(provider, how):
    section = {"url": "https://mlaas.example.org"} if how == "url" else None
    configuration = taking_tokens(provider, service=section)
    if how == "tls":
        tls = {"certificate": "host.crt", "key": "host.key"}
        configuration = configuration.model_validate({**configuration.model_dump(), "tls": tls})
    base = "https://localhost" if how == "request" else "http://localhost"
    browser = application(configuration).test_client(use_cookies=False)
    page = browser.get("/login", base_url=base)
    form = dict(re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)">', page.text))
    cookie = page.headers["Set-Cookie"]
    assert cookie.startswith(f"__Host-{FORM}=") and "Secure" in cookie and "Path=/" in cookie
    sent = {"Cookie": cookie.split(";")[0]}
    done = browser.post(
        "/login/paste", base_url=base, headers=sent, data=form | {"token": provider.token("jane")}
    )
    kept = next(each for each in done.headers.getlist("Set-Cookie") if "session" in each)
    assert kept.startswith(f"__Host-{SESSION}=") and "Secure" in kept
    insecure = kept.split(";")[0].removeprefix("__Host-")
    assert browser.get("/", base_url=base, headers={"Cookie": insecure}).status_code == 401
    assert browser.get("/", base_url=base, headers={"Cookie": kept.split(";")[0]}).status_code == 200


@pytest.mark.parametrize(("token", "kept", "longest"), [(3600, 8 * 3600, 3600), (7200, 60, 60)])
def test_a_session_ends_with_the_token_or_before(provider, monkeypatch, token, kept, longest):
    browser = application(taking_tokens(provider, session_seconds=kept)).test_client()
    assert paste(browser, provider.token("jane", seconds=token)).status_code == 303
    assert browser.get("/").json["owner"] == "jane"
    now = time.time()
    monkeypatch.setattr("mlaas_condor.server.login.sessions.time.time", lambda: now + longest - 30)
    assert browser.get("/").status_code == 200
    monkeypatch.setattr("mlaas_condor.server.login.sessions.time.time", lambda: now + longest + 1)
    assert browser.get("/").status_code == 401


def test_a_token_that_has_just_ended_begins_no_session(provider):
    browser = application(taking_tokens(provider)).test_client()
    refused = paste(browser, provider.token("jane", seconds=-5))  # a request would still do
    assert refused.status_code == 401 and "ended" in refused.text and browser.get_cookie(SESSION) is None


def test_a_token_comes_before_the_session(browser, provider):
    log_in(browser, provider, "jane")
    assert (
        browser.get("/", headers={"Authorization": f"Bearer {provider.token('joe')}"}).json["owner"] == "joe"
    )
    assert browser.get("/", headers={"Authorization": "Bearer x.y.z"}).status_code == 401


def test_many_groups_do_not_break_the_cookie(provider, caplog):
    login = {"administrator_groups": ["/cms/admins"]}
    browser = application(taking_tokens(provider, login=login)).test_client()
    groups = [f"/cms/{hashlib.sha256(str(n).encode()).hexdigest()[:24]}" for n in range(300)]
    token = provider.signed(provider.claims("jane", groups=groups) | {"groups": ["/cms/admins"]})
    assert paste(browser, token).status_code == 303
    assert len(browser.get_cookie(SESSION).value) < 4000
    who = browser.get("/").json
    assert who["administrator"] and who["groups"][1:] == groups[: len(who["groups"]) - 1]
    assert "of the 301 groups" in caplog.text


def test_logging_out_ends_it(browser, provider):
    log_in(browser, provider)
    assert browser.get("/logout").status_code == 405
    answer = browser.post("/logout")
    assert (answer.status_code, answer.location) == (303, "/login")
    assert browser.get_cookie(SESSION) is None and browser.get("/").status_code == 401


# Pasting a token


def test_a_token_can_be_pasted(provider):
    browser = application(taking_tokens(provider)).test_client()
    assert "login/begin" not in browser.get("/login").text
    token = provider.token("jane", groups=["/cms"], scope="compute.read")
    answer = paste(browser, f"  Bearer {token[:40]}\n{token[40:]}\r\n", next="/folders?x=1")
    assert (answer.status_code, answer.location) == (303, "/folders?x=1")
    who = browser.get("/").json
    assert (who["owner"], who["groups"], who["actions"], who["method"]) == (
        "jane",
        ["/cms"],
        ["read"],
        "session",
    )
    assert who["token"] == ""


@pytest.mark.parametrize("changed", [{"csrf": ""}, {"csrf": "x" * 43}, {"csrf": "ü"}])
def test_a_form_that_is_not_ours_is_refused(provider, changed):
    browser = application(taking_tokens(provider)).test_client()
    assert paste(browser, provider.token("jane"), **changed).status_code == 403
    assert browser.get("/").status_code == 401


def test_a_form_belongs_to_the_browser_that_was_shown_it(provider):
    app = application(taking_tokens(provider))
    form = form_of(app.test_client()) | {"token": provider.token("eve")}
    victim = app.test_client()
    assert victim.post("/login/paste", data=form).status_code == 403
    form_of(victim)
    assert victim.post("/login/paste", data=form).status_code == 403
    victim.set_cookie(FORM, "short")
    assert victim.post("/login/paste", data=form).status_code == 403


def test_a_bad_token_is_refused_on_the_page(provider):
    browser = application(taking_tokens(provider)).test_client()
    for token in (
        "nonsense",
        "",
        provider.token("jane", audience="another"),
        provider.token("jane")[:-4] + "AAAA",
    ):
        answer = paste(browser, token)
        assert (
            answer.status_code == 401
            and 'role="alert"' in answer.text
            and "WWW-Authenticate" in answer.headers
        )
        assert not token or token not in answer.text
    assert browser.get("/").status_code == 401


def test_several_pages_of_one_browser_do(provider):
    browser = application(taking_tokens(provider)).test_client()
    first, _ = form_of(browser), form_of(browser)
    assert browser.post("/login/paste", data=first | {"token": provider.token("jane")}).status_code == 303


def test_nothing_in_the_page_is_taken_for_html(provider):
    browser = application(taking_tokens(provider)).test_client()
    page = browser.get("/login", query_string={"next": '/"><script>alert(1)</script>'}).text
    assert "<script>" not in page
    answer = paste(browser, "eyJhbGciOiAiPHNjcmlwdD4ifQ.e30.AA")
    assert "<script>" not in answer.text and "&lt;script&gt;" in answer.text


# Where it goes on


@pytest.mark.parametrize(
    "goal",
    [
        "https://evil.example", "//evil.example", "///evil.example", "/\\evil.example", "\\\\evil.example",
        "/\t/evil.example", "/\n/evil.example", " //evil.example", "/ /evil.example", "javascript:alert(1)",
        "evil.example", "", "/é", "/%0a" + "x" * 3000, "/login", "/login/begin", "/logout",
        "http:/evil.example", "//[evil", "/\x00", "/\u2028",
    ],
)  # fmt: skip
def test_it_goes_on_at_our_own_pages_only(browser, provider, goal):
    assert safe_goal(goal) == "/"
    assert log_in(browser, provider, goal=goal).location == "/"
    assert paste(browser, provider.token("jane"), next=goal).location == "/"


@pytest.mark.parametrize(
    "goal", ["/", "/runs/luca_1", "/runs?state=held&name=a%20b", "/folders#x", "/r/..//x"]
)
def test_our_own_pages_are_gone_on_at(goal):
    assert safe_goal(goal) == goal


def test_the_address_that_the_provider_sends_back_to_is_the_configured_one(provider):
    behind = taking_tokens(provider, client_id=CLIENT, service={"url": "https://mlaas.example.org/"})
    browser = application(behind).test_client()
    asked = asked_in(browser.get("/login/begin", headers={"Host": "evil.example"}).location)
    assert asked["redirect_uri"] == "https://mlaas.example.org/login/callback"


# Other methods


def test_behind_a_proxy_the_proxy_logs_in_and_out():
    behind = configured(method="proxy", proxy={"addresses": ["127.0.0.1"]})
    app, jane = application(behind), {"X-Forwarded-User": "jane"}
    assert (
        'href="/oauth2/start?rd=/runs"'
        in app.test_client().get("/login", query_string={"next": "/runs"}).text
    )
    assert app.test_client().get("/login", query_string={"next": "/runs"}, headers=jane).location == "/runs"
    assert app.test_client().get("/login", headers=jane).location == "/"
    answer = app.test_client().post("/logout", headers=jane)
    assert (answer.status_code, answer.location) == (303, "/oauth2/sign_out")
    login = Login.of(behind, SECRET)
    assert login.can_log_out and login.sign_out == "/oauth2/sign_out"


def test_behind_cms_proxy_there_is_a_word_about_certificates(tmp_path):
    (tmp_path / "hmac").write_bytes(b"key")
    proxy = {"kind": "auth-proxy-server", "addresses": ["127.0.0.1"], "hmac_key_file": str(tmp_path / "hmac")}
    behind = configured(method="proxy", proxy=proxy)
    assert "certificate" in application(behind).test_client().get("/login").text
    assert not Login.of(behind, SECRET).can_log_out


def test_where_nobody_logs_in_there_is_nothing_to_do():
    browser = application(configured()).test_client()
    assert browser.get("/login", query_string={"next": "/runs"}).location == "/runs"
    assert not Login.of(configured(), SECRET).can_log_out


@pytest.mark.parametrize("path", ["/login/begin", "/login/callback?state=x&code=y", "/login/paste"])
def test_what_a_method_does_not_have_is_not_there(path):
    for configuration in (configured(), configured(method="proxy", proxy={"addresses": ["127.0.0.1"]})):
        client = application(configuration).test_client()
        assert client.open(path, method="POST" if path.endswith("paste") else "GET").status_code == 404


def test_an_attempt_is_not_to_be_guessed():
    first, second = Attempt.begin("/"), Attempt.begin("/")
    assert len({first.state, first.nonce, first.verifier, second.state, second.nonce, second.verifier}) == 6
    assert 43 <= len(first.verifier) <= 128 and re.fullmatch(r"[\w.~-]+", first.verifier)
