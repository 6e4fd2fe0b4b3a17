"""The schedd: submit a DAG, ask for the jobs of runs in one query, act on them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from mlaas_condor.errors import CannotWrite, PoolLost, PoolUnreachable, SubmitRefused
from mlaas_condor.run import RunFolder

STATES = {1: "idle", 2: "running", 3: "removed", 4: "completed", 5: "held", 6: "running", 7: "suspended"}
_ATTRIBUTES = [
    "ClusterId", "ProcId", "JobStatus", "MLaaSRun", "MLaaSStage", "MLaaSTask", "RequestCpus",
    "RequestMemory", "RequestDisk", "RequestGPUs", "RequireGPUs", "GPUsMinMemory", "GPUsMinCapability",
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
    cpus: int = 1
    memory: int = 0
    disk: int = 0
    gpus: int = 0
    require_gpus: str = ""


@contextmanager
def pool_errors(kind: type[PoolUnreachable] = PoolUnreachable) -> Iterator[None]:
    """Turn what the bindings raise when a daemon does not answer into our error."""
    import htcondor2

    try:
        yield
    except (htcondor2.HTCondorException, OSError, RuntimeError) as error:
        raise kind(
            f"HTCondor does not answer: {_last_line(error)}; `mlaas-condor pool status` says more"
        ) from error


def _last_line(error: Exception) -> str:
    text = str(error).strip().splitlines()
    return text[-1] if text else type(error).__name__


def here() -> str:
    """Name the pool that this process is turned to: what `submit` writes down and `status` compares.

    One's own pool is named by its configuration alone, because the name of a laptop changes.
    """
    import htcondor2

    config = os.environ.get("CONDOR_CONFIG", "/etc/condor/condor_config")
    own = "MLAAS_CONDOR_PERSONAL_POOL" in htcondor2.param
    return config if own else f"{htcondor2.param.get('FULL_HOSTNAME', 'this machine')} {config}"


def submit(folder: RunFolder) -> int:
    """Submit the DAG of a run directory and return DAGMan's cluster number.

    A DAG that ran before starts over; stages whose output is there are skipped by their PRE scripts.

    Raises
    ------
    SubmitRefused
        The schedd answers, but does not take it.
    CannotWrite
        The run directory has no room for what goes with the submission.
    """
    import htcondor2

    with pool_errors():
        schedd = htcondor2.Schedd()
    try:
        folder.submitted_to.write_text(here() + "\n", "utf-8")
        # "Force" because the output is what counts, not what an earlier rescue file says of it. The path
        # is absolute, because the working directory belongs to all threads of a process.
        options = {"Force": True, "BatchName": folder.name}
        description = htcondor2.Submit.from_dag(str(folder.dag), options)
        # DAGMan has no use for a token, and its ad, which keeps the values, may be read by anybody.
        handed_on = (name.strip() for name in description["getenv"].split(","))
        description["getenv"] = ",".join(name for name in handed_on if not name.startswith("BEARER_TOKEN"))
        description["initialdir"] = str(folder.path)
        description["My.MLaaSRun"] = f'"{folder.name}"'
        description["My.MLaaSStage"] = '"dagman"'
        return int(schedd.submit(description).cluster())
    except (htcondor2.HTCondorException, RuntimeError) as error:
        raise SubmitRefused(f"HTCondor did not take {folder.name}: {_last_line(error)}") from error
    except OSError as error:
        raise CannotWrite(f"{folder.path}: {error.strerror}: {folder.name} was not submitted") from error


def query(runs: list[str]) -> list[QueuedJob]:
    """Return the queued jobs of the named runs, in one query.

    Raises
    ------
    PoolLost
        The schedd does not answer.
    """
    import htcondor2

    constraint = " || ".join(f'MLaaSRun == "{name}"' for name in runs) or "false"
    with pool_errors(PoolLost):
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
        cpus=number("RequestCpus", 1),
        memory=number("RequestMemory"),
        disk=number("RequestDisk"),
        gpus=number("RequestGPUs"),
        # Flattened, because it refers to attributes of the job.
        require_gpus=str(ad.flatten(ad.lookup("RequireGPUs"))) if "RequireGPUs" in ad else "",
    )


def remove(run: str) -> int:
    """Remove DAGMan and all jobs of a run, also those that a dead DAGMan left; return how many."""
    return _act("Remove", f'MLaaSRun == "{run}"')


def release(run: str) -> int:
    """Release the held jobs of a run, and return how many."""
    return _act("Release", f'MLaaSRun == "{run}" && JobStatus == 5')


def _act(action: str, constraint: str) -> int:
    import htcondor2

    with pool_errors():
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
    with pool_errors(PoolLost):
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
    with pool_errors(PoolLost):
        # All attributes: those that describe a card carry its number in their name.
        ads = htcondor2.Collector().query(
            htcondor2.AdType.Startd, constraint='SlotType =!= "Dynamic" && TotalSlotGPUs > 0'
        )
    cards = ([value for name, value in ad.items() if name.startswith("GPUs_GPU_")] for ad in ads)
    return max((sum(expression.eval(card) is True for card in each) for each in cards), default=0)
