"""What each user may have at a time: requests a second, runs, CPUs and GPUs, bytes stored."""

from __future__ import annotations

import fcntl
import os
import struct
import time
from dataclasses import dataclass, replace
from pathlib import Path

from mlaas_condor import run
from mlaas_condor.batch import events, queue
from mlaas_condor.owners import short_name
from mlaas_condor.planning import Plan
from mlaas_condor.run import RunFolder
from mlaas_condor.settings import Settings

from .. import configuration
from ..faults import OverLimit, OverQuota, TooLarge
from ..identity import Identity
from ..storage.room import Room

_MEBIBYTE = 2**20
_BURST_SECONDS = 10.0
_LEFT = struct.Struct("dd")  # requests that are left, and as of when


@dataclass(frozen=True)
class Usage:
    """What runs that are not over have together, or a plan would."""

    runs: int = 0
    cpus: int = 0
    gpus: int = 0

    def __add__(self, other: Usage) -> Usage:
        return Usage(self.runs + other.runs, self.cpus + other.cpus, self.gpus + other.gpus)

    @classmethod
    def of(cls, plan: Plan) -> Usage:
        """Return what a run of a plan has: what its training asks for counts, the rest is short."""
        train = plan.stage("train")
        return cls(1, train.jobs * train.cpus, train.jobs * train.gpus)


class Limits:
    """The limits of everybody.

    Parameters
    ----------
    limits
        What each user may have.
    settings
        Where runs are.
    rates
        Folder with a small file for each user: how many requests are left to them.
    """

    def __init__(self, limits: configuration.Limits, settings: Settings, rates: Path) -> None:
        self._limits = limits
        self._settings = settings
        self._rates = rates
        rates.mkdir(parents=True, exist_ok=True, mode=0o700)

    def count_request(self, identity: Identity) -> None:
        """Count a request; all processes count together.

        Raises
        ------
        OverLimit
            There are too many.
        """
        rate = self._limits.requests_per_second
        most = max(1.0, rate * _BURST_SECONDS)
        file = os.open(self._rates / short_name(identity.owner), os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
            now = time.time()
            found = os.pread(file, _LEFT.size, 0)
            left, then = _LEFT.unpack(found) if len(found) == _LEFT.size else (most, now)
            # A clock that was set back takes nothing away.
            left = min(most, left + max(0.0, now - then) * rate)
            if left < 1.0:
                wait = max(1, round((1.0 - left) / rate + 0.5))
                raise OverLimit(
                    f"these are more than {rate:g} requests a second, the limit of each user: wait {wait} s",
                    {"Retry-After": str(wait)},
                )
            os.pwrite(file, _LEFT.pack(left - 1.0, now), 0)
        finally:
            os.close(file)

    def check_upload(self, owner: str, expected: int | None = None) -> None:
        """Make sure that an upload has a chance, before it is taken.

        Parameters
        ----------
        expected
            Bytes that it says it has.

        Raises
        ------
        TooLarge
            It has more than one may have.
        OverQuota
            The owner has no room for it.
        """
        most = self._limits.upload
        if expected is not None and expected > most * _MEBIBYTE:
            raise TooLarge(f"the upload has {expected / _MEBIBYTE:.0f} MiB, and may have {most}")
        Room(replace(self._settings, owner=owner).own, self._limits).check(0)

    def check_submission(self, owner: str, plan: Plan) -> None:
        """Make sure that an owner may have another run; alone with the owner's runs meanwhile.

        Raises
        ------
        OverLimit
            Runs have to end first.
        OverQuota
            The run asks for more than one may have at all, or more is stored than may be.
        PoolUnreachable
            Whether that is so, only HTCondor could tell.
        """
        asked, most = Usage.of(plan), self._limits
        limits = (
            ("runs that are not over", asked.runs, "runs", most.running_runs),
            ("CPUs", asked.cpus, "cpus", most.cpus),
            ("GPUs", asked.gpus, "gpus", most.gpus),
        )
        for what, wanted, _, limit in limits:
            if wanted > limit:
                raise OverQuota(f"the run asks for {wanted} {what}, and each user may have {limit}")
        largest = max(stage.jobs for stage in plan.stages)
        if largest > most.jobs:
            raise OverQuota(
                f"a stage of the run has {largest} jobs, and may have {most.jobs}: raise chunk_size, or "
                "lower tasks in job.json"
            )
        used = self._used(owner)
        if any(getattr(used, name) + wanted > limit for _, wanted, name, limit in limits):
            used = self._used(owner, in_queue=True)
        for what, wanted, name, limit in limits:
            if (has := getattr(used, name)) + wanted > limit:
                raise OverLimit(
                    f"your runs have {has} {what}, and this one asks for {wanted}: the limit is {limit} at a "
                    "time; wait until one is over, or cancel one",
                    {"Retry-After": "60"},
                )
        Room(replace(self._settings, owner=owner).own, self._limits).check(0)

    def usage(self, owner: str) -> dict[str, int]:
        """Return what an owner has of each limit: runs, CPUs, GPUs, MiB."""
        used = self._used(owner)
        own = replace(self._settings, owner=owner).own
        stored = Room(own, self._limits).stored() // _MEBIBYTE
        return {"running_runs": used.runs, "cpus": used.cpus, "gpus": used.gpus, "stored": stored}

    def _used(self, owner: str, in_queue: bool = False) -> Usage:
        """Return what an owner's runs have together.

        Parameters
        ----------
        in_queue
            Whether to ask the schedd, too, which of them it has: its queue may have been lost. The pool must
            be in use then.
        """
        alive = [
            each for each in run.list_folders(replace(self._settings, owner=owner).runs) if is_alive(each)
        ]
        if in_queue:
            there = {job.directory for job in queue.query(alive)}
            alive = [each for each in alive if queue.directory(each) in there]
        return sum(map(_usage_of, alive), Usage())


def _usage_of(folder: RunFolder) -> Usage:
    try:
        return Usage.of(Plan.read(folder.plan))
    except (OSError, ValueError):  # deleted just now
        return Usage()


def is_alive(folder: RunFolder) -> bool:
    """Tell whether the DAG of a run has been submitted and is not over."""
    dagman = events.read(folder.dagman_log)
    return bool(dagman) and dagman[-1].state not in ("ended", "removed")
