"""``mlaas-condor pool``: start, look at and stop the pool on one's own machine."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from mlaas_condor.batch.pool import PoolInfo

app = typer.Typer(help="Start, look at and stop an HTCondor pool on this machine.", no_args_is_help=True)


@app.command()
def up(
    cpus: Annotated[
        int | None, typer.Option(min=1, help="CPUs the pool offers [default: the machine's, at least 4].")
    ] = None,
    simulate_gpus: Annotated[
        str | None,
        typer.Option(metavar="KIND,NUMBER", help="Pretend GPUs, to test matching: 2,2 for two V100."),
    ] = None,
    personal: Annotated[bool, typer.Option("--personal", help="Also where the site has a pool.")] = False,
) -> None:
    """Start the pool; install HTCondor into a folder of yours first where there is none."""
    from mlaas_condor import settings
    from mlaas_condor.batch import pool

    chosen = settings.load(pool="personal" if personal else None)
    _show(pool.up(chosen, cpus=cpus, simulate_gpus=simulate_gpus, say=_say))


@app.command()
def status(
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
    personal: Annotated[bool, typer.Option("--personal", help="Also where the site has a pool.")] = False,
) -> None:
    """Show the pool that runs are submitted to."""
    from mlaas_condor import settings
    from mlaas_condor.batch import pool

    info = pool.status(settings.load(pool="personal" if personal else None))
    if as_json:
        sys.stdout.write(json.dumps(asdict(info), indent=2) + "\n")
    else:
        _show(info)


@app.command()
def down(
    force: Annotated[bool, typer.Option("--force", help="Also while jobs run.")] = False,
    personal: Annotated[bool, typer.Option("--personal", help="Also where the site has a pool.")] = False,
) -> None:
    """Stop the pool; jobs in its queue go on when it is started again."""
    from mlaas_condor import settings
    from mlaas_condor.batch import pool

    pool.down(settings.load(pool="personal" if personal else None), say=_say, force=force)


def _say(line: str) -> None:
    # On stderr, so that stdout holds results only.
    sys.stderr.write(line + "\n")
    sys.stderr.flush()


def _show(info: PoolInfo) -> None:
    from rich.console import Console
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
    # No highlighting and no cutting: paths are to be copied.
    Console(highlight=False, soft_wrap=True).print(table)
