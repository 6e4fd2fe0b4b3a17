"""What somebody may do with a folder or a run: the owner all, a group what it was given, others nothing."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from mlaas_condor.errors import RunNotFound
from mlaas_condor.jsonfile import JsonFile

from .faults import Forbidden, NotFound
from .identity import Action, Identity

Group = Annotated[str, Field(min_length=1, max_length=200)]


class Sharing(JsonFile):
    """Which groups may read, and which may change, what belongs to somebody."""

    readers: list[Group] = Field([], max_length=100, description="groups that may read")
    writers: list[Group] = Field([], max_length=100, description="groups that may change and delete, too")


def may_read(identity: Identity, owner: str, sharing: Sharing) -> bool:
    """Tell whether somebody may see it: otherwise it is as if it were not there."""
    return may_write(identity, owner, sharing) or not {*sharing.readers}.isdisjoint(identity.groups)


def may_write(identity: Identity, owner: str, sharing: Sharing) -> bool:
    """Tell whether somebody may change it."""
    if identity.administrator or identity.owner == owner:
        return True
    return not {*sharing.writers}.isdisjoint(identity.groups)


def check_action(identity: Identity, action: Action) -> None:
    """Make sure that the token allows an action at all.

    Raises
    ------
    Forbidden
        It does not.
    """
    if not identity.allows(action):
        allowed = ", ".join(f"compute.{each}" for each in sorted(identity.actions or ())) or "nothing"
        raise Forbidden(f"this needs a token with the scope compute.{action}; yours allows {allowed}")


def check(identity: Identity, action: Action, what: str, owner: str, sharing: Sharing) -> None:
    """Make sure that somebody may do something with what belongs to somebody.

    Parameters
    ----------
    what
        As it is named in a message: ``run 'luca_1'``.

    Raises
    ------
    NotFound, RunNotFound
        They may not even know of it.
    Forbidden
        They may only read it, or their token does not allow it.
    """
    if not may_read(identity, owner, sharing):
        raise missing(what)
    check_action(identity, action)
    if action != "read" and not may_write(identity, owner, sharing):
        raise Forbidden(f"{what} is shared with you to read, not to change")


def missing(what: str) -> NotFound | RunNotFound:
    """Return the error for what is not there, or is another's: the same for both, to the last letter."""
    return RunNotFound(f"no {what}") if what.startswith("run ") else NotFound(f"no {what}")
