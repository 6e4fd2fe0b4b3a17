"""A certificate authority of the tests: host certificate, users, and proxies of any lifetime and level.

Nothing of the product is used here: what it makes and judges is compared with these.
"""

from __future__ import annotations

import datetime
import itertools
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID, ObjectIdentifier

HOUR = 3600.0
DAY = 24 * HOUR
PROXY_CERT_INFO = ObjectIdentifier("1.3.6.1.5.5.7.1.14")
# DER of ProxyCertInfo { ProxyPolicy { language } }: all rights of the holder, or limited as Globus says it.
ALL_RIGHTS = bytes.fromhex("300c300a06082b06010505071501")
LIMITED = bytes.fromhex("300f300d060b2b060104019b5001010109")
_serials = itertools.count(int.from_bytes(os.urandom(6)))


def new_key(bits=2048):
    return rsa.generate_private_key(public_exponent=65537, key_size=bits)


@dataclass(frozen=True)
class Holder:
    """A certificate with its key, and the certificates between it and the authority (its issuers)."""

    certificate: x509.Certificate
    key: rsa.RSAPrivateKey
    issuers: tuple[x509.Certificate, ...] = ()

    @property
    def name(self):
        """The subject as OpenSSL prints it in one line: ``/DC=org/DC=example/CN=Jane Doe``."""
        return one_line(self.certificate.subject)

    @property
    def identity(self):
        """The subject without what proxies added."""
        return one_line((self.certificate, *self.issuers)[-1].subject)

    @property
    def ends(self):
        """When the certificate itself ends, in seconds since 1970."""
        return self.certificate.not_valid_after_utc.timestamp()

    def certificate_pem(self):
        return b"".join(_pem(each) for each in (self.certificate, *self.issuers))

    def key_pem(self, password=None):
        encryption = (
            serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
        )
        forms = serialization.PrivateFormat
        form = forms.PKCS8 if password else forms.TraditionalOpenSSL
        return self.key.private_bytes(serialization.Encoding.PEM, form, encryption)

    def proxy_pem(self):
        """Return the bytes of a proxy file: certificate, key, issuers."""
        return _pem(self.certificate) + self.key_pem() + b"".join(map(_pem, self.issuers))

    def write_proxy(self, path, mode=0o600):
        """Write a proxy file; give its path."""
        return _write(Path(path), self.proxy_pem(), mode)

    def write_pair(self, folder, password=None):
        """Write ``usercert.pem`` and ``userkey.pem``; give both paths."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        certificate = _write(folder / "usercert.pem", self.certificate_pem(), 0o644)
        return certificate, _write(folder / "userkey.pem", self.key_pem(password), 0o400)


class Authority:
    """A certificate authority of one day's use.

    Parameters
    ----------
    folder
        Gets ``certificates``, the directory for ``X509_CERT_DIR``.
    name
        Common name; authorities of the same name cannot be in one directory.
    """

    def __init__(self, folder, name="Test CA"):
        self.folder = Path(folder)
        self.key = new_key()
        subject = _name(name)
        self.certificate = _sign(
            subject, subject, self.key.public_key(), self.key, (-DAY, 10 * DAY),
            (x509.BasicConstraints(ca=True, path_length=None), True),
            (_usage(key_cert_sign=True, crl_sign=True), True),
            (x509.SubjectKeyIdentifier.from_public_key(self.key.public_key()), False),
        )  # fmt: skip
        self.certificates = self.folder / "certificates"
        self.add_to(self.certificates)

    @property
    def name(self):
        return one_line(self.certificate.subject)

    def add_to(self, certificates):
        """Make a certificate directory trust this authority."""
        certificates = Path(certificates)
        certificates.mkdir(parents=True, exist_ok=True)
        path = _write(certificates / f"{openssl_hash(self.certificate)}.0", _pem(self.certificate), 0o644)
        policy = f"access_id_CA X509 '{self.name}'\npos_rights globus CA:sign\ncond_subjects globus '\"*\"'\n"
        path.with_suffix(".signing_policy").write_text(policy)
        return path

    def user(self, common_name, start=-HOUR, end=DAY, bits=2048):
        """Give somebody a certificate, valid from `start` to `end` seconds from now."""
        kinds = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH])
        return self._certify(common_name, (start, end), bits, kinds)

    def host(self, name="localhost"):
        """Give a server its certificate; clients must call the server by this name."""
        kinds = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH])
        also = x509.SubjectAlternativeName([x509.DNSName(name)])
        return self._certify(name, (-HOUR, DAY), 2048, kinds, also)

    def _certify(self, common_name, span, bits, *more):
        key = new_key(bits)
        certificate = _sign(
            _name(common_name), self.certificate.subject, key.public_key(), self.key, span,
            (x509.BasicConstraints(ca=False, path_length=None), True),
            (_usage(digital_signature=True, key_encipherment=True), True),
            (x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False),
            (x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()), False),
            *((each, False) for each in more),
        )  # fmt: skip
        return Holder(certificate, key)


def proxy(holder, seconds=12 * HOUR, *, level=1, start=-300.0, bits=2048, limited=False):
    """Make an RFC 3820 proxy.

    Parameters
    ----------
    holder
        A user, or a proxy to delegate further.
    seconds
        From now to its end; below 0 for one that has expired already.
    level
        How many proxy certificates are made, each of the one before, all of the same lifetime.
    start
        Its begin, seconds from now; put before the end where that lies further back.
    """
    for _ in range(level):
        serial = next(_serials)
        common_name = x509.NameAttribute(NameOID.COMMON_NAME, str(serial))
        subject = x509.Name([*holder.certificate.subject.rdns, x509.RelativeDistinguishedName([common_name])])
        key = new_key(bits)
        info = x509.UnrecognizedExtension(PROXY_CERT_INFO, LIMITED if limited else ALL_RIGHTS)
        certificate = _sign(
            subject, holder.certificate.subject, key.public_key(), holder.key,
            (min(start, seconds - 60), seconds),
            (info, True),
            (_usage(digital_signature=True, key_encipherment=True), True),
            serial=serial,
        )  # fmt: skip
        holder = Holder(certificate, key, (holder.certificate, *holder.issuers))
    return holder


def one_line(name):
    """Return a name as OpenSSL's old one-line form has it."""
    return "".join(f"/{part.rfc4514_attribute_name}={part.value}" for part in name)


