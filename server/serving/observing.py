"""What is told about the service: a line for each request, metrics, and whether it lives and is ready.

Nothing of it has a token, a cookie, or what was in a form.
"""

from __future__ import annotations

import hmac
import logging
import re
import secrets
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import parse_qsl, urlencode

from flask import Blueprint, Flask, Response, current_app, g, jsonify, request
from werkzeug.exceptions import BadRequest

from mlaas_condor import run, runs

from ..faults import Forbidden, Unauthorized
from ..service import Service, service
from ..watching import viewing
from . import exchange, metrics

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

OPEN = frozenset({"observing.healthz", "observing.readyz", "observing.metrics"})
"""Views that look by themselves at who asks, or answer anybody."""

REQUEST_ID = "mlaas_condor.request_id"
_SEEN = "mlaas_condor.seen"
_EXTENSION = "mlaas_condor.observing"
_GIVEN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{7,63}")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_FOLLOWS = "text/event-stream"
_SHOWN = frozenset(
    {"process_name", "name", "owner", "folder", "stage", "task", "stream", "offset", "limit", "follow"}
)
_POOL_SECONDS = 10.0  # how long an answer of the pool is kept
_routes = Blueprint("observing", __name__)
_access = logging.getLogger("mlaas_condor.access")


def add_to(app: Flask) -> None:
    """Let an application be observed: before anything else is added to it."""
    app.wsgi_app = _Observed(app.wsgi_app)  # type: ignore[method-assign]
    app.extensions[_EXTENSION] = _Looks()
    app.before_request(_begin)
    app.after_request(_end)
    app.register_blueprint(_routes)


def _begin() -> None:
    g.request_id = request.environ.get(REQUEST_ID) or secrets.token_hex(8)
    if _CONTROL.search(request.path):
        raise BadRequest(f"the path {request.path[:200]!r} has control characters")


def _end(response: Response) -> Response:
    """Note what only Flask knows, and let a download step aside."""
    identity = getattr(g, "identity", None)
    seen: _Seen | None = request.environ.get(_SEEN)
    if seen is not None:
        seen.owner = identity.owner if identity is not None else ""
        seen.route = request.url_rule.rule if request.url_rule is not None else ""
        seen.quiet = request.endpoint in OPEN
    if response.is_streamed:
        exchange.step_aside(request.environ)
    return response


@dataclass
class _Seen:
    """A request, from its first to its last byte.

    Parameters
    ----------
    owner, route, quiet
        As far as Flask has told: who, the rule of the view, whether it is looked at every few seconds.
    """

    method: str
    path: str
    query: str
    length: int
    request_id: str
    address: str
    forwarded: str
    began: float = field(default_factory=time.perf_counter)
    status: int = 500
    owner: str = ""
    route: str = ""
    quiet: bool = False
    sent: int = 0
    follows: bool = False
    repeated: bool = False

    def start(self, status: str, headers: list[tuple[str, str]]) -> None:
        """Note how the reply begins."""
        self.status = int(status[:3])
        known = {name.lower(): value for name, value in headers}
        self.follows = known.get("content-type", "").startswith(_FOLLOWS)
        self.repeated = "idempotency-replayed" in known
        if self.follows:
            metrics.count_follower(1)

    def end(self) -> None:
        """Count it, and write its line."""
        seconds = time.perf_counter() - self.began
        if self.follows:
            metrics.count_follower(-1)
        took = None if self.follows else seconds
        metrics.count_request(self.method, self.route or "none", self.status, took)
        if self.status < 300 and (self.method, self.route) in _UPLOADS:
            metrics.count_upload(self.length)
        if self.status < 300 and not self.repeated and (self.method, self.route) in _SUBMISSIONS:
            metrics.count_submission()
        if self.quiet and self.status < 400:
            return
        _access.info(
            "%s %s %d", self.method, self.path, self.status,
            extra={
                "request_id": self.request_id, "owner": self.owner, "address": self.address,
                **({"forwarded": self.forwarded} if self.forwarded else {}),
                "method": self.method, "path": self.path, "query": shown(self.query), "status": self.status,
                "ms": round(seconds * 1000, 1), "bytes": self.sent, "received": self.length,
            },
        )  # fmt: skip


_UPLOADS = frozenset({("PUT", "/api/v1/folders/<name>"), ("POST", "/upload")})
_SUBMISSIONS = frozenset({("POST", "/api/v1/runs"), ("POST", "/submit")})


