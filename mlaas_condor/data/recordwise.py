"""The user's Python file with ``def preprocessing(rec)``, applied to each record of a table.

``rec`` is one record as a dict, as it is nested in the file; the function returns the record, changed: new
numbers are new branches, those it deletes are gone. It cannot drop an event, as entry ranges are planned
before it runs.

As a program, ``python -m mlaas_condor.data.recordwise FILE`` reads ``{"records": […]}`` from stdin and writes
it, as the function leaves it, or ``{"fault": "…"}``, to stdout. So the first records are handled in a process
of their own, which may crash or never end.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlaas_condor import usercode
from mlaas_condor.errors import InputUnreadable, ModelFault

if TYPE_CHECKING:
    from mlaas_condor.data.events import Column
    from mlaas_condor.data.source import Index
    from mlaas_condor.data.tables.table import Record, Table

FUNCTION = "preprocessing"
SAMPLE = 100
"""Records whose values, as the function leaves them, tell the branches and their types."""

SECONDS = 60
MODULE_NAME = "mlaas_condor_user_preprocessing"
_ENVIRONMENT = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "LD_LIBRARY_PATH", "PYTHONPATH", "VIRTUAL_ENV")

Function = Callable[[dict[str, Any]], Any]


def load(path: str | Path) -> Function:
    """Run the user's file and return its function ``preprocessing``.

    Raises
    ------
    ModelFault
        The file cannot be read, fails, or has no such function; the message gives the line.
    """
    path = Path(path)
    try:
        module = usercode.run(path, MODULE_NAME)
    except OSError as error:
        if not traceback.extract_tb(error.__traceback__, -1)[0].filename == str(path):
            raise ModelFault(f"{path}: cannot be read: {error.strerror or error}") from error
        raise _fault(path, error) from error
    except (Exception, SystemExit) as error:
        raise _fault(path, error) from error
    function = getattr(module, FUNCTION, None)
    if not callable(function):
        there = ", ".join(sorted(k for k, v in vars(module).items() if isinstance(v, type(load)))) or "none"
        raise ModelFault(f"{path.name}: no function `{FUNCTION}` (functions in the file: {there})")
    return function  # type: ignore[no-any-return]


def _fault(path: Path, error: BaseException, record: int | None = None) -> ModelFault:
    """Say where in the user's file, and at which record, an exception arose."""
    at = f" at record {record}" if record is not None else ""
    if isinstance(error, SyntaxError) and error.filename == str(path):
        code = f": {error.text.strip()}" if error.text and error.text.strip() else ""
        return ModelFault(f"{path.name}:{error.lineno or 1}: {error.msg}{code}")
    own = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
    where = f"{path.name}:{own[-1]}" if own else path.name
    if isinstance(error, SystemExit):
        return ModelFault(f"{where}: ends the program{at}, with exit({error.code!r})")
    text = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    return ModelFault(f"{where}: {type(error).__name__}{at}: {text}".rstrip(": "))


def apply(function: Function, path: str | Path, records: Sequence[Record], first: int = 0) -> list[Record]:
    """Apply the user's function to records.

    Parameters
    ----------
    function, path
        As of `load`.
    records
        Records, which the function may change.
    first
        Number of the first of them, for messages.

    Raises
    ------
    ModelFault
        The function fails, or returns something else than a record.
    """
    path = Path(path)
    results: list[Record] = []
    for number, record in enumerate(records, first):
        try:
            result = function(record)
        except MemoryError:
            raise
        except (Exception, SystemExit) as error:
            raise _fault(path, error, number) from error
        if not isinstance(result, Mapping):
            hint = "; an event cannot be dropped here" if result is None else ""
            raise ModelFault(
                f"{path.name}: {FUNCTION} returns {type(result).__name__} at record {number}: "
                f"it must return the record{hint}"
            )
        results.append(dict(result))
    return results


