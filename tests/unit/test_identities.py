"""Tokens to submit with: which kind they are, and the environment in which nobody else can be meant."""

from __future__ import annotations

import base64
import json
import os
import stat
from pathlib import Path

import pytest

from mlaas_condor.batch import identity
from mlaas_condor.errors import CredentialFault


def part(content):
    return base64.urlsafe_b64encode(json.dumps(content).encode()).decode().rstrip("=")


def token(**claims):
    return f"{part({'alg': 'HS256', 'kid': 'POOL'})}.{part(claims)}.c2ln"


POOLS_OWN = token(iss="pool.example", sub="jane@pool.example")
ISSUERS = token(iss="https://issuer.example/", sub="0af3", scope="compute.create")


def test_a_pools_own_token_is_told_from_that_of_an_issuer():
    assert identity.method(POOLS_OWN) == "IDTOKENS"
    assert identity.method(ISSUERS) == identity.method(token(iss="HTTPS://x", sub="j")) == "SCITOKENS"


@pytest.mark.parametrize(
    "text",
    ["", "x", "a.b", "a.b.c.d", "a.e30.c\nqueue", POOLS_OWN + " ", "a.bm90IGpzb24.c", "a.WzFd.c", token(),
     token(iss="https://x"), token(iss="", sub="jane"), token(iss=5, sub="jane"), token(iss="x", sub=None),
     f"a.{base64.urlsafe_b64encode(b'[' * 100_000).decode().rstrip('=')}.c"],
)  # fmt: skip
def test_what_is_no_token_is_refused_without_showing_it(text):
    with pytest.raises(CredentialFault) as caught, identity.as_user(text):
        pass
    assert len(text) < 3 or text not in str(caught.value)


@pytest.mark.parametrize("text", [POOLS_OWN, ISSUERS])
def test_a_token_is_private_and_gone_at_the_end(text, tmp_path):
    with identity.as_user(text, tmp_path) as environment:
        [folder] = tmp_path.iterdir()
        [file] = folder.iterdir()
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700 and stat.S_IMODE(file.stat().st_mode) == 0o600
        assert file.read_text() == text + "\n"
        assert not any(text in value for value in environment.values())
        assert not any(value in os.environ for value in environment)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(("text", "method"), [(POOLS_OWN, "IDTOKENS"), (ISSUERS, "SCITOKENS")])
def test_there_is_no_way_back_to_who_we_are(text, method):
    with identity.as_user(text) as environment:
        assert environment.pop("_CONDOR_SEC_CLIENT_AUTHENTICATION_METHODS") == method
        places = {Path(value) for value in environment.values()}
        there = {place for place in places if place.exists()}
        assert len(there) == 1 and all(identity.says_who(name) for name in environment)
        assert {"_CONDOR_SEC_PASSWORD_DIRECTORY", "_CONDOR_SEC_TOKEN_POOL_SIGNING_KEY_FILE"} <= {
            name for name, value in environment.items() if Path(value) not in there
        }


def test_a_refusal_is_told_from_a_pool_that_is_away(monkeypatch):
    said = "Failed to fetch ads: AUTHENTICATE:1003:Failed to authenticate with any method"
    assert identity.not_accepted(said) == ""
    monkeypatch.setenv("_CONDOR_SEC_CLIENT_AUTHENTICATION_METHODS", "SCITOKENS")
    assert "does not accept the token" in identity.not_accepted(said)
    assert identity.not_accepted("no answer within 5 s") == ""
