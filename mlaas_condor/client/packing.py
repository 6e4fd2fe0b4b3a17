"""What a request needs from this machine, as a service takes it: one folder, and a job.json that fits to it.

The lists and the params go into the job.json itself, so that other params need no other upload. What lies
outside the folder of the request comes into ``inputs/`` of the uploaded one; what is on storage stays there.
"""

from __future__ import annotations

import glob
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from mlaas_condor import versions
from mlaas_condor.archives import members
from mlaas_condor.data import storage
from mlaas_condor.data.remote import SEPARATOR
from mlaas_condor.errors import Problem
from mlaas_condor.lists import EACH, is_here, names_beside, read_lines, read_list, split_tree
from mlaas_condor.reading import join_path, nearest
from mlaas_condor.request import IGNORED_KEYS, Request
from mlaas_condor.training.models import companions

_OUTSIDE = "inputs"
_BOUNDS = members.Bounds(files=0, bytes=0)
_ABOVE = "x" * 100  # the longest name of the folder that all of it is in
_LEFT_OUT = (*IGNORED_KEYS, "params", "x509_proxy")


@dataclass(frozen=True)
class Package:
    """A request to be sent.

    Parameters
    ----------
    name
        Of the folder on the service.
    job
        The content of job.json there.
    files
        The files of the folder: their names in it, sorted, and where they are here.
    warnings
        What the user should know.
    """

    name: str
    job: Mapping[str, Any]
    files: Mapping[str, Path]
    warnings: list[str]


def pack(request: Request) -> Package:
    """Gather what a request needs from this machine; nothing is copied.

    Raises
    ------
    RequestError
        With every problem of the request that can be seen here: a file that is missing, a key that is none.
        What takes a look into the files is found by the service.
    """
    request = replace(request, problems=list(request.problems), warnings=list(request.warnings))
    packing = _Packing(request)
    job = packing.job()
    request.check()
    return Package(request.job.name, job, dict(sorted(packing.places.files.items())), request.warnings)


class _Places:
    """Where files of this machine are in the folder that is sent.

    Parameters
    ----------
    folder
        Of the request.
    lines
        Its list of files: no pattern in it may match what comes from outside.
    """

    def __init__(self, folder: Path, lines: Sequence[str]) -> None:
        self.files: dict[str, Path] = {}
        self._folder = _plain(folder)
        self._bases: dict[Path, str] = {}
        self._number = 0
        hidden = any(glob.has_magic(line.partition("/")[0]) for line in lines)
        self._prefix = f".{_OUTSIDE}" if hidden else _OUTSIDE
        while os.path.lexists(folder / self._prefix):
            self._prefix += "_"

    def folder(self, path: Path) -> str:
        """Return what a folder of this machine is called there: ``data``, ``inputs/2``; empty for itself."""
        path = _plain(path)
        if path == self._folder:
            return ""
        inside = path.relative_to(self._folder).as_posix() if path.is_relative_to(self._folder) else ""
        if inside and _does(inside):
            return inside
        if path not in self._bases:
            self._bases[path] = self._another()
        return self._bases[path]

    def add(self, paths: Sequence[Path], base: Path) -> list[str]:
        """Send files below a folder along; return their names there.

        They keep their order among each other, but for characters that a service does not take.
        """
        inside = [_plain(path).relative_to(_plain(base)).as_posix() for path in paths]
        folder = self.folder(base)
        if not all(map(_does, inside)):
            folder, inside = self._another(), ["/".join(map(_tame, each.split("/"))) for each in inside]
        return self._take(paths, folder, inside)

    def add_matches(self, paths: Sequence[Path], base: Path, pattern: str) -> tuple[list[str], str]:
        """Send the sorted matches of a pattern along; return their names, and what matches them there."""
        inside = [_plain(path).relative_to(_plain(base)).as_posix() for path in paths]
        folder = self.folder(base)
        if not all(map(_does, inside)):
            folder, pattern = self._another(), "*"
            inside = [f"{i:05d}_{_tame(path.name)}" for i, path in enumerate(paths)]
        return self._take(paths, folder, inside), "/".join(filter(None, (folder, pattern)))

    def _take(self, paths: Sequence[Path], folder: str, inside: Sequence[str]) -> list[str]:
        names = ["/".join(filter(None, (folder, each))) for each in inside]
        self.files.update(zip(names, map(_plain, paths), strict=True))
        return names

    def _another(self) -> str:
        self._number += 1
        return f"{self._prefix}/{self._number}"

    def is_outside(self, name: str) -> bool:
        """Tell whether a file has another name there than in the folder of the request."""
        return name.startswith(f"{self._prefix}/")


def _does(name: str) -> bool:
    """Tell whether a service takes a name."""
    try:
        members.checked_path(f"{_ABOVE}/{name}", _BOUNDS)
    except members.Refused:
        return False
    return True


def _tame(part: str) -> str:
    """Return a name as a service takes it."""
    return "".join(c if c.isascii() and (c.isalnum() or c in "._-+") else "_" for c in part)[-100:].lstrip(
        "-~"
    )


def _plain(path: Path) -> Path:
    """Return a path without ``..``; links stay, as a glob would leave them."""
    return Path(os.path.normpath(path.absolute()))


