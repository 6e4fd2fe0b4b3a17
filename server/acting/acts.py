"""What a process that acts for an owner is told, and what is kept of a submission."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field

from mlaas_condor.jsonfile import JsonFile
from mlaas_condor.settings import Settings

from ..configuration import Configuration
from ..storage.folders import Folder


class Belonging(JsonFile):
    """``owner.json`` of a run directory: whose run it is, and what of."""

    owner: str = Field(description="whose it is")
    name: str = Field("", description="the owner's name for people")
    folder: str = Field("", description="the uploaded folder that its files were in")
    version: str = Field("", description="the version of that folder")
    readers: list[str] = Field([], description="groups that may read it")
    writers: list[str] = Field([], description="groups that may change it")
    key: str = Field("", description="digest of the Idempotency-Key it was submitted with")
    request_id: str = Field("", description="the request that submitted it")
    submitted: float = Field(0.0, description="when, in seconds since 1970")


class Record(JsonFile):
    """What is known of a submission by its key."""

    body: str = Field(description="digest of what was sent")
    name: str = Field("", description="the run; empty while it is not known to be there")
    job_id: int = Field(0, description="number of its DAGMan job")
    warnings: list[str] = Field([], description="what was said to it")


SECONDS = 900
"""How long an act may take; a plan of thousands of remote files takes minutes."""

TOO_LONG = "this took too long, and was ended: try again, or name fewer files"

HANDED_ON = (
    "PATH", "HOME", "LANG", "LC_ALL", "TZ", "TMPDIR", "LD_LIBRARY_PATH", "CONDOR_CONFIG", "X509_CERT_DIR",
    "X509_VOMS_DIR", "SSL_CERT_FILE", "SSL_CERT_DIR", "PYTHONPATH", "PYTHONWARNINGS", "USER", "LOGNAME",
)  # fmt: skip
"""Variables with which programs find themselves and others; nothing of this says who somebody is."""

WITHOUT_THREADS = {
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    "JE_ARROW_MALLOC_CONF": "background_thread:false",
}
"""Variables that keep libraries from starting threads when they are loaded."""


@dataclass(frozen=True)
class Act:
    """What `acting` is to do.

    Parameters
    ----------
    what
        submit, plan, cancel, resume or delete.
    settings
        Those of the owner.
    configuration
        What ``service.toml`` says.
    job, folder, belonging
        Of a submission or a plan: the request, its files, whose the run is.
    record, body
        File in which a submission is kept by its key; empty for none. Digest of what was sent.
    run, keep_stored
        Of the others.
    """

    what: str
    settings: Settings
    configuration: Configuration
    job: Mapping[str, Any] | None = None
    folder: Folder | None = None
    belonging: Belonging | None = None
    record: str = ""
    body: str = ""
    run: str = ""
    keep_stored: bool = False


def write_whole(record: JsonFile, path: Path) -> None:
    """Write a file that is there wholly or not at all."""
    part = path.with_name(f".{path.name}.{os.getpid()}")
    record.write(part)
    part.replace(path)
