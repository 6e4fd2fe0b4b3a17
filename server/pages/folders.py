"""Uploaded folders: the list, one of them, what may be done with it."""

from __future__ import annotations

from collections import Counter
from typing import Any

from flask import Response, request, url_for
from werkzeug.wrappers import Response as AnyResponse

from mlaas_condor import run
from mlaas_condor.runs import Run

from .. import changes
from ..browsers import CSRF_FIELD, check_token
from ..permissions import check_action, may_write
from ..service import service, who
from ..storage.folders import Folder
from ..storage.uploads import receive
from ..watching import viewing
from .blueprint import after, page, routes
from .runs import API, address, given_owner, groups, whose

_MOST_FILES = 500  # that are shown of one folder
_MOST_RUNS = 100


@routes.get("/folders")
def folders() -> Response:
    """Show the folders, and how to upload one."""
    identity = who()
    check_action(identity, "read")
    runs = _counted()
    mine = sorted(service().folders.list(identity.owner), key=lambda each: -each.uploaded)
    others = sorted(service().folders.shared_with(identity), key=lambda each: (each.owner, each.name))
    rows = [_row(each, runs[each.name]) for each in mine]
    rows += [_row(each, 0) for each in others if each.owner != identity.owner]
    return page(
        "folders.html", rows=rows, api=API, done=url_for("pages.folder", name="NAME", said="uploaded")
    )


def _counted() -> Counter[str]:
    """Return how many runs each of the own folders has."""
    settings = service().settings_of(who().owner)
    found = [viewing.belonging(Run(each, settings)) for each in run.list_folders(settings.runs)]
    return Counter(each.folder for each in found)


def _row(folder: Folder, runs: int) -> dict[str, Any]:
    return {
        "folder": folder,
        "url": address("folder", folder.name, folder.owner),
        "foreign": folder.owner != who().owner,
        "shared": ", ".join(dict.fromkeys([*folder.sharing.writers, *folder.sharing.readers])),
        "runs": runs,
    }


def _open(name: str, action: Any = "read") -> Folder:
    return viewing.open_folder(name, action, given_owner())


@routes.post("/folders/upload")
def upload() -> AnyResponse:
    """Upload a folder, where no script can send it as it is."""
    identity, fields = who(), dict[str, str]()
    check_action(identity, "create")
    service().limits.check_upload(identity.owner, request.content_length)
    with receive(identity.owner, fields) as archive:
        check_token(identity, fields.get(CSRF_FIELD, ""))
        name = fields.get("name", "").strip()
        with changes.audited("upload", f"folder {name}") as known:
            made = service().folders.put(identity.owner, name, archive)
            known |= {"version": made.version, "files": made.files, "bytes": made.bytes}
    return after("uploaded", "folder", name=name)


@routes.get("/folders/<name>")
def folder(name: str) -> Response:
    """Show a folder and its files."""
    found = _open(name)
    entries = list(found.entries())
    used = viewing.runs_of(who(), viewing.Filters(folder=found.name, limit=_MOST_RUNS))
    mine = may_write(who(), found.owner, found.sharing)
    may_share = found.owner == who().owner or who().administrator
    return page(
        "folder.html",
        folder=found,
        foreign=found.owner != who().owner,
        shared=found.sharing,
        entries=entries[:_MOST_FILES],
        more=max(0, len(entries) - _MOST_FILES),
        runs=[
            {"name": each.run.name, "url": address("run", each.run.name, each.belonging.owner)}
            for each in used.runs
        ],
        can={
            "submit": who().allows("create"),
            "share": may_share and who().allows("modify"),
            "delete": mine and who().allows("cancel"),
        },
        urls={
            "submit": url_for("pages.submit", folder=value_of(found)),
            "share": address("folder_share", found.name, found.owner),
            "delete": address("folder_delete", found.name, found.owner),
        },
    )


def value_of(folder: Folder) -> str:
    """Return a folder as a form names it: another's with the owner behind, as no name has a stroke."""
    return folder.name if folder.owner == who().owner else f"{folder.name}/{folder.owner}"


@routes.get("/folders/<name>/delete")
def folder_delete(name: str) -> Response:
    """Ask whether a folder is to be deleted."""
    found = _open(name, "cancel")
    return page(
        "confirm.html",
        title=f"Delete the folder {found.name}?",
        words=[
            "Runs that were submitted of it stay, and keep what they need of it.",
            "This cannot be undone.",
        ],
        button="Delete the folder",
        url=address("delete_folder", found.name, found.owner),
        back=address("folder", found.name, found.owner),
    )


@routes.post("/folders/<name>/delete")
def delete_folder(name: str) -> AnyResponse:
    """Delete a folder."""
    changes.delete_folder(name, given_owner())
    return after("deleted", "folders")


@routes.get("/folders/<name>/share")
def folder_share(name: str) -> Response:
    """Show with whom a folder is shared."""
    found = _open(name, "modify")
    return page(
        "share.html",
        what=f"the folder {found.name}",
        shared=found.sharing,
        url=address("share_folder", found.name, found.owner),
        back=address("folder", found.name, found.owner),
    )


@routes.post("/folders/<name>/share")
def share_folder(name: str) -> AnyResponse:
    """Share a folder with groups, or with none any more."""
    changes.share_folder(name, given_owner(), groups("readers"), groups("writers"))
    return after("shared", "folder", name=name, **whose(given_owner() or who().owner))
