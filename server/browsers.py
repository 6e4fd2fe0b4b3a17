"""What keeps browsers, and what other people's pages make them do, at a distance.

A browser sends its cookies, and reaches loopback, also when another site tells it to. So what a browser asks
for and changes something must come from a page of ours (``Origin``), and carry a token that no other site can
read. Programs that say who they are by ``Authorization`` are not concerned: nothing adds that by itself.
"""

from __future__ import annotations

import hashlib
import hmac
import socket
import time
from functools import cache
from ipaddress import ip_address
from typing import TypeVar
from urllib.parse import urlsplit

from flask import request
from werkzeug.wrappers import Response

from .configuration import Configuration
from .faults import Forbidden, HttpFault
from .identity import Identity
from .service import service

CSRF_HEADER = "X-CSRF-Token"
CSRF_FIELD = "csrf"
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "form-action 'self'; frame-src 'self'; base-uri 'none'; frame-ancestors 'none'"
)
"""What a page of ours may load and do; a run's report, which is the work of a job, has a stricter one."""

_DAY = 86_400
_SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
_FORM = "application/x-www-form-urlencoded"
_DELETING_GETS = frozenset({"/delete_specs", "/delete_folder"})
_OLD_CALLS = _DELETING_GETS | {
    "/upload", "/status_docker", "/status", "/logs", "/model", "/setup_tfaas", "/hello",
}  # fmt: skip
_NO_PAGES = _OLD_CALLS | {"/openapi.json", "/metrics", "/healthz", "/readyz"}
_OWN_TOKEN = frozenset({"login.paste", "pages.upload"})
"""Views that look for the token themselves: before anybody is logged in; in a form that is a large file."""

_HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    # Not no-referrer: with that, browsers say "Origin: null" of our own forms.
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), display-capture=(), geolocation=(), microphone=(), payment=(), usb=()",
    "Cache-Control": "no-store",
}
_KEPT = "public, max-age=31536000, immutable"
_YEAR = 365 * _DAY

_Reply = TypeVar("_Reply", bound=Response)


class Misdirected(HttpFault):
    """The request is for a host that is not us."""

    http_status = 421
    code = "wrong_host"


def protect(response: _Reply) -> _Reply:
    """Add the headers that tell a browser what a reply may do; those that a view has set stay."""
    if request.endpoint == "pages.static" and "v" in request.args:
        response.headers["Cache-Control"] = _KEPT  # the address has a digest of the content
    for name, value in _HEADERS.items():
        response.headers.setdefault(name, value)
    if request.is_secure or service().configuration.service.url.startswith("https:"):
        response.headers.setdefault("Strict-Transport-Security", f"max-age={_YEAR}")
    return response


def check_host(configuration: Configuration) -> None:
    """Make sure that a request is meant for us: a name of another site may be made to point here.

    Raises
    ------
    Misdirected
        Its ``Host`` is neither where we listen nor ``service.url``.
    """
    name = _host_name(request.host)
    if not name or not _answers_to(name, configuration):
        raise Misdirected(
            f"this service does not answer to the host {request.host[:200]!r}: use the address it listens "
            "on, or have its administrator name this one as url in service.toml"
        )


def _answers_to(name: str, configuration: Configuration) -> bool:
    listen = configuration.service
    if name in {_host_name(urlsplit(listen.url).netloc), listen.host.lower().strip("[]")}:
        return True
    if listen.host in ("0.0.0.0", "::"):
        # Names are what can be made to point here; an address is what it is.
        return _is_address(name) or name in {"localhost", _own_name()}
    return _is_loopback(name) and _is_loopback(listen.host)


def _host_name(netloc: str) -> str:
    """Return the host of ``host:port``, without brackets and in lower case; empty where it has none."""
    try:
        return (urlsplit(f"//{netloc}").hostname or "").rstrip(".")
    except ValueError:
        return ""


def _is_address(name: str) -> bool:
    try:
        ip_address(name)
    except ValueError:
        return False
    return True


def _is_loopback(name: str) -> bool:
    return name == "localhost" or (_is_address(name) and ip_address(name).is_loopback)


@cache
def _own_name() -> str:
    return socket.gethostname().lower()


