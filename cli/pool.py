"""``mlaas-condor pool``: start, look at and stop the pool on one's own machine."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from .common import AsJson, Personal, here_only, print_json, print_table, settings

if TYPE_CHECKING:
    from mlaas_condor.batch.pool import PoolInfo

app = typer.Typer(no_args_is_help=True)


@app.callback()
def common(context: typer.Context) -> None:
    """Start, look at and stop an HTCondor pool on this machine."""
    here_only(context, "pool")


@app.command()
def up(
    context: typer.Context,
    cpus: Annotated[
        int | None, typer.Option(min=1, help="CPUs the pool offers [default: the machine's, at least 4].")
    ] = None,
    simulate_gpus: Annotated[
        str | None,
        typer.Option(metavar="KIND,NUMBER", help="Pretend GPUs, to test matching: 2,2 for two V100."),
    ] = None,
    personal: Personal = False,
) -> None:
    """Start the pool; install HTCondor into a folder of yours first where there is none."""
    from mlaas_condor.batch import pool

    _show(pool.up(settings(context, personal), cpus=cpus, simulate_gpus=simulate_gpus, say=_say))


@app.command()
def status(
    context: typer.Context,
    as_json: AsJson = False,
    personal: Personal = False,
) -> None:
    """Show the pool that runs are submitted to."""
    from mlaas_condor.batch import pool

    info = pool.status(settings(context, personal))
    if as_json:
        print_json(asdict(info))
    else:
        _show(info)


@app.command()
def env(context: typer.Context, personal: Personal = False) -> None:
    """Print what a shell needs for condor_q and its kin: eval "$(mlaas-condor pool env)"."""
    import os
    import shlex

    from mlaas_condor.batch import pool

    path = os.environ.get("PATH", os.defpath)
    config = pool.use(settings(context, personal)).config
    typer.echo(f"export CONDOR_CONFIG={shlex.quote(config)}")
    added = os.environ["PATH"].removeprefix(path).strip(os.pathsep)
    if added:
        typer.echo(f'export PATH="$PATH":{shlex.quote(added)}')


@app.command()
def down(
    context: typer.Context,
    force: Annotated[bool, typer.Option("--force", help="Also while jobs run.")] = False,
    personal: Personal = False,
) -> None:
    """Stop the pool; jobs in its queue go on when it is started again."""
    from mlaas_condor.batch import pool

    pool.down(settings(context, personal), say=_say, force=force)


def _say(line: str) -> None:
    # On stderr, so that stdout holds results only.
    typer.echo(line, err=True)


def _show(info: PoolInfo) -> None:
    from rich.table import Table

    table = Table.grid(padding=(0, 2))
    state = "running" if info.running else "not running; `mlaas-condor pool up` starts it"
    if info.kind == "site" and not info.running:
        state = "does not answer; `mlaas-condor pool up --personal` starts one on this machine"
    table.add_row("pool", f"{info.kind}, {state}")
    if info.running:
        table.add_row("HTCondor", f"{info.version}, access point {info.schedd}")
        table.add_row("CPUs", f"{info.cpus}, {info.cpus_busy} busy")
        table.add_row("GPUs", f"{info.gpus}, {info.gpus_busy} busy" if info.gpus else "none")
        table.add_row("memory", f"{info.memory_mb:,} MiB")
        table.add_row("jobs", f"{info.jobs_running} running, {info.jobs_idle} idle, {info.jobs_held} held")
    table.add_row("configuration", info.config or "none")
    print_table(table)
