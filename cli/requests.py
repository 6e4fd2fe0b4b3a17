"""Commands that take a job.json: plan, submit, run, schema."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from .common import AsJson, console, print_json, print_table, program, settings, warn
from .watching import watch_run, with_progress_bars

if TYPE_CHECKING:
    from mlaas_condor.data.dataset import Dataset
    from mlaas_condor.prepare import Prepared
    from mlaas_condor.settings import Settings

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
    """Check a request, plan it and submit it to the pool."""
    from mlaas_condor import workflow

    if dry_run:
        plan(context, job, files=True, proxy=proxy, lifetime_ok=lifetime_ok, as_json=as_json)
        return
    options = settings(context)
    prepared = workflow.plan(job, options, proxy, lifetime_ok)
    warn(prepared.warnings)
    submitted = workflow.submit_prepared(prepared, options)
    if as_json:
        bundle = submitted.wait().bundle if watch else None
        print_json({"run": submitted.name, "directory": str(submitted.folder.path), "bundle": bundle})
        return
    out = console()
    out.print("submitted", f"{submitted.name} ", _summary(prepared))
    if watch:
        watch_run(submitted)
    else:
        out.print(f"next: {program()} watch {submitted.name}")


def run(
    context: typer.Context,
    job: JobFile = "job.json",
    local: Annotated[bool, typer.Option("--local", help="Here and now, without HTCondor.")] = False,
    proxy: Proxy = "",
    lifetime_ok: LifetimeOk = False,
) -> None:
    """Run a request to the end: on the pool, or here with --local."""
    from mlaas_condor import workflow
    from mlaas_condor.runs import Run

    if not local:
        submit(context, job, watch=True, proxy=proxy, lifetime_ok=lifetime_ok)
        return
    options = settings(context)
    prepared = workflow.plan(job, options, proxy, lifetime_ok)
    warn(prepared.warnings)
    created = Run(workflow.create(prepared, options), options)
    console().print("running", created.name, "here ", _summary(prepared))
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
    from mlaas_condor import workflow

    options = settings(context)
    prepared = workflow.plan(job, options, proxy, lifetime_ok)
    name = f"{prepared.request.job.name}_n"
    texts = workflow.submit_files(prepared, options, name)
    if as_json:
        print_json(_plan_as_dict(prepared, texts))
        return
    warn(prepared.warnings)
    _show_plan(prepared, options)
    for file_name, text in texts.items() if files else ():
        console().rule(file_name, align="left")
        console().print(text)
    if not files:
        console().print("--files shows the DAG and the submit files", style="dim")


def schema() -> None:
    """Print the JSON Schema of job.json, for editors."""
    from mlaas_condor.request import json_schema

    print_json(json_schema())


def _summary(prepared: Prepared) -> str:
    size = prepared.plan.size
    return f"{size.files} files, {size.events} events, about {size.columns} columns, {size.chunks} chunks"


def _plan_as_dict(prepared: Prepared, texts: dict[str, str]) -> dict[str, object]:
    return {
        "plan": prepared.plan.model_dump(),
        "dataset": prepared.dataset.model_dump(exclude={"tasks"}),
        "recipe": prepared.recipe.model_dump(),
        "framework": prepared.model.framework,
        "left_out": prepared.left_out,
        "credentials": prepared.access.credentials(None).model_dump(),
        "warnings": prepared.warnings,
        "submit_files": texts,
    }


def _of_trees(dataset: Dataset) -> str:
    trees = sorted({file.tree for file in dataset.files if file.tree})
    return f" of tree {', '.join(trees)}" if trees else ""


def _show_plan(prepared: Prepared, options: Settings) -> None:
    from rich.table import Table

    from mlaas_condor.show import duration, size

    out = console()
    dataset, recipe = prepared.dataset, prepared.recipe
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
    planned = prepared.plan.size
    out.print(
        f"\n{planned.events} events{_of_trees(dataset)}; {planned.flat} flat and {planned.jagged} jagged "
        f"branches, about {planned.columns} columns; {planned.chunks} chunks; "
        f"{len(prepared.left_out)} branches cannot be features"
    )
    for definition in dataset.steps.definitions:
        out.print(f"new branch {definition.name} = {definition.expression}")
    for cut in dataset.steps.cuts:
        out.print(f"cut {cut.title}")
    if dataset.function:
        out.print(f"each record goes through preprocessing(rec) of {dataset.function.name}")
    if str(prepared.access):
        out.print(str(prepared.access))
    out.print(
        f"model {recipe.model} ({prepared.model.framework}), {recipe.epochs} epochs, "
        f"batches of {recipe.batch_size}\n"
    )
    jobs = Table(box=None, pad_edge=False, header_style="dim")
    for name in ("stage", "jobs", "CPUs", "GPUs", "memory", "disk", "time each"):
        jobs.add_column(name, justify="left" if name == "stage" else "right")
    for stage in prepared.plan.stages:
        counts = (stage.stage, str(stage.jobs), str(stage.cpus), str(stage.gpus or ""))
        jobs.add_row(*counts, size(stage.memory), size(stage.disk), f"~{duration(stage.seconds)}")
    print_table(jobs)
    out.print(f"\njobs run {options.python}; runs are kept in {options.runs}", style="dim")
