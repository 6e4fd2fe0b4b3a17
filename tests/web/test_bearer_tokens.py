"""Bearer tokens of an OpenID provider that runs: taken, refused, and when its keys change or it is away."""

from __future__ import annotations

import base64
import json
import re
import time
import tomllib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import issuers
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from login_app import application, configured, taking_tokens

from mlaas_condor.errors import RequestError
from mlaas_condor.server.configuration import Configuration, Tokens
from mlaas_condor.server.faults import Unauthorized, Unavailable
from mlaas_condor.server.login import Login, issuer
from mlaas_condor.server.login.keys import keys_of
from mlaas_condor.server.login.tokens import Verifier

DISCOVERY = "/.well-known/openid-configuration"


@pytest.fixture(scope="module")
def provider():
    with issuers.running() as running:
        yield running


@pytest.fixture(scope="module")
def client(provider):
    return application(taking_tokens(provider)).test_client()


@pytest.fixture
def own():
    """A provider that a test may stop, and whose keys it may change."""
    with issuers.running() as running:
        yield running


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


def verifier_of(provider, clock, **tokens):
    section = Tokens.model_validate({"issuer": provider.url, "audience": ["mlaas-condor"], **tokens})
    return Verifier(section, issuer.Issuer(provider.url, section.keys_seconds, clock))


def get(client, token, scheme="Bearer"):
    return client.get("/", headers={"Authorization": f"{scheme} {token}"})


def refusal(client, token):
    """Return what is said of a token that is refused."""
    answer = get(client, token)
    assert answer.status_code == 401, answer.text
    challenge = answer.headers["WWW-Authenticate"]
    assert challenge.startswith('Bearer realm="mlaas-condor", error="invalid_token", error_description="')
    assert challenge.isascii() and token not in answer.text + challenge
    return answer.json["error"]


# Taken


def test_an_access_token_says_who_it_is(provider, client):
    answer = get(client, token := provider.token("jane", groups=["/cms", "/cms/higgs"]))
    assert answer.json == {
        "owner": "jane", "name": "Jane", "groups": ["/cms", "/cms/higgs"], "actions": None,
        "administrator": False, "method": "token", "token": token,
    }  # fmt: skip


def test_two_users_are_two_owners(provider, client):
    assert [get(client, provider.token(name)).json["owner"] for name in ("jane", "joe")] == ["jane", "joe"]


def test_an_id_token_by_the_way_of_the_provider_does(provider, client):
    token = provider.log_in("joe", **{"wlcg.groups": ["/cms"], "name": "Joe Doe"})
    assert "kid" not in jwt.get_unverified_header(token)  # this provider names no key
    answer = get(client, token).json
    assert (answer["owner"], answer["name"], answer["groups"]) == ("joe", "Joe Doe", ["/cms"])


def test_the_scheme_may_be_written_in_any_case(provider, client):
    assert get(client, provider.token("jane"), "bEARER").status_code == 200


@pytest.mark.parametrize("kind", [None, "JWT", "at+jwt", "application/at+jwt"])
def test_types_of_tokens_that_issuers_write(provider, client, kind):
    assert get(client, provider.token("jane", head={"typ": kind})).status_code == 200


@pytest.mark.parametrize("audience", ["mlaas-condor", ["https://other.example", "mlaas-condor"]])
def test_one_fitting_audience_is_enough(provider, client, audience):
    assert get(client, provider.token("jane", audience=audience)).status_code == 200


def test_any_audience_of_wlcg_counts_only_where_it_is_configured(provider, client):
    token = provider.token("jane", audience="https://wlcg.cern.ch/jwt/v1/any")
    assert "jwt/v1/any" in refusal(client, token)
    everywhere = taking_tokens(provider, audience=["mlaas-condor", "https://wlcg.cern.ch/jwt/v1/any"])
    assert get(application(everywhere).test_client(), token).status_code == 200


