"""Prepare: look at everything a request names, find every problem, and plan the run. Queues nothing."""

from __future__ import annotations

import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path

from mlaas_condor import planning
from mlaas_condor.data import chunks
from mlaas_condor.data.dataset import Dataset, EntryRange, InputFile, share, split_entries
from mlaas_condor.data.inputs import Branch, Survey, longest_lists, survey
from mlaas_condor.data.selection import Selection, select
from mlaas_condor.errors import InputUnreadable, ModelFault, Problem, RequestError
from mlaas_condor.lists import Labels, check_label_branch, names_beside, read_lists
from mlaas_condor.reading import nearest
from mlaas_condor.request import Metrics, Request
from mlaas_condor.settings import Settings
from mlaas_condor.training import models
from mlaas_condor.training.recipe import Recipe, classes_of

TRAINABLE = ("keras", "keras2")
_FEWEST = 5  # events of a class: with fewer, the split leaves none for training or for testing
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
    model, companions
        The user's model file, looked at; modules and packages of the user's that it imports.
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
    companions: list[Path]
    left_out: dict[str, str]
    warnings: list[str]


def prepare(request: Request, settings: Settings) -> Prepared:
    """Check a request against its files and plan the run.

    Raises
    ------
    RequestError
        With every problem found, not only the first.
    """
    request = replace(request, problems=list(request.problems), warnings=list(request.warnings))
    _refuse_later_features(request)
    _check_gpus(request)
    model = _check_model(request)
    paths, labels = read_lists(request)
    surveys = _survey(request, paths)
    selection = _select(request, paths, surveys, labels)
    request.check()
    if model is None or selection is None:  # cannot be: either is None only with a problem
        raise RequestError([Problem("job.json", "names no model or no files")])
    dataset = _dataset(request, paths, surveys, selection, labels)
    _check_classes(request, dataset, labels.of_files)
    request.check()
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
        companions=models.companions(model.path),
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


def _check_gpus(request: Request) -> None:
    for key in ("gpu_memory", "gpu_capability"):
        if getattr(request.job, key) and not request.job.gpus_wanted:
            what = "is given, but no GPU is asked for"
            request.problems.append(Problem(f"job.json: {key}", what, "set device to gpu, or gpus"))


def _check_model(request: Request) -> models.ModelFile | None:
    if not request.job.model:
        return None
    path = request.path(request.job.model)
    if not os.path.isfile(path):  # noqa: PTH113 - Path.is_file fails where it may not look
        near = nearest(path.name, names_beside(path, ".py"))
        request.problems.append(Problem(f"job.json: model: {request.job.model}", "no such file", near))
        return None
    if path.suffix != ".py":
        request.problems.append(Problem(f"job.json: model: {request.job.model}", "its name must end in .py"))
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


def _survey(request: Request, paths: list[str]) -> list[Survey]:
    """Look into every file, side by side; problems come in the order of the files."""

    def look(path: str) -> Survey | Problem:
        try:
            found = survey(path, request.params.branch)
        except InputUnreadable as error:
            return Problem("files", str(error))
        if not found.entries:
            tree = request.params.branch
            what = f"{path}: tree {tree!r} has no entries"
            return Problem("files", what, "take it off the list, and its label")
        return found

    with ThreadPoolExecutor(_OPENERS) as pool:
        outcomes = list(pool.map(look, paths))
    request.problems += [each for each in outcomes if isinstance(each, Problem)]
    return [each for each in outcomes if isinstance(each, Survey)]


