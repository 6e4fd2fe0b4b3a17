"""The run directory: every file name in it, and how runs are created, opened, listed and deleted.

The run directory is the database: whatever is known of a run is read from here (and, while it runs,
from HTCondor).
"""

from __future__ import annotations

import os
import re
import shutil
import time
import uuid
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from mlaas_condor.errors import RunNotFound, WrongState
from mlaas_condor.reading import nearest

STAGES = ("specs", "merge", "preprocess", "train", "report")
SHARED_STAGES = ("specs", "merge", "preprocess")  # their output is kept in the store, by content
TOKEN = "bearer.token"
GIVEN_SPECS = "given-specs.json"
NOTES = "notes.txt"  # of the merge stage: what the user should know of the data
_NAMES = ".names"  # one empty file a run name ever given, so that no number is given twice
_STAGED = re.compile(r"(?:[^\s:]*/)?(?P<name>\d{4,}_[^\s:,]+)")
_STAGING = re.compile(r"\..+\.[0-9a-f]{8}")  # a run that is being made, or deleted
_RUN_NAME = re.compile(r"(?P<name>.+)_(?P<number>\d+)")


def unit_name(number: int) -> str:
    """Return the name of a unit of output: ``00003``."""
    return f"{number:05d}"


def training_folder(output: Path, task: int, trainings: int) -> Path:
    """Return where in the output of the train stage a training is: below it where there are several."""
    return output / f"training-{unit_name(task)}" if trainings else output


def checkpoint_folder(folder: Path, task: int) -> Path:
    """Return the folder of the checkpoints of a training: in the run directory, and in the job's own."""
    return folder / f"checkpoint.{task}"


def make_checkpoint_folder(folder: Path, task: int) -> None:
    """Make the folder of the checkpoints of a training, with a file in it: empty ones do not travel."""
    made = checkpoint_folder(folder, task)
    made.mkdir()
    (made / "README").write_text("Checkpoints of the training, while it runs.\n", "utf-8")


def mark(output: Path, unit: int, files: Iterable[Path]) -> None:
    """Say that a unit of output is complete: write ``NNNNN.ok`` with size and name of its files.

    Whoever finds the mark, and the files with these sizes, knows that all of it was brought back.
    """
    lines = [f"{path.stat().st_size} {path.relative_to(output).as_posix()}\n" for path in sorted(files)]
    (output / f"{unit_name(unit)}.ok").write_text("".join(lines))


