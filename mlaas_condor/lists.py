"""The lists of a request: its input files, globs expanded, and the label and the weight of each."""

from __future__ import annotations

import glob
import math
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from mlaas_condor.confinement import NOWHERE
from mlaas_condor.data import storage
from mlaas_condor.data.remote import SEPARATOR
from mlaas_condor.data.source import Branch
from mlaas_condor.errors import CredentialFault, InputUnreadable, Problem
from mlaas_condor.reading import content_lines, nearest
from mlaas_condor.request import Request

# The path of a tree after the name of a file; no Windows drive, no port of a URL.
_TREE = re.compile(r"(?P<file>.+):(?P<tree>[^:\\?*\[\]]+)")

EACH = "one a line, in the order of files"
"""What labels and weights are in a file."""


@dataclass(frozen=True)
class Input:
    """One input: a path or URL, and the path of the tree in it."""

    path: str
    tree: str


@dataclass(frozen=True)
class PerEvent:
    """What every event has: that of its file, one a file as the user wrote it, or the value of a branch."""

    of_files: list[str]
    branch: str = ""


@dataclass(frozen=True)
class Lists:
    """The lists of a request; labels and weights belong to the inputs by position."""

    inputs: list[Input]
    labels: PerEvent
    weights: PerEvent


def read_lines(request: Request) -> list[str]:
    """Return the list of input files as the user wrote it."""
    return read_list(request, "files", request.job.files, "one input file a line")


def read_lists(request: Request, lines: Sequence[str]) -> Lists:
    """Return the input files, their labels and weights; a glob gives its own to all files it matches.

    Labels or weights that are no file that is there may name a branch: `check_branch` tells once the
    branches are known.

    Parameters
    ----------
    request
        The request.
    lines
        Its list of files.
    """
    groups = [_expand(request, line) for line in lines]
    labels = _of_files(request, "labels", request.job.labels, groups)
    weights = _of_files(request, "weights", request.job.weights or [], groups)
    if all(groups):  # where files are missing, so may be labels
        _check_labels(request, labels)
    _check_weights(request, weights)
    return Lists([each for group in groups for each in group], labels, weights)


def _of_files(
    request: Request, key: str, named: str | list[str | int | float], groups: list[list[Input]]
) -> PerEvent:
    """Return what ``named`` says of each file: the list itself, a file with it, or a branch."""
    if isinstance(named, str) and named and not os.path.lexists(request.path(named)):
        return PerEvent([], named)
    values = read_list(request, key, named, EACH)
    files = sum(map(len, groups))
    if not groups or not values:
        return PerEvent([])
    if len(values) not in (len(groups), files):
        what = f"there are {len(values)} {key} and {len(groups)} files"
        request.problems.append(Problem(f"job.json: {key}", what, "one a line, in the order of files"))
        return PerEvent([])
    if len(values) == len(groups):
        values = [value for value, group in zip(values, groups, strict=True) for _ in group]
    return PerEvent(values)


def _check_labels(request: Request, labels: PerEvent) -> None:
    if request.job.task == "regression":
        if labels.of_files:
            what = "a regression needs the name of a branch, a number an event"
            request.problems.append(Problem("job.json: labels", what, 'or remove "task": "regression"'))
        return
    if len(set(labels.of_files)) == 1:
        what = f"all files have the label {labels.of_files[0]!r}"
        request.problems.append(Problem("job.json: labels", what, "a classifier needs two classes at least"))


def _check_weights(request: Request, weights: PerEvent) -> None:
    for value in dict.fromkeys(weights.of_files):
        try:
            usable = math.isfinite(float(value))
        except ValueError:
            usable = False
        if not usable:
            request.problems.append(Problem("job.json: weights", f"{value!r} is not a number"))
            return
    if weights.of_files and not any(float(value) > 0 for value in weights.of_files):
        request.problems.append(Problem("job.json: weights", "none is above 0", "their sum must be"))


def check_branch(
    request: Request,
    key: str,
    values: PerEvent,
    branches: Mapping[str, Branch],
    left_out: Mapping[str, str],
) -> None:
    """Make sure that labels or weights which are no file name a branch with one number an event."""
    name = values.branch
    if not name or (name in branches and branches[name].kind == "flat"):
        return
    if name in branches:
        what = f"branch {name!r} is jagged, one number an event is needed"
        request.problems.append(Problem(f"job.json: {key}", what))
        return
    if name in left_out:
        what = f"branch {name!r} cannot be used: it {left_out[name]}; a number an event is needed"
        request.problems.append(Problem(f"job.json: {key}", what))
        return
    path = request.path(name)
    near = nearest(name, [*names_beside(path, path.suffix or ".txt"), *branches])
    request.problems.append(Problem(f"job.json: {key}: {name}", "no such file, and no such branch", near))


def read_list(request: Request, key: str, value: str | Sequence[str | int | float], each: str) -> list[str]:
    """Return a list, or that in the file which is named; what is wrong with it goes to the problems.

    Parameters
    ----------
    request
        The request.
    key, value
        Key of the job file, and what it says there.
    each
        What each line is, for the message about an empty file.
    """
    if not isinstance(value, str):
        return [str(item) for item in value]
    if not value:
        return []
    path = request.path(value)
    try:
        items = list(content_lines(path.read_text("utf-8-sig")))
    except FileNotFoundError:
        near = nearest(path.name, names_beside(path, path.suffix or ".txt"))
        request.problems.append(Problem(f"job.json: {key}: {value}", "no such file", near))
        return []
    except (OSError, ValueError) as error:
        request.problems.append(Problem(f"job.json: {key}: {value}", f"cannot be read: {error}"))
        return []
    if not items:
        request.problems.append(Problem(f"job.json: {key}: {value}", "is empty", each))
    return items


