"""Who makes a request, and what that token or session lets them do."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

Action = Literal["read", "create", "modify", "cancel"]
"""What a request does, in the words of the WLCG profile's ``compute`` scopes.

``read`` looks; ``create`` uploads and submits; ``modify`` resumes, shares and changes; ``cancel`` cancels and
deletes.
"""


@dataclass(frozen=True)
class Identity:
    """Who makes a request.

    Parameters
    ----------
    owner
        Whose folders and runs these are, for ever: the subject of a token, say.
    name
        For people; may change.
    groups
        As the issuer or the proxy names them: ``/cms/higgs``.
    actions
        What this token allows; None for all.
    administrator
        Whether everything of everybody may be seen and changed.
    method
        How we know: a bearer token, the headers of a proxy, a browser's session, or because nobody else can
        be there.
    token
        The bearer token as it came, for a submission in its user's own name; never shown.
    """

    owner: str
    name: str = ""
    groups: tuple[str, ...] = ()
    actions: frozenset[Action] | None = None
    administrator: bool = False
    method: Literal["token", "proxy", "session", "none"] = "token"
    token: str = field(default="", repr=False)

    def allows(self, action: Action) -> bool:
        """Tell whether the token, or what else it was, lets its bearer do that at all."""
        return self.actions is None or action in self.actions
