"""Starting the service: what is looked at before, granian's processes, and how they end."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import resource
import shutil
import socket
import ssl
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from ipaddress import ip_address
from itertools import islice
from pathlib import Path
from typing import Any

from granian.constants import HTTPModes, Interfaces, Loops, SSLProtocols
from granian.http import HTTP1Settings
from granian.log import LogLevels
from granian.server.mp import MPServer

from mlaas_condor import runs
from mlaas_condor.batch import pool
from mlaas_condor.errors import CredentialFault, Problem, RequestError
from mlaas_condor.grid import certificates
from mlaas_condor.settings import Settings

from ..configuration import Configuration, Tls
from ..login import Login
from . import journal
from .gateway import Gateway

_HEADER_SECONDS = 30  # for the headers of a request; an idle connection is closed after as long
_CONNECTIONS = 4096  # of each process, idle ones too
_OPEN_FILES = 65_536
_LISTENING = "0A"  # in the kernel's tables of connections
_PORT_SECONDS = 5.0
_SOON_SECONDS = 14 * 86_400
_METRICS = "PROMETHEUS_MULTIPROC_DIR"
_TOML = "service.toml: "
_log = logging.getLogger(__name__)


def configured(path: Path | None, **given: object) -> Configuration:
    """Read ``service.toml``; what a command line says of ``[service]`` replaces what the file says.

    Raises
    ------
    RequestError
        With everything that is wrong with it.
    """
    read = Configuration.read(path)
    changes = {name: value for name, value in given.items() if value is not None}
    return read.model_copy(update={"service": read.service.model_copy(update=changes)})


def check(configuration: Configuration, settings: Settings) -> list[str]:
    """Look at everything that the service needs, and return what whoever starts it should know.

    Raises
    ------
    RequestError
        With everything for which it must not start.
    """
    problems = [
        *Login.check(configuration),
        *_home_problems(settings),
        *_file_problems(configuration),
        *(_tls_problems(configuration.tls) if configuration.tls else ()),
        *_port_problems(configuration),
    ]
    if problems:
        raise RequestError(problems)
    return [each for each in (Login.warning(configuration), *_warnings(configuration, settings)) if each]


def _home_problems(settings: Settings) -> Iterator[Problem]:
    folder = settings.home / "service"
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        yield Problem("home", f"{folder} cannot be written: {error.strerror}", "set home in service.toml")


def _file_problems(configuration: Configuration) -> Iterator[Problem]:
    path = configuration.service.metrics_token_file
    if path is not None:
        place = f"{_TOML}service.metrics_token_file"
        try:
            if not path.read_bytes().strip():
                yield Problem(place, f"{path} is empty")
        except OSError as error:
            yield Problem(place, f"{path} cannot be read: {error.strerror}")
    if (log := configuration.service.log) is not None:
        try:
            log.open("a").close()
        except OSError as error:
            yield Problem(f"{_TOML}service.log", f"{log} cannot be written: {error.strerror}")
    for folder in configuration.inputs.folders:
        if not folder.is_dir():
            yield Problem(f"{_TOML}inputs.folders", f"{folder} is no folder that this account sees")


def _tls_problems(tls: Tls) -> Iterator[Problem]:
    for name, path in (("certificate", tls.certificate), ("key", tls.key)):
        try:
            path.open("rb").close()
        except OSError as error:
            yield Problem(f"{_TOML}tls.{name}", f"{path} cannot be read: {error.strerror}")
            return
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        # Without an answer it would ask for a password on the terminal.
        context.load_cert_chain(tls.certificate, tls.key, password=lambda: b"")
    except (ssl.SSLError, ValueError) as error:
        why = "they do not belong together" if "MISMATCH" in str(error) else str(error)
        yield Problem(f"{_TOML}tls", f"{tls.certificate} and {tls.key} do not do: {why}", "PEM, no password")


def _port_problems(configuration: Configuration) -> Iterator[Problem]:
    try:
        _reserve(configuration.service.host, configuration.service.port).close()
    except OSError as error:
        place = f"{configuration.service.host}:{configuration.service.port}"
        yield Problem(f"{_TOML}service", f"cannot listen on {place}: {error.strerror}", "set host and port")


def _warnings(configuration: Configuration, settings: Settings) -> Iterator[str]:
    if configuration.tls is not None:
        yield from _tls_warnings(configuration.tls)
    if configuration.login.method != "none" and pool.find(settings).kind == "personal":
        yield (
            "the pool is a personal one: all jobs run as the account of the service, on its machine, so that "
            "a user's model file could read what others have here; for several users take a pool whose "
            "execution points are machines of their own"
        )
    yield runs.pool_problem(settings)


def _tls_warnings(tls: Tls) -> Iterator[str]:
    with contextlib.suppress(CredentialFault):  # a kind of key that no proxy has
        left = certificates.load_pair(tls.certificate, tls.key).ends - time.time()
        if left < _SOON_SECONDS:
            yield f"the certificate {tls.certificate} ends in {left / 86_400:.0f} days, or has ended"
    if tls.key.stat().st_mode & 0o004:
        yield f"everybody on this machine can read {tls.key}: chmod 600"


def _reserve(host: str, port: int) -> socket.socket:
    """Return a socket that holds a port without listening, so that only our processes listen there.

    Raises
    ------
    OSError
        Somebody else does, and goes on.
    """
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    family, kind, number, _, address = found[0]
    until = time.monotonic() + _PORT_SECONDS
    # Another service like this one would share the port without a word. One that was killed is about to end.
    while port and _is_listening(str(address[0]), port):
        if time.monotonic() > until:
            raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))
        time.sleep(0.1)
    held = socket.socket(family, kind, number)
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    try:
        held.bind(address)
    except OSError:
        held.close()
        raise
    return held


def _is_listening(address: str, port: int) -> bool:
    """Tell whether somebody listens at an address, or at all of them; of this account or another."""
    any_address = not any(ip_address(address).packed)
    for table in ("tcp", "tcp6"):
        with contextlib.suppress(OSError), Path("/proc/net", table).open() as file:
            for line in islice(file, 1, None):
                _, local, _, state, *_ = line.split()
                there, _, number = local.partition(":")
                same = any_address or not int(there, 16) or there == _as_in_tables(address)
                if state == _LISTENING and int(number, 16) == port and same:
                    return True
    return False


def _as_in_tables(address: str) -> str:
    """Return an address as the kernel's tables have it: words of four bytes, each from its end."""
    packed = ip_address(address).packed
    return "".join(packed[i : i + 4][::-1].hex() for i in range(0, len(packed), 4)).upper()


