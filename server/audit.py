"""The audit log: one JSON line for every change that somebody made, and for every one that was refused."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

from .identity import Identity


class Audit:
    """Writes the audit log; several processes may, each line whole.

    Parameters
    ----------
    path
        The file; readable by the service only.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def write(self, identity: Identity, action: str, what: str, request_id: str = "", **more: object) -> None:
        """Add a line.

        Parameters
        ----------
        action, what
            ``submit``, ``run luca_1``.
        more
            Whatever else is worth knowing: never a token, never the content of a file.
        """
        line = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "who": identity.owner,
            "how": identity.method,
            "action": action,
            "what": what,
            "request_id": request_id,
            **more,
        }
        handle = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            # One call: lines of several processes do not mix.
            os.write(handle, (json.dumps(line, default=str) + "\n").encode())
        finally:
            os.close(handle)
