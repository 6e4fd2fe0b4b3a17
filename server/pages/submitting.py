"""Submitting a run: by a form, or with a job.json; checking it first."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import Any

from flask import Response, g, request
from werkzeug.wrappers import Response as AnyResponse

from mlaas_condor import planning, show
from mlaas_condor.errors import MlaasError, Problem, RequestError

from .. import changes
from ..api.replies import JOB_BYTES, job_of
from ..faults import ErrorReply, HttpFault, reply_of
from ..permissions import check_action
from ..service import service, who
from ..storage.folders import Folder
from ..watching import viewing
from .blueprint import after, page, routes
from .folders import value_of

_FIELDS = (
    "name", "model", "files", "labels", "params", "preproc", "memory", "cpus", "gpus", "disk", "weights",
    "specs", "task",
)  # fmt: skip
_MOST_LISTED = 1000  # files of a folder, to choose from
_GUESSES = {"model": ("model",), "files": ("files",), "labels": ("labels", "label"), "params": ("params",)}


@routes.get("/submit")
def submit() -> Response:
    """Show the form, filled in with what the folder or an earlier run says."""
    check_action(who(), "create")
    owner = request.args.get("owner") or None
    if name := request.args.get("run"):
        found = viewing.open_run(name, "read", owner)
        belonging = viewing.belonging(found)
        text = (found.folder.files / "job.json").read_text("utf-8")
        return _page(f"{belonging.folder}/{belonging.owner}", {}, text, "job")
    folders = _folders()
    chosen = request.args.get("folder") or (value_of(folders[0]) if folders else "")
    return _page(chosen, _guessed(_opened(chosen)), "", "form")


@routes.post("/submit/form")
def send() -> AnyResponse:
    """Check or submit what was filled in, or look into another folder."""
    check_action(who(), "create")
    form, do = request.form, request.form.get("do", "")
    way = "job" if form.get("way") == "job" else "form"
    chosen, text = form.get("folder", ""), form.get("job", "")
    values = {key: form.get(key, "").strip() for key in _FIELDS}
    if do == "choose":
        return _page(chosen, _guessed(_opened(chosen)), text, way)
    try:
        job = _of_text(text) if way == "job" else _of_fields(values)
        folder, _, owner = chosen.partition("/")
        if do == "submit":
            done = changes.submit(job, folder or None, owner or None, form.get("key") or None)
            return after("again" if done.repeated else "submitted", "run", name=done.name)
        plan = changes.plan(job, folder or None, owner or None)
        return _page(chosen, values, text, way, plan=_shown(plan))
    except MlaasError as error:
        wrong = reply_of(error, g.get("request_id", ""))
        return _page(chosen, values, text, way, wrong=wrong)


def _page(
    chosen: str,
    values: Mapping[str, str],
    text: str,
    way: str,
    wrong: ErrorReply | None = None,
    plan: Mapping[str, Any] | None = None,
) -> Response:
    folders = _folders()
    folder = _opened(chosen) if chosen else None
    chosen = value_of(folder) if folder else ""
    names = [each.path for each in folder.entries()][:_MOST_LISTED] if folder else []
    by_end = {end: [name for name in names if name.endswith(end)] for end in (".py", ".json")}
    return page(
        "submit.html",
        wrong.status if wrong else 200,
        folders=[
            {
                "value": value_of(each),
                "words": each.name if each.owner == who().owner else f"{each.name} of {each.owner}",
            }
            for each in folders
        ],
        chosen=chosen,
        values={**dict.fromkeys(_FIELDS, ""), **values},
        models=by_end[".py"],
        programs=[*by_end[".json"], *by_end[".py"]],
        jsons=by_end[".json"],
        others=[name for name in names if not name.endswith((".py", ".json"))],
        job_text=text,
        way=way,
        # The same key as often as the same page is sent: a second click submits nothing.
        key=request.form.get("key") or secrets.token_hex(16),
        wrong=wrong,
        no_folder=wrong is not None and wrong.status == 404,
        plan=plan,
    )


def _folders() -> list[Folder]:
    """Return the folders to choose from: the own ones, the newest first, then those of others."""
    identity = who()
    mine = sorted(service().folders.list(identity.owner), key=lambda each: -each.uploaded)
    others = [each for each in service().folders.shared_with(identity) if each.owner != identity.owner]
    return [*mine, *sorted(others, key=lambda each: (each.owner, each.name))]


def _opened(value: str) -> Folder | None:
    """Return the folder that a form names: ``luca``, or another's as ``luca/OWNER``."""
    name, _, owner = value.partition("/")
    try:
        return viewing.open_folder(name, "read", owner or None) if name else None
    except MlaasError:  # it was deleted meanwhile: then another can be chosen
        return None


def _guessed(folder: Folder | None) -> dict[str, str]:
    """Return what to fill the form in with: the folder's own job.json or, without, what files are called."""
    if folder is None:
        return {}
    names = [each.path for each in folder.entries()][:_MOST_LISTED]
    values = {"name": folder.name, **_own_job(folder, names)}
    for key, words in _GUESSES.items():
        end = {"model": ".py", "params": ".json"}.get(key, ".txt")
        likely = [
            name for name in names if name.endswith(end) and any(word in name.lower() for word in words)
        ]
        values.setdefault(key, likely[0] if likely else "")
    return values


def _own_job(folder: Folder, names: list[str]) -> dict[str, str]:
    if "job.json" not in names:
        return {}
    try:
        with (folder.path / "job.json").open("rb") as file:
            job = job_of(file.read(JOB_BYTES))
    except (OSError, HttpFault):  # checking it says what is wrong with it
        return {}
    plain = {key: str(job[key]) for key in _FIELDS if isinstance(job.get(key), str | int | float)}
    if job.get("device") == "gpu":
        plain.setdefault("gpus", "1")
    return plain


def _of_text(text: str) -> dict[str, Any]:
    try:
        return job_of(text)
    except HttpFault as error:
        raise RequestError([Problem("job.json", str(error).removeprefix("job.json "))]) from error


def _of_fields(values: Mapping[str, str]) -> dict[str, Any]:
    """Return the job.json that the form stands for: what is left empty is left out."""
    job: dict[str, Any] = {key: value for key, value in values.items() if value}
    if job.get("gpus", "").isdecimal():
        job["gpus"] = int(job["gpus"])
    if job.get("gpus") == 0:
        del job["gpus"]
    return job


def _shown(plan: Mapping[str, Any]) -> dict[str, Any]:
    """Return a plan as the page shows it."""
    size = plan["plan"]["size"]
    rows = [
        [
            each["stage"],
            f"{each['jobs']:,}",
            str(each["cpus"]),
            str(each["gpus"] or "–"),
            show.size(each["memory"]),
            show.size(each["disk"]),
            f"~{show.duration(each['seconds'])}",
        ]
        for each in plan["plan"]["stages"]
    ]
    facts = [
        ("files", f"{size['files']:,}"),
        ("events", f"{size['events']:,}"),
        ("columns, about", f"{size['columns']:,}"),
        ("chunks", f"{planning.Size.model_validate(size).chunks:,}"),
        ("flat branches", f"{size['flat']:,}"),
        ("jagged branches", f"{size['jagged']:,}"),
    ]
    return {
        "facts": facts,
        "warnings": plan.get("warnings", []),
        "head": ["Stage", "jobs", "CPUs", "GPUs", "memory", "disk", "time"],
        "rows": rows,
    }
