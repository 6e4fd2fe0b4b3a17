"""Keeping the proxies of living runs fresh: the files, and what the queue knows of them.

A person, cron, a timer and the service call the same function, also at the same time: one process at a time
looks at a proxy, and whoever comes second finds it fresh.
"""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Callable, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlaas_condor import run, runs
from mlaas_condor import settings as settings_module
from mlaas_condor.batch import credentials as queued
from mlaas_condor.batch import pool
from mlaas_condor.batch.install import locked
from mlaas_condor.errors import (
    CannotWrite,
    CredentialFault,
    MlaasError,
    Problem,
    RunNotFound,
    WrongState,
)
from mlaas_condor.grid import renewal
from mlaas_condor.grid.backoff import BackOff, TooSoon
from mlaas_condor.grid.credentials import Credentials
from mlaas_condor.grid.renewal import WrongSetting
from mlaas_condor.grid.times import in_words, moment
from mlaas_condor.run import RunFolder
from mlaas_condor.settings import Settings
from mlaas_condor.state import ENDED

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mlaas_condor.grid.certificates import Credential
    from mlaas_condor.grid.renewal import Source

Say = Callable[[str], None]
HOURS = 12.0
"""How long a fresh proxy lasts, unless told otherwise."""

_WAITING = "Another process is renewing {}; waiting for it."


@dataclass(frozen=True)
class Outcome:
    """What was done for the proxy of one run.

    Parameters
    ----------
    run
        Name of the run.
    proxy, identity
        Its proxy file; whose it is, ``""`` where that is not known.
    ends
        When the proxy in place ends, in seconds since 1970; None where there is none of this identity.
    renewed
        Whether a fresh one was put there.
    released
        How many jobs were held for the old one, and go on.
    error
        What went wrong; ``""`` for nothing.
    """

    run: str
    proxy: str
    identity: str = ""
    ends: float | None = None
    renewed: bool = False
    released: int = 0
    error: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return it as a plain dict, for JSON."""
        return dataclasses.asdict(self)

    def __str__(self) -> str:
        parts = [f"renewed the proxy of {self.identity}"] if self.renewed else []
        if self.released:
            parts.append(f"released {self.released} held job{'s' * (self.released > 1)}")
        if self.error:
            parts.append(f"error: {self.error}")
        elif self.ends is not None:
            parts = parts or [f"the proxy of {self.identity} needs no renewal"]
            parts.append(f"valid until {moment(self.ends)}")
        return f"{self.run}: {', '.join(parts)}"


def source_file() -> Path:
    """Return the path of the user's ``renewal.toml``; it need not exist."""
    return settings_module.user_file().with_name("renewal.toml")


def log_file(settings: Settings) -> Path:
    """Return where each action is written down."""
    return settings.own / "renewal.log"


def renew(
    names: Sequence[str] | None,
    settings: Settings,
    hours: float = HOURS,
    below: float | None = None,
    now: bool = False,
    say: Say = lambda _: None,
    leave_out: bool = False,
) -> list[Outcome]:
    """Renew the proxies of runs where that is due, and tell the queue.

    Parameters
    ----------
    names
        The runs, which must be alive and use a proxy; None for all that are and do.
    settings
        Where the runs and the pool are.
    hours
        How long a fresh proxy should last.
    below
        Renew what lasts less than so many hours; None for less than half of its life.
    now
        Renew whether or not it is due, and ask the source whether or not it failed a moment ago. What ends
        no later than the proxy in place is not taken all the same.
    say
        Called with a line at each action, and for each run that is left out. What goes wrong is in the
        outcomes only.
    leave_out
        Leave out named runs that there are no more to renew for, as long as there is another.

    Returns
    -------
    list of Outcome
        One a run. What goes wrong with one of them is in its outcome, and does not stop the others.

    Raises
    ------
    WrongSetting
        ``renewal.toml`` is wrong, or `below` leaves nothing to renew.
    RunNotFound, WrongState
        A run is named that is not there, not alive, or uses no proxy; with `leave_out`, all are such.
    """
    if not 0 < hours <= renewal.MOST_HOURS:
        raise WrongSetting([Problem("--hours", f"{hours:g} h is no time", f"at most {renewal.MOST_HOURS}")])
    if below is not None and not below < hours:
        what = f"renewing what lasts less than {below:g} h by what lasts {hours:g} h would never end"
        raise WrongSetting([Problem("--below", what, "give --hours more")])
    source = renewal.read_source(source_file())
    chosen = _named(names, settings, say if leave_out else None) if names is not None else _all(settings)
    by_proxy: dict[str, list[tuple[RunFolder, Credentials]]] = {}
    for folder, credentials in chosen:
        by_proxy.setdefault(credentials.proxy, []).append((folder, credentials))
    outcomes: list[Outcome] = []
    for proxy, users in by_proxy.items():
        keeper = _Keeper(Path(proxy), settings, source, hours * renewal.HOUR, now, say)
        seconds = None if below is None else below * renewal.HOUR
        outcomes += keeper.keep(users, seconds, by_name=names is not None)
    return outcomes


