"""What grid certificates carry beside a name and a key: the extension of RFC 3820, and VOMS attributes.

Read with asn1crypto, which looks at the extension asked for only: one elsewhere in the certificate that is
not to the letter, as in many old ones, does no harm.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from asn1crypto import cms, core, x509  # type: ignore[import-untyped]

PROXY_INFO = "1.3.6.1.5.5.7.1.14"
DRAFT_PROXY_INFO = "1.3.6.1.4.1.3536.1.222"
LIMITED = "1.3.6.1.4.1.3536.1.1.1.9"
_VOMS = "1.3.6.1.4.1.8005.100.100.5"
_FQANS = "1.3.6.1.4.1.8005.100.100.4"

# ProxyCertInfo as DER: a sequence with the policy, itself a sequence of one object identifier.
INHERIT_ALL_INFO = bytes.fromhex("300c300a06082b06010505071501")
LIMITED_INFO = bytes.fromhex("300f300d060b2b060104019b5001010109")


@dataclass(frozen=True)
class ProxyInfo:
    """What a proxy certificate says of itself.

    Parameters
    ----------
    policy
        Object identifier of what it may do.
    depth
        How many proxies may be made from it, one from the other; None for any number.
    """

    policy: str
    depth: int | None


def find(certificate: bytes, identifier: str) -> bytes | None:
    """Return the value of an extension of a certificate (DER), or None where it has none of that kind."""
    extensions = x509.Certificate.load(certificate)["tbs_certificate"]["extensions"]
    for each in extensions if len(extensions) else ():
        if each["extn_id"].dotted == identifier:
            return bytes(each["extn_value"].contents)
    return None


def proxy_info(certificate: bytes) -> ProxyInfo | None:
    """Return what a proxy certificate of RFC 3820 says of itself; None for any other.

    Raises
    ------
    ValueError
        The extension is not what the RFC says.
    """
    value = find(certificate, PROXY_INFO)
    if value is None:
        return None
    try:
        parts = list(_parts(core.Sequence.load(value, strict=True)))
        depth = parts[0].native if isinstance(parts[0], core.Integer) else None
        return ProxyInfo(next(_parts(parts[-1])).dotted, depth)
    except (AttributeError, IndexError, StopIteration, TypeError, ValueError) as error:
        raise ValueError("its proxyCertInfo is not what RFC 3820 says") from error


def voms(certificate: bytes) -> tuple[list[str], float] | None:
    """Return the VOMS attributes in a certificate and when the first of them ends; None where it has none.

    Raises
    ------
    ValueError
        There are some, and they cannot be read.
    """
    value = find(certificate, _VOMS)
    if value is None:
        return None
    try:
        # One list within another: the outer one leaves room that nobody has used.
        found = [
            cms.AttributeCertificateV2.load(each.dump()) for each in _parts(core.Sequence.load(value)[0])
        ]
        infos = [each["ac_info"] for each in found]
        names = [name for info in infos for name in _fqans(info)]
        ends = [info["att_cert_validity_period"]["not_after_time"].native.timestamp() for info in infos]
        return names, min(ends)
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise ValueError("its VOMS attributes cannot be read") from error


def _fqans(info: Any) -> Iterator[str]:
    for attribute in info["attributes"]:
        if attribute["type"].dotted != _FQANS:
            continue
        # The kind is not registered, but its values are those of one that is.
        for syntax in cms.SetOfIetfAttrSyntax.load(attribute["values"].dump()):
            for name in syntax["values"]:
                # What is not there is written out as NULL; nobody calls their group so.
                yield name.native.decode().replace("/Capability=NULL", "").replace("/Role=NULL", "")


def _parts(sequence: Any) -> Iterator[Any]:
    return (sequence[i] for i in range(len(sequence)))
