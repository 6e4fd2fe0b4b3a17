"""What the stage programs share: arguments, output folder, marks, exit codes.

A stage program runs beside the files it needs and writes into ``output/<stage>/``. That folder exists
from its first moment on, so that also a job that fails brings its messages back.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from mlaas_condor.errors import CredentialFault, OutOfMemory, StageError, StorageFull
from mlaas_condor.grid import proxy, tokens
from mlaas_condor.grid.times import in_words
from mlaas_condor.grid.waiting import patience

OUTPUT = Path("output")
_PATIENCE = 600.0  # seconds, in which servers are started again; a job that waits is cheaper than one lost
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
        # Libraries that keep caches get a folder that is there; their own news is not the user's.
        os.environ.setdefault("MPLCONFIGDIR", str(Path(".matplotlib").absolute()))
        log.setLevel(logging.INFO)
        logging.basicConfig(
            stream=sys.stdout, level=logging.WARNING, format="%(asctime)s %(message)s", force=True
        )
        _be_ready_for_storage()
        work(sys.argv[1:], output)
    except (StageError, MemoryError, OSError) as error:
        _end(stage, _as_stage_error(error))


def _be_ready_for_storage() -> None:
    """Be patient with storage that is away for a while; find the token that the pool keeps for the job."""
    patience.seconds = _PATIENCE
    kept, service = os.environ.get("_CONDOR_CREDS"), os.environ.get(tokens.SERVICE)
    if kept and service:
        os.environ[tokens.FILE] = str(Path(kept) / f"{service}.use")
    given = os.environ.get(proxy.VARIABLE)
    if given:
        try:
            mine = proxy.read(Path(given))
        except CredentialFault as error:  # perhaps nothing here has a use for it
            log.info("%s", error)
        else:
            log.info("proxy of %s, level %d, %s left", mine.identity, mine.level, in_words(mine.seconds_left))


def _as_stage_error(error: Exception) -> StageError:
    if isinstance(error, StageError):
        return error
    if isinstance(error, MemoryError):
        return OutOfMemory("the job needs more memory than it was given")
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StorageFull(f"no space left where the job writes ({error})")
    raise error


def _end(stage: str, error: StageError) -> NoReturn:
    """Say what is wrong and leave with its exit code, even where nothing can be said any more."""
    with contextlib.suppress(OSError):
        print(f"{stage}: {error}", file=sys.stderr, flush=True)  # noqa: T201 - the job's own standard error
        sys.stdout.flush()
    # Not sys.exit: on a full disk the last flush fails too, and its exit code would hide ours.
    os._exit(error.exit_code)


def threads() -> int:
    """Return how many CPUs the job was given: HTCondor says so in this variable, as do others."""
    return max(1, int(os.environ.get("OMP_NUM_THREADS") or 1))


def everything(output: Path) -> list[Path]:
    """Return all files under the output folder."""
    return [path for path in output.rglob("*") if path.is_file()]
