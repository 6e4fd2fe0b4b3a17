"""What the views of the service work with: its configuration, and the parts that keep things on disk.

Nothing here remembers a request: several processes serve the same folder, and each may be killed at any time.
"""

from __future__ import annotations

import os
import secrets
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

from flask import current_app, g

from mlaas_condor.grid.delegation import Requests
from mlaas_condor.settings import Settings

from .acting.limits import Limits
from .acting.submissions import Submissions
from .audit import Audit
from .configuration import Configuration
from .identity import Identity
from .login import Login
from .storage.folders import Folders

EXTENSION = "mlaas_condor"


@dataclass(frozen=True)
class Service:
    """The service.

    Parameters
    ----------
    configuration
        What ``service.toml`` says.
    settings
        Where runs and pool are.
    secret
        Key of what only this service can have signed: sessions, tokens against forged forms.
    login
        Tells who makes a request.
    folders, submissions, limits, audit, delegation
        Uploaded folders; what is submitted and how; what each user may have; what was changed; proxies.
    """

    configuration: Configuration
    settings: Settings
    secret: bytes
    login: Login
    folders: Folders
    submissions: Submissions
    limits: Limits
    audit: Audit
    delegation: Requests

    @classmethod
    def of(cls, configuration: Configuration, settings: Settings | None = None) -> Service:
        """Build the service of a configuration, and the folders that it needs."""
        settings = settings or configuration.settings()
        folder = settings.home / "service"
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        secret = _secret(folder / "secret")
        authorities = os.environ.get("X509_CERT_DIR", "")
        delegation = Requests(folder / "proxies", Path(authorities) if authorities else None)
        limits = Limits(configuration.limits, settings, folder / "rates")
        folders = Folders(settings, configuration.limits)
        folders.tidy()
        return cls(
            configuration=configuration,
            settings=settings,
            secret=secret,
            login=Login.of(configuration, secret),
            folders=folders,
            submissions=Submissions(configuration, settings, delegation),
            limits=limits,
            audit=Audit(folder / "audit.jsonl"),
            delegation=delegation,
        )

    def settings_of(self, owner: str) -> Settings:
        """Return settings whose runs are those of one owner."""
        return replace(self.settings, owner=owner)


def _secret(path: Path) -> bytes:
    """Return the key in a file, made by whichever process comes first."""
    mine = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    mine.touch(mode=0o600)
    mine.write_bytes(secrets.token_bytes(32))
    try:
        os.link(mine, path)
    except FileExistsError:
        pass
    finally:
        mine.unlink()
    return path.read_bytes()


def service() -> Service:
    """Return the service that handles the request of now."""
    return cast(Service, current_app.extensions[EXTENSION])


def who() -> Identity:
    """Return who makes the request of now."""
    return cast(Identity, g.identity)
