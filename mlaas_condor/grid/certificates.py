"""X.509 credentials in PEM files, and RFC 3820 proxies of them: loading, making, delegating, writing.

Whether whoever issued them is trusted is the storage's business; what is checked here is that the parts
belong together.
"""

from __future__ import annotations

import os
import re
import secrets
import stat
import tempfile
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import pkcs12
from cryptography.x509.oid import NameOID, ObjectIdentifier

from mlaas_condor.errors import CannotWrite, CredentialFault

from . import extensions
from .chain import Credential, Key, joined, one_line
from .times import moment

__all__ = [
    "Credential", "Key", "assemble", "is_pkcs12", "load", "load_pair", "make_proxy", "make_request",
    "needs_password", "one_line", "sign_request", "voms", "write",
]  # fmt: skip

WEAKEST_BITS = 2048
"""Of an RSA key: storage refuses what is shorter."""

_SKEW_SECONDS = 300  # a proxy counts from a little earlier, for machines whose clock is behind
_LARGEST = 2**20  # of a file of certificates; what is larger is something else
_BLOCK = re.compile(r"-----BEGIN ([A-Z0-9 ]+)-----.*?-----END \1-----", re.DOTALL)


def load(path: Path) -> Credential:
    """Read a file with a certificate, its key and who issued it; whether it has ended is not looked at.

    Raises
    ------
    CredentialFault
        It cannot be read, holds no certificate or key, or the parts do not belong together.
    """
    blocks = _blocks(_read(path), path)
    keys = [text for kind, text in blocks if kind.endswith("PRIVATE KEY")]
    if not keys:
        raise CredentialFault(f"{path} holds no private key: it is a certificate, but no proxy")
    return joined(_private(keys[0], None, path), _certificates(blocks, path), str(path))


def load_pair(certificate: Path, key: Path, password: bytes | None = None) -> Credential:
    """Read certificate and key of a person or host; of a PKCS#12 file, which holds both, `key` is not used.

    Raises
    ------
    CredentialFault
        As for `load`; also the pass phrase is wrong or missing, or others can read the key.
    """
    data = _read(certificate)
    if is_pkcs12(certificate):
        _private_only(certificate)
        return _from_pkcs12(data, password, certificate)
    if not key.exists():
        raise CredentialFault(f"there is no key {key} for the certificate {certificate}")
    _private_only(key)
    text = next((text for kind, text in _blocks(_read(key), key) if kind.endswith("PRIVATE KEY")), None)
    if text is None:
        raise CredentialFault(f"{key} holds no private key")
    certificates = _certificates(_blocks(data, certificate), certificate)
    own = joined(_private(text, password, key), certificates[:1], str(certificate))
    # After the certificate of a person come the authorities, in any order, and the storage knows them.
    return joined(own.key, certificates, str(certificate)) if own.level and own.key else own


def is_pkcs12(path: Path) -> bool:
    """Tell whether a file is one of PKCS#12, as browsers export them: DER, not PEM."""
    return _read(path)[:1] == b"\x30"


def needs_password(path: Path) -> bool:
    """Tell whether the key in a file can be read with a pass phrase only."""
    data = _read(path)
    if is_pkcs12(path):
        try:
            pkcs12.load_key_and_certificates(data, None)
        except (ValueError, UnsupportedAlgorithm):
            return True
        return False
    return b"ENCRYPTED" in data


def make_proxy(
    holder: Credential, seconds: float, bits: int = WEAKEST_BITS, limited: bool = False
) -> Credential:
    """Make a proxy with a key of its own, valid from now on, and never longer than its holder.

    Raises
    ------
    CredentialFault
        The holder has ended or may not make proxies.
    """
    key = rsa.generate_private_key(65537, bits)
    return Credential((_sign(holder, key.public_key(), seconds, limited), *holder.chain), key)


def make_request(bits: int = WEAKEST_BITS) -> tuple[Key, str]:
    """Make a key and a request (PEM) for a certificate of it: the receiver's side of a delegation."""
    key = rsa.generate_private_key(65537, bits)
    # Whoever signs it decides on the name; this one is never used.
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "delegation")])
    request = x509.CertificateSigningRequestBuilder().subject_name(name).sign(key, hashes.SHA256())
    return key, request.public_bytes(serialization.Encoding.PEM).decode()


