"""Run Python in a process of its own: the XRootD client keeps the credentials it first saw in a process."""

from __future__ import annotations

import inspect
import os
import pickle
import subprocess
import sys
import tempfile
import textwrap
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Nothing of whoever runs the tests comes near a server: their proxies and tokens, and settings of the client.
PRIVATE = ("X509_", "BEARER_TOKEN", "XRD_", "Xrd", "XrdSec", "XDG_RUNTIME_DIR")

_RUNNER = """\
import pickle, sys, warnings
warnings.simplefilter("error")
source, name, arguments, file = pickle.load(sys.stdin.buffer)
space = {"__name__": "in_process"}
try:
    exec(compile(source, "<in_process>", "exec"), space)
    outcome = space[name](*arguments) if name else space.get("result"), None
except BaseException as error:
    outcome = None, error
try:
    content = pickle.dumps(outcome)
except Exception:
    content = pickle.dumps((None, RuntimeError(repr(outcome[0] if outcome[1] is None else outcome[1]))))
with open(file, "wb") as stream:
    stream.write(content)
"""


@dataclass(frozen=True)
class Done:
    """What a process came to: a result or an error that was raised, what it printed, how long it took."""

    result: Any
    error: BaseException | None
    stdout: str
    stderr: str
    seconds: float
    returncode: int

    def get(self):
        """Return the result, or raise what was raised there."""
        if self.error is not None:
            raise self.error
        assert self.returncode == 0, f"ended with {self.returncode}: {self.stderr}"
        return self.result


def in_process(work, *arguments, env=None, timeout=120.0, cwd=None):
    """Run a function, or lines of Python that set ``result``, in a fresh process.

    Parameters
    ----------
    work
        A function whose source stands for itself (it imports what it needs), or the lines.
    arguments
        Of the function; they travel pickled, as does its result.
    env
        Of the process, in addition to this process's; a value of None takes a name away.
    """
    source, name = work, None
    if callable(work):
        source, name = textwrap.dedent(inspect.getsource(work)), work.__name__
    environment = os.environ | {key: str(value) for key, value in (env or {}).items()}
    for key in [key for key, value in (env or {}).items() if value is None]:
        del environment[key]
    descriptor, file = tempfile.mkstemp(prefix="in_process-")
    os.close(descriptor)
    begin = time.monotonic()
    try:
        done = subprocess.run(
            [sys.executable, "-c", _RUNNER],
            input=pickle.dumps((source, name, arguments, file)),
            capture_output=True,
            env=environment,
            timeout=timeout,
            cwd=cwd,
        )
        seconds = time.monotonic() - begin
        content = Path(file).read_bytes()
    finally:
        Path(file).unlink()
    result, error = pickle.loads(content) if content else (None, None)
    text = (each.decode("utf-8", "replace") for each in (done.stdout, done.stderr))
    return Done(result, error, *text, seconds, done.returncode)


def names_of_credentials(environment):
    """Return the variables that name credentials, or settings of the XRootD client."""
    return [name for name in environment if name.startswith(PRIVATE)]


def read_bytes(url, size=0, offset=0):
    """Read through the plain client, in `in_process`; give bytes, or code, errno and message of a failure."""
    from XRootD import client

    def failed(status):
        return status.code, status.errno, status.message.strip()

    file = client.File()
    status, _ = file.open(url)
    if not status.ok:
        return failed(status)
    status, content = file.read(offset, size)
    file.close()
    return content if status.ok else failed(status)


def write_bytes(url, content):
    """Write through the plain client, in `in_process`; give None, or code, errno and message of a failure."""
    from XRootD import client
    from XRootD.client.flags import OpenFlags

    file = client.File()
    status, _ = file.open(url, OpenFlags.DELETE | OpenFlags.MAKEPATH)
    if status.ok:
        status, _ = file.write(content, 0)
        closed, _ = file.close()
        status = closed if status.ok else status
    return None if status.ok else (status.code, status.errno, status.message.strip())
