"""A process of its own that looks at runs, and asks HTCondor how they do.

A call of HTCondor's bindings lets no other thread of its process run, also while a daemon does not answer,
and reading what 10,000 jobs did takes a second. A service must stop for neither: it asks this process, and
ends it where no answer comes.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable, Sequence
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import Any, Literal, cast

from mlaas_condor import runs
from mlaas_condor.batch import events, pool
from mlaas_condor.errors import MlaasError, PoolLost
from mlaas_condor.run import RunFolder
from mlaas_condor.settings import Settings
from mlaas_condor.state import RunState

_FILES_SECONDS = 120.0  # to read what is on disk: runs may have 100,000 jobs
_LEFT_SECONDS = 600  # after which it ends itself, should nobody be left to end it

Message = tuple[Literal["asking", "told", "failed"], Any]
"""That HTCondor is asked now; the answer; why there is none."""


class Looking:
    """Asks the process, a question at a time; starts it where there is none.

    Parameters
    ----------
    settings
        Where the runs and the pool are.
    pool_seconds
        How long to wait for what HTCondor is asked for; by default, longer than a busy pool takes.
    """

    def __init__(self, settings: Settings, pool_seconds: float | None = None) -> None:
        self._settings = settings
        self._turn = threading.Lock()
        self._connection: Connection[Any, Any] | None = None
        self._starter = 0
        self._end: Callable[[], object] = _nothing
        self._pool_seconds = pool_seconds or pool.ANSWER_SECONDS[pool.find(settings).kind] + 10.0
        self.process = 0

    def states(self, folders: Sequence[RunFolder], problem: str = "") -> tuple[list[RunState], str]:
        """Return the states of runs, and why the pool could not be asked, empty where it could.

        Parameters
        ----------
        folders
            The runs, of any owners.
        problem
            Why it is not to be asked: then what the disk tells is told.

        Raises
        ------
        PoolLost
            There was no answer in time.
        """
        return cast(tuple[list[RunState], str], self._ask("states", list(folders), problem))

    def jobs(self, folder: RunFolder) -> list[events.Job]:
        """Return the jobs of a run, as its event log tells them."""
        return cast(list[events.Job], self._ask("jobs", folder))

    def events(self, folder: RunFolder) -> list[events.Event]:
        """Return the events of a run and of its DAGMan, oldest first."""
        return cast(list[events.Event], self._ask("events", folder))

    def close(self) -> None:
        """End the process; the next question starts another."""
        with self._turn:
            self._stop()

    def _ask(self, question: str, *arguments: object) -> object:
        with self._turn:
            connection = self._connected()
            try:
                connection.send((question, arguments))
                kind, answer = self._received(connection, "the disk", _FILES_SECONDS)
                if kind == "asking":
                    kind, answer = self._received(connection, "HTCondor", self._pool_seconds)
            except (EOFError, OSError) as error:
                self._stop()
                raise PoolLost("the process that asks HTCondor has died; it is started again") from error
        if kind == "failed":
            raise MlaasError(f"it cannot be told: {answer}")
        return cast(object, answer)

    def _received(self, connection: Connection[Any, Any], whom: str, seconds: float) -> Message:
        if not connection.poll(seconds):
            self._stop()
            raise PoolLost(f"{whom} has not answered within {seconds:g} s")
        return cast(Message, connection.recv())

    def _connected(self) -> Connection[Any, Any]:
        if self._connection is not None and self._starter == os.getpid():
            return self._connection
        ours, theirs = Pipe()
        command = [sys.executable, "-P", "-m", "mlaas_condor.server.watching.looking", str(theirs.fileno())]
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            pass_fds=[theirs.fileno()],
            # Ctrl-C is for the service, which then ends this.
            start_new_session=True,
        )
        theirs.close()
        ours.send(self._settings)
        self._connection, self._starter, self.process = ours, os.getpid(), process.pid
        self._end = weakref.finalize(self, _end, ours, process)
        return ours

    def _stop(self) -> None:
        self._end()
        self._connection, self._end = None, _nothing


def _nothing() -> None: ...


def _end(connection: Connection[Any, Any], process: subprocess.Popen[bytes]) -> None:
    connection.close()
    process.kill()
    process.wait()


def _states(
    settings: Settings, say: Callable[[Message], None], folders: list[RunFolder], problem: str
) -> tuple[list[RunState], str]:
    found = [problem]

    def turn() -> str:
        say(("asking", None))
        found[0] = problem or runs.pool_problem(settings)
        return found[0]

    return runs.states(folders, settings, turn_to_pool=turn), found[0]


def _jobs(_: Settings, __: object, folder: RunFolder) -> list[events.Job]:
    return events.read(folder.events_log)


def _events(_: Settings, __: object, folder: RunFolder) -> list[events.Event]:
    told = [*events.listed(folder.dagman_log, "dagman"), *events.listed(folder.events_log)]
    return sorted(told, key=lambda event: event.time)


_ANSWERS: dict[str, Callable[..., object]] = {"states": _states, "jobs": _jobs, "events": _events}


def main() -> None:
    """Answer what comes through the connection of a descriptor, until it is closed."""
    connection: Connection[Any, Any] = Connection(int(sys.argv[1]))
    try:
        settings = connection.recv()
        while True:
            question, arguments = connection.recv()
            # The kernel's, as no other thread could end a call that does not return.
            signal.alarm(_LEFT_SECONDS)
            connection.send(_answer(settings, connection.send, question, arguments))
            signal.alarm(0)
    except (EOFError, OSError):
        return


def _answer(
    settings: Settings, say: Callable[[Message], None], question: str, arguments: tuple[object, ...]
) -> Message:
    try:
        return "told", _ANSWERS[question](settings, say, *arguments)
    except Exception as error:
        return "failed", f"{type(error).__name__}: {error}"


if __name__ == "__main__":
    main()
