"""``/api/v1/folders``: upload, look at, share and delete folders."""

from __future__ import annotations

from flask import Response, request
from flask_openapi3.blueprint import APIBlueprint
from flask_openapi3.models.tag import Tag

from .. import changes, permissions
from ..faults import PreconditionFailed
from ..service import service, who
from ..storage.folders import Folder
from ..watching import viewing
from . import models
from .descriptions import ARCHIVE, answers, header, headers, sent
from .replies import nothing, reply

_ETAG = headers({"ETag": "the version of the folder"})
_FOLDER = {
    "description": "The folder",
    "content": {"application/json": {"schema": {"$ref": "#/components/schemas/FolderSummary"}}},
    "headers": _ETAG,
}
_NEW = {
    **_FOLDER,
    "description": "The folder, which is new",
    "headers": _ETAG | headers({"Location": "where it is"}),
}
_MATCH = header("If-Match", "versions, as ETag has them: only if the folder is one of these")
_NONE_MATCH = header(
    "If-None-Match", "*: only if there is none of that name; or versions that it must not be"
)
_KNOWN = header("If-None-Match", "versions that are known: then the folder is not sent again")

api = APIBlueprint(
    "api_folders",
    __name__,
    url_prefix="/api/v1/folders",
    abp_tags=[Tag(name="folders", description="What was uploaded")],
    # The name of a view is that of the call.
    operation_id_callback=lambda *, name, path, method: name,
)


def _reply(folder: Folder, status: int = 200, **more: str) -> Response:
    found = reply(models.FolderSummary.of(folder), status, **more)
    found.set_etag(folder.version)
    return found


@api.get("", responses=answers({200: models.FolderList}, 404))
def list_folders(query: models.FoldersQuery) -> Response:
    """List folders, by name."""
    permissions.check_action(who(), "read")
    if query.shared:
        found = [each for each in service().folders.shared_with(who()) if query.owner in (None, each.owner)]
    else:
        owner = who().owner if query.owner is None else query.owner
        every = service().folders.list(owner)
        found = [each for each in every if permissions.may_read(who(), each.owner, each.sharing)]
    return reply(models.FolderList(folders=[models.FolderSummary.of(each) for each in found]))


@api.get(
    "/<name>",
    responses=answers(
        {200: _FOLDER, 304: {"description": "It is the version that `If-None-Match` names"}}, 404
    ),
    openapi_extensions=sent(_KNOWN),
)
def show_folder(path: models.FolderPath, query: models.Owned) -> Response:
    """Show a folder."""
    found = _reply(viewing.open_folder(path.name, "read", query.owner))
    found.make_conditional(request)
    return found


@api.put(
    "/<name>",
    responses=answers({200: _FOLDER, 201: _NEW}, 404, 409, 412, 413, 415, 422, 503, 507),
    openapi_extensions={**ARCHIVE, **sent(_MATCH, _NONE_MATCH)},
)
def put_folder(path: models.FolderPath, query: models.Owned) -> Response:
    """Upload a folder as an archive: all of it takes the place of what is there, or nothing of it."""
    new = False

    def check(found: Folder | None) -> None:
        nonlocal new
        new = found is None
        _check_conditions(found)

    folder = changes.put_folder(path.name, query.owner, check)
    if not new:
        return _reply(folder)
    return _reply(folder, 201, Location=f"{api.url_prefix}/{folder.name}")


def _check_conditions(found: Folder | None) -> None:
    """Make sure that the folder is as the request wants it.

    Raises
    ------
    PreconditionFailed
        It is not.
    """
    wanted, unwanted = request.if_match, request.if_none_match
    now = f"its version is {found.version}" if found else "there is none of that name"
    if "If-Match" in request.headers and not (found and (wanted.star_tag or wanted.contains(found.version))):
        raise PreconditionFailed(f"the folder is not as If-Match says: {now}")
    if (
        "If-None-Match" in request.headers
        and found
        and (unwanted.star_tag or unwanted.contains(found.version))
    ):
        raise PreconditionFailed(f"the folder is there already, against If-None-Match: {now}")


@api.patch("/<name>", responses=answers({200: _FOLDER}, 404, 412, 503, 507), openapi_extensions=sent(_MATCH))
def share_folder(path: models.FolderPath, query: models.Owned, body: models.SharingBody) -> Response:
    """Say which groups may read a folder, and which may change it."""
    return _reply(changes.share_folder(path.name, query.owner, body.readers, body.writers, _check_conditions))


@api.delete("/<name>", responses=answers({204: None}, 404, 412, 503, 507), openapi_extensions=sent(_MATCH))
def delete_folder(path: models.FolderPath, query: models.Owned) -> Response:
    """Delete a folder; the runs that were submitted from it keep what they need."""
    changes.delete_folder(path.name, query.owner, _check_conditions)
    return nothing()


@api.get("/<name>/files", responses=answers({200: models.FileList}, 404, 409))
def list_files(path: models.FolderPath, query: models.Owned) -> Response:
    """List the files of a folder."""
    folder = viewing.open_folder(path.name, "read", query.owner)
    files = [
        models.FileEntry(path=each.path, bytes=each.size, sha256=each.sha256) for each in folder.entries()
    ]
    return reply(models.FileList(files=files, version=folder.version))


@api.delete("/<name>/specs", responses=answers({200: models.Dropped}, 404, 503, 507))
def delete_specs(path: models.FolderPath, query: models.Owned) -> Response:
    """Forget what was measured of the inputs of a folder: the next run measures again."""
    return reply(models.Dropped(dropped=changes.drop_specs(path.name, query.owner)))
