"""What a request can be refused for, and the one JSON shape in which the service says so."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pydantic import BaseModel, Field

from mlaas_condor.errors import MlaasError, PoolUnreachable, Problem, RequestError
from mlaas_condor.grid.addresses import SERVICE

_NO_POOL = (
    "the HTCondor pool of this service does not answer now; runs are not touched: try again later, or ask "
    "who runs the service"
)


class ProblemReply(BaseModel):
    """One thing that is wrong with a request."""

    where: str = Field(description="the place to go to: job.json: memory, params.json:3, data/ttH.root")
    what: str = Field(description="what is wrong, with the value seen")
    hint: str = Field("", description="what to do about it")


class ErrorReply(BaseModel):
    """What every error looks like."""

    error: str = Field(description="what happened, the value seen, what to do")
    code: str = Field(description="the kind of error, for programs: run_not_found")
    status: int = Field(description="the HTTP status")
    problems: list[ProblemReply] = Field([], description="everything that is wrong with a job.json, at once")
    request_id: str = Field("", description="what the service's log knows this request by")
    service: str = Field(SERVICE, description="whose error it is: a token is given to no other service")


class HttpFault(MlaasError):
    """A request that the service refuses; subclasses give status and code.

    Parameters
    ----------
    message
        What is wrong, the value seen, what to do.
    headers
        That go with the reply: ``Retry-After``.
    """

    http_status = 400
    code = "bad_request"

    def __init__(self, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.headers = dict(headers or {})


class Unauthorized(HttpFault):
    """Nobody knows who makes this request."""

    http_status = 401
    code = "unauthorized"


class Forbidden(HttpFault):
    """It is known who makes the request, and that they may not."""

    http_status = 403
    code = "forbidden"


class NotFound(HttpFault):
    """There is no such thing, or it is another's: nobody can tell which."""

    http_status = 404
    code = "not_found"


class Conflict(HttpFault):
    """Something stands against it now, and may not later."""

    http_status = 409
    code = "conflict"


class PreconditionFailed(HttpFault):
    """It is not in the state that the request was made for."""

    http_status = 412
    code = "precondition_failed"


class TooLarge(HttpFault):
    """What was sent is larger than the limit."""

    http_status = 413
    code = "too_large"


class WrongType(HttpFault):
    """What was sent is not of a kind that is taken here."""

    http_status = 415
    code = "wrong_type"


class Unprocessable(HttpFault):
    """What was sent is of the right kind, and is refused for what is in it."""

    http_status = 422
    code = "refused"


class OverLimit(HttpFault):
    """A limit for each user is reached: 429, where waiting helps."""

    http_status = 429
    code = "over_limit"


class OverQuota(HttpFault):
    """A limit for each user is reached: 403, where something must go first."""

    http_status = 403
    code = "over_quota"


class Unavailable(HttpFault):
    """What is needed for it does not answer now."""

    http_status = 503
    code = "unavailable"


def reply_of(error: MlaasError, request_id: str = "") -> ErrorReply:
    """Return what is said of an error."""
    problems: Sequence[Problem] = error.problems if isinstance(error, RequestError) else ()
    return ErrorReply(
        error=_NO_POOL if isinstance(error, PoolUnreachable) else str(error),
        code=error.code if isinstance(error, HttpFault) else _code_of(type(error)),
        status=error.http_status,
        problems=[ProblemReply(where=each.where, what=each.what, hint=each.hint) for each in problems],
        request_id=request_id,
    )


def _code_of(kind: type[MlaasError]) -> str:
    """Return ``run_not_found`` for ``RunNotFound``."""
    return "".join(f"_{c.lower()}" if c.isupper() else c for c in kind.__name__).lstrip("_")
