"""Files of XRootD storage: how the client is set, reading by ranges, and what its errors mean."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import urlsplit

from mlaas_condor.errors import (
    AccessDenied,
    CredentialFault,
    InputUnreadable,
    StageError,
    StorageFull,
    StorageUnavailable,
)

SCHEMES = ("root", "roots", "xroot", "xroots")
# Made for interactive use and for tape, the client's own times are minutes: 480 s for a port where nobody
# listens. Whoever set one in the environment (XRD_STREAMTIMEOUT, …) keeps it. Seconds, but for the retries.
CLIENT = {
    "ConnectionWindow": 6,
    "ConnectionRetry": 1,
    "TimeoutResolution": 1,
    "StreamTimeout": 20,  # a server that says nothing for so long is gone
    "StreamErrorWindow": 0,  # a lost server may be asked again at once: when, `data.remote` says
    "RequestTimeout": 120,
}
_OPEN_SECONDS, _READ_SECONDS = 60, 120
_ELEMENT, _ELEMENTS = 2_097_136, 1024  # of one vector read, as servers have it by default
_REQUEST = 2**25  # bytes of one vector read
_AUTHENTICATION, _RESPONSE = 204, 400
_NO_SPACE, _NOT_ALLOWED, _NOT_FOUND, _DIRECTORY, _QUOTA, _REFUSED = 3009, 3010, 3011, 3016, 3021, 3030
_NOT_POSSIBLE = (3000, 3006, 3013)  # a server that knows no vector reads
_ADDRESS = 101
_MAGIC = "*?["
_NOISE = re.compile(r"^\[(ERROR|FATAL)\] (Server responded with an error: )?(\[\d+\] )?")
_QUERY = re.compile(r"\?[^/?]*=")
_LOST = range(102, 110)  # of the socket and the stream
_EXPIRED = (206, 207)
AUTHORITIES = "X509_CERT_DIR"
"""Variable that names the folder with the authorities' certificates."""

_CERTIFICATES = "/etc/grid-security/certificates"


check_place: Callable[[str, str], None] | None = None
"""Called with the URL of each file that was opened, and with where it is; raises where it must not be read.

A server may send its clients to any other, and to files of their own machine.
"""


class HostSilent(StorageUnavailable):
    """The host is unknown, or does not answer at all: other files of it need not be tried."""


@cache
def client() -> Any:
    """Return the XRootD client's module, its times set; once a process.

    Raises
    ------
    InputUnreadable
        It is not installed.
    """
    # One that names nothing would hide the site's own: it was set where the run was submitted.
    certificates = os.environ.get(AUTHORITIES)
    if certificates and not Path(certificates).is_dir() and Path(_CERTIFICATES).is_dir():
        del os.environ[AUTHORITIES]
    try:
        from XRootD import client as found
    except ImportError:
        raise InputUnreadable("root:// needs the XRootD client: pip install 'mlaas-condor[grid]'") from None
    module: Any = found
    for name, value in CLIENT.items():
        module.EnvPutInt(name, value)
    if check_place:  # a file of that kind names other places, which are read without being told
        module.EnvPutInt("MetalinkProcessing", 0)
    return module


