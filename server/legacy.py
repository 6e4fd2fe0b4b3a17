"""The calls of MLaaS4HEP_server, as its users type them: the same addresses, parameters and replies."""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import quote

from flask import Response, request
from flask_openapi3.blueprint import APIBlueprint
from flask_openapi3.models.tag import Tag
from pydantic import ConfigDict, Field

from mlaas_condor import jsonfile
from mlaas_condor.run import STAGES
from mlaas_condor.runs import Run

from . import changes, docker_words
from .api import files, models
from .api.descriptions import ARCHIVE, FORM, JOB, answers, content
from .api.replies import attached, job_of_request, text
from .watching import viewing

_DEPRECATION = "@1795219200"
"""Since when GETs that delete are not to be used any more: 21 November 2026, as RFC 9745 writes it."""

_MOST_LIVE = (
    20  # tasks whose log is asked of the machine where they run; the others' is what was brought back
)

routes = APIBlueprint(
    "legacy",
    __name__,
    abp_tags=[Tag(name="MLaaS4HEP_server", description="Its calls, for what was written for them")],
    operation_id_callback=lambda *, name, path, method: f"old_{name}",
)


class Process(models.Parameters):
    """Which run."""

    model_config = ConfigDict(extra="ignore")

    process_name: models.Name = Field(description="name of the run: luca_1")


class Log(Process):
    """Which run's log, and as what it is saved."""

    log_file: str | None = Field(
        None, max_length=100, pattern=r"^[A-Za-z0-9_.+ -]+$", description="file name to save it as"
    )


class Named(models.Parameters):
    """Which folder."""

    model_config = ConfigDict(extra="ignore")

    name: models.Name = Field(description="name of the folder: luca")


def _said(words: str) -> dict[int, object]:
    found = content("text/plain", "It is done")
    found["content"]["text/plain"]["schema"]["const"] = words
    return {200: found}


def _json(model: type[models.OldStatus | models.OldSubmitted], **values: object) -> Response:
    """Return JSON as that server wrote it: an indent of one."""
    told = model.model_validate(values).model_dump()
    return Response(jsonfile.dumps(told, indent=1), mimetype="application/json")


@routes.get("/hello", responses=answers(_said("Hello World")))
def hello() -> Response:
    """Say hello."""
    return text("Hello World")


@routes.post(
    "/upload",
    responses=answers(_said("Successfully uploaded!"), 409, 413, 415, 422, 503, 507),
    openapi_extensions=ARCHIVE,
)
def upload(query: Named) -> Response:
    """Upload a folder as an archive; one of that name is replaced."""
    changes.put_folder(query.name)
    return text("Successfully uploaded!")


@routes.post(
    "/submit",
    responses=answers({200: models.OldSubmitted}, 404, 409, 413, 415, 422, 502, 503, 507),
    openapi_extensions=JOB,
)
def submit() -> Response:
    """Submit a job.json; its name is that of the uploaded folder."""
    done = changes.submit(job_of_request(), key=request.headers.get("Idempotency-Key"))
    return _json(models.OldSubmitted, process_name=done.name, job_id=done.job_id)


_STATUS = answers({200: models.OldStatus}, 404)


@routes.get("/status_docker", responses=_STATUS)
def status_docker(query: Process) -> Response:
    """Show how a run does, in docker's words."""
    return _status(query.process_name)


@routes.get("/status", responses=_STATUS)
def status(query: Process) -> Response:
    """Show how a run does, in docker's words."""
    return _status(query.process_name)


def _status(name: str) -> Response:
    run = viewing.open_run(name)
    return _json(models.OldStatus, process_name=name, status=docker_words.status(viewing.state_of(run)))


_LOG = answers(
    {200: content("text/plain", "What all its jobs have said", Content_Disposition="the name of the file")},
    404,
)


@routes.get("/logs", responses=_LOG)
def logs(query: Log) -> Response:
    """Return the log of a run: what its jobs said, stage by stage."""
    return _attached_log(query)


