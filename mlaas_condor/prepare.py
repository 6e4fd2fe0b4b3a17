"""Prepare: look at everything a request names, find every problem, and plan the run. Queues nothing."""

from __future__ import annotations

import glob
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from mlaas_condor import planning
from mlaas_condor.data.dataset import Dataset, EntryRange, InputFile, share, split_entries
from mlaas_condor.data.inputs import Branch, Survey, longest_lists, survey
from mlaas_condor.data.selection import Selection, select
from mlaas_condor.errors import InputUnreadable, ModelFault, Problem
from mlaas_condor.reading import content_lines, nearest
from mlaas_condor.request import Metrics, Request
from mlaas_condor.run import RunFolder
from mlaas_condor.settings import Settings
from mlaas_condor.training import models
from mlaas_condor.training.recipe import Recipe, classes_of

TRAINABLE = ("keras", "keras2")
_OPENERS = 16  # files looked at side by side
_SAMPLED = 5  # files whose first entries are read, to guess how long jagged branches get


@dataclass(frozen=True)
class Prepared:
    """A request that can be run.

    Parameters
    ----------
    request
        As read.
    dataset, recipe, plan
        What the jobs will do; the recipe still has the request's name.
    model
        The user's model file, looked at.
    left_out
        Branches that cannot be features, with the reason.
    warnings
        What the user should know.
    """

    request: Request
    dataset: Dataset
    recipe: Recipe
    plan: planning.Plan
    model: models.ModelFile
    left_out: dict[str, str]
    warnings: list[str]


def prepare(request: Request, settings: Settings) -> Prepared:
    """Check a request against its files and plan the run.

    Raises
    ------
    RequestError
        With every problem found, not only the first.
    """
    request = Request(**{**vars(request), "problems": list(request.problems), "warnings": list(request.warnings)})
    _refuse_later_features(request)
    model = _check_model(request)
    paths, labels = _read_lists(request)
    surveys = _survey(request, paths)
    selection = _select(request, paths, surveys)
    request.check()
    assert model and selection  # noqa: S101 - no problem means that both were found
    dataset = _dataset(request, settings, paths, surveys, selection)
    columns = len(selection.flat) + _longest(request, paths, surveys, selection.jagged)
    size = planning.Size(
        files=len(paths),
        bytes=sum(each.size for each in surveys),
        transferred=sum(each.size for each in surveys),
        events=dataset.events,
        flat=len(selection.flat),
        jagged=len(selection.jagged),
        columns=columns,
        chunk_size=request.params.chunk_size,
    )
    plan = planning.make(size, _wishes(request, settings))
    return Prepared(
        request=request,
        dataset=_with_tasks(dataset, plan.stage("specs").jobs),
        recipe=_recipe(request, labels),
        plan=plan,
        model=model,
        left_out=dict(surveys[0].left_out),
        warnings=_warnings(request, surveys, model),
    )


def _refuse_later_features(request: Request) -> None:
    """Refuse, rather than ignore, what this version cannot do."""
    for key in ("preproc", "specs"):
        if getattr(request.job, key):
            request.problems.append(
                Problem(f"job.json: {key}", "is not supported in this version", "remove the key")
            )


def _check_model(request: Request) -> models.ModelFile | None:
    if not request.job.model:
        return None
    path = request.path(request.job.model)
    if not path.is_file():
        near = nearest(path.name, [each.name for each in path.parent.glob("*.py")])
        request.problems.append(Problem(f"job.json: model: {request.job.model}", "no such file", near))
        return None
    try:
        model = models.check(path)
    except ModelFault as error:
        request.problems.append(Problem(request.job.model, str(error)))
        return None
    if model.framework not in TRAINABLE:
        request.problems.append(
            Problem(request.job.model, f"is a {model.framework} model", "this version trains Keras models")
        )
    return model


