"""How the service says that it does not know who somebody is."""

from __future__ import annotations

from collections.abc import Iterable

from ..faults import Unauthorized

_REALM = 'Bearer realm="mlaas-condor"'
_SHOWN = 120  # letters of what a stranger sent


def refused(said: str, error: str = "invalid_token") -> Unauthorized:
    """Return the error for who sent something that cannot be believed.

    Parameters
    ----------
    said
        What is wrong, and what to do; goes into ``WWW-Authenticate`` as well.
    error
        The code of RFC 6750; empty for what is not about a token.
    """
    challenge = f'{_REALM}, error="{error}", error_description="{_plain(said)}"' if error else _REALM
    return Unauthorized(said, {"WWW-Authenticate": challenge})


def shown(value: object) -> str:
    """Return what a stranger sent, short and on one line, for a message to that stranger."""
    text = value if isinstance(value, str) else repr(value)
    return repr(text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…")


def listed(values: Iterable[object]) -> str:
    """Return several of them; ``nobody`` for none."""
    return ", ".join(shown(value) for value in values) or "nobody"


def _plain(said: str) -> str:
    """Return what a header may hold: RFC 6750 has no quotes, no backslash, and ASCII only."""
    return "".join(c if " " <= c <= "~" and c not in '"\\' else "'" for c in said)
