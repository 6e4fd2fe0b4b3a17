"""XRootD's server for the tests: the system's, or Debian's packages unpacked beside the private HTCondor.

As for HTCondor, nothing of the system is changed and no rights are needed. The packages are those of the
machine's own Debian, so its C library fits and the programs run as they are, with one search path for
libraries and plugins in their environment.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from mlaas_condor import settings as settings_module
from mlaas_condor.batch import install
from mlaas_condor.errors import InstallError

PACKAGES = (
    "xrootd-server",
    "xrootd-client",
    "xrootd-plugins",
    "xrootd-server-plugins",
    "xrootd-client-plugins",
    "xrootd-scitokens-plugins",
    "xrootd-voms-plugins",
    "voms-clients",
)
LIBRARIES = ("usr/lib/*-linux-gnu*", "lib/*-linux-gnu*")
# What every Debian has; a second C library in the search path would not fit the program loader.
OF_THE_SYSTEM = ("libc6_", "libgcc-s1_", "gcc-")
# The plugins that the tests' servers load, to see that an installation is whole.
PLUGINS = tuple(f"libXrd{name}-5.so" for name in ("Secgsi", "Secztn", "AccSciTokens", "Voms", "Pss", "Pfc"))

# Before any test changes the environment: it is installed once for all of them.
CACHE = settings_module.load().cache


@dataclass(frozen=True)
class Installed:
    """Where XRootD's programs are, and what they need in their environment."""

    bin: Path
    environment: Mapping[str, str] = field(default_factory=dict)

    def program(self, name):
        return str(self.bin / name)


def ensure_xrootd(cache=CACHE, system=Path("/usr"), say=print):
    """Return the XRootD of the system where it has all we need, else a private one, which is installed once.

    Raises
    ------
    InstallError
        Where there is none and it cannot be fetched.
    """
    if (system / "bin/xrootd").exists() and _has_plugins(system):
        return Installed(system / "bin")
    tree = Path(cache).expanduser().absolute().resolve() / "xrootd"
    try:
        tree.parent.mkdir(parents=True, exist_ok=True)
        waiting = f"Another process is installing XRootD into {tree}; waiting for it."
        with install.locked(tree.with_name("xrootd.lock"), waiting, say):
            if not (tree / "complete").exists():
                _install(tree, say)
    except OSError as error:
        raise InstallError(f"XRootD could not be installed into {tree}: {error}") from error
    return _private(tree)


def _has_plugins(usr):
    return all(any(usr.glob(f"lib*/{name}")) or any(usr.glob(f"lib/*/{name}")) for name in PLUGINS)


def _private(tree):
    folders = [folder for pattern in LIBRARIES for folder in tree.glob(pattern)]
    return Installed(tree / "usr/bin", {"LD_LIBRARY_PATH": ":".join(map(str, folders))})


def _install(tree, say):
    suite = platform.freedesktop_os_release().get("VERSION_CODENAME")
    mirrors = install.debian_mirrors(install._read_sources(Path("/etc/apt")))
    if platform.freedesktop_os_release().get("ID") != "debian" or not suite or not mirrors:
        raise InstallError("A private XRootD comes from Debian's packages, and this machine is no Debian")
    programs = install._find_programs()
    say(f"Installing a private XRootD into {tree}, for the tests.")
    shutil.rmtree(tree, ignore_errors=True)
    try:
        rest = tree / "download/rest"
        for archive in install._download(tree / "download", mirrors, programs, suite, PACKAGES):
            if not archive.name.startswith(OF_THE_SYSTEM):
                install._run([programs["dpkg-deb"], "-x", str(archive), str(rest)], f"unpack {archive.name}")
        _keep(rest, tree)
        _check(_private(tree))
    except BaseException:
        shutil.rmtree(tree, ignore_errors=True)
        raise
    shutil.rmtree(tree / "download")
    (tree / "complete").touch()


def _keep(rest, tree):
    """Take from the packages the libraries, and the programs that are XRootD's or those of VOMS."""
    (tree / "usr/bin").mkdir(parents=True)
    for pattern in ("xrootd", "xrd*", "voms*"):
        for program in (rest / "usr/bin").glob(pattern):
            shutil.copy2(program, tree / "usr/bin", follow_symlinks=False)
    for pattern in LIBRARIES:
        for folder in rest.glob(pattern):
            wanted = shutil.ignore_patterns("perl*", "security")
            shutil.copytree(folder, tree / folder.relative_to(rest), symlinks=True, ignore=wanted)


def _check(installed):
    done = subprocess.run(
        [installed.program("xrootd"), "-v"],
        env=os.environ | installed.environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    # The version goes to stderr.
    if done.returncode or not done.stderr.startswith("v"):
        raise InstallError(f"The installed XRootD does not start: {done.stderr.strip()}")
