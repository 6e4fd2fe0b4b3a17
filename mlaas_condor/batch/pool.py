"""Which HTCondor pool is used; start, stop and look at the personal one, which lives in ``home/pool``.

Its state is read from there and from the process table, whoever started it and however it ended.
"""

from __future__ import annotations

import math
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from mlaas_condor.batch import identity, personal
from mlaas_condor.batch.install import locked
from mlaas_condor.errors import CredentialFault, InstallError, PoolUnreachable, WrongState
from mlaas_condor.settings import Settings, own_pools, site_pool_config

Say = Callable[[str], None]
# A schedd on this machine answers in milliseconds, that of a site can be busy.
ANSWER_SECONDS = {"personal": 5.0, "site": 20.0}
# A small machine, too, should run a few short jobs side by side.
LEAST_CPUS = 4
_answered: dict[str, float] = {}  # when the schedd of a configuration last did, by the monotonic clock
_WAITING = "Another process is starting or stopping the personal pool; waiting for it."
_SLOT_ATTRIBUTES = ["SlotType", "State", "Cpus", "GPUs", "TotalSlotCpus", "TotalSlotGPUs", "TotalSlotMemory"]


@dataclass(frozen=True)
class Pool:
    """Which pool is used: ours or the site's, and its configuration file, "" where there is none."""

    kind: Literal["personal", "site"]
    config: str


@dataclass(frozen=True)
class PoolInfo(Pool):
    """A pool as it is now; the numbers are 0 and the texts empty where it does not run.

    Parameters
    ----------
    running
        Whether the schedd answers.
    version, schedd
        HTCondor's version, ``25.14.1``; name of the access point.
    cpus, cpus_busy, gpus, gpus_busy, memory_mb
        What all execution points have together, and what of it jobs have now; memory in MiB.
    jobs_running, jobs_idle, jobs_held
        Jobs of all users in the queue of this access point, DAGs included.
    """

    running: bool = False
    version: str = ""
    schedd: str = ""
    cpus: int = 0
    cpus_busy: int = 0
    gpus: int = 0
    gpus_busy: int = 0
    memory_mb: int = 0
    jobs_running: int = 0
    jobs_idle: int = 0
    jobs_held: int = 0


def folder(settings: Settings) -> Path:
    """Return the folder of the personal pool, by the name that its processes know."""
    return settings.home.resolve() / "pool"


def _quiet(_: str) -> None: ...


def find(settings: Settings) -> Pool:
    """Return the pool that the settings mean; nothing is asked whether it runs."""
    if settings.pool != "personal":
        config = site_pool_config()
        if config or settings.pool == "site":
            return Pool("site", config)
    return Pool("personal", str(folder(settings) / "condor_config"))


def use(settings: Settings, trust_seconds: float = 0.0) -> Pool:
    """Make HTCondor's bindings and commands use the pool of the settings, and check that it answers.

    Parameters
    ----------
    trust_seconds
        Do not ask again where it answered this process so short a time ago.

    Raises
    ------
    PoolUnreachable
        Where no schedd answers within seconds.
    CredentialFault
        It answers, but not to the user whose token this process has.
    """
    pool = find(settings)
    in_use = os.environ.get("CONDOR_CONFIG") == pool.config and "htcondor2" in sys.modules
    if in_use and time.monotonic() - _answered.get(pool.config, -math.inf) < trust_seconds:
        return pool
    problem = _connect(pool)
    if not problem:
        _answered[pool.config] = time.monotonic()
        return pool
    _answered.pop(pool.config, None)
    if said := identity.not_accepted(problem):
        raise CredentialFault(said)
    advice = "Start it: `mlaas-condor pool up`"
    if pool.kind == "site":
        advice = "Ask the site, or use a pool on this machine: `mlaas-condor pool up --personal`"
    where = pool.config or "no CONDOR_CONFIG, no /etc/condor/condor_config"
    raise PoolUnreachable(f"The {pool.kind} HTCondor pool does not answer ({where}): {problem}. {advice}")


def _connect(pool: Pool) -> str:
    """Point this process to a pool; return what is wrong with it, "" for nothing."""
    if not Path(pool.config).is_file():
        return "it was never started" if pool.kind == "personal" else "there is no such file"
    os.environ["CONDOR_CONFIG"] = pool.config
    if pool.kind == "personal":
        own_pools.add(pool.config)
    import htcondor2  # here, because it takes 0.1 s and reads CONDOR_CONFIG

    htcondor2.reload_config()
    for name in ("BIN", "SBIN"):
        # Last: a release may bring more than HTCondor, and must not replace the user's programs.
        if (path := htcondor2.param.get(name, "")) not in os.environ.get("PATH", "").split(os.pathsep):
            os.environ["PATH"] = f"{os.environ.get('PATH', os.defpath)}{os.pathsep}{path}"
    return _silence(ANSWER_SECONDS[pool.kind])


def _silence(seconds: float) -> str:
    """Ask the schedd for nothing; return why there was no answer, "" where there was one."""
    ask = "import htcondor2; htcondor2.Schedd().query(constraint='false')"
    tool = shutil.which("condor_q")
    command = [tool, "-constraint", "false", "-af", "ClusterId"] if tool else [sys.executable, "-c", ask]
    # In a process of its own (10 ms): a call of the bindings to a schedd that hangs takes 20 s or for
    # ever, and no other thread runs meanwhile.
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=seconds,
        )
    except subprocess.TimeoutExpired:
        return f"no answer within {seconds:g} s"
    if done.returncode == 0:
        return ""
    # What follows after the first sentence is advice for administrators.
    words = " ".join((done.stderr or done.stdout).split()).partition(" Extra Info:")[0]
    return words.rstrip(".") or f"condor_q ended with {done.returncode}"


