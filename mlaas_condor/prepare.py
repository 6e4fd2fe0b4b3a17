"""Prepare: look at everything a request names, find every problem, and plan the run. Queues nothing."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import ceil
from pathlib import Path

from mlaas_condor import access, choice, chunkstore, planning, procedure, sampling
from mlaas_condor.confinement import NOWHERE
from mlaas_condor.data import chunks, storage
from mlaas_condor.data.dataset import Dataset, Function, InputFile, share, split_entries
from mlaas_condor.data.inputs import open_source
from mlaas_condor.data.selection import Selector
from mlaas_condor.data.specs import Specs
from mlaas_condor.errors import InputUnreadable, ModelFault, Problem, RequestError
from mlaas_condor.lists import Lists, PerEvent, names_beside, read_lines, read_lists
from mlaas_condor.params import BadFiles
from mlaas_condor.reading import digest_of, nearest
from mlaas_condor.request import Request
from mlaas_condor.settings import Settings
from mlaas_condor.survey import Surveyed, look
from mlaas_condor.training import models
from mlaas_condor.training.recipe import FEWEST, Recipe

_SHOWN = 8  # names that a message lists


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
    function, modules
        The user's file with ``preprocessing(rec)``, None for none; modules of the user's that it imports.
    given
        Specs to use instead of measuring; None where they are measured.
    left_out
        Branches that cannot be features, with the reason.
    access
        With which credentials jobs read remote files.
    warnings
        What the user should know.
    """

    request: Request
    dataset: Dataset
    recipe: Recipe
    plan: planning.Plan
    model: models.ModelFile
    companions: list[Path]
    function: Path | None
    modules: list[Path]
    given: Specs | None
    left_out: dict[str, str]
    access: access.Access
    warnings: list[str]


def prepare(
    request: Request, settings: Settings, lifetime_ok: bool = False, run_code: bool = True
) -> Prepared:
    """Check a request against its files and plan the run.

    Parameters
    ----------
    request, settings
        What is wanted, and how.
    lifetime_ok
        Whether the proxy may end before the run does.
    run_code
        Whether the user's ``preprocessing(rec)`` may be run here, on some records; the model file never is.

    Raises
    ------
    RequestError
        With every problem found, not only the first.
    """
    request = replace(request, problems=list(request.problems), warnings=list(request.warnings))
    _check_gpus(request)
    model = _check_model(request)
    lines = read_lines(request)
    chunkstore.check_address(request)
    allowed = access.find(request, lines)
    if allowed.stages or request.job.x509_proxy:
        request.check()  # without a credential that does each file would only say the same
    lists = read_lists(request, lines)
    wanted = choice.read(request)
    _confine_modules(request, *([model.path] if model else []), *map(Path, filter(None, [wanted.function])))
    surveyed = look(request, lists.inputs, wanted.function, run_code)
    chosen = choice.make(request, lists, surveyed, wanted)
    request.check()
    if model is None or chosen is None:  # cannot be: either is None only with a problem
        raise RequestError([Problem("job.json", "names no model or no files")])
    labels = _of_files(lists.labels, surveyed)
    dataset = _dataset(request, lists, surveyed, chosen)
    chunkstore.check(request, dataset, settings.store)
    _check_classes(request, dataset, labels)
    recipe = procedure.make(request, lists, surveyed, labels, model, _plain(model.path.name))
    request.check()
    sample = sampling.take(dataset, [each.lengths for each in surveyed.files])
    if not dataset.may_lose:
        request.problems += [Problem("files", problem) for problem in sample.problems]
        request.check()
    work = max(each.work for each in surveyed.files)
    dataset = dataset.model_copy(update={"block": planning.block_entries(sample.values, work)})
    plan = planning.make(_size(dataset, sample), _wishes(request, settings, model))
    if not lifetime_ok:
        access.check_lifetime(request, allowed, plan)
        request.check()
    if wanted.function and not run_code:
        request.warnings.append(_foreseen(wanted, surveyed))
    return Prepared(
        request=request,
        dataset=_with_tasks(request, dataset, plan.stage("specs").jobs),
        recipe=recipe,
        plan=plan,
        model=model,
        companions=models.companions(model.path),
        function=Path(wanted.function) if wanted.function else None,
        modules=models.companions(Path(wanted.function)) if wanted.function else [],
        given=chosen.given,
        left_out=surveyed.left_out(),
        access=allowed,
        warnings=[*_warnings(request, surveyed, model, chosen, plan), *sample.warnings()],
    )


def _foreseen(wanted: choice.Wanted, surveyed: Surveyed) -> str:
    names = sorted(surveyed.branches)
    some = f"{', '.join(names[:_SHOWN])}{', …' if len(names) > _SHOWN else ''}"
    return (
        f"{wanted.where}: planned by reading it, as it does not run here: it leaves {some}; the specs jobs "
        "say if it does not"
    )


def _confine_modules(request: Request, *files: Path) -> None:
    """Make problems of modules beside the user's files that lead outside of what the request may reach."""
    if not request.within:
        return
    for file in files:
        for module in models.companions(file):
            within = [module, *(module.rglob("*") if module.is_dir() else ())]
            outside = [each.name for each in within if request.path(str(each)) == NOWHERE]
            if outside:
                what = (
                    f"imports {module.stem}, in which {outside[0]!r} leads outside of what may be read here"
                )
                request.problems.append(Problem(file.name, what, "upload it"))


def _size(dataset: Dataset, sample: sampling.Sample) -> planning.Size:
    return planning.Size(
        files=len(dataset.files),
        bytes=sum(file.size for file in dataset.files),
        transferred=sum(file.size for file in dataset.files if file.staged),
        events=dataset.events,
        flat=len(dataset.flat),
        jagged=len(dataset.jagged),
        columns=sample.columns,
        values=ceil(sample.values),
        chunk_size=dataset.chunk_size,
    )