@pytest.mark.parametrize(
    ("scope", "needed", "actions"),
    [
        ("", "optional", None),
        ("openid storage.read:/", "optional", None),
        ("compute.read", "optional", ["read"]),
        ("openid compute.create compute.read", "required", ["create", "read"]),
        ("compute.modify compute.cancel", "required", ["cancel", "modify"]),
        ("compute.everything", "optional", []),
        ("", "required", []),
        ("COMPUTE.READ xcompute.read", "required", []),
    ],
)  # fmt: skip
def test_scopes_say_what_one_may_do(provider, scope, needed, actions):
    client = application(taking_tokens(provider, scopes=needed)).test_client()
    assert get(client, provider.token("jane", scope=scope)).json["actions"] == actions


def test_groups_of_several_claims_come_together_once(provider, client):
    claims = provider.claims("jane", groups=["/cms", "/cms", "", 7, "a\nb"])
    token = provider.signed(claims | {"groups": ["/cms", "higgs"]})
    assert get(client, token).json["groups"] == ["/cms", "higgs"]


def test_who_has_no_name_is_shown_by_the_owner(provider, client):
    assert get(client, provider.token("4f2c", preferred_username=None)).json["name"] == "4f2c"
    assert (
        get(client, provider.token("4f2c", preferred_username="a\r\nb", email="j@x.ch")).json["name"]
        == "j@x.ch"
    )


def test_another_claim_may_name_the_user(provider):
    client = application(taking_tokens(provider, user_claim="cern_upn")).test_client()
    assert get(client, provider.token("4f2c", cern_upn="jane")).json["owner"] == "jane"
    assert "cern_upn" in refusal(client, provider.token("4f2c"))


def test_administrators_are_named_or_in_a_group(provider):
    login = {"administrators": ["joe"], "administrator_groups": ["/cms/admins"]}
    client = application(taking_tokens(provider, login=login)).test_client()
    assert get(client, provider.token("joe")).json["administrator"] is True
    assert get(client, provider.token("ann", groups=["/cms/admins"])).json["administrator"] is True
    assert get(client, provider.token("jane", groups=["/cms/admins2"])).json["administrator"] is False


def test_elliptic_curves_are_taken(own):
    key = ec.generate_private_key(ec.SECP256R1())
    public = json.loads(jwt.algorithms.ECAlgorithm.to_jwk(key.public_key()))
    own.answer(
        "/jwks", response=json.dumps({"keys": [{"kty": "oct", "k": "AAAA"}, public | {"kid": "curve"}]})
    )
    token = own.signed(own.claims("jane"), key, "ES256", {"kid": "curve"})
    assert get(application(taking_tokens(own)).test_client(), token).json["owner"] == "jane"
    wrong = own.signed(own.claims("jane"), key, "ES256", {"kid": "curve"})[:-4] + "AAAA"
    assert "not signed" in refusal(application(taking_tokens(own)).test_client(), wrong)


# Refused


def test_nobody_is_nobody(client):
    assert client.get("/").status_code == 401


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"seconds": -3600}, "ended"),
        ({"nbf": 99_999_999_999}, "not valid yet"),
        ({"iat": 99_999_999_999}, "not valid yet"),
        ({"exp": None}, "exp"),
        ({"exp": "tomorrow"}, "does not do"),
        ({"audience": "another"}, "'another'"),
        ({"audience": ["another", "mlaas-condor2"]}, "mlaas-condor2"),
        ({"audience": None}, "does not say whom"),
        ({"audience": []}, "does not say whom"),
        ({"audience": 7}, "'7'"),
        ({"iss": "https://evil.example"}, "evil.example"),
        ({"iss": None}, "it has to be of"),
        ({"iss": ["a", "b"]}, "it has to be of"),
        ({"sub": None}, "whose it is"),
        ({"sub": ""}, "whose it is"),
        ({"sub": " jane"}, "whose it is"),
        ({"sub": "ja\nne"}, "whose it is"),
        ({"sub": "ja\u202ene"}, "whose it is"),
        ({"sub": "j" * 256}, "whose it is"),
        ({"sub": ["jane"]}, "whose it is"),
        ({"sub": 7}, "whose it is"),
    ],
)
def test_what_a_token_says_is_checked(provider, client, changed, said):
    assert said in refusal(client, provider.token("jane", **changed))


