"""Logging in at the issuer: the authorization code flow of OpenID Connect, with PKCE, state and nonce."""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

from .. import configuration
from ..faults import Unavailable
from .claims import scopes_in
from .fetching import Declined, NoAnswer, fetch
from .issuer import Issuer
from .refusals import refused, shown
from .sessions import Attempt
from .tokens import Verifier

_AGAIN = "log in again"


class Client:
    """This service, as the issuer knows it.

    Parameters
    ----------
    tokens
        What ``service.toml`` says: name and secret of the client.
    issuer, verifier
        Where users log in, and what checks the token that comes of it.
    """

    def __init__(self, tokens: configuration.Tokens, issuer: Issuer, verifier: Verifier) -> None:
        self._tokens = tokens
        self._issuer = issuer
        self._verifier = verifier
        secret = tokens.client_secret_file
        self._secret = secret.read_text("utf-8").strip() if secret is not None else ""

    def address(self, attempt: Attempt, back: str) -> str:
        """Return where the issuer asks its user who they are.

        Parameters
        ----------
        back
            Our own address to which it sends them afterwards.

        Raises
        ------
        Unavailable
            The issuer does not say where, or does not answer.
        """
        url = self._issuer.metadata().authorization_url
        if not url:
            raise Unavailable("the issuer of the tokens has no page to log in: paste a token instead")
        asked = {
            "response_type": "code",
            "client_id": self._tokens.client_id,
            "redirect_uri": back,
            "scope": self._tokens.client_scopes,
            "state": attempt.state,
            "nonce": attempt.nonce,
            "code_challenge": attempt.challenge,
            "code_challenge_method": "S256",
        }
        return f"{url}{'&' if urlsplit(url).query else '?'}{urlencode(asked)}"

    def claims(self, attempt: Attempt, answer: Mapping[str, str], back: str) -> dict[str, Any]:
        """Return the claims of the token that the issuer gives for what a browser brings back.

        Parameters
        ----------
        answer
            What is in the address that the browser was sent back to.

        Raises
        ------
        Unauthorized
            It is not the answer to this attempt, or its token is not one for us.
        Unavailable
            The issuer does not answer.
        """
        if not hmac.compare_digest(answer.get("state", "").encode(), attempt.state.encode()):
            raise refused(f"this is not the answer to the log-in that this browser began: {_AGAIN}", error="")
        # Whoever answers in the place of another issuer says so (RFC 9207).
        if answer.get("iss", self._tokens.issuer) != self._tokens.issuer:
            raise refused(f"the answer is of {shown(answer['iss'])}, not of {self._tokens.issuer}", error="")
        if "error" in answer:
            said = answer.get("error_description") or answer["error"]
            raise refused(f"the issuer says {shown(said)}: {_AGAIN}", error="")
        given = self._exchanged(answer.get("code", ""), attempt, back)
        token = given.get("id_token")
        if not isinstance(token, str):
            raise refused(
                "the issuer sends no id token: client_scopes in service.toml needs openid", error=""
            )
        claims = self._verifier.verify(token, audience=[self._tokens.client_id])
        if not hmac.compare_digest(str(claims.get("nonce", "")).encode(), attempt.nonce.encode()):
            raise refused(f"the token was made for another log-in: {_AGAIN}")
        if claims.get("azp", self._tokens.client_id) != self._tokens.client_id:
            raise refused(f"the token was made for {shown(claims['azp'])}: {_AGAIN}")
        # An id token has no scopes; those of the access token that comes with it are said beside it.
        return {**claims, "scope": scopes_in(given.get("scope", self._tokens.client_scopes))}

    def _exchanged(self, code: str, attempt: Attempt, back: str) -> dict[str, Any]:
        metadata = self._issuer.metadata()
        if not code or not metadata.token_url:
            raise refused(f"the issuer sends no code: {_AGAIN}", error="")
        form = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": back,
            "code_verifier": attempt.verifier,
        }
        auth = None
        if self._secret and "client_secret_basic" in metadata.client_methods:
            # Both are encoded as in a form before they are joined (RFC 6749, 2.3.1).
            auth = (quote(self._tokens.client_id, safe=""), quote(self._secret, safe=""))
        else:
            form["client_id"] = self._tokens.client_id
            if self._secret:
                form["client_secret"] = self._secret
        try:
            return fetch(metadata.token_url, form, auth)
        except Declined as error:
            raise refused(f"the issuer does not give a token for it ({error}): {_AGAIN}", error="") from error
        except NoAnswer as error:
            raise Unavailable(
                "the issuer of the tokens does not answer now: try again in a minute"
            ) from error
