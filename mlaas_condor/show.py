"""A run's state for people: a table in a terminal or a notebook, a sentence, JSON."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from html import escape
from typing import TYPE_CHECKING

from mlaas_condor.state import RunState, StageState

if TYPE_CHECKING:
    from rich.console import RenderableType

COLOURS = {
    "done": "green", "reused": "green", "completed": "green", "running": "cyan", "idle": "yellow",
    "held": "magenta", "failed": "red", "cancelled": "red", "waiting": "dim", "prepared": "dim",
}  # fmt: skip


def duration(seconds: float | None) -> str:
    """Return seconds as ``42 s``, ``3:07`` or ``1:02:03``."""
    if seconds is None:
        return ""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    hours, rest = divmod(whole, 3600)
    minutes, left = divmod(rest, 60)
    return f"{hours}:{minutes:02d}:{left:02d}" if hours else f"{minutes}:{left:02d}"


def size(mib: float) -> str:
    """Return MiB as ``512 MB`` or ``1.5 GB``, as submit files write them."""
    return f"{mib:.0f} MB" if mib < 1024 else f"{mib / 1024:.1f} GB"


def _detail(state: RunState, stage: StageState) -> str:
    """Return what is worth saying of a stage beside its counts."""
    if stage.stage == "train" and state.training and stage.running:
        return str(state.training)
    parts = [(stage.running, "running"), (stage.idle, "idle"), (stage.held, "held"), (stage.failed, "failed")]
    return ", ".join(f"{number} {word}" for number, word in parts if number)


def _took(stage: StageState) -> str:
    if stage.started is None or stage.ended is None:
        return ""
    return duration(stage.ended - stage.started)


def rows(state: RunState) -> list[tuple[str, str, str, str, str]]:
    """Return (stage, state, done of tasks, detail, time) for every stage."""
    return [
        (stage.stage, stage.word, f"{stage.done}/{stage.tasks}", _detail(state, stage), _took(stage))
        for stage in state.stages
    ]


def table(state: RunState) -> RenderableType:
    """Return the stages of a run, what it waits for and what failed, to be printed with rich."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    head = Text.assemble((state.name, "bold"), "  ", (state.state, COLOURS[state.state]))
    if state.elapsed is not None:
        head.append(f"  {duration(state.elapsed)}")
    if state.where == "local":
        head.append("  without HTCondor", "dim")
    # The last column takes what is left of the line, and is cut where that is too little.
    grid = Table(box=None, pad_edge=False, header_style="dim", expand=True)
    grid.add_column("stage", no_wrap=True)
    grid.add_column("state", no_wrap=True)
    grid.add_column("done", no_wrap=True, justify="right")
    grid.add_column("time", no_wrap=True, justify="right")
    grid.add_column("", no_wrap=True, overflow="ellipsis", ratio=1)
    for stage, word, done, detail, took in rows(state):
        grid.add_row(stage, Text(word, COLOURS[word]), done, took, detail)
    lines: list[RenderableType] = [head, grid]
    if state.unreachable:
        lines.append(Text(f"as last heard: {state.unreachable}", "yellow"))
    lines += [Text(f"waits: {text}", "yellow") for text in state.waiting]
    for failure in state.failures:
        lines.append(Text(f"{failure.stage} task {failure.task}: {failure.reason}", "red"))
        lines.append(Text(f"  → {failure.advice}"))
    lines += [Text(f"note: {text}", "yellow") for text in state.notes]
    if state.bundle:
        lines.append(Text(f"model: {state.bundle}"))
    return Group(*lines)


def html(state: RunState) -> str:
    """Return the stages as an HTML table, for notebooks."""
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows(state)
    )  # fmt: skip
    failures = [f"{each.stage} task {each.task}: {each.reason} → {each.advice}" for each in state.failures]
    notes = [*state.waiting, *failures, *state.notes, *([f"model: {state.bundle}"] if state.bundle else [])]
    below = "".join(f"<p>{escape(note)}</p>" for note in notes)
    return (
        f"<p><b>{escape(state.name)}</b> {state.state} {duration(state.elapsed)}</p>"
        "<table><tr><th>stage</th><th>state</th><th>done</th><th></th><th>time</th></tr>"
        f"{body}</table>{below}"
    )


def failure(state: RunState) -> str:
    """Return why a run has no model, in words."""
    reasons = [f"{each.stage} task {each.task}: {each.reason}\n→ {each.advice}" for each in state.failures]
    return "\n".join([f"{state.name} is {state.state}", *reasons, *state.waiting])


def line(state: RunState) -> str:
    """Return the state in a line, for logs and other places that cannot be redrawn."""
    stages = ", ".join(
        f"{stage.stage} {stage.done}/{stage.tasks}" for stage in state.stages if stage.word != "waiting"
    )
    current = state.current
    detail = _detail(state, current) if current else ""
    held = [f"{each.stage} task {each.task}: {each.reason} → {each.advice}" for each in state.failures]
    notes = [text for text in (stages, detail, *held, *state.waiting, state.unreachable) if text]
    return f"{state.name} {state.state}: {'; '.join(notes) or 'nothing has started yet'}"


@contextmanager
def live(enabled: bool = True) -> Iterator[Callable[[RunState], None]]:
    """Show a state that changes: gives a function that takes the new one.

    A terminal or a notebook sees a table that is redrawn, anything else a line for every change.
    """
    if not enabled:
        yield lambda state: None
        return
    from rich.console import Console
    from rich.live import Live

    console = Console(highlight=False, markup=False)
    if console.is_terminal or console.is_jupyter:
        with Live(console=console, refresh_per_second=4) as display:
            yield lambda state: display.update(table(state))
        return
    said = ""

    def say(state: RunState) -> None:
        nonlocal said
        # Not a line an epoch: of a long training that would be thousands.
        quiet = replace(state, training=None)
        if line(quiet) != said:
            said = line(quiet)
            console.print(line(state), soft_wrap=True)

    yield say
