"""The lists of a request: its input files, globs expanded, and the label of each."""

from __future__ import annotations

import glob
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from mlaas_condor.data.inputs import Branch
from mlaas_condor.errors import Problem
from mlaas_condor.reading import content_lines, nearest
from mlaas_condor.request import Request


@dataclass(frozen=True)
class Labels:
    """Where the labels of events come from: the label of each file, or the name of a branch."""

    of_files: list[str]
    branch: str = ""


def read_lists(request: Request) -> tuple[list[str], Labels]:
    """Return the input files and their labels; a glob gives its label to all files it matches.

    Labels that are no file that is there may name a branch: `check_label_branch` tells once the branches
    are known.
    """
    lines = _read_list(request, "files", request.job.files)
    groups = [_expand(request, line) for line in lines]
    paths = [path for group in groups for path in group]
    named = request.job.labels
    if isinstance(named, str) and named and not os.path.lexists(request.path(named)):
        return paths, Labels([], named)
    labels = _read_list(request, "labels", named)
    if not lines or not labels:
        return paths, Labels([])
    if len(labels) not in (len(lines), len(paths)):
        what = f"there are {len(labels)} labels and {len(lines)} files"
        request.problems.append(Problem("job.json: labels", what, "one label a line, in the order of files"))
        return paths, Labels([])
    if len(set(labels)) == 1:
        what = f"all files have the label {labels[0]!r}"
        request.problems.append(Problem("job.json: labels", what, "a classifier needs two classes at least"))
    if len(labels) == len(lines):
        labels = [label for label, group in zip(labels, groups, strict=True) for _ in group]
    return paths, Labels(labels)


def check_label_branch(request: Request, labels: Labels, branches: Mapping[str, Branch]) -> None:
    """Make sure that labels which are no file name a branch with one number an event."""
    name = labels.branch
    if not name or (name in branches and branches[name].kind == "flat"):
        return
    if name in branches:
        what = f"branch {name!r} is jagged, a label is one number an event"
        request.problems.append(Problem("job.json: labels", what))
        return
    path = request.path(name)
    near = nearest(name, [*names_beside(path, path.suffix or ".txt"), *branches])
    request.problems.append(Problem(f"job.json: labels: {name}", "no such file, and no such branch", near))


def _read_list(request: Request, key: str, value: str | list[str | int | float] | list[str]) -> list[str]:
    if isinstance(value, list):
        items = [str(item) for item in value]
    elif not value:
        return []
    else:
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
        named = f": {value}" if isinstance(value, str) else ""
        request.problems.append(Problem(f"job.json: {key}{named}", "is empty", "one line a ROOT file"))
    return items


def _expand(request: Request, line: str) -> list[str]:
    if "://" in line:
        request.problems.append(Problem(line, "remote files are not supported in this version"))
        return []
    path = request.path(line)
    if request.params.redirector and not glob.has_magic(line) and not os.path.lexists(path):
        what = f"is not here, and files of the redirector {request.params.redirector} are not supported"
        request.problems.append(Problem(line, f"{what} in this version"))
        return []
    if not glob.has_magic(line) or os.path.lexists(path):
        return [str(path)]
    # Only the line is a pattern: the folder of the request may have brackets in its name.
    pattern = str(path) if Path(line).expanduser().is_absolute() else line
    matches = glob.glob(pattern, root_dir=request.folder, recursive=True)  # noqa: PTH207 - Path.glob takes no absolute one
    found = sorted(str(request.path(each)) for each in matches)
    if not found:
        request.problems.append(Problem(line, "matches no file"))
    return found


def names_beside(path: Path, suffix: str) -> list[str]:
    """Return the names of the files beside one that end as it should."""
    try:
        return sorted(each.name for each in path.parent.iterdir() if each.suffix == suffix)
    except OSError:
        return []
