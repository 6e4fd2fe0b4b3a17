"""Bearer tokens (JWT): whether one was made by the issuer, for us, and is of use now."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping
from typing import Any

import jwt

from .. import configuration
from ..faults import Unauthorized
from .issuer import Issuer
from .keys import ALGORITHMS, Key
from .refusals import listed, refused, shown

LEEWAY_SECONDS = 30
"""By which two clocks may differ."""
MOST_BYTES = 16_384

_KINDS = frozenset({"", "jwt", "at+jwt", "application/jwt", "application/at+jwt"})
_NEEDED = ["exp", "iss", "aud"]


class Verifier:
    """Checks tokens of one issuer.

    Parameters
    ----------
    tokens
        What ``service.toml`` says of them.
    issuer
        Who made them.
    """

    def __init__(self, tokens: configuration.Tokens, issuer: Issuer) -> None:
        self._tokens = tokens
        self._issuer = issuer
        # Whoever has the public key could make a symmetric signature of it: never, whatever is configured.
        self._algorithms = frozenset(tokens.algorithms) & ALGORITHMS.keys()

    def verify(self, token: str, audience: Collection[str] = ()) -> dict[str, Any]:
        """Return the claims of a token.

        Parameters
        ----------
        token
            As it came.
        audience
            Whom it must be for: one of these; what ``service.toml`` names otherwise.

        Raises
        ------
        Unauthorized
            It is none of the issuer's, not for us, has ended, or has no name of its user.
        Unavailable
            The issuer's keys are not known, and it does not answer.
        """
        head, unverified = _opened(token)
        algorithm = head.get("alg")
        if not isinstance(algorithm, str) or algorithm not in self._algorithms:
            raise refused(
                f"the token is signed with {shown(algorithm)}; {listed(sorted(self._algorithms))} is taken"
            )
        _check_head(head)
        # Before the keys: a token of elsewhere is no reason to ask for them.
        if unverified.get("iss") != self._tokens.issuer:
            raise refused(
                f"the token is of {shown(unverified.get('iss'))}; it has to be of {self._tokens.issuer}"
            )
        wanted = sorted(audience or self._tokens.audience)
        claims = self._checked(token, algorithm, head.get("kid"), wanted)
        self._check_user(claims)
        return claims

    def _checked(self, token: str, algorithm: str, kid: str | None, audience: list[str]) -> dict[str, Any]:
        keys = self._issuer.keys(algorithm, kid)
        claims = self._signed_by_one(token, algorithm, keys, audience)
        if claims is None and kid is None:
            # It does not say of which key it is: perhaps of one that is newer than what we have.
            self._issuer.renewed()
            newer = [key for key in self._issuer.keys(algorithm, kid) if key not in keys]
            claims = self._signed_by_one(token, algorithm, newer, audience)
        if claims is None:
            raise refused("the token is not signed with a key of its issuer")
        return claims

    def _signed_by_one(
        self, token: str, algorithm: str, keys: Collection[Key], audience: list[str]
    ) -> dict[str, Any] | None:
        """Return the claims, if one of the keys made the signature; refuse it for what they say."""
        for key in keys:
            try:
                claims = jwt.decode(
                    token,
                    key.public,
                    algorithms=[algorithm],
                    audience=audience,
                    issuer=self._tokens.issuer,
                    leeway=LEEWAY_SECONDS,
                    options={"require": _NEEDED, "verify_sub": False},
                )
            except (jwt.InvalidSignatureError, jwt.InvalidKeyError):
                continue
            except jwt.PyJWTError as error:
                raise _refusal(error, token, audience) from error
            return dict(claims)
        return None

    def _check_user(self, claims: Mapping[str, Any]) -> None:
        name = self._tokens.user_claim
        if not is_name(claims.get(name)):
            raise refused(
                f"the token does not say in its claim {name} whose it is: {shown(claims.get(name))}"
            )
        if name == "email" and claims.get("email_verified") is False:
            raise refused("the issuer has not verified the e-mail address in the token")


def is_name(value: object) -> bool:
    """Tell whether a claim can name somebody: a short text without anything that cannot be seen."""
    return isinstance(value, str) and 0 < len(value) <= 255 and value.isprintable() and value == value.strip()


def ends(claims: Mapping[str, Any]) -> float:
    """Return when a token that was checked ends, in seconds since 1970."""
    return float(claims["exp"])


def _opened(token: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return head and claims of a token, both not to be believed yet."""
    if len(token) > MOST_BYTES:
        raise refused(f"the token is longer than {MOST_BYTES} characters")
    if token.count(".") != 2:
        raise refused(
            "the token is no JWT: ask the issuer for an access token that is one, or send the id token"
        )
    try:
        head = jwt.get_unverified_header(token)
        claims = jwt.decode(token, options={"verify_signature": False})
    except (jwt.PyJWTError, ValueError, RecursionError) as error:
        raise refused("the token is no JWT, or was cut: copy it anew, all of it") from error
    return dict(head), dict(claims)


def _check_head(head: Mapping[str, Any]) -> None:
    kind = head.get("typ", "")
    if not isinstance(kind, str) or kind.lower() not in _KINDS:
        raise refused(f"the token is of type {shown(kind)}: send an access token, or an id token")
    if "crit" in head:
        raise refused(f"the token needs {shown(head['crit'])} to be understood, which nothing here does")
    if not isinstance(head.get("kid", ""), str):
        raise refused("the token does not name its key as a text")


def _refusal(error: jwt.PyJWTError, token: str, audience: list[str]) -> Unauthorized:
    """Say in our words why the claims of a token with a good signature do not do."""
    claims = jwt.decode(token, options={"verify_signature": False})
    if isinstance(error, jwt.ExpiredSignatureError):
        ended = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(float(claims["exp"])))
        return refused(f"the token ended {ended}: get a new one")
    if isinstance(error, jwt.InvalidAudienceError | jwt.MissingRequiredClaimError) and not claims.get("aud"):
        return refused(
            f"the token does not say whom it is for: ask for one for {audience[0]} (oidc-token --aud)"
        )
    if isinstance(error, jwt.InvalidAudienceError):
        named = claims["aud"] if isinstance(claims["aud"], list) else [claims["aud"]]
        return refused(
            f"the token is for {listed(named[:5])}: ask for one for {audience[0]} (oidc-token --aud)"
        )
    if isinstance(error, jwt.ImmatureSignatureError):
        return refused("the token is not valid yet: the clock of its issuer, or ours, is wrong")
    return refused(f"the token does not do: {str(error)[:200]}")
