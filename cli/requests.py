"""Commands that take a job.json: plan, submit, run, schema."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from .common import AsJson, console, here_only, place, print_json, print_table, program, settings, warn
from .transfers import telling
from .watching import watch_run, with_progress_bars

if TYPE_CHECKING:
    from mlaas_condor.data.dataset import Dataset
    from mlaas_condor.planned import Planned
    from mlaas_condor.planning import Size

Proxy = Annotated[
    str,
    typer.Option(
        "--proxy", metavar="FILE", help="Read remote files with this proxy [default: X509_USER_PROXY]."
    ),
]
LifetimeOk = Annotated[
    bool, typer.Option("--proxy-lifetime-ok", help="Also where the proxy may end before the run does.")
]
JobFile = Annotated[str, typer.Argument(metavar="JOB.JSON", help="The request, or the folder with job.json.")]


def add_to(app: typer.Typer) -> None:
    """Add the commands."""
    app.command()(submit)
    app.command()(plan)
    app.command()(run)
    app.command()(schema)


def submit(
    context: typer.Context,
    job: JobFile = "job.json",
    watch: Annotated[bool, typer.Option("--watch", help="Watch the run until it ends.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check and plan only, as `plan --files` does.")
    ] = False,
    proxy: Proxy = "",
    lifetime_ok: LifetimeOk = False,
    as_json: AsJson = False,
) -> None:
    """Check a request, plan it and submit it to the pool, or to a service."""
    if dry_run:
        plan(context, job, files=True, proxy=proxy, lifetime_ok=lifetime_ok, as_json=as_json)
        return
    with telling() as told:
        started = place(context).start(job, proxy, lifetime_ok, told)
    run = started.run
    if as_json:
        bundle = run.wait().bundle if watch else None
        print_json({"run": run.name, "directory": run.where, "bundle": bundle})
        return
    out = console()
    out.print("submitted", f"{run.name} ", _summary(started.size) if started.size else "")
    if watch:
        watch_run(run)
    else:
        out.print(f"next: {program()} watch {run.name}")


def run(
    context: typer.Context,
    job: JobFile = "job.json",
    local: Annotated[bool, typer.Option("--local", help="Here and now, without HTCondor.")] = False,
    proxy: Proxy = "",
    lifetime_ok: LifetimeOk = False,
) -> None:
    """Run a request to the end: on the pool, with a service, or here with --local."""
    if not local:
        submit(context, job, watch=True, proxy=proxy, lifetime_ok=lifetime_ok)
        return
    here_only(context, "run --local", "runs it on this machine")
    from mlaas_condor import workflow
    from mlaas_condor.runs import Run

    options = settings(context)
    prepared = workflow.plan(job, options, proxy, lifetime_ok)
    warn(prepared.warnings)
    created = Run(workflow.create(prepared, options), options)
    console().print("running", created.name, "here ", _summary(prepared.plan.size))
    with_progress_bars(created)


def plan(
    context: typer.Context,
    job: JobFile = "job.json",
    files: Annotated[bool, typer.Option("--files", help="Show the generated submit files too.")] = False,
    proxy: Proxy = "",
    lifetime_ok: LifetimeOk = False,
    as_json: AsJson = False,
) -> None:
    """Check a request and show what would be submitted; queues nothing."""
    where = place(context)
    with telling() as told:
        planned = where.look(job, proxy, lifetime_ok, told)
    if as_json:
        print_json(planned.to_dict())
        return
    warn(planned.warnings)
    _show_plan(planned)
    console().print(f"\njobs run {planned.python}; runs are kept {where.kept}", style="dim")
    for file_name, text in planned.submit_files.items() if files else ():
        console().rule(file_name, align="left")
        console().print(text)
    if not files:
        console().print("--files shows the DAG and the submit files", style="dim")


def schema() -> None:
    """Print the JSON Schema of job.json, for editors."""
    from mlaas_condor.request import json_schema

    print_json(json_schema())


def _summary(size: Size) -> str:
    return f"{size.files} files, {size.events} events, about {size.columns} columns, {size.chunks} chunks"


def _of_trees(dataset: Dataset) -> str:
    trees = sorted({file.tree for file in dataset.files if file.tree})
    return f" of tree {', '.join(trees)}" if trees else ""


def _show_plan(planned: Planned) -> None:
    from rich.table import Table

    from mlaas_condor.show import duration, size

    out = console()
    dataset, recipe = planned.dataset, planned.recipe
    inputs = Table(box=None, pad_edge=False, header_style="dim")
    inputs.add_column("file")
    inputs.add_column("label")
    for name in ("entries", "used", "size"):
        inputs.add_column(name, justify="right")
    for i, file in enumerate(dataset.files):
        row = (
            file.path,
            recipe.label_of(i),
            str(file.entries),
            str(file.used),
            f"{file.size / 2**20:.1f} MB",
        )
        inputs.add_row(*row)
    print_table(inputs)
    whole = planned.plan.size
    out.print(
        f"\n{whole.events} events{_of_trees(dataset)}; {whole.flat} flat and {whole.jagged} jagged "
        f"branches, about {whole.columns} columns; {whole.chunks} chunks; "
        f"{len(planned.left_out)} branches cannot be features"
    )
    for definition in dataset.steps.definitions:
        out.print(f"new branch {definition.name} = {definition.expression}")
    for cut in dataset.steps.cuts:
        out.print(f"cut {cut.title}")
    if dataset.function:
        out.print(f"each record goes through preprocessing(rec) of {dataset.function.name}")
    if planned.storage:
        out.print(planned.storage)
    out.print(
        f"model {recipe.model} ({planned.framework}), {recipe.epochs} epochs, "
        f"batches of {recipe.batch_size}\n"
    )
    jobs = Table(box=None, pad_edge=False, header_style="dim")
    for name in ("stage", "jobs", "CPUs", "GPUs", "memory", "disk", "time each"):
        jobs.add_column(name, justify="left" if name == "stage" else "right")
    for stage in planned.plan.stages:
        counts = (stage.stage, str(stage.jobs), str(stage.cpus), str(stage.gpus or ""))
        jobs.add_row(*counts, size(stage.memory), size(stage.disk), f"~{duration(stage.seconds)}")
    print_table(jobs)