def _expand(request: Request, line: str) -> list[Input]:
    """Return the inputs that a line of the list of files stands for."""
    if SEPARATOR in line and "://" in line:
        return _expand_places(request, line)
    file, tree = _split_tree(request, line)
    if storage.scheme(file) == "file" and not request.within:  # it travels like any other
        file = unquote(urlsplit(file).path)
    if storage.is_url(file):
        return [Input(path, tree) for path in _expand_url(request, file)]
    if request.params.redirector and not is_here(request, file):
        first, *others = (f"{each.rstrip('/')}//{file.lstrip('/')}" for each in request.params.redirector)
        if not _may_name(request, others):
            return []
        found = _expand_url(request, first)
        return [Input(SEPARATOR.join([each, *_same_at(each, first, others)]), tree) for each in found]
    what, hint = request.within.wrong_path(request.folder, file) if request.within else ("", "")
    if what:
        request.problems.append(Problem("files", what, hint))
        return []
    path = request.path(file)
    if not glob.has_magic(file) or os.path.lexists(path):
        return [Input(str(path), tree)]
    matches = sorted((each, name) for name, each in _matches(request, file))
    if not matches:
        request.problems.append(Problem(line, "matches no file"))
    for name in (name for each, name in matches if each == str(NOWHERE)):
        what = f"{name!r}, which it matches, leads outside of what may be read here"
        request.problems.append(Problem(line, what, "name files that are no links"))
    return [Input(each, tree) for each, _ in matches if each != str(NOWHERE)]


def _matches(request: Request, file: str) -> Iterator[tuple[str, str]]:
    """Yield the files on the access point that a glob matches: their names, and paths."""
    if request.within:
        for name, path in request.within.matches(request.folder, file):
            yield name, str(path)
        return
    # Only the line is a pattern: the folder of the request may have brackets in its name.
    pattern = str(request.path(file)) if Path(file).expanduser().is_absolute() else file
    for each in glob.iglob(pattern, root_dir=request.folder, recursive=True):  # noqa: PTH207 - Path.glob takes no absolute one
        yield each, str(request.path(each))


def _may_name(request: Request, urls: Iterable[str]) -> bool:
    """Make problems of the URLs that the request must not name; tell whether there is none."""
    wrong = [request.within.wrong_url(url) for url in urls] if request.within else []
    problems = [Problem("files", what, hint) for what, hint in wrong if what]
    request.problems += (each for each in problems if each not in request.problems)
    return not problems


def _expand_places(request: Request, line: str) -> list[Input]:
    """Return the input whose places a line gives; the tree may be told with the last one."""
    *first, last = (place.strip() for place in line.split(SEPARATOR))
    file, tree = _split_tree(request, last)
    places = [*first, file]
    for place in places:
        if not storage.is_url(place):
            what = f"{place!r} is no URL; each place of a file, between {SEPARATOR!r}, is one"
        elif storage.is_pattern(place):
            what = f"{place!r} is a pattern; with several places name one file"
        else:
            continue
        request.problems.append(Problem(line, what))
        return []
    return [Input(SEPARATOR.join(places), tree)] if _may_name(request, places) else []


def is_here(request: Request, file: str) -> bool:
    """Tell whether a path, or a file that a glob matches, is on the access point."""
    if os.path.lexists(request.path(file)):
        return True
    return glob.has_magic(file) and any(True for _ in _matches(request, file))


def _same_at(found: str, first: str, others: Sequence[str]) -> list[str]:
    """Return a file that was found at one redirector, as it is called at the others."""
    if found == first:
        return list(others)
    path = urlsplit(found).path
    return [urlsplit(other)._replace(path=path).geturl() for other in others]


def _expand_url(request: Request, url: str) -> list[str]:
    if not _may_name(request, [url]):
        return []
    try:
        found = storage.expand(url)
    except (InputUnreadable, CredentialFault) as error:
        request.problems.append(Problem("files", str(error)))
        return []
    if not found:
        request.problems.append(Problem(url, "matches no file"))
    # What is called how is for the storage to say.
    return found if _may_name(request, found) else []


def _split_tree(request: Request, line: str) -> tuple[str, str]:
    file, tree = split_tree(line, request.path(line))
    return file, tree or request.params.branch


def split_tree(line: str, local: Path) -> tuple[str, str]:
    """Split ``file.root:tree``; a file of the whole name, which is at ``local``, comes first."""
    match = _TREE.fullmatch(line)
    whole = not storage.is_url(line) and os.path.lexists(local)
    if match and not whole and storage.suffixes(match["file"]) and not match["tree"].startswith("//"):
        return match["file"], match["tree"]
    return line, ""


def names_beside(path: Path, suffix: str) -> list[str]:
    """Return the names of the files beside one that end as it should."""
    try:
        return sorted(each.name for each in path.parent.iterdir() if each.suffix == suffix)
    except OSError:
        return []
