"""What a request may see: runs and folders by their names, how runs do, lists of them."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any, Literal, cast

from flask import current_app

from mlaas_condor import run
from mlaas_condor.batch.events import Event
from mlaas_condor.errors import RunNotFound
from mlaas_condor.reading import nearest
from mlaas_condor.run import RunFolder
from mlaas_condor.runs import Run
from mlaas_condor.settings import Settings
from mlaas_condor.state import ENDED, RunState, State

from .. import permissions
from ..acting.acts import Belonging
from ..faults import NotFound
from ..identity import Action, Identity
from ..permissions import Sharing
from ..service import service, who
from ..storage.folders import Folder
from .shared import Shared
from .states import FRESH, States
from .tails import Tails

Doing = Literal["cancel", "resume", "delete", "share"]
_EXTENSION = "mlaas_condor.viewing"
_KEPT = 50_000  # owners of runs, kept in memory: some hundred bytes each
_starting = threading.Lock()


@dataclass(frozen=True)
class Viewing:
    """What a process keeps of how runs do: nothing that it could not find out again.

    Parameters
    ----------
    states, tails
        How runs do, what their jobs say.
    owners
        Whose runs are, by path of the file that says it, and when that was changed.
    lists
        Runs of an owner, the oldest first, by their folder and when that was changed.
    """

    states: States
    tails: Tails
    owners: dict[Path, tuple[int, Belonging]]
    lists: Shared[tuple[Path, int], list[RunFolder]]


def viewing() -> Viewing:
    """Return what this process keeps."""
    with _starting:
        if _EXTENSION not in current_app.extensions:
            states = States(service().settings)
            tails = Tails(states, service().settings)
            current_app.extensions[_EXTENSION] = Viewing(states, tails, {}, Shared(FRESH))
        return cast(Viewing, current_app.extensions[_EXTENSION])


@dataclass(frozen=True)
class Filters:
    """Which runs a list has.

    Parameters
    ----------
    states
        Any of these; all without.
    name, folder
        How the name begins; the uploaded folder it was submitted from.
    owner
        Whose; those of who asks if None.
    shared
        Those of others, as far as they are shared with who asks.
    limit, offset
        How many, from which on; the newest is 0.
    """

    states: frozenset[State] = frozenset()
    name: str = ""
    folder: str = ""
    owner: str | None = None
    shared: bool = False
    limit: int = 50
    offset: int = 0


@dataclass(frozen=True)
class Seen:
    """A run that somebody may see, whose it is, and how it does."""

    run: Run
    belonging: Belonging
    state: RunState


@dataclass(frozen=True)
class Page:
    """A part of a list of runs, the newest first.

    Parameters
    ----------
    total
        How many there are in all.
    """

    runs: list[Seen]
    total: int
    limit: int
    offset: int


def open_run(name: str, action: Action = "read", owner: str | None = None) -> Run:
    """Open a run for who makes this request.

    Parameters
    ----------
    action
        What is to be done with it.
    owner
        Whose it is; of who asks if None.

    Raises
    ------
    RunNotFound
        There is none, or it is none of their business: nobody can tell which.
    Forbidden
        They may read it only, or their token does not allow it.
    """
    identity = who()
    settings = service().settings_of(identity.owner if owner is None else owner)
    try:
        found = Run(run.open_folder(settings.runs, name), settings)
    except RunNotFound:
        if settings.owner != identity.owner:
            raise permissions.missing(f"run {name!r}") from None
        hint = nearest(name, [folder.name for folder in run.list_folders(settings.runs)])
        raise RunNotFound(f"no run {name!r}" + (f": {hint}" if hint else "")) from None
    belongs = belonging(found)
    permissions.check(identity, action, f"run {name!r}", belongs.owner, sharing_of(belongs))
    return found


def open_folder(name: str, action: Action = "read", owner: str | None = None) -> Folder:
    """Open an uploaded folder for who makes this request.

    Parameters
    ----------
    action, owner
        As for `open_run`.

    Raises
    ------
    NotFound
        There is none, or it is none of their business.
    Forbidden
        They may read it only, or their token does not allow it.
    """
    identity = who()
    try:
        found = service().folders.open(identity.owner if owner is None else owner, name)
    except NotFound:
        if owner not in (None, identity.owner):
            raise
        hint = nearest(name, [each.name for each in service().folders.list(identity.owner)])
        raise NotFound(f"no folder {name!r}: {hint or 'upload one first'}") from None
    permissions.check(identity, action, f"folder {name!r}", found.owner, found.sharing)
    return found


def belonging(run: Run) -> Belonging:
    """Return whose a run is, and with whom it is shared."""
    path, known = run.folder.belongs, viewing().owners
    try:
        changed = os.stat(path).st_mtime_ns  # noqa: PTH116 - of thousands of paths
    except OSError:
        # From the command line of who has the folder.
        return Belonging(owner=run.settings.owner)
    kept = known.get(path)
    if kept is None or kept[0] != changed:
        if len(known) >= _KEPT:
            known.clear()
        kept = known[path] = (changed, Belonging.read(path))
    return kept[1]


def sharing_of(belongs: Belonging) -> Sharing:
    """Return with whom a run is shared."""
    return Sharing(readers=belongs.readers, writers=belongs.writers)


def may(identity: Identity, seen: Seen) -> list[Doing]:
    """Return what somebody may do with a run as it is now."""
    owner, state = seen.belonging.owner, seen.state.state
    over = state in (*ENDED, "prepared")
    possible: dict[Doing, tuple[Action, bool]] = {
        "cancel": ("cancel", not over),
        "resume": ("modify", state in ("failed", "cancelled", "held", "prepared")),
        "delete": ("cancel", over),
        "share": ("modify", owner == identity.owner or identity.administrator),
    }
    if not permissions.may_write(identity, owner, sharing_of(seen.belonging)):
        return []
    return [doing for doing, (action, now) in possible.items() if now and identity.allows(action)]


def seen(run: Run) -> Seen:
    """Return a run with whose it is, and how it does."""
    return Seen(run, belonging(run), state_of(run))


def state_of(run: Run) -> RunState:
    """Return how a run does, as of a second ago at most, in words for users: see `in_words`."""
    state = viewing().states.of([run.folder])[0]
    if state.state == "running" and any(each.stage == "train" and each.running for each in state.stages):
        state = replace(state, training=viewing().tails.training(run.folder))
    return _for_users(run, state)


def in_words(run: Run) -> Callable[[str], str]:
    """Return what takes the folders of the service out of a text: a user knows files by their own names."""
    return partial(_places(run.settings.home).sub, "")


def in_words_throughout(value: Any, said: Callable[[str], str]) -> Any:
    """Return what JSON holds with every text in it said in other words."""
    if isinstance(value, str):
        return said(value)
    if isinstance(value, dict):
        return {key: in_words_throughout(each, said) for key, each in value.items()}
    return [in_words_throughout(each, said) for each in value] if isinstance(value, list | tuple) else value


def without_places(text: str) -> str:
    """Return a text without the folders of the service, as `in_words` does for a run's."""
    return _places(service().settings.home).sub("", text)


