"""Having a process act for an owner, and what comes back from it."""

from __future__ import annotations

import json
import logging
import os
import pickle
import select
import signal
import socket
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Mapping
from contextlib import suppress
from typing import IO, Any

from mlaas_condor import errors
from mlaas_condor.errors import MlaasError, Problem, RequestError

from .. import faults
from ..faults import HttpFault, Unavailable
from .acts import HANDED_ON, SECONDS, TOO_LONG, WITHOUT_THREADS, Act

_PATIENCE = 60.0  # seconds beyond what an act may take
_MOST_ERRORS = 20_000  # bytes of standard error that go into the log
_log = logging.getLogger(__name__)


class Starter:
    """Keeps the process that forks for each act; makes another where it is gone."""

    def __init__(self) -> None:
        self._turn = threading.Lock()
        self._control: socket.socket | None = None
        self._owner = 0  # the process that it was started by: one that was forked from it makes its own
        self._process: subprocess.Popen[bytes] | None = None

    def answer_of(
        self, act: Act, environment: Mapping[str, str], lock: IO[bytes] | None = None
    ) -> dict[str, Any]:
        """Have a process do an act, and return what it answers.

        Parameters
        ----------
        environment
            All that it knows of ours.
        lock
            A file whose lock it holds as well, to its own end: also should this process be killed.

        Raises
        ------
        MlaasError
            Whatever it has raised; or that it ended without an answer.
        """
        reading, writing = os.pipe()
        given, said = os.memfd_create("act"), os.memfd_create("errors")
        try:
            with os.fdopen(os.dup(given), "wb") as file:
                pickle.dump((act, dict(environment)), file)
            os.lseek(given, 0, os.SEEK_SET)
            self._send([given, writing, said, *([lock.fileno()] if lock else [])], environment)
            os.close(writing)
            writing = -1
            text, code = _read(reading)
            _report(act, said)
        finally:
            for each in (reading, given, said, *([writing] if writing >= 0 else [])):
                os.close(each)
        return _understood(text, code)

    def _send(self, descriptors: list[int], environment: Mapping[str, str]) -> None:
        with self._turn:
            for control in (self._there(environment), None):
                try:
                    socket.send_fds(control or self._start(environment), [b"act"], descriptors)
                    return
                except OSError as error:
                    if control is None:
                        raise Unavailable(
                            f"no process can be started for this: {error.strerror}: try again soon",
                            {"Retry-After": "10"},
                        ) from error

    def _there(self, environment: Mapping[str, str]) -> socket.socket:
        if self._control is None or self._owner != os.getpid():
            return self._start(environment)
        return self._control

    def _start(self, environment: Mapping[str, str]) -> socket.socket:
        self._stop()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "mlaas_condor.server.acting.forking"],
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                env={name: environment[name] for name in HANDED_ON if name in environment} | WITHOUT_THREADS,
                cwd="/",
                # It ends what it has begun also when the service is stopped meanwhile.
                start_new_session=True,
            )
        self._control, self._owner = ours, os.getpid()
        weakref.finalize(self, _end, self._process, ours)
        return ours

    def _stop(self) -> None:
        if self._control is not None and self._process is not None and self._owner == os.getpid():
            _end(self._process, self._control)
        self._control = self._process = None


def _end(process: subprocess.Popen[bytes], control: socket.socket) -> None:
    """Let it end, which it does at once; what it has forked comes to its own end."""
    control.close()
    with suppress(subprocess.TimeoutExpired):
        process.wait(5)


def _read(reading: int) -> tuple[bytes, int | None]:
    """Return an answer, and the exit code of who gave it; None where nobody is left to tell."""
    deadline = time.monotonic() + SECONDS + _PATIENCE
    parts = []
    while True:
        if not select.select([reading], [], [], max(0.0, deadline - time.monotonic()))[0]:
            raise Unavailable(TOO_LONG, {"Retry-After": "60"})
        part = os.read(reading, 2**16)
        if not part:
            break
        parts.append(part)
    text, _, code = b"".join(parts).rstrip(b"\n").rpartition(b"\n")
    if code.lstrip(b"-").isdigit():
        return text, int(code)
    return b"".join(parts), None


def _report(act: Act, said: int) -> None:
    """Put what a process has said into the log."""
    size = os.lseek(said, 0, os.SEEK_END)
    os.lseek(said, max(0, size - _MOST_ERRORS), os.SEEK_SET)
    text = os.read(said, _MOST_ERRORS).decode("utf-8", "replace").strip()
    if text:
        _log.warning("%s for %s: %s", act.what, act.settings.owner or "the one user", text)


def _understood(text: bytes, code: int | None) -> dict[str, Any]:
    try:
        answer = dict(json.loads(text))
    except ValueError:
        raise _no_answer(code) from None
    if "unforeseen" in answer:
        raise RuntimeError(answer["unforeseen"])
    if "error" in answer:
        raise _error(answer)
    return answer


def _no_answer(code: int | None) -> Exception:
    if code is None:
        return Unavailable("the process that looked at this was ended: try again", {"Retry-After": "5"})
    if code >= 0:  # a mistake of ours, which the log tells of
        return RuntimeError(f"the process that acts ended with code {code}, and without an answer")
    if -code in (signal.SIGALRM, signal.SIGKILL, signal.SIGTERM, signal.SIGXCPU):
        return Unavailable(
            "looking at this request took too long, or too much memory, and was ended: try again, or name "
            "fewer files",
            {"Retry-After": "60"},
        )
    return faults.Unprocessable(
        f"looking at the files of this request ended the process that did ({signal.Signals(-code).name}): "
        "one of them may be damaged; `mlaas-condor inspect` on your own machine tells which"
    )


def _error(answer: Mapping[str, Any]) -> MlaasError:
    """Return the error of an answer as it was raised there."""
    problems = [Problem(**each) for each in answer.get("problems", ())]
    if problems:
        return RequestError(problems)
    kind = getattr(errors, answer["error"], None) or getattr(faults, answer["error"], None)
    if not (isinstance(kind, type) and issubclass(kind, MlaasError)) or kind is RequestError:
        return MlaasError(answer["message"])
    if issubclass(kind, HttpFault):
        return kind(answer["message"], answer.get("headers"))
    return kind(answer["message"])
