"""What a client says that the body of its request adds up to: ``Content-Digest``, and others like it."""

from __future__ import annotations

import base64
import binascii
import hashlib
import re

from werkzeug.datastructures import Headers

from ..faults import HttpFault

_ALGORITHMS = {"md5": "md5", "sha": "sha1", "sha-256": "sha256", "sha-512": "sha512"}
_HEADERS = ("Content-Digest", "Repr-Digest", "Digest")
_VALUE = re.compile(r"([A-Za-z0-9-]+)=:?([A-Za-z0-9+/]+=*):?")


class Digest:
    """One digest of a body that is read.

    Parameters
    ----------
    where
        The header and the algorithm, for messages.
    algorithm
        As Python names it.
    expected
        What it must be, base64.

    Raises
    ------
    HttpFault
        The value is none.
    """

    def __init__(self, where: str, algorithm: str, expected: str) -> None:
        self._where = where
        self._hash = hashlib.new(algorithm, usedforsecurity=False)
        try:
            self._expected = base64.b64decode(expected, validate=True)
        except binascii.Error:
            self._expected = b""
        if len(self._expected) != self._hash.digest_size:
            raise HttpFault(f"{where}: {expected[:100]!r} is no such digest in base64")

    def update(self, piece: bytes) -> None:
        """Take the next piece of the body."""
        self._hash.update(piece)

    def check(self) -> None:
        """Make sure that what was read is what was sent.

        Raises
        ------
        HttpFault
            It is not.
        """
        if self._hash.digest() != self._expected:
            raise HttpFault(
                f"what has come is not what was sent: {self._where} of it is "
                f"{base64.b64encode(self._hash.digest()).decode()}, not "
                f"{base64.b64encode(self._expected).decode()}; send it again"
            )


def of_headers(headers: Headers) -> list[Digest]:
    """Return the digests that headers give; those of algorithms that are not known are left out.

    Raises
    ------
    HttpFault
        One is no digest.
    """
    found = [
        Digest(f"{header}: {name}", _ALGORITHMS[name.lower()], value)
        for header in _HEADERS
        for name, value in _VALUE.findall(headers.get(header, ""))
        if name.lower() in _ALGORITHMS
    ]
    old = headers.get("Content-MD5", "")
    return [*found, Digest("Content-MD5", "md5", old)] if old else found
