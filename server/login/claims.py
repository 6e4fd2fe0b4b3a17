"""From what an issuer, or a proxy, says of somebody to an identity."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, Literal, get_args

from .. import configuration
from ..identity import Action, Identity

_SCOPE = "compute."
_MOST_NAME = 200
_ACTIONS: frozenset[Action] = frozenset(get_args(Action))


def identity_of(claims: Mapping[str, Any], tokens: configuration.Tokens, token: str = "") -> Identity:
    """Return whom the claims of a checked token are about.

    Parameters
    ----------
    tokens
        What ``service.toml`` says of their names.
    token
        The token itself, to be handed on.
    """
    owner = str(claims[tokens.user_claim])
    return Identity(
        owner=owner,
        name=_name(claims, tokens.name_claims) or owner,
        groups=tidy(group for claim in tokens.group_claims for group in _texts(claims.get(claim))),
        actions=actions_of(_words(claims.get("scope")), tokens.scopes),
        method="token",
        token=token,
    )


def actions_of(scopes: Iterable[str], needed: Literal["optional", "required"]) -> frozenset[Action] | None:
    """Return what scopes of the WLCG profile allow; None for everything.

    Parameters
    ----------
    scopes
        All that a token has.
    needed
        Whether a token without any that begins with ``compute.`` allows nothing, or everything.
    """
    named = {scope.removeprefix(_SCOPE) for scope in scopes if scope.startswith(_SCOPE)}
    if not named and needed == "optional":
        return None
    return frozenset(action for action in _ACTIONS if action in named)


def scopes_in(value: object) -> list[str]:
    """Return the scopes in an answer of an issuer: a text with blanks, or a list."""
    return _words(value)


def tidy(groups: Iterable[str]) -> tuple[str, ...]:
    """Return groups once each, without those that are no names."""
    return tuple(dict.fromkeys(each for each in groups if 0 < len(each) <= _MOST_NAME and each.isprintable()))


def with_rights(identity: Identity, login: configuration.Login) -> Identity:
    """Return the identity, as an administrator if ``service.toml`` says so."""
    is_administrator = identity.owner in login.administrators or not {*login.administrator_groups}.isdisjoint(
        identity.groups
    )
    return replace(identity, administrator=is_administrator)


def _name(claims: Mapping[str, Any], names: Iterable[str]) -> str:
    for name in names:
        value = claims.get(name)
        if isinstance(value, str) and value.strip() and value.isprintable():
            return value.strip()[:_MOST_NAME]
    return ""


def _texts(value: object) -> list[str]:
    if isinstance(value, str):
        return [value]
    return [each for each in value if isinstance(each, str)] if isinstance(value, list) else []


def _words(value: object) -> list[str]:
    return [word for text in _texts(value) for word in text.split()]
