"""The schedd: submit a DAG, ask for the jobs of runs in one query, act on them."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from mlaas_condor import owners
from mlaas_condor.batch import identity
from mlaas_condor.errors import CannotWrite, PoolLost, PoolUnreachable, SubmitRefused
from mlaas_condor.run import RunFolder

STATES = {1: "idle", 2: "running", 3: "removed", 4: "completed", 5: "held", 6: "running", 7: "suspended"}
_ATTRIBUTES = [
    "ClusterId", "ProcId", "JobStatus", "Iwd", "MLaaSDirectory", "MLaaSStage", "MLaaSTask", "RequestCpus",
    "RequestMemory", "RequestDisk", "RequestGPUs", "RequireGPUs", "GPUsMinMemory", "GPUsMinCapability",
]  # fmt: skip
# What DAGMan and the PRE scripts, which are plain shell, have a use for. Its ad keeps the values, and anybody
# may read it.
_HANDED_ON = {"CONDOR_CONFIG", "PATH", "TZ", "HOME", "USER", "LANG", "LC_ALL"}
_OF_CONDOR = re.compile(r"_CONDOR_[A-Za-z0-9_.]+")


@dataclass(frozen=True)
class QueuedJob:
    """One job as the schedd knows it.

    Parameters
    ----------
    cluster, proc, state
        Its number; idle, running, held, ….
    directory
        Run directory that it works for, as `directory` has it.
    stage, task
        What it works on; the stage of the DAGMan job itself is ``dagman``.
    cpus, memory, disk, gpus
        What it asks for: cores, MiB, KiB, GPUs.
    require_gpus
        What each of its GPUs must be, as an expression; empty for any.
    """

    cluster: int
    proc: int
    state: str
    directory: str
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


def directory(folder: RunFolder) -> str:
    """Return what tells the jobs of a run from all others: several users may have a run of one name."""
    return os.path.realpath(folder.path)


def constraint(folder: RunFolder) -> str:
    """Return the expression that holds for the jobs of a run, and for no others."""
    import classad2

    # `=?=`, because `==` takes a and A for the same.
    return f"MLaaSDirectory =?= {classad2.quote(directory(folder))}"


def submit(folder: RunFolder, owner: str = "") -> int:
    """Submit the DAG of a run directory and return DAGMan's cluster number.

    A DAG that ran before starts over; stages whose output is there are skipped by their PRE scripts.

    Parameters
    ----------
    folder
        The run.
    owner
        Whose run it is, where a service submits for several people.

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
        description["getenv"] = ",".join(_handed_on())
        # Jobs of the nodes have it from DAGMan's own, which is the real one.
        description["initialdir"] = directory(folder).replace("$", "$(DOLLAR)")
        description["My.MLaaSRun"] = f'"{folder.name}"'
        description["My.MLaaSStage"] = '"dagman"'
        description["My.MLaaSDirectory"] = "Iwd"
        description["My.MLaaSOwner"] = owners.in_ads(owner)
        return int(schedd.submit(description).cluster())
    except (htcondor2.HTCondorException, RuntimeError) as error:
        raise SubmitRefused(f"HTCondor did not take {folder.name}: {_last_line(error)}") from error
    except OSError as error:
        raise CannotWrite(f"{folder.path}: {error.strerror}: {folder.name} was not submitted") from error


def _handed_on() -> Iterator[str]:
    """Yield the variables that DAGMan gets: what it needs, and how HTCondor is set up, but not who we are."""
    yield from sorted(_HANDED_ON & os.environ.keys())
    for name in sorted(filter(_OF_CONDOR.fullmatch, os.environ)):
        if not identity.says_who(name):
            yield name


def query(folders: Iterable[RunFolder]) -> list[QueuedJob]:
    """Return the queued jobs of some runs, in one query.

    Raises
    ------
    PoolLost
        The schedd does not answer.
    """
    import classad2
    import htcondor2

    wanted = {directory(folder) for folder in folders}
    # One look at a list is cheaper for the schedd than many comparisons, but takes a and A for the same.
    those = f"member(MLaaSDirectory, {{{', '.join(map(classad2.quote, wanted))}}})"
    with pool_errors(PoolLost):
        ads = htcondor2.Schedd().query(constraint=those, projection=_ATTRIBUTES)
    return [job for job in map(_queued_job, ads) if job.directory in wanted]


def _queued_job(ad: Any) -> QueuedJob:
    def number(name: str, default: int = 0) -> int:
        value = ad.get(name, default)
        return int(value) if isinstance(value, int | float) else default

    return QueuedJob(
        cluster=number("ClusterId"),
        proc=number("ProcId"),
        state=STATES.get(number("JobStatus"), "unknown"),
        directory=str(ad.eval("MLaaSDirectory")),
        stage=str(ad.get("MLaaSStage")),
        task=number("MLaaSTask"),
        cpus=number("RequestCpus", 1),
        memory=number("RequestMemory"),
        disk=number("RequestDisk"),
        gpus=number("RequestGPUs"),
        # Flattened, because it refers to attributes of the job.
        require_gpus=str(ad.flatten(ad.lookup("RequireGPUs"))) if "RequireGPUs" in ad else "",
    )


def remove(folder: RunFolder) -> int:
    """Remove DAGMan and all jobs of a run, also those that a dead DAGMan left; return how many."""
    return _act("Remove", constraint(folder))


def release(folder: RunFolder) -> int:
    """Release the held jobs of a run, and return how many."""
    return _act("Release", f"{constraint(folder)} && JobStatus == 5")


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
