"""``mlaas-condor``: its commands, its common options, and how errors leave it."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from mlaas_condor.errors import MlaasError

from . import inspecting, pool, proxy, renewing, requests, runs, serve
from .common import AsJson, Options, console, print_json, remember, server, settings, show_error

app = typer.Typer(
    help="From ROOT files and one small JSON file to a trained model, on an HTCondor pool.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
requests.add_to(app)
inspecting.add_to(app)
runs.add_to(app)
serve.add_to(app)
app.add_typer(pool.app, name="pool")
renewing.add_to(proxy.app)
app.add_typer(proxy.app, name="proxy")


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"mlaas-condor {version('mlaas-condor')}")
        raise typer.Exit


@app.callback()
def common(
    context: typer.Context,
    home: Annotated[
        str | None, typer.Option(help="Folder of runs, specs, chunks and the personal pool.")
    ] = None,
    use_pool: Annotated[str | None, typer.Option("--pool", help="auto, personal or site.")] = None,
    to_server: Annotated[
        str | None,
        typer.Option(
            "--server", metavar="URL", help="Talk to this service; or the name of a profile, or local."
        ),
    ] = None,
    token_file: Annotated[
        str | None, typer.Option(metavar="FILE", help="File with the token for the service.")
    ] = None,
    owner: Annotated[
        str | None, typer.Option(metavar="NAME", help="Whose runs there; yours by default.")
    ] = None,
    _version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Take the options that all commands have."""
    options = Options(home=home, pool=use_pool, server=to_server, token_file=token_file, owner=owner)
    remember(context, options)


@app.command("settings")
def show_settings(context: typer.Context, as_json: AsJson = False) -> None:
    """Show the settings, and where each value comes from."""
    from dataclasses import asdict

    found = asdict(settings(context))
    origins = found.pop("origins")
    found.pop("owner")  # only a service has one
    profile = server(context)
    found["server"], origins["server"] = (profile.url, profile.origin) if profile else ("local", "default")
    if as_json:
        print_json({name: {"value": value, "origin": origins[name]} for name, value in found.items()})
        return
    for name, value in found.items():
        console().print(f"{name:<12} {value}  ({origins[name]})")


def run() -> None:
    """Run the command line; an error of ours becomes its message and its exit code."""
    try:
        app()
    except MlaasError as error:
        show_error(error)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    run()
