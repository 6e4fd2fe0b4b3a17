"""What the commands share: settings from the common options, output for people and for programs."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mlaas_condor.errors import MlaasError, RequestError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from mlaas_condor.settings import Settings

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]
Personal = Annotated[bool, typer.Option("--personal", help="Also where the site has a pool.")]
RunName = Annotated[str, typer.Argument(metavar="RUN", help="Name of a run, such as tth_1.")]


@dataclass(frozen=True)
class Options:
    """The common options as given; None where one was not."""

    home: str | None = None
    pool: str | None = None


def settings(context: typer.Context, personal: bool = False) -> Settings:
    """Return the settings, the common options counted in; `personal` asks for one's own pool."""
    from mlaas_condor.settings import load

    options: Options = context.obj or Options()
    return load(home=options.home, pool="personal" if personal else options.pool)


def console(stderr: bool = False, width: int | None = None) -> Console:
    """Return where output for people goes; colours only on a terminal."""
    from rich.console import Console

    # No markup: paths and names of users may have brackets.
    return Console(stderr=stderr, width=width, highlight=False, markup=False, soft_wrap=True)


def print_table(table: Table) -> None:
    """Print a table as wide as it is: what is cut off or folded cannot be copied."""
    from rich.measure import Measurement

    wide = console(width=10_000)
    needed = Measurement.get(wide, wide.options, table).maximum
    console(width=max(needed, console().width)).print(table, soft_wrap=False)


def print_json(value: Any) -> None:
    """Print plain data as JSON."""
    from mlaas_condor.jsonfile import dumps

    typer.echo(dumps(value))


def show_error(error: MlaasError) -> None:
    """Print an error to standard error: each problem of a request on its own line."""
    if isinstance(error, RequestError):
        number = len(error.problems)
        typer.echo(f"error: {number} problem{'s' * (number > 1)}, nothing was submitted", file=sys.stderr)
        for problem in error.problems:
            typer.echo(f"  {problem}", file=sys.stderr)
    else:
        typer.echo(f"error: {error}", file=sys.stderr)


def program() -> str:
    """Return what to type to call this program again: its name, or the path it was called by."""
    import shutil

    called = Path(sys.argv[0])
    found = shutil.which(called.name)
    return called.name if found and Path(found).samefile(called) else str(called)


def warn(texts: list[str]) -> None:
    """Print warnings to standard error."""
    for text in texts:
        typer.echo(f"warning: {text}", file=sys.stderr)
