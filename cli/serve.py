"""``mlaas-condor serve``: the HTTP service, for oneself or for a group."""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import typer

from mlaas_condor.errors import MlaasError, RequestError

from .common import Options, warn


def add_to(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(serve)


def serve(
    context: typer.Context,
    config: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="service.toml [default: one user, on 127.0.0.1 only]."),
    ] = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(min=0, max=65535, help="Port; 0 for any that is free.")] = None,
    workers: Annotated[int | None, typer.Option(min=1, max=64, help="Processes.")] = None,
    check: Annotated[bool, typer.Option("--check", help="Only say whether it could start.")] = False,
) -> None:
    """Serve pages, the REST interface and the calls of MLaaS4HEP_server over HTTP."""
    serving = _serving()
    options: Options = context.obj or Options()
    try:
        configuration = serving.configured(config, host=host, port=port, workers=workers)
        settings = configuration.settings(options.home, options.pool)
        warnings = serving.check(configuration, settings)
    except RequestError as error:
        _show(error)
        raise typer.Exit(error.exit_code) from error
    warn(warnings)
    if check:
        typer.echo(f"{config or 'the default configuration'} is in order")
    else:
        serving.serve(configuration, settings, config, _say)


def _serving() -> Any:
    try:
        return import_module("mlaas_condor.server.serving.processes")
    except ModuleNotFoundError as error:
        raise MlaasError(f"serve needs {error.name}: pip install 'mlaas-condor[server]'") from error


def _show(error: RequestError) -> None:
    number = len(error.problems)
    typer.echo(f"error: {number} problem{'s' * (number > 1)}, the service does not start", file=sys.stderr)
    for problem in error.problems:
        typer.echo(f"  {problem}", file=sys.stderr)


def _say(line: str) -> None:
    # On stderr, where the log goes too.
    typer.echo(line, err=True)
