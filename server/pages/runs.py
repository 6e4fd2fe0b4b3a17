"""The list of runs, and one run: what it does, what came of it, what may be done with it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast, get_args
from urllib.parse import quote, urlencode

from flask import Response, redirect, request, url_for
from markupsafe import Markup
from werkzeug.wrappers import Response as AnyResponse

from mlaas_condor import run as run_module
from mlaas_condor import runs as runs_module
from mlaas_condor.batch.events import Event
from mlaas_condor.errors import MlaasError
from mlaas_condor.runs import Run
from mlaas_condor.state import ENDED, RunState, State

from ..acting.acts import Belonging
from ..identity import Action
from ..service import service, who
from ..watching import viewing
from ..watching.shared import Shared
from . import dag, figures
from .blueprint import page, part, routes

LIMIT = 25  # runs on a page
API = "/api/v1"
_FILTERS = ("name", "state", "folder", "whose")
_SOON, _LATER = 2, 15  # seconds between two looks, while something goes on and otherwise
_FAILURES = 5  # that are shown
_EVENTS_SECONDS = 20.0  # for which it holds what jobs used
_SHOWN = 2**16  # bytes of a log that are on the page before it is followed

_seen_events: Shared[Path, Sequence[Event]] = Shared(_EVENTS_SECONDS)


@dataclass(frozen=True)
class Row:
    """A run in a list."""

    seen: viewing.Seen

    @property
    def name(self) -> str:
        """Name of the run."""
        return self.seen.run.name

    @property
    def state(self) -> RunState:
        """How it does."""
        return self.seen.state

    @property
    def foreign(self) -> bool:
        """Whether it is another's."""
        return self.seen.belonging.owner != who().owner

    @property
    def owner_name(self) -> str:
        """What its owner is called."""
        return name_of(self.seen.belonging)

    @property
    def key(self) -> str:
        """What tells it from all others."""
        return f"{self.seen.belonging.owner}/{self.name}"

    @property
    def url(self) -> str:
        """Where its page is."""
        return address("run", self.name, self.seen.belonging.owner)

    @property
    def bar(self) -> Markup:
        """Its stages as a small picture."""
        return dag.bar(self.state.stages)

    @property
    def progress(self) -> str:
        """Where it is, in some words."""
        return progress(self.state)

    @property
    def auc(self) -> str:
        """The AUC on its test events, once there is one."""
        return figures.auc(self.seen.run.folder)


def name_of(belonging: Belonging) -> str:
    """Return what an owner is called by people."""
    return belonging.name or belonging.owner


def progress(state: RunState) -> str:
    """Return where a run is: in its training, or in its first stage that is not done."""
    if state.training:
        at = state.training
        return f"epoch {at.epoch} of {at.epochs}" + (
            f", {at.metric} {at.value:.3f}" if at.value is not None else ""
        )
    stage = state.current
    if stage is None or state.state in ("completed", "prepared"):
        return ""
    return f"{stage.stage}, {stage.done} of {stage.tasks}" if stage.tasks > 1 else stage.stage


def whose(owner: str) -> dict[str, Any]:
    """Return what an address says of the owner of something: nothing, where it is one's own."""
    return {} if owner == who().owner else {"owner": owner}


def address(endpoint: str, name: str, owner: str, **more: Any) -> str:
    """Return the address of a page about a run or a folder."""
    return url_for(f"pages.{endpoint}", name=name, **whose(owner), **more)


def _interface(name: str, owner: str, what: str, **more: Any) -> str:
    """Return the address of a run in the REST interface."""
    query = urlencode({**whose(owner), **more})
    return f"{API}/runs/{quote(name)}{what}{f'?{query}' if query else ''}"


def groups(field: str) -> list[str]:
    """Return the groups that a form names, with commas between."""
    return [each.strip() for each in request.form.get(field, "").split(",") if each.strip()]


