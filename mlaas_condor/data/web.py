"""Files of web servers and Hadoop, through fsspec: opening, and telling in a few words why it fails."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from mlaas_condor.errors import AccessDenied, CredentialFault, InputUnreadable, StageError, StorageUnavailable
from mlaas_condor.grid import xrootd
from mlaas_condor.grid.xrootd import HostSilent

WEB = {"http": "http", "https": "https", "dav": "http", "davs": "https"}
"""What web servers are asked by; WebDAV is HTTP for whoever only reads."""
CONNECT_SECONDS = 10
SILENCE_SECONDS = 30
REQUEST_SECONDS = 300  # one request may fetch a large part over a slow line, as long as bytes arrive
MISSING = "no such file"
WHOLE = "the server sends no parts of files"
_AHEAD = 2**18  # fsspec's own 5 MiB would be the whole of many a file


class WebFile:
    """An open file of a web server or of Hadoop; what `Place` promises.

    Parameters
    ----------
    url
        Where it is.

    Raises
    ------
    InputUnreadable
        It cannot be opened, or the server does not send parts of it.
    """

    gap = 2**17  # each range is a request: rather some bytes too many

    def __init__(self, url: str) -> None:
        self.url = url
        with telling(url):
            self._system, self._inner = filesystem(url)
            if not is_web(url) and self._system.isdir(self._inner):
                raise InputUnreadable(f"{url}: is a directory, not a file")
            with self._system.open(self._inner, "rb") as file:
                if not file.seekable():
                    raise InputUnreadable(f"{url}: {WHOLE}, or does not say how large they are")
                self.size = file.seek(0, os.SEEK_END)
                if is_web(url) and self.size > 1:
                    # A server that sends all of a file for any part of it is found out before that is much.
                    file.seek(-1, os.SEEK_END)
                    file.read(1)

    def read(self, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        """Return the bytes of ranges (start, stop), asked for side by side."""
        starts, stops = [start for start, _ in ranges], [stop for _, stop in ranges]
        with telling(self.url):
            found = self._system.cat_ranges([self._inner] * len(ranges), starts, stops, on_error="raise")
        for (start, stop), part in zip(ranges, found, strict=True):
            if len(part) != stop - start:
                raise StorageUnavailable(f"{self.url}: sent {len(part)} bytes of {stop - start}")
        return list(found)

    def close(self) -> None:
        """Nothing is kept open between requests."""


def is_web(url: str) -> bool:
    """Tell whether a URL is one of a web server."""
    return url.partition("://")[0].lower() in WEB


def filesystem(url: str) -> tuple[Any, str]:
    """Return fsspec's file system of a URL, and what it calls the file."""
    import fsspec.core

    kind, rest = url.split("://", 1)
    kind = kind.lower()
    if kind in WEB:
        url = f"{WEB[kind]}://{rest}"
    system, inner = fsspec.core.url_to_fs(url, **_options(kind, url))
    if kind == "webhdfs" and not isinstance(system.session.request, partial):
        limit = (CONNECT_SECONDS, SILENCE_SECONDS)
        system.session.request = partial(system.session.request, timeout=limit)
        system.blocksize = _AHEAD
    return system, inner


def _options(kind: str, url: str) -> dict[str, Any]:
    if kind == "hdfs":
        milliseconds, once = str(1000 * CONNECT_SECONDS), "1"
        names = ("ipc.client.connect.max.retries", "ipc.client.connect.max.retries.on.timeouts")
        limits = {"ipc.client.connect.timeout": milliseconds, **dict.fromkeys(names, once)}
        return {"extra_conf": limits}
    if kind not in WEB:
        return {}
    import aiohttp

    limit = aiohttp.ClientTimeout(
        total=REQUEST_SECONDS,
        connect=CONNECT_SECONDS,
        sock_connect=CONNECT_SECONDS,
        sock_read=SILENCE_SECONDS,
    )
    # trust_env: proxies are set in the environment, as for every other program.
    options: dict[str, Any] = {
        "cache_type": "none",  # `data.remote` keeps what will be read again
        "client_kwargs": {"timeout": limit, "trust_env": True},
    }
    # Never without encryption, and not to any web server. Each has a context of its own: none is kept.
    return options | ({"skip_instance_cache": True} | _identity(url) if kind == "davs" else {})


def _identity(url: str) -> dict[str, Any]:
    """Return how we say who we are to storage of the grid.

    Raises
    ------
    CredentialFault
        There is a proxy or token, and neither does.
    """
    from mlaas_condor.grid import proxy, tokens

    context = ssl.create_default_context()
    if Path(xrootd.authorities()).is_dir():
        context.load_verify_locations(capath=xrootd.authorities())
    token, path = tokens.find(), proxy.find()
    of_token = tokens.faults(token, [url]) if token else []
    of_proxy = proxy.faults(proxy.read(path)) if path else []
    headers = {"Authorization": f"Bearer {token.text}"} if token and not of_token else {}
    if path and not of_proxy:
        context.load_cert_chain(path)
    elif not headers and (of_proxy or of_token):
        raise CredentialFault(f"{url}: {(*of_proxy, *of_token)[0]}")
    return {"headers": headers, "ssl": context}


