"""Expressions of the user's function, as `foreseen` follows it: what each gives, without computing any."""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from mlaas_condor.data.recordkinds import (
    NUMBER,
    NUMBERS,
    TEXT,
    Constant,
    Record,
    Unforeseen,
    element,
    grown,
    holds_records,
    is_list,
    is_text,
    joined,
    known,
    type_of,
)  # fmt: skip

# Of builtins, methods, and functions of math and NumPy.
_TO_NUMBER = {
    "float", "int", "len", "bool", "round", "sum", "min", "max", "any", "all", "mean", "std", "var", "median",
    "prod", "dot", "count", "index", "find", "argmax", "argmin", "isinstance", "ord", "fsum", "hypot", "dist",
}  # fmt: skip
_TO_LIST = {"list", "sorted", "tuple", "reversed", "tolist", "range", "set"}
_TO_TEXT = {
    "str", "repr", "format", "strip", "lower", "upper", "replace", "join", "lstrip", "rstrip", "title"
}  # fmt: skip
_HARMLESS = {"len", "print", "isinstance", "sorted", "list", "tuple", "reversed", "enumerate", "zip", "sum"}
_HIDDEN = {"exec", "eval", "globals", "locals", "vars", "setattr", "delattr"}


class Values:
    """What each name stands for, and what expressions of them give.

    Parameters
    ----------
    names
        What the file gives a name and writes out.
    """

    def __init__(self, names: Mapping[str, Constant]) -> None:
        self.names: dict[str, Any] = dict(names)

    def assign(self, target: ast.expr, value: Any) -> None:
        """Let a name, or a place in a record, stand for a value."""
        if isinstance(target, ast.Name):
            self.names[target.id] = value
        elif isinstance(target, ast.Subscript):
            record = self.value(target.value)
            if isinstance(record, Record):
                self._changeable(target, record)[self._key(target.slice)] = value
            elif holds_records(value):
                raise Unforeseen(target, "where the record is kept cannot be told")
        elif isinstance(target, ast.Tuple | ast.List):
            written = isinstance(value, Constant) and isinstance(value.value, list | tuple)
            whole = written and len(value.value) == len(target.elts)
            for i, each in enumerate(target.elts):
                self.assign(each, Constant(value.value[i]) if whole else element(value))
        elif holds_records(value):
            raise Unforeseen(target, "where the record is kept cannot be told")

    def delete(self, target: ast.expr) -> None:
        """Take a name, or a place in a record, away."""
        if isinstance(target, ast.Subscript):
            record = self.value(target.value)
            if isinstance(record, Record):
                self._changeable(target, record).pop(self._key(target.slice), None)
        elif isinstance(target, ast.Name):
            self.names.pop(target.id, None)

    @staticmethod
    def _changeable(node: ast.AST, record: Record) -> dict[str, Any]:
        if record.element:
            raise Unforeseen(node, "records in a list are changed here, which is not followed")
        return record.fields

    def _key(self, node: ast.expr) -> str:
        key = self.value(node)
        if isinstance(key, Constant) and isinstance(key.value, str):
            return key.value
        raise Unforeseen(node, "which key of the record is meant cannot be told")

    def value(self, node: ast.expr) -> Any:
        """Return what an expression gives; None where that is not known."""
        if isinstance(node, ast.Constant):
            return Constant(node.value)
        if isinstance(node, ast.Name):
            return self.names.get(node.id)
        if isinstance(node, ast.NamedExpr):
            self.assign(node.target, value := self.value(node.value))
            return value
        if isinstance(node, ast.JoinedStr | ast.FormattedValue):
            return self._text(node)
        if isinstance(node, ast.List | ast.Tuple):
            return self._list(node)
        if isinstance(node, ast.Dict):
            return self._dict(node)
        if isinstance(node, ast.ListComp | ast.GeneratorExp | ast.SetComp):
            return self._comprehension(node)
        if isinstance(node, ast.Subscript):
            return self._item(node)
        if isinstance(node, ast.Call):
            return self._call(node)
        if isinstance(node, ast.Lambda):
            self.closed_in(node)
        return self._of_parts(node)

    def _of_parts(self, node: ast.expr) -> Any:
        parts = [self.value(each) for each in ast.iter_child_nodes(node) if isinstance(each, ast.expr)]
        if isinstance(node, ast.Compare) or (isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not)):
            return NUMBER
        if isinstance(node, ast.BinOp | ast.UnaryOp):
            return self.operation(*parts)
        if isinstance(node, ast.BoolOp | ast.IfExp):
            ways = parts[1:] if isinstance(node, ast.IfExp) else parts
            told = [each for each in ways if each is not None]
            whole = told[0] if told else None
            for each in told[1:]:
                whole = joined(whole, each, {})
            return whole
        return None

    @staticmethod
    def operation(*parts: Any) -> Any:
        """Return what a sum, product, … of these is."""
        if any(isinstance(each, Record) for each in parts):
            return None
        if all(isinstance(each, Constant) and isinstance(each.value, str) for each in parts):
            return Constant("".join(each.value for each in parts))
        if any(map(is_text, parts)):
            return TEXT
        lists = [each for each in parts if is_list(each)]
        return type_of(lists[0]) if lists else NUMBER

    def _text(self, node: ast.expr) -> Any:
        if isinstance(node, ast.FormattedValue):
            return self.value(node.value) if node.format_spec is None else None
        parts = [self.value(each) for each in getattr(node, "values", ())]
        if all(isinstance(each, Constant) for each in parts):
            return Constant("".join(str(each.value) for each in parts))
        return TEXT

    def _list(self, node: ast.List | ast.Tuple) -> Any:
        parts = [self.value(each) for each in node.elts]
        if all(isinstance(each, Constant) for each in parts):
            return Constant([each.value for each in parts])
        kinds = [type_of(each) for each in parts if each is not None]
        return pa.list_(kinds[0]) if kinds else None

    def _dict(self, node: ast.Dict) -> Any:
        made = Record({})
        for key, value in zip(node.keys, node.values, strict=True):
            inner = self.value(value)
            if key is not None:
                made.fields[self._key(key)] = inner
            elif isinstance(inner, Record):
                made.fields.update(inner.fields)
            else:
                raise Unforeseen(node, "what is unpacked here cannot be told")
        return made

    def _comprehension(self, node: ast.ListComp | ast.GeneratorExp | ast.SetComp) -> Any:
        before = dict(self.names)
        for each in node.generators:
            self.assign(each.target, element(self.value(each.iter)))
        inner = self.value(node.elt)
        self.names = before
        return pa.list_(NUMBER if inner is None else type_of(inner))

    def _item(self, node: ast.Subscript) -> Any:
        value = self.value(node.value)
        if isinstance(value, Record):
            key = self._key(node.slice)
            if key not in value.fields:
                raise Unforeseen(node, f"the first records have no {key!r}")
            return value.fields[key]
        if isinstance(node.slice, ast.Slice):
            return value
        self.value(node.slice)
        return TEXT if is_text(value) else element(value)

    def _call(self, node: ast.Call) -> Any:
        name = getattr(node.func, "attr", getattr(node.func, "id", ""))
        given = [self.value(each) for each in node.args]
        named = {each.arg: self.value(each.value) for each in node.keywords}
        owner = self.value(node.func.value if isinstance(node.func, ast.Attribute) else node.func)
        if isinstance(owner, Record):
            return self._method(node, owner, name, given, named)
        if name in ("dict", "copy", "deepcopy") and all(isinstance(each, Record) for each in given):
            return Record({key: v for each in given for key, v in each.fields.items()} | known(named))
        escapes = any(map(holds_records, (*given, *named.values()))) and name not in _HARMLESS
        if escapes or name in _HIDDEN:
            raise Unforeseen(node, f"what {name or 'the function'} does to the record cannot be told")
        if name in ("append", "extend") and isinstance(node.func, ast.Attribute) and given:
            self.assign(node.func.value, grown(owner, given[0], whole=name == "extend"))
            return Constant(None)
        if name == "split":
            return pa.list_(TEXT)
        if name in _TO_LIST:
            return pa.list_(type_of(element(given[0]) or NUMBER)) if given else NUMBERS
        if name in _TO_TEXT:
            return TEXT
        if name in _TO_NUMBER:
            return NUMBER
        # Of what is not known here: most functions give of numbers a number, and of a list a list.
        told = [each for each in (owner, *given, *named.values()) if each is not None]
        if any(map(is_list, told)):
            return NUMBERS if isinstance(node.func, ast.Attribute) or name == "abs" else None
        return NUMBER

    def _method(
        self,
        node: ast.Call,
        record: Record,
        name: str,
        given: Sequence[Any],
        named: Mapping[str | None, Any],
    ) -> Any:
        if name in ("pop", "setdefault", "update"):
            self._changeable(node, record)
        if name in ("get", "pop", "setdefault"):
            key = self._key(node.args[0]) if node.args else ""
            default = given[1] if len(given) > 1 else Constant(None)
            found = record.fields.pop(key, default) if name == "pop" else record.fields.get(key, default)
            if name == "setdefault":
                record.fields.setdefault(key, found)
            return found
        if name == "update":
            for each in given:
                if not isinstance(each, Record):
                    raise Unforeseen(node, "with what the record is updated cannot be told")
                record.fields.update(each.fields)
            record.fields.update(known(named))
            return Constant(None)
        if name == "copy":
            return Record(record.fields)
        if name in ("clear", "popitem"):
            raise Unforeseen(node, f"what {name} leaves cannot be told")
        return None

    def closed_in(self, node: ast.AST) -> None:
        """Refuse a function in the function that can reach the record."""
        for each in ast.walk(node):
            if isinstance(each, ast.Name) and holds_records(self.names.get(each.id)):
                raise Unforeseen(each, f"what is done here to {each.id!r} cannot be told")
