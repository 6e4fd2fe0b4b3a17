"""Files as bytes, wherever they are: local paths, and URLs through fsspec, read in parts.

Nothing here fetches a whole file to use a part of it: a remote file is read by ranges, as they are asked for.
"""

from __future__ import annotations

import glob
import hashlib
import io
import os
import re
import socket
import ssl
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, cast
from urllib.parse import unquote, urlsplit

from mlaas_condor.errors import InputUnreadable, StageError

SCHEMES = ("file", "hdfs", "http", "https", "webhdfs")
CONNECT_SECONDS = 10
SILENCE_SECONDS = 30
REQUEST_SECONDS = 300  # one request may fetch a large part over a slow line, as long as bytes arrive
_END_BYTES = 2**16
_BUFFER = 2**16
_AHEAD = 2**18  # fetched beyond what is asked for; fsspec's own 5 MiB would be the whole of many a file
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")


def scheme(path: str) -> str:
    """Return the scheme of a URL in lower case (``https``), or an empty string for a local path."""
    match = _SCHEME.match(path)
    return match[1].lower() if match else ""


def is_url(path: str) -> bool:
    """Tell whether ``path`` is a URL, be it one that can be read or not."""
    return bool(scheme(path))


def suffixes(path: str) -> list[str]:
    """Return the suffixes of a file's name in lower case: ``['.csv', '.gz']``; of a URL without its query."""
    name = urlsplit(path).path if is_url(path) else path
    return [suffix.lower() for suffix in PurePosixPath(name).suffixes]


def open_bytes(path: str) -> BinaryIO:
    """Open a file for reading at any place; whoever opens it closes it.

    Raises
    ------
    InputUnreadable
        Now, or at a later read: the file is missing or no file, may not be read, its host is unknown
        or does not answer in time, or a package that reads it is missing.
    """
    if _is_local(path):
        return _open_local(_local(path))
    with telling(path):
        filesystem, inner = _filesystem(path)
        if filesystem.protocol != ("http", "https") and filesystem.isdir(inner):
            raise InputUnreadable(f"{path}: is a directory, not a file")
        file = filesystem.open(inner, "rb")
        if not file.seekable():
            file.close()
            raise InputUnreadable(f"{path}: {_WHOLE}, or does not say how large they are")
    return cast(BinaryIO, io.BufferedReader(_Remote(path, file), _BUFFER))


def size(path: str) -> int:
    """Return the bytes of a file; raises `InputUnreadable` as `open_bytes` does."""
    if _is_local(path):
        with open_bytes(path) as file:
            return file.seek(0, os.SEEK_END)
    with telling(path):
        filesystem, inner = _filesystem(path)
        found = filesystem.info(inner)["size"]
    if found is None:
        raise InputUnreadable(f"{path}: the server does not say how large it is")
    return int(found)


def expand(pattern: str) -> list[str]:
    """Return the files that a glob matches, sorted; what is no glob, or names a file as it stands, as it is.

    Raises
    ------
    InputUnreadable
        The scheme cannot list files, as https.
    """
    kind = scheme(pattern)
    if kind in ("http", "https"):
        # `?` and `[` are ordinary in the URL of a file.
        if "*" in urlsplit(pattern).path:
            raise InputUnreadable(
                f"{pattern}: a web server does not list its files: give each URL on a line of its own"
            )
        return [pattern]
    if not glob.has_magic(pattern):
        return [pattern]
    if _is_local(pattern):
        local = _local(pattern)
        if os.path.lexists(local):
            return [local]
        return sorted(glob.glob(local, recursive=True))  # noqa: PTH207 - Path.glob takes no absolute one
    with telling(pattern):
        filesystem, inner = _filesystem(pattern)
        found = filesystem.glob(inner)
    host = f"{kind}://{urlsplit(pattern).netloc}"
    return sorted(host + "/" + str(name).lstrip("/") for name in found)


def ends_digest(path: str) -> str:
    """Return what tells a file without a UUID from any other: a digest of its size and both its ends."""
    with open_bytes(path) as file:
        return digest(file)


def digest(file: BinaryIO) -> str:
    """Return the digest of `ends_digest` for an open file, whose position is changed."""
    length = file.seek(0, os.SEEK_END)
    file.seek(0)
    ends = file.read(min(_END_BYTES, length))
    file.seek(max(0, length - _END_BYTES))
    ends += file.read(min(_END_BYTES, length))
    return "ends-" + hashlib.sha256(str(length).encode() + b" " + ends).hexdigest()[:32]


@contextmanager
def telling(path: str) -> Iterator[None]:
    """Turn whatever fails into `InputUnreadable` with the path and the cause in one line."""
    try:
        yield
    except (MemoryError, StageError):
        raise
    except Exception as error:
        raise InputUnreadable(f"{path}: {why(error)}") from error


_MISSING = "no such file"
_WHOLE = "the server sends no parts of files"


def why(error: BaseException) -> str:
    """Say in a few words what went wrong; fsspec's libraries each have errors of their own for the same."""
    for each in _chain(error):
        known = _known(each)
        if known:
            return known
    if isinstance(error, FileNotFoundError) and error.__cause__:
        error = error.__cause__
    text = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    return (
        f"cannot be read: {type(error).__name__}: {text}"
        if text
        else f"cannot be read: {type(error).__name__}"
    )


