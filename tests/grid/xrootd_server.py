"""A real XRootD server: on loopback only, on a port of its own, as a user that is not root."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path

from requests_log import LogReader, Requests
from xrootd_install import CACHE, ensure_xrootd

START_SECONDS = 30.0
START_ATTEMPTS = 4
# What a client sends first, and the first bytes of any answer: stream 0, status ok.
HANDSHAKE = bytes(12) + (4).to_bytes(4) + (2012).to_bytes(4)

COMMON = """\
all.adminpath {folder}/admin
all.pidpath {folder}/admin
xrd.port {port}
xrd.sched mint 4 maxt 64 avlt 2 idle 60
# Requests are counted from this trace; with asynchronous reads or sendfile parts of it are missing.
xrootd.async off nosf
xrootd.trace login fs fsio request response
"""
FILES = """\
oss.localroot {data}
"""


class NoServer(RuntimeError):
    """A server cannot be run on this machine; the message says why."""


@functools.cache
def loopback_library():
    """Return the library that keeps a server to 127.0.0.1; compiled once for all tests to come."""
    source = Path(__file__).with_name("loopback.c")
    known = hashlib.sha256(source.read_bytes() + os.uname().machine.encode()).hexdigest()[:16]
    library = CACHE / f"loopback-{known}.so"
    if library.exists():
        return library
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        raise NoServer("no C compiler to make xrootd listen on 127.0.0.1 only (apt-get install gcc)")
    CACHE.mkdir(parents=True, exist_ok=True)
    # Another process may be at the same.
    made = library.with_suffix(f".{os.getpid()}")
    command = [compiler, "-shared", "-fPIC", "-O1", "-o", made, source, "-ldl", "-pthread"]
    subprocess.run(command, check=True)
    return made.rename(library)


@functools.cache
def other_user():
    """Return the command and the environment that let root run a server as another user.

    Its files stay those of root: in a user namespace root itself has another name. Where none can be
    made, the server is only told so.
    """
    if os.geteuid() != 0:
        return (), {}
    command = ("unshare", "--user", "--map-user=1000", "--map-group=1000")
    with contextlib.suppress(OSError):
        if subprocess.run([*command, "true"], capture_output=True).returncode == 0:
            return command, {}
    return (), {"TEST_XROOTD_UID": "1000"}


def free_port():
    """Return a port that no outgoing connection is given, so that a server can come back to it."""
    for _ in range(1000):
        port = random.randrange(20000, 32000)
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise NoServer("no free port between 20000 and 32000")


class Server:
    """An xrootd server; with this class itself one without authentication.

    Parameters
    ----------
    lines
        Of its configuration, in addition to those of every server; ``{folder}``, ``{data}`` and
        ``{port}`` are filled in.
    environment
        Of the process, in addition to a bare one.
    """

    exports = ("/data", "/store")
    "What clients may name; of these /store may be written where the server lets them."

    def __init__(self, lines="", environment=None):
        self.installed = ensure_xrootd()
        self.folder = Path(tempfile.mkdtemp(prefix="xrd-"))
        self.port = free_port()
        self.data = self.folder / "data"
        self.lines = lines
        self.environment = dict(environment or {})
        self.process = None
        self._reader = LogReader(self.folder / "xrootd.log")
        self._forgotten = 0
        for name in ("admin", "cache", *(f"data{path}" for path in self.exports)):
            (self.folder / name).mkdir(parents=True)

    # What a server is.

    def url(self, path="", user=""):
        """Return the address of a file: ``root://localhost:1234//data/a.root``."""
        at = f"{user}@" if user else ""
        return f"root://{at}localhost:{self.port}/{path}"

    @property
    def address(self):
        """The server alone: ``root://localhost:1234``."""
        return self.url().rstrip("/")

    def put(self, path, content):
        """Put a file there behind the server's back: bytes, or a file to copy."""
        target = self.data / path.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, bytes):
            target.write_bytes(content)
        else:
            shutil.copyfile(content, target)
        return self.url(path)

    def path(self, path):
        """Return where a file of the server lies on disk."""
        return self.data / path.lstrip("/")

    def leave_room(self, size):
        """Let only so many bytes more be written below /store; None: as many as the disk has."""
        room = self.folder / "room"
        if size is None:
            room.unlink(missing_ok=True)
        else:
            room.write_text(f"{size:<20d}\n")

    # What it is asked.

    def log(self):
        """Return the text of its log, of all starts."""
        log = self._reader.path
        return log.read_text("utf-8", errors="replace") if log.exists() else ""

    def requests(self, path=None):
        """Return what was asked since the last `forget_requests`, of one file or of all."""
        self._reader.read()
        found = self._reader.found[self._forgotten :]
        return Requests(each for each in found if path is None or each.path == path)

    def forget_requests(self):
        """Count anew from here."""
        self._reader.read()
        self._forgotten = len(self._reader.found)

    # Start and stop.

    def configuration(self):
        """Return the text of the configuration."""
        exports = "".join(f"all.export {path}\n" for path in self.exports)
        return self.fill(COMMON + FILES + exports + self.lines)

    def fill(self, text, **values):
        """Fill in what the lines of a configuration leave open."""
        return text.format(folder=self.folder, data=self.data, port=self.port, **values)

    def prepare(self):
        """Write what the server reads at its start."""
        (self.folder / "xrootd.cfg").write_text(self.configuration())

    def start(self):
        """Start it, or start it again on the same port; wait until it answers."""
        assert self.process is None, "it runs"
        self.prepare()
        command, as_other = other_user()
        environment = {
            "PATH": os.environ.get("PATH", os.defpath),
            "HOME": str(self.folder),
            "XDG_CACHE_HOME": str(self.folder / "cache"),
            "TEST_XROOTD_ROOM": str(self.folder / "room"),
            "TEST_XROOTD_STORE": str(self.data / "store"),
            "TEST_XROOTD_PARENT": str(os.getpid()),
            "LD_PRELOAD": str(loopback_library()),
            **self.installed.environment, **as_other, **self.environment,
        }  # fmt: skip
        for attempt in range(START_ATTEMPTS):
            self._launch(command, environment)
            # Threads of xrootd's own change and read its environment as it starts, which once in a hundred
            # times or so ends it.
            if self._wait(may_crash=attempt < START_ATTEMPTS - 1):
                return self
        raise AssertionError("the last attempt raises")

    def _launch(self, command, environment):
        # By env: the library is for the server alone, and not for what leads to it.
        bare = ["env", "-i", *(f"{name}={value}" for name, value in environment.items())]
        options = ["-I", "v4", "-l", self._reader.path, "-c", self.folder / "xrootd.cfg"]
        self.process = subprocess.Popen(
            [*command, *bare, self.installed.program("xrootd"), *options],
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def _wait(self, may_crash):
        """Wait until it answers; False if it crashed."""
        deadline = time.monotonic() + START_SECONDS
        while not answers(self.port):
            code = self.process.poll()
            if code is None and time.monotonic() < deadline:
                time.sleep(0.02)
                continue
            self.kill()
            if code == -signal.SIGSEGV and may_crash:
                return False
            what = "does not answer" if code is None else f"ended with {code}"
            raise RuntimeError(f"xrootd {what}; its log:\n{self.log()[-4000:]}")
        return True

    def kill(self):
        """End it at once, as a crash does."""
        self._end(signal.SIGKILL)

    def stop(self):
        """End it."""
        self._end(signal.SIGTERM)

    def _end(self, number):
        if self.process is None:
            return
        self.process.send_signal(number)
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process = None

    @contextlib.contextmanager
    def frozen(self):
        """Stop it without ending it: connections stay, nothing is answered, as of a host that hangs."""
        self.process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.process.send_signal(signal.SIGCONT)

    def close(self):
        """End it and delete its folder."""
        self.kill()
        shutil.rmtree(self.folder)

    def __enter__(self):
        try:
            return self.start()
        except BaseException:
            self.close()
            raise

    def __exit__(self, *_):
        self.close()


def answers(port):
    """Whether an xrootd server on a port answers the first bytes of a client."""
    try:
        with socket.create_connection(("127.0.0.1", port), 2) as connection:
            connection.sendall(HANDSHAKE)
            return len(connection.recv(16)) > 0
    except OSError:
        return False
