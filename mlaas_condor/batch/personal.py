"""The daemons of a personal pool: their configuration, how they are started, which processes they are.

As a program, ``python -m mlaas_condor.batch.personal POOL RELEASE``, it starts the daemons of the pool
in the folder POOL with the HTCondor in the folder RELEASE, and ends when they are ready. It is a
program, because root must start them inside a user namespace.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import pwd
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from mlaas_condor import templates
from mlaas_condor.batch.install import ensure_htcondor
from mlaas_condor.errors import InstallError

# HTCondor runs no jobs of root. Inside a user namespace root's processes have this number instead,
# and root's files belong to it.
NAMESPACE_UID = 1000
START_SECONDS = 60
_PROCD = "condor_procd"
# The bind must not be seen outside, but what is mounted later (autofs, /cvmfs) must be seen inside.
_ENTER = (
    'mount --bind "$0" /etc/passwd && '
    f'exec unshare --user --map-user={NAMESPACE_UID} --map-group={NAMESPACE_UID} -- "$@"'
)


@dataclass(frozen=True)
class Start:
    """What a personal pool is started with.

    Parameters
    ----------
    pool
        Folder of the pool: configuration, logs, job queue, the jobs' working directories.
    release
        Folder with HTCondor's ``bin`` and ``sbin``: ``/usr`` or that of a private one.
    cpus
        CPUs the pool offers.
    simulate_gpus
        ``KIND,NUMBER`` of GPUs to pretend; empty for the machine's own.
    """

    pool: Path
    release: Path
    cpus: int
    simulate_gpus: str = ""

    def command(self) -> list[str]:
        """Return the command that starts the daemons; as root it enters a user namespace first."""
        # -P: a module in the current folder must not take the place of Python's own.
        command = [
            sys.executable,
            "-P",
            "-m",
            "mlaas_condor.batch.personal",
            str(self.pool),
            str(self.release),
        ]
        command += ["--cpus", str(self.cpus), f"--simulate-gpus={self.simulate_gpus}"]
        return [*namespace(self.pool), *command] if os.geteuid() == 0 else command

    def config(self) -> str:
        """Return the pool's HTCondor configuration, without what PersonalPool adds."""
        return templates.render(
            "personal_pool.config",
            release=self.release,
            bin=self.release / "bin",
            sbin=self.release / "sbin",
            # Debian, Red Hat, and the tarball, respectively conda.
            lib=_first(self.release, "lib/condor", "lib64/condor", "lib"),
            libexec=_first(self.release, "libexec/condor", "libexec"),
            share=_first(self.release, "share/condor", "share"),
            cpus=self.cpus,
            simulate_gpus=self.simulate_gpus,
        )


def _first(folder: Path, *names: str) -> Path:
    return next((folder / name for name in names if (folder / name).is_dir()), folder / names[-1])


def namespace(pool: Path) -> list[str]:
    """Return the words to put before a command, so that root runs it as an ordinary user.

    Raises
    ------
    InstallError
        Where the programs for it are missing.
    """
    unshare = shutil.which("unshare")
    if unshare is None:
        raise InstallError(
            "HTCondor runs no jobs of root, and `unshare` is missing, which would give root a user "
            "namespace. Run mlaas-condor as an ordinary user, or install util-linux"
        )
    passwd = pool / "passwd"
    passwd.write_text(_passwd_with(NAMESPACE_UID), "utf-8")
    return [unshare, "--mount", "--propagation", "slave", "sh", "-c", _ENTER, str(passwd)]


def _passwd_with(uid: int) -> str:
    text = Path("/etc/passwd").read_text("utf-8")
    try:
        pwd.getpwuid(uid)
    except KeyError:
        home = os.environ.get("HOME", "/root")
        text = text.rstrip("\n") + f"\nmlaas:x:{uid}:{uid}:mlaas-condor:{home}:/bin/sh\n"
    return text


def find_release(cache: Path, say: Callable[[str], None]) -> Path:
    """Return the folder of the machine's HTCondor, else that of a private one, installed if need be."""
    path = os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/sbin", "/usr/local/sbin"))
    master = shutil.which("condor_master", path=path)
    # The private one is put in PATH where it is used; whether it is complete is not for PATH to say.
    if master is None or cache.resolve() / "htcondor" in Path(master).resolve().parents:
        return ensure_htcondor(cache, say)
    return Path(master).resolve().parent.parent


