"""The kinds of servers that the tests have: plain, with proxies, with tokens, a cache, a mute one."""

from __future__ import annotations

import contextlib
import re
import socket
import threading
from pathlib import Path

from xrootd_server import COMMON, NoServer, Server, free_port

__all__ = ["CacheServer", "GsiServer", "MuteServer", "NoServer", "PlainServer", "Server", "TokenServer"]

IMAGES = Path(__file__).parents[2] / "images"

GSI = """\
xrootd.seclib libXrdSec.so
sec.protocol gsi -certdir:{certificates} -cert:{folder}/host/usercert.pem -key:{folder}/host/userkey.pem \
-crl:0 -gridmap:{folder}/gridmap -gmapopt:11 -dlgpxy:0
sec.protbind * only gsi
ofs.authorize 1
acc.authdb {folder}/authdb
"""
TOKENS = """\
xrd.tls {folder}/host/usercert.pem {folder}/host/userkey.pem
xrd.tlsca certdir {certificates}
xrootd.tls capable all
xrootd.seclib libXrdSec.so
sec.protocol ztn
sec.protbind * only ztn
ofs.authlib libXrdAccSciTokens.so config={folder}/scitokens.cfg
ofs.authorize 1
"""

PlainServer = Server


class GsiServer(Server):
    """A server that asks for a certificate or a proxy.

    Below /data everybody whom the authority knows may read, below /private only one, below /denied
    nobody, and below /store only that one may read and write.

    Parameters
    ----------
    authority
        Signs the host certificate, and is the only one that the server trusts.
    friends
        Identity (``/DC=org/…``) and local name of each who has one.
    owner
        The local name of the one who may read /private and write.
    """

    exports = ("/data", "/private", "/denied", "/store")

    def __init__(self, authority, friends, owner="jane", lines="", environment=None):
        super().__init__(lines, environment)
        self.authority, self.friends, self.owner = authority, friends, owner
        authority.host().write_pair(self.folder / "host")

    def prepare(self):
        super().prepare()
        gridmap = "".join(f'"{identity}" {name}\n' for identity, name in self.friends.items())
        (self.folder / "gridmap").write_text(gridmap)
        (self.folder / "authdb").write_text(f"u * /data lr\nu {self.owner} /private lr /store a\n")

    def configuration(self):
        return super().configuration() + self.fill(GSI, certificates=self.authority.certificates)


class TokenServer(Server):
    """A server that asks for a WLCG token, whose scopes say what may be read and written.

    Parameters
    ----------
    authority
        Signs the host certificate.
    issuer
        Whose tokens are believed; may be changed before a start.
    audience
        Whom a token must be meant for; ``https://wlcg.cern.ch/jwt/v1/any`` always fits.
    """

    def __init__(self, authority, issuer, audience="https://storage.example", lines="", environment=None):
        super().__init__(lines, environment)
        self.authority, self.issuer, self.audience = authority, issuer, audience
        authority.host().write_pair(self.folder / "host")

    def prepare(self):
        super().prepare()
        self.issuer.teach(self.folder / "cache")
        (self.folder / "scitokens.cfg").write_text(
            f"[Global]\naudience = {self.audience}\n\n"
            f"[Issuer Tests]\nissuer = {self.issuer.url}\nbase_path = /\n"
        )

    def configuration(self):
        return super().configuration() + self.fill(TOKENS, certificates=self.authority.certificates)


class CacheServer(Server):
    """A cache in front of another server, with the configuration of ``images/xcache``.

    Parameters
    ----------
    authority
        Signs the host certificate.
    origin
        The server whose files are served.
    service
        File of the cache's own proxy; may be replaced while it runs.
    readers
        Identities of those who may read through the cache; everything that the origin lets the cache read.
    vo
        Whose members may read too: the one that the image's ``authdb`` names.
    served
        The folder that is served; its files are cached in ``cached``.
    """

    exports = ()

    def __init__(self, authority, origin, service, readers, vo=None, served="/data", environment=None):
        super().__init__("", environment)
        self.authority, self.origin, self.readers = authority, origin, readers
        self.vo, self.served = vo, served
        self.cached = self.folder / "blocks"
        self.cached.mkdir()
        certificate, key = authority.host().write_pair(self.folder / "host")
        values = {
            "ORIGIN": f"localhost:{origin.port}", "PATHS": served, "DISK": self.cached, "FULL": "0.99",
            "EMPTIER": "0.98", "MEMORY": "1g", "HOST_CERT": certificate, "HOST_KEY": key,
            "AUTHDB": self.folder / "authdb", "GRIDMAP": self.folder / "gridmap",
        }  # fmt: skip
        self.environment = {
            **dict(re.findall(r"^(\w+)=(.*)$", (IMAGES / "xcache/xcache.env").read_text(), re.MULTILINE)),
            **{f"XCACHE_{name}": str(value) for name, value in values.items()},
            "X509_USER_PROXY": str(service),
            "X509_CERT_DIR": str(authority.certificates),
            "X509_VOMS_DIR": str(self.folder / "vomsdir"),
            **self.environment,
        }

    def prepare(self):
        super().prepare()
        (self.folder / "vomsdir").mkdir(exist_ok=True)
        if self.vo is not None:
            self.vo.add_to(self.folder / "vomsdir")
        names = {identity: f"reader{index}" for index, identity in enumerate(self.readers)}
        (self.folder / "gridmap").write_text("".join(f'"{key}" {name}\n' for key, name in names.items()))
        readers = "".join(f"u {name} {self.served} lr\n" for name in names.values())
        shipped = (IMAGES / "xcache/authdb").read_text().replace("/store", self.served)
        (self.folder / "authdb").write_text(shipped + readers)

    def configuration(self):
        # Of a directive that is there twice the last one counts.
        return (IMAGES / "xcache/xcache.cfg").read_text() + self.fill(COMMON)


class MuteServer:
    """Takes connections and never answers."""

    def __init__(self):
        self.port = free_port()
        self.socket = None
        self.connections = []

    def url(self, path=""):
        return f"root://localhost:{self.port}/{path}"

    def start(self):
        self.socket = socket.create_server(("127.0.0.1", self.port))
        threading.Thread(target=self._accept, args=(self.socket,), daemon=True).start()
        return self

    def _accept(self, listening):
        with contextlib.suppress(OSError):
            while True:
                self.connections.append(listening.accept()[0])

    def kill(self):
        if self.socket is None:
            return
        # A close alone does not wake the thread that waits in accept.
        self.socket.shutdown(socket.SHUT_RDWR)
        for each in (self.socket, *self.connections):
            each.close()
        self.socket, self.connections = None, []

    stop = close = kill

    def __enter__(self):
        return self.start()

    def __exit__(self, *_):
        self.kill()
