"""Files of models and trainings: there whole, or not at all."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from mlaas_condor.training import faults


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give the path to write to, in the same folder; what is there in the end becomes the file.

    Parameters
    ----------
    path
        The file; where the writing fails, it stays as it was.

    Raises
    ------
    StorageFull
        No space is left.
    """
    part = path.with_name(path.name + ".part")
    with faults.of_writing(path):
        yield part
        part.replace(path)
