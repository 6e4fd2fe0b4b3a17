"""Who is at the other end of the connection: the only address that nobody can make up."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address

from flask import Request


def peer_of(request: Request) -> IPv4Address | IPv6Address | None:
    """Return the address that a request comes from; None where that is not an address.

    ``X-Forwarded-For`` is never looked at, also where something else put it in the place of the address.
    """
    environ = request.environ.get("werkzeug.proxy_fix.orig", request.environ)
    try:
        address = ip_address(str(environ.get("REMOTE_ADDR", "")).partition("%")[0])
    except ValueError:
        return None
    # Who listens on both kinds sees 192.0.2.1 as ::ffff:192.0.2.1.
    return getattr(address, "ipv4_mapped", None) or address