class _Observed:
    """The application, with a request id for every request, and a line when its reply is over."""

    def __init__(self, application: WSGIApplication) -> None:
        self._application = application

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        given = environ.get("HTTP_X_REQUEST_ID", "")
        length = environ.get("CONTENT_LENGTH", "")
        seen = _Seen(
            method=environ["REQUEST_METHOD"],
            path=environ.get("PATH_INFO", ""),
            query=environ.get("QUERY_STRING", ""),
            length=int(length) if length.isdecimal() else 0,
            request_id=given if _GIVEN_ID.fullmatch(given) else secrets.token_hex(8),
            address=environ.get("REMOTE_ADDR", ""),
            forwarded=environ.get("HTTP_X_FORWARDED_FOR", "")[:200],
        )
        environ[REQUEST_ID], environ[_SEEN] = seen.request_id, seen

        def start(status: str, headers: list[tuple[str, str]], *more: Any) -> Any:
            seen.start(status, headers)
            return start_response(status, [*headers, ("X-Request-ID", seen.request_id)], *more)

        try:
            return _Counted(self._application(environ, start), seen)
        except BaseException:
            seen.end()
            raise


class _Counted:
    """A reply that knows how much of it has gone."""

    def __init__(self, reply: Iterable[bytes], seen: _Seen) -> None:
        self._reply, self._blocks, self._seen = reply, iter(reply), seen

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        block = next(self._blocks)
        self._seen.sent += len(block)
        return block

    def close(self) -> None:
        try:
            if close := getattr(self._reply, "close", None):
                close()
        finally:
            self._seen.end()


def shown(query: str) -> str:
    """Return a query as a log may have it: of what is not known to be harmless only that it was there."""
    return urlencode([(name, value if name in _SHOWN else "...") for name, value in parse_qsl(query[:2000])])


class _Looks:
    """What a process has seen of the pool and of the runs, a while ago at most."""

    def __init__(self) -> None:
        self.runs: metrics.Runs | None = None
        self._problem = ""
        self._at = 0.0
        self._turn = threading.Lock()

    def pool_problem(self, of: Service) -> str:
        """Return why the pool cannot be asked; empty where it can. Only one at a time looks."""
        if self._at and time.monotonic() - self._at < _POOL_SECONDS:
            return self._problem
        if self._turn.acquire(blocking=not self._at):
            try:
                if not self._at or time.monotonic() - self._at >= _POOL_SECONDS:
                    self._problem = runs.pool_problem(of.settings)
                    self._at = time.monotonic()
            finally:
                self._turn.release()
        return self._problem


def _looks() -> _Looks:
    return cast(_Looks, current_app.extensions[_EXTENSION])


@_routes.get("/healthz")
def healthz() -> Response:
    """Say that the process lives."""
    return jsonify({"status": "ok"})


@_routes.get("/readyz")
def readyz() -> Response:
    """Say whether it can do what it is there for: without the pool much, without its folder nothing."""
    writable = _can_write(service().settings.home / "service")
    problem = _looks().pool_problem(service())
    status = "not ready" if not writable else "degraded" if problem else "ready"
    response = jsonify(
        {
            "status": status,
            "home": "can be written" if writable else "cannot be written",
            "pool": "does not answer" if problem else "answers",
        }
    )
    if not writable:
        response.status_code = 503
        response.headers["Retry-After"] = "10"
    return response


def _can_write(folder: Path) -> bool:
    probe = folder / f".ready-{secrets.token_hex(8)}"
    try:
        probe.touch(mode=0o600)
        probe.unlink()
    except OSError:
        return False
    return True


@_routes.get("/metrics", endpoint="metrics")
def show_metrics() -> Response:
    """Show what is counted to Prometheus, and to administrators."""
    _check_reader()
    looks = _looks()
    if looks.runs is None:
        looks.runs = metrics.Runs(_counting())
    up = not looks.pool_problem(service())
    return Response(metrics.render(looks.runs.numbers(), up), content_type=metrics.CONTENT_TYPE)


def _counting() -> Callable[[], Any]:
    """Return what counts runs by state, also where there is no request."""
    users, states = service().settings.home / "users", viewing.viewing().states

    def count() -> Any:
        folders = [each for owner in sorted(users.glob("*/runs")) for each in run.list_folders(owner)]
        return metrics.count_states(state.state for state in states.of(folders))

    return count


def _check_reader() -> None:
    configuration = service().configuration
    if configuration.login.method == "none":
        return
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    path = configuration.service.metrics_token_file
    if path is not None and scheme.lower() == "bearer":
        expected = path.read_bytes().strip()
        if expected and hmac.compare_digest(token.strip().encode(), expected):
            return
    identity = service().login.identify(request)
    if identity is None:
        raise Unauthorized(
            "metrics are for administrators, or need the token of service.metrics_token_file",
            {"WWW-Authenticate": "Bearer"},
        )
    if not identity.administrator:
        raise Forbidden("metrics are for administrators")