@contextmanager
def telling(path: str) -> Iterator[None]:
    """Turn whatever fails into an error of ours, with the path and the cause in one line."""
    try:
        yield
    except (MemoryError, StageError):
        raise
    except Exception as error:
        kind, words = why(error)
        if path.lower().startswith("davs:") and _refused(error):
            raise CredentialFault(f"{path}: it does not accept our proxy or token: {words}") from error
        raise kind(f"{path}: {words}") from error


def _refused(error: BaseException) -> bool:
    """Tell whether a server wants to know who we are, or does not believe it."""
    return any(
        getattr(each, "status", None) == HTTPStatus.UNAUTHORIZED
        or (
            isinstance(each, ssl.SSLError)
            and "ALERT" in str(each.reason)
            and "CERTIFICATE" in str(each.reason)
        )
        for each in _chain(error)
    )


def why(error: BaseException) -> tuple[type[InputUnreadable], str]:
    """Say in a few words what went wrong; fsspec's libraries each have errors of their own for the same."""
    for each in _chain(error):
        known = _known(each)
        if known:
            return known
    if isinstance(error, FileNotFoundError) and error.__cause__:
        error = error.__cause__
    text = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    words = f"cannot be read: {type(error).__name__}"
    return _passing(error), f"{words}: {text}" if text else words


def _chain(error: BaseException) -> list[BaseException]:
    """Return an error and what led to it, the first cause first: fsspec says 'not found' of any failure."""
    chain: list[BaseException] = []
    at: BaseException | None = error
    while at is not None and at not in chain:
        chain.append(at)
        at = at.__cause__ or at.__context__
    return chain[::-1]


def _passing(error: BaseException) -> type[InputUnreadable]:
    """Return the kind of an error of the connection, which may pass, and of any other."""
    kinds = (ConnectionError, TimeoutError, asyncio.IncompleteReadError)
    lost = type(error).__name__ in ("ServerDisconnectedError", "ClientPayloadError", "ClientOSError")
    return StorageUnavailable if lost or isinstance(error, kinds) else InputUnreadable


def _known(error: BaseException) -> tuple[type[InputUnreadable], str] | None:
    name = type(error).__name__
    if isinstance(error, ImportError):
        missing = f"needs a package that is missing: pip install {error.name}" if error.name else str(error)
        return InputUnreadable, missing
    if isinstance(error, socket.gaierror) or name in ("ClientConnectorDNSError", "NameResolutionError"):
        return HostSilent, "its host is unknown"
    if isinstance(error, ssl.SSLCertVerificationError):
        reason = f"its certificate is not trusted ({error.verify_message})"
        return AccessDenied, f"{reason}; SSL_CERT_FILE names others that are"
    if isinstance(error, ssl.SSLError):
        return AccessDenied, f"no secure connection: {error.reason or error}"
    if isinstance(error, TimeoutError) or name in ("ConnectTimeout", "ReadTimeout"):
        return HostSilent, "timed out: its host does not answer"
    if isinstance(error, ConnectionRefusedError):
        return HostSilent, "its host refuses the connection"
    if isinstance(error, FileNotFoundError):
        return None if error.__cause__ else (InputUnreadable, MISSING)
    if isinstance(error, PermissionError):
        return AccessDenied, "no permission"
    if isinstance(error, IsADirectoryError):
        return InputUnreadable, "is a directory, not a file"
    if "libhdfs" in str(error) or "libjvm" in str(error):
        words = "hdfs:// needs Java and Hadoop's libhdfs (JAVA_HOME, HADOOP_HOME); webhdfs:// needs neither"
        return InputUnreadable, words
    if "support range requests" in str(error):
        return InputUnreadable, WHOLE
    status = getattr(error, "status", None) or getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(status, int):
        return _of_status(status)
    if isinstance(error, OSError) and error.strerror:
        return _passing(error), f"cannot be read: {error.strerror}"
    return None


def _of_status(status: int) -> tuple[type[InputUnreadable], str]:
    if status in (401, 403):
        return AccessDenied, f"no permission (HTTP {status})"
    if status in (404, 410):
        return InputUnreadable, MISSING
    kind = StorageUnavailable if status in (408, 429) or status >= 500 else InputUnreadable
    return kind, f"the server fails (HTTP {status})"


def host(url: str) -> str:
    """Return a URL without the path: what `filesystem` leaves out of the names it lists."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"