def sign_request(csr_pem: str, holder: Credential, seconds: float) -> str:
    """Sign the request of a receiver: return its new certificate, and the holder's, as PEM.

    Raises
    ------
    CredentialFault
        The request is none, is not signed with its own key, or its key is too weak; or as for `make_proxy`.
    """
    try:
        request = x509.load_pem_x509_csr(csr_pem.encode())
        key, own = request.public_key(), request.is_signature_valid
    except (ValueError, UnsupportedAlgorithm) as error:
        raise CredentialFault("this is no request for a certificate, or a damaged one") from error
    if not own:
        raise CredentialFault("the request is not signed with its own key; nothing was signed")
    if not isinstance(key, rsa.RSAPublicKey | ec.EllipticCurvePublicKey):
        raise CredentialFault("the request has a key that is neither RSA nor EC")
    if isinstance(key, rsa.RSAPublicKey) and key.key_size < WEAKEST_BITS:
        raise CredentialFault(
            f"the request has a key of {key.key_size} bits only; at least {WEAKEST_BITS} are needed"
        )
    return _pem((_sign(holder, key, seconds, limited=False), *holder.chain))


def assemble(key: Key, certificates_pem: str) -> Credential:
    """Put the receiver's key and the answer to its request together.

    Raises
    ------
    CredentialFault
        The answer holds no certificate, or not one of this key, or they are not issued one by the other.
    """
    what = "the answer to the request"
    blocks = _blocks(certificates_pem.encode(), what)
    return joined(key, _certificates(blocks, what), what)


def write(credential: Credential, path: Path) -> None:
    """Write certificate, key and issuers, so that only the owner can read them, and never half of them.

    Raises
    ------
    CannotWrite
        There is no space or no permission.
    """
    if credential.key is None:
        raise ValueError("a credential without its key is no use in a file")
    key = credential.key.private_bytes(
        # Old tools read this form only.
        serialization.Encoding.PEM,
        serialization.PrivateFormat.TraditionalOpenSSL,
        serialization.NoEncryption(),
    ).decode()
    text = _pem(credential.chain[:1]) + key + _pem(credential.chain[1:])
    temporary = None
    try:
        # The file is made for its owner only, before there is anything in it.
        handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        with open(handle, "w", encoding="ascii") as file:  # noqa: PTH123
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(path)
    except OSError as error:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)
        raise CannotWrite(f"{path} cannot be written: {error.strerror}; name another file") from error


def voms(credential: Credential) -> tuple[list[str], float | None]:
    """Return the VOMS attributes (``/cms/Role=production``) and when they end; storage looks at the same.

    Raises
    ------
    CredentialFault
        There are some, and they cannot be read.
    """
    for certificate in credential.chain:
        # Those of a proxy hold for what is made from it, unless that has its own.
        try:
            found = extensions.voms(certificate.public_bytes(serialization.Encoding.DER))
        except ValueError as error:
            raise CredentialFault(f"{one_line(certificate.subject)}: {error}") from error
        if found:
            return found
    return [], None


def _sign(
    holder: Credential, key: rsa.RSAPublicKey | ec.EllipticCurvePublicKey, seconds: float, limited: bool
) -> x509.Certificate:
    if seconds <= 0:
        raise ValueError(f"a proxy for {seconds} s")
    _may_delegate(holder)
    assert holder.key is not None
    now = time.time()
    # A serial number that nobody else has, and a name that says it: so RFC 3820 wants them.
    serial = secrets.randbits(63) + 1
    name = x509.RelativeDistinguishedName([x509.NameAttribute(NameOID.COMMON_NAME, str(serial))])
    info = extensions.LIMITED_INFO if limited or holder.limited else extensions.INHERIT_ALL_INFO
    usage = x509.KeyUsage(
        digital_signature=True, key_encipherment=isinstance(key, rsa.RSAPublicKey), content_commitment=False,
        data_encipherment=False, key_agreement=False, key_cert_sign=False, crl_sign=False,
        encipher_only=False, decipher_only=False,
    )  # fmt: skip
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([*holder.leaf.subject.rdns, name]))
        .issuer_name(holder.leaf.subject)
        .public_key(key)
        .serial_number(serial)
        .not_valid_before(datetime.fromtimestamp(int(max(now - _SKEW_SECONDS, holder.starts)), UTC))
        .not_valid_after(datetime.fromtimestamp(int(min(now + seconds, holder.ends)), UTC))
        .add_extension(usage, critical=True)
        .add_extension(
            x509.UnrecognizedExtension(ObjectIdentifier(extensions.PROXY_INFO), info), critical=True
        )
    )
    return builder.sign(holder.key, hashes.SHA256())


