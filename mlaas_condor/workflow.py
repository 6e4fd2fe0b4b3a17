"""What can be done with a request: check and plan it, submit it; and the runs that there are.

The command line, the service and Python do all they do through this module and `Run`.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from mlaas_condor import access, jsonfile, run
from mlaas_condor import settings as settings_module
from mlaas_condor.batch import dag, pool, queue
from mlaas_condor.data.dataset import Dataset
from mlaas_condor.data.measuring import PART_NAME, Measurement
from mlaas_condor.errors import CannotWrite, MlaasError
from mlaas_condor.grid.credentials import Credentials
from mlaas_condor.prepare import Prepared, prepare
from mlaas_condor.request import Request
from mlaas_condor.run import RunFolder
from mlaas_condor.runs import Run
from mlaas_condor.settings import Settings


def plan(
    request: Request | str | Path | Mapping[str, Any],
    settings: Settings | None = None,
    proxy: str = "",
    lifetime_ok: bool = False,
    run_code: bool = True,
) -> Prepared:
    """Check a request and plan it; queues nothing, writes nothing.

    Parameters
    ----------
    request, settings
        As for `submit`.
    proxy
        Proxy to read remote files with; empty for that of the request or of the environment.
    lifetime_ok
        Whether it may end before the run is expected to.
    run_code
        Whether the user's ``preprocessing(rec)`` may be run here, to see what it leaves; the model file never
        is.

    Raises
    ------
    RequestError
        With every problem found.
    """
    read = Request.load(request)
    if proxy:
        job = read.job.model_copy(update={"x509_proxy": str(Path(proxy).expanduser().absolute())})
        read = replace(read, job=job, proxy_named_by="--proxy")
    with access.kept():
        return prepare(read, settings or settings_module.load(), lifetime_ok, run_code)


def submit_files(
    prepared: Prepared, settings: Settings, name: str, credentials: Credentials | None = None
) -> dict[str, str]:
    """Return what HTCondor gets of a prepared request, by file name; or would get, as far as is known."""
    if credentials is None:
        credentials = prepared.access.credentials(None)
    return dag.render(
        name,
        prepared.request.job,
        prepared.dataset,
        prepared.plan,
        [prepared.recipe.model, *(path.name for path in prepared.companions)],
        settings.python,
        settings.store,
        credentials,
        settings.owner,
        settings.accounting_group,
    )


def create(prepared: Prepared, settings: Settings, belongs: str = "") -> RunFolder:
    """Write the run directory of a prepared request under the next free name.

    Parameters
    ----------
    prepared, settings
        What is to be run, and where runs are kept.
    belongs
        Content of its `RunFolder.belongs`, which is there as soon as the run is; empty for none.

    Raises
    ------
    CannotWrite
        The directory cannot be written, for lack of space or of permission; nothing is left behind.
    """
    try:
        settings.make_own()
        name = run.reserve(settings.runs, prepared.request.job.name)
        folder = run.staging(settings.runs, name)
    except OSError as error:
        raise CannotWrite(
            f"{settings.runs}: no run directory can be made: {error.strerror}; see MLAAS_CONDOR_HOME"
        ) from error
    try:
        _fill(RunFolder(folder), name, prepared, settings)
        if belongs:
            RunFolder(folder).belongs.write_text(belongs, "utf-8")
        return run.publish(folder, settings.runs, name)
    except BaseException as error:
        shutil.rmtree(folder, ignore_errors=True)
        if isinstance(error, OSError):
            raise CannotWrite(f"{folder}: {error.strerror}: nothing was submitted") from error
        raise


def _fill(folder: RunFolder, name: str, prepared: Prepared, settings: Settings) -> None:
    request = prepared.request
    folder.files.mkdir()
    for source, text in request.sources.items():
        (folder.files / source).write_text(text, "utf-8")
    shutil.copyfile(prepared.model.path, folder.files / prepared.recipe.model)
    for path in dict.fromkeys((*prepared.companions, *prepared.modules)):
        if path.is_dir():
            shutil.copytree(path, folder.files / path.name)
        else:
            shutil.copyfile(path, folder.files / path.name)
    understood = {"job": request.job.model_dump(exclude={"params"}), "params": request.params.model_dump()}
    folder.request.write_text(jsonfile.dumps(understood) + "\n", "utf-8")
    prepared.dataset.write(folder.dataset)
    prepared.recipe.model_copy(update={"name": name}).write(folder.recipe)
    prepared.plan.write(folder.plan)
    for task in range(prepared.plan.stage("train").jobs):
        run.make_checkpoint_folder(folder.path, task)
    folder.inputs.mkdir()
    for file in prepared.dataset.files:
        if file.staged:
            (folder.inputs / file.staged).symlink_to(file.path)
    if prepared.function and prepared.dataset.function:
        shutil.copyfile(prepared.function, folder.files / prepared.dataset.function.name)
    if prepared.given:
        prepared.given.write(folder.given_specs)
        _measure_nothing(folder, prepared.dataset)
    credentials = prepared.access.credentials(folder)
    credentials.write(folder.credentials)
    dag.write(
        folder,
        submit_files(prepared, settings, name, credentials),
        dag.task_lists(prepared.dataset, prepared.plan),
    )


def _measure_nothing(folder: RunFolder, dataset: Dataset) -> None:
    """Write what the specs stage would bring back, where it had nothing to read: then it is skipped."""
    for task, ranges in enumerate(dataset.tasks):
        measurement = Measurement(dataset)
        if not measurement.needs_no_file:
            return
        for entries in ranges:
            measurement.measure(entries)
        output = folder.output("specs")
        output.mkdir(exist_ok=True)
        part = output / PART_NAME.format(task)
        measurement.part().write(part)
        run.mark(output, task, [part])


def submit(
    request: Request | str | Path | Mapping[str, Any],
    settings: Settings | None = None,
    proxy: str = "",
    lifetime_ok: bool = False,
) -> Run:
    """Check a request, plan it, write its run directory and submit it.

    Parameters
    ----------
    request
        Path of a job file, its content, or a `Request`.
    settings
        As `settings.load` finds them if None.
    proxy, lifetime_ok
        As for `plan`.

    Raises
    ------
    RequestError
        With every problem found; nothing is queued.
    PoolUnreachable
        There is no pool; nothing is left behind.
    """
    settings = settings or settings_module.load()
    prepared = plan(request, settings, proxy, lifetime_ok)
    return submit_prepared(prepared, settings)


def submit_prepared(prepared: Prepared, settings: Settings) -> Run:
    """Submit what `plan` returned."""
    pool.use(settings)
    created = create(prepared, settings)
    submit_created(created, settings)
    return Run(created, settings)


def submit_created(created: RunFolder, settings: Settings) -> int:
    """Submit what `create` returned, which is deleted if that fails; return the number of its DAGMan job.

    The pool must be in use.
    """
    try:
        return queue.submit(created, settings.owner)
    except BaseException:
        # An interrupt can come right after the schedd took it: then it must not run without its files.
        with contextlib.suppress(MlaasError):
            queue.remove(created)
        with contextlib.suppress(MlaasError):
            run.delete(created, settings.store)
        raise


def open_run(name: str, settings: Settings | None = None) -> Run:
    """Open a run by its name.

    Raises
    ------
    RunNotFound
        There is none of that name.
    """
    settings = settings or settings_module.load()
    return Run(run.open_folder(settings.runs, name), settings)


def list_runs(settings: Settings | None = None) -> list[Run]:
    """Return all runs, oldest first."""
    settings = settings or settings_module.load()
    return [Run(folder, settings) for folder in run.list_folders(settings.runs)]