def given_owner() -> str | None:
    """Return whose something is, as the address says; None for one's own."""
    return request.args.get("owner") or None


@routes.get("/")
def runs() -> Response:
    """Show the runs, the newest first."""
    chosen = _filters()
    seen = viewing.runs_of(who(), chosen)
    moving = any(each.state.state not in (*ENDED, "prepared") for each in seen.runs)
    values: dict[str, Any] = {
        "rows": [Row(each) for each in seen.runs],
        "total": seen.total,
        "limit": LIMIT,
        "offset": seen.offset,
        "every": _SOON if moving else _LATER,
        "filtered": bool(_given() or seen.offset),
        "page_url": _page_url,
    }
    if request.args.get("part"):
        return part("runs_live.html", **values)
    return page(
        "runs.html",
        filters={**dict.fromkeys(_FILTERS, ""), **_given()},
        states=get_args(State),
        folders=sorted(each.name for each in service().folders.list(who().owner)),
        **values,
    )


def _filters() -> viewing.Filters:
    state = request.args.get("state", "")
    return viewing.Filters(
        states=frozenset({cast(State, state)}) if state in get_args(State) else frozenset(),
        name=request.args.get("name", "").strip(),
        folder=request.args.get("folder", ""),
        shared=request.args.get("whose") == "shared",
        limit=LIMIT,
        offset=max(0, request.args.get("offset", 0, type=int)),
    )


def _page_url(offset: int) -> str:
    return url_for("pages.runs", **{**_given(), "offset": offset})


def _given() -> dict[str, Any]:
    """Return the filters that the address has."""
    return {key: request.args[key] for key in _FILTERS if request.args.get(key)}


@routes.get("/runs/")
def runs_too() -> AnyResponse:
    """Lead to the list of runs, where one may look for it."""
    return redirect(url_for("pages.runs"))


@routes.get("/runs/<name>")
def run(name: str) -> Response:
    """Show a run."""
    found, belonging = opened(name)
    values = _shown(found, belonging, viewing.state_of(found))
    if request.args.get("part"):
        return part("run_live.html", **values)
    return page("run.html", **values, **_log(found, belonging, values["state"]))


def opened(name: str, action: Action = "read") -> tuple[Run, Belonging]:
    """Open the run that an address names, and tell whose it is."""
    found = viewing.open_run(name, action, given_owner())
    return found, viewing.belonging(found)


def _shown(found: Run, belonging: Belonging, state: RunState) -> dict[str, Any]:
    """Return what the page of a run shows, but for its log."""
    folder = found.folder
    moving = state.state not in (*ENDED, "prepared")
    charts = [*figures.roc(folder), *figures.learning(folder, _said(found) if state.training else "")]
    training = state.training
    return {
        "run": found,
        "state": state,
        "every": _SOON if moving else _LATER,
        "foreign": belonging.owner != who().owner,
        "owner_name": name_of(belonging),
        "shared": belonging,
        "folder": belonging.folder,
        "folder_url": _folder_url(belonging),
        "failures": _failures(state, belonging.owner),
        "says_resume": any("mlaas-condor resume" in each.advice for each in state.failures),
        "more_failures": len(state.failures) - _FAILURES if len(state.failures) > _FAILURES else 0,
        "dag_wide": dag.picture(state.stages),
        "dag_tall": dag.picture(state.stages, tall=True),
        "stage_table": figures.stages(state.stages),
        "facts": figures.facts(folder),
        "metrics_there": bool(figures.metrics(folder)),
        "training": training,
        "training_share": _share(state),
        "charts": charts,
        "epochs": figures.epochs(folder),
        "cutflow": figures.cut_flow(folder),
        "resources": figures.resources(folder, _events(found)),
        "job_text": _job_text(found),
        "can": _can(found, belonging, state),
        "urls": _urls(found, belonging, state),
    }


