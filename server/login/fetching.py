"""Asking the issuer: little, not for long, and only where nobody listens in."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit

import requests

MOST_BYTES = 1 << 20
_CONNECT_SECONDS, _READ_SECONDS = 3.05, 5.0
_SECONDS = 8.0
"""For a whole answer: one that comes in drops counts as none."""


class NoAnswer(Exception):
    """The issuer does not answer, or not with what was asked for; the message says why."""


class Declined(NoAnswer):
    """The issuer answers that it will not."""


def is_private(url: str) -> bool:
    """Tell whether nobody on the way can listen in, or answer instead: https, or this machine."""
    parts = urlsplit(url)
    if parts.scheme == "https":
        return bool(parts.hostname)
    return parts.scheme == "http" and is_loopback(parts.hostname or "")


def is_loopback(host: str) -> bool:
    """Tell whether a host is this machine, by its name or address."""
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def fetch(
    url: str, form: Mapping[str, str] | None = None, auth: tuple[str, str] | None = None
) -> dict[str, Any]:
    """Return the JSON object at a URL; with a form, what it is answered with.

    Parameters
    ----------
    auth
        Name and secret of a client.

    Raises
    ------
    NoAnswer
        There is none in time, it is too large, or it is no JSON object.
    Declined
        The issuer refuses the form.
    """
    if not is_private(url):
        raise NoAnswer(f"{url} is not https")
    deadline = time.monotonic() + _SECONDS
    try:
        with requests.request(
            "GET" if form is None else "POST",
            url,
            data=form,
            auth=auth,
            headers={"Accept": "application/json"},
            timeout=(_CONNECT_SECONDS, _READ_SECONDS),
            # Keys, and secrets, go where the administrator said, not where an answer points to.
            allow_redirects=False,
            stream=True,
        ) as answer:
            content = _read(answer, url, deadline)
    except requests.RequestException as error:
        raise NoAnswer(f"{url} does not answer: {_cause(error)}") from error
    return _understood(answer.status_code, content, url, form is not None)


def _read(answer: requests.Response, url: str, deadline: float) -> bytes:
    content = bytearray()
    for part in answer.iter_content(1 << 16):
        content += part
        if len(content) > MOST_BYTES:
            raise NoAnswer(f"{url} answers with more than {MOST_BYTES >> 20} MiB")
        if time.monotonic() > deadline:
            raise NoAnswer(f"{url} does not come to an end within {_SECONDS:g} s")
    return bytes(content)


def _understood(status: int, content: bytes, url: str, is_form: bool) -> dict[str, Any]:
    try:
        value = json.loads(content)
    except (ValueError, RecursionError):
        value = None
    if is_form and 400 <= status < 500 and isinstance(value, dict) and "error" in value:
        raise Declined(f"{value['error']}: {value.get('error_description', 'no reason given')}"[:300])
    if status != 200:
        raise NoAnswer(f"{url} answers with status {status}")
    if not isinstance(value, dict):
        raise NoAnswer(f"{url} answers with something that is no JSON object")
    return value


def _cause(error: requests.RequestException) -> str:
    """Return the innermost reason: those around it hold addresses of Python objects."""
    inner: BaseException = error
    while (deeper := inner.__cause__ or inner.__context__) is not None:
        inner = deeper
    return str(inner)[:200] or type(inner).__name__
