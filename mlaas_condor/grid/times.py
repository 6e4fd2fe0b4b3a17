"""Moments and lengths of time, as sentences about credentials have them."""

from __future__ import annotations

from datetime import UTC, datetime

_LATEST = 253402300799  # the last second that a date can say


def moment(seconds: float) -> str:
    """Return seconds since 1970 as ``2026-07-01 14:05 UTC``."""
    return f"{datetime.fromtimestamp(min(max(seconds, 0), _LATEST), UTC):%Y-%m-%d %H:%M} UTC"


def in_words(seconds: float) -> str:
    """Return a length of time as ``42 s``, ``11 h 42 min``, ``6 days 3 h``; never more than it is."""
    whole = int(max(seconds, 0))
    if whole < 60:
        return f"{whole} s"
    minutes = whole // 60
    if minutes < 60:
        return f"{minutes} min"
    hours, rest = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {rest} min" if rest else f"{hours} h"
    days, more = divmod(hours, 24)
    return f"{days} days {more} h" if more else f"{days} days"
