"""A run with a service, as an object: the same as one of this machine is."""

from __future__ import annotations

import gzip
import re
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from mlaas_condor import show
from mlaas_condor.client import downloading, listening
from mlaas_condor.client.calling import API, Calls
from mlaas_condor.errors import MlaasError, PoolUnreachable, RunNotFound, WrongState
from mlaas_condor.places import Patience, wait_for
from mlaas_condor.state import ENDED, RunState

if TYPE_CHECKING:
    from mlaas_condor.planning import Size

_POLL_SECONDS = 1.0
_PIECE = 2**20
_LONG_SECONDS = 300.0  # for what waits for HTCondor
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]*")  # as in job.json; nothing that means something in a URL
_PLAIN = {"Accept": "text/plain"}
_BACK = "once it answers again"


class RemoteRun:
    """A run with a service: ask how it does, wait for it, get its logs and its model.

    Parameters
    ----------
    calls
        To the service.
    name
        Name of the run: ``luca_1``.
    owner
        Whose it is, if not one's own.

    Raises
    ------
    RunNotFound
        No run can be called so.
    """

    def __init__(self, calls: Calls, name: str, owner: str = "") -> None:
        if not _NAME.fullmatch(name):
            raise RunNotFound(f"no run {name!r}")
        self._calls = calls
        self._name = name
        self._path = f"/runs/{quote(name, safe='')}"
        self._params = {"owner": owner} if owner else {}

    @property
    def name(self) -> str:
        """Name of the run."""
        return self._name

    @property
    def where(self) -> str:
        """Its address at the service."""
        return f"{self._calls.url}{API}{self._path}"

    def __repr__(self) -> str:
        return f"<RemoteRun {self.name}: {self.status().state}>"

    def _repr_html_(self) -> str:
        return show.html(self.status())

    def _get(self, what: str) -> Any:
        return self._calls.ask("GET", f"{self._path}/{what}", params=self._params)

    def status(self) -> RunState:
        """Return the state of the run and of each stage."""
        return self._state(self._get("status"))

    def _state(self, content: Mapping[str, Any]) -> RunState:
        try:
            state = RunState.from_dict(content)
        except (KeyError, TypeError, AttributeError) as error:
            raise MlaasError(
                f"{self._calls.url} tells a state that is none: is it of another version?"
            ) from error
        return replace(state, bundle=f"{self.where}/model") if state.bundle else state

    def follow(self) -> Iterator[RunState]:
        """Yield the state again and again, until the run has ended.

        Raises
        ------
        PoolLost
            The service, or its pool, has not answered for a minute; the run itself is not touched.
        """
        patience = self._patience()
        while True:
            try:
                state = self.status()
            except PoolUnreachable as error:
                patience.check(str(error))
            else:
                yield state
                if state.state in ENDED or state.state == "prepared":
                    return
                patience.check(state.unreachable)
            time.sleep(_POLL_SECONDS)

    def _patience(self) -> Patience:
        return Patience(self.name, _BACK)

    def wait(self, progress: bool = False, timeout: float | None = None) -> RunState:
        """Wait until the run has ended, or is held: a held run does not go on by itself.

        Parameters
        ----------
        progress
            Show the stages meanwhile, in a terminal or a notebook.
        timeout
            Seconds to wait at most.

        Raises
        ------
        RunFailed
            It ended without a model, or is held; the message says why, and what to do.
        TimeoutError
            It has not ended in time.
        """
        return wait_for(self, progress, timeout)

    def logs(self, stage: str | None = None, task: int | None = None, stderr: bool = False) -> str:
        """Return what a task has said so far, also while it runs; without a stage, the most telling one."""
        params = self._log_params(stage, task, stderr)
        said, offset = b"", 0
        while True:
            wanted = {**params, "offset": offset}
            answer = self._calls.send("GET", f"{self._path}/logs", params=wanted, headers=_PLAIN)
            said += answer.content
            following = answer.headers.get("X-Next-Offset", "")
            if not answer.content or not following.isdecimal() or int(following) <= offset:
                return said.decode("utf-8", "replace")
            offset = int(following)

    def _log_params(self, stage: str | None, task: int | None, stderr: bool) -> dict[str, Any]:
        wanted = {"stage": stage, "task": task, "stream": "stderr" if stderr else "stdout"}
        return {**self._params, **{key: value for key, value in wanted.items() if value is not None}}

    def follow_logs(
        self, stage: str | None = None, task: int | None = None, stderr: bool = False
    ) -> Iterator[str]:
        """Yield what a task says as it says it, until it or the run ends; without a stage, one by one."""
        params = {**self._log_params(stage, task, stderr), "follow": "true"}
        for event in listening.listen(self._calls, f"{self._path}/logs", params, self._patience()):
            if event.kind == "log" and isinstance(event.content, dict):
                yield str(event.content.get("text", ""))

    def model(self) -> str:
        """Return the address of the model bundle; `fetch` brings it.

        Raises
        ------
        WrongState
            There is none (yet); the message says why.
        """
        state = self.status()
        if not state.bundle:
            raise WrongState(
                f"{self.name} has no model: it is {state.state}; see `mlaas-condor status {self.name}`"
            )
        return state.bundle

    def fetch(self, output: str | Path, told: Callable[[int, int], None] = lambda *_: None) -> Path:
        """Bring the model bundle to a file, or into a folder; what was interrupted before goes on.

        Parameters
        ----------
        told
            Gets how many bytes are here, and how many there are in all.

        Raises
        ------
        WrongState
            There is none (yet).
        CannotWrite
            There is no place for it.
        """
        self.model()
        path = Path(output).expanduser()
        path = path / f"{self.name}.tar.gz" if path.is_dir() else path
        downloading.fetch(self._calls, f"{self._path}/model", path, self._params, told, _is_whole)
        return path

    def metrics(self) -> Mapping[str, Any] | None:
        """Return the metrics on train, validation and test events, None before the training has ended."""
        try:
            return dict(self._get("metrics"))
        except WrongState:
            return None

    def history(self) -> list[dict[str, Any]]:
        """Return what each epoch gave; empty before the training has ended."""
        return list(self._get("history")["history"])

    def size(self) -> Size:
        """Return the size of its dataset, as it was planned."""
        from mlaas_condor.planning import Plan

        return Plan.model_validate(self._get("plan")).size

    def cancel(self) -> None:
        """Remove the run from the queue; what it has done stays, and `resume` goes on from there."""
        self._calls.send(
            "POST", f"{self._path}/cancel", params=self._params, repeat=False, seconds=_LONG_SECONDS
        )

    def resume(self) -> str:
        """Go on after a failure, a hold or a cancel, redoing only what is missing; return what was done."""
        answer = self._calls.ask(
            "POST", f"{self._path}/resume", params=self._params, repeat=False, seconds=_LONG_SECONDS
        )
        return str(answer["done"])

    def delete(self, keep_stored: bool = False) -> None:
        """Delete the run with its logs and its model.

        Parameters
        ----------
        keep_stored
            Leave the chunks of its chunk store there.

        Raises
        ------
        WrongState
            It is not over.
        """
        params = {**self._params, **({"keep_stored": "true"} if keep_stored else {})}
        self.status()  # it is there
        with suppress(RunNotFound):  # asked again, after an answer was lost
            self._calls.send("DELETE", self._path, params=params, seconds=_LONG_SECONDS)


def _is_whole(bundle: Path) -> bool:
    """Tell whether a bundle is as it was packed: at its end there is a checksum."""
    try:
        with gzip.open(bundle) as file:
            while file.read(_PIECE):
                pass
    except (EOFError, gzip.BadGzipFile, zlib.error):
        return False
    return True