@dataclass(frozen=True)
class RunFolder:
    """A run directory and the names in it.

    Parameters
    ----------
    path
        The directory; its last part is the name of the run.
    """

    path: Path

    @property
    def name(self) -> str:
        """Name of the run: ``luca_1``."""
        return self.path.name

    @property
    def files(self) -> Path:
        """Copies of the files the user wrote."""
        return self.path / "files"

    @property
    def inputs(self) -> Path:
        """Links to local input files, under names that no two of them share."""
        return self.path / "inputs"

    @property
    def dataset(self) -> Path:
        """`Dataset`."""
        return self.path / "dataset.json"

    @property
    def recipe(self) -> Path:
        """`Recipe`: how to train."""
        return self.path / "recipe.json"

    @property
    def plan(self) -> Path:
        """`Plan`: jobs, memory, disk and time of each stage."""
        return self.path / "plan.json"

    @property
    def given_specs(self) -> Path:
        """`Specs` that the user gave; there only if so."""
        return self.path / GIVEN_SPECS

    @property
    def credentials(self) -> Path:
        """`Credentials` that jobs read remote storage with; no secret."""
        return self.path / "credentials.json"

    @property
    def token(self) -> Path:
        """The token of the jobs, where it came from no file; readable by the owner only."""
        return self.path / TOKEN

    @property
    def request(self) -> Path:
        """The request as understood, defaults included."""
        return self.path / "request.json"

    @property
    def belongs(self) -> Path:
        """Whose run it is, and who else may see it; there only where a service made it."""
        return self.path / "owner.json"

    @property
    def dag(self) -> Path:
        """The DAG."""
        return self.path / "run.dag"

    @property
    def ready_script(self) -> Path:
        """The PRE script of the stages."""
        return self.path / "ready.sh"

    @property
    def events_log(self) -> Path:
        """Events of all jobs of all stages."""
        return self.path / "events.log"

    @property
    def dagman_log(self) -> Path:
        """Events of the DAGMan job itself."""
        return self.path / "run.dag.dagman.log"

    @property
    def dagman_out(self) -> Path:
        """What DAGMan says."""
        return self.path / "run.dag.dagman.out"

    @property
    def submitted_to(self) -> Path:
        """Which access point and configuration the run was submitted to."""
        return self.path / "submitted_to"

    @property
    def local_lock(self) -> Path:
        """Locked while the run is done without HTCondor."""
        return self.path / "local.lock"

    @property
    def local_log(self) -> Path:
        """How a run without HTCondor ended."""
        return self.path / "local.log"

    @property
    def logs(self) -> Path:
        """Standard output and error of every task."""
        return self.path / "logs"

    def in_users_words(self, text: str) -> str:
        """Return a message with the input files called as the user called them, not as jobs know them."""

        def path(match: re.Match[str]) -> str:
            link = self.inputs / match["name"]
            return str(link.readlink()) if link.is_symlink() else match[0]

        return _STAGED.sub(path, text)

    def submit_file(self, stage: str) -> Path:
        """Submit file of a stage."""
        return self.path / f"{stage}.sub"

    def tasks(self, stage: str) -> Path:
        """List of all tasks of a stage, one a line: as planned, or as merge found it should be."""
        exact = self.output("merge") / f"{stage}.tasks"
        whole = exact.exists() and self.is_complete("merge", 0)
        return exact if whole else self.path / "tasks" / f"{stage}.tasks"

    def todo(self, stage: str) -> Path:
        """List of the tasks of a stage that are to be done now."""
        return self.path / "tasks" / f"{stage}.todo"

    def output(self, stage: str) -> Path:
        """What a stage brings back."""
        return self.path / stage

    def stdout(self, stage: str, task: int) -> Path:
        """Standard output of a task."""
        return self.logs / f"{stage}.{task}.out"

    def stderr(self, stage: str, task: int) -> Path:
        """Standard error of a task."""
        return self.logs / f"{stage}.{task}.err"

    @property
    def bundle(self) -> Path:
        """The model bundle, once the report stage is done."""
        return self.output("report") / f"{self.name}.tar.gz"

    @property
    def report(self) -> Path:
        """The page with everything there is to see, once the report stage is done."""
        return self.output("report") / "report.html"

    @property
    def served(self) -> Path:
        """Files that users add to the model for those who serve it: labels, say."""
        return self.path / "tfaas"

    @property
    def history(self) -> Path:
        """What each epoch of the training gave, one JSON object a line; of several, the best."""
        return self._of_training("history.jsonl")

    @property
    def metrics(self) -> Path:
        """Metrics on the train, validation and test events; of several trainings, those of the best."""
        return self._of_training("metrics.json")

    def _of_training(self, name: str) -> Path:
        path = self.output("train") / name
        return path if path.exists() else self.output("report") / name

    def notes(self) -> tuple[str, ...]:
        """Return what merge found that the user should know: what was lost, and what is not finite."""
        try:
            text = (self.output("merge") / NOTES).read_text("utf-8")
        except OSError:
            return ()
        return tuple(self.in_users_words(line) for line in text.splitlines())

    def is_complete(self, stage: str, unit: int) -> bool:
        """Tell whether a unit has its mark, and every file that the mark lists has the size it says."""
        output = self.output(stage)
        try:
            lines = (output / f"{unit_name(unit)}.ok").read_text("utf-8").splitlines()
            files = [line.split(" ", 1) for line in lines]
            return bool(files) and all((output / name).stat().st_size == int(size) for size, name in files)
        except (OSError, ValueError):
            return False

    def units_done(self, stage: str) -> set[int]:
        """Return the numbers of the units (partial specs, chunks, …) that are complete."""
        marks = [int(mark.stem) for mark in self.output(stage).glob("*.ok") if mark.stem.isdecimal()]
        return {unit for unit in marks if self.is_complete(stage, unit)}

    def task_units(self, stage: str) -> dict[int, range]:
        """Return the units that each task of a stage makes, by the number of the task."""
        try:
            lines = self.tasks(stage).read_text().splitlines()
        except FileNotFoundError:
            return {}
        rows = [line.split() for line in lines if line.strip()]
        return {int(row[0]): range(int(row[1]), int(row[2]) + 1) for row in rows}

    def tasks_done(self, stage: str) -> set[int]:
        """Return the numbers of the tasks whose units are all complete."""
        done = self.units_done(stage)
        return {task for task, units in self.task_units(stage).items() if done.issuperset(units)}

    def done(self) -> dict[str, set[int]]:
        """Return the tasks of every stage whose units are all complete."""
        return {stage: self.tasks_done(stage) for stage in STAGES}


