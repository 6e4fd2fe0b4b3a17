"""``/api/v1/runs``: list, submit, look at one, cancel, resume, delete, share; and plans."""

from __future__ import annotations

from urllib.parse import quote

from flask import Response, request
from flask_openapi3.blueprint import APIBlueprint
from flask_openapi3.models.tag import Tag

from .. import changes
from ..service import who
from ..watching import viewing
from . import models
from .descriptions import JOB, answers, header, headers, sent
from .replies import job_of_request, nothing, reply

_KEY = header(
    "Idempotency-Key",
    "the same for the same submission: repeated, it is answered with the run that there is",
    minLength=1,
    maxLength=255,
    pattern="^[ -~]+$",
)
_CREATED = {
    "description": "The run is submitted",
    "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Submitted"}}},
    "headers": headers({
        "Location": "where the run is",
        "Idempotency-Replayed": "true, where the key was used before and nothing was submitted now",
    }),
}  # fmt: skip

api = APIBlueprint(
    "api_runs",
    __name__,
    url_prefix="/api/v1",
    abp_tags=[Tag(name="runs", description="What was submitted, and how it does")],
    operation_id_callback=lambda *, name, path, method: name,
)


@api.get("/runs", responses=answers({200: models.RunList}, 404))
def list_runs(query: models.RunsQuery) -> Response:
    """List runs, the newest first."""
    filters = viewing.Filters(
        states=frozenset(query.state),
        name=query.name,
        folder=query.folder,
        owner=query.owner,
        shared=query.shared,
        limit=query.limit,
        offset=query.offset,
    )
    return reply(models.RunList.of(viewing.runs_of(who(), filters), who(), query.detail))


@api.post(
    "/runs",
    responses=answers({201: _CREATED}, 404, 409, 413, 415, 422, 502, 503, 507),
    openapi_extensions={**JOB, **sent(_KEY)},
)
def submit_run(query: models.Jobs) -> Response:
    """Submit a job.json; its files are those of an uploaded folder."""
    key = request.headers.get("Idempotency-Key")
    done = changes.submit(job_of_request(), query.folder, query.owner, key)
    told = models.Submitted(
        name=done.name, job_id=done.job_id, warnings=list(done.warnings), repeated=done.repeated
    )
    found = reply(told, 201, Location=f"/api/v1/runs/{quote(done.name)}")
    if done.repeated:
        found.headers["Idempotency-Replayed"] = "true"
    return found


@api.post(
    "/plans",
    responses=answers({200: models.Planned}, 404, 409, 413, 415, 422, 503, 507),
    openapi_extensions=JOB,
)
def plan_run(query: models.Jobs) -> Response:
    """Check a job.json and plan it; nothing is submitted."""
    return reply(changes.plan(job_of_request(), query.folder, query.owner))


@api.get("/runs/<name>", responses=answers({200: models.RunDetail}, 404))
def show_run(path: models.RunPath, query: models.Owned) -> Response:
    """Show how a run does."""
    return reply(detail(path.name, query.owner))


def detail(name: str, owner: str | None) -> models.RunDetail:
    """Return what who makes this request is told of a run."""
    run = viewing.open_run(name, "read", owner)
    return models.RunDetail.of(viewing.seen(run), who())


@api.patch("/runs/<name>", responses=answers({200: models.RunDetail}, 404))
def share_run(path: models.RunPath, query: models.Owned, body: models.SharingBody) -> Response:
    """Say which groups may read a run, and which may change it."""
    run = changes.share_run(path.name, query.owner, body.readers, body.writers)
    return reply(models.RunDetail.of(viewing.seen(run), who()))


@api.delete("/runs/<name>", responses=answers({204: None}, 404, 409, 502, 503, 507))
def delete_run(path: models.RunPath, query: models.DeleteRun) -> Response:
    """Delete a run that is over, with its model."""
    changes.delete_run(path.name, query.owner, query.keep_stored)
    return nothing()


@api.post("/runs/<name>/cancel", responses=answers({200: models.RunDetail}, 404, 409, 502, 503))
def cancel_run(path: models.RunPath, query: models.Owned) -> Response:
    """Cancel a run; what it has done stays."""
    run = changes.cancel(path.name, query.owner)
    return reply(models.RunDetail.of(viewing.seen(run), who()))


@api.post("/runs/<name>/resume", responses=answers({200: models.Resumed}, 404, 409, 422, 502, 503, 507))
def resume_run(path: models.RunPath, query: models.Owned) -> Response:
    """Go on after a failure, a hold or a cancel, redoing only what is missing."""
    return reply(models.Resumed(name=path.name, done=changes.resume(path.name, query.owner)))