class XrootdFile:
    """An open file of an XRootD server; what `data.remote.Place` promises.

    Parameters
    ----------
    url
        ``root://host[:port]//path``.

    Raises
    ------
    InputUnreadable, StorageUnavailable, AccessDenied, CredentialFault
        It cannot be opened; the message names the URL and the likely cause.
    """

    gap = 2**14

    def __init__(self, url: str) -> None:
        self.url = shown(url)
        self._file = client().File()
        status, _ = self._file.open(_for_client(url), timeout=_OPEN_SECONDS)
        if not status.ok:
            fail(self.url, status)
        try:
            self._check_place()
            status, info = self._file.stat(timeout=_READ_SECONDS)
            if not status.ok:
                fail(self.url, status)
        except BaseException:
            self.close()
            raise
        self.size = int(info.size)
        self._vectors = True

    def _check_place(self) -> None:
        if check_place:
            check_place(self.url, str(self._file.get_property("LastURL")))

    def read(self, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        """Return the bytes of ranges (start, stop)."""
        if len(ranges) == 1 or not self._vectors:
            return [self._read(start, stop) for start, stop in ranges]
        pieces = [piece for start, stop in ranges for piece in _pieces(start, stop)]
        found: dict[int, bytes] = {}
        for request in _requests(pieces):
            status, answer = self._file.vector_read(chunks=request, timeout=_READ_SECONDS)
            if not status.ok and status.code == _RESPONSE and status.errno in _NOT_POSSIBLE:
                self._vectors = False
                return self.read(ranges)
            if not status.ok:
                fail(self.url, status)
            found |= {chunk.offset: chunk.buffer for chunk in answer.chunks}
        return [self._whole(start, stop, found) for start, stop in ranges]

    def _whole(self, start: int, stop: int, found: dict[int, bytes]) -> bytes:
        parts = [found.get(first, b"") for first, _ in _pieces(start, stop)]
        return self._complete(parts[0] if len(parts) == 1 else b"".join(parts), stop - start)

    def _read(self, start: int, stop: int) -> bytes:
        parts = []
        for first in range(start, stop, _REQUEST):
            length = min(_REQUEST, stop - first)
            status, data = self._file.read(first, length, timeout=_READ_SECONDS)
            if not status.ok:
                fail(self.url, status)
            parts.append(self._complete(data, length))
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _complete(self, data: bytes, length: int) -> bytes:
        if len(data) != length:
            raise StorageUnavailable(f"{self.url}: sent {len(data)} bytes of {length}")
        return data

    def close(self) -> None:
        """Close it; a server that is gone is not waited for."""
        if self._file.is_open():
            self._file.close(timeout=1)


def split(url: str) -> tuple[str, str, str]:
    """Return ``root://host``, ``/path`` and the query; a ``?`` that no ``=`` follows belongs to the path."""
    scheme, _, rest = url.partition("://")
    host, _, path = rest.partition("/")
    query = ""
    if _QUERY.search(path):
        path, _, query = path.partition("?")
    return f"{scheme}://{host}", "/" + path.lstrip("/"), query


def _for_client(url: str) -> str:
    scheme, _, rest = url.partition("://")
    return f"{scheme.lower()}://{rest}"


def shown(url: str) -> str:
    """Return a URL without its query, which may hold a token."""
    host, path, _ = split(url)
    return f"{host}/{path}"


def is_pattern(url: str) -> bool:
    """Tell whether the path of a URL is a glob."""
    return any(c in split(url)[1] for c in _MAGIC)


def expand(pattern: str) -> list[str]:
    """Return the URLs of the files that a glob matches, sorted; raises as `XrootdFile`."""
    host, path, query = split(pattern)
    *above, name = path.strip("/").split("/")
    folders = [""]
    for part in above:
        if any(c in part for c in _MAGIC):
            folders = [
                f"{folder}/{each}" for folder in folders for each in _matching(host, folder, part, True)
            ]
        else:
            folders = [f"{folder}/{part}" for folder in folders]
    found = [f"{folder}/{each}" for folder in folders for each in _matching(host, folder, name, False)]
    return sorted(f"{host}/{each}{'?' if query else ''}{query}" for each in found)


def _matching(host: str, folder: str, pattern: str, folders: bool) -> list[str]:
    """Return the names in a folder that match, of folders or of files."""
    return [
        name
        for name, is_folder in _listed(host, folder or "/")
        if is_folder == folders and _matches(name, pattern)
    ]


def _matches(name: str, pattern: str) -> bool:
    from fnmatch import fnmatchcase

    return fnmatchcase(name, pattern) and (pattern.startswith(".") or not name.startswith("."))


def _listed(host: str, folder: str) -> list[tuple[str, bool]]:
    """Return the names in a folder, and whether each is a folder."""
    module = client()
    flags = module.flags
    status, listing = module.FileSystem(host).dirlist(folder, flags.DirListFlags.STAT, timeout=_OPEN_SECONDS)
    if not status.ok:
        fail(f"{host}/{folder}", status)
    return [
        (each.name, bool(each.statinfo and each.statinfo.flags & flags.StatInfoFlags.IS_DIR))
        for each in listing
    ]


def _pieces(start: int, stop: int) -> list[tuple[int, int]]:
    """Return (offset, length) of the pieces in which a range may be asked for."""
    return [(first, min(_ELEMENT, stop - first)) for first in range(start, stop, _ELEMENT)]


def _requests(pieces: Sequence[tuple[int, int]]) -> list[list[tuple[int, int]]]:
    requests: list[list[tuple[int, int]]] = [[]]
    size = 0
    for piece in pieces:
        if requests[-1] and (len(requests[-1]) == _ELEMENTS or size + piece[1] > _REQUEST):
            requests.append([])
            size = 0
        requests[-1].append(piece)
        size += piece[1]
    return requests


def fail(url: str, status: Any) -> NoReturn:
    """Raise what an answer of the client means, with the URL and the likely cause."""
    raise fault(url, int(status.code), int(status.errno), str(status.message))


def fault(url: str, code: int, number: int, message: str) -> StageError:
    """Return what an answer of the client means.

    Parameters
    ----------
    url
        What was asked for.
    code, number, message
        The client's code, the server's (kXR) where it answered, and the words.
    """
    said = _NOISE.sub("", " ".join(message.split()))
    host = urlsplit(url).netloc
    if code == _AUTHENTICATION or (code == _RESPONSE and number == _REFUSED):
        return _not_authenticated(url)
    if code == _RESPONSE:
        if number == _NOT_FOUND:
            return InputUnreadable(f"{url}: no such file")
        if number == _NOT_ALLOWED:
            return AccessDenied(f"{url}: no permission for {_who()}: {host} says {said!r}")
        if number == _DIRECTORY:
            return InputUnreadable(f"{url}: is a directory, not a file")
        if number in (_NO_SPACE, _QUOTA):
            return StorageFull(f"{url}: no space left on {host}: {said!r}")
        return StorageUnavailable(f"{url}: {host} fails: {said!r}")
    if code == _ADDRESS:
        return HostSilent(f"{url}: its host is unknown")
    if code in _EXPIRED:
        return HostSilent(f"{url}: timed out: {host} does not answer")
    if code in _LOST:
        return HostSilent(f"{url}: {host} cannot be reached, or the connection was lost ({said})")
    return StorageUnavailable(f"{url}: {said} (code {code})")


def _who() -> str:
    """Return whom the storage took us for, as far as we know."""
    from mlaas_condor.grid import proxy

    try:
        path = proxy.find()
        return proxy.read(path).identity if path else "whoever has no proxy"
    except CredentialFault:
        return "this identity"


def authorities() -> str:
    """Return the folder with the certificates of the authorities that are trusted; it need not exist."""
    return os.environ.get(AUTHORITIES) or _CERTIFICATES


def _authority(path: Path) -> str:
    from mlaas_condor.grid import certificates

    return certificates.one_line(certificates.load(path).chain[-1].issuer)


def _not_authenticated(url: str) -> StageError:
    """Find out why a server does not take us for anybody: the client says the same of every cause."""
    from mlaas_condor.grid import proxy, tokens

    host = urlsplit(url).netloc
    path, token = proxy.find(), tokens.find()
    if path is None and token is None:
        return CredentialFault(
            f"{url}: {host} wants to know who you are, and there is neither a proxy nor a token; "
            f"make a proxy with `{proxy.how_to_renew()}`"
        )
    if path is not None:
        found = proxy.read(path)
        faults = proxy.faults(found)
        if faults:
            return CredentialFault(f"{url}: {host} does not accept {faults[0]}")
        folder = authorities()
        if not Path(folder).is_dir():
            return CredentialFault(
                f"{url}: the certificate of {host} cannot be checked: there is no folder of authorities "
                f"{folder}; install them, or set X509_CERT_DIR"
            )
        return CredentialFault(
            f"{url}: {host} and the proxy {path} do not trust each other: either the server does not know "
            f"the authority {_authority(path)}, or {folder} does not hold that of the server"
            f"{', or it takes tokens only' if token is None else ''}"
        )
    return CredentialFault(
        f"{url}: {host} does not accept the token of {token.origin if token else ''}: it may have expired, "
        "or be of an issuer that the storage does not know, or the storage wants a proxy: see "
        "mlaas-condor proxy info"
    )
