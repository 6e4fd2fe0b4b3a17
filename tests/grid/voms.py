"""A VO of the tests: VOMS attributes in proxies, made by voms-proxy-fake as a VOMS server makes them."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from xrootd_install import ensure_xrootd
from xrootd_server import NoServer


class Vo:
    """Gives proxies with attributes; needs ``voms-clients``, which `ensure_xrootd` unpacks with the rest.

    Parameters
    ----------
    authority
        Signs the certificate of the VOMS server.
    folder
        Gets that certificate.
    name
        Of the VO.
    """

    def __init__(self, authority, folder, name="cms"):
        self.authority, self.folder, self.name = authority, Path(folder), name
        self.installed = ensure_xrootd()
        if not Path(self.installed.program("voms-proxy-fake")).exists():
            raise NoServer("no voms-proxy-fake (apt-get install voms-clients)")
        self.host = authority.host("voms.example.org")
        self.pair = self.host.write_pair(self.folder / "voms-host")

    def add_to(self, vomsdir):
        """Make servers with this ``X509_VOMS_DIR`` believe the VO."""
        folder = Path(vomsdir) / self.name
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "voms.example.org.lsc").write_text(f"{self.host.name}\n{self.authority.name}\n")

    def proxy(self, user, path, fqans=None, hours=12, attribute_hours=None):
        """Write a proxy with attributes; give its path.

        Parameters
        ----------
        user
            Somebody of the same authority, not a proxy.
        fqans
            The attributes: ``/cms/Role=NULL/Capability=NULL`` where none are named.
        hours, attribute_hours
            Lifetime of the proxy, and of the attributes where that is another.
        """
        certificate, key = user.write_pair(self.folder / f"user-{user.certificate.serial_number}")
        fqans = fqans or [f"/{self.name}/Role=NULL/Capability=NULL"]
        named = {
            "cert": certificate, "key": key, "hostcert": self.pair[0], "hostkey": self.pair[1], "out": path,
            "voms": self.name, "uri": "voms.example.org:15000", "hours": hours,
            "vomslife": attribute_hours or hours, "certdir": self.authority.certificates, "bits": 2048,
        }  # fmt: skip
        command = [self.installed.program("voms-proxy-fake"), "-rfc"]
        command += [part for key, value in named.items() for part in (f"-{key}", str(value))]
        command += [part for fqan in fqans for part in ("-fqan", fqan)]
        environment = os.environ | dict(self.installed.environment) | {"HOME": str(self.folder)}
        done = subprocess.run(command, capture_output=True, text=True, env=environment)
        if done.returncode:
            raise RuntimeError(f"voms-proxy-fake ended with {done.returncode}: {done.stderr or done.stdout}")
        return Path(path)
