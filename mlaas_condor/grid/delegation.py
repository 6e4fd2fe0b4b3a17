"""Delegation: the side that gets a credential without its private key travelling.

The receiver makes a key and a request for a certificate of it; the holder signs the request with the own
proxy. What travels is public both ways. The holder's side is in ``delegating.py``.
"""

from __future__ import annotations

import os
import re
import secrets
import time
from collections.abc import Iterator
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

from mlaas_condor.errors import CannotWrite, CredentialFault, WrongState

from .times import moment

if TYPE_CHECKING:
    from cryptography import x509

    from .certificates import Credential

ANSWER_BYTES = 2**16
"""Of the certificates that answer a request; a chain of three has some 6 kB."""

_REQUEST_SECONDS = 3600.0
_MOST_REQUESTS = 16  # of one owner at a time: nobody fills the disk
_MOST_CERTIFICATES = 12
_ID = re.compile(r"[0-9a-f]{32}")


class Requests:
    """The requests that wait for their answer, and the proxies that came of them, by owner.

    Parameters
    ----------
    folder
        Where they are kept, readable by this user only; one folder an owner in it.
    authorities
        Folder with the certificates of the authorities that are trusted. Without it the name in a proxy is
        only what its holder says it is: storage finds out, the caller of this class must not rely on it.
    """

    def __init__(self, folder: Path, authorities: Path | None = None) -> None:
        self._folder = folder
        self._authorities = authorities

    def _of(self, owner: str) -> Path:
        if not owner:
            raise ValueError("nobody owns this request")
        # A name that no file system minds, and from which nobody reads who the owner is.
        return self._folder / sha256(owner.encode()).hexdigest()[:32]

    def begin(self, owner: str) -> tuple[str, str]:
        """Make a key and a request; return the number of the request, and itself as PEM.

        Raises
        ------
        CannotWrite
            There is no space or no permission.
        """
        from cryptography.hazmat.primitives import serialization

        from .certificates import make_request

        key, request = make_request()
        number, folder = secrets.token_hex(16), self._of(owner)
        text = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        try:
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            folder.mkdir(exist_ok=True, mode=0o700)
            self._tidy(folder)
            handle = os.open(folder / f"{number}.key", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with open(handle, "wb") as file:  # noqa: PTH123 - a descriptor, made for its owner only
                file.write(text)
        except OSError as error:
            raise CannotWrite(f"{folder}: no request can be kept: {error.strerror}") from error
        return number, request

    def _tidy(self, folder: Path) -> None:
        """Drop what is too old, and the oldest of what is too many."""
        found = sorted(_with_age(folder.glob("*.key")))
        for i, (age, path) in enumerate(found):
            if age > _REQUEST_SECONDS or i >= _MOST_REQUESTS - 1:
                path.unlink(missing_ok=True)

    def finish(self, owner: str, number: str, certificates_pem: str) -> Path:
        """Put the answer and the key of the request together; return the file with the owner's proxy.

        Raises
        ------
        WrongState
            The owner has no such request (any more).
        CredentialFault
            The answer is not one to this request, is no chain, has ended, is not trusted, or is of another
            identity than the owner's proxy that is there.
        CannotWrite
            There is no space or no permission.
        """
        from cryptography.hazmat.primitives.serialization import load_pem_private_key

        from . import certificates

        folder = self._of(owner)
        waiting = folder / f"{number}.key"
        # The same for all: who guesses does not learn whether somebody else has it.
        gone = WrongState("there is no such request, or it is older than an hour: begin a new one")
        if not _ID.fullmatch(number):
            raise gone
        try:
            if time.time() - waiting.stat().st_mtime > _REQUEST_SECONDS:
                waiting.unlink(missing_ok=True)
                raise gone
            key = load_pem_private_key(waiting.read_bytes(), None)
        except (OSError, ValueError):
            raise gone from None
        if len(certificates_pem) > ANSWER_BYTES or certificates_pem.count("BEGIN") > _MOST_CERTIFICATES:
            raise CredentialFault("the answer to the request is too long for a chain of certificates")
        if "PRIVATE KEY" in certificates_pem:
            raise CredentialFault(
                "the answer holds a private key, which nobody should send: make a new proxy, and send the "
                "certificates only"
            )
        credential = certificates.assemble(key, certificates_pem)  # type: ignore[arg-type]
        self._check(credential)
        path = folder / "proxy.pem"
        self._check_identity(path, credential)
        certificates.write(credential, path)
        waiting.unlink(missing_ok=True)
        return path

    def _check(self, credential: Credential) -> None:
        if credential.level < 1:
            raise CredentialFault("the answer to the request is no proxy")
        if credential.legacy:
            raise CredentialFault("the answer to the request is a proxy of an old kind that storage refuses")
        if credential.ends <= time.time():
            raise CredentialFault(f"the proxy ended on {moment(credential.ends)}; make a new one")
        if credential.starts > time.time() + 300:
            raise CredentialFault(f"the proxy is valid only from {moment(credential.starts)} on")
        if credential.level == len(credential.chain):
            raise CredentialFault("the answer to the request ends before the certificate of a person")
        # A person's key can sign any name; only an authority's word on it counts.
        for issuer in credential.chain[credential.level + 1 :]:
            if not _is_authority(issuer):
                raise CredentialFault("the answer holds a certificate that no authority issued")
        if self._authorities is not None:
            _check_trusted(credential, self._authorities)

    @staticmethod
    def _check_identity(path: Path, credential: Credential) -> None:
        from . import certificates

        with suppress(CredentialFault):  # none is there, or it is no use
            before = certificates.load(path).identity
            if before != credential.identity:
                raise WrongState(
                    f"the proxy that is there is of {before}, and this one of {credential.identity}: "
                    "delete the delegation first"
                )

    def proxy_of(self, owner: str) -> Path | None:
        """Return the file with the owner's proxy; None where there is none."""
        path = self._of(owner) / "proxy.pem"
        return path if path.is_file() else None

    def drop(self, owner: str) -> None:
        """Delete the owner's proxy and requests."""
        folder = self._of(owner)
        for path in (folder / "proxy.pem", *folder.glob("*.key")):
            path.unlink(missing_ok=True)
        with suppress(OSError):  # another request has just begun
            folder.rmdir()


def _with_age(paths: Iterator[Path]) -> Iterator[tuple[float, Path]]:
    for path in paths:
        with suppress(FileNotFoundError):  # answered, or dropped by another process
            yield time.time() - path.stat().st_mtime, path


def _is_authority(certificate: x509.Certificate) -> bool:
    from cryptography import x509

    try:
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except (x509.ExtensionNotFound, ValueError):
        return False


def _check_trusted(credential: Credential, folder: Path) -> None:
    """Follow the issuers of the last certificate into a folder of authorities, up to one of its own."""
    trusted: dict[x509.Name, list[x509.Certificate]] = {}
    for each in _authorities(folder):
        trusted.setdefault(each.subject, []).append(each)
    last = credential.chain[-1]
    for _ in range(_MOST_CERTIFICATES):
        if last in trusted.get(last.subject, ()) and last.subject == last.issuer:
            return
        issuer = next((each for each in trusted.get(last.issuer, ()) if _issued(last, each)), None)
        if issuer is None:
            break
        last = issuer
    raise CredentialFault(
        f"{credential.identity}: none of the authorities trusted here issued its certificate"
    )


def _authorities(folder: Path) -> Iterator[x509.Certificate]:
    from cryptography import x509

    now = time.time()
    paths = {
        path.resolve() for pattern in ("*.[0-9]", "*.pem", "*.crt", "*.cert") for path in folder.glob(pattern)
    }
    for path in sorted(paths):
        # What cannot be read is not trusted: that is all.
        with suppress(OSError, ValueError):
            for each in x509.load_pem_x509_certificates(path.read_bytes()):
                if _is_authority(each) and each.not_valid_after_utc.timestamp() > now:
                    yield each


def _issued(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    from cryptography.exceptions import InvalidSignature

    try:
        certificate.verify_directly_issued_by(issuer)
    except (InvalidSignature, ValueError, TypeError):
        return False
    return True