def try_out(path: str | Path, records: Sequence[Record], seconds: float = SECONDS) -> list[Record]:
    """Apply the user's function to records in a process of its own, which may crash or never end.

    Raises
    ------
    ModelFault
        As `load` and `apply`; also where the process crashes, or does not end in time.
    """
    path = Path(path)
    # The user's code gets neither modules of the current folder nor whatever secrets the environment holds.
    command = [sys.executable, "-P", "-m", "mlaas_condor.data.recordwise", str(path)]
    child = subprocess.Popen(
        command,
        env={name: os.environ[name] for name in _ENVIRONMENT if name in os.environ},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        out, err = child.communicate(json.dumps({"records": list(records)}), timeout=seconds)
    except subprocess.TimeoutExpired:
        raise ModelFault(
            f"{path.name}: {FUNCTION} does not come back within {seconds:g} s for {len(records)} records"
        ) from None
    finally:
        # It may have started others, which hold its pipes.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        child.communicate()
    return _answer(path, out, err, child.returncode)


def _answer(path: Path, out: str, err: str, code: int) -> list[Record]:
    try:
        answer = json.loads(out)
    except ValueError:
        last = next((line.strip() for line in reversed(err.splitlines()) if line.strip()), "")
        how = f"crashes ({signal.Signals(-code).name})" if code < 0 else f"ends its process (code {code})"
        raise ModelFault(f"{path.name}: {how} without returning{': ' + last if last else ''}") from None
    if "fault" in answer:
        raise ModelFault(str(answer["fault"]))
    records: list[Record] = answer["records"]
    return records


class Recordwise:
    """A table as the user's function leaves it, which is a `Source` itself; see there for the attributes.

    Parameters
    ----------
    table
        The table, closed with this.
    path
        The user's file.
    seconds
        How long the function may take for the first records.

    Raises
    ------
    InputUnreadable
        The first records cannot be read.
    ModelFault
        The function fails on the first records, or leaves nothing that is a number.
    """

    def __init__(self, table: Table, path: str | Path, seconds: float = SECONDS) -> None:
        from mlaas_condor.data.events import Jagged
        from mlaas_condor.data.tables import columns, inference

        self.path, self.uuid, self.size, self.content = table.path, table.uuid, table.size, table.content
        self.entries = table.entries
        self.index: Index = table.index
        self._table, self._file = table, Path(path)
        self._function: Function | None = None
        first = try_out(path, table.records(0, min(SAMPLE, table.entries)), seconds)
        self._schema = inference.schema_of(first)
        self._leaves, self.left_out = columns.survey(self._schema)
        self.branches = {name: leaf.branch for name, leaf in self._leaves.items()}
        if first and not self.branches:
            raise ModelFault(f"{self._file.name}: {FUNCTION} leaves no branch of numbers in {self.path}")
        leaves = [leaf for leaf in self._leaves.values() if leaf.branch.kind == "jagged"]
        found = inference.to_table(first, columns.prune(self._schema, leaves)) if leaves else None
        made = {leaf.branch.name: columns.column(found, leaf, 0) for leaf in leaves}
        #: Lengths of the first lists of each jagged branch.
        self.lengths = {name: column.counts for name, column in made.items() if isinstance(column, Jagged)}

    def read(self, names: Iterable[str], start: int, stop: int) -> dict[str, Column]:
        """Read entries ``start`` to ``stop`` (excluded) of the named branches, as the function leaves them.

        Raises
        ------
        InputUnreadable
            A branch is missing, or the data is damaged.
        ModelFault
            The function fails, or leaves a value of another type than in the first records.
        """
        from mlaas_condor.data.tables import columns, inference

        names = list(names)
        for name in names:
            if name not in self._leaves:
                reason = self.left_out.get(name, f"is not there after {FUNCTION}")
                raise InputUnreadable(f"{self.path}: branch {name!r} {reason}")
        if not names:
            return {}
        leaves = [self._leaves[name] for name in names]
        if self._function is None:
            self._function = load(self._file)
        start = min(max(start, 0), self.entries)
        results = apply(self._function, self._file, self._table.records(start, stop), start)
        try:
            found = inference.to_table(results, columns.prune(self._schema, leaves))
            return {leaf.branch.name: columns.column(found, leaf, start) for leaf in leaves}
        except inference.Contradiction as error:
            raise ModelFault(f"{self._file.name}: at record {start + error.record}, {error.what}") from None
        except ValueError as error:
            raise ModelFault(f"{self._file.name}: records {start} to {stop}: {error}") from error

    def ahead(self, names: Iterable[str], start: int, stop: int) -> None:
        """Do nothing, as the file itself."""

    def boundaries(self, names: Iterable[str]) -> Sequence[int]:
        """Return the boundaries of the table: its records are read whole, whatever the names."""
        return self._table.boundaries(self._table.branches)

    def close(self) -> None:
        """Close the table."""
        self._table.close()


def _plain(value: Any) -> Any:
    """Return NumPy's values, and others that JSON does not know, as it does."""
    for convert in ("tolist", "isoformat"):
        if hasattr(value, convert):
            return getattr(value, convert)()
    return str(value)


def main(path: str) -> None:
    """Handle the records on stdin."""
    # What the user's file prints must not get between ours.
    stdout, sys.stdout = sys.stdout, sys.stderr
    records = json.load(sys.stdin)["records"]
    try:
        answer: dict[str, Any] = {"records": apply(load(path), path, records)}
    except ModelFault as fault:
        answer = {"fault": str(fault)}
    try:
        text = json.dumps(answer, default=_plain)
    except (TypeError, ValueError, RecursionError) as error:
        text = json.dumps({"fault": f"{Path(path).name}: {FUNCTION} returns what is no record: {error}"})
    stdout.write(text)


if __name__ == "__main__":
    main(sys.argv[1])
