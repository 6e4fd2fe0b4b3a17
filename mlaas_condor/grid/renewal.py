"""Fresh short proxies from a long-lived credential: which one, how one is made, and when not to ask again.

A source says what is long-lived (``[renewal]`` in ``renewal.toml``). What it gives replaces the proxy in
place only if it is the same person's, has the attributes that the old one has, and lasts longer.
"""

from __future__ import annotations

import os
import stat
import tempfile
import time
import tomllib
from collections.abc import Sequence
from difflib import get_close_matches
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field, ValidationError

from mlaas_condor.errors import CannotWrite, CredentialFault, MlaasError, Problem
from mlaas_condor.jsonfile import Plain

from .programs import expanded, myproxy_logon, named, private, run_program, voms_proxy_init
from .times import moment

if TYPE_CHECKING:
    from .certificates import Credential

HOUR = 3600.0
MOST_HOURS = 24 * 366
LEAST_SECONDS = 120.0
"""HTCondor takes no proxy that ends sooner than that."""

_KINDS = ("long_proxy", "certificate", "myproxy", "command")
_WEEK = 168 * HOUR
_A_COMMAND = 'a list of texts: ["my-proxy", "--out", "{out}"]'
_IN_WORDS = {
    "string_type": 'a text: "…"',
    "int_type": "a whole number",
    "model_type": 'a table: {server = "…"}',
}


class WrongSetting(MlaasError):
    """Something in ``renewal.toml``, or of a command that submits nothing, is wrong; nothing was done."""

    exit_code = 2
    http_status = 400

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        lines = [str(problem) for problem in problems]
        number = f"{len(lines)} problems, nothing was done\n"
        super().__init__(lines[0] if len(lines) == 1 else number + "\n".join(f"  {line}" for line in lines))


class MyProxy(Plain):
    """An account at a MyProxy server.

    Parameters
    ----------
    server, port
        Where it is.
    username
        Of the account; ``""`` for the name of the user here.
    name
        Which of its credentials; ``""`` for the default one.
    password_file
        File with the pass phrase, which only its owner can read; ``""`` where none is needed.
    authorization
        A proxy or certificate that the server knows as allowed to renew; ``""`` for none.
    """

    server: str
    port: int = 7512
    username: str = ""
    name: str = ""
    password_file: str = ""
    authorization: str = ""


class Source(Plain):
    """What makes fresh proxies: one of a long proxy, a certificate with its key, MyProxy, or a command.

    Parameters
    ----------
    long_proxy
        File with a proxy that is valid for days; short ones are made from it.
    certificate, key
        Files of a robot's certificate; the key without a pass phrase, and readable by its owner only.
    myproxy
        Account from which ``myproxy-logon`` gets one.
    command
        Program and arguments; ``{out}`` stands for the file it is to write, ``{hours}`` and ``{seconds}`` for
        how long the proxy should last, ``{voms}`` for `voms`.
    voms
        The virtual organisation whose attributes the proxy should have, as ``voms-proxy-init`` takes it.
    """

    long_proxy: str = ""
    certificate: str = ""
    key: str = ""
    myproxy: MyProxy | None = None
    command: list[str] = Field(default_factory=list)
    voms: str = ""

    def __str__(self) -> str:
        if self.long_proxy:
            return f"the long proxy {self.long_proxy}"
        if self.certificate:
            return f"the certificate {self.certificate}"
        if self.myproxy:
            return f"the MyProxy server {self.myproxy.server}"
        return f"the command {self.command[0]}"

    @property
    def fingerprint(self) -> str:
        """Tells this source, with the files it names as they are now, from any other."""
        paths = [path for path in (self.long_proxy, self.certificate, self.key) if path]
        if self.myproxy:
            paths += [path for path in (self.myproxy.password_file, self.myproxy.authorization) if path]
        text = f"{self.model_dump_json()} {[_changed(path) for path in paths]}"
        return sha256(text.encode()).hexdigest()[:16]


def _changed(path: str) -> int:
    try:
        return expanded(path).stat().st_mtime_ns
    except OSError:
        return 0


