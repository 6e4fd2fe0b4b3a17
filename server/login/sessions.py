"""What a browser keeps for us, signed: who it is, and where it is in logging in."""

from __future__ import annotations

import base64
import hashlib
import hmac
import logging
import secrets
import time
from dataclasses import dataclass
from typing import Any

from flask import Request
from itsdangerous import BadData, URLSafeSerializer
from werkzeug.wrappers import Response

from .. import configuration
from ..identity import Identity

ATTEMPT_SECONDS = 600.0
_MOST_BYTES = 3800  # of one cookie, which browsers keep up to 4096 with its name and attributes
_FORM_BYTES = 18
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Attempt:
    """A log-in at the issuer that has begun.

    Parameters
    ----------
    state, nonce
        What the answer, and the token, must repeat.
    verifier
        What shows that it is us who ask for the token (PKCE, RFC 7636).
    goal
        Where it goes on afterwards: a path of ours.
    """

    state: str
    nonce: str
    verifier: str
    goal: str

    @classmethod
    def begin(cls, goal: str) -> Attempt:
        """Return a new one, which nobody can guess."""
        state, nonce, verifier = (secrets.token_urlsafe(32) for _ in range(3))
        return cls(state, nonce, verifier, goal)

    @property
    def challenge(self) -> str:
        """What the issuer is told of the verifier."""
        digest = hashlib.sha256(self.verifier.encode()).digest()
        return _encoded(digest)


class Sessions:
    """Writes and reads the cookies.

    Parameters
    ----------
    secret
        Key of this service's signatures.
    configuration
        What ``service.toml`` says: cookies of another issuer, or of users by another claim, are not taken.
    """

    def __init__(self, secret: bytes, configuration: configuration.Configuration) -> None:
        tokens = configuration.login.tokens
        users = f"{tokens.issuer} {tokens.user_claim}" if tokens else ""
        self._secret = secret
        self._session = _serializer(secret, f"session {users}")
        self._attempt = _serializer(secret, f"attempt {users}")
        self._is_secure = configuration.tls is not None or configuration.service.url.startswith("https:")
        self._keep_first = frozenset(configuration.login.administrator_groups)

    def start(self, request: Request, response: Response, identity: Identity, until: float) -> None:
        """Have the browser keep who it is, until some time; never the token."""
        groups = sorted(identity.groups, key=lambda group: group not in self._keep_first)
        kept = {
            "owner": identity.owner,
            "name": identity.name,
            "actions": sorted(identity.actions) if identity.actions is not None else None,
            "until": until,
        }
        text = str(self._session.dumps({**kept, "groups": groups}))
        while len(text) > _MOST_BYTES and groups:
            groups = groups[: len(groups) * 3 // 4]
            text = str(self._session.dumps({**kept, "groups": groups}))
        if len(groups) < len(identity.groups):
            _log.warning("%d of the %d groups of a user fit into a cookie", len(groups), len(identity.groups))
        self._set(request, response, "session", text, until - time.time())

    def read(self, request: Request) -> Identity | None:
        """Return whom a browser is logged in as; None if it is not, or not any more."""
        kept = self._loaded(self._session, request, "session")
        if kept is None or time.time() >= kept["until"]:
            return None
        return Identity(
            owner=kept["owner"],
            name=kept["name"],
            groups=tuple(kept["groups"]),
            actions=frozenset(kept["actions"]) if kept["actions"] is not None else None,
            method="session",
        )

    def end(self, request: Request, response: Response) -> None:
        """Have the browser forget who it is."""
        self._set(request, response, "session", "", 0)
        self.arrive(request, response)

    def arrive(self, request: Request, response: Response) -> None:
        """Have the browser forget what was for logging in only."""
        for name in ("attempt", "form"):
            self._set(request, response, name, "", 0)

    def begin(self, request: Request, response: Response, attempt: Attempt) -> None:
        """Have the browser keep a log-in that begins."""
        kept = {**vars(attempt), "until": time.time() + ATTEMPT_SECONDS}
        self._set(request, response, "attempt", str(self._attempt.dumps(kept)), ATTEMPT_SECONDS)

    def attempt(self, request: Request) -> Attempt | None:
        """Return the log-in that a browser has begun; None if it has not, or too long ago."""
        kept = self._loaded(self._attempt, request, "attempt")
        if kept is None or time.time() >= kept.pop("until"):
            return None
        return Attempt(**kept)

    def form_token(self, request: Request, response: Response) -> str:
        """Return what our form carries and no other site's can: it goes with a cookie that only we set."""
        mine = request.cookies.get(self._name(request, "form"), "")
        if len(mine) < _FORM_BYTES:
            mine = secrets.token_urlsafe(_FORM_BYTES)
        self._set(request, response, "form", mine, ATTEMPT_SECONDS * 6)
        return self._form_digest(mine)

    def is_own_form(self, request: Request, token: str) -> bool:
        """Tell whether a form is ours, and was shown to this browser."""
        mine = request.cookies.get(self._name(request, "form"), "")
        return len(mine) >= _FORM_BYTES and hmac.compare_digest(
            self._form_digest(mine).encode(), token.encode()
        )

    def is_secure(self, request: Request) -> bool:
        """Tell whether browsers reach this service over https."""
        return self._is_secure or request.is_secure

    def _form_digest(self, value: str) -> str:
        return _encoded(hmac.new(self._secret, f"form\0{value}".encode(), hashlib.sha256).digest())

    def _name(self, request: Request, what: str) -> str:
        # A browser takes __Host- from this very host only, over https: not from a neighbour in its domain.
        return f"__Host-mlaas-condor-{what}" if self.is_secure(request) else f"mlaas-condor-{what}"

    def _set(self, request: Request, response: Response, what: str, value: str, seconds: float) -> None:
        response.set_cookie(
            self._name(request, what),
            value,
            max_age=max(0, int(seconds)),
            path="/",
            secure=self.is_secure(request),
            httponly=True,
            # Lax, not Strict: the browser comes back from the issuer, and from links in mails.
            samesite="Lax",
        )

    def _loaded(self, serializer: URLSafeSerializer, request: Request, what: str) -> dict[str, Any] | None:
        text = request.cookies.get(self._name(request, what), "")
        if not text or len(text) > 2 * _MOST_BYTES:
            return None
        try:
            kept = serializer.loads(text)
        except BadData:
            return None
        return kept if isinstance(kept, dict) else None


def _serializer(secret: bytes, purpose: str) -> URLSafeSerializer:
    return URLSafeSerializer(
        secret,
        salt=f"mlaas-condor {purpose}",
        signer_kwargs={"key_derivation": "hmac", "digest_method": hashlib.sha256},
    )


def _encoded(digest: bytes) -> str:
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