def _chain(error: BaseException) -> list[BaseException]:
    """Return an error and what led to it, the first cause first: fsspec says 'not found' of any failure."""
    chain: list[BaseException] = []
    at: BaseException | None = error
    while at is not None and at not in chain:
        chain.append(at)
        at = at.__cause__ or at.__context__
    return chain[::-1]


def _known(error: BaseException) -> str:
    name = type(error).__name__
    if isinstance(error, ImportError):
        return f"needs a package that is missing: pip install {error.name}" if error.name else str(error)
    if isinstance(error, socket.gaierror) or name in ("ClientConnectorDNSError", "NameResolutionError"):
        return "its host is unknown"
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted ({error.verify_message}); SSL_CERT_FILE names others that are"
    if isinstance(error, ssl.SSLError):
        return f"no secure connection: {error.reason or error}"
    if isinstance(error, TimeoutError) or name in ("ConnectTimeout", "ReadTimeout"):
        return "timed out: its host does not answer"
    if isinstance(error, ConnectionRefusedError):
        return "its host refuses the connection"
    if isinstance(error, FileNotFoundError):
        return "" if error.__cause__ else _MISSING
    if isinstance(error, PermissionError):
        return "no permission"
    if isinstance(error, IsADirectoryError):
        return "is a directory, not a file"
    if "libhdfs" in str(error) or "libjvm" in str(error):
        return "hdfs:// needs Java and Hadoop's libhdfs (JAVA_HOME, HADOOP_HOME); webhdfs:// needs neither"
    if "support range requests" in str(error):
        return _WHOLE
    status = getattr(error, "status", None) or getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(status, int):
        words = {401: "no permission", 403: "no permission", 404: _MISSING, 410: _MISSING}
        said = words.get(status, "the server fails")
        return said if said == _MISSING else f"{said} (HTTP {status})"
    return f"cannot be read: {error.strerror}" if isinstance(error, OSError) and error.strerror else ""


def _is_local(path: str) -> bool:
    return scheme(path) in ("", "file")


def _local(path: str) -> str:
    if not is_url(path):
        return path
    parts = urlsplit(path)
    if parts.netloc not in ("", "localhost"):
        raise InputUnreadable(f"{path}: file:// names a file of this machine: write file:///…")
    return unquote(parts.path)


def _open_local(path: str) -> BinaryIO:
    try:
        mode = os.stat(path).st_mode  # noqa: PTH116 - opening a pipe would wait for ever
        if stat.S_ISDIR(mode):
            raise InputUnreadable(f"{path}: is a directory, not a file")
        if not stat.S_ISREG(mode):
            kind = "a pipe" if stat.S_ISFIFO(mode) else "a device or socket"
            raise InputUnreadable(f"{path}: is {kind}, not a file")
        return Path(path).open("rb")
    except OSError as error:
        raise InputUnreadable(f"{path}: {why(error)}") from error
    except ValueError as error:
        raise InputUnreadable(f"{path!r}: is no file name: {error}") from error


def _filesystem(path: str) -> tuple[Any, str]:
    """Return fsspec's file system of a URL, and what it calls the file."""
    kind = scheme(path)
    if kind not in SCHEMES:
        raise InputUnreadable(f"{path}: {kind}:// is not supported in this version (it reads {_choices()})")
    import fsspec.core

    options: dict[str, Any] = {}
    if kind in ("http", "https"):
        import aiohttp

        limits = aiohttp.ClientTimeout(
            total=REQUEST_SECONDS,
            connect=CONNECT_SECONDS,
            sock_connect=CONNECT_SECONDS,
            sock_read=SILENCE_SECONDS,
        )
        # trust_env: proxies are set in the environment, as for every other program.
        options = {"block_size": _AHEAD, "cache_type": "readahead"}
        options["client_kwargs"] = {"timeout": limits, "trust_env": True}
    elif kind == "hdfs":
        milliseconds, once = str(1000 * CONNECT_SECONDS), "1"
        options["extra_conf"] = {
            "ipc.client.connect.timeout": milliseconds,
            "ipc.client.connect.max.retries": once,
            "ipc.client.connect.max.retries.on.timeouts": once,
        }
    filesystem, inner = fsspec.core.url_to_fs(path, **options)
    if kind == "webhdfs" and not isinstance(filesystem.session.request, partial):
        limit = (CONNECT_SECONDS, SILENCE_SECONDS)
        filesystem.session.request = partial(filesystem.session.request, timeout=limit)
        filesystem.blocksize = _AHEAD
    return filesystem, inner


def _choices() -> str:
    return ", ".join(["local paths", *(f"{kind}://" for kind in SCHEMES)])


class _Remote(io.RawIOBase):
    """A remote file whose failures, at any read, name the file and the cause."""

    def __init__(self, path: str, file: Any) -> None:
        self._path = path
        self._file = file

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        with telling(self._path):
            return int(self._file.seek(offset, whence))

    def tell(self) -> int:
        return int(self._file.tell())

    def readinto(self, buffer: Any) -> int:
        with telling(self._path):
            found = self._file.read(len(buffer))
        buffer[: len(found)] = found
        return len(found)

    def close(self) -> None:
        if not self.closed:
            self._file.close()
        super().close()