def status(settings: Settings) -> PoolInfo:
    """Return what the pool of the settings has and does now."""
    pool = find(settings)
    down = PoolInfo(pool.kind, pool.config)
    if _connect(pool):
        return down
    # Without its master the pool is about to end, though for some seconds the schedd still answers.
    if pool.kind == "personal" and personal.master_pid(folder(settings)) is None:
        return down
    import htcondor2

    try:
        collector = htcondor2.Collector()
        schedd = collector.locate(htcondor2.DaemonType.Schedd)
        jobs = htcondor2.Schedd().query(opts=htcondor2.QueryOpt.SummaryOnly)[0]
        slots = collector.query(
            htcondor2.AdType.Startd, constraint='SlotType =!= "Dynamic"', projection=_SLOT_ATTRIBUTES
        )
    except htcondor2.HTCondorException:
        return down
    return PoolInfo(
        pool.kind, pool.config, True,
        version=str(schedd["CondorVersion"]).split()[1],
        schedd=str(schedd["Name"]),
        **_sum_slots(slots),
        **{f"jobs_{name.lower()}": int(jobs[f"Allusers{name}"]) + int(jobs[f"AllusersScheduler{name}"])
           for name in ("Running", "Idle", "Held")},
    )  # fmt: skip


def _sum_slots(slots: Sequence[Any]) -> dict[str, int]:
    """Add up slots, none of them dynamic: of a partitionable one ``Cpus`` is what is left."""
    sums = dict.fromkeys(("cpus", "cpus_busy", "gpus", "gpus_busy", "memory_mb"), 0)
    for slot in slots:
        sums["memory_mb"] += int(slot.get("TotalSlotMemory", 0))
        for name, attribute in (("cpus", "Cpus"), ("gpus", "GPUs")):
            left = int(slot.get(attribute, 0))
            total = int(slot.get(f"TotalSlot{attribute}", left))
            if slot.get("SlotType") != "Partitionable":
                left = 0 if slot.get("State") == "Claimed" else total
            sums[name] += total
            sums[f"{name}_busy"] += total - left
    return sums


def up(
    settings: Settings, cpus: int | None = None, simulate_gpus: str | None = None, say: Say = _quiet
) -> PoolInfo:
    """Start the personal pool, unless it runs; install HTCondor first where there is none.

    Parameters
    ----------
    cpus, simulate_gpus
        As in `personal.Start`; by default the CPUs of the machine, at least 4, and its own GPUs.
    say
        Called with a line for the user at each thing that is done.

    Raises
    ------
    InstallError
        Where HTCondor cannot be installed or started; with the end of its log.
    WrongState
        Where the pool runs with other `cpus` or `simulate_gpus` than those given.
    """
    if (found := find(settings)).kind == "site":
        say(f"The site's pool is used ({found.config}); there is nothing to start.")
        return status(settings)
    pool = folder(settings)
    try:
        pool.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InstallError(f"No folder for the pool: {error}. Name another by MLAAS_CONDOR_HOME") from error
    with locked(pool.with_name("pool.lock"), _WAITING, say):
        info = status(settings)
        if not info.running:
            try:
                cpus = cpus or max(LEAST_CPUS, len(os.sched_getaffinity(0)))
                _start(settings, cpus, simulate_gpus or "", say)
            except OSError as error:
                raise InstallError(f"The pool cannot be started in {pool}: {error}") from error
            return status(settings)
        _check_same(info, cpus, simulate_gpus)
        say(f"The personal pool in {pool} is already running.")
        return info


def _start(settings: Settings, cpus: int, simulate_gpus: str, say: Say) -> None:
    pool = folder(settings)
    if left := personal.processes(pool):
        say(f"Ending {len(left)} processes that a crash of the pool left; its queue of jobs is kept.")
        personal.end(pool)
    release = personal.find_release(settings.cache, say)
    say(f"Starting HTCondor with {cpus} CPUs in {pool}, reachable from this machine only.")
    personal.launch(personal.Start(pool, release, cpus, simulate_gpus))


def _check_same(info: PoolInfo, cpus: int | None, simulate_gpus: str | None) -> None:
    import htcondor2

    simulated = htcondor2.param.get("SIMULATED_GPUS", "")
    if cpus not in (None, info.cpus) or simulate_gpus not in (None, simulated):
        gpus = f"simulated GPUs {simulated}" if simulated else "no simulated GPUs"
        raise WrongState(
            f"The personal pool is already running, with {info.cpus} CPUs and {gpus}. "
            "To change them stop it first: `mlaas-condor pool down`"
        )


def down(settings: Settings, say: Say = _quiet, force: bool = False) -> None:
    """Stop the personal pool; the queue of jobs is kept for the next start.

    Parameters
    ----------
    force
        Also while jobs run; they start again when the pool does.

    Raises
    ------
    WrongState
        Where jobs run, without `force`; where the pool is the site's.
    """
    if (found := find(settings)).kind == "site":
        raise WrongState(f"The pool is the site's ({found.config}), not ours to stop")
    pool = folder(settings)
    if not personal.processes(pool):
        say(f"No personal pool is running in {pool}.")
        return
    with locked(pool.with_name("pool.lock"), _WAITING, say):
        info = status(settings)
        # Without an answer of the schedd a job is known by its starter.
        jobs = info.jobs_running or [*personal.processes(pool).values()].count("condor_starter")
        if jobs and not force:
            raise WrongState(
                f"{jobs} jobs run in the pool. Wait for them, or stop it with `mlaas-condor pool down "
                "--force`: they start again at the next `mlaas-condor pool up`"
            )
        personal.stop(pool)
    waiting = info.jobs_idle + info.jobs_running
    say(f"The pool is stopped.{f' {waiting} jobs wait in its queue for the next start.' if waiting else ''}")
