"""``mlaas-condor inspect``: what is in a file, before there is a request."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from .common import AsJson, console, here_only, print_json, print_table

if TYPE_CHECKING:
    from mlaas_condor.inspection import Inspection


def add_to(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(inspect)


def inspect(
    context: typer.Context,
    files: Annotated[
        list[str],
        typer.Argument(metavar="FILE...", help="Paths, URLs or globs; file.root:tree names a tree."),
    ],
    tree: Annotated[
        str, typer.Option(help="The tree to look into; without, the one with the most entries.")
    ] = "",
    branches: Annotated[
        list[str] | None, typer.Option(metavar="PATTERNS", help="Only these branches, such as 'jet*,met'.")
    ] = None,
    entries: Annotated[int, typer.Option(min=1, help="Look at so many entries of each file.")] = 10_000,
    everything: Annotated[bool, typer.Option("--all", help="Look at all entries.")] = False,
    each: Annotated[bool, typer.Option("--each", help="A table of branches for each file.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show what is in files: trees, branches, their ranges and histograms."""
    here_only(context, "inspect", "looks into files from this machine")
    from mlaas_condor import inspection

    patterns = [
        pattern.strip() for given in branches or () for pattern in given.split(",") if pattern.strip()
    ]
    with console(stderr=True).status("looking"):
        found = inspection.inspect(files, tree, None if everything else entries, patterns)
    if as_json:
        print_json(found.to_dict())
    else:
        _show(found, each, grouped=not patterns)
    _fail(found, patterns)


def _show(found: Inspection, each: bool, grouped: bool) -> None:
    from rich.table import Table

    from mlaas_condor import show_files

    out = console()
    # What is no terminal is as wide as it needs to be.
    width = out.width if out.is_terminal or "COLUMNS" in os.environ else None
    for part in show_files.parts(found, width, each, grouped):
        if isinstance(part, Table):
            print_table(part)
        else:
            out.print(part)


def _fail(found: Inspection, patterns: list[str]) -> None:
    """Say what could not be shown, on standard error; the exit code is that of the first failure."""
    for pattern in found.unmatched:
        typer.echo(f"warning: --branches: {pattern!r} matches no branch", file=sys.stderr)
    for _, error in found.unreadable:
        typer.echo(f"error: {error}", file=sys.stderr)
    if found.unreadable:
        raise typer.Exit(found.unreadable[0][1].exit_code)
    if patterns and len(found.unmatched) == len(patterns):
        raise typer.Exit(2)
