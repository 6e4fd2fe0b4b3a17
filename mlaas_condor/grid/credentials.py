"""Which credentials a run reads its input with, as its run directory says."""

from __future__ import annotations

from pathlib import Path
from typing import Self

from pydantic import Field

from mlaas_condor.jsonfile import JsonFile


class Credentials(JsonFile):
    """What the jobs of a run get; paths are those of the submit side. Holds no secret itself.

    Parameters
    ----------
    proxy
        The proxy file that the jobs are submitted with, ``""`` for none.
    identity
        Whose it is: ``/DC=ch/DC=cern/CN=Jane``.
    token
        The file with the token that the jobs get, ``""`` for none.
    stages
        The stages whose jobs get them.
    certificates
        Folder of the authorities' certificates, as ``X509_CERT_DIR`` was set when the run was submitted.
    """

    proxy: str = ""
    identity: str = ""
    token: str = ""
    stages: list[str] = Field(default_factory=list)
    certificates: str = ""

    @classmethod
    def of(cls, path: Path) -> Self:
        """Read the file of a run; where it is missing or damaged, the run is as one that uses none."""
        try:
            return cls.read(path)
        except (OSError, ValueError):
            return cls()