def check_origin(identity: Identity) -> None:
    """Make sure that what changes something was meant by who is logged in, not by a page of another site.

    Parameters
    ----------
    identity
        Who makes the request.

    Raises
    ------
    Forbidden
        A browser sends it, from elsewhere or without the token of our pages.
    """
    if request.method in _SAFE and request.path not in _DELETING_GETS:
        return
    if identity.method == "token":
        return
    sent = request.headers
    if not (any(name in sent for name in _signs_of_a_browser()) or _is_followed_link()):
        # No browser; and a proxy or loopback says who it is. A cookie of ours is another matter.
        if identity.method != "session":
            return
    elif _is_foreign():
        raise Forbidden("a page of another site asked for this: open it in the pages of this service instead")
    if request.endpoint not in _OWN_TOKEN:
        check_token(identity)


def check_token(identity: Identity, given: str | None = None) -> None:
    """Make sure that a request carries the token that our pages have.

    Parameters
    ----------
    identity
        Who makes the request.
    given
        The token, from a form that the caller has read; found in the request if None.

    Raises
    ------
    Forbidden
        It carries none, or one of the day before yesterday.
    """
    if given is None:
        given = request.headers.get(CSRF_HEADER, "")
        if not given and request.mimetype == _FORM:
            given = request.form.get(CSRF_FIELD, "")
    today = int(time.time() // _DAY)
    good = [_token(identity.owner, day) for day in (today, today - 1)]
    # Both are compared, always: how long it takes says nothing.
    if not any([hmac.compare_digest(given.encode(), each.encode()) for each in good]):  # noqa: C419
        raise Forbidden(
            "the page that this came from is too old, or not ours: load it anew and try again; programs send "
            f"Authorization: Bearer TOKEN, or the csrf of /api/v1/me as {CSRF_HEADER}"
        )


def csrf_token(identity: Identity) -> str:
    """Return the token that the pages of somebody carry; it does until tomorrow ends."""
    return _token(identity.owner, int(time.time() // _DAY))


def _token(owner: str, day: int) -> str:
    return hmac.new(service().secret, f"csrf\0{owner}\0{day}".encode(), hashlib.sha256).hexdigest()


def _signs_of_a_browser() -> tuple[str, ...]:
    login = service().configuration.login
    if login.method == "proxy" and login.proxy and login.proxy.kind == "auth-proxy-server":
        return ("Sec-Fetch-Site", "Origin")  # it writes a Referer of its own into every request
    return ("Sec-Fetch-Site", "Origin", "Referer")


def _is_followed_link() -> bool:
    """Tell whether this is an old deleting GET to which a link of any page may have led a browser.

    An old browser, or one that reaches us without TLS, need not say where it comes from.
    """
    accepts = request.accept_mimetypes
    return request.path in _DELETING_GETS and ("Cookie" in request.headers or "text/html" in accepts.values())


def _is_foreign() -> bool:
    """Tell whether a browser says that another site's page made this request."""
    site = request.headers.get("Sec-Fetch-Site", "same-origin")
    if site not in ("same-origin", "none"):
        return True
    origin = request.headers.get("Origin")
    if origin is None and "Sec-Fetch-Site" not in request.headers:
        origin = request.headers.get("Referer")
    return origin is not None and not _is_ours(origin)


def _is_ours(origin: str) -> bool:
    try:
        parts = urlsplit(origin)
    except ValueError:
        return False
    own = urlsplit(service().configuration.service.url)
    if own.netloc and (parts.scheme, parts.netloc) == (own.scheme, own.netloc):
        return True
    # Whoever ends TLS in front of us: then the scheme is not ours to tell.
    return bool(parts.netloc) and parts.netloc == request.host and parts.scheme in ("http", "https")


def wants_page() -> bool:
    """Tell whether a person with a browser asks: then errors are pages, and strangers are sent to log in."""
    path = request.path
    if request.method not in ("GET", "HEAD", "POST") or path.startswith("/api/") or path in _NO_PAGES:
        return False
    if path == "/submit" and request.method == "POST":  # the old call; what one looks at is a page
        return False
    return request.accept_mimetypes.best_match(("application/json", "text/html")) == "text/html"
