"""One request and its reply: between granian's own interface (RSGI) and a WSGI application."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from ipaddress import IPv6Address, ip_address
from typing import IO, TYPE_CHECKING, Any, Protocol, cast

from werkzeug.wsgi import FileWrapper

from ..faults import ErrorReply
from .body import Body

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication, WSGIEnvironment

_ENDED = "mlaas_condor.ended"
_STEP_ASIDE = "mlaas_condor.step_aside"
_LOOKS = frozenset({"GET", "HEAD", "OPTIONS"})
_BLOCK = 2**18
_SEND_SECONDS = 60.0  # for a client to take a block
_log = logging.getLogger(__name__)


class Scope(Protocol):
    """What granian tells of a request."""

    http_version: str
    server: str
    client: str
    scheme: str
    method: str
    path: str
    query_string: str
    authority: str | None

    @property
    def headers(self) -> Any:
        """Names as they came, in lower case, with their values."""


class Transport(Protocol):
    """Takes a reply in pieces."""

    def send_bytes(self, data: bytes) -> Awaitable[None]:
        """Wait until there is room for them."""


class Channel(Protocol):
    """Gives the body of a request, and takes the reply, from any thread."""

    def __aiter__(self) -> AsyncIterator[bytes]: ...

    def client_disconnect(self) -> Awaitable[None]:
        """Wait until the client is gone."""

    def response_empty(self, status: int, headers: list[tuple[str, str]]) -> None:
        """Answer without content."""

    def response_bytes(self, status: int, headers: list[tuple[str, str]], body: bytes) -> None:
        """Answer."""

    def response_stream(self, status: int, headers: list[tuple[str, str]]) -> Transport:
        """Begin an answer."""


def ended(environ: WSGIEnvironment) -> threading.Event:
    """Return what is set as soon as nobody waits for more of a reply: the client left, or the service stops.

    A reply that follows something waits with ``ended(request.environ).wait(seconds)`` instead of sleeping.
    """
    return cast(threading.Event, environ.get(_ENDED) or threading.Event())


def step_aside(environ: WSGIEnvironment) -> bool:
    """Let the rest of a reply take no place of short requests; False where too many have stepped aside."""
    aside: Callable[[], bool] | None = environ.get(_STEP_ASIDE)
    return aside is None or aside()


class Exchange:
    """A request and its reply.

    Parameters
    ----------
    application
        The WSGI application.
    loop
        Where granian's side of it goes on.
    places
        For what takes long.
    patience
        Seconds to wait for a piece of the body.
    """

    def __init__(
        self,
        application: WSGIApplication,
        scope: Scope,
        channel: Channel,
        loop: asyncio.AbstractEventLoop,
        places: threading.Semaphore,
        patience: float,
    ) -> None:
        self.ended = threading.Event()
        self.aside = False
        self.changes = scope.method not in _LOOKS
        self._application, self._scope, self._channel = application, scope, channel
        self._loop, self._places = loop, places
        headers = headers_of(scope.headers.items())
        self.length = length_of(headers)
        self._environ = {
            **environ_of(scope, headers),
            "wsgi.input": Body(aiter(channel), self.length, loop, patience),
            _ENDED: self.ended,
            _STEP_ASIDE: self.step_aside,
        }
        # Flask keeps what belongs to a request in its context: the same one in whatever thread goes on.
        self._context = contextvars.Context()
        self._begun = False
        self._status, self._headers = 500, list[tuple[str, str]]()
        self._reply: Iterable[bytes] = ()
        self._gone: asyncio.Future[None] | None = None

    def step_aside(self) -> bool:
        """Let what follows take a place among what takes long; False where there is none."""
        if not self.aside:
            self.aside = self._places.acquire(blocking=False)
        return self.aside

    def over(self) -> None:
        """Give back what was taken; on the loop."""
        self.ended.set()
        if self._gone is not None:
            self._gone.cancel()
        if self.aside:
            self._places.release()

    def refuse(self, status: int, code: str, said: str, **headers: str) -> None:
        """Answer without the application."""
        body = ErrorReply(error=said, code=code, status=status).model_dump_json().encode()
        kind = {"content-type": "application/json", "content-length": str(len(body)), **headers}
        self._channel.response_bytes(status, list(kind.items()), body)
        _log.warning("%s %s: %d, %s", self._scope.method, self._scope.path, status, said)

    def begin(self) -> bool:
        """Call the application, and send its reply; True where the rest is for another thread."""
        aside = self.aside
        try:
            self._reply = self._context.run(self._application, self._environ, self._start)
        except Exception:
            _log.exception("the application has failed")
            self.refuse(500, "internal", "something went wrong here")
            return False
        if self.aside and not aside:
            return True
        self.go_on()
        return False

    def go_on(self) -> None:
        """Send the reply."""
        try:
            self._context.run(self._send)
        except ConnectionError:
            pass  # nobody is there any more
        except Exception:
            _log.exception("a reply has failed on its way")
            if not self._begun:
                self.refuse(500, "internal", "something went wrong here")
        finally:
            if close := getattr(self._reply, "close", None):
                self._context.run(close)

    def _start(
        self, status: str, headers: list[tuple[str, str]], exc_info: Any = None, /
    ) -> Callable[[bytes], object]:
        # Not ASCII does not get through; whoever makes such a header has to encode it.
        plain = [(name.lower(), value.encode("ascii", "replace").decode()) for name, value in headers]
        self._status, self._headers = int(status[:3]), plain
        return _no_write

    def _send(self) -> None:
        if self._scope.method == "HEAD" or self._status in (204, 304):
            self._begun = True
            self._channel.response_empty(self._status, self._headers)
            return
        reply = iter(self._reply)
        first = next(reply, b"")
        self._begun = True
        if ("content-length", str(len(first))) in self._headers:
            self._channel.response_bytes(self._status, self._headers, first)
            return
        transport = self._channel.response_stream(self._status, self._headers)
        self._loop.call_soon_threadsafe(self._watch)
        self._pass_on(transport, first)
        for block in reply:
            self._pass_on(transport, block)

    def _pass_on(self, transport: Transport, block: bytes) -> None:
        if not block:
            return

        async def send() -> None:
            await asyncio.wait_for(transport.send_bytes(block), _SEND_SECONDS)

        try:
            asyncio.run_coroutine_threadsafe(send(), self._loop).result()
        except (TimeoutError, RuntimeError) as error:  # granian's ProtocolClosed is one
            raise ConnectionError("the client does not take the reply") from error

    def _watch(self) -> None:
        """Notice when the client goes away; on the loop."""
        self._gone = asyncio.ensure_future(self._channel.client_disconnect())
        self._gone.add_done_callback(lambda _: self.ended.set())


def environ_of(scope: Scope, headers: dict[str, str]) -> WSGIEnvironment:
    """Return what WSGI tells of a request, but for its body."""
    name, _, port = scope.server.rpartition(":")
    return {
        "REQUEST_METHOD": scope.method,
        "SCRIPT_NAME": "",
        "PATH_INFO": scope.path.encode("utf-8", "surrogateescape").decode("latin-1"),
        "QUERY_STRING": scope.query_string,
        "SERVER_NAME": name.strip("[]"),
        "SERVER_PORT": port,
        "SERVER_PROTOCOL": f"HTTP/{scope.http_version}",
        "REMOTE_ADDR": address_of(scope.client),
        "HTTP_HOST": scope.authority or "",
        **headers,
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": scope.scheme,
        "wsgi.input_terminated": True,
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": True,
        "wsgi.multiprocess": True,
        "wsgi.run_once": False,
        "wsgi.file_wrapper": _blocks,
    }


def headers_of(given: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Return the headers of a request by their WSGI names, several of a name joined.

    One with ``_`` in its name is left out: nobody could tell it from the one with ``-`` that a proxy wrote.
    """
    found: dict[str, str] = {}
    for each, value in given:
        if "_" in each:
            continue
        name = each.upper().replace("-", "_")
        if name not in ("CONTENT_TYPE", "CONTENT_LENGTH"):
            name = f"HTTP_{name}"
        between = "; " if name == "HTTP_COOKIE" else ","
        found[name] = f"{found[name]}{between}{value}" if name in found else value
    return found


def length_of(headers: dict[str, str]) -> int | None:
    """Return how long the body is; None where there may be one whose length is not told."""
    length = headers.get("CONTENT_LENGTH", "")
    if length.isdecimal():
        return int(length)
    return None if "HTTP_TRANSFER_ENCODING" in headers else 0


def address_of(client: str) -> str:
    """Return the address in ``192.0.2.7:443`` or ``[2001:db8::7]:443``; that of IPv4 however it came."""
    name = client.rpartition(":")[0].strip("[]")
    try:
        address = ip_address(name)
    except ValueError:
        return name
    inner = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return str(inner or address)


def _blocks(file: IO[bytes], _: int = 0) -> Iterable[bytes]:
    return FileWrapper(file, _BLOCK)


def _no_write(_: bytes) -> object:
    raise NotImplementedError("return what is to be sent")