def _select(request: Request, paths: list[str], surveys: list[Survey], labels: Labels) -> Selection | None:
    """Choose the features among the branches that all files have."""
    params = request.params
    union: dict[str, Branch] = {}
    for each in reversed(surveys):
        union.update(each.branches)
    check_label_branch(request, labels, union)
    if not surveys:
        return None
    carried = _carried(request, labels)
    selection = select(union, params.selected_branches, params.exclude_branches, carried)
    left_out = {name for each in surveys for name in each.left_out}
    for key in ("selected_branches", "exclude_branches"):
        unmatched = [name for name in getattr(params, key) if name in selection.unmatched]
        if key == "exclude_branches":  # what cannot be a feature may be excluded all the same
            unmatched = [name for name in unmatched if not any(fnmatchcase(each, name) for each in left_out)]
        request.problems += [_no_branch(f"params.json: {key}", name, surveys) for name in unmatched]
    unknown = [name for name in params.identifier if name not in union]
    request.problems += [_no_branch("params.json: identifier", name, surveys) for name in unknown]
    request.problems += [
        Problem("params.json: identifier", f"{name!r} is jagged", "an identifier is one number an event")
        for name in params.identifier
        if name in union and union[name].kind == "jagged"
    ]
    needed = [*selection.flat, *selection.jagged, *(name for name in carried if name in union)]
    if len(surveys) == len(paths):
        request.problems += _differences(paths, surveys, needed)
    if not selection.flat and not selection.jagged and not request.problems:
        what = "no branch is left to train on"
        request.problems.append(Problem("params.json", what, "see selected_branches and exclude_branches"))
    return selection


def _carried(request: Request, labels: Labels) -> list[str]:
    """Return the branches that are kept with each event but are no features."""
    names = [*request.params.identifier, labels.branch]
    return [name for name in dict.fromkeys(names) if name]


def _no_branch(where: str, name: str, surveys: list[Survey]) -> Problem:
    reason = surveys[0].left_out.get(name)
    if reason:
        return Problem(where, f"branch {name!r} cannot be used: it {reason}")
    file = " and no such file" if Path(name).suffix in (".txt", ".lst", ".list", ".csv") else ""
    return Problem(where, f"no branch {name!r}{file}", nearest(name, surveys[0].branches))


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
    request: Request, paths: list[str], surveys: list[Survey], selection: Selection, labels: Labels
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
        identifiers=_carried(request, labels),
        tasks=[],
        chunk_size=params.chunk_size,
        shuffle=params.shuffle,
        seed=params.seed,
    )  # fmt: skip


def _check_classes(request: Request, dataset: Dataset, labels: list[str]) -> None:
    """Make sure that what is trained on at a time, a chunk or all of them, has events of every class."""
    if not labels:
        return
    events = dict.fromkeys(labels, 0)
    for file, label in zip(dataset.files, labels, strict=True):
        events[label] += file.used
    none = [repr(label) for label, n in events.items() if not n]
    if none:
        what = f"{dataset.events} of {sum(file.entries for file in dataset.files)} events leave none"
        request.problems.append(
            Problem("params.json: nevts", f"{what} of label {', '.join(none)}", "use more")
        )
        return
    standard = request.params.training == "standard"
    number = 1 if standard else chunks.count(dataset.events, dataset.chunk_size)
    rare = min(labels, key=lambda label: events[label])
    if events[rare] < _FEWEST * number:
        what = f"{number} chunks share {events[rare]} events of label {rare!r}, each needs {_FEWEST}"
        hint = "use more events" if number == 1 else 'raise chunk_size, or use "training": "standard"'
        request.problems.append(Problem("params.json: chunk_size", what, hint))


def _plain(name: str) -> str:
    """Keep the end of a file name readable, without what a submit file gives a meaning to."""
    return "".join(c if c.isascii() and (c.isalnum() or c in "._-+") else "_" for c in name)[-100:]


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


def _recipe(request: Request, labels: Labels) -> Recipe:
    params = request.params
    numbers, names = classes_of(labels.of_files)
    return Recipe(
        name=request.job.name,
        model=_plain(Path(request.job.model).name),
        labels=numbers,
        label_branch=labels.branch,
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
        warnings.append("params.json: 'hist' is not supported in this version: no plots of features are made")
    doubled = len(surveys) - len({each.uuid for each in surveys})
    if doubled:
        warnings.append(f"files: {doubled} of the {len(surveys)} files hold the same data as another one")
    return warnings