def _may_delegate(holder: Credential) -> None:
    if holder.key is None:
        raise CredentialFault(f"there is no key of {holder.subject}, so no proxy can be made from it")
    if holder.ends <= time.time():
        what = "make a new one" if holder.level else "ask the authority that issued it for a new one"
        raise CredentialFault(f"{holder.subject} ended on {moment(holder.ends)}; {what}")
    if holder.starts > time.time():
        raise CredentialFault(
            f"{holder.subject} is valid only from {moment(holder.starts)} on; is the clock here right?"
        )
    if holder.legacy:
        raise CredentialFault(
            f"{holder.subject} is a proxy of an old kind that storage refuses; run: voms-proxy-init -rfc"
        )
    if holder.room < 1:
        raise CredentialFault(f"{holder.subject} allows no proxy to be made from it; make a new one")


def _read(path: Path) -> bytes:
    try:
        # Not a pipe, say, that would never end.
        if not stat.S_ISREG(path.stat().st_mode):
            raise CredentialFault(f"{path} is no file")
        with path.open("rb") as file:
            data = file.read(_LARGEST + 1)
    except FileNotFoundError as error:
        raise CredentialFault(f"there is no {path}") from error
    except OSError as error:
        raise CredentialFault(f"{path} cannot be read: {error.strerror}") from error
    if len(data) > _LARGEST:
        raise CredentialFault(f"{path} is too large to be a certificate")
    return data


def _private_only(path: Path) -> None:
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & 0o077:
        raise CredentialFault(
            f"the key {path} can be used by others, its mode is {mode:04o}; run: chmod 400 {path}"
        )


def _blocks(data: bytes, where: Path | str) -> list[tuple[str, str]]:
    found = [(match[1], match[0]) for match in _BLOCK.finditer(data.decode("latin-1"))]
    if not found:
        raise CredentialFault(f"{where} holds no certificate: nothing in it is PEM, -----BEGIN …")
    return found


def _certificates(blocks: Sequence[tuple[str, str]], where: Path | str) -> list[x509.Certificate]:
    found: list[x509.Certificate] = []
    for kind, text in blocks:
        if kind in ("CERTIFICATE", "X509 CERTIFICATE", "TRUSTED CERTIFICATE"):
            try:
                certificate = x509.load_pem_x509_certificate(text.encode())
                certificate.public_key()
            except (ValueError, UnsupportedAlgorithm) as error:
                raise CredentialFault(f"certificate {len(found) + 1} of {where} is damaged") from error
            found.append(certificate)
    if not found:
        raise CredentialFault(f"{where} holds no certificate")
    return found


def _private(text: str, password: bytes | None, path: Path) -> Key:
    encrypted = "ENCRYPTED" in text
    if encrypted and password is None:
        raise CredentialFault(f"the key in {path} is encrypted, and there is no pass phrase")
    try:
        key = serialization.load_pem_private_key(text.encode(), password if encrypted else None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        # What the library says may have parts of the key in it.
        what = "the pass phrase is wrong, or the key damaged" if encrypted else "the key is damaged"
        raise CredentialFault(f"the key in {path} cannot be read: {what}") from error
    return _known(key, path)


def _known(key: object, path: Path) -> Key:
    if not isinstance(key, rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey):
        raise CredentialFault(f"the key in {path} is neither RSA nor EC, which grid storage does not accept")
    return key


def _from_pkcs12(data: bytes, password: bytes | None, path: Path) -> Credential:
    try:
        key, certificate, _ = pkcs12.load_key_and_certificates(data, password)
    except UnsupportedAlgorithm as error:
        raise CredentialFault(
            f"{path} is encrypted in an old way; export it from the browser again, or turn it into PEM files"
        ) from error
    except ValueError as error:
        raise CredentialFault(f"{path} cannot be opened: wrong pass phrase, or no PKCS#12 file") from error
    if key is None or certificate is None:
        raise CredentialFault(f"{path} does not hold both a certificate and its key")
    return joined(_known(key, path), [certificate], str(path))


def _pem(certificates: Sequence[x509.Certificate]) -> str:
    return "".join(each.public_bytes(serialization.Encoding.PEM).decode() for each in certificates)
