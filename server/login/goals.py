"""Where a browser goes on to after logging in: only ever to a page of ours."""

from __future__ import annotations

from urllib.parse import urlsplit

_MOST = 2000
_NOT_AGAIN = ("/login", "/logout")


def safe_goal(asked: str | None) -> str:
    """Return the path asked for, or ``/`` where that is another site's, or no path at all.

    Browsers take ``//host`` and ``/\\host`` for another host, and drop tabs and line ends from an address.
    """
    if not asked or len(asked) > _MOST or not asked.startswith("/") or asked.startswith("//"):
        return "/"
    if "\\" in asked or not asked.isascii() or any(not "!" <= letter <= "~" for letter in asked):
        return "/"
    try:
        parts = urlsplit(asked)
    except ValueError:
        return "/"
    if parts.scheme or parts.netloc or parts.path.startswith(_NOT_AGAIN):
        return "/"
    return asked
