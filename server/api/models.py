"""What requests and replies look like; the OpenAPI document is made from these."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, RootModel

from mlaas_condor.batch.events import Event
from mlaas_condor.planning import Plan
from mlaas_condor.run import STAGES
from mlaas_condor.state import ENDED, Failure, StageState, State, Training

from ..identity import Action, Identity
from ..permissions import Group
from ..storage.folders import Folder
from ..watching import viewing

OVER: tuple[State, ...] = (*ENDED, "prepared")
MOST_LISTED = 1000
MOST_CHARACTERS = 255


def _stage(value: str) -> str:
    if value not in STAGES:
        raise ValueError(f"there is {', '.join(STAGES)}")
    return value


StageName = Annotated[str, AfterValidator(_stage), Field(json_schema_extra={"enum": list(STAGES)})]
Name = Annotated[str, Field(min_length=1, max_length=MOST_CHARACTERS)]


class Parameters(BaseModel):
    """Parameters of a call."""

    # A misspelt one is told, not passed over.
    model_config = ConfigDict(extra="forbid")

    @classmethod
    @cache
    def model_json_schema(cls, **given: Any) -> dict[str, Any]:  # type: ignore[override]
        """Return the JSON Schema; made once, as every request is compared with it."""
        return super().model_json_schema(**given)


class RunPath(Parameters):
    """Which run."""

    name: Name = Field(description="name of the run: luca_1")


class FolderPath(Parameters):
    """Which folder."""

    name: Name = Field(description="name of the uploaded folder: luca")


class Owned(Parameters):
    """Whose."""

    owner: Name | None = Field(
        None, description="whose it is, where it is another's: shared with you, or you are an administrator"
    )


class FoldersQuery(Owned):
    """Which folders a list has."""

    shared: bool = Field(False, description="those of others, shared with you; of an administrator: all")


class RunsQuery(Owned):
    """Which runs a list has."""

    state: list[State] = Field([], description="in any of these states; may be given several times")
    name: str = Field("", max_length=MOST_CHARACTERS, description="how the name begins")
    folder: str = Field("", max_length=MOST_CHARACTERS, description="submitted from this folder")
    shared: bool = Field(False, description="those of others, shared with you; of an administrator: all")
    limit: int = Field(50, ge=1, le=MOST_LISTED, description="how many")
    offset: int = Field(0, ge=0, le=10**9, description="how many of the newest are passed over")
    detail: bool = Field(False, description="all that is known of each, as GET /api/v1/runs/<name> tells it")


class Jobs(Owned):
    """From which folder a job.json takes its files."""

    folder: Name | None = Field(None, description="name of the uploaded folder; the job's name without")


class Follow(Owned):
    """Whether a reply goes on."""

    follow: bool = Field(False, description="go on as it changes: server-sent events")


class LogsQuery(Follow):
    """Which log, and where in it."""

    stage: StageName | None = Field(None, description="the stage; the one that tells most without")
    task: int | None = Field(
        None, ge=0, le=10**9, description="the task of it; the one that tells most without"
    )
    stream: Literal["stdout", "stderr", "both"] = Field(
        "stdout", description="standard output or error, or both"
    )
    offset: int = Field(
        0,
        ge=0,
        le=2**53,
        description="byte to begin with: the X-Next-Offset of the reply before; not with both",
    )


class EventsQuery(Owned):
    """Which events a list has."""

    stage: StageName | None = Field(None, description="of the jobs of one stage")
    limit: int = Field(1000, ge=1, le=10_000, description="how many")
    offset: int = Field(0, ge=0, le=10**9, description="how many of the oldest are passed over")


class DeleteRun(Owned):
    """What goes with a run."""

    keep_stored: bool = Field(False, description="leave its chunks in the job's chunk_store")


class SharingBody(BaseModel):
    """With whom something is shared; what is not named stays as it is."""

    model_config = ConfigDict(extra="forbid")

    readers: list[Group] | None = Field(None, max_length=100, description="groups that may read")
    writers: list[Group] | None = Field(None, max_length=100, description="groups that may change, too")


@dataclass(frozen=True)
class Stage(StageState):
    """One stage: its tasks by what they do, and its own state in a word.

    Parameters
    ----------
    state
        waiting, idle, running, held, failed, done, reused.
    """

    state: str = ""

    @classmethod
    def of(cls, stage: StageState) -> Self:
        """Return what is said of a stage."""
        return cls(**vars(stage), state=stage.word)


class Shared(BaseModel):
    """Whose something is, and with whom it is shared."""

    owner: str = Field(description="whose it is")
    readers: list[str] = Field(description="groups that may read it")
    writers: list[str] = Field(description="groups that may change it, too")


class RunSummary(Shared):
    """A run in a list."""

    name: str = Field(description="name of the run: luca_1")
    state: State = Field(description="how it does")
    folder: str = Field(description="the folder it was submitted from")
    submitted: float | None = Field(description="when, in seconds since 1970; null before")
    ended: float | None = Field(description="when, in seconds since 1970; null before")
    elapsed: float | None = Field(description="seconds from its submission to its end, or to now")
    stage: str | None = Field(description="the first stage that is not done; null where all are")
    done: int = Field(description="tasks that are done, of all stages")
    tasks: int = Field(description="tasks of all stages, as far as they are known")
    unreachable: str = Field(
        description="why HTCondor could not be asked; empty where it could, or need not be"
    )
    may: list[viewing.Doing] = Field(description="what you may do with it now")

    @classmethod
    def values(cls, seen: viewing.Seen, identity: Identity) -> dict[str, Any]:
        """Return the values of the fields."""
        state, belonging = seen.state, seen.belonging
        return {
            "owner": belonging.owner,
            "readers": belonging.readers,
            "writers": belonging.writers,
            "name": state.name,
            "state": state.state,
            "folder": belonging.folder,
            "submitted": state.submitted,
            "ended": state.ended,
            "elapsed": state.elapsed,
            "stage": state.current.stage if state.current else None,
            "done": sum(stage.done for stage in state.stages),
            "tasks": sum(stage.tasks for stage in state.stages),
            "unreachable": state.unreachable,
            "may": viewing.may(identity, seen),
        }

    @classmethod
    def of(cls, seen: viewing.Seen, identity: Identity) -> Self:
        """Return what somebody is told of a run."""
        return cls(**cls.values(seen, identity))


class RunDetail(RunSummary):
    """A run, and all that is known of how it does: what ``mlaas-condor status --json`` says, and more."""

    version: str = Field(description="digest of what was in the folder when it was submitted")
    where: Literal["pool", "local", ""] = Field(description="pool, or local for a run without HTCondor")
    stages: list[Stage] = Field(description="in order")
    training: Training | None = Field(description="where the training is, while it trains")
    waiting: list[str] = Field(description="what it waits for, a sentence each")
    failures: list[Failure] = Field(description="tasks that failed or are held, why, and what to do")
    notes: list[str] = Field(description="what is to be known of the data")
    bundle: str | None = Field(description="file name of the model, once it is there: GET …/model")

    @classmethod
    def values(cls, seen: viewing.Seen, identity: Identity) -> dict[str, Any]:
        """Return the values of the fields."""
        state = seen.state
        return super().values(seen, identity) | {
            "version": seen.belonging.version,
            "where": state.where,
            "stages": [Stage.of(stage) for stage in state.stages],
            "training": state.training,
            "waiting": state.waiting,
            "failures": state.failures,
            "notes": state.notes,
            "bundle": state.bundle,
        }


class RunList(BaseModel):
    """A part of a list of runs, the newest first."""

    runs: list[RunDetail] | list[RunSummary]
    total: int = Field(description="how many there are in all")
    limit: int = Field(description="how many this part may have")
    offset: int = Field(description="how many of the newest are not in it")

    @classmethod
    def of(cls, page: viewing.Page, identity: Identity, detail: bool = False) -> Self:
        """Return a list for somebody."""
        kind = RunDetail if detail else RunSummary
        runs = [kind.of(seen, identity) for seen in page.runs]
        return cls(runs=runs, total=page.total, limit=page.limit, offset=page.offset)


class Submitted(BaseModel):
    """A run that was submitted."""

    name: str = Field(description="name of the run: luca_1")
    job_id: int = Field(description="HTCondor's number of its DAGMan job")
    warnings: list[str] = Field(description="what should be known of the request")
    repeated: bool = Field(
        description="whether this Idempotency-Key was used before: nothing was submitted now"
    )


class Resumed(BaseModel):
    """A run that goes on."""

    name: str = Field(description="name of the run")
    done: str = Field(description="what was done: released 2 held jobs, submitted as cluster 77")


class FolderSummary(Shared):
    """An uploaded folder."""

    name: str = Field(description="name of the folder: luca")
    version: str = Field(description="digest of its content")
    files: int = Field(description="how many files it has")
    bytes: int = Field(description="of all files")
    uploaded: float = Field(description="when, in seconds since 1970")

    @classmethod
    def of(cls, folder: Folder) -> Self:
        """Return what is told of a folder."""
        return cls(
            owner=folder.owner,
            readers=folder.sharing.readers,
            writers=folder.sharing.writers,
            name=folder.name,
            version=folder.version,
            files=folder.files,
            bytes=folder.bytes,
            uploaded=folder.uploaded,
        )


class FolderList(BaseModel):
    """Uploaded folders."""

    folders: list[FolderSummary]


class FileEntry(BaseModel):
    """A file of an uploaded folder."""

    path: str = Field(description="below the folder: data/ttH.root")
    bytes: int = Field(description="its size")
    sha256: str = Field(description="digest of its content")


class FileList(BaseModel):
    """The files of an uploaded folder."""

    version: str = Field(description="digest of all of them")
    files: list[FileEntry]


class Events(BaseModel):
    """A part of what HTCondor wrote down of a run, the oldest first."""

    events: list[Event]
    total: int = Field(description="how many there are in all")
    limit: int = Field(description="how many this part may have")
    offset: int = Field(description="how many of the oldest are not in it")


class Measured(RootModel[dict[str, Any]]):
    """Metrics on the events of training, validation and test."""


class Request(BaseModel):
    """A request as it was understood, defaults included."""

    job: dict[str, Any] = Field(description="job.json")
    params: dict[str, Any] = Field(description="params.json")


class Planned(BaseModel):
    """What would be submitted."""

    plan: Plan = Field(description="jobs, memory, disk and time of each stage")
    dataset: dict[str, Any] = Field(description="which entries of which files, which branches")
    recipe: dict[str, Any] = Field(description="how it would be trained")
    framework: str = Field(description="what trains the model")
    left_out: dict[str, str] = Field(description="branches that cannot be features, with the reason")
    credentials: dict[str, Any] = Field(description="what jobs would read remote files with; no secret")
    storage: str = Field(description="the same in a sentence; empty where no storage asks")
    warnings: list[str] = Field(description="what should be known of the request")
    submit_files: dict[str, str] = Field(description="what HTCondor would get, by file name")
    python: str = Field(description="the Python of the jobs")


class History(BaseModel):
    """What each epoch gave."""

    history: list[dict[str, Any]] = Field(description="an object for each epoch")


class Dropped(BaseModel):
    """Measured specs that were forgotten."""

    dropped: int = Field(description="how many; those that a running run uses stay")


class Me(BaseModel):
    """Who you are to this service."""

    owner: str = Field(description="your name for ever: whose your folders and runs are")
    name: str = Field(description="your name for people")
    groups: list[str] = Field(description="your groups")
    actions: list[Action] | None = Field(description="what your token allows; null for everything")
    administrator: bool = Field(description="whether you see and may change everything")
    limits: dict[str, Any] = Field(description="what you may have")
    usage: dict[str, Any] = Field(description="what you have of it")
    csrf: str = Field(description="what a browser sends as X-CSRF-Token with what changes something")


class OldStatus(BaseModel):
    """How a run does, as MLaaS4HEP_server said it."""

    process_name: str = Field(description="name of the run: luca_1")
    status: str = Field(description="Created, Up 8 seconds, Up 3 minutes (Paused), Exited (0) 3 minutes ago")


class OldSubmitted(BaseModel):
    """A run that was submitted, as MLaaS4HEP_server said it."""

    process_name: str = Field(description="name of the run: luca_1")
    job_id: int = Field(description="HTCondor's number of its DAGMan job")
