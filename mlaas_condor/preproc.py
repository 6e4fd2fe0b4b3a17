"""preproc.json: new branches and cuts. The only place where its keys are known.

Its names for things are MLaaS4HEP's: ``new_branch``, ``flat_cut``, ``jagged_cut``; ``cut``, ``cut_1``, …
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from graphlib import CycleError, TopologicalSorter
from typing import Any, Literal

from mlaas_condor.data.expressions import Expression, ExpressionError, parse
from mlaas_condor.data.selection import Cut, Definition, Steps
from mlaas_condor.data.source import Branch
from mlaas_condor.errors import Problem
from mlaas_condor.reading import nearest

SECTIONS = ("new_branch", "flat_cut", "jagged_cut")
_CUT = re.compile(r"cut(_\d+)?")
_KEYS = ("def", "type", "cut", "remove", "keys_to_remove")
_TRUTH = {"true": True, "false": False}


@dataclass(frozen=True)
class _Cut:
    where: str
    text: str
    elements: Literal["any", "all"] | None


@dataclass(frozen=True)
class Preproc:
    """What preproc.json says.

    Parameters
    ----------
    definitions
        New branch to its expression, and to whether it is said to be ``flat`` or ``jagged``.
    cuts
        In the order of the file.
    removed, named
        Branches that are dropped after cutting; that cuts stand under; and where each is named.
    """

    definitions: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    cuts: Sequence[_Cut] = ()
    removed: Mapping[str, str] = field(default_factory=dict)
    named: Mapping[str, str] = field(default_factory=dict)


def read(raw: Mapping[str, Any], where: str, problems: list[Problem]) -> Preproc:
    """Understand the content of preproc.json; mistakes go to ``problems``.

    Parameters
    ----------
    raw
        The content.
    where
        Name of the file, for messages.
    problems
        Added to.
    """
    definitions: dict[str, tuple[str, str]] = {}
    cuts: list[_Cut] = []
    removed: dict[str, str] = {}
    named: dict[str, str] = {}
    for section, entries in raw.items():
        if section not in SECTIONS:
            problems.append(Problem(where, f"unknown key {section!r}", nearest(section, SECTIONS)))
        elif not isinstance(entries, Mapping):
            problems.append(Problem(f"{where}: {section}", f"{entries!r} is not an object {{branch: …}}"))
        else:
            for name, entry in entries.items():
                place = f"{where}: {section}: {name}"
                if not isinstance(entry, Mapping):
                    problems.append(Problem(place, f'{entry!r} is not an object such as {{"cut": "…"}}'))
                    continue
                problems += _check_keys(place, section, entry)
                if section == "new_branch" and str(entry.get("def") or "").strip():
                    definitions[name] = entry["def"], str(entry.get("type", ""))
                cuts += _cuts(place, entry, problems)
                if section != "new_branch":
                    named[name] = place
                    if not entry:
                        problems.append(Problem(place, "has no cut", f'write "cut": "{name} > 0"'))
                for each in _removed(place, name, entry, problems):
                    removed[each] = place
    return Preproc(definitions, cuts, removed, named)


def _check_keys(place: str, section: str, entry: Mapping[str, Any]) -> Iterable[Problem]:
    known = _KEYS if section == "new_branch" else tuple(key for key in _KEYS if key not in ("def", "type"))
    for key in entry:
        if key not in known and not _CUT.fullmatch(key):
            yield Problem(place, f"unknown key {key!r}", nearest(key, known))
    if section != "new_branch":
        return
    if not isinstance(entry.get("def"), str) or not entry["def"].strip():
        yield Problem(place, "has no 'def'", 'the expression that makes it: "def": "log(partonE)"')
    if entry.get("type") not in (None, "flat", "jagged"):
        yield Problem(place, f"type: {entry['type']!r} does not do", "flat or jagged")


def _cuts(place: str, entry: Mapping[str, Any], problems: list[Problem]) -> Iterable[_Cut]:
    for key, value in entry.items():
        if not _CUT.fullmatch(key):
            continue
        text, elements = value, None
        if isinstance(value, list | tuple) and len(value) == 2 and value[1] in ("any", "all"):
            text, elements = value
        if not isinstance(text, str) or not text.strip():
            what = f"{key}: {value!r} is no cut"
            problems.append(Problem(place, what, 'write "1<=x<=16", or ["x>200", "any"] for a list'))
            continue
        yield _Cut(f"{place}: {key}", text, elements)


def _removed(place: str, name: str, entry: Mapping[str, Any], problems: list[Problem]) -> Iterable[str]:
    remove = entry.get("remove", False)
    truth = _TRUTH.get(str(remove).strip().lower())
    if truth is None:
        problems.append(Problem(place, f"remove: {remove!r} does not do", '"True" or "False"'))
    elif truth:
        yield name
    keys = entry.get("keys_to_remove", [])
    keys = [key.strip() for key in keys.split(",") if key.strip()] if isinstance(keys, str) else keys
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
        problems.append(Problem(place, f"keys_to_remove: {keys!r} does not do", "a list of branches"))
        return
    yield from keys


@dataclass(frozen=True)
class Checked:
    """The steps that preproc.json asks for, checked against the branches there are.

    Parameters
    ----------
    steps
        New branches in the order in which they can be made, and cuts.
    branches
        The branches there are, and the new ones.
    removed
        Those that are no features.
    """

    steps: Steps
    branches: Mapping[str, Branch]
    removed: Collection[str]


def check(preproc: Preproc, branches: Mapping[str, Branch], where: str, problems: list[Problem]) -> Checked:
    """Check expressions against the branches there are; mistakes go to ``problems``."""
    every = dict(branches)
    definitions: list[Definition] = []
    for name in (name for name in preproc.definitions if name in branches):
        what = "there is a branch of that name already"
        problems.append(Problem(f"{where}: new_branch: {name}", what, "choose another name"))
    for name, parsed in _in_order(preproc, branches, where, problems):
        place = f"{where}: new_branch: {name}"
        kind = _kind(parsed, every, f"{place}: def", problems)
        said = preproc.definitions[name][1]
        if said in ("flat", "jagged") and kind and said != kind:
            problems.append(Problem(place, f"its type is {said}, but {parsed.text!r} is {kind}"))
        definitions.append(Definition(name=name, expression=parsed.text, branches=sorted(parsed.branches)))
        every[name] = Branch(name, "jagged" if kind == "jagged" else "flat", "float64")
    known = set(every) | set(preproc.definitions)
    cuts = [cut for each in preproc.cuts if (cut := _cut(each, every, known, problems))]
    for name, place in preproc.named.items():
        if name not in known:
            problems.append(Problem(place, f"no branch {name!r}", nearest(name, known)))
    for name, place in preproc.removed.items():
        if name not in known and name not in preproc.named:
            problems.append(Problem(place, f"no branch {name!r} to remove", nearest(name, known)))
    return Checked(Steps(definitions=definitions, cuts=cuts), every, set(preproc.removed))


def _in_order(
    preproc: Preproc, branches: Mapping[str, Branch], where: str, problems: list[Problem]
) -> list[tuple[str, Expression]]:
    """Return the definitions that can be parsed, each after those that it is made of."""
    known = {*branches, *preproc.definitions}
    parsed: dict[str, Expression] = {}
    for name, (text, _) in preproc.definitions.items():
        try:
            parsed[name] = parse(text, known)
        except ExpressionError as error:
            problems.append(Problem(f"{where}: new_branch: {name}: def", str(error)))
    try:
        made_of = {name: each.branches - set(branches) for name, each in parsed.items()}
        order = list(TopologicalSorter(made_of).static_order())
    except CycleError as error:
        circle = " → ".join(error.args[1][::-1])
        problems.append(Problem(f"{where}: new_branch", f"these are made of one another: {circle}"))
        return []
    return [(name, parsed[name]) for name in order if name in parsed]


def _kind(parsed: Expression, branches: Mapping[str, Branch], place: str, problems: list[Problem]) -> str:
    try:
        return parsed.kind({name: branches[name].kind for name in parsed.branches if name in branches})
    except ExpressionError as error:
        problems.append(Problem(place, str(error)))
    except KeyError:  # of a branch that has a problem of its own
        pass
    return ""


def _cut(
    cut: _Cut, branches: Mapping[str, Branch], known: Collection[str], problems: list[Problem]
) -> Cut | None:
    try:
        parsed = parse(cut.text, known)
    except ExpressionError as error:
        problems.append(Problem(cut.where, str(error)))
        return None
    before = len(problems)
    kind = _kind(parsed, branches, cut.where, problems)
    if len(problems) > before or not kind:
        return None
    if not parsed.boolean and any(branches[name].dtype != "bool" for name in parsed.branches):
        problems.append(Problem(cut.where, f"{cut.text!r} is no condition", "compare it: x > 0"))
        return None
    if kind == "jagged" and cut.elements is None:
        what = f"{cut.text!r} is true or false for each element of a list"
        problems.append(Problem(cut.where, what, f'write ["{cut.text}", "any"] or ["{cut.text}", "all"]'))
        return None
    return Cut(
        expression=parsed.text,
        branches=sorted(parsed.branches),
        elements=cut.elements if kind == "jagged" else None,
    )