def openssl_hash(certificate):
    """Return the hash that names an authority's file in a certificate directory."""
    command = ["openssl", "x509", "-noout", "-subject_hash"]
    done = subprocess.run(command, input=_pem(certificate), capture_output=True, check=True)
    return done.stdout.decode().strip()


def _name(common_name):
    # Strings of the kind that openssl makes: the hash of the directory depends on nothing else.
    return x509.Name(
        [
            x509.NameAttribute(NameOID.DOMAIN_COMPONENT, "org"),
            x509.NameAttribute(NameOID.DOMAIN_COMPONENT, "example"),
            x509.NameAttribute(NameOID.COMMON_NAME, common_name),
        ]
    )


def _sign(subject, issuer, public_key, issuer_key, span, *extensions, serial=None):
    now = datetime.datetime.now(datetime.UTC)
    start, end = (now + datetime.timedelta(seconds=seconds) for seconds in span)
    builder = x509.CertificateBuilder(issuer, subject, public_key, serial or next(_serials), start, end)
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical)
    return builder.sign(issuer_key, hashes.SHA256())


def _usage(**wanted):
    names = (
        "digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement",
        "key_cert_sign", "crl_sign", "encipher_only", "decipher_only",
    )  # fmt: skip
    return x509.KeyUsage(**{name: wanted.get(name, False) for name in names})


def _pem(certificate):
    return certificate.public_bytes(serialization.Encoding.PEM)


def _write(path, content, mode):
    path.unlink(missing_ok=True)
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(file, "wb") as stream:
        stream.write(content)
    path.chmod(mode)
    return path
