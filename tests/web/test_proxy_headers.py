"""The headers of OAuth2-Proxy and of CMS's auth-proxy-server, as the files in ``images/`` have them sent.

Both are replayed from what the programs do, version 7.15 of the one and the state of 2025 of the other, with
their configurations in ``images/``: a change there changes what is sent here.
"""

from __future__ import annotations

import base64
import getpass
import hashlib
import hmac
import json
import tomllib
from pathlib import Path

import pytest
from login_app import application, configured

from mlaas_condor.errors import RequestError
from mlaas_condor.server.app import create_app
from mlaas_condor.server.configuration import Configuration
from mlaas_condor.server.login import Login
from mlaas_condor.server.login.proxy_headers import signature
from mlaas_condor.server.serving.exchange import headers_of

IMAGES = Path(__file__).parents[2] / "images"
PASSWORD = "a password of the tests"
KEY = b"\x00a key of the tests\n"
PROXY = "127.0.0.1"

JANE = {
    "sub": "4f2c-jane",
    "email": "jane@example.org",
    "preferred_username": "jane",
    "wlcg.groups": ["/cms", "/cms/higgs"],
}
BARE = {
    "sub": "4f2c-joe",
    "email": "4f2c-joe",
}  # an access token without profile: the proxy takes sub for email
CRIC = {
    "NAME": "Jane Doe",
    "LOGIN": "jane",
    "DN": "/DC=ch/DC=cern/CN=jane",
    "ROLES": {"user": ["group:users"], "operator": ["group:dbs", "site:T2_IT_Legnaro"]},
}


def of_images(folder, tmp_path):
    """Return the configuration of ``images/``, with secrets of the tests."""
    files = {"password_file": PASSWORD.encode() + b"\n", "hmac_key_file": KEY}
    read = tomllib.loads((IMAGES / folder / "service.toml").read_text("utf-8"))
    for name, content in files.items():
        if name in read["login"]["proxy"]:
            path = tmp_path / name
            path.write_bytes(content)
            read["login"]["proxy"][name] = str(path)
    return Configuration.model_validate(read)


@pytest.fixture
def oauth2(tmp_path):
    return application(of_images("oauth2-proxy", tmp_path)).test_client()


@pytest.fixture
def cms(tmp_path):
    return application(of_images("auth-proxy-server", tmp_path)).test_client()


def of_oauth2_proxy(claims, **changed):
    """Return what OAuth2-Proxy adds to the request of who has these claims."""
    set_to = tomllib.loads((IMAGES / "oauth2-proxy" / "oauth2-proxy.cfg").read_text("utf-8")) | changed
    sent, user = {}, claims["email"] if set_to["prefer_email_to_user"] else claims["sub"]
    if set_to["pass_basic_auth"]:
        sent["Authorization"] = "Basic " + base64.b64encode(f"{user}:{PASSWORD}".encode()).decode()
    if set_to["pass_basic_auth"] or set_to["pass_user_headers"]:
        said = {
            "X-Forwarded-Groups": ",".join(claims.get(set_to["oidc_groups_claim"], [])),
            "X-Forwarded-User": user,
            "X-Forwarded-Email": claims["email"],
            "X-Forwarded-Preferred-Username": claims.get("preferred_username", ""),
        }
        sent |= {name: value for name, value in said.items() if value}
    if set_to["pass_access_token"]:
        sent["X-Forwarded-Access-Token"] = "eyJ.of.jane"
    # It stands in front, and says so; nobody has to believe it.
    return sent | {
        "X-Forwarded-For": "192.0.2.7",
        "X-Forwarded-Proto": "https",
        "Host": "mlaas.example.org:4433",
    }


def of_auth_proxy_server(user, client=None, method="X509Cert", key=KEY):
    """Return what auth-proxy-server sends of who is in CRIC, beside ``cms-*`` headers of the client's own."""
    set_to = json.loads((IMAGES / "auth-proxy-server" / "config.json").read_text("utf-8"))
    assert set_to["cms_headers"] and set_to["hmac"].endswith("/hmac")
    sent = {name.lower(): value for name, value in (client or {}).items()}
    sent |= {"cms-auth-status": "ok", "cms-authn-name": user.get("NAME", "<nil>"), "cms-authn-method": method}
    if "LOGIN" in user:
        sent |= {"cms-authn-dn": user["DN"], "cms-auth-cert": user["DN"], "cms-authn-login": user["LOGIN"]}
        sent |= {f"cms-authz-{role}": " ".join(where) for role, where in user["ROLES"].items()}
    elif method == "X509Cert":
        sent["cms-authn-login"] = "<nil>"
    signed = {name: value for name, value in sent.items() if name.startswith(("cms-authn", "cms-authz"))}
    sent["cms-authn-hmac"] = by_the_book(key, signed)
    return sent | {
        "cms-email": "[jane@example.org]", "cms-auth-expire": "1893456000", "cms-session": "<nil>",
        "X-Forwarded-For": "192.0.2.7:40000", "Referer": f"https://{set_to['X-Forwarded-Host']}",
    }  # fmt: skip


