"""Which service the commands talk to, and the token for it: ``--server``, the environment, the user's file.

In ``~/.config/mlaas-condor/config.toml``::

    server = "infn"

    [servers.infn]
    url = "https://mlaas.example.org"
    token_file = "~/.infn-token"
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlaas_condor import settings
from mlaas_condor.errors import CredentialFault, Problem
from mlaas_condor.grid import addresses, tokens
from mlaas_condor.grid.renewal import WrongSetting
from mlaas_condor.grid.times import moment
from mlaas_condor.reading import nearest

FLAG = "--server"
HERE = "local"
"""Named in place of a service: this machine."""
SERVER = settings.ENVIRONMENT_PREFIX + "SERVER"
TOKEN = settings.ENVIRONMENT_PREFIX + "TOKEN"
_KEYS = ("url", "token_file")


@dataclass(frozen=True)
class Profile:
    """A service, and how to get at a token for it.

    Parameters
    ----------
    url
        Its address.
    name
        Of the profile; empty where only an address was given.
    token_file, given_token_file
        File with the token, as the profile and as the command line have it; empty where they do not say.
    origin
        Who named it: the flag, the environment, the path of the user's file.
    """

    url: str
    name: str = ""
    token_file: str = ""
    given_token_file: str = ""
    origin: str = FLAG

    @property
    def given(self) -> bool:
        """Whether the command line itself names it."""
        return self.origin == FLAG

    def token(self) -> str:
        """Return the token for it; empty where there is none.

        The first of: the file of ``--token-file``; ``MLAAS_CONDOR_TOKEN``; the file of the profile; what the
        Bearer Token Discovery of WLCG finds. A file is read again each time, so a fresh token in it is used.

        Raises
        ------
        CredentialFault
            There is one, and it is no use.
        """
        if self.given_token_file:
            return _in_file(self.given_token_file)
        text = os.environ.get(TOKEN, "").strip()
        if text:
            return _checked(tokens.parse(text, TOKEN))
        if self.token_file:
            return _in_file(self.token_file)
        found = tokens.find()
        return _checked(found) if found else ""


def find(given: str | None = None, token_file: str | None = None) -> Profile | None:
    """Return the service that is meant, None for this machine.

    Parameters
    ----------
    given
        What ``--server`` says: an address, the name of a profile, or ``local``; None where it is not given.
    token_file
        What ``--token-file`` says.

    Raises
    ------
    WrongSetting
        It is no address and no profile, the address is not safe, or the user's file is wrong.
    """
    path = settings.user_file()
    written = settings.read_user_file(path)
    profiles = _profiles(written.get("servers", {}), path)
    named = [(given, FLAG), (os.environ.get(SERVER), SERVER), (written.get("server"), str(path))]
    value, origin = next(((value, origin) for value, origin in named if value), ("", ""))
    if not isinstance(value, str):
        raise WrongSetting([Problem(f"{origin}: server", f"{value!r} is no address and no name")])
    if value in ("", HERE):
        return None
    found = profiles.get(value)
    if found is None and "://" not in value:
        raise WrongSetting([_unknown(value, origin, profiles, path)])
    url = (found.url if found else value).rstrip("/")
    addresses.check(url, str(path) if found else origin)
    return Profile(
        url=url,
        name=value if found else "",
        token_file=found.token_file if found else "",
        given_token_file=token_file or "",
        origin=origin,
    )


def _unknown(value: str, origin: str, profiles: Mapping[str, Profile], path: Path) -> Problem:
    what = f"{value!r} is no address, and no profile of {path}"
    return Problem(
        origin, what, nearest(value, profiles) or "give an address such as https://mlaas.example.org"
    )


def _profiles(written: Any, path: Path) -> dict[str, Profile]:
    if not isinstance(written, Mapping):
        raise WrongSetting(
            [Problem(f"{path}: servers", f"{written!r} is no section", "write [servers.NAME]")]
        )
    problems: list[Problem] = []
    found: dict[str, Profile] = {}
    for name, content in written.items():
        where = f"{path}: [servers.{name}]"
        if name == HERE:
            problems.append(Problem(where, f"{HERE!r} means this machine", "call it something else"))
            continue
        if not isinstance(content, Mapping):
            problems.append(Problem(where, f"{content!r} is no section", 'write url = "https://…" in it'))
            continue
        problems += [
            Problem(where, f"unknown key {key!r}", nearest(key, _KEYS)) for key in content if key not in _KEYS
        ]
        values = [content.get(key, "") for key in _KEYS]
        if not all(isinstance(value, str) for value in values) or not values[0]:
            problems.append(Problem(where, "needs url, and may have token_file, both texts"))
            continue
        found[name] = Profile(url=values[0], name=name, token_file=values[1], origin=str(path))
    if problems:
        raise WrongSetting(problems)
    return found


def _in_file(path: str) -> str:
    try:
        text = Path(path).expanduser().read_text("utf-8")
    except (OSError, ValueError, RuntimeError) as error:
        reason = getattr(error, "strerror", None) or "it is no text"
        raise CredentialFault(f"the token in {path} cannot be read: {reason}") from error
    return _checked(tokens.parse(text, path))


def _checked(token: tokens.Token) -> str:
    """Return what is to be sent, unless it is known that no service would take it any more."""
    if token.ends is not None and token.ends <= time.time():
        raise CredentialFault(f"the token of {token.origin} ended on {moment(token.ends)}; get a new one")
    return token.text
