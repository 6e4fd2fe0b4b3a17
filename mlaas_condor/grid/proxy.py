"""The user's proxy: where it is, what it says, and whether storage would take it for as long as it is needed.

What goes wrong when a proxy is not accepted is seen here only: the storage says no more than that.
"""

from __future__ import annotations

import math
import os
import shlex
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mlaas_condor.errors import CredentialFault, Problem

from .times import in_words, moment

VARIABLE = "X509_USER_PROXY"
ALL_THE_SAME = "--proxy-lifetime-ok"
"""Option of `submit` for a run that is expected to outlive its proxy."""

ONLY_NAMED = "MLAAS_CONDOR_ONLY_NAMED_CREDENTIALS"
"""Variable that, set to 1, says that a proxy or token in one of the usual places is somebody else's.

So it is in a service, which reads for its users and has a home of its own.
"""

_DEFAULT = "/tmp/x509up_u{}"  # where every grid tool looks
_USUAL_HOURS = 12


@dataclass(frozen=True)
class Proxy:
    """What a proxy file says; times are seconds since 1970.

    Parameters
    ----------
    path
        The file.
    subject, identity, issuer
        Names such as ``/DC=ch/DC=cern/CN=Jane Doe``; the identity is without what proxies add to it.
    ends
        When the first of its certificates ends.
    attributes
        What its VO says of the user: ``/cms``, ``/cms/Role=production``.
    attributes_end
        When that ends, often before the proxy; None where there are none.
    bits, key_kind
        Length of its key, and ``RSA`` or ``EC``.
    level
        How many proxies there are, one made from the other; 0 for a certificate itself.
    mode, owner
        Permissions and user id of the file.
    starts
        Since when all its certificates are valid.
    certificate_ends
        When the certificate ends that it was made from; no proxy helps after that.
    weakest_bits
        Length of the shortest RSA key of all its certificates; None where there is none.
    legacy
        Whether it is of the kind before RFC 3820.
    remark
        What could not be read of it.
    """

    path: Path
    subject: str
    identity: str
    issuer: str
    ends: float
    attributes: tuple[str, ...]
    attributes_end: float | None
    bits: int
    key_kind: str
    level: int
    mode: int
    owner: int
    starts: float = 0.0
    certificate_ends: float = math.inf
    weakest_bits: int | None = None
    legacy: bool = False
    remark: str = ""

    @property
    def seconds_left(self) -> float:
        """For how long it is valid; negative when it has ended."""
        return self.ends - time.time()

    @property
    def vo(self) -> str:
        """Name of the virtual organisation, empty where it has no attributes."""
        return self.attributes[0].strip("/").partition("/")[0] if self.attributes else ""


def default() -> Path:
    """Return where a proxy is, and is put, when nothing else is said: ``/tmp/x509up_u<uid>``."""
    return Path(_DEFAULT.format(os.getuid()))


def find(named: str = "", origin: str = "--proxy") -> Path | None:
    """Return the proxy to use: the one named, or of `X509_USER_PROXY`, or the default one if it is there.

    Parameters
    ----------
    named
        Given on the command line or in the request; may be empty.
    origin
        Where it was given, for the message; ``""`` where that is plain.

    Raises
    ------
    CredentialFault
        One is named and is not there. None named and none there is nothing wrong, only None.
    """
    variable = os.environ.get(VARIABLE, "")
    if not named and not variable:
        ours = default()
        return ours if os.environ.get(ONLY_NAMED) != "1" and ours.exists() else None
    path = Path(named or variable).expanduser().absolute()
    if not path.exists():
        place, change = origin, f", or change {origin}"
        if not named:
            place, change = f"the variable {VARIABLE}", f", or unset {VARIABLE}"
        names, otherwise = (f", which {place} names", change) if place else ("", "")
        raise CredentialFault(
            f"there is no proxy {path}{names}; make one with `{how_to_renew(out=path)}`{otherwise}"
        )
    return path


def read(path: Path) -> Proxy:
    """Read a proxy; one that has ended or that others can read is read as well: `faults` says so.

    Raises
    ------
    CredentialFault
        It is missing or no proxy, or its parts do not belong together.
    """
    from . import certificates

    try:
        credential = certificates.load(path)
    except CredentialFault as error:
        raise CredentialFault(f"{error}; make a proxy with `{how_to_renew(out=path)}`") from error
    remark = ""
    attributes, attributes_end = list[str](), None
    try:
        attributes, attributes_end = certificates.voms(credential)
    except CredentialFault as error:
        remark = str(error)
    status = path.stat()
    certificate = credential.chain[credential.level :]
    return Proxy(
        path=path,
        subject=credential.subject,
        identity=credential.identity,
        issuer=credential.issuer,
        ends=credential.ends,
        attributes=tuple(attributes),
        attributes_end=attributes_end,
        bits=credential.bits[0][1],
        key_kind=credential.bits[0][0],
        level=credential.level,
        mode=stat.S_IMODE(status.st_mode),
        owner=status.st_uid,
        starts=credential.starts,
        certificate_ends=min(
            (each.not_valid_after_utc.timestamp() for each in certificate), default=math.inf
        ),
        weakest_bits=min((bits for kind, bits in credential.bits if kind == "RSA"), default=None),
        legacy=credential.legacy,
        remark=remark,
    )


