"""Addresses of services of ours: which are safe to send a token to, and why one cannot be reached."""

from __future__ import annotations

import ipaddress
import os
import socket
import ssl
from pathlib import Path
from urllib.parse import urlsplit

from mlaas_condor.errors import Problem

from .renewal import WrongSetting

SERVICE = "mlaas-condor"
"""What a service of ours calls itself, and a client of ours."""

_EXAMPLE = "such as https://mlaas.example.org"


def check(url: str, where: str = "--server") -> bool:
    """Tell whether an address is on this machine.

    Parameters
    ----------
    url
        The address.
    where
        Who gave it, for the message.

    Raises
    ------
    WrongSetting
        It is none; or it is not safe, because it is neither https nor on this machine.
    """
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname or "", parts.port
    except ValueError as error:
        raise WrongSetting([Problem(where, f"{url!r} is no address: {error}")]) from None
    if parts.username or parts.password:
        raise WrongSetting([Problem(where, "the address holds a user or password", "give a token instead")])
    if parts.scheme not in ("http", "https") or not host or parts.query or parts.fragment:
        raise WrongSetting([Problem(where, f"{url!r} is no address", _EXAMPLE)])
    local = _is_loopback(host)
    if parts.scheme != "https" and not local:
        what = f"{url} is not https: others on the way could take the token, and the service's place"
        raise WrongSetting([Problem(where, what, f"https://{parts.netloc}")])
    return local


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def is_token(text: str) -> bool:
    """Tell whether a text can be a token: it goes into a header, where a line end would begin another."""
    return bool(text) and text.isascii() and text.isprintable() and " " not in text


def encryption() -> ssl.SSLContext:
    """Return how https is spoken: with the authorities of this system, and those of the grid.

    Services of the grid have certificates of authorities that an ordinary system does not know.
    """
    context = ssl.create_default_context()
    grid = os.environ.get("X509_CERT_DIR", "/etc/grid-security/certificates")
    if Path(grid).is_dir():
        context.load_verify_locations(capath=grid)
    return context


def why(reason: object, seconds: float) -> str:
    """Return in words why a service was not reached.

    Parameters
    ----------
    reason
        What the library said, most of the time an `OSError`.
    seconds
        How long it was waited for.
    """
    if isinstance(reason, socket.gaierror):
        return "is not known: is the name right?"
    if isinstance(reason, ConnectionRefusedError):
        return "refuses the connection: does the service run there?"
    if isinstance(reason, TimeoutError):
        return f"does not answer within {seconds:g} s"
    if isinstance(reason, ssl.SSLCertVerificationError):
        return (
            f"has a certificate that is not trusted here ({reason.verify_message}); X509_CERT_DIR or "
            "SSL_CERT_FILE names other authorities"
        )
    if isinstance(reason, ssl.SSLError):
        return f"speaks no https: {reason.reason or reason}"
    return f"cannot be reached: {reason}"
