"""What idle jobs wait for: a free slot, or a machine that does not exist."""

from __future__ import annotations

from collections.abc import Iterable

from mlaas_condor.batch import queue


def reasons_of(idle: list[queue.QueuedJob], pool: list[queue.Machine]) -> Iterable[str]:
    """Yield a sentence for each stage that has idle jobs.

    Parameters
    ----------
    idle
        Idle jobs of one run.
    pool
        The machines there are.
    """
    for stage in dict.fromkeys(job.stage for job in idle):
        jobs = [job for job in idle if job.stage == stage]
        job = jobs[0]
        asked = f"{job.cpus} CPU, {job.memory} MiB" + (f", {job.gpus} GPU" if job.gpus else "")
        if not pool:
            yield f"{stage}: {len(jobs)} idle, the pool has no machine at the moment"
        elif too_much := _beyond(job, pool):
            yield f"{stage}: {len(jobs)} idle, no machine has {too_much}; asked is {asked}"
        else:
            yield f"{stage}: {len(jobs)} idle, waiting for a free slot with {asked}"


def _beyond(job: queue.QueuedJob, pool: list[queue.Machine]) -> str:
    """Return what no machine of the pool could ever give the job, or an empty string."""
    wanted = {"cpus": job.cpus, "memory": job.memory, "disk": job.disk, "gpus": job.gpus}
    units = {"cpus": "CPUs", "memory": "MiB of memory", "disk": "KiB of disk", "gpus": "GPUs"}
    for name, amount in wanted.items():
        most = max(getattr(machine, name) for machine in pool)
        if amount > most:
            return f"{amount} {units[name]} (the largest has {most})"
    if job.require_gpus and (most := queue.most_gpus(job.require_gpus)) < job.gpus:
        return f"{job.gpus} GPUs with {job.require_gpus} (the best has {most})"
    return ""
