"""What the commands share: the place that the common options mean, output for people and for programs."""

from __future__ import annotations

import sys
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mlaas_condor.errors import MlaasError, RequestError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from mlaas_condor.client.profiles import Profile
    from mlaas_condor.places import Place
    from mlaas_condor.settings import Settings

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]
Personal = Annotated[bool, typer.Option("--personal", help="Also where the site has a pool.")]
RunName = Annotated[str, typer.Argument(metavar="RUN", help="Name of a run, such as tth_1.")]


@dataclass(frozen=True)
class Options:
    """The common options as given; None where one was not."""

    home: str | None = None
    pool: str | None = None
    server: str | None = None
    token_file: str | None = None
    owner: str | None = None


_given: ContextVar[Options | None] = ContextVar("given", default=None)


def remember(context: typer.Context, options: Options) -> None:
    """Note the common options, for the commands and for what they tell to type next."""
    context.obj = options
    _given.set(options)


def place(context: typer.Context) -> Place:
    """Return where runs are: this machine, or the service that the common options or the settings name."""
    profile = server(context)
    if profile is None:
        from mlaas_condor.here import Here

        return Here(settings(context))
    from mlaas_condor.client.service import Service

    options: Options = context.obj or Options()
    return Service(profile.url, profile.token, options.owner or "", lambda text: typer.echo(text, err=True))


def server(context: typer.Context, given: str | None = None, token_file: str | None = None) -> Profile | None:
    """Return the service that is meant, None for this machine.

    Parameters
    ----------
    given, token_file
        What a command itself was given; the common options otherwise.
    """
    from mlaas_condor.client import profiles

    options: Options = context.obj or Options()
    named = given or options.server
    of_here = [f"--{name}" for name in ("home", "pool") if getattr(options, name) is not None]
    found = None if of_here and named is None else profiles.find(named, token_file or options.token_file)
    if found is not None and of_here:
        raise _misplaced(of_here[0], "is about this machine, not about a service", "leave it or --server out")
    for_service = [
        f"--{name}" for name in ("token-file", "owner") if getattr(options, name.replace("-", "_"))
    ]
    if found is None and for_service:
        raise _misplaced(for_service[0], "is for a service, and none is named", "give --server")
    return found


def here_only(context: typer.Context, command: str, why: str = "is about this machine") -> None:
    """Refuse a service where a command has no use for one: rather than do something else than was meant."""
    options: Options = context.obj or Options()
    if options.server is not None:
        raise _misplaced("--server", f"`{command}` {why}", "leave it out")


def _misplaced(option: str, what: str, hint: str) -> MlaasError:
    from mlaas_condor.errors import Problem
    from mlaas_condor.grid.renewal import WrongSetting

    return WrongSetting([Problem(option, what, hint)])


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
    """Return what to type to call this program again, for the same place: its name, or its path."""
    import shlex
    import shutil

    called = Path(sys.argv[0])
    found = shutil.which(called.name)
    same = found and (called.name == str(called) or Path(found).samefile(called))
    name = called.name if same else str(called)
    given = _given.get()
    return f"{name} --server {shlex.quote(given.server)}" if given and given.server else name


def warn(texts: list[str]) -> None:
    """Print warnings to standard error."""
    for text in texts:
        typer.echo(f"warning: {text}", file=sys.stderr)
