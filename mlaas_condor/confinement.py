"""What a request may reach that came from a stranger: some folders of this machine, some hosts, nothing else.

The requests of a command line are their user's own, and not confined. In a service each name that a request
gives is looked at here before anything is opened; what lies outside is said to be outside, never whether it
is there.
"""

from __future__ import annotations

import glob
import ipaddress
import os
import re
import socket
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import lru_cache
from itertools import groupby
from pathlib import Path
from typing import Any

from mlaas_condor.data.remote import SEPARATOR
from mlaas_condor.errors import AccessDenied
from mlaas_condor.grid import xrootd

SCHEMES = (*xrootd.SCHEMES, "davs", "https", "http")
"""Of the URLs that a confined request may name."""

NOWHERE = Path(os.devnull, "outside")
"""A path where nothing ever is: what a name that leads outside stands for."""

_URL = re.compile(
    r"[a-z]+://(?P<host>[a-z0-9._-]+|\[[0-9a-f:.]+\])(?P<port>:\d{1,5})?(?P<path>/.*)?",
    re.ASCII | re.IGNORECASE | re.DOTALL,
)
_ODD = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")
# The client takes orders from the query of a URL, such as whose proxy it is to show.
_QUERY = ("authz",)
# Each makes XRootD's client read what else is named there, files of this machine too.
_ELSEWHERE = (".meta4", ".metalink")
_LOCAL = "localfile"
_LONGEST = 4096  # characters: Linux takes no longer path, and matching a pattern takes the square of it
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
Address = ipaddress.IPv4Address | ipaddress.IPv6Address


@dataclass(frozen=True)
class Confinement:
    """What a request may reach.

    Parameters
    ----------
    roots
        Folders whose files it may name, that of the request among them. Whoever may write there can put
        links: they are followed when a request is looked at, and again when its jobs are started.
    hosts
        Hosts of URLs: ``*`` stands for any part of a name. A host whose address is not public (loopback, the
        private networks, link-local) is reached only where it is named without a ``*``.
    own_account
        Whether jobs run under an account of the user's own, so that the tokens that the pool keeps for that
        account are the user's.
    """

    roots: tuple[Path, ...]
    hosts: tuple[str, ...] = ("*",)
    own_account: bool = False

    def find(self, folder: Path, name: str) -> Path:
        """Return the real path of what a name means; `NOWHERE` where that is outside.

        Parameters
        ----------
        folder
            To which the name is relative; ``~`` means nobody's home.
        name
            As the request gives it.
        """
        if len(name) > _LONGEST or _ODD.search(name) or name.startswith("~"):
            return NOWHERE
        real = _real(folder / name)
        return real if self.holds(real) else NOWHERE

    def holds(self, real: str | Path) -> bool:
        """Tell whether a real path, all links followed, is below one of the folders."""
        return any(root in Path(real).parents for root in self._roots)

    @property
    def _roots(self) -> tuple[Path, ...]:
        return tuple(map(_real, self.roots))

    def wrong_path(self, folder: Path, name: str) -> tuple[str, str]:
        """Return what is wrong with the name of a file or a pattern, and what to do; empty for nothing."""
        if self.find(folder, name) != NOWHERE or self.pattern(folder, name):
            return "", ""
        what = f"{name!r} is outside of what may be read here"
        others = [str(root) for root in self.roots if root != folder]
        also = f", or one in {', '.join(others)}" if others else ""
        return what, f"name a file of the uploaded folder{also}"

    def pattern(self, folder: Path, name: str) -> str:
        """Return a pattern, with links followed up to its first ``*``; empty where it leads outside."""
        base, parts = self._split(folder, name)
        return "/".join([glob.escape(str(base)), *parts]) if parts else ""

    def _split(self, folder: Path, name: str) -> tuple[Path, tuple[str, ...]]:
        """Return the real folder that a pattern begins in, and the rest of it; nothing if that is outside."""
        if len(name) > _LONGEST:
            return NOWHERE, ()
        # Several ** one after another mean one, and would take as many times as long.
        parts = tuple(
            each for part, same in groupby(Path(name).parts) for each in ([part] if part == "**" else same)
        )
        fixed = next((i for i, part in enumerate(parts) if glob.has_magic(part)), len(parts))
        if ".." in parts[fixed:] or _ODD.search(name) or name.startswith("~"):
            return NOWHERE, ()
        base = _real(folder.joinpath(*parts[:fixed]))
        return (base, parts[fixed:]) if base in self._roots or self.holds(base) else (NOWHERE, ())

    def matches(self, folder: Path, pattern: str) -> Iterator[tuple[str, Path]]:
        """Yield the names of the files that a glob matches, with their real paths.

        A link that leads outside has `NOWHERE`, whether there is something or not; behind links to other
        folders outside nothing is looked for, and ``**`` follows none.
        """
        base, parts = self._split(folder, pattern)
        for path in dict.fromkeys(self._below(base, parts, set()) if parts else ()):
            yield path.name, self.find(folder, str(path))

    def _below(
        self, base: Path, parts: Sequence[str], seen: set[tuple[Path, tuple[str, ...]]]
    ) -> Iterator[Path]:
        """Yield what a pattern matches in a folder whose real path is inside; what was looked for, not again.

        Each of several ``**`` would look at as many folders for each folder that the others look at.
        """
        if (base, tuple(parts)) in seen:
            return
        seen.add((base, tuple(parts)))
        part, *rest = parts
        if part == "**":
            yield from self._below(base, rest or ["*"], seen)
            for each in _entries(base):
                if not each.name.startswith(".") and each.is_dir(follow_symlinks=False):
                    yield from self._below(Path(each.path), parts, seen)
            return
        if glob.has_magic(part):
            found = [Path(each.path) for each in _entries(base) if _fits(each.name, part)]
        else:
            found = [base / part]
        for path in found if rest else ():
            real = _real(path)
            if self.holds(real):
                yield from self._below(real, rest, seen)
        if not rest:
            yield from (path for path in found if os.path.lexists(path))

    def wrong_url(self, url: str) -> tuple[str, str]:
        """Return what is wrong with a URL, and what to do; empty texts for nothing."""
        match = _URL.fullmatch(url)
        scheme = url.partition("://")[0].lower()
        if scheme.isalpha() and scheme not in SCHEMES:
            return f"{scheme}:// is not read here", f"what is: {', '.join(f'{each}://' for each in SCHEMES)}"
        if not match or _ODD.search(url) or "\\" in url or SEPARATOR in url:
            return f"{url!r} is no URL that is read here", "write scheme://host[:port]/path, without a user"
        host = match["host"].lower().rstrip(".")
        if scheme in xrootd.SCHEMES:
            wrong = _wrong_for_xrootd(url)
            if wrong:
                return wrong
        return self._wrong_host(host, match["port"] or "")

    def _wrong_host(self, host: str, port: str) -> tuple[str, str]:
        named = {host, f"{host}{port}"}
        if not named.isdisjoint(self._named):
            return "", ""
        if not any(fnmatchcase(each, pattern.lower()) for pattern in self.hosts for each in named):
            return f"host {host!r} is none that is read here", f"what is: {', '.join(self.hosts) or 'none'}"
        if not all(map(is_public, _addresses(host.strip("[]")))):
            what = f"host {host!r} has an address that is not public"
            return what, "the service must name it, in [inputs] hosts"
        return "", ""

    @property
    def _named(self) -> set[str]:
        """Hosts that are named as they are."""
        return {each.lower().rstrip(".") for each in self.hosts if "*" not in each}

    def hold(self) -> None:
        """Keep this process to it from now on, wherever redirections lead; there is no way back.

        A name may mean another address the next time it is asked for, and a host may send on to another: so
        each connection that Python makes is looked at, and each place at which XRootD's client has opened
        a file.
        """
        known = {address for host in self._named for address in _addresses(_without_port(host))}

        def watch(event: str, arguments: tuple[Any, ...]) -> None:
            if event == "socket.connect" and isinstance(arguments[1], tuple):
                host = str(arguments[1][0])
                found = _addresses(host)
                if not found or not all(is_public(each) or each in known for each in found):
                    raise PermissionError(f"{host} is none that is read here")

        sys.addaudithook(watch)
        xrootd.check_place = self._check_place

    def _check_place(self, url: str, place: str) -> None:
        """Make sure that a file may be read where XRootD's client was sent to.

        Raises
        ------
        AccessDenied
            It may not.
        """
        scheme, _, rest = place.partition("://")
        host = rest.partition("/")[0].rpartition("@")[2].lower()
        if scheme.lower() not in xrootd.SCHEMES or _LOCAL in host:
            raise AccessDenied(f"{url}: its host sends elsewhere than to storage, which is not followed")
        bare = _without_port(host)
        found = _addresses(bare)
        if {host, bare}.isdisjoint(self._named) and not (found and all(map(is_public, found))):
            raise AccessDenied(f"{url}: its host sends to {bare}, whose address is not public")


