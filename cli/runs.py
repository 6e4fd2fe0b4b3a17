"""Commands that take a run: status, watch, logs, model, cancel, resume, list, delete."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from .common import AsJson, RunName, console, place, print_json, print_table, program
from .entry import INTERRUPTED
from .transfers import bars
from .watching import watch_run, with_progress_bars


def add_to(app: typer.Typer) -> None:
    """Add the commands."""
    for command in (status, watch, logs, model, cancel, resume, list_, delete):
        app.command(command.__name__.rstrip("_"))(command)


def status(
    context: typer.Context,
    run: Annotated[str | None, typer.Argument(metavar="[RUN]", help="One run; without, all runs.")] = None,
    as_json: AsJson = False,
) -> None:
    """Show how a run does, stage by stage; without a name, all runs."""
    from mlaas_condor import show

    if run is None:
        list_(context, as_json)
        return
    state = place(context).open_run(run).status()
    if as_json:
        print_json(state.to_dict())
    else:
        console().print(show.table(state))


def watch(context: typer.Context, run: RunName) -> None:
    """Watch a run live until it ends; Ctrl-C leaves it alone."""
    watch_run(place(context).open_run(run))


def logs(
    context: typer.Context,
    run: RunName,
    stage: Annotated[str | None, typer.Option(help="specs, merge, preprocess, train or report.")] = None,
    task: Annotated[int | None, typer.Option(help="Number of the task, from 0.")] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on as it is written.")] = False,
    stderr: Annotated[bool, typer.Option("--stderr", help="Its standard error only.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show what a job says, also while it runs; without a stage, the most telling one."""
    opened = place(context).open_run(run)
    if as_json:
        print_json({"stdout": opened.logs(stage, task), "stderr": opened.logs(stage, task, stderr=True)})
        return
    if follow:
        try:
            for text in opened.follow_logs(stage, task, stderr):
                typer.echo(text, nl=False)
        except KeyboardInterrupt:
            raise typer.Exit(INTERRUPTED) from None
        return
    if not stderr:
        typer.echo(opened.logs(stage, task), nl=False)
    typer.echo(opened.logs(stage, task, stderr=True), nl=False, file=None if stderr else sys.stderr)


def model(
    context: typer.Context,
    run: RunName,
    output: Annotated[
        str | None, typer.Option("--output", "-o", help="Copy the bundle to this file or folder.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Tell where the model bundle is, or copy it."""
    opened = place(context).open_run(run)
    if output is None:
        bundle = opened.model()
    else:
        try:
            with bars() as update:
                bundle = opened.fetch(output, lambda done, size: update("fetching", done, size))
        except KeyboardInterrupt:
            typer.echo("stopped; the same command goes on", err=True)
            raise typer.Exit(INTERRUPTED) from None
    if as_json:
        print_json({"bundle": str(bundle), "metrics": opened.metrics()})
    else:
        typer.echo(bundle)


def cancel(context: typer.Context, run: RunName) -> None:
    """Take a run off the queue; `resume` goes on from what it has done."""
    place(context).open_run(run).cancel()
    console().print(f"cancelled {run}; go on with: {program()} resume {run}")


def resume(
    context: typer.Context,
    run: RunName,
    watch: Annotated[bool, typer.Option("--watch", help="Watch the run until it ends.")] = False,
) -> None:
    """Go on after a failure, a hold or a cancel, redoing only what is missing."""
    where = place(context)
    opened = where.open_run(run)
    alone = where.without_pool(opened)
    if alone is not None and alone.status().state != "completed":
        with_progress_bars(alone)
        return
    console().print(f"{run}: {opened.resume()}")
    if watch:
        watch_run(opened)


def list_(context: typer.Context, as_json: AsJson = False) -> None:
    """List all runs."""
    from rich.table import Table
    from rich.text import Text

    from mlaas_condor import show

    where = place(context)
    states = where.states()
    if as_json:
        print_json([state.to_dict() for state in states])
        return
    if not states:
        console().print(f"no runs {where.kept}; begin with: {program()} submit job.json")
        return
    grid = Table(box=None, pad_edge=False, header_style="dim")
    for name in ("run", "state", "stage", "done", "elapsed"):
        grid.add_column(name)
    for state in states:
        current = state.current
        cells = (current.stage, f"{current.done}/{current.tasks}") if current else ("", "")
        grid.add_row(
            state.name, Text(state.state, show.COLOURS[state.state]), *cells, show.duration(state.elapsed)
        )
    print_table(grid)


def delete(
    context: typer.Context,
    run: RunName,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    keep_stored: Annotated[
        bool, typer.Option("--keep-stored", help="Leave chunks on storage (chunk_store) there.")
    ] = False,
) -> None:
    """Delete a run with its logs and its model; asks first, and never a running one."""
    opened = place(context).open_run(run)
    if not yes:
        typer.confirm(f"delete {opened.where} with its logs and its model?", abort=True)
    opened.delete(keep_stored)
    console().print(f"deleted {run}")
