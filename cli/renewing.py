"""Commands that keep credentials alive: ``proxy renew`` and ``proxy delegate``."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from .common import AsJson, console, here_only, print_json, server, settings, show_error
from .entry import INTERRUPTED

if TYPE_CHECKING:
    from mlaas_condor.renewing import Outcome

Once = Callable[[list[str] | None, bool], "list[Outcome]"]


def add_to(app: typer.Typer) -> None:
    """Add the commands."""
    app.command()(renew)
    app.command()(delegate)


def renew(
    context: typer.Context,
    runs: Annotated[list[str] | None, typer.Argument(metavar="RUN", help="Names of runs.")] = None,
    every_run: Annotated[bool, typer.Option("--all", help="All that are alive and use a proxy.")] = False,
    hours: Annotated[float, typer.Option(min=0.1, help="How long a fresh proxy should last.")] = 12.0,
    below: Annotated[
        float | None, typer.Option(min=0.0, help="Renew what lasts less hours; else less than half its life.")
    ] = None,
    now: Annotated[
        bool, typer.Option("--now", help="Whether due or not, and though the source failed just before.")
    ] = False,
    loop: Annotated[bool, typer.Option("--loop", help="Again and again, while a named run lives.")] = False,
    every: Annotated[float, typer.Option(min=0.1, help="Minutes between two rounds of --loop.")] = 10.0,
    as_json: AsJson = False,
) -> None:
    """Renew the proxies of runs where that is due, and release the jobs that wait for it.

    Says nothing where there is nothing to do: made for cron. Ends with 29 where something failed.
    """
    from mlaas_condor import renewing
    from mlaas_condor.errors import CredentialFault

    here_only(context, "proxy renew", "renews the proxies of runs of this machine")
    if bool(runs) == every_run:
        raise typer.BadParameter("name runs, or give --all", param_hint="RUN")
    # An ordinary end, so that no half-made proxy is left behind.
    signal.signal(signal.SIGTERM, _end)
    options = settings(context)
    say = _say_aside if as_json else _say

    def once(names: list[str] | None, at_once: bool) -> list[Outcome]:
        found = renewing.renew(names, options, hours, below, at_once, say, leave_out=loop)
        _show(found, bool(names), as_json)
        return found

    outcomes = _again_and_again(once, runs or None, now, 60 * every) if loop else once(runs or None, now)
    if any(outcome.error for outcome in outcomes):
        raise typer.Exit(CredentialFault.exit_code)


def _again_and_again(once: Once, names: list[str] | None, now: bool, wait: float) -> list[Outcome]:
    """Renew until none of the named runs is left; return what was done last for each of them.

    What can pass does not end it, in the first round neither: the pool may start after it.
    """
    from mlaas_condor.errors import MlaasError, RequestError, RunNotFound, WrongState
    from mlaas_condor.grid.renewal import WrongSetting

    wrong = (RequestError, WrongSetting, RunNotFound, WrongState)
    last: dict[str, Outcome] = {}
    begun = False
    try:
        while True:
            try:
                outcomes = once(names, now)
            except MlaasError as error:
                if not begun and isinstance(error, wrong):
                    raise
                if isinstance(error, RunNotFound | WrongState):  # the last one is over
                    typer.echo(str(error), err=True)
                    return list(last.values())
                show_error(error)
            else:
                begun, now = True, False
                last |= {each.run: each for each in outcomes}
                # Those left out are over: to say so once is enough.
                names = names and [each.run for each in outcomes]
            time.sleep(wait)
    except KeyboardInterrupt:
        raise typer.Exit(INTERRUPTED) from None


def _end(_number: int, _frame: Any) -> NoReturn:
    sys.exit(128 + signal.SIGTERM)


def _say(line: str) -> None:
    typer.echo(line)


def _say_aside(line: str) -> None:
    # On stderr, so that stdout is JSON only.
    typer.echo(line, err=True)


def _show(outcomes: list[Outcome], by_name: bool, as_json: bool) -> None:
    if as_json:
        print_json([outcome.to_dict() for outcome in outcomes])
        return
    for outcome in outcomes:
        if outcome.error:
            typer.echo(f"error: {outcome.run}: {outcome.error}", err=True)
        elif by_name and not (outcome.renewed or outcome.released):
            typer.echo(str(outcome))


def delegate(
    context: typer.Context,
    to: Annotated[
        str | None,
        typer.Option(
            "--server", metavar="URL", help="The service, or its profile; else that of the other commands."
        ),
    ] = None,
    hours: Annotated[float, typer.Option(min=0.1, help="How long the service may use it.")] = 12.0,
    proxy: Annotated[
        str, typer.Option(metavar="FILE", help="Proxy to delegate, if not the one in use.")
    ] = "",
    token_file: Annotated[
        str | None, typer.Option(metavar="FILE", help="File with the token for the service.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Let a service act for you for some hours; no private key travels."""
    from mlaas_condor.errors import CredentialFault, Problem
    from mlaas_condor.grid import delegating
    from mlaas_condor.grid import proxy as proxies
    from mlaas_condor.grid.renewal import WrongSetting
    from mlaas_condor.grid.times import moment

    profile = server(context, to, token_file)
    if profile is None:
        raise WrongSetting([Problem("--server", "names no service to delegate to", "give its address")])
    found = proxies.find(proxy)
    if found is None:
        raise CredentialFault(f"there is no proxy to delegate; make one: {proxies.how_to_renew()}")
    done = delegating.delegate(profile.url, found, hours * 3600, profile.token())
    if as_json:
        print_json({"server": done.server, "identity": done.identity, "ends": done.ends})
        return
    console().print(
        f"{done.server} may act for {done.identity} until {moment(done.ends)}; the key of this "
        "proxy stayed here"
    )
