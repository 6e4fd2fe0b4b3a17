"""Looking into every input file of a request: what is in it, and what sets it apart from the others."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from urllib.parse import urlsplit

import numpy as np

from mlaas_condor.data import storage
from mlaas_condor.data.dataset import Unreadable
from mlaas_condor.data.inputs import Survey, survey
from mlaas_condor.data.source import Branch
from mlaas_condor.errors import (
    AccessDenied,
    CredentialFault,
    InputUnreadable,
    ModelFault,
    Problem,
    StageError,
    StorageUnavailable,
)
from mlaas_condor.lists import Input
from mlaas_condor.params import BadFiles
from mlaas_condor.request import Request

_OPENERS = 16  # files looked at side by side
_SHOWN = 8  # names that a message lists


@dataclass(frozen=True)
class Surveyed:
    """The input files that can be read.

    Parameters
    ----------
    files
        What each holds, in the order of the request.
    positions
        The position of each among all inputs of the request.
    unreadable
        Those that are left out, as ``bad_files`` allows.
    """

    files: list[Survey]
    positions: list[int]
    unreadable: list[Unreadable]

    @property
    def branches(self) -> dict[str, Branch]:
        """The branches of all files together; what the first file says counts."""
        union: dict[str, Branch] = {}
        for each in reversed(self.files):
            union.update(each.branches)
        return union

    def left_out(self) -> dict[str, str]:
        """Return the branches that cannot be used, with the reason, as the first file that has one says."""
        found: dict[str, str] = {}
        for each in reversed(self.files):
            found.update(each.left_out)
        return found


def look(request: Request, inputs: Sequence[Input], function: str, run_code: bool = True) -> Surveyed:
    """Look into every file, side by side; problems come in the order of the files.

    Parameters
    ----------
    request
        Gets the problems, and a warning for each file that is left out.
    inputs
        The files.
    function
        The user's file with ``preprocessing(rec)``; empty for none.
    run_code
        Whether it may be run, on the first records of each file.
    """

    def one(each: Input) -> Survey | Exception:
        try:
            return survey(each.path, each.tree, function, run_code)
        except (InputUnreadable, ModelFault, CredentialFault) as error:
            return error

    with ThreadPoolExecutor(_OPENERS) as pool:
        outcomes = list(pool.map(one, inputs))
    positions = [i for i, each in enumerate(outcomes) if isinstance(each, Survey)]
    files = [each for each in outcomes if isinstance(each, Survey)]
    looked_at = zip(inputs, outcomes, strict=True)
    bad = [(each.path, error) for each, error in looked_at if isinstance(error, InputUnreadable)]
    # Storage that is away, or lets others in only, has not lost these files: they are not left out for that.
    closed = [each for each in bad if isinstance(each[1], StorageUnavailable | AccessDenied)]
    bad = [each for each in bad if each not in closed]
    # The user's own mistakes are no unreadable files; the same one need be told but once.
    faults = dict.fromkeys(str(error) for error in outcomes if isinstance(error, ModelFault))
    request.problems += [Problem("job.json: preproc", fault) for fault in faults]
    for empty in (each for each in files if not each.entries):
        tree = f"tree {empty.tree!r} " if empty.tree else ""
        what = f"{empty.path}: {tree}has no entries"
        request.problems.append(Problem("files", what, "take it off the list, and its label"))
    looked_at = zip(inputs, outcomes, strict=True)
    refused = [(each.path, error) for each, error in looked_at if isinstance(error, CredentialFault)]
    request.problems += _told_once_a_host([*refused, *closed])
    return Surveyed(files, positions, _leave_out(request, files, bad))


def _told_once_a_host(faults: Sequence[tuple[str, Exception]]) -> Iterable[Problem]:
    """Yield the fault of the first file of each host and kind: it is that of the others too."""
    groups: dict[tuple[str, int], list[Exception]] = {}
    for path, error in faults:
        code = error.exit_code if isinstance(error, StageError) else 0
        groups.setdefault((urlsplit(path).netloc, code), []).append(error)
    for errors in groups.values():
        same = len(errors) - 1
        more = f" (and {same} more file{'s' * (same > 1)} there)" if same else ""
        yield Problem("files", f"{errors[0]}{more}")


def _leave_out(
    request: Request, files: Sequence[Survey], bad: Sequence[tuple[str, Exception]]
) -> list[Unreadable]:
    """Return the files to do without; where that is not allowed, or too much, they are problems."""
    policy = request.params.bad_files
    if not isinstance(policy, BadFiles) or not files:
        request.problems += [Problem("files", str(error)) for _, error in bad]
        return []
    entries, size = sum(each.entries for each in files), sum(each.size for each in files)
    # How many events a file has that cannot be opened, its size tells better than nothing.
    each_has = [_guess(path, entries, size, len(files)) for path, _ in bad]
    lost = sum(each_has) / max(1, entries + sum(each_has))
    if lost > policy.skip:
        what = (
            f"{len(bad)} files cannot be read, about {lost:.1%} of the events; allowed is {policy.skip:.1%}"
        )
        request.problems.append(Problem("params.json: bad_files", what))
        request.problems += [Problem("files", str(error)) for _, error in bad]
        return []
    request.warnings += [f"files: left out: {error}" for _, error in bad]
    return [
        Unreadable(path=path, reason=str(error), entries=n)
        for (path, error), n in zip(bad, each_has, strict=True)
    ]


def _guess(path: str, entries: int, size: int, files: int) -> int:
    try:
        return round(entries * storage.size(path) / max(1, size))
    except InputUnreadable:
        return entries // files


def differences(files: Sequence[Survey], needed: Mapping[str, Branch], fill: bool) -> Iterable[Problem]:
    """Yield what sets a file apart from the others in the branches that are needed.

    Parameters
    ----------
    files
        The files.
    needed
        The branches, as most files have them.
    fill
        Whether a file may lack a branch.
    """
    for each in files:
        missing = [name for name in needed if name not in each.branches]
        absent = [name for name in missing if name not in each.left_out]
        if absent and not fill:
            more = f" and {len(absent) - _SHOWN} more" if len(absent) > _SHOWN else ""
            hint = 'leave them out with exclude_branches, or set "missing_branches": "nan"'
            yield Problem("files", f"{each.path}: has no {', '.join(absent[:_SHOWN])}{more}", hint)
        for name in (name for name in missing if name in each.left_out):
            what = f"{each.path}: branch {name!r} cannot be used: it {each.left_out[name]}"
            yield Problem("files", what, "leave it out with exclude_branches")
        for name, branch in needed.items():
            if name in each.branches and each.branches[name].kind != branch.kind:
                yield Problem(
                    "files", f"{each.path}: {name} is {each.branches[name].kind}, elsewhere it is not"
                )


def changing_types(files: Sequence[Survey], names: Iterable[str]) -> Iterable[Problem]:
    """Yield the branches that name or label an event and are of types that no other holds without loss."""
    for name in names:
        types = {each.branches[name].dtype: each.path for each in files if name in each.branches}
        together = np.result_type(*types) if types else np.dtype(bool)
        if together.kind == "f" and {"int64", "uint64"} & set(types):
            found = ", ".join(f"{dtype} in {path}" for dtype, path in sorted(types.items()))
            yield Problem("files", f"branch {name!r} is {found}: large numbers would lose their last digits")