@routes.post("/logs", responses=_LOG)
def logs_too(query: Log) -> Response:
    """Return the log of a run: what its jobs said, stage by stage."""
    return _attached_log(query)


def _attached_log(query: Log) -> Response:
    run = viewing.open_run(query.process_name)
    return attached(Response(_log(run), mimetype="text/plain"), query.log_file or f"{run.name}.txt")


def _log(run: Run) -> Iterator[bytes]:
    """Return what yields the log; what needs the request is found out before."""
    tails, said = viewing.viewing().tails, viewing.in_words(run)
    live = {(job.stage, job.task) for job in tails.running(run.folder)[:_MOST_LIVE]}

    def pieces(stage: str, task: int, stderr: bool) -> Iterator[bytes]:
        offset = 0
        ask = (stage, task) in live
        while (piece := tails.piece(run.folder, stage, task, stderr, offset, ask=ask)).content:
            if not offset:
                yield f"=== {stage}, task {task}{', standard error' if stderr else ''}\n".encode()
            yield said(piece.content.decode("utf-8", "replace")).encode()
            offset = piece.end

    def everything() -> Iterator[bytes]:
        for stage in STAGES:
            for task in sorted(run.folder.task_units(stage)):
                for stderr in (False, True):
                    yield from pieces(stage, task, stderr)

    return everything()


@routes.get(
    "/model",
    responses=answers(
        {
            200: content(
                "application/gzip", "The model bundle", binary=True, Content_Disposition="its file name"
            )
        },
        404,
        409,
        416,
    ),
)
def model(query: Process) -> Response:
    """Return the model bundle of a run."""
    return files.bundle(viewing.open_run(query.process_name))


@routes.post(
    "/setup_tfaas",
    responses=answers(_said("Successfully uploaded!"), 404, 409, 413, 415, 422, 503, 507),
    openapi_extensions=FORM,
)
def setup_tfaas(query: Process) -> Response:
    """Add a file to the model of a run, for those who serve it: labels, say."""
    changes.add_served(query.process_name)
    return text("Successfully uploaded!")


_SPECS, _FOLDER = "Specs deletion completed!", "Folder deletion completed!"
_NO_SPECS = answers(_said(_SPECS), 404, 409, 503, 507)
_NO_FOLDER = answers(_said(_FOLDER), 404, 409, 503, 507)


@routes.delete("/delete_specs", responses=_NO_SPECS)
def delete_specs(query: Named) -> Response:
    """Forget what was measured of the inputs of a folder: the next run measures again."""
    changes.drop_specs(query.name)
    return text(_SPECS)


@routes.delete("/delete_folder", responses=_NO_FOLDER)
def delete_folder(query: Named) -> Response:
    """Delete an uploaded folder; the runs that were submitted from it stay."""
    changes.delete_folder(query.name)
    return text(_FOLDER)


@routes.get("/delete_specs", responses=_NO_SPECS, deprecated=True)
def get_delete_specs(query: Named) -> Response:
    """The same as DELETE, as it was then."""
    if not _only_looks():
        changes.drop_specs(query.name)
    return text(_SPECS)


@routes.get("/delete_folder", responses=_NO_FOLDER, deprecated=True)
def get_delete_folder(query: Named) -> Response:
    """The same as DELETE, as it was then."""
    if not _only_looks():
        changes.delete_folder(query.name)
    return text(_FOLDER)


def _only_looks() -> bool:
    """Tell whether it is HEAD, which goes to what answers GET."""
    return request.method == "HEAD"


_SUCCESSORS = {"get_delete_specs": "/api/v1/folders/{}/specs", "get_delete_folder": "/api/v1/folders/{}"}


@routes.after_request
def _deprecate(response: Response) -> Response:
    """Say of GETs that delete, however they end, that they are not to be used, and what is."""
    successor = _SUCCESSORS.get((request.endpoint or "").rpartition(".")[2])
    if successor:
        response.headers["Deprecation"] = _DEPRECATION
        address = successor.format(quote(request.args.get("name", ""), safe=""))
        response.headers.add("Link", f'<{address}>; rel="successor-version"')
    return response
