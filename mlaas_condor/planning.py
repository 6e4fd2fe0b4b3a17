"""How many jobs each stage gets, and what each may use, from the size of the dataset.

The rates are of one slow core; they decide only how the work is split, never what comes out.
"""

from __future__ import annotations

from math import ceil

from mlaas_condor.data import chunks
from mlaas_condor.data.streaming import MIXED
from mlaas_condor.jsonfile import JsonFile, Plain

# Measured with benchmarks/data.py and benchmarks/pipeline.py, and rounded down.
SPECS_RATE = 8e6  # values a second, reading and measuring
CHUNK_RATE = 6e6  # values a second, reading and compressing
TRAIN_RATE = 1e7  # columns x events x epochs a second, a small network
TRANSFER_RATE = 50e6  # bytes a second, into a job
START_SECONDS = 5.0  # from a matched slot to the first line of ours
BLOCK_MIB = 32  # of values that are measured at a time
BYTES_A_VALUE = 4
BRANCH_MIB = 0.3  # of the distribution of a branch, while it is measured or joined
TREE_MIB = 0.013  # of an open tree, a branch
STAGE_MEMORY = 300  # MiB of Python with uproot
TRAIN_MEMORY = {"keras": 1500, "keras2": 1500, "torch": 900, "sklearn": 500, "xgboost": 600}
# MiB of Python with the framework
EVENT_BYTES = 200  # of scores, and while they are measured, an event
SCORE_BYTES = 33  # an event in scores.npz, before it is compressed
MIB = 2**20


class Wishes(Plain):
    """What the user asks for, None where the plan decides, and what the settings say.

    Parameters
    ----------
    specs_jobs, preprocess_jobs
        Jobs of the stages.
    memory, disk
        MiB of the training job.
    cpus, gpus
        Cores and GPUs of the training job.
    framework, copies
        What trains; how many matrices of all events it holds at once, 0 where a part of the events does.
    trainings
        Trainings on the same chunks.
    stored
        Whether the chunks are kept on storage.
    epochs
        Passes over the data.
    job_seconds, least_memory
        The settings of these names.
    """

    specs_jobs: int | None = None
    preprocess_jobs: int | None = None
    memory: int | None = None
    disk: int | None = None
    cpus: int | None = None
    gpus: int = 0
    framework: str = "keras"
    copies: float = 0.0
    trainings: int = 1
    stored: bool = False
    epochs: int = 1
    job_seconds: float = 600.0
    least_memory: int = 512

    @property
    def for_data(self) -> Wishes:
        """Return what merge plans with: the same for every model of a kind on the same data."""
        return Wishes(
            framework=self.framework,
            copies=self.copies,
            trainings=self.trainings,
            stored=self.stored,
            specs_jobs=self.specs_jobs,
            preprocess_jobs=self.preprocess_jobs,
            job_seconds=self.job_seconds,
            least_memory=self.least_memory,
        )


class StagePlan(Plain):
    """What the jobs of one stage may use, each.

    Parameters
    ----------
    stage
        specs, merge, preprocess, train or report.
    jobs
        How many jobs.
    cpus, gpus
        Cores and GPUs of a job.
    memory, disk
        MiB of a job.
    seconds
        How long a job is expected to take.
    """

    stage: str
    jobs: int
    cpus: int
    gpus: int
    memory: int
    disk: int
    seconds: float


class Size(Plain):
    """Size of a dataset: what the plan depends on.

    Parameters
    ----------
    files, bytes
        Input files, and bytes of all of them.
    transferred
        Bytes of those that travel with the jobs.
    events, flat, jagged, columns, values
        Entries used; feature branches; columns of the matrix, and values of an event, as far as known.
    chunk_size
        Events a chunk.
    """

    files: int
    bytes: int
    transferred: int
    events: int
    flat: int
    jagged: int
    columns: int
    values: int
    chunk_size: int

    @property
    def chunks(self) -> int:
        """Chunks that the events make, without cuts."""
        return chunks.count(self.events, self.chunk_size)

    @property
    def chunk_mib(self) -> float:
        """MiB of the matrix of one chunk, the largest that events of this number could make."""
        most = self.events if self.chunk_size == -1 else min(self.events, self.chunk_size)
        return self.columns * most * BYTES_A_VALUE / MIB

    @property
    def batch_mib(self) -> float:
        """MiB of the values of the chunks that are made together."""
        return min(max(self.packed_mib, chunks.BATCH_BYTES / MIB), self.values_mib)

    @property
    def packed_mib(self) -> float:
        """MiB of the values of one chunk, as if nothing could be compressed."""
        most = self.events if self.chunk_size == -1 else min(self.events, self.chunk_size)
        return self.values * most * BYTES_A_VALUE / MIB

    @property
    def values_mib(self) -> float:
        """MiB of all values of all events: what the chunks hold, before they are compressed."""
        return self.values * self.events * BYTES_A_VALUE / MIB

    @property
    def matrix_mib(self) -> float:
        """MiB of the matrix of all events."""
        return self.columns * self.events * BYTES_A_VALUE / MIB


class Plan(JsonFile):
    """The plan of a run: sizes as far as they are known, what was asked for, and the jobs."""

    size: Size
    wishes: Wishes
    stages: list[StagePlan]

    def stage(self, name: str) -> StagePlan:
        """Return the plan of one stage."""
        return next(stage for stage in self.stages if stage.stage == name)


