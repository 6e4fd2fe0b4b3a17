"""A chain of certificates: whose it is, how long it is valid, whether its parts belong together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID

from mlaas_condor.errors import CredentialFault

from . import extensions
from .extensions import ProxyInfo

Key = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey

_SHORT = {
    "2.5.4.3": "CN", "2.5.4.4": "SN", "2.5.4.5": "serialNumber", "2.5.4.6": "C", "2.5.4.7": "L",
    "2.5.4.8": "ST", "2.5.4.9": "street", "2.5.4.10": "O", "2.5.4.11": "OU", "2.5.4.12": "title",
    "2.5.4.42": "GN", "0.9.2342.19200300.100.1.25": "DC", "0.9.2342.19200300.100.1.1": "UID",
    "1.2.840.113549.1.9.1": "emailAddress",
}  # fmt: skip


def one_line(name: x509.Name) -> str:
    """Return a name as grid software writes it: ``/DC=ch/DC=cern/CN=Jane Doe``."""
    parts = []
    for each in name:
        value = each.value if isinstance(each.value, bytes) else each.value.encode()
        # What is not plain ASCII is written as OpenSSL does it, since lists of users are made that way.
        text = "".join(chr(byte) if 32 <= byte < 127 else f"\\x{byte:02X}" for byte in value)
        parts.append(f"/{_SHORT.get(each.oid.dotted_string, each.oid.dotted_string)}={text}")
    return "".join(parts)


@dataclass(frozen=True)
class Credential:
    """Certificates, each issued by the one after it, and the private key of the first.

    Parameters
    ----------
    chain
        The certificate whose key this is, then who issued it, and so on; the root need not be among them.
    key
        None where only the certificates are known.
    """

    chain: tuple[x509.Certificate, ...]
    key: Key | None = field(default=None, repr=False)

    @property
    def leaf(self) -> x509.Certificate:
        """The certificate whose key this is."""
        return self.chain[0]

    @cached_property
    def starts(self) -> float:
        """Since when all certificates are valid, in seconds since 1970."""
        return max(each.not_valid_before_utc.timestamp() for each in self.chain)

    @cached_property
    def ends(self) -> float:
        """When the first of all certificates ends, in seconds since 1970."""
        return min(each.not_valid_after_utc.timestamp() for each in self.chain)

    @cached_property
    def _infos(self) -> tuple[ProxyInfo | None, ...]:
        return tuple(_info(each) for each in self.chain)

    @cached_property
    def level(self) -> int:
        """How many proxies there are, one made from the other; 0 for a certificate of a person or host."""
        for i, (certificate, info) in enumerate(zip(self.chain, self._infos, strict=True)):
            if info is None and not _is_legacy(certificate):
                return i
        return len(self.chain)

    @cached_property
    def legacy(self) -> bool:
        """Whether there is a proxy of the kind before RFC 3820, which storage refuses."""
        return None in self._infos[: self.level]

    @cached_property
    def limited(self) -> bool:
        """Whether a proxy says that it is for data only, not for jobs; so are all made from it."""
        return any(
            info.policy == extensions.LIMITED if info else _last(certificate) == "limited proxy"
            for certificate, info in zip(self.chain[: self.level], self._infos, strict=False)
        )

    @cached_property
    def room(self) -> float:
        """How many proxies may still be made, one from the other; infinite where none of them says."""
        depths = (
            (info.depth - i)
            for i, info in enumerate(self._infos)
            if info is not None and info.depth is not None
        )
        return min(depths, default=float("inf"))

    @cached_property
    def bits(self) -> tuple[tuple[str, int], ...]:
        """Kind and length of the key of each certificate: ``("RSA", 2048)``."""
        keys = [each.public_key() for each in self.chain]
        kinds = ["RSA" if isinstance(key, rsa.RSAPublicKey) else "EC" for key in keys]
        return tuple((kind, getattr(key, "key_size", 0)) for kind, key in zip(kinds, keys, strict=True))

    @property
    def subject(self) -> str:
        """Name of the first certificate: ``/DC=ch/CN=Jane Doe/CN=123``."""
        return one_line(self.leaf.subject)

    @property
    def issuer(self) -> str:
        """Name of who issued the first certificate."""
        return one_line(self.leaf.issuer)

    @property
    def identity(self) -> str:
        """Name of the person or host, without what proxies add to it."""
        if self.level < len(self.chain):
            return one_line(self.chain[self.level].subject)
        return one_line(self.chain[-1].issuer)


def joined(key: Key, certificates: Sequence[x509.Certificate], where: str) -> Credential:
    """Return what belongs together as one.

    Raises
    ------
    CredentialFault
        The key is not that of the first certificate, or they are not issued one by the other.
    """
    credential = Credential(tuple(certificates), key)
    try:
        _check(credential, key, where)
    except (ValueError, UnsupportedAlgorithm) as error:
        # A certificate is read when something in it is asked for, and may be damaged there.
        raise CredentialFault(f"{where} holds a certificate that cannot be used: {error}") from error
    return credential


def _check(credential: Credential, key: Key, where: str) -> None:
    form = serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    if key.public_key().public_bytes(*form) != credential.leaf.public_key().public_bytes(*form):
        raise CredentialFault(f"{where}: the key does not belong to the certificate {credential.subject}")
    for issued, issuer in pairwise(credential.chain):
        _check_issued(issued, issuer, where)
    if credential.room < 0:
        raise CredentialFault(f"{where} holds a proxy of one that does not allow it")
    _check_names(credential, where)
    # What is shown of it can be read, too.
    _ = credential.issuer, credential.identity, credential.starts, credential.ends, credential.bits


def _check_issued(issued: x509.Certificate, issuer: x509.Certificate, where: str) -> None:
    if issued.issuer != issuer.subject:
        raise CredentialFault(
            f"{where} is not one chain: {one_line(issued.subject)} was issued by {one_line(issued.issuer)}, "
            f"and is followed by {one_line(issuer.subject)}"
        )
    key, how = issuer.public_key(), issued.signature_algorithm_parameters
    digest = issued.signature_hash_algorithm
    try:
        if isinstance(key, rsa.RSAPublicKey) and digest is not None and not isinstance(how, ec.ECDSA):
            assert how is not None
            key.verify(issued.signature, issued.tbs_certificate_bytes, how, digest)
            return
        if isinstance(key, ec.EllipticCurvePublicKey) and isinstance(how, ec.ECDSA):
            key.verify(issued.signature, issued.tbs_certificate_bytes, how)
            return
    except (InvalidSignature, UnsupportedAlgorithm):
        pass
    raise CredentialFault(f"{where}: {one_line(issued.subject)} is not signed by {one_line(issuer.subject)}")


def _check_names(credential: Credential, where: str) -> None:
    # A proxy says whose it is by its name: that of its issuer, and one part more.
    for proxy in credential.chain[: credential.level]:
        if list(proxy.subject.rdns)[:-1] != list(proxy.issuer.rdns) or not _last(proxy):
            raise CredentialFault(f"{where}: {one_line(proxy.subject)} is no name for a proxy of its issuer")


def _info(certificate: x509.Certificate) -> ProxyInfo | None:
    return extensions.proxy_info(certificate.public_bytes(serialization.Encoding.DER))


def _last(certificate: x509.Certificate) -> str:
    last = list(certificate.subject)[-1:]
    return str(last[0].value) if last and last[0].oid == NameOID.COMMON_NAME else ""


def _is_legacy(certificate: x509.Certificate) -> bool:
    # Between the two there was a draft of RFC 3820, with an identifier of its own.
    draft = extensions.find(certificate.public_bytes(serialization.Encoding.DER), extensions.DRAFT_PROXY_INFO)
    parent = list(certificate.subject.rdns)[:-1] == list(certificate.issuer.rdns)
    return draft is not None or (parent and _last(certificate) in ("proxy", "limited proxy"))
