"""Public keys, as an issuer publishes them (RFC 7517), and which signatures each can have made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jwt
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

ALGORITHMS: Mapping[str, tuple[str, str]] = {
    **{f"{family}{bits}": ("RSA", "") for family in ("RS", "PS") for bits in (256, 384, 512)},
    "ES256": ("EC", "P-256"),
    "ES384": ("EC", "P-384"),
    "ES512": ("EC", "P-521"),
    "EdDSA": ("OKP", "Ed25519"),
}
"""Signatures that only who has the private key can make, with the kind of key and its curve."""

_READERS = {"RSA": RSAAlgorithm.from_jwk, "EC": ECAlgorithm.from_jwk, "OKP": OKPAlgorithm.from_jwk}
_MOST_KEYS = 100
_LEAST_RSA_BITS = 2048


@dataclass(frozen=True)
class Key:
    """One public key of an issuer.

    Parameters
    ----------
    kid
        Its name, where it has one.
    kind, curve
        ``RSA``, or ``EC`` and ``P-256``.
    algorithm
        The only one that it is for; empty for any of its kind.
    public
        The key itself.
    """

    kid: str | None
    kind: str
    curve: str
    algorithm: str
    public: Any

    def fits(self, algorithm: str) -> bool:
        """Tell whether a signature of some algorithm can be this key's."""
        kind, curve = ALGORITHMS.get(algorithm, ("", ""))
        return self.kind == kind and curve in ("", self.curve) and self.algorithm in ("", algorithm)


def keys_of(published: Mapping[str, Any]) -> tuple[Key, ...]:
    """Return the usable ones of what an issuer publishes; others are passed over, as RFC 7517 wants it."""
    listed = published.get("keys")
    if not isinstance(listed, list):
        return ()
    found = (_key(each) for each in listed[:_MOST_KEYS] if isinstance(each, dict))
    return tuple(key for key in found if key is not None)


def _key(given: dict[str, Any]) -> Key | None:
    kind, kid = given.get("kty"), given.get("kid")
    # "oct" is a secret that both sides share, "d" a private key: neither is for everybody to read.
    if not isinstance(kind, str) or kind not in _READERS or "d" in given or given.get("use", "sig") != "sig":
        return None
    try:
        public = _READERS[kind](given)
    except (jwt.PyJWTError, UnsupportedAlgorithm, ValueError, TypeError, KeyError):
        return None
    if isinstance(public, RSAPublicKey) and public.key_size < _LEAST_RSA_BITS:
        return None
    return Key(
        kid=kid if isinstance(kid, str) else None,
        kind=kind,
        curve=str(given.get("crv", "")),
        algorithm=str(given.get("alg", "")),
        public=public,
    )
