"""What a server was asked, read from the trace in its log."""

from __future__ import annotations

import re
from dataclasses import dataclass

_LINE = re.compile(r" (\S+:\d+@\S+) Xrootd_(Protocol|Response): (\w{4}) +(.*)")
_DISCONNECTED = re.compile(r" XrootdXeq: (\S+:\d+@\S+) disc ")
_LOGIN = re.compile(r" XrootdXeq: (\S+:\d+@\S+) .*\blogin(?: as (.+))?$")
_OPEN = re.compile(r"open (\S+) ([^?\s]+)")
_DATA = re.compile(r"(?:\d+ )?fh=(\d+) (read|readV|write|writeV) (\d+)@(\d+)")
# With checksums; these lines name the file.
_PAGES = re.compile(r"\d+ pg(read|write) (\d+)@(\d+) fn=([^?\s]+)")
_PAGE, _CHECKSUM = 4096, 4
_NAMED = re.compile(r"rc=-?\d+ (stat|mkdir|rm|rmdir|mv|chmod|trunc) ([^?\s]+)|(dirlist) .*path=([^?\s]+)")
_CLOSED = re.compile(r"fh=(\d+) close rc=")


@dataclass(frozen=True)
class Request:
    """One request.

    Parameters
    ----------
    kind
        ``login``, ``rejected`` (one who was not let in), ``open``, ``refused`` (an open that failed),
        ``read``, ``readv``, ``write``, ``stat``, ``dirlist``, …
    client
        Name and process of who asked, with the connection: ``jane.4711:22@localhost``.
    user
        Of a login: who the server took the client for.
    parts
        Offset and size of each range that was asked for.
    """

    kind: str
    client: str
    path: str = ""
    parts: tuple[tuple[int, int], ...] = ()
    user: str = ""

    @property
    def size(self):
        return sum(size for _, size in self.parts)


class Requests(list):
    """Requests in their order, with the sums that tests look at."""

    def of(self, kind):
        return Requests(each for each in self if each.kind == kind)

    @property
    def opens(self):
        return len(self.of("open"))

    @property
    def reads(self):
        """How many requests for one range there were."""
        return len(self.of("read"))

    @property
    def readvs(self):
        """How many requests for many ranges there were."""
        return len(self.of("readv"))

    @property
    def segments(self):
        """How many ranges all requests for many had."""
        return sum(len(each.parts) for each in self.of("readv"))

    @property
    def bytes(self):
        """How many bytes were asked for in reading."""
        return sum(each.size for each in self if each.kind in ("read", "readv"))

    @property
    def written(self):
        return sum(each.size for each in self.of("write"))

    @property
    def clients(self):
        """Return the process numbers of the clients, each once."""
        return {int(each.client.partition(":")[0].rpartition(".")[2]) for each in self.of("login")}


class LogReader:
    """Follows each connection in a log that grows; ``found`` are all requests so far.

    The trace names a file when it is opened and by the number of its handle later, and does not say
    which number it got: the server gives the lowest that is free.
    """

    def __init__(self, path):
        self.path = path
        self.found = []
        self.files = {}
        self.opening = {}
        self.position = 0

    def read(self):
        """Take what was written since the last time."""
        if not self.path.exists():
            return
        with self.path.open("rb") as log:
            log.seek(self.position)
            # The last line may not be whole yet.
            whole = log.read().rpartition(b"\n")[0]
        self.position += len(whole) + 1 if whole else 0
        for line in whole.decode("utf-8", "replace").splitlines():
            self.take(line)

    def take(self, line):
        if login := _LOGIN.search(line):
            self.files[login[1]] = {}
            self.found.append(Request("login", login[1], user=login[2] or ""))
        elif gone := _DISCONNECTED.search(line):
            self._gone(gone[1])
        elif match := _LINE.search(line):
            client, source, stream, text = match.groups()
            if client in self.files:
                self._take(client, source, stream, text)

    def _gone(self, client):
        if client not in self.files and not client.startswith("anon.0:"):
            self.found.append(Request("rejected", client))
        self.files.pop(client, None)
        for key in [key for key in self.opening if key[0] == client]:
            self.found.append(Request("refused", client, self.opening.pop(key)))

    def _take(self, client, source, stream, text):
        files, key = self.files[client], (client, stream)
        if source == "Response":
            if key in self.opening and text.endswith("status=0"):
                self._opened(client, self.opening.pop(key))
        elif text.startswith("req="):
            # The answer to the last one is out: it was refused.
            if refused := self.opening.pop(key, None):
                self.found.append(Request("refused", client, refused))
            kind = text[4:].partition(" ")[0]
            if kind == "readv":
                self.found.append(Request("readv", client))
        elif match := _OPEN.match(text):
            self.opening[key] = match[2]
        elif match := _CLOSED.match(text):
            files.pop(int(match[1]), None)
        elif match := _DATA.match(text):
            handle, kind, size, offset = match.groups()
            part = ((int(offset), int(size)),)
            self._moved(client, files.get(int(handle), ""), kind.lower(), part)
        elif match := _PAGES.match(text):
            kind, size, offset, path = match.groups()
            data = int(size)
            if kind == "write":
                # What comes over the line holds the checksums.
                data -= _CHECKSUM * -(-data // (_PAGE + _CHECKSUM))
            self.found.append(Request(kind, client, path, ((int(offset), data),)))
        elif match := _NAMED.match(text):
            self.found.append(Request(match[1] or match[3], client, match[2] or match[4]))

    def _opened(self, client, path):
        files = self.files[client]
        files[next(number for number in range(len(files) + 1) if number not in files)] = path
        self.found.append(Request("open", client, path))

    def _moved(self, client, path, kind, part):
        if kind == "readv":
            # A line for each range of the last request of this connection.
            index = next(i for i in reversed(range(len(self.found))) if self._is_readv(i, client))
            before = self.found[index].parts
            self.found[index] = Request("readv", client, path, before + part)
        else:
            self.found.append(Request(kind.removesuffix("v"), client, path, part))

    def _is_readv(self, index, client):
        return self.found[index].kind == "readv" and self.found[index].client == client
