"""An issuer of tokens for the tests: a real OpenID provider, in a process of its own, with real keys.

    with issuers.running() as issuer:
        token = issuer.token("jane", groups=["/cms/higgs"])     # an access token, as INDIGO IAM makes them
        token = issuer.log_in("jane", client="mlaas-condor")    # an id token, by the way of a browser

The provider is ``oidc-provider-mock``. Its access tokens are no JWTs, so `token` signs some with its key.
"""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
import time
import uuid
from contextlib import contextmanager
from urllib.parse import parse_qs, urlsplit

import jwt
import requests

AUDIENCE = "mlaas-condor"
_SECRET = "MLAAS_TEST_ISSUER"  # whoever knows it may have the private key


class Issuer:
    """The provider, seen from a test."""

    def __init__(self):
        self._port = 0
        self._process = None
        self._secret = secrets.token_hex(16)
        self._key = None

    @property
    def url(self):
        return f"http://127.0.0.1:{self._port}"

    def start(self):
        """Start it; again at the same port, and with the same keys, once it was stopped."""
        environment = {**os.environ, _SECRET: self._secret, "AUTHLIB_INSECURE_TRANSPORT": "1"}
        command = [sys.executable, "-W", "ignore", __file__, str(self._port)]
        self._process = subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        self._port = int(self._process.stdout.readline())
        if self._key:
            self._control("key", self._key)
        self._key = self._control("key")

    def stop(self):
        """Stop it: nobody answers at its address then."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait()
            self._process.stdout.close()
            self._process = None

    def rotate(self):
        """Have it sign with a new key from now on, and forget the old one; return the old one."""
        old, self._key = self._key, self._control("rotate", {})
        return old

    def asked(self, path="/jwks"):
        """Tell how often somebody asked for something."""
        return self._control("asked").get(path, 0)

    def forms(self):
        """Return the forms that came to its token endpoint, and the addresses of its log-in page, as sent."""
        return self._control("forms")

    def answer(self, path, **answer):
        """Have it answer another JSON at a path from now on; None takes that back."""
        self._control("answer", {"path": path, **answer})

    @property
    def key(self):
        """The private key, as a JWK."""
        return dict(self._key)

    def public_pem(self):
        """Return the public key as PEM: what a forger has, too."""
        from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

        public = jwt.PyJWK(self._key, "RS256").key.public_key()
        return public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)

    def claims(self, subject="jane", groups=(), scope="", audience=AUDIENCE, seconds=3600.0, **more):
        """Return what a token says; a claim of None is left out."""
        now = int(time.time())
        content = {
            "wlcg.ver": "1.0", "iss": self.url, "sub": subject, "aud": audience, "jti": uuid.uuid4().hex,
            "iat": now - 60, "nbf": now - 60, "exp": now + int(seconds), "scope": scope or None,
            "wlcg.groups": list(groups) or None, "preferred_username": subject.capitalize(),
        } | more  # fmt: skip
        return {name: value for name, value in content.items() if value is not None}

    def token(self, subject="jane", *arguments, head=None, **named):
        """Return an access token; ``head`` changes what its first part says, None leaves it out."""
        return self.signed(self.claims(subject, *arguments, **named), head=head)

    def signed(self, claims, key=None, algorithm="RS256", head=None):
        """Return claims signed, with another key than its own if there is one."""
        used = key if key is not None else jwt.PyJWK(self._key, "RS256").key
        named = {"kid": self._key["kid"], "typ": "at+jwt", **(head or {})}
        named = {name: value for name, value in named.items() if value is not None}
        if "typ" not in named:
            named["typ"] = None  # PyJWT takes that for none at all
        # Not jwt.encode: that refuses what a token must not say, and tests want to.
        return jwt.PyJWS().encode(json.dumps(claims).encode(), used, algorithm, named)

    def log_in(self, subject="jane", client=AUDIENCE, **claims):
        """Return an id token for a client, by the way that a browser goes."""
        self.user(subject, **claims)
        back = "http://127.0.0.1:9/back"
        asked = {
            "client_id": client,
            "redirect_uri": back,
            "response_type": "code",
            "scope": "openid profile",
        }
        code = parse_qs(urlsplit(self.consent(f"{self.url}/oauth2/authorize", asked, subject)).query)["code"][
            0
        ]
        form = {"grant_type": "authorization_code", "code": code, "redirect_uri": back}
        answer = requests.post(f"{self.url}/oauth2/token", data=form, auth=(client, "any"), timeout=30)
        answer.raise_for_status()
        return answer.json()["id_token"]

    def user(self, subject, **claims):
        """Have it know a user, and what it says of them."""
        requests.put(f"{self.url}/users/{subject}", json=claims, timeout=30).raise_for_status()

    def consent(self, address, asked=None, subject="jane", action="authorize"):
        """Fill its log-in page as a user does; return where it sends the browser."""
        answer = requests.post(
            address, params=asked, data={"sub": subject, "action": action}, allow_redirects=False, timeout=30
        )
        assert answer.status_code == 302, answer.text
        return answer.headers["Location"]

    def _control(self, what, sent=None):
        answer = requests.request(
            "GET" if sent is None else "POST",
            f"{self.url}/control/{what}",
            json=sent,
            headers={"Authorization": self._secret},
            timeout=30,
        )
        answer.raise_for_status()
        return answer.json()


@contextmanager
def running():
    """Run one."""
    issuer = Issuer()
    try:
        issuer.start()
        yield issuer
    finally:
        issuer.stop()


def serve(port):
    """Be the provider: on loopback, until terminated; prints the port."""
    from collections import Counter

    import flask
    import werkzeug.serving
    from authlib.jose import JsonWebKey, RSAKey
    from oidc_provider_mock import app as provider

    app = provider()
    asked, forms, answers = Counter(), [], {}

    @app.before_request
    def watch():
        path = flask.request.path
        if path.startswith("/control/"):
            if flask.request.headers.get("Authorization") != os.environ[_SECRET]:
                flask.abort(403)
            return None
        asked[path] += 1
        if path.startswith("/oauth2/"):
            basic = flask.request.authorization
            client = [basic.username, basic.password] if basic else None
            forms.append({"path": path, **flask.request.values.to_dict(), "client": client})
        return flask.Response(**answers[path]) if path in answers else None

    @app.route("/control/key", methods=["GET", "POST"])
    def key():
        if flask.request.method == "POST":
            _storage().jwk = JsonWebKey.import_key(flask.request.json)
        return _private(_storage().jwk)

    @app.post("/control/rotate")
    def rotate():
        _storage().jwk = RSAKey.generate_key(is_private=True)
        return _private(_storage().jwk)

    @app.get("/control/asked")
    def show_asked():
        return dict(asked)

    @app.get("/control/forms")
    def show_forms():
        return flask.jsonify(forms)

    @app.post("/control/answer")
    def answer():
        sent = dict(flask.request.json)
        path = sent.pop("path")
        if sent:
            answers[path] = {"mimetype": "application/json", **sent}
        else:
            answers.pop(path, None)
        return {}

    server = werkzeug.serving.make_server("127.0.0.1", port, app, threaded=True)
    print(server.server_port, flush=True)
    server.serve_forever()


def _storage():
    import flask

    return flask.g.oidc_provider_mock_storage


def _private(key):
    return {**key.as_dict(is_private=True), "kid": key.as_dict()["kid"], "alg": "RS256"}


if __name__ == "__main__":
    serve(int(sys.argv[1]))
