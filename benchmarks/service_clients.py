"""A service of its own to put load on, and everybody who does: what ``service.py`` measures with."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import os
import random
import re
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp
import numpy as np

LONGEST_SECONDS = 280
PROGRAM = Path(sys.executable).with_name("mlaas-condor")
WORKERS = 2
MODEL = """\
from sklearn.linear_model import LogisticRegression


def model():
    return LogisticRegression()
"""
LIMITS = """\
[limits]
running_runs = 1000
cpus = 10000
stored = "200gb"
requests_per_second = 1000000
uploads = 100
"""
PEER = """\
import sys
from types import ModuleType
from flask import Flask, jsonify
from mlaas_condor.server.serving import processes as serving
from mlaas_condor.server.configuration import Configuration
from mlaas_condor.settings import load

app = Flask("peer")
app.get("/")(lambda: jsonify(state="completed"))
stand_in = ModuleType("mlaas_condor.server.serving.wsgi")
stand_in.application = lambda configuration, settings: app
sys.modules[stand_in.__name__] = stand_in
say = lambda line: print(line, file=sys.stderr, flush=True)
configuration = Configuration.model_validate({"service": {"port": 0, "workers": int(sys.argv[2])}})
serving.serve(configuration, load(home=sys.argv[1]), None, say)
"""
"""A view that does nothing, behind the same server."""


class Server:
    """A service in a process of its own, which can be killed."""

    def __init__(self, command: list[str], log: Path) -> None:
        self.command, self.log = command, log
        self.url = ""

    def start(self) -> None:
        """Start it, and wait until it says where it listens, and somebody does."""
        with self.log.open("ab") as log:
            begin = log.tell()
            self.process = subprocess.Popen(self.command, stderr=log, start_new_session=True)
        while not (found := re.search(rb"listening at (\S+),", self.log.read_bytes()[begin:])):
            assert self.process.poll() is None, self.log.read_text()
            time.sleep(0.02)
        self.url = found[1].decode()
        while not self._listens():
            time.sleep(0.02)

    def _listens(self) -> bool:
        parts = urlsplit(self.url)
        with contextlib.suppress(OSError), socket.create_connection((parts.hostname, parts.port)):
            return True
        return False

    def kill(self, whole: bool) -> None:
        """Kill the main process, with which the others end; or all of them at the same moment."""
        if whole:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        """Stop it as an administrator would."""
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(60)


@dataclass
class Told:
    """What the clients have seen.

    Parameters
    ----------
    seconds
        How long requests took, by kind.
    again
        How often something had to be asked again, because nobody answered.
    errors
        What should not have been.
    runs, versions
        Accepted runs by their keys; acknowledged versions by folder.
    """

    seconds: dict[str, list[float]] = field(default_factory=dict)
    again: Counter[str] = field(default_factory=Counter)
    errors: list[str] = field(default_factory=list)
    runs: dict[str, str] = field(default_factory=dict)
    versions: dict[str, tuple[str, bytes]] = field(default_factory=dict)

    def line(self, *kinds: str) -> str:
        """Return how long requests took."""
        took = sorted(each for kind in kinds for each in self.seconds.get(kind, [])) or [0.0]
        middle, late = statistics.median(took) * 1000, took[int(len(took) * 0.99)] * 1000
        return f"median {middle:6.0f} ms, 99 % {late:6.0f} ms"


class Clients:
    """Everybody who asks something of a service at a time.

    Parameters
    ----------
    patient
        Whether to ask again where nobody answers.
    """

    def __init__(self, session: aiohttp.ClientSession, url: str, patient: bool) -> None:
        self.session, self.url, self.patient = session, url, patient
        self.told = Told()
        self.over = False

    async def ask(self, kind: str, method: str, path: str, **options: object) -> tuple[int, bytes]:
        """Ask, again if need be, and return status and content."""
        body = options.pop("body", None)
        while True:
            began = time.monotonic()
            try:
                made = {"data": body()} if callable(body) else {}
                async with self.session.request(method, self.url + path, **options, **made) as reply:
                    content = await reply.read()
            except (aiohttp.ClientConnectionError, aiohttp.ClientPayloadError) as error:
                if not self.patient:
                    self.told.errors.append(f"{kind}: {error!r}")
                    return 0, b""
                self.told.again[kind] += 1
                await asyncio.sleep(random.uniform(0.1, 0.5))
                continue
            if reply.status == 503 and self.patient and "Retry-After" in reply.headers:
                self.told.again[kind] += 1
                await asyncio.sleep(0.5)
                continue
            self.told.seconds.setdefault(kind, []).append(time.monotonic() - began)
            if reply.status >= 400:
                self.told.errors.append(f"{kind}: {reply.status} {content[:300]!r}")
            return reply.status, content

    async def watch(self, run: str, until: float) -> None:
        """Look at status and log of a run, one after the other, without a pause."""
        while time.monotonic() < until and not self.over:
            await self.ask("status", "GET", f"/api/v1/runs/{run}/status")
            await self.ask("logs", "GET", f"/api/v1/runs/{run}/logs")

    async def look(self, path: str, until: float) -> None:
        """Ask for the same without a pause."""
        while time.monotonic() < until:
            await self.ask("peer", "GET", path)

    async def upload(self, name: str, archive: Archive) -> None:
        """Upload a folder, and remember what was acknowledged."""
        headers = {"Content-Length": str(archive.size), "Content-Type": "application/x-tar"}
        status, content = await self.ask(
            "upload", "PUT", f"/api/v1/folders/{name}", headers=headers, body=archive.pieces
        )
        if status in (200, 201):
            self.told.versions[name] = json.loads(content)["version"], archive.mark

    async def submit(self, job: dict[str, object]) -> None:
        """Submit a run, and remember that it was accepted."""
        key = os.urandom(8).hex()
        headers = {"Idempotency-Key": key}
        status, content = await self.ask("submit", "POST", "/api/v1/runs", json=job, headers=headers)
        if status == 201:
            self.told.runs[key] = json.loads(content)["name"]


class Archive:
    """An archive with a large file that is the same for all, and a small one that tells it from others."""

    def __init__(self, payload: bytes) -> None:
        self.mark = os.urandom(16).hex().encode()
        self._parts = [_header("mark", len(self.mark)), _padded(self.mark)]
        self._parts += [_header("payload", len(payload)), payload, bytes(-len(payload) % 512 + 1024)]
        self.size = sum(map(len, self._parts))

    async def pieces(self):
        """Yield it as it is sent."""
        for part in self._parts:
            for start in range(0, len(part), 2**18):
                yield part[start : start + 2**18]


def _header(name: str, size: int) -> bytes:
    info = tarfile.TarInfo(f"bench/{name}")
    info.size = size
    return info.tobuf()


def _padded(content: bytes) -> bytes:
    return content + bytes(-len(content) % 512)


# ---- what there is to submit


def make_folder(folder: Path) -> dict[str, object]:
    """Write a small request; return its job."""
    import uproot

    rng = np.random.default_rng(1)
    for name, shift in (("signal", 1.0), ("background", 0.0)):
        with uproot.recreate(folder / f"{name}.root") as file:
            file["events"] = {f"x{i}": rng.normal(shift, 1, 2000).astype("f4") for i in range(3)}
    (folder / "files.txt").write_text("signal.root\nbackground.root\n")
    (folder / "labels.txt").write_text("1\n0\n")
    (folder / "model.py").write_text(MODEL)
    (folder / "params.json").write_text(json.dumps({"branch": "events", "chunk_size": 2000}))
    names = {"files": "files.txt", "labels": "labels.txt", "model": "model.py", "params": "params.json"}
    return {"name": "bench", **names}


def packed(folder: Path) -> bytes:
    """Return a folder as a tarball."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        archive.add(folder, "bench")
    return buffer.getvalue()


