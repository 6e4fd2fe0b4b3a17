"""Who makes a request: a bearer token says it, a proxy, a browser's session, or there is one user only."""

from __future__ import annotations

from dataclasses import dataclass

from flask import Blueprint, Request

from mlaas_condor.errors import Problem, RequestError

from ..configuration import Configuration
from ..identity import Identity
from . import checks, nobody, views
from .authorization import Client
from .claims import identity_of, with_rights
from .issuer import Issuer
from .proxy_headers import ProxyHeaders
from .refusals import refused
from .sessions import Sessions
from .tokens import Verifier

__all__ = ["Login"]


@dataclass(frozen=True)
class Login:
    """The way to log in that ``service.toml`` chooses.

    Parameters
    ----------
    configuration
        All that it says.
    sessions
        What browsers keep.
    verifier
        Checks tokens, where there are any.
    client
        Logs browsers in at the issuer, where it knows us.
    headers
        Reads those of a proxy, where there is one.
    """

    configuration: Configuration
    sessions: Sessions
    verifier: Verifier | None = None
    client: Client | None = None
    headers: ProxyHeaders | None = None

    @classmethod
    def of(cls, configuration: Configuration, secret: bytes) -> Login:
        """Return the way to log in of a configuration; asks nobody yet.

        Parameters
        ----------
        secret
            Key of what only this service can have signed.

        Raises
        ------
        RequestError
            With everything for which it must not start.
        """
        if found := cls.check(configuration):
            raise RequestError(found)
        login, sessions = configuration.login, Sessions(secret, configuration)
        if login.method == "proxy" and login.proxy is not None:
            return cls(configuration, sessions, headers=ProxyHeaders(login.proxy))
        if login.method == "tokens" and login.tokens is not None:
            issuer = Issuer(login.tokens.issuer, login.tokens.keys_seconds)
            verifier = Verifier(login.tokens, issuer)
            client = Client(login.tokens, issuer, verifier) if login.tokens.client_id else None
            return cls(configuration, sessions, verifier=verifier, client=client)
        return cls(configuration, sessions)

    @staticmethod
    def check(configuration: Configuration) -> list[Problem]:
        """Return everything for which the service must not start with a configuration."""
        return checks.problems(configuration)

    @staticmethod
    def warning(configuration: Configuration) -> str:
        """Return what whoever starts the service must be told loudly; empty if there is nothing."""
        return checks.warning(configuration)

    @property
    def open_endpoints(self) -> frozenset[str]:
        """Names of the views that one needs before one is known."""
        return frozenset(f"login.{name}" for name in ("show", "begin", "callback", "paste", "out"))

    @property
    def can_log_out(self) -> bool:
        """Whether there is anything that can be ended: a session of ours, or the proxy's."""
        return self.configuration.login.method == "tokens" or bool(self.sign_out)

    @property
    def sign_out(self) -> str:
        """Path at which the proxy in front ends its own session; empty where it has none."""
        proxy = self.configuration.login.proxy
        return "/oauth2/sign_out" if self.headers and proxy and proxy.kind == "oauth2-proxy" else ""

    def blueprint(self) -> Blueprint:
        """Return the pages: ``login.show``, ``.begin``, ``.callback``, ``.paste``, ``.out``."""
        return views.blueprint(self)

    def identify(self, request: Request) -> Identity | None:
        """Return who makes a request; None if nobody says who they are.

        Raises
        ------
        Unauthorized
            What is said cannot be believed.
        Unavailable
            It cannot be told now, because the issuer does not answer.
        """
        if self.headers is not None:
            found = self.headers.identify(request)
        elif self.verifier is not None:
            found = self._by_token(request, self.verifier)
        else:
            found = nobody.identify(request)
        return with_rights(found, self.configuration.login) if found is not None else None

    def _by_token(self, request: Request, verifier: Verifier) -> Identity | None:
        tokens = self.configuration.login.tokens
        assert tokens is not None
        sent = request.headers.get("Authorization")
        if sent is None:
            return self.sessions.read(request)
        scheme, _, token = sent.strip().partition(" ")
        if scheme.lower() != "bearer":
            raise refused("this service takes Authorization: Bearer TOKEN, and nothing else", error="")
        if not token.strip() or "," in token:
            raise refused("Authorization: Bearer has to be followed by one token", error="invalid_request")
        token = token.strip()
        return identity_of(verifier.verify(token), tokens, token)
