"""An issuer of WLCG tokens for the tests; servers know its keys without asking it."""

from __future__ import annotations

import base64
import json
import sqlite3
import time
import uuid
from pathlib import Path

import jwt
from cryptography.hazmat.primitives.asymmetric import ec

DAY = 24 * 3600.0
ANY_AUDIENCE = "https://wlcg.cern.ch/jwt/v1/any"


class Issuer:
    """Makes tokens as the WLCG profile has them.

    Parameters
    ----------
    url
        Its name; nobody needs to answer there.
    """

    def __init__(self, url="https://issuer.example"):
        self.url = url
        self.name = uuid.uuid4().hex[:8]
        self.key = ec.generate_private_key(ec.SECP256R1())

    def token(self, scope="storage.read:/", seconds=3600.0, subject="jane", audience=ANY_AUDIENCE, **claims):
        """Return a token that ends in `seconds`, which may be below 0; a claim of None is left out."""
        now = int(time.time())
        content = {
            "wlcg.ver": "1.0", "iss": self.url, "sub": subject, "aud": audience, "scope": scope,
            "iat": now - 600, "nbf": now - 600, "exp": now + int(seconds), "jti": uuid.uuid4().hex,
        } | claims  # fmt: skip
        content = {name: value for name, value in content.items() if value is not None}
        return jwt.encode(content, self.key, algorithm="ES256", headers={"kid": self.name})

    def write_token(self, path, *arguments, **named):
        """Write a token to a file; give its path."""
        path = Path(path)
        path.touch(mode=0o600)
        path.write_text(self.token(*arguments, **named) + "\n")
        return path

    def keys(self):
        """Return the public keys as an issuer publishes them."""
        numbers = self.key.public_key().public_numbers()
        own = {"kty": "EC", "crv": "P-256", "alg": "ES256", "use": "sig", "kid": self.name}
        return {"keys": [own | {"x": _number(numbers.x), "y": _number(numbers.y)}]}

    def teach(self, cache):
        """Put the keys where the SciTokens library of a server looks for them: its ``XDG_CACHE_HOME``."""
        folder = Path(cache) / "scitokens"
        folder.mkdir(parents=True, exist_ok=True)
        late = int(time.time() + DAY)
        known = json.dumps({"jwks": self.keys(), "expires": late, "next_update": late})
        # The name is spelt so in the library.
        with sqlite3.connect(folder / "scitokens_cpp.sqllite") as database:
            columns = "issuer text UNIQUE PRIMARY KEY NOT NULL, keys text NOT NULL"
            database.execute(f"CREATE TABLE IF NOT EXISTS keycache ({columns})")
            database.execute("INSERT OR REPLACE INTO keycache VALUES (?, ?)", (self.url, known))
        database.close()


def _number(value):
    return base64.urlsafe_b64encode(value.to_bytes(32)).rstrip(b"=").decode()