def _folder_url(belonging: Belonging) -> str:
    """Return where the folder of a run is; empty where it is not there any more."""
    try:
        viewing.open_folder(belonging.folder, "read", belonging.owner)
    except MlaasError:
        return ""
    return address("folder", belonging.folder, belonging.owner)


def _failures(state: RunState, owner: str) -> list[dict[str, Any]]:
    return [
        {
            "stage": each.stage,
            "task": each.task,
            "reason": each.reason,
            "advice": each.advice,
            "log": address("run", state.name, owner, stage=each.stage, task=each.task, _anchor="logs"),
        }
        for each in state.failures[:_FAILURES]
    ]


def _share(state: RunState) -> str:
    at = state.training
    if at is None:
        return "0"
    done = at.epoch - 1 + at.percent / 100 if at.percent is not None else at.epoch
    return f"{done / max(1, at.epochs):.4f}"


def _events(found: Run) -> Sequence[Event]:
    """Return the events of a run, for what its jobs used; of many jobs it takes a second to read them."""
    try:
        return _seen_events.get(found.folder.path, lambda: viewing.events_of(found))
    except MlaasError:  # the page shows what there is without
        return ()


def _said(found: Run) -> str:
    """Return what the training has said so far: its passes are in it."""
    return (
        viewing.viewing()
        .tails.piece(found.folder, "train", 0, stderr=False)
        .content.decode("utf-8", "replace")
    )


def _job_text(found: Run) -> str:
    try:
        return viewing.in_words(found)((found.folder.files / "job.json").read_text("utf-8"))
    except (OSError, UnicodeDecodeError):
        return ""


def _can(found: Run, belonging: Belonging, state: RunState) -> set[str]:
    """Return what who looks may do with a run, as it is now."""
    may: set[str] = {*viewing.may(who(), viewing.Seen(found, belonging, state))}
    return may | ({"submit"} if belonging.folder and who().allows("create") else set())


def _urls(found: Run, belonging: Belonging, state: RunState) -> dict[str, str]:
    name, owner = found.name, belonging.owner
    report = found.folder.output("report") / "report.html"
    return {
        "model": _interface(name, owner, "/model"),
        "report": _interface(name, owner, "/report") if state.bundle and report.exists() else "",
        "cancel": address("run_cancel", name, owner),
        "resume": address("run_resume", name, owner),
        "delete": address("run_delete", name, owner),
        "share": address("run_share", name, owner),
        "again": url_for("pages.submit", run=name, **whose(owner)),
    }


def _log(found: Run, belonging: Belonging, state: RunState) -> dict[str, Any]:
    """Return the end of the log that was asked for, or of the one that tells most."""
    stage = request.args.get("stage") or None
    stage = stage if stage in run_module.STAGES else None
    there = found.folder.task_units(stage) if stage else {}
    task = request.args.get("task", type=int)
    at = runs_module.pick(found.folder, state, stage, task if task in there else None)
    stream = request.args.get("stream", "both")
    streams = ("stdout", "stderr") if stream not in ("stdout", "stderr") else (stream,)
    said = viewing.in_words(found)
    which = {"stage": at[0], "task": at[1], "stream": stream if len(streams) == 1 else "both"}
    return {
        "log": {
            **which,
            "chosen": stage or "",
            "last": max(max(found.folder.task_units(each), default=0) for each in run_module.STAGES),
            "text": said("".join(_end(found, *at, each) for each in streams)),
            "url": _interface(found.name, belonging.owner, "/logs", **which),
        },
        "logs_url": _interface(found.name, belonging.owner, "/logs"),
        "owner_given": request.args.get("owner", ""),
    }


def _end(found: Run, stage: str, task: int, stream: str) -> str:
    """Return the last of what a task has said."""
    tails, is_error = viewing.viewing().tails, stream == "stderr"
    size = tails.piece(found.folder, stage, task, is_error, most=0).size
    piece = tails.piece(found.folder, stage, task, is_error, offset=max(0, size - _SHOWN))
    return piece.content.decode("utf-8", "replace")
