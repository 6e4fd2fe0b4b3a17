"""A process that has loaded all that `acting` needs, and makes a copy of itself for each act.

    python -P -m mlaas_condor.server.acting.forking < SOCKET

Starting Python and loading its libraries takes longer than most plans. This one loads them once, keeps no
thread and no connection, and never does anything but fork: its copies get the environment of an owner, do
one act and end. It ends with whoever started it; its copies come to their own end.

A message on the socket brings three descriptors, or four: a file with an act and an environment, pickled;
where the answer goes; where errors go; and a locked file, whose lock the copy holds as well. When the copy
has ended, its exit code follows the answer on a line of its own.
"""

from __future__ import annotations

import os
import pickle
import select
import signal
import socket
import sys
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import NoReturn

from . import process as acting

# Loaded by nearly every plan. Not XRootD's client, of which a copy would lack the threads, nor HTCondor's
# library, which looks at the environment only once.
_EARLY = (
    "awkward", "encodings.utf_8_sig", "numpy.ma", "uproot", "cryptography.x509", "mlaas_condor.data.rootfile",
    "mlaas_condor.grid.certificates", "mlaas_condor.local",
)  # fmt: skip
_MOST_DESCRIPTORS = 4


def main() -> None:
    """Fork for each message on standard input, until nobody is left to send one."""
    for name in _EARLY:
        import_module(name)
    ended, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    control = socket.socket(fileno=os.dup(0))
    answers: dict[int, int] = {}
    while True:
        ready, _, _ = select.select([control.fileno(), ended], [], [])
        if ended in ready:
            os.read(ended, 512)
            _reap(answers)
        if control.fileno() not in ready:
            continue
        message, descriptors, _, _ = socket.recv_fds(control, 16, _MOST_DESCRIPTORS)
        if not message:
            return
        # What is left of the copies before this one is not for it.
        theirs = [control.fileno(), ended, wake, *answers.values()]
        threads = len(list(Path("/proc/self/task").iterdir()))
        pid = os.fork()
        if not pid:
            _act(descriptors, theirs, anew=threads > 1)
        answers[pid] = descriptors[1]
        for each in (descriptors[0], *descriptors[2:]):
            os.close(each)


def _reap(answers: dict[int, int]) -> None:
    """Say how copies have ended."""
    while answers:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if not pid:
            return
        answer = answers.pop(pid)
        os.set_blocking(answer, False)
        with suppress(BlockingIOError, BrokenPipeError):  # nobody reads: then nobody asks either
            os.write(answer, f"\n{os.waitstatus_to_exitcode(status)}\n".encode())
        os.close(answer)


def _act(descriptors: list[int], others: list[int], anew: bool) -> NoReturn:
    """Be the process that acts.

    Parameters
    ----------
    anew
        Start Python again: a library has a thread here after all, which a copy lacks.
    """
    try:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        given, answer, errors, *locks = descriptors
        for each in others:
            os.close(each)
        os.setsid()
        nothing = os.open(os.devnull, os.O_RDWR)
        os.dup2(nothing, 0)
        os.dup2(nothing, 1)
        os.dup2(errors, 2)
        with os.fdopen(os.dup(given), "rb") as file:
            act, environment = pickle.load(file)
        if anew:
            os.lseek(given, 0, os.SEEK_SET)
            os.dup2(given, 0)
            for each in (answer, *locks):
                os.set_inheritable(each, True)
            command = [sys.executable, "-P", "-m", "mlaas_condor.server.acting.process", str(answer)]
            os.execve(sys.executable, command, environment)
        os.environ.clear()
        os.environ.update(environment)
        acting.perform(act, os.fdopen(answer, "w"))
    except BaseException:
        sys.excepthook(*sys.exc_info())
        sys.stderr.flush()
        os._exit(1)
    sys.stderr.flush()
    # Threads of libraries that wait for a server are not waited for.
    os._exit(0)


if __name__ == "__main__":
    main()
