"""What may be done with a run: each asks first, or is a form of its own, and works without a script."""

from __future__ import annotations

from flask import Response
from werkzeug.wrappers import Response as AnyResponse

from .. import changes
from ..service import who
from .blueprint import after, page, routes
from .runs import address, given_owner, groups, opened, whose


@routes.get("/runs/<name>/cancel")
def run_cancel(name: str) -> Response:
    """Ask whether a run is to be cancelled."""
    found, belonging = opened(name, "cancel")
    return page(
        "confirm.html",
        title=f"Cancel {found.name}?",
        words=[
            "Its jobs are removed from the queue. What they have finished stays, and Resume goes on "
            "from there."
        ],
        button="Cancel the run",
        url=address("cancel_run", found.name, belonging.owner),
        back=address("run", found.name, belonging.owner),
    )


@routes.post("/runs/<name>/cancel")
def cancel_run(name: str) -> AnyResponse:
    """Cancel a run."""
    changes.cancel(name, given_owner())
    return _back(name, "cancelled")


@routes.post("/runs/<name>/resume")
def run_resume(name: str) -> AnyResponse:
    """Go on with a run."""
    changes.resume(name, given_owner())
    return _back(name, "resumed")


@routes.get("/runs/<name>/delete")
def run_delete(name: str) -> Response:
    """Ask whether a run is to be deleted."""
    found, belonging = opened(name, "cancel")
    return page(
        "confirm.html",
        title=f"Delete {found.name}?",
        words=[
            "Its model, its report and its logs go, and what it alone used of specs and chunks.",
            "This cannot be undone.",
        ],
        button="Delete the run",
        url=address("delete_run", found.name, belonging.owner),
        back=address("run", found.name, belonging.owner),
    )


@routes.post("/runs/<name>/delete")
def delete_run(name: str) -> AnyResponse:
    """Delete a run."""
    changes.delete_run(name, given_owner())
    return after("deleted", "runs")


@routes.get("/runs/<name>/share")
def run_share(name: str) -> Response:
    """Show with whom a run is shared."""
    found, belonging = opened(name, "modify")
    return page(
        "share.html",
        what=found.name,
        shared=belonging,
        url=address("share_run", found.name, belonging.owner),
        back=address("run", found.name, belonging.owner),
    )


@routes.post("/runs/<name>/share")
def share_run(name: str) -> AnyResponse:
    """Share a run with groups, or with none any more."""
    changes.share_run(name, given_owner(), groups("readers"), groups("writers"))
    return _back(name, "shared")


def _back(name: str, said: str) -> AnyResponse:
    return after(said, "run", name=name, **whose(given_owner() or who().owner))
