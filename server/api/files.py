"""What there is of a run: how it does, logs, events, figures, the report, the model."""

from __future__ import annotations

from typing import Any

import orjson
from flask import Response, request, send_file
from flask_openapi3.blueprint import APIBlueprint
from flask_openapi3.models.tag import Tag

from mlaas_condor import runs
from mlaas_condor.errors import WrongState
from mlaas_condor.planning import Plan
from mlaas_condor.runs import Run
from mlaas_condor.state import RunState, read_history, read_metrics

from ..faults import HttpFault, NotFound
from ..service import who
from ..watching import following, viewing
from . import models
from .descriptions import answers, content, header, sent
from .replies import attached, nothing, reply, text

LAST_EVENT = "Last-Event-ID"
REPORT_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'self'; sandbox"
)
"""What the report may do: it is the work of a job, so nothing but be looked at."""

_FOLLOWED = {
    "schema": {
        "description": "With `follow`: events as they come; `id`s to come back with as `Last-Event-ID`",
    }
}
_BACK = sent(header(LAST_EVENT, "with `follow`: the `id` of the last event that came, to go on after it"))
_GONE_ON = {204: {"description": "`Last-Event-ID` is that of the end: nothing follows"}}

api = APIBlueprint(
    "api_files",
    __name__,
    url_prefix="/api/v1/runs/<name>",
    abp_tags=[Tag(name="results", description="What there is of a run")],
    operation_id_callback=lambda *, name, path, method: name,
)


@api.get(
    "/status",
    responses=answers(
        {
            200: {
                "description": "How it does",
                "content": {
                    "application/json": {"schema": {"$ref": "#/components/schemas/RunDetail"}},
                    "text/event-stream": _FOLLOWED,
                },
            },
            **_GONE_ON,
        },
        404,
        503,
    ),
    openapi_extensions=_BACK,
)
def run_status(path: models.RunPath, query: models.Follow) -> Response:
    """Show how a run does; with `follow`, whenever it does something else.

    Events are `state`, with the same as the reply without `follow`, and `end`.
    """
    run = viewing.open_run(path.name, "read", query.owner)
    if not query.follow:
        return reply(models.RunDetail.of(viewing.seen(run), who()))
    last = request.headers.get(LAST_EVENT, "")
    if following.is_over(last):
        return nothing()

    def describe(state: RunState) -> dict[str, Any]:
        seen = viewing.Seen(run, viewing.belonging(run), state)
        return models.RunDetail.of(seen, who()).model_dump(mode="json")

    return following.reply(following.of_state(run, describe, last))


@api.get(
    "/logs",
    responses=answers(
        {
            200: {
                "description": "What the task has said, from `offset` on: at most 4 MiB at a time",
                "content": {"text/plain": {"schema": {"type": "string"}}, "text/event-stream": _FOLLOWED},
                "headers": {
                    "X-Next-Offset": {
                        "description": "the `offset` of the next call: the byte after those of this reply",
                        "schema": {"type": "integer"},
                    },
                    "X-Log-Size": {"description": "bytes that there are now", "schema": {"type": "integer"}},
                    "X-Log-Task": {"description": "whose log it is: train.0", "schema": {"type": "string"}},
                },
            },
            **_GONE_ON,
        },
        404,
        503,
    ),
    openapi_extensions=_BACK,
)
def run_logs(path: models.RunPath, query: models.LogsQuery) -> Response:
    """Return what a task says, also while it runs; with `follow`, as it says it.

    Without a stage, what tells most is chosen: the task that failed, else the one that runs, else the last
    that is done; with `follow`, again whenever that task ends, until the run does.
    Events are `task` (`stage`, `task`), `log` (`stream`, `text`), `restart` (`stream`: its text begins
    anew), and `end`.
    An `offset` counts bytes; where a log was begun anew and is shorter, it starts again from 0.
    """
    run = viewing.open_run(path.name, "read", query.owner)
    streams = ("stdout", "stderr") if query.stream == "both" else (query.stream,)
    if len(streams) > 1 and query.offset:
        raise HttpFault("offset: a place in one of the two: give stream=stdout or stream=stderr with it")
    if query.follow:
        last = request.headers.get(LAST_EVENT, "")
        if following.is_over(last):
            return nothing()
        _pick(run, query.stage, query.task)
        return following.reply(following.Log(run, query.stage, query.task, streams).events(last))
    stage, task = _pick(run, query.stage, query.task)
    found = [_piece(run, stage, task, stream, query.offset) for stream in streams]
    response = text("".join(said for said, _, _ in found))
    response.headers["X-Log-Task"] = f"{stage}.{task}"
    if len(streams) == 1:
        response.headers["X-Next-Offset"], response.headers["X-Log-Size"] = found[0][1:]
    return response


def _pick(run: Run, stage: str | None, task: int | None) -> tuple[str, int]:
    try:
        return runs.pick(run.folder, viewing.state_of(run), stage, task)
    except WrongState as error:
        raise NotFound(str(error)) from error