def test_clocks_may_differ_by_half_a_minute(provider, client):
    assert get(client, provider.token("jane", seconds=-15)).status_code == 200
    assert get(client, provider.token("jane", nbf=int(time.time()) + 15)).status_code == 200


@pytest.mark.parametrize(
    ("head", "said"),
    [
        ({"typ": "logout+jwt"}, "logout+jwt"),
        ({"typ": "dpop+jwt"}, "dpop+jwt"),
        ({"typ": "JWE"}, "JWE"),
        ({"crit": ["exp"], "exp": 1}, "no JWT"),
        ({"kid": "../../etc/passwd"}, "not signed"),
    ],
)
def test_the_head_of_a_token_is_checked(provider, client, head, said):
    assert said in refusal(client, provider.token("jane", head=head))


def test_another_key_of_the_same_name_does_not_do(provider, client):
    forged = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    assert "not signed" in refusal(client, provider.signed(provider.claims("jane"), forged))
    nameless = provider.signed(provider.claims("jane"), forged, head={"kid": None})
    assert "not signed" in refusal(client, nameless)


def test_a_key_in_the_token_itself_is_not_looked_at(provider, client):
    forged = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    public = json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(forged.public_key()))
    for head in ({"jwk": public}, {"jku": "https://evil.example/keys"}, {"x5u": "https://evil.example/x"}):
        assert "not signed" in refusal(client, provider.signed(provider.claims("jane"), forged, head=head))


def part(content):
    return base64.urlsafe_b64encode(json.dumps(content).encode()).rstrip(b"=").decode()


@pytest.mark.parametrize("name", ["none", "None", "NONE", "nOnE", "", None, 7, ["RS256"]])
def test_no_signature_is_none(provider, client, name):
    head = {"typ": "JWT", "alg": name, "kid": provider.key["kid"]}
    for signature in ("", "AAAA"):
        refusal(client, f"{part(head)}.{part(provider.claims('jane'))}.{signature}")


@pytest.mark.parametrize("name", ["HS256", "HS384", "HS512"])
def test_the_public_key_is_no_secret(provider, client, name):
    import hashlib
    import hmac

    signed = (
        f"{part({'typ': 'JWT', 'alg': name, 'kid': provider.key['kid']})}.{part(provider.claims('jane'))}"
    )
    for secret in (provider.public_pem(), provider.public_pem().strip(), provider.key["n"].encode()):
        digest = hmac.new(secret, signed.encode(), getattr(hashlib, name.replace("HS", "sha"))).digest()
        token = f"{signed}.{base64.urlsafe_b64encode(digest).rstrip(b'=').decode()}"
        assert name in refusal(client, token)


@pytest.mark.parametrize("name", ["HS256", "none", "NONE", "RS1", "ES256K", ""])
def test_symmetric_signatures_are_refused_also_where_they_are_configured(provider, name):
    configuration = taking_tokens(provider, algorithms=["RS256", name])
    assert [each.where for each in Login.check(configuration)] == ["service.toml: login.tokens.algorithms"]
    with pytest.raises(RequestError, match="only the issuer can make"):
        Login.of(configuration, b"secret")
    careless = Verifier(configuration.login.tokens, issuer.Issuer(provider.url, 60))
    with pytest.raises(Unauthorized, match="is taken"):
        careless.verify(f"{part({'alg': name, 'typ': 'JWT'})}.{part(provider.claims('jane'))}.")


def test_an_algorithm_that_is_not_configured_is_not_taken(provider):
    client = application(taking_tokens(provider, algorithms=["ES256"])).test_client()
    assert "RS256" in refusal(client, provider.token("jane"))