@cache
def _places(home: Path) -> re.Pattern[str]:
    homes = "|".join({re.escape(str(home)), re.escape(str(home.resolve()))})
    inside = r"(?:versions/[0-9a-f]{64}|(?:runs|incoming)/[^/\s:,'\"]+)/"
    return re.compile(rf"(?:{homes})/(?:users/[^/\s:,'\"]+/)?(?:{inside})?")


def _for_users(run: Run, state: RunState) -> RunState:
    texts = [state.waiting, state.failures, state.notes, state.unreachable, state.bundle]
    if not any(texts):
        return state
    said = in_words(run)
    return replace(
        state,
        waiting=tuple(map(said, state.waiting)),
        failures=tuple(
            replace(each, reason=said(each.reason), advice=said(each.advice)) for each in state.failures
        ),
        notes=tuple(map(said, state.notes)),
        unreachable=said(state.unreachable),
        bundle=run.folder.bundle.name if state.bundle else None,
    )


def events_of(run: Run) -> list[Event]:
    """Return the events of a run and of its DAGMan, oldest first, in words for users.

    Raises
    ------
    MlaasError
        They cannot be read.
    """
    said = in_words(run)
    found = viewing().states.looking.events(run.folder)
    return [replace(each, said=said(each.said)) if each.said else each for each in found]


def runs_of(identity: Identity, filters: Filters) -> Page:
    """Return the runs that somebody may see.

    Raises
    ------
    Forbidden
        Their token does not allow to read.
    """
    permissions.check_action(identity, "read")
    found = [each for each in _candidates(identity, filters) if each.name.startswith(filters.name)]
    if filters.folder:
        found = [each for each in found if belonging(each).folder == filters.folder]
    if filters.states:
        states = viewing().states.of([each.folder for each in found])
        found = [each for each, state in zip(found, states, strict=True) if state.state in filters.states]
    part = found[filters.offset : filters.offset + filters.limit]
    states = viewing().states.of([each.folder for each in part])
    seen = [
        Seen(each, belonging(each), _for_users(each, state)) for each, state in zip(part, states, strict=True)
    ]
    return Page(seen, len(found), filters.limit, filters.offset)


def _candidates(identity: Identity, filters: Filters) -> list[Run]:
    """Return the runs that may be seen, the newest first."""
    if not filters.shared:
        settings = service().settings_of(identity.owner if filters.owner is None else filters.owner)
        return list(_visible(identity, settings, reversed(_listed(settings.runs))))
    dated = [
        (when, each)
        for settings in _others(identity)
        for when, each in _dated(_visible(identity, settings, _listed(settings.runs)))
    ]
    return [each for _, each in sorted(dated, key=lambda pair: pair[0], reverse=True)]


def _listed(path: Path) -> list[RunFolder]:
    """Return the runs in a folder, the oldest first."""
    try:
        key = path, path.stat().st_mtime_ns
    except OSError:
        return []
    return viewing().lists.get(key, lambda: run.list_folders(path))


def _visible(identity: Identity, settings: Settings, folders: Iterable[RunFolder]) -> Iterator[Run]:
    for folder in folders:
        found = Run(folder, settings)
        if identity.administrator or settings.owner == identity.owner:
            yield found
            continue
        with suppress(OSError, ValueError):  # it is being deleted
            belongs = belonging(found)
            if permissions.may_read(identity, belongs.owner, sharing_of(belongs)):
                yield found


def _others(identity: Identity) -> Iterator[Settings]:
    """Yield the settings of everybody else who has runs."""
    for path in (service().settings.home / "users").glob("*/runs"):
        for folder in _listed(path):
            try:
                owner = Belonging.read(folder.belongs).owner
            except (OSError, ValueError):  # it is being deleted: the next one tells as well
                continue
            if owner != identity.owner:
                yield service().settings_of(owner)
            break


def _dated(found: Iterable[Run]) -> Iterator[tuple[float, Run]]:
    for each in found:
        with suppress(OSError):
            yield each.folder.dag.stat().st_mtime, each


def forget(run: Run) -> None:
    """Look again at the next question: something was done to a run."""
    viewing().states.forget(run.folder)
