"""A service as its users meet it: the installed command in a process of its own, and curl."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

LISTENING = re.compile(r"listening at (?P<url>https?://\S+?),")
START_SECONDS = 60


class Served:
    """A service that runs.

    Parameters
    ----------
    process
        Its main process.
    url
        Where it listens.
    log
        File with what it says.
    """

    def __init__(self, process, url, log):
        self.process = process
        self.url = url
        self.log = log

    @property
    def port(self):
        return int(self.url.rpartition(":")[2])

    def stop(self, number=signal.SIGTERM):
        """Stop it; give its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(60)


def start(home, config="", log=None, **environment):
    """Start ``mlaas-condor serve``; return once it listens.

    Parameters
    ----------
    config
        Text of ``service.toml``.
    environment
        What differs from this process's.
    """
    home = Path(home)
    file = home / "service.toml"
    file.write_text(config)
    log = Path(log or home / "serve.log")
    begin = log.stat().st_size if log.exists() else 0
    named = {**os.environ, "MLAAS_CONDOR_HOME": str(home), "MLAAS_CONDOR_POOL": "personal", **environment}
    command = [sys.executable, "-P", "-m", "mlaas_condor.cli.main", "serve", "--config", str(file)]
    with log.open("ab") as out:
        process = subprocess.Popen(command, env=named, stdout=out, stderr=out)
    deadline = time.monotonic() + START_SECONDS
    while not (found := LISTENING.search(log.read_text()[begin:])):
        assert process.poll() is None, log.read_text()[begin:]
        assert time.monotonic() < deadline, f"not listening in {START_SECONDS} s: {log.read_text()[begin:]}"
        time.sleep(0.1)
    return Served(process, found["url"], log)


@contextmanager
def served(home, config="", **environment):
    """Serve for a while."""
    running = start(home, config, **environment)
    try:
        yield running
    finally:
        running.stop()


def curl(*arguments, check=True):
    """Run curl as a user does; give what it prints. Its own errors, not those of HTTP, raise."""
    done = subprocess.run(["curl", "-sS", *map(str, arguments)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 or not check, (arguments, done.stderr)
    return done.stdout


def bearer(token):
    """Return curl's arguments for a token."""
    return ("-H", f"Authorization: Bearer {token}")


def curl_json(*arguments):
    """Run curl, and give the JSON that it prints."""
    return json.loads(curl(*arguments))


def status_of(*arguments):
    """Run curl, and give the status of HTTP."""
    return int(curl("-o", os.devnull, "-w", "%{http_code}", *arguments))