def _piece(run: Run, stage: str, task: int, stream: str, offset: int) -> tuple[str, str, str]:
    """Return what was said, where the next piece begins, and how much there is."""
    tails = viewing.viewing().tails
    piece = tails.piece(run.folder, stage, task, stream == "stderr", offset)
    if piece.size < offset and (piece.live or viewing.state_of(run).state in models.OVER):
        piece = tails.piece(run.folder, stage, task, stream == "stderr")
    said = viewing.in_words(run)(piece.content.decode("utf-8", "replace"))
    end = piece.end if piece.content or piece.size >= offset else offset
    return said, str(end), str(piece.size)


@api.get("/events", responses=answers({200: models.Events}, 404, 503))
def run_events(path: models.RunPath, query: models.EventsQuery) -> Response:
    """List what HTCondor wrote down of the jobs of a run, the oldest first."""
    run = viewing.open_run(path.name, "read", query.owner)
    found = [each for each in viewing.events_of(run) if query.stage in (None, each.stage)]
    part = found[query.offset : query.offset + query.limit]
    return reply(models.Events(events=part, total=len(found), limit=query.limit, offset=query.offset))


@api.get("/metrics", responses=answers({200: models.Measured}, 404, 409))
def run_metrics(path: models.RunPath, query: models.Owned) -> Response:
    """Show the metrics on the events of training, validation and test."""
    run = viewing.open_run(path.name, "read", query.owner)
    found = read_metrics(run.folder)
    if found is None:
        raise _not_yet(run, "metrics")
    return reply(found)


@api.get("/history", responses=answers({200: models.History}, 404))
def run_history(path: models.RunPath, query: models.Owned) -> Response:
    """Show what each epoch gave; nothing before the training has ended."""
    run = viewing.open_run(path.name, "read", query.owner)
    return reply({"history": read_history(run.folder)})


@api.get("/plan", responses=answers({200: Plan}, 404))
def run_plan(path: models.RunPath, query: models.Owned) -> Response:
    """Show how many jobs each stage has, and what each may use."""
    run = viewing.open_run(path.name, "read", query.owner)
    return _file(run, run.folder.plan)


@api.get("/request", responses=answers({200: models.Request}, 404))
def run_request(path: models.RunPath, query: models.Owned) -> Response:
    """Show the request as it was understood, defaults included."""
    run = viewing.open_run(path.name, "read", query.owner)
    return _file(run, run.folder.request)


@api.get(
    "/report",
    responses=answers({200: content("text/html", "The report: one page, with its pictures")}, 404, 409),
)
def run_report(path: models.RunPath, query: models.Owned) -> Response:
    """Return the report: metrics, curves, cut flow, plan and versions on one page."""
    run = viewing.open_run(path.name, "read", query.owner)
    page = run.folder.report
    if not page.exists() or not viewing.state_of(run).bundle:
        raise _not_yet(run, "report")
    response = send_file(page, mimetype="text/html", conditional=True)
    response.headers["Content-Security-Policy"] = REPORT_POLICY
    response.headers["Cache-Control"] = "private, no-cache"
    return response


_BUNDLE = content(
    "application/gzip",
    "The model bundle",
    binary=True,
    ETag="of this content: send it as If-Range to go on where it broke off",
    Content_Disposition="the name of the file",
    Accept_Ranges="bytes",
)


@api.get(
    "/model",
    responses=answers(
        {
            200: _BUNDLE,
            206: {**_BUNDLE, "description": "The part of it that `Range` asked for"},
            304: {"description": "It is the one that `If-None-Match` names"},
        },
        404,
        409,
        416,
    ),
    openapi_extensions=sent(
        header("Range", "which part: bytes=1000-"),
        header("If-Range", "the ETag of what the part is of; the whole where there is another now"),
        header("If-None-Match", "the ETag of what is there already"),
    ),
)
def run_model(path: models.RunPath, query: models.Owned) -> Response:
    """Return the model bundle; a download that broke off goes on by `Range`."""
    return bundle(viewing.open_run(path.name, "read", query.owner))


def bundle(run: Run) -> Response:
    """Return the model bundle of a run as a download.

    Raises
    ------
    WrongState
        There is none (yet).
    """
    if not viewing.state_of(run).bundle:
        raise _not_yet(run, "model")
    path = run.folder.bundle
    response = send_file(path, mimetype="application/gzip", conditional=True, etag=_tag(path.stat()))
    response.headers["Cache-Control"] = "private, no-cache"
    return attached(response, path.name)


def _tag(found: Any) -> str:
    # A bundle is written once and moved into its place: another one has another number.
    return f"{found.st_ino:x}-{found.st_mtime_ns:x}-{found.st_size:x}"


def _not_yet(run: Run, what: str) -> WrongState:
    state = viewing.state_of(run).state
    return WrongState(f"{run.name} has no {what}: it is {state}; see `mlaas-condor status {run.name}`")


def _file(run: Run, path: Any) -> Response:
    """Return a JSON file of a run directory, without the folders of the service in it."""
    try:
        found = orjson.loads(path.read_bytes())
    except FileNotFoundError:
        raise NotFound(f"{run.name} has no {path.name}") from None
    return reply(viewing.in_words_throughout(found, viewing.in_words(run)))
