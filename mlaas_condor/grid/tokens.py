"""Bearer tokens as WLCG has them: where one is, what it says, whether it will do.

A token is read, not verified: it is the storage that trusts an issuer or does not.
"""

from __future__ import annotations

import base64
import binascii
import json
import math
import os
import re
import shlex
import stat
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from mlaas_condor.errors import CredentialFault, Problem

from .proxy import ALL_THE_SAME, ONLY_NAMED
from .times import in_words, moment

_LAST = "/tmp/bt_u{}"  # the last of the places where a token may be
_LARGEST = 2**20
_SHOWN = 3  # paths in a message
_TEXT = re.compile(r"[A-Za-z0-9._~+/-]+=*")
_RENEW = "get a new one, with oidc-token or htgettoken, say"

# What a scope allows beside what it is called. Bringing a file from tape is of no use without reading it.
# Those without a dot are of SciTokens, where to write is to do as one likes.
_ALLOWED_BY = {
    "storage.read": {"storage.read", "storage.stage", "read"},
    "storage.create": {"storage.create", "storage.modify", "write"},
    "storage.modify": {"storage.modify", "write"},
    "storage.stage": {"storage.stage"},
}


FILE = "BEARER_TOKEN_FILE"
"""Variable that names the file with the token."""

SERVICE = "MLAAS_CONDOR_TOKEN_SERVICE"
"""Variable of a job: which of the tokens that the pool keeps for it is the one for storage."""


@dataclass(frozen=True)
class Token:
    """A token and what it says; times are seconds since 1970, None where it does not say.

    Parameters
    ----------
    text
        The token itself: whoever has it may do what it allows. Never shown.
    origin
        Where it was found: a path, or the variable `BEARER_TOKEN`.
    issuer, subject, audience
        Who made it, for whom, for which services.
    scopes
        What it allows: ``storage.read:/store``.
    ends, starts
        From when to when it is valid.
    groups
        Of the user; storage may go by these where there are no scopes.
    opaque
        Whether it says nothing to us, being no JSON Web Token; it may be good all the same.
    mode
        Permissions of its file; None where it is not in a file.
    """

    text: str = field(repr=False)
    origin: str
    issuer: str = ""
    subject: str = ""
    audience: tuple[str, ...] = ()
    scopes: tuple[str, ...] = ()
    ends: float | None = None
    starts: float | None = None
    groups: tuple[str, ...] = ()
    opaque: bool = False
    mode: int | None = None


def find() -> Token | None:
    """Return the token in the first place that has one, in the order of WLCG's Bearer Token Discovery.

    `BEARER_TOKEN`; the file of `BEARER_TOKEN_FILE`; ``bt_u<uid>`` in `XDG_RUNTIME_DIR`, and in ``/tmp``.

    Raises
    ------
    CredentialFault
        There is something in one of them that is no token, or cannot be read. The places after it are not
        looked at then: another token than the one meant would be worse than none.
    """
    text = os.environ.get("BEARER_TOKEN", "").strip()
    if text:
        return parse(text, "BEARER_TOKEN")
    named = os.environ.get("BEARER_TOKEN_FILE", "")
    if named:
        return _in_file(Path(named), named=True)
    if os.environ.get(ONLY_NAMED) == "1":
        return None
    name = Path(_LAST.format(os.geteuid()))
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    for path in ([Path(runtime, name.name)] if runtime else []) + [name]:
        token = _in_file(path, named=False)
        if token:
            return token
    return None


def parse(text: str, origin: str, mode: int | None = None) -> Token:
    """Return a text as a token; nothing is verified.

    Raises
    ------
    CredentialFault
        It has characters that no token has.
    """
    text = text.strip()
    if not _TEXT.fullmatch(text):
        raise CredentialFault(f"{origin} holds no token: some of its characters are in none; {_RENEW}")
    claims = _claims(text)
    if claims is None:
        return Token(text, origin, opaque=True, mode=mode)
    return Token(
        text,
        origin,
        issuer=_word(claims.get("iss")),
        subject=_word(claims.get("sub")),
        audience=_words(claims.get("aud"), split=False),
        scopes=_words(claims.get("scope", claims.get("scp"))),
        ends=_moment(claims.get("exp")),
        starts=_moment(claims.get("nbf")),
        groups=_words(claims.get("wlcg.groups"), split=False),
        mode=mode,
    )


def faults(
    token: Token, paths: Iterable[str], needed: float = 0.0, access: str = "storage.read"
) -> list[Problem]:
    """Return all for which storage would refuse a token; of an opaque one nothing can be said.

    Parameters
    ----------
    paths
        Files it is for, as paths or URLs.
    needed
        For how many seconds.
    access
        What is done with them, as WLCG calls it.
    """
    found = [*_file_faults(token), *_time_faults(token, needed), *_scope_faults(token, paths, access)]
    return [Problem(token.origin, what, hint) for what, hint in found]