def by_the_book(key, headers):
    """Sign headers as CMS describes it, in other words than the program's."""
    head = tail = ""
    for name in sorted(headers):
        head += "h" + format(len(name), "x") + "v" + format(len(headers[name].encode("utf-8")), "x")
        tail += name + headers[name]
    return hmac.new(key, (head + "#" + tail).encode("utf-8"), hashlib.sha1).hexdigest()


def get(client, headers, peer=PROXY):
    return client.get("/", headers=headers, environ_overrides={"REMOTE_ADDR": peer})


def refusal(client, headers, peer=PROXY):
    answer = get(client, headers, peer)
    assert answer.status_code == 401, answer.text
    assert answer.headers["WWW-Authenticate"] == 'Bearer realm="mlaas-condor"'
    assert PASSWORD not in answer.text
    return answer.json["error"]


# OAuth2-Proxy


def test_oauth2_proxy_says_who_it_is(oauth2):
    assert get(oauth2, of_oauth2_proxy(JANE)).json == {
        "owner": "4f2c-jane", "name": "jane", "groups": ["/cms", "/cms/higgs"], "actions": None,
        "administrator": False, "method": "proxy", "token": "",
    }  # fmt: skip


def test_a_token_without_a_profile_is_enough(oauth2):
    answer = get(oauth2, of_oauth2_proxy(BARE)).json
    assert (answer["owner"], answer["name"], answer["groups"]) == ("4f2c-joe", "4f2c-joe", [])


def test_the_access_token_is_remembered_where_the_proxy_passes_it(oauth2):
    assert get(oauth2, of_oauth2_proxy(JANE, pass_access_token=True)).json["token"] == "eyJ.of.jane"


def test_administrators_are_found_in_groups(oauth2):
    admin = JANE | {"wlcg.groups": ["/cms/mlaas-admins"]}
    assert get(oauth2, of_oauth2_proxy(admin)).json["administrator"] is True


def test_nobody_is_nobody(oauth2, cms):
    for client in (oauth2, cms):
        assert get(client, {"X-Forwarded-For": "192.0.2.7"}).status_code == 401
        assert get(client, {"Authorization": "Bearer eyJ.of.jane"}).status_code == 401


@pytest.mark.parametrize("peer", ["192.0.2.7", "127.0.0.2", "::1", "10.0.0.1", "", "unix:", "not an address"])
def test_the_same_headers_of_elsewhere_are_refused(oauth2, cms, peer):
    assert "believed of the proxy only" in refusal(oauth2, of_oauth2_proxy(JANE), peer)
    assert "believed of the proxy only" in refusal(cms, of_auth_proxy_server(CRIC), peer)


@pytest.mark.parametrize("what", ["User", "Email", "Groups", "Preferred-Username", "Access-Token"])
def test_one_of_them_of_elsewhere_is_enough_to_be_refused(oauth2, what):
    name = f"X-Forwarded-{what}"
    assert name in refusal(oauth2, {name: "jane"}, "192.0.2.7")


@pytest.mark.parametrize(
    "name", ["X-Forwarded-For", "X-Real-IP", "Forwarded", "X-Client-IP", "True-Client-IP"]
)
def test_what_a_client_says_of_its_address_is_not_looked_at(oauth2, name):
    forged = of_oauth2_proxy(JANE) | {name: PROXY if name != "Forwarded" else f"for={PROXY}"}
    refusal(oauth2, forged, "192.0.2.7")


def test_the_address_is_the_real_one_also_where_something_replaced_it(oauth2):
    replaced = {"REMOTE_ADDR": PROXY, "werkzeug.proxy_fix.orig": {"REMOTE_ADDR": "192.0.2.7"}}
    answer = oauth2.get("/", headers=of_oauth2_proxy(JANE), environ_overrides=replaced)
    assert answer.status_code == 401