@pytest.mark.parametrize(
    "token",
    [
        "x", "x.y", "x.y.z", "..", "a.b.c.d.e", "ey" * 100, "eyJhbGciOiJSUzI1NiJ9..", "é.é.é", "%00.%00.%00",
        "eyJhbGciOiJSUzI1NiJ9.W10.AAAA", f"{part({'alg': 'RS256'})}.{part([1])}.AAAA",
        base64.urlsafe_b64encode(b"[" * 6000).decode() + ".e30.AA", "x" * 20_000, "e30.e30.e30",
        f"{part({'alg': 'RS256', 'kid': 7})}.{part({})}.AAAA", f"{part('RS256')}.{part({})}.AAAA",
    ],
)  # fmt: skip
def test_what_is_no_token_is_refused(client, token):
    answer = client.get("/", headers={"Authorization": f"Bearer {token}".encode().decode("latin-1")})
    assert answer.status_code == 401
    assert answer.headers["WWW-Authenticate"].isascii()


@pytest.mark.parametrize(
    "sent", ["Basic amFuZTpqYW5l", "Bearer", "Bearer ", "", "Token x", "Digest a=b", "bearer\t"]
)
def test_other_ways_to_say_it_are_refused(client, sent):
    assert client.get("/", headers={"Authorization": sent}).status_code == 401


def test_two_tokens_are_refused(provider, client):
    both = f"Bearer {provider.token('jane')},Bearer {provider.token('joe')}"  # as a server joins two headers
    answer = client.get("/", headers={"Authorization": both})
    assert answer.status_code == 401 and 'error="invalid_request"' in answer.headers["WWW-Authenticate"]


def test_a_token_is_taken_from_the_header_only(provider, client):
    token = provider.token("jane")
    assert client.get("/", query_string={"access_token": token}).status_code == 401
    assert (
        client.get("/", headers={"X-Forwarded-Access-Token": token, "X-Forwarded-User": "jane"}).status_code
        == 401
    )


def test_an_address_that_is_not_verified_is_nobody(provider):
    client = application(taking_tokens(provider, user_claim="email")).test_client()
    assert get(client, provider.token("4f2c", email="jane@x.ch")).json["owner"] == "jane@x.ch"
    assert (
        get(client, provider.token("4f2c", email="jane@x.ch", email_verified=True)).json["owner"]
        == "jane@x.ch"
    )
    assert "verified" in refusal(client, provider.token("4f2c", email="jane@x.ch", email_verified=False))


# Keys


def test_keys_are_asked_for_once(own, clock):
    verifier = verifier_of(own, clock)
    for name in ("jane", "joe") * 5:
        verifier.verify(own.token(name))
    assert own.asked() == 1 == own.asked(DISCOVERY)


def test_many_at_once_ask_once(own, clock):
    verifier, tokens = verifier_of(own, clock), [own.token(f"user{n}") for n in range(16)]
    with ThreadPoolExecutor(16) as pool:
        users = [claims["sub"] for claims in pool.map(verifier.verify, tokens)]
    assert users == [f"user{n}" for n in range(16)]
    assert own.asked() == 1


def test_who_has_keys_does_not_wait_for_who_asks(own, clock):
    one = issuer.Issuer(own.url, 600, clock)
    verifier = Verifier(Tokens.model_validate({"issuer": own.url, "audience": ["mlaas-condor"]}), one)
    token = own.token("jane")
    verifier.verify(token)
    clock.now += 700
    with one._lock:  # as another thread has it, while it waits for an issuer that hangs
        assert verifier.verify(token)["sub"] == "jane"
        with pytest.raises(Unauthorized, match="not signed"):
            verifier.verify(own.token("jane", head={"kid": "unknown"}))


def test_keys_are_looked_at_again_after_a_while(own, clock):
    verifier = verifier_of(own, clock, keys_seconds=600)
    verifier.verify(own.token("jane"))
    clock.now += 601
    verifier.verify(own.token("jane"))
    assert own.asked() == 2


def test_a_new_key_is_fetched_with_its_first_token(own, clock):
    verifier = verifier_of(own, clock)
    old = own.token("jane")
    verifier.verify(old)
    own.rotate()
    clock.now += 11
    assert verifier.verify(own.token("joe"))["sub"] == "joe"
    assert own.asked() == 2
    with pytest.raises(Unauthorized, match="not signed"):
        verifier.verify(old)  # its key is not published any more