def block_entries(values: float, work: float = 0.0) -> int:
    """Return how many entries are measured at a time.

    Parameters
    ----------
    values, work
        Values of an entry; bytes that reading it takes beside these.
    """
    return max(100, int(BLOCK_MIB * MIB / (BYTES_A_VALUE * max(values, 1.0) + work)))


def specs_jobs(size: Size, wishes: Wishes) -> int:
    """Return the number of specs jobs."""
    seconds = size.values * size.events / SPECS_RATE
    return min(wishes.specs_jobs or _split(seconds, wishes.job_seconds, size.files), size.events)


def preprocess_jobs(size: Size, wishes: Wishes) -> int:
    """Return the number of preprocess jobs; each needs all local files, so few large ones may win."""
    seconds = size.values * size.events / CHUNK_RATE
    target = max(wishes.job_seconds, size.transferred / TRANSFER_RATE)
    return min(wishes.preprocess_jobs or _split(seconds, target, size.chunks), size.chunks)


def _split(seconds: float, target: float, parts: int) -> int:
    """Return how many jobs of ``target`` seconds it takes; two where there are two parts to share."""
    return max(ceil(seconds / target), min(2, parts))


def make(size: Size, wishes: Wishes) -> Plan:
    """Plan all stages."""
    jobs = {
        "specs": specs_jobs(size, wishes),
        "preprocess": preprocess_jobs(size, wishes),
        "train": wishes.trainings,
    }
    seconds, memory, disk = _seconds(size, wishes, jobs), _memory(size, wishes), _disk(size, wishes, jobs)
    stages = [
        StagePlan(
            stage=stage,
            jobs=jobs.get(stage, 1),
            cpus=(wishes.cpus or 1) if stage == "train" else 1,
            gpus=wishes.gpus if stage == "train" else 0,
            memory=ceil(memory[stage]),
            disk=ceil(disk[stage]),
            seconds=START_SECONDS + seconds[stage],
        )
        for stage in seconds
    ]
    return Plan(size=size, wishes=wishes, stages=stages)


def _seconds(size: Size, wishes: Wishes, jobs: dict[str, int]) -> dict[str, float]:
    return {
        "specs": size.values * size.events / SPECS_RATE / jobs["specs"],
        "merge": 0.0,
        "preprocess": size.values * size.events / CHUNK_RATE / jobs["preprocess"],
        "train": size.columns * size.events * wishes.epochs / TRAIN_RATE,
        "report": 10.0,
    }


def _memory(size: Size, wishes: Wishes) -> dict[str, float]:
    """Return MiB: the program, the data it holds at once and the copies it makes of it."""
    trees_mib = min(size.files, chunks.OPEN_FILES) * (size.flat + size.jagged) * TREE_MIB
    needed = {
        "specs": STAGE_MEMORY + 5 * BLOCK_MIB + (size.flat + size.jagged) * BRANCH_MIB,
        "merge": STAGE_MEMORY + 3 * (size.flat + size.jagged) * BRANCH_MIB,
        "preprocess": STAGE_MEMORY + 4 * size.batch_mib + trees_mib,
        "train": TRAIN_MEMORY[wishes.framework] + _training(size, wishes) + size.events * EVENT_BYTES / MIB,
        "report": STAGE_MEMORY + 200 + size.events * EVENT_BYTES / MIB,
    }
    asked = {stage: max(each, wishes.least_memory) for stage, each in needed.items()}
    return asked | ({"train": wishes.memory} if wishes.memory else {})


def _training(size: Size, wishes: Wishes) -> float:
    """Return MiB of what a training holds at once."""
    if wishes.copies:
        return wishes.copies * size.matrix_mib + 2 * size.chunk_mib
    # The matrices of the chunks that are mixed, as read, put together, and within the framework.
    mixed = 3 * min(MIXED * size.chunk_mib, size.matrix_mib) + 2 * size.chunk_mib
    # XGBoost keeps all events, with a byte or two a value.
    return mixed + (0.5 * size.matrix_mib if wishes.framework == "xgboost" else 0.0)


def _disk(size: Size, wishes: Wishes, jobs: dict[str, int]) -> dict[str, float]:
    """Return MiB: the files that travel, and the chunks as if nothing could be compressed."""
    transferred = size.transferred / MIB
    made = size.values_mib / jobs["preprocess"]
    if wishes.stored:  # each chunk goes there before the next one is written
        made = min(made, 2 * size.packed_mib)
    return {
        "specs": transferred + 100,
        "merge": 100,
        "preprocess": transferred + made + 100,
        # The chunks, and their matrices, which are kept between epochs.
        "train": wishes.disk or size.values_mib + size.matrix_mib + 500,
        # What the trainings brought back, unpacked and packed.
        "report": 500 + wishes.trainings * (20 + 2 * size.events * SCORE_BYTES / MIB),
    }


def task_rows(plan: StagePlan, units: int, inputs: list[str] | None = None) -> list[str]:
    """Return the lines of a task list: task, first and last unit, memory, disk, input files.

    Parameters
    ----------
    plan
        Jobs of the stage, and what each may use.
    units
        Pieces of output that the jobs share out among themselves.
    inputs
        Comma-separated input files of each task, where they differ.
    """
    rows = []
    for task in range(plan.jobs):
        first, last = task * units // plan.jobs, (task + 1) * units // plan.jobs - 1
        files = f" {inputs[task]}" if inputs else ""
        rows.append(f"{task} {first} {last} {plan.memory} {plan.disk}{files}")
    return rows