@pytest.mark.parametrize(
    ("addresses", "peer", "status"),
    [
        (["10.1.0.0/16"], "10.1.2.3", 200),
        (["10.1.0.0/16"], "10.2.0.1", 401),
        (["10.1.2.3"], "::ffff:10.1.2.3", 200),
        (["2001:db8::/64"], "2001:db8::7", 200),
        (["2001:db8::/64"], "2001:db8:1::7", 401),
        (["192.0.2.1", "192.0.2.2"], "192.0.2.2", 200),
    ],
)
def test_addresses_may_be_networks(addresses, peer, status):
    behind = configured(method="proxy", proxy={"addresses": addresses}, service={"host": "0.0.0.0"})
    answer = get(application(behind).test_client(), {"X-Forwarded-User": "jane"}, peer)
    assert answer.status_code == status


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"X-Forwarded-User": "4f2c-jane,4f2c-joe"}, "sent twice"),
        ({"X-Forwarded-User": "4f2c-jane,"}, "sent twice"),
        ({"X-Forwarded-User": ""}, "not X-Forwarded-User"),
        ({"X-Forwarded-User": None}, "not X-Forwarded-User"),
        ({"X-Forwarded-User": "ja\tne"}, "cannot be seen"),
        ({"X-Forwarded-User": "ja\x7fne"}, "cannot be seen"),
        ({"X-Forwarded-User": "\xff\xfe"}, "neither ASCII nor UTF-8"),
        ({"X-Forwarded-User": "j" * 300}, "no name"),
        ({"X-Forwarded-Email": "a@x.ch,b@x.ch"}, "sent twice"),
        ({"X-Forwarded-Preferred-Username": "jane,joe"}, "sent twice"),
        ({"X-Forwarded-Groups": "/cms,/a\tb"}, "cannot be seen"),
        ({"X-Forwarded-Access-Token": "eyJ.a.b,eyJ.c.d"}, "sent twice"),
        ({"X-Forwarded-User": "4f2c-joe"}, "with its password"),
        ({"Authorization": None}, "with its password"),
        ({"Authorization": "Bearer eyJ.of.jane"}, "with its password"),
        ({"Authorization": "Basic !!!"}, "with its password"),
        ({"Authorization": "Basic " + base64.b64encode(b"4f2c-jane:").decode()}, "with its password"),
        ({"Authorization": "Basic " + base64.b64encode(b"4f2c-jane:guess").decode()}, "with its password"),
    ],
)
def test_odd_headers_of_the_proxy_are_refused(oauth2, changed, said):
    headers = of_oauth2_proxy(JANE) | changed
    assert said in refusal(oauth2, {name: value for name, value in headers.items() if value is not None})


def test_names_outside_ascii_are_read(oauth2):
    headers = of_oauth2_proxy(JANE) | {"X-Forwarded-Preferred-Username": "Jürgen".encode().decode("latin-1")}
    assert get(oauth2, headers).json["name"] == "Jürgen"


def test_groups_may_be_empty(oauth2):
    for value in ("", ",", " , "):
        assert get(oauth2, of_oauth2_proxy(JANE) | {"X-Forwarded-Groups": value}).json["groups"] == []


def test_a_header_with_an_underscore_is_not_the_one_with_a_hyphen():
    sent = [
        ("x-forwarded-user", "joe"),
        ("x_forwarded_user", "jane"),
        ("X_Forwarded-Groups", "/cms/mlaas-admins"),
    ]
    for given in (sent, sent[::-1]):
        assert headers_of(given) == {"HTTP_X_FORWARDED_USER": "joe"}
    assert headers_of([("x-forwarded-user", "joe"), ("X-Forwarded-User", "jane")]) == {
        "HTTP_X_FORWARDED_USER": "joe,jane"  # and the comma is refused
    }


# auth-proxy-server


def test_auth_proxy_server_says_who_it_is(cms):
    answer = get(cms, of_auth_proxy_server(CRIC)).json
    assert answer == {
        "owner": "jane", "name": "Jane Doe", "groups": [], "actions": None,
        "administrator": True, "method": "proxy", "token": "",
    }  # fmt: skip


def test_the_signature_is_cms_own():
    headers = {
        "cms-authn-login": "jane",
        "cms-authz-user": "group:users",
        "cms-authn-name": "Jürgen",
        "cms-auth-status": "ok",
    }
    # Lengths in hexadecimal, in bytes; the order of the names; nothing of cms-auth-status.
    text = "hfv4hev7hevb#cms-authn-loginjanecms-authn-nameJürgencms-authz-usergroup:users"
    assert signature(KEY, headers) == hmac.new(KEY, text.encode(), "sha1").hexdigest()
    assert signature(KEY, headers | {"cms-authn-hmac": "anything"}) == signature(KEY, headers)