def read_source(path: Path) -> Source | None:
    """Read the user's ``renewal.toml``; None where there is no such file, or nothing in its ``[renewal]``.

    Raises
    ------
    WrongSetting
        With everything that is wrong with it.
    """
    try:
        with path.open("rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            content = tomllib.load(file)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        raise WrongSetting([Problem(str(path), f"cannot be read: {error}")]) from error
    if mode & 0o022:  # it names programs to run
        what = f"others can write it, its mode is {mode:04o}"
        raise WrongSetting([Problem(str(path), what, f"run: chmod 600 {path}")])
    problems = [
        Problem(str(path), f"no such section [{name}]", "there is [renewal]")
        for name in content
        if name != "renewal"
    ]
    source = None
    try:
        if content.get("renewal", {}) != {}:
            source = Source.model_validate(content["renewal"], strict=True)
            problems += [Problem(f"{path}: [renewal]", what, hint) for what, hint in _faults(source)]
    except ValidationError as error:
        problems += [_of_key(path, each) for each in error.errors()]
    if problems:
        raise WrongSetting(problems)
    return source


def _of_key(path: Path, error: Any) -> Problem:
    """Return what is wrong with a key, without its value: there may be a secret in it."""
    place, keys = f"{path}: [renewal]", [each for each in error["loc"] if isinstance(each, str)]
    inside = keys[:-1] == ["myproxy"]
    name, where = ".".join(keys), "myproxy: " if inside else ""
    if error["type"] == "extra_forbidden":
        known = (MyProxy if inside else Source).model_fields
        near = get_close_matches(keys[-1], known, 1)
        hint = f"did you mean {near[0]}?" if near else f"there is {', '.join(known)}"
        return Problem(place, f"{where}unknown key {keys[-1]!r}", hint)
    if error["type"] == "missing":
        return Problem(place, f"{where}{keys[-1]!r} is missing")
    words = _A_COMMAND if keys == ["command"] else _IN_WORDS.get(error["type"], "something else")
    return Problem(place, f"{name} must be {words}" if name else "must be a section of keys")


def _faults(source: Source) -> list[tuple[str, str]]:
    given = [kind for kind in _KINDS if getattr(source, kind)]
    found = []
    if len(given) != 1:
        what = f"{' and '.join(given)} are given" if given else "names no source"
        found.append((what, f"give one of {', '.join(_KINDS)}"))
    if bool(source.certificate) != bool(source.key):
        found.append(("certificate and key go together", "give both"))
    if source.command and not any("{out}" in word for word in source.command):
        found.append(("the command does not say which file it writes", "put {out} among its arguments"))
    return found


def fresh(source: Source, seconds: float, out: Path) -> Credential:
    """Make a fresh proxy in the file `out`, for so many seconds or as long as the source lasts.

    Raises
    ------
    CredentialFault
        The source cannot give one; says why, and holds no secret.
    """
    from . import certificates

    if source.long_proxy or source.certificate:
        _from_files(source, seconds, out)
    elif source.myproxy:
        myproxy_logon(source.myproxy, source.voms, max(1, round(seconds / HOUR)), out)
    else:
        values = {
            "{out}": str(out), "{hours}": str(max(1, round(seconds / HOUR))), "{seconds}": f"{seconds:.0f}",
            "{voms}": source.voms,
        }  # fmt: skip
        command = list(source.command)
        for name, value in values.items():
            command = [word.replace(name, value) for word in command]
        run_program([os.path.expanduser(command[0]), *command[1:]])  # noqa: PTH111
    if not out.is_file():
        raise CredentialFault(f"{source} wrote no proxy")
    out.chmod(0o600)
    try:
        made = certificates.load(out)
    except CredentialFault as error:
        raise CredentialFault(f"{source} gave no proxy: {str(error).replace(str(out), 'the file')}") from None
    if made.ends <= time.time():
        raise CredentialFault(f"{source} gave a proxy that ended on {moment(made.ends)}")
    return made


def _from_files(source: Source, seconds: float, out: Path) -> None:
    from . import certificates, proxy

    if source.long_proxy:
        make = proxy.how_to_renew(needed=_WEEK, out=expanded(source.long_proxy))
        path, key = private("long_proxy", source.long_proxy, make), None
        holder = certificates.load(path)
    else:
        path, key = named("certificate", source.certificate), named("key", source.key)
        holder = certificates.load_pair(path, key, None)
    left = holder.ends - time.time()
    if left < (60 if source.voms else 1):
        raise CredentialFault(f"{source} ended on {moment(holder.ends)}; {_anew(source)}")
    if source.voms:
        # It would warn of, or refuse, what lasts longer than its issuer.
        voms_proxy_init(source.voms, min(seconds, left), out, path, key)
    else:
        certificates.write(certificates.make_proxy(holder, seconds), out)


def _anew(source: Source) -> str:
    """Return what to do about a source that does not last."""
    from . import proxy

    if source.certificate:
        return "ask the authority that issued it for a new one"
    if not source.long_proxy:
        return "it has to give one that lasts longer"
    path = expanded(source.long_proxy)
    return f"make a new one with `{proxy.how_to_renew(proxy.read(path), _WEEK)}`"


def lasts(credential: Credential) -> float:
    """Return until when a proxy is of use: its own end, or that of its VOMS attributes."""
    _, attributes_end = _attributes(credential)
    return credential.ends if attributes_end is None else min(credential.ends, attributes_end)


def _attributes(credential: Credential) -> tuple[list[str], float | None]:
    from . import certificates

    try:
        return certificates.voms(credential)
    except CredentialFault:  # what cannot be read is no use to storage either
        return [], None


def is_due(credential: Credential, below: float | None, now: float) -> bool:
    """Tell whether a proxy has less than `below` seconds left; of None, less than half of its life."""
    ends = lasts(credential)
    left = ends - now
    if below is not None:
        return left < below
    return left < (ends - credential.starts) / 2


def present(path: Path) -> Credential | None:
    """Return the proxy in place; None where there is none that can be read."""
    from . import certificates

    try:
        return certificates.load(path)
    except CredentialFault:
        return None


class Refused(CredentialFault):
    """The source gave a proxy that must not replace the one in place."""


def replace(
    path: Path, source: Source, seconds: float, identity: str = "", least: float = 60.0
) -> Credential:
    """Put a fresh proxy in the place of an old one, at once and readable by its owner only.

    Parameters
    ----------
    path
        The proxy file; a link is followed.
    source, seconds
        As for `fresh`.
    identity
        Whose proxy it must be; that of the one in place counts as well.
    least
        By how many seconds it must end later than the one in place. Nothing that ends sooner, or at the same
        time, is taken in any case.

    Raises
    ------
    CredentialFault
        The source cannot give one, or (`Refused`) gave another person's or of another authority, one
        without the attributes of the one in place, or none that lasts longer; the file is left as it was.
    CannotWrite
        There is no space or no permission beside the file.
    """
    target = path.resolve()
    before = present(target)
    try:
        if target.exists() and target.stat().st_uid != os.geteuid():
            # A file of ours in its place could not be read by whoever the jobs belong to.
            raise Refused(f"{target} belongs to user {target.stat().st_uid}: let that user renew it")
        # In a folder of our own, because anybody may guess names in /tmp; and there, because a file can
        # take the place of another at once only within a file system.
        with tempfile.TemporaryDirectory(prefix=".mlaas-condor-", dir=target.parent) as folder:
            out = Path(folder) / "proxy"
            made = fresh(source, seconds, out)
            _check(made, before, identity, source)
            _check_longer(made, before, source, seconds, least)
            out.replace(target)
    except OSError as error:
        raise CannotWrite(f"{target} cannot be replaced: {error.strerror}; the old one is there") from error
    return made


def _check(made: Credential, before: Credential | None, identity: str, source: Source) -> None:
    for wanted in (identity, before.identity if before else ""):
        if wanted and made.identity != wanted:
            raise Refused(f"{source} gives proxies of {made.identity}, and the run reads as {wanted}")
    if before is None:
        return
    # Storage that maps people by name and authority would take it for somebody else's.
    if _authority(before) not in ("", _authority(made)):
        raise Refused(
            f"{source} gives proxies of a certificate that {_authority(made) or 'nobody known'} issued, and "
            f"that of the proxy in place is of {_authority(before)}; if that is meant, put the first such "
            "proxy there yourself"
        )
    missing = sorted(_organisations(before) - _organisations(made))
    if missing:
        raise Refused(
            f"{source} gives proxies without the VOMS attributes of {', '.join(missing)}, which the one in "
            f'place has; set voms = "{missing[0]}" in renewal.toml'
        )


def _check_longer(
    made: Credential, before: Credential | None, source: Source, seconds: float, least: float
) -> None:
    if before is None:
        return
    if made.leaf == before.leaf:
        raise Refused(f"{source} gives the very proxy that is in place; {_anew(source)}")
    gained = lasts(made) - lasts(before)
    if gained > 0 and gained >= least:
        return
    # Either more would have been there to have, or not.
    short = lasts(made) < time.time() + seconds - 60
    raise Refused(
        f"{source} gives nothing that lasts longer than the proxy in place, which ends on "
        f"{moment(lasts(before))}; {_anew(source) if short else 'ask for more with --hours'}"
    )


def _authority(credential: Credential) -> str:
    """Return who issued the certificate of the person; ``""`` where that is not among them."""
    from .chain import one_line

    rest = credential.chain[credential.level :]
    return one_line(rest[0].issuer) if rest else ""


def _organisations(credential: Credential) -> set[str]:
    return {name.strip("/").split("/")[0] for name in _attributes(credential)[0]}
