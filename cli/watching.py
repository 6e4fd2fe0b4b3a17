"""Watch a run: live on the pool, or with progress bars while it runs here."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import typer

from .common import console, program
from .entry import INTERRUPTED

if TYPE_CHECKING:
    from rich.progress import TaskID

    from mlaas_condor.places import AnyRun
    from mlaas_condor.runs import Run


def watch_run(run: AnyRun) -> None:
    """Show the stages until the run ends; Ctrl-C leaves the run alone."""
    from mlaas_condor import show
    from mlaas_condor.errors import RunFailed

    try:
        with show.live() as update:
            for state in run.follow():
                update(state)
    except KeyboardInterrupt:
        console().print(f"\n{run.name} goes on without us; come back with: {program()} watch {run.name}")
        raise typer.Exit(INTERRUPTED) from None
    if state.state != "completed":
        # A terminal has the reasons on the screen already.
        short = f"{run.name} is {state.state}; see above, and: {program()} logs {run.name}"
        raise RunFailed(short if console().is_terminal else show.failure(state))
    show_result(run)


def with_progress_bars(run: Run) -> None:
    """Run here, a bar for each stage; Ctrl-C stops it, and it can be gone on with."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
    from rich.table import Column

    from mlaas_condor import local

    columns = (
        TextColumn("{task.description:<10}"), BarColumn(bar_width=12), MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn(
            "{task.fields[line]}", style="dim", markup=False,
            table_column=Column(ratio=1, no_wrap=True, overflow="ellipsis"),
        ),
    )  # fmt: skip
    # A polite kill ends it as Ctrl-C does: the jobs go along.
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    bars: dict[str, TaskID] = {}
    try:
        with Progress(*columns, console=Console(highlight=False), expand=True) as progress:

            def update(stage: str, done: int, tasks: int, line: str) -> None:
                if stage not in bars:
                    bars[stage] = progress.add_task(stage, total=tasks, line="")
                progress.update(bars[stage], completed=done, line=line[24:])
                if done == tasks:
                    progress.stop_task(bars[stage])

            local.run(run.folder, update)
    except KeyboardInterrupt:
        console().print(f"\nstopped; go on with: {program()} resume {run.name}")
        raise typer.Exit(INTERRUPTED) from None
    show_result(run)


def show_result(run: AnyRun) -> None:
    """Print what came out of a run, and the next command."""
    metrics = run.metrics() or {}
    test = metrics.get("test", {})
    out = console()
    if test.get("auc") is not None:
        out.print(f"test AUC {test['auc']:.4f} on {test['events']} events the training never saw")
    if test.get("rmse") is not None:
        numbers = f"RMSE {test['rmse']:.4g}, mean residual {test['bias']:.4g}"
        out.print(f"test {numbers} on {test['events']} events the training never saw")
    out.print(f"bundle {run.model()}")
    out.print(f"next: {program()} model {run.name} -o {run.name}.tar.gz")
