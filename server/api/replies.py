"""How replies are written: JSON, and what is said of a request that is not right."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson
from flask import Response, current_app, request
from flask.json.provider import JSONProvider
from pydantic import BaseModel, ValidationError

from mlaas_condor.errors import Problem, RequestError

from ..faults import HttpFault, TooLarge, WrongType

_DEEPEST = 32  # of what is nested in a job.json
JOB_BYTES = 2**20
_SHOWN = 100  # characters of a value that is not right


class Json(JSONProvider):
    """JSON by orjson: keys in the order in which they are given, null for what is no number."""

    def dumps(self, obj: Any, **kwargs: Any) -> str:
        """Return an object as JSON."""
        return _dumps(obj).decode()

    def loads(self, s: str | bytes, **kwargs: Any) -> Any:
        """Return what JSON says."""
        return orjson.loads(s)

    def response(self, *args: Any, **kwargs: Any) -> Response:
        """Return a response with an object as JSON."""
        content = self._prepare_response_obj(args, kwargs)
        return current_app.response_class(_dumps(content) + b"\n", mimetype="application/json")


def _dumps(content: Any) -> bytes:
    return orjson.dumps(content, default=_plain, option=orjson.OPT_NON_STR_KEYS)


def _plain(value: Any) -> Any:
    return value.model_dump(mode="json") if isinstance(value, BaseModel) else str(value)


def reply(content: BaseModel | Mapping[str, Any], status: int = 200, **headers: str) -> Response:
    """Return a reply as JSON; of header names an underscore becomes a hyphen."""
    response = Response(_dumps(content) + b"\n", status, mimetype="application/json")
    for name, value in headers.items():
        response.headers[name.replace("_", "-")] = value
    return response


def nothing() -> Response:
    """Return a reply without content."""
    response = Response(status=204)
    del response.headers["Content-Type"]
    return response


def text(said: str, status: int = 200) -> Response:
    """Return a reply of plain text."""
    return Response(said, status, mimetype="text/plain")


def attached(response: Response, name: str) -> Response:
    """Make a browser save a reply under a name."""
    response.headers.set("Content-Disposition", "attachment", filename=name)
    return response


def job_of_request() -> dict[str, Any]:
    """Return the job.json that a request carries.

    Raises
    ------
    WrongType, TooLarge, HttpFault
        It carries something else.
    """
    if not request.is_json:
        seen = request.mimetype or "nothing"
        raise WrongType(f"send job.json with Content-Type: application/json, not {seen}")
    if (request.content_length or 0) > JOB_BYTES:
        raise TooLarge(f"job.json has {request.content_length} bytes; at most {JOB_BYTES} are read")
    body = request.stream.read(JOB_BYTES + 1)
    if len(body) > JOB_BYTES:
        raise TooLarge(f"job.json has more than {JOB_BYTES} bytes")
    return job_of(body)


def job_of(text: bytes | str) -> dict[str, Any]:
    """Return the content of a job.json.

    Raises
    ------
    HttpFault
        It is no JSON, no object, or one in which more is nested than anybody means.
    """
    try:
        job = orjson.loads(text)
    except (orjson.JSONDecodeError, UnicodeEncodeError) as error:
        raise HttpFault(f"job.json is no JSON: {error}") from error
    if not isinstance(job, dict):
        raise HttpFault('job.json must be an object: {"name": …}')
    if _depth(job) > _DEEPEST:
        raise HttpFault(f"job.json has more than {_DEEPEST} objects or lists within each other")
    return job


def _depth(value: object) -> int:
    """Return how many objects and lists there are within each other; level by level, not by recursion."""
    depth, level = 0, [value]
    while level := [each for each in level if isinstance(each, dict | list)]:
        depth += 1
        level = [inner for each in level for inner in (each.values() if isinstance(each, dict) else each)]
    return depth


def problems_of(error: ValidationError) -> RequestError:
    """Return what is wrong with the parameters or the body of a request, all of it."""
    return RequestError([_problem(dict(each)) for each in error.errors()])


def _problem(detail: Mapping[str, Any]) -> Problem:
    where = ".".join(map(str, detail["loc"])) or "body"
    if detail["type"] == "missing":
        return Problem(where, "is missing")
    if detail["type"] == "extra_forbidden":
        return Problem(where, "is not known here")
    said = str(detail["msg"]).removeprefix("Value error, ")
    value = repr(detail["input"])
    if len(value) > _SHOWN:
        value = value[:_SHOWN] + "…"
    return Problem(where, f"{value} does not do: {said[:1].lower()}{said[1:]}")