async def first_run(clients: Clients, folder: Path, until_done: bool) -> tuple[dict[str, object], str]:
    """Upload the request and submit the run that everybody looks at; return its job and its name."""
    job = make_folder(folder)
    content = packed(folder)
    await clients.ask("set-up", "PUT", "/api/v1/folders/bench", data=content)
    await clients.submit(job)
    assert not clients.told.errors, clients.told.errors
    (name,) = clients.told.runs.values()
    while until_done:
        _, content = await clients.ask("set-up", "GET", f"/api/v1/runs/{name}/status")
        state = json.loads(content)
        if state["state"] in ("completed", "failed", "cancelled"):
            assert state["state"] == "completed", state
            break
        await asyncio.sleep(0.5)
    return job, name


@contextlib.asynccontextmanager
async def connected(url: str, patient: bool = False):
    """Give clients."""
    connector, timeout = aiohttp.TCPConnector(limit=0), aiohttp.ClientTimeout(total=LONGEST_SECONDS)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
        yield Clients(session, url, patient)


@contextlib.contextmanager
def running(options, with_peer=True):
    """Give a service with a pool, a peer, and the folder of both; end them."""
    from mlaas_condor import settings
    from mlaas_condor.batch import pool

    home = Path(tempfile.mkdtemp(prefix="mlaas-bench-"))
    (home / "request").mkdir()
    (home / "service.toml").write_text(f'home = "{home}"\npool = "personal"\n{LIMITS}')
    keep = settings.load(home=str(home), pool="personal")
    command = [str(PROGRAM), "serve", "--config", str(home / "service.toml")]
    command += ["--port", str(free_port()), "--workers", str(WORKERS)]
    server = Server(command, home / "service.log")
    peer = Server([sys.executable, "-P", "-c", PEER, str(home / "peer"), str(WORKERS)], home / "peer.log")
    pool.up(keep, cpus=1)
    try:
        server.start()
        if with_peer:
            peer.start()
        yield server, peer, home
    finally:
        for each in (server, peer):
            if hasattr(each, "process"):
                each.stop()
        pool.use(keep)
        pool.down(keep, force=True)
        if options.keep:
            print(f"kept: {home}")
        else:
            shutil.rmtree(home)


def free_port() -> int:
    """Return a port that nobody has now: it stays the same when the service is started again."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
