"""A small certificate authority, for tests of credentials: it signs whoever asks, good and bad alike."""

import base64
import json
import os
import subprocess
import time
from datetime import UTC, datetime
from functools import cache
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID

from mlaas_condor.grid.certificates import Credential

HOUR = 3600
DAY = 24 * HOUR
PROXY_INFO = "1.3.6.1.5.5.7.1.14"
INHERIT_ALL = "300c300a06082b06010505071501"
_SHORT = {
    "C": NameOID.COUNTRY_NAME, "O": NameOID.ORGANIZATION_NAME, "CN": NameOID.COMMON_NAME,
    "DC": NameOID.DOMAIN_COMPONENT, "OU": NameOID.ORGANIZATIONAL_UNIT_NAME,
    "emailAddress": NameOID.EMAIL_ADDRESS,
}  # fmt: skip


@cache
def key_called(name, bits=2048):
    """Return the key of this name: making one takes long, and nobody else sees them."""
    return rsa.generate_private_key(65537, bits)


def name_of(text):
    """Return ``/DC=test/CN=Jane`` as a name."""
    parts = [part.split("=", 1) for part in text.split("/")[1:]]
    return x509.Name([x509.NameAttribute(_SHORT[kind], value) for kind, value in parts])


def issue(
    subject,
    issuer,
    issuer_key,
    key=None,
    begins=-HOUR,
    seconds=30 * DAY,
    ca=False,
    extensions=(),
    digest=None,
):
    """Return a certificate and its key; `begins` and `seconds` count from now."""
    now = time.time()
    key = key or key_called(str(subject))
    subject = subject if isinstance(subject, x509.Name) else name_of(subject)
    usage = dict.fromkeys(
        ("content_commitment", "data_encipherment", "key_agreement", "encipher_only", "decipher_only"), False
    )
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(datetime.fromtimestamp(int(now + begins), UTC))
        .not_valid_after(datetime.fromtimestamp(int(now + seconds), UTC))
        .add_extension(
            x509.KeyUsage(
                digital_signature=not ca, key_encipherment=not ca, key_cert_sign=ca, crl_sign=ca, **usage
            ),
            critical=True,
        )
    )
    # voms-proxy-fake wants it in the certificate it makes a proxy of.
    builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False)
    if ca:
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical)
    return builder.sign(issuer_key, digest or hashes.SHA256()), key


def proxy_info(info=INHERIT_ALL):
    """Return what makes a proxy one of RFC 3820, from DER in hexadecimal digits."""
    return x509.UnrecognizedExtension(x509.ObjectIdentifier(PROXY_INFO), bytes.fromhex(info)), True


def pem(certificate):
    return certificate.public_bytes(serialization.Encoding.PEM).decode()


def pem_of_key(key, password=None):
    how = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, how).decode()


class Authority:
    """A certificate authority with its certificate directory, ``DIRECTORY/certificates``."""

    def __init__(self, directory, name="/DC=test/CN=Test CA"):
        self.directory = Path(directory)
        self.key = key_called(f"authority {name}")
        self.certificate, _ = issue(name, name_of(name), self.key, key=self.key, seconds=365 * DAY, ca=True)
        self.certificates = self.directory / "certificates"
        self.certificates.mkdir(parents=True, exist_ok=True)
        self.file = self.certificates / "ca.pem"
        self.file.write_text(pem(self.certificate))
        digest = subprocess.run(
            ["openssl", "x509", "-hash", "-noout", "-in", self.file],
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        self.hashed = self.certificates / f"{digest}.0"
        self.hashed.write_text(pem(self.certificate))
        policy = f"access_id_CA X509 '{name}'\npos_rights globus CA:sign\ncond_subjects globus '\"*\"'\n"
        (self.certificates / f"{digest}.signing_policy").write_text(policy)

    def credential(self, subject="/DC=test/CN=Jane Doe", **options):
        """Return a certificate of a person or host, and its key, as one."""
        certificate, key = issue(subject, self.certificate.subject, self.key, **options)
        return Credential((certificate,), key)

    def pair(self, subject="/DC=test/CN=Jane Doe", password=None, stem="user", **options):
        """Write ``usercert.pem`` and ``userkey.pem``; return both paths."""
        credential = self.credential(subject, **options)
        certificate, key = (self.directory / f"{stem}{kind}.pem" for kind in ("cert", "key"))
        certificate.write_text(pem(credential.leaf))
        key.unlink(missing_ok=True)
        key.touch(0o600)
        key.write_text(pem_of_key(credential.key, password))
        key.chmod(0o400)
        return certificate, key


def proxy_by_hand(holder, name="77", begins=-60, seconds=HOUR, info=INHERIT_ALL, key=None, extensions=()):
    """Make a proxy as somebody else's program might: any name, any time, of any kind."""
    subject = x509.Name(
        [
            *holder.leaf.subject.rdns,
            x509.RelativeDistinguishedName([x509.NameAttribute(NameOID.COMMON_NAME, name)]),
        ]
    )
    extensions = [*extensions, *([proxy_info(info)] if info else [])]
    certificate, key = issue(
        subject, holder.leaf.subject, holder.key, key=key or key_called("by hand"), begins=begins,
        seconds=seconds, extensions=extensions,
    )  # fmt: skip
    return Credential((certificate, *holder.chain), key)


def curve_key():
    return ec.generate_private_key(ec.SECP256R1())


def save(credential, path, mode=0o600):
    """Write a credential as it is, however wrong; return the path."""
    text = pem(credential.chain[0]) + pem_of_key(credential.key) + "".join(map(pem, credential.chain[1:]))
    path.unlink(missing_ok=True)
    path.touch(0o600)
    path.write_text(text)
    path.chmod(mode)
    return path


def with_attributes(authority, out, names=("/cms", "/cms/Role=production"), hours=12, attribute_hours=6):
    """Have voms-proxy-fake make a proxy with VOMS attributes, as a VO's server would grant them."""
    certificate, key = authority.pair()
    host, host_key = authority.pair("/DC=test/CN=voms.test", stem="host")
    # What is not there is written out as NULL by a real server.
    full = [name if "/Role=" in name else f"{name}/Role=NULL" for name in names]
    call = [
        "voms-proxy-fake", "-rfc", "-cert", certificate, "-key", key, "-certdir", authority.certificates,
        "-out", out, "-hostcert", host, "-hostkey", host_key, "-voms", "cms", "-uri", "voms.test:15000",
        "-hours", str(hours), "-vomslife", str(attribute_hours), "-path-length", "5",
        *(word for name in full for word in ("-fqan", f"{name}/Capability=NULL")),
    ]  # fmt: skip
    environment = {**os.environ, "HOME": str(authority.directory)}
    subprocess.run(call, env=environment, capture_output=True, check=True, timeout=60)
    return out


def jwt(header=None, **claims):
    """Return a JSON Web Token whose signature nobody looks at."""
    parts = [json.dumps(part).encode() for part in (header or {"alg": "ES256"}, claims)]
    return ".".join(base64.urlsafe_b64encode(part).decode().rstrip("=") for part in [*parts, b"signature"])


def token_text(**claims):
    """Return a token that is good for an hour; claims replace or, where they are None, remove its own."""
    usual = {
        "iss": "https://cms-auth.test/", "sub": "jane", "aud": "https://wlcg.cern.ch/jwt/v1/any",
        "scope": "storage.read:/ openid", "exp": time.time() + 3600, "nbf": time.time() - 60,
    }  # fmt: skip
    return jwt(**{name: value for name, value in {**usual, **claims}.items() if value is not None})
