"""Method ``none``: nobody logs in, because nobody else can be there."""

from __future__ import annotations

import os
import pwd

from flask import Request

from ..identity import Identity
from .peers import peer_of
from .refusals import refused

_SIGNS_OF_A_PROXY = ("Forwarded", "X-Forwarded-For", "X-Forwarded-User", "X-Real-IP", "Via")


def identify(request: Request) -> Identity:
    """Return the account that the service runs as, for whoever is on this machine.

    Raises
    ------
    Unauthorized
        The request comes from elsewhere, or through a proxy, which others may reach.
    """
    peer = peer_of(request)
    if peer is None or not peer.is_loopback:
        raise refused(f"this service is for one user, on its own machine; you come from {peer}", error="")
    for name in _SIGNS_OF_A_PROXY:
        if name in request.headers:
            raise refused(
                f"a proxy stands in front ({name}), and whoever it lets in would be {account()}: set "
                "login.method in service.toml",
                error="",
            )
    return Identity(owner=account(), name=account(), method="none")


def account() -> str:
    """Return the name of the account that this process runs as."""
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return str(os.geteuid())
