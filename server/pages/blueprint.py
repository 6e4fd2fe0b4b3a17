"""What all pages share: the blueprint, what templates may call, errors, where one goes after a change."""

from __future__ import annotations

import hashlib
import time
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from flask import Blueprint, Response, g, make_response, redirect, render_template, request, url_for
from werkzeug.wrappers import Response as AnyResponse

from mlaas_condor import show

from ..browsers import csrf_token
from ..faults import ErrorReply
from ..identity import Identity
from ..service import service

routes = Blueprint(
    "pages",
    __name__,
    template_folder="templates",
    static_folder="static",
    static_url_path="/static",
)

_SAID = {
    "cancelled": "It is cancelled. What it has done stays; Resume goes on from there.",
    "resumed": "It goes on, and redoes only what is missing.",
    "deleted": "It is deleted.",
    "shared": "It is kept with whom this is shared.",
    "uploaded": "It is uploaded.",
    "submitted": "It is submitted.",
    "again": "It had been submitted already: this is that run.",
}
_TITLES = {
    400: "That request cannot be used",
    401: "Who are you?",
    403: "You may not do that",
    404: "There is no such thing here",
    405: "That cannot be done here",
    409: "Not now",
    413: "That is too large",
    415: "That is of another kind",
    421: "Not at this address",
    422: "That is refused",
    429: "A limit is reached",
    503: "Something it needs does not answer now",
    507: "There is no room left",
}
_KIB = 1024
_SECONDS = (("day", 86_400), ("hour", 3600), ("minute", 60))


def somebody() -> Identity | None:
    """Return who makes the request; None where nobody is known, as on the page to log in."""
    found: Identity | None = g.get("identity")
    return found


def page(template: str, status: int = 200, **values: Any) -> Response:
    """Return a page."""
    response = make_response(render_template(template, **values))
    response.status_code = status
    return response


def part(template: str, **values: Any) -> Response:
    """Return the parts of a page that change by themselves, or that they have not changed."""
    response = make_response(render_template(template, **values))
    response.set_etag(hashlib.sha256(response.get_data()).hexdigest()[:32])
    response.make_conditional(request)
    return response


def after(said: str, endpoint: str, **values: Any) -> AnyResponse:
    """Go to a page after a change, and say there what was changed."""
    return redirect(url_for(f"pages.{endpoint}", **values, said=said), 303)


def error(reply: ErrorReply) -> Response:
    """Return the page of an error."""
    title = _TITLES.get(
        reply.status, "Something went wrong" if reply.status >= 500 else "That cannot be done"
    )
    return page("error.html", reply.status, reply=reply, title=title)


def asset(name: str) -> str:
    """Return the address of a file of the pages, with a digest: a browser keeps it until it changes."""
    return url_for("pages.static", filename=name, v=_digest(name))


@cache
def _digest(name: str) -> str:
    return hashlib.sha256((Path(__file__).parent / "static" / name).read_bytes()).hexdigest()[:12]


@routes.app_context_processor
def _known() -> dict[str, Any]:
    who = somebody()
    return {
        "who": who,
        "csrf": csrf_token(who) if who else "",
        "can_log_out": who is not None and who.method != "token" and service().login.can_log_out,
        "asset": asset,
        "said": _SAID.get(request.args.get("said", ""), ""),
        "here": (request.endpoint or "").removeprefix("pages.").partition("_")[0],
        "version": version("mlaas-condor"),
    }


@routes.app_template_filter("duration")
def _duration(seconds: float | None) -> str:
    return show.duration(seconds)


@routes.app_template_filter("bytes")
def size(number: float) -> str:
    """Return a number of bytes as ``1.5 MB``, in powers of 1024 as everywhere here."""
    for unit in ("B", "kB", "MB", "GB"):
        if number < _KIB:
            return f"{number:.0f} {unit}" if unit == "B" or number >= 100 else f"{number:.1f} {unit}"
        number /= _KIB
    return f"{number:.1f} TB"


@routes.app_template_filter("iso")
def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


@routes.app_template_filter("clock")
def _clock(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


@routes.app_template_filter("ago")
def ago(seconds: float) -> str:
    """Return how long ago it was, and of what is longer ago than a week the day."""
    passed = max(0.0, time.time() - seconds)
    if passed > 7 * 86_400:
        return datetime.fromtimestamp(seconds, UTC).strftime("%-d %B %Y")
    for unit, length in _SECONDS:
        if passed >= length:
            number = int(passed // length)
            return f"{number} {unit}{'' if number == 1 else 's'} ago"
    return "just now"