@pytest.mark.parametrize(
    "changed",
    [
        {"cms-authn-login": "joe"},
        {"cms-authn-name": "Joe"},
        {"cms-authn-dn": "/CN=joe"},
        {"cms-authz-admin": "group:dbs"},
        {"cms-authn-extra": ""},
        {"cms-authn-hmac": ""},
        {"cms-authn-hmac": "0" * 40},
        {"cms-authn-hmac": None},
        {"cms-authn-dn": None},
        {"cms-authn-login": "jane,jane"},
    ],
)
def test_headers_that_are_not_signed_are_refused(cms, changed):
    headers = of_auth_proxy_server(CRIC) | changed
    said = refusal(cms, {name: value for name, value in headers.items() if value is not None})
    assert "cms-authn-hmac is not of these headers" in said


def test_another_key_is_not_ours(cms):
    refusal(cms, of_auth_proxy_server(CRIC, key=KEY.strip()))


def test_a_name_that_does_not_arrive_is_named(cms):
    headers = of_auth_proxy_server(CRIC | {"NAME": "Jürgen"})
    del headers["cms-authn-name"]  # what granian does with letters outside ASCII
    assert "cms-authn-name did not arrive" in refusal(cms, headers)


@pytest.mark.parametrize("status", ["NONE", "", "no", None])
def test_who_the_proxy_does_not_know_is_nobody(cms, status):
    headers = of_auth_proxy_server(CRIC) | {"cms-auth-status": status}
    assert "not ok" in refusal(cms, {name: value for name, value in headers.items() if value is not None})


def test_who_has_no_account_in_cric_is_nobody(cms):
    assert "CERN account" in refusal(cms, of_auth_proxy_server({"NAME": "Jane Doe"}))


def test_roles_may_be_the_clients_own_and_are_no_groups(cms, tmp_path):
    forged = of_auth_proxy_server(CRIC, client={"Cms-Authz-Admin": "group:mlaas"})
    assert forged["cms-authz-admin"] == "group:mlaas"  # signed by the proxy, as the client wrote it
    assert get(cms, forged).json["groups"] == []
    dropped = of_images("auth-proxy-server", tmp_path)
    proxy = dropped.login.proxy.model_copy(update={"client_headers_dropped": True})
    login = dropped.login.model_copy(update={"proxy": proxy})
    believing = application(dropped.model_copy(update={"login": login})).test_client()
    assert get(believing, of_auth_proxy_server(CRIC)).json["groups"] == [
        "user:group:users", "operator:group:dbs", "operator:site:T2_IT_Legnaro",
    ]  # fmt: skip


def test_a_login_of_the_token_mode_may_be_the_clients_own_and_is_not_believed(cms):
    nobody = {"NAME": "Eve"}  # has a token, is not in CRIC
    forged = of_auth_proxy_server(nobody, {"Cms-Authn-Login": "jane", "Cms-Auth-Cert": "x"}, method="oauth")
    assert forged["cms-authn-login"] == "jane"
    assert "may be one that the client sent" in refusal(cms, forged)


def test_the_headers_of_the_other_proxy_say_nothing(oauth2, cms):
    assert get(oauth2, of_auth_proxy_server(CRIC)).status_code == 401
    assert get(cms, of_oauth2_proxy(JANE)).status_code == 401


@pytest.mark.parametrize(
    "browser", [{}, {"Sec-Fetch-Site": "cross-site"}, {"Origin": "https://evil.example"}]
)
def test_the_referer_that_the_proxy_writes_does_not_make_curl_a_browser(tmp_path, browser):
    """auth-proxy-server sends one with every request: old calls go on, other sites' pages do not."""
    client = create_app(of_images("auth-proxy-server", tmp_path)).test_client()
    headers = of_auth_proxy_server(CRIC) | {"Host": "127.0.0.1:8080"} | browser
    answer = client.get("/delete_specs?name=nothing", headers=headers)
    assert answer.status_code == (403 if browser else 404), answer.text


# Configuration