@dataclass
class _Loader:
    """Makes what granian calls, in each of its processes.

    Parameters
    ----------
    path
        File of the configuration; it is read again when processes are replaced (SIGHUP).
    parent
        Number of the process that starts them.
    """

    configuration: Configuration
    settings: Settings
    path: Path | None
    parent: int

    def __call__(self) -> Any:
        from .wsgi import application

        listen = self.configuration.service
        return Gateway(
            application(self.configuration, self.settings),
            threads=listen.threads,
            streams=listen.streams,
            body_seconds=listen.body_seconds,
            stop_seconds=listen.stop_seconds,
            parent=self.parent,
        )

    def read_again(self) -> None:
        """Take what is in the file now, but for where it listens; if something is wrong with it, nothing."""
        if self.path is None:
            return
        try:
            fresh = Configuration.read(self.path)
            if problems := Login.check(fresh):
                raise RequestError(problems)
        except RequestError as error:
            _log.error("%s is not read again: %s", self.path, error)
            return
        self.configuration = fresh.model_copy(update={"service": self.configuration.service})


def serve(
    configuration: Configuration, settings: Settings, path: Path | None, say: Callable[[str], None]
) -> None:
    """Serve until SIGTERM or SIGINT comes; SIGHUP replaces the processes one by one.

    Parameters
    ----------
    path
        File that the configuration is from, if it is from one.
    say
        Called with where it listens, once it does.
    """
    listen = configuration.service
    loader = _Loader(configuration, settings, path, os.getpid())
    with _reserve(listen.host, listen.port) as held, _metrics_folder():
        address, port = held.getsockname()[:2]
        server = _server(configuration, address, port)
        server.on_reload(loader.read_again)
        scheme = "https" if configuration.tls else "http"
        shown = f"[{address}]" if ":" in address else address
        said = f"listening at {scheme}://{shown}:{port}, home {settings.home}"
        watching = threading.Thread(target=_wait_for, args=(held, lambda: say(said)), daemon=True)
        watching.start()
        server.serve(target_loader=loader, wrap_loader=False)


def _wait_for(held: socket.socket, then: Callable[[], None]) -> None:
    """Do something as soon as one of the processes takes connections."""
    address, port = held.getsockname()[:2]
    here = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(address, address)
    while True:
        with contextlib.suppress(OSError), socket.create_connection((here, port), timeout=5):
            break
        time.sleep(0.05)
    then()


def _server(configuration: Configuration, address: str, port: int) -> MPServer:
    listen, tls = configuration.service, configuration.tls
    return MPServer(
        "mlaas_condor.server",
        address=address,
        port=port,
        interface=Interfaces.RSGI,
        workers=listen.workers,
        loop=Loops.asyncio,
        # Without TLS nobody can tell the two apart but by trying.
        http=HTTPModes.auto if tls else HTTPModes.http1,
        websockets=False,
        backlog=1024,
        backpressure=min(_CONNECTIONS, _raise_open_files() // 2),
        http1_settings=HTTP1Settings(header_read_timeout=_HEADER_SECONDS * 1000),
        log_level=LogLevels.info,
        log_dictconfig=journal.configuration(str(listen.log or "")),
        ssl_cert=tls.certificate if tls else None,
        ssl_key=tls.key if tls else None,
        ssl_protocol_min=SSLProtocols.tls12,
        respawn_failed_workers=True,
        # The processes end themselves after stop_seconds.
        workers_kill_timeout=int(listen.stop_seconds) + 5,
    )


def _raise_open_files() -> int:
    """Let this process open as many files as it may, and return how many: each connection is one."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _OPEN_FILES if most == resource.RLIM_INFINITY else min(most, _OPEN_FILES)
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, most))
    return wanted


@contextlib.contextmanager
def _metrics_folder() -> Iterator[None]:
    """Give the processes a folder in which their metrics meet; what a killed service left goes."""
    prefix = f"mlaas-condor-metrics-{os.geteuid()}-"
    for left in Path(tempfile.gettempdir()).glob(f"{prefix}*"):
        number = left.name.removeprefix(prefix).partition("-")[0]
        if number.isdecimal() and left.stat().st_uid == os.geteuid() and not Path("/proc", number).exists():
            shutil.rmtree(left, ignore_errors=True)
    folder = tempfile.mkdtemp(prefix=f"{prefix}{os.getpid()}-")
    os.environ[_METRICS] = folder
    try:
        yield
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.environ.pop(_METRICS, None)
