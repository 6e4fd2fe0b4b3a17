"""What is made of the branches of the files: features, what is carried with each event, cuts, given specs."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path

from mlaas_condor import preproc
from mlaas_condor.data import global_specs, tables
from mlaas_condor.data.selection import Choice, Selector, Steps, choose
from mlaas_condor.data.source import Branch
from mlaas_condor.data.specs import Specs
from mlaas_condor.errors import Problem
from mlaas_condor.lists import Lists, check_branch, names_beside
from mlaas_condor.reading import digest_of, nearest, read_json
from mlaas_condor.request import Request
from mlaas_condor.survey import Surveyed, changing_types, differences


@dataclass(frozen=True)
class Wanted:
    """What ``preproc`` names: new branches and cuts, or the user's file with ``preprocessing(rec)``."""

    where: str = ""
    preproc: preproc.Preproc = field(default_factory=preproc.Preproc)
    function: str = ""


@dataclass(frozen=True)
class Choices:
    """What the run makes of the branches.

    Parameters
    ----------
    wanted
        What the request asked for.
    flat, jagged
        Features, each list sorted.
    carried
        Branches kept with each event that are no features.
    steps
        New branches, cuts, lengths.
    missing
        Branches that some file does not have, and may do without, and their kind.
    given, given_digest
        Specs to use instead of measuring, and a digest of their file.
    warnings
        What the user should know.
    """

    wanted: Wanted
    flat: list[str]
    jagged: list[str]
    carried: list[str]
    steps: Steps
    missing: dict[str, str]
    given: Specs | None
    given_digest: str
    warnings: list[str]


def read(request: Request) -> Wanted:
    """Read the file that ``preproc`` names; mistakes go to the problems of the request."""
    name = request.job.preproc
    if not name:
        return Wanted()
    path = request.path(name)
    if not os.path.isfile(path):  # noqa: PTH113 - Path.is_file fails where it may not look
        near = nearest(path.name, names_beside(path, path.suffix or ".json"))
        request.problems.append(Problem(f"job.json: preproc: {name}", "no such file", near))
        return Wanted()
    if path.suffix == ".py":
        return Wanted(name, function=str(path))
    text, raw = read_json(path, request.problems)
    request.sources["preproc.json"] = text
    return Wanted(name, preproc.read(raw, name, request.problems) if raw else preproc.Preproc())


def make(request: Request, lists: Lists, surveyed: Surveyed, wanted: Wanted) -> Choices | None:
    """Choose; None where there is nothing to choose from, which is a problem of its own."""
    if not surveyed.files:
        return None
    params, problems = request.params, request.problems
    branches = surveyed.branches
    checked = preproc.check(wanted.preproc, branches, wanted.where, problems)
    carried = _carried(request, lists, checked.branches, surveyed)
    chosen = _choose(request, checked, carried, surveyed)
    steps = _with_max_length(checked.steps, params.max_length, chosen.jagged, problems)
    given, digest = _given(request, chosen)
    if given:
        longest = {name: given.jagged[name].length for name in chosen.jagged if name in given.jagged}
        steps = _shortened(steps, longest)
    features = [*chosen.flat, *chosen.jagged]
    known = [name for name in carried if name in checked.branches]
    inputs = Selector(steps, [*features, *known]).inputs
    needed = {name: branches[name] for name in inputs if name in branches}
    fill = params.missing_branches == "nan"
    # What labels, weighs or names an event cannot be padding.
    whole = {name: needed[name] for name in Selector(steps.without_cuts(), known).inputs if name in needed}
    problems += changing_types(surveyed.files, carried)
    problems += differences(surveyed.files, whole, fill=False)
    problems += differences(surveyed.files, {n: b for n, b in needed.items() if n not in whole}, fill)
    _check_function(request, wanted, surveyed)
    if not features and not problems:
        what = "no branch is left to train on"
        problems.append(Problem("params.json", what, "see selected_branches and exclude_branches"))
    lacking = (
        {name for each in surveyed.files for name in needed if name not in each.branches} if fill else ()
    )
    return Choices(
        wanted=wanted,
        flat=chosen.flat,
        jagged=chosen.jagged,
        carried=carried,
        steps=steps,
        missing={name: needed[name].kind for name in sorted(lacking)},
        given=given,
        given_digest=digest,
        warnings=[*_alike(chosen), *_filled(surveyed, needed, fill), *_dropped(wanted, surveyed)],
    )


def _carried(request: Request, lists: Lists, branches: Mapping[str, Branch], surveyed: Surveyed) -> list[str]:
    """Return the branches that are kept with each event but are no features."""
    left_out = surveyed.left_out()
    check_branch(request, "labels", lists.labels, branches, left_out)
    check_branch(request, "weights", lists.weights, branches, left_out)
    for name in request.params.identifier:
        if name not in branches:
            request.problems.append(_no_branch("params.json: identifier", name, branches, surveyed))
        elif branches[name].kind == "jagged":
            what = f"{name!r} is jagged"
            request.problems.append(
                Problem("params.json: identifier", what, "an identifier is one number an event")
            )
    names = [*request.params.identifier, lists.labels.branch, lists.weights.branch]
    return [name for name in dict.fromkeys(names) if name]