def _of_files(values: PerEvent, surveyed: Surveyed) -> list[str]:
    """Return what belongs to the files that can be read."""
    return [values.of_files[position] for position in surveyed.positions] if values.of_files else []


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
    return model


def _dataset(request: Request, lists: Lists, surveyed: Surveyed, chosen: choice.Choices) -> Dataset:
    params = request.params
    entries = [each.entries for each in surveyed.files]
    used = entries if params.nevts == -1 else share(params.nevts, entries)
    return Dataset(
        files=[
            InputFile(
                path=each.path, tree=each.tree, uuid=each.uuid, content=each.content, size=each.size,
                entries=each.entries, used=n,
                staged="" if storage.is_url(each.path) else f"{i:04d}_{_plain(Path(each.path).name)}",
                index=list(each.index),
            )
            for i, (each, n) in enumerate(zip(surveyed.files, used, strict=True))
        ],
        flat=chosen.flat,
        jagged=chosen.jagged,
        carried=chosen.carried,
        weight=lists.weights.branch,
        steps=chosen.steps,
        function=_function(request, chosen.wanted.function),
        fill_missing=chosen.missing,
        may_lose=params.bad_files.skip if isinstance(params.bad_files, BadFiles) else 0.0,
        unreadable=surveyed.unreadable,
        given=chosen.given_digest,
        tasks=[],
        chunk_size=params.chunk_size,
        shuffle=params.shuffle,
        seed=params.seed,
    )  # fmt: skip


def _function(request: Request, path: str) -> Function | None:
    """Return the user's function for records, and what it imports, by the names they have in jobs."""
    if not path:
        return None
    modules = models.companions(Path(path))
    files = [Path(path), *modules]
    model = request.path(request.job.model)
    others = {_plain(each.name): each for each in (model, *models.companions(model))}
    for each in files:
        other = others.get(_plain(each.name), each)
        if other.resolve() != each.resolve():
            what = f"{each} and {other} have the same name, and travel with the same jobs"
            request.problems.append(Problem("job.json: preproc", what, "rename one of them"))
    names = [each.name for each in modules]
    return Function(name=_plain(Path(path).name), modules=names, digest=digest_of(files))


def _check_classes(request: Request, dataset: Dataset, labels: list[str]) -> None:
    """Make sure that what is trained on at a time, a chunk or all of them, has events of every class."""
    if not labels:
        return
    if len(set(labels)) == 1:  # there were more before files were left out
        what = f"the files that can be read all have the label {labels[0]!r}"
        request.problems.append(Problem("job.json: labels", what, "a classifier needs two classes at least"))
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
    if events[rare] < FEWEST * number:
        what = f"{number} chunks share {events[rare]} events of label {rare!r}, each needs {FEWEST}"
        hint = "use more events" if number == 1 else 'raise chunk_size, or use "training": "standard"'
        request.problems.append(Problem("params.json: chunk_size", what, hint))


def _plain(name: str) -> str:
    """Keep the end of a file name readable, without what a submit file gives a meaning to."""
    return "".join(c if c.isascii() and (c.isalnum() or c in "._-+") else "_" for c in name)[-100:]


def _with_tasks(request: Request, dataset: Dataset, jobs: int) -> Dataset:
    """Split the entries among the specs jobs, where the files can be split well."""
    names = Selector(dataset.steps, [*dataset.flat, *dataset.jagged]).inputs

    def boundaries(position: int) -> Sequence[int]:
        file = dataset.files[position]
        source = open_source(file.path, file.tree, index=file.index)
        try:
            return source.boundaries(name for name in names if name in source.branches)
        finally:
            source.close()

    try:
        tasks = split_entries([file.used for file in dataset.files], jobs, boundaries)
    except InputUnreadable as error:  # it was there a moment ago
        request.problems.append(Problem("files", str(error)))
        request.check()
        raise
    return dataset.model_copy(update={"tasks": tasks})


def _wishes(request: Request, settings: Settings, model: models.ModelFile) -> planning.Wishes:
    job = request.job
    return planning.Wishes(
        specs_jobs=job.tasks.specs,
        preprocess_jobs=job.tasks.preprocess,
        memory=job.memory,
        disk=job.disk,
        cpus=job.cpus,
        gpus=job.gpus_wanted,
        framework=model.framework,
        copies=procedure.copies(model),
        trainings=max(1, len(procedure.variants(request.params))),
        stored=bool(job.chunk_store),
        epochs=request.params.epochs,
        job_seconds=settings.job_seconds,
        least_memory=settings.memory_mb,
    )


def _warnings(
    request: Request, surveyed: Surveyed, model: models.ModelFile, chosen: choice.Choices, plan: planning.Plan
) -> list[str]:
    warnings = [*request.warnings, *chosen.warnings]
    if model.reason:
        warnings.append(model.reason)
    if request.params.training not in ("standard", "per chunk"):
        warnings.append(
            f"params.json: training: {request.params.training!r} means that each chunk is trained in turn, "
            'as MLaaS4HEP does; "standard" runs every epoch over all chunks'
        )
    if plan.wishes.copies:
        asked = plan.stage("train").memory
        warnings.append(
            f"{model.path.name}: scikit-learn trains it on all {plan.size.events} events at once, a matrix "
            f"of {plan.size.matrix_mib:.0f} MiB; the training asks for {asked} MiB"
        )
    files = surveyed.files
    doubled = len(files) - len({(each.uuid, each.tree) for each in files})
    if doubled:
        warnings.append(f"files: {doubled} of the {len(files)} files hold the same data as another one")
    return warnings
