"""What the user's ``preprocessing(rec)`` leaves of a record, told by reading it: nothing of it is run.

A service must not run what strangers wrote. So the function is followed, statement by statement, with the
types of the first records instead of their values. What cannot be followed (a key that is computed, a record
given to another function) is refused with its line; then the file itself can say what the function leaves:
``BRANCHES = {"log": "flat", "pt2": "jagged"}``. A job finds out if it leaves anything else.
"""

from __future__ import annotations

import ast
import copy
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from mlaas_condor.data.events import Column, Jagged
from mlaas_condor.data.recordkinds import (
    NUMBER,
    NUMBERS,
    Constant,
    Record,
    Unforeseen,
    element,
    field,
    joined,
    kinds_in,
    value_of,
)  # fmt: skip
from mlaas_condor.data.recordvalues import Values
from mlaas_condor.data.recordwise import FUNCTION, SAMPLE
from mlaas_condor.data.tables import columns, inference
from mlaas_condor.errors import ModelFault

if TYPE_CHECKING:
    from mlaas_condor.data.tables.table import Table

DECLARED = "BRANCHES"
"""Name in the user's file of a dict with all branches that the function leaves: flat or jagged."""

_MOST_TURNS = 1000


def foresee(path: Path, schema: pa.Schema) -> pa.Schema:
    """Return the schema of records as the function will leave them.

    Parameters
    ----------
    path
        The user's file.
    schema
        Of the records as they are.

    Raises
    ------
    ModelFault
        The file cannot be parsed, has no such function, or it does what only running it would tell.
    """
    try:
        tree = ast.parse(path.read_bytes(), filename=path.name)
    except OSError as error:
        raise ModelFault(f"{path.name}: cannot be read: {error.strerror}") from error
    except SyntaxError as error:
        raise ModelFault(f"{path.name}:{error.lineno or 1}: {error.msg}") from error
    except (ValueError, RecursionError) as error:
        raise ModelFault(f"{path.name}: is not a Python file: {error}") from error
    functions = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}
    if FUNCTION not in functions:
        there = ", ".join(sorted(functions)) or "none"
        raise ModelFault(f"{path.name}: no function `{FUNCTION}` (functions in the file: {there})")
    constants = _constants(tree)
    if DECLARED in constants:
        return _declared(path, constants[DECLARED].value)
    try:
        left = _Follower(constants).follow(functions[FUNCTION], value_of(pa.struct(list(schema))))
        return pa.schema([field(name, each) for name, each in left.fields.items()])
    except (Unforeseen, RecursionError) as error:
        line = error.line if isinstance(error, Unforeseen) else functions[FUNCTION].lineno
        raise ModelFault(
            f"{path.name}:{line}: {error}: this service does not run your files to see what comes out; say "
            f'which branches {FUNCTION} leaves, all of them: {DECLARED} = {{"x": "flat", "pt": "jagged"}}'
        ) from None


def _constants(tree: ast.Module) -> dict[str, Constant]:
    """Return what the file gives a name and writes out."""
    found: dict[str, Constant] = {}
    for node in tree.body:
        if isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.targets[0], ast.Name):
            try:
                found[node.targets[0].id] = Constant(ast.literal_eval(node.value))
            except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
                found.pop(node.targets[0].id, None)
    return found


def _declared(path: Path, value: Any) -> pa.Schema:
    kinds = {"flat": NUMBER, "jagged": NUMBERS}
    good = isinstance(value, dict) and value and all(isinstance(name, str) for name in value)
    if not good or not all(each in kinds for each in value.values()):
        raise ModelFault(f'{path.name}: {DECLARED} is no dict of branches, each "flat" or "jagged"')
    return pa.schema([pa.field(name, kinds[each]) for name, each in value.items()])


class Foreseen:
    """A table as the function will leave it, to be looked at: what `Recordwise` is once the function may run.

    Parameters
    ----------
    table
        The table, closed with this.
    path
        The user's file.

    Raises
    ------
    InputUnreadable
        The first records cannot be read.
    ModelFault
        As `foresee`; also where no branch of numbers is left.
    """

    def __init__(self, table: Table, path: Path) -> None:
        self.path, self.uuid, self.size, self.content = table.path, table.uuid, table.size, table.content
        self.entries, self.index = table.entries, table.index
        self._table = table
        first = table.records(0, min(SAMPLE, table.entries))
        before = inference.schema_of(first)
        after = foresee(path, before)
        leaves, self.left_out = columns.survey(after)
        self.branches = {name: leaf.branch for name, leaf in leaves.items()}
        if first and not self.branches:
            raise ModelFault(f"{path.name}: {FUNCTION} leaves no branch of numbers in {self.path}")
        #: Lengths of the first lists of each jagged branch that is there before.
        self.lengths = {
            name: column.counts
            for name, column in _columns(before, first).items()
            if name in self.branches and isinstance(column, Jagged)
        }

    def close(self) -> None:
        """Close the table."""
        self._table.close()


