"""Expressions of branches, as cuts and definitions of new branches are written.

``log(partonE)``, ``1 <= nJets <= 16``, ``jet.pt > 30 and abs(jet.eta) < 2.5``, ``sum(jetPt) / met``: Python's
grammar, of which only numbers, branches, operators and the functions of `mlaas_condor.data.functions` are
let through. Nothing is ever run as Python.

Arithmetic is done in float64, on whole columns. Where lists meet one number an event, that number holds for
each element of the list; where lists meet lists, they must be of the same length in every event.
"""

from __future__ import annotations

import ast
import re
import warnings
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from mlaas_condor.data.events import Column, Events, Jagged
from mlaas_condor.data.formula import (
    UNKNOWN,
    Branches,
    Constant,
    Elementwise,
    ExpressionError,
    OfList,
    Part,
    Read,
    ShapeError,
)
from mlaas_condor.data.functions import (
    COMPARISONS,
    CONSTANTS,
    FUNCTIONS,
    LENGTHS,
    LOGICAL,
    NAMES,
    OPERATORS,
    REDUCTIONS,
    SIGNS,
    arguments_of,
    chain,
    of_booleans,
    of_numbers,
)
from mlaas_condor.data.source import FLAT, JAGGED
from mlaas_condor.reading import nearest

__all__ = ["Expression", "ExpressionError", "ShapeError", "parse"]

LONGEST = 10_000  # characters
DEEPEST = 100  # levels; each takes up to three of the thousand frames that Python has


@dataclass(frozen=True)
class Expression:
    """An expression that can be evaluated.

    Parameters
    ----------
    text
        As it was written.
    branches
        Branches that it reads, at least one.
    boolean
        Whether it gives true or false whatever its branches hold, as a cut should.
    """

    text: str
    branches: frozenset[str]
    boolean: bool
    _tree: Part = field(repr=False, compare=False)

    def kind(self, kinds: Mapping[str, str]) -> Literal["flat", "jagged"]:
        """Return whether it gives one number or one list of numbers an event.

        Parameters
        ----------
        kinds
            ``flat`` or ``jagged`` for each of its branches.

        Raises
        ------
        ExpressionError
            It takes the sum, or the like, of what is not a list.
        """
        return "jagged" if self._tree.kind(kinds) == JAGGED else "flat"

    def evaluate(self, events: Events) -> Column:
        """Return its value for each event.

        Whatever has no value (a division by 0, the logarithm of a negative number) is infinite or NaN, and
        comparisons with NaN are false, ``!=`` true.

        Parameters
        ----------
        events
            Its branches and any others.

        Returns
        -------
        array of shape (events,) or Jagged, float64 or bool
            A plain branch is not copied where it is float64 or bool.

        Raises
        ------
        ExpressionError
            It takes the sum, or the like, of what is not a list.
        ShapeError
            Lists that it takes element by element are of different lengths.
        """
        self.kind({name: JAGGED if isinstance(events[name], Jagged) else FLAT for name in self.branches})
        with np.errstate(all="ignore"):
            return self._tree.value(Branches(events))


def parse(text: str, known: Collection[str]) -> Expression:
    """Read an expression.

    Parameters
    ----------
    text
        The expression.
    known
        Names of the branches there are. They go before constants of the same name; ``jet.pt`` is a branch
        only where it is among them.

    Raises
    ------
    ExpressionError
        It is not a valid expression, or names a branch or a function that there is not.
    """
    source = _checked(text)
    start = len(text) - len(text.lstrip(_SPACE))
    parser = _Parser(text, source, start, known)
    try:
        tree = parser.part(_read(source))
    except SyntaxError as error:
        # Python gives no place where something is missing at the end.
        position = start + min(error.offset - 1 if error.offset else len(source), len(source))
        message = f"cannot be understood: {(error.msg or 'invalid syntax').partition('. ')[0]}"
        raise ExpressionError(text, position, message) from None
    except (RecursionError, MemoryError):
        raise ExpressionError(text, start, "the expression is nested too deeply", _DIVIDE) from None
    if not parser.branches:
        raise ExpressionError(text, start, "the expression names no branch", nearest("", sorted(known)))
    tree.kind(dict.fromkeys(parser.branches, UNKNOWN))
    return Expression(text, frozenset(parser.branches), tree.boolean, tree)


