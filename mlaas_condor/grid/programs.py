"""Running the programs of others that make proxies: without a terminal, not for ever, and unheard.

What such a program says may hold a secret, and nobody can tell where: it is shown nowhere.
"""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import stat
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from mlaas_condor.errors import CredentialFault

if TYPE_CHECKING:
    from .renewal import MyProxy

LONGEST_SECONDS = 300.0


def run_program(command: Sequence[str], text: str = "", by_hand: str = "", **environment: str | None) -> None:
    """Run a program to its end.

    Parameters
    ----------
    command
        Program and arguments. The error names the program only: there may be a secret among the arguments.
    text
        What it gets to read.
    by_hand
        What to type to see what it says; ``""`` for the command of `renewal.toml`, which may hold a secret.
    environment
        Variables to set; None takes one away.

    Raises
    ------
    CredentialFault
        It is not there, fails, or takes longer than five minutes.
    """
    name = Path(command[0]).name
    if shutil.which(command[0]) is None:
        raise CredentialFault(f"there is no program {command[0]!r} here; install it, or give its full path")
    variables = {**os.environ, **environment}
    try:
        # A session of its own: it is ended with all it started, and cannot ask at our terminal.
        process = subprocess.Popen(
            command,
            env={key: value for key, value in variables.items() if value is not None},
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
        )
    except OSError as error:
        raise CredentialFault(f"{name} cannot be started: {error.strerror}") from error
    with process:
        try:
            process.communicate(text, LONGEST_SECONDS)
        except subprocess.TimeoutExpired:
            _end(process)
            raise CredentialFault(f"{name} did not end within {LONGEST_SECONDS:g} s") from None
        except BaseException:
            _end(process)
            raise
    if process.returncode:
        raise CredentialFault(
            f"{name} ended with exit code {process.returncode}; what it said is not shown, since it may hold "
            f"a secret: run {by_hand or 'the command of renewal.toml'} by hand to see it"
        )


def _end(process: subprocess.Popen[str]) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def voms_proxy_init(voms: str, seconds: float, out: Path, certificate: Path, key: Path | None = None) -> None:
    """Have ``voms-proxy-init`` make a proxy with attributes; without a key, of the proxy `certificate`."""
    minutes = int(seconds // 60)
    valid = f"{minutes // 60}:{minutes % 60:02}"
    command = ["voms-proxy-init", *([] if key else ["-noregen"]), "-rfc", "-quiet", "-bits", "2048"]
    command += ["-valid", valid, "-voms", voms, "-out", str(out)]
    command += ["-cert", str(certificate), "-key", str(key)] if key else []
    proxy = None if key else str(certificate)
    run_program(command, by_hand=_by_hand(command, out, proxy), X509_USER_PROXY=proxy)


def myproxy_logon(account: MyProxy, voms: str, hours: int, out: Path) -> None:
    """Have ``myproxy-logon`` get a proxy from a server."""
    command = ["myproxy-logon", "-q", "-s", account.server, "-p", str(account.port), "-o", str(out)]
    command += ["-t", str(hours)]
    for option, value in (("-l", account.username), ("-k", account.name), ("-m", voms)):
        command += [option, value] if value else []
    proxy = str(private("authorization", account.authorization)) if account.authorization else None
    command += ["-a", proxy] if proxy else []
    # Not as an argument: those can be seen by everybody on the machine.
    password = _read_password(account.password_file) if account.password_file else ""
    command += ["-S" if password else "-n"]
    run_program(command, password, _by_hand(command, out, proxy), X509_USER_PROXY=proxy)


def _by_hand(command: Sequence[str], out: Path, proxy: str | None) -> str:
    """Return a command of ours as one types it, with a file of one's own to write."""
    words = shlex.join("FILE" if word == str(out) else word for word in command)
    return f"`X509_USER_PROXY={shlex.quote(proxy)} {words}`" if proxy else f"`{words}`"


def _read_password(name: str) -> str:
    path = private("password_file", name)
    try:
        return path.read_text("utf-8").strip("\r\n") + "\n"
    except (OSError, ValueError) as error:
        raise CredentialFault(f"the pass phrase in {path} cannot be read: {type(error).__name__}") from None


def expanded(name: str) -> Path:
    """Return a path of `renewal.toml`; ``~`` is the home folder where there is one."""
    return Path(os.path.expanduser(name))  # noqa: PTH111 - Path.expanduser raises where there is no home


def named(key: str, name: str, make: str = "") -> Path:
    """Return the path of a file that `renewal.toml` names; refuse one that is not there.

    Parameters
    ----------
    key, name
        What of `renewal.toml` names it, and how.
    make
        What makes one, for the error; ``""`` where nothing of ours does.
    """
    path = expanded(name)
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        how = f"make one with `{make}`" if make else "put it there"
        raise CredentialFault(
            f"there is no {path}, which {key} in renewal.toml names; {how}, or change {key}"
        ) from None
    except OSError as error:
        raise CredentialFault(
            f"{path}, which {key} in renewal.toml names, cannot be read: {error.strerror}"
        ) from error
    return path


def private(key: str, name: str, make: str = "") -> Path:
    """Return the path of a file with a secret, as `named` does; refuse one that others can read."""
    path = named(key, name, make)
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & 0o077:
        raise CredentialFault(f"{path} can be read by others, its mode is {mode:04o}; run: chmod 600 {path}")
    return path
