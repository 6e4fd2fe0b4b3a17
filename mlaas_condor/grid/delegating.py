"""Delegation: the side that lets a service act for it, by signing a request of the service's."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import quote
from urllib.request import HTTPHandler, HTTPRedirectHandler, HTTPSHandler, ProxyHandler, Request, build_opener

from mlaas_condor.errors import CredentialFault, Problem

from . import addresses
from .addresses import SERVICE
from .renewal import WrongSetting
from .times import moment

PATH = "/api/v1/delegation"
ANSWER_SECONDS = 30.0
_MOST_BYTES = 2**20


@dataclass(frozen=True)
class Delegated:
    """What a service may do now.

    Parameters
    ----------
    server
        The service.
    identity
        For whom it may act.
    ends
        Until when, in seconds since 1970.
    """

    server: str
    identity: str
    ends: float


def delegate(server_url: str, proxy: Path, seconds: float, token: str = "") -> Delegated:
    """Let a service act for the holder of a proxy; the private key stays here.

    Parameters
    ----------
    server_url
        Address of the service; https, except on this machine.
    proxy
        The holder's proxy.
    seconds
        For how long; never longer than the proxy itself.
    token
        Says to the service who calls.

    Raises
    ------
    WrongSetting
        The address or the time is none.
    CredentialFault
        The proxy is no use, the service does not answer, refuses, or is none of ours.
    """
    from . import certificates

    if not 0 < seconds < math.inf:
        raise WrongSetting([Problem("--hours", f"{seconds / 3600:g} h is no time", "give some hours")])
    holder = certificates.load(proxy)
    if holder.ends <= time.time():
        raise CredentialFault(f"the proxy {proxy} ended on {moment(holder.ends)}; make a new one")
    service = _Service(server_url, token)
    service.introduce()
    request = service.ask("POST", "/request")
    number, text = _text(service, request, "id"), _text(service, request, "request")
    answer = certificates.sign_request(text, holder, seconds)
    done = service.ask("PUT", f"/{quote(number, safe='')}", {"certificates": answer})
    identity, ends = _text(service, done, "identity"), done.get("ends")
    if identity != holder.identity or not isinstance(ends, int | float):
        raise CredentialFault(f"{service.url} says that it acts for {identity!r}, not for {holder.identity}")
    return Delegated(service.url, identity, float(ends))


def _text(service: _Service, answer: dict[str, Any], name: str) -> str:
    value = answer.get(name)
    if not isinstance(value, str) or not value:
        raise CredentialFault(f"{service.url} does not give {name!r}: is its version another one?")
    return value


class _Unknown(CredentialFault):
    """A service of ours does not know who calls, and takes a token for an answer."""


class _NoRedirect(HTTPRedirectHandler):
    """Goes nowhere else: the token is meant for this service."""

    def redirect_request(self, *_: Any, **__: Any) -> None:
        return None


class _Service:
    """The delegation interface of one service."""

    def __init__(self, url: str, token: str) -> None:
        self.url = url.rstrip("/")
        local = addresses.check(self.url)
        if token and not addresses.is_token(token):
            raise CredentialFault("the token holds what no token has: spaces, line ends, or more than ASCII")
        self._headers = {"Accept": "application/json", "User-Agent": SERVICE}
        self._token = token
        # What is on this machine is not reached through a proxy of the network.
        proxies = [ProxyHandler({})] if local else []
        https = HTTPSHandler(context=addresses.encryption())
        self._opener = build_opener(_NoRedirect, HTTPHandler, https, *proxies)

    def introduce(self) -> None:
        """Make sure that it is a service of ours, before it gets a certificate.

        It gets the token only if it asks for one, and says that it is a service of ours.
        """
        try:
            found = self.ask("GET", anonymous=True)
        except _Unknown:
            if not self._token:
                raise
            found = self.ask("GET")
        if found.get("service") != SERVICE:
            raise _not_ours(self.url)

    def ask(
        self, method: str, path: str = "", content: dict[str, str] | None = None, anonymous: bool = False
    ) -> dict[str, Any]:
        """Return its answer, a JSON object; `anonymous` keeps the token back."""
        headers = dict(self._headers)
        if self._token and not anonymous:
            headers["Authorization"] = f"Bearer {self._token}"
        if content is not None:
            headers["Content-Type"] = "application/json"
        data = None if content is None else json.dumps(content).encode()
        request = Request(f"{self.url}{PATH}{path}", data, headers, method=method)
        with _network_errors(self.url):
            try:
                with self._opener.open(request, timeout=ANSWER_SECONDS) as answer:
                    body = answer.read(_MOST_BYTES)
            except HTTPError as error:
                with error:
                    ways = error.headers.get_all("WWW-Authenticate", [])
                    wants = any(way.lower().startswith("bearer") for way in ways)
                    raise self._refusal(error.code, wants, error.read(_MOST_BYTES)) from None
        found = _object(body)
        if found is None:
            raise _not_ours(self.url)
        return found

    def _refusal(self, code: int, wants_token: bool, body: bytes) -> CredentialFault:
        found = _object(body) or {}
        said = found.get("error")
        why = f": {' '.join(said.split())[:300]}" if isinstance(said, str) else ""
        if code == 401 and not (wants_token and found.get("service") == SERVICE):
            return _not_ours(self.url)
        if code == 401:
            return _Unknown(
                f"{self.url} does not know who you are{why}; give its token by MLAAS_CONDOR_TOKEN "
                "or --token-file"
            )
        if code == 403:
            return CredentialFault(f"{self.url} does not allow it{why}; ask its administrators")
        if 300 <= code < 400:
            return CredentialFault(f"{self.url} sends elsewhere; give the address that it has now")
        if not why and code in (404, 405):
            return _not_ours(self.url)
        return CredentialFault(f"{self.url} refused{why or f' with HTTP status {code}'}")


def _object(body: bytes) -> dict[str, Any] | None:
    try:
        found = json.loads(body)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def _not_ours(url: str) -> CredentialFault:
    return CredentialFault(f"{url} is no service of {SERVICE}: nothing was signed; is the address right?")


@contextmanager
def _network_errors(url: str) -> Iterator[None]:
    try:
        yield
    except URLError as error:
        raise CredentialFault(f"{url} {addresses.why(error.reason, ANSWER_SECONDS)}") from error
    except (OSError, HTTPException) as error:
        raise CredentialFault(f"{url} {addresses.why(error, ANSWER_SECONDS)}") from error
