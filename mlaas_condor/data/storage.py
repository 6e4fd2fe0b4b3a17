"""Files as bytes, wherever they are: local paths, and URLs, read in parts.

Nothing here fetches a whole file to use a part of it: a remote file is read by ranges, as they are asked for.
"""

from __future__ import annotations

import glob
import hashlib
import io
import os
import re
import stat
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, cast
from urllib.parse import unquote, urlsplit

from mlaas_condor.data import web
from mlaas_condor.data.remote import SEPARATOR, Place, RemoteFile
from mlaas_condor.errors import InputUnreadable
from mlaas_condor.grid import xrootd

SCHEMES = ("file", "hdfs", "webhdfs", *web.WEB, *xrootd.SCHEMES)
_END_BYTES = 2**16
_BUFFER = 2**16
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


def places(path: str) -> list[str]:
    """Return the URLs at which a file is, where there are several: ``root://a//f.root|root://b//f.root``."""
    return path.split(SEPARATOR) if is_url(path) else [path]


def open_remote(path: str) -> RemoteFile:
    """Open a remote file for reading by ranges; raises as `open_bytes`."""
    return RemoteFile(places(path), connect)


def connect(url: str) -> Place:
    """Open a remote file at one of its places."""
    kind = scheme(url)
    if kind in xrootd.SCHEMES:
        return xrootd.XrootdFile(url)
    if kind not in SCHEMES:
        raise InputUnreadable(f"{url}: {kind}:// is not supported (what is: {_choices()})")
    return web.WebFile(url)


def open_bytes(path: str) -> BinaryIO:
    """Open a file for reading at any place; whoever opens it closes it.

    Raises
    ------
    InputUnreadable
        Now, or at a later read: the file is missing or no file, may not be read (`AccessDenied`), its host
        is unknown or does not answer in time (`StorageUnavailable`), or a package that reads it is missing.
    CredentialFault
        The storage wants a proxy or token, and ours does not do.
    """
    if _is_local(path):
        return _open_local(_local(path))
    return cast(BinaryIO, io.BufferedReader(_Remote(open_remote(path)), _BUFFER))


def size(path: str) -> int:
    """Return the bytes of a file; raises `InputUnreadable` as `open_bytes` does."""
    if not _is_local(path):
        file = open_remote(path)
        file.close()
        return file.size
    with open_bytes(path) as local:
        return local.seek(0, os.SEEK_END)


def is_pattern(path: str) -> bool:
    """Tell whether `expand` would look for files: a URL of a web server never is one."""
    if web.is_web(path):
        return False
    return xrootd.is_pattern(path) if scheme(path) in xrootd.SCHEMES else glob.has_magic(path)


def expand(pattern: str) -> list[str]:
    """Return the files that a glob matches, sorted; what is no glob, or names a file as it stands, as it is.

    Raises
    ------
    InputUnreadable
        The scheme cannot list files, as https.
    """
    if web.is_web(pattern):
        # `?` and `[` are ordinary in the URL of a file.
        if "*" in urlsplit(pattern).path:
            raise InputUnreadable(
                f"{pattern}: a web server does not list its files: give each URL on a line of its own"
            )
        return [pattern]
    if not is_pattern(pattern):
        return [pattern]
    if scheme(pattern) in xrootd.SCHEMES:
        return xrootd.expand(pattern)
    if _is_local(pattern):
        local = _local(pattern)
        if os.path.lexists(local):
            return [local]
        return sorted(glob.glob(local, recursive=True))  # noqa: PTH207 - Path.glob takes no absolute one
    with web.telling(pattern):
        filesystem, inner = web.filesystem(pattern)
        found = filesystem.glob(inner)
    return sorted(web.host(pattern) + "/" + str(name).lstrip("/") for name in found)


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
        raise InputUnreadable(f"{path}: {web.why(error)[1]}") from error
    except ValueError as error:
        raise InputUnreadable(f"{path!r}: is no file name: {error}") from error


def _choices() -> str:
    return ", ".join(["local paths", *(f"{kind}://" for kind in SCHEMES)])


class _Remote(io.RawIOBase):
    """A remote file as one that is read from wherever it stands."""

    def __init__(self, file: RemoteFile) -> None:
        self._file = file
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        origin = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._file.size}[whence]
        self._position = max(0, origin + offset)
        return self._position

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer: Any) -> int:
        found = self._file.piece(self._position, self._position + len(buffer))
        buffer[: len(found)] = found
        self._position += len(found)
        return len(found)

    def close(self) -> None:
        if not self.closed:
            self._file.close()
        super().close()
