"""Submission in a user's own name: with their token, HTCondor's client is them and nobody else.

It takes a process of its own: HTCondor's library reads the environment once, and keeps whom it talked as.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, get_args

from mlaas_condor.errors import CredentialFault

Method = Literal["IDTOKENS", "SCITOKENS"]
_TOKEN = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+")
_METHODS = "_CONDOR_SEC_CLIENT_AUTHENTICATION_METHODS"
_SCITOKEN = "_CONDOR_SCITOKENS_FILE"
_WHO = ("_CONDOR_SEC_", "_CONDOR_SCITOKENS_", "_CONDOR_AUTH_")
_ADVICE = (
    "it may have ended, be for other services, lack scopes, or be of no account there (docs/accounts.md)"
)
_NOT_LET_IN = re.compile(r"AUTHENTICATE:|\bDENIED\b")


def says_who(variable: str) -> bool:
    """Tell whether an environment variable says as whom HTCondor's client speaks.

    Such a one is not for DAGMan, which the schedd starts as the owner of the run: that is enough for it, and
    lasts as long as the run.
    """
    return variable.startswith(_WHO)


def not_accepted(said: str) -> str:
    """Return that the token of this process is not accepted; empty where something else is wrong.

    Parameters
    ----------
    said
        What HTCondor's client said.
    """
    acts = os.environ.get(_METHODS) in get_args(Method)
    return f"HTCondor does not accept the token: {_ADVICE}" if acts and _NOT_LET_IN.search(said) else ""


def method(token: str) -> Method:
    """Tell a pool's own token from that of an issuer.

    Raises
    ------
    CredentialFault
        It is neither.
    """
    claims = _claims(token)
    issuer = claims.get("iss")
    if not isinstance(issuer, str) or not issuer or not isinstance(claims.get("sub"), str):
        raise CredentialFault("this token does not say who made it (iss), or for whom (sub): get another one")
    # An issuer is found at its address; the trust domain of a pool is a plain name.
    return "SCITOKENS" if issuer.lower().startswith("https://") else "IDTOKENS"


def _claims(token: str) -> dict[str, Any]:
    try:
        if not _TOKEN.fullmatch(token):
            raise ValueError
        text = token.split(".")[1]
        claims = json.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
    except (ValueError, binascii.Error, RecursionError):
        claims = None
    if not isinstance(claims, dict):
        raise CredentialFault("this is no token that HTCondor knows: neither an IDTOKEN nor a SciToken")
    return claims


@contextmanager
def as_user(token: str, parent: Path | None = None) -> Iterator[dict[str, str]]:
    """Give the environment that makes HTCondor's client in another process the user of a token.

    There is no way back in it to whom this process is: with a token that is not accepted nothing works.

    Parameters
    ----------
    token
        An IDTOKEN of the pool, or a SciToken; it is checked by the schedd only.
    parent
        Folder for the private one with the token, which is gone at the end; None for the temporary one.

    Yields
    ------
    dict of str to str
        Variables to set, besides those that HTCondor is found by.

    Raises
    ------
    CredentialFault
        It is no such token.
    """
    how = method(token)
    with tempfile.TemporaryDirectory(prefix="token-", dir=parent) as made:  # nobody else can look into it
        folder = Path(made)
        file = folder / "token"
        file.touch(mode=0o600)
        file.write_text(token + "\n", "ascii")
        # Whoever can read the pool's signing key would be believed without any token.
        nothing = str(folder / "none")
        yield {
            _METHODS: how,
            _SCITOKEN: str(file) if how == "SCITOKENS" else nothing,
            "_CONDOR_SEC_TOKEN_DIRECTORY": made if how == "IDTOKENS" else nothing,
            "_CONDOR_SEC_TOKEN_SYSTEM_DIRECTORY": nothing,
            "_CONDOR_SEC_PASSWORD_DIRECTORY": nothing,
            "_CONDOR_SEC_TOKEN_POOL_SIGNING_KEY_FILE": nothing,
        }


def mapped() -> str:
    """Return who this process is for the schedd: ``jane@site.example``. The pool must be in use.

    Raises
    ------
    CredentialFault
        Nobody who may submit.
    """
    import htcondor2

    try:
        schedd = htcondor2.Collector().locate(htcondor2.DaemonType.Schedd)
        return str(htcondor2.ping(schedd, "WRITE")["MyRemoteUserName"])
    except (htcondor2.HTCondorException, RuntimeError, KeyError) as error:
        raise CredentialFault(f"HTCondor takes no run with this token: {_ADVICE}") from error