def test_a_new_key_is_found_also_where_tokens_do_not_name_it(own, clock):
    verifier = verifier_of(own, clock)
    verifier.verify(own.log_in("jane"))
    own.rotate()
    clock.now += 11
    assert verifier.verify(own.log_in("joe"))["sub"] == "joe"


def test_nobody_can_make_us_ask_again_and_again(own, clock):
    verifier = verifier_of(own, clock)
    verifier.verify(own.token("jane"))
    for n in range(30):
        clock.now += 0.5
        with pytest.raises(Unauthorized):
            verifier.verify(own.token("jane", head={"kid": f"unknown{n}"}))
        with pytest.raises(Unauthorized):
            verifier.verify(own.token("jane", head={"kid": None})[:-8] + "AAAAAAAA")
    assert own.asked() == 2  # 15 seconds: once
    with pytest.raises(Unauthorized):
        verifier.verify(own.token("jane", iss="https://evil.example", head={"kid": "unknown"}))
    assert own.asked() == 2


def test_without_keys_it_cannot_be_told(own, clock):
    verifier = verifier_of(own, clock)
    token = own.token("jane")
    own.stop()
    with pytest.raises(Unavailable) as caught:
        verifier.verify(token)
    assert caught.value.headers == {"Retry-After": "10"}
    own.start()
    with pytest.raises(Unavailable):
        verifier.verify(token)  # asked a moment ago
    clock.now += 10
    assert verifier.verify(token)["sub"] == "jane"


def test_unavailable_is_503(own):
    client = application(taking_tokens(own)).test_client()
    token = own.token("jane")
    own.stop()
    answer = get(client, token)
    assert answer.status_code == 503 and 1 <= int(answer.headers["Retry-After"]) <= 10
    assert own.url not in answer.text


def test_an_issuer_that_is_away_is_not_missed_for_a_day(own, clock):
    verifier = verifier_of(own, clock, keys_seconds=600)
    token = own.token("jane")
    verifier.verify(token)
    unknown = own.token("jane", head={"kid": "new"})
    own.stop()
    for _ in range(3):
        clock.now += 7 * 3600
        assert verifier.verify(token)["sub"] == "jane"
    clock.now += 11
    with pytest.raises(Unavailable):
        verifier.verify(unknown)  # perhaps it is good: nobody can tell now
    clock.now += 4 * 3600
    with pytest.raises(Unavailable):
        verifier.verify(token)
    own.start()
    clock.now += 11
    assert verifier.verify(token)["sub"] == "jane"


@pytest.mark.parametrize(
    ("path", "answer", "said"),
    [
        (DISCOVERY, {"response": "<html>"}, "no JSON object"),
        (DISCOVERY, {"response": "[]"}, "no JSON object"),
        (DISCOVERY, {"response": "{}", "status": 500}, "status 500"),
        (DISCOVERY, {"response": '{"issuer": "https://evil.example"}'}, "calls itself"),
        (DISCOVERY, {"response": "", "status": 302, "headers": {"Location": "/jwks"}}, "status 302"),
        ("/jwks", {"response": '{"keys": []}'}, "no key that could be used"),
        ("/jwks", {"response": '{"keys": "x"}'}, "no key that could be used"),
        ("/jwks", {"response": '{"keys": [{"kty": "oct"}, 7, {"kty": []}, {"kty": "RSA"}]}'}, "no key that"),
        ("/jwks", {"response": " " * 2_000_000}, "more than 1 MiB"),
        ("/jwks", {"response": "[" * 100_000}, "no JSON object"),
    ],
)  # fmt: skip
def test_an_issuer_that_answers_nonsense_is_as_good_as_away(own, clock, caplog, path, answer, said):
    own.answer(path, **answer)
    verifier = verifier_of(own, clock)
    with pytest.raises(Unavailable):
        verifier.verify(own.token("jane"))
    assert said in caplog.text
    own.answer(path)
    clock.now += 10
    assert verifier.verify(own.token("jane"))["sub"] == "jane"