def _alive(folders: Sequence[RunFolder], settings: Settings) -> list[RunFolder]:
    states = runs.states(folders, settings)
    ended = (*ENDED, "prepared")
    return [folder for folder, state in zip(folders, states, strict=True) if state.state not in ended]


def _all(settings: Settings) -> list[tuple[RunFolder, Credentials]]:
    # First what is cheap to tell: most runs are over long since, or use no proxy.
    kept = {folder: Credentials.of(folder.credentials) for folder in run.list_folders(settings.runs)}
    using = [folder for folder, credentials in kept.items() if credentials.proxy]
    return [(folder, kept[folder]) for folder in _alive(using, settings)]


def _named(
    names: Sequence[str], settings: Settings, left_out: Say | None
) -> list[tuple[RunFolder, Credentials]]:
    chosen, wrong = [], []
    for name in dict.fromkeys(names):
        try:
            chosen.append(_living(name, settings))
        except (RunNotFound, WrongState) as error:
            wrong.append(error)
    for each in wrong:
        if left_out is None or not chosen:
            raise each
        left_out(str(each))
    return chosen


def _living(name: str, settings: Settings) -> tuple[RunFolder, Credentials]:
    """Return a run that is alive and uses a proxy, and what it uses."""
    folder = run.open_folder(settings.runs, name)
    credentials = Credentials.of(folder.credentials)
    if credentials.token and not credentials.proxy:
        raise WrongState(
            f"{name} uses no proxy but a token: put a new one into {folder.path / credentials.token}, "
            f"then run `mlaas-condor resume {name}`"
        )
    if not credentials.proxy:
        raise WrongState(f"{name} uses no proxy: there is nothing to renew")
    if not _alive([folder], settings):
        raise WrongState(f"{name} is not running: `mlaas-condor resume {name}` takes the proxy as it is")
    return folder, credentials


