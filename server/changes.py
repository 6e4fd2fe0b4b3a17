"""What somebody changes: whether they may, the change itself, and a line in the audit log for either.

The views of ``/api/v1``, the old calls and the pages all change things through these functions.
"""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, cast

from flask import g, request

from mlaas_condor import run
from mlaas_condor.errors import MlaasError, WrongState
from mlaas_condor.request import NAME
from mlaas_condor.run import RunFolder
from mlaas_condor.runs import Run
from mlaas_condor.settings import Settings
from mlaas_condor.state import ENDED

from . import permissions
from .acting.submissions import Submitted
from .faults import Conflict, Forbidden, HttpFault, NotFound, reply_of
from .permissions import Sharing
from .service import service, who
from .storage import uploads
from .storage.folders import Folder, check_name
from .watching import viewing
from .watching.viewing import belonging, open_folder, open_run

Check = Callable[[Folder | None], None]
_KEY_CHARACTERS = 255
_MOST_SERVED = 100
_SPECS = ("specs", "merge")  # the stages whose output is specs


def _always(found: Folder | None) -> None: ...


@contextmanager
def audited(action: str, what: str, **more: object) -> Iterator[dict[str, object]]:
    """Write a line into the audit log for a change, also where it is refused or fails.

    Parameters
    ----------
    action, what
        ``submit``, ``run luca_1``.
    more
        Whatever else is worth knowing; the dict that is given can be added to.
    """
    known = dict(more)
    try:
        yield known
    except Exception as error:
        refused = reply_of(error).code if isinstance(error, MlaasError) else "internal"
        service().audit.write(who(), action, what, g.request_id, **known, refused=refused)
        raise
    service().audit.write(who(), action, what, g.request_id, **known)


def submit(
    job: Mapping[str, Any], folder: str | None = None, owner: str | None = None, key: str | None = None
) -> Submitted:
    """Submit a job.json; the run belongs to who makes this request.

    Parameters
    ----------
    job
        Its content.
    folder
        The uploaded folder it takes its files from; named as the job if None.
    owner
        Whose folder that is; of who asks if None.
    key
        The same for the same submission: it is not done twice.
    """
    named = _folder_of(job, folder)
    with audited("submit", f"folder {named}", **_of(owner)) as known:
        _check_key(key)
        found = open_folder(named, "read", owner)
        permissions.check_action(who(), "create")
        submitted = service().submissions.submit(who(), who().owner, job, found, key, g.request_id)
        known |= {"run": submitted.name, "cluster": submitted.job_id, "repeated": submitted.repeated}
        known |= {"version": found.version}
        return submitted


def plan(job: Mapping[str, Any], folder: str | None = None, owner: str | None = None) -> dict[str, Any]:
    """Check a job.json and plan it; nothing is changed."""
    found = open_folder(_folder_of(job, folder), "read", owner)
    permissions.check_action(who(), "create")
    planned = service().submissions.plan(who(), who().owner, job, found)
    return cast(dict[str, Any], viewing.in_words_throughout(planned, viewing.without_places))


def _folder_of(job: Mapping[str, Any], folder: str | None) -> str:
    named = folder or job.get("name")
    if not isinstance(named, str) or not named:
        raise HttpFault('which uploaded folder? give "name" in job.json, or ?folder=')
    return named


def _check_key(key: str | None) -> None:
    if key is not None and not (0 < len(key) <= _KEY_CHARACTERS and key.isprintable()):
        raise HttpFault(f"an Idempotency-Key has 1 to {_KEY_CHARACTERS} printable characters")


def cancel(name: str, owner: str | None = None) -> Run:
    """Cancel a run."""
    with audited("cancel", f"run {name}", **_of(owner)):
        found = open_run(name, "cancel", owner)
        service().submissions.cancel(who(), found)
        viewing.forget(found)
        return found


def resume(name: str, owner: str | None = None) -> str:
    """Let a run go on, and return what was done."""
    with audited("resume", f"run {name}", **_of(owner)) as known:
        found = open_run(name, "modify", owner)
        done = service().submissions.resume(who(), found)
        viewing.forget(found)
        known["done"] = done
        return done


def delete_run(name: str, owner: str | None = None, keep_stored: bool = False) -> None:
    """Delete a run that is over."""
    with audited("delete", f"run {name}", **_of(owner)):
        found = open_run(name, "cancel", owner)
        service().submissions.delete(who(), found, keep_stored)
        viewing.forget(found)


def share_run(
    name: str, owner: str | None, readers: Sequence[str] | None, writers: Sequence[str] | None
) -> Run:
    """Say which groups may read a run, and which may change it; None leaves those as they are."""
    with audited("share", f"run {name}", **_of(owner)) as known:
        found = open_run(name, "modify", owner)
        belongs = belonging(found)
        _check_owner(f"run {name!r}", belongs.owner)
        wanted = {
            key: list(value)
            for key, value in (("readers", readers), ("writers", writers))
            if value is not None
        }
        known |= wanted
        path = found.folder.belongs
        mine = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
        belongs.model_copy(update=wanted).write(mine)
        os.replace(mine, path)  # noqa: PTH105 - says that it is atomic
        return found


