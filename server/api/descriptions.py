"""What the OpenAPI document says of requests and replies, in pieces that its views put together."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mlaas_condor.request import Job

from ..faults import ErrorReply

COMPONENTS = "#/components/schemas/"
ADDED = "x-parameters"
"""Where a view leaves parameters that none of its models has, for the document."""

ALWAYS = (400, 401, 403, 421, 429)
"""What any call may be refused with."""

_SAID = {
    400: "A parameter or the body is not right; `problems` has everything that is wrong",
    401: "It is not known who you are, or the token is not taken: `WWW-Authenticate` says why",
    403: "You may not do that, or a quota is reached",
    404: "There is no such thing, or it is another's and not shared with you",
    405: "That method is not known here",
    409: "Its state does not allow that now",
    412: "It is not the version that `If-Match` names, or it is there although `If-None-Match: *` was sent",
    413: "It is larger than the limit",
    415: "It is of a kind that is not taken here",
    416: "There is no such range",
    421: "The request is for a host that this is not",
    422: "It is refused for what is in it, or a token or proxy does not do",
    429: "Too many at a time, or in a second: `Retry-After` says when to come again",
    502: "HTCondor answers, but does not take it",
    503: "HTCondor does not answer now, or too much goes on here: `Retry-After` says when to try again",
    507: "There is no room left where the service keeps things",
}
_HEADERS = {
    401: {"WWW-Authenticate": "what to send, and what is wrong with what was sent"},
    429: {"Retry-After": "seconds"},
    503: {"Retry-After": "seconds"},
}


def answers(good: Mapping[int, Any], *refusals: int) -> dict[str | int, Any]:
    """Return the replies of a call for its description.

    Parameters
    ----------
    good
        Those that are no errors: a model, or what OpenAPI says of a reply; None for one without content.
    refusals
        Statuses of errors, beside those that any call may give.
    """
    found: dict[str | int, Any] = {str(status): content for status, content in good.items()}
    for status in sorted({*ALWAYS, *refusals}):
        found[str(status)] = {
            "description": _SAID[status],
            "content": {"application/json": {"schema": {"$ref": COMPONENTS + ErrorReply.__name__}}},
            "headers": headers(_HEADERS.get(status, {})),
        }
    return found


def headers(said: Mapping[str, str]) -> dict[str, Any]:
    """Return headers of a reply for its description, by name."""
    return {name: {"description": text, "schema": {"type": "string"}} for name, text in said.items()}


def content(kind: str, said: str, binary: bool = False, **named: str) -> dict[str, Any]:
    """Return what OpenAPI says of a reply that is no JSON.

    Parameters
    ----------
    kind
        ``text/plain``.
    named
        Its headers; an underscore becomes a hyphen.
    """
    schema = {"type": "string", "format": "binary"} if binary else {"type": "string"}
    return {
        "description": said,
        "content": {kind: {"schema": schema}},
        "headers": headers({name.replace("_", "-"): text for name, text in named.items()}),
    }


def body(said: str, **kinds: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a call's description says of its body, by type; of types ``__`` stands for a slash."""
    named = {kind.replace("__", "/").replace("_", "-"): {"schema": schema} for kind, schema in kinds.items()}
    return {"requestBody": {"description": said, "required": True, "content": named}}


def header(name: str, said: str, **schema: Any) -> dict[str, Any]:
    """Return what a call's description says of a header that may be sent; for `sent`."""
    return {
        "name": name,
        "in": "header",
        "required": False,
        "description": said,
        "schema": {"type": "string", "pattern": "^[ -~]*$", **schema},
    }


def sent(*known: dict[str, Any]) -> dict[str, Any]:
    """Return what adds headers to the parameters of a call's description."""
    return {ADDED: list(known)}


JOB = body("job.json", application__json={"$ref": f"{COMPONENTS}{Job.__name__}"})
_FILE = {
    "type": "object",
    "properties": {"file": {"type": "string", "format": "binary"}},
    "required": ["file"],
}
ARCHIVE = body(
    "a tar archive (gz, bz2, xz, zstd or plain), or a zip archive: as it is, or as `file` of a form",
    application__octet_stream={"type": "string", "format": "binary"},
    multipart__form_data=_FILE,
)
FORM = body("a file, as `file` of a form", multipart__form_data=_FILE)