def _read_lists(request: Request) -> tuple[list[str], list[str]]:
    """Return the input files and the label of each; a line that is a glob gives its label to all it matches."""
    lines = _read_list(request, "files", request.job.files)
    labels = _read_list(request, "labels", request.job.labels)
    groups = [_expand(request, line) for line in lines]
    paths = [path for group in groups for path in group]
    if not lines or not labels:
        return paths, []
    if len(labels) == len(lines):
        labels = [label for label, group in zip(labels, groups, strict=True) for _ in group]
    elif len(labels) != len(paths):
        request.problems.append(
            Problem("job.json: labels", f"there are {len(labels)} labels and {len(lines)} files", "one label a file")
        )
        return paths, []
    if len(set(labels)) == 1:
        what = f"all files have the label {labels[0]!r}"
        request.problems.append(Problem("job.json: labels", what, "a classifier needs two classes at least"))
    return paths, labels


def _read_list(request: Request, key: str, value: str | list[str | int | float] | list[str]) -> list[str]:
    if isinstance(value, list):
        items = [str(item) for item in value]
    elif not value:
        return []
    else:
        path = request.path(value)
        try:
            items = list(content_lines(path.read_text("utf-8")))
        except FileNotFoundError:
            near = nearest(path.name, [each.name for each in path.parent.glob("*.txt")])
            request.problems.append(Problem(f"job.json: {key}: {value}", "no such file", near))
            return []
        except (OSError, UnicodeDecodeError) as error:
            request.problems.append(Problem(f"job.json: {key}: {value}", f"cannot be read: {error}"))
            return []
    if not items:
        request.problems.append(Problem(f"job.json: {key}", "is empty", "one line a ROOT file"))
    return items


def _expand(request: Request, line: str) -> list[str]:
    if "://" in line:
        request.problems.append(Problem(line, "remote files are not supported in this version"))
        return []
    path = request.path(line)
    if not glob.has_magic(line) or path.exists():
        return [str(path)]
    found = sorted(glob.glob(str(path), recursive=True))
    if not found:
        request.problems.append(Problem(line, "matches no file"))
    return found


def _survey(request: Request, paths: list[str]) -> list[Survey]:
    """Look into every file, side by side; problems come in the order of the files."""

    def look(path: str) -> Survey | Problem:
        try:
            found = survey(path, request.params.branch)
        except InputUnreadable as error:
            return Problem("files", str(error))
        if not found.entries:
            tree = request.params.branch
            return Problem("files", f"{path}: tree {tree!r} has no entries", "take it off the list, and its label")
        return found

    with ThreadPoolExecutor(_OPENERS) as pool:
        outcomes = list(pool.map(look, paths))
    request.problems += [each for each in outcomes if isinstance(each, Problem)]
    return [each for each in outcomes if isinstance(each, Survey)]


def _select(request: Request, paths: list[str], surveys: list[Survey]) -> Selection | None:
    """Choose the features among the branches that all files have."""
    if not surveys:
        return None
    params = request.params
    union: dict[str, Branch] = {}
    for each in reversed(surveys):
        union.update(each.branches)
    selection = select(union, params.selected_branches, params.exclude_branches, params.identifier)
    for key in ("selected_branches", "exclude_branches"):
        unmatched = [name for name in getattr(params, key) if name in selection.unmatched]
        request.problems += [_no_branch(f"params.json: {key}", name, surveys) for name in unmatched]
    unknown = [name for name in params.identifier if name not in union]
    request.problems += [_no_branch("params.json: identifier", name, surveys) for name in unknown]
    request.problems += [
        Problem("params.json: identifier", f"{name!r} is jagged", "an identifier is one number an event")
        for name in params.identifier
        if name in union and union[name].kind == "jagged"
    ]
    needed = [*selection.flat, *selection.jagged, *(name for name in params.identifier if name in union)]
    if len(surveys) == len(paths):
        request.problems += _differences(paths, surveys, needed)
    if not selection.flat and not selection.jagged and not request.problems:
        request.problems.append(Problem("params.json", "no branch is left to train on", "see exclude_branches"))
    return selection


def _no_branch(where: str, name: str, surveys: list[Survey]) -> Problem:
    reason = surveys[0].left_out.get(name)
    if reason:
        return Problem(where, f"branch {name!r} cannot be used: it {reason}")
    return Problem(where, f"no branch {name!r}", nearest(name, surveys[0].branches))