def launch(wanted: Start) -> None:
    """Start the daemons and wait until they are ready.

    Raises
    ------
    InstallError
        Where they do not become ready; with the end of their log, and nothing is left of them.
    """
    environment = {name: value for name, value in os.environ.items() if name != "CONDOR_CONFIG"}
    try:
        # In a session of its own, or Ctrl-C in this terminal would end the daemons too.
        done = subprocess.run(
            wanted.command(), env=environment, stdin=subprocess.DEVNULL, capture_output=True,
            text=True, errors="replace", start_new_session=True, timeout=START_SECONDS,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        problem = f"not ready after {START_SECONDS} s"
    else:
        if done.returncode == 0:
            return
        problem = "\n".join(done.stderr.strip().splitlines()[-3:])
    end(wanted.pool)
    if problem.startswith(("unshare:", "mount:")):
        raise InstallError(
            f"HTCondor runs no jobs of root, and here root may not make a user namespace ({problem}). "
            "Run mlaas-condor as an ordinary user"
        )
    log = wanted.pool / "log/MasterLog"
    lines = log.read_text("utf-8", errors="replace").splitlines()[-10:] if log.exists() else []
    quoted = "".join(f"    {line}\n" for line in lines)
    raise InstallError(f"HTCondor did not start: {problem}\nThe end of {log}:\n{quoted}")


def processes(pool: Path) -> dict[int, str]:
    """Return number and name of every process of a pool: its daemons and its jobs.

    They are known by their environment, where daemons have the pool's configuration and jobs their
    working directory; a name alone could be of another pool of the same user.
    """
    config = b"CONDOR_CONFIG=" + os.fsencode(pool / "condor_config")
    scratch = b"_CONDOR_SCRATCH_DIR=" + os.fsencode(pool / "execute") + b"/"
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            name = (folder / "comm").read_text("utf-8", errors="replace").strip()
            variables = (folder / "environ").read_bytes().split(b"\0")
        except OSError:
            continue  # ended meanwhile, or another user's
        # A client, too, may have been given the configuration; only daemons have an ancestor.
        daemon = name == "condor_master" or any(v.startswith(b"_CONDOR_ANCESTOR_") for v in variables)
        if (daemon and config in variables) or any(v.startswith(scratch) for v in variables):
            found[int(folder.name)] = name
    # `mlaas-condor` can itself be run by a job.
    found.pop(os.getpid(), None)
    return found


def master_pid(pool: Path) -> int | None:
    """Return the process number of the pool's master, ``None`` where it does not run."""
    return next((pid for pid, name in processes(pool).items() if name == "condor_master"), None)


def stop(pool: Path) -> None:
    """Stop a pool properly, the job queue closed, without waiting for jobs; leave no process of it."""
    if master := master_pid(pool):
        os.kill(master, signal.SIGQUIT)  # what condor_off -fast does, also where the master hangs
        _wait_for_end(pool, 10)
    end(pool)


def end(pool: Path, seconds: float = 5) -> None:
    """End every process of a pool: ask, wait up to `seconds`, then kill."""
    for pid, name in processes(pool).items():
        # At SIGQUIT a daemon closes its files; at SIGTERM it would also wait for its jobs. The procd
        # is asked by the others which processes a job has; without it they wait for seconds.
        if name != _PROCD:
            _send(pid, signal.SIGQUIT if name.startswith("condor_") else signal.SIGTERM)
    _wait_for_end(pool, seconds)
    # A job may start another process between look and kill.
    for _ in range(50):
        left = processes(pool)
        if not left:
            break
        for pid in left:
            _send(pid, signal.SIGKILL)
        time.sleep(0.05)


def _wait_for_end(pool: Path, seconds: float) -> None:
    """Wait until no process of the pool but the procd is left."""
    deadline = time.monotonic() + seconds
    while set(processes(pool).values()) - {_PROCD} and time.monotonic() < deadline:
        time.sleep(0.05)


def _send(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def main(arguments: list[str] | None = None) -> None:
    """Start the pool that the command line describes."""
    parser = argparse.ArgumentParser(prog="python -m mlaas_condor.batch.personal", description=__doc__)
    parser.add_argument("pool", type=Path)
    parser.add_argument("release", type=Path)
    parser.add_argument("--cpus", type=int, required=True)
    parser.add_argument("--simulate-gpus", default="")
    wanted = Start(**vars(parser.parse_args(arguments)))
    # At import the bindings want a configuration, and it must not be that of another pool.
    os.environ["CONDOR_CONFIG"] = os.devnull
    # The daemons keep it as theirs, and the user's could be deleted or unmounted.
    os.chdir(wanted.pool)
    # After all others: the folder of a private HTCondor may hold more than HTCondor.
    os.environ["PATH"] += f":{wanted.release / 'bin'}:{wanted.release / 'sbin'}"
    from htcondor2.personal import PersonalPool  # not before CONDOR_CONFIG is set

    # PersonalPool replaces the configuration in the folder by what it is given each time, nothing too.
    PersonalPool(wanted.pool, raw_config=wanted.config(), detach=True).start()


if __name__ == "__main__":
    main()