def test_keys_are_fetched_where_nobody_listens(own, clock, caplog):
    found = {"issuer": own.url, "jwks_uri": "http://keys.example/jwks"}
    own.answer(DISCOVERY, response=json.dumps(found))
    with pytest.raises(Unavailable):
        verifier_of(own, clock).verify(own.token("jane"))
    assert "not https" in caplog.text


def test_keys_that_do_not_do_are_passed_over():
    private = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    good = json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(private.public_key()))
    secret = json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(private))
    weak = rsa.generate_private_key(public_exponent=65537, key_size=1024)
    small = json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(weak.public_key()))
    found = keys_of({"keys": [good | {"use": "enc"}, secret, small, {"kty": "RSA"}, good | {"alg": "RS512"}]})
    assert [key.fits("RS512") for key in found] == [True]
    assert not any(key.fits(name) for key in found for name in ("RS256", "ES256", "HS256", "none"))


# Configuration


@pytest.mark.parametrize(
    ("changed", "where"),
    [
        ({"issuer": "http://iam.example.org"}, "login.tokens.issuer"),
        ({"issuer": "https://iam.example.org/?a=b"}, "login.tokens.issuer"),
        ({"issuer": "iam.example.org"}, "login.tokens.issuer"),
        ({"audience": ["mlaas", " "]}, "login.tokens.audience"),
        ({"user_claim": ""}, "login.tokens.user_claim"),
        ({"client_secret_file": "/nowhere/secret", "client_id": "us"}, "login.tokens.client_secret_file"),
        ({"client_id": "us", "client_scopes": "profile"}, "login.tokens.client_scopes"),
    ],
)
def test_contradictions_are_found_before_it_starts(changed, where):
    tokens = {"issuer": "https://iam.example.org/", "audience": ["mlaas-condor"]} | changed
    found = Login.check(configured(method="tokens", tokens=tokens))
    assert [each.where for each in found] == [f"service.toml: {where}"]


def test_tokens_do_not_travel_in_the_clear():
    tokens = {"issuer": "https://iam.example.org/", "audience": ["mlaas-condor"]}
    open_to_all = configured(method="tokens", tokens=tokens, service={"host": "0.0.0.0"})
    assert [each.where for each in Login.check(open_to_all)] == ["service.toml: service"]
    behind = {"host": "0.0.0.0", "url": "https://mlaas.example.org"}
    assert Login.check(configured(method="tokens", tokens=tokens, service=behind)) == []
    tls = {"certificate": "host.crt", "key": "host.key"}
    own = configured(method="tokens", tokens=tokens, service={"host": "0.0.0.0"}, tls=tls)
    assert Login.check(own) == [] and Login.warning(own) == ""


def test_a_section_that_is_not_used_is_a_mistake():
    tokens = {"issuer": "https://iam.example.org/", "audience": ["mlaas-condor"]}
    found = Login.check(configured(tokens=tokens, proxy={"addresses": ["127.0.0.1"]}))
    assert [each.where for each in found] == ["service.toml: login.tokens", "service.toml: login.proxy"]


def test_what_the_documents_show_is_understood():
    text = (Path(__file__).parents[2] / "docs" / "login.md").read_text("utf-8")
    blocks = [re.sub(r"(?m)^ +…$|^ +", "", each) for each in re.findall(r"(?m)(?:^ {4,}.*\n|^\n)+", text)]
    shown = [tomllib.loads(each) for each in blocks if each.lstrip().startswith("[")]
    methods = [each["login"].get("method") for each in shown]
    assert methods == ["tokens", None, "proxy", None]
    tokens, client, proxy, cms = shown
    tokens["login"]["tokens"] |= client["login"]["tokens"]
    for each in (tokens, proxy, proxy | {"login": {"method": "proxy", **cms["login"]}}):
        found = Login.check(Configuration.model_validate(each))
        assert all("cannot be read" in problem.what for problem in found)  # files that are not here