def _differences(paths: list[str], surveys: list[Survey], needed: list[str]) -> Iterable[Problem]:
    for path, each in zip(paths, surveys, strict=True):
        missing = [name for name in needed if name not in each.branches]
        if missing:
            shown = ", ".join(missing[:8]) + (f" and {len(missing) - 8} more" if len(missing) > 8 else "")
            yield Problem("files", f"{path}: has no {shown}", "leave them out with exclude_branches")
        for name in needed:
            kinds = {other.branches[name].kind for other in (each, surveys[0]) if name in other.branches}
            if len(kinds) == 2:
                yield Problem("files", f"{path}: {name} is {each.branches[name].kind}, elsewhere it is not")


def _dataset(
    request: Request, settings: Settings, paths: list[str], surveys: list[Survey], selection: Selection
) -> Dataset:
    params = request.params
    entries = [each.entries for each in surveys]
    used = entries if params.nevts == -1 else share(params.nevts, entries)
    return Dataset(
        files=[
            InputFile(
                path=path, staged=f"{i:04d}_{_plain(Path(path).name)}", uuid=each.uuid, size=each.size,
                entries=each.entries, used=n,
            )
            for i, (path, each, n) in enumerate(zip(paths, surveys, used, strict=True))
        ],
        tree=params.branch,
        flat=selection.flat,
        jagged=selection.jagged,
        identifiers=params.identifier,
        tasks=[],
        chunk_size=params.chunk_size,
        shuffle=params.shuffle,
        seed=params.seed,
    )  # fmt: skip


def _plain(name: str) -> str:
    """Keep a file name readable, without what a submit file gives a meaning to."""
    return "".join(c if c.isalnum() or c in "._-+" else "_" for c in name)


def _with_tasks(dataset: Dataset, jobs: int) -> Dataset:
    """Split the entries among the specs jobs, in ranges that fit into the memory of one."""
    tasks = split_entries([file.used for file in dataset.files], jobs)
    most = planning.MOST_ENTRIES
    pieces = [
        [
            EntryRange(file=each.file, start=start, stop=min(start + most, each.stop))
            for each in task
            for start in range(each.start, each.stop, most)
        ]
        for task in tasks
    ]
    return dataset.model_copy(update={"tasks": pieces})


def _longest(request: Request, paths: list[str], surveys: list[Survey], jagged: list[str]) -> int:
    """Guess how many columns the jagged branches make, from the first entries of some files."""
    if not jagged:
        return 0
    step = max(1, len(paths) // _SAMPLED)
    lengths = [longest_lists(path, request.params.branch, jagged) for path in paths[::step]]
    return sum(max(1, *(length[name] for length in lengths)) for name in jagged)


def _wishes(request: Request, settings: Settings) -> planning.Wishes:
    job = request.job
    return planning.Wishes(
        specs_jobs=job.tasks.specs,
        preprocess_jobs=job.tasks.preprocess,
        memory=job.memory,
        disk=job.disk,
        cpus=job.cpus,
        gpus=job.gpus_wanted,
        epochs=request.params.epochs,
        job_seconds=settings.job_seconds,
        least_memory=settings.memory_mb,
    )


def _recipe(request: Request, labels: list[str]) -> Recipe:
    params = request.params
    numbers, names = classes_of(labels)
    return Recipe(
        name=request.job.name,
        model=Path(request.job.model).name,
        labels=numbers,
        classes=names,
        epochs=params.epochs,
        batch_size=params.batch_size,
        standard=params.training == "standard",
        split=params.split,
        padding=params.nan,
        threshold=params.metrics.threshold if isinstance(params.metrics, Metrics) else 0.5,
        seed=params.seed,
        verbose=params.verbose,
        threads=request.job.cpus or 1,
    )


def _warnings(request: Request, surveys: list[Survey], model: models.ModelFile) -> list[str]:
    warnings = list(request.warnings)
    if model.reason:
        warnings.append(model.reason)
    if request.params.hist:
        warnings.append("params.json: 'hist' is not supported in this version: no plots of the features are made")
    doubled = len(surveys) - len({each.uuid for each in surveys})
    if doubled:
        warnings.append(f"files: {doubled} of the {len(surveys)} files hold the same data as another one")
    return warnings


def links(prepared: Prepared, folder: RunFolder) -> None:
    """Link the local input files into a run directory under the names their jobs know them by."""
    folder.inputs.mkdir()
    for file in prepared.dataset.files:
        (folder.inputs / file.staged).symlink_to(file.path)