def _columns(schema: pa.Schema, records: Sequence[Mapping[str, Any]]) -> dict[str, Column]:
    leaves = [leaf for leaf in columns.survey(schema)[0].values() if leaf.branch.kind == "jagged"]
    table = inference.to_table(records, columns.prune(schema, leaves)) if leaves else None
    return {leaf.branch.name: columns.column(table, leaf) for leaf in leaves}


class _Follower(Values):
    """Goes through the function."""

    def __init__(self, constants: Mapping[str, Constant]) -> None:
        super().__init__(constants)
        self._returned: list[Any] = []

    def follow(self, function: ast.FunctionDef, record: Record) -> Record:
        arguments = [*function.args.posonlyargs, *function.args.args]
        if not arguments:
            raise Unforeseen(function, f"{FUNCTION} takes no record")
        self.names[arguments[0].arg] = record
        self._block(function.body)
        if not self._returned:
            raise Unforeseen(function, f"{FUNCTION} returns nothing")
        whole = self._returned[0]
        for each in self._returned[1:]:
            whole = joined(whole, each, {})
        if not isinstance(whole, Record):
            raise Unforeseen(function, f"what {FUNCTION} returns cannot be told")
        return whole

    def _block(self, statements: Sequence[ast.stmt]) -> bool:
        """Follow statements; tell whether what comes after them is reached."""
        return all(self._statement(each) for each in statements)

    def _statement(self, node: ast.stmt) -> bool:
        if isinstance(node, ast.Return):
            self._returned.append(self.value(node.value) if node.value else None)
            return False
        if isinstance(node, ast.Raise):
            return False
        if isinstance(node, ast.If):
            self.value(node.test)
            return self._either(lambda: self._block(node.body), lambda: self._block(node.orelse))
        if isinstance(node, ast.For):
            return self._loop(node)
        if isinstance(node, ast.While):
            self.value(node.test)
            return self._either(lambda: self._block(node.body), lambda: True)
        if isinstance(node, ast.With):
            return self._block(node.body)
        if isinstance(node, ast.Try):
            handlers = [lambda each=each: self._block(each.body) for each in node.handlers]
            went_on = self._either(lambda: self._block([*node.body, *node.orelse]), *handlers)
            return self._block(node.finalbody) and went_on
        self._simple(node)
        return True

    def _simple(self, node: ast.stmt) -> None:
        if isinstance(node, ast.Assign):
            value = self.value(node.value)
            for target in node.targets:
                self.assign(target, value)
        elif isinstance(node, ast.AnnAssign) and node.value:
            self.assign(node.target, self.value(node.value))
        elif isinstance(node, ast.AugAssign):
            before = copy.copy(node.target)
            before.ctx = ast.Load()
            self.assign(node.target, self.operation(self.value(before), self.value(node.value)))
        elif isinstance(node, ast.Delete):
            for target in node.targets:
                self.delete(target)
        elif isinstance(node, ast.Expr):
            self.value(node.value)
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            self.closed_in(node)
            self.names[node.name] = None
        elif not isinstance(
            node, ast.Pass | ast.Import | ast.ImportFrom | ast.Assert | ast.Break | ast.Continue
        ):
            raise Unforeseen(node, "this cannot be followed")

    def _either(self, *ways: Callable[[], bool]) -> bool:
        """Follow each way from here, and go on with what all that come to their end have in common."""
        before, ends = self.names, []
        for way in ways:
            self.names = copy.deepcopy(before, {id(each): each for each in kinds_in(before)})
            if way():
                ends.append(self.names)
        if not ends:
            return False
        self.names = ends[0]
        for other in ends[1:]:
            seen: dict[tuple[int, int], Any] = {}
            names = {*self.names, *other}
            self.names = {
                name: joined(self.names[name], other[name], seen)
                if name in self.names and name in other
                else None
                for name in names
            }
        return True

    def _loop(self, node: ast.For) -> bool:
        over = self.value(node.iter)
        if isinstance(over, Constant) and isinstance(over.value, list | tuple | dict):
            for each in list(over.value)[:_MOST_TURNS]:
                self.assign(node.target, Constant(each))
                if not self._block(node.body):
                    return False
            return self._block(node.orelse)
        self.assign(node.target, element(over))
        return self._either(lambda: self._block(node.body), lambda: True)
