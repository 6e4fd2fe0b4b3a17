"""What the stage programs share: arguments, output folder, marks, exit codes.

A stage program runs beside the files it needs and writes into ``output/<stage>/``. That folder exists
from its first moment on, so that also a job that fails brings its messages back.
"""

from __future__ import annotations

import errno
import logging
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

from mlaas_condor.errors import OutOfMemory, StageError, StorageFull
from mlaas_condor.run import unit_name

OUTPUT = Path("output")
log = logging.getLogger("mlaas_condor")


def main(stage: str, work: Callable[[list[str], Path], None]) -> None:
    """Run a stage program and exit with its documented code.

    Parameters
    ----------
    stage
        Name of the stage.
    work
        Gets the command-line arguments and the folder to write to.
    """
    output = OUTPUT / stage
    try:
        output.mkdir(parents=True, exist_ok=True)
        logging.basicConfig(
            stream=sys.stdout, level=logging.INFO, format="%(asctime)s %(message)s", force=True
        )
        work(sys.argv[1:], output)
    except (StageError, MemoryError, OSError) as error:
        raise SystemExit(_report(stage, error)) from None


def _report(stage: str, error: Exception) -> int:
    if isinstance(error, MemoryError):
        error = OutOfMemory("the job needs more memory than it was given: raise 'memory' in job.json")
    elif isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        error = StorageFull(f"no space left where the job writes: {error}; raise 'disk' in job.json")
    elif not isinstance(error, StageError):
        raise error
    sys.stdout.flush()
    print(f"{stage}: {error}", file=sys.stderr)  # noqa: T201 - the job's own standard error
    return error.exit_code


def mark(output: Path, unit: int, files: Iterable[Path]) -> None:
    """Say that a unit of output is complete: write ``NNNNN.ok`` with size and name of its files.

    Whoever finds the mark, and the files with these sizes, knows that all of it was brought back.
    """
    lines = [f"{path.stat().st_size} {path.relative_to(output).as_posix()}\n" for path in sorted(files)]
    (output / f"{unit_name(unit)}.ok").write_text("".join(lines))


def everything(output: Path) -> list[Path]:
    """Return all files under the output folder."""
    return [path for path in output.rglob("*") if path.is_file()]