def _choose(request: Request, checked: preproc.Checked, carried: Sequence[str], surveyed: Surveyed) -> Choice:
    params = request.params
    new = [each.name for each in checked.steps.definitions]
    # New branches are features whatever is selected: why else would they have been made?
    selected = [*params.selected_branches, *new] if params.selected_branches else []
    never = {*carried, *checked.removed}
    chosen = choose(checked.branches, selected, params.exclude_branches, never)
    left_out = surveyed.left_out()
    for key in ("selected_branches", "exclude_branches"):
        unmatched = [name for name in getattr(params, key) if name in chosen.unmatched]
        if key == "exclude_branches":  # what cannot be a feature may be excluded all the same
            unmatched = [name for name in unmatched if not any(fnmatchcase(each, name) for each in left_out)]
        request.problems += [
            _no_branch(f"params.json: {key}", name, checked.branches, surveyed) for name in unmatched
        ]
    return chosen


def _no_branch(where: str, name: str, branches: Mapping[str, Branch], surveyed: Surveyed) -> Problem:
    reason = surveyed.left_out().get(name)
    if reason:
        return Problem(where, f"branch {name!r} cannot be used: it {reason}")
    file = " and no such file" if Path(name).suffix in (".txt", ".lst", ".list", ".csv") else ""
    return Problem(where, f"no branch {name!r}{file}", nearest(name, branches))


def _with_max_length(
    steps: Steps, wanted: Mapping[str, int] | int | None, jagged: Sequence[str], problems: list[Problem]
) -> Steps:
    if wanted is None:
        return steps
    if isinstance(wanted, int):
        return _shortened(steps, dict.fromkeys(jagged, wanted))
    lengths: dict[str, int] = {}
    for pattern, length in wanted.items():
        found = [name for name in jagged if fnmatchcase(name, pattern)]
        if not found:
            what = f"{pattern!r} matches no jagged feature"
            problems.append(Problem("params.json: max_length", what, nearest(pattern, jagged)))
        lengths |= dict.fromkeys(found, length)
    return _shortened(steps, lengths)


def _shortened(steps: Steps, lengths: Mapping[str, int]) -> Steps:
    both = {name: min(length, steps.max_length.get(name, length)) for name, length in lengths.items()}
    return steps.model_copy(update={"max_length": {**steps.max_length, **both}})


def _given(request: Request, chosen: Choice) -> tuple[Specs | None, str]:
    """Read the specs that the request gives, and make sure that they have all features."""
    name = request.job.specs
    if not name:
        return None, ""
    path, where = request.path(name), f"job.json: specs: {name}"
    try:
        specs, digest = global_specs.read(path), digest_of([path])
    except FileNotFoundError:
        near = nearest(path.name, names_beside(path, path.suffix or ".json"))
        request.problems.append(Problem(where, "no such file", near))
        return None, ""
    except (OSError, ValueError) as error:
        request.problems.append(
            Problem(where, str(error), "specs.json of a run, or MLaaS4HEP's global-specs.json")
        )
        return None, ""
    kinds = (("flat", chosen.flat, specs.flat), ("jagged", chosen.jagged, specs.jagged))
    for kind, names, known in kinds:
        missing = [each for each in names if each not in known]
        if missing:
            what = f"have no {kind} branch {', '.join(missing[:8])}{', …' if len(missing) > 8 else ''}"
            request.problems.append(Problem(where, what, "exclude it, or leave out the specs"))
    needed = {"standard": "standard_deviation", "robust": "quantiles"}.get(request.params.normalise)
    every = [each for _, names, known in kinds for name in names if (each := known.get(name))]
    if needed and any(each.minimum is not None and getattr(each, needed) in (None, []) for each in every):
        what = f"do not say what normalise: {request.params.normalise!r} needs"
        request.problems.append(Problem(where, what, 'use "minmax", or the specs.json of a run'))
    taken = specs.model_copy(
        update={
            "flat": {name: specs.flat[name] for name in chosen.flat if name in specs.flat},
            "jagged": {name: specs.jagged[name] for name in chosen.jagged if name in specs.jagged},
        }
    )
    return taken, digest


def _check_function(request: Request, wanted: Wanted, surveyed: Surveyed) -> None:
    if not wanted.function:
        return
    root = [each.path for each in surveyed.files if not tables.format_of(each.path)]
    if root:
        what = f"is a Python file, and {root[0]} is a ROOT file"
        hint = "preprocessing(rec) is for CSV, JSON, Parquet and Avro; write a preproc.json"
        request.problems.append(Problem(f"job.json: preproc: {wanted.where}", what, hint))


def _dropped(wanted: Wanted, surveyed: Surveyed) -> list[str]:
    """Warn of what the user's function leaves that is no number."""
    left_out = surveyed.left_out() if wanted.function else {}
    return [f"{wanted.where}: {name!r} cannot be a feature: it {why}" for name, why in left_out.items()][:8]


def _alike(chosen: Choice) -> list[str]:
    """Warn of a flat branch that is called like a column of a jagged one."""
    return [
        f"branches: flat {flat!r} and the elements of {jagged!r} make columns of the same name"
        for jagged in chosen.jagged
        for flat in chosen.flat
        if flat.startswith(f"{jagged}_") and flat.removeprefix(f"{jagged}_").isdecimal()
    ]


def _filled(surveyed: Surveyed, needed: Mapping[str, Branch], fill: bool) -> list[str]:
    """Say which files have padding instead of a branch."""
    lacking = {
        each.path: [name for name in needed if name not in each.branches] for each in surveyed.files if fill
    }
    return [
        f"files: {path} has no {', '.join(names[:8])}{', …' if len(names) > 8 else ''}: padding there"
        for path, names in lacking.items()
        if names
    ]