def reserve(runs: Path, name: str) -> str:
    """Take the next free ``name_n``; no two callers get the same one, nor one that was ever used."""
    names = runs / _NAMES
    names.mkdir(parents=True, exist_ok=True)
    number = 1 + max((found for base, found in map(_split, names.iterdir()) if base == name), default=0)
    while True:
        if os.path.lexists(runs / f"{name}_{number}"):  # also should the list of names be lost
            number += 1
            continue
        try:
            (names / f"{name}_{number}").touch(exist_ok=False)
        except FileExistsError:
            number += 1
            continue
        return f"{name}_{number}"


def _split(path: Path) -> tuple[str, int]:
    match = _RUN_NAME.fullmatch(path.name)
    return (match["name"], int(match["number"])) if match else (path.name, 0)


def staging(runs: Path, name: str) -> Path:
    """Create a folder to prepare a run in; `publish` gives it its name once it is complete."""
    folder = runs / f".{name}.{uuid.uuid4().hex[:8]}"
    folder.mkdir(parents=True)
    return folder


def publish(folder: Path, runs: Path, name: str) -> RunFolder:
    """Make a prepared folder the run directory ``runs/name``: complete, or not there."""
    os.rename(folder, runs / name)  # noqa: PTH104 - Path.rename is the same call; this one says it is atomic
    return RunFolder(runs / name)


def open_folder(runs: Path, name: str) -> RunFolder:
    """Open the run of that name.

    Raises
    ------
    RunNotFound
        There is none; the message has the nearest names.
    """
    folder = RunFolder(runs / name)
    if "/" in name or name.startswith(".") or not os.path.exists(folder.dag):  # noqa: PTH110 - any name will do
        hint = nearest(name, [run.name for run in list_folders(runs)])
        raise RunNotFound(f"no run {name!r} in {runs}" + (f": {hint}" if hint else ""))
    return folder


def list_folders(runs: Path) -> list[RunFolder]:
    """Return all runs, oldest first."""
    found = []
    for path in _subfolders(runs):
        with suppress(FileNotFoundError):  # no run, or one that is being deleted
            found.append(((RunFolder(path).dag.stat().st_mtime, _split(path)), RunFolder(path)))
    return [run for _, run in sorted(found, key=lambda each: each[0])]


def _subfolders(folder: Path) -> Iterator[Path]:
    if folder.is_dir():
        yield from (path for path in folder.iterdir() if not path.name.startswith(".") and path.is_dir())


def tidy(runs: Path, seconds: float) -> None:
    """Remove what processes left that were killed while they made or deleted a run, so many seconds ago."""
    for path in runs.glob(".*"):
        with suppress(OSError):  # somebody else is at it as well
            if _STAGING.fullmatch(path.name) and time.time() - path.stat().st_mtime > seconds:
                shutil.rmtree(path)


def delete(run: RunFolder, store: Path) -> None:
    """Delete a run directory and what it alone used of the store.

    Raises
    ------
    WrongState
        The directory cannot be removed; says why.
    """
    gone = run.path.with_name(f".{run.name}.{uuid.uuid4().hex[:8]}")
    try:
        run.path.rename(gone)
        shutil.rmtree(gone)
    except OSError as error:
        raise WrongState(f"{run.name} cannot be deleted: {error}; what is left is in {gone}") from error
    _drop_unused(store)


def _drop_unused(store: Path) -> None:
    """Delete stored files that no run holds a link to, then the folders left empty.

    A store folder is dropped as a whole or not at all, so that no file is left without its mark. Where
    there are no hard links (some network file systems), nothing tells what is used: all is kept.
    """
    if not _has_links(store):
        return
    for folder in store.glob("*/*/"):
        with suppress(FileNotFoundError):  # somebody else is deleting as well
            if all(path.stat().st_nlink == 1 for path in folder.iterdir()):
                shutil.rmtree(folder, ignore_errors=True)


def _has_links(store: Path) -> bool:
    probe = store / f".{uuid.uuid4().hex[:8]}"
    other = probe.with_suffix(".link")
    try:
        probe.touch()
        other.hardlink_to(probe)
        return probe.stat().st_nlink == 2
    except OSError:
        return False
    finally:
        probe.unlink(missing_ok=True)
        other.unlink(missing_ok=True)
