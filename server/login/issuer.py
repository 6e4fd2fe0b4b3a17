"""The issuer of tokens: where it keeps what, and the keys that it signs with.

Each process remembers both for a while. An issuer that is away for a day is not missed; one that changes its
keys is noticed with the first token of the new key; nobody can make us ask more often than every few seconds.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ..faults import Unavailable
from .fetching import NoAnswer, fetch, is_private
from .keys import Key, keys_of

SECONDS_BETWEEN = 10.0
"""Between two times that we ask, whatever happens."""
SURVIVED_SECONDS = 24 * 3600.0
"""For which the last keys do, where the issuer is away."""

_BETWEEN_WHILE_AWAY = 60.0  # a request waits for each try, and the old keys do meanwhile
_WAIT_SECONDS = 30.0  # while another thread asks for the first keys
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Metadata:
    """Where an issuer has what, and how it wants to be asked."""

    keys_url: str
    authorization_url: str = ""
    token_url: str = ""
    client_methods: tuple[str, ...] = ("client_secret_basic",)


@dataclass(frozen=True)
class _Known:
    metadata: Metadata
    keys: tuple[Key, ...]
    since: float


class Issuer:
    """One issuer, and what is known of it.

    Parameters
    ----------
    url
        As its tokens name it.
    keys_seconds
        How long its keys are kept before a new look.
    clock
        Seconds, from any start.
    """

    def __init__(self, url: str, keys_seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.url = url
        self._keys_seconds = keys_seconds
        self._clock = clock
        self._lock = threading.Lock()
        self._known: _Known | None = None
        self._asked: float | None = None
        self._trouble = ""

    def metadata(self) -> Metadata:
        """Return where the issuer has what.

        Raises
        ------
        Unavailable
            It does not answer, and did not for long.
        """
        return self._current().metadata

    def keys(self, algorithm: str, kid: str | None) -> list[Key]:
        """Return the keys that a token may be signed with; asks the issuer again where it would be none.

        Parameters
        ----------
        algorithm, kid
            What the token says of its signature; a token without a name of its key may be of any.

        Raises
        ------
        Unavailable
            The issuer does not answer, so it cannot be told.
        """
        found = _fitting(self._current(), algorithm, kid)
        if not found:
            known = self.renewed()
            found = _fitting(known, algorithm, kid)
            if not found and self._trouble:
                raise self._away()
        return found

    def renewed(self) -> _Known:
        """Return what is known after asking the issuer again, unless somebody just did.

        Raises
        ------
        Unavailable
            It does not answer, and did not for long.
        """
        self._ask(SECONDS_BETWEEN)
        return self._current()

    def _current(self) -> _Known:
        known = self._usable()
        if known is None or self._clock() - known.since > self._keys_seconds:
            self._ask(_BETWEEN_WHILE_AWAY if known else SECONDS_BETWEEN)
            known = self._usable()
        if known is None:
            raise self._away()
        return known

    def _usable(self) -> _Known | None:
        """Return what is known, unless that is too long ago."""
        known = self._known
        longest = max(SURVIVED_SECONDS, self._keys_seconds)
        return known if known is not None and self._clock() - known.since <= longest else None

    def _away(self) -> Unavailable:
        waited = self._clock() - (self._asked if self._asked is not None else -math.inf)
        again = max(1, math.ceil(SECONDS_BETWEEN - waited)) if math.isfinite(waited) else 1
        said = f"the issuer of the tokens cannot be asked for its keys now: try again in {again} s"
        return Unavailable(said, {"Retry-After": str(again)})

    def _ask(self, between: float) -> None:
        """Ask the issuer, unless it was asked just before; who has keys does not wait for another thread."""
        if not self._lock.acquire(timeout=0 if self._usable() else _WAIT_SECONDS):
            return
        try:
            if self._asked is not None and self._clock() - self._asked < between:
                return
            try:
                self._known = _asked(self.url, self._clock)
                self._trouble = ""
            except NoAnswer as error:
                self._trouble = str(error)
                _log.warning("issuer %s: %s", self.url, error)
            finally:
                self._asked = self._clock()
        finally:
            self._lock.release()


def _fitting(known: _Known, algorithm: str, kid: str | None) -> list[Key]:
    return [key for key in known.keys if kid in (None, key.kid) and key.fits(algorithm)]


def _asked(url: str, clock: Callable[[], float]) -> _Known:
    found = fetch(f"{url.rstrip('/')}/.well-known/openid-configuration")
    if found.get("issuer") != url:
        raise NoAnswer(
            f"it calls itself {str(found.get('issuer'))[:200]!r}: write that into service.toml, to the letter"
        )
    metadata = Metadata(
        keys_url=_url(found, "jwks_uri"),
        authorization_url=_url(found, "authorization_endpoint", needed=False),
        token_url=_url(found, "token_endpoint", needed=False),
        client_methods=_methods(found.get("token_endpoint_auth_methods_supported")),
    )
    keys = keys_of(fetch(metadata.keys_url))
    if not keys:
        raise NoAnswer(f"{metadata.keys_url} has no key that could be used")
    return _Known(metadata, keys, clock())


def _url(found: dict[str, Any], name: str, needed: bool = True) -> str:
    url = found.get(name)
    if isinstance(url, str) and is_private(url):
        return url
    if needed:
        raise NoAnswer(f"its {name} is {str(url)[:200]!r}, which is not https")
    return ""


def _methods(value: object) -> tuple[str, ...]:
    # What is not said means client_secret_basic (OpenID Connect Discovery).
    return tuple(str(each) for each in value) if isinstance(value, list) else ("client_secret_basic",)
