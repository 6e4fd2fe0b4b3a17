"""The schedd: submit a DAG, ask for the jobs of runs in one query, act on them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from mlaas_condor.errors import PoolLost, PoolUnreachable, WrongState
from mlaas_condor.run import RunFolder

STATES = {1: "idle", 2: "running", 3: "removed", 4: "completed", 5: "held", 6: "running", 7: "suspended"}
_ATTRIBUTES = [
    "ClusterId", "ProcId", "JobStatus", "JobUniverse", "MLaaSRun", "MLaaSStage", "MLaaSTask", "HoldReason",
    "HoldReasonCode", "HoldReasonSubCode", "RequestCpus", "RequestMemory", "RequestDisk", "RequestGPUs",
    "EnteredCurrentStatus", "RequireGPUs", "GPUsMinMemory", "GPUsMinCapability",
]  # fmt: skip


@dataclass(frozen=True)
class QueuedJob:
    """One job as the schedd knows it.

    Parameters
    ----------
    cluster, proc, state
        Its number; idle, running, held, ….
    run, stage, task
        What it works on; the stage of the DAGMan job itself is ``dagman``.
    since
        Seconds since 1970 at which it entered its state.
    hold_reason, hold_code, hold_subcode
        Why it is held.
    cpus, memory, disk, gpus
        What it asks for: cores, MiB, KiB, GPUs.
    require_gpus
        What each of its GPUs must be, as an expression; empty for any.
    """

    cluster: int
    proc: int
    state: str
    run: str
    stage: str
    task: int
    since: int
    hold_reason: str = ""
    hold_code: int = 0
    hold_subcode: int = 0
    cpus: int = 1
    memory: int = 0
    disk: int = 0
    gpus: int = 0
    require_gpus: str = ""


@contextmanager
def _pool_errors(kind: type[PoolUnreachable] = PoolUnreachable) -> Iterator[None]:
    """Turn what the bindings raise when no schedd answers into our error."""
    import htcondor2

    try:
        yield
    except (htcondor2.HTCondorException, OSError, RuntimeError) as error:
        text = str(error).strip().splitlines()
        raise kind(
            f"HTCondor's schedd does not answer: {text[-1] if text else type(error).__name__}; "
            "`mlaas-condor pool status` says more"
        ) from error


def submit(folder: RunFolder) -> int:
    """Submit the DAG of a run directory and return DAGMan's cluster number.

    A DAG that ran before starts over; stages whose output is there are skipped by their PRE scripts.
    """
    import htcondor2

    with _pool_errors():
        # "Force" because the output is what counts, not what an earlier rescue file says of it. The path
        # is absolute, because the working directory belongs to all threads of a process.
        options = {"Force": True, "BatchName": folder.name}
        description = htcondor2.Submit.from_dag(str(folder.dag), options)
        description["initialdir"] = str(folder.path)
        description["My.MLaaSRun"] = f'"{folder.name}"'
        description["My.MLaaSStage"] = '"dagman"'
        return int(htcondor2.Schedd().submit(description).cluster())


def query(runs: list[str] | None = None) -> list[QueuedJob]:
    """Return the queued jobs of the named runs (None: of all), in one query.

    Raises
    ------
    PoolLost
        The schedd does not answer.
    """
    import htcondor2

    constraint = "MLaaSRun =!= undefined"
    if runs is not None:
        constraint = " || ".join(f'MLaaSRun == "{name}"' for name in runs) or "false"
    with _pool_errors(PoolLost):
        ads = htcondor2.Schedd().query(constraint=constraint, projection=_ATTRIBUTES)
    return [_queued_job(ad) for ad in ads]


def _queued_job(ad: Any) -> QueuedJob:
    def number(name: str, default: int = 0) -> int:
        value = ad.get(name, default)
        return int(value) if isinstance(value, int | float) else default

    return QueuedJob(
        cluster=number("ClusterId"),
        proc=number("ProcId"),
        state=STATES.get(number("JobStatus"), "unknown"),
        run=str(ad.get("MLaaSRun")),
        stage=str(ad.get("MLaaSStage")),
        task=number("MLaaSTask"),
        since=number("EnteredCurrentStatus"),
        hold_reason=str(ad.get("HoldReason", "")),
        hold_code=number("HoldReasonCode"),
        hold_subcode=number("HoldReasonSubCode"),
        cpus=number("RequestCpus", 1),
        memory=number("RequestMemory"),
        disk=number("RequestDisk"),
        gpus=number("RequestGPUs"),
        # Flattened, because it refers to attributes of the job.
        require_gpus=str(ad.flatten(ad.lookup("RequireGPUs"))) if "RequireGPUs" in ad else "",
    )


def remove(run: str) -> None:
    """Remove a run's DAGMan job, which removes the others.

    Raises
    ------
    WrongState
        None is queued.
    """
    if not _act("Remove", f'MLaaSRun == "{run}" && MLaaSStage == "dagman"'):
        raise WrongState(f"{run}: nothing of it is queued")


def release(run: str) -> int:
    """Release the held jobs of a run, and return how many."""
    return _act("Release", f'MLaaSRun == "{run}" && JobStatus == 5')


def _act(action: str, constraint: str) -> int:
    import htcondor2

    with _pool_errors():
        reply = htcondor2.Schedd().act(getattr(htcondor2.JobAction, action), constraint)
        return int(reply["TotalSuccess"])


@dataclass(frozen=True)
class Machine:
    """The most that one machine of the pool can give to a job: cores, MiB, KiB, GPUs."""

    name: str
    cpus: int
    memory: int
    disk: int
    gpus: int


def machines() -> list[Machine]:
    """Return the machines of the pool."""
    import htcondor2

    names = ["Machine", "TotalSlotCpus", "TotalSlotMemory", "TotalSlotDisk", "TotalSlotGPUs"]
    with _pool_errors(PoolLost):
        ads = htcondor2.Collector().query(
            htcondor2.AdType.Startd, constraint='SlotType =!= "Dynamic"', projection=names
        )
    return [
        Machine(
            name=str(ad.get("Machine", "?")),
            cpus=int(ad.get("TotalSlotCpus", 0)),
            memory=int(ad.get("TotalSlotMemory", 0)),
            disk=int(float(ad.get("TotalSlotDisk", 0))),
            gpus=int(ad.get("TotalSlotGPUs", 0)),
        )
        for ad in ads
    ]  # fmt: skip


def most_gpus(require: str) -> int:
    """Return how many GPUs for which an expression holds the best machine of the pool has."""
    import classad2
    import htcondor2

    expression = classad2.ExprTree(require)
    with _pool_errors(PoolLost):
        # All attributes: those that describe a card carry its number in their name.
        ads = htcondor2.Collector().query(
            htcondor2.AdType.Startd, constraint='SlotType =!= "Dynamic" && TotalSlotGPUs > 0'
        )
    cards = ([value for name, value in ad.items() if name.startswith("GPUs_GPU_")] for ad in ads)
    return max((sum(expression.eval(card) is True for card in each) for each in cards), default=0)