def covers(scope: str, path: str, access: str = "storage.read") -> bool:
    """Tell whether a scope such as ``storage.read:/store`` may allow this access to a path or URL."""
    kind, _, allowed = scope.partition(":")
    if kind not in _ALLOWED_BY.get(access, {access}):
        return False
    within, asked = _parts(unquote(allowed)), _parts(_path(path))
    if ".." in within or ".." in asked:
        return False
    # Which folder of the storage is the issuer's root is known to the storage only: what its users call
    # /cms/store/a may be /store/a to the issuer. So the scope may begin at any part of the path.
    return any(asked[i : i + len(within)] == within for i in range(len(asked) + 1))


def _in_file(path: Path, named: bool) -> Token | None:
    where = f"{path}, which BEARER_TOKEN_FILE names," if named else str(path)
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise CredentialFault(f"the token {where} is no file")
        with path.open("rb") as file:
            data = file.read(_LARGEST + 1)
    except FileNotFoundError as error:
        if named:
            raise CredentialFault(
                f"there is no token {path}, which BEARER_TOKEN_FILE names; {_RENEW}"
            ) from error
        return None
    except OSError as error:
        raise CredentialFault(f"the token {where} cannot be read: {error.strerror}; {_RENEW}") from error
    if not named and status.st_uid != os.geteuid():
        # Anybody can put a file into /tmp, and have us write where they read.
        raise CredentialFault(f"the token {where} belongs to somebody else; set BEARER_TOKEN_FILE to yours")
    if not data.strip():
        if named:
            raise CredentialFault(f"the token {where} is empty; {_RENEW}")
        return None
    if len(data) > _LARGEST:
        raise CredentialFault(f"{where} is too large to be a token")
    return parse(data.decode("latin-1"), str(path), stat.S_IMODE(status.st_mode))


def _claims(text: str) -> dict[str, Any] | None:
    """Return what a JSON Web Token says; None for any other token."""
    parts = text.split(".")
    if len(parts) != 3:
        return None
    try:
        header, claims = (json.loads(base64.urlsafe_b64decode(part + "==")) for part in parts[:2])
    except (ValueError, binascii.Error, RecursionError):
        return None
    return claims if isinstance(claims, dict) and isinstance(header, dict) else None


def _word(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _words(value: Any, split: bool = True) -> tuple[str, ...]:
    if isinstance(value, str):
        return tuple(value.split()) if split else (value,)
    return tuple(each for each in value if isinstance(each, str)) if isinstance(value, list) else ()


def _moment(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


def _file_faults(token: Token) -> Iterator[tuple[str, str]]:
    # XRootD's client does not even try with such a file.
    if token.mode is not None and token.mode & 0o077:
        change = f"run: chmod 600 {shlex.quote(token.origin)}"
        yield f"can be read by others, its mode is {token.mode:04o}", change


def _time_faults(token: Token, needed: float) -> Iterator[tuple[str, str]]:
    now = time.time()
    if token.starts is not None and token.starts > now:
        yield (
            f"is valid only from {moment(token.starts)} on, in {in_words(token.starts - now)}",
            "is the clock of this machine right?",
        )
    if token.opaque:
        return
    if token.ends is None:
        yield "does not say when it ends, so storage refuses it", _RENEW
    elif token.ends <= now:
        yield f"ended {in_words(now - token.ends)} ago, on {moment(token.ends)}", _RENEW
    elif token.ends - now < needed:
        yield (
            f"has {in_words(token.ends - now)} left, and the run is expected to need {in_words(needed)}",
            f"get one that lasts longer, or submit with {ALL_THE_SAME} all the same",
        )


def _scope_faults(token: Token, paths: Iterable[str], access: str) -> Iterator[tuple[str, str]]:
    kinds = {kind for allowed in _ALLOWED_BY.values() for kind in allowed}
    speaks = any(scope.partition(":")[0] in kinds for scope in token.scopes)
    if token.opaque or (token.groups and not speaks):
        return
    missing = [path for path in paths if not any(covers(scope, path, access) for scope in token.scopes)]
    if not missing:
        return
    more = f" and {len(missing) - _SHOWN} more" if len(missing) > _SHOWN else ""
    has = ", ".join(token.scopes[:_SHOWN]) + (", …" if len(token.scopes) > _SHOWN else "")
    yield (
        f"has no scope for {', '.join(missing[:_SHOWN])}{more}: it has {has or 'none at all'}",
        f"ask its issuer for a token with {access}:/ or {access}:/FOLDER",
    )


def _path(path: str) -> str:
    return urlsplit(path).path if "://" in path else path


def _parts(path: str) -> list[str]:
    return [part for part in path.split("/") if part not in ("", ".")]