class _Packing:
    """Goes through a request; what is wrong goes to its problems."""

    def __init__(self, request: Request) -> None:
        self.request = request
        self._lines = read_lines(request)
        self.places = _Places(request.folder, self._lines)
        self._inputs: list[tuple[str, str]] = []

    def job(self) -> dict[str, Any]:
        """Return job.json as it is to be there, and have packed what it names."""
        request, given = self.request, self.request.job
        raw = json.loads(request.sources["job.json"])
        job = {key: value for key, value in raw.items() if key not in _LEFT_OUT}
        if given.x509_proxy:
            request.warnings.append(
                "job.json: x509_proxy stays on this machine; `mlaas-condor proxy delegate` lets the service "
                "read storage for you"
            )
        job["files"] = [self._line(line) for line in self._lines]
        for key in ("labels", "weights"):
            value = getattr(given, key)
            if isinstance(value, str) and value and os.path.lexists(request.path(value)):
                job[key] = read_list(request, key, value, EACH)
        for key, suffix in (("model", ".py"), ("preproc", ".json"), ("specs", ".json")):
            name = getattr(given, key)
            if name:
                job[key] = self._named(key, name, suffix)
        # With a problem it may be anything.
        params = {} if request.problems else self._params(raw.get("params"))
        return {**job, "params": params} if params else job

    def _named(self, key: str, name: str, suffix: str) -> str:
        """Pack a file that job.json names, and of a Python file what it imports from beside it."""
        path = self.request.path(name)
        where = f"job.json: {key}: {name}"
        if not self._is_file(path, where, names_beside(path, path.suffix or suffix)):
            return name
        beside = companions(path) if path.suffix == ".py" else []
        files = [each for found in beside for each in (_files_in(found) if found.is_dir() else [found])]
        return self.places.add([path, *files], path.parent)[0]

    def _is_file(self, path: Path, where: str, others: list[str]) -> bool:
        if os.path.isfile(path):  # noqa: PTH113 - Path.is_file fails for a name that is too long
            return True
        if os.path.isdir(path):  # noqa: PTH112
            self.request.problems.append(Problem(where, "is a directory, not a file"))
        else:
            self.request.problems.append(Problem(where, "no such file", nearest(path.name, others)))
        return False

    def _line(self, line: str) -> str:
        """Pack the files that a line of the list stands for; return the line as it is to be there."""
        if SEPARATOR in line and "://" in line:
            return line
        file, tree = split_tree(line, self.request.path(line))
        rest = line[len(file) :] if tree else ""
        if storage.scheme(file) == "file":
            file = unquote(urlsplit(file).path)
        elif storage.is_url(file) or (self.request.params.redirector and not is_here(self.request, file)):
            return line
        path = self.request.path(file)
        if glob.has_magic(file) and not os.path.lexists(path):
            return self._pattern(line, file) + rest
        if not self._is_file(path, line, names_beside(path, path.suffix)):
            return line
        name = self.places.add([path], path.parent)[0]
        self._inputs.append((str(path), name))
        return name + rest

    def _pattern(self, line: str, pattern: str) -> str:
        """Pack what a pattern matches; return the pattern that matches the same there, in the same order."""
        whole = join_path(Path(), pattern)
        parts = whole.parts
        fixed = next(i for i, part in enumerate(parts) if glob.has_magic(part))
        base, tail = self.request.folder.joinpath(*parts[:fixed]), "/".join(parts[fixed:])
        if ".." in parts[fixed:]:
            self.request.problems.append(
                Problem(line, "'..' after a pattern cannot be sent", "name the folder")
            )
            return line
        matches = glob.glob(tail, root_dir=base, recursive=True)  # noqa: PTH207 - the base may have brackets
        if not matches:
            self.request.problems.append(Problem(line, "matches no file"))
        paths = [base / match for match in sorted(matches)]
        files = [path for path in paths if self._is_file(path, str(path), [])]
        if len(files) < len(paths):
            return line
        names, there = self.places.add_matches(paths, base, tail)
        self._inputs += zip(map(str, paths), names, strict=True)
        return there

    def _params(self, named: Any) -> dict[str, Any]:
        """Return the content of params.json, without names of files."""
        text = self.request.sources.get("params.json", "")
        params: dict[str, Any] = dict(json.loads(text) if text else named or {})
        for key in ("selected_branches", "exclude_branches"):
            if key in params:
                params[key] = getattr(self.request.params, key)
        if self.request.params.hist:
            params["hist"] = Path(self.request.params.hist).name or "hist"
        split = params.get("split")
        if isinstance(split, Mapping):
            params["split"] = {key: self._split_files(value) for key, value in split.items()}
        return params

    def _split_files(self, value: Any) -> Any:
        """Return the patterns for validation or test with the names that the files have there."""
        patterns = value.split(",") if isinstance(value, str) else value
        if not isinstance(patterns, list):
            return value
        return [name for each in patterns for name in self._as_named_there(str(each).strip())]

    def _as_named_there(self, pattern: str) -> Iterator[str]:
        whole = str(join_path(self.request.folder, pattern))
        names = [name for path, name in self._inputs if fnmatch(path, whole)]
        if any(map(self.places.is_outside, names)):
            yield from map(glob.escape, names)
        else:
            yield pattern


def _files_in(package: Path) -> Iterator[Path]:
    files = (package / each for each in versions.files_of(package))
    return (each for each in files if "__pycache__" not in each.parts)