@pytest.mark.parametrize(
    ("proxy", "where"),
    [
        ({"addresses": ["0.0.0.0/0", "127.0.0.1"]}, "addresses"),
        ({"addresses": ["10.0.0.1"]}, "addresses"),
        ({"addresses": ["127.0.0.1"], "hmac_key_file": "/nowhere"}, "hmac_key_file"),
        ({"addresses": ["127.0.0.1"], "password_file": "/nowhere"}, "password_file"),
        ({"addresses": ["127.0.0.1"], "password_file": "/dev/null"}, "password_file"),
        ({"addresses": ["127.0.0.1"], "client_headers_dropped": True}, "client_headers_dropped"),
        ({"addresses": ["127.0.0.1"], "kind": "auth-proxy-server"}, "hmac_key_file"),
        (
            {"addresses": ["127.0.0.1"], "kind": "auth-proxy-server", "hmac_key_file": "/nowhere"},
            "hmac_key_file",
        ),
    ],
)
def test_contradictions_of_proxies_are_found_before_it_starts(proxy, where):
    configuration = configured(method="proxy", proxy=proxy)
    assert [each.where for each in Login.check(configuration)] == [f"service.toml: login.proxy.{where}"]
    with pytest.raises(RequestError):
        Login.of(configuration, b"secret")


def test_a_proxy_without_a_password_is_warned_of(tmp_path):
    assert "password_file" in Login.warning(configured(method="proxy", proxy={"addresses": ["127.0.0.1"]}))
    assert Login.warning(of_images("oauth2-proxy", tmp_path)) == ""
    assert Login.warning(of_images("auth-proxy-server", tmp_path)) == ""


@pytest.mark.parametrize("folder", ["oauth2-proxy", "auth-proxy-server"])
def test_the_files_in_images_fit_together(folder, tmp_path):
    configuration = of_images(folder, tmp_path)
    assert Login.check(configuration) == []
    upstream = f"http://{configuration.service.host}:{configuration.service.port}"
    if folder == "oauth2-proxy":
        set_to = tomllib.loads((IMAGES / folder / "oauth2-proxy.cfg").read_text("utf-8"))
        assert set_to["upstreams"] == [f"{upstream}/"]
        assert set_to["redirect_url"] == f"{configuration.service.url}/oauth2/callback"
        assert set_to["skip_jwt_bearer_tokens"] and set_to["skip_auth_strip_headers"]
        assert not set_to["pass_authorization_header"]  # it would stand beside the password
    else:
        set_to = json.loads((IMAGES / folder / "config.json").read_text("utf-8"))
        assert set_to["target_url"] == upstream and set_to["hmac"] == "/etc/auth-proxy-server/hmac"
        assert configuration.service.url == f"https://{set_to['X-Forwarded-Host']}"


# Nobody logs in


def test_without_a_log_in_it_is_the_account_of_the_service():
    answer = get(application(Configuration()).test_client(), {"Authorization": "Bearer anything"}).json
    assert (answer["owner"], answer["method"], answer["administrator"]) == (getpass.getuser(), "none", False)
    assert "nobody logs in" in Login.warning(Configuration()) and getpass.getuser() in Login.warning(
        Configuration()
    )


@pytest.mark.parametrize("peer", ["192.0.2.7", "", "0.0.0.0", "::ffff:192.0.2.7", "2001:db8::1"])
def test_without_a_log_in_others_are_refused(peer):
    assert "one user" in refusal(application(Configuration()).test_client(), {}, peer)


@pytest.mark.parametrize("peer", ["127.0.0.1", "127.8.9.10", "::1", "::ffff:127.0.0.1"])
def test_without_a_log_in_this_machine_is_not(peer):
    assert get(application(Configuration()).test_client(), {}, peer).status_code == 200


@pytest.mark.parametrize("name", ["X-Forwarded-For", "X-Forwarded-User", "Forwarded", "Via", "X-Real-IP"])
def test_without_a_log_in_a_proxy_lets_nobody_through(name):
    assert name in refusal(application(Configuration()).test_client(), {name: "jane"})


@pytest.mark.parametrize(
    ("section", "where"),
    [
        ({"service": {"host": "0.0.0.0"}}, "service.host"),
        ({"service": {"host": "::"}}, "service.host"),
        ({"service": {"host": "mlaas.example.org"}}, "service.host"),
        ({"service": {"url": "https://mlaas.example.org"}}, "service.url"),
        ({"jobs": {"submit_as": "user"}}, "jobs.submit_as"),
    ],
)
def test_without_a_log_in_nobody_else_may_come(section, where):
    configuration = Configuration.model_validate(section)
    assert [each.where for each in Login.check(configuration)] == [f"service.toml: {where}"]
    with pytest.raises(RequestError):
        Login.of(configuration, b"secret")
