"""What is sent and fetched, with a bar that moves where there is a terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from .common import console, warn

if TYPE_CHECKING:
    from rich.progress import TaskID

    from mlaas_condor.places import Told


@contextmanager
def bars() -> Iterator[Callable[[str, int, int], None]]:
    """Give a function that takes what is done, how many bytes of it are, and how many there are in all."""
    out = console(stderr=True)
    if not out.is_terminal:
        yield lambda *_: None
        return
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn
    from rich.progress import TransferSpeedColumn as Speed

    columns = (TextColumn("{task.description:<10}"), BarColumn(), DownloadColumn(), Speed())
    known: dict[str, TaskID] = {}
    # Gone when it is over: what comes of it says more.
    with Progress(*columns, TimeRemainingColumn(), console=out, transient=True) as progress:

        def update(step: str, done: int, total: int) -> None:
            if step not in known:
                known[step] = progress.add_task(step, total=total)
            progress.update(known[step], completed=done, total=total)

        yield update


@contextmanager
def telling() -> Iterator[Told]:
    """Give what a place of runs is to tell: warnings, and how much is sent."""
    from mlaas_condor.places import Told

    with bars() as update:
        yield Told(warn, update)