def put_folder(name: str, owner: str | None = None, check: Check = _always) -> Folder:
    """Make what this request carries the content of a folder.

    Parameters
    ----------
    owner
        Whose folder it is, which must be there then; of who asks if None, be it there or not.
    check
        Told the folder that there is, or None, while nobody else can change it; raises where it is not to be
        replaced.
    """
    with audited("upload", f"folder {name}", **_of(owner)) as known:
        permissions.check_action(who(), "create")
        check_name(name)
        whose = who().owner if owner is None else owner
        if whose != who().owner:
            open_folder(name, "modify", owner)
        check(_there(whose, name))  # before all of it is sent; and again in the end
        service().limits.check_upload(whose, request.content_length)
        with uploads.receive(whose) as archive:
            made = service().folders.put(whose, name, archive, check)
        known |= {"version": made.version, "files": made.files, "bytes": made.bytes}
        return made


def _there(owner: str, name: str) -> Folder | None:
    try:
        return service().folders.open(owner, name)
    except NotFound:
        return None


def share_folder(
    name: str,
    owner: str | None,
    readers: Sequence[str] | None,
    writers: Sequence[str] | None,
    check: Check = _always,
) -> Folder:
    """Say which groups may read a folder, and which may change it; None leaves those as they are."""
    with audited("share", f"folder {name}", **_of(owner)) as known:
        found = open_folder(name, "modify", owner)
        _check_owner(f"folder {name!r}", found.owner)
        old = found.sharing
        sharing = Sharing(
            readers=old.readers if readers is None else list(readers),
            writers=old.writers if writers is None else list(writers),
        )
        known |= sharing.model_dump()
        return service().folders.share(found.owner, name, sharing, check)


def _check_owner(what: str, owner: str) -> None:
    """Groups that may change something may not hand it on."""
    if owner != who().owner and not who().administrator:
        raise Forbidden(f"{what} is shared with you: only its owner can say with whom else")


def delete_folder(name: str, owner: str | None = None, check: Check = _always) -> None:
    """Delete an uploaded folder; the runs that were submitted from it keep what they need."""
    with audited("delete", f"folder {name}", **_of(owner)):
        found = open_folder(name, "cancel", owner)
        service().folders.delete(found.owner, name, check)


def add_served(name: str, owner: str | None = None) -> Path:
    """Add the file of this request to the model of a run, for those who serve it; return where it is.

    It stands in the run's own folder, as `RunFolder.served`, and goes with the run.
    """
    with audited("add a file", f"run {name}", **_of(owner)) as known:
        found = open_run(name, "modify", owner)
        if not viewing.state_of(found).bundle:
            raise WrongState(f"{name} has no model yet that a file could be added to")
        whose = belonging(found).owner
        service().limits.check_upload(whose, request.content_length)
        fields: dict[str, str] = {}
        with uploads.receive(whose, fields) as file:
            target = _served(found.folder, fields.get("file", ""))
            known |= {"file": target.name, "bytes": file.stat().st_size}
            os.replace(file, target)  # noqa: PTH105 - says that it is atomic
        return target


def _served(folder: RunFolder, name: str) -> Path:
    """Return where a file of a name goes."""
    if not NAME.fullmatch(name):
        raise HttpFault(
            f"{name[:100]!r} cannot name a file here: send it in a form, curl -F file=@labels.txt; its name "
            "has letters, digits and _ . + -, beginning with a letter or digit, at most 100"
        )
    folder.served.mkdir(mode=0o700, exist_ok=True)
    there = {path.name for path in folder.served.iterdir()}
    if len(there - {name}) >= _MOST_SERVED:
        raise Conflict(f"{len(there)} files were added to {folder.name}, the limit")
    return folder.served / name


def drop_specs(name: str, owner: str | None = None) -> int:
    """Forget what was measured of a folder's inputs, and return how many specs that were.

    The next run measures again. A run that has not ended is not disturbed: what it uses stays.
    """
    with audited("delete", f"specs of folder {name}", **_of(owner)) as known:
        found = open_folder(name, "cancel", owner)
        settings = service().settings_of(found.owner)
        mine, used = _stores(settings, name)
        store = settings.store.resolve()
        places = {path.resolve() for path in mine - used}
        dropped = sum(_drop(path) for path in places if path.parent.parent == store)
        known["dropped"] = dropped
        return dropped


def _stores(settings: Settings, folder: str) -> tuple[set[Path], set[Path]]:
    """Return where specs of the runs of a folder are, and where those of all runs that have not ended."""
    every = [Run(each, settings) for each in run.list_folders(settings.runs)]
    states = viewing.viewing().states.of([each.folder for each in every])
    mine, used = set[Path](), set[Path]()
    for each, state in zip(every, states, strict=True):
        places = set(_places(each.folder))
        if belonging(each).folder == folder:
            mine |= places
        if state.state not in ENDED:
            used |= places
    return mine, used


def _places(folder: RunFolder) -> Iterator[Path]:
    """Yield where the PRE scripts of a run put its specs."""
    with suppress(OSError):
        for line in folder.dag.read_text("utf-8").splitlines():
            words = line.split()
            if words[:2] == ["SCRIPT", "PRE"] and len(words) > 5 and words[2] in _SPECS:
                yield Path(words[5])


def _drop(store: Path) -> bool:
    gone = store.with_name(f".{store.name}.{secrets.token_hex(4)}")
    try:
        store.rename(gone)
    except OSError:
        return False
    shutil.rmtree(gone, ignore_errors=True)
    return True


def _of(owner: str | None) -> dict[str, object]:
    return {} if owner is None else {"owner": owner}
