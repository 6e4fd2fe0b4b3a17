"""The people whose runs a service keeps apart: how their names become names of folders and of accounts."""

from __future__ import annotations

import re
from hashlib import sha256

_PLAIN = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")
_DIGEST = re.compile(r".*-[0-9a-f]{20}")
_ODD = re.compile(r"[^A-Za-z0-9_-]+")


def short_name(owner: str) -> str:
    """Return a name for an owner that a file system, a submit file and HTCondor's accounting can hold.

    Two owners never share one, also where upper and lower case are the same: what cannot stay as it is ends
    with a digest, and what looks as if it ended with one cannot stay either. A dot is replaced as well,
    because HTCondor takes what stands before one for a group.
    """
    if _PLAIN.fullmatch(owner) and not _DIGEST.fullmatch(owner):
        return owner
    # A token's JSON can name half a character.
    digest = sha256(owner.encode("utf-8", "surrogatepass")).hexdigest()[:20]
    plain = _ODD.sub("_", owner).strip("_-").lower()[:40]
    return f"{plain or 'owner'}-{digest}"


def in_ads(owner: str) -> str:
    """Return the expression for an owner that a submit file can hold; without one, who the schedd says it is.

    What would end the line or the text, or begin a macro, is written as URLs have it: ``%22``.
    """
    return f'"{"".join(map(_in_ads, owner))}"' if owner else "Owner"


def _in_ads(character: str) -> str:
    if character.isprintable() and character not in '"\\$%':
        return character
    return "".join(f"%{byte:02X}" for byte in character.encode("utf-8", "surrogatepass"))
