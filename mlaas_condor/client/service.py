"""A service as a place of runs: what the command line and Python do with it, from a machine without HTCondor.

>>> from mlaas_condor import Service
>>> run = Service("https://mlaas.example.org").submit("job.json")
>>> run.wait(progress=True)
>>> run.fetch("model.tar.gz")
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlaas_condor.client.calling import AnswerLost, Calls
from mlaas_condor.client.profiles import Profile
from mlaas_condor.client.remoterun import RemoteRun
from mlaas_condor.errors import MlaasError, Problem
from mlaas_condor.grid.renewal import WrongSetting
from mlaas_condor.places import QUIET, AnyRun, Started, Told
from mlaas_condor.state import RunState

if TYPE_CHECKING:
    from mlaas_condor.client.packing import Package
    from mlaas_condor.planned import Planned
    from mlaas_condor.planning import Size
    from mlaas_condor.request import Request
    from mlaas_condor.runs import Run

_PLAN_SECONDS = 900.0  # the service looks into every file first
_SILENT_SECONDS = 120.0  # after which nobody on the way may know any more who asked
_WAIT = 1.0
_PAGE = 200


class Service:
    """A service, and the runs that somebody has there.

    Parameters
    ----------
    url
        Its address; https, except on this machine.
    token
        The token for it, or what returns it; looked for where tokens usually are if None.
    owner
        Whose runs are meant, where they are another's and shared; one's own if empty.
    say
        Gets a sentence for whoever waits, when something is tried again.

    Raises
    ------
    WrongSetting
        The address is none, or not safe.
    """

    def __init__(
        self,
        url: str,
        token: str | Callable[[], str] | None = None,
        owner: str = "",
        say: Callable[[str], None] = lambda _: None,
    ) -> None:
        find = Profile(url).token if token is None else token if callable(token) else lambda: token
        self._calls = Calls(url, find, say)
        self._owner = owner

    def __repr__(self) -> str:
        return f"<Service {self.url}>"

    @property
    def url(self) -> str:
        """Its address."""
        return self._calls.url

    @property
    def kept(self) -> str:
        """Where its runs are."""
        return f"at {self.url}" + (f" of {self._owner}" if self._owner else "")

    def me(self) -> dict[str, Any]:
        """Return who one is to the service, and what one may have of it."""
        return dict(self._calls.ask("GET", "/me"))

    def plan(self, job: Request | str | Path | Mapping[str, Any], told: Told = QUIET) -> Planned:
        """Check a request and have it planned; queues nothing.

        Parameters
        ----------
        job, told
            As for `submit`.

        Raises
        ------
        RequestError
            With every problem found.
        """
        from mlaas_condor.planned import Planned

        package = self._send(job, told)
        answer = self._calls.ask(
            "POST", "/plans", params={"folder": package.name}, content=package.job, seconds=_PLAN_SECONDS
        )
        planned = Planned.from_dict(answer)
        return replace(planned, warnings=_joined(package.warnings, planned.warnings))

    def submit(self, job: Request | str | Path | Mapping[str, Any], told: Told = QUIET) -> RemoteRun:
        """Check a request, send what it needs from this machine, and submit it.

        Parameters
        ----------
        job
            Path of a job file, its content, or a `Request`.
        told
            Who is told of warnings, and of how much is sent.

        Raises
        ------
        RequestError
            With every problem found; nothing is queued.
        PoolUnreachable
            The service does not answer.
        """
        package = self._send(job, told)
        answer = self._submitted(package)
        told.warn(_joined(package.warnings, answer.get("warnings", [])))
        return RemoteRun(self._calls, str(answer["name"]))

    def _submitted(self, package: Package) -> Mapping[str, Any]:
        """Submit what was sent; return what the service says to it."""
        # A call whose answer was lost may have been taken all the same: with this key a second one is the
        # same submission, and waits for what comes of the first.
        headers = {"Idempotency-Key": str(uuid.uuid4())}
        deadline = time.monotonic() + _PLAN_SECONDS
        while True:
            try:
                found: Mapping[str, Any] = self._calls.ask(
                    "POST", "/runs", params={"folder": package.name}, content=package.job, headers=headers,
                    seconds=_SILENT_SECONDS,
                )  # fmt: skip
                return found
            except AnswerLost as error:
                if time.monotonic() > deadline:
                    raise AnswerLost(
                        f"{error}; whether it was submitted, `mlaas-condor list` tells"
                    ) from error
                time.sleep(_WAIT)

    def _send(self, job: Request | str | Path | Mapping[str, Any], told: Told) -> Package:
        from mlaas_condor.client import uploading
        from mlaas_condor.client.packing import pack
        from mlaas_condor.request import Request

        if self._owner:
            hint = "leave it out; it names whose runs are looked at"
            raise WrongSetting([Problem("--owner", "what you submit is yours", hint)])
        package = pack(Request.load(job))
        uploading.send(self._calls, package, told)
        return package

    def open_run(self, name: str) -> RemoteRun:
        """Open a run by its name.

        Raises
        ------
        RunNotFound
            There is none of that name.
        """
        run = RemoteRun(self._calls, name, self._owner)
        run.status()
        return run

    def list_runs(self) -> list[RemoteRun]:
        """Return all runs, oldest first."""
        return [RemoteRun(self._calls, str(each["name"]), self._owner) for each in self._listed()]

    def states(self) -> list[RunState]:
        """Return the states of all runs, oldest first."""
        return [RunState.from_dict(each) for each in self._listed(detail=True)]

    def _listed(self, **options: Any) -> list[dict[str, Any]]:
        """Return what the service says of each run, oldest first."""
        found: dict[str, dict[str, Any]] = {}
        params = {"limit": _PAGE, **options, **({"owner": self._owner} if self._owner else {})}
        while True:
            page = self._calls.ask("GET", "/runs", params={**params, "offset": len(found)})
            # One that came meanwhile moves the others on.
            found |= {each["name"]: each for each in page["runs"]}
            if not page["runs"] or len(found) >= page["total"]:
                return list(found.values())[::-1]

    def look(self, job: str, proxy: str, lifetime_ok: bool, told: Told) -> Planned:
        """Check a request and plan it: `places.Place`."""
        _check_proxy(proxy)
        return self.plan(job, told)

    def start(self, job: str, proxy: str, lifetime_ok: bool, told: Told) -> Started:
        """Check a request, plan it and submit it: `places.Place`."""
        _check_proxy(proxy)
        run = self.submit(job, told)
        size: Size | None = None
        with suppress(MlaasError):  # it is submitted, whatever else goes wrong
            size = run.size()
        return Started(run, size)

    def without_pool(self, run: AnyRun) -> Run | None:
        """Return None: a service does all its runs on its pool."""
        return None


def _check_proxy(proxy: str) -> None:
    if proxy:
        what = "a service does not get your proxy, but may act for you"
        hint = "leave it out, and let it: mlaas-condor proxy delegate"
        raise WrongSetting([Problem("--proxy", what, hint)])


def _joined(*texts: list[str]) -> list[str]:
    return list(dict.fromkeys(each for some in texts for each in some))