def faults(proxy: Proxy, needed: float = 0.0) -> list[Problem]:
    """Return all for which storage, or a careful tool, would refuse a proxy for the next `needed` seconds."""
    where = str(proxy.path)
    renew = f"run: {how_to_renew(proxy, needed)}"
    return [Problem(where, what, hint or renew) for what, hint in _faults(proxy, needed)]


def how_to_renew(proxy: Proxy | None = None, needed: float = 0.0, out: Path | None = None) -> str:
    """Return the command that makes a proxy like this one, in the same place, for `needed` seconds."""
    vo = proxy.vo if proxy else ""
    words = ["mlaas-condor", "proxy", "init"]
    if proxy and vo:
        words = ["voms-proxy-init", "--voms", _wish(proxy), "--rfc"]
    hours = math.ceil(needed / 3600)
    if hours > _USUAL_HOURS:
        words += ["--valid", f"{hours}:00"] if vo else ["--hours", str(hours)]
    path = proxy.path if proxy else out
    # Both write to the place where both look, if not told otherwise.
    if path is not None and str(path) != (os.environ.get(VARIABLE) or str(default())):
        words += ["--out", str(path)]
    return shlex.join(words)


def _wish(proxy: Proxy) -> str:
    # The first attribute is the one that counts, so a role in it was asked for.
    first = proxy.attributes[0]
    return f"{proxy.vo}:{first}" if "/Role=" in first else proxy.vo


def _faults(proxy: Proxy, needed: float) -> Iterator[tuple[str, str]]:
    """Yield what is wrong, and what to do if that is not a new proxy."""
    yield from _file_faults(proxy)
    now = time.time()
    if proxy.legacy:
        vo = f" -voms {proxy.vo}" if proxy.vo else ""
        yield "is an old kind of proxy that storage refuses", f"make one with: voms-proxy-init -rfc{vo}"
    if proxy.weakest_bits is not None and proxy.weakest_bits < _weakest():
        yield (
            f"has an RSA key of {proxy.weakest_bits} bits: too weak, storage refuses less than {_weakest()}",
            "",
        )
    if proxy.starts > now:
        yield (
            f"is valid only from {moment(proxy.starts)} on, in {in_words(proxy.starts - now)}",
            "is the clock of this machine, or of the one that made it, right?",
        )
    if proxy.certificate_ends <= now:
        yield (
            f"is of a certificate that ended on {moment(proxy.certificate_ends)}: {proxy.identity}",
            "ask the authority that issued it for a new certificate",
        )
    elif proxy.ends <= now:
        yield f"ended {in_words(now - proxy.ends)} ago, on {moment(proxy.ends)}", ""
    else:
        yield from _time_faults(proxy, needed, now)


def _file_faults(proxy: Proxy) -> Iterator[tuple[str, str]]:
    if proxy.owner != os.geteuid():
        yield (
            f"belongs to user {_user(proxy.owner)}, not to {_user(os.geteuid())}, who would use it",
            "make one of your own: mlaas-condor proxy init",
        )
    if proxy.mode & 0o077:
        change = f"run: chmod 600 {shlex.quote(str(proxy.path))}"
        yield f"can be read by others, its mode is {proxy.mode:04o}", change


def _time_faults(proxy: Proxy, needed: float, now: float) -> Iterator[tuple[str, str]]:
    """Yield what will have ended before `needed` seconds are over, or has already."""
    renew = f"run: {how_to_renew(proxy, needed)}; or submit with {ALL_THE_SAME} all the same"
    left = proxy.ends - now
    if left < needed:
        yield f"has {in_words(left)} left, and the run is expected to need {in_words(needed)}", renew
    if proxy.attributes_end is None:
        return
    attributes_left = proxy.attributes_end - now
    if attributes_left <= 0:
        yield f"has attributes of {proxy.vo} that ended on {moment(proxy.attributes_end)}", ""
    elif attributes_left < needed <= left:
        yield (
            f"has attributes of {proxy.vo} for {in_words(attributes_left)} more, "
            f"and the run is expected to need {in_words(needed)}",
            renew,
        )


def _user(number: int) -> str:
    import pwd

    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return str(number)


def _weakest() -> int:
    from .certificates import WEAKEST_BITS

    return WEAKEST_BITS