def _read(source: str) -> ast.expr:
    """Return what Python's grammar makes of the text; nothing is compiled."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Python's advice on its own syntax
        try:
            return ast.parse(source, mode="eval").body
        except ValueError as error:
            raise SyntaxError(str(error)) from None


_SPACE = " \t\n\r\f\v"
_DIVIDE = "define branches for parts of it"

# What other languages write, and what Python has but we do not: none of it may occur anywhere in an
# expression, so it is found before Python gives a message that leads astray.
_MISTAKES = (
    (r"&&", "'&&' is not known here", "write and"),
    (r"\|\|", "'||' is not known here", "write or"),
    (r"!(?!=)", "'!' is not known here", "write not"),
    (r"\^", "'^' is not known here", "write ** for powers"),
    (r"<>", "'<>' is not known here", "write !="),
    (r"=<", "'=<' is not known here", "write <="),
    (r"=>", "'=>' is not known here", "write >="),
    (r":=|(?<![=<>!])=(?!=)", "nothing can be assigned in an expression", "write == to compare"),
    (r"['\"`]", "text has no place in an expression", "branches are written without quotes"),
    (r"\[", "'[' has no place in an expression", "first(x) is the first element of each list"),
    (r"\?", "'?' is not known here", "write where(condition, yes, no)"),
    (r"#", "comments have no place in an expression", ""),
    (r"\0", "the expression holds a null byte", ""),
    (r"[\ud800-\udfff]", "the expression holds half a character", ""),
    (r"\d{400}", "the number is too long", ""),
)
_MISTAKE = re.compile("|".join(f"({pattern})" for pattern, _, _ in _MISTAKES))


def _checked(text: str) -> str:
    """Return the text on one line and without space around it, as many characters as there were."""
    if len(text) > LONGEST:
        raise ExpressionError(text, LONGEST, f"the expression is longer than {LONGEST:,} characters", _DIVIDE)
    if found := _MISTAKE.search(text):
        _, message, hint = _MISTAKES[(found.lastindex or 1) - 1]
        raise ExpressionError(text, found.start(), message, hint)
    source = "".join(" " if each in _SPACE else each for each in text).strip(" ")
    if not source:
        raise ExpressionError(text, 0, "the expression is empty")
    return source


class _Parser:
    """Turns what Python's grammar made of an expression into parts; what is not listed is refused."""

    def __init__(self, text: str, source: str, start: int, known: Collection[str]) -> None:
        self._text = text
        self._start = start
        self._encoded = source.encode()
        self._known = frozenset(known)
        self._depth = 0
        self.branches: set[str] = set()

    def part(self, node: ast.expr) -> Part:
        """Return the part of the expression that this node stands for."""
        self._depth += 1
        if self._depth > DEEPEST:
            raise self._refusal(node, f"the expression is nested more than {DEEPEST} levels deep", _DIVIDE)
        match node:
            case ast.Constant():
                made: Part = self._constant(node)
            case ast.Name() | ast.Attribute():
                made = self._name(node)
            case ast.BinOp(op=ast.BitAnd() | ast.BitOr()):
                made = self._joined(node)
            case ast.BinOp() if type(node.op) in OPERATORS:
                call = of_numbers(OPERATORS[type(node.op)])
                made = self._elementwise(node, call, [node.left, node.right])
            case ast.UnaryOp(op=ast.Not() | ast.Invert()):
                made = self._turned(node)
            case ast.UnaryOp():
                made = self._elementwise(node, of_numbers(SIGNS[type(node.op)]), [node.operand])
            case ast.BoolOp():
                call = of_booleans(LOGICAL[type(node.op)])
                made = self._elementwise(node, call, node.values, boolean=True)
            case ast.Compare() if all(type(each) in COMPARISONS for each in node.ops):
                call = chain([COMPARISONS[type(each)] for each in node.ops])
                made = self._elementwise(node, call, [node.left, *node.comparators], boolean=True)
            case ast.Call():
                made = self._call(node)
            case ast.IfExp():
                raise self._refusal(
                    node, "'… if … else …' is not known here", "write where(condition, yes, no)"
                )
            case _:
                raise self._refusal(node, f"{_short(self._written(node))} is not allowed in an expression")
        self._depth -= 1
        return made

    def _place(self, offset: int | None) -> int:
        """Return the position that Python means: it counts bytes, from where the expression begins."""
        return self._start + len(self._encoded[:offset].decode())

    def _at(self, node: ast.expr | ast.keyword) -> int:
        return self._place(node.col_offset)

    def _written(self, node: ast.expr) -> str:
        return self._text[self._at(node) : self._place(node.end_col_offset)]

    def _refusal(self, node: ast.expr | ast.keyword, message: str, hint: str = "") -> ExpressionError:
        return ExpressionError(self._text, self._at(node), message, hint)

    def _elementwise(
        self,
        node: ast.expr,
        call: Callable[..., NDArray[Any]],
        arguments: Sequence[ast.expr],
        boolean: bool = False,
    ) -> Elementwise:
        parts = [self.part(each) for each in arguments]
        return Elementwise(self._written(node), self._at(node), boolean, call, parts)

    def _constant(self, node: ast.Constant) -> Part:
        written = self._written(node)
        if written in self._known:  # a branch of the name True
            return self._branch(node, written)
        if not isinstance(node.value, bool | int | float):
            raise self._refusal(node, f"{_short(written)} is not a number")
        try:
            value = node.value if isinstance(node.value, bool) else float(node.value)
        except OverflowError:
            value = np.inf
        if value == np.inf:
            raise self._refusal(
                node, f"{_short(written)} is too large for a number", "write inf for infinity"
            )
        return Constant(written, self._at(node), isinstance(value, bool), np.asarray(value))

    def _name(self, node: ast.Name | ast.Attribute) -> Part:
        # As it is written: Python would make one letter of several that look alike.
        name = "".join(self._written(node).split())
        if name in self._known:
            return self._branch(node, name)
        if name in CONSTANTS:
            return Constant(name, self._at(node), False, np.asarray(CONSTANTS[name]))
        plain = _bare(name)
        if plain in NAMES:
            raise self._refusal(node, f"{_short(name)} is a function", f"write {plain}(…)")
        hint = f"write {plain}" if plain in CONSTANTS else nearest(name[:80], sorted(self._known))
        raise self._refusal(node, f"there is no branch {_short(name)}", hint)

    def _branch(self, node: ast.expr, name: str) -> Part:
        self.branches.add(name)
        return Read(name, self._at(node), False, name)

    def _joined(self, node: ast.BinOp) -> Part:
        """Return ``a & b`` or ``a | b``, which bind stronger than comparisons: a trap without parentheses."""
        sign, word = ("&", "and") if isinstance(node.op, ast.BitAnd) else ("|", "or")
        made = self._elementwise(
            node, of_booleans(LOGICAL[type(node.op)]), [node.left, node.right], boolean=True
        )
        for each in made.arguments:
            if not each.boolean:
                message = f"{sign!r} joins comparisons, {_short(each.text)} is none"
                hint = f"put each comparison in parentheses, or write {word}"
                raise ExpressionError(self._text, each.position, message, hint)
        return made

    def _turned(self, node: ast.UnaryOp) -> Part:
        made = self._elementwise(node, of_booleans(np.logical_not), [node.operand], boolean=True)
        if isinstance(node.op, ast.Invert) and not made.arguments[0].boolean:
            message = f"'~' turns a comparison round, {_short(made.arguments[0].text)} is none"
            raise self._refusal(node, message, "write not, or put the comparison in parentheses")
        return made

    def _call(self, node: ast.Call) -> Part:
        if not isinstance(node.func, ast.Name | ast.Attribute):
            raise self._refusal(node, f"{_short(self._written(node.func))} is not a function")
        name = _bare("".join(self._written(node.func).split()))
        if name not in NAMES:
            raise self._no_function(node)
        starred = [each for each in node.args if isinstance(each, ast.Starred)]
        if starred or node.keywords:
            unfit = starred[0] if starred else node.keywords[0]
            raise self._refusal(unfit, "arguments are given one by one and without names")
        given, (least, most) = len(node.args), arguments_of(name)
        if given < least or (most is not None and given > most):
            raise self._refusal(node, f"{name}() takes {_arguments(least, most)}, not {given}")
        parts = [self.part(each) for each in node.args]
        written, position = self._written(node), self._at(node)
        if name in REDUCTIONS and given == 1:
            if name in LENGTHS and parts[0].boolean:
                message = f"{name}() is the length of the list, whatever is true or false in it"
                raise self._refusal(node, message, "write sum(…) to count what is true")
            reduction = REDUCTIONS[name]
            return OfList(written, position, reduction.boolean, self._text, name, reduction, parts[0])
        function = FUNCTIONS[name]
        boolean = function.boolean or (name == "where" and all(each.boolean for each in parts[1:]))
        return Elementwise(written, position, boolean, function.call, parts)

    def _no_function(self, node: ast.Call) -> ExpressionError:
        written = "".join(self._written(node.func).split())
        owner, _, last = written.rpartition(".")
        if written in self._known:
            return self._refusal(
                node, f"{_short(written)} is a branch, not a function", "write * to multiply"
            )
        if last in NAMES:
            inside = owner if owner in self._known else "…"
            hint = f"write {last}({inside})"
        else:
            hint = nearest(last[:80], sorted(NAMES))
        return self._refusal(node, f"there is no function {_short(written)}", hint)


def _bare(name: str) -> str:
    """Return the name of a function without the ``np.`` or ``numpy.`` that it has where it comes from."""
    return re.sub(r"^(np|numpy)\.", "", name)


def _short(written: str) -> str:
    """Quote what was written, not all of it where it is long."""
    return repr(written if len(written) <= 60 else written[:59] + "…")


def _arguments(least: int, most: int | None) -> str:
    if most is None:
        return f"{least} or more arguments"
    return f"{least} argument{'s' * (least > 1)}"