class _Keeper:
    """Keeps one proxy file fresh."""

    def __init__(
        self, proxy: Path, settings: Settings, source: Source | None, seconds: float, now: bool, say: Say
    ) -> None:
        self._proxy = proxy
        self._settings = settings
        self._source = source
        self._seconds = seconds
        self._now = now
        self._say = say
        self._state = settings.own / "renewal"

    def keep(
        self, users: Sequence[tuple[RunFolder, Credentials]], below: float | None, by_name: bool
    ) -> list[Outcome]:
        """Renew the file if that is due, and tell the queue of each run that uses it."""
        identity = next((each.identity for _, each in users if each.identity), "")
        done, known = Outcome("", str(self._proxy), identity), False
        try:
            with self._alone():
                done = self._renew(done, below)
        except MlaasError as error:
            done, known = replace(done, error=str(error)), isinstance(error, TooSoon)
        found = renewal.present(self._proxy)
        if found and identity in ("", found.identity):
            done = replace(done, identity=found.identity, ends=found.ends)
        outcomes = [self._told(replace(done, run=folder.name), folder, by_name) for folder, _ in users]
        for outcome in outcomes:
            if outcome.renewed or outcome.released or (outcome.error and not known):
                self._log(outcome)
        return outcomes

    @contextmanager
    def _alone(self) -> Iterator[None]:
        try:
            self._state.mkdir(parents=True, exist_ok=True, mode=0o700)
            name = sha256(str(self._proxy.resolve()).encode()).hexdigest()[:16]
            with locked(self._state / f"{name}.lock", _WAITING.format(self._proxy), self._say):
                yield
        except OSError as error:
            raise CannotWrite(f"{self._state} cannot be used: {error.strerror}") from error

    def _renew(self, done: Outcome, below: float | None) -> Outcome:
        found, now = renewal.present(self._proxy), time.time()
        if found and not renewal.is_due(found, below, now) and not self._now:
            _same_person(found, done.identity)
            return done
        if self._source is None:
            raise CredentialFault(_without_source(self._proxy, found, now))
        # A source that is down is not asked for the next file either; one that gave the wrong thing for this
        # file may be right for others.
        of_source = BackOff(self._state / f"{self._source.fingerprint}.json")
        key = f"{self._source.fingerprint} {done.identity} {self._proxy}"
        of_file = BackOff(self._state / f"{sha256(key.encode()).hexdigest()[:16]}.json")
        if not self._now:
            of_source.check(now)
            of_file.check(now)
        try:
            # Who asks for it now may gain little by it.
            least = 0.0 if self._now else 60.0
            renewal.replace(self._proxy, self._source, self._seconds, done.identity, least)
        except CredentialFault as error:
            (of_file if isinstance(error, renewal.Refused) else of_source).failed(now, error)
            raise
        of_source.succeeded()
        of_file.succeeded()
        return replace(done, renewed=True)

    def _told(self, outcome: Outcome, folder: RunFolder, by_name: bool) -> Outcome:
        usable = outcome.ends is not None and outcome.ends > time.time() + renewal.LEAST_SECONDS
        if not usable or outcome.ends is None or folder.local_log.exists():
            return outcome
        try:
            pool.use(self._settings)
            released = queued.refreshed(folder, self._proxy, outcome.ends, again=by_name)
        except MlaasError as error:
            return replace(outcome, error=outcome.error or str(error))
        return replace(outcome, released=released)

    def _log(self, outcome: Outcome) -> None:
        stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        if outcome.renewed or outcome.released:
            # What went wrong beside it is for the caller to tell, once.
            self._say(f"{stamp} {_in_one_line(replace(outcome, error=''))}")
        path = log_file(self._settings)
        try:
            handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
            with open(handle, "a", encoding="utf-8") as file:  # noqa: PTH123 - a descriptor
                with suppress(OSError):  # one of before may be readable by others, or be another user's
                    os.fchmod(handle, 0o600)
                file.write(f"{stamp} {_in_one_line(outcome)}\n")
        except OSError as error:
            self._say(f"{path} cannot be written: {error.strerror}")


def _in_one_line(outcome: Outcome) -> str:
    # Whatever an error or a name holds.
    return " ".join(str(outcome).split())


def _same_person(found: Credential, identity: str) -> None:
    if identity and found.identity != identity:
        raise CredentialFault(
            f"the proxy in place is of {found.identity}, and the run reads as {identity}: put a proxy of the "
            "same identity there"
        )


def _without_source(proxy: Path, found: Credential | None, now: float) -> str:
    from mlaas_condor.grid import proxy as proxies

    try:
        how = proxies.how_to_renew(proxies.read(proxy))
    except CredentialFault:
        how = proxies.how_to_renew()
    if found is None:
        what = f"there is no usable proxy in {proxy}"
    elif renewal.lasts(found) <= now:
        what = f"the proxy in {proxy} has ended"
    else:
        what = f"the proxy in {proxy} lasts only {in_words(renewal.lasts(found) - now)} more"
    return (
        f"{what}, and nothing says how to renew it. Run: {how}; or name a long-lived credential in "
        f"[renewal] of {source_file()} (docs/renewal.md)"
    )
