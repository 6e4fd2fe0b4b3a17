"""What is submitted, and what is done with a run: each in a process of its own, for one owner.

XRootD's client keeps to the proxy that a process used first, HTCondor's to the token; and a file of a
stranger may end the process that looks into it. So the service never looks itself: it starts `acting`.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import IO, Any

from mlaas_condor.batch import identity as accounts
from mlaas_condor.grid import proxy as proxies
from mlaas_condor.grid.delegation import Requests
from mlaas_condor.owners import short_name
from mlaas_condor.runs import Run
from mlaas_condor.settings import Settings

from .. import faults
from ..configuration import Configuration
from ..faults import Conflict, Unavailable
from ..identity import Identity
from ..storage.folders import Folder
from ..storage.incoming import one_of
from . import starting
from .acts import HANDED_ON, Act, Belonging, Record

_QUEUE_SECONDS = 120.0  # to wait for others to be done
_LOCK_SECONDS = 300.0
_KEPT_SECONDS = 7 * 86_400.0
_PROTOCOLS = "XrdSecPROTOCOL"
_AT_A_TIME = max(4, 2 * (os.cpu_count() or 1))


@dataclass(frozen=True)
class Submitted:
    """A run that was submitted.

    Parameters
    ----------
    name, job_id
        Its name, and the number of its DAGMan job.
    warnings
        What the user should know of the request.
    repeated
        Whether it had been submitted before, with the same key.
    """

    name: str
    job_id: int
    warnings: list[str]
    repeated: bool = False


class Submissions:
    """Starts what acts for an owner.

    Parameters
    ----------
    configuration
        What ``service.toml`` says.
    settings
        Where runs and pool are.
    delegation
        The proxies that owners have delegated.
    """

    def __init__(self, configuration: Configuration, settings: Settings, delegation: Requests) -> None:
        self._configuration = configuration
        self._settings = replace(
            settings, accounting_group=configuration.jobs.accounting_group or settings.accounting_group
        )
        self._delegation = delegation
        self._folder = settings.home / "service"
        self._starter = starting.Starter()

    def submit(
        self,
        identity: Identity,
        owner: str,
        job: Mapping[str, Any],
        folder: Folder,
        key: str | None = None,
        request_id: str = "",
    ) -> Submitted:
        """Check a request, plan it and submit it.

        Parameters
        ----------
        identity
            Who asks.
        owner
            Whose run it will be.
        job, folder
            The content of a job.json, and the uploaded folder with its files.
        key
            The same for the same submission: it is then done once, however often it is asked for.

        Raises
        ------
        RequestError
            With every problem found; nothing is queued.
        PoolUnreachable
            There is no pool; nothing is left behind.
        Conflict
            The key came before, with another request.
        OverLimit, OverQuota
            The owner has as much as may be.
        """
        belonging = Belonging(
            owner=owner,
            name=identity.name,
            folder=folder.name,
            version=folder.version,
            key=sha256(key.encode()).hexdigest() if key else "",
            request_id=request_id,
            submitted=time.time(),
        )
        act = self._act("submit", owner, job=job, folder=folder, belonging=belonging)
        if not key:
            return Submitted(**self._do(identity, act))
        body = json.dumps([job, folder.owner, folder.name], sort_keys=True, default=str)
        digest = sha256(body.encode("utf-8", "surrogatepass")).hexdigest()
        with self._once(owner, belonging.key) as (path, lock):
            known = _known(path)
            if known and known.body != digest:
                raise faults.Unprocessable(
                    "this Idempotency-Key came before with another request: take a new one for a new request"
                )
            if known and known.name:
                return Submitted(known.name, known.job_id, known.warnings, repeated=True)
            return Submitted(**self._do(identity, replace(act, record=str(path), body=digest), lock))

    @contextmanager
    def _once(self, owner: str, key: str) -> Iterator[tuple[Path, IO[bytes]]]:
        """Hold the record of a key alone; it need not be there yet.

        The lock goes along with the process that acts: it holds it also should this one be killed.
        """
        parent = self._folder / "submissions" / short_name(owner)
        parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        _tidy(parent)
        deadline = time.monotonic() + _LOCK_SECONDS
        while (lock := _locked(parent / f"{key}.lock")) is None:
            if time.monotonic() > deadline:
                raise Conflict(
                    "this submission, by its Idempotency-Key, is under way: ask again later",
                    {"Retry-After": "30"},
                )
            time.sleep(0.05)
        with lock:
            yield parent / f"{key}.json", lock

    def plan(self, identity: Identity, owner: str, job: Mapping[str, Any], folder: Folder) -> dict[str, Any]:
        """Check a request and plan it; nothing is changed.

        Raises
        ------
        RequestError
            With every problem found.
        """
        return self._do(identity, self._act("plan", owner, job=job, folder=folder))

    def cancel(self, identity: Identity, found: Run) -> None:
        """Take a run off the queue."""
        self._do(identity, self._act("cancel", found.settings.owner, run=found.name))

    def resume(self, identity: Identity, found: Run) -> str:
        """Let a run go on; return what was done."""
        return str(self._do(identity, self._act("resume", found.settings.owner, run=found.name))["done"])

    def delete(self, identity: Identity, found: Run, keep_stored: bool = False) -> None:
        """Delete a run that is over, and what it alone needed."""
        owner = found.settings.owner
        self._do(identity, self._act("delete", owner, run=found.name, keep_stored=keep_stored))

    def _act(self, what: str, owner: str, **more: Any) -> Act:
        return Act(what, replace(self._settings, owner=owner), self._configuration, **more)

    def _do(self, identity: Identity, act: Act, lock: IO[bytes] | None = None) -> dict[str, Any]:
        """Have a process act, and return what it answers; its errors are raised here."""
        with self._place(act.settings.owner), self._environment(identity, act) as environment:
            return self._starter.answer_of(act, environment, lock)

    @contextmanager
    def _place(self, owner: str) -> Iterator[None]:
        """Take one of the places for what acts, all of them being little work for a machine.

        Some are left to others: whose storage is slow keeps only themselves waiting.
        """
        mine = self._folder / "acting" / f"of-{short_name(owner)}"
        deadline = time.monotonic() + _QUEUE_SECONDS
        while True:
            with one_of(mine, _AT_A_TIME - 1) as one, one_of(self._folder / "acting", _AT_A_TIME) as another:
                if one and another:
                    yield
                    return
            if time.monotonic() > deadline:
                raise Unavailable("too much is submitted at a time: try again soon", {"Retry-After": "30"})
            time.sleep(0.05)

    @contextmanager
    def _environment(self, identity: Identity, act: Act) -> Iterator[dict[str, str]]:
        """Give the environment of a process that acts for an owner: nothing of ours that says who we are."""
        environment = {name: os.environ[name] for name in HANDED_ON if name in os.environ}
        environment[proxies.ONLY_NAMED] = "1"
        proxy = self._delegation.proxy_of(act.settings.owner)
        if proxy is not None:
            environment[proxies.VARIABLE] = str(proxy)
        # XRootD's client looks for more in the usual places than is there for the owner.
        environment[_PROTOCOLS] = "gsi,unix,host" if proxy else "unix,host"
        if self._configuration.jobs.submit_as == "service" or act.what == "plan":
            yield environment
            return
        if not identity.token:
            raise faults.Forbidden(
                "here runs are submitted in your own name, which takes your token: use the command line or "
                "curl with Authorization: Bearer TOKEN"
            )
        parent = self._folder / "tokens"
        parent.mkdir(exist_ok=True, mode=0o700)
        with accounts.as_user(identity.token, parent) as named:
            yield environment | named


def _locked(path: Path) -> IO[bytes] | None:
    """Lock a file, and return it; None where another process has."""
    file = path.open("ab")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # It may have been removed meanwhile, and be another one for whoever comes next.
        if os.path.samestat(os.fstat(file.fileno()), path.stat()):
            return file
    except (BlockingIOError, FileNotFoundError):
        pass
    file.close()
    return None


def _known(path: Path) -> Record | None:
    try:
        return Record.read(path)
    except FileNotFoundError:
        return None


def _tidy(folder: Path) -> None:
    """Forget keys that are too old for anybody to come again with."""
    now = time.time()
    for path in folder.glob("*.lock"):
        with suppress(FileNotFoundError):
            if now - path.stat().st_mtime < _KEPT_SECONDS:
                continue
            if lock := _locked(path):
                with lock:
                    path.with_suffix(".json").unlink(missing_ok=True)
                    path.unlink()
