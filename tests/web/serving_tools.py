"""What tests of the running service need: to start it, to talk to it below HTTP, to see that it is gone."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from urllib.parse import urlsplit

SMALL = Path(__file__).with_name("small_service.py")
PROGRAM = Path(sys.executable).with_name("mlaas-condor")


class Served:
    """A service in a process of its own."""

    def __init__(self, command, env=None):
        self.process = subprocess.Popen(
            [str(each) for each in command],
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, **(env or {})},
            start_new_session=True,
        )
        self.lines = []
        self._heard = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        found = re.search(r"listening at (https?://\S+),", self.wait_for_line("listening at"))
        self.url = found[1]
        wait_until(self._answers)

    def _read(self):
        for line in self.process.stderr:
            with self._heard:
                self.lines.append(line.rstrip("\n"))
                self._heard.notify_all()

    def wait_for_line(self, text, seconds=60):
        """Return the first line with a text."""
        with self._heard:
            found = self._heard.wait_for(lambda: self._line(text) or self.process.poll() is not None, seconds)
            found = self._line(text)
        assert found, "\n".join(self.lines)
        return found

    def _line(self, text):
        return next((line for line in self.lines if text in line), "")

    def _answers(self):
        assert self.process.poll() is None, "\n".join(self.lines)
        with contextlib.suppress(OSError), self.connect():
            return True
        return False

    @property
    def address(self):
        parts = urlsplit(self.url)
        return parts.hostname, parts.port

    def connect(self, seconds=30):
        """Return a connection."""
        return socket.create_connection(self.address, timeout=seconds)

    def ask(self, text, seconds=30):
        """Send bytes as they are, and return all that comes until the other side closes."""
        with self.connect(seconds) as connection:
            connection.sendall(text)
            return everything(connection)

    def workers(self):
        """Return the numbers of the processes that answer requests."""
        return children(self.process.pid)

    def records(self):
        """Return the lines of the log."""
        return [json.loads(line) for line in self.lines if line.startswith("{")]

    def stop(self, number=signal.SIGTERM, seconds=60):
        """End it, and return its exit code."""
        self.process.send_signal(number)
        code = self.process.wait(seconds)
        self._reader.join(10)
        return code

    def end(self):
        """Leave nothing of it, whatever happened."""
        left = [self.process.pid, *self.workers()]
        for number in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(number, signal.SIGKILL)
        self.process.wait(30)
        self._reader.join(10)
        self.process.stderr.close()


def everything(connection):
    """Return all that comes until the other side closes."""
    found = b""
    with contextlib.suppress(ConnectionError):
        while piece := connection.recv(65536):
            found += piece
    return found


@contextlib.contextmanager
def served(command, env=None):
    """Run a service."""
    service = Served(command, env)
    try:
        yield service
    finally:
        service.end()


def small(home, tls=None, **listen):
    """Return the command of the small service."""
    configuration = {"service": {"port": 0, "workers": 1, **listen}}
    if tls:
        configuration["tls"] = {name: str(path) for name, path in tls.items()}
    return [sys.executable, "-P", SMALL, json.dumps(configuration), home]


def children(parent):
    """Return the processes whose parent is one."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = path.read_text().rpartition(")")[2].split()
            if int(fields[1]) == parent and fields[0] != "Z":
                found.append(int(path.parent.name))
    return found


def lives(number):
    """Tell whether a process is there."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def wait_until(condition, seconds=60):
    """Wait until something is so."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, f"not within {seconds} s: {condition}"
        time.sleep(0.05)
    return found