def _real(path: Path) -> Path:
    try:
        return Path(os.path.realpath(path))
    except ValueError:  # what no file system can hold
        return NOWHERE


def _entries(folder: Path) -> Iterator[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as found:
            yield from sorted(found, key=lambda each: each.name)
    except OSError:  # no folder, or closed to us
        return


def _fits(name: str, pattern: str) -> bool:
    return fnmatchcase(name, pattern) and (pattern.startswith(".") or not name.startswith("."))


def odd_text(value: object) -> bool:
    """Tell whether there is text in what JSON holds that no file and no log could take."""
    return any(re.search("[\x00\ud800-\udfff]", text) for text in _texts(value))


def _texts(value: object) -> Iterator[str]:
    todo = [value]
    while todo:
        each = todo.pop()
        if isinstance(each, str):
            yield each
        elif isinstance(each, dict):
            todo += [*each, *each.values()]
        elif isinstance(each, list | tuple):
            todo += each


def _wrong_for_xrootd(url: str) -> tuple[str, str] | None:
    host, path, query = xrootd.split(url)
    keys = {part.partition("=")[0] for part in query.split("&")} if query else set()
    if keys - set(_QUERY):
        return (
            f"{', '.join(sorted(keys - set(_QUERY)))!r} in a URL does not do",
            "leave out what follows the ?",
        )
    if path.lower().endswith(_ELSEWHERE):
        return f"{url!r} names a list of other files", "name these"
    if host.lower().endswith(f"://{_LOCAL}"):
        return f"{url!r} names a file of the service's machine", "upload it"
    return None


def is_public(address: Address) -> bool:
    """Tell whether an address is one of the public internet, whatever way it is written."""
    inner: Address | None = None
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour or (address.teredo or (None, None))[1]
        if address in _NAT64:
            inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    if inner is not None:
        return is_public(inner)
    return address.is_global and not address.is_multicast


def _without_port(host: str) -> str:
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0] if host.count(":") == 1 else host


@lru_cache(1024)
def _addresses(host: str) -> frozenset[Address]:
    """Return the addresses of a host; none where it is not known, which opening it will say."""
    try:
        return frozenset({ipaddress.ip_address(host.partition("%")[0])})
    except ValueError:
        pass
    try:
        # Whatever the system takes for an address, 127.1 or 0x7f000001, is one here as well.
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return frozenset()
    return frozenset(ipaddress.ip_address(str(each[4][0]).partition("%")[0]) for each in found)
