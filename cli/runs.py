"""Commands that take a run: status, watch, logs, model, cancel, resume, list, delete."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Annotated

import typer

from .common import AsJson, RunName, console, print_json, print_table, settings
from .entry import INTERRUPTED
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
    from mlaas_condor import show, workflow

    if run is None:
        list_(context, as_json)
        return
    state = workflow.open_run(run, settings(context)).status()
    if as_json:
        print_json(state.to_dict())
    else:
        console().print(show.table(state))


def watch(context: typer.Context, run: RunName) -> None:
    """Watch a run live until it ends; Ctrl-C leaves it alone."""
    from mlaas_condor import workflow

    watch_run(workflow.open_run(run, settings(context)))


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
    from mlaas_condor import workflow

    opened = workflow.open_run(run, settings(context))
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
    from mlaas_condor import workflow
    from mlaas_condor.errors import CannotWrite

    opened = workflow.open_run(run, settings(context))
    bundle = opened.model()
    if output is not None:
        try:
            bundle = Path(shutil.copy(bundle, output))
        except OSError as error:
            raise CannotWrite(f"{output}: {error.strerror}") from error
    if as_json:
        print_json({"bundle": str(bundle), "metrics": opened.metrics()})
    else:
        typer.echo(bundle)


def cancel(context: typer.Context, run: RunName) -> None:
    """Take a run off the queue; `resume` goes on from what it has done."""
    from mlaas_condor import workflow

    workflow.open_run(run, settings(context)).cancel()
    console().print(f"cancelled {run}; go on with: mlaas-condor resume {run}")


def resume(
    context: typer.Context,
    run: RunName,
    watch: Annotated[bool, typer.Option("--watch", help="Watch the run until it ends.")] = False,
) -> None:
    """Go on after a failure, a hold or a cancel, redoing only what is missing."""
    from mlaas_condor import workflow

    opened = workflow.open_run(run, settings(context))
    state = opened.status()
    if state.where == "local" and state.state != "completed":
        with_progress_bars(opened)
        return
    console().print(f"{run}: {opened.resume()}")
    if watch:
        watch_run(opened)


def list_(context: typer.Context, as_json: AsJson = False) -> None:
    """List all runs."""
    from rich.table import Table
    from rich.text import Text

    from mlaas_condor import runs, show, workflow

    options = settings(context)
    states = runs.states([run.folder for run in workflow.list_runs(options)], options)
    if as_json:
        print_json([state.to_dict() for state in states])
        return
    if not states:
        console().print(f"no runs in {options.runs}; begin with: mlaas-condor submit job.json")
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
    from mlaas_condor import workflow

    opened = workflow.open_run(run, settings(context))
    if not yes:
        typer.confirm(f"delete {opened.folder.path} with its logs and its model?", abort=True)
    opened.delete(keep_stored)
    console().print(f"deleted {run}")
